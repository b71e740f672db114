-- The oldest payloads that are no longer needed. It grows at its right edge, and shrinks by what is wiped.
create index event_payload on event (received_at) where state in ('applied', 'recorded') and payload <> '';
