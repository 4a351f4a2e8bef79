// Input that is checked against a schema, or by a validator of its own.

import { defineFunction } from "@flux/guest";

const ORDER = {
  $ref: "#/$defs/Order",
  $defs: {
    Order: {
      type: "object",
      properties: {
        lines: { type: "array", items: { $ref: "#/$defs/Line" }, minItems: 1, maxItems: 3, uniqueItems: true },
        plan: { enum: ["free", "pro"], default: "free" },
        pay: {
          anyOf: [
            { type: "object", properties: { kind: { const: "card" }, number: { type: "string", pattern: "^[0-9]+$" } }, required: ["kind", "number"] },
            { type: "object", properties: { kind: { const: "cash" }, euros: { type: "number", exclusiveMinimum: 0 } }, required: ["kind", "euros"] },
            { type: "null" },
          ],
        },
        at: { type: "string", format: "date-time" },
        tree: { $ref: "#/$defs/Tree" },
        ref: { type: "array", items: { type: "string" } },
        page: { type: "integer", minimum: 1, default: 1 },
        more: { type: "object", additionalProperties: { type: ["integer", "null"] } },
      },
      required: ["lines"],
    },
    Line: {
      type: "object",
      properties: { sku: { type: "string", minLength: 1, maxLength: 8 }, count: { type: "integer", multipleOf: 2, default: 2 } },
      required: ["sku"],
      additionalProperties: false,
    },
    Tree: { type: "object", properties: { children: { type: "array", items: { $ref: "#/$defs/Tree" } } } },
  },
};

const same = (got, wanted) => {
  if (JSON.stringify(got) !== JSON.stringify(wanted)) throw new Error(`${JSON.stringify(got)} is not ${JSON.stringify(wanted)}`);
};

// Expect: returned 200
// Input: {"ref": "web", "lines": [{"sku": "a"}, {"sku": "b", "count": 4}], "pay": {"kind": "cash", "euros": 2.5}, "at": "2026-01-02T03:04:05Z", "tree": {"children": [{"children": []}]}, "more": {"a": 1, "b": null, "__proto__": 5}, "odd": 1}
export const fits_its_schema = defineFunction({
  input: ORDER,
  handler: async ({ input, ctx }) => {
    same(input.lines, [{ sku: "a", count: 2 }, { sku: "b", count: 4 }]);
    same([input.plan, input.page, input.odd], ["free", 1, 1]);
    same(input.ref, ["mail", "web"]);
    same(Object.keys(input.more), ["a", "b", "__proto__"]);
    same(ctx.request.json().lines.length, 2);
    return input;
  },
});

// Expect: raised ValidationError
// Input: {"lines": [{"sku": "", "count": 3, "odd": 1}, {}, 5, {"sku": "123456789"}], "plan": "gold", "pay": {"kind": "card", "number": "x"}, "at": "2026-02-30T00:00:00Z", "tree": {"children": [{"children": 1}]}, "page": "2", "more": {"a": "1"}}
export const fits_it_nowhere = defineFunction({
  input: ORDER,
  handler: async () => {
    throw new Error("it is refused before");
  },
});

// Expect: raised ValidationError
// Input: {"lines": [{"sku": "a"}, {"count": 2, "sku": "a"}, {"sku": "a", "count": 2}], "pay": {"kind": "cheque"}}
export const repeats_itself = defineFunction({
  input: ORDER,
  handler: async () => {
    throw new Error("it is refused before");
  },
});

const standard = (validate) => ({ "~standard": { version: 1, vendor: "tests", validate } });

// Expect: returned 200
// Input: {"n": 2}
export const has_a_validator_of_its_own = defineFunction({
  input: standard(async ({ n }) => ({ value: { doubled: 2 * n } })),
  handler: async ({ input }) => same(input, { doubled: 4 }) ?? input,
});

// Expect: raised ValidationError
export const is_refused_by_it = defineFunction({
  input: standard(() => ({ issues: [{ message: "must be there", path: ["items", 0, { key: "n" }] }, { message: "no" }] })),
  handler: async () => {
    throw new Error("it is refused before");
  },
});
