// What a function may see thrown, and what it may throw.

const CODE_OF_STATUS = {
  400: "INPUT_VALIDATION_ERROR", 401: "UNAUTHORIZED", 403: "FORBIDDEN", 404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED",
  409: "CONFLICT", 413: "PAYLOAD_TOO_LARGE", 429: "RATE_LIMITED", 500: "FUNCTION_ERROR", 502: "DEPENDENCY_ERROR",
  503: "OVERLOADED", 504: "TIMEOUT",
};

/** Throw to answer with an HTTP error; the execution's database work is rolled back. */
export class HTTPError extends Error {
  constructor(status, code = "", message = "", options = undefined) {
    if (!Number.isInteger(status) || status < 400 || status > 599) {
      throw new RangeError(`an HTTPError has a status from 400 to 599, not ${status}`);
    }
    const chosen = code || CODE_OF_STATUS[status] || (status < 500 ? "CLIENT_ERROR" : "FUNCTION_ERROR");
    super(message || chosen, options);
    this.name = new.target.name;
    this.status = status;
    this.code = chosen;
  }
}

/** The input is not what the function needs; answered with 400 and the violations: [{path, message}]. */
export class ValidationError extends HTTPError {
  constructor(violations) {
    super(400, "INPUT_VALIDATION_ERROR", violations.map((one) => `${one.path}: ${one.message}`).join("; "));
    this.violations = violations;
  }
}

/** The host could not do what was asked. */
export class HostCallError extends Error {
  constructor(described, call) {
    super(described.message);
    this.name = new.target.name;
    /** Class of failure as the host names it. */
    this.kind = described.name;
    /** A finer code: an SQLSTATE, an FLX code. */
    this.code = described.code;
    /** What the host knows beyond the message. */
    this.details = described.details;
    /** Number of the host call in this execution. */
    this.call = call;
  }
}

/** Postgres refused a statement; `code` is the SQLSTATE, e.g. "23505" for a unique violation. */
export class DatabaseError extends HostCallError {}

/** The function has no grant for what it asked; flux.toml can give one. */
export class GrantRefusedError extends HostCallError {}

/** An outbound HTTP request had no answer. */
export class HttpCallError extends HostCallError {}

/** An outbound HTTP request had no answer in time. */
export class HttpTimeoutError extends HttpCallError {}

/** An invoked function failed, or could not be run. */
export class InvokeError extends HostCallError {
  /** Class of what it threw; empty when it never ran. */
  get type() {
    return this.details.type ?? "";
  }
  /** The HTTP status that its failure has. */
  get status() {
    return this.details.status ?? 500;
  }
  /** Its execution's name; empty when it never ran. */
  get execution() {
    return this.details.execution ?? "";
  }
}

/** The function waits for something that nothing will ever do. */
export class DeadlockError extends Error {
  constructor(message) {
    super(message);
    this.name = "DeadlockError";
  }
}

const CLASS_OF_NAME = { DatabaseError, GrantRefused: GrantRefusedError, HttpTimeout: HttpTimeoutError };
const CLASS_OF_PREFIX = [["Http", HttpCallError], ["Invoke", InvokeError]];

export function makeHostCallError(described, call) {
  const [, family] = CLASS_OF_PREFIX.find(([prefix]) => described.name.startsWith(prefix)) ?? [];
  const kind = CLASS_OF_NAME[described.name] ?? family ?? HostCallError;
  return new kind(described, call);
}
