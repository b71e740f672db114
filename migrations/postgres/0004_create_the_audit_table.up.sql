-- One row per act of a person or of the product that somebody may have to answer for: what was opened, decided or
-- forgotten, by whom, when and why. target_index is a blind index of what the act was about: it finds the rows of a user
-- or a subject after their own id was taken out of them.
create table audit (
    id uuid primary key,
    at timestamptz not null,
    actor text not null,
    act text not null,
    target text,
    target_index bytea,
    reason text,
    detail text
);

create index audit_target_index on audit (target_index) where target_index is not null;
