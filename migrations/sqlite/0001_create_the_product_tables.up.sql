-- The three tables that the product reads, with the names and columns that PostgreSQL has. Ids are hyphenated text, times
-- whole microseconds since 1970 in UTC: SQLite has a type for neither, and integers compare as times do.
--
-- The product's original migration put a plain index on an encrypted column (account.external_id). That finds nothing
-- once encryption is randomised, so there is none here: the blind indexes of the next migration replace it.
create table "user" (
    id text primary key not null,
    external_id text not null,
    email text,
    created_at integer not null default (cast(unixepoch('subsec') * 1000000 as integer)),
    updated_at integer not null default (cast(unixepoch('subsec') * 1000000 as integer)),
    deleted_at integer
) strict;

create table integration (
    id text primary key not null,
    service text not null,
    external_id text not null,
    authorization_id text,
    user_id text not null references "user" (id) on delete cascade,
    created_at integer not null default (cast(unixepoch('subsec') * 1000000 as integer)),
    updated_at integer not null default (cast(unixepoch('subsec') * 1000000 as integer)),
    deleted_at integer
) strict;

create table account (
    id text primary key not null,
    external_id text,
    baas_id text,
    integration_id text not null references integration (id) on delete cascade,
    user_id text not null references "user" (id) on delete cascade,
    created_at integer not null default (cast(unixepoch('subsec') * 1000000 as integer)),
    updated_at integer not null default (cast(unixepoch('subsec') * 1000000 as integer)),
    deleted_at integer
) strict;
