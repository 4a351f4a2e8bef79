// Values that the guest makes by itself: time, chance, order, text.

import { defineFunction } from "@flux/guest";

const loaded = [Date.now(), Math.random(), crypto.randomUUID()];
let module_state = 0;

export const tells_the_time = defineFunction(async ({ ctx }) => {
  const seen = [Date.now(), performance.now(), new Date().toISOString()];
  await ctx.clock.sleep(1);
  seen.push(Date.now(), performance.now(), (await ctx.clock.fresh()).getTime(), new Date(2024, 1, 29).getDay());
  return { seen, loaded, calls: ++module_state };
});

export const draws = defineFunction(async ({ input }) => ({
  random: Array.from({ length: 40 }, () => Math.random()),
  uuids: [crypto.randomUUID(), crypto.randomUUID()],
  bytes: [...crypto.getRandomValues(new Uint8Array(33))],
  shuffled: [...input.list].sort(() => Math.random() - 0.5),
}));

export const keeps_its_order = defineFunction(async ({ input }) => {
  const map = new Map();
  const set = new Set();
  const object = {};
  for (let i = 0; i < 400; i++) {
    const key = `${input.text}${Math.floor(Math.random() * 90)}`;
    map.set(key, (map.get(key) ?? 0) + i);
    set.add({ key });
    object[key] = i;
    if (i % 3 === 0) map.delete(key);
    if (i % 50 === 49) delete object[key];
  }
  for (const one of set) if (one.key.length % 2) set.delete(one);
  return { map: [...map], set: [...set].slice(0, 20), keys: Object.keys(object), weak: new WeakSet().has(set) };
});

export const reads_and_writes_json = defineFunction(async ({ input }) => {
  const deep = (n) => (n === 0 ? input : { n, list: [deep(n - 1), 1 / n, null, true], text: `\u{1f600}"\\${n}` });
  const text = JSON.stringify(deep(30));
  const back = JSON.parse(text, (key, value) => (typeof value === "number" ? value * 3 : value));
  return { length: text.length, again: JSON.stringify(back).length, big: JSON.stringify({ x: 2 ** 80, y: -0, z: 1e-7 }) };
});

export const sorts = defineFunction(async ({ input }) => {
  const numbers = Array.from({ length: 700 }, (_, i) => (i * 7919 * (input.list[i % 20] + 1)) % 1009);
  const byLast = [...numbers].sort((a, b) => (a % 10) - (b % 10));
  const words = numbers.map((n) => n.toString(36)).sort();
  const typed = Float64Array.from(numbers, Math.sqrt).sort();
  return { byLast, words: words.slice(0, 30), typed: typed[350], first: numbers.sort()[0] };
});

export const matches = defineFunction(async ({ input }) => {
  const text = `${input.text} a1b22c333 ${"ab".repeat(200)} \u00e9t\u00e9 2026-11-25`;
  return {
    words: text.match(/[a-z]+\d*/gu),
    named: /(?<year>\d{4})-(?<month>\d\d)/.exec(text).groups.year,
    behind: text.replace(/(?<=b)(\d+)/g, (all, digits) => digits.length + input.n),
    backtracks: /^(a|b|ab)*c$/.test("ab".repeat(9)),
    split: text.split(/\s+/u).length,
    sticky: [...text.matchAll(/\p{L}+/gu)].length,
  };
});

export const builds_big_text = defineFunction(async ({ input, ctx }) => {
  let text = input.text;
  while (text.length < 70000) text += text.slice(1, 900).split("").reverse().join("") + text.length + text;
  await ctx.db.execute("update t set text = $1", text);
  console.log("long", text.slice(0, 2000));
  return { length: text.length, at: text.indexOf("99"), codes: [...text.slice(-300)].map((c) => c.codePointAt(0)), text };
});

export const calculates = defineFunction(async ({ input }) => {
  let x = (input.n % 97) / 97 + 0.1;
  let bits = 1n;
  for (let i = 0; i < 1500; i++) {
    x = Math.sin(x) * 1.3 + Math.cos(i) / 3 + Math.log1p(Math.abs(x)) ** 0.5;
    bits = (bits * 6364136223846793005n + BigInt(i)) & ((1n << 128n) - 1n);
  }
  const nan = new Float64Array([0 / 0, Math.sqrt(-1), Infinity - Infinity, Number("x")]);
  return { x, bits: bits.toString(16), nan: [...new Uint8Array(nan.buffer)], pow: 2 ** 0.1, fixed: x.toFixed(15) };
});
