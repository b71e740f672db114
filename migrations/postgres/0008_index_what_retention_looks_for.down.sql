-- Retention goes on, and reads the whole table for it.
drop index event_payload;
