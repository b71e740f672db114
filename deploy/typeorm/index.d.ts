import type { ValueTransformer } from "typeorm";

export interface FinhookOptions {
  /** FINHOOK_KEYS: `ID:KEY[,ID:KEY…]`. */
  keys: string;
  /** FINHOOK_INDEX_KEY. */
  indexKey: string;
  /** The EncryptionTransformer of before, for values that are not moved in yet. */
  legacy?: ValueTransformer;
  /** What is written: sealed values (the default), still those of `legacy`, or none. */
  writes?: "sealed" | "legacy" | "none";
}

export class CannotOpen extends Error {}

export class Finhook {
  constructor(options: FinhookOptions);
  /** For the `transformer` of every sealed column. */
  readonly transformer: ValueTransformer;
  /** For the `subscribers` of the data source. */
  readonly subscriber: new () => object;
  /** What `account.external_id_index` or `account.baas_id_index` holds for a value: to search by. */
  index(column: "external_id" | "baas_id", service: string, value: string): Buffer;
}
