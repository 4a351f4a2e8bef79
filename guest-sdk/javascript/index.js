// What a function imports: import { defineFunction, HTTPError } from "@flux/guest".

export {
  DatabaseError, DeadlockError, GrantRefusedError, HostCallError, HttpCallError, HttpTimeoutError, HTTPError, InvokeError,
  ValidationError,
} from "./errors.js";
export { defineFunction, defineMiddleware } from "./registry.js";
export { Decimal, Duration, Interval, PlainDate, PlainTime, Range } from "./values.js";
