"""How a session is made as new for its next user, without losing the statements that are prepared in it."""

RESET = """
set session authorization default; reset all; close all; unlisten *; discard temp; discard sequences;
select pg_catalog.pg_advisory_unlock_all(),
       1 / (count(*) filter (where from_sql) = 0 and count(*) filter (where not from_sql) = {kept})::int
from pg_catalog.pg_prepared_statement()
"""
"""DISCARD ALL without dropping the prepared statements, which are the reason to keep a connection.

So it has to be certain that they are ours. SQL can drop one of them and prepare another under its name, from
inside a function where no text shows it; the next user would run that instead. PostgreSQL tells statements
that SQL prepared from the protocol's own: when there is one, or one of ours is missing, this fails (a
division by zero), and with it the connection. The function is asked and not the view of it, and in one statement with
the locks: each reset is planned anew.
"""

RESET_IN_TRANSACTION = """
close all; discard sequences;
select pg_catalog.pg_advisory_unlock_all(),
       1 / (count(*) filter (where from_sql) = 0 and count(*) filter (where not from_sql) = {kept})::int
from pg_catalog.pg_prepared_statement()
"""
"""What of a session outlives a savepoint: the rest goes back with it."""
