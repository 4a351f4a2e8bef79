// What a function returned, as the host wants it: status, headers, body.

import { isStream, Streamed, writeBody } from "./bodies.js";
import { Response } from "./fetch.js";
import { Answer, HttpResponse } from "./response.js";

const BODY_FREE = [204, 205, 304];
const NAME = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/;
const VALUE_REFUSED = /[^\t\x20-\x7e\x80-\xff]/;
// Of an answer that is handed on, what spoke of the connection to the other server.
const OF_THE_CONNECTION = new Set([
  "connection", "content-length", "date", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
]);

function readHeaders(headers, handedOn) {
  const fields = [];
  for (const [name, value] of headers) {
    if (!NAME.test(name)) throw new TypeError(`${JSON.stringify(name)} is no name of a header field`);
    if (handedOn && OF_THE_CONNECTION.has(name.toLowerCase())) continue;
    for (const one of Array.isArray(value) ? value : [value]) {
      const text = String(one).trim();
      if (VALUE_REFUSED.test(text)) throw new TypeError(`the header field ${name} can't hold ${JSON.stringify(text)}`);
      fields.push([name.toLowerCase(), text]);
    }
  }
  return fields;
}

function encodeBody(value) {
  const text = JSON.stringify(value, (_key, item) => {
    if (typeof item === "bigint") return JSON.rawJSON(String(item));
    if (item instanceof Uint8Array) return item.toBase64();
    if (item instanceof Map || item instanceof Set || item instanceof Promise) {
      throw new TypeError(`the answer can't be JSON: a ${item.constructor.name} is in it`);
    }
    return item;
  });
  if (text === undefined) throw new TypeError(`the answer can't be JSON: it is a ${typeof value}`);
  return text;
}

/**
 * An answer made of whatever a handler returns. Of one that has a status and headers already, those given here take
 * the place: so middleware makes one of what `next()` has returned.
 */
export function makeAnswer(value, { status, headers = {} } = {}) {
  let body = value;
  let fields = [];
  if (value instanceof Response) {
    [fields, body] = [readHeaders([...value.headers], value.url !== ""), value.takeBody()];
  } else if (value instanceof Answer) {
    [fields, body] = [Object.entries(value.headers), value.body];
  } else if (value instanceof HttpResponse) {
    [fields, body] = [readHeaders(Object.entries(value.headers), true), value.content];
  }
  const made = body === value ? undefined : value.status;
  const kept = {};
  for (const [name, field] of fields) kept[name] = name in kept ? [kept[name], field].flat() : field;
  return new Answer(body, { status: status ?? made, headers: { ...kept, ...headers } });
}

/** Return `value` with its body written, where that is an iterator. */
export async function writeAnswer(value) {
  const body = value instanceof Answer ? value.body : value;
  if (!isStream(body)) return value;
  const { status, headers } = value instanceof Answer ? value : { status: 200, headers: {} };
  if (BODY_FREE.includes(status)) throw new TypeError(`a response with status ${status} has no body`);
  return new Answer(await writeBody(body), { status, headers });
}

/** Return the answer's status, headers and body; throw for what can't be answered. */
export function describeAnswer(value) {
  let status = 200;
  let headers = [];
  if (value instanceof Response) {
    ({ status } = value);
    headers = readHeaders([...value.headers], value.url !== "");
    value = value.takeBody();
  } else if (value instanceof Answer) {
    ({ status } = value);
    headers = readHeaders(Object.entries(value.headers), false);
    value = value.body;
    if (!Number.isInteger(status) || status < 200 || status > 599) {
      throw new RangeError(`a response has a status from 200 to 599, not ${status}`);
    }
    if (BODY_FREE.includes(status) && value !== undefined && value !== null && value !== "") {
      throw new TypeError(`a response with status ${status} has no body`);
    }
  } else if (value instanceof HttpResponse) {
    ({ status } = value);
    headers = readHeaders(Object.entries(value.headers), true);
    value = value.content;
  } else if (value === undefined || value === null) {
    status = 204;
  }
  if (value === undefined || value === null || BODY_FREE.includes(status)) return { status, headers, body: "" };
  let type = "application/json";
  if (value instanceof Streamed) {
    type = value.isText ? "text/plain; charset=utf-8" : "application/octet-stream";
    if (!headers.some(([name]) => name === "content-type")) headers.push(["content-type", type]);
    return { status, headers, body: "", streamed: true };
  }
  if (typeof value === "string") {
    type = "text/plain; charset=utf-8";
    if (!value.isWellFormed()) throw new TypeError("the answer has half a character (a lone surrogate), which no UTF-8 has");
  } else if (ArrayBuffer.isView(value) || value instanceof ArrayBuffer) {
    type = "application/octet-stream";
  } else {
    value = encodeBody(value);
  }
  if (!headers.some(([name]) => name === "content-type")) headers.push(["content-type", type]);
  return { status, headers, body: value };
}

