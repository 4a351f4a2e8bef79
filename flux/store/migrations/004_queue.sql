-- The queue: jobs that functions have pushed, and the supervisors that run them.
--
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
    error        text                       -- how that one failed
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
    delay_s double precision
) returns uuid
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
    pushed uuid;
begin
    perform flux.check_token(token);
    insert into flux.job as j (id, tenant, function, payload, idempotency, parent, parent_call, run_at)
    values (id, tenant, function, payload, idempotency, parent, parent_call, clock_timestamp() + make_interval(secs => delay_s))
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

-- Guests may call the two, as they may call flux.commit_record.
create or replace function flux.ensure_guest_role(tenant_name text, schema_name_wanted text, password text) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    role_wanted constant text := 'flux_guest_' || tenant_name;
    existing record;
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
        execute format('alter role %I login password %L', role_wanted, password);
    end if;
    execute format('create schema if not exists %I', schema_name_wanted);
    -- PostgreSQL 14 lets everybody create in "public": a guest could put functions in the way of others.
    execute format('revoke create on schema %I from public', schema_name_wanted);
    execute format('grant usage on schema %I to %I', schema_name_wanted, role_wanted);
    execute format('grant select, insert, update, delete on all tables in schema %I to %I', schema_name_wanted, role_wanted);
    execute format('grant usage, select on all sequences in schema %I to %I', schema_name_wanted, role_wanted);
    execute format('alter default privileges in schema %I grant select, insert, update, delete on tables to %I', schema_name_wanted, role_wanted);
    execute format('alter default privileges in schema %I grant usage, select on sequences to %I', schema_name_wanted, role_wanted);
    -- A role may change its own defaults, so what a guest has left there goes first.
    execute format('alter role %I reset all', role_wanted);
    execute format('alter role %I set search_path = %I', role_wanted, schema_name_wanted);
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

revoke all on function flux.push_job, flux.end_job, flux.ensure_guest_role from public;
revoke all on flux.job, flux.queue_worker from public;
