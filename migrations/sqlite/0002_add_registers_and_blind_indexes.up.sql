-- What finhook adds to the product's tables: the registers with their clocks, by which the order of events does not
-- matter, and the blind indexes, which find a sealed value.
--
-- A clock is (<register>_at in microseconds since 1970, length of <register>_key, <register>_key); null is minus infinity.
-- email_written is the address as finhook last wrote it: where email differs from it, the product wrote email itself, and
-- it is never touched.
alter table "user" add column email_verified integer;
alter table "user" add column email_at integer;
alter table "user" add column email_key blob;
alter table "user" add column email_written text;

-- A row that the product inserts itself counts as an explicit link (rank 4) made at the beginning of time: hence the
-- owner's defaults.
alter table integration add column status text not null default 'active';
alter table integration add column status_reason text;
alter table integration add column status_final integer not null default 0;
alter table integration add column status_at integer;
alter table integration add column status_key blob;
alter table integration add column closing_status text;
alter table integration add column closing_final integer not null default 0;
alter table integration add column closing_at integer;
alter table integration add column closing_key blob;
alter table integration add column owner_rank integer not null default 4;
alter table integration add column owner_at integer not null default 0;
alter table integration add column owner_key blob not null default x'';
alter table integration add column email text;
alter table integration add column email_verified integer;
alter table integration add column email_at integer;
alter table integration add column email_key blob;
alter table integration add column authorization_at integer;
alter table integration add column authorization_key blob;
alter table integration add column observed_at integer;

alter table account add column external_id_index blob;
alter table account add column baas_id_index blob;
alter table account add column status text not null default 'open';
alter table account add column status_reason text;
alter table account add column status_at integer;
alter table account add column status_key blob;
alter table account add column observed_at integer;

create unique index user_external_id on "user" (external_id);
create unique index integration_service_external_id on integration (service, external_id);
create index integration_user_id on integration (user_id);
create unique index account_integration_id_external_id_index on account (integration_id, external_id_index);
create index account_user_id on account (user_id);
create index account_integration_id on account (integration_id);
create index account_external_id_index on account (external_id_index);
create index account_baas_id_index on account (baas_id_index) where baas_id_index is not null;
