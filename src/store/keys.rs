//! What the database knows of the keys: a canary under each, since when which one seals, which are retired, and under which
//! keys the deliveries came that workers committed.
//!
//! Law: a key is entered once and never changed, so whoever enters another key under a known id meets the canary of the
//! first. [`recognise`] is asked before anything binds or is written.

use async_trait::async_trait;

use super::{StoreError, Vault};
use crate::domain::Timestamp;

/// What a known key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A key of the ring.
    Ring,
    /// The index key; its id is 0.
    Index,
}

impl Purpose {
    /// As the column holds it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ring => "ring",
            Self::Index => "index",
        }
    }

    /// Reads the column.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Ring, Self::Index].into_iter().find(|purpose| purpose.as_str() == text)
    }
}

/// A key to be entered.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// What it is for.
    pub purpose: Purpose,
    /// Its id.
    pub id: u32,
    /// A known value under it.
    pub canary: String,
}

/// A key that the database knows.
#[derive(Debug, Clone)]
pub struct KnownKey {
    /// What it is for.
    pub purpose: Purpose,
    /// Its id.
    pub id: u32,
    /// A known value under it.
    pub canary: String,
    /// Since when it is known.
    pub first_seen_at: Timestamp,
    /// When it became the key that seals, the last time that it did.
    pub primary_at: Option<Timestamp>,
    /// When it was found to be needed by nothing any more.
    pub retired_at: Option<Timestamp>,
}

/// The newest delivery of one queue under one key that was committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// The queue that it came by.
    pub queue: String,
    /// The key.
    pub key: u32,
    /// When it was received.
    pub received_at: Timestamp,
}

/// The keys in one database.
#[async_trait]
pub trait KeyBook: Send + Sync {
    /// Every key that was ever entered.
    async fn known_keys(&self) -> Result<Vec<KnownKey>, StoreError>;

    /// Enters keys; one whose purpose and id are known is left as it is.
    async fn enter_keys(&self, keys: &[NewKey]) -> Result<(), StoreError>;

    /// Notes that a key of the ring seals from now on; nothing if it is the last one noted.
    async fn note_primary(&self, id: u32) -> Result<(), StoreError>;

    /// Notes that nothing needs a key of the ring any more.
    async fn note_retired(&self, id: u32) -> Result<(), StoreError>;

    /// Notes deliveries; an older one than is known changes nothing.
    async fn note_sightings(&self, sightings: &[Sighting]) -> Result<(), StoreError>;

    /// The newest delivery of every queue under every key.
    async fn sightings(&self) -> Result<Vec<Sighting>, StoreError>;
}

/// A key that is not what the database knows by its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// Another key of the ring has this id.
    #[error(
        "key {0} is not the key that this database was sealed with under that id: put the right one there; a new key takes \
         an id of its own"
    )]
    Ring(u32),
    /// Another index key.
    #[error(
        "is not the key that this database's accounts were indexed with: put that one there; it cannot be exchanged"
    )]
    Index,
    /// The primary was retired.
    #[error("key {0} stands first, but it was retired: put the key first that took its place")]
    Retired(u32),
}

impl Misfit {
    /// The variable that has to be changed.
    pub fn variable(self) -> &'static str {
        match self {
            Self::Index => "FINHOOK_INDEX_KEY",
            Self::Ring(_) | Self::Retired(_) => "FINHOOK_KEYS",
        }
    }
}

/// Whether the keys of `vault` are those that the database knows. One that it does not know is not wrong.
pub fn compare(known: &[KnownKey], vault: &Vault) -> Result<(), Misfit> {
    for key in known {
        match key.purpose {
            Purpose::Index if !vault.index.fits(&key.canary) => return Err(Misfit::Index),
            Purpose::Ring if vault.ring.holds(key.id) && !vault.ring.fits(key.id, &key.canary) => {
                return Err(Misfit::Ring(key.id));
            }
            Purpose::Ring if key.retired_at.is_some() && key.id == vault.ring.primary() => {
                return Err(Misfit::Retired(key.id));
            }
            Purpose::Index | Purpose::Ring => {}
        }
    }
    Ok(())
}

/// The keys of `vault` that the database does not know.
fn unknown(known: &[KnownKey], vault: &Vault) -> Vec<NewKey> {
    let is_known = |purpose, id| known.iter().any(|key| key.purpose == purpose && key.id == id);
    let ring = vault.ring.ids().into_iter().filter_map(|id| {
        let canary = vault.ring.canary(id)?;
        Some(NewKey { purpose: Purpose::Ring, id, canary: canary.as_str().to_owned() })
    });
    let index = NewKey { purpose: Purpose::Index, id: 0, canary: vault.index.canary() };
    ring.chain([index]).filter(|key| !is_known(key.purpose, key.id)).collect()
}

/// Compares the keys of `vault` with those that the database knows, and enters new ones. Of two processes that enter
/// different keys under one id at once, one is told.
pub async fn recognise(book: &dyn KeyBook, vault: &Vault) -> Result<Result<(), Misfit>, StoreError> {
    let known = book.known_keys().await?;
    if let Err(misfit) = compare(&known, vault) {
        return Ok(Err(misfit));
    }
    let new = unknown(&known, vault);
    if new.is_empty() {
        return Ok(Ok(()));
    }
    book.enter_keys(&new).await?;
    Ok(compare(&book.known_keys().await?, vault))
}
