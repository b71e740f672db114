//! The embedded queue: a durable log in SQLite with group commit.
