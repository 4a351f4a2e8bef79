// The door: descriptor 3, one JSON array a line. See PROTOCOL.md, "The wire".
//
// The functions that read and write it come from the host; they are taken off the global object here, before any
// code of the project is loaded.

import { makeHostCallError } from "./errors.js";
import { place } from "./stack.js";
import { encode, fromWire, parse } from "./values.js";

const { send: write, receive: read, random: draw, encode: encodeText, decode: decodeText } = globalThis.__flux;
delete globalThis.__flux;

const FRAME_CHARACTERS_MAX = 16 * 2 ** 20 - 100;
const OUTSTANDING_MAX = 1000;
const WIRE = 3;

/** The text as bytes in UTF-8. */
export const toBytes = (text) => new Uint8Array(encodeText(text));

/** Bytes in UTF-8 as text; what is none is replaced. */
export const toText = (bytes) =>
  decodeText(bytes.byteLength === bytes.buffer.byteLength ? bytes.buffer : bytes.slice().buffer);

/** Random bytes: they follow from the execution's seed. */
export const randomBytes = (count) => new Uint8Array(draw(count));

let lastCall = 0;
let running = false;
let tellsWaits = false;
const waiting = new Map();

export function readStart() {
  const start = parse(read(0));
  tellsWaits = start.tell_waits === true;
  return start;
}

export function begin() {
  running = true;
}

/**
 * No more calls are made. Of those in flight, timers are given up and the others waited for, so that a forgotten
 * `await` does not race with the commit; after a failure all are given up. Their answers still come.
 */
export function close(failed) {
  running = false;
  for (const [id, { name }] of waiting) {
    if (failed || name === "clock.sleep") write(WIRE, `["cancel",${id}]`);
  }
}

export const outstanding = () => waiting.size;

function checkSize(name, text) {
  // Three bytes a character at most, so that the usual text need not be measured.
  if (text.length * 3 > FRAME_CHARACTERS_MAX && toBytes(text).length > FRAME_CHARACTERS_MAX) {
    throw new RangeError(`${name} was given more than a call carries: ${FRAME_CHARACTERS_MAX} bytes`);
  }
}

function ask(name, parameters, stack) {
  if (!running) throw new Error(`${name} was asked when no function was running`);
  if (waiting.size >= OUTSTANDING_MAX) {
    throw new Error(`${OUTSTANDING_MAX} calls wait for their answers already: await some of them first`);
  }
  const at = place(stack);
  const text = `"${name}",${encode(parameters)}${at === null ? "" : `,{"at":${JSON.stringify(at)}}`}]`;
  checkSize(name, text);
  lastCall += 1;
  write(WIRE, `[${lastCall},${text}`);
  return lastCall;
}

/**
 * Ask the host; the promise is settled with its answer. `signal` gives the call up: its answer is then an error of
 * kind "Cancelled", unless it was there already. `stack` is where it is asked: after an `await` of ours the function's
 * own lines are not on it any more.
 */
export function call(name, parameters, convert = undefined, signal = undefined, stack = new Error().stack) {
  if (signal?.aborted) return Promise.reject(signal.reason);
  const id = ask(name, parameters, stack);
  return new Promise((resolve, reject) => {
    waiting.set(id, { name, resolve, reject, convert, stack });
    signal?.addEventListener("abort", () => waiting.has(id) && write(WIRE, `["cancel",${id}]`));
  });
}

/** Nobody waits for call `id` any more. */
export function cancel(id) {
  if (waiting.has(id)) write(WIRE, `["cancel",${id}]`);
}

/** The number of the last call. */
export const lastId = () => lastCall;

/** Ask the host and wait. What arrives for others meanwhile reaches them when this function waits next. */
export function callNow(name, parameters) {
  const stack = new Error().stack;
  const id = ask(name, parameters, stack);
  let answer;
  waiting.set(id, {
    name,
    resolve: (value) => (answer = { value }),
    reject: (error) => (answer = { error }),
    stack,
  });
  while (answer === undefined) {
    if (!hear()) throw new Error("the host is gone");
  }
  if (answer.error !== undefined) throw answer.error;
  return answer.value;
}

/** Tell the host something that needs no answer. */
export function tell(name, parameters) {
  const at = place(new Error().stack);
  write(WIRE, `[0,"${name}",${encode(parameters)}${at === null ? "" : `,{"at":${JSON.stringify(at)}}`}]`);
}

/** Hear one answer and settle the promise that waits for it; false when none will come. */
export function hear() {
  if (tellsWaits) write(WIRE, '["wait"]');
  const line = read(WIRE);
  if (line === null) return false;
  const [id, error, value] = parse(line);
  const { resolve, reject, convert, stack } = waiting.get(id);
  waiting.delete(id);
  if (error !== null) {
    const thrown = makeHostCallError(error, id);
    // Where the function asked: where the answer was heard is of no use to anybody.
    thrown.stack = stack;
    reject(thrown);
    return true;
  }
  try {
    resolve(convert === undefined ? fromWire(value) : convert(fromWire(value)));
  } catch (problem) {
    reject(problem);
  }
  return true;
}

/** End the execution with an answer, which has been checked: nothing of it is looked at again. */
export function finish({ status, headers, body, streamed = false }) {
  const content = typeof body === "string" ? JSON.stringify(body) : encode(body);
  const text = `{"status":${status},"headers":${JSON.stringify(headers)},"body":${content}${streamed ? ',"streamed":true' : ""}}`;
  checkSize("the answer", text);
  write(WIRE, `["return",${text}]`);
}

/** End the execution with the report of an error. */
export function finishBadly(report) {
  write(WIRE, `["raise",${encode(report)}]`);
}
