//! sqlite: the statements of `tables` in its SQL.
