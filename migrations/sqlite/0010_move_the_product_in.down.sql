-- What the product had written is lost with this.
drop index account_unindexed;
drop table moved_in;
alter table account drop column duplicate_of;
alter table integration drop column duplicate_of;
