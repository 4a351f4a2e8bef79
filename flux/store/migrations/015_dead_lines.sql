-- A guest's session whose line is dead ends, and with it its transaction and its locks.

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
