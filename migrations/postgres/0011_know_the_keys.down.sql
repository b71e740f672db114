drop table delivery_key;
drop table sealing_key;
