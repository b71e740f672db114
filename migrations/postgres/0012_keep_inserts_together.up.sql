-- What a commit inserts should touch few pages of large indexes: a page's first change after a checkpoint goes whole into
-- the write-ahead log, and where tables are large that was most of what a commit wrote.
--
-- Subjects and users come in no order, but events in that of their receipt: with the day in front, all of them go into the
-- last day's part. Who looks for a subject looks in each of the days there are (store::days). As in migration 7, workers hold
-- their batches while indexes of large tables are made.
drop index event_user_mark;
drop index event_subject;
create index event_subject on event (((received_at at time zone 'utc')::date), subject) where subject is not null;
create index event_user_mark on event (((received_at at time zone 'utc')::date), user_mark) where user_mark is not null;

-- A blind index is random and only ever asked whether it equals: a hash of four bytes in the place of its 32 makes these a
-- third as large.
drop index account_baas_id_index;
drop index account_external_id_index;
create index account_external_id_index on account using hash (external_id_index);
create index account_baas_id_index on account using hash (baas_id_index) where baas_id_index is not null;

-- The unique index on account begins with integration_id too: whatever looks for an integration's accounts goes through it.
drop index account_integration_id;
