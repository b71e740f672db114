//! Up, down and up again; and up on a database that the product made.

use super::database::{Db, Raw};
use super::{Saying, event, on_both};
use crate::domain::{Rank, UserId};

/// The product's tables as its ORM makes them: names of its own for constraints, and an index on an encrypted column.
const PRODUCT: &str = r#"
    create table "user" (
        "id" uuid not null default gen_random_uuid(), "external_id" character varying not null,
        "email" character varying not null, "created_at" timestamp not null default now(),
        "updated_at" timestamp not null default now(), "deleted_at" timestamp,
        constraint "UQ_1" unique ("external_id"), constraint "PK_1" primary key ("id"));
    create table "integration" (
        "id" uuid not null default gen_random_uuid(), "service" character varying not null,
        "external_id" character varying not null, "authorization_id" character varying, "user_id" uuid not null,
        "created_at" timestamp not null default now(), "updated_at" timestamp not null default now(),
        "deleted_at" timestamp, constraint "PK_2" primary key ("id"),
        constraint "FK_2" foreign key ("user_id") references "user" ("id") on delete cascade);
    create table "account" (
        "id" uuid not null default gen_random_uuid(), "external_id" character varying, "baas_id" character varying,
        "integration_id" uuid not null, "user_id" uuid not null, "created_at" timestamp not null default now(),
        "updated_at" timestamp not null default now(), "deleted_at" timestamp,
        constraint "PK_3" primary key ("id"),
        constraint "FK_3" foreign key ("integration_id") references "integration" ("id") on delete cascade,
        constraint "FK_4" foreign key ("user_id") references "user" ("id") on delete cascade);
    create index "IDX_1" on "account" ("external_id");
    insert into "user" ("external_id", "email") values ('p1', 'p1@example.com');
    insert into "integration" ("service", "external_id", "authorization_id", "user_id")
        select 'unit', 'c1', 'theirs', "id" from "user";
    insert into "account" ("external_id", "integration_id", "user_id") select 'theirs', "id", "user_id" from "integration";
"#;

async fn tables(db: &Db) -> Vec<String> {
    let names: Vec<(String,)> = match db.raw {
        Raw::Pg(_) => db.fetch("select tablename::text from pg_tables where schemaname = 'public' order by 1").await,
        Raw::Lite(_) => {
            db.fetch("select name from sqlite_schema where type = 'table' and name not like 'sqlite_%' order by 1")
                .await
        }
    };
    names.into_iter().map(|(name,)| name).collect()
}

on_both! {
    async fn migrations_go_up_down_and_up_again(db) {
        let status = db.store.migrations().await.unwrap();
        assert!(status.iter().all(|migration| migration.applied));
        assert_eq!(status[0].description, "create the product tables");
        assert_eq!(db.store.migrate_up().await.unwrap(), 0);
        assert_eq!(db.store.migrate_down(2).await.unwrap(), status.len() - 2);
        assert!(!tables(&db).await.contains(&"event".to_owned()));
        assert_eq!(db.store.migrate_down(0).await.unwrap(), 2);
        assert_eq!(tables(&db).await, ["finhook_migration"]);
        assert!(db.store.migrations().await.unwrap().iter().all(|migration| !migration.applied));
        assert_eq!(db.store.migrate_up().await.unwrap(), status.len());
        db.take([event("e1", 1).claiming("u1", Rank::Payload).account("a1", None)]).await;
        assert_eq!(db.rows().await.accounts.len(), 1);
    }

    async fn a_database_of_the_product_is_extended_and_given_back(db) {
        if matches!(db.raw, Raw::Lite(_)) {
            return; // The product has no SQLite database.
        }
        db.store.migrate_down(0).await.unwrap();
        db.sql(PRODUCT).await;
        db.store.migrate_up().await.unwrap();
        db.take([event("e1", 1).claiming("other", Rank::BoundUrl).email("new@example.com").account("a1", None)]).await;
        let accounts = db.store.accounts(&UserId("p1".into())).await.unwrap();
        assert_eq!(accounts.len(), 2, "theirs and ours, of the user whom the product linked");
        let theirs: Vec<(String, String)> = db
            .fetch(r#"select u.email, i.authorization_id from integration i join "user" u on u.id = i.user_id"#)
            .await;
        assert_eq!(theirs, [("p1@example.com".into(), "theirs".into())]);
        db.store.migrate_down(0).await.unwrap();
        assert_eq!(tables(&db).await, ["account", "finhook_migration", "integration", "user"]);
        let left: Vec<(i64,)> = db.fetch("select count(*) from account").await;
        assert_eq!(left[0].0, 2);
    }
}
