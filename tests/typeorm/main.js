"use strict";
// Moves a database in that real TypeORM and typeorm-encrypted made, and reads and writes it from both sides.
//
//   FINHOOK_BIN=… FINHOOK_TEST_DATABASE_URL=… node main.js

const assert = require("node:assert/strict");
const crypto = require("node:crypto");
const os = require("node:os");
const { spawnSync } = require("node:child_process");
const pg = require("pg");
const { DataSource, In, IsNull } = require("typeorm");
const { EncryptionTransformer } = require("typeorm-encrypted");
const { Finhook } = require("../../deploy/typeorm");
const { xaesSeal } = require("../../deploy/typeorm/crypto");
const { entities } = require("./entities");

const KEY = crypto.randomBytes(32).toString("hex");
const IV = crypto.randomBytes(16).toString("hex");
const KEYS = `7:${crypto.randomBytes(32).toString("base64")}`;
const INDEX_KEY = crypto.randomBytes(32).toString("base64");

/** Code of one's own around a fixed IV: hex, and no IV in front. */
const bare = {
  to(value) {
    if (value === null || value === undefined) return value;
    const cipher = crypto.createCipheriv("aes-256-cbc", Buffer.from(KEY, "hex"), Buffer.from(IV, "hex"));
    return cipher.update(value, "utf8", "hex") + cipher.final("hex");
  },
  from(value) {
    if (value === null || value === undefined) return undefined;
    const decipher = crypto.createDecipheriv("aes-256-cbc", Buffer.from(KEY, "hex"), Buffer.from(IV, "hex"));
    return decipher.update(value, "hex", "utf8") + decipher.final("utf8");
  },
};

const options = { key: KEY, algorithm: "aes-256-cbc", ivLength: 16 };
const FORMS = [
  { name: "an IV for each value", theirs: new EncryptionTransformer(options), arguments: [] },
  { name: "a fixed IV in front", theirs: new EncryptionTransformer({ ...options, iv: IV }), arguments: ["--iv", IV] },
  { name: "a fixed IV left out, hex", theirs: bare, arguments: ["--iv", IV, "--encoding", "hex"] },
];

let database;
/** What is connected to it, to be closed before it goes. */
let opened = [];

/** Runs finhook; what it printed. `input` is its standard input. */
function finhook(args, { input = "", exit = 0, env = {} } = {}) {
  const ran = spawnSync(process.env.FINHOOK_BIN, args, {
    input,
    encoding: "utf8",
    cwd: os.tmpdir(),
    timeout: 60_000,
    env: {
      PATH: process.env.PATH,
      DATABASE_URL: database,
      AMQP_URL: "amqp://127.0.0.1:1/%2f",
      FINHOOK_KEYS: KEYS,
      FINHOOK_INDEX_KEY: INDEX_KEY,
      ...env,
    },
  });
  assert.equal(ran.status, exit, `finhook ${args.join(" ")}: ${ran.status} ${ran.error ?? ""}\n${ran.stdout}\n${ran.stderr}`);
  return ran.stdout;
}

function lines(text) {
  return text.split("\n").filter(Boolean).map((line) => JSON.parse(line));
}

async function source(transformer, more = {}) {
  const classes = entities(transformer);
  const made = new DataSource({
    type: "postgres",
    url: database,
    entities: Object.values(classes),
    uuidExtension: "pgcrypto",
    installExtensions: false,
    ...more,
  });
  await made.initialize();
  opened.push(made);
  return Object.assign(made, classes);
}

/** The same source behind finhook's transformer. */
function sealedSource(more) {
  const finhook = new Finhook({ keys: KEYS, indexKey: INDEX_KEY, ...more });
  const made = source(finhook.transformer, { subscribers: [finhook.subscriber] });
  return made.then((made) => Object.assign(made, { finhook }));
}

/** Everything as the product reads it, by id. */
async function everything(from) {
  const integrations = await from.getRepository(from.Integration).find({ withDeleted: true, relations: { user: true }, order: { id: "ASC" } });
  const accounts = await from.getRepository(from.Account).find({
    withDeleted: true,
    relations: { integration: true, user: true },
    order: { id: "ASC" },
  });
  return JSON.parse(JSON.stringify({ integrations, accounts }));
}

async function rows(client, sql) {
  return (await client.query(sql)).rows;
}

async function fill(product) {
  const { User, Integration, Account } = product;
  const save = (entity, values) => product.getRepository(entity).save(Object.assign(new entity(), values));
  for (let n = 0; n < 12; n++) {
    const user = await save(User, { externalId: n === 11 ? null : `u_${n}`, email: `${n}@example.com` });
    const integration = await save(Integration, {
      service: ["plaid", "unit", "synapse"][n % 3],
      externalId: `item ${n}`,
      authorizationId: n % 4 === 3 ? null : `access-production-größe-${"x".repeat(n * 9)}`,
      user: n === 10 ? null : user,
    });
    for (let m = 0; m < 4; m++) {
      await save(Account, { externalId: `acc_${n}_${m}`, baasId: m % 2 ? `ledger ${n} ${m}` : null, integration, user });
    }
  }
  // What an old table without unique keys has: an account twice, and an integration with an account twice.
  const one = await product.getRepository(Account).findOneOrFail({ where: {}, relations: { integration: true, user: true }, order: { createdAt: "ASC" } });
  await save(Account, { externalId: one.externalId, baasId: "known later", integration: one.integration, user: one.user });
  const again = await save(Integration, { ...one.integration, id: undefined, createdAt: undefined, updatedAt: undefined, authorizationId: "newer token", user: one.user });
  await save(Account, { externalId: one.externalId, integration: again, user: one.user });
  const deleted = await product.getRepository(Account).find({ where: { baasId: IsNull() }, order: { createdAt: "DESC" }, take: 2 });
  await product.getRepository(Account).softRemove(deleted);
}

/** The accounts of a user as finhook opens them. */
function revealed(user, env) {
  const found = lines(finhook(["accounts", "--user", user, "--reveal", "--reason", "test", "--json"], { env }));
  return found.map((line) => [line.integration_external_id, line.external_id, line.baas_id ?? null].join("|")).sort();
}

function expected(all, user) {
  const own = all.accounts.filter((account) => account.user.externalId === user);
  return own.map((account) => [account.integration.externalId, account.externalId, account.baasId ?? null].join("|")).sort();
}

/** Closes what is connected; a connection that a failed test left busy is not waited for. */
async function closed() {
  const closing = Promise.allSettled(opened.map((one) => one.destroy()));
  opened = [];
  await Promise.race([closing, new Promise((resolve) => setTimeout(resolve, 2_000).unref())]);
}

async function moves(form) {
  const theirs = ["import", "typeorm", "--key-file", "-", ...form.arguments, "--json"];
  const move = (more, running = {}) => lines(finhook([...theirs, ...more], { input: `${KEY}\n`, ...running })).at(-1);
  const client = new pg.Client({ connectionString: database });
  await client.connect();
  opened.push({ destroy: () => client.end() });
  const product = await source(form.theirs, { synchronize: true });
  await fill(product);
  const before = await everything(product);
  const physically = "select ctid::text, xmin::text, id from account order by id";
  const stored = await rows(client, physically);

  finhook(["migrate", "up"]);
  assert.deepEqual(await rows(client, physically), stored, "migrate up rewrites no row");
  assert.deepEqual(await everything(product), before, "the old entities read on");
  const legacy = await sealedSource({ legacy: form.theirs });
  assert.deepEqual(await everything(legacy), before, "the new ones read what was there");
  const env = { FINHOOK_TYPEORM_KEY: KEY };
  if (form.arguments.includes("--iv")) env.FINHOOK_TYPEORM_IV = IV;
  if (form.arguments.includes("hex")) env.FINHOOK_TYPEORM_ENCODING = "hex";
  assert.deepEqual(revealed("u_3", env), expected(before, "u_3"), "finhook reads it too");

  const look = move(["--dry-run"]);
  assert.deepEqual([look.unreadable, look.duplicates], [0, 3], JSON.stringify(look));
  finhook([...theirs, "--dry-run"], { input: crypto.randomBytes(32).toString("hex"), exit: 1 });
  finhook(theirs, { input: crypto.randomBytes(32).toString("hex"), exit: 1 });
  assert.deepEqual(await rows(client, physically), stored, "neither look nor a wrong key writes");

  const done = move([]);
  assert.deepEqual([done.left, done.merged, done.theirs], [0, 0, look.theirs]);
  const sealed = await sealedSource();
  assert.deepEqual(await everything(sealed), before, "read back equal");
  for (const user of ["u_0", "u_3", "u_9"]) assert.deepEqual(revealed(user), expected(before, user));
  const left = await rows(
    client,
    `select 1 from integration where authorization_id not like 'fh1.%'
     union all select 1 from account where external_id not like 'fh1.%' or baas_id not like 'fh1.%'`,
  );
  assert.equal(left.length, 0);

  await writes(sealed, client);
  await refuses(sealed, client);

  // Back, with what was written meanwhile; and in again, for good.
  const meanwhile = await everything(sealed);
  assert.ok(meanwhile.accounts.length > before.accounts.length);
  move(["--revert"]);
  assert.deepEqual(await everything(product), meanwhile, "the old entities read what the new ones wrote");
  const merged = move(["--merge-duplicates"]);
  assert.equal(merged.merged, 3, JSON.stringify(merged));
  assert.equal(move(["--finish"]).outcome, "finished");
  const finished = await everything(sealed);
  assert.deepEqual([finished.accounts.length, finished.integrations.length], [meanwhile.accounts.length - 2, meanwhile.integrations.length - 1]);
  const first = finished.accounts.filter((account) => account.externalId === "acc_0_0");
  assert.deepEqual(first.map((account) => account.baasId), ["known later"]);
  assert.equal(first[0].integration.authorizationId, "newer token");
  finhook([...theirs, "--finish"], { input: KEY });
}

/** The entities write as they did, and finhook reads it; and the other way round. */
async function writes(sealed, client) {
  const { Account, Integration, User } = sealed;
  const accounts = sealed.getRepository(Account);
  const integrations = sealed.getRepository(Integration);
  const user = await sealed.getRepository(User).findOneByOrFail({ externalId: "u_5" });
  const [integration] = await integrations.findBy({ user: { externalId: "u_5" } });

  const made = await accounts.save(Object.assign(new Account(), { externalId: "new_1", baasId: "l_1", integration, user }));
  assert.deepEqual([made.externalId, made.baasId], ["new_1", "l_1"], "the object keeps its plain values");
  assert.deepEqual(Object.keys(made).filter((name) => /index/i.test(name)), [], "and gets no others");
  await accounts.insert({ externalId: "new_2", integration: { id: integration.id }, user });
  await accounts.insert([1, 2, 3].map((n) => ({ externalId: `bulk_${n}`, baasId: `b_${n}`, integration, user })));
  const whole = Object.assign(new Integration(), { service: "plaid", externalId: "item new", authorizationId: "token 1", user });
  whole.accounts = [Object.assign(new Account(), { externalId: "cascaded", user })];
  await integrations.save(whole);

  const changed = await accounts.findOneByOrFail({ id: made.id });
  changed.baasId = "l_2";
  await accounts.save(changed);
  const renamed = await accounts.findOneByOrFail({ id: whole.accounts[0].id });
  renamed.externalId = "renamed";
  await accounts.save(renamed);
  whole.authorizationId = "token 2";
  whole.accounts[0].externalId = "renamed";
  await integrations.save(whole);
  assert.equal((await integrations.findOneByOrFail({ id: whole.id })).authorizationId, "token 2");

  const untouched = async () => (await client.query("select xmin::text from account where id = $1", [made.id])).rows[0].xmin;
  const version = await untouched();
  await accounts.save(await accounts.findOneByOrFail({ id: made.id }));
  assert.equal(await untouched(), version, "saving what did not change writes nothing");

  const own = revealed("u_5");
  for (const line of ["item 5|new_1|l_2", "item 5|new_2|", "item 5|bulk_2|b_2", "item new|renamed|"]) {
    assert.ok(own.includes(line), `${line} in ${own}`);
  }
  const unindexed = await rows(client, "select id from account where external_id_index is null");
  assert.equal(unindexed.length, 1, "only the account that repeats another");

  // Found by its index, by whichever side it was written.
  for (const [value, count] of [["new_1", 1], ["acc_5_1", 1], ["nothing", 0]]) {
    const index = sealed.finhook.index("external_id", integration.service, value);
    assert.equal((await accounts.findBy({ externalIdIndex: index })).length, count, value);
  }
  assert.equal((await accounts.find({ where: { id: In([made.id]) }, select: { id: true, externalId: true } }))[0].externalId, "new_1");
  const joined = await sealed.getRepository(User).findOneOrFail({
    where: { externalId: "u_5" },
    relations: { integrations: { accounts: true } },
  });
  assert.ok(joined.integrations.flatMap((one) => one.accounts).some((account) => account.externalId === "bulk_3"));

  finhook(["link", "plaid", "item linked", "--user", "u_5", "--authorization-id-file", "-"], { input: "token of finhook" });
  assert.equal((await integrations.findOneByOrFail({ externalId: "item linked" })).authorizationId, "token of finhook");

  // Many at once, each with a connection of its own.
  await Promise.all(
    Array.from({ length: 20 }, (_, n) => accounts.save(Object.assign(new Account(), { externalId: `at once ${n}`, integration, user }))),
  );
  assert.equal(revealed("u_5").filter((line) => line.includes("at once")).length, 20);
}

/** What cannot be done right is not done. */
async function refuses(sealed, client) {
  const { Account, Integration, User } = sealed;
  const accounts = sealed.getRepository(Account);
  const user = await sealed.getRepository(User).findOneByOrFail({ externalId: "u_5" });
  const [integration] = await sealed.getRepository(Integration).findBy({ user: { externalId: "u_5" } });
  const made = () => Object.assign(new Account(), { externalId: "plain text", integration, user });
  const counted = async () => (await rows(client, "select count(*)::int as count from account"))[0].count;
  const before = await counted();

  await assert.rejects(accounts.update({ id: crypto.randomUUID() }, { externalId: "plain text" }), /save\(\) or insert\(\)/);
  // TypeORM takes no function for a parameter, and says so in its own words.
  await assert.rejects(accounts.findBy({ externalId: "plain text" }), /Function parameter/);
  await assert.rejects(accounts.findBy({ externalId: In(["plain text"]) }), /Function parameter|finhook\.index/);
  const moved = await sealed.getRepository(Integration).findOneByOrFail({ externalId: "item new" });
  moved.externalId = "another";
  await assert.rejects(sealed.getRepository(Integration).save(moved), /sealed for/);
  // One that fails in the database: the object is as it was.
  const orphan = Object.assign(made(), { user: { id: crypto.randomUUID() } });
  await assert.rejects(accounts.save(orphan), /foreign key/);
  assert.equal(orphan.externalId, "plain text");

  const forgetful = await source(sealed.finhook.transformer);
  const theirs = forgetful.getRepository(forgetful.Account);
  await assert.rejects(
    theirs.save(Object.assign(new forgetful.Account(), { externalId: "plain text", integration, user })),
    /subscriber/,
  );
  const [unopened] = await theirs.find({ take: 1 });
  assert.throws(() => JSON.stringify(unopened), /subscriber/);

  const reader = await sealedSource({ writes: "none" });
  const read = reader.getRepository(reader.Account);
  const [found] = await read.find({ where: { user: { externalId: "u_5" } }, take: 1 });
  assert.equal(typeof found.externalId, "string");
  await assert.rejects(read.save(Object.assign(found, { externalId: "plain text" })), /read-only/);

  const stranger = new Finhook({ keys: `7:${crypto.randomBytes(32).toString("base64")}`, indexKey: INDEX_KEY });
  const wrong = await source(stranger.transformer, { subscribers: [stranger.subscriber] });
  await assert.rejects(wrong.getRepository(wrong.Account).find({ take: 1 }), /cannot be opened/);
  // A value in another row's place does not open.
  const [one, other] = await rows(
    client,
    "select distinct on (external_id_index) id, external_id from account where external_id_index is not null limit 2",
  );
  await client.query("update account set external_id = $2 where id = $1", [one.id, other.external_id]);
  await assert.rejects(accounts.findOne({ where: { id: one.id }, withDeleted: true }), /cannot be opened/);
  await client.query("update account set external_id = $2 where id = $1", [one.id, one.external_id]);

  assert.equal(await counted(), before);
  const leaked = await rows(client, "select 1 from account where external_id like '%plain%' or baas_id like '%plain%'");
  assert.equal(leaked.length, 0);
}

/** The known answers of C2SP's XAES-256-GCM. */
function vectors() {
  const nonce = Buffer.from("ABCDEFGHIJKLMNOPQRSTUVWX");
  const seal = (byte, associated) => xaesSeal(Buffer.alloc(32, byte), nonce, Buffer.from(associated), Buffer.from("XAES-256-GCM"));
  assert.equal(seal(1, "").toString("hex"), "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271");
  assert.equal(seal(3, "c2sp.org/XAES-256-GCM").toString("hex"), "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d");
}

async function main() {
  vectors();
  const server = new URL(process.env.FINHOOK_TEST_DATABASE_URL);
  const admin = new pg.Client({ connectionString: server.href });
  await admin.connect();
  try {
    for (const form of FORMS) {
      const name = `finhook_typeorm_${crypto.randomUUID().replaceAll("-", "")}`;
      await admin.query(`create database ${name} template template0`);
      server.pathname = `/${name}`;
      database = server.href;
      try {
        await moves(form);
        console.log(`ok: ${form.name}`);
      } catch (error) {
        console.error(`${form.name}:`, error);
        throw error;
      } finally {
        await closed();
        await admin.query(`drop database ${name} with (force)`);
      }
    }
  } finally {
    await admin.end();
  }
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
