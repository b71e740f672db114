-- How far each queue is worked off: the receipt of its newest committed delivery. The workers' processes tell it here every
-- few seconds, so that each of them, and one that has just started, knows how far behind all of them together are.
create table queue_progress (
    queue text primary key,
    received_at timestamptz not null
);

-- How many events wait, and since when the oldest of them, by provider: answered from the index alone, every few seconds.
create index event_unlinked_age on event (provider, received_at) where state = 'unlinked';
create index event_retrying_age on event (provider, received_at) where state = 'retrying';
create index event_dead_age on event (provider, received_at) where state = 'dead';
