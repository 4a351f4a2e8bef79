// One execution: reads what to run from descriptor 0, runs it, answers on 3.
//
// The host calls run() once and then pump() whenever nothing is left to run, until it returns false. So a frame is
// read only when the function can do nothing without it, which is what makes a recording replayable.

import { describeAnswer, writeAnswer } from "./answer.js";
import { makeContext, seed } from "./context.js";
import { DeadlockError } from "./errors.js";
import { describe, functions, load, middleware, sources } from "./registry.js";
import { describeError } from "./report.js";
import { acceptInput } from "./schema.js";
import { setFailure } from "./web.js";
import { fromWire } from "./values.js";
import * as wire from "./wire.js";

let declared;
let end;

function fail(error) {
  if (end !== undefined) return;
  end = { report: describeError(error, declared, sources) };
  wire.close(true);
}

function succeed(value) {
  if (end !== undefined) return;
  try {
    end = { answer: describeAnswer(value) };
  } catch (problem) {
    fail(problem); // It returned what can't be answered.
    return;
  }
  wire.close(false);
}

async function invoke(start) {
  const unknown = start.middleware.find((name) => !middleware.has(name));
  if (declared === undefined) throw new Error(`there is no function named ${JSON.stringify(start.function)}`);
  if (unknown !== undefined) {
    throw new Error(`no middleware is named ${JSON.stringify(unknown)}; there is ${[...middleware.keys()].join(", ") || "none"}`);
  }
  const ctx = makeContext(start);
  const input = fromWire(start.input);
  const handle = async () =>
    declared.handler({ input: declared.input === undefined ? input : await acceptInput(declared.input, input, ctx.request), ctx });
  const next = (index) => async () =>
    index === start.middleware.length
      ? handle()
      : middleware.get(start.middleware[index]).handler({ ctx, input, next: next(index + 1) });
  return writeAnswer(await next(0)());
}

function run() {
  const start = wire.readStart();
  declared = functions.get(start.function);
  seed();
  wire.begin();
  setFailure(fail);
  invoke(start).then(succeed, fail);
}

function sayEnd() {
  if (end.report !== undefined) {
    wire.finishBadly(end.report);
    return false;
  }
  try {
    wire.finish(end.answer);
  } catch (problem) {
    wire.finishBadly(describeError(problem, declared, sources)); // It is too large to travel.
  }
  return false;
}

function pump() {
  if (end !== undefined && wire.outstanding() === 0) return sayEnd();
  if (wire.outstanding() === 0) {
    fail(new DeadlockError("the function waits for something that nothing will ever do"));
    return sayEnd();
  }
  return wire.hear();
}

globalThis.__flux = { run, pump };

export { describe, load };
