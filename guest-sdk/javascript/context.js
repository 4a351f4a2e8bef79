// ctx: everything a function may ask of the host. Each method sends one host call.

import { makeAnswer } from "./answer.js";
import { readBody } from "./bodies.js";
import { HTTPError } from "./errors.js";
import { show } from "./report.js";
import { HttpResponse, joined } from "./response.js";
import { fromWire, toWire } from "./values.js";
import { call, callNow, randomBytes, tell, toBytes, toText } from "./wire.js";

const MESSAGE_CHARACTERS_MAX = 256 * 1024;

// Randomness: sfc32, seeded for each execution. What must not be guessed comes from crypto.

let [a, b, c, d] = [1, 2, 3, 4];

function next() {
  const t = (((a + b) | 0) + d) | 0;
  d = (d + 1) | 0;
  a = b ^ (b >>> 9);
  b = (c + (c << 3)) | 0;
  c = (((c << 21) | (c >>> 11)) + t) | 0;
  return t >>> 0;
}

const random = () => ((next() >>> 5) * 67108864 + (next() >>> 6)) / 9007199254740992;

Math.random = random;

/** Begin the execution's random numbers. */
export function seed() {
  [a, b, c, d] = new Int32Array(randomBytes(16).buffer);
  for (let i = 0; i < 12; i++) next();
}

export function makeUuid() {
  const bytes = randomBytes(16);
  bytes[6] = (bytes[6] & 15) | 64;
  bytes[8] = (bytes[8] & 63) | 128;
  const hex = bytes.toHex();
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}

class Random {
  /** A number from 0 to 1, without 1. */
  random() {
    return random();
  }
  /** An integer from `least` to `most`, both included. */
  integer(least, most) {
    return least + Math.floor(random() * (most - least + 1));
  }
  /** One of `items`. */
  choice(items) {
    return items[this.integer(0, items.length - 1)];
  }
  bytes(count) {
    return randomBytes(count);
  }
  uuid() {
    return makeUuid();
  }
}

// The request

class Request {
  #body;
  #isHeld;
  constructor(described) {
    this.method = described.method;
    this.path = described.path;
    this.params = Object.fromEntries(described.params);
    this.query = Object.fromEntries(described.query);
    /** Query parameters in order, repeated ones included: [name, value]. */
    this.queryList = described.query;
    /** Header fields, names in lower case; repeated ones joined by a comma. */
    this.headers = joined(described.headers);
    this.#body = fromWire(described.body);
    this.#isHeld = described.upload === undefined;
    /** How many bytes the body has. */
    this.size = this.#isHeld ? this.body.length : described.upload.bytes;
    /** The address of who made the request, through the proxies that flux.toml declares. */
    this.client = described.client ?? null;
    /** "http" or "https", as the client used it. */
    this.scheme = described.scheme ?? null;
    /** Host, and port if there was one, as the client wrote it. */
    this.host = described.host ?? null;
    /**
     * Who asks, as Flux has verified it before the function ran: `kind` ("jwt" or "api_key"), `subject`, and `claims` or
     * `scopes`. null: nobody was verified.
     */
    this.auth = fromWire(described.auth ?? null);
  }
  /** The body is too large to hold, so `stream` is the only way to it. */
  get isStreamed() {
    return !this.#isHeld;
  }
  #check() {
    if (!this.#isHeld) {
      throw new Error(
        `the request's body has ${this.size} bytes, more than is held (body under [limits]): read it with ctx.request.stream()`,
      );
    }
  }
  /** The body piece by piece, whatever its size: `for await (const piece of ctx.request.stream())`. */
  stream() {
    return readBody(this.#isHeld ? this.body : undefined, this.size);
  }
  /** The body as it came, in bytes; an error where it is too large to hold: see `stream`. */
  get body() {
    this.#check();
    return typeof this.#body === "string" ? toBytes(this.#body) : this.#body;
  }
  text() {
    this.#check();
    return typeof this.#body === "string" ? this.#body : toText(this.#body);
  }
  json() {
    this.#check();
    try {
      return JSON.parse(this.text());
    } catch (error) {
      throw new HTTPError(400, "INPUT_VALIDATION_ERROR", `the body is not JSON: ${error.message}`, { cause: error });
    }
  }
}

// The database

const rowsOf = ({ columns, rows }) => rows.map((row) => Object.fromEntries(columns.map((name, index) => [name, row[index]])));
const firstOf = (answer) => rowsOf({ columns: answer.columns, rows: answer.rows.slice(0, 1) })[0] ?? null;
const affectedBy = (answer) => answer.affected;
const quote = (name) => `"${String(name).replaceAll('"', '""')}"`;

/** Short forms of common statements on one table. */
class Table {
  #name;
  constructor(name) {
    this.#name = name.split(".").map(quote).join(".");
  }
  #where(where, parameters) {
    const parts = Object.entries(where ?? {}).map(([column, value]) => {
      if (value === null || value === undefined) return `${quote(column)} is null`;
      parameters.push(value);
      return `${quote(column)} = $${parameters.length}`;
    });
    return parts.length > 0 ? ` where ${parts.join(" and ")}` : "";
  }
  /** Insert one row; the answer is the row as stored. */
  insert(row = {}) {
    const columns = Object.keys(row);
    if (columns.length === 0) return query(`insert into ${this.#name} default values returning *`, [], firstOf);
    const marks = columns.map((_column, index) => `$${index + 1}`).join(", ");
    const names = columns.map(quote).join(", ");
    return query(`insert into ${this.#name} (${names}) values (${marks}) returning *`, Object.values(row), firstOf);
  }
  /** The first row that equals `where` in each column, or null. */
  findOne(where = {}) {
    const parameters = [];
    return query(`select * from ${this.#name}${this.#where(where, parameters)} limit 1`, parameters, firstOf);
  }
  /** The rows that equal `where`; `orderBy` is a column, `-column` for descending. */
  findMany(where = {}, { orderBy = undefined, limit = undefined } = {}) {
    const parameters = [];
    let sql = `select * from ${this.#name}${this.#where(where, parameters)}`;
    if (orderBy !== undefined) sql += ` order by ${quote(orderBy.replace(/^-/, ""))}${orderBy.startsWith("-") ? " desc" : ""}`;
    if (limit !== undefined) sql += ` limit $${parameters.push(limit)}`;
    return query(sql, parameters, rowsOf);
  }
  /** Set columns of the rows that equal `where`; the answer is their number. */
  update(where, values) {
    if (Object.keys(values ?? {}).length === 0) throw new TypeError("update needs at least one column to set");
    if (Object.keys(where ?? {}).length === 0) throw new TypeError("update needs a condition; write SQL to change every row");
    const parameters = Object.values(values);
    const sets = Object.keys(values).map((column, index) => `${quote(column)} = $${index + 1}`).join(", ");
    return execute(`update ${this.#name} set ${sets}${this.#where(where, parameters)}`, parameters);
  }
  /** Delete the rows that equal `where`; the answer is their number. */
  delete(where) {
    if (Object.keys(where ?? {}).length === 0) throw new TypeError("delete needs a condition; write SQL to delete every row");
    const parameters = [];
    return execute(`delete from ${this.#name}${this.#where(where, parameters)}`, parameters);
  }
}

const query = (sql, parameters, convert) => call("db.query", [sql, parameters], convert);
const execute = (sql, parameters) => call("db.execute", [sql, parameters], affectedBy);

const database = {
  /** Run SQL and return its rows; parameters are $1, $2 ... */
  query: (sql, ...parameters) => query(sql, parameters, rowsOf),
  /** Its first row, or null. */
  queryOne: (sql, ...parameters) => query(sql, parameters, firstOf),
  /** The number of rows that it affected. */
  execute: (sql, ...parameters) => execute(sql, parameters),
  /** Run `work` in a transaction, or in a savepoint inside the one that is open. */
  async transaction(work, { isolation = null } = {}) {
    const { stack } = new Error();
    const ask = (name, parameters) => call(name, parameters, undefined, undefined, stack);
    const depth = await ask("db.begin", [isolation]);
    let result;
    try {
      result = await work();
    } catch (error) {
      await ask("db.rollback", [depth]);
      throw error;
    }
    await ask("db.commit", [depth]);
    return result;
  },
};

const db = new Proxy(database, {
  get(target, name) {
    // `await ctx.db` asks for "then": no table of that name is meant.
    if (typeof name !== "string" || name in target || name === "then") return target[name];
    return new Table(name);
  },
});

// Outbound HTTP

const makeHttpResponse = (answer) => new HttpResponse(answer);

/** Send a request; `signal` gives it up. */
export function request(method, url, options = {}, convert = makeHttpResponse) {
  const { headers = {}, json, body = null, timeout = null, redirects = 0, signal, ...unknown } = options;
  const [mistake] = Object.keys(unknown);
  if (mistake !== undefined) throw new TypeError(`an HTTP request has no option ${JSON.stringify(mistake)}`);
  const fields = (headers[Symbol.iterator] === undefined ? Object.entries(headers) : [...headers]).map(
    ([name, value]) => [String(name), String(value)],
  );
  let content = body;
  if (json !== undefined) {
    if (body !== null) throw new TypeError("give json or body, not both");
    content = JSON.stringify(json);
    if (!fields.some(([name]) => name.toLowerCase() === "content-type")) fields.push(["content-type", "application/json"]);
  }
  const sent = { headers: fields, body: content, timeout_s: timeout, redirects };
  return call("http.request", [String(method).toUpperCase(), String(url), sent], convert, signal);
}

const http = {
  request,
  get: (url, options) => request("GET", url, options),
  post: (url, options) => request("POST", url, options),
  put: (url, options) => request("PUT", url, options),
  patch: (url, options) => request("PATCH", url, options),
  delete: (url, options) => request("DELETE", url, options),
};

// Other functions

/** What another function is handed: JSON, as it is once it has been text. */
const plain = (value) => (value === undefined ? null : JSON.parse(JSON.stringify(value) ?? "null"));

const queue = {
  /**
   * Have a function run with a payload once this execution is committed; the answer is the job's id. `delay` is in
   * seconds. Pushed again with the same `idempotencyKey`, the job is the one of before.
   */
  push(name, payload, { delay = null, idempotencyKey = null, ...unknown } = {}) {
    const [mistake] = Object.keys(unknown);
    if (mistake !== undefined) throw new TypeError(`a push has no option ${JSON.stringify(mistake)}`);
    const options = { delay_s: delay, idempotency_key: idempotencyKey };
    return call("queue.push", [String(name), plain(payload), options], ({ job }) => job);
  },
};

function readInvoked({ status, content_type: type, body }) {
  const kind = type.split(";", 1)[0].trim().toLowerCase();
  if (kind === "application/json" || kind.endsWith("+json")) return JSON.parse(body);
  if (status === 204 || (kind === "" && body.length === 0)) return null;
  return typeof body === "string" && !/charset|^text\/|json/i.test(type) ? toBytes(body) : body;
}

// Whom it runs for

const USER_BYTES_MAX = 64 * 1024;

/** Return `user` as JSON has it; throw where that is nothing. */
function plainUser(user) {
  const text = JSON.stringify(user ?? null);
  if (text === undefined) throw new TypeError(`ctx.user must have a form in JSON, as it goes on record: it is a ${typeof user}`);
  const size = toBytes(text).length;
  if (size > USER_BYTES_MAX) throw new RangeError(`ctx.user has ${size} bytes of JSON; ${USER_BYTES_MAX} are allowed`);
  return JSON.parse(text);
}

// Log lines

const shorten = (text) =>
  text.length <= MESSAGE_CHARACTERS_MAX
    ? text
    : `${text.slice(0, MESSAGE_CHARACTERS_MAX)}... (${text.length - MESSAGE_CHARACTERS_MAX} characters more)`;

function loggable(value) {
  try {
    const travels = toWire(value);
    const text = JSON.stringify(travels);
    if (text.length <= MESSAGE_CHARACTERS_MAX && text.isWellFormed() && !text.includes("\\ud")) return value;
  } catch {
    // It can't travel; it can be shown.
  }
  return shorten(show(value)).toWellFormed();
}

/** Write a log line. */
export function writeLog(level, message, fields = {}) {
  const shown = Object.fromEntries(Object.entries(fields).map(([key, value]) => [key.toWellFormed(), loggable(value)]));
  tell("log.write", [level, shorten(show(message)).toWellFormed(), shown]);
}

const log = {
  debug: (message, fields) => writeLog("debug", message, fields),
  info: (message, fields) => writeLog("info", message, fields),
  warning: (message, fields) => writeLog("warning", message, fields),
  warn: (message, fields) => writeLog("warning", message, fields),
  error: (message, fields) => writeLog("error", message, fields),
};

// The rest

const clock = {
  /** The time as of the last answer of the host. */
  now: () => new Date(),
  /** Ask the host for the time. */
  fresh: () => call("clock.now", [], () => new Date()),
  /** Wait, in milliseconds. */
  sleep: (ms) => call("clock.sleep", [Math.max(0, ms) / 1000]),
};

const secrets = new Proxy(
  {
    /** The value itself, for code that must have it (an HMAC); the record keeps a token. */
    reveal: (name) => call("secret.reveal", [name]),
  },
  {
    // ctx.secrets.NAME is a handle that the host replaces on the way out.
    get: (target, name) => (typeof name !== "string" || name in target || name === "then" ? target[name] : callNow("secret.handle", [name])),
  },
);

/** What a handler gets as ctx. */
export const makeContext = (start) => {
  const request = new Request(start.request);
  let user = fromWire(start.user ?? null) ?? request.auth;
  return {
    request,
    db,
    http,
    clock,
    log,
    queue,
    /** Run another function on `input` in an execution of its own, for the same user; the answer is what it answers. */
    invoke: (name, input) =>
      call("invoke", [String(name), plain(input), ...(user === null ? [] : [{ user: plainUser(user) }])], readInvoked),
    secrets,
    random: new Random(),
    /**
     * Whom this runs for: what middleware has set, anything that has a form in JSON. Before anybody sets it, it is
     * `request.auth`; in a function that another one invokes, the user of that.
     */
    get user() {
      return user;
    },
    set user(value) {
      tell("user.set", [plainUser(value)]);
      user = value ?? null;
    },
    /** This execution's name: what `flux why` takes. */
    execution: start.execution,
    /** An answer with its own status and headers, made of whatever a handler may return. */
    response: (body, options) => makeAnswer(body, options),
    /** An HTTPError to throw: throw ctx.error(409, "CONFLICT", "taken"). */
    error: (status, code, message) => new HTTPError(status, code, message),
    /** Make a host call by its name, for one that has no method here. */
    call: (name, parameters, { signal } = {}) => call(name, parameters, undefined, signal),
  };
};
