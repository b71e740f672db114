"use strict";
// finhook's columns for TypeORM entities: one value transformer, and a subscriber that does its work.
//
// A sealed value is bound to its row, and a TypeORM transformer sees the value alone. So the transformer only marks what is
// sealed and what is not, and the subscriber, which has the row at hand, opens after a load and seals before an insert or
// update. What the subscriber did not seal cannot be sent: the marked value refuses to become a parameter, so a forgotten
// subscriber, an update by criteria or a search by a plain value is an error and never plaintext in the database.

const { Column, EventSubscriber, FindOperator, getMetadataArgsStorage } = require("typeorm");
const { BlindIndex, CannotOpen, KeyRing, isSealed } = require("./crypto");

/** Which columns are sealed, and which of them an index finds. */
const SEALED = { integration: ["authorization_id"], account: ["external_id", "baas_id"] };

/** A sealed text on its way between the database and the subscriber. */
class Sealed {
  #text;
  constructor(text) {
    this.#text = text;
  }
  get text() {
    return this.#text;
  }
  toPostgres() {
    return this.#text;
  }
  toString() {
    throw new CannotOpen("a sealed column was read without finhook's subscriber: add it to the data source");
  }
  toJSON() {
    return this.toString();
  }
}

const IN_THE_CLEAR =
  "a sealed column cannot be written or searched by its plain value: save() or insert() entities with finhook's " +
  "subscriber in the data source, and search by finhook.index(…)";

/**
 * Stands for a plain text that nothing has sealed yet; the text itself is not in it. TypeORM calls a function that it finds as
 * the value of an insert or update, and the subscriber looks at the parameters of every query: both refuse. Were one ever to
 * get as far as the driver, it would be the one character that PostgreSQL takes in no text. (Not an error: one that is thrown
 * there leaves the driver's connection hanging.)
 */
function unsealed() {
  const mark = () => {
    throw new Error(IN_THE_CLEAR);
  };
  mark.toString = mark.toPostgres = () => "\0";
  UNSEALED.add(mark);
  return mark;
}
const UNSEALED = new WeakSet();

class Finhook {
  #ring;
  #index;
  #legacy;
  #writes;
  // TypeORM compares by transforming both sides, one directly after the other: equal texts have to give equal marks.
  #last = { text: undefined, mark: undefined };

  /**
   * @param {object} options
   * @param {string} options.keys FINHOOK_KEYS
   * @param {string} options.indexKey FINHOOK_INDEX_KEY
   * @param {{from(value: any): any, to(value: any): any}} [options.legacy] the EncryptionTransformer of before, for values
   *   that are not moved in yet
   * @param {"sealed" | "legacy" | "none"} [options.writes] what is written: sealed values, still those of `legacy`, or none
   */
  constructor({ keys, indexKey, legacy, writes = "sealed" }) {
    if (!["sealed", "legacy", "none"].includes(writes)) throw new Error("writes is sealed, legacy or none");
    if (writes === "legacy" && !legacy) throw new Error("writes: legacy needs the legacy transformer");
    this.#ring = new KeyRing(keys);
    this.#index = new BlindIndex(indexKey);
    this.#legacy = legacy;
    this.#writes = writes;

    /** For the `transformer` of every sealed column. */
    this.transformer = { from: (value) => this.#from(value), to: (value) => this.#to(value) };
    /** For the `subscribers` of the data source. */
    this.subscriber = subscriberOf(this);
  }

  /** What account.external_id_index or account.baas_id_index holds for a value: to search by. */
  index(column, service, value) {
    return this.#index.of(column, service, value);
  }

  /** @internal */
  open(place, value) {
    return value instanceof Sealed ? this.#ring.open(place, value.text) : value;
  }

  /** @internal A plain text as it is to be written. */
  seal(place, text) {
    if (this.#writes === "none") throw new Error("finhook is read-only here (writes: none)");
    return new Sealed(this.#writes === "legacy" ? this.#legacy.to(text) : this.#ring.seal(place, text));
  }

  #from(value) {
    // As typeorm-encrypted has it: what is not there is undefined and not null.
    if (value === null || value === undefined) return undefined;
    if (isSealed(value)) return new Sealed(value);
    if (!this.#legacy) throw new CannotOpen("a column holds what finhook did not write; give `legacy` until it is moved in");
    return this.#legacy.from(value);
  }

  #to(value) {
    if (value === null || value === undefined) return value;
    if (value instanceof Sealed) return value.text;
    if (value instanceof FindOperator) {
      const asked = value.type === "not" ? value.child : value;
      if (asked?.type === "isNull" || asked?.type === "raw") return value;
      throw new Error(IN_THE_CLEAR);
    }
    if (UNSEALED.has(value)) return value;
    if (this.#last.text !== value) this.#last = { text: value, mark: unsealed() };
    return this.#last.mark;
  }
}

function subscriberOf(finhook) {
  class FinhookSubscriber {
    /** What was replaced in an entity while it is written: its plain texts, and columns that it does not have. */
    #replaced = new WeakMap();
    /** Which entities are being written, by query runner. */
    #writing = new WeakMap();
    /** The integration of accounts that are saved with it and do not name it themselves. */
    #parents = new WeakMap();
    /** Questions of one tick, asked together. */
    #asked = new WeakMap();

    constructor() {
      declareIndexes(finhook);
    }

    afterLoad(entity, event) {
      const sealed = columnsOf(event, finhook).filter((column) => column.getEntityValue(entity) instanceof Sealed);
      return sealed.length === 0 ? undefined : this.#open(entity, event, sealed);
    }

    async #open(entity, event, columns) {
      const place = await this.#placeOf(entity, event);
      for (const column of columns) {
        const parts = [event.metadata.tableName, column.databaseName, ...place];
        column.setEntityValue(entity, finhook.open(parts, column.getEntityValue(entity)));
      }
    }

    beforeQuery({ parameters }) {
      if (Array.isArray(parameters) && parameters.some((one) => UNSEALED.has(one))) throw new Error(IN_THE_CLEAR);
    }

    beforeInsert(event) {
      this.#knowParents(event);
      return event.entity && this.#write(event.entity, undefined, event, true);
    }

    beforeUpdate(event) {
      this.#knowParents(event);
      return event.entity && this.#write(event.entity, event.databaseEntity, event, false);
    }

    afterInsert(event) {
      if (event.entity) this.#restore(event.entity);
    }

    afterUpdate(event) {
      if (event.entity) this.#restore(event.entity);
    }

    /** A write that failed leaves no sealed text in the product's own objects. */
    afterTransactionRollback({ queryRunner }) {
      for (const entity of this.#writing.get(queryRunner) ?? []) this.#restore(entity);
      this.#writing.delete(queryRunner);
    }

    #knowParents({ entity, metadata }) {
      if (!entity || metadata.tableName !== "integration") return;
      for (const relation of metadata.relations.filter((one) => one.inverseEntityMetadata.tableName === "account")) {
        if (relation.isLazy) continue;
        for (const account of [relation.getEntityValue(entity)].flat()) {
          if (account && typeof account === "object") this.#parents.set(account, entity);
        }
      }
    }

    async #write(entity, before, event, inserts) {
      // Until every row of this save was announced.
      await null;
      try {
        await this.#sealAll(entity, before, event, inserts);
      } catch (error) {
        this.#restore(entity);
        throw error;
      }
    }

    async #sealAll(entity, before, event, inserts) {
      const table = event.metadata.tableName;
      const columns = columnsOf(event, finhook);
      if (columns.length === 0) return;
      this.#restore(entity);
      const now = (name) => valueOf(event.metadata, name, entity);
      const then = (name) => (before ? valueOf(event.metadata, name, before) : undefined);
      const changed = (name) => now(name) !== undefined && now(name) !== then(name);

      const keys = table === "integration" ? ["service", "external_id"] : ["integration_id"];
      const moved = before !== undefined && keys.some(changed);
      if (moved && table === "integration") {
        throw new Error("an integration's service and external_id are what its values are sealed for: make a new one");
      }
      let touched = columns.filter((column) => changed(column.databaseName));
      if (table === "account" && before !== undefined && (moved || changed("external_id"))) {
        // Both are sealed for the index of the one.
        touched = columns;
      }
      if (touched.length === 0) return;
      if (!inserts && before === undefined) {
        throw new Error(`${table}: sealed columns are written by save() or insert(), an update by criteria cannot seal them`);
      }

      const whole = (name) => (now(name) === undefined ? then(name) : now(name));
      let place;
      if (table === "integration") {
        place = [whole("service"), whole("external_id")];
      } else {
        const integration = await this.#integrationOf(entity, whole("integration_id"), event);
        const keepsIndex = before !== undefined && !moved && !changed("external_id");
        const index = keepsIndex ? (await this.#row(event, idOf(event, entity))).index : undefined;
        place = [...integration, index ?? Buffer.alloc(0)];
        if (!keepsIndex) place[2] = this.#find(event, entity, "external_id", integration[0], whole("external_id"));
        if (touched.some((column) => column.databaseName === "baas_id")) {
          this.#find(event, entity, "baas_id", integration[0], whole("baas_id"));
        }
      }
      if (place.some((part) => part === undefined || part === null)) {
        throw new Error(`${table}: the row has no service or external_id to be sealed for`);
      }
      for (const column of touched) {
        const value = whole(column.databaseName);
        if (value === undefined || value === null) continue;
        const plain = finhook.open([table, column.databaseName, ...place], value);
        this.#replace(entity, column, finhook.seal([table, column.databaseName, ...place], String(plain)), event);
      }
    }

    /** Sets the column with the blind index of a value; the index. */
    #find(event, entity, name, service, value) {
      const column = event.metadata.columns.find((column) => column.databaseName === `${name}_index`);
      if (!column) {
        throw new Error(`${event.metadata.name} needs @Column({ name: "${name}_index", type: "bytea", nullable: true, select: false })`);
      }
      const index = value === undefined || value === null ? null : finhook.index(name, service, String(value));
      this.#replace(entity, column, index, event);
      return index ?? Buffer.alloc(0);
    }

    #replace(entity, column, value, { queryRunner }) {
      const writing = this.#writing.get(queryRunner) ?? new Set();
      this.#writing.set(queryRunner, writing.add(entity));
      const replaced = this.#replaced.get(entity) ?? [];
      replaced.push([column, column.getEntityValue(entity)]);
      this.#replaced.set(entity, replaced);
      column.setEntityValue(entity, value);
    }

    #restore(entity) {
      for (const [column, value] of (this.#replaced.get(entity) ?? []).reverse()) {
        if (value !== undefined) column.setEntityValue(entity, value);
        else if (!column.embeddedMetadata) delete entity[column.propertyName];
        else column.setEntityValue(entity, undefined);
      }
      this.#replaced.delete(entity);
    }

    /** The row's natural key, as its values are bound to it. */
    async #placeOf(entity, event) {
      if (event.metadata.tableName === "integration") {
        const own = ["service", "external_id"].map((name) => valueOf(event.metadata, name, entity));
        if (own.every((part) => typeof part === "string")) return own;
      }
      const row = await this.#row(event, idOf(event, entity));
      const place = [row.service, row.external_id];
      return event.metadata.tableName === "integration" ? place : [...place, row.index ?? Buffer.alloc(0)];
    }

    async #integrationOf(entity, id, event) {
      const relation = relationOf(event.metadata);
      const related = relation?.getEntityValue(entity) ?? this.#parents.get(entity);
      if (related && typeof related === "object") {
        const metadata = relation.inverseEntityMetadata;
        const own = ["service", "external_id"].map((name) => valueOf(metadata, name, related));
        if (own.every((part) => typeof part === "string")) return own;
        id ??= idOf({ metadata }, related);
      }
      const own = idOf(event, entity);
      const row = id ? await this.#row(event, id, "integration") : own && (await this.#row(event, own));
      if (!row) {
        throw new Error("account: its integration is not known: give it with the account (account.integration = …)");
      }
      return [row.service, row.external_id];
    }

    /** A row's natural key by its id. Rows of one load are asked for in one statement. */
    #row(event, id, table = event.metadata.tableName) {
      const { queryRunner } = event;
      const asked = this.#asked.get(queryRunner) ?? {};
      this.#asked.set(queryRunner, asked);
      if (!asked[table]) {
        const ids = new Set();
        const rows = Promise.resolve().then(async () => {
          delete asked[table];
          const [account, integration] = ["account", "integration"].map((name) => pathOf(event, name));
          const sql =
            table === "account"
              ? `select a.id, i.service, i.external_id, a.external_id_index as index
                 from ${account} a join ${integration} i on i.id = a.integration_id where a.id = any($1::uuid[])`
              : `select i.id, i.service, i.external_id from ${integration} i where i.id = any($1::uuid[])`;
          const found = await queryRunner.query(sql, [[...ids]]);
          return new Map(found.map((row) => [row.id, row]));
        });
        asked[table] = { ids, rows };
      }
      asked[table].ids.add(id);
      return asked[table].rows.then((rows) => rows.get(id));
    }
  }
  EventSubscriber()(FinhookSubscriber);
  return FinhookSubscriber;
}

/** The columns of an entity that this transformer is on. */
function columnsOf({ metadata }, finhook) {
  const names = SEALED[metadata.tableName] ?? [];
  const ours = (column) => [column.transformer].flat().includes(finhook.transformer);
  const columns = metadata.columns.filter(ours);
  const stray = columns.find((column) => !names.includes(column.databaseName));
  if (stray) throw new Error(`${metadata.tableName}.${stray.databaseName} is none of finhook's sealed columns`);
  return columns;
}

function valueOf(metadata, name, entity) {
  return metadata.columns.find((column) => column.databaseName === name)?.getEntityValue(entity);
}

function idOf({ metadata }, entity) {
  return metadata.primaryColumns[0].getEntityValue(entity);
}

function relationOf(metadata) {
  return metadata.relations.find((relation) => relation.joinColumns.some((column) => column.databaseName === "integration_id"));
}

function pathOf({ connection }, name) {
  const metadata = connection.entityMetadatas.find((metadata) => metadata.tableName === name);
  return (metadata?.tablePath ?? name).split(".").map((part) => connection.driver.escape(part)).join(".");
}

/** Gives every entity with our transformer the index columns that it does not declare itself. */
function declareIndexes(finhook) {
  const bare = (name) => name.replace(/_/g, "").toLowerCase();
  const all = getMetadataArgsStorage().columns;
  const nameOf = (column) => column.options.name ?? column.propertyName;
  for (const column of all.filter((column) => [column.options.transformer].flat().includes(finhook.transformer))) {
    const name = { externalid: "external_id", baasid: "baas_id" }[bare(nameOf(column))];
    if (!name) continue;
    const there = all.some((other) => other.target === column.target && bare(nameOf(other)) === bare(`${name}_index`));
    if (there) continue;
    const property = column.propertyName + (column.propertyName.includes("_") ? "_index" : "Index");
    Column({ name: `${name}_index`, type: "bytea", nullable: true, select: false })(column.target.prototype, property);
  }
}

module.exports = { Finhook, CannotOpen };
