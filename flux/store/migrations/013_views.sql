-- Views for whoever has SQL: a schema of their own, so that a right to it is no right to anything else of Flux's.

-- What is made here is Flux's own. The event triggers would take it for a change of the users' schema.
create or replace function flux.on_ddl() returns event_trigger
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

create or replace function flux.on_drop() returns event_trigger
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

revoke all on function flux.on_ddl, flux.on_drop from public;

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
