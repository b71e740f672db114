-- One row per event that was ever delivered: what makes a second copy a duplicate, what waits for its user or for another
-- try, and the sealed envelope from which it can be read again. Columns of fixed width first, so that none is padded.
--
-- Both unique indexes grow at their right edge: ids are uuid v7, and nearly all providers' ids are ordered by time.
create table event (
    id uuid primary key,
    occurred_at timestamptz not null,
    received_at timestamptz not null,
    processed_at timestamptz not null,
    next_attempt_at timestamptz,
    attempts integer not null default 0,
    provider text not null,
    state text not null,
    dedup_key bytea not null,
    kind text,
    subject text,
    reason text,
    payload bytea not null,
    constraint event_provider_dedup_key unique (provider, dedup_key),
    constraint event_state check (state in ('applied', 'recorded', 'unlinked', 'retrying', 'dead'))
);

-- Partial, because nearly every row is applied or recorded, and those are looked up by key or id alone.
create index event_unlinked on event (provider, subject) where state = 'unlinked';
create index event_unlinked_received_at on event (received_at) where state = 'unlinked';
create index event_retrying on event (next_attempt_at) where state = 'retrying';
create index event_dead on event (id) where state = 'dead';
