-- What moving the product's tables in needs (`finhook import typeorm`). The product's own database is PostgreSQL; these are
-- here so that both stores have the same rows.
--
-- duplicate_of names the row that counts where the product had one twice. moved_in keeps what the product had written.
alter table integration add column duplicate_of text;
alter table account add column duplicate_of text;

create table moved_in (
    id text primary key not null,
    integration_id text not null references integration (id) on delete cascade,
    authorization_id text,
    external_id text,
    baas_id text,
    deleted_at integer,
    merged integer not null default 0
) strict;
create index moved_in_integration_id on moved_in (integration_id);

create index account_unindexed on account (integration_id) where external_id_index is null;
