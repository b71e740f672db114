//! Moving in and going back, on a database as the product leaves it.

use secrecy::ExposeSecret;
use uuid::Uuid;

use crate::crypto::Place;
use crate::domain::{Timestamp, UserId};
use crate::pipeline::moving::{Report, Reverter, Sealer};
use crate::store::contract::database::{Db, on_postgres, theirs};
use crate::store::moving::{Mover, Moving};

const PRODUCT: &str = r#"
    create table "user" ("id" uuid primary key, "external_id" character varying, "email" character varying not null,
        "created_at" timestamp not null default now(), "updated_at" timestamp not null default now(),
        "deleted_at" timestamp);
    create table "integration" ("id" uuid primary key, "service" character varying not null,
        "external_id" character varying not null, "authorization_id" character varying not null, "user_id" uuid
            references "user" on delete cascade,
        "created_at" timestamp not null default now(), "updated_at" timestamp not null default now(),
        "deleted_at" timestamp);
    create table "account" ("id" uuid primary key, "external_id" character varying not null,
        "baas_id" character varying, "integration_id" uuid not null references "integration" on delete cascade,
        "user_id" uuid not null references "user" on delete cascade, "created_at" timestamp not null default now(),
        "updated_at" timestamp not null default now(), "deleted_at" timestamp);
    create index "IDX_1" on "account" ("external_id");
    create table "transfer" ("id" uuid primary key, "account_id" uuid references "account" on delete cascade);
    insert into "user" ("id", "external_id", "email") values ('00000000-0000-4000-8000-000000000001', 'u1', 'e@x.org');
"#;

fn id(number: u32) -> Uuid {
    Uuid::parse_str(&format!("00000000-0000-4000-8000-{number:012}")).unwrap()
}

async fn integration(db: &Db, number: u32, external_id: &str, made: u32) {
    let token = theirs().seal(&format!("token {number}"));
    db.sql(&format!(
        "insert into integration (id, service, external_id, authorization_id, user_id, created_at, updated_at)
         values ('{}', 'plaid', '{external_id}', '{token}', '{}', '2020-01-{made:02}', '2020-01-{made:02}')",
        id(number),
        id(1)
    ))
    .await;
}

async fn account(db: &Db, number: u32, integration: u32, external_id: &str, baas_id: Option<&str>) {
    let baas_id = baas_id.map_or("null".to_owned(), |baas_id| format!("'{}'", theirs().seal(baas_id)));
    db.sql(&format!(
        "insert into account (id, integration_id, user_id, external_id, baas_id, created_at)
         values ('{}', '{}', '{}', '{}', {baas_id}, '2020-01-01')",
        id(number),
        id(integration),
        id(1),
        theirs().seal(external_id)
    ))
    .await;
    db.sql(&format!("insert into transfer values ('{0}', '{0}')", id(number))).await;
}

/// A database of the product, brought up: integrations i1 (twice) and i2; accounts a (in both rows of i1), b (twice in i2,
/// with two ledger's ids), c.
async fn product(db: &Db) {
    db.store.migrate_down(0).await.unwrap();
    db.sql(PRODUCT).await;
    integration(db, 10, "i1", 1).await;
    integration(db, 11, "i1", 2).await;
    integration(db, 12, "i2", 3).await;
    account(db, 20, 10, "a", None).await;
    account(db, 21, 11, "a", Some("ledger a")).await;
    account(db, 22, 12, "b", Some("one")).await;
    account(db, 23, 12, "b", Some("two")).await;
    account(db, 24, 12, "c", None).await;
    db.store.migrate_up().await.unwrap();
}

async fn columns(db: &Db) -> Vec<(String, Option<String>, Option<String>, Option<String>)> {
    db.fetch(
        "select i.id::text, i.authorization_id, i.user_id::text, i.deleted_at::text from integration i
         union all
         select a.id::text, a.external_id, a.baas_id, a.deleted_at::text || a.integration_id::text from account a
         order by 1",
    )
    .await
}

async fn pass(moving: &dyn Moving, mover: &mut dyn Mover, write: bool) {
    let mut last = None;
    // One subject a transaction, so that there is more than one.
    while let Some(next) = moving.move_subjects(last.as_ref(), 1, mover, write).await.unwrap() {
        last = Some(next);
    }
}

async fn seal(db: &Db, merge: bool, write: bool) -> Report {
    let now = Timestamp::from_seconds(1_700_000_000).unwrap();
    let mut sealer = Sealer { vault: &db.options.vault, merge, now, report: Report::default() };
    pass(db.store.moving().unwrap(), &mut sealer, write).await;
    sealer.report
}

/// The accounts of `u1` as a reader sees them: (account, ledger's id), sorted.
async fn read_back(db: &Db) -> Vec<(String, Option<String>)> {
    let accounts = db.store.accounts(&UserId("u1".into())).await.unwrap();
    let open = |account: &crate::store::AccountView, column, text: &Option<String>| {
        let service = (account.service.as_bytes(), account.integration_external_id.as_bytes());
        let key: [&[u8]; 3] = [service.0, service.1, &account.external_id_index];
        let place = Place { table: "account", column, key: &key };
        text.as_ref().map(|text| db.options.vault.open(&place, text).unwrap().expose_secret().to_owned())
    };
    let mut read: Vec<_> = accounts
        .iter()
        .map(|a| (open(a, "external_id", &a.external_id).unwrap(), open(a, "baas_id", &a.baas_id)))
        .collect();
    read.sort();
    read
}

fn pairs(pairs: &[(&str, Option<&str>)]) -> Vec<(String, Option<String>)> {
    pairs.iter().map(|(one, two)| ((*one).to_owned(), two.map(str::to_owned))).collect()
}

#[tokio::test]
async fn rows_are_sealed_and_read_back_equal_and_duplicates_stay_until_somebody_says_so() {
    on_postgres(|db| async move {
        product(&db).await;
        let before = columns(&db).await;
        let all = pairs(&[("a", None), ("a", Some("ledger a")), ("b", Some("one")), ("b", Some("two")), ("c", None)]);
        assert_eq!(read_back(&db).await, all);
        let look = seal(&db, true, false).await;
        assert_eq!((look.theirs, look.ours, look.unreadable), (11, 0, 0));
        assert_eq!((look.duplicates, look.merged), (3, 2));
        assert!(look.duplicate_rows.iter().any(|row| row.apart == Some("their baas_id differs")));
        assert_eq!(columns(&db).await, before, "looking writes nothing");

        let done = seal(&db, false, true).await;
        assert_eq!((done.rewritten, done.merged), (11, 0));
        assert_eq!(read_back(&db).await, all);
        assert_eq!(db.store.moving().unwrap().move_counts().await.unwrap().theirs, 0);
        assert_eq!(seal(&db, false, true).await.rewritten, 0, "again is nothing");
        let indexed: Vec<(i64,)> = db.fetch("select count(*) from account where external_id_index is not null").await;
        assert_eq!(indexed[0].0, 4, "all but the second b, which is the same account");
    })
    .await;
}

#[tokio::test]
async fn what_is_told_to_merge_is_merged_and_what_refers_to_it_goes_along() {
    on_postgres(|db| async move {
        product(&db).await;
        let moving = db.store.moving().unwrap();
        // Sealed first, merged later: the second run finds them by what the first one wrote.
        seal(&db, false, true).await;
        assert_eq!(seal(&db, true, true).await.merged, 2);
        let merged = pairs(&[("a", Some("ledger a")), ("b", Some("one")), ("b", Some("two")), ("c", None)]);
        assert_eq!(read_back(&db).await, merged);
        assert_eq!(moving.finish().await.unwrap().merged, 2);
        let left: Vec<(i64, i64, i64)> = db
            .fetch("select (select count(*) from integration), (select count(*) from account), (select count(*) from moved_in)")
            .await;
        assert_eq!(left, [(2, 4, 0)]);
        let transfers: Vec<(i64,)> = db.fetch("select count(*) from transfer where account_id is not null").await;
        assert_eq!(transfers[0].0, 5, "no row of the product's went with a merged account");
        let token: Vec<(String,)> = db.fetch("select authorization_id from integration where external_id = 'i1'").await;
        let key: [&[u8]; 2] = [b"plaid", b"i1"];
        let place = Place { table: "integration", column: "authorization_id", key: &key };
        let token = db.options.vault.open(&place, &token[0].0).unwrap();
        assert_eq!(token.expose_secret(), "token 11", "the newest one");
    })
    .await;
}

#[tokio::test]
async fn going_back_ends_in_the_same_bytes_and_encrypts_what_is_new() {
    on_postgres(|db| async move {
        product(&db).await;
        let before = columns(&db).await;
        seal(&db, true, true).await;
        let ours = db.options.vault.clone();
        let index = ours.index.of("external_id", "plaid", "new");
        let key: [&[u8]; 3] = [b"plaid", b"i2", &index];
        let sealed = ours.ring.seal_column(&Place { table: "account", column: "external_id", key: &key }, "new");
        db.sql(&format!(
            "insert into account (id, integration_id, user_id, external_id, external_id_index)
             values ('{}', '{}', '{}', '{}', '\\x{}')",
            id(99),
            id(12),
            id(1),
            sealed.as_str(),
            hex::encode(index)
        ))
        .await;
        let cipher = theirs();
        let mut back = Reverter { vault: &ours, theirs: &cipher, report: Report::default() };
        pass(db.store.moving().unwrap(), &mut back, true).await;
        let mut after = columns(&db).await;
        let new = after.remove(after.iter().position(|row| row.0 == id(99).to_string()).unwrap());
        assert_eq!(cipher.open(new.1.as_deref().unwrap()).unwrap().expose_secret(), "new");
        assert_eq!(after, before);
        let kept = db.store.moving().unwrap().move_counts().await.unwrap().kept;
        assert_eq!(kept, 0);
        assert_eq!(seal(&db, true, true).await.merged, 2, "and in again");
    })
    .await;
}

#[tokio::test]
async fn what_does_not_open_is_named_and_left_and_a_move_is_not_finished_over_it() {
    on_postgres(|db| async move {
        product(&db).await;
        db.sql(&format!("update account set external_id = 'Zm9vYmFy' where id = '{}'", id(24))).await;
        let done = seal(&db, false, true).await;
        assert_eq!(done.unreadable, 1);
        assert_eq!((done.unreadable_at[0].column, done.unreadable_at[0].id), ("external_id", id(24)));
        let refused = db.store.moving().unwrap().finish().await.unwrap_err();
        assert!(refused.what.contains("1 value(s)"), "{refused}");
    })
    .await;
}
