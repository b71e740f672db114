-- What finhook adds to the product's tables: the registers with their clocks, by which the order of events does not
-- matter, and the blind indexes, which find a sealed value.
--
-- A clock is (<register>_at in microseconds since 1970, length of <register>_key, <register>_key); null is minus infinity.
-- Every column can be added to tables that have rows: nullable, or with a constant default, which rewrites nothing.

-- finhook makes users of which it knows nothing but the id, and accounts without a ledger's id.
alter table "user" alter column email drop not null;
alter table integration alter column authorization_id drop not null;
alter table account alter column external_id drop not null;
alter table account alter column baas_id drop not null;

-- email_written is the address as finhook last wrote it: where email differs from it, the product wrote email itself, and
-- it is never touched.
alter table "user"
    add column if not exists email_verified boolean,
    add column if not exists email_at bigint,
    add column if not exists email_key bytea,
    add column if not exists email_written character varying;

-- A row that the product inserts itself counts as an explicit link (rank 4) made at the beginning of time: hence the
-- owner's defaults.
alter table integration
    add column if not exists status character varying not null default 'active',
    add column if not exists status_reason character varying,
    add column if not exists status_final boolean not null default false,
    add column if not exists status_at bigint,
    add column if not exists status_key bytea,
    add column if not exists closing_status character varying,
    add column if not exists closing_final boolean not null default false,
    add column if not exists closing_at bigint,
    add column if not exists closing_key bytea,
    add column if not exists owner_rank smallint not null default 4,
    add column if not exists owner_at bigint not null default 0,
    add column if not exists owner_key bytea not null default '',
    add column if not exists email character varying,
    add column if not exists email_verified boolean,
    add column if not exists email_at bigint,
    add column if not exists email_key bytea,
    add column if not exists authorization_at bigint,
    add column if not exists authorization_key bytea,
    add column if not exists observed_at timestamp;

alter table account
    add column if not exists external_id_index bytea,
    add column if not exists baas_id_index bytea,
    add column if not exists status character varying not null default 'open',
    add column if not exists status_reason character varying,
    add column if not exists status_at bigint,
    add column if not exists status_key bytea,
    add column if not exists observed_at timestamp;

create unique index if not exists user_external_id on "user" (external_id);
create unique index if not exists integration_service_external_id on integration (service, external_id);
create index if not exists integration_user_id on integration (user_id);
create unique index if not exists account_integration_id_external_id_index on account (integration_id, external_id_index);
create index if not exists account_user_id on account (user_id);
create index if not exists account_integration_id on account (integration_id);
create index if not exists account_external_id_index on account (external_id_index);
create index if not exists account_baas_id_index on account (baas_id_index) where baas_id_index is not null;

-- Nearly every event updates columns of these two that no index holds. Room on the page lets such an update stay there,
-- without a new entry in any index (HOT).
alter table integration set (fillfactor = 85);
alter table account set (fillfactor = 85);
