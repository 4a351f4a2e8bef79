/** Types are there to be erased. */
export interface Pair<T> {
  first: T;
  second: T;
}

export const double = (n: number): number => (n as number) * 2;

export function makePair<T>(first: T, second: T = first): Pair<T> {
  return { first, second } satisfies Pair<T>;
}
