// fetch, on the host call http.request. Bodies are whole: the host has read them before it answers.

import { HttpCallError } from "./errors.js";
import { request } from "./context.js";
import { toBytes, toText } from "./wire.js";

export class Headers {
  #fields = new Map();
  constructor(init = undefined) {
    const pairs = init === undefined || init === null ? [] : init[Symbol.iterator] === undefined ? Object.entries(init) : init;
    for (const [name, value] of pairs) this.append(name, value);
  }
  append(name, value) {
    const key = String(name).toLowerCase();
    this.#fields.set(key, [...(this.#fields.get(key) ?? []), String(value).trim()]);
  }
  set(name, value) {
    this.#fields.set(String(name).toLowerCase(), [String(value).trim()]);
  }
  get(name) {
    return this.#fields.get(String(name).toLowerCase())?.join(", ") ?? null;
  }
  getSetCookie() {
    return [...(this.#fields.get("set-cookie") ?? [])];
  }
  has(name) {
    return this.#fields.has(String(name).toLowerCase());
  }
  delete(name) {
    this.#fields.delete(String(name).toLowerCase());
  }
  forEach(callback) {
    for (const [name, value] of this) callback(value, name, this);
  }
  *entries() {
    for (const name of [...this.#fields.keys()].sort()) {
      if (name === "set-cookie") for (const value of this.#fields.get(name)) yield [name, value];
      else yield [name, this.get(name)];
    }
  }
  *keys() {
    for (const [name] of this) yield name;
  }
  *values() {
    for (const [, value] of this) yield value;
  }
  [Symbol.iterator]() {
    return this.entries();
  }
}

function readBody(body) {
  if (body === undefined || body === null) return [null, null];
  if (typeof body === "string") return [body, "text/plain;charset=UTF-8"];
  if (body instanceof ArrayBuffer) return [new Uint8Array(body), null];
  if (ArrayBuffer.isView(body)) return [new Uint8Array(body.buffer, body.byteOffset, body.byteLength), null];
  if (body instanceof globalThis.URLSearchParams) return [String(body), "application/x-www-form-urlencoded;charset=UTF-8"];
  return [String(body), "text/plain;charset=UTF-8"];
}

class Body {
  #content;
  bodyUsed = false;
  constructor(content) {
    this.#content = content;
  }
  /** The body as it is kept, text or bytes. */
  takeBody() {
    if (this.bodyUsed) throw new TypeError("the body has been read already");
    this.bodyUsed = this.#content !== null;
    return this.#content;
  }
  async text() {
    const content = this.takeBody();
    return content === null ? "" : typeof content === "string" ? content : toText(content);
  }
  async json() {
    return JSON.parse(await this.text());
  }
  async bytes() {
    const content = this.takeBody();
    return content === null ? new Uint8Array() : typeof content === "string" ? toBytes(content) : content;
  }
  async arrayBuffer() {
    return (await this.bytes()).slice().buffer;
  }
  /** @internal */
  copyContent() {
    if (this.bodyUsed) throw new TypeError("the body has been read already");
    return this.#content;
  }
}

export class Response extends Body {
  constructor(body = null, { status = 200, statusText = "", headers = undefined, url = "", redirected = false } = {}) {
    if (!Number.isInteger(status) || status < 200 || status > 599) throw new RangeError(`a response has a status from 200 to 599, not ${status}`);
    const [content, type] = readBody(body);
    super(content);
    this.status = status;
    this.statusText = statusText;
    this.headers = new Headers(headers);
    if (type !== null && !this.headers.has("content-type")) this.headers.set("content-type", type);
    this.url = url;
    this.redirected = redirected;
  }
  static json(value, init = {}) {
    const response = new Response(JSON.stringify(value), init);
    response.headers.set("content-type", new Headers(init.headers).get("content-type") ?? "application/json");
    return response;
  }
  get ok() {
    return this.status < 300;
  }
  clone() {
    return new Response(this.copyContent(), { ...this, headers: this.headers });
  }
}

export class Request extends Body {
  constructor(input, init = {}) {
    const from = input instanceof Request ? input : undefined;
    const [content, type] = readBody(init.body ?? from?.copyContent());
    super(content);
    this.url = from?.url ?? String(input);
    this.method = String(init.method ?? from?.method ?? "GET").toUpperCase();
    this.headers = new Headers(init.headers ?? from?.headers);
    if (type !== null && !this.headers.has("content-type")) this.headers.set("content-type", type);
    this.redirect = init.redirect ?? from?.redirect ?? "follow";
    this.signal = init.signal ?? from?.signal;
    if (content !== null && (this.method === "GET" || this.method === "HEAD")) throw new TypeError(`a ${this.method} request has no body`);
  }
}

const REDIRECTS_MAX = 20;

/** Send a request. Rejects with TypeError when there is no answer, as everywhere; its cause says why. */
export function fetch(input, init = {}) {
  const asked = new Request(input, init);
  const options = {
    headers: asked.headers, body: asked.takeBody(), signal: asked.signal,
    redirects: asked.redirect === "follow" ? REDIRECTS_MAX : 0,
  };
  const convert = ({ status, headers, body, url, redirects }) =>
    new Response(status === 204 || status === 304 ? null : body, { status, headers, url, redirected: redirects.length > 0 });
  return request(asked.method, asked.url, options, convert).catch((error) => {
    if (asked.signal?.aborted) throw asked.signal.reason;
    if (!(error instanceof HttpCallError) && error.kind !== "GrantRefused") throw error;
    const failed = new TypeError(`fetch failed: ${error.message}`, { cause: error });
    failed.stack = error.stack; // Where the function asked.
    throw failed;
  });
}
