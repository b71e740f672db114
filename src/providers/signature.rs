//! Helpers that several providers share: constant-time MAC checks and JSON splitting.
