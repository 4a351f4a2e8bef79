// What another module imports.

export interface Entry {
  readonly key: string;
  amount: number;
}

export class Ledger<K extends string | number> {
  private readonly sums: Map<K, number> = new Map<K, number>();
  #entries = 0;

  add(key: K, amount: number): this {
    this.sums.set(key, (this.sums.get(key) ?? 0) + amount);
    this.#entries += 1;
    return this;
  }

  totals(): Array<[K, number]> {
    return [...this.sums, ["entries" as unknown as K, this.#entries]];
  }
}
