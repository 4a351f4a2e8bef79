// Answers: the one that a function gives with its own status, and the one that it got from another server.

import { toBytes, toText } from "./wire.js";

/** An answer with its own status and headers; a list of values sends a header once for each. */
export class Answer {
  constructor(body = undefined, { status = body === undefined || body === null ? 204 : 200, headers = {} } = {}) {
    this.body = body;
    this.status = status;
    this.headers = headers;
  }
}

/** Header fields as an object; repeated ones joined by a comma. */
export function joined(pairs) {
  const found = {};
  for (const [name, value] of pairs) found[name] = name in found ? `${found[name]}, ${value}` : value;
  return found;
}

/** The answer of an outbound request. */
export class HttpResponse {
  constructor({ status, headers, body, url }) {
    this.status = status;
    this.headers = joined(headers);
    this.url = url;
    /** The body as it travelled: text when it is UTF-8, else bytes. */
    this.content = body;
  }
  /** The status is below 400. */
  get ok() {
    return this.status < 400;
  }
  /** The body, in bytes. */
  get body() {
    return typeof this.content === "string" ? toBytes(this.content) : this.content;
  }
  text() {
    return typeof this.content === "string" ? this.content : toText(this.content);
  }
  json() {
    return JSON.parse(this.text());
  }
}
