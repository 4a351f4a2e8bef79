-- In which cluster the database is. A copy that pg_restore made elsewhere has the same rows, and there transactions and
-- tables have other numbers: flux/store/restored.py.

create table flux.cluster (
    number             int generated always as identity primary key,
    system_identifier  bigint not null,     -- 0: not known, the database may have been restored before this table was there
    log_oid            oid not null,        -- of flux.mutation: a restore within the cluster gives it another
    since              timestamptz not null,    -- what began before ran in an earlier one, by the clock of Flux's server
    first_xid          xid8 not null default '3',  -- lower ids were given out by an earlier cluster
    xid                xid8 not null default pg_catalog.pg_current_xact_id()  -- a row whose xmin is another was restored
);
comment on table flux.cluster is 'Where the database has been, the last row where it is.';

-- A row's system column xmin has the id under which it was written here. Each version of the schema was noted in a
-- transaction of its own; a restore writes all rows of a table in one.
insert into flux.cluster (system_identifier, log_oid, since)
select case when (select pg_catalog.count(distinct v.xmin::text) < pg_catalog.count(*) from flux.schema_version v) then 0
            else c.system_identifier end,
       'flux.mutation'::regclass::oid, 'epoch'
from pg_catalog.pg_control_system() c;

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

-- As of all that is Flux's own: nobody but its owner.
revoke all on table flux.cluster from public;
revoke all on sequence flux.cluster_number_seq from public;
revoke all on function flux.skip_transactions(int), flux.lock_log() from public;
