-- The keys that this database was sealed with. Under each stands a canary, by which another key of the same id is noticed
-- before it seals anything; and when it became the one that seals, by which one knows when the key before it can go. The
-- index key is there too (purpose index, id 0): another one would find no account, and make every one of them anew.
create table sealing_key (
    purpose text not null,
    id bigint not null,
    canary text not null,
    first_seen_at timestamptz not null,
    primary_at timestamptz,
    retired_at timestamptz,
    constraint sealing_key_pkey primary key (purpose, id),
    constraint sealing_key_purpose check (purpose in ('ring', 'index'))
);

-- The newest delivery of each queue under each key that workers have committed: what a queue cannot be asked for.
create table delivery_key (
    queue text not null,
    key_id bigint not null,
    received_at timestamptz not null,
    noted_at timestamptz not null,
    constraint delivery_key_pkey primary key (queue, key_id)
);
