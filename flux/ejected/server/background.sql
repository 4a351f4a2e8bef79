-- What the application keeps for itself: jobs, schedules, and which migrations were applied. Safe to run again.

create schema if not exists background;

create table if not exists background.migrations (
    number bigint primary key,
    name text not null,
    sha256 text not null,
    applied_at timestamptz not null default now()
);

create table if not exists background.jobs (
    id uuid primary key default gen_random_uuid(),
    function text not null,
    payload text not null,
    idempotency bytea,
    schedule text,
    state text not null default 'waiting' check (state in ('waiting', 'running', 'done', 'dead')),
    due_at timestamptz not null default now(),
    attempt integer not null default 0,
    failures integer not null default 0,
    lost integer not null default 0,
    worker uuid,
    error text,
    pushed_at timestamptz not null default now(),
    ended_at timestamptz,
    unique (function, idempotency)
);
comment on column background.jobs.payload is 'JSON, as it was pushed';
comment on column background.jobs.idempotency is 'SHA-256 of the key';
comment on column background.jobs.schedule is 'of a job that a schedule has made: the schedule''s key';

create index if not exists jobs_due on background.jobs (due_at) where state = 'waiting';
create index if not exists jobs_running on background.jobs (worker) where state = 'running';

create table if not exists background.workers (
    id uuid primary key,
    seen_at timestamptz not null
);

create table if not exists background.schedules (
    key text primary key,
    decided_until timestamptz not null,
    paused boolean not null default false
);
comment on column background.schedules.key is 'function, the five fields and the time zone, each after a space';
comment on column background.schedules.paused is 'while it is, times pass and nothing is owed for them';
