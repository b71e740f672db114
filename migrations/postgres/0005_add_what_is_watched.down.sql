drop index event_dead_age;
drop index event_retrying_age;
drop index event_unlinked_age;
drop table queue_progress;
