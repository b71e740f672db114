//! Plaid's verification keys: fetched, cached and bounded; the only I/O among the providers.
