-- A job belongs to the trace of the execution that pushed it.

alter table flux.job add column traceparent text, add column tracestate text;

-- The last two have defaults: a supervisor of an older Flux that still runs says nothing of them.
drop function flux.push_job(bytea, uuid, text, text, bytea, bytea, uuid, int, double precision);
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

revoke all on function flux.push_job from public;
do $$
declare
    guest record;
begin
    for guest in select g.role_name from flux.guest g join pg_catalog.pg_roles r on r.rolname = g.role_name loop
        execute pg_catalog.format('grant execute on function flux.push_job to %I', guest.role_name);
    end loop;
end $$;
