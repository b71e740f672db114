create index account_integration_id on account (integration_id);

drop index event_user_mark;
drop index event_subject;
create index event_subject on event (provider, subject) where subject is not null;
create index event_user_mark on event (user_mark) where user_mark is not null;
