-- Rows of the product's tables that changed and are not told to the exchange of FINHOOK_CHANGES_EXCHANGE yet: written in the
-- transaction that changed them, removed after the broker's confirm. Without that setting it stays empty.
create table changed_row (
    seq bigint generated always as identity primary key,
    row_id uuid not null,
    taken_until timestamptz,
    table_name text not null
);

-- A row that changes again before it is told is told once: however long the broker is away, this table holds no more than the
-- product's tables do. One that a worker has taken is out of this index, because what it tells may be read already.
create unique index changed_row_waiting on changed_row (table_name, row_id) where taken_until is null;
