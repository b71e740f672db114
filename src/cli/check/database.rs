//! The database: whether it answers, has this version's tables, and tells the time that we tell.

use super::{Fault, Tried, Verdict, bounded, clocks_agree};
use crate::cli::app::Configured;
use crate::config::StoreSettings;
use crate::store::Store;
use crate::store::keys::{Purpose, compare};

const AWAY: &str = "see that DATABASE_URL is right and that the database runs and lets us in";

pub(super) async fn tried(app: &Configured) -> Vec<Tried> {
    if matches!(&app.settings.store, StoreSettings::Sqlite { path } if !path.exists()) {
        return vec![Tried::new("database", Ok("embedded; `finhook serve` will make it".to_owned()))];
    }
    let opened = async {
        let wrong = |error: String| Fault::new(error, AWAY);
        let vault = app.vault().map_err(|error| wrong(error.to_string()))?;
        let store = app.store_as_it_is(vault).await.map_err(|error| wrong(format!("{error:#}")))?;
        store.ping().await.map_err(|error| wrong(error.to_string()))?;
        Ok(store)
    };
    let timeout = || Fault::new("no answer within 10 s", AWAY);
    let store = match tokio::time::timeout(super::PATIENCE, opened).await.unwrap_or_else(|_| Err(timeout())) {
        Ok(store) => store,
        Err(fault) => return vec![Tried::new("database", Err(fault))],
    };
    let mut tried = vec![Tried::new("database", Ok("answers".to_owned()))];
    tried.push(Tried::new("migrations", bounded(AWAY, migrations(app, store.as_ref())).await));
    tried.push(Tried::new("canaries", bounded(AWAY, canaries(app, store.as_ref())).await));
    if matches!(app.settings.store, StoreSettings::Postgres { .. }) {
        tried.push(Tried::new("clock", bounded(AWAY, clock(app, store.as_ref())).await));
    }
    store.close().await;
    tried
}

async fn migrations(app: &Configured, store: &dyn Store) -> Verdict {
    let newer = "run the version of finhook that made these tables, or a newer one";
    let migrations = store.migrations().await.map_err(|error| Fault::new(error, newer))?;
    let missing = migrations.iter().filter(|migration| !migration.applied).count();
    match missing {
        0 => Ok(format!("all {} are applied", migrations.len())),
        n if matches!(app.settings.store, StoreSettings::Sqlite { .. }) => {
            Ok(format!("{n} will be applied by `finhook serve`"))
        }
        n => Err(Fault::new(format!("{n} are missing"), "run `finhook migrate up`")),
    }
}

/// The keys are those that the database was sealed and indexed with; without its tables there is nothing to compare yet.
async fn canaries(app: &Configured, store: &dyn Store) -> Verdict {
    let wrong = |error: String| Fault::new(error, AWAY);
    let migrations = store.migrations().await.map_err(|error| wrong(error.to_string()))?;
    if migrations.iter().any(|migration| !migration.applied) {
        return Ok("there are none yet".to_owned());
    }
    let vault = app.vault().map_err(|error| wrong(error.to_string()))?;
    let known = store.keys().known_keys().await.map_err(|error| wrong(error.to_string()))?;
    compare(&known, &vault).map_err(|misfit| {
        let error = app.values().error(misfit.variable(), misfit.to_string());
        Fault::new(error, "give the keys that this database was sealed with; the table sealing_key has their ids")
    })?;
    let strange = vault
        .ring
        .ids()
        .into_iter()
        .filter(|id| !known.iter().any(|key| key.purpose == Purpose::Ring && key.id == *id));
    match strange.count() {
        0 => Ok("every key is the one that this database knows".to_owned()),
        n => {
            Ok(format!("every key that this database knows is the right one; {n} of FINHOOK_KEYS it has not seen yet"))
        }
    }
}

async fn clock(app: &Configured, store: &dyn Store) -> Verdict {
    let before = app.clock.now();
    let theirs = store.clock().await.map_err(|error| Fault::new(error, AWAY))?;
    match theirs {
        Some(theirs) => clocks_agree("the database", theirs, (before, app.clock.now()), 0.0),
        None => Ok("is the only one".to_owned()),
    }
}
