-- Processor time of tenants: so many milliseconds of a processor in a minute.

alter table flux.tenant add column cpu_ms_per_minute bigint check (cpu_ms_per_minute > 0);    -- null: no limit
