-- Drops what the way up made, and leaves tables alone that the product had before. Children first.
do $$
declare
    made text;
begin
    foreach made in array array['account', 'integration', '"user"'] loop
        if obj_description(to_regclass(made), 'pg_class') = 'made by finhook' then
            execute 'drop table ' || made;
        end if;
    end loop;
end
$$;
