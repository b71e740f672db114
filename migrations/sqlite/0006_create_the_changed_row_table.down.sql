-- What is not told yet is never told.
drop table changed_row;
