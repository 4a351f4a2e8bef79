-- Every query of Flux, each under its name, with a sentence on what it is for.
--
-- queries.py reads this file: "-- name: x" begins a query, reached as QUERIES.x; "-- filter: x" begins a condition
-- that where() may add at /*filters*/, its one value written as "?". Values are always parameters.


-- ===== Installation =====

-- name: lock_migrations
-- One migrating program at a time, until the transaction ends.
select pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('flux.migrate', 0));

-- name: find_schema
-- Whether Flux was ever installed here, whether something else has its name, and what the server is. It reads the
-- catalog's tables: to_regclass() may answer from what this session knew before another one installed Flux.
select exists (select from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
               where n.nspname = 'flux' and c.relname = 'schema_version') as installed,
       exists (select from pg_catalog.pg_namespace where nspname = 'flux') as name_taken,
       pg_catalog.current_setting('server_version_num')::int as server_version_num,
       pg_catalog.current_setting('server_version') as server_version,
       pg_catalog.current_setting('server_encoding') as server_encoding,
       pg_catalog.current_database()::text as database,
       current_user::text as role;

-- name: list_schema_versions
-- Flux's own migrations as applied, oldest first.
select version, name, sha256, applied_at from flux.schema_version order by version;

-- name: add_schema_version
-- Says that a migration was applied, in its own transaction.
insert into flux.schema_version (version, name, sha256) values ($1, $2, $3);

-- name: install_event_triggers
-- Makes new tables captured by themselves; false where this role may not have event triggers.
select flux.install_event_triggers() as installed;

-- name: find_rights
-- What this role may do beyond what Flux needs, and whether the server notes when transactions commit.
select current_user::text as role,
       exists (select from pg_catalog.pg_event_trigger where evtname = 'flux_ddl' and evtenabled <> 'D') as captures_new_tables,
       r.rolsuper or r.rolcreatedb as may_create_databases,
       pg_catalog.current_setting('track_commit_timestamp') = 'on' as notes_commits
from pg_catalog.pg_roles r where r.rolname = current_user;

-- name: track_all
-- Installs the capture on every table that lacks it; how many there were.
select flux.track_all() as changed;

-- name: list_coverage
-- Tables whose changes are not wholly captured, and why.
select schema_name, table_name, reason from flux.coverage();

-- name: ensure_partitions
-- Makes the partitions of the coming days and drains the default ones; how many were made.
select flux.ensure_partitions($1) as made;

-- name: ensure_guest_role
-- Makes or repairs the login role of a tenant: tenant, schema, password.
select flux.ensure_guest_role($1, $2, $3) as role_name;

-- name: find_guest
-- The role and the schema of a tenant.
select role_name, schema_name from flux.guest where tenant = $1;

-- name: add_supervisor
-- Registers a supervisor's token by its digest: the token itself never reaches the database's tables.
insert into flux.supervisor (token_sha256, description) values ($1, $2);

-- name: remove_supervisor
-- At an orderly end, so that the token is worthless afterwards.
delete from flux.supervisor where token_sha256 = $1;

-- name: get_notice_secret
-- What authenticates the NOTICEs of flux.capture().
select value from flux.instance where key = 'notice_secret';


-- ===== Writing records =====

-- name: commit_record
-- The record, inside the guest's own transaction. No casts: a guest could put types of its own in their way.
select flux.commit_record($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21,
                          $22, $23, $24, $25, $26, $27, $28, $29) as xid;

-- name: mark_transaction
-- Says whose transaction this is, where an execution makes several. No casts, for the same reason.
select flux.mark_transaction($1, $2, $3, $4) as xid;

-- name: commit_job_record
-- The same for an attempt at a job, which ends with it; refused when somebody else has the job by now.
select flux.commit_record($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21,
                          $22, $23, $24, $25, $26, $27, $28, $29) as xid,
       flux.end_job($1, $30, $31, $32, $2) as ended;

-- name: push_job
-- A job, pushed inside the guest's own transaction. No casts, for the same reason.
select flux.push_job($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) as job;

-- name: add_rolled_back_mutations
-- Images that were seen in NOTICEs and then rolled back: the execution, then one array a column. Where the time
-- is not known, it is now. Unqualified: only so does unnest take several arrays, and the parser makes each
-- pg_catalog.unnest by itself.
insert into flux.mutation (at, xid, ordinal, relid, schema_name, table_name, op, depth, key, before, after, committed, execution)
select coalesce(m.at, pg_catalog.clock_timestamp()), m.xid::xid8, m.ordinal,
       coalesce(pg_catalog.to_regclass(pg_catalog.format('%I.%I', m.schema_name, m.table_name))::oid, 0::oid),
       m.schema_name, m.table_name, m.op::"char", m.depth, m.key, m.before::json, m.after::json, false, $1::uuid
from unnest($2::timestamptz[], $3::text[], $4::int[], $5::text[], $6::text[], $7::text[], $8::smallint[],
                       $9::text[], $10::text[], $11::text[])
     with ordinality as m (at, xid, ordinal, schema_name, table_name, op, depth, key, before, after, place)
order by m.place;

-- name: add_execution
-- A record on its own, unless it is there already; waits for a transaction that is just writing it. One row a
-- record that was added.
insert into flux.execution (
    id, name, tenant, trigger, function, method, path, route, status, outcome, error_type, error_message,
    error_location, signature, started_at, elapsed_ns, call_count, mutation_count, sha, dirty, deployment,
    parent, attempt, replay_of, completeness, hosts_failed, format, body)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25,
        $26, $27, $28)
on conflict (id) do nothing returning id;

-- name: find_execution_id
-- Whether an execution has a record.
select id from flux.execution where id = $1;

-- name: add_replay
-- What a replay has shown.
insert into flux.replay (id, original, code, deployment, sha, dirty, verdict, reason, divergence, is_check)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9::text::json, $10);

-- name: list_replays
-- What replays of an execution have shown, the latest first.
select r.id, e.name, r.code, r.deployment, r.sha, r.dirty, r.verdict, r.reason, r.divergence::text as divergence, r.is_check, r.at
from flux.replay r left join flux.execution e on e.id = r.id
where r.original = $1 order by r.at desc limit $2;

-- name: list_unchecked
-- Executions that ended on some deployment since an instant and have not been replayed on their own code, a sample of them.
select e.id from flux.execution e
where e.id >= flux.uuid_floor($1) and e.deployment = $2 and e.completeness = 'whole' and e.trigger <> 'replay'
  and not exists (select from flux.replay r where r.original = e.id and r.code is null)
order by pg_catalog.random() limit $3;

-- name: count_checks
-- Of what Flux replayed by itself since an instant: how many, and how many did not do the same again. One that came to
-- bytes that are on no record did so as far as it went.
select pg_catalog.count(*) as count,
  pg_catalog.count(*) filter (where divergence is not null and divergence ->> 'kind' <> 'unheard') as escaped
from flux.replay where is_check and at >= $1;

-- name: pin_incident
-- Gives a time window a name.
insert into flux.incident (tenant, name, since, until) values ($1, $2, $3, $4) on conflict do nothing returning name;

-- name: list_incidents
-- The windows that have a name, the latest first, with how many executions are in each and how many of them failed.
select i.name, i.since, i.until, i.pinned_at, n.count, n.failed
from flux.incident i, lateral (
    select pg_catalog.count(*) as count, pg_catalog.count(*) filter (where e.status >= 500) as failed
    from flux.execution e
    where e.tenant = i.tenant and e.id >= flux.uuid_floor(i.since - interval '1 day') and e.id < flux.uuid_floor(i.until + interval '1 day')
      and e.started_at >= i.since and e.started_at <= i.until and e.trigger <> 'replay'
) n
where i.tenant = $1 order by i.since desc, i.name;

-- name: find_incident
-- A window by its name.
select since, until from flux.incident where tenant = $1 and name = $2;

-- name: count_window
-- How many executions of a tenant began in a window, and how many of them failed.
select pg_catalog.count(*) as executions, pg_catalog.count(*) filter (where status >= 500) as failed
from flux.execution
where tenant = $1 and id >= flux.uuid_floor($2::timestamptz - interval '1 day') and id < flux.uuid_floor($3::timestamptz + interval '1 day')
  and started_at >= $2 and started_at <= $3 and trigger <> 'replay';

-- name: find_surviving_mutations
-- Of the statements whose notices came, those whose rows are still in the log: the proof that no savepoint took them back.
select seq from flux.mutation where xid = $1::text::xid8 and seq = any ($2::bigint[]) and at >= $3;

-- name: add_blob
-- Stores a body once, by its content: sha256, size, cut, body. One that is there is used again from now on, to the day.
insert into flux.blob as b (sha256, size_bytes, cut, body) values ($1, $2, $3, $4)
on conflict (sha256) do update set stored_at = excluded.stored_at where b.stored_at < excluded.stored_at - interval '1 day';

-- name: list_blobs
-- Bodies by their contents' digests.
select sha256, size_bytes, cut, body from flux.blob where sha256 = any ($1::bytea[]);

-- name: add_deployment
-- A new deployment: id, tenant, sha, dirty, artifact hash, functions.
insert into flux.deployment (id, tenant, sha, dirty, artifact_hash, functions) values ($1, $2, $3, $4, $5, $6)
on conflict (id) do nothing;

-- name: activate_deployment
-- The switch to a deployment, also a switch back.
update flux.deployment set activated_at = pg_catalog.clock_timestamp() where id = $1;

-- name: add_deploy
-- A switch to other code: tenant, deployment, sha, dirty, branch, functions, cause, runtime.
insert into flux.deploy (tenant, deployment, sha, dirty, branch, functions, cause, runtime)
values ($1, $2, $3, $4, $5, $6, $7, $8);

-- name: list_deploys
-- The latest switches, the last one first, without those to the code that was served already: a start goes on with it.
select deployment, sha, dirty, branch, functions::text as functions, cause, runtime::text as runtime, at
from (
    select d.*, pg_catalog.lag((d.deployment, d.sha, d.dirty)) over (order by d.id) is distinct from (d.deployment, d.sha, d.dirty) as is_other
    from flux.deploy d where d.tenant = $1
) d
where is_other order by id desc limit $2;

-- name: find_last_deploy
-- The last switch: what is served, or was when the server ended.
select deployment, sha, dirty, branch, functions::text as functions, cause, runtime::text as runtime, at
from flux.deploy where tenant = $1 order by id desc limit 1;

-- name: list_deploys_named
-- Of each code whose deployment or commit begins like this, the last switch to it.
select distinct on (d.deployment, d.sha, d.dirty)
       d.deployment, d.sha, d.dirty, d.branch, d.functions::text as functions, d.cause, d.runtime::text as runtime, d.at
from flux.deploy d
where d.tenant = $1 and (pg_catalog.starts_with(d.deployment, $2) or pg_catalog.starts_with(d.sha, $2)
                         or pg_catalog.starts_with(d.sha, 'nogit-' || $2))
order by d.deployment, d.sha, d.dirty, d.id desc;

-- name: list_deployments
-- What was served, each code once with its last switch, the latest first, and how it did: executions, and those that failed.
with seen as (
    select d.deployment, d.sha, d.dirty, pg_catalog.max(d.id) as last, pg_catalog.min(d.at) as since, pg_catalog.count(*) as deploys
    from flux.deploy d where d.tenant = $1 group by d.deployment, d.sha, d.dirty order by last desc limit $2
), counted as (
    select e.deployment, e.sha, e.dirty, pg_catalog.count(*) as executions,
           pg_catalog.count(*) filter (where e.status >= 500) as failed
    from flux.execution e
    where e.tenant = $1 and e.id >= flux.uuid_floor((select pg_catalog.min(s.since) from seen s) - interval '1 day')
      and e.trigger <> 'replay'
    group by e.deployment, e.sha, e.dirty
)
select d.deployment, d.sha, d.dirty, d.branch, d.functions::text as functions, d.cause, d.runtime::text as runtime, d.at,
       s.deploys, coalesce(c.executions, 0) as executions, coalesce(c.failed, 0) as failed
from seen s join flux.deploy d on d.id = s.last
left join counted c on c.deployment = s.deployment and c.sha = s.sha and c.dirty = s.dirty
order by s.last desc;

-- name: list_deployments_to_keep
-- Whose artifacts stay: what was deployed or rolled back to on purpose, and of all that was served the latest.
select d.deployment from flux.deploy d where d.tenant = $1 and d.cause in ('deploy', 'rollback')
union
(select d.deployment from flux.deploy d where d.tenant = $1 group by d.deployment order by pg_catalog.max(d.id) desc limit $2);

-- name: find_previous_deployment
-- What served before this deployment: the good end that bisect and "why" try first.
select p.id, p.sha, p.dirty, p.created_at
from flux.deployment d
join flux.deployment p on p.tenant = d.tenant and p.created_at < d.created_at and p.activated_at is not null
     and p.sha is distinct from d.sha
where d.id = $1 order by p.created_at desc limit 1;

-- name: list_migrations_applied
-- The users' own migrations, in the order they were applied.
select name, sha256, applied_at from flux.migration_applied where tenant = $1 order by applied_at, name;

-- name: add_migration_applied
-- Says that a user's migration was applied, in its own transaction.
insert into flux.migration_applied (tenant, name, sha256) values ($1, $2, $3);

-- name: list_schema_columns
-- The columns of each table of a schema with their types; a table without any has one row.
select c.relname::text as table_name, a.attname::text as name, pg_catalog.format_type(a.atttypid, a.atttypmod) as type
from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
left join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
where n.nspname = $1 and c.relkind in ('r', 'p', 'f')
order by c.relname, a.attnum;

-- name: list_schema_objects
-- What a schema holds, each object with its definition and the statements that make and remove it. With an empty
-- search_path names come out qualified, and definitions of two databases can be compared. Comments, rights, owners,
-- aggregates and operators are not looked at.
with place as (select oid, nspname from pg_catalog.pg_namespace where nspname = $1),
member as (select d.classid, d.objid from pg_catalog.pg_depend d where d.deptype = 'e'),
relation as (
    select c.*, n.nspname, pg_catalog.format('%I.%I', n.nspname, c.relname) as full_name
    from pg_catalog.pg_class c join place n on n.oid = c.relnamespace
    where not exists (select from member m where m.classid = 'pg_catalog.pg_class'::regclass and m.objid = c.oid)),
own_type as (
    select t.*, pg_catalog.format('%I.%I', n.nspname, t.typname) as full_name from pg_catalog.pg_type t join place n on n.oid = t.typnamespace
    where not exists (select from member m where m.classid = 'pg_catalog.pg_type'::regclass and m.objid = t.oid)),
own_column as (
    select c.relname, c.full_name, c.relispartition, a.attname, a.attnum, pg_catalog.format_type(a.atttypid, a.atttypmod) as type,
           case when a.attgenerated = '' then pg_catalog.pg_get_expr(d.adbin, d.adrelid) end as default_expression, a.attnotnull,
           concat(case when a.attcollation <> t.typcollation then (
                      select pg_catalog.format(' collate %I.%I', s.nspname, o.collname)
                      from pg_catalog.pg_collation o join pg_catalog.pg_namespace s on s.oid = o.collnamespace where o.oid = a.attcollation) end,
                  case a.attidentity when 'a' then ' generated always as identity' when 'd' then ' generated by default as identity' end,
                  case a.attgenerated when 's' then pg_catalog.format(' generated always as (%s) stored', pg_catalog.pg_get_expr(d.adbin, d.adrelid))
                                      when 'v' then pg_catalog.format(' generated always as (%s)', pg_catalog.pg_get_expr(d.adbin, d.adrelid)) end) as rest
    from relation c join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    join pg_catalog.pg_type t on t.oid = a.atttypid
    left join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where c.relkind in ('r', 'p')),
column_text as (
    select *, concat(type, rest, ' default ' || default_expression, case when attnotnull then ' not null' end) as definition from own_column)
select 'extension' as kind, e.extname::text as name, null::text as table_name, ''::text as definition,
       pg_catalog.format('create extension %I schema %I', e.extname, n.nspname) as creation, pg_catalog.format('drop extension %I', e.extname) as removal,
       null::json as parts
from pg_catalog.pg_extension e join place n on n.oid = e.extnamespace where e.extname <> 'plpgsql'
union all
select 'enum', t.typname, null, l.labels, pg_catalog.format('create type %s as enum (%s)', t.full_name, l.labels),
       pg_catalog.format('drop type %s', t.full_name), l.parts
from own_type t cross join lateral (
    select coalesce(pg_catalog.string_agg(pg_catalog.quote_literal(e.enumlabel), ', ' order by e.enumsortorder), '') as labels,
           pg_catalog.json_object_agg(e.enumlabel, pg_catalog.quote_literal(e.enumlabel) order by e.enumsortorder) as parts
    from pg_catalog.pg_enum e where e.enumtypid = t.oid) l
where t.typtype = 'e'
union all
select 'domain', t.typname, null, d.definition, pg_catalog.format('create domain %s as %s', t.full_name, d.definition),
       pg_catalog.format('drop domain %s', t.full_name), null
from own_type t cross join lateral (
    select concat(pg_catalog.format_type(t.typbasetype, t.typtypmod), ' default ' || t.typdefault, case when t.typnotnull then ' not null' end,
                  (select pg_catalog.string_agg(pg_catalog.format(' constraint %I %s', k.conname, pg_catalog.pg_get_constraintdef(k.oid)), '' order by k.conname)
                   from pg_catalog.pg_constraint k where k.contypid = t.oid and k.contype = 'c')) as definition) d
where t.typtype = 'd'
union all
select 'composite type', c.relname, null, f.fields, pg_catalog.format('create type %s as (%s)', c.full_name, f.fields), pg_catalog.format('drop type %s', c.full_name), null
from relation c cross join lateral (
    select coalesce(pg_catalog.string_agg(pg_catalog.format('%I %s', a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod)), ', ' order by a.attnum), '') as fields
    from pg_catalog.pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped) f
where c.relkind = 'c'
union all
select 'sequence', c.relname, null, q.definition, pg_catalog.format('create sequence %s %s', c.full_name, q.definition),
       pg_catalog.format('drop sequence if exists %s', c.full_name), null
from relation c cross join lateral (
    select pg_catalog.format('as %s increment by %s minvalue %s maxvalue %s start with %s cache %s %s', pg_catalog.format_type(s.seqtypid, null),
                             s.seqincrement, s.seqmin, s.seqmax, s.seqstart, s.seqcache, case when s.seqcycle then 'cycle' else 'no cycle' end) as definition
    from pg_catalog.pg_sequence s where s.seqrelid = c.oid) q
where c.relkind = 'S' and not exists (
    select from pg_catalog.pg_depend d where d.classid = 'pg_catalog.pg_class'::regclass and d.objid = c.oid and d.deptype = 'i')
union all
select 'owner of sequence', c.relname, null, concat(o.relname, '.', a.attname), pg_catalog.format('alter sequence %s owned by %s.%I', c.full_name, o.full_name, a.attname),
       pg_catalog.format('alter sequence if exists %s owned by none', c.full_name), null
from relation c
join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_class'::regclass and d.objid = c.oid and d.refclassid = 'pg_catalog.pg_class'::regclass and d.deptype = 'a'
join relation o on o.oid = d.refobjid join pg_catalog.pg_attribute a on a.attrelid = o.oid and a.attnum = d.refobjsubid
where c.relkind = 'S'
union all
select 'table', c.relname, null, concat(case c.relpersistence when 'u' then 'unlogged ' end, 'partition by ' || pg_catalog.pg_get_partkeydef(c.oid)),
       pg_catalog.format('create %stable %s (%s)%s', case c.relpersistence when 'u' then 'unlogged ' end, c.full_name,
           (select pg_catalog.string_agg(pg_catalog.format('%I %s', t.attname, t.definition), ', ' order by t.attnum)
            from column_text t where t.full_name = c.full_name),
           ' partition by ' || pg_catalog.pg_get_partkeydef(c.oid)),
       pg_catalog.format('drop table %s', c.full_name), null
from relation c where c.relkind in ('r', 'p') and not c.relispartition
union all
select 'partition', c.relname, p.relname, pg_catalog.pg_get_expr(c.relpartbound, c.oid),
       pg_catalog.format('create table %s partition of %s %s%s', c.full_name, p.full_name, pg_catalog.pg_get_expr(c.relpartbound, c.oid),
                         ' partition by ' || pg_catalog.pg_get_partkeydef(c.oid)), pg_catalog.format('drop table if exists %s', c.full_name), null
from relation c join pg_catalog.pg_inherits i on i.inhrelid = c.oid join relation p on p.oid = i.inhparent
where c.relispartition and c.relkind in ('r', 'p')
union all
select 'inheritance', concat(c.relname, '.', p.relname), c.relname, '', pg_catalog.format('alter table %s inherit %s', c.full_name, p.full_name),
       pg_catalog.format('alter table %s no inherit %s', c.full_name, p.full_name), null
from relation c join pg_catalog.pg_inherits i on i.inhrelid = c.oid join relation p on p.oid = i.inhparent
where not c.relispartition and c.relkind = 'r'
union all
select 'column', concat(t.relname, '.', t.attname), t.relname, t.definition, pg_catalog.format('alter table %s add column %I %s', t.full_name, t.attname, t.definition),
       pg_catalog.format('alter table %s drop column %I', t.full_name, t.attname),
       pg_catalog.json_build_object('place', pg_catalog.format('alter table %s alter column %I', t.full_name, t.attname), 'name', pg_catalog.quote_ident(t.attname),
           'type', t.type, 'default', t.default_expression, 'required', case when t.attnotnull then 'not null' end, 'rest', t.rest)
from column_text t where not t.relispartition
union all
select 'constraint', concat(c.relname, '.', k.conname), c.relname, pg_catalog.pg_get_constraintdef(k.oid),
       pg_catalog.format('alter table %s add constraint %I %s', c.full_name, k.conname, pg_catalog.pg_get_constraintdef(k.oid)),
       pg_catalog.format('alter table %s drop constraint if exists %I', c.full_name, k.conname), null
from relation c join pg_catalog.pg_constraint k on k.conrelid = c.oid
where c.relkind in ('r', 'p') and k.contype in ('p', 'u', 'x', 'c', 'f') and k.conparentid = 0 and k.conislocal
union all
select 'index', i.relname, c.relname, pg_catalog.pg_get_indexdef(x.indexrelid), pg_catalog.pg_get_indexdef(x.indexrelid),
       pg_catalog.format('drop index if exists %I.%I', c.nspname, i.relname), null
from relation c join pg_catalog.pg_index x on x.indrelid = c.oid join pg_catalog.pg_class i on i.oid = x.indexrelid
where c.relkind in ('r', 'p', 'm') and x.indisvalid and not i.relispartition
  and not exists (select from pg_catalog.pg_constraint k where k.conindid = x.indexrelid and k.contype in ('p', 'u', 'x'))
union all
select case c.relkind when 'm' then 'materialized view' else 'view' end, c.relname, null, concat('(' || pg_catalog.array_to_string(c.reloptions, ', ') || ') ', pg_catalog.pg_get_viewdef(c.oid)),
       pg_catalog.format('create %sview %s%s as %s', case c.relkind when 'm' then 'materialized ' end, c.full_name,
           ' with (' || pg_catalog.array_to_string(c.reloptions, ', ') || ')', pg_catalog.pg_get_viewdef(c.oid)),
       pg_catalog.format('drop %sview if exists %s', case c.relkind when 'm' then 'materialized ' end, c.full_name), null
from relation c where c.relkind in ('v', 'm')
union all
select 'function', concat(p.proname, '(', pg_catalog.pg_get_function_identity_arguments(p.oid), ')'), null, pg_catalog.pg_get_functiondef(p.oid), pg_catalog.pg_get_functiondef(p.oid),
       pg_catalog.format('drop routine if exists %s', p.oid::pg_catalog.regprocedure), null
from pg_catalog.pg_proc p join place n on n.oid = p.pronamespace
where p.prokind in ('f', 'p', 'w') and not exists (select from member m where m.classid = 'pg_catalog.pg_proc'::regclass and m.objid = p.oid)
union all
select 'trigger', concat(c.relname, '.', g.tgname), c.relname, concat(pg_catalog.pg_get_triggerdef(g.oid), case g.tgenabled when 'D' then ' (disabled)' end), pg_catalog.pg_get_triggerdef(g.oid),
       pg_catalog.format('drop trigger if exists %I on %s', g.tgname, c.full_name), null
from relation c join pg_catalog.pg_trigger g on g.tgrelid = c.oid
join pg_catalog.pg_proc p on p.oid = g.tgfoid join pg_catalog.pg_namespace f on f.oid = p.pronamespace
where not g.tgisinternal and g.tgparentid = 0 and f.nspname <> 'flux'
union all
select 'row security', c.relname, c.relname, case when c.relforcerowsecurity then 'forced' else 'enabled' end,
       pg_catalog.format('alter table %s enable row level security, %sforce row level security', c.full_name, case when not c.relforcerowsecurity then 'no ' end),
       pg_catalog.format('alter table %s disable row level security', c.full_name), null
from relation c where c.relrowsecurity
union all
select 'row policy', concat(c.relname, '.', p.polname), c.relname, d.definition, pg_catalog.format('create policy %I on %s %s', p.polname, c.full_name, d.definition),
       pg_catalog.format('drop policy if exists %I on %s', p.polname, c.full_name), null
from relation c join pg_catalog.pg_policy p on p.polrelid = c.oid cross join lateral (
    select pg_catalog.format('as %s for %s to %s%s%s', case when p.polpermissive then 'permissive' else 'restrictive' end,
           case p.polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' when 'd' then 'delete' else 'all' end,
           (select pg_catalog.string_agg(case when r = 0 then 'public' else pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(r)) end, ', ') from pg_catalog.unnest(p.polroles) r),
           ' using (' || pg_catalog.pg_get_expr(p.polqual, p.polrelid) || ')', ' with check (' || pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid) || ')') as definition) d;

-- name: list_other_schemas
-- Schemas that people made, beside the one given.
select n.nspname::text as name from pg_catalog.pg_namespace n
where n.nspname not in ($1, 'flux', 'flux_views', 'flux_world', 'public', 'information_schema') and n.nspname !~ '^pg_'
order by n.nspname;

-- name: list_schema_drops
-- Statements that remove what is in a schema, what belongs to extensions aside. Each may take others with it.
select pg_catalog.format('drop %s if exists %I.%I cascade', case c.relkind when 'v' then 'view' when 'm' then 'materialized view'
           when 'S' then 'sequence' when 'f' then 'foreign table' else 'table' end, n.nspname, c.relname) as statement, 1 as place
from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where n.nspname = $1 and c.relkind in ('r', 'p', 'v', 'm', 'S', 'f')
  and not exists (select from pg_catalog.pg_depend d where d.classid = 'pg_catalog.pg_class'::regclass and d.objid = c.oid
                    and (d.deptype = 'e' or c.relkind = 'S' and d.deptype = 'i'))
union all
select pg_catalog.format('drop routine if exists %s cascade', p.oid::pg_catalog.regprocedure), 2
from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace
where n.nspname = $1
  and not exists (select from pg_catalog.pg_depend d where d.classid = 'pg_catalog.pg_proc'::regclass and d.objid = p.oid and d.deptype in ('e', 'i'))
union all
select pg_catalog.format('drop type if exists %I.%I cascade', n.nspname, t.typname), 3
from pg_catalog.pg_type t join pg_catalog.pg_namespace n on n.oid = t.typnamespace
where n.nspname = $1 and (t.typtype in ('e', 'd', 'r') or t.typtype = 'c' and exists (
          select from pg_catalog.pg_class c where c.oid = t.typrelid and c.relkind = 'c'))
  and not exists (select from pg_catalog.pg_depend d where d.classid = 'pg_catalog.pg_type'::regclass and d.objid = t.oid and d.deptype in ('e', 'i'))
order by place, statement;

-- name: forget_migrations_applied
-- What a reset undoes.
delete from flux.migration_applied where tenant = $1;

-- name: count_executions
-- How many records there are.
select count(*) from flux.execution;

-- name: count_sessions_of
-- How many connections a role has to this database: guests' are a running server's.
select count(*) from pg_catalog.pg_stat_activity a where a.datname = pg_catalog.current_database() and a.usename = $1;


-- ===== The queue =====

-- name: keep_queue_worker
-- Says that a supervisor takes jobs, or goes on to: its id, tenant, description, and for how many seconds.
insert into flux.queue_worker (id, tenant, description, lease_until)
values ($1, $2, $3, pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => $4))
on conflict (id) do update set lease_until = excluded.lease_until;

-- name: release_queue_worker
-- At an orderly end: what it has claimed and not run goes back at once.
with gone as (delete from flux.queue_worker where id = $1)
update flux.job set state = 'waiting', worker = null, run_at = pg_catalog.clock_timestamp()
where worker = $1 and state = 'running';

-- name: release_orphans
-- Gives back what a supervisor has claimed and does not know of, since the answer to the claim was lost: tenant, worker, what
-- it knows of, and the seconds that a claim may take.
update flux.job set state = 'waiting', worker = null, run_at = pg_catalog.clock_timestamp()
where tenant = $1 and worker = $2 and state = 'running' and id <> all ($3::uuid[])
  and claimed_at < pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => $4);

-- name: lock_job_claims
-- One supervisor claims at a time, until the transaction ends: where functions have a limit over all of them.
select pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('flux.queue ' || $1, 0));

-- name: claim_jobs
-- Takes what is due, oldest first: tenant, functions, for each how many may run at once over all supervisors (null: any
-- number), how many to take, the worker.
with due as materialized (
    select j.id
    from unnest($2::text[], $3::int[]) as f (name, most)
    cross join lateral (
        select d.id, d.run_at from flux.job d
        where d.tenant = $1 and d.function = f.name and d.state = 'waiting' and d.run_at <= pg_catalog.clock_timestamp()
        order by d.run_at, d.id
        limit least($4::bigint, case when f.most is not null then greatest(0, f.most - (
            select pg_catalog.count(*) from flux.job r where r.tenant = $1 and r.function = f.name and r.state = 'running')) end)
        for update skip locked
    ) j
    order by j.run_at, j.id limit $4
)
update flux.job j
set state = 'running', worker = $5, claimed_at = pg_catalog.clock_timestamp(), attempt = j.attempt + 1
from due where j.id = due.id
returning j.id, j.function, j.payload, j.parent, j.parent_call, j.attempt, j.failures, j.lost, j.tick, j.traceparent,
          j.tracestate;

-- name: find_next_due
-- In how many seconds the next job of some functions is due; null when none waits.
select extract(epoch from pg_catalog.min(j.run_at) - pg_catalog.clock_timestamp())::float8 as due_s
from unnest($2::text[]) as f (name)
cross join lateral (
    select d.run_at from flux.job d
    where d.tenant = $1 and d.function = f.name and d.state = 'waiting' order by d.run_at, d.id limit 1
) j;

-- name: settle_job
-- What becomes of a job after an attempt: id, worker, attempt, state, delay, failures and lost to add, execution, error. No row
-- when somebody else has it by now.
update flux.job
set state = $4::text, worker = null, failures = failures + $6, lost = lost + $7, execution = coalesce($8, execution), error = $9,
    payload = case when $4::text <> 'done' then payload end,
    run_at = case when $4::text = 'waiting' then pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => $5) else run_at end,
    ended_at = case when $4::text <> 'waiting' then pg_catalog.clock_timestamp() end
where id = $1 and state = 'running' and worker = $2 and attempt = $3
returning id;

-- name: take_over_jobs
-- Gives back what supervisors were running whose lease has ended; what was given back too often is dead: tenant, that number.
with lost as materialized (
    select j.id from flux.job j
    where j.tenant = $1 and j.state = 'running' and not exists (
        select from flux.queue_worker w where w.id = j.worker and w.lease_until > pg_catalog.clock_timestamp())
    for update skip locked
)
update flux.job j
set state = case when j.lost >= $2 then 'dead' else 'waiting' end, worker = null, lost = j.lost + 1,
    run_at = pg_catalog.clock_timestamp(), ended_at = case when j.lost >= $2 then pg_catalog.clock_timestamp() end,
    error = 'the server that ran it ended, or lost the database'
from lost where j.id = lost.id
returning j.id, j.state;

-- name: prune_queue
-- Removes jobs that were done so many days ago, at most $2 of them, and supervisors that ended a day ago.
with gone as (delete from flux.queue_worker where lease_until < pg_catalog.clock_timestamp() - interval '1 day')
delete from flux.job where id in (
    select id from flux.job where state = 'done' and ended_at < pg_catalog.clock_timestamp() - pg_catalog.make_interval(days => $1)
    order by ended_at limit $2);

-- name: list_jobs
-- Jobs in some states, of one function or of all, the latest first: tenant, states, function, limit.
select j.id, j.function, j.state, j.attempt, j.failures, j.lost, j.pushed_at, j.run_at, j.claimed_at, j.ended_at, j.error,
       j.parent, j.parent_call, j.idempotency is not null as has_key, e.name as parent_name, x.name as execution_name
from flux.job j
left join flux.execution e on e.id = j.parent
left join flux.execution x on x.id = j.execution
where j.tenant = $1 and j.state = any ($2::text[]) and ($3::text is null or j.function = $3::text)
order by j.id desc limit $4;

-- name: count_jobs
-- How many jobs there are in each state.
select state, pg_catalog.count(*) as count from flux.job where tenant = $1 group by state;

-- name: list_queue_depths
-- How much of each function there is that is not done, and for how long the oldest has been due that is. The time is
-- materialized: a clock that is read for each job by itself makes several groups of one function.
with t as materialized (select pg_catalog.clock_timestamp() as now)
select j.function,
       pg_catalog.count(*) filter (where j.state = 'waiting' and j.run_at <= t.now) as due,
       pg_catalog.count(*) filter (where j.state = 'waiting' and j.run_at > t.now) as delayed,
       pg_catalog.count(*) filter (where j.state = 'running') as running,
       pg_catalog.count(*) filter (where j.state = 'dead') as dead,
       coalesce(extract(epoch from t.now - pg_catalog.min(j.run_at)
           filter (where j.state = 'waiting' and j.run_at <= t.now)), 0)::float8 as oldest_due_s
from flux.job j cross join t
where j.tenant = $1 and j.state in ('waiting', 'running', 'dead')
group by j.function, t.now order by j.function;

-- name: find_jobs
-- Jobs whose id lies between two: a prefix is such a range.
select j.id, j.function, j.state, j.attempt, j.failures, j.lost, j.pushed_at, j.run_at, j.claimed_at, j.ended_at, j.error,
       j.parent, j.parent_call, j.idempotency is not null as has_key, e.name as parent_name, x.name as execution_name
from flux.job j
left join flux.execution e on e.id = j.parent
left join flux.execution x on x.id = j.execution
where j.tenant = $1 and j.id between $2 and $3 order by j.id limit 11;

-- name: list_jobs_of_parent
-- The jobs that an execution has pushed.
select j.id, j.function, j.state, j.attempt, j.failures, j.lost, j.pushed_at, j.run_at, j.claimed_at, j.ended_at, j.error,
       j.parent, j.parent_call, j.idempotency is not null as has_key, e.name as parent_name, x.name as execution_name
from flux.job j
left join flux.execution e on e.id = j.parent
left join flux.execution x on x.id = j.execution
where j.parent = $1 order by j.id limit $2;

-- name: retry_job
-- Has a dead job run again, as if it had never failed; no row when it is not dead.
with again as (
    update flux.job set state = 'waiting', run_at = pg_catalog.clock_timestamp(), failures = 0, lost = 0, ended_at = null
    where tenant = $1 and id = $2 and state = 'dead' returning id
)
select again.id, pg_catalog.pg_notify('flux_job', '') from again;


-- ===== Schedules =====

-- name: add_cron_schedule
-- A schedule that is new here: tenant, function, schedule, time zone, and the instant up to which it is decided.
insert into flux.cron_schedule (tenant, function, schedule, time_zone, since) values ($1, $2, $3, $4, $5) on conflict do nothing;

-- name: retire_cron_schedules
-- Forgets the schedules that the code has no more, so that one which comes back owes nothing: tenant, and those that stay.
delete from flux.cron_schedule s where s.tenant = $1 and not exists (
    select from unnest($2::text[], $3::text[], $4::text[]) as kept (function, schedule, time_zone)
    where kept.function = s.function and kept.schedule = s.schedule and kept.time_zone = s.time_zone);

-- name: lock_cron_schedule
-- Up to when a schedule is decided, whether its function is paused, and whether a run of it is not done yet. Locked, so
-- that servers decide one after the other.
select s.since,
       exists (select from flux.cron_pause p where p.tenant = s.tenant and p.function = s.function) as is_paused,
       exists (select from flux.job j join flux.cron_tick t on t.tick = j.tick and t.job = j.id and t.tenant = s.tenant
                   and t.function = s.function and t.schedule = s.schedule and t.time_zone = s.time_zone
               where j.tenant = s.tenant and j.function = s.function and j.tick is not null
                 and j.state in ('waiting', 'running')) as is_busy
from flux.cron_schedule s
where s.tenant = $1 and s.function = $2 and s.schedule = $3 and s.time_zone = $4
for update;

-- name: add_cron_tick
-- What becomes of a tick, and the job where it is to be run: tenant, function, schedule, time zone, tick, fate, left out, the
-- job's id (null: none) and its payload. Nothing where the tick was decided before.
with decided as (
    insert into flux.cron_tick (tenant, function, schedule, time_zone, tick, fate, left_out, job)
    values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict do nothing
    returning function, tick, job
), made as (
    insert into flux.job (id, tenant, function, payload, run_at, tick)
    select d.job, $1, d.function, $9::bytea, d.tick, d.tick from decided d where d.job is not null
    returning id
)
select m.id, pg_catalog.pg_notify('flux_job', '') from made m;

-- name: move_cron_schedule
-- All until then is decided.
update flux.cron_schedule set since = $5 where tenant = $1 and function = $2 and schedule = $3 and time_zone = $4;

-- name: list_cron_schedules
-- What is known of schedules and of the last tick of each.
select s.function, s.schedule, s.time_zone, s.since, p.paused_at, t.tick, t.fate, t.left_out, j.state,
       e.name as execution_name, e.status, e.outcome
from flux.cron_schedule s
left join flux.cron_pause p on p.tenant = s.tenant and p.function = s.function
left join lateral (
    select c.tick, c.fate, c.left_out, c.job from flux.cron_tick c
    where c.tenant = s.tenant and c.function = s.function and c.schedule = s.schedule and c.time_zone = s.time_zone
    order by c.tick desc limit 1) t on true
left join flux.job j on j.id = t.job
left join flux.execution e on e.id = j.execution
where s.tenant = $1 order by s.function, s.schedule, s.time_zone;

-- name: list_cron_ticks
-- What became of the ticks of a function, the latest first: tenant, function, how many.
select t.schedule, t.time_zone, t.tick, t.fate, t.left_out, t.decided_at, t.job, j.state, j.attempt,
       e.name as execution_name, e.status, e.outcome
from flux.cron_tick t
left join flux.job j on j.id = t.job
left join flux.execution e on e.id = j.execution
where t.tenant = $1 and t.function = $2 order by t.tick desc, t.schedule, t.time_zone limit $3;

-- name: pause_cron
-- Pauses the schedules of a function, unless they are.
insert into flux.cron_pause (tenant, function) values ($1, $2) on conflict do nothing;

-- name: resume_cron
-- Lets the schedules of a function go on, from now: tenant, function, now.
with gone as (delete from flux.cron_pause where tenant = $1 and function = $2 returning tenant, function)
update flux.cron_schedule s set since = greatest(s.since, $3) from gone g where g.tenant = s.tenant and g.function = s.function;

-- name: prune_cron_ticks
-- Removes what became of ticks so many days ago.
delete from flux.cron_tick where decided_at < pg_catalog.clock_timestamp() - pg_catalog.make_interval(days => $1);


-- ===== Finding executions =====

-- name: find_execution
-- One execution by its id, recording included.
select * from flux.execution where id = $1;

-- name: find_executions_by_name
-- Executions whose name starts so, as the prefix and the first text behind all that start so; eleven, to show ten
-- and know that there are more. Compared byte by byte, which is what the index holds.
select * from flux.summary where name ~>=~ $1 and name ~<~ $2 order by id desc limit 11;

-- name: find_executions_by_id_range
-- Executions whose id starts so, as the smallest and the largest id that do.
select * from flux.summary where id between $1 and $2 order by id desc limit 11;

-- name: find_latest_execution
-- "@-1" is the latest, "@-2" the one before it; replays don't count. The offset starts at 0.
select * from flux.summary where trigger <> 'replay' order by id desc limit 1 offset $1;

-- name: find_last_error
-- "@last-error".
select * from flux.summary where signature is not null and trigger <> 'replay' order by id desc limit 1;

-- name: list_executions
-- Newest first, with any of the filters below.
select * from flux.summary e where true /*filters*/ order by e.id desc limit $1;

-- name: list_executions_after
-- Oldest first, with any of the filters below: history for who follows what happens.
select * from flux.summary e where true /*filters*/ order by e.id limit $1;

-- name: count_activity
-- How many executions began in each of $3 pieces of time, $2 seconds each, from $1 on, and how many of them went wrong.
-- By their ids, which hold the millisecond of the start, and so from indexes: the table is only looked at for what is
-- notable. Of replays, which do not count, there are few.
with bucket as materialized (
    select n, flux.uuid_floor($1::timestamptz + pg_catalog.make_interval(secs => n * $2::double precision)) as low,
           flux.uuid_floor($1::timestamptz + pg_catalog.make_interval(secs => (n + 1) * $2::double precision)) as high
    from pg_catalog.generate_series(0, $3::int - 1) n
)
select b.n as bucket,
       (select pg_catalog.count(*) from flux.execution e where e.id >= b.low and e.id < b.high)
           - (select pg_catalog.count(*) from flux.execution e where e.trigger = 'replay' and e.id >= b.low and e.id < b.high)
           as executions,
       (select pg_catalog.count(*) from flux.execution e
        where (e.signature is not null or e.hosts_failed is not null or e.error_type is not null or e.status >= 400)
          and e.id >= b.low and e.id < b.high and e.trigger <> 'replay'
          and (e.outcome in ('killed', 'exited', 'interrupted') or e.status >= 500
               or (e.status is null and (e.outcome = 'raised' or e.error_type is not null)))) as failed
from bucket b order by b.n;

-- name: list_logs
-- Recordings of the latest executions, newest first, for what they logged.
select e.id, e.name, e.function, e.started_at, e.format, e.body from flux.execution e where e.trigger <> 'replay' /*filters*/
order by e.id desc limit $1;

-- name: list_logs_after
-- The same, oldest first: the history of a stream of log lines.
select e.id, e.name, e.function, e.started_at, e.format, e.body from flux.execution e where e.trigger <> 'replay' /*filters*/
order by e.id limit $1;

-- name: list_children
-- What an execution caused: queue pushes and invokes.
select * from flux.summary where parent = $1 and id >= $1 order by id limit $2;

-- name: list_peers
-- Executions of the same function and code that passed, nearest before this one first, among the nearest $4: what
-- "why" compares with. A function that never passes would be searched to its beginning otherwise.
select e.* from (
    select p.id, p.sha from flux.execution p where p.function = $1 and p.id < $2 order by p.id desc limit $4
) near
join flux.execution e on e.id = near.id
where near.sha = $3 and e.signature is null and e.status < 400 and e.trigger <> 'replay' order by near.id desc limit $5;

-- name: list_passing
-- Executions of a function that passed, on any code, for an experiment on this one: up to $4 of the nearest $3 before it,
-- the nearest first, and then up to $4 of the nearest $3 after it.
(select e.* from (select p.id from flux.execution p where p.function = $1 and p.id < $2 order by p.id desc limit $3) near
 join flux.execution e on e.id = near.id
 where e.signature is null and e.status < 400 and e.trigger <> 'replay' order by near.id desc limit $4)
union all
(select e.* from (select p.id from flux.execution p where p.function = $1 and p.id > $2 order by p.id limit $3) near
 join flux.execution e on e.id = near.id
 where e.signature is null and e.status < 400 and e.trigger <> 'replay' order by near.id limit $4);

-- name: find_passing_on_earlier_code
-- The last execution of a function that passed before this one on another deployment, among the nearest $4.
select e.* from (
    select p.id from flux.execution p where p.function = $1 and p.id < $2 order by p.id desc limit $4
) near
join flux.execution e on e.id = near.id
where e.deployment <> $3 and e.signature is null and e.status < 400 and e.trigger <> 'replay'
order by near.id desc limit 1;

-- filter: status_is
e.status = ?
-- filter: status_min
e.status >= ?
-- filter: status_above
e.status > ?
-- filter: status_max
e.status <= ?
-- filter: status_below
e.status < ?
-- filter: status_class
-- As bounds, so that one who asks for 4xx or 5xx is seen to ask for what is notable.
e.status >= ? and e.status < ?
-- filter: failed
-- What answers 500 and up has failed, and failures have an index.
e.signature is not null
-- filter: path_like
e.path ~ ?
-- filter: method_path_like
e.method = ? and e.path ~ ?
-- filter: function_is
e.function = ?
-- filter: function_like
e.function ~ ?
-- filter: trigger
e.trigger = ?
-- filter: outcome
e.outcome = ?
-- filter: name_prefix
pg_catalog.starts_with(e.name, ?)
-- filter: sha_prefix
pg_catalog.starts_with(e.sha, ?)
-- filter: deploy_prefix
pg_catalog.starts_with(e.deployment, ?)
-- filter: error_ascii
-- All that may contain this lower-case ASCII text whatever the case. Letters beyond ASCII have more cases than
-- SQL knows, so what has any is let through, and looked at again by the reader.
e.error_type is not null
  and (pg_catalog.strpos(pg_catalog.lower((e.error_type || ': ' || e.error_message) collate "C"), ?) > 0
       or pg_catalog.octet_length(e.error_type || ': ' || e.error_message) > pg_catalog.length(e.error_type || ': ' || e.error_message))
-- filter: error_beyond_ascii
-- The same for a text that has such letters itself.
pg_catalog.octet_length(e.error_type || ': ' || e.error_message) > pg_catalog.length(e.error_type || ': ' || e.error_message)
-- filter: error_not_ascii
-- All that may not contain this lower-case ASCII text.
e.error_type is null
  or pg_catalog.strpos(pg_catalog.lower((e.error_type || ': ' || e.error_message) collate "C"), ?) = 0
  or pg_catalog.octet_length(e.error_type || ': ' || e.error_message) > pg_catalog.length(e.error_type || ': ' || e.error_message)
-- filter: since
-- The id's time is the start's, and has the index; the day between them allows for clocks that were set.
e.started_at >= ? and e.id >= flux.uuid_floor(?)
-- filter: until
e.started_at < ? and e.id < flux.uuid_floor(?)
-- filter: before_id
e.id < ?
-- filter: after_id
e.id > ?
-- filter: nothing
-- For values that no record can hold.
false


-- ===== Failures =====

-- name: list_error_groups
-- Failures since an instant, the same signature together, the most frequent first. Read from the index alone, in its
-- order: so the last of a group's ids, as they come, is its latest. Only of these the rows are looked at.
with by_function as (
    select signature, function, pg_catalog.count(*) as count, pg_catalog.min(started_at) as first, pg_catalog.max(started_at) as last,
           (pg_catalog.array_agg(id))[pg_catalog.count(*)] as last_id
    from (select signature, function, started_at, id from flux.execution
          where signature is not null and id >= flux.uuid_floor($1::timestamptz - interval '1 day') and started_at >= $1
            and trigger <> 'replay'
          order by signature, id) s
    group by signature, function
), groups as (
    select signature, pg_catalog.sum(count)::bigint as count, pg_catalog.min(first) as first, pg_catalog.max(last) as last,
           (pg_catalog.array_agg(last_id order by last_id desc))[1] as last_id, pg_catalog.array_agg(function) as functions
    from by_function group by signature order by count desc, last desc limit $2
)
select g.signature, g.count, g.first, g.last, e.name as sample, e.id as sample_id, g.functions, e.error_type, e.error_message,
       e.error_location
from groups g join flux.execution e on e.id = g.last_id
order by g.count desc, g.last desc;

-- name: count_signature_by_sha
-- How often this failure happened on each commit, since an instant, among at most $3 of them; in one function where
-- one is given, since code that several functions share fails in each.
select sha, pg_catalog.count(*) as count, (pg_catalog.array_agg(id))[pg_catalog.count(*)] as first_id,
       (pg_catalog.array_agg(id))[1] as last_id
from (select sha, id from flux.execution where signature = $1 and id >= flux.uuid_floor($2) and trigger <> 'replay' and ($4::text is null or function = $4::text)
      order by id desc limit $3) s
group by sha order by last_id desc;

-- name: count_function_by_sha
-- How often this function ran on each commit, since an instant, among its latest $3 executions.
select sha, pg_catalog.count(*) as count, (pg_catalog.array_agg(id))[pg_catalog.count(*)] as first_id,
       (pg_catalog.array_agg(id))[1] as last_id
from (select sha, id from flux.execution where function = $1 and id >= flux.uuid_floor($2) and trigger <> 'replay' order by id desc limit $3) s
group by sha order by last_id desc;

-- name: list_host_failures
-- Who else lost the same outbound host between two instants.
select id, name, function, started_at from flux.execution
where (signature is not null or hosts_failed is not null) and $1 = any (hosts_failed)
  and id >= flux.uuid_floor($2) and id < flux.uuid_floor($3) and trigger <> 'replay'
order by id limit $4;


-- ===== Bisect =====

-- name: find_bisect_run
-- What an execution did before on the same files, or on other files of which the same was deployed ($5, when known).
select code, verdict, reason, replay, elapsed_ns, document::text as document
from flux.bisect_run
where original = $1 and runtime = $3 and run = $4 and (source = $2 or code = $5::text)
order by source = $2 desc limit 1;

-- name: add_bisect_run
-- Keeps what an execution did on a commit; the latest run of a number is the one that counts.
insert into flux.bisect_run (original, source, runtime, run, code, verdict, reason, replay, elapsed_ns, document)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10::text::json)
on conflict (original, source, runtime, run) do update
set code = excluded.code, verdict = excluded.verdict, reason = excluded.reason, replay = excluded.replay,
    elapsed_ns = excluded.elapsed_ns, document = excluded.document, at = excluded.at;

-- name: list_passing_shas
-- Commits on which a function has passed, that of the latest such execution first: where a bisect looks for a good end.
select sha, name from (
    select distinct on (sha) sha, name, id from flux.execution
    where function = $1 and signature is null and outcome = 'returned' and not dirty and sha is not null and trigger <> 'replay'
    order by sha, id desc
) s order by id desc limit $2;


-- ===== Changes =====

-- name: list_mutations_of_execution
-- The rows an execution changed, in order: those of its own xid and its other transactions, and what was rolled
-- back. The id, the earliest and the latest time, the limit.
select m.seq, m.at, m.xid::text as xid, m.ordinal, m.schema_name, m.table_name, m.op::text as op, m.depth, m.key,
       m.before::text as before, m.after::text as after, m.committed
from (
    select c.* from flux.mutation c
    where c.xid in (select e.xid from flux.execution e where e.id = $1 and e.xid is not null
                    union all select t.xid from flux.transaction t where t.execution = $1)
      and c.committed and c.at >= $2 and c.at < $3
    union all
    select r.* from flux.mutation r where r.execution = $1 and not r.committed and r.at >= $2 and r.at < $3
) m
order by m.seq limit $4;

-- name: list_tables
-- The users' tables of some names, whatever their schema, with their keys' columns.
select u.relid, u.schema_name, u.table_name, (flux.capture_arguments(u.relid))[2:] as key_columns
from flux.user_tables() u where u.table_name = any ($1::text[]) order by u.schema_name;

-- name: find_partitioned
-- The table that one is a partition of, the outermost: as list_tables has it.
select u.relid, u.schema_name, u.table_name, (flux.capture_arguments(u.relid))[2:] as key_columns
from flux.user_tables() u where u.relid = pg_catalog.pg_partition_root($1::oid::regclass) and u.relid <> $1::oid;

-- name: list_maybe_partitioned
-- Partitioned tables with the columns of a table, that were altered since a snapshot: it may have been one of theirs.
select u.schema_name, u.table_name, pg_catalog.max(d.at) as at
from flux.user_tables() u
join flux.ddl d on d.command = 'ALTER TABLE' and d.object_type = 'table'
               and d.object_identity = pg_catalog.format('%I.%I', u.schema_name, u.table_name)
               and not pg_catalog.pg_visible_in_snapshot(d.xid, $2::text::pg_snapshot)
where u.relkind = 'p' and u.relid <> $1::oid
  and (select pg_catalog.array_agg(a.attname::text || ' ' || a.atttypid order by a.attname) from pg_catalog.pg_attribute a
       where a.attrelid = u.relid and a.attnum > 0 and not a.attisdropped)
    = (select pg_catalog.array_agg(a.attname::text || ' ' || a.atttypid order by a.attname) from pg_catalog.pg_attribute a
       where a.attrelid = $1::oid and a.attnum > 0 and not a.attisdropped)
group by 1, 2 order by 1, 2;

-- name: find_key_change
-- The keys that one statement took out of a table and brought into it, two of each at most: table, transaction, ordinal.
select (select pg_catalog.array_agg(o.key) from (select m.key from flux.mutation m where m.xid = $2::text::xid8 and m.relid = $1::oid
            and m.ordinal = $3 and m.committed and m.op = 'D' and m.key is not null limit 2) o) as gone,
       (select pg_catalog.array_agg(n.key) from (select m.key from flux.mutation m where m.xid = $2::text::xid8 and m.relid = $1::oid
            and m.ordinal = $3 and m.committed and m.op = 'I' and m.key is not null limit 2) n) as come;

-- name: list_table_names
-- All of the users' tables, for a message that says what there is.
select u.schema_name, u.table_name from flux.user_tables() u order by 1, 2 limit 50;

-- name: get_key_text
-- A key as the log writes it, from column values as typed: the table's oid, {"column":"value"}.
select flux.key_text($1::oid::regclass, $2::text::json) as key;

-- name: list_row_history
-- All versions of one row, newest first, each with the execution that wrote it: arrays of the schemas, tables and keys
-- that it had, the table, limit. The first is what it is called now: there, changes of tables that are gone count as its own.
-- "outside" was written by somebody else, a migration of the project's among them; neither outside nor an
-- execution means that the record is gone.
with versions as (
    select m.*, case when m.committed then pg_catalog.count(*) filter (where m.committed) over (order by m.seq) end as version
    from rows from (pg_catalog.unnest($1::text[]), pg_catalog.unnest($2::text[]), pg_catalog.unnest($3::text[])) with ordinality
         p (schema_name, table_name, key, place)
    cross join lateral (
        select m.* from flux.mutation m
        where pg_catalog.hashtextextended(m.key, pg_catalog.hashtextextended(m.table_name, pg_catalog.hashtextextended(m.schema_name, 0)))
              = pg_catalog.hashtextextended(p.key, pg_catalog.hashtextextended(p.table_name, pg_catalog.hashtextextended(p.schema_name, 0)))
          and m.schema_name = p.schema_name and m.table_name = p.table_name and m.key = p.key
          and (m.relid = $4::oid or (p.place = 1 and not exists (select from pg_catalog.pg_class c where c.oid = m.relid)))
        offset 0
    ) m
    order by m.seq desc limit $5
)
select v.seq, v.version, v.at, v.xid::text as xid, v.ordinal, v.schema_name, v.table_name, v.op::text as op, v.depth, v.key,
       v.before::text as before, v.after::text as after, v.committed, v.outside, a.name as migration,
       e.id as execution, e.name, e.trigger, e.function, e.method, e.path, e.route, e.sha, e.dirty
from versions v
left join flux.transaction t on t.xid = v.xid
left join flux.migration_applied a on v.outside and a.xid = v.xid
left join lateral (
    -- The bounds leave two or three partitions to look into, instead of all.
    select x.* from flux.summary x
    where x.xid = v.xid and v.committed and x.id >= flux.uuid_floor(v.at - interval '1 day') and x.id < flux.uuid_floor(v.at + interval '1 day')
    union all
    select x.* from flux.summary x where x.id = coalesce(v.execution, t.execution)
    limit 1
) e on true
order by v.seq desc;

-- name: find_row_version_in_snapshot
-- The last version of a row that a snapshot saw, with the execution that wrote it: schema, table, key, snapshot;
-- its table, and whether that is called so now: then, changes of tables that are gone count as its own.
select v.seq, null::bigint as version, v.at, v.xid::text as xid, v.ordinal, v.schema_name, v.table_name, v.op::text as op, v.depth,
       v.key, v.before::text as before, v.after::text as after, v.committed, v.outside, a.name as migration,
       e.id as execution, e.name, e.trigger, e.function, e.method, e.path, e.route, e.sha, e.dirty
from (
    select m.* from flux.mutation m
    where pg_catalog.hashtextextended(m.key, pg_catalog.hashtextextended(m.table_name, pg_catalog.hashtextextended(m.schema_name, 0)))
          = pg_catalog.hashtextextended($3, pg_catalog.hashtextextended($2, pg_catalog.hashtextextended($1, 0)))
      and m.schema_name = $1 and m.table_name = $2 and m.key = $3 and m.committed
      and (m.relid = $5::oid or ($6::bool and not exists (select from pg_catalog.pg_class c where c.oid = m.relid)))
      and pg_catalog.pg_visible_in_snapshot(m.xid, $4::text::pg_snapshot)
    order by m.seq desc limit 1
) v
left join flux.transaction t on t.xid = v.xid
left join flux.migration_applied a on v.outside and a.xid = v.xid
left join lateral (
    select x.* from flux.summary x
    where x.xid = v.xid and x.id >= flux.uuid_floor(v.at - interval '1 day') and x.id < flux.uuid_floor(v.at + interval '1 day')
    union all
    select x.* from flux.summary x where x.id = t.execution
    limit 1
) e on true;

-- name: describe_tables
-- The names behind the numbers that an answer's columns carry, and which of them are the primary key. A
-- partition goes by its root's name, as its changes do.
select c.oid as relid, n.nspname as schema_name, r.relname as table_name, a.attnum as number, a.attname as name,
       coalesce(a.attname = any (k.names), false) as is_key
from pg_catalog.pg_class c
join pg_catalog.pg_class r on r.oid = coalesce(pg_catalog.pg_partition_root(c.oid), c.oid)
join pg_catalog.pg_namespace n on n.oid = r.relnamespace
join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
left join lateral (
    select pg_catalog.array_agg(ka.attname) as names
    from pg_catalog.pg_index i
    join pg_catalog.pg_attribute ka on ka.attrelid = i.indrelid and ka.attnum = any (i.indkey::int2[])
    where i.indrelid = r.oid and i.indisprimary
) k on true
where c.oid = any ($1);

-- name: list_marked_transactions
-- The transactions of an execution that makes several: a row is there when the transaction committed.
select xid::text::bigint as xid from flux.transaction where execution = $1;

-- name: count_running_transactions
-- How many of some transactions have not ended yet. Ids that this cluster has not given out yet come from another
-- one, whose journal we found; pg_xact_status would refuse to say anything of them.
select pg_catalog.count(*) from pg_catalog.unnest($1::text[]) as t (xid)
where case when t.xid::xid8 < pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())
           then pg_catalog.pg_xact_status(t.xid::xid8) = 'in progress' end;

-- name: end_transactions
-- Ends the guests' sessions in which some transactions still run, as far as we may; how many that were.
select pg_catalog.count(*) filter (where pg_catalog.pg_terminate_backend(a.pid))
from pg_catalog.pg_stat_activity a
where a.backend_xid::text in (select (t.xid::xid8)::xid::text from pg_catalog.unnest($1::text[]) as t (xid))
  and pg_catalog.starts_with(a.usename::text, 'flux_guest_') and pg_catalog.pg_has_role(a.usesysid, 'usage');

-- name: world_ddl
-- Changes of anything's shape since a snapshot, oldest first. No casts, as in commit_record.
select d.command, d.object_type, d.object_identity, d.dropped from flux.world_ddl($1, $2) d;

-- name: world_changes
-- Tables whose rows have changed since a snapshot.
select c.schema_name, c.table_name, c.keyless from flux.world_changes($1, $2) c;

-- name: world_shapes
-- Tables that had other names or columns when a snapshot was taken, or are gone; "columns" is as flux.table_shape has them.
select s.relid, s.table_name, s.now_name, s.columns, s.names as old_names from flux.world_shapes($1, $2) s;

-- name: world_migrations
-- Migrations of the project that had been applied when a snapshot was taken.
select m.name from flux.world_migrations($1, $2) m;

-- name: list_world_relations
-- Tables and views of a schema. Definitions name all that is not the system's with its schema: search_path sees to that.
select c.relname as name, c.oid as relid, c.relkind::pg_catalog.text as kind, c.relrowsecurity as has_policies,
       case when c.relkind = 'p' then pg_catalog.pg_get_partkeydef(c.oid) end as partition_key,
       case when c.relispartition then (select p.relname from pg_catalog.pg_inherits i join pg_catalog.pg_class p on p.oid = i.inhparent
                                        where i.inhrelid = c.oid) end as parent,
       case when c.relispartition then pg_catalog.pg_get_expr(c.relpartbound, c.oid) end as bound,
       case when c.relispartition then pg_catalog.pg_get_partition_constraintdef(c.oid) end as partition_check,
       not c.relispartition and exists (select from pg_catalog.pg_inherits i where (i.inhparent = c.oid and c.relkind = 'r') or i.inhrelid = c.oid)
           as inherits,
       case when c.relkind = 'v' then pg_catalog.pg_get_viewdef(c.oid) end as definition,
       c.reloptions as options,
       exists (select from pg_catalog.pg_rewrite r where r.ev_class = c.oid and r.rulename <> '_RETURN') as has_rules
from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where n.nspname = $1 and c.relkind in ('r', 'p', 'v', 'm');

-- name: list_world_columns
-- The columns of tables of a schema, in their order, with what makes their values when nobody gives one.
select c.relname as table_name, a.attname as name, a.attnum as number,
       pg_catalog.format_type(a.atttypid, a.atttypmod) as type,
       (select pg_catalog.quote_ident(cn.nspname) || '.' || pg_catalog.quote_ident(co.collname)
        from pg_catalog.pg_collation co join pg_catalog.pg_namespace cn on cn.oid = co.collnamespace
        join pg_catalog.pg_type ty on ty.oid = a.atttypid
        where co.oid = a.attcollation and a.attcollation <> ty.typcollation) as collation,
       a.attnotnull as is_required, a.attidentity::pg_catalog.text as identity, a.attgenerated::pg_catalog.text as generated,
       pg_catalog.pg_get_expr(d.adbin, d.adrelid) as expression,
       coalesce(k.conkey is not null, false) as is_key,
       (select s.relname from pg_catalog.pg_depend e join pg_catalog.pg_class s on s.oid = e.objid and s.relkind = 'S'
        where e.classid = 'pg_catalog.pg_class'::pg_catalog.regclass and e.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
          and e.refobjid = c.oid and e.refobjsubid = a.attnum and e.deptype in ('a', 'i') limit 1) as sequence
from pg_catalog.pg_class c
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
left join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
left join pg_catalog.pg_constraint k on k.conrelid = c.oid and k.contype = 'p' and a.attnum = any (k.conkey)
where n.nspname = $1 and c.relname = any ($2) and c.relkind in ('r', 'p')
order by c.relname, a.attnum;

-- name: list_world_constraints
-- Keys, checks and exclusions of tables of a schema, and indexes that are of no constraint. Of a partition, what is its own.
select c.relname as table_name, k.conname as name, k.contype::pg_catalog.text as kind, pg_catalog.pg_get_constraintdef(k.oid) as definition
from pg_catalog.pg_constraint k
join pg_catalog.pg_class c on c.oid = k.conrelid
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where n.nspname = $1 and c.relname = any ($2) and k.contype in ('p', 'u', 'x', 'c') and k.coninhcount = 0
union all
select c.relname, x.relname, case when i.indisunique then 'ui' else 'i' end, pg_catalog.pg_get_indexdef(i.indexrelid)
from pg_catalog.pg_index i
join pg_catalog.pg_class c on c.oid = i.indrelid
join pg_catalog.pg_class x on x.oid = i.indexrelid
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where n.nspname = $1 and c.relname = any ($2) and i.indisvalid and not x.relispartition
  and not exists (select from pg_catalog.pg_constraint k where k.conindid = i.indexrelid and k.conrelid = c.oid and k.contype in ('p', 'u', 'x'))
order by 1, 3, 2;

-- name: list_world_unique_indexes
-- What must be unique in tables of a schema: the expressions that are compared, with what, and which rows at all.
select c.relname as table_name, x.relname as name,
       (select pg_catalog.array_agg(pg_catalog.pg_get_indexdef(i.indexrelid, k, true) order by k)
        from pg_catalog.generate_series(1, i.indnkeyatts) k) as expressions,
       (select pg_catalog.array_agg(pg_catalog.format('operator(%I.%s)', of_operator.nspname, o.oprname) order by k)
        from pg_catalog.generate_series(1, i.indnkeyatts) k
        join pg_catalog.pg_opclass oc on oc.oid = i.indclass[k - 1]
        left join pg_catalog.pg_amop e on e.amopfamily = oc.opcfamily and e.amoplefttype = oc.opcintype
             and e.amoprighttype = oc.opcintype and e.amopstrategy = 3 and e.amoppurpose = 's'
        join pg_catalog.pg_operator o on o.oid = case when i.indisexclusion then of_constraint.conexclop[k] else e.amopopr end
        join pg_catalog.pg_namespace of_operator on of_operator.oid = o.oprnamespace) as operators,
       pg_catalog.pg_get_expr(i.indpred, i.indrelid, true) as predicate,
       i.indisexclusion as is_exclusion, not i.indimmediate as is_deferrable
from pg_catalog.pg_index i
join pg_catalog.pg_class c on c.oid = i.indrelid
join pg_catalog.pg_class x on x.oid = i.indexrelid
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
left join pg_catalog.pg_constraint of_constraint on of_constraint.conindid = i.indexrelid and of_constraint.conrelid = i.indrelid and of_constraint.contype in ('p', 'u', 'x')
where n.nspname = $1 and c.relname = any ($2) and (i.indisunique or i.indisexclusion)
order by 1, 2;

-- name: list_world_indexes
-- Columns of the indexes of tables of a schema, in their order and as SQL names them: plain ones, of all rows, but the key's.
select distinct c.relname as table_name,
       (select pg_catalog.array_agg(pg_catalog.pg_get_indexdef(i.indexrelid, k, true) order by k)
        from pg_catalog.generate_series(1, i.indnkeyatts) k) as columns
from pg_catalog.pg_index i
join pg_catalog.pg_class c on c.oid = i.indrelid
join pg_catalog.pg_class x on x.oid = i.indexrelid
join pg_catalog.pg_am a on a.oid = x.relam
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where n.nspname = $1 and c.relname = any ($2) and i.indisvalid and not i.indisprimary and a.amname in ('btree', 'hash')
  and i.indexprs is null and i.indpred is null
order by 1, 2;

-- name: list_world_foreign_keys
-- Foreign keys from and to tables of a schema.
select k.oid as number, k.conname as name, n.nspname as child_schema, c.relname as child, pn.nspname as parent_schema, p.relname as parent,
       (select pg_catalog.array_agg(a.attname order by u.i) from pg_catalog.unnest(k.conkey) with ordinality u(n, i)
        join pg_catalog.pg_attribute a on a.attrelid = k.conrelid and a.attnum = u.n) as child_columns,
       (select pg_catalog.array_agg(a.attname order by u.i) from pg_catalog.unnest(k.confkey) with ordinality u(n, i)
        join pg_catalog.pg_attribute a on a.attrelid = k.confrelid and a.attnum = u.n) as parent_columns,
       k.confmatchtype::pg_catalog.text as match, k.confdeltype::pg_catalog.text as on_delete, k.confupdtype::pg_catalog.text as on_update,
       k.condeferrable as is_deferrable, k.condeferred as is_deferred, pg_catalog.pg_get_constraintdef(k.oid) as definition
from pg_catalog.pg_constraint k
join pg_catalog.pg_class c on c.oid = k.conrelid
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
join pg_catalog.pg_class p on p.oid = k.confrelid
join pg_catalog.pg_namespace pn on pn.oid = p.relnamespace
where k.contype = 'f' and k.conparentid = 0 and (n.nspname = $1 or pn.nspname = $1)
order by k.conname, c.relname;

-- name: list_world_triggers
-- Triggers of the user's on tables and views of a schema; those of a partition that its table gave it are left out.
select c.relname as table_name, t.tgname as name, pg_catalog.pg_get_triggerdef(t.oid) as definition,
       pn.nspname as function_schema, p.proname as function_name, l.lanname as language, t.tgtype & 1 = 1 as is_row
from pg_catalog.pg_trigger t
join pg_catalog.pg_class c on c.oid = t.tgrelid
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
join pg_catalog.pg_proc p on p.oid = t.tgfoid
join pg_catalog.pg_namespace pn on pn.oid = p.pronamespace
join pg_catalog.pg_language l on l.oid = p.prolang
where n.nspname = $1 and not t.tgisinternal and t.tgparentid = 0 and t.tgenabled in ('O', 'A') and pn.nspname <> 'flux'
order by 1, 2;

-- name: list_world_policies
-- Row policies of tables of a schema.
select c.relname as table_name, y.polname as name, y.polpermissive as is_permissive, y.polcmd::pg_catalog.text as command,
       (select pg_catalog.array_agg(case when r = 0 then 'public' else pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(r)) end)
        from pg_catalog.unnest(y.polroles) r) as roles,
       pg_catalog.pg_get_expr(y.polqual, y.polrelid) as using_expression,
       pg_catalog.pg_get_expr(y.polwithcheck, y.polrelid) as check_expression
from pg_catalog.pg_policy y
join pg_catalog.pg_class c on c.oid = y.polrelid
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where n.nspname = $1 and c.relrowsecurity
order by 1, 2;

-- name: list_world_functions
-- Functions and procedures of a schema that are the user's own.
select p.proname as name, l.lanname as language, p.prosrc as body, pg_catalog.pg_get_functiondef(p.oid) as definition,
       p.proconfig as settings, p.prosecdef as is_definers, p.prosqlbody is not null as is_atomic
from pg_catalog.pg_proc p
join pg_catalog.pg_namespace n on n.oid = p.pronamespace
join pg_catalog.pg_language l on l.oid = p.prolang
where n.nspname = $1 and p.prokind in ('f', 'p')
  and not exists (select from pg_catalog.pg_depend d where d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass and d.objid = p.oid and d.deptype = 'e')
order by 1, 4;

-- name: list_schema_sequences
-- Sequences of a schema, and which column's each is.
select s.sequencename as name, s.data_type::pg_catalog.text as type, s.start_value, s.min_value, s.max_value, s.increment_by, s.cycle, s.last_value,
       o.relname as table_name, a.attname as column_name
from pg_catalog.pg_sequences s
join pg_catalog.pg_namespace n on n.nspname = s.schemaname
join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relname = s.sequencename
left join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.objid = c.oid
     and d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.refobjsubid > 0 and d.deptype in ('a', 'i')
left join pg_catalog.pg_class o on o.oid = d.refobjid
left join pg_catalog.pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
where s.schemaname = $1
order by 1;

-- name: world_moves
-- What changed between two snapshots, and an execution's own changes.
select m.seq, m.table_name, m.key, m.xid, m.ordinal, m.before, m.after from flux.world_moves($1, $2, $3, $4, $5) m order by m.seq;

-- name: list_world_deferred
-- Constraints of temporary tables that are checked at COMMIT unless told otherwise.
select c.conname as name from pg_catalog.pg_constraint c
where c.condeferred and c.connamespace = pg_catalog.pg_my_temp_schema();

-- name: list_world_unique
-- Temporary tables in which more than the primary key is unique.
select distinct t.relname as table_name
from pg_catalog.pg_index i join pg_catalog.pg_class t on t.oid = i.indrelid
where t.relnamespace = pg_catalog.pg_my_temp_schema() and (i.indisunique or i.indisexclusion) and not i.indisprimary;

-- name: list_world_sequences
-- Temporary sequences, as regclass reads them, and the column whose values each makes.
select 'pg_temp.' || pg_catalog.quote_ident(c.relname) as name, t.relname as table_name, a.attname as column_name
from pg_catalog.pg_class c
left join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.objid = c.oid
     and d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.deptype in ('a', 'i')
left join pg_catalog.pg_class t on t.oid = d.refobjid
left join pg_catalog.pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
where c.relkind = 'S' and c.relnamespace = pg_catalog.pg_my_temp_schema();

-- name: world_has_written
-- Whether this transaction has written to a table of a user's.
select flux.world_has_written($1);

-- name: list_world_standing
-- What is in a session's temporary schema: tables, views, sequences, and functions.
select c.relname as name, c.relkind::pg_catalog.text as kind from pg_catalog.pg_class c
where c.relnamespace = pg_catalog.pg_my_temp_schema() and c.relkind in ('r', 'p', 'v', 'S')
union all
select p.proname, 'function' from pg_catalog.pg_proc p where p.pronamespace = pg_catalog.pg_my_temp_schema();

-- -----------------------------------------------------------------------------------------------------------
-- A database of its own for executions that run again at once
-- -----------------------------------------------------------------------------------------------------------

-- name: find_ephemeral_place
-- What a database like this one is made of, and what this role may do.
select current_user as role, r.rolsuper or r.rolcreatedb as may_create, r.rolsuper as is_superuser,
       pg_catalog.current_database() as database, pg_catalog.to_json(d) as properties,
       pg_catalog.left(pg_catalog.replace((select value from flux.instance where key = 'id'), '-', ''), 8) as instance
from pg_catalog.pg_roles r, pg_catalog.pg_database d
where r.rolname = current_user and d.datname = pg_catalog.current_database();

-- name: lock_ephemeral
-- Held for as long as an ephemeral database lives: who can take it has found a leftover.
select pg_catalog.pg_try_advisory_lock(pg_catalog.hashtextextended($1, 0));

-- name: unlock_ephemeral
-- The name is nobody's any more.
select pg_catalog.pg_advisory_unlock(pg_catalog.hashtextextended($1, 0));

-- name: list_ephemeral
-- Databases and roles whose names begin like those of this installation's ephemeral databases.
select d.datname::text as name, true as is_database from pg_catalog.pg_database d where pg_catalog.starts_with(d.datname::text, $1)
union all
select r.rolname::text, false from pg_catalog.pg_roles r where pg_catalog.starts_with(r.rolname::text, $1)
order by is_database desc, name;

-- name: list_ephemeral_extensions
-- Extensions beside the one that every database has, with their schemas; "trusted" ones can do nothing outside of a database.
select e.extname::text as name, n.nspname::text as schema_name, bool_or(v.trusted) as trusted
from pg_catalog.pg_extension e
join pg_catalog.pg_namespace n on n.oid = e.extnamespace
left join pg_catalog.pg_available_extension_versions v on v.name = e.extname and v.version = e.extversion
where e.extname <> 'plpgsql'
group by 1, 2 order by 1;

-- name: list_ephemeral_ddl
-- Statements that make the objects of a schema anew, in a database that has none: by phase, and in each phase in any order
-- that works. Names come out as search_path has them: empty, so that all but the system's are qualified.
-- Phase 1 comes before the rows, 2 behind them, 3 last. $2 is a guest's role, $3 the one that stands for it.
with place as (select oid, nspname from pg_catalog.pg_namespace where nspname = $1),
member as (select d.classid, d.objid from pg_catalog.pg_depend d where d.deptype = 'e'),
relation as (
    select c.*, n.nspname from pg_catalog.pg_class c join place n on n.oid = c.relnamespace
    where not exists (select from member m where m.classid = 'pg_catalog.pg_class'::regclass and m.objid = c.oid))
select 1 as phase, 'type' as kind, t.typname::text as name,
       pg_catalog.format('create type %I.%I as enum (%s)', n.nspname, t.typname,
           (select pg_catalog.string_agg(pg_catalog.quote_literal(e.enumlabel), ', ' order by e.enumsortorder)
            from pg_catalog.pg_enum e where e.enumtypid = t.oid)) as statement
from pg_catalog.pg_type t join place n on n.oid = t.typnamespace
where t.typtype = 'e' and not exists (select from member m where m.classid = 'pg_catalog.pg_type'::regclass and m.objid = t.oid)
union all
select 1, 'domain', t.typname, pg_catalog.format('create domain %I.%I as %s%s%s%s', n.nspname, t.typname,
           pg_catalog.format_type(t.typbasetype, t.typtypmod), ' default ' || t.typdefault,
           case when t.typnotnull then ' not null' end,
           (select pg_catalog.string_agg(pg_catalog.format(' constraint %I %s', k.conname, pg_catalog.pg_get_constraintdef(k.oid)), '')
            from pg_catalog.pg_constraint k where k.contypid = t.oid and k.contype = 'c'))
from pg_catalog.pg_type t join place n on n.oid = t.typnamespace
where t.typtype = 'd' and not exists (select from member m where m.classid = 'pg_catalog.pg_type'::regclass and m.objid = t.oid)
union all
select 1, 'type', c.relname, pg_catalog.format('create type %I.%I as (%s)', c.nspname, c.relname,
           (select pg_catalog.string_agg(pg_catalog.format('%I %s', a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod)), ', ' order by a.attnum)
            from pg_catalog.pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped))
from relation c where c.relkind = 'c'
union all
select 1, 'sequence', c.relname, pg_catalog.format('create sequence %I.%I as %s increment by %s minvalue %s maxvalue %s start with %s cache %s%s',
           c.nspname, c.relname, pg_catalog.format_type(q.seqtypid, null), q.seqincrement, q.seqmin, q.seqmax, q.seqstart, q.seqcache,
           case when q.seqcycle then ' cycle' end)
from relation c join pg_catalog.pg_sequence q on q.seqrelid = c.oid where c.relkind = 'S'
union all
select case when p.prosqlbody is null then 1 else 2 end, 'function', p.proname, pg_catalog.pg_get_functiondef(p.oid)
from pg_catalog.pg_proc p join place n on n.oid = p.pronamespace join pg_catalog.pg_language l on l.oid = p.prolang
where p.prokind in ('f', 'p') and not exists (select from member m where m.classid = 'pg_catalog.pg_proc'::regclass and m.objid = p.oid)
union all
select 1, 'table', c.relname, pg_catalog.format('create table %I.%I (%s)%s', c.nspname, c.relname,
           (select pg_catalog.string_agg(pg_catalog.format('%I %s%s%s%s', a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod),
                case when a.attcollation <> t.typcollation then (
                    select pg_catalog.format(' collate %I.%I', s.nspname, o.collname)
                    from pg_catalog.pg_collation o join pg_catalog.pg_namespace s on s.oid = o.collnamespace where o.oid = a.attcollation) end,
                case a.attgenerated
                    when 's' then pg_catalog.format(' generated always as (%s) stored', pg_catalog.pg_get_expr(d.adbin, d.adrelid))
                    when 'v' then pg_catalog.format(' generated always as (%s)', pg_catalog.pg_get_expr(d.adbin, d.adrelid)) end,
                case when a.attnotnull then ' not null' end), ', ' order by a.attnum)
            from pg_catalog.pg_attribute a join pg_catalog.pg_type t on t.oid = a.atttypid
            left join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
            where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped),
           ' partition by ' || pg_catalog.pg_get_partkeydef(c.oid))
from relation c where c.relkind in ('r', 'p')
union all
select 1, case when c.relispartition then 'partition' else 'inheritance' end, c.relname,
       case when c.relispartition
            then pg_catalog.format('alter table %I.%I attach partition %I.%I %s', n.nspname, parent.relname, c.nspname, c.relname,
                                   pg_catalog.pg_get_expr(c.relpartbound, c.oid))
            else pg_catalog.format('alter table %I.%I inherit %I.%I', c.nspname, c.relname, n.nspname, parent.relname) end
from relation c join pg_catalog.pg_inherits i on i.inhrelid = c.oid
join pg_catalog.pg_class parent on parent.oid = i.inhparent join pg_catalog.pg_namespace n on n.oid = parent.relnamespace
where c.relkind in ('r', 'p')
union all
select 2, 'constraint', c.relname || '.' || k.conname, pg_catalog.format('alter table %I.%I add constraint %I %s', c.nspname, c.relname, k.conname,
           pg_catalog.pg_get_constraintdef(k.oid))
from relation c join pg_catalog.pg_constraint k on k.conrelid = c.oid
where c.relkind in ('r', 'p') and k.contype in ('p', 'u', 'x', 'c', 'f') and k.conparentid = 0 and k.conislocal
union all
select 2, 'index', i.relname, pg_catalog.pg_get_indexdef(x.indexrelid)
from relation c join pg_catalog.pg_index x on x.indrelid = c.oid join pg_catalog.pg_class i on i.oid = x.indexrelid
where c.relkind in ('r', 'p') and x.indisvalid and not i.relispartition
  and not exists (select from pg_catalog.pg_constraint k where k.conindid = x.indexrelid and k.contype in ('p', 'u', 'x'))
union all
select 2, 'view', c.relname, pg_catalog.format('create %sview %I.%I%s as %s', case c.relkind when 'm' then 'materialized ' end, c.nspname, c.relname,
           ' with (' || pg_catalog.array_to_string(c.reloptions, ', ') || ')', pg_catalog.pg_get_viewdef(c.oid))
from relation c where c.relkind in ('v', 'm')
union all
select 3, 'trigger', c.relname || '.' || g.tgname, pg_catalog.pg_get_triggerdef(g.oid)
from relation c join pg_catalog.pg_trigger g on g.tgrelid = c.oid
join pg_catalog.pg_proc p on p.oid = g.tgfoid join pg_catalog.pg_namespace f on f.oid = p.pronamespace
where not g.tgisinternal and g.tgparentid = 0 and g.tgenabled in ('O', 'A') and f.nspname <> 'flux'
union all
select 3, 'row policies', c.relname, pg_catalog.format('alter table %I.%I enable row level security', c.nspname, c.relname)
from relation c where c.relrowsecurity
union all
select 3, 'row policy', c.relname || '.' || p.polname,
       pg_catalog.format('create policy %I on %I.%I as %s for %s to %s%s%s', p.polname, c.nspname, c.relname,
           case when p.polpermissive then 'permissive' else 'restrictive' end,
           case p.polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' when 'd' then 'delete' else 'all' end,
           case when 0 = any (p.polroles) then 'public' else pg_catalog.quote_ident($3) end,
           ' using (' || pg_catalog.pg_get_expr(p.polqual, p.polrelid) || ')',
           ' with check (' || pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid) || ')')
from relation c join pg_catalog.pg_policy p on p.polrelid = c.oid
where 0 = any (p.polroles) or exists (select from pg_catalog.pg_roles r where r.rolname = $2 and r.oid = any (p.polroles))
union all
select 3, 'rights', c.relname, pg_catalog.format('grant %s on %I.%I to %I', w.word, c.nspname, c.relname, $3)
from relation c, unnest(array['select', 'insert', 'update', 'delete', 'truncate', 'references', 'trigger']) w(word)
where c.relkind in ('r', 'p', 'v', 'm') and pg_catalog.has_table_privilege($2, c.oid, w.word)
union all
select 3, 'rights', c.relname, pg_catalog.format('grant %s on sequence %I.%I to %I', w.word, c.nspname, c.relname, $3)
from relation c, unnest(array['select', 'usage', 'update']) w(word)
where c.relkind = 'S' and pg_catalog.has_sequence_privilege($2, c.oid, w.word)
order by phase, kind, name;

-- name: list_ephemeral_chance
-- Statements that make anew what stands in for chance in a world, each function before those that call it. $1 are their names.
select pg_catalog.pg_get_functiondef(p.oid) as statement
from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace
where n.nspname = 'flux_world' and p.proname = any($1::pg_catalog.text[])
order by p.oid;

-- name: list_ephemeral_columns
-- The columns of a schema's tables, with what gives a value where nobody does. Partitions are left out: their roots
-- have the rows, and the same columns.
select c.relname::text as table_name, a.attname::text as column_name,
       pg_catalog.format_type(a.atttypid, a.atttypmod) as type_name, a.attgenerated <> '' as is_generated,
       case when a.attgenerated = '' then pg_catalog.pg_get_expr(d.adbin, d.adrelid) end as default_expression,
       (select pg_catalog.format('%I.%I', s.nspname, q.relname)
        from pg_catalog.pg_depend p join pg_catalog.pg_class q on q.oid = p.objid and q.relkind = 'S'
        join pg_catalog.pg_namespace s on s.oid = q.relnamespace
        where p.classid = 'pg_catalog.pg_class'::regclass and p.refclassid = 'pg_catalog.pg_class'::regclass
          and p.refobjid = c.oid and p.refobjsubid = a.attnum and p.deptype in ('a', 'i') limit 1) as sequence_name,
       a.attidentity <> '' as is_identity, c.relispartition as is_partition
from pg_catalog.pg_class c
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
left join pg_catalog.pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
where n.nspname = $1 and c.relkind in ('r', 'p')
  and not exists (select from pg_catalog.pg_depend e where e.classid = 'pg_catalog.pg_class'::regclass and e.objid = c.oid and e.deptype = 'e')
order by c.relname, a.attnum;

-- name: list_ephemeral_neighbours
-- Of each table of a schema: tables whose rows are needed where its own are, by foreign keys in either direction;
-- and the texts of triggers' functions on it, which may name more.
select c.relname::text as table_name, r.relname::text as neighbour, null as body
from pg_catalog.pg_constraint k
join pg_catalog.pg_class c on c.oid = k.conrelid join pg_catalog.pg_class r on r.oid = k.confrelid
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where k.contype = 'f' and n.nspname = $1
union
select c.relname::text, null, p.prosrc
from pg_catalog.pg_trigger g join pg_catalog.pg_class c on c.oid = g.tgrelid
join pg_catalog.pg_namespace n on n.oid = c.relnamespace join pg_catalog.pg_proc p on p.oid = g.tgfoid
join pg_catalog.pg_namespace f on f.oid = p.pronamespace
where not g.tgisinternal and n.nspname = $1 and f.nspname <> 'flux';

-- name: list_ephemeral_texts
-- Views and functions of a schema with their texts, which name the tables that they read or write.
select c.relname::text as name, pg_catalog.pg_get_viewdef(c.oid) as body
from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace where n.nspname = $1 and c.relkind in ('v', 'm')
union all
select p.proname::text, coalesce(pg_catalog.pg_get_function_sqlbody(p.oid), p.prosrc)
from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace where n.nspname = $1 and p.prokind in ('f', 'p');

-- name: list_changes_of_others
-- Tables of a schema that were changed between two snapshots by transactions that are none of $4, and by how many.
select m.table_name, count(distinct m.xid)::int as transactions
from flux.mutation m
where m.committed and m.schema_name = $1 and m.xid >= pg_catalog.pg_snapshot_xmin($2)
  and not pg_catalog.pg_visible_in_snapshot(m.xid, $2) and pg_catalog.pg_visible_in_snapshot(m.xid, $3)
  and not m.xid::text = any ($4)
group by m.table_name order by m.table_name;

-- name: list_blockers
-- Of each server process, those that hold a lock it waits for.
select p.pid, pg_catalog.pg_blocking_pids(p.pid) as blockers from unnest($1::int[]) p(pid);


-- ===== State over time =====

-- name: pin_rendering
-- Values are to be written as flux.capture() writes them, until the transaction ends.
select pg_catalog.set_config(p.name, p.value, true)
from (values ('extra_float_digits', '1'), ('datestyle', 'ISO, MDY'), ('intervalstyle', 'postgres'), ('timezone', 'UTC'),
             ('bytea_output', 'hex'), ('lc_monetary', 'C'), ('row_security', 'off')) p (name, value);

-- name: get_snapshot
-- Who has committed by now, between two looks at the clock.
select pg_catalog.now() as since, pg_catalog.pg_current_snapshot()::text as snapshot, pg_catalog.clock_timestamp() as until;

-- name: list_logged_transactions
-- Transactions of the log in a range of ids, with the server's stamps of their commits where it has them.
select s.xid::text as xid, pg_catalog.max(s.at) as last_at,
       -- Of ids that another cluster gave out, this one has other transactions' stamps.
       case when pg_catalog.current_setting('track_commit_timestamp') = 'on' and s.xid >= (select c.first_xid from flux.cluster c order by c.number desc limit 1)
            then pg_catalog.pg_xact_commit_timestamp(s.xid::xid) end as committed_at
from (select m.xid, m.at from flux.mutation m where m.committed and m.xid >= $1::text::xid8 and m.xid < $2::text::xid8
      union all
      select d.xid, d.at from flux.ddl d where d.xid >= $1::text::xid8 and d.xid < $2::text::xid8) s
group by s.xid;

-- name: get_recording_start
-- Since when changes are recorded in this database, and what was pruned since: the time, the latest transaction; and
-- since when and from which transaction on it has been in the cluster where it is.
select (select pg_catalog.min(v.applied_at) from flux.schema_version v) as began,
       p.until as pruned_until, p.xid::text as pruned_xid, c.since as here_since, c.first_xid::text as here_first_xid
from (select l.since, l.first_xid from flux.cluster l order by l.number desc limit 1) c, (select pg_catalog.max(p.until) as until, (pg_catalog.array_agg(p.xid order by p.xid desc nulls last))[1] as xid from flux.pruned p) p;

-- name: add_mark
-- Notes who has committed by now, unless the last mark says all there is to say. Returns whether the server notes the
-- times of commits itself.
with marked as (
    insert into flux.moment (since, snapshot, until, seq)
    select pg_catalog.now(), pg_catalog.pg_current_snapshot(), pg_catalog.clock_timestamp(), s.last_value + s.is_called::int from flux.mutation_seq s
    where not exists (
        select from (select m.seq, m.snapshot from flux.moment m order by m.until desc limit 1) l
        where l.seq = s.last_value + s.is_called::int and pg_catalog.pg_snapshot_xmin(l.snapshot) = pg_catalog.pg_snapshot_xmax(l.snapshot))
)
select pg_catalog.current_setting('track_commit_timestamp') = 'on' as is_stamping;

-- name: find_mark_before
-- The last mark that had been taken by a time.
select since, snapshot::text as snapshot, until from flux.moment where until <= $1 order by until desc limit 1;

-- name: find_mark_after
-- The first mark that was taken at a time or later.
select since, snapshot::text as snapshot, until from flux.moment where until >= $1 and since >= $1 order by until limit 1;

-- name: list_table_shapes
-- What a table was called and what columns it had, oldest first; "is_made" where the table was made so.
select s.xid::text as xid, s.schema_name, s.table_name, s.columns::text as columns, d.at, coalesce(d.is_made, false) as is_made
from flux.table_shape s
left join lateral (
    select pg_catalog.min(l.at) as at,
           pg_catalog.bool_or(l.command in ('CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO')
                              and l.object_identity = pg_catalog.format('%I.%I', s.schema_name, s.table_name)) as is_made
    from flux.ddl l where l.xid = s.xid) d on true
where s.relid = $1::oid order by s.seq;

-- name: get_table_now
-- What a table is called and what columns it has, as flux.table_shape has them, and whether it has partitions.
select n.nspname as schema_name, c.relname as table_name, c.relkind = 'p' as is_partitioned,
       (select coalesce(pg_catalog.json_agg(pg_catalog.json_build_object(
                   'number', a.attnum, 'name', a.attname, 'type', pg_catalog.format_type(a.atttypid, a.atttypmod),
                   'key', exists (select from pg_catalog.pg_constraint k where k.conrelid = c.oid and k.contype = 'p' and a.attnum = any (k.conkey)))
                   order by a.attnum), '[]')::text
        from pg_catalog.pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped) as columns
from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace where c.oid = $1::oid;

-- name: list_alterations
-- ALTER TABLE since a snapshot, by the table's schemas and names: what they did to its rows is in no log.
select d.xid::text as xid, d.at from flux.ddl d
where d.xid >= pg_catalog.pg_snapshot_xmin($3::text::pg_snapshot) and not pg_catalog.pg_visible_in_snapshot(d.xid, $3::text::pg_snapshot)
  and d.command = 'ALTER TABLE' and d.object_type = 'table'
  and d.object_identity in (select pg_catalog.format('%I.%I', n.schema_name, n.table_name)
                            from unnest($1::text[], $2::text[]) n (schema_name, table_name))
order by d.seq;

-- name: find_open_change
-- A change of a table by one of some transactions, of one row where a key is given: table, transactions, keys.
select m.at from flux.mutation m
where m.xid = any ($2::text[]::xid8[]) and m.relid = $1::oid and m.committed and ($3::text[] is null or m.key = any ($3::text[]))
order by m.at limit 1;

-- name: list_row_changes
-- Committed changes of one row before a place in the order of changes, newest first: schema, table, key, place, limit;
-- table and whether that is called so now, as above.
select m.seq, m.at, m.xid::text as xid, m.ordinal, m.schema_name, m.table_name, m.op::text as op, m.depth, m.key,
       m.before::text as before, m.after::text as after, m.committed
from flux.mutation m
where pg_catalog.hashtextextended(m.key, pg_catalog.hashtextextended(m.table_name, pg_catalog.hashtextextended(m.schema_name, 0)))
      = pg_catalog.hashtextextended($3, pg_catalog.hashtextextended($2, pg_catalog.hashtextextended($1, 0)))
  and m.schema_name = $1 and m.table_name = $2 and m.key = $3 and m.committed and m.seq < $4
  and (m.relid = $6::oid or ($7::bool and not exists (select from pg_catalog.pg_class c where c.oid = m.relid)))
order by m.seq desc limit $5;

-- name: find_row_change_after
-- The first committed change of one row after a place in the order of changes: schema, table, key, place; table and whether
-- that is called so now, as above.
select m.seq, m.at, m.xid::text as xid, m.ordinal, m.schema_name, m.table_name, m.op::text as op, m.depth, m.key,
       m.before::text as before, m.after::text as after, m.committed
from flux.mutation m
where pg_catalog.hashtextextended(m.key, pg_catalog.hashtextextended(m.table_name, pg_catalog.hashtextextended(m.schema_name, 0)))
      = pg_catalog.hashtextextended($3, pg_catalog.hashtextextended($2, pg_catalog.hashtextextended($1, 0)))
  and m.schema_name = $1 and m.table_name = $2 and m.key = $3 and m.committed and m.seq > $4
  and (m.relid = $5::oid or ($6::bool and not exists (select from pg_catalog.pg_class c where c.oid = m.relid)))
order by m.seq limit 1;

-- name: list_row_versions
-- Some changes of one row with the executions that made them, and the latest that were rolled back: schema, table, key,
-- places in the order of changes, how many of those rolled back; table and whether that is called so now, as above.
select v.seq, null::bigint as version, v.at, v.xid::text as xid, v.ordinal, v.schema_name, v.table_name, v.op::text as op, v.depth,
       v.key, v.before::text as before, v.after::text as after, v.committed, v.outside, a.name as migration,
       e.id as execution, e.name, e.trigger, e.function, e.method, e.path, e.route, e.sha, e.dirty
from (
    select m.* from flux.mutation m
    where pg_catalog.hashtextextended(m.key, pg_catalog.hashtextextended(m.table_name, pg_catalog.hashtextextended(m.schema_name, 0)))
          = pg_catalog.hashtextextended($3, pg_catalog.hashtextextended($2, pg_catalog.hashtextextended($1, 0)))
      and m.schema_name = $1 and m.table_name = $2 and m.key = $3 and m.committed and m.seq = any ($4::bigint[])
      and (m.relid = $6::oid or ($7::bool and not exists (select from pg_catalog.pg_class c where c.oid = m.relid)))
    union all
    (select m.* from flux.mutation m
     where pg_catalog.hashtextextended(m.key, pg_catalog.hashtextextended(m.table_name, pg_catalog.hashtextextended(m.schema_name, 0)))
           = pg_catalog.hashtextextended($3, pg_catalog.hashtextextended($2, pg_catalog.hashtextextended($1, 0)))
       and m.schema_name = $1 and m.table_name = $2 and m.key = $3 and not m.committed
       and (m.relid = $6::oid or ($7::bool and not exists (select from pg_catalog.pg_class c where c.oid = m.relid)))
     order by m.seq desc limit $5)
) v
left join flux.transaction t on t.xid = v.xid
left join flux.migration_applied a on v.outside and a.xid = v.xid
left join lateral (
    select x.* from flux.summary x
    where x.xid = v.xid and v.committed and x.id >= flux.uuid_floor(v.at - interval '1 day') and x.id < flux.uuid_floor(v.at + interval '1 day')
    union all
    select x.* from flux.summary x where x.id = coalesce(v.execution, t.execution)
    limit 1
) e on true
order by v.seq desc;

-- name: list_last_changes
-- The last change that a snapshot saw of each of some rows: arrays of schemas, tables and keys, the snapshot; the table,
-- and what it is called now. One row each that has any.
select w.place, l.seq, l.at, l.after::text as after
from pg_catalog.unnest($1::text[]) with ordinality w (schema_name, place)
join pg_catalog.unnest($2::text[]) with ordinality t (table_name, place) on t.place = w.place
join pg_catalog.unnest($3::text[]) with ordinality k (key, place) on k.place = w.place
cross join lateral (
    select m.seq, m.at, m.after from flux.mutation m
    where pg_catalog.hashtextextended(m.key, pg_catalog.hashtextextended(m.table_name, pg_catalog.hashtextextended(m.schema_name, 0)))
          = pg_catalog.hashtextextended(k.key, pg_catalog.hashtextextended(t.table_name, pg_catalog.hashtextextended(w.schema_name, 0)))
      and m.schema_name = w.schema_name and m.table_name = t.table_name and m.key = k.key and m.committed
      and (m.relid = $5::oid or (w.schema_name = $6 and t.table_name = $7 and not exists (select from pg_catalog.pg_class c where c.oid = m.relid)))
      and pg_catalog.pg_visible_in_snapshot(m.xid, $4::text::pg_snapshot)
    order by m.seq desc limit 1) l;

-- name: list_transaction_writers
-- Who made some transactions of the log: arrays of their ids and of a time at which each logged a change.
select w.xid, a.name as migration, e.name, e.function, e.sha
from unnest($1::text[], $2::timestamptz[]) w (xid, at)
left join flux.transaction t on t.xid = w.xid::xid8
left join flux.migration_applied a on a.xid = w.xid::xid8
left join lateral (
    select x.* from flux.summary x
    where x.xid = w.xid::xid8 and x.id >= flux.uuid_floor(w.at - interval '1 day') and x.id < flux.uuid_floor(w.at + interval '1 day')
    union all
    select x.* from flux.summary x where x.id = t.execution
    limit 1
) e on true;


-- ===== Retention =====

-- name: find_earliest_pin
-- When the earliest window that has a name begins.
select pg_catalog.min(since) from flux.incident;

-- name: list_old_partitions
-- Partitions by day of a table whose day had ended by a time, oldest first, with when it ended.
select c.relname::text as name,
       (pg_catalog.to_date(pg_catalog.right(c.relname, 8), 'YYYYMMDD') + 1)::timestamp at time zone 'UTC' as until
from pg_catalog.pg_inherits i
join pg_catalog.pg_class c on c.oid = i.inhrelid
where i.inhparent = ('flux.' || $1)::regclass and c.relname ~ ('^' || $1 || '_p[0-9]{8}$')
  and (pg_catalog.to_date(pg_catalog.right(c.relname, 8), 'YYYYMMDD') + 1)::timestamp at time zone 'UTC' <= $2
order by 1;

-- name: count_prunable
-- Records before a time: those that go, those kept because they failed after another time, and those kept for a pin alone.
select pg_catalog.count(*) filter (where not k.is_error and not k.is_pinned) as executions,
       pg_catalog.count(*) filter (where k.is_error) as kept_errors,
       pg_catalog.count(*) filter (where k.is_pinned and not k.is_error) as kept_pinned
from flux.execution e
cross join lateral (
    select (e.signature is not null or e.status >= 500) is true and e.id >= flux.uuid_floor($2) as is_error,
           exists (select from flux.incident i where i.tenant = e.tenant and e.started_at between i.since and i.until) as is_pinned) k
where e.id < flux.uuid_floor($1);

-- name: lock_pruning
-- Whether nobody else is taking out what is old, until it is let go, or the session ends.
select pg_catalog.pg_try_advisory_lock(pg_catalog.hashtextextended('flux.prune', 0));

-- name: unlock_pruning
-- Lets others do it.
select pg_catalog.pg_advisory_unlock(pg_catalog.hashtextextended('flux.prune', 0));

-- name: lock_pins
-- Waits until nobody is pinning an incident, and lets nobody begin to before this transaction has ended.
select pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('flux.pins', 0));

-- name: share_pins
-- Waits until nothing is being taken out, and lets nothing be taken out before this transaction has ended.
select pg_catalog.pg_advisory_xact_lock_shared(pg_catalog.hashtextextended('flux.pins', 0));

-- name: get_clock
-- What the database's clock says.
select pg_catalog.clock_timestamp();

-- name: get_partition_bounds
-- Which values a partition is for, by its name: as it was said, and as a condition of its rows.
select pg_catalog.pg_get_expr(c.relpartbound, c.oid) as said, pg_catalog.pg_get_partition_constraintdef(c.oid) as meaning
from pg_catalog.pg_class c where c.oid = $1::text::regclass;

-- name: prune_executions
-- Takes out the records before a time that lie in no day of their own, but those that failed after another time and those
-- of a pinned window.
delete from flux.execution_default e
where e.id < flux.uuid_floor($1)
  and not ((e.signature is not null or e.status >= 500) is true and e.id >= flux.uuid_floor($2))
  and not exists (select from flux.incident i where i.tenant = e.tenant and e.started_at between i.since and i.until);

-- name: prune_replays
-- Takes out what replays have shown of executions that are gone.
delete from flux.replay r where r.at < $1 and not exists (select from flux.execution e where e.id = r.original);

-- name: prune_transactions
-- Takes out the marks of transactions whose execution is gone.
delete from flux.transaction t
where t.execution < flux.uuid_floor($1) and not exists (select from flux.execution e where e.id = t.execution);

-- name: prune_moments
-- Takes out marks from before the log.
delete from flux.moment where until < $1;

-- name: count_old_blobs
-- Bodies that no record uses any more: stored, or asked to be stored again, before the oldest record and before a time.
select pg_catalog.count(*) from flux.blob b
where b.stored_at < least($1, (select pg_catalog.min(e.started_at) from flux.execution e) - interval '2 days');

-- name: prune_blobs
-- Takes them out.
delete from flux.blob b
where b.stored_at < least($1, (select pg_catalog.min(e.started_at) from flux.execution e) - interval '2 days');


-- ===== Secrets and tokens =====

-- name: find_sealed_tables
-- Whether there is what holds sealed values: a tenant's database has nothing yet before its first start.
select pg_catalog.to_regclass('flux.tenant_key') is not null and pg_catalog.to_regclass('flux.secret') is not null;

-- name: reseal_tenant_key
-- Keeps a tenant's key as it is sealed now; other servers read the secrets again.
update flux.tenant_key set sealed = $2, version = version + 1 where tenant = $1;

-- name: reseal_secret
-- Keeps a secret as it is sealed now: its value is the same, so it has not changed.
update flux.secret set sealed = $3 where tenant = $1 and name = $2;

-- name: find_tenant_key
-- The sealed key of a tenant.
select sealed from flux.tenant_key where tenant = $1;

-- name: add_tenant_key
-- Keeps a tenant's key, unless it has one.
insert into flux.tenant_key (tenant, sealed) values ($1, $2) on conflict do nothing;

-- name: find_secrets_version
-- A number that moves with each change of a tenant's secrets.
select version from flux.tenant_key where tenant = $1;

-- name: move_secrets_version
-- Moves it.
update flux.tenant_key set version = version + 1 where tenant = $1;

-- name: list_secrets
-- A tenant's secrets, sealed; so many at most.
select name, sealed, changed_at from flux.secret where tenant = $1 order by name limit $2;

-- name: put_secret
-- Keeps a secret in the place of the one of its name.
insert into flux.secret (tenant, name, sealed) values ($1, $2, $3)
on conflict (tenant, name) do update set sealed = excluded.sealed, changed_at = pg_catalog.clock_timestamp();

-- name: delete_secret
-- Takes a secret out; its name, if there was one.
delete from flux.secret where tenant = $1 and name = $2 returning name;

-- name: find_token
-- The token of a digest. One that is good is noted as used, once a minute at most.
with used as (
    update flux.token set last_used_at = $3
    where tenant = $1 and sha256 = $2 and (revoked_at is null or revoked_at > $3) and (expires_at is null or expires_at > $3)
      and (last_used_at is null or last_used_at < $3::timestamptz - interval '1 minute')
)
select kind, name, scopes, created_at, expires_at, revoked_at, last_used_at
from flux.token where tenant = $1 and sha256 = $2;

-- name: add_token
-- Keeps a new token, unless another of its name is good.
insert into flux.token (tenant, kind, name, sha256, scopes, created_at, expires_at) values ($1, $2, $3, $4, $5, $6, $7)
on conflict (tenant, kind, name) where revoked_at is null do nothing
returning kind, name, scopes, created_at, expires_at, revoked_at, last_used_at;

-- name: list_tokens
-- A tenant's tokens, the latest first.
select kind, name, scopes, created_at, expires_at, revoked_at, last_used_at
from flux.token where tenant = $1 order by created_at desc, name;

-- name: revoke_token
-- Has a token refused from now on, and those that were good beside it since it was rotated; the latest first.
with revoked as (
    update flux.token set revoked_at = $4
    where tenant = $1 and kind = $2 and name = $3 and (revoked_at is null or revoked_at > $4)
    returning kind, name, scopes, created_at, expires_at, revoked_at, last_used_at
)
select * from revoked order by created_at desc limit 1;

-- name: rotate_token
-- Puts a new value in a token's place: tenant, kind, name, digest, now, when the old value is refused. The new one has the
-- scopes of the old one, and its end. A token is revoked from ``revoked_at`` on, so one of before goes on until then.
with old as (
    update flux.token set revoked_at = $6
    where tenant = $1 and kind = $2 and name = $3 and revoked_at is null and (expires_at is null or expires_at > $5)
    returning tenant, kind, name, scopes, expires_at
)
insert into flux.token (tenant, kind, name, sha256, scopes, created_at, expires_at)
select tenant, kind, name, $4, scopes, $5, expires_at from old
returning kind, name, scopes, created_at, expires_at, revoked_at, last_used_at;


-- ===== Forgetting a row =====

-- name: lock_forgetting
-- Whether nobody else is taking a row out of the records, until the transaction ends; and the time.
select pg_catalog.pg_try_advisory_xact_lock(pg_catalog.hashtextextended('flux.forget', 0)) as is_alone, pg_catalog.clock_timestamp() as at;

-- name: count_erasures
-- A number that is another one once a row of the tenant's has been forgotten.
select coalesce(pg_catalog.max(f.id), 0) from flux.forgotten f where f.tenant = $1;

-- name: share_erasures
-- Whether no erasure is just ending, which then waits for this transaction.
select pg_catalog.pg_try_advisory_xact_lock_shared(pg_catalog.hashtextextended('flux.forget end', 0));

-- name: end_erasure
-- Waits for what is just being stored of replays, and keeps others from that until the transaction ends.
select pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('flux.forget end', 0));

-- name: list_known_columns
-- All columns that tables of the users' have or had, under the names of then, oldest first.
select s.relid, s.schema_name, s.table_name, (c.value ->> 'number')::int as number, c.value ->> 'name' as name,
       c.value ->> 'type' as type, coalesce((c.value ->> 'key')::bool, false) as is_key,
       coalesce(a.attnotnull, false) as is_required, coalesce(t.typtype = 'e', false) as is_enum,
       exists (select from pg_catalog.pg_constraint k
               where k.contype = 'f' and k.conrelid = s.relid and a.attnum = any (k.conkey)) as is_reference
from flux.table_shape s
cross join lateral pg_catalog.json_array_elements(s.columns) c
left join pg_catalog.pg_attribute a on a.attrelid = s.relid and a.attnum = (c.value ->> 'number')::int and not a.attisdropped
left join pg_catalog.pg_type t on t.oid = a.atttypid
order by s.seq, number;

-- name: list_row_log
-- All changes of one row, rolled back ones included, in order behind a place: schema, table, key, place, limit;
-- table and whether that is called so now, as above.
select m.tableoid, m.ctid::text as ctid, m.seq, m.at, m.xid::text as xid, m.ordinal, m.schema_name, m.table_name,
       m.op::text as op, m.depth, m.key, m.before::text as before, m.after::text as after, m.committed, m.execution
from flux.mutation m
where pg_catalog.hashtextextended(m.key, pg_catalog.hashtextextended(m.table_name, pg_catalog.hashtextextended(m.schema_name, 0)))
      = pg_catalog.hashtextextended($3, pg_catalog.hashtextextended($2, pg_catalog.hashtextextended($1, 0)))
  and m.schema_name = $1 and m.table_name = $2 and m.key = $3 and m.seq > $4
  and (m.relid = $6::oid or ($7::bool and not exists (select from pg_catalog.pg_class c where c.oid = m.relid)))
order by m.seq limit $5;

-- name: find_changes_that_hold
-- Where in the log something stands, as a regular expression, in tables that are no other tenant's: the tenant, it.
select m.tableoid, m.ctid::text as ctid
from flux.mutation m
where (m.before::text ~ $2 or m.after::text ~ $2 or m.key ~ $2)
  and m.schema_name not in (select g.schema_name from flux.guest g where g.tenant <> $1)
order by m.seq;

-- name: get_change
-- One row of the log by where it lies.
select m.tableoid, m.ctid::text as ctid, m.seq, m.at, m.xid::text as xid, m.ordinal, m.schema_name, m.table_name,
       m.op::text as op, m.depth, m.key, m.before::text as before, m.after::text as after, m.committed, m.execution
from flux.mutation m where m.tableoid = $1::oid and m.ctid = $2::text::tid;

-- name: rewrite_change
-- Puts other images in the place of those of a change: where it lies, key, before, after.
update flux.mutation m set key = $3, before = $4::text::json, after = $5::text::json
where m.tableoid = $1::oid and m.ctid = $2::text::tid;

-- name: list_row_executions
-- Executions that changed a row, and those that these were caused by: the transactions, executions that rolled back.
with recursive involved as (
    select e.id, e.parent from flux.execution e
    where e.xid = any ($1::text[]::xid8[]) or e.id = any ($2::uuid[])
       or e.id in (select t.execution from flux.transaction t where t.xid = any ($1::text[]::xid8[]))
    union
    select e.id, e.parent from involved i join flux.execution e on e.id = i.parent
)
select id from involved;

-- name: list_recordings_after
-- Whole records of a tenant in the order of their start: behind which, how many.
select e.* from flux.execution e where e.tenant = $1 and e.id > $2 order by e.id limit $3;

-- name: rewrite_execution
-- Puts another recording in the place of one: its columns that follow from what it holds.
update flux.execution
set path = $2, error_type = $3, error_message = $4, error_location = $5, signature = $6, completeness = $7,
    hosts_failed = $8, format = $9, body = $10
where id = $1;

-- name: list_ids_since
-- Records of a tenant that began at a time or later: tenant, time.
select e.id from flux.execution e where e.tenant = $1 and e.id > flux.uuid_floor($2) order by e.id;

-- name: list_recordings
-- Whole records of a tenant: which.
select e.* from flux.execution e where e.tenant = $1 and e.id = any ($2::uuid[]) order by e.id;

-- name: list_bodies_of_others
-- What other tenants' records hold, in the order of their start: the tenant, behind which, how many.
select e.id, e.format, e.body from flux.execution e where e.tenant <> $1 and e.id > $2 order by e.id limit $3;

-- name: list_replays_to_rewrite
-- What replays have shown that are no other tenant's, in the order of their start: the tenant, behind which, how many.
select r.id, r.original, r.reason, r.divergence::text as divergence from flux.replay r
where r.id > $2 and not exists (select from flux.execution e where e.id in (r.id, r.original) and e.tenant <> $1)
order by r.id limit $3;

-- name: rewrite_replay
-- Puts other words in its place: id, reason, divergence.
update flux.replay set reason = $2, divergence = $3::text::json where id = $1;

-- name: remove_bisect_runs
-- Takes out what executions did on commits that are no other tenant's: the next bisect runs them again.
delete from flux.bisect_run r
where not exists (select from flux.execution e where e.id = r.original and e.tenant <> $1);

-- name: list_jobs_to_rewrite
-- Jobs that hold something: of a tenant.
select j.id, j.state, j.payload, j.error from flux.job j
where j.tenant = $1 and (j.payload is not null or j.error is not null) order by j.id;

-- name: rewrite_job
-- Puts something else in the place of what a job holds, and takes out the hash of its key: id, payload, error. Says
-- whether it did: a job that is to run again meanwhile keeps its payload.
update flux.job set payload = $2, error = $3, idempotency = case when state = 'dead' then null else idempotency end
where id = $1 and (state = 'dead' or payload is not distinct from $2)
returning true;

-- name: list_pinned_names
-- The pinned windows that some executions lie in: the tenant, the executions.
select distinct i.name from flux.incident i
join flux.execution e on e.tenant = i.tenant and e.started_at between i.since and i.until
where i.tenant = $1 and e.id = any ($2::uuid[]) order by i.name;

-- name: count_unused_blobs
-- Bodies that nobody uses any more: digests that are used no more, digests that are used, and when whoever looked began
-- to look. A body that is neither was left by records that were pruned, or is of one that came meanwhile: that one has
-- had it stored anew, to the day.
select pg_catalog.count(*) from flux.blob b
where not exists (select from pg_catalog.unnest($2::bytea[]) u (sha256) where u.sha256 = b.sha256)
  and (b.stored_at < $3::timestamptz - interval '2 days' or b.sha256 in (select pg_catalog.unnest($1::bytea[])) and b.stored_at < $3);

-- name: remove_blobs
-- Takes them out.
delete from flux.blob b
where not exists (select from pg_catalog.unnest($2::bytea[]) u (sha256) where u.sha256 = b.sha256)
  and (b.stored_at < $3::timestamptz - interval '2 days' or b.sha256 in (select pg_catalog.unnest($1::bytea[])) and b.stored_at < $3);

-- name: list_forgotten
-- When a row was forgotten: schema, table, key.
select f.at from flux.forgotten f where f.schema_name = $1 and f.table_name = $2 and f.key = $3 order by f.at;

-- name: add_forgotten
-- Notes that a row was forgotten: tenant, schema, table, key, up to which change, executions, changes.
insert into flux.forgotten (tenant, schema_name, table_name, key, seq, executions, changes) values ($1, $2, $3, $4, $5, $6, $7);

-- name: try_to_lead
-- Whether this session does what one server of a tenant does for all: tenant, whether it did before. Locks add up in a
-- session, so one that it has is not taken again.
select $2::boolean or pg_catalog.pg_try_advisory_lock(pg_catalog.hashtextextended('flux.lead ' || $1, 0)) as leads;
-- ===== Tenants =====

-- name: list_tenants
-- Who else is served here.
select name, folder, hosts, database_sealed, is_made, weight, concurrency, memory_bytes, requests_per_minute,
       storage_bytes, cpu_ms_per_minute, allow, added_at
from flux.tenant order by name;

-- name: add_tenant
-- Adds one, unless its name is taken.
insert into flux.tenant (name, folder, hosts, database_sealed, is_made, weight, concurrency, memory_bytes,
                         requests_per_minute, storage_bytes, cpu_ms_per_minute, allow)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) on conflict (name) do nothing returning name;

-- name: set_tenant
-- Changes what one may use; its name, if there is one.
update flux.tenant
set weight = $2, concurrency = $3, memory_bytes = $4, requests_per_minute = $5, storage_bytes = $6, cpu_ms_per_minute = $7
where name = $1 returning name;

-- name: find_sealed_database
-- How the database of one is reached, sealed.
select database_sealed from flux.tenant where name = $1;

-- name: list_sealed_databases
-- How the databases of all are reached, sealed.
select name, database_sealed from flux.tenant order by name;

-- name: reseal_tenant_database
-- Keeps it as it is sealed now.
update flux.tenant set database_sealed = $2 where name = $1;

-- name: remove_tenant
-- Takes one out.
delete from flux.tenant where name = $1;

-- name: find_tenant_place
-- What this role may do for a tenant that gets a database on this server, and what databases look like here.
select r.rolsuper as is_superuser, (r.rolsuper or (r.rolcreatedb and r.rolcreaterole)) as may_make,
       current_user::text as role, d.datname::text as database, pg_catalog.to_json(d) as properties,
       pg_catalog.has_database_privilege('public', d.oid, 'connect') as is_open,
       (select value from flux.instance where key = 'id') as instance
from pg_catalog.pg_roles r, pg_catalog.pg_database d
where r.rolname = current_user and d.datname = pg_catalog.current_database();

-- name: find_tenant_database
-- What a database says of itself; null when there is none of this name.
select coalesce(pg_catalog.shobj_description(d.oid, 'pg_database'), '') from pg_catalog.pg_database d where d.datname = $1;

-- name: check_tenant_role
-- What a role that was given for a tenant's database could do to others. $1 is the role of the tenant's functions: of
-- that one it has to be a member, of any other it need not be.
with recursive reached(id) as (
    select m.roleid from pg_catalog.pg_auth_members m join pg_catalog.pg_roles r on r.oid = m.member
    where r.rolname = current_user
    union
    select m.roleid from pg_catalog.pg_auth_members m join reached on reached.id = m.member
)
select r.rolsuper as is_superuser, r.rolcreaterole as makes_roles, r.rolcreatedb or r.rolreplication or r.rolbypassrls as may_more,
       pg_catalog.current_setting('server_version_num')::int as version, current_user::text as role,
       pg_catalog.current_database()::text as database,
       pg_catalog.has_database_privilege('public', d.oid, 'connect') as is_open,
       (select coalesce(pg_catalog.string_agg(o.rolname, ', ' order by o.rolname), '')
        from reached join pg_catalog.pg_roles o on o.oid = reached.id where o.rolname <> $1::text) as memberships,
       (select coalesce(pg_catalog.string_agg(o.datname, ', ' order by o.datname), '')
        from pg_catalog.pg_database o where o.datdba = r.oid and o.oid <> d.oid) as databases,
       (select pg_catalog.pg_get_userbyid(n.nspowner)::text from pg_catalog.pg_namespace n where n.nspname = 'flux') as keeper,
       exists (
           select from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
           where n.nspname = 'flux' and c.relname = 'guest'
       ) as has_guests
from pg_catalog.pg_roles r, pg_catalog.pg_database d
where r.rolname = current_user and d.datname = pg_catalog.current_database();

-- name: find_other_guest
-- Whose this database of Flux's is, beside the tenant $1; null when it is nobody's else.
select g.tenant from flux.guest g where g.tenant <> $1 order by g.tenant limit 1;

-- name: get_database_bytes
-- How large the database is.
select pg_catalog.pg_database_size(pg_catalog.current_database());

-- name: get_server_process
-- The process that serves this session.
select pg_catalog.pg_backend_pid();


-- ===== A database that was restored elsewhere =====

-- name: find_cluster
-- Where the database is, and where it was when it was last looked at.
select p.system_identifier, 'flux.mutation'::regclass::oid::bigint as log_oid,
       c.system_identifier as system_identifier_then, c.log_oid::bigint as log_oid_then, c.first_xid::text as first_xid, c.since,
       -- A row that was restored was written under another id than it says.
       c.written_by, c.is_written_here
from pg_catalog.pg_control_system() p, (select l.*, l.xmin::text as written_by, l.xmin = l.xid::xid as is_written_here
                                          from flux.cluster l order by l.number desc limit 1) c;

-- name: lock_log
-- Nobody changes a row of the users' tables meanwhile. It fails where one who has done so does not end.
select flux.lock_log();

-- name: has_records_of_here
-- Whether executions that wrote were recorded since the restore: rows with the id under which they were written, and
-- nothing else was. A restore's own id can be one that a row has, but then it wrote other rows too.
select exists (
    select from (
        select e.xid, e.xmin::text as written_by from flux.execution e where e.xid is not null
        union all select t.xid, t.xmin::text from flux.transaction t
        union all select null, v.xmin::text from flux.schema_version v
    ) w
    group by w.written_by
    having pg_catalog.bool_and(w.written_by is not distinct from w.xid::xid::text)
) as found;

-- name: list_writers
-- Other sessions of this database whose transactions have ids, with these.
select a.pid, a.backend_xid::text as xid from pg_catalog.pg_stat_activity a
where a.datname = pg_catalog.current_database() and a.backend_xid is not null and a.pid <> pg_catalog.pg_backend_pid();

-- name: list_ids_given_since
-- Transactions of this cluster that are in the log already: they changed rows between the restore and now. Their rows have
-- the id both as a value and as what the server wrote them under; rows of a restore have the restore's there.
with logged as (
    select m.xid, m.xmin::text as written_by, m.at from flux.mutation m
    union all select d.xid, d.xmin::text, d.at from flux.ddl d
    union all select s.xid, s.xmin::text, null from flux.table_shape s
)
select l.xid::text as xid from logged l
where l.written_by = l.xid::xid::text
  and l.written_by not in (select o.written_by from logged o where o.written_by <> o.xid::xid::text)
group by l.xid order by pg_catalog.min(l.at), l.xid;

-- name: find_highest_id
-- The highest id of a transaction that the records of an earlier cluster know, other than those given since ($1); and how
-- far this cluster's own go.
with since as (select t.xid::xid8 as xid from pg_catalog.unnest($1::text[]) t (xid))
select pg_catalog.max(k.xid)::text as highest,
       (pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::numeric - 1)::text as given
from (
    select pg_catalog.max(m.xid::text::numeric) as xid from flux.mutation m
    where not (m.xmin = m.xid::xid and m.xid in (select s.xid from since s))
    union all select pg_catalog.max(d.xid::text::numeric) from flux.ddl d
    where not (d.xmin = d.xid::xid and d.xid in (select s.xid from since s))
    union all select pg_catalog.max(h.xid::text::numeric) from flux.table_shape h
    where not (h.xmin = h.xid::xid and h.xid in (select s.xid from since s))
    union all select pg_catalog.max(e.xid::text::numeric) from flux.execution e where e.xid is not null
    union all select pg_catalog.max(t.xid::text::numeric) from flux.transaction t
    union all select pg_catalog.max(pg_catalog.pg_snapshot_xmax(t.snapshot)::text::numeric) from flux.transaction t
    union all select pg_catalog.max(pg_catalog.pg_snapshot_xmax(o.snapshot)::text::numeric) from flux.moment o
    union all select pg_catalog.max(a.xid::text::numeric) from flux.migration_applied a
    union all select pg_catalog.max(p.xid::text::numeric) from flux.pruned p
    union all select pg_catalog.max(c.first_xid::text::numeric) from flux.cluster c
) k;

-- name: find_ids_given
-- How far the ids of this cluster's transactions go.
select (pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::numeric - 1)::text as given;

-- name: skip_transactions
-- Takes so many ids, in subtransactions of the one that is open: roll them back.
select flux.skip_transactions($1);

-- name: renumber_changes
-- Gives changes that were logged since the restore ids beyond those of the records: the ids, and others in their place.
update flux.mutation m set xid = n.new::xid8
from unnest($1::text[], $2::text[]) n (old, new) where m.xid = n.old::xid8 and m.xmin = m.xid::xid;

-- name: renumber_ddl
-- The same of changes of the schema.
update flux.ddl d set xid = n.new::xid8
from unnest($1::text[], $2::text[]) n (old, new) where d.xid = n.old::xid8 and d.xmin = d.xid::xid;

-- name: renumber_shapes
-- The same of what tables looked like.
update flux.table_shape s set xid = n.new::xid8
from unnest($1::text[], $2::text[]) n (old, new) where s.xid = n.old::xid8 and s.xmin = s.xid::xid;

-- name: list_tables_found_again
-- The oid that a table had in the records up to an id, and the one that it has: by its last name, which the restore kept.
select o.relid::bigint as old, o.now::bigint as new
from (select distinct on (l.schema_name, l.table_name) l.relid,
             pg_catalog.to_regclass(pg_catalog.format('%I.%I', l.schema_name, l.table_name))::oid as now
      from (select distinct on (s.relid) s.relid, s.schema_name, s.table_name, s.seq from flux.table_shape s
            where s.xid <= $1::text::xid8 order by s.relid, s.seq desc) l
      order by l.schema_name, l.table_name, l.seq desc) o
where o.now is not null;

-- name: move_log
-- Says of which of the tables of now the log's rows up to an id are; 0 is of none that is left.
update flux.mutation m
set relid = coalesce((select n.new from unnest($2::bigint[]::oid[], $3::bigint[]::oid[]) n (old, new) where n.old = m.relid), 0::oid)
where m.xid <= $1::text::xid8;

-- name: move_shapes
-- The same of what tables looked like, and by the numbers that their columns have now: a restore leaves no number to a
-- column that was dropped. Those get numbers that no table can have.
with last as (
    select distinct on (s.relid) s.relid, s.columns from flux.table_shape s where s.xid <= $1::text::xid8 order by s.relid, s.seq desc
), numbers as (
    select l.relid, c.number as old, a.attnum::int as new
    from last l join unnest($2::bigint[]::oid[], $3::bigint[]::oid[]) n (old, new) on n.old = l.relid
    cross join lateral pg_catalog.json_to_recordset(l.columns) c (number int, name text)
    join pg_catalog.pg_attribute a on a.attrelid = n.new and a.attname = c.name and a.attnum > 0 and not a.attisdropped
)
update flux.table_shape s
set relid = coalesce((select n.new from unnest($2::bigint[]::oid[], $3::bigint[]::oid[]) n (old, new) where n.old = s.relid), 0::oid),
    columns = (
        select coalesce(pg_catalog.json_agg(pg_catalog.json_build_object('number', w.number, 'name', w.name, 'type', w.type, 'key', w.key)
                                            order by w.number), '[]')
        from (select coalesce(m.new, c.number + 1600) as number, c.name, c.type, c.key
              from pg_catalog.json_to_recordset(s.columns) c (number int, name text, type text, key boolean)
              left join numbers m on m.relid = s.relid and m.old = c.number) w)
where s.xid <= $1::text::xid8;

-- name: add_cluster
-- Notes where the database is now: the cluster, the log's oid, the first id that is given out here, and since when.
insert into flux.cluster (system_identifier, log_oid, first_xid, since)
values ($1, $2::bigint::oid, $3::text::xid8, $4::timestamptz);
