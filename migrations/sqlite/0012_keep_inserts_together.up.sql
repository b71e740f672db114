-- What a commit inserts should touch few pages of large indexes, each of which it writes whole. Subjects and users come in
-- no order, but events in that of their receipt: with the day in front, all of them go into the last day's part. Who looks
-- for a subject looks in each of the days there are (store::days). The blind indexes stay: SQLite has trees alone.
drop index event_user_mark;
drop index event_subject;
create index event_subject on event (received_at / 86400000000, subject) where subject is not null;
create index event_user_mark on event (received_at / 86400000000, user_mark) where user_mark is not null;

-- The unique index on account begins with integration_id too: whatever looks for an integration's accounts goes through it.
drop index account_integration_id;
