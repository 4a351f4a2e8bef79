-- Secrets and tokens. Nothing here is of use to whoever has the database alone: secrets are sealed with a key that is not
-- in it, and of tokens there are digests. Guests have no right on these tables.

create table flux.tenant_key (
    tenant   text primary key,
    sealed   bytea not null,                -- the tenant's key, sealed with the master key
    version  bigint not null default 0      -- moves with each change of a secret: other servers read them again
);
comment on table flux.tenant_key is 'Keys that secrets are sealed with, each sealed with the master key.';

create table flux.secret (
    tenant      text not null,
    name        text not null,
    sealed      bytea not null,             -- bound to tenant and name: flux/sealing.py
    changed_at  timestamptz not null default pg_catalog.clock_timestamp(),
    primary key (tenant, name)
);
comment on table flux.secret is 'Values that functions need, sealed.';

create table flux.token (
    sha256        bytea primary key,        -- of the token: it is shown once and kept nowhere
    tenant        text not null,
    kind          text not null check (kind in ('console', 'api')),
    name          text not null,
    scopes        text[] not null,
    created_at    timestamptz not null,
    expires_at    timestamptz,              -- null: it does not
    revoked_at    timestamptz,              -- null: it was not
    last_used_at  timestamptz               -- to a minute
);
comment on table flux.token is 'Who may speak to the console, and to routes of the project that ask for a key.';
create unique index token_name on flux.token (tenant, kind, name) where revoked_at is null;

revoke all on table flux.tenant_key, flux.secret, flux.token from public;
