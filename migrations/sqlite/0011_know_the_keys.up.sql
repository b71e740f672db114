-- The keys that this database was sealed with. Under each stands a canary, by which another key of the same id is noticed
-- before it seals anything; and when it became the one that seals, by which one knows when the key before it can go. The
-- index key is there too (purpose index, id 0): another one would find no account, and make every one of them anew.
create table sealing_key (
    purpose text not null check (purpose in ('ring', 'index')),
    id integer not null,
    canary text not null,
    first_seen_at integer not null,
    primary_at integer,
    retired_at integer,
    primary key (purpose, id)
) strict;

-- The newest delivery of each queue under each key that workers have committed: what a queue cannot be asked for.
create table delivery_key (
    queue text not null,
    key_id integer not null,
    received_at integer not null,
    noted_at integer not null,
    primary key (queue, key_id)
) strict;
