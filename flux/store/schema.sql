-- Flux's own schema: what executions did, and every row they changed.
--
-- How to think about it. Three kinds of things live here:
--
--   records    flux.execution (one row an execution), flux.transaction, flux.blob, flux.deployment
--   changes    flux.mutation (a row for each changed row of the users' tables), flux.ddl (their DDL)
--   machinery  the trigger function flux.capture() that writes the changes, the functions that install it,
--              and the functions a guest's own connection may call, all behind a token
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

-- gen_random_uuid() draws on the server's strong randomness; two of them carry 244 bits. Of their sum 128 are kept: with
-- more, signing a NOTICE would take a block of SHA-256 more.
insert into flux.instance (key, value)
values ('notice_secret', pg_catalog.left(pg_catalog.encode(pg_catalog.sha256(
            pg_catalog.uuid_send(pg_catalog.gen_random_uuid()) || pg_catalog.uuid_send(pg_catalog.gen_random_uuid())), 'hex'), 32)),
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
-- Lists of one function newest first, and totals by (function, sha) of what was no replay, without touching the table.
create index execution_function on flux.execution (function, id) include (sha, trigger);
-- Who wrote this row. Partial: executions that only read have no xid.
create index execution_xid on flux.execution (xid) where xid is not null;
-- What an execution caused. Partial: most were caused by nobody.
create index execution_parent on flux.execution (parent, id) where parent is not null;
-- The same failure elsewhere: how often, since when, by sha and function, all without touching the table. Partial:
-- successes pay nothing.
create index execution_signature on flux.execution (signature, id) include (sha, function, trigger, started_at) where signature is not null;
-- All that went wrong in any way, newest first: one index for lists of failures, of answers of 4xx and of errors by
-- their text, and for who else lost a host. Whoever asks one of these says one of these conditions.
create index execution_notable on flux.execution (id)
    where signature is not null or hosts_failed is not null or error_type is not null or status >= 400;
-- Lists by trigger. Partial: nearly all executions are requests, and pay nothing.
create index execution_trigger on flux.execution (trigger, id) where trigger <> 'http';

create view flux.summary as
    select id, name, tenant, trigger, function, method, path, route, status, outcome, error_type, error_message,
           error_location, signature, started_at, elapsed_ns, call_count, mutation_count, sha, dirty, deployment,
           parent, attempt, replay_of, xid, completeness, hosts_failed, format
    from flux.execution;
comment on view flux.summary is 'Executions without their recordings.';

create table flux.replay (
    id          uuid primary key,           -- its own execution in flux.execution; of a check that found nothing, there is none
    original    uuid not null,
    code        text,                       -- what was asked for: null for the code that made the record, '.', a commit
    deployment  text not null,              -- what it ran on
    sha         text not null,
    dirty       boolean not null,
    verdict     text not null,
    reason      text not null,
    divergence  json,                       -- where it left the record; null when it did not
    is_check    boolean not null,           -- Flux's own, of a sample, and nobody's wish
    at          timestamptz not null default pg_catalog.clock_timestamp()
);
comment on table flux.replay is 'What replays of executions have shown.';
create index replay_original on flux.replay (original, at);

create table flux.incident (
    tenant      text not null,
    name        text not null,
    since       timestamptz not null,
    until       timestamptz not null,
    pinned_at   timestamptz not null default pg_catalog.clock_timestamp(),
    primary key (tenant, name)
);
comment on table flux.incident is 'Time windows that somebody gave a name.';

-- What a bisect has seen, so that the next one builds and runs nothing that was run before.
create table flux.bisect_run (
    original    uuid not null,              -- the execution that was replayed
    source      text not null,              -- the files of the commit: its tree, and what was laid over it
    runtime     text not null,              -- what ran it, and behind which walls
    run         int not null,               -- how many-th run of this source
    code        text,                       -- hash of what was deployed of it; null when it never came to that
    verdict     text not null,
    reason      text not null,
    replay      text,                       -- name of the replay's own execution; null when none was made
    elapsed_ns  bigint not null,
    document    json,                       -- the replay as the console answers it
    at          timestamptz not null default pg_catalog.clock_timestamp(),
    primary key (original, source, runtime, run)
);
comment on table flux.bisect_run is 'What recorded executions did on commits, run by run.';
create index bisect_run_code on flux.bisect_run (original, code, runtime, run) where code is not null;

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

-- Each switch to other code, so that what was served when can be told, and gone back to, after a restart.
-- flux.deployment has one row for each artifact; the same files may be served as several commits, and again.
create table flux.deploy (
    id          bigint generated always as identity primary key,
    tenant      text not null,
    deployment  text not null references flux.deployment (id),
    sha         text not null,
    dirty       boolean not null,
    branch      text,
    functions   json not null,              -- their names, in order
    cause       text not null check (cause in ('start', 'save', 'deploy', 'rollback')),
    runtime     json not null,              -- what ran it: Python, the guest SDK, the WebAssembly engine
    at          timestamptz not null default pg_catalog.clock_timestamp()
);
comment on table flux.deploy is 'Each switch to other code.';
create index deploy_tenant on flux.deploy (tenant, id);

create table flux.migration_applied (
    tenant      text not null,
    name        text not null,
    sha256      text not null,
    applied_at  timestamptz not null default pg_catalog.clock_timestamp(),
    xid         xid8 not null default pg_catalog.pg_current_xact_id(),  -- its transaction: the rows that it wrote
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
    outside      boolean not null default false, -- written on a connection that was not a guest's
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

create table flux.table_shape (
    seq          bigint generated always as identity primary key,
    relid        oid not null,
    xid          xid8 not null,
    schema_name  text not null,
    table_name   text not null,
    columns      json not null              -- [{"number":1,"name":"id","type":"integer","key":true}]: attnum outlives a rename
);
comment on table flux.table_shape is 'What columns each of the users'' tables had, from which transaction on.';
create index table_shape_relid on flux.table_shape (relid, seq);

-- A time is found between two of these without reading the whole log, and where the server notes no times of commits they
-- are all that says who had committed by then.
create table flux.moment (
    since     timestamptz not null,         -- the snapshot was taken at this time or later
    snapshot  pg_snapshot not null,
    until     timestamptz not null,         -- and at this time or earlier
    seq       bigint not null               -- the log's last number then: where it has not moved, no other is needed
);
comment on table flux.moment is 'Who had committed at known times.';
create index moment_until on flux.moment (until);

-- What was taken out of the log of changes because it was old. A snapshot that did not see all of these can't be gone back to.
create table flux.pruned (
    until      timestamptz primary key,     -- all changes before it are gone
    xid        xid8,                        -- the latest transaction among them; null: there was none
    pruned_at  timestamptz not null default pg_catalog.clock_timestamp()
);
comment on table flux.pruned is 'How far the log of changes has been pruned.';

-- Rows whose values were taken out of the records because somebody asked for it.
create table flux.forgotten (
    id           bigint generated always as identity primary key,
    tenant       text not null,
    schema_name  text not null,
    table_name   text not null,
    key          text not null,             -- as the log has it since: a key that says who somebody was is a token
    seq          bigint not null,           -- of the row's last change before it
    executions   int not null,              -- records that were rewritten
    changes      int not null,              -- changes that were
    at           timestamptz not null default pg_catalog.clock_timestamp()
);
comment on table flux.forgotten is 'Rows that were taken out of the records.';
create index forgotten_row on flux.forgotten (schema_name, table_name, key);

-- ---------------------------------------------------------------------------------------------------------
-- Partitions by day
-- ---------------------------------------------------------------------------------------------------------

-- The smallest UUIDv7 of an instant: 48 bits of milliseconds, the rest zero. Rounded down, or the instant's own ids
-- could lie below it; an instant before 1970 or after the year 10889 has the id at that end.
create function flux.uuid_floor(at timestamptz) returns uuid
language sql immutable strict parallel safe as $$
    select (pg_catalog.lpad(pg_catalog.to_hex(least(greatest(pg_catalog.floor(extract(epoch from at) * 1000), 0), 281474976710655)::bigint), 12, '0')
            || '00000000000000000000')::uuid
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
    -- Vacuumed early though nothing is deleted: counts by (function, sha) read the index alone only where vacuum has been.
    execute format('create table flux.%I (like flux.%I including defaults including storage) with (autovacuum_vacuum_insert_scale_factor = 0.05)',
                   partition_name, parent);
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
    parent_name text;
    day date;
begin
    -- Several supervisors start at once; the second waits and finds the work done.
    perform pg_advisory_xact_lock(hashtextextended('flux.ensure_partitions', 0));
    foreach parent_name in array array['mutation', 'execution'] loop
        -- Days that nobody prepared have their rows in the default partition; they get a partition now.
        for day in
            select ahead::date from generate_series(today, today + days_ahead, interval '1 day') ahead
            union
            select (at at time zone 'UTC')::date from flux.mutation_default where parent_name = 'mutation'
            union
            select (started at time zone 'UTC')::date from flux.execution_default,
                   lateral (select to_timestamp(('x' || left(replace(id::text, '-', ''), 12))::bit(48)::bigint / 1000.0) started) s
            where parent_name = 'execution'
            order by 1
        loop
            made := made + flux.ensure_partition(parent_name, day)::int;
        end loop;
    end loop;
    return made;
end $$;

-- ---------------------------------------------------------------------------------------------------------
-- Capture
-- ---------------------------------------------------------------------------------------------------------

-- Puts right the order of rows that were logged before the rows of the statement that caused them.
--
-- A change that the user's AFTER ROW trigger makes is logged when *its* statement ends, which is before the outer
-- one does; so where both change one row, the inner change comes first in the log and second in truth. A MERGE
-- logs its inserts before its deletes, whatever came first. The images tell: a change starts where the one before
-- it ended. Here "mine" is what the statement that has just been logged did to one key; it goes, in this order,
-- to where it closes a gap; to the end, where it is, if it follows from the last change; to the right of a gap;
-- before a deeper change that follows from it. Rows only exchange their seqs: by the seq in a notice the
-- supervisor asks later whether that statement survived.
create function flux.put_in_order(statement_xid xid8, statement_ordinal int, statement_relid oid, statement_depth int) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    mine record;
    other record;
    seqs bigint[];                          -- the changes that may belong after mine, in order
    depths int[];
    befores text[];
    afters text[];
    before_them text;                       -- how the change before these ended
    before_them_known boolean;
    last_ordinal int;
    last_at timestamptz;
    link_known boolean;
    link text;
    fits_end boolean;
    closing int;                            -- places in "seqs": where mine closes a gap
    gap int;                                -- ... where it starts the part after a gap
    deeper int;                             -- ... where a trigger's change follows from it
    place int;
    -- These leave few partitions to look into, even if the clock is set.
    oldest constant timestamptz := now() - interval '1 day';
    latest constant timestamptz := clock_timestamp() + interval '1 day';
begin
    for mine in
        select m.key, m.schema_name, m.table_name,
               hashtextextended(m.key, hashtextextended(m.table_name, hashtextextended(m.schema_name, 0))) as hash,
               array_agg(m.seq order by m.seq) as seqs, min(m.seq) as first_seq,
               (array_agg(m.before::text order by m.seq))[1] as before, (array_agg(m.after::text order by m.seq desc))[1] as after
        from flux.mutation m
        where m.xid = statement_xid and m.ordinal = statement_ordinal and m.relid = statement_relid and m.key is not null
          and m.at between oldest and latest
        group by m.key, m.schema_name, m.table_name
    loop
        seqs := '{}'; depths := '{}'; befores := '{}'; afters := '{}';
        before_them_known := false;
        for other in
            select o.seq, o.at, o.ordinal, o.depth, o.before::text as before, o.after::text as after
            from flux.mutation o
            where hashtextextended(o.key, hashtextextended(o.table_name, hashtextextended(o.schema_name, 0))) = mine.hash
              and o.key = mine.key and o.schema_name = mine.schema_name and o.table_name = mine.table_name
              and o.xid = statement_xid and o.seq < mine.first_seq and o.at between oldest and latest
            order by o.seq desc
        loop
            -- Deeper: perhaps caused by this statement. Just logged: perhaps of the same MERGE, which has three parts.
            if other.depth <= statement_depth and other.ordinal < statement_ordinal - 2 then
                before_them := other.after;
                before_them_known := true;
                exit;
            end if;
            if seqs = '{}' then
                last_ordinal := other.ordinal;
                last_at := other.at;
            end if;
            seqs := other.seq || seqs;
            depths := other.depth::int || depths;
            befores := other.before || befores;
            afters := other.after || afters;
        end loop;
        continue when seqs = '{}';

        closing := null; gap := null; deeper := null;
        fits_end := afters[cardinality(afters)] is not distinct from mine.before;
        for i in 1 .. cardinality(seqs) loop
            continue when befores[i] is distinct from mine.after;
            link_known := i > 1 or before_them_known;
            link := case when i > 1 then afters[i - 1] else before_them end;
            if not link_known or link is distinct from befores[i] then
                gap := i;
                if link_known and link is not distinct from mine.before then
                    closing := i;
                end if;
            elsif depths[i] > statement_depth then
                deeper := i;
            end if;
        end loop;
        place := coalesce(closing, case when not fits_end then coalesce(gap, deeper) end);
        if place is null and gap is not null and depths[gap] > statement_depth then
            -- Both orders make sense: A to B by the statement and back by its trigger, or the reverse one after
            -- the other. It was a trigger of this statement's if nothing at the statement's own level came between.
            if last_at >= statement_timestamp() and not exists (
                select from flux.mutation b
                where b.xid = statement_xid and b.ordinal > last_ordinal and b.ordinal < statement_ordinal
                  and b.depth <= statement_depth and b.at between oldest and latest)
            then
                place := gap;
            end if;
        end if;
        continue when place is null;

        seqs := seqs[place:];
        update flux.mutation m set seq = moved.new_seq
        from rows from (unnest(mine.seqs || seqs), unnest(seqs || mine.seqs)) moved (old_seq, new_seq)
        where hashtextextended(m.key, hashtextextended(m.table_name, hashtextextended(m.schema_name, 0))) = mine.hash
          and m.seq = moved.old_seq and m.xid = statement_xid and m.at between oldest and latest;
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

-- The secret that NOTICEs are signed with, for flux.capture() alone.
--
-- It calls itself immutable, and is, within an installation. So the planner asks it once in a session and keeps the
-- answer in the plan of the one expression that calls it; to read the table in each call cost 15 us. A plan can be shown
-- to its own session (debug_print_plan), though not where client_min_messages is "notice", and flux.capture() sees to
-- that before it comes to that expression.
create function flux.notice_secret() returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
    return (select i.value from flux.instance i where i.key = 'notice_secret');
end $$;

-- The one trigger function of every table.
--
-- SECURITY DEFINER: the guest has no right on flux.mutation. Arguments: flags, then the names of the primary
-- key's columns, sorted; flux.capture_arguments() makes them, and says what the flags are.
--
-- It runs for each statement that writes, and most write one row. So it is arranged for that, and counts what it does: an
-- expression costs about 0.15 us, and 2 the first time in a transaction, for each trigger anew; a SET clause or a setting
-- written 1 to 2, a query 4, the row of the log 15. So what a single row does not need is given its value where several
-- are seen to, and not at its declaration.
create function flux.capture() returns trigger
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

-- A cascade fires the BEFORE triggers of the table it reaches while the foreign key's own trigger is running, and
-- the AFTER triggers when that is over. So the depth is noted here. Installed only where a cascade can reach.
create function flux.note_depth() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform set_config('flux.depth_' || tg_relid, pg_trigger_depth()::text, true);
    return null;
end $$;

-- ---------------------------------------------------------------------------------------------------------
-- Installing the capture
-- ---------------------------------------------------------------------------------------------------------

-- Tables that are the users': not ours, not the system's, not temporary, not an extension's.
-- "reason" says why a table that holds rows can't be captured whole; null when it can.
create function flux.user_tables() returns table (relid oid, schema_name text, table_name text, relkind "char", reason text)
language sql stable set search_path = pg_catalog, pg_temp as $$
    select c.oid, n.nspname, c.relname, c.relkind,
           case when c.relkind = 'f' then 'a foreign table: its rows are changed on another server'
                when e.extname is not null then 'belongs to extension ' || e.extname
                when exists (select from pg_inherits i where i.inhparent = c.oid) and c.relkind = 'r'
                     then 'has child tables by INHERITS: changes of theirs through it show only its own columns' end
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    left join pg_depend d on d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e'
    left join pg_extension e on e.oid = d.refobjid
    where c.relkind in ('r', 'p', 'f') and c.relpersistence <> 't'
      and n.nspname not in ('flux', 'information_schema') and n.nspname !~ '^pg_'
$$;

-- The arguments that the triggers of a table should have: flags, then key columns by name.
-- A partition uses its root's key, because its rows are logged as the root's. Flags:
--   o  has row triggers of the user's, so that the order of changes needs a look
--   v  has virtual generated columns
--   c  a foreign key cascades into it
--   z  some value is written by the session's time zone
--   s  some value may be written by other settings too: it has a type that is not known to be free of them
create function flux.capture_arguments(rel oid) returns text[]
language sql stable set search_path = pg_catalog, pg_temp as $$
    select array[
        case when exists (select from pg_trigger t join pg_proc p on p.oid = t.tgfoid
                          where t.tgrelid = rel and not t.tgisinternal and t.tgtype & 1 = 1 and t.tgtype & 2 = 0
                            and p.pronamespace <> 'flux'::regnamespace) then 'o' else '' end
        || case when exists (select from pg_attribute a where a.attrelid = rel and a.attgenerated = 'v' and not a.attisdropped) then 'v' else '' end
        || case when exists (select from pg_constraint f where f.conrelid = rel and f.contype = 'f'
                               and (f.confdeltype in ('c', 'n', 'd') or f.confupdtype in ('c', 'n', 'd'))) then 'c' else '' end
        || (select coalesce(case when bool_or(not c.is_plain) then 'sz' when bool_or(c.oid = 'timestamptz'::regtype) then 'z' end, '')
            from (select e.oid, e.typtype = 'e' or e.oid = any ('{bool,int2,int4,int8,float4,float8,numeric,text,varchar,bpchar,name,uuid,json,jsonb,bytea,date,timestamp,timestamptz}'::regtype[]::oid[]) is_plain
                  from pg_attribute a join pg_type t on t.oid = a.atttypid
                  join pg_type e on e.oid = case when t.typcategory = 'A' and t.typelem <> 0 then t.typelem else t.oid end
                  where a.attrelid = rel and a.attnum > 0 and not a.attisdropped) c)
    ] || coalesce((
        select array_agg(a.attname::text order by a.attname collate "C")
        from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any (i.indkey::int2[])
        where i.indrelid = coalesce(pg_partition_root(rel), rel) and i.indisprimary
          and array_position(i.indkey::int2[], a.attnum) < i.indnkeyatts
    ), '{}')
$$;

-- The triggers a table should have, and whether it has them. "!" sorts before any letter: triggers fire in the
-- order of their names, and the log must be written before a user's own statement trigger changes more.
create function flux.capture_triggers(rel oid) returns table (name text, ok boolean, command text)
language sql stable set search_path = pg_catalog, pg_temp as $$
    select w.name,
           exists (select from pg_trigger t
                   where t.tgrelid = rel and t.tgname = w.name and t.tgenabled in ('O', 'A')
                     and t.tgfoid = w.function::regproc::oid
                     and (w.function <> 'flux.capture'
                          or t.tgargs = (select coalesce(string_agg(convert_to(a, getdatabaseencoding()) || '\x00'::bytea, ''::bytea order by i), '')
                                         from unnest(flux.capture_arguments(rel)) with ordinality u(a, i)))),
           format('create or replace trigger %I %s on %s %s for each statement execute function %s(%s)',
                  w.name, w.event, rel::regclass, w.referencing, w.function,
                  case when w.function = 'flux.capture' then (select string_agg(quote_literal(a), ', ' order by i)
                                                              from unnest(flux.capture_arguments(rel)) with ordinality u(a, i)) end)
    from (values
        ('!flux_insert', 'after insert', 'referencing new table as flux__new', 'flux.capture'),
        ('!flux_update', 'after update', 'referencing old table as flux__old new table as flux__new', 'flux.capture'),
        ('!flux_delete', 'after delete', 'referencing old table as flux__old', 'flux.capture'),
        ('!flux_truncate', 'before truncate', '', 'flux.capture'),
        ('!flux_depth', 'before update or delete', '', 'flux.note_depth')
    ) w (name, event, referencing, function)
    where w.name <> '!flux_depth' or strpos((flux.capture_arguments(rel))[1], 'c') > 0
$$;

-- Notes the columns of a table, if they are not as they were noted last.
create function flux.note_shape(rel oid) returns void
language sql set search_path = pg_catalog, pg_temp as $$
    insert into flux.table_shape (relid, xid, schema_name, table_name, columns)
    select rel, pg_current_xact_id(), n.nspname, c.relname, now_.columns
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    cross join lateral (
        select coalesce(json_agg(json_build_object('number', a.attnum, 'name', a.attname, 'type', format_type(a.atttypid, a.atttypmod),
                                                   'key', exists (select from pg_constraint k where k.conrelid = rel and k.contype = 'p'
                                                                    and a.attnum = any (k.conkey)))
                                 order by a.attnum), '[]') as columns
        from pg_attribute a where a.attrelid = rel and a.attnum > 0 and not a.attisdropped) now_
    left join lateral (select s.schema_name, s.table_name, s.columns from flux.table_shape s where s.relid = rel order by s.seq desc limit 1) last on true
    where c.oid = rel and (last.schema_name, last.table_name, last.columns::text) is distinct from (n.nspname::text, c.relname::text, now_.columns::text)
$$;

-- Installs what is missing on one table; cheap and lock-free when nothing is.
create function flux.track(rel oid) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    wanted record;
    changed boolean := false;
begin
    perform flux.note_shape(rel);
    for wanted in select t.command from flux.capture_triggers(rel) t where not t.ok loop
        execute wanted.command;
        changed := true;
    end loop;
    return changed;
end $$;

-- Every table of the users', at deploy and where event triggers can't be had. Answers how many were changed.
create function flux.track_all() returns int
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    candidate record;
    changed int := 0;
begin
    for candidate in
        select u.relid from flux.user_tables() u
        where u.relkind <> 'f' and coalesce(u.reason, '') not like 'belongs to%' order by u.relid
    loop
        changed := changed + flux.track(candidate.relid)::int;
    end loop;
    return changed;
end $$;

-- Tables whose changes are not, or not wholly, captured, and why. Empty is what one wants to see.
create function flux.coverage() returns table (schema_name text, table_name text, reason text)
language sql stable set search_path = pg_catalog, pg_temp as $$
    select u.schema_name, u.table_name,
           coalesce(u.reason, 'triggers missing, disabled or out of date: '
                    || (select string_agg(t.name, ', ' order by t.name) from flux.capture_triggers(u.relid) t where not t.ok))
    from flux.user_tables() u
    where u.reason is not null or exists (select from flux.capture_triggers(u.relid) t where not t.ok)
    order by 1, 2
$$;

-- One value for the shape of all user tables: equal digests, equal columns, keys and checks.
create function flux.catalog_digest() returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
    select encode(sha256(convert_to(coalesce(string_agg(s.line, E'\n' order by s.line collate "C"), ''), 'UTF8')), 'hex')
    from (select format('%I.%I %I %s %s %s %s', u.schema_name, u.table_name, a.attname, format_type(a.atttypid, a.atttypmod),
                        a.attnotnull, a.attgenerated, coalesce(pg_get_expr(d.adbin, d.adrelid), '')) line
          from flux.user_tables() u
          join pg_attribute a on a.attrelid = u.relid and a.attnum > 0 and not a.attisdropped
          left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
          union all
          select format('%I.%I constraint %I %s', u.schema_name, u.table_name, k.conname, pg_get_constraintdef(k.oid))
          from flux.user_tables() u join pg_constraint k on k.conrelid = u.relid
          where k.contype <> 'n') s          -- PostgreSQL 18 has rows for NOT NULL too; the columns say it already
$$;

create function flux.on_ddl() returns event_trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp set timezone = 'UTC' as $$
declare
    done record;
    member record;
    logged boolean := false;
begin
    for done in select * from pg_event_trigger_ddl_commands() loop
        -- A schema is in none: it is known by what it is called.
        if done.schema_name in ('flux', 'flux_views') or done.schema_name ~ '^pg_' or done.in_extension
           or (done.object_type = 'schema' and done.object_identity = 'flux_views')
           or done.command_tag in ('GRANT', 'REVOKE', 'ALTER DEFAULT PRIVILEGES')  -- rights, not shape
        then
            continue;
        end if;
        -- Our own triggers, being installed.
        if done.classid = 'pg_trigger'::regclass and exists (
            select from pg_trigger t join pg_proc p on p.oid = t.tgfoid
            where t.oid = done.objid and p.pronamespace = 'flux'::regnamespace)
        then
            continue;
        end if;
        logged := true;
        insert into flux.ddl (xid, session_role, command, object_type, object_identity, dropped, catalog_digest)
        values (pg_current_xact_id(), session_user, done.command_tag, done.object_type, coalesce(done.object_identity, ''), false, '');

        for member in
            select distinct u.relid
            from flux.user_tables() u
            where coalesce(u.reason, '') not like 'belongs to%' and u.relkind <> 'f' and u.relid in (
                select done.objid where done.classid = 'pg_class'::regclass
                union all
                select t.tgrelid from pg_trigger t where done.classid = 'pg_trigger'::regclass and t.oid = done.objid
                union all
                (with recursive below(relid) as (  -- partitions, and children by INHERITS, get its columns too
                     select done.objid union select i.inhrelid from pg_inherits i join below b on b.relid = i.inhparent)
                 select b.relid from below b where done.classid = 'pg_class'::regclass))
        loop
            perform flux.track(member.relid);
        end loop;

        -- The rows a CREATE TABLE AS or SELECT INTO begins with came before any trigger could be there.
        if done.command_tag in ('CREATE TABLE AS', 'SELECT INTO') and done.classid = 'pg_class'::regclass then
            perform flux.capture_existing(done.objid);
        end if;
    end loop;
    if logged then
        update flux.ddl set catalog_digest = flux.catalog_digest() where xid = pg_current_xact_id() and catalog_digest = '';
    end if;
end $$;

create function flux.on_drop() returns event_trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    gone record;
begin
    for gone in
        select * from pg_event_trigger_dropped_objects() d
        where d.original and not d.is_temporary and coalesce(d.schema_name, '') not in ('flux', 'flux_views')
          and d.object_type <> 'trigger' and not (d.object_type = 'schema' and d.object_identity = 'flux_views')
    loop
        insert into flux.ddl (xid, session_role, command, object_type, object_identity, dropped, catalog_digest)
        values (pg_current_xact_id(), session_user, tg_tag, gone.object_type, coalesce(gone.object_identity, ''), true, flux.catalog_digest());
    end loop;
end $$;

-- Logs the rows a table has as inserts.
create function flux.capture_existing(rel oid) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set extra_float_digits = 1
set datestyle = 'ISO, MDY'
set intervalstyle = 'postgres'
set timezone = 'UTC'
set bytea_output = 'hex'
set lc_monetary = 'C'
set row_security = off
as $$
declare
    place record;
    setting constant text := current_setting('flux.ordinal', true);
    statement_ordinal constant int := case when setting ~ '^[0-9]{1,8} ' then split_part(setting, ' ', 1)::int else 0 end + 1;
begin
    select n.nspname, c.relname into strict place from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = rel;
    perform set_config('flux.ordinal', statement_ordinal || ' ' || rel, true);
    execute format('insert into flux.mutation (xid, ordinal, relid, schema_name, table_name, op, depth, outside, key, before, after) '
                   'select pg_current_xact_id(), %s, %s, %L, %L, ''I'', 1, not starts_with(session_user::text, ''flux_guest_''), null, null, to_json(flux__r) from only %s flux__r',
                   statement_ordinal, rel, place.nspname, place.relname, rel::regclass);
end $$;

-- Event triggers need a superuser, except where a provider lets its own role have them. So: try, and say.
create function flux.install_event_triggers() returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if not exists (select from pg_event_trigger where evtname = 'flux_ddl') then
        create event trigger flux_ddl on ddl_command_end execute function flux.on_ddl();
    end if;
    if not exists (select from pg_event_trigger where evtname = 'flux_drop') then
        create event trigger flux_drop on sql_drop execute function flux.on_drop();
    end if;
    return true;
exception
    when insufficient_privilege then
        return false;
end $$;

-- A key as the log writes it, from values as a person types them: '{"id":"42"}' gives '{"id":42}'.
create function flux.key_text(rel regclass, key_values json) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
set extra_float_digits = 1
set datestyle = 'ISO, MDY'
set intervalstyle = 'postgres'
set timezone = 'UTC'
set bytea_output = 'hex'
set lc_monetary = 'C'
as $$
declare
    image json;
    keys constant text[] := (flux.capture_arguments(rel))[2:];
begin
    execute format('select to_json(json_populate_record(null::%s, $1))', rel) into image using key_values;
    return (select '{' || string_agg(to_json(k.name)::text || ':' || (image -> k.name)::text, ',' order by k.i) || '}'
            from unnest(keys) with ordinality k(name, i));
end $$;

-- ---------------------------------------------------------------------------------------------------------
-- Guests
-- ---------------------------------------------------------------------------------------------------------

-- Ends sessions of a role whose line is dead: a network may lose one without a word, and systems ask after two hours. Until
-- then a transaction keeps its locks. Here it is a minute and a half, and two minutes for an answer that nobody takes.
create function flux.watch_lines(role_name text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    execute format('alter role %I set tcp_keepalives_idle = 30', role_name);
    execute format('alter role %I set tcp_keepalives_interval = 10', role_name);
    execute format('alter role %I set tcp_keepalives_count = 6', role_name);
    execute format('alter role %I set tcp_user_timeout = 120000', role_name);
    begin
        -- While a statement runs, or waits for a lock, nobody looks at the line otherwise.
        execute format('alter role %I set client_connection_check_interval = 10000', role_name);
    exception when invalid_parameter_value then
        raise notice 'this system can''t tell a server that a client is gone: statements of role % run to their end', role_name;
    end;
end $$;
revoke all on function flux.watch_lines from public;

-- Makes or repairs the login role of a tenant's guests. Refuses a role that could do more than it should:
-- taking rights away from a role we did not make would be a guess.
create function flux.ensure_guest_role(tenant_name text, schema_name_wanted text, password text) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    role_wanted constant text := 'flux_guest_' || tenant_name;
    existing record;
    -- A role that may make none works with one that was made for it, if that one has no rights that it must not have.
    makes_roles constant boolean := (select r.rolsuper or r.rolcreaterole from pg_roles r where r.rolname = current_user);
begin
    if tenant_name !~ '^[a-z0-9][a-z0-9_]{0,40}$' then
        raise exception using errcode = 'invalid_parameter_value', message = format('tenant %L is not usable in a role''s name', tenant_name),
            hint = 'Use lower-case letters, digits and underscores, at most 41.';
    end if;
    if schema_name_wanted = 'flux' or schema_name_wanted ~ '^pg_' or schema_name_wanted = 'information_schema' then
        raise exception using errcode = 'invalid_parameter_value', message = format('schema %L can''t be a tenant''s', schema_name_wanted);
    end if;
    perform pg_advisory_xact_lock(hashtextextended('flux.ensure_guest_role', 0));
    select * into existing from pg_roles where rolname = role_wanted;
    if not found then
        execute format('create role %I login nosuperuser nocreatedb nocreaterole noreplication nobypassrls noinherit password %L', role_wanted, password);
    else
        if existing.rolsuper or existing.rolcreatedb or existing.rolcreaterole or existing.rolreplication or existing.rolbypassrls
           or exists (select from pg_auth_members m where m.member = existing.oid)
        then
            raise exception using errcode = 'invalid_role_specification',
                message = format('role %I has rights that a guest must not have', role_wanted),
                hint = format('Take away its attributes and memberships, or drop it: drop role %I', role_wanted);
        end if;
        if makes_roles then
            execute format('alter role %I login password %L', role_wanted, password);
        end if;
    end if;
    execute format('create schema if not exists %I', schema_name_wanted);
    -- PostgreSQL 14 lets everybody create in "public": a guest could put functions in the way of others.
    execute format('revoke create on schema %I from public', schema_name_wanted);
    execute format('grant usage on schema %I to %I', schema_name_wanted, role_wanted);
    execute format('grant select, insert, update, delete on all tables in schema %I to %I', schema_name_wanted, role_wanted);
    execute format('grant usage, select on all sequences in schema %I to %I', schema_name_wanted, role_wanted);
    execute format('alter default privileges in schema %I grant select, insert, update, delete on tables to %I', schema_name_wanted, role_wanted);
    execute format('alter default privileges in schema %I grant usage, select on sequences to %I', schema_name_wanted, role_wanted);
    if makes_roles then
        -- A role may change its own defaults, so what a guest has left there goes first.
        execute format('alter role %I reset all', role_wanted);
        execute format('alter role %I set search_path = %I', role_wanted, schema_name_wanted);
        perform flux.watch_lines(role_wanted);
    end if;
    -- Where PUBLIC may not connect; who may not say so is told by a warning.
    execute format('grant connect, temporary on database %I to %I', current_database(), role_wanted);
    -- To name the functions below; there is nothing else in "flux" that a guest may touch.
    execute format('grant usage on schema flux to %I', role_wanted);
    execute format('grant execute on function flux.commit_record, flux.mark_transaction, flux.world_changes, '
                   'flux.world_undo, flux.world_images, flux.world_rows, flux.world_ddl, flux.world_shapes, '
                   'flux.world_migrations, flux.world_has_written to %I', role_wanted);
    execute format('grant execute on function flux.world_moves to %I', role_wanted);
    execute format('grant execute on function flux.push_job, flux.end_job to %I', role_wanted);
    insert into flux.guest (tenant, role_name, schema_name) values (tenant_name, role_wanted, schema_name_wanted)
    on conflict (tenant) do update set role_name = excluded.role_name, schema_name = excluded.schema_name;
    return role_wanted;
end $$;

-- Whether a token is a living supervisor's. Guests never see the token: it travels as a parameter only.
create function flux.check_token(token bytea) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    if not exists (select from flux.supervisor s where s.token_sha256 = sha256(token)) or token is null then
        raise exception using errcode = 'insufficient_privilege', message = 'only a supervisor of Flux may write records',
            hint = 'The token is not one that a supervisor registered in flux.supervisor.';
    end if;
end $$;

-- Writes an execution's record inside the guest's own transaction, just before COMMIT.
--
-- Call it as "select flux.commit_record($1, $2, ...)": qualified, and with no cast. A cast names a type, and a
-- guest may put a domain of that name into pg_temp, with a check that reads the token as it passes.
create function flux.commit_record(
    token bytea, id uuid, name text, tenant text, trigger text, function text, method text, path text, route text,
    status int, outcome text, error_type text, error_message text, error_location text, signature text,
    started_at timestamptz, elapsed_ns bigint, call_count int, mutation_count int, sha text, dirty boolean,
    deployment text, parent uuid, attempt int, replay_of uuid, completeness text, hosts_failed text[],
    format smallint, body bytea
) returns xid8
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    -- Before the insert below, which would assign one: null means that the execution wrote nothing.
    written_xid constant xid8 := pg_current_xact_id_if_assigned();
begin
    if not exists (select from flux.supervisor s where s.token_sha256 = sha256(token)) then
        perform flux.check_token(token);
    end if;
    insert into flux.execution (
        id, name, tenant, trigger, function, method, path, route, status, outcome, error_type, error_message,
        error_location, signature, started_at, elapsed_ns, call_count, mutation_count, sha, dirty, deployment,
        parent, attempt, replay_of, xid, completeness, hosts_failed, format, body)
    values (
        id, name, tenant, trigger, function, method, path, route, status, outcome, error_type, error_message,
        error_location, signature, started_at, elapsed_ns, call_count, mutation_count, sha, dirty, deployment,
        parent, attempt, replay_of, written_xid, completeness, hosts_failed, format, body);
    return written_xid;
end $$;

-- Marks a transaction as an execution's, where the execution makes several. Same rules for the call.
create function flux.mark_transaction(token bytea, execution uuid, snapshot pg_snapshot, isolation text) returns xid8
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    written_xid constant xid8 := pg_current_xact_id_if_assigned();
begin
    if not exists (select from flux.supervisor s where s.token_sha256 = sha256(token)) then
        perform flux.check_token(token);
    end if;
    if written_xid is not null then
        insert into flux.transaction (xid, execution, snapshot, isolation) values (written_xid, execution, snapshot, isolation);
    end if;
    return written_xid;
end $$;

-- ---------------------------------------------------------------------------------------------------------
-- Worlds: the tables as a replay must see them
-- ---------------------------------------------------------------------------------------------------------

-- A replay asks these on a guest's connection, before anything of the guest's runs there, with the token as a
-- parameter. What they tell is of the tables in the guest's own schema, which it may read anyway.

-- Tables whose rows have changed since a snapshot was taken; "keyless" has changes of rows without a primary key. Of
-- other schemas, only those that the guest may read.
create function flux.world_changes(token bytea, snapshot pg_snapshot) returns table (schema_name text, table_name text, keyless boolean)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
    perform flux.check_token(token);
    return query
        select c.schema_name, c.table_name, c.keyless
        from (select m.schema_name, m.table_name, bool_or(m.key is null) as keyless
              from flux.mutation m
              where m.committed and m.xid >= pg_snapshot_xmin(snapshot) and not pg_visible_in_snapshot(m.xid, snapshot)
              group by 1, 2) c
        where exists (select from flux.guest g where g.role_name = session_user and g.schema_name = c.schema_name)
           or exists (select from pg_class r join pg_namespace n on n.oid = r.relnamespace
                      where n.nspname = c.schema_name and r.relname = c.table_name
                        and has_schema_privilege(session_user, n.oid, 'usage') and has_any_column_privilege(session_user, r.oid, 'select'));
end $$;

-- Each row of them that has changed since, as the snapshot saw it: before the first change that it did not see.
-- "before" is null where the row did not exist.
create function flux.world_undo(token bytea, snapshot pg_snapshot) returns table (table_name text, key json, before json)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
    perform flux.check_token(token);
    return query
        select distinct on (m.table_name, m.key) m.table_name, m.key::json, m.before
        from flux.mutation m join flux.guest g on g.role_name = session_user and m.schema_name = g.schema_name
        where m.committed and m.xid >= pg_snapshot_xmin(snapshot) and not pg_visible_in_snapshot(m.xid, snapshot)
          and m.key is not null
        order by m.table_name, m.key, m.seq;
end $$;

-- What changed between two snapshots, where statements of one execution saw several; and its own changes ("own" has its
-- transactions' ids), after which others may have changed the same rows. More than "until" sees: a snapshot does not
-- name its own transaction among the running ones, so of two with one xmax the later can't be told for sure.
create function flux.world_moves(token bytea, since pg_snapshot, until pg_snapshot, own text[], count_max int)
returns table (seq bigint, table_name text, key text, xid text, ordinal int, before text, after text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
    perform flux.check_token(token);
    return query
        select m.seq, m.table_name, m.key, m.xid::text, m.ordinal, m.before::text, m.after::text
        from flux.mutation m join flux.guest g on g.role_name = session_user and m.schema_name = g.schema_name
        where m.committed and m.xid >= pg_snapshot_xmin(since) and not pg_visible_in_snapshot(m.xid, since)
          and (m.xid < pg_snapshot_xmax(until) or m.xid = any (own::xid8[]))
        order by m.seq limit count_max;
end $$;

-- All images of a table's rows since, for a table whose rows have no key: +1 a row that was, -1 one that came.
create function flux.world_images(token bytea, snapshot pg_snapshot, wanted text) returns table (image json, count int)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform flux.check_token(token);
    return query
        select i.image, i.count
        from flux.mutation m join flux.guest g on g.role_name = session_user and m.schema_name = g.schema_name,
             lateral (values (m.before, 1), (m.after, -1)) i(image, count)
        where m.committed and m.xid >= pg_snapshot_xmin(snapshot) and not pg_visible_in_snapshot(m.xid, snapshot)
          and m.table_name = wanted and i.image is not null;
end $$;

-- All rows of a table of the guest's schema, as they are now and whatever its row policies say: a world's copy has
-- the policies of its own.
create function flux.world_rows(token bytea, wanted text) returns setof record
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set row_security = off as $$
begin
    perform flux.check_token(token);
    return query execute (
        select format('select * from %I.%I', g.schema_name, wanted) from flux.guest g where g.role_name = session_user);
end $$;

-- The changes of anything's shape since, oldest first.
create function flux.world_ddl(token bytea, snapshot pg_snapshot)
returns table (command text, object_type text, object_identity text, dropped boolean)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
    perform flux.check_token(token);
    return query
        select d.command, d.object_type, d.object_identity, d.dropped from flux.ddl d
        where d.xid >= pg_snapshot_xmin(snapshot) and not pg_visible_in_snapshot(d.xid, snapshot)
        order by d.seq;
end $$;

-- Tables of the guest's schema that had another shape then, and those that were made since: as they were, by what
-- flux.table_shape has of them. "now_name" is null where one is gone, "columns" where it was not there yet or is not known.
create function flux.world_shapes(token bytea, snapshot pg_snapshot)
returns table (relid oid, table_name text, now_name text, columns json, names json)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
    perform flux.check_token(token);
    return query
        select h.relid, h.table_name, c.relname::text, h.columns,
               -- Every name that a column has had, for images of all times.
               (select json_agg(distinct jsonb_build_array(s.table_name, l.value ->> 'name', (l.value ->> 'number')::int))
                from flux.table_shape s, json_array_elements(s.columns) l where s.relid = h.relid)
        from (select r.relid, then_.table_name, then_.columns, guest.schema_name
              from (select distinct s.relid from flux.table_shape s) r
              cross join (select g.schema_name from flux.guest g where g.role_name = session_user) guest
              left join lateral (
                  select s.schema_name, s.table_name, s.columns from flux.table_shape s
                  where s.relid = r.relid and (s.xid < pg_snapshot_xmin(snapshot) or pg_visible_in_snapshot(s.xid, snapshot))
                  order by s.seq desc limit 1) then_ on true
              where exists (select from flux.table_shape s where s.relid = r.relid and s.schema_name = guest.schema_name
                              and s.xid >= pg_snapshot_xmin(snapshot) and not pg_visible_in_snapshot(s.xid, snapshot))
                 or then_.schema_name = guest.schema_name and not exists (select from pg_class c where c.oid = r.relid)) h
        left join pg_class c on c.oid = h.relid and c.relnamespace = (select n.oid from pg_namespace n where n.nspname = h.schema_name);
end $$;

-- Migrations of the project that had been applied then.
create function flux.world_migrations(token bytea, snapshot pg_snapshot) returns table (name text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
    perform flux.check_token(token);
    return query
        select a.name from flux.migration_applied a join flux.guest g on g.tenant = a.tenant and g.role_name = session_user
        where a.xid < pg_snapshot_xmin(snapshot) or pg_visible_in_snapshot(a.xid, snapshot);
end $$;

-- Whether this transaction has written to a table of a user's.
create function flux.world_has_written(token bytea) returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform flux.check_token(token);
    return exists (select from flux.mutation m where m.xid = pg_current_xact_id_if_assigned());
end $$;

-- What stands in front of pg_catalog in a world, and nowhere else. All of it runs with the rights of the guest, in a
-- READ ONLY transaction.
create schema flux_world;
grant usage on schema flux_world to public;

-- The time is that of the record, and stands.
create function flux_world.now() returns timestamptz language sql stable parallel safe as $$
    select pg_catalog.current_setting('flux.world_now')::pg_catalog.timestamptz $$;
create function flux_world.transaction_timestamp() returns timestamptz language sql stable parallel safe as $$ select flux_world.now() $$;
create function flux_world.statement_timestamp() returns timestamptz language sql stable parallel safe as $$ select flux_world.now() $$;
create function flux_world.clock_timestamp() returns timestamptz language sql volatile parallel safe as $$ select flux_world.now() $$;
create function flux_world.timeofday() returns text language sql volatile parallel safe as $$
    select pg_catalog.to_char(flux_world.now(), 'Dy Mon DD HH24:MI:SS.US YYYY TZ') $$;
create function flux_world.age(timestamp) returns interval language sql stable parallel safe as $$
    select pg_catalog.age(flux_world.now()::pg_catalog.date::pg_catalog.timestamp, $1) $$;
create function flux_world.age(timestamptz) returns interval language sql stable parallel safe as $$
    select pg_catalog.age(flux_world.now()::pg_catalog.date::pg_catalog.timestamptz, $1) $$;

-- Chance is a count of what was drawn, and a seed: the same in each replay of the same code.
create function flux_world.draw() returns text language plpgsql volatile as $$
declare
    setting constant pg_catalog.text := pg_catalog.current_setting('flux.world_draws', true);
    drawn constant pg_catalog.int8 := case when setting ~ '^[0-9]{1,15}$' then setting::pg_catalog.int8 else 0 end + 1;
begin
    perform pg_catalog.set_config('flux.world_draws', drawn::pg_catalog.text, true);
    return pg_catalog.md5(pg_catalog.concat(pg_catalog.current_setting('flux.world_seed', true), ' ', drawn));
end $$;
create function flux_world.random() returns float8 language sql volatile as $$
    -- 52 bits: as many as a fraction of float8 has.
    select ('x' || pg_catalog.left(flux_world.draw(), 13))::bit(52)::pg_catalog.int8 / 4503599627370496::pg_catalog.float8 $$;
create function flux_world.gen_random_uuid() returns uuid language sql volatile as $$
    select pg_catalog.overlay(pg_catalog.overlay(flux_world.draw(), '4', 13), 'a', 17)::pg_catalog.uuid $$;
create function flux_world.uuid_generate_v4() returns uuid language sql volatile as $$ select flux_world.gen_random_uuid() $$;
create function flux_world.gen_random_bytes(int) returns bytea language sql volatile as $$
    select pg_catalog.substring(pg_catalog.string_agg(pg_catalog.decode(flux_world.draw(), 'hex'), ''), 1, $1)
    from pg_catalog.generate_series(1, ($1 + 15) / 16) $$;
do $do$ begin
    -- Newer servers have more of it; an older one must go on refusing it.
    if pg_catalog.current_setting('server_version_num')::pg_catalog.int4 >= 170000 then
        create function flux_world.random(int, int) returns int language sql volatile as
            $$ select pg_catalog.floor(flux_world.random() * ($2::pg_catalog.int8 - $1 + 1))::pg_catalog.int8::pg_catalog.int4 + $1 $$;
        create function flux_world.random(bigint, bigint) returns bigint language sql volatile as
            $$ select (pg_catalog.floor(flux_world.random()::pg_catalog.numeric * ($2::pg_catalog.numeric - $1 + 1)) + $1)::pg_catalog.int8 $$;
        create function flux_world.random(numeric, numeric) returns numeric language sql volatile as
            $$ select pg_catalog.round($1 + flux_world.random()::pg_catalog.numeric * ($2 - $1), greatest(pg_catalog.scale($1), pg_catalog.scale($2))) $$;
    end if;
    if pg_catalog.current_setting('server_version_num')::pg_catalog.int4 >= 180000 then
        create function flux_world.uuidv4() returns uuid language sql volatile as $$ select flux_world.gen_random_uuid() $$;
        create function flux_world.uuidv7() returns uuid language sql volatile as
            $$ select (pg_catalog.lpad(pg_catalog.to_hex(pg_catalog.floor(extract(epoch from flux_world.now()) * 1000)::pg_catalog.int8), 12, '0') || '7'
                       || pg_catalog.overlay(pg_catalog.left(flux_world.draw(), 19), 'a', 4))::pg_catalog.uuid $$;
    end if;
end $do$;

-- A world stops a statement that it can't answer truly. Its supervisor knows the SQLSTATE, and the guest's code does not go on.
create function flux_world.refuse(reason text) returns boolean language plpgsql volatile as $$
begin
    raise exception using errcode = 'FX316', message = reason;
end $$;

-- Notes what a replay changes in its copies, in pg_temp.flux_changes. Argument: the table's name. No number of a sequence tells the
-- order, as nextval() would change what lastval() says: rows of a table that nothing is taken from lie in the order they came.
create function flux_world.note_change() returns trigger language plpgsql as $$
declare
    call constant pg_catalog.text := pg_catalog.current_setting('flux.call', true);
begin
    if pg_catalog.current_setting('flux.filling', true) is not distinct from 'on' then
        return null;
    end if;
    if tg_op = 'TRUNCATE' then
        execute pg_catalog.format('insert into pg_temp.flux_changes select $1, ''T'', $2, pg_catalog.to_json(t) from pg_temp.%I t', tg_table_name)
            using tg_argv[0], call;
        return null;
    end if;
    insert into pg_temp.flux_changes values (tg_argv[0], pg_catalog.left(tg_op, 1), call, pg_catalog.to_json(old), pg_catalog.to_json(new));
    return null;
end $$;

-- What the record shows of values that nobody can make again: the n-th row that a table was given has, in a column, what the
-- n-th had. pg_temp.flux_given holds them; where in it a table is, two sequences say, which no savepoint takes back. They
-- are only ever set: nextval() would change what lastval() says.
create function flux_world.given(place text, number text) returns text language plpgsql volatile as $$
declare
    found pg_catalog.text;
begin
    execute pg_catalog.format('select g.value from pg_temp.flux_given g, pg_temp.%I s where g.place = $1 and g.ordinal = s.last_value + 1',
                              'flux_at_' || number) into found using place;
    return found;
end $$;

-- Sets what a sequence gives next, or its last number where that is past its end.
create function flux_world.start(sequence regclass, number bigint) returns bigint language sql volatile as $$
    select pg_catalog.setval($1, least(greatest($2, s.seqmin), s.seqmax), $2 > s.seqmax)
    from pg_catalog.pg_sequence s where s.seqrelid = $1 $$;

-- The trigger that counts them. Arguments: the table's number, then places and sequences: a sequence is to give next what
-- the record has next. A row that met a conflict, and one whose statement failed, drew a value and is not in the record: so
-- each statement starts from the rows that were really made.
create function flux_world.follow_record() returns trigger language plpgsql as $$
declare
    at_sequence constant pg_catalog.text := 'pg_temp.flux_at_' || tg_argv[0];
    in_sequence constant pg_catalog.text := 'pg_temp.flux_in_' || tg_argv[0];
    place pg_catalog.int8;
    next pg_catalog.int8;
begin
    if tg_level = 'ROW' then
        execute pg_catalog.format('select s.last_value + 1 from %s s', case when tg_when = 'BEFORE' then at_sequence else in_sequence end) into place;
        perform pg_catalog.setval(case when tg_when = 'BEFORE' then at_sequence else in_sequence end, place);
    else
        execute pg_catalog.format('select s.last_value from %s s', in_sequence) into place;
        perform pg_catalog.setval(at_sequence, place);
    end if;
    if tg_level = 'STATEMENT' or tg_when = 'BEFORE' then
        for i in 1 .. tg_nargs - 1 by 2 loop
            execute 'select g.value::pg_catalog.int8 from pg_temp.flux_given g where g.place = $1 and g.ordinal = $2'
                into next using tg_argv[i], place + 1;
            if next is not null then
                perform pg_catalog.setval(tg_argv[i + 1], next, false);
            end if;
        end loop;
    end if;
    return case when tg_level = 'ROW' and tg_when = 'BEFORE' then new end;
end $$;

-- Foreign keys, which can't lead from a temporary table to another kind. Arguments: a query that says whether all is well after
-- an INSERT or DELETE, one for an UPDATE; then SQLSTATE, constraint, schema, table and message of the error, and a query of its
-- detail. In the queries $1 is the new row, of a DELETE the old one; $2 is the old one.
create function flux_world.check_rows() returns trigger language plpgsql as $$
declare
    is_well pg_catalog.bool;
    detail pg_catalog.text;
begin
    case tg_op
        when 'INSERT' then execute tg_argv[0] into is_well using new, new;
        when 'DELETE' then execute tg_argv[0] into is_well using old, old;
        else execute tg_argv[1] into is_well using new, old;
    end case;
    if is_well then
        return null;
    end if;
    if tg_op = 'DELETE' then
        execute tg_argv[7] into detail using old, old;
    else
        execute tg_argv[7] into detail using new, old;
    end if;
    raise exception using errcode = tg_argv[2], constraint = tg_argv[3], schema = tg_argv[4], table = tg_argv[5],
        message = tg_argv[6], detail = detail;
end $$;

-- What a foreign key does to rows that refer to one that goes or changes. Arguments: a query that says whether there are such
-- rows; a statement; the table they are in, if it is no copy and so can't be written.
create function flux_world.act_on_rows() returns trigger language plpgsql as $$
declare
    is_needed pg_catalog.bool;
begin
    if tg_op = 'DELETE' then
        execute tg_argv[0] into is_needed using old, old;
    else
        execute tg_argv[0] into is_needed using new, old;
    end if;
    if not is_needed then
        return null;
    end if;
    if tg_argv[2] <> '' then
        raise exception using errcode = 'FX315', table = tg_argv[2], message = pg_catalog.format('a foreign key changes rows of %s', tg_argv[2]);
    end if;
    if tg_op = 'DELETE' then
        execute tg_argv[1] using old, old;
    else
        execute tg_argv[1] using new, old;
    end if;
    return null;
end $$;

-- PostgreSQL lets everybody execute a new function. Not these.
-- ---------------------------------------------------------------------------------------------------------
-- The queue
-- ---------------------------------------------------------------------------------------------------------

-- A job is pushed inside the pushing execution's own transaction and ended inside the transaction that stores the
-- record of the attempt that ended it. So a job exists iff its push was committed, and is done iff its execution was.
-- Guests have no right on these tables: what they push goes through flux.push_job, behind a supervisor's token.

create table flux.queue_worker (
    id           uuid primary key,
    tenant       text not null,
    description  text not null,             -- host and process id, for people
    started_at   timestamptz not null default pg_catalog.clock_timestamp(),
    lease_until  timestamptz not null       -- by the database's clock; what it runs is others' to take afterwards
);
comment on table flux.queue_worker is 'Supervisors that take jobs from the queue.';

create table flux.job (
    id           uuid primary key,
    tenant       text not null,
    function     text not null,
    payload      bytea,                     -- JSON, as pushed; null once it is done: its executions have it, redacted
    idempotency  bytea,                     -- SHA-256 of the key
    parent       uuid,                      -- the execution that pushed it
    parent_call  int,                       -- and the host call
    pushed_at    timestamptz not null default pg_catalog.clock_timestamp(),
    run_at       timestamptz not null,      -- not before
    state        text not null default 'waiting' check (state in ('waiting', 'running', 'done', 'dead')),
    worker       uuid,                      -- of flux.queue_worker, while it runs
    claimed_at   timestamptz,
    ended_at     timestamptz,
    attempt      int not null default 0,    -- runs so far, the present one included
    failures     int not null default 0,    -- of them, those that failed by themselves since it was last retried by hand
    lost         int not null default 0,    -- of them, those whose supervisor died or was stopped
    execution    uuid,                      -- of the last attempt that has ended
    error        text,                      -- how that one failed
    tick         timestamptz,               -- of a job that a schedule made, its time; null: a function pushed it
    traceparent  text,                      -- which trace its attempts belong to, as HTTP has it; null: one of their own
    tracestate   text
);
comment on table flux.job is 'What functions have pushed to run later.';
create unique index job_idempotency on flux.job (tenant, function, idempotency) where idempotency is not null;
-- What is due, oldest first, function by function: each has a limit of its own.
create index job_due on flux.job (tenant, function, run_at, id) where state = 'waiting';
create index job_running on flux.job (tenant, function, worker) where state = 'running';
create index job_parent on flux.job (parent) where parent is not null;
create index job_state on flux.job (tenant, state, id);
create index job_ended on flux.job (ended_at) where state = 'done';

-- Pushes a job inside the guest's own transaction; returns its id, or that of the job with the same idempotency key.
--
-- Called as flux.commit_record is: qualified, and with no cast. In REPEATABLE READ a key that somebody else has pushed
-- since the transaction began is a serialisation failure: the execution runs again, and finds the job.
create function flux.push_job(
    token bytea, id uuid, tenant text, function text, payload bytea, idempotency bytea, parent uuid, parent_call int,
    delay_s double precision, traceparent text default null, tracestate text default null
) returns uuid
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
    pushed uuid;
begin
    perform flux.check_token(token);
    insert into flux.job as j (id, tenant, function, payload, idempotency, parent, parent_call, run_at, traceparent, tracestate)
    values (id, tenant, function, payload, idempotency, parent, parent_call, clock_timestamp() + make_interval(secs => delay_s),
            traceparent, tracestate)
    on conflict do nothing
    returning j.id into pushed;
    if pushed is null then
        select j.id into pushed from flux.job j
        where j.tenant = push_job.tenant and j.function = push_job.function and j.idempotency = push_job.idempotency;
        if pushed is null then
            -- It was there a moment ago, and ended so long ago that it has been removed since.
            raise exception using errcode = 'serialization_failure', message = 'the job with this idempotency key was just removed';
        end if;
    else
        perform pg_notify('flux_job', '');
    end if;
    return pushed;
end $$;

-- Ends a job inside the transaction that its attempt's record is in. Fails when somebody else has the job by now: then
-- nothing of the attempt is committed.
create function flux.end_job(token bytea, job uuid, worker uuid, attempt int, execution uuid) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
begin
    perform flux.check_token(token);
    update flux.job j
    set state = 'done', payload = null, worker = null, ended_at = clock_timestamp(), execution = end_job.execution, error = null
    where j.id = job and j.state = 'running' and j.worker = end_job.worker and j.attempt = end_job.attempt;
    if not found then
        raise exception using errcode = 'FX002', message = 'another supervisor has taken the job over';
    end if;
    return true;
end $$;

-- ---------------------------------------------------------------------------------------------------------
-- Schedules
-- ---------------------------------------------------------------------------------------------------------

-- A tick is decided by inserting its row, once: whichever server does that makes a job of it in the same transaction, or
-- leaves it out and says why. The run itself is the queue's. Guests have no right on these tables.

create table flux.cron_schedule (
    tenant     text not null,
    function   text not null,
    schedule   text not null,               -- five fields
    time_zone  text not null,
    since      timestamptz not null,        -- what came until then is decided
    primary key (tenant, function, schedule, time_zone)
);
comment on table flux.cron_schedule is 'Schedules of the code that is served, and up to when they are decided.';

create table flux.cron_pause (
    tenant     text not null,
    function   text not null,
    paused_at  timestamptz not null default pg_catalog.clock_timestamp(),
    primary key (tenant, function)
);
comment on table flux.cron_pause is 'Functions whose schedules somebody has paused.';

create table flux.cron_tick (
    tenant      text not null,
    function    text not null,
    schedule    text not null,
    time_zone   text not null,
    tick        timestamptz not null,
    fate        text not null check (fate in ('run', 'overlap', 'missed')),
    left_out    int not null,               -- ticks before it that were left out and have no row
    job         uuid,                       -- of flux.job, or what was there until it was removed
    decided_at  timestamptz not null default pg_catalog.clock_timestamp(),
    primary key (tenant, function, schedule, time_zone, tick)
);
comment on table flux.cron_tick is 'What became of the times at which something was to run.';
create index cron_tick_function on flux.cron_tick (tenant, function, tick);

-- ---------------------------------------------------------------------------------------------------------
-- Secrets and tokens
-- ---------------------------------------------------------------------------------------------------------

-- Nothing here is of use to whoever has the database alone: secrets are sealed with a key that is not
-- in it, and of tokens there are digests. Guests have no right on these tables.

create table flux.tenant_key (
    tenant   text primary key,
    sealed   bytea not null,                -- the tenant's key, sealed with the master key
    version  bigint not null default 0      -- moves with each change of a secret: other servers read them again
);
comment on table flux.tenant_key is 'Keys that secrets are sealed with, each sealed with the master key.';

create table flux.secret (
    tenant      text not null,
    name        text not null,
    sealed      bytea not null,             -- bound to tenant and name: flux/sealing.py
    changed_at  timestamptz not null default pg_catalog.clock_timestamp(),
    primary key (tenant, name)
);
comment on table flux.secret is 'Values that functions need, sealed.';

create table flux.token (
    sha256        bytea primary key,        -- of the token: it is shown once and kept nowhere
    tenant        text not null,
    kind          text not null check (kind in ('console', 'api')),
    name          text not null,
    scopes        text[] not null,
    created_at    timestamptz not null,
    expires_at    timestamptz,              -- null: it does not
    revoked_at    timestamptz,              -- null: it was not
    last_used_at  timestamptz               -- to a minute
);
comment on table flux.token is 'Who may speak to the console, and to routes of the project that ask for a key.';
create unique index token_name on flux.token (tenant, kind, name) where revoked_at is null;

-- ---------------------------------------------------------------------------------------------------------
-- Tenants
-- ---------------------------------------------------------------------------------------------------------

-- In the database of whoever runs the installation. A tenant's own database has this table too, and nothing in it.

create table flux.tenant (
    name                 text primary key,
    folder               text not null,     -- of its project, on the machine that serves
    hosts                text[] not null,   -- whose requests are its own
    database_sealed      bytea not null,    -- the URL of its database, with the password: flux/sealing.py
    is_made              boolean not null,  -- Flux made the database and its roles, and may remove them
    weight               int not null check (weight between 1 and 1000),
    concurrency          int not null check (concurrency > 0),
    memory_bytes         bigint not null check (memory_bytes > 0),
    requests_per_minute  int check (requests_per_minute > 0),    -- null: no limit
    storage_bytes        bigint check (storage_bytes > 0),       -- null: no limit
    allow                text[] not null,   -- private addresses that its flux.toml may grant
    added_at             timestamptz not null default pg_catalog.clock_timestamp(),
    cpu_ms_per_minute    bigint check (cpu_ms_per_minute > 0)    -- of a processor; null: no limit
);
comment on table flux.tenant is 'Who else this installation serves, each from a database of its own.';

-- ---------------------------------------------------------------------------------------------------------
-- In which cluster the database is
-- ---------------------------------------------------------------------------------------------------------

-- A copy that pg_restore made elsewhere has the same rows, and there transactions and tables have other numbers.
create table flux.cluster (
    number             int generated always as identity primary key,
    system_identifier  bigint not null,     -- 0: not known, the database may have been restored before this table was there
    log_oid            oid not null,        -- of flux.mutation: a restore within the cluster gives it another
    since              timestamptz not null,    -- what began before ran in an earlier one, by the clock of Flux's server
    first_xid          xid8 not null default '3',  -- lower ids were given out by an earlier cluster
    xid                xid8 not null default pg_catalog.pg_current_xact_id()  -- a row whose xmin is another was restored
);
comment on table flux.cluster is 'Where the database has been, the last row where it is.';

insert into flux.cluster (system_identifier, log_oid, since)
select c.system_identifier, 'flux.mutation'::regclass::oid, 'epoch' from pg_catalog.pg_control_system() c;

-- Nobody logs a change until the transaction ends.
create function flux.lock_log() returns void
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '1s' as $$
begin
    lock table flux.mutation, flux.table_shape, flux.ddl in share row exclusive mode;
end $$;

-- Takes ids of transactions that nobody will have. The caller rolls them back, so that they never count as committed.
create function flux.skip_transactions(count int) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    for number in 1..count loop
        begin
            perform pg_logical_emit_message(true, 'flux'::text, ''::text);  -- the least that makes a subtransaction take one
        exception when division_by_zero then
            raise;  -- never: the clause is what makes this block a subtransaction
        end;
    end loop;
end $$;

-- ---------------------------------------------------------------------------------------------------------
-- Views for others
-- ---------------------------------------------------------------------------------------------------------

-- What dashboards and reports may build on: names and meanings here stay, whatever becomes of the tables behind them.
-- docs/sql-views.md is checked against the comments.
--
-- A view reads with its owner's rights, so who may read one needs no right on a table of Flux's. So no view has what rules of
-- "redact" could not reach: bodies, payloads of jobs, keys and values of rows. Nobody is granted anything here; guests
-- have no right on the schema and so can name nothing in it.
create schema flux_views;
revoke all on schema flux_views from public;
comment on schema flux_views is 'What Flux recorded, for reports: stable views, to be read.';

-- Executions lie in partitions by id, which begins with the time: a bound on the id is a bound on the partitions.
create function flux_views.first_id(at timestamptz) returns uuid
language sql immutable strict parallel safe as $$
    select (pg_catalog.lpad(pg_catalog.to_hex(least(greatest(pg_catalog.floor(extract(epoch from at) operator(pg_catalog.*) 1000::numeric), 0), 281474976710655)::bigint), 12, '0')
            || '00000000000000000000')::uuid
$$;
comment on function flux_views.first_id is 'The smallest id that an execution which began at that time could have.';

create function flux_views.row_hash(schema_name text, table_name text, key text) returns bigint
language sql immutable strict parallel safe as $$
    select pg_catalog.hashtextextended(key, pg_catalog.hashtextextended(table_name, pg_catalog.hashtextextended(schema_name, 0)))
$$;
comment on function flux_views.row_hash is 'What row_hash is of a row whose key is known: {"id":42}, columns by name, no spaces.';

create view flux_views.executions as
    select e.id, e.name, e.tenant, e.trigger, e.function, e.method, e.path, e.route, e.status, e.outcome,
           e.signature is not null as failed, e.error_type, e.error_message, e.error_location, e.signature,
           e.started_at, (e.elapsed_ns / 1000000.0)::double precision as elapsed_ms, e.call_count as calls, e.mutation_count as mutations,
           e.sha, e.dirty, e.deployment, e.parent, e.attempt, e.replay_of, e.completeness, e.hosts_failed
    from flux.execution e;
comment on view flux_views.executions is 'One row for each execution of a function, without what came in, went out and was asked on the way.';
comment on column flux_views.executions.id is 'UUIDv7. In order of start; a bound by first_id() keeps a query to the days that it is about.';
comment on column flux_views.executions.name is 'What people type: flux why qk3f81xa.';
comment on column flux_views.executions.tenant is 'Whose function ran; main where there are no tenants.';
comment on column flux_views.executions.trigger is 'http, invoke, queue, cron or replay.';
comment on column flux_views.executions.function is 'The function''s name.';
comment on column flux_views.executions.method is 'Of a request: GET, POST and so on.';
comment on column flux_views.executions.path is 'Of a request: its path, without the query.';
comment on column flux_views.executions.route is 'Of a request: the route''s pattern, such as /orders/{id}.';
comment on column flux_views.executions.status is 'Of a request: the status of the answer; null when there was none.';
comment on column flux_views.executions.outcome is 'returned, raised, killed, exited or interrupted.';
comment on column flux_views.executions.failed is 'Whether it failed: it raised, was killed, or answered 5xx.';
comment on column flux_views.executions.error_type is 'Type of the error that it ended with.';
comment on column flux_views.executions.error_message is 'Its message, as the record has it: what rules of redact met is blanked.';
comment on column flux_views.executions.error_location is 'Where it was raised: file and line.';
comment on column flux_views.executions.signature is 'Equal for failures of one kind; see error_groups.';
comment on column flux_views.executions.started_at is 'When it began.';
comment on column flux_views.executions.elapsed_ms is 'How long it took, in milliseconds.';
comment on column flux_views.executions.calls is 'How many host calls it made: database, HTTP, clock and so on.';
comment on column flux_views.executions.mutations is 'How many rows it changed, those that were rolled back included.';
comment on column flux_views.executions.sha is 'The commit that it ran on.';
comment on column flux_views.executions.dirty is 'Whether the working tree had changes that were not in that commit.';
comment on column flux_views.executions.deployment is 'The deployment that it ran on.';
comment on column flux_views.executions.parent is 'The execution that caused it, by a job or an invoke.';
comment on column flux_views.executions.attempt is 'Of a job: how many-th try it was.';
comment on column flux_views.executions.replay_of is 'The execution that it is a replay of. Reports on traffic leave out where trigger is replay.';
comment on column flux_views.executions.completeness is 'whole, or what the record lacks.';
comment on column flux_views.executions.hosts_failed is 'Hosts that it asked and that did not answer as they should; null for none.';

create view flux_views.mutations as
    select m.seq, m.at, m.schema_name, m.table_name, flux_views.row_hash(m.schema_name, m.table_name, m.key) as row_hash,
           case m.op when 'I' then 'insert' when 'U' then 'update' when 'D' then 'delete' else 'truncate' end as op,
           case when m.op = 'U' and m.before is not null and m.after is not null then array(
                    select a.key from pg_catalog.json_each(m.after) a
                    where a.value::text is distinct from (m.before -> a.key)::text order by a.key)
                else array(select k.name from pg_catalog.json_object_keys(coalesce(m.after, m.before)) k (name) order by k.name) end as columns,
           m.depth, m.committed, m.outside, m.cut,
           -- Not a join: this is looked up only where somebody asks for it, and in two or three partitions of all.
           coalesce(m.execution,
                    (select t.execution from flux.transaction t where t.xid = m.xid),
                    (select e.id from flux.execution e
                     where e.xid = m.xid and e.id >= flux_views.first_id(m.at - interval '1 day')
                       and e.id < flux_views.first_id(m.at + interval '1 day') limit 1)) as execution
    from flux.mutation m;
comment on view flux_views.mutations is 'One row for each row of a table that was changed: which columns, when and by what, without keys and values.';
comment on column flux_views.mutations.seq is 'Of one row''s changes, their order.';
comment on column flux_views.mutations.at is 'When it was made. A bound keeps a query to the days that it is about.';
comment on column flux_views.mutations.schema_name is 'The table''s schema, as it was called.';
comment on column flux_views.mutations.table_name is 'The table, as it was called; of a partition, the whole table.';
comment on column flux_views.mutations.row_hash is 'Equal for changes of one row; row_hash() makes it of a key. Null where the table has no primary key.';
comment on column flux_views.mutations.op is 'insert, update, delete or truncate.';
comment on column flux_views.mutations.columns is 'Names of the columns whose values changed; of a row that came or went, all.';
comment on column flux_views.mutations.depth is '1: the statement itself; more: a trigger or a cascade.';
comment on column flux_views.mutations.committed is 'False: it was rolled back.';
comment on column flux_views.mutations.outside is 'Whether it was made past Flux''s functions: by a migration, psql, another program.';
comment on column flux_views.mutations.cut is 'Whether more rows were changed than are known.';
comment on column flux_views.mutations.execution is 'The execution that made it; null where that is not known.';

create view flux_views.row_versions as
    select m.schema_name, m.table_name, m.row_hash, pg_catalog.row_number() over (one order by m.seq) as version,
           m.at as since, pg_catalog.lead(m.at) over (one order by m.seq) as until, m.op, m.columns, m.execution, m.outside
    from flux_views.mutations m
    where m.committed and m.row_hash is not null
    window one as (partition by m.schema_name, m.table_name, m.row_hash);
comment on view flux_views.row_versions is 'Versions of rows, by committed changes. Ask for one row by row_hash, or for one table: it looks at all days.';
comment on column flux_views.row_versions.schema_name is 'The table''s schema.';
comment on column flux_views.row_versions.table_name is 'The table.';
comment on column flux_views.row_versions.row_hash is 'The row; row_hash() makes it of a key.';
comment on column flux_views.row_versions.version is 'From 1, among those that are kept: the first is not where the row began if older ones were pruned.';
comment on column flux_views.row_versions.since is 'When this version came to be.';
comment on column flux_views.row_versions.until is 'When the next one did; null: it is the last.';
comment on column flux_views.row_versions.op is 'insert, update, delete or truncate: after the last two the row was gone.';
comment on column flux_views.row_versions.columns is 'Names of the columns whose values changed.';
comment on column flux_views.row_versions.execution is 'The execution that made it; null where that is not known.';
comment on column flux_views.row_versions.outside is 'Whether it was made past Flux''s functions.';

create view flux_views.jobs as
    select j.id, j.tenant, j.function, j.state, j.attempt as attempts, j.failures, j.lost, j.pushed_at, j.run_at, j.claimed_at, j.ended_at,
           j.tick, j.parent as pushed_by, j.execution
    from flux.job j;
comment on view flux_views.jobs is 'The queue: one row for each job, those that are done until they are pruned, without what was pushed.';
comment on column flux_views.jobs.id is 'The job.';
comment on column flux_views.jobs.tenant is 'Whose it is.';
comment on column flux_views.jobs.function is 'The function that runs it.';
comment on column flux_views.jobs.state is 'waiting, running, done or dead.';
comment on column flux_views.jobs.attempts is 'How many times it was begun.';
comment on column flux_views.jobs.failures is 'How many of these failed by themselves, since somebody last had it run again.';
comment on column flux_views.jobs.lost is 'How many of these ended with the server that ran them.';
comment on column flux_views.jobs.pushed_at is 'When it was pushed.';
comment on column flux_views.jobs.run_at is 'Not before then.';
comment on column flux_views.jobs.claimed_at is 'When it was last begun.';
comment on column flux_views.jobs.ended_at is 'When it was done or given up; null: it was not.';
comment on column flux_views.jobs.tick is 'Of a schedule''s job: the time that it is for; null: a function pushed it.';
comment on column flux_views.jobs.pushed_by is 'The execution that pushed it.';
comment on column flux_views.jobs.execution is 'The execution of the last attempt that has ended.';

create view flux_views.deployments as
    select d.tenant, d.deployment, d.sha, d.dirty, d.branch, d.cause, d.functions, d.at as since,
           pg_catalog.lead(d.at) over (partition by d.tenant order by d.id) as until
    from flux.deploy d;
comment on view flux_views.deployments is 'Each switch to other code.';
comment on column flux_views.deployments.tenant is 'Whose code it is.';
comment on column flux_views.deployments.deployment is 'The deployment''s id, as executions have it.';
comment on column flux_views.deployments.sha is 'Its commit.';
comment on column flux_views.deployments.dirty is 'Whether the working tree had changes that were not in that commit.';
comment on column flux_views.deployments.branch is 'The branch that it was made on; null where there was none.';
comment on column flux_views.deployments.cause is 'start, save, deploy or rollback.';
comment on column flux_views.deployments.functions is 'Names of its functions.';
comment on column flux_views.deployments.since is 'When it was switched to.';
comment on column flux_views.deployments.until is 'When the next one was; null: it is the last.';

create view flux_views.error_groups as
    select g.signature, g.executions, g.functions, g.first_at, g.last_at, l.id as latest, l.error_type, l.error_message, l.error_location
    from (select e.signature, pg_catalog.count(*) as executions, pg_catalog.array_agg(distinct e.function) as functions,
                 pg_catalog.min(e.started_at) as first_at, pg_catalog.max(e.started_at) as last_at
          from flux.execution e where e.signature is not null and e.trigger <> 'replay' group by e.signature) g
    cross join lateral (
        select e.id, e.error_type, e.error_message, e.error_location from flux.execution e
        where e.signature = g.signature and e.trigger <> 'replay' order by e.id desc limit 1) l;
comment on view flux_views.error_groups is 'Failures by kind, over all that is kept; replays do not count. For a window, group executions by signature.';
comment on column flux_views.error_groups.signature is 'Equal for failures of one kind: the same error from the same place.';
comment on column flux_views.error_groups.executions is 'How many executions ended so.';
comment on column flux_views.error_groups.functions is 'In which functions.';
comment on column flux_views.error_groups.first_at is 'When the first of them that is kept began.';
comment on column flux_views.error_groups.last_at is 'When the latest began.';
comment on column flux_views.error_groups.latest is 'The latest, to look at.';
comment on column flux_views.error_groups.error_type is 'Type of the latest one''s error.';
comment on column flux_views.error_groups.error_message is 'Its message, as the record has it.';
comment on column flux_views.error_groups.error_location is 'Where it was raised: file and line.';

create view flux_views.incidents as
    select i.tenant, i.name, i.since, i.until, i.pinned_at from flux.incident i;
comment on view flux_views.incidents is 'Windows of time that somebody gave a name.';
comment on column flux_views.incidents.tenant is 'Whose it is.';
comment on column flux_views.incidents.name is 'Its name.';
comment on column flux_views.incidents.since is 'From then on.';
comment on column flux_views.incidents.until is 'Before then.';
comment on column flux_views.incidents.pinned_at is 'When it was given its name.';

-- Also what default privileges of a database have granted.
revoke all on all tables in schema flux_views from public;

revoke all on all functions in schema flux from public;
revoke all on all tables in schema flux from public;
revoke all on all sequences in schema flux from public;
