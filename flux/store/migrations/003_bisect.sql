-- What a bisect has seen, so that the next one builds and runs nothing that was run before.
create table flux.bisect_run (
    original    uuid not null,              -- the execution that was replayed
    source      text not null,              -- the files of the commit: its tree, and what was laid over it
    runtime     text not null,              -- what ran it, and behind which walls
    run         int not null,               -- how many-th run of this source
    code        text,                       -- hash of what was deployed of it; null when it never came to that
    verdict     text not null,
    reason      text not null,
    replay      text,                       -- name of the replay's own execution; null when none was made
    elapsed_ns  bigint not null,
    document    json,                       -- the replay as the console answers it
    at          timestamptz not null default pg_catalog.clock_timestamp(),
    primary key (original, source, runtime, run)
);
comment on table flux.bisect_run is 'What recorded executions did on commits, run by run.';
create index bisect_run_code on flux.bisect_run (original, code, runtime, run) where code is not null;
