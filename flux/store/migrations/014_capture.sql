-- A row that is changed alone costs a quarter fewer expressions: each trigger sets up each of them anew in each transaction.

-- The one trigger function of every table.
--
-- SECURITY DEFINER: the guest has no right on flux.mutation. Arguments: flags, then the names of the primary
-- key's columns, sorted; flux.capture_arguments() makes them, and says what the flags are.
--
-- It runs for each statement that writes, and most write one row. So it is arranged for that, and counts what it does: an
-- expression costs about 0.15 us, and 2 the first time in a transaction, for each trigger anew; a SET clause or a setting
-- written 1 to 2, a query 4, the row of the log 15. So what a single row does not need is given its value where several
-- are seen to, and not at its declaration.
create or replace function flux.capture() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    flags constant text := tg_argv[0];
    mediated constant boolean := starts_with(session_user::text, 'flux_guest_');
    pin record;
    names_pinned text[];                    -- settings to be put back, and what they were; null: none
    values_before text[];
    is_single boolean;                      -- one row; its images:
    old_image json;
    new_image json;
    -- Several rows:
    keys text[];
    key_count int;
    small int;                              -- up to so many, their images are held in arrays
    notice_rows int;                        -- so many of them are told, and so many bytes of images
    notice_bytes int;
    old_rows bigint;
    new_rows bigint;
    is_small boolean;
    olds json[];
    news json[];
    old_source text;                        -- many rows: where their images come from, as SQL; null when there are none
    new_source text;
    pair_source text;
    key_sql text;
    log_sql text;
    my_xid xid8;
    root oid;                               -- the table, or that of which it is a partition
    root_schema text;
    root_table text;
    statement_depth int;
    statement_ordinal int;
    previous text;                          -- what the capture before this one left: its ordinal, table and operation
    setting text;
    is_again boolean;
    old_key text;
    new_key text;
    key_head text;                          -- {"id": for the commonest case, a key of one column
    keys_changed boolean;
    is_cut boolean;
    befores text;                           -- the images as the notice has them
    afters text;
    header text;
begin
    -- 1. A guest may set whatever changes a rendering or silences a notice, so all that is pinned. Not by SET clauses,
    -- which do it in each call: most sessions have these values anyway, and the others pay for it alone. All numbers of
    -- extra digits above 0 mean the same, and of a time zone images have but the offset.
    if current_setting('client_min_messages') <> 'notice' or current_setting('client_encoding') <> 'UTF8'
       or current_setting('bytea_output') <> 'hex' or current_setting('extra_float_digits') not in ('1', '2', '3')
       or strpos(flags, 'z') > 0 and current_setting('timezone') not in ('UTC', 'Etc/UTC', 'GMT')
       or strpos(flags, 's') > 0 and (
           current_setting('datestyle') <> 'ISO, MDY' or current_setting('intervalstyle') <> 'postgres'
           or current_setting('lc_monetary') <> 'C' or current_setting('quote_all_identifiers') <> 'off')
       or tg_op = 'TRUNCATE'
    then
        for pin in
            select p.name, p.value
            from (values ('client_min_messages', 'notice', true), ('client_encoding', 'UTF8', true),
                         ('bytea_output', 'hex', true), ('extra_float_digits', '1', true),
                         ('timezone', 'UTC', strpos(flags, 'z') > 0), ('datestyle', 'ISO, MDY', strpos(flags, 's') > 0),
                         ('intervalstyle', 'postgres', strpos(flags, 's') > 0), ('lc_monetary', 'C', strpos(flags, 's') > 0),
                         ('quote_all_identifiers', 'off', strpos(flags, 's') > 0),
                         -- A truncate reads the table itself. With a policy in the way that fails, and misses no row.
                         ('row_security', 'off', tg_op = 'TRUNCATE')) p (name, value, matters)
            where p.matters and current_setting(p.name) <> p.value
        loop
            names_pinned := names_pinned || pin.name;
            values_before := values_before || current_setting(pin.name);
            setting := set_config(pin.name, pin.value, true);
        end loop;
    end if;

    <<change>>
    begin
        -- 2. The images. The loops end at the second row: is_single is null after none, true after one, false after two.
        -- An update makes as many rows as it found, except that a partition can refuse one; then no two form a pair.
        if tg_op = 'TRUNCATE' or strpos(flags, 'v') > 0 then
            is_single := false;
        elsif tg_op = 'INSERT' then
            for new_image in select to_json(flux__r) from flux__new flux__r loop
                is_single := is_single is null;
                exit when not is_single;
            end loop;
        elsif tg_op = 'DELETE' then
            for old_image in select to_json(flux__r) from flux__old flux__r loop
                is_single := is_single is null;
                exit when not is_single;
            end loop;
        else
            for old_image, new_image in select to_json(flux__o), to_json(flux__n) from flux__old flux__o, flux__new flux__n loop
                is_single := is_single is null;
                exit when not is_single;
            end loop;
        end if;
        if is_single is not true then
            keys := tg_argv[1:];
            key_count := tg_nargs - 1;
            -- Arrays are the fastest. Above this number rows are streamed: an array, like any value, is limited to 1 GB.
            small := 64;
            notice_rows := 1000;
            notice_bytes := 262144;
            -- At most one more than "small".
            if tg_op = 'TRUNCATE' or strpos(flags, 'v') > 0 then
                old_source := case when tg_op = 'TRUNCATE' then format('(select %s from only %I.%I)', flux.row_expression(tg_relid), tg_table_schema, tg_table_name)
                                   when tg_op <> 'INSERT' then format('(select %s from flux__old)', flux.row_expression(tg_relid)) end;
                new_source := case when tg_op in ('INSERT', 'UPDATE') then format('(select %s from flux__new)', flux.row_expression(tg_relid)) end;
                if old_source is not null then
                    execute format('select array_agg(image) from (select to_json(flux__r) image from %s flux__r limit %s) s', old_source, small + 1) into olds;
                end if;
                if new_source is not null then
                    execute format('select array_agg(image) from (select to_json(flux__r) image from %s flux__r limit %s) s', new_source, small + 1) into news;
                end if;
            else
                if tg_op <> 'INSERT' then
                    select array_agg(image) into olds from (select to_json(flux__r) image from flux__old flux__r limit small + 1) s;
                end if;
                if tg_op <> 'DELETE' then
                    select array_agg(image) into news from (select to_json(flux__r) image from flux__new flux__r limit small + 1) s;
                end if;
            end if;
            exit change when olds is null and news is null;     -- the statement changed nothing
            old_rows := coalesce(cardinality(olds), 0);
            new_rows := coalesce(cardinality(news), 0);
            is_small := old_rows <= small and new_rows <= small;
        end if;

        -- 3. Where we are.
        my_xid := pg_current_xact_id();
        root := coalesce(pg_partition_root(tg_relid), tg_relid);
        if root <> tg_relid then
            select n.nspname, c.relname into root_schema, root_table
            from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = root;
        else
            root_schema := tg_table_schema;
            root_table := tg_table_name;
        end if;
        statement_depth := pg_trigger_depth();
        -- The counter is undone with a subtransaction, which is the point. A guest can set it too, to anything: it is a
        -- hint, the seq in the notice is the proof.
        previous := current_setting('flux.ordinal', true);
        statement_ordinal := 1 + case when length(split_part(previous, ' ', 1)) between 1 and 8 and ltrim(split_part(previous, ' ', 1), '0123456789') = ''
                                      then split_part(previous, ' ', 1)::int else 0 end;
        setting := set_config('flux.ordinal', concat(statement_ordinal, ' ', root, ' ', tg_op), true);
        if flags not in ('', 'z', 'sz') then
            if strpos(flags, 'c') > 0 and tg_op in ('UPDATE', 'DELETE') then
                -- A cascade's AFTER triggers run at the depth of the statement that caused it; its BEFORE trigger knew better.
                setting := current_setting('flux.depth_' || tg_relid, true);
                if setting ~ '^[0-9]{1,4}$' then
                    statement_depth := greatest(statement_depth, setting::int);
                end if;
            end if;
            if strpos(flags, 'o') > 0 then
                -- Whether this transaction has logged changes of this table before. A trigger's statement sets it before
                -- the statement that fired it looks, whatever a guest set in between.
                is_again := coalesce(current_setting('flux.seen_' || root, true), '') <> '';
                setting := set_config('flux.seen_' || root, 'x', true);
            end if;
        end if;

        -- 4. The log.
        if is_single then
            for i in 1 .. tg_nargs - 1 loop
                new_key := concat(new_key, case when i = 1 then '{' else ',' end, to_json(tg_argv[i]), ':', coalesce(new_image, old_image) -> tg_argv[i]);
                if tg_op = 'UPDATE' then
                    old_key := concat(old_key, case when i = 1 then '{' else ',' end, to_json(tg_argv[i]), ':', old_image -> tg_argv[i]);
                end if;
            end loop;
            if old_key <> new_key then      -- a delete and an insert
                keys_changed := true;
                insert into flux.mutation (xid, ordinal, relid, schema_name, table_name, op, depth, outside, key, before)
                values (my_xid, statement_ordinal, root, root_schema, root_table, 'D', statement_depth, not mediated,
                        old_key || '}', old_image);
                insert into flux.mutation (xid, ordinal, relid, schema_name, table_name, op, depth, outside, key, after)
                values (my_xid, statement_ordinal, root, root_schema, root_table, 'I', statement_depth, not mediated,
                        new_key || '}', new_image);
            else
                insert into flux.mutation (xid, ordinal, relid, schema_name, table_name, op, depth, outside, key, before, after)
                values (my_xid, statement_ordinal, root, root_schema, root_table, left(tg_op, 1)::"char", statement_depth, not mediated,
                        new_key || '}', old_image, new_image);
            end if;
        elsif is_small then
            if key_count = 1 then
                key_head := '{' || to_json(keys[1]) || ':';
            end if;
            if tg_op = 'UPDATE' then
                if old_rows <> new_rows then    -- a row left for a partition whose trigger refused it
                    keys_changed := true;
                elsif key_count = 1 then
                    select bool_or((u.o -> keys[1])::text <> (u.n -> keys[1])::text) into strict keys_changed
                    from rows from (unnest(olds), unnest(news)) u(o, n);
                elsif key_count > 1 then
                    select bool_or((u.o -> k.name)::text <> (u.n -> k.name)::text) into strict keys_changed
                    from rows from (unnest(olds), unnest(news)) u(o, n), unnest(keys) k(name);
                end if;
            end if;
            if keys_changed then
                -- A changed key is a delete and an insert: all the deletes first, so that "update t set id = id + 1"
                -- does not insert 2 before the old 2 is gone.
                insert into flux.mutation (xid, ordinal, relid, schema_name, table_name, op, depth, outside, key, before, after)
                select my_xid, statement_ordinal, root, root_schema, root_table, s.op, statement_depth, not mediated,
                       case when key_count = 1 then key_head || (coalesce(s.o, s.n) -> keys[1])::text || '}'
                            when key_count > 1 then (select '{' || string_agg(to_json(k.name)::text || ':' || (coalesce(s.o, s.n) -> k.name)::text, ',' order by k.i) || '}'
                                                     from unnest(keys) with ordinality k(name, i)) end,
                       s.o, s.n
                from (select 1 phase, 'D'::"char" op, u.o, null::json n, u.i from unnest(olds) with ordinality u(o, i)
                      union all
                      select 2, 'I'::"char", null, u.n, u.i from unnest(news) with ordinality u(n, i)
                      order by 1, 5) s;
            else
                -- unnest with several arguments pairs in linear time; joining on row_number() did not.
                insert into flux.mutation (xid, ordinal, relid, schema_name, table_name, op, depth, outside, key, before, after)
                select my_xid, statement_ordinal, root, root_schema, root_table, left(tg_op, 1)::"char", statement_depth, not mediated,
                       case when key_count = 1 then key_head || (coalesce(u.o, u.n) -> keys[1])::text || '}'
                            when key_count > 1 then (select '{' || string_agg(to_json(k.name)::text || ':' || (coalesce(u.o, u.n) -> k.name)::text, ',' order by k.i) || '}'
                                                     from unnest(keys) with ordinality k(name, i)) end,
                       u.o, u.n
                from rows from (unnest(olds), unnest(news)) u(o, n);
            end if;
        else
            -- Many rows: plain SQL from one table to the other, planned now that the numbers of rows are known.
            if tg_op <> 'TRUNCATE' and strpos(flags, 'v') = 0 then
                old_source := case when tg_op <> 'INSERT' then 'flux__old' end;
                new_source := case when tg_op <> 'DELETE' then 'flux__new' end;
            end if;
            if old_source is not null then
                execute format('select count(*) from %s flux__r', old_source) into old_rows;
            end if;
            if new_source is not null then
                execute format('select count(*) from %s flux__r', new_source) into new_rows;
            end if;
            key_sql := (select '''{'' || ' || string_agg(quote_literal(to_json(k.name)::text || ':') || format(' || (coalesce(s.o, s.n) -> %L)::text', k.name), ' || '','' || ' order by k.i)
                               || ' || ''}''' from unnest(keys) with ordinality k(name, i));
            log_sql := 'insert into flux.mutation (xid, ordinal, relid, schema_name, table_name, op, depth, outside, key, before, after) '
                    || format('select %L::xid8, %s, %s, %L, %L, %%L, %s, %L, %s, s.o, s.n from %%s s', my_xid, statement_ordinal, root,
                              replace(root_schema, '%', '%%'), replace(root_table, '%', '%%'),  -- the text is a format itself
                              statement_depth, not mediated, replace(coalesce(key_sql, 'null'), '%', '%%'));
            if tg_op <> 'UPDATE' then
                execute format(log_sql, left(tg_op, 1), format(
                    case when new_source is null then '(select to_json(flux__r) o, null::json n from %s flux__r offset 0)'
                         else '(select null::json o, to_json(flux__r) n from %s flux__r offset 0)' end, coalesce(new_source, old_source)));
            else
                keys_changed := old_rows <> new_rows;
                if not keys_changed and key_count > 0 then
                    -- Not "exists": for the first row only, the planner takes a nested loop, and there is no such row.
                    execute format('select coalesce(bool_or(a.k <> b.k), false) from (select row_number() over () i, %1$s k from %2$s flux__r) a '
                                   'join (select row_number() over () i, %1$s k from %3$s flux__r) b using (i)',
                                   (select 'array[' || string_agg(format('to_json(flux__r.%I)::text', k), ', ') || ']' from unnest(keys) k),
                                   old_source, new_source) into keys_changed;
                end if;
                if keys_changed then
                    execute format(log_sql, 'D', format('(select to_json(flux__r) o, null::json n from %s flux__r offset 0)', old_source));
                    execute format(log_sql, 'I', format('(select null::json o, to_json(flux__r) n from %s flux__r offset 0)', new_source));
                else
                    pair_source := format('(select a.o, b.n from (select row_number() over () i, to_json(flux__r) o from %s flux__r) a '
                                          'join (select row_number() over () i, to_json(flux__r) n from %s flux__r) b using (i) order by i)', old_source, new_source);
                    execute format(log_sql, 'U', pair_source);
                end if;
            end if;
        end if;
        -- Rows may have been logged out of order where the user's row triggers change the same table, and by a MERGE,
        -- which logs its inserts, then its updates, then its deletes, one right after the other.
        if tg_nargs > 1 and (is_again or (keys_changed or tg_op = 'DELETE') and split_part(previous, ' ', 2) = root::text
                              and split_part(previous, ' ', 3) in ('INSERT', 'UPDATE'))
        then
            perform flux.put_in_order(my_xid, statement_ordinal, root, pg_trigger_depth());
        end if;

        -- 5. The notice: it reaches the supervisor before an abort does.
        if mediated then
            if is_single then
                befores := coalesce('[' || old_image || ']', '');
                afters := coalesce('[' || new_image || ']', '');
                if octet_length(befores) + octet_length(afters) > 262144 then     -- notice_bytes
                    is_cut := true;
                    befores := case when old_image is null then '' else '[]' end;
                    afters := case when new_image is null then '' else '[]' end;
                end if;
            else
                if not is_small then
                    -- As many first rows as fit, and always whole rows.
                    is_cut := greatest(old_rows, new_rows) > notice_rows;
                    if old_source is not null then
                        execute format('select array_agg(image) from (select image, sum(octet_length(image::text)) over (rows unbounded preceding) bytes '
                                       'from (select to_json(flux__r) image from %s flux__r limit %s) r) s where bytes <= %s', old_source, notice_rows, notice_bytes) into olds;
                        olds := coalesce(olds, '{}');
                    end if;
                    if new_source is not null then
                        execute format('select array_agg(image) from (select image, sum(octet_length(image::text)) over (rows unbounded preceding) bytes '
                                       'from (select to_json(flux__r) image from %s flux__r limit %s) r) s where bytes <= %s', new_source, notice_rows, notice_bytes) into news;
                        news := coalesce(news, '{}');
                    end if;
                    is_cut := is_cut or coalesce(cardinality(olds), 0) < old_rows or coalesce(cardinality(news), 0) < new_rows;
                end if;
                befores := coalesce(array_to_json(olds)::text, '');
                afters := coalesce(array_to_json(news)::text, '');
                if octet_length(befores) + octet_length(afters) > notice_bytes then
                    is_cut := true;
                    select coalesce(array_to_json(case when olds is not null then coalesce(array_agg(s.o order by s.i) filter (where s.bytes <= notice_bytes), '{}') end)::text, ''),
                           coalesce(array_to_json(case when news is not null then coalesce(array_agg(s.n order by s.i) filter (where s.bytes <= notice_bytes), '{}') end)::text, '')
                    into strict befores, afters
                    from (select u.o, u.n, u.i,
                                 sum(octet_length(coalesce(u.o::text, '')) + octet_length(coalesce(u.n::text, '')) + 2) over (order by u.i) bytes
                          from rows from (unnest(olds), unnest(news)) with ordinality u(o, n, i)) s
                    where s.o is not null or s.n is not null;
                end if;
            end if;
            -- Signed is all but the images, of which their lengths are.
            header := format('[1,"%s",%s,%s,%s,%s,%s,%s,%s,%s', left(tg_op, 1), my_xid, statement_ordinal, currval('flux.mutation_seq'), root,
                             statement_depth, case when is_single then 1 else greatest(old_rows, new_rows) end, coalesce(is_cut, false)::text,
                             array_to_json(tg_argv[1:]));
            raise notice sqlstate 'FX001' using message = header || ',"' || left(encode(sha256(convert_to(
                    flux.notice_secret() || header || length(befores) || ' ' || length(afters), 'UTF8')), 'hex'), 32) || '"]',
                schema = root_schema, table = root_table, detail = befores, hint = afters;
        end if;
    end change;

    if names_pinned is not null then
        for i in 1 .. cardinality(names_pinned) loop
            setting := set_config(names_pinned[i], values_before[i], true);
        end loop;
    end if;
    return null;
end $$;
