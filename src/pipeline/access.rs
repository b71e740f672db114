//! Who may use the operators' port: bearer tokens, the sessions that a token opens, and loopback where no token is
//! configured.
//!
//! ```text
//! bearer token ── compared by hash, in constant time, over all ─┐
//! session ─────── opened by the ring, not ended, not expired, ──┼─▶ Caller: roles, and by what they are known in the log
//!                 its token still configured                    │
//! no credential ─ no tokens configured, and a loopback peer ────┘
//! ```
//! A session is a sealed value that names its token by a keyed hash: every process with the same ring takes it, taking a
//! token out ends the sessions that it opened, and a stolen one says nothing about the token. Only log-ins are limited by
//! peer: whoever sends wrong bearer tokens must not lock out a service behind the same address.
//! Where next: `http/api/auth.rs`, which finds the credential in a request.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use uuid::Uuid;

use crate::config::{OpsToken, Role};
use crate::crypto::Place;
use crate::domain::{Timestamp, WallClock};
use crate::store::Vault;

/// How long a session lasts: a shift. It is not prolonged.
pub const SESSION_SECONDS: i64 = 8 * 3_600;
/// How many sessions that were ended early are remembered, each until it expires. Only who has a token can open one.
const ENDED_KEPT: usize = 10_000;
/// How many log-ins may fail per address and minute before all of them are refused for the rest of it.
const FAILURES_PER_MINUTE: u32 = 10;
/// How many addresses are counted at once; when they are as many in one minute, every log-in is refused.
const ADDRESSES_COUNTED: usize = 10_000;

/// Roles that somebody has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Roles {
    ops: bool,
    app: bool,
}

impl Roles {
    /// Both of them: whoever sits at the machine.
    pub const ALL: Roles = Roles { ops: true, app: true };

    /// Whether this role is among them.
    pub fn has(self, role: Role) -> bool {
        match role {
            Role::Ops => self.ops,
            Role::App => self.app,
        }
    }

    /// Their names.
    pub fn names(self) -> Vec<&'static str> {
        [(self.ops, "ops"), (self.app, "app")].into_iter().filter(|(has, _)| *has).map(|(_, name)| name).collect()
    }

    fn with(self, role: Role) -> Self {
        match role {
            Role::Ops => Self { ops: true, ..self },
            Role::App => Self { app: true, ..self },
        }
    }
}

/// How somebody proved who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// No tokens are configured, and they are on this machine.
    Loopback,
    /// With a bearer token.
    Token,
    /// With a session that a token opened.
    Session(Uuid),
}

/// Somebody who may do something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// What they may do.
    pub roles: Roles,
    /// How they proved it.
    pub by: By,
    /// What the audit calls them: `loopback`, or the token's role and the first digits of its keyed hash.
    pub name: String,
}

/// What a request brought along.
#[derive(Clone, Copy)]
pub enum Credential<'a> {
    /// Nothing.
    None,
    /// A bearer token.
    Bearer(&'a str),
    /// A session's value.
    Session(&'a str),
}

/// Why somebody was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No credential, or not one of ours.
    #[error("no valid credential")]
    Unknown,
    /// Too many log-ins failed from this address; seconds until it may try again.
    #[error("too many failed log-ins")]
    TooMany(u32),
}

/// A session that was opened.
pub struct Opened {
    /// Whose.
    pub caller: Caller,
    /// Its value for the cookie; `None` where none is needed.
    pub value: Option<SecretString>,
    /// When it ends.
    pub until: Timestamp,
}

struct Known {
    roles: Roles,
    /// SHA-256 of the token: what is compared has one length, and the token itself is not kept.
    digest: [u8; 32],
    /// Its keyed hash, in hex.
    mark: String,
}

/// The gate. Clones of the `Arc` share it.
pub struct Gate {
    tokens: ArcSwap<Vec<Known>>,
    vault: Arc<Vault>,
    clock: WallClock,
    ended: Mutex<HashMap<Uuid, Timestamp>>,
    failures: Mutex<HashMap<IpAddr, (i64, u32)>>,
}

impl Gate {
    /// A gate for these tokens; without any it lets loopback in.
    pub fn new(tokens: &[OpsToken], vault: Arc<Vault>, clock: WallClock) -> Arc<Self> {
        let known = ArcSwap::from_pointee(known(tokens, &vault));
        Arc::new(Self { tokens: known, vault, clock, ended: Mutex::default(), failures: Mutex::default() })
    }

    /// Takes these tokens from now on. Sessions of one that is gone end with it.
    pub fn trust(&self, tokens: &[OpsToken]) {
        self.tokens.store(Arc::new(known(tokens, &self.vault)));
    }

    /// Whether no tokens are configured, so that loopback is let in without one.
    pub fn is_open(&self) -> bool {
        self.tokens.load().is_empty()
    }

    /// Who sent a request. `local` = its peer and its host are loopback.
    pub fn caller(&self, credential: Credential<'_>, local: bool) -> Result<Caller, Denied> {
        match credential {
            // A token that nobody configured is a mistake that should not go unnoticed, on loopback either.
            Credential::Bearer(token) => self.by_token(token).ok_or(Denied::Unknown),
            // Cookies know no ports: a session of another finhook on this machine is no credential of ours.
            Credential::Session(value) => match self.by_session(value) {
                Some(caller) => Ok(caller),
                None => self.without_credential(local),
            },
            Credential::None => self.without_credential(local),
        }
    }

    fn without_credential(&self, local: bool) -> Result<Caller, Denied> {
        let caller = Caller { roles: Roles::ALL, by: By::Loopback, name: "loopback".to_owned() };
        (self.is_open() && local).then_some(caller).ok_or(Denied::Unknown)
    }

    /// Opens a session with a token. Without tokens loopback needs none and gets none.
    pub fn log_in(&self, token: &str, peer: IpAddr, local: bool) -> Result<Opened, Denied> {
        let now = self.clock.now();
        let until = now.plus_seconds(SESSION_SECONDS);
        if self.is_open() {
            let caller = self.without_credential(local)?;
            return Ok(Opened { caller, value: None, until });
        }
        let address = counted(peer);
        self.may_try(address, now)?;
        let Some(mut caller) = self.by_token(token) else {
            self.failed(address, now);
            return Err(Denied::Unknown);
        };
        let id = Uuid::new_v4();
        caller.by = By::Session(id);
        let digest = Sha256::digest(token.as_bytes());
        let tokens = self.tokens.load();
        let mark = tokens.iter().find(|known| known.digest[..] == digest[..]).map(|known| known.mark.as_str());
        let text = format!("{id} {} {}", until.seconds(), mark.ok_or(Denied::Unknown)?);
        let value = self.vault.ring.seal_column(&PLACE, &text).as_str().to_owned();
        Ok(Opened { caller, value: Some(SecretString::from(value)), until })
    }

    /// Ends a session, for this process.
    pub fn log_out(&self, caller: &Caller) {
        let By::Session(id) = caller.by else { return };
        let now = self.clock.now();
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.retain(|_, until| *until > now);
        if ended.len() < ENDED_KEPT {
            ended.insert(id, now.plus_seconds(SESSION_SECONDS));
        }
    }

    /// All tokens are compared, whichever fits: how long it takes says nothing.
    fn by_token(&self, token: &str) -> Option<Caller> {
        let digest = Sha256::digest(token.as_bytes());
        let tokens = self.tokens.load();
        let mut found: Option<&Known> = None;
        for known in tokens.iter() {
            if bool::from(known.digest.as_slice().ct_eq(&digest)) {
                found = Some(known);
            }
        }
        found.map(|known| Caller { roles: known.roles, by: By::Token, name: name(known) })
    }

    fn by_session(&self, value: &str) -> Option<Caller> {
        let text = self.vault.ring.open_column(&PLACE, value).ok()?;
        let mut parts = text.expose_secret().split(' ');
        let (id, until, mark) = (parts.next()?, parts.next()?, parts.next()?);
        let (id, until) = (Uuid::parse_str(id).ok()?, Timestamp::from_seconds(until.parse().ok()?)?);
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&id);
        if ended || until <= self.clock.now() {
            return None;
        }
        let tokens = self.tokens.load();
        let known = tokens.iter().find(|known| known.mark == mark)?;
        Some(Caller { roles: known.roles, by: By::Session(id), name: name(known) })
    }

    fn may_try(&self, address: IpAddr, now: Timestamp) -> Result<(), Denied> {
        let minute = now.seconds().div_euclid(60);
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let known = failures.get(&address).filter(|(of, _)| *of == minute).map(|(_, count)| *count);
        let full =
            known.is_none() && failures.len() >= ADDRESSES_COUNTED && failures.values().all(|(of, _)| *of == minute);
        if full || known.is_some_and(|count| count >= FAILURES_PER_MINUTE) {
            let left = 60 - now.seconds().rem_euclid(60);
            return Err(Denied::TooMany(u32::try_from(left).unwrap_or(60)));
        }
        Ok(())
    }

    fn failed(&self, address: IpAddr, now: Timestamp) {
        let minute = now.seconds().div_euclid(60);
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() >= ADDRESSES_COUNTED {
            failures.retain(|_, (of, _)| *of == minute);
        }
        let held = failures.entry(address).or_insert((minute, 0));
        *held = if held.0 == minute { (minute, held.1 + 1) } else { (minute, 1) };
    }
}

/// Where a session's value belongs: it opens nowhere else, and nothing else opens here.
const PLACE: Place<'static> = Place { table: "session", column: "cookie", key: &[b"v1"] };

fn known(tokens: &[OpsToken], vault: &Vault) -> Vec<Known> {
    let mut all: Vec<Known> = Vec::new();
    for OpsToken { role, token } in tokens {
        let digest: [u8; 32] = Sha256::digest(token.expose_secret().as_bytes()).into();
        // Given for both roles it has both.
        if let Some(known) = all.iter_mut().find(|known| known.digest == digest) {
            known.roles = known.roles.with(*role);
            continue;
        }
        let mark = vault.index.of("ops-token", "", token.expose_secret());
        let mark = mark.iter().map(|byte| format!("{byte:02x}")).collect();
        all.push(Known { roles: Roles::default().with(*role), digest, mark });
    }
    all
}

/// A token as the audit may show it.
fn name(known: &Known) -> String {
    format!("{}:{}", known.roles.names().join("+"), known.mark.get(..8).unwrap_or_default())
}

/// What log-ins are counted by: an address, or the network of a host that has as many addresses as it likes.
fn counted(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        four => four,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{BlindIndex, KeyRing, fresh_key};

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(seconds).unwrap()
    }

    fn token(role: Role, token: &str) -> OpsToken {
        OpsToken { role, token: SecretString::from(token) }
    }

    fn vault() -> Arc<Vault> {
        let ring = KeyRing::parse(&KeyRing::generate_entry(1)).unwrap();
        Arc::new(Vault { ring, index: BlindIndex::parse(&fresh_key()).unwrap(), theirs: None })
    }

    fn gate(tokens: &[OpsToken]) -> (Arc<Gate>, WallClock) {
        let clock = WallClock::held(at(1_000_000));
        (Gate::new(tokens, vault(), clock.clone()), clock)
    }

    fn value(opened: &Opened) -> String {
        opened.value.as_ref().unwrap().expose_secret().to_owned()
    }

    #[test]
    fn a_token_has_its_role_and_one_given_twice_has_both() {
        let (gate, _) = gate(&[token(Role::Ops, "one"), token(Role::App, "two"), token(Role::App, "one")]);
        let roles = |text: &str| gate.caller(Credential::Bearer(text), true).map(|caller| caller.roles.names());
        assert_eq!(roles("one"), Ok(vec!["ops", "app"]));
        assert_eq!(roles("two"), Ok(vec!["app"]));
        for wrong in ["", "on", "onee", "three"] {
            assert_eq!(roles(wrong), Err(Denied::Unknown));
        }
        assert_eq!(gate.caller(Credential::None, true), Err(Denied::Unknown), "with tokens loopback is nobody");
    }

    #[test]
    fn without_tokens_loopback_is_let_in_and_nobody_else() {
        let (gate, _) = gate(&[]);
        assert_eq!(gate.caller(Credential::None, true).unwrap().roles, Roles::ALL);
        assert_eq!(gate.caller(Credential::None, false), Err(Denied::Unknown));
        assert_eq!(gate.caller(Credential::Bearer("x"), true), Err(Denied::Unknown));
        assert!(gate.caller(Credential::Session("fh1.x"), true).is_ok(), "of another finhook on this machine");
        assert!(gate.log_in("", PEER, true).unwrap().value.is_none());
        assert!(gate.log_in("", PEER, false).is_err());
    }

    #[test]
    fn a_session_ends_by_time_by_hand_and_with_its_token() {
        let tokens = [token(Role::Ops, "one"), token(Role::App, "two")];
        let (gate, clock) = gate(&tokens);
        let session = value(&gate.log_in("one", PEER, false).ok().unwrap());
        assert!(!session.contains("one"));
        let known = |session: &str| gate.caller(Credential::Session(session), false);
        assert_eq!(known(&session).unwrap().roles.names(), ["ops"]);
        assert_eq!(known(&session).unwrap().name, gate.caller(Credential::Bearer("one"), false).unwrap().name);
        assert!(known(&session[..session.len() - 1]).is_err());
        clock.set(at(1_000_000 + SESSION_SECONDS));
        assert!(known(&session).is_err(), "expired");

        let other = value(&gate.log_in("one", PEER, false).ok().unwrap());
        let caller = known(&other).unwrap();
        gate.log_out(&caller);
        assert!(known(&other).is_err(), "ended");
        let third = value(&gate.log_in("one", PEER, false).ok().unwrap());
        gate.trust(&tokens[1..]);
        assert!(known(&third).is_err(), "its token is gone");
    }

    #[test]
    fn another_process_with_the_same_keys_takes_a_session() {
        let (vault, clock, tokens) = (vault(), WallClock::held(at(1_000)), [token(Role::Ops, "one")]);
        let [one, two] = [0, 1].map(|_| Gate::new(&tokens, vault.clone(), clock.clone()));
        let session = value(&one.log_in("one", PEER, false).ok().unwrap());
        assert!(two.caller(Credential::Session(&session), false).is_ok());
    }

    #[test]
    fn log_ins_that_fail_are_limited_by_address_and_minute() {
        let (gate, clock) = gate(&[token(Role::Ops, "one")]);
        for _ in 0..FAILURES_PER_MINUTE {
            assert_eq!(gate.log_in("wrong", PEER, true).err(), Some(Denied::Unknown));
        }
        let Some(Denied::TooMany(seconds)) = gate.log_in("one", PEER, true).err() else { panic!("not limited") };
        assert!((1..=60).contains(&seconds));
        assert!(gate.caller(Credential::Bearer("one"), false).is_ok(), "a service is not locked out");
        let other: IpAddr = "192.0.2.7".parse().unwrap();
        assert!(gate.log_in("one", other, false).is_ok(), "another address is not");
        clock.set(at(1_000_060));
        assert!(gate.log_in("one", PEER, true).is_ok());
    }

    #[test]
    fn a_network_of_version_6_counts_as_one_address() {
        let [one, two] = ["2001:db8:1:2:3::4", "2001:db8:1:2:ffff::1"].map(|text| text.parse().unwrap());
        assert_eq!(counted(one), counted(two));
        assert_eq!(counted("::ffff:192.0.2.7".parse().unwrap()), counted("192.0.2.7".parse().unwrap()));
    }
}
