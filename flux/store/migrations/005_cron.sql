-- Schedules: up to when each is decided, what became of its ticks, and which are paused.
--
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

-- A job that a schedule made has the time of its tick; null: a function pushed it.
alter table flux.job add column tick timestamptz;

revoke all on all tables in schema flux from public;
