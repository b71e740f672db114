//! postgres: the statements of `tables` in its SQL.
