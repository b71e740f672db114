"use strict";
// The product's entities. Before and after the move they differ in one thing: the transformer of the sealed columns.

require("reflect-metadata");
const typeorm = require("typeorm");

/** A decorator, as TypeScript would apply it. */
function on(target, property, ...decorators) {
  for (const decorate of decorators) decorate(target.prototype, property);
}

function entities(transformer) {
  const { Column, CreateDateColumn, DeleteDateColumn, Entity, Index, JoinColumn, ManyToOne, OneToMany } = typeorm;
  const { PrimaryGeneratedColumn, UpdateDateColumn } = typeorm;
  class User {}
  class Integration {}
  class Account {}
  const sealed = (options) => Column({ type: "character varying", transformer, ...options });
  const owned = { onDelete: "CASCADE" };

  for (const one of [User, Integration, Account]) {
    on(one, "id", PrimaryGeneratedColumn("uuid"));
    on(one, "createdAt", CreateDateColumn({ name: "created_at", type: "timestamp" }));
    on(one, "updatedAt", UpdateDateColumn({ name: "updated_at", type: "timestamp" }));
    on(one, "deletedAt", DeleteDateColumn({ name: "deleted_at", type: "timestamp" }));
  }
  on(User, "externalId", Column({ name: "external_id", type: "character varying", nullable: true, unique: true }));
  on(User, "email", Column({ type: "character varying" }));
  on(User, "integrations", OneToMany(() => Integration, (integration) => integration.user));

  on(Integration, "service", Column({ type: "character varying" }));
  on(Integration, "externalId", Column({ name: "external_id", type: "character varying" }));
  on(Integration, "authorizationId", sealed({ name: "authorization_id", nullable: true }));
  on(Integration, "user", ManyToOne(() => User, (user) => user.integrations, { ...owned, nullable: true }));
  on(Integration, "user", JoinColumn({ name: "user_id" }));
  on(Integration, "accounts", OneToMany(() => Account, (account) => account.integration, { cascade: true }));

  // As the product's first migration had it: an index on an encrypted column.
  on(Account, "externalId", sealed({ name: "external_id" }), Index());
  on(Account, "baasId", sealed({ name: "baas_id", nullable: true }));
  on(Account, "integration", ManyToOne(() => Integration, (integration) => integration.accounts, { ...owned, nullable: false }));
  on(Account, "integration", JoinColumn({ name: "integration_id" }));
  on(Account, "user", ManyToOne(() => User, { ...owned, nullable: false }));
  on(Account, "user", JoinColumn({ name: "user_id" }));

  Entity("user")(User);
  Entity("integration")(Integration);
  Entity("account")(Account);
  return { User, Integration, Account };
}

module.exports = { entities };
