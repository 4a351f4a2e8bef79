// What JavaScript has elsewhere on its global object: console, timers, crypto, text and base64, abort signals, URLs
// and fetch. All of it is made of host calls, or of nothing.

import { makeUuid, writeLog } from "./context.js";
import { fetch, Headers, Request, Response } from "./fetch.js";
import { show } from "./report.js";
import { URL, URLSearchParams } from "./url.js";
import { call, cancel, lastId, randomBytes, toBytes, toText } from "./wire.js";

const print = (level) => (...items) => writeLog(level, items.map(show).join(" "));

const console = {
  log: print("info"), info: print("info"), debug: print("debug"), warn: print("warning"), error: print("error"),
  trace: print("debug"),
  assert: (condition, ...items) => condition || print("error")("Assertion failed:", ...items),
};

// Timers are host calls: the host waits, and says so in the record.

const timers = new Map();
let lastTimer = 0;
let fail = () => {};

/** Say what an error does that is thrown where nobody can catch it. */
export function setFailure(handler) {
  fail = handler;
}

function start(timer, callback, ms, items, repeats, stack) {
  const slept = call("clock.sleep", [Math.max(0, Number(ms) || 0) / 1000], undefined, undefined, stack);
  timers.set(timer, lastId());
  slept.then(
    () => {
      if (!timers.delete(timer)) return;
      if (repeats) start(timer, callback, ms, items, true, stack);
      callback(...items);
    },
    (error) => timers.delete(timer) && fail(error),
  ).catch(fail);
}

function setTimer(callback, ms, items, repeats) {
  if (typeof callback !== "function") throw new TypeError("a timer takes a function");
  lastTimer += 1;
  start(lastTimer, callback, ms, items, repeats, new Error().stack);
  return lastTimer;
}

function clearTimer(timer) {
  const id = timers.get(timer);
  if (timers.delete(timer)) cancel(id);
}

const crypto = {
  randomUUID: makeUuid,
  getRandomValues(array) {
    if (array.byteLength > 65536) throw new DOMException("at most 65,536 bytes at a time", "QuotaExceededError");
    new Uint8Array(array.buffer, array.byteOffset, array.byteLength).set(randomBytes(array.byteLength));
    return array;
  },
};

class TextEncoder {
  encoding = "utf-8";
  encode(text = "") {
    return toBytes(String(text).toWellFormed());
  }
}

class TextDecoder {
  encoding = "utf-8";
  constructor(label = "utf-8", { fatal = false, ignoreBOM = false } = {}) {
    if (!["utf-8", "utf8", "unicode-1-1-utf-8"].includes(String(label).toLowerCase())) {
      throw new RangeError(`there is no decoder for ${label}: only UTF-8 is known`);
    }
    this.fatal = fatal;
    this.ignoreBOM = ignoreBOM;
  }
  decode(data = new Uint8Array()) {
    const bytes = ArrayBuffer.isView(data) ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength) : new Uint8Array(data);
    let text = toText(bytes);
    if (this.fatal && text.includes("\ufffd") && toBytes(text).toHex() !== bytes.toHex()) {
      throw new TypeError("these bytes are no UTF-8");
    }
    if (!this.ignoreBOM && text.startsWith("\ufeff")) text = text.slice(1);
    return text;
  }
}

class Event {
  constructor(type) {
    this.type = type;
  }
}

class EventTarget {
  #listeners = new Map();
  addEventListener(type, listener, { once = false } = {}) {
    const listeners = this.#listeners.get(type) ?? [];
    this.#listeners.set(type, [...listeners.filter((one) => one.listener !== listener), { listener, once }]);
  }
  removeEventListener(type, listener) {
    this.#listeners.set(type, (this.#listeners.get(type) ?? []).filter((one) => one.listener !== listener));
  }
  dispatchEvent(event) {
    event.target = this;
    for (const { listener, once } of this.#listeners.get(event.type) ?? []) {
      if (once) this.removeEventListener(event.type, listener);
      if (typeof listener === "function") listener.call(this, event);
      else listener.handleEvent(event);
    }
    return true;
  }
}

class AbortSignal extends EventTarget {
  aborted = false;
  reason = undefined;
  static abort(reason) {
    const controller = new AbortController();
    controller.abort(reason);
    return controller.signal;
  }
  static timeout(ms) {
    const controller = new AbortController();
    setTimer(() => controller.abort(new DOMException("the operation timed out", "TimeoutError")), ms, [], false);
    return controller.signal;
  }
  static any(signals) {
    const controller = new AbortController();
    for (const signal of signals) {
      if (signal.aborted) controller.abort(signal.reason);
      else signal.addEventListener("abort", () => controller.abort(signal.reason), { once: true });
    }
    return controller.signal;
  }
  throwIfAborted() {
    if (this.aborted) throw this.reason;
  }
}

class AbortController {
  signal = new AbortSignal();
  abort(reason = new DOMException("the operation was aborted", "AbortError")) {
    if (this.signal.aborted) return;
    this.signal.aborted = true;
    this.signal.reason = reason;
    this.signal.dispatchEvent(new Event("abort"));
  }
}

function structuredClone(value, seen = new Map()) {
  if (typeof value === "function" || typeof value === "symbol") throw new DOMException(`a ${typeof value} can't be cloned`, "DataCloneError");
  if (typeof value !== "object" || value === null) return value;
  if (seen.has(value)) return seen.get(value);
  const keep = (copy) => (seen.set(value, copy), copy);
  if (value instanceof Date) return keep(new Date(value));
  if (value instanceof RegExp) return keep(new RegExp(value.source, value.flags));
  if (value instanceof ArrayBuffer) return keep(value.slice(0));
  if (value instanceof DataView) return keep(new DataView(value.buffer.slice(value.byteOffset, value.byteOffset + value.byteLength)));
  if (ArrayBuffer.isView(value)) return keep(value.slice());
  if (value instanceof Map) {
    const copy = keep(new Map());
    for (const [key, item] of value) copy.set(structuredClone(key, seen), structuredClone(item, seen));
    return copy;
  }
  if (value instanceof Set) {
    const copy = keep(new Set());
    for (const item of value) copy.add(structuredClone(item, seen));
    return copy;
  }
  if (value instanceof Error) return keep(Object.assign(new Error(value.message), { name: value.name, stack: value.stack }));
  const copy = keep(Array.isArray(value) ? [] : {});
  for (const key of Object.keys(value)) copy[key] = structuredClone(value[key], seen);
  return copy;
}

const everything = {
  AbortController, AbortSignal, Event, EventTarget, Headers, Request, Response, TextDecoder, TextEncoder, URL, URLSearchParams,
  console, crypto, fetch,
  structuredClone: (value) => structuredClone(value),
  setTimeout: (callback, ms, ...items) => setTimer(callback, ms, items, false),
  setInterval: (callback, ms, ...items) => setTimer(callback, ms, items, true),
  clearTimeout: clearTimer,
  clearInterval: clearTimer,
};
for (const [name, value] of Object.entries(everything)) {
  Object.defineProperty(globalThis, name, { value, writable: true, configurable: true });
}
