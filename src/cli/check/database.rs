//! The database: whether it answers, has this version's tables, and tells the time that we tell.

use super::{Fault, Tried, Verdict, bounded, clocks_agree};
use crate::cli::app::Configured;
use crate::config::StoreSettings;
use crate::store::Store;

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

async fn clock(app: &Configured, store: &dyn Store) -> Verdict {
    let before = app.clock.now();
    let theirs = store.clock().await.map_err(|error| Fault::new(error, AWAY))?;
    match theirs {
        Some(theirs) => clocks_agree("the database", theirs, (before, app.clock.now()), 0.0),
        None => Ok("is the only one".to_owned()),
    }
}
