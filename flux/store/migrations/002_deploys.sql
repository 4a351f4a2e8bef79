-- Each switch to other code, so that what was served when can be told, and gone back to, after a restart.
-- flux.deployment has one row for each artifact; the same files may be served as several commits, and again.
create table flux.deploy (
    id          bigint generated always as identity primary key,
    tenant      text not null,
    deployment  text not null references flux.deployment (id),
    sha         text not null,
    dirty       boolean not null,
    branch      text,
    functions   json not null,              -- their names, in order
    cause       text not null check (cause in ('start', 'save', 'deploy', 'rollback')),
    runtime     json not null,              -- what ran it: Python, the guest SDK, the WebAssembly engine
    at          timestamptz not null default pg_catalog.clock_timestamp()
);
comment on table flux.deploy is 'Each switch to other code.';
create index deploy_tenant on flux.deploy (tenant, id);

-- As of all that is Flux's own: nobody but its owner.
revoke all on table flux.deploy from public;
revoke all on sequence flux.deploy_id_seq from public;
