-- An embedded database has no other owner: its tables go. Children first.
drop table account;
drop table integration;
drop table "user";
