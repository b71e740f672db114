-- When each of the providers' inbound secrets last proved a delivery, by a keyed fingerprint, so that one that is no longer
-- used can be taken away. Workers write it every half minute, from what the sealed deliveries say.
create table inbound_secret (
    provider text not null,
    fingerprint text not null,
    last_verified_at integer not null,
    primary key (provider, fingerprint)
) strict;
