// What a function takes, where it says so: `input` of defineFunction is JSON Schema, or an object with a validator of its
// own as libraries have it (https://standardschema.dev).
//
// Of JSON Schema there is what inputs need, and a word that is not known here is refused when the code is loaded: a check
// that is written down and not made would be worse than none. Checking goes on after the first violation. What fits is
// handed on as a value of its own, with defaults filled in.
//
// Text of a path, a query or a form is always text, so there it may stand for a number or a boolean (`lax`), if that is
// what is declared. JSON is taken at its word.

import { ValidationError } from "./errors.js";

const VIOLATIONS_MAX = 100;
const TYPES = ["string", "number", "integer", "boolean", "object", "array", "null"];
const ANNOTATIONS = ["title", "description", "default", "examples", "deprecated", "$comment", "$schema"];
const WORDS = [
  ...ANNOTATIONS, "$ref", "$defs", "type", "enum", "const", "anyOf", "allOf", "properties", "required", "additionalProperties",
  "items", "minItems", "maxItems", "uniqueItems", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
  "minLength", "maxLength", "pattern", "format",
];
const DATE = /^(\d{4})-(\d\d)-(\d\d)$/;
const TIME = /^([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d+)?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)?$/i;
const FORMATS = {
  date: (text) => isDate(text),
  time: (text) => TIME.test(text),
  "date-time": (text) => isDate(text.slice(0, 10)) && /^[Tt ]$/.test(text[10] ?? "") && TIME.test(text.slice(11)),
  uuid: (text) => /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(text),
  email: (text) => /^[^\s@]+@[^\s@]+\.[^\s@]+$/.test(text),
  uri: (text) => /^[a-z][a-z0-9+.-]*:\S+$/i.test(text),
};
const INTEGER = /^-?\d+$/;
const NUMBER = /^-?\d+(\.\d+)?([eE][+-]?\d+)?$/;

function isDate(text) {
  const found = DATE.exec(text);
  if (found === null) return false;
  const [year, month, day] = found.slice(1).map(Number);
  return month >= 1 && month <= 12 && day >= 1 && day <= new Date(Date.UTC(year, month, 0)).getUTCDate();
}

const isObject = (value) =>
  typeof value === "object" && value !== null && [Object.prototype, null].includes(Object.getPrototypeOf(value));
const own = (object, name) => (Object.hasOwn(object, name) ? object[name] : undefined);

function typeOf(value) {
  if (value === null || value === undefined) return "null";
  if (Array.isArray(value)) return "array";
  if (typeof value === "bigint" || Number.isInteger(value)) return "integer";
  return typeof value;
}

const isOfType = (value, type) => typeOf(value) === type || (type === "number" && typeOf(value) === "integer");

function equal(a, b) {
  if (Array.isArray(a)) return Array.isArray(b) && a.length === b.length && a.every((item, index) => equal(item, b[index]));
  if (!isObject(a) || !isObject(b)) return a === b;
  const names = Object.keys(a);
  return names.length === Object.keys(b).length && names.every((name) => Object.hasOwn(b, name) && equal(a[name], b[name]));
}

/** Text that two values share if they are equal. */
const keyOf = (value) =>
  JSON.stringify(value, (_name, item) =>
    typeof item === "bigint" ? { bigint: String(item) }
    : isObject(item) ? Object.fromEntries(Object.entries(item).sort(([a], [b]) => (a < b ? -1 : 1)))
    : item,
  );

// When the code is loaded

/** Return what is wrong with a schema and where, or nothing. */
export function findSchemaMistake(schema) {
  if (typeof schema?.["~standard"]?.validate === "function") return "";
  if (!isObject(schema)) return "input is JSON Schema, or an object with a validator (a Standard Schema)";
  return look(schema, "input", schema);
}

function look(schema, path, root) {
  if (typeof schema === "boolean") return "";
  if (!isObject(schema)) return `${path} is no schema`;
  for (const [word, value] of Object.entries(schema)) {
    const mistake = lookAtWord(word, value, `${path}.${word}`, root);
    if (mistake) return mistake;
  }
  return "";
}

function lookAtWord(word, value, path, root) {
  const each = (entries) => entries.reduce((found, [name, inner]) => found || look(inner, `${path}.${name}`, root), "");
  if (!WORDS.includes(word)) return `${path}: there is no word ${JSON.stringify(word)} of JSON Schema here; there is ${WORDS.join(", ")}`;
  switch (word) {
    case "type": {
      const odd = [value].flat().find((type) => !TYPES.includes(type));
      return odd === undefined ? "" : `${path}: there is no type ${JSON.stringify(odd)}`;
    }
    case "enum": return Array.isArray(value) && value.length > 0 ? "" : `${path} is a list of values`;
    case "anyOf": case "allOf": return Array.isArray(value) && value.length > 0 ? each(Object.entries(value)) : `${path} is a list of schemas`;
    case "properties": case "$defs": return isObject(value) ? each(Object.entries(value)) : `${path} is an object of schemas`;
    case "required": return Array.isArray(value) && value.every((one) => typeof one === "string") ? "" : `${path} is a list of names`;
    case "items": case "additionalProperties": return look(value, path, root);
    case "format": return Object.hasOwn(FORMATS, value) ? "" : `${path}: there is no format ${JSON.stringify(value)}; there is ${Object.keys(FORMATS).join(", ")}`;
    case "$ref": return leadsSomewhere(value, root) ? "" : `${path} leads nowhere: write "#/$defs/NAME"`;
    case "pattern":
      try {
        RegExp(value, "u");
        return "";
      } catch (error) {
        return `${path}: ${error.message}`;
      }
    case "uniqueItems": return typeof value === "boolean" ? "" : `${path} is true or false`;
  }
  if (/^(min|max|exclusive|multipleOf)/.test(word) && !Number.isFinite(value)) return `${path} is a number`;
  return "";
}

/** Whether there is a schema at the end of a reference, and not only further references. */
function leadsSomewhere(reference, root) {
  const seen = new Set();
  while (reference !== undefined) {
    if (typeof reference !== "string" || seen.has(reference) || find(reference, root) === undefined) return false;
    seen.add(reference);
    reference = find(reference, root).$ref;
  }
  return true;
}

const find = (reference, root) =>
  reference.startsWith("#/$defs/") && isObject(root.$defs) ? own(root.$defs, reference.slice(8)) : undefined;

// When a request comes

class Check {
  constructor(root) {
    this.root = root;
    this.violations = [];
  }

  add(path, message) {
    if (this.violations.length < VIOLATIONS_MAX) this.violations.push({ path, message });
  }

  get isFull() {
    return this.violations.length >= VIOLATIONS_MAX;
  }

  /** Return `value` as the schema has it, with what is wrong added to the violations. */
  read(schema, value, path, lax) {
    if (schema === true || this.isFull) return value;
    if (schema === false) {
      this.add(path, "is not allowed");
      return value;
    }
    if (schema.$ref !== undefined) value = this.read(find(schema.$ref, this.root), value, path, lax);
    const types = schema.type === undefined ? undefined : [schema.type].flat();
    if (lax && typeof value === "string") value = loosen(value, types ?? [...new Set((schema.enum ?? [schema.const]).map(typeOf))]);
    if (types !== undefined && !types.some((type) => isOfType(value, type))) {
      this.add(path, `expected ${types.join(" or ")}, got ${kindOf(value)}`);
      return value;
    }
    if (schema.enum !== undefined && !schema.enum.some((one) => equal(one, value))) {
      this.add(path, `expected one of ${schema.enum.map((one) => JSON.stringify(one)).join(", ")}, got ${shown(value)}`);
    }
    if (schema.const !== undefined && !equal(schema.const, value)) {
      this.add(path, `expected ${JSON.stringify(schema.const)}, got ${shown(value)}`);
    }
    if (typeof value === "string") this.readText(schema, value, path);
    if (typeof value === "number" || typeof value === "bigint") this.readNumber(schema, value, path);
    if (Array.isArray(value)) value = this.readArray(schema, value, path, lax);
    else if (isObject(value)) value = this.readObject(schema, value, path, () => lax);
    for (const one of schema.allOf ?? []) value = this.read(one, value, path, lax);
    return schema.anyOf === undefined ? value : this.readAny(schema.anyOf, value, path, lax);
  }

  readText(schema, value, path) {
    const { minLength: least, maxLength: most, pattern, format } = schema;
    const length = [...value].length;
    if (least !== undefined && length < least) this.add(path, `expected text of length >= ${least}`);
    if (most !== undefined && length > most) this.add(path, `expected text of length <= ${most}`);
    if (pattern !== undefined && !RegExp(pattern, "u").test(value)) this.add(path, `expected text that matches ${pattern}`);
    if (format !== undefined && !FORMATS[format](value)) this.add(path, `expected text of format ${format}`);
  }

  readNumber(schema, value, path) {
    const { minimum, maximum, exclusiveMinimum: above, exclusiveMaximum: below, multipleOf: step } = schema;
    if (minimum !== undefined && value < minimum) this.add(path, `expected a number >= ${minimum}`);
    if (maximum !== undefined && value > maximum) this.add(path, `expected a number <= ${maximum}`);
    if (above !== undefined && value <= above) this.add(path, `expected a number > ${above}`);
    if (below !== undefined && value >= below) this.add(path, `expected a number < ${below}`);
    if (step !== undefined && !Number.isInteger(Number(value) / step)) this.add(path, `expected a multiple of ${step}`);
  }

  readArray(schema, value, path, lax) {
    const { items, minItems: least, maxItems: most, uniqueItems } = schema;
    if (least !== undefined && value.length < least) this.add(path, `expected an array of length >= ${least}`);
    if (most !== undefined && value.length > most) this.add(path, `expected an array of length <= ${most}`);
    if (uniqueItems && new Set(value.map(keyOf)).size < value.length) {
      this.add(path, "expected an array without repetitions");
    }
    return items === undefined ? value : value.map((item, index) => this.read(items, item, `${path}[${index}]`, lax));
  }

  /** `isLax` tells of each member whether text may stand for what is declared. */
  readObject(schema, value, path, isLax) {
    const read = {};
    for (const [name, item] of Object.entries(value)) {
      const inner = own(schema.properties ?? {}, name) ?? schema.additionalProperties ?? true;
      // Not by assigning: "__proto__" is a name like any other.
      const made = this.read(inner, item, `${path}.${name}`, isLax(name));
      Object.defineProperty(read, name, { value: made, writable: true, enumerable: true, configurable: true });
    }
    for (const [name, inner] of Object.entries(schema.properties ?? {})) {
      if (!Object.hasOwn(read, name) && inner.default !== undefined) read[name] = structuredClone(inner.default);
    }
    for (const name of schema.required ?? []) {
      if (!Object.hasOwn(read, name)) this.add(`${path}.${name}`, "is required");
    }
    return read;
  }

  readAny(schemas, value, path, lax) {
    const tried = [];
    for (const schema of schemas) {
      // What is not meant is not looked at: with schemas in one another, each level would double the work.
      if (isObject(value) && !this.mayBeMeant(schema, value)) continue;
      const attempt = new Check(this.root);
      const read = attempt.read(schema, value, path, lax);
      if (attempt.violations.length === 0) return read;
      tried.push(attempt.violations);
    }
    // A kind that refuses what it is given as such says so at this very path.
    const inside = tried.filter((violations) => violations.every((one) => one.path !== path));
    if (inside.length === 1) for (const one of inside[0]) this.add(one.path, one.message);
    else this.add(path, `fits none of ${schemas.length} kinds`);
    return value;
  }

  /** Whether an object can be of this kind rather than of another: its members of one value have that value. */
  mayBeMeant(schema, value) {
    while (schema.$ref !== undefined) schema = find(schema.$ref, this.root);
    const tags = Object.entries(schema.properties ?? {}).filter(([, inner]) => inner.const !== undefined || inner.enum?.length === 1);
    return tags.every(([name, inner]) => equal(own(value, name), inner.const ?? inner.enum[0]));
  }
}

/** What a value is, without saying which: it may be a password. */
const kindOf = (value) =>
  ({ string: "text", integer: "a number", number: "a number", boolean: "a boolean", array: "an array", null: "null" })[typeOf(value)] ??
  "an object";

/** A value beside others that it is none of. */
const shown = (value) =>
  typeof value !== "string" ? (typeof value === "object" ? kindOf(value) : String(value))
  : value.length <= 50 ? JSON.stringify(value)
  : "other text";

/** Text as the first of `types` that it can be. */
function loosen(text, types) {
  if (types.includes("string")) return text;
  if (types.includes("integer") && INTEGER.test(text)) return Number.isSafeInteger(Number(text)) ? Number(text) : BigInt(text);
  if (types.includes("number") && NUMBER.test(text)) return Number(text);
  if (types.includes("boolean") && /^(true|false|1|0)$/.test(text)) return text === "true" || text === "1";
  return text;
}

const FORM = "application/x-www-form-urlencoded";

/** Return the test for names whose values were text on the way: of the path, the query, or a form. */
function tellTexts(value, request) {
  const kind = (request.headers["content-type"] ?? "").split(";", 1)[0].trim().toLowerCase();
  // A form whose body is JSON after all is read as JSON.
  if (kind === FORM && !request.isStreamed && !/^\s*[{[]/.test(request.text())) return (name) => typeof value[name] === "string";
  return (name) => typeof value[name] === "string" && value[name] === (own(request.query, name) ?? own(request.params, name));
}

const isList = (schema) => schema !== undefined && [schema.type].flat().includes("array");

/** Return `value` as the function's input; throw ValidationError with every violation found. */
export async function acceptInput(schema, value, request) {
  const validate = schema["~standard"]?.validate;
  if (typeof validate === "function") {
    const result = await validate.call(schema["~standard"], value);
    if (result.issues !== undefined) throw new ValidationError(result.issues.slice(0, VIOLATIONS_MAX).map(describeIssue));
    return result.value;
  }
  const check = new Check(schema);
  let read = value;
  if (isObject(value)) {
    const isText = tellTexts(value, request);
    const root = schema.$ref === undefined ? schema : find(schema.$ref, schema);
    const gathered = { ...value };
    for (const name of Object.keys(root.properties ?? {})) {
      // A list that comes from the query is all that stands there under its name: ?tag=a&tag=b.
      if (isList(root.properties[name]) && isText(name) && Object.hasOwn(request.query, name)) {
        gathered[name] = request.queryList.filter(([one]) => one === name).map(([, said]) => said);
      }
    }
    read = check.read({ ...root, properties: {}, required: [], additionalProperties: true }, gathered, "input", false);
    read = check.readObject(root, read, "input", isText);
  } else {
    check.add("input", `expected object, got ${kindOf(value)}`);
  }
  if (check.violations.length > 0) throw new ValidationError(check.violations);
  return read;
}

function describeIssue({ message, path = [] }) {
  const steps = path.map((step) => (typeof step === "object" && step !== null ? step.key : step));
  const text = steps.map((step) => (typeof step === "number" ? `[${step}]` : `.${String(step)}`)).join("");
  return { path: `input${text}`, message: String(message) };
}
