-- What moving the product's tables in needs (`finhook import typeorm`).
--
-- duplicate_of: the product's tables had no unique key, so one integration or account may be there twice. The surplus row
-- names the one that counts, is read no more, and goes with `--finish`. Where integrations repeat, `migrate up` has marked
-- them before it made the unique index of migration 2, which then leaves them out.
--
-- moved_in keeps what the product had written, until `--finish` drops it or `--revert` puts it back. It goes with the
-- integration, and so with its user.
alter table integration add column if not exists duplicate_of uuid;
alter table account add column if not exists duplicate_of uuid;

create table moved_in (
    id uuid primary key,
    integration_id uuid not null references integration (id) on delete cascade,
    authorization_id character varying,
    external_id character varying,
    baas_id character varying,
    deleted_at timestamp,
    -- Merged into the row that counts; goes when the move is finished.
    merged boolean not null default false
);
create index moved_in_integration_id on moved_in (integration_id);

-- Accounts that no index finds, because the product wrote them: a commit opens those of its integrations.
create index account_unindexed on account (integration_id) where external_id_index is null;
