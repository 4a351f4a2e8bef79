-- Time and the log: snapshots that were taken at known times, and from where on the log is whole.

-- A time is found between two of these without reading the whole log, and where the server notes no times of commits they
-- are all that says who had committed by then.
create table flux.moment (
    since     timestamptz not null,         -- the snapshot was taken at this time or later
    snapshot  pg_snapshot not null,
    until     timestamptz not null,         -- and at this time or earlier
    seq       bigint not null               -- the log's last number then: where it has not moved, no other is needed
);
comment on table flux.moment is 'Who had committed at known times.';
create index moment_until on flux.moment (until);

-- What was taken out of the log of changes because it was old. A snapshot that did not see all of these can't be gone back to.
create table flux.pruned (
    until      timestamptz primary key,     -- all changes before it are gone
    xid        xid8,                        -- the latest transaction among them; null: there was none
    pruned_at  timestamptz not null default pg_catalog.clock_timestamp()
);
comment on table flux.pruned is 'How far the log of changes has been pruned.';

-- As of all that is Flux's own: nobody but its owner.
revoke all on table flux.moment, flux.pruned from public;
