-- Flux's own schema: what executions did, and every row they changed.
--
-- How to think about it. Three kinds of things live here:
--
--   records    flux.execution (one row an execution), flux.transaction, flux.blob, flux.deployment
--   changes    flux.mutation (a row for each changed row of the users' tables), flux.ddl (their DDL)
--   machinery  the trigger function flux.capture() that writes the changes, the functions that install it,
--              and the two functions a guest's own connection may call, both behind a token
--
-- Everything is owned by the role that installs it. Guests log in as flux_guest_<tenant> and have no right on
-- any table here. docs/design/010-capture.md gives the reasons; the comments below give the traps.
--
-- This file is the whole schema as it is now. The same state is reached by flux/store/migrations/, in order;
-- a test compares the two object by object.

create schema flux;
revoke all on schema flux from public;

-- ---------------------------------------------------------------------------------------------------------
-- Machinery's own tables
-- ---------------------------------------------------------------------------------------------------------

create table flux.schema_version (
    version     int primary key,
    name        text not null,
    sha256      text not null,              -- of the migration's text: an edited migration is refused
    applied_at  timestamptz not null default pg_catalog.clock_timestamp()
);
comment on table flux.schema_version is 'Flux''s own migrations, as they were applied.';

create table flux.instance (
    key    text primary key,
    value  text not null
);
comment on table flux.instance is 'Facts about this installation. notice_secret authenticates NOTICEs of flux.capture().';

-- gen_random_uuid() draws on the server's strong randomness; two of them carry 244 bits.
insert into flux.instance (key, value)
values ('notice_secret', pg_catalog.encode(pg_catalog.sha256(
            pg_catalog.uuid_send(pg_catalog.gen_random_uuid()) || pg_catalog.uuid_send(pg_catalog.gen_random_uuid())), 'hex')),
       ('id', pg_catalog.gen_random_uuid()::text);

create table flux.supervisor (
    token_sha256  bytea primary key,        -- the token itself stays in the supervisor's memory
    description   text not null,            -- host and process id, for people
    started_at    timestamptz not null default pg_catalog.clock_timestamp()
);
comment on table flux.supervisor is 'Supervisors that may write records on a guest''s connection.';

create table flux.guest (
    tenant       text primary key,
    role_name    text not null unique,
    schema_name  text not null
);
comment on table flux.guest is 'The login role of each tenant and the schema it works in.';

-- ---------------------------------------------------------------------------------------------------------
-- Records
-- ---------------------------------------------------------------------------------------------------------

create table flux.execution (
    id              uuid not null,          -- UUIDv7: the partition key, and the order of start
    name            text not null,          -- what people type, eight characters
    tenant          text not null,
    trigger         text not null,          -- http, invoke, queue, cron, replay
    function        text not null,
    method          text,
    path            text,
    route           text,
    status          int,
    outcome         text not null,          -- returned, raised, killed, exited, interrupted
    error_type      text,
    error_message   text,
    error_location  text,
    signature       text,                   -- of the failure; null when it did not fail
    started_at      timestamptz not null,
    elapsed_ns      bigint not null,
    call_count      int not null,
    mutation_count  int not null,
    sha             text,
    dirty           boolean not null,
    deployment      text,
    parent          uuid,
    attempt         int not null,
    replay_of       uuid,
    xid             xid8,                   -- of an atomic execution's one transaction, when it wrote
    completeness    text not null,
    hosts_failed    text[],                 -- outbound hosts whose call failed; null when there are none
    format          smallint not null,
    body            bytea not null,         -- the recording, compressed by us
    primary key (id)
) partition by range (id);
alter table flux.execution alter column body set storage external;  -- compressed already: don't try again
comment on table flux.execution is 'One row for each execution: what lists and filters need, and the recording.';

-- Each index costs every request a write, so each has to earn it:
-- ids are typed by their first characters. text_pattern_ops serves "=" and "starts with" alike.
create index execution_name on flux.execution (name text_pattern_ops);
-- Lists of one function newest first, and totals by (function, sha) without touching the table.
create index execution_function on flux.execution (function, id) include (sha);
-- Who wrote this row. Partial: executions that only read have no xid.
create index execution_xid on flux.execution (xid) where xid is not null;
-- The same failure elsewhere, and how often by sha. Partial: successes pay nothing.
create index execution_signature on flux.execution (signature, id) include (sha) where signature is not null;
-- The latest failures, and who else lost a host. One index for both questions, since both are rare and by time.
create index execution_notable on flux.execution (id) where signature is not null or hosts_failed is not null;

create table flux.transaction (
    xid        xid8 primary key,
    execution  uuid not null,
    snapshot   pg_snapshot,
    isolation  text not null
);
comment on table flux.transaction is 'Transactions of executions that are not atomic; written inside the transaction itself.';
create index transaction_execution on flux.transaction (execution);

create table flux.blob (
    sha256      bytea primary key,
    size_bytes  bigint not null,            -- of the whole, also when it was cut
    cut         boolean not null default false,
    stored_at   timestamptz not null default pg_catalog.clock_timestamp(),
    body        bytea not null
);
alter table flux.blob alter column body set storage external;
comment on table flux.blob is 'Bodies too large for a record, by their content.';

create table flux.deployment (
    id             text primary key,
    tenant         text not null,
    sha            text,
    dirty          boolean not null,
    artifact_hash  text not null,
    functions      json not null,
    created_at     timestamptz not null default pg_catalog.clock_timestamp(),
    activated_at   timestamptz,             -- the last time it was switched to; null: never served
    note           text
);
comment on table flux.deployment is 'Code at one git SHA (or a dirty tree), ready to run.';
create index deployment_created on flux.deployment (tenant, created_at);

create table flux.migration_applied (
    tenant      text not null,
    name        text not null,
    sha256      text not null,
    applied_at  timestamptz not null default pg_catalog.clock_timestamp(),
    primary key (tenant, name)
);
comment on table flux.migration_applied is 'The users'' own migrations, as they were applied.';

-- ---------------------------------------------------------------------------------------------------------
-- Changes
-- ---------------------------------------------------------------------------------------------------------

-- One sequence, cache 1: within a key, the order of seq is the order of the changes, because seq is drawn
-- while the row's lock is held. A cached sequence would break that between sessions.
create sequence flux.mutation_seq as bigint cache 1;

create table flux.mutation (
    seq          bigint not null default pg_catalog.nextval('flux.mutation_seq'),
    at           timestamptz not null default pg_catalog.clock_timestamp(),
    xid          xid8 not null,
    ordinal      int not null,              -- counts the capturing statements of the transaction
    relid        oid not null,
    schema_name  text not null,             -- names as they were: they outlive a drop, a rename and a restore
    table_name   text not null,             -- a partition's changes carry the name of its root
    op           "char" not null,           -- I, U, D, T (a row that a truncate took)
    depth        smallint not null,         -- 1: the statement itself; more: a trigger or a cascade
    key          text,                      -- {"id":42}, columns sorted by name; null: no primary key
    before       json,                      -- json, not jsonb: jsonb loses -0 and the text of json columns
    after        json,
    committed    boolean not null default true,  -- false: seen in a NOTICE, then rolled back
    execution    uuid,                      -- only where committed is false; else xid says who
    cut          boolean not null default false  -- more rows were changed than are known
) partition by range (at);
comment on table flux.mutation is 'Every changed row of the users'' tables, written in the transaction that changed it.';

-- One row's history, out of millions: 16 bytes an entry whatever the key's size, and no limit on that size.
create index mutation_row on flux.mutation (
    pg_catalog.hashtextextended(key, pg_catalog.hashtextextended(table_name, pg_catalog.hashtextextended(schema_name, 0))), seq);
-- All changes of a transaction, and (xid >= the xmin of a snapshot) all that a snapshot did not see.
create index mutation_xid on flux.mutation (xid);
-- What an execution tried and lost. Partial: nearly empty.
create index mutation_execution on flux.mutation (execution) where execution is not null;

create table flux.ddl (
    seq              bigint generated always as identity primary key,
    at               timestamptz not null default pg_catalog.clock_timestamp(),
    xid              xid8 not null,
    session_role     text not null,
    command          text not null,
    object_type      text not null,
    object_identity  text not null,
    dropped          boolean not null,
    catalog_digest   text not null          -- of all user tables' columns after the command
);
comment on table flux.ddl is 'Changes of the users'' schema, from event triggers.';
create index ddl_xid on flux.ddl (xid);

-- ---------------------------------------------------------------------------------------------------------
-- Partitions by day
-- ---------------------------------------------------------------------------------------------------------

-- The smallest UUIDv7 of an instant: 48 bits of milliseconds, the rest zero.
create function flux.uuid_floor(at timestamptz) returns uuid
language sql immutable strict parallel safe as $$
    select (pg_catalog.lpad(pg_catalog.to_hex((extract(epoch from at) * 1000)::bigint), 12, '0') || '00000000000000000000')::uuid
$$;

create table flux.mutation_default partition of flux.mutation default;
create table flux.execution_default partition of flux.execution default;

-- Makes one day's partition unless it exists. Rows which fell into the default partition meanwhile move over.
-- ATTACH, not CREATE ... PARTITION OF: that would lock the whole table against everybody.
create function flux.ensure_partition(parent text, day date) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO' as $$
declare
    partition_name constant text := parent || '_p' || to_char(day, 'YYYYMMDD');
    column_name constant text := case parent when 'execution' then 'id' else 'at' end;
    low text := day::timestamptz::text;
    high text := (day + 1)::timestamptz::text;
begin
    if to_regclass(format('flux.%I', partition_name)) is not null then
        return false;
    end if;
    if parent = 'execution' then
        low := flux.uuid_floor(day::timestamptz)::text;
        high := flux.uuid_floor((day + 1)::timestamptz)::text;
    end if;
    execute format('create table flux.%I (like flux.%I including defaults including storage)', partition_name, parent);
    -- Nobody may add to the default partition between the move and the attachment.
    execute format('lock table flux.%I in share row exclusive mode', parent || '_default');
    execute format('with moved as (delete from flux.%1$I where %2$I >= %3$L and %2$I < %4$L returning *) insert into flux.%5$I select * from moved',
                   parent || '_default', column_name, low, high, partition_name);
    execute format('alter table flux.%I attach partition flux.%I for values from (%L) to (%L)', parent, partition_name, low, high);
    return true;
end $$;

create function flux.ensure_partitions(days_ahead int default 7) returns int
language plpgsql set search_path = pg_catalog, pg_temp set timezone = 'UTC' as $$
declare
    made int := 0;
    today constant date := (now() at time zone 'UTC')::date;
    parent text;
    day date;
begin
    -- Several supervisors start at once; the second waits and finds the work done.
    perform pg_advisory_xact_lock(hashtextextended('flux.ensure_partitions', 0));
    foreach parent in array array['mutation', 'execution'] loop
        -- Days that nobody prepared have their rows in the default partition; they get a partition now.
        for day in
            select ahead::date from generate_series(today, today + days_ahead, interval '1 day') ahead
            union
            select (at at time zone 'UTC')::date from flux.mutation_default where parent = 'mutation'
            union
            select (started at time zone 'UTC')::date from flux.execution_default,
                   lateral (select to_timestamp(('x' || left(replace(id::text, '-', ''), 12))::bit(48)::bigint / 1000.0) started) s
            where parent = 'execution'
            order by 1
        loop
            made := made + flux.ensure_partition(parent, day)::int;
        end loop;
    end loop;
    return made;
end $$;

-- ---------------------------------------------------------------------------------------------------------
-- Capture
-- ---------------------------------------------------------------------------------------------------------

-- Puts right the order of rows that were written before the rows of an outer statement.
--
-- An AFTER ROW trigger of the user's that changes the same row again is logged first, since its statement ends
-- first; so is a MERGE's insert that reuses the key of a row the same MERGE deleted. The images tell the true
-- order: each change starts where the one before it ended. Rows of this statement belong before the earliest
-- later change; those later ones get a new seq.
create function flux.put_in_order(statement_xid xid8, statement_ordinal int, statement_relid oid) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    mine record;
    later record;
    previous_after text;
    place bigint;
    fits boolean;
begin
    for mine in
        select distinct on (m.key) m.key, m.schema_name, m.table_name,
               first_value(m.before::text) over per_key as before, last_value(m.after::text) over per_key as after
        from flux.mutation m
        where m.xid = statement_xid and m.ordinal = statement_ordinal and m.relid = statement_relid and m.key is not null
        window per_key as (partition by m.key order by m.seq rows between unbounded preceding and unbounded following)
    loop
        place := null;
        fits := false;
        previous_after := mine.before;      -- before the first row of the transaction anything fits
        for later in
            select o.seq, o.before::text as before, o.after::text as after
            from flux.mutation o
            where o.xid = statement_xid and o.ordinal <> statement_ordinal
              and hashtextextended(o.key, hashtextextended(o.table_name, hashtextextended(o.schema_name, 0)))
                  = hashtextextended(mine.key, hashtextextended(mine.table_name, hashtextextended(mine.schema_name, 0)))
              and o.key = mine.key and o.schema_name = mine.schema_name and o.table_name = mine.table_name
            order by o.seq
        loop
            if previous_after is not distinct from mine.before and later.before is not distinct from mine.after then
                place := later.seq;
            end if;
            previous_after := later.after;
            fits := previous_after is not distinct from mine.before;
        end loop;
        if place is null or fits then
            continue;                       -- the end, where the rows are, is right
        end if;
        for later in
            select o.seq
            from flux.mutation o
            where o.xid = statement_xid and o.ordinal <> statement_ordinal and o.seq >= place
              and hashtextextended(o.key, hashtextextended(o.table_name, hashtextextended(o.schema_name, 0)))
                  = hashtextextended(mine.key, hashtextextended(mine.table_name, hashtextextended(mine.schema_name, 0)))
              and o.key = mine.key and o.schema_name = mine.schema_name and o.table_name = mine.table_name
            order by o.seq
        loop
            update flux.mutation set seq = nextval('flux.mutation_seq') where seq = later.seq and xid = statement_xid;
        end loop;
    end loop;
end $$;

-- The select list that gives a table's rows with its virtual generated columns (PostgreSQL 18) computed: in a
-- transition table they are null, and null would be a false statement.
create function flux.row_expression(rel oid) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
    select string_agg(case when a.attgenerated = 'v' then '(' || pg_get_expr(d.adbin, d.adrelid) || ')' else format('%I', a.attname) end
                      || format(' as %I', a.attname), ', ' order by a.attnum)
    from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where a.attrelid = rel and a.attnum > 0 and not a.attisdropped
$$;

-- The one trigger function of every table.
--
-- SECURITY DEFINER: the guest has no right on flux.mutation. The SET clauses pin whatever changes a rendering or
-- could silence a NOTICE; a guest may set all of these for its own session. Arguments: flags, then the names
-- of the primary key's columns, sorted. Flags: o = the table has row triggers of the user's, so order needs a
-- look; v = it has virtual generated columns; c = a foreign key cascades into it.
create function flux.capture() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set client_min_messages = notice
set client_encoding = 'UTF8'
set extra_float_digits = 1
set datestyle = 'ISO, MDY'
set intervalstyle = 'postgres'
set timezone = 'UTC'
set bytea_output = 'hex'
set lc_monetary = 'C'
set row_security = off
as $$
declare
    -- Above this many rows, images are streamed: arrays of them could pass the limit of 1 GB.
    small constant int := 200;
    notice_rows constant int := 1000;
    notice_bytes constant int := 262144;

    flags constant text := tg_argv[0];
    key_count constant int := tg_nargs - 1;
    key_head text;                          -- {"id": for the commonest case, a key of one column
    letter constant "char" := left(tg_op, 1);
    my_xid constant xid8 := pg_current_xact_id();
    mediated constant boolean := starts_with(session_user::text, 'flux_guest_');
    root constant oid := coalesce(pg_partition_root(tg_relid), tg_relid);
    root_schema text := tg_table_schema;
    root_table text := tg_table_name;
    statement_depth int := pg_trigger_depth();
    setting text;
    statement_ordinal int;
    previous text;
    olds json[];
    news json[];
    pairs_changed boolean := false;
    old_rows bigint := 0;
    new_rows bigint := 0;
    total bigint;
    is_small boolean;
    is_cut boolean := false;
    befores text := '';
    afters text := '';
    taken int;
    header text;
begin
    -- 1. The images, at most one more than "small".
    if tg_op = 'TRUNCATE' then
        execute format('select array_agg(image) from (select to_json(flux__r) image from only %I.%I flux__r limit %s) s',
                       tg_table_schema, tg_table_name, small + 1) into olds;
    elsif strpos(flags, 'v') > 0 then
        if tg_op <> 'INSERT' then
            execute format('select array_agg(image) from (select to_json(flux__r) image from (select %s from flux__old) flux__r limit %s) s',
                           flux.row_expression(tg_relid), small + 1) into olds;
        end if;
        if tg_op <> 'DELETE' then
            execute format('select array_agg(image) from (select to_json(flux__r) image from (select %s from flux__new) flux__r limit %s) s',
                           flux.row_expression(tg_relid), small + 1) into news;
        end if;
    else
        if tg_op <> 'INSERT' then
            select array_agg(image) into olds from (select to_json(flux__r) image from flux__old flux__r limit small + 1) s;
        end if;
        if tg_op <> 'DELETE' then
            select array_agg(image) into news from (select to_json(flux__r) image from flux__new flux__r limit small + 1) s;
        end if;
    end if;
    if olds is null and news is null then
        return null;                        -- the statement changed nothing
    end if;
    old_rows := coalesce(cardinality(olds), 0);
    new_rows := coalesce(cardinality(news), 0);
    is_small := old_rows <= small and new_rows <= small;

    -- 2. Where we are.
    if root <> tg_relid then
        select n.nspname, c.relname into root_schema, root_table
        from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = root;
    end if;
    if strpos(flags, 'c') > 0 then
        -- A cascade's AFTER triggers run at the depth of the statement that caused it; its BEFORE trigger knew better.
        setting := current_setting('flux.depth_' || tg_relid, true);
        if setting ~ '^[0-9]{1,4}$' then
            statement_depth := greatest(statement_depth, setting::int);
        end if;
    end if;
    -- The counter is undone with a subtransaction, which is the point. A guest can set it too: it is a hint, the
    -- seq in the notice is the proof.
    setting := current_setting('flux.ordinal', true);
    statement_ordinal := case when setting ~ '^[0-9]{1,8} ' then split_part(setting, ' ', 1)::int else 0 end + 1;
    previous := case when setting ~ '^[0-9]{1,8} ' then split_part(setting, ' ', 2) else '' end;
    perform set_config('flux.ordinal', statement_ordinal || ' ' || root, true);

    -- 3. The log.
    if key_count = 1 then
        key_head := '{' || to_json(tg_argv[1]) || ':';
    end if;
    if is_small then
        if tg_op = 'UPDATE' then
            pairs_changed := old_rows <> new_rows;      -- a row moved to a partition whose trigger refused it
            if not pairs_changed and key_count = 1 then
                select coalesce(bool_or((u.o -> tg_argv[1])::text is distinct from (u.n -> tg_argv[1])::text), false) into pairs_changed
                from rows from (unnest(olds), unnest(news)) u(o, n);
            elsif not pairs_changed and key_count > 1 then
                select coalesce(bool_or((u.o -> k)::text is distinct from (u.n -> k)::text), false) into pairs_changed
                from rows from (unnest(olds), unnest(news)) u(o, n), unnest(tg_argv[1:]) k;
            end if;
        end if;
        if pairs_changed then
            -- A changed key is a delete and an insert: all the deletes first, so that "update t set id = id + 1"
            -- does not insert 2 before the old 2 is gone.
            insert into flux.mutation (xid, ordinal, relid, schema_name, table_name, op, depth, key, before, after)
            select my_xid, statement_ordinal, root, root_schema, root_table, s.op, statement_depth,
                   case when key_count = 1 then key_head || (coalesce(s.o, s.n) -> tg_argv[1])::text || '}'
                        when key_count > 1 then (select '{' || string_agg(to_json(k.name)::text || ':' || (coalesce(s.o, s.n) -> k.name)::text, ',' order by k.i) || '}'
                                                 from unnest(tg_argv[1:]) with ordinality k(name, i)) end,
                   s.o, s.n
            from (select 1 phase, 'D'::"char" op, u.o, null::json n, u.i from unnest(olds) with ordinality u(o, i)
                  union all
                  select 2, 'I'::"char", null, u.n, u.i from unnest(news) with ordinality u(n, i)
                  order by 1, 5) s;
        else
            -- unnest with several arguments pairs in linear time; joining on row_number() did not.
            insert into flux.mutation (xid, ordinal, relid, schema_name, table_name, op, depth, key, before, after)
            select my_xid, statement_ordinal, root, root_schema, root_table, letter, statement_depth,
                   case when key_count = 1 then key_head || (coalesce(u.o, u.n) -> tg_argv[1])::text || '}'
                        when key_count > 1 then (select '{' || string_agg(to_json(k.name)::text || ':' || (coalesce(u.o, u.n) -> k.name)::text, ',' order by k.i) || '}'
                                                 from unnest(tg_argv[1:]) with ordinality k(name, i)) end,
                   u.o, u.n
            from rows from (unnest(olds), unnest(news)) u(o, n);
        end if;
        total := greatest(old_rows, new_rows);
    else
        total := flux.capture_many(tg_op, tg_relid, flags, tg_argv[1:], my_xid, statement_ordinal, root, root_schema, root_table, statement_depth);
        pairs_changed := true;              -- not looked at: ask for order below where it can matter
    end if;
    if (strpos(flags, 'o') > 0 or (previous = root::text and (pairs_changed or tg_op = 'DELETE'))) and key_count > 0 then
        perform flux.put_in_order(my_xid, statement_ordinal, root);
    end if;

    -- 4. The notice: it reaches the supervisor before an abort does.
    if mediated then
        befores := coalesce(array_to_json(olds)::text, '');
        afters := coalesce(array_to_json(news)::text, '');
        if not is_small or octet_length(befores) + octet_length(afters) > notice_bytes then
            is_cut := octet_length(befores) + octet_length(afters) > notice_bytes or total > cardinality(coalesce(olds, news));
            if is_cut then
                -- As many first rows as fit, and always whole rows.
                select count(*) into taken from (
                    select sum(octet_length(coalesce(u.o::text, '')) + octet_length(coalesce(u.n::text, '')) + 2) over (order by u.i) bytes
                    from rows from (unnest(olds), unnest(news)) with ordinality u(o, n, i)) s
                where s.bytes <= notice_bytes;
                taken := least(taken, notice_rows);
                befores := case when olds is null then '' else array_to_json(coalesce(olds[:taken], '{}'))::text end;
                afters := case when news is null then '' else array_to_json(coalesce(news[:taken], '{}'))::text end;
            end if;
        end if;
        header := '{"version":1,"op":"' || letter || '","xid":"' || my_xid || '","ordinal":' || statement_ordinal
               || ',"seq":' || currval('flux.mutation_seq') || ',"relid":' || root || ',"depth":' || statement_depth
               || ',"rows":' || total || ',"cut":' || is_cut::text || ',"key":' || array_to_json(tg_argv[1:])::text;
        select header || ',"mac":"' || left(encode(sha256(convert_to(i.value || header || '}' || octet_length(befores) || ' ' || octet_length(afters), 'UTF8')), 'hex'), 32) || '"}'
        into strict header
        from flux.instance i where i.key = 'notice_secret';
        raise notice using errcode = 'FX001', message = header, schema = root_schema, table = root_table, detail = befores, hint = afters;
    end if;
    return null;
end $$;
