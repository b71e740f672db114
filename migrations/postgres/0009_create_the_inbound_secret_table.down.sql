-- Which secret is still used is no longer known, until the next delivery.
drop table inbound_secret;
