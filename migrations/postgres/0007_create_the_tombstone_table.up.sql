-- Who was forgotten: marks (blind indexes) of users' and of their subjects' ids, by which what still arrives about them is
-- known and dropped. service and subject stand here only while stored events of the subject are still to be deleted.
create table tombstone (
    mark bytea primary key,
    of_user bytea not null,
    at timestamptz not null,
    pending boolean not null,
    service text,
    subject text
);

create index tombstone_of_user on tombstone (of_user);
create index tombstone_pending on tombstone (mark) where pending;

-- The mark of the user whom an event names, by which its payload is found also where its subject does not lead to them: it
-- has none, nobody had it yet, or somebody else has it by now.
alter table event add column user_mark bytea;

-- Everything about a subject or a user is found without reading the whole table. On a large table the first one takes
-- about a minute per ten million rows, during which workers hold their batches.
create index event_subject on event (provider, subject) where subject is not null;
create index event_user_mark on event (user_mark) where user_mark is not null;
