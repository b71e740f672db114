-- Who looked at what is no longer known.
drop table audit;
