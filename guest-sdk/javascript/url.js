// URL and URLSearchParams: the WHATWG standard for http, https and the other special schemes, and what is needed of
// it for the rest. Host names are ASCII; international ones are to be written in punycode.

const PORTS = { "http:": "80", "https:": "443", "ws:": "80", "wss:": "443", "ftp:": "21", "file:": "" };
const PARTS = /^([a-zA-Z][a-zA-Z0-9+.-]*:)?(?:\/\/([^/?#]*))?([^?#]*)(\?[^#]*)?(#[\s\S]*)?$/;

const percent = (byte) => `%${byte.toString(16).toUpperCase().padStart(2, "0")}`;

function encode(text, refused) {
  return text.toWellFormed().replace(/[\s\S]/gu, (letter) => {
    if (letter > " " && letter < "\x7f" && !refused.includes(letter)) return letter;
    return encodeURIComponent(letter).replace(/^[^%][\s\S]*$/, (plain) => [...plain].map((one) => percent(one.charCodeAt(0))).join(""));
  });
}

const encodePath = (text) => encode(text, ' "#<>?`{}^');
const encodeQuery = (text) => encode(text, " \"#<>'");
const encodeFragment = (text) => encode(text, ' "<>`');
const encodeUser = (text) => encode(text, ' "#<>?`{}/:;=@[\\]^|');

function removeDots(path) {
  const out = [];
  const parts = path.split("/").slice(1);
  parts.forEach((part, index) => {
    const plain = part.replace(/%2e/gi, ".");
    const last = index === parts.length - 1;
    if (plain === "..") {
      out.pop();
      if (last) out.push("");
    } else if (plain === ".") {
      if (last) out.push("");
    } else out.push(part);
  });
  return `/${out.join("/")}`;
}

function readIpv4(host) {
  const parts = host.replace(/\.$/, "").split(".");
  if (!/^(?:0x[0-9a-f]*|\d+)$/i.test(parts.at(-1))) return host;
  const numbers = parts.map((part) => {
    if (!/^(?:0x[0-9a-f]*|\d+)$/i.test(part)) return NaN;
    if (/^0x/i.test(part)) return part.length === 2 ? 0 : parseInt(part, 16);
    return part.length > 1 && part.startsWith("0") ? (/^[0-7]+$/.test(part) ? parseInt(part, 8) : NaN) : Number(part);
  });
  const last = numbers.pop();
  const valid = numbers.length < 4 && numbers.every((one) => one <= 255) && last < 256 ** (4 - numbers.length);
  if (!valid) throw new TypeError(`invalid URL: ${host} is no address`);
  const address = numbers.reduce((sum, one, index) => sum + one * 256 ** (3 - index), last);
  return [24, 16, 8, 0].map((shift) => Math.floor(address / 2 ** shift) % 256).join(".");
}

function readHost(host) {
  if (host.startsWith("[")) {
    if (!/^\[[0-9a-f:.]+\]$/i.test(host)) throw new TypeError(`invalid URL: ${host} is no address`);
    return host.toLowerCase();
  }
  let plain;
  try {
    plain = decodeURIComponent(host).toLowerCase();
  } catch {
    throw new TypeError(`invalid URL: ${host} is no name of a host`);
  }
  if (/[\x00-\x20#%/:<>?@[\\\]^|\x7f]/.test(plain) || !/^[\x00-\x7f]*$/.test(plain)) {
    throw new TypeError(`invalid URL: ${host} is no name of a host in ASCII`);
  }
  return readIpv4(plain);
}

export class URLSearchParams {
  #pairs = [];
  #changed;
  constructor(init = "", changed = () => {}) {
    this.#changed = changed;
    if (typeof init === "object" && init !== null) {
      const pairs = init[Symbol.iterator] === undefined ? Object.entries(init) : init;
      this.#pairs = [...pairs].map(([name, value]) => [String(name), String(value)]);
    } else {
      this.read(String(init));
    }
  }
  /** @internal */
  read(text) {
    const plain = (part) => {
      const spaced = part.replaceAll("+", " ");
      try {
        return decodeURIComponent(spaced);
      } catch {
        return spaced.replace(/%([0-9a-f]{2})/gi, (_all, hex) => String.fromCharCode(parseInt(hex, 16)));
      }
    };
    this.#pairs = text.replace(/^\?/, "").split("&").filter((part) => part !== "").map((part) => {
      const at = part.indexOf("=");
      return at < 0 ? [plain(part), ""] : [plain(part.slice(0, at)), plain(part.slice(at + 1))];
    });
  }
  get size() {
    return this.#pairs.length;
  }
  append(name, value) {
    this.#pairs.push([String(name), String(value)]);
    this.#changed();
  }
  delete(name, value = undefined) {
    this.#pairs = this.#pairs.filter((pair) => pair[0] !== name || (value !== undefined && pair[1] !== value));
    this.#changed();
  }
  get(name) {
    return this.#pairs.find((pair) => pair[0] === name)?.[1] ?? null;
  }
  getAll(name) {
    return this.#pairs.filter((pair) => pair[0] === name).map((pair) => pair[1]);
  }
  has(name, value = undefined) {
    return this.#pairs.some((pair) => pair[0] === name && (value === undefined || pair[1] === value));
  }
  set(name, value) {
    const at = this.#pairs.findIndex((pair) => pair[0] === name);
    if (at < 0) this.#pairs.push([String(name), String(value)]);
    else this.#pairs = this.#pairs.filter((pair, index) => index <= at || pair[0] !== name).with(at, [String(name), String(value)]);
    this.#changed();
  }
  sort() {
    this.#pairs.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
    this.#changed();
  }
  forEach(callback) {
    for (const [name, value] of this) callback(value, name, this);
  }
  keys() {
    return this.#pairs.map(([name]) => name).values();
  }
  values() {
    return this.#pairs.map(([, value]) => value).values();
  }
  entries() {
    return this.#pairs.map((pair) => [...pair]).values();
  }
  [Symbol.iterator]() {
    return this.entries();
  }
  toString() {
    const form = (text) =>
      encodeURIComponent(text.toWellFormed()).replace(/[!'()~]/g, (letter) => percent(letter.charCodeAt(0))).replaceAll("%20", "+");
    return this.#pairs.map(([name, value]) => `${form(name)}=${form(value)}`).join("&");
  }
}

export class URL {
  #scheme;
  #user = "";
  #password = "";
  #host = null;
  #port = "";
  #path = "";
  #query = "";
  #fragment = "";
  #parameters;
  constructor(input, base = undefined) {
    const text = String(input).trim().replace(/[\t\n\r]/g, "");
    const parent = base === undefined ? undefined : new URL(base);
    const slashed = /^(?:https?|wss?|ftp|file):/i.test(text) || (parent !== undefined && parent.protocol in PORTS && !/^[a-z][a-z0-9+.-]*:/i.test(text));
    const cut = slashed ? text.replace(/^[^?#]*/, (head) => head.replaceAll("\\", "/")) : text;
    const [, scheme, authority, path, query, fragment] = PARTS.exec(cut);
    this.#scheme = (scheme ?? parent?.protocol)?.toLowerCase();
    if (this.#scheme === undefined) throw new TypeError(`invalid URL: ${text || "an empty text"} has no scheme`);
    const special = this.#scheme in PORTS;
    this.#fragment = fragment === undefined ? "" : encodeFragment(fragment.slice(1));
    if (scheme === undefined && authority === undefined) {
      this.#user = parent.username;
      this.#password = parent.password;
      [this.#host, this.#port] = [parent.#host, parent.port];
      const whole = path.startsWith("/") ? path : path === "" ? parent.pathname : parent.pathname.replace(/[^/]*$/, "") + path;
      this.#path = removeDots(encodePath(whole));
      this.#query = query === undefined ? (path === "" ? parent.search.slice(1) : "") : encodeQuery(query.slice(1));
    } else {
      if (authority !== undefined) this.#readAuthority(authority, special);
      else if (special) this.#readAuthority(path.replace(/^\/*/, "").split("/")[0], special);
      const rest = authority === undefined && special ? path.replace(/^\/*[^/]*/, "") : path;
      this.#path = authority === undefined && !special ? encodePath(rest) : removeDots(encodePath(rest.startsWith("/") ? rest : `/${rest}`));
      this.#query = query === undefined ? "" : encodeQuery(query.slice(1));
    }
    this.#parameters = new URLSearchParams(this.#query, () => {
      this.#query = String(this.#parameters);
    });
  }
  static canParse(input, base = undefined) {
    return URL.parse(input, base) !== null;
  }
  static parse(input, base = undefined) {
    try {
      return new URL(input, base);
    } catch {
      return null;
    }
  }
  #readAuthority(authority, special) {
    const at = authority.lastIndexOf("@");
    if (at >= 0) {
      const [user, ...password] = authority.slice(0, at).split(":");
      [this.#user, this.#password] = [encodeUser(user), encodeUser(password.join(":"))];
    }
    const found = /^(\[[^\]]*\]|[^:]*)(?::(\d*))?$/.exec(authority.slice(at + 1));
    if (found === null || Number(found[2] ?? 0) > 65535) throw new TypeError(`invalid URL: ${authority} has no valid port`);
    this.#host = special ? readHost(found[1]) : found[1];
    if (special && this.#host === "" && this.#scheme !== "file:") throw new TypeError("invalid URL: it has no host");
    const port = found[2] === undefined || found[2] === "" ? "" : String(Number(found[2]));
    this.#port = port === PORTS[this.#scheme] ? "" : port;
  }
  get protocol() {
    return this.#scheme;
  }
  set protocol(text) {
    const scheme = `${String(text).replace(/:.*$/, "").toLowerCase()}:`;
    if (scheme in PORTS === this.#scheme in PORTS) this.#scheme = scheme;
  }
  get username() {
    return this.#user;
  }
  set username(text) {
    this.#user = encodeUser(String(text));
  }
  get password() {
    return this.#password;
  }
  set password(text) {
    this.#password = encodeUser(String(text));
  }
  get hostname() {
    return this.#host ?? "";
  }
  set hostname(text) {
    this.#host = readHost(String(text));
  }
  get port() {
    return this.#port;
  }
  set port(text) {
    const port = String(parseInt(text, 10));
    this.#port = String(text) === "" || port === PORTS[this.#scheme] ? "" : port === "NaN" || Number(port) > 65535 ? this.#port : port;
  }
  get host() {
    return this.#port === "" ? this.hostname : `${this.hostname}:${this.#port}`;
  }
  set host(text) {
    const [, name, port] = /^(\[[^\]]*\]|[^:]*)(?::(\d*))?$/.exec(String(text)) ?? [];
    if (name !== undefined) this.hostname = name;
    if (port !== undefined) this.port = port;
  }
  get origin() {
    return this.#scheme in PORTS && this.#scheme !== "file:" ? `${this.#scheme}//${this.host}` : "null";
  }
  get pathname() {
    return this.#path;
  }
  set pathname(text) {
    const path = encodePath(String(text));
    this.#path = this.#host === null ? path : removeDots(path.startsWith("/") ? path : `/${path}`);
  }
  get search() {
    return this.#query === "" ? "" : `?${this.#query}`;
  }
  set search(text) {
    this.#query = encodeQuery(String(text).replace(/^\?/, ""));
    this.#parameters.read(this.#query);
  }
  get searchParams() {
    return this.#parameters;
  }
  get hash() {
    return this.#fragment === "" ? "" : `#${this.#fragment}`;
  }
  set hash(text) {
    this.#fragment = encodeFragment(String(text).replace(/^#/, ""));
  }
  get href() {
    const user = this.#user === "" && this.#password === "" ? "" : `${this.#user}${this.#password === "" ? "" : `:${this.#password}`}@`;
    return `${this.#scheme}${this.#host === null ? "" : `//${user}${this.host}`}${this.#path}${this.search}${this.hash}`;
  }
  set href(text) {
    const other = new URL(text);
    this.#scheme = other.protocol;
    [this.#user, this.#password, this.#host, this.#port] = [other.username, other.password, other.#host, other.port];
    [this.#path, this.#fragment] = [other.pathname, other.hash.slice(1)];
    this.search = other.search;
  }
  toString() {
    return this.href;
  }
  toJSON() {
    return this.href;
  }
}
