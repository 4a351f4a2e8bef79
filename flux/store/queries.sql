-- Every query of Flux, each under its name, with a sentence on what it is for.
--
-- queries.py reads this file: "-- name: x" begins a query, reached as QUERIES.x; "-- filter: x" begins a condition
-- that where() may add at /*filters*/, its one value written as "?". Values are always parameters.


-- ===== Installation =====

-- name: lock_migrations
-- One migrating program at a time; released with the session, so that it spans several transactions.
select pg_catalog.pg_advisory_lock(pg_catalog.hashtextextended('flux.migrate', 0));

-- name: unlock_migrations
-- The other half of lock_migrations.
select pg_catalog.pg_advisory_unlock(pg_catalog.hashtextextended('flux.migrate', 0));

-- name: find_schema
-- Whether Flux was ever installed here, and on which server version.
select pg_catalog.to_regclass('flux.schema_version') is not null as installed,
       pg_catalog.current_setting('server_version_num')::int as server_version_num,
       pg_catalog.current_setting('server_encoding') as server_encoding;

-- name: list_schema_versions
-- Flux's own migrations as applied, oldest first.
select version, name, sha256, applied_at from flux.schema_version order by version;

-- name: add_schema_version
-- Says that a migration was applied, in its own transaction.
insert into flux.schema_version (version, name, sha256) values ($1, $2, $3);

-- name: install_event_triggers
-- Makes new tables captured by themselves; false where this role may not have event triggers.
select flux.install_event_triggers() as installed;

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

-- name: add_rolled_back_mutations
-- Images that were seen in NOTICEs and then rolled back: one array a column.
insert into flux.mutation (at, xid, ordinal, relid, schema_name, table_name, op, depth, key, before, after, committed, execution, cut)
select m.at, m.xid::xid8, m.ordinal, m.relid, m.schema_name, m.table_name, m.op::"char", m.depth, m.key,
       m.before::json, m.after::json, false, m.execution, m.cut
from pg_catalog.unnest($1::timestamptz[], $2::text[], $3::int[], $4::oid[], $5::text[], $6::text[], $7::text[], $8::smallint[],
                       $9::text[], $10::text[], $11::text[], $12::uuid[], $13::boolean[])
     as m (at, xid, ordinal, relid, schema_name, table_name, op, depth, key, before, after, execution, cut);

-- name: find_surviving_mutations
-- Of the statements whose notices came, those whose rows are still in the log: the proof that no savepoint took them back.
select seq from flux.mutation where xid = $1::text::xid8 and seq = any ($2::bigint[]) and at >= $3;

-- name: add_blob
-- Stores a body once, by its content: sha256, size, cut, body.
insert into flux.blob (sha256, size_bytes, cut, body) values ($1, $2, $3, $4) on conflict (sha256) do nothing;

-- name: find_blob
-- A body by its content's digest.
select size_bytes, cut, body from flux.blob where sha256 = $1;

-- name: add_deployment
-- A new deployment: id, tenant, sha, dirty, artifact hash, functions.
insert into flux.deployment (id, tenant, sha, dirty, artifact_hash, functions) values ($1, $2, $3, $4, $5, $6)
on conflict (id) do nothing;

-- name: activate_deployment
-- The switch to a deployment, also a switch back.
update flux.deployment set activated_at = pg_catalog.clock_timestamp() where id = $1;

-- name: find_deployment
-- One deployment by its id.
select id, tenant, sha, dirty, artifact_hash, functions, created_at, activated_at, note from flux.deployment where id = $1;

-- name: list_deployments
-- A tenant's deployments, newest first.
select id, tenant, sha, dirty, artifact_hash, functions, created_at, activated_at, note
from flux.deployment where tenant = $1 order by created_at desc limit $2;

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


-- ===== Finding executions =====

-- name: find_execution
-- One execution by its id, recording included.
select * from flux.execution where id = $1;

-- name: find_executions_by_name
-- Executions whose name starts so; eleven, to show ten and know that there are more.
select * from flux.summary where name like $1 || '%' order by id desc limit 11;

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

-- name: list_recordings
-- Like list_executions, oldest first and with recordings: what an incident's replay needs.
select * from flux.execution e where true /*filters*/ order by e.id limit $1;

-- name: list_children
-- What an execution caused: queue pushes and invokes.
select * from flux.summary where parent = $1 and id >= $1 order by id limit $2;

-- name: list_peers
-- Executions of the same function that passed, nearest before this one first: what "why" compares with.
select * from flux.execution
where function = $1 and id < $2 and signature is null and trigger <> 'replay' order by id desc limit $3;

-- filter: tenant
e.tenant = ?
-- filter: status_min
-- Five hundred and up is always a failure, so ask for "failed" as well: that is an index.
e.status >= ?
-- filter: status_max
e.status <= ?
-- filter: route
e.route = ?
-- filter: path
e.path = ?
-- filter: method
e.method = ?
-- filter: function
e.function = ?
-- filter: trigger
e.trigger = ?
-- filter: outcome
e.outcome = ?
-- filter: error_type
(e.error_type = ? and e.signature is not null)
-- filter: failed
((e.signature is not null) and ?)
-- filter: signature
e.signature = ?
-- filter: sha_prefix
pg_catalog.starts_with(e.sha, ?)
-- filter: deployment
e.deployment = ?
-- filter: since
e.id >= flux.uuid_floor(?)
-- filter: until
e.id < flux.uuid_floor(?)
-- filter: before_id
e.id < ?
-- filter: after_id
e.id > ?
-- filter: not_trigger
e.trigger <> ?


-- ===== Failures =====

-- name: list_error_groups
-- Failures since an instant, the same signature together, the most frequent first.
select signature, pg_catalog.count(*) as count, pg_catalog.min(started_at) as first, pg_catalog.max(started_at) as last,
       (pg_catalog.array_agg(name order by id desc))[1] as sample, (pg_catalog.array_agg(id order by id desc))[1] as sample_id,
       pg_catalog.array_agg(distinct function) as functions,
       (pg_catalog.array_agg(error_type order by id desc))[1] as error_type,
       (pg_catalog.array_agg(error_message order by id desc))[1] as error_message,
       (pg_catalog.array_agg(error_location order by id desc))[1] as error_location
from flux.execution
where signature is not null and id >= flux.uuid_floor($1) and trigger <> 'replay'
group by signature order by count desc, last desc limit $2;

-- name: count_signature_by_sha
-- How often this failure happened on each commit, since an instant, among at most $3 of them.
select sha, pg_catalog.count(*) as count, (pg_catalog.min(id::text))::uuid as first_id, (pg_catalog.max(id::text))::uuid as last_id
from (select sha, id from flux.execution where signature = $1 and id >= flux.uuid_floor($2) order by id desc limit $3) s
group by sha order by last_id desc;

-- name: count_function_by_sha
-- How often this function ran on each commit, since an instant, among its latest $3 executions.
select sha, pg_catalog.count(*) as count, (pg_catalog.min(id::text))::uuid as first_id, (pg_catalog.max(id::text))::uuid as last_id
from (select sha, id from flux.execution where function = $1 and id >= flux.uuid_floor($2) order by id desc limit $3) s
group by sha order by last_id desc;

-- name: list_host_failures
-- Who else lost the same outbound host between two instants.
select id, name, function, started_at from flux.execution
where (signature is not null or hosts_failed is not null) and $1 = any (hosts_failed)
  and id >= flux.uuid_floor($2) and id < flux.uuid_floor($3) and trigger <> 'replay'
order by id limit $4;


-- ===== Changes =====

-- name: list_mutations_of_execution
-- All rows an execution changed, kept or lost, in order: its own xid's, its transactions', and what was rolled back.
select m.seq, m.at, m.xid::text as xid, m.ordinal, m.relid, m.schema_name, m.table_name, m.op::text as op, m.depth, m.key,
       m.before::text as before, m.after::text as after, m.committed, m.cut
from flux.mutation m
where m.execution = $1
   or m.xid in (select e.xid from flux.execution e where e.id = $1 and e.xid is not null
                union all select t.xid from flux.transaction t where t.execution = $1) and m.committed
order by m.seq limit $2;

-- name: list_mutations_of_transactions
-- All rows that some transactions changed, in order.
select m.seq, m.at, m.xid::text as xid, m.ordinal, m.relid, m.schema_name, m.table_name, m.op::text as op, m.depth, m.key,
       m.before::text as before, m.after::text as after, m.committed, m.cut
from flux.mutation m where m.xid = any ($1::text[]::xid8[]) order by m.seq limit $2;

-- name: get_key_text
-- A key as the log writes it, from column values as typed: table, {"column":"value"}.
select flux.key_text($1::text::regclass, $2::text::json) as key;

-- name: list_row_history
-- All versions of one row, newest first, each with the execution that wrote it: schema, table, key, limit.
-- "outside" was written by somebody else; neither outside nor an execution means that the record is gone.
with versions as (
    select m.* from flux.mutation m
    where pg_catalog.hashtextextended(m.key, pg_catalog.hashtextextended(m.table_name, pg_catalog.hashtextextended(m.schema_name, 0)))
          = pg_catalog.hashtextextended($3, pg_catalog.hashtextextended($2, pg_catalog.hashtextextended($1, 0)))
      and m.schema_name = $1 and m.table_name = $2 and m.key = $3
    order by m.seq desc limit $4
)
select v.seq, v.at, v.xid::text as xid, v.ordinal, v.op::text as op, v.depth, v.key, v.before::text as before,
       v.after::text as after, v.committed, v.cut, v.outside,
       e.id as execution, e.name, e.function, e.trigger, e.method, e.path, e.route, e.sha, e.dirty
from versions v
left join flux.transaction t on t.xid = v.xid
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
-- The last version of a row that a snapshot saw, or that the reader's own transaction had made by then:
-- schema, table, key, snapshot, own xid or null, own last seq.
select m.seq, m.at, m.xid::text as xid, m.op::text as op, m.before::text as before, m.after::text as after, m.outside
from flux.mutation m
where pg_catalog.hashtextextended(m.key, pg_catalog.hashtextextended(m.table_name, pg_catalog.hashtextextended(m.schema_name, 0)))
      = pg_catalog.hashtextextended($3, pg_catalog.hashtextextended($2, pg_catalog.hashtextextended($1, 0)))
  and m.schema_name = $1 and m.table_name = $2 and m.key = $3 and m.committed
  and case when m.xid = $5::text::xid8 then m.seq <= $6::bigint else pg_catalog.pg_visible_in_snapshot(m.xid, $4::text::pg_snapshot) end
order by m.seq desc limit 1;

-- name: list_undo_to_snapshot
-- What to put back to see a table as a snapshot saw it: for each key the image before the first change it did not see.
select distinct on (m.key) m.key, m.before::text as before
from flux.mutation m
where m.schema_name = $1 and m.table_name = $2 and m.committed and m.key is not null
  and m.xid >= pg_catalog.pg_snapshot_xmin($3::text::pg_snapshot) and not pg_catalog.pg_visible_in_snapshot(m.xid, $3::text::pg_snapshot)
order by m.key, m.seq;

-- name: list_table_changes
-- A table's committed changes between two instants, in order.
select m.seq, m.at, m.xid::text as xid, m.op::text as op, m.depth, m.key, m.before::text as before, m.after::text as after, m.outside
from flux.mutation m
where m.schema_name = $1 and m.table_name = $2 and m.committed and m.at >= $3 and m.at < $4
order by m.seq limit $5;

-- name: list_ddl
-- Changes of the users' schema since an instant.
select at, xid::text as xid, session_role, command, object_type, object_identity, dropped, catalog_digest
from flux.ddl where at >= $1 order by seq limit $2;
