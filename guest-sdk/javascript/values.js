// Values on the wire: JSON with tags for what JSON lacks. See PROTOCOL.md, "Values".
//
// JavaScript's own types are used where they hold the value: Date, BigInt, Uint8Array. Where they do not (a
// decimal's digits, a date without a time) there is a small class that keeps the text which travels.

const DEPTH_MAX = 200;
const EXACT = Symbol("exact");

/** A value that travels as text under a tag. */
class Tagged {
  constructor(text) {
    this.text = String(text);
  }
  toString() {
    return this.text;
  }
  toJSON() {
    return this.text;
  }
}

/** A decimal number, its digits kept. Arithmetic goes through Number and may lose some of them. */
export class Decimal extends Tagged {
  valueOf() {
    return Number(this.text);
  }
}

/** A date without a time: 2026-01-02. */
export class PlainDate extends Tagged {}

/** A time of day: 03:04:05. */
export class PlainTime extends Tagged {}

/** A length of time. */
export class Duration {
  constructor(days = 0, seconds = 0, microseconds = 0) {
    this.days = days;
    this.seconds = seconds;
    this.microseconds = microseconds;
  }
  /** Total, in seconds. */
  valueOf() {
    return this.days * 86400 + this.seconds + this.microseconds / 1e6;
  }
  toJSON() {
    return this.valueOf();
  }
}

/** A PostgreSQL interval that has months. */
export class Interval {
  constructor(months = 0, days = 0, microseconds = 0) {
    this.months = months;
    this.days = days;
    this.microseconds = microseconds;
  }
}

/** A PostgreSQL range; null bounds are unbounded. */
export class Range {
  constructor(lower = null, upper = null, bounds = "[)", empty = false) {
    this.lower = lower;
    this.upper = upper;
    this.bounds = bounds;
    this.empty = empty;
  }
}

// To the host

function bytesOf(value) {
  if (value instanceof Uint8Array) return value;
  if (value instanceof ArrayBuffer) return new Uint8Array(value);
  return new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
}

function describeDate(date) {
  if (Number.isNaN(date.getTime())) throw new RangeError("an invalid Date can't be passed to the host");
  const exact = date[EXACT];
  if (exact !== undefined && exact.time === date.getTime()) return exact.text;
  return date.toISOString().replace("Z", "+00:00");
}

export function toWire(value, depth = 0) {
  switch (typeof value) {
    case "string":
    case "boolean":
      return value;
    case "number":
      if (Number.isFinite(value)) return value;
      return { $float: Number.isNaN(value) ? "nan" : value > 0 ? "inf" : "-inf" };
    case "bigint":
      // Up to 64 bits it is a plain integer on the wire, which JSON.stringify has no other way to write.
      return BigInt.asIntN(64, value) === value ? JSON.rawJSON(String(value)) : { $int: String(value) };
    case "undefined":
      return null;
    case "object":
      break;
    default:
      throw new TypeError(`a ${typeof value} can't be passed to the host`);
  }
  if (value === null || JSON.isRawJSON(value)) return value;
  if (depth >= DEPTH_MAX) throw new RangeError(`a value nested more than ${DEPTH_MAX} deep can't be passed to the host`);
  if (Array.isArray(value)) return value.map((item) => toWire(item, depth + 1));
  const plain = Object.getPrototypeOf(value) === Object.prototype && value.toJSON === undefined;
  return plain ? fieldsToWire(value, depth) : specialToWire(value, depth);
}

function specialToWire(value, depth) {
  if (ArrayBuffer.isView(value) || value instanceof ArrayBuffer) return { $bytes: bytesOf(value).toBase64() };
  if (value instanceof Date) return { $datetime: describeDate(value) };
  if (value instanceof Decimal) return { $decimal: value.text };
  if (value instanceof PlainDate) return { $date: value.text };
  if (value instanceof PlainTime) return { $time: value.text };
  if (value instanceof Duration) return { $duration: [value.days, value.seconds, value.microseconds] };
  if (value instanceof Interval) return { $interval: [value.months, value.days, value.microseconds] };
  if (value instanceof Range) {
    if (value.empty) return { $range: null };
    return { $range: [toWire(value.lower, depth + 1), toWire(value.upper, depth + 1), value.bounds] };
  }
  if (typeof value.toJSON === "function") return toWire(value.toJSON(), depth + 1);
  if (value instanceof Map || value instanceof Set || value instanceof Promise || value instanceof Error) {
    throw new TypeError(`a ${value.constructor.name} can't be passed to the host`);
  }
  return fieldsToWire(value, depth);
}

function fieldsToWire(value, depth) {
  const entries = [];
  for (const key of Object.keys(value)) {
    if (value[key] !== undefined) entries.push([key, toWire(value[key], depth + 1)]);
  }
  const result = Object.fromEntries(entries);
  return entries.length === 1 && entries[0][0].startsWith("$") ? { $object: result } : result;
}

const HALF = /(?:^|[^\\])(?:\\\\)*\\ud[89a-f]/;

/** Return `value` as one line of JSON; throw for what can't travel. */
export function encode(value) {
  const text = JSON.stringify(toWire(value));
  if (text.includes("\\ud") && HALF.test(text)) {
    throw new TypeError("text with half a character (a lone surrogate) can't be passed to the host");
  }
  return text;
}

// From the host

function readDate(text) {
  // Without an offset it is a time as the database keeps it, and counts as UTC. Date has milliseconds: the rest
  // stays with it, so that a value which was read can be written back and found again.
  const [, head, fraction, offset] = /^(.*?)(\.\d+)?([+-]\d\d:\d\d(?::\d\d)?)?$/.exec(text);
  const millis = fraction === undefined ? "" : fraction.slice(0, 4);
  const date = new Date(`${head}${millis}${offset === undefined ? "Z" : offset.slice(0, 6)}`);
  Object.defineProperty(date, EXACT, { value: { text, time: date.getTime() } });
  return date;
}

const READERS = {
  $bytes: (text) => Uint8Array.fromBase64(text),
  $decimal: (text) => new Decimal(text),
  $datetime: readDate,
  $date: (text) => new PlainDate(text),
  $time: (text) => new PlainTime(text),
  $duration: (parts) => new Duration(...parts),
  $interval: (parts) => new Interval(...parts),
  $uuid: (text) => text,
  $range: (parts) => (parts === null ? new Range(null, null, "[)", true) : new Range(fromWire(parts[0]), fromWire(parts[1]), parts[2])),
  $float: (text) => ({ nan: NaN, inf: Infinity, "-inf": -Infinity })[text],
  $int: (text) => BigInt(text),
  $object: (inner) => Object.fromEntries(Object.entries(inner).map(([key, item]) => [key, fromWire(item)])),
};

export function fromWire(value) {
  if (value === null || typeof value !== "object") return value;
  if (Array.isArray(value)) {
    for (let i = 0; i < value.length; i++) {
      if (value[i] !== null && typeof value[i] === "object") value[i] = fromWire(value[i]);
    }
    return value;
  }
  const keys = Object.keys(value);
  if (keys.length === 1 && keys[0].startsWith("$")) {
    const reader = READERS[keys[0]];
    if (reader === undefined) throw new TypeError(`unknown tag ${keys[0]} from the host`);
    return reader(value[keys[0]]);
  }
  for (const key of keys) {
    const item = value[key];
    if (item !== null && typeof item === "object") {
      Object.defineProperty(value, key, { value: fromWire(item), enumerable: true, writable: true, configurable: true });
    }
  }
  return value;
}

/**
 * Return a line of the host's as a value, tags left as they are. One that has an integer which Number may not hold
 * begins with a space: it is read number by number, which costs several times what parsing does, and such integers
 * become BigInts.
 */
export function parse(text) {
  if (text.charCodeAt(0) !== 32) return JSON.parse(text);
  return JSON.parse(text, (_key, value, context) => {
    if (typeof value === "number" && !Number.isSafeInteger(value) && /^-?\d+$/.test(context.source)) {
      return BigInt(context.source);
    }
    return value;
  });
}
