-- What the application and the worker may do. As the owner of the tables, after migrate.py has run for the first time:
--
--     psql "$DATABASE_URL" -v role=NAME -f role.sql
--
-- The role is made before: create role NAME login password '...'. What the owner adds later is granted by itself. All is granted
-- or nothing. Tables of extensions are left out: they are not the owner's to grant, and have rights of their own.

\set ON_ERROR_STOP on
begin;
grant usage on schema public, background to :"role";
select format('grant %s to %I', rights || string_agg(format('%I.%I', n.nspname, c.relname), ', '), :'role')
from (values ('{r,p,v,m,f}'::"char"[], 'select, insert, update, delete on '), ('{S}', 'usage, select on sequence ')) one (kinds, rights)
join pg_class c on c.relkind = any (kinds) join pg_namespace n on n.oid = c.relnamespace
where n.nspname in ('public', 'background') and not exists (
    select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
group by rights
\gexec
alter default privileges in schema public, background
    grant select, insert, update, delete on tables to :"role";
alter default privileges in schema public, background
    grant usage, select on sequences to :"role";
revoke insert, update, delete on background.migrations from :"role";
commit;
