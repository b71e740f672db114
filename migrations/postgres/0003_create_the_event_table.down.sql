-- The events go with their table: duplicates are no longer known, and nothing can be replayed.
drop table event;
