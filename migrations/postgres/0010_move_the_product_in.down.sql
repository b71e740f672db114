-- What the product had written is lost with this: `finhook import typeorm --revert` puts it back before.
drop index account_unindexed;
drop table moved_in;
alter table account drop column duplicate_of;
-- The unique index of migration 2 leaves out the rows that this column marks, where there were any.
alter table integration drop column duplicate_of cascade;
create index if not exists integration_service_external_id on integration (service, external_id);
