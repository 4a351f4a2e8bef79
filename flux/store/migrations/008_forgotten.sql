-- Rows whose values were taken out of the records because somebody asked for it.
create table flux.forgotten (
    id           bigint generated always as identity primary key,
    tenant       text not null,
    schema_name  text not null,
    table_name   text not null,
    key          text not null,             -- as the log has it since: a key that says who somebody was is a token
    seq          bigint not null,           -- of the row's last change before it
    executions   int not null,              -- records that were rewritten
    changes      int not null,              -- changes that were
    at           timestamptz not null default pg_catalog.clock_timestamp()
);
comment on table flux.forgotten is 'Rows that were taken out of the records.';
create index forgotten_row on flux.forgotten (schema_name, table_name, key);

-- As of all that is Flux's own: nobody but its owner.
revoke all on table flux.forgotten from public;
revoke all on sequence flux.forgotten_id_seq from public;
