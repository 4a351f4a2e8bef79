// Bodies of any size: the request's read piece by piece, and an answer written as it is made.
//
// An answer whose body is an iterator is drained once the handler and its middleware have returned, while the
// execution's transaction is still open. Its pieces are put together, or cut, into what one host call carries.

import { call, toBytes } from "./wire.js";

/** What one host call carries: of the answer, and of the request. */
const PIECE_BYTES = 2 ** 20;

/** A body that the host has taken already. */
export class Streamed {
  constructor(isText) {
    /** All of its pieces were text. */
    this.isText = isText;
  }
}

/** Whether `body` is to be written as it is made: an iterator or a generator, async or not. */
export const isStream = (body) =>
  typeof body === "object" && body !== null && typeof body.next === "function" &&
  (Symbol.asyncIterator in body || Symbol.iterator in body);

class Pieces {
  #buffer = new Uint8Array(PIECE_BYTES);
  #length = 0;
  #count = 0;
  isText = true;
  /** Take what was yielded, and write all of it that makes a whole piece. */
  async add(piece) {
    this.#count += 1;
    let data = piece;
    if (typeof piece === "string") {
      data = toBytes(piece);
    } else if (piece instanceof Uint8Array) {
      this.isText = false;
    } else {
      const kind = piece === null ? "null" : piece?.constructor?.name ?? typeof piece;
      throw new TypeError(`a streamed answer is made of text or Uint8Array, and piece ${this.#count} is a ${kind}`);
    }
    let taken = 0;
    while (data.length - taken >= PIECE_BYTES - this.#length) {
      const end = taken + PIECE_BYTES - this.#length;
      this.#buffer.set(data.subarray(taken, end), this.#length);
      await call("response.write", [this.#buffer]);
      [taken, this.#length] = [end, 0];
    }
    this.#buffer.set(data.subarray(taken), this.#length);
    this.#length += data.length - taken;
  }
  /** Write what is left, and the end. */
  async end() {
    if (this.#length > 0) await call("response.write", [this.#buffer.subarray(0, this.#length)]);
    await call("response.end", []);
  }
}

/** Write an answer's body; return what stands for it. */
export async function writeBody(body) {
  const pieces = new Pieces();
  // An error on our side ends the iterator as a `break` does, so that its `finally` blocks run.
  for await (const piece of body) await pieces.add(piece);
  await pieces.end();
  return new Streamed(pieces.isText);
}

/** The request's body, piece by piece: `held` is undefined where it is the host's to hand out. */
export async function* readBody(held, size) {
  if (held !== undefined) {
    if (held.length > 0) yield held;
    return;
  }
  for (let offset = 0; offset < size; ) {
    const piece = await call("request.read", [offset, PIECE_BYTES]);
    offset += piece.length;
    yield piece;
  }
}
