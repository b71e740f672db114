-- The three tables that the product reads, as its own schema has them: same names, columns and types, so that its ORM
-- entities go on working. A database that already has them keeps them as they are; a table made here carries a comment
-- that says so, by which the way back knows what it may drop.
--
-- The product's original migration put a plain index on an encrypted column (account.external_id). That finds nothing
-- once encryption is randomised, so there is none here: the blind indexes of the next migration replace it.
do $$
begin
    if to_regclass('"user"') is null then
        create table "user" (
            id uuid primary key default gen_random_uuid(),
            external_id character varying not null,
            email character varying,
            created_at timestamp not null default (now() at time zone 'utc'),
            updated_at timestamp not null default (now() at time zone 'utc'),
            deleted_at timestamp
        );
        comment on table "user" is 'made by finhook';
    end if;

    if to_regclass('integration') is null then
        create table integration (
            id uuid primary key default gen_random_uuid(),
            service character varying not null,
            external_id character varying not null,
            authorization_id character varying,
            user_id uuid not null references "user" (id) on delete cascade,
            created_at timestamp not null default (now() at time zone 'utc'),
            updated_at timestamp not null default (now() at time zone 'utc'),
            deleted_at timestamp
        );
        comment on table integration is 'made by finhook';
    end if;

    if to_regclass('account') is null then
        create table account (
            id uuid primary key default gen_random_uuid(),
            external_id character varying,
            baas_id character varying,
            integration_id uuid not null references integration (id) on delete cascade,
            user_id uuid not null references "user" (id) on delete cascade,
            created_at timestamp not null default (now() at time zone 'utc'),
            updated_at timestamp not null default (now() at time zone 'utc'),
            deleted_at timestamp
        );
        comment on table account is 'made by finhook';
    end if;
end
$$;
