-- One row per event that was ever delivered: what makes a second copy a duplicate, what waits for its user or for another
-- try, and the sealed envelope from which it can be read again. The payload is last, because a row that spills to overflow
-- pages can be read up to the spill.
--
-- Both unique indexes grow at their right edge: ids are uuid v7, and nearly all providers' ids are ordered by time.
create table event (
    id text primary key not null,
    occurred_at integer not null,
    received_at integer not null,
    processed_at integer not null,
    next_attempt_at integer,
    attempts integer not null default 0,
    provider text not null,
    state text not null check (state in ('applied', 'recorded', 'unlinked', 'retrying', 'dead')),
    dedup_key blob not null,
    kind text,
    subject text,
    reason text,
    payload blob not null,
    unique (provider, dedup_key)
) strict;

-- Partial, because nearly every row is applied or recorded, and those are looked up by key or id alone.
create index event_unlinked on event (provider, subject) where state = 'unlinked';
create index event_unlinked_received_at on event (received_at) where state = 'unlinked';
create index event_retrying on event (next_attempt_at) where state = 'retrying';
create index event_dead on event (id) where state = 'dead';
