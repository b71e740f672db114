"use strict";
// finhook's sealed columns and blind indexes with nothing but node:crypto. The same format as src/crypto:
//
//   column    "fh1." and unpadded base64url of  version 1 | key id (4, big endian) | nonce (24) | ciphertext | tag (16)
//   cipher    XAES-256-GCM (https://c2sp.org/XAES-256-GCM) under HKDF-SHA256(key, salt "finhook v1", info "columns")
//   bound to  table, column and the row's natural key, each preceded by its length (4, big endian)
//   index     HMAC-SHA256 under HKDF-SHA256(index key, …, info "blind-index") of "blind-index", column, service, value

const crypto = require("node:crypto");

const PREFIX = "fh1.";
const VERSION = 1;
const HEADER = 1 + 4 + 24;
const TAG = 16;

/** The same text for whatever is wrong: an error must not say why something does not open. */
class CannotOpen extends Error {
  constructor(message = "cannot be opened") {
    super(message);
    this.name = "CannotOpen";
  }
}

function key32(text, what) {
  const key = Buffer.from(String(text).trim(), "base64");
  if (key.length !== 32 || key.toString("base64") !== String(text).trim()) {
    throw new Error(`${what} is not standard base64 of 32 bytes`);
  }
  return key;
}

function derive(key, purpose) {
  return Buffer.from(crypto.hkdfSync("sha256", key, "finhook v1", purpose, 32));
}

/** Parts with their lengths, so that moving a border between two changes the whole. */
function bind(parts) {
  const all = [];
  for (const part of parts) {
    const bytes = Buffer.isBuffer(part) ? part : Buffer.from(part, "utf8");
    const length = Buffer.alloc(4);
    length.writeUInt32BE(bytes.length);
    all.push(length, bytes);
  }
  return Buffer.concat(all);
}

/** One block of AES-256. */
function block(key, bytes) {
  const cipher = crypto.createCipheriv("aes-256-ecb", key, null).setAutoPadding(false);
  return Buffer.concat([cipher.update(bytes), cipher.final()]);
}

/** The key and the 12 bytes of nonce that XAES-256-GCM hands to AES-256-GCM. */
function xaes(key, nonce) {
  // K1 of CMAC (NIST SP 800-38B): the encrypted zero block, doubled.
  const l = block(key, Buffer.alloc(16));
  const k1 = Buffer.alloc(16);
  for (let i = 0; i < 16; i++) k1[i] = ((l[i] << 1) | (i < 15 ? l[i + 1] >>> 7 : 0)) & 0xff;
  k1[15] ^= l[0] >>> 7 ? 0x87 : 0;
  const half = (counter) => {
    const m = Buffer.concat([Buffer.from([0, counter, 0x58, 0]), nonce.subarray(0, 12)]);
    for (let i = 0; i < 16; i++) m[i] ^= k1[i];
    return block(key, m);
  };
  return [Buffer.concat([half(1), half(2)]), nonce.subarray(12)];
}

/** XAES-256-GCM: ciphertext and tag. Exported for the test vectors. */
function xaesSeal(key, nonce, associated, plaintext) {
  const [gcmKey, gcmNonce] = xaes(key, nonce);
  const cipher = crypto.createCipheriv("aes-256-gcm", gcmKey, gcmNonce, { authTagLength: TAG });
  cipher.setAAD(associated);
  return Buffer.concat([cipher.update(plaintext), cipher.final(), cipher.getAuthTag()]);
}

function xaesOpen(key, nonce, associated, sealed) {
  const [gcmKey, gcmNonce] = xaes(key, nonce);
  const decipher = crypto.createDecipheriv("aes-256-gcm", gcmKey, gcmNonce, { authTagLength: TAG });
  decipher.setAAD(associated);
  decipher.setAuthTag(sealed.subarray(sealed.length - TAG));
  return Buffer.concat([decipher.update(sealed.subarray(0, sealed.length - TAG)), decipher.final()]);
}

/** The key ring, as FINHOOK_KEYS has it: ID:KEY[,ID:KEY…]. The first seals, all open. */
class KeyRing {
  #keys = new Map();
  #primary;

  constructor(list) {
    for (const entry of String(list ?? "").split(",").map((entry) => entry.trim())) {
      const match = /^(\d{1,10}):(.+)$/.exec(entry);
      const id = match ? Number(match[1]) : NaN;
      if (!(id < 2 ** 32) || this.#keys.has(id)) throw new Error("FINHOOK_KEYS is not a list of ID:KEY");
      this.#keys.set(id, derive(key32(match[2], "a key of FINHOOK_KEYS"), "columns"));
      this.#primary ??= id;
    }
  }

  /** Seals `text` for a place: table, column, and the parts of the row's natural key. */
  seal(place, text) {
    const id = Buffer.alloc(4);
    id.writeUInt32BE(this.#primary);
    const nonce = crypto.randomBytes(24);
    const sealed = xaesSeal(this.#keys.get(this.#primary), nonce, bind(place), Buffer.from(text, "utf8"));
    return PREFIX + Buffer.concat([Buffer.from([VERSION]), id, nonce, sealed]).toString("base64url");
  }

  /** Opens what was sealed for the same place. */
  open(place, text) {
    const bytes = isSealed(text) ? Buffer.from(text.slice(PREFIX.length), "base64url") : Buffer.alloc(0);
    const canonical = bytes.toString("base64url") === String(text).slice(PREFIX.length);
    if (!canonical || bytes.length < HEADER + TAG || bytes[0] !== VERSION) throw new CannotOpen();
    const id = bytes.readUInt32BE(1);
    const key = this.#keys.get(id);
    if (!key) throw new CannotOpen(`sealed with key ${id}, which is not in FINHOOK_KEYS`);
    try {
      const opened = xaesOpen(key, bytes.subarray(5, HEADER), bind(place), bytes.subarray(HEADER));
      return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(opened);
    } catch {
      throw new CannotOpen();
    }
  }
}

/** FINHOOK_INDEX_KEY: finds a sealed value without opening anything. */
class BlindIndex {
  #key;

  constructor(text) {
    this.#key = derive(key32(text, "FINHOOK_INDEX_KEY"), "blind-index");
  }

  /** The 32 bytes that account.external_id_index or account.baas_id_index holds for a value. */
  of(column, service, value) {
    return crypto.createHmac("sha256", this.#key).update(bind(["blind-index", column, service, value])).digest();
  }
}

function isSealed(text) {
  return typeof text === "string" && text.startsWith(PREFIX);
}

module.exports = { BlindIndex, CannotOpen, KeyRing, isSealed, xaesSeal, xaesOpen };
