-- Who was forgotten is no longer known: what still arrives about them makes rows again.
drop index event_user_mark;
drop index event_subject;
alter table event drop column user_mark;
drop table tombstone;
