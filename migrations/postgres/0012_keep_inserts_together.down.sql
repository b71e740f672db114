create index account_integration_id on account (integration_id);

drop index account_baas_id_index;
drop index account_external_id_index;
create index account_external_id_index on account (external_id_index);
create index account_baas_id_index on account (baas_id_index) where baas_id_index is not null;

drop index event_user_mark;
drop index event_subject;
create index event_subject on event (provider, subject) where subject is not null;
create index event_user_mark on event (user_mark) where user_mark is not null;
