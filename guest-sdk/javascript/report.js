// What is told of an error that ended a function: its class, its message, its stack.
//
// What is thrown is the user's: its message may have a hundred megabytes, its getters may throw. None of it may
// hide the failure.

import { HostCallError, HTTPError, ValidationError } from "./errors.js";
import { frames, isUser } from "./stack.js";

const FRAMES_MAX = 60;
const MESSAGE_CHARACTERS_MAX = 8000;
const SOURCE_CHARACTERS_MAX = 300;
const VIOLATIONS_MAX = 100;
const CHAIN_MAX = 20;

const printable = (text) => String(text).slice(0, MESSAGE_CHARACTERS_MAX).toWellFormed();

/** Anything, as text that can be shown. */
export function show(value) {
  if (typeof value === "string") return value;
  try {
    if (value instanceof Error) return `${value.name}: ${value.message}\n${value.stack ?? ""}`.trimEnd();
    if (typeof value === "bigint") return `${value}n`;
    if (typeof value === "function") return `[Function: ${value.name || "anonymous"}]`;
    if (typeof value !== "object" || value === null) return String(value);
    return JSON.stringify(value, (_key, item) => (typeof item === "bigint" ? `${item}n` : item)) ?? String(value);
  } catch (problem) {
    return `(can't be shown: ${problem?.name})`;
  }
}

const isOutOfMemory = (error) => error instanceof Error && error.name === "InternalError" && error.message === "out of memory";

function typeOf(error) {
  if (!(error instanceof Error)) return "Thrown";
  if (isOutOfMemory(error)) return "MemoryError";
  const name = error.constructor?.name;
  return printable(name && name !== "Error" ? name : error.name || "Error");
}

const messageOf = (error) => printable(error instanceof Error ? error.message : show(error));

function chain(error) {
  const found = [];
  for (let seen = error; seen !== undefined && seen !== null && found.length < CHAIN_MAX; seen = seen.cause) found.push(seen);
  return found;
}

function describe(error, declared, sources) {
  const report = { type: typeOf(error), message: messageOf(error) };
  if (error instanceof AggregateError) {
    const told = error.errors.slice(0, 10).map((one) => `${typeOf(one)}: ${messageOf(one).slice(0, 500)}`);
    report.message = printable(`${report.message || "several failed"}: ${told.join("; ")}`);
  }
  const stack = error instanceof Error ? frames(error.stack) : [];
  const line = (file, number) => (sources.get(file)?.split("\n", number)[number - 1] ?? "").trim().slice(0, SOURCE_CHARACTERS_MAX);
  const told = stack.map(({ file, line: number, function: name }) => [
    printable(file), number, printable(name), isUser(file), line(file, number),
  ]);
  // How the SDK came to call the function says nothing about the failure.
  const last = told.findLastIndex((frame) => frame[3]);
  report.frames = told.slice(0, last + 1).reverse().slice(-FRAMES_MAX);
  if (last < 0 && declared !== undefined) {
    report.frames = [[declared.file, declared.line, declared.name, true, line(declared.file, declared.line)]];
  }
  if (error instanceof HTTPError) {
    report.status = error.status;
    report.code = printable(error.code);
    if (error instanceof ValidationError) {
      report.violations = error.violations
        .slice(0, VIOLATIONS_MAX)
        .map((one) => Object.fromEntries(Object.entries(one).map(([key, text]) => [printable(key), printable(text)])));
    }
  }
  const causes = chain(error);
  const call = causes.find((one) => one instanceof HostCallError)?.call;
  if (call !== undefined) report.call = call;
  if (causes.length > 1) report.cause = printable(`${typeOf(causes[1])}: ${messageOf(causes[1])}`);
  return report;
}

/** Return the report that ends the execution. `declared` is the function, `sources` the project's files. */
export function describeError(error, declared, sources) {
  try {
    return describe(error, declared, sources);
  } catch (problem) {
    // Telling of it takes memory too, and there may be none.
    return { type: isOutOfMemory(problem) ? "MemoryError" : "Error", message: `(it can't be reported: ${problem?.name})` };
  }
}
