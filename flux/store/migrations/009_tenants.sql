-- Tenants: who else an installation serves, each from a database of its own. Guests have no right on the table.

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
    added_at             timestamptz not null default pg_catalog.clock_timestamp()
);
comment on table flux.tenant is 'Who else this installation serves, each from a database of its own.';

-- Of a tenant's database the owner may make no roles: what he could do with them reaches the others.
create or replace function flux.ensure_guest_role(tenant_name text, schema_name_wanted text, password text) returns text
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

revoke all on table flux.tenant from public;
