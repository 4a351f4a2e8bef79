-- What the application and the worker may do. As the owner of the tables, after migrate.py has run for the first time:
--
--     psql "$DATABASE_URL" -v role=NAME -f role.sql
--
-- The role is made before: create role NAME login password '...'. What the owner adds later is granted by itself.

grant usage on schema public, background to :"role";
grant select, insert, update, delete on all tables in schema public, background to :"role";
grant usage, select on all sequences in schema public, background to :"role";
alter default privileges in schema public, background
    grant select, insert, update, delete on tables to :"role";
alter default privileges in schema public, background
    grant usage, select on sequences to :"role";
revoke insert, update, delete on background.migrations from :"role";
