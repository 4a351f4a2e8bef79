// defineFunction and defineMiddleware: how a module says what in it can run.

import { findSchemaMistake } from "./schema.js";
import { place } from "./stack.js";

const ROUTE = /^[A-Z][A-Z0-9_-]* \/\S*$/;
const NAME = /^[A-Za-z_][A-Za-z0-9_.-]{0,99}$/;
const ISOLATION = ["read committed", "repeatable read", "serializable"];
const KNOWN = ["name", "route", "atomic", "isolation", "timeout", "retries", "cron", "middleware", "input", "handler"];

export const functions = new Map();
export const middleware = new Map();
export const sources = new Map();

class Defined {
  constructor(options, where) {
    this.options = options;
    [this.file, this.line] = where ?? ["", 0];
  }
}

class DefinedMiddleware {
  constructor(handler, where) {
    this.handler = handler;
    [this.file, this.line] = where ?? ["", 0];
  }
}

function findMistake(options) {
  const { name, route, isolation, timeout, retries, cron, middleware: names, handler } = options;
  const unknown = Object.keys(options).find((key) => !KNOWN.includes(key));
  if (unknown !== undefined) return `there is no option ${JSON.stringify(unknown)}; there is ${KNOWN.join(", ")}`;
  if (typeof handler !== "function") return "handler is a function";
  if (name !== undefined && !(typeof name === "string" && NAME.test(name))) {
    return `a function's name has letters, digits and _.- in it, not ${JSON.stringify(name)}`;
  }
  if (route !== undefined && !(typeof route === "string" && ROUTE.test(route))) {
    return `a route is METHOD /path, e.g. "POST /orders", not ${JSON.stringify(route)}`;
  }
  if (isolation !== undefined && !ISOLATION.includes(isolation)) {
    return `there is no isolation level ${JSON.stringify(isolation)}; there is ${ISOLATION.join(", ")}`;
  }
  if (timeout !== undefined && !(typeof timeout === "string" || (Number.isFinite(timeout) && timeout > 0))) {
    return `timeout is seconds above zero or text such as "10s", not ${JSON.stringify(timeout)}`;
  }
  if (retries !== undefined && !(Number.isInteger(retries) && retries >= 0)) {
    return `retries is a number from 0 on, not ${JSON.stringify(retries)}`;
  }
  if (cron !== undefined && typeof cron !== "string") {
    return `cron is text such as "0 3 * * *", not ${JSON.stringify(cron)}`;
  }
  if (names !== undefined && !(Array.isArray(names) && names.every((one) => typeof one === "string"))) {
    return `middleware is a list of names, not ${JSON.stringify(names)}`;
  }
  return options.input === undefined ? "" : findSchemaMistake(options.input);
}

/** Make an object with a `handler` a function of this project; to be exported. */
export function defineFunction(options) {
  if (typeof options === "function") options = { handler: options };
  if (typeof options !== "object" || options === null) throw new TypeError("defineFunction takes an object with a handler");
  const mistake = findMistake(options);
  if (mistake) throw new TypeError(mistake);
  return new Defined({ ...options }, place(new Error().stack));
}

/** Make `handler({ctx, next})` a middleware, named as it is exported. It returns what `await next()` returns. */
export function defineMiddleware(handler) {
  if (typeof handler !== "function") throw new TypeError("defineMiddleware takes a function");
  return new DefinedMiddleware(handler, place(new Error().stack));
}

const stem = (file) => file.replace(/^.*\//, "").replace(/\.[^.]*$/, "");

function add(table, what, name, item) {
  const other = table.get(name);
  if (other !== undefined && (other.file !== item.file || other.line !== item.line)) {
    throw new TypeError(
      `a ${what} named ${JSON.stringify(name)} exists already at ${other.file}:${other.line}; give one of them another name`,
    );
  }
  table.set(name, item);
}

/** Take in what a module exports. `source` is its text, for stacks. */
export function load(file, exported, source) {
  sources.set(file, source);
  for (const [key, value] of Object.entries(exported)) {
    const named = key === "default" ? stem(file) : key;
    if (value instanceof DefinedMiddleware) {
      add(middleware, "middleware", named, { handler: value.handler, file: value.file || file, line: value.line || 1 });
    } else if (value instanceof Defined) {
      const name = value.options.name ?? named;
      if (!NAME.test(name)) throw new TypeError(`${JSON.stringify(name)} is no name for a function; give it one: name: "..."`);
      add(functions, "function", name, { ...value.options, name, file: value.file || file, line: value.line || 1 });
    }
  }
}

/** What there is, as JSON. */
export const describe = () =>
  JSON.stringify({
    functions: [...functions.values()].map((one) => ({
      name: one.name,
      route: one.route ?? null,
      atomic: one.atomic ?? true,
      isolation: one.isolation ?? null,
      timeout: one.timeout ?? null,
      retries: one.retries ?? 0,
      cron: one.cron ?? null,
      middleware: one.middleware ?? null,
      // What a validator of its own checks, nobody can tell from outside.
      input: one.input === undefined || one.input["~standard"] !== undefined ? null : one.input,
      file: one.file,
      line: one.line,
    })),
    middleware: [...middleware].map(([name, { file, line }]) => ({ name, file, line })),
  });
