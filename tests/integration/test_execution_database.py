"""What an execution leaves behind on its connection, and what it can't do to those that come after it.

One guest connection serves all executions here, so each follows another on the same session.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from flux.execution import Raised, Returned
from flux.sandbox.scripted import Script, ScriptedGuest
from flux.store.queries import QUERIES
from tests.conftest import Database
from tests.execution_world import ExecutionWorld, open_world, sql

SCHEMA = """
create table notes (id int primary key, text text); grant all on notes to flux_guest_main;
create table stolen (text text); grant all on stolen to flux_guest_main;
"""


@pytest.fixture
async def world(database: Database, tmp_path: Path) -> AsyncIterator[ExecutionWorld]:
    async with open_world(database, tmp_path / "journal", guest_connections=1) as opened:
        database.psql(SCHEMA)
        yield opened


def saying(*statements: str, fail: bool = False) -> Script:
    """A function that runs statements, and then fails or returns the last one's first row."""

    async def script(guest: ScriptedGuest, _document: dict[str, Any]) -> str:
        answer: Any = None
        for statement in statements:
            answer = await guest.call(*sql(statement))
        if fail:
            raise ValueError("as asked")
        return str(answer["rows"][0] if answer["rows"] else None)

    return script


LEFT_BEHIND = {
    "a setting": (
        "select set_config('app.user', 'mallory', false)",
        "select current_setting('app.user', true)", ("['']", "[None]"),
    ),
    "a search path": (
        "select set_config('search_path', 'pg_temp', false)", "select current_setting('search_path')", ("['public']",),
    ),
    "a time limit": (
        "select set_config('statement_timeout', '77s', false)",
        "select current_setting('statement_timeout')", ("['0']",),
    ),
    "a temporary table": (
        "create temp table notes as select 7 as id", "select count(*)::int from notes", ("[0]",),
    ),
    "a cursor": (
        "do $$ begin execute 'declare c cursor with hold for select 1'; end $$",
        "select count(*)::int from pg_cursors where name = 'c'", ("[0]",),
    ),
    "an advisory lock": (
        "select pg_advisory_lock(42)",
        "select count(*)::int from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()", ("[0]",),
    ),
    "a channel": (
        "do $$ begin execute 'listen gossip'; end $$", "select count(*)::int from pg_listening_channels()", ("[0]",),
    ),
    "a prepared statement": (
        "do $$ begin execute 'prepare mine as select 1'; end $$",
        "select count(*)::int from pg_prepared_statements where from_sql", ("[0]",),
    ),
    "a sequence's last value": (
        "select nextval('pg_temp.counter')", "select to_regclass('pg_temp.counter') is null", ("[True]",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("atomic", [True, False])
@pytest.mark.parametrize("fail", [False, True])
@pytest.mark.parametrize("what", LEFT_BEHIND)
async def test_nothing_of_a_session_reaches_the_next_execution(
    world: ExecutionWorld, what: str, fail: bool, atomic: bool
) -> None:
    leave, look, expected = LEFT_BEHIND[what]
    first = ["create temp sequence counter"] if "counter" in leave else []
    left = await world.run(saying(*first, leave, fail=fail), atomic=atomic)
    assert isinstance(left.outcome, Raised if fail else Returned), left.outcome
    seen = await world.run(saying(look))
    assert isinstance(seen.outcome, Returned)
    assert seen.outcome.body.decode() in expected


STEAL = """
do $$ declare found text; begin
  for found in
    select name from pg_prepared_statements
    where statement like '%commit_record%' or statement like '%mark_transaction%'
  loop
    execute 'deallocate ' || found;
    execute 'prepare ' || found || '(bytea, uuid, text, text, text, text, text, text, text, int, text, text, text, '
         || 'text, text, timestamptz, bigint, int, int, text, boolean, text, uuid, int, uuid, text, text[], smallint, '
         || 'bytea) as with s as (insert into stolen values (encode($1, ''hex'')) returning 1) '
         || 'select null::xid8 from s';
  end loop;
end $$
"""
"""Puts a statement of the guest's under the name of the one that carries the supervisor's token."""


async def test_a_guest_cannot_put_its_own_sql_in_the_place_of_the_supervisors(world: ExecutionWorld) -> None:
    for number in range(1, 4):
        insert = f"insert into notes values ({number}, 'x')"
        executed = await world.run(saying(insert, STEAL))
        assert isinstance(executed.outcome, Returned), executed.outcome
    assert world.database.psql("select count(*) from stolen") == "0"
    assert world.database.psql("select count(*) from flux.execution where xid is not null") == "3"


@pytest.mark.parametrize(
    "replace",
    [
        "deallocate ' || found",
        "deallocate ' || found; execute 'prepare ' || found || ' as select ''forged''::text",
    ],
)
async def test_a_guest_cannot_replace_a_statement_of_the_next_execution(
    world: ExecutionWorld, replace: str
) -> None:
    question = "select 'genuine'::text as word"
    assert _body(await world.run(saying(question))) == "['genuine']"
    replace = replace + ("'" if replace.endswith("text") else "")
    poison = (
        "do $$ declare found text; begin for found in select name from pg_prepared_statements where name like 'flux%' "
        f"and statement like 'select ''genuine%' loop execute '{replace}; end loop; end $$"
    )
    await world.run(saying(poison))
    for atomic in (True, False):
        assert _body(await world.run(saying(question), atomic=atomic)) == "['genuine']"


def _body(executed: Any) -> str:
    assert isinstance(executed.outcome, Returned), executed.outcome
    return executed.outcome.body.decode()


async def test_a_guest_cannot_hide_that_it_wrote(world: ExecutionWorld) -> None:
    # The question whether anything was written is prepared on the session, too, by an execution before.
    await world.run(saying("select 1"))
    forge = """do $$ declare found text; begin
      for found in select name from pg_prepared_statements where statement like '%xact_id_if_assigned%' loop
        execute 'deallocate ' || found; execute 'prepare ' || found || ' as select null::xid8';
      end loop; perform lo_create(0);
    end $$"""
    executed = await world.run(saying(forge))
    assert isinstance(executed.outcome, Returned)
    assert world.database.psql("select count(*) from pg_largeobject_metadata") == "1"
    (named,) = world.database.psql("select id from flux.execution where xid is not null").splitlines()
    assert named == str(executed.execution.id)


async def test_an_answer_too_large_to_hold_is_ended_while_it_comes(world: ExecutionWorld) -> None:
    for statement in (
        "select repeat('x', 1000) from generate_series(1, 500000)",
        "select repeat('x', 200 * 1024 * 1024)",
    ):
        executed = await world.run(saying(statement))
        assert isinstance(executed.outcome, Raised)
        (call,) = executed.execution.calls
        assert call.result is not None and call.result.error is not None
        assert (call.result.error.name, call.result.error.code) == ("AnswerTooLarge", "FLX427")
    # The connection is as good as before.
    assert world.backing.guests.counts.open == 1
    assert _body(await world.run(saying("select 1"))) == "[1]"


async def test_notices_are_no_part_of_an_answer(world: ExecutionWorld) -> None:
    # 45 MB of row images, and an answer of a few bytes.
    executed = await world.run(
        saying("insert into notes select n, repeat('x', 9000) from generate_series(1, 1000) n",
               "do $$ begin for i in 1..5 loop update notes set id = id + 10000; end loop; end $$")
    )  # fmt: skip
    assert isinstance(executed.outcome, Returned), executed.outcome


async def test_what_is_kept_of_changed_rows_has_an_end_and_that_is_said(
    world: ExecutionWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flux.supervisor.changes.IMAGE_BYTES_MAX", 10_000)
    insert = "insert into notes values ({0}, repeat('x', 3000))"
    executed = await world.run(saying(*(insert.format(number) for number in range(10)), fail=True))
    execution = executed.execution
    assert execution.mutation_count == 10
    assert 0 < len(execution.mutations) < 10
    assert "call 10 changed more rows than their images are kept of" in " ".join(execution.completeness)


@pytest.mark.parametrize("message", ["no capture", 'x,"mac":"é"}', '{"version":1},"mac":"' + "0" * 32 + '"}'])
async def test_a_notice_that_a_guest_raises_is_no_row_change(world: ExecutionWorld, message: str) -> None:
    forged = (
        f"do $$ begin raise notice using errcode = 'FX001', message = '{message}', detail = '[{{}}]'; end $$"
    )
    executed = await world.run(saying(forged, "do $$ begin raise notice 'hello'; end $$"))
    assert isinstance(executed.outcome, Returned), executed.outcome
    assert executed.execution.mutation_count == 0


async def test_a_statement_that_is_given_up_does_not_swallow_those_behind_it(world: ExecutionWorld) -> None:
    async def script(guest: ScriptedGuest, _document: dict[str, Any]) -> str:
        for number in range(20):
            asked = await guest.ask(*sql(f"insert into notes values ({100 + number}, 'x') returning *"))
            await trio.sleep(number / 2000)
            await guest.cancel(asked)
            while asked not in guest.answers:
                await guest.hear()
            await guest.call(*sql(f"insert into notes values ({number}, 'kept')"))
        return "done"

    executed = await world.run(script, atomic=False)
    assert isinstance(executed.outcome, Returned), executed.outcome
    assert world.database.psql("select count(*) from notes where text = 'kept'") == "20"
    # Whatever was given up in time is not there; the guest heard of the others that they took place.
    performed = [call for call in executed.execution.calls if call.result and not call.result.error]
    assert world.database.psql("select count(*) from notes") == str(len(performed))


async def test_a_transaction_whose_begin_was_given_up_can_be_begun_again(world: ExecutionWorld) -> None:
    async def script(guest: ScriptedGuest, _document: dict[str, Any]) -> str:
        for number in range(30):
            asked = await guest.ask("db.begin", "serializable")
            if number % 2:
                await trio.sleep(number / 10_000)
            await guest.cancel(asked)
            while asked not in guest.answers:
                await guest.hear()
            error, depth = guest.answers[asked]
            if error is None:
                await guest.call("db.rollback", depth)
            depth = await guest.call("db.begin", "serializable")
            await guest.call(*sql(f"insert into notes values ({number}, 'x')"))
            await guest.call("db.commit", depth)
        return "done"

    executed = await world.run(script, atomic=False)
    assert isinstance(executed.outcome, Returned), executed.outcome
    assert world.database.psql("select count(*) from notes") == "30"


@pytest.mark.parametrize("atomic", [True, False])
async def test_what_cannot_be_read_behind_a_commit_does_not_undo_it(world: ExecutionWorld, atomic: bool) -> None:
    """It notifies itself, which comes behind the COMMIT, in an encoding that nobody expects."""
    statements = (
        "do $$ begin execute 'listen echo'; end $$",
        "select set_config('client_encoding', 'LATIN1', false)",
        "with noted as (insert into notes values (1, 'x') returning 1) select pg_notify('echo', chr(233)) from noted",
    )
    executed = await world.run(saying(*statements), atomic=atomic)
    assert isinstance(executed.outcome, Returned), executed.outcome
    assert [ended.committed for ended in executed.execution.transactions][-1]
    assert world.database.psql("select count(*) from notes") == "1"
    again = await world.run(saying("select current_setting('client_encoding')"))
    assert _body(again) == "['UTF8']"


async def test_of_a_statement_that_stands_unheard_the_log_says_what_was_undone(world: ExecutionWorld) -> None:
    """Its answer can't be read, and the function goes on: what it did stands, but for what it has undone itself."""
    block = (
        "do $$ begin perform set_config('client_encoding', 'LATIN1', false);"
        " begin insert into notes values (1, 'undone'); raise exception 'no'; exception when raise_exception then end;"
        " raise notice '%', chr(233); end $$"
    )

    async def script(guest: ScriptedGuest, _document: dict[str, Any]) -> str:
        with pytest.raises(RuntimeError):
            await guest.call(*sql(block))
        await guest.call(*sql("insert into notes values (2, 'kept')"))
        return "done"

    executed = await world.run(script)
    await world.settle()
    assert isinstance(executed.outcome, Returned), executed.outcome
    assert world.database.psql("select id from notes") == "2"
    history = "select op, after ->> 'text', committed from flux.mutation order by after ->> 'text'"
    assert world.database.psql(history).splitlines() == ["I|kept|t", "I|undone|f"]


async def test_a_connection_ended_by_another_execution_makes_nothing_untrue(world: ExecutionWorld) -> None:
    async def script(guest: ScriptedGuest, _document: dict[str, Any]) -> str:
        await guest.call(*sql("insert into notes values (1, 'x')"))
        try:
            await guest.call(*sql("select pg_terminate_backend(pg_backend_pid())"))
        except RuntimeError:
            return "caught"
        return "done"

    executed = await world.run(script)
    assert isinstance(executed.outcome, Raised) and executed.outcome.type == "CommitFailed"
    assert world.database.psql("select count(*) from notes") == "0"
    assert [mutation.committed for mutation in executed.execution.mutations] == [False]


async def test_the_supervisors_queries_that_carry_its_token_are_never_kept_prepared(
    world: ExecutionWorld,
) -> None:
    await world.run(saying("insert into notes values (1, 'x')"))
    await world.run(saying("insert into notes values (2, 'x')"), atomic=False)
    executed = await world.run(saying("select string_agg(statement, '; ') from pg_prepared_statements"))
    body = _body(executed)
    assert "insert into notes" in body
    for query in (QUERIES.commit_record, QUERIES.mark_transaction):
        assert query.splitlines()[0] not in body


async def test_defaults_that_a_guest_gives_its_role_last_until_the_next_start(
    database: Database, tmp_path: Path
) -> None:
    """PostgreSQL lets each role change its own defaults, and no statement's text has to show it."""
    spoil = "do $$ begin execute 'alter role flux_guest_main set default_transaction_read_only = on'; end $$"
    async with open_world(database, tmp_path / "journal") as world:
        database.psql(SCHEMA)
        await world.run(saying(spoil))
    async with open_world(database, tmp_path / "journal") as world:
        executed = await world.run(saying("insert into notes values (1, 'x')"))
        assert isinstance(executed.outcome, Returned), executed.outcome
        assert _body(await world.run(saying("select current_setting('search_path')"))) == "['public']"
