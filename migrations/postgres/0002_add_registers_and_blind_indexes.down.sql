-- Takes away what the way up added. What it relaxed (not null) stays relaxed: rows may hold nulls by now.
alter table account reset (fillfactor);
alter table integration reset (fillfactor);

drop index account_baas_id_index;
drop index account_external_id_index;
drop index account_integration_id;
drop index account_user_id;
drop index account_integration_id_external_id_index;
drop index integration_user_id;
drop index integration_service_external_id;
drop index user_external_id;

alter table account
    drop column external_id_index,
    drop column baas_id_index,
    drop column status,
    drop column status_reason,
    drop column status_at,
    drop column status_key,
    drop column observed_at;

alter table integration
    drop column status,
    drop column status_reason,
    drop column status_final,
    drop column status_at,
    drop column status_key,
    drop column closing_status,
    drop column closing_final,
    drop column closing_at,
    drop column closing_key,
    drop column owner_rank,
    drop column owner_at,
    drop column owner_key,
    drop column email,
    drop column email_verified,
    drop column email_at,
    drop column email_key,
    drop column authorization_at,
    drop column authorization_key,
    drop column observed_at;

alter table "user"
    drop column email_verified,
    drop column email_at,
    drop column email_key,
    drop column email_written;
