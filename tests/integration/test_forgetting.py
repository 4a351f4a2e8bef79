"""Taking a row out of what was recorded: all of it, or nothing. Another client asks the tables what is left."""

import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from flux.execution import Execution, Read, Returned, Trigger
from flux.forget import Forgetter
from flux.store import forgetting
from flux.store.erasures import count_erasures, is_as_of
from flux.store.replays import add_replay
from flux.supervisor import console, crew_live
from flux.supervisor.present import logs_of_execution, summary_of_execution
from flux.supervisor.siblings import SiblingGoneError, Siblings
from tests.conftest import Database
from tests.console_world import START_NS, World, make_call, make_execution, open_world, read

EMAIL = "ana@forget.example"
DIGEST = """\
select md5(string_agg(t::text, '' order by t::text))
from (select e::text t from flux.execution e union all select m::text from flux.mutation m
      union all select b::text from flux.blob b union all select j::text from flux.job j) t
"""


@pytest.fixture
async def world(database: Database) -> AsyncIterator[World]:
    async with open_world(database) as opened:
        body = json.dumps({"email": EMAIL}).encode()
        await opened.run_as_guest(
            make_execution(body=body), f"insert into users values (1, '{EMAIL}', 'pro')"
        )
        database.psql("delete from users")
        yield opened


async def forget(world: World, dry_run: int = 0) -> tuple[int, dict[str, object]]:
    response = await world.ask("records/forget", method="POST", body=b"{}", table="users", key="1", dry_run=dry_run)
    return response.status, read(response)


async def test_a_row_that_a_waiting_job_holds_is_forgotten_when_the_job_is_dead_and_not_before(world: World) -> None:
    psql = world.database.psql
    job = uuid.uuid4()
    psql(
        "insert into flux.job (id, tenant, function, payload, idempotency, run_at) values "
        f"('{job}', 'main', 'welcome', '{{\"to\":\"{EMAIL}\"}}', sha256('{EMAIL}'), now())"
    )
    digest = psql(DIGEST)
    status, said = await forget(world)
    assert (status, said["code"]) == (409, "FLX616"), said["detail"]
    assert "1 job that is to run holds" in str(said["detail"])
    status, counted = await forget(world, dry_run=1)
    assert status == 200 and (counted["jobs"], counted["jobs_waiting"]) == (0, 1)
    assert psql(DIGEST) == digest
    psql("update flux.job set state = 'dead'")
    status, done = await forget(world)
    assert status == 200 and (done["executions"], done["jobs"], done["jobs_waiting"]) == (1, 1, 0)
    assert psql("select idempotency is null from flux.job") == "t", "its hash can be tried by anybody"
    assert EMAIL not in psql("select convert_from(payload, 'utf8') from flux.job")


async def test_a_body_that_pruned_records_left_goes_and_other_tenants_keep_theirs(world: World) -> None:
    psql = world.database.psql
    hers = json.dumps({"email": EMAIL, "text": "x" * 200_000}).encode()
    pruned = make_execution(body=hers)
    shared = json.dumps({"text": "y" * 200_000}).encode()
    await world.add(pruned, make_execution(tenant="other", body=shared))
    psql(f"delete from flux.execution where id = '{pruned.id}'")
    assert psql("select count(*) from flux.blob") == "2"
    status, counted = await forget(world, dry_run=1)
    assert status == 200 and counted["blobs"] == 0, "one that was stored just now may be of a record that comes"
    psql("update flux.blob set stored_at = now() - interval '3 days'")
    status, counted = await forget(world, dry_run=1)
    assert status == 200 and counted["blobs"] == 1
    status, done = await forget(world)
    assert status == 200 and done["blobs"] == 1
    assert psql("select position('yyyyyy' in convert_from(body, 'utf8')) > 0 from flux.blob") == "t"


async def test_nothing_is_forgotten_while_the_database_lacks_an_execution(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flux.supervisor.console.SETTLE_TIMEOUT_S", 0.05)
    monkeypatch.setattr("flux.supervisor.at_rest.REST_S", 0.05)
    execution = make_execution()
    world.live.publish(summary_of_execution(execution), logs_of_execution(execution), stored=False)
    digest = world.database.psql(DIGEST)
    status, said = await forget(world)
    assert (status, said["code"]) == (503, "FLX617") and world.database.psql(DIGEST) == digest
    status, counted = await forget(world, dry_run=1)
    assert status == 200 and counted["not_stored"] == 1
    world.live.mark_stored(execution.id)
    with world.in_flight.counted():
        status, said = await forget(world)
    assert (status, said["code"]) == (503, "FLX617") and "1 execution still runs that began before" in str(said)
    assert world.database.psql(DIGEST) == digest
    assert (await forget(world))[0] == 200


async def test_what_ran_when_it_began_is_waited_for_and_what_begins_later_is_not(world: World) -> None:
    done: list[tuple[int, dict[str, object]]] = []

    async def ask() -> None:
        done.append(await forget(world))

    async with trio.open_nursery() as nursery:
        with world.in_flight.counted():
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked(0.05)
            later = contextlib.ExitStack()
            later.enter_context(world.in_flight.counted())
            await world.add(make_execution(body=json.dumps({"email": EMAIL}).encode()))
            assert done == []
    later.close()
    ((status, said),) = done
    assert status == 200 and said["executions"] == 2


Answers = dict[int, Mapping[str, Any] | SiblingGoneError | None]


class Crew(Siblings):
    """Two other workers: what they say is set, and None is nothing at all."""

    def __init__(self) -> None:
        self.answers: Answers = {}

    @property
    def others(self) -> list[int]:
        return [1, 2]

    def is_there(self, number: int) -> bool:
        return number in self.answers

    async def ask(self, number: int, *_asked: object) -> Any:
        answer = self.answers[number]
        if answer is None:
            await trio.sleep_forever()  # The only wait there is: nobody who answers can be too late.
        if isinstance(answer, SiblingGoneError):
            raise answer
        return answer


async def test_a_worker_that_does_not_say_is_not_taken_for_one_that_has_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert crew_live.SETTLE_S < crew_live.SETTLE_PATIENCE_S < console.SETTLE_TIMEOUT_S
    monkeypatch.setattr(crew_live, "SETTLE_PATIENCE_S", 0.2)
    monkeypatch.setattr("flux.supervisor.at_rest.REST_PATIENCE_S", 0.2)
    crew = Crew()
    has_one: Mapping[str, Any] = {"not_stored": {"01a2": "x1"}}
    has_none: Mapping[str, Any] = {"not_stored": {}}
    async with trio.open_nursery() as nursery:
        live = crew_live.CrewLive(crew, nursery)
        async with open_world(database, live=live, siblings=crew) as world:
            asked: Sequence[tuple[Answers, int, tuple[int, ...]]] = (
                ({1: has_one, 2: has_none}, 1, ()),
                ({1: has_one, 2: None}, 1, (2,)),
                ({1: SiblingGoneError("it is gone"), 2: has_none}, 0, (1,)),
                ({2: has_none}, 0, ()),
            )
            for answers, count, unheard in asked:
                crew.answers = answers
                end = (await world.lines("records/export"))[-1]["end"]
                assert end["not_stored"] == count, answers
                problem = end["problem"]
                assert (problem is not None) == bool(unheard), answers
                for number in unheard:
                    assert problem["code"] == "FLX617" and f"worker {number} did not say" in problem["message"]
            rested: Mapping[str, Any] = {"running": 0, "not_stored": 0}
            refused: Sequence[tuple[Answers, str]] = (
                ({1: rested, 2: {**rested, "running": 2}}, "2 executions still run"),
                ({1: rested, 2: {**rested, "not_stored": 1}}, "1 execution has ended and is not stored"),
                ({1: rested, 2: None}, "worker 2 did not say"),
                ({1: rested}, "worker 2 did not say"),
                ({1: SiblingGoneError("it is gone"), 2: SiblingGoneError("it too")}, "workers 1, 2 did not say"),
            )
            for rest, reason in refused:
                crew.answers = rest
                status, said = await forget(world)
                assert (status, said["code"]) == (503, "FLX617") and reason in str(said["detail"]), rest
            crew.answers = {1: rested, 2: rested}
            assert (await forget(world))[1]["code"] == "FLX604", "nobody hinders it, and there is no row"
        nursery.cancel_scope.cancel()


async def test_a_record_that_comes_when_its_place_was_passed_is_rewritten_as_well(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewrite_jobs = forgetting._Work._rewrite_jobs
    at_s = time.time() - START_NS / 1e9 - 600
    late = make_execution(at_s=at_s, body=json.dumps({"email": EMAIL}).encode())

    async def rewrite_later(work: forgetting._Work, forgetter: Forgetter) -> tuple[int, int]:
        await world.add(late)
        return await rewrite_jobs(work, forgetter)

    monkeypatch.setattr(forgetting._Work, "_rewrite_jobs", rewrite_later)
    status, done = await forget(world)
    assert status == 200 and done["executions"] == 2
    body = (await world.get(f"executions/{late.name}"))["input"]
    assert EMAIL not in json.dumps(body) and "forgotten:" in json.dumps(body)


async def test_what_a_replay_has_shown_goes_where_the_original_held_nothing(world: World) -> None:
    psql = world.database.psql
    answer = {"columns": ["id"], "types": ["int4"], "rows": [[1]], "tag": "SELECT 1"}
    reader = make_execution(
        calls=(make_call(1, "db.query", ["select id from users", []], answer),),
        reads=(Read(1, "public", "users", (("id", 0),), ()),), body=b"{}",
    )  # fmt: skip
    stranger, elsewhere = make_execution(body=b"{}"), make_execution(tenant="other", body=b"{}")
    replay = make_execution(
        trigger=Trigger("replay"), replay_of=reader.id, outcome=Returned(200, (), json.dumps({"to": EMAIL}).encode())
    )
    await world.add(reader, stranger, elsewhere, replay)
    data = json.dumps({"kind": "arguments", "replayed": {"arguments": {"to": EMAIL, "plan": "pro"}}})
    for original, id in ((reader, replay.id), (stranger, uuid.uuid4()), (elsewhere, uuid.uuid4())):
        async with world.pool.acquire() as connection:
            await add_replay(
                connection, attrs.evolve(replay, id=id, replay_of=original.id), code="x", verdict="diverged",
                reason="it asked", divergence=data, is_check=id != replay.id,
            )  # fmt: skip
        psql(f"insert into flux.bisect_run values ('{original.id}', 's', 'r', 0, null, 'v', 'r', null, 1, '{data}')")
    status, done = await forget(world)
    assert status == 200 and (done["executions"], done["replays"]) == (2, 1)

    def told(original: Execution) -> str:
        return psql(f"select divergence from flux.replay where original = '{original.id}'")

    assert EMAIL not in told(reader) and '"pro"' not in told(reader), "it has read the row"
    assert EMAIL not in told(stranger) and '"pro"' in told(stranger), "others may be pro"
    assert told(elsewhere) == data, "it is another tenant's"
    assert psql("select original from flux.bisect_run") == str(elsewhere.id)


async def test_what_was_made_of_records_before_is_not_stored_once_an_erasure_ends(world: World) -> None:
    erasures = await count_erasures(world.pool, "main")
    key = "pg_catalog.hashtextextended('flux.forget end', 0)"
    async with world.pool.acquire() as ending, ending.transaction():
        async with world.pool.acquire() as storing, storing.transaction():
            assert await is_as_of(storing, "main", erasures)
            held = await ending.fetch_value(f"select pg_catalog.pg_try_advisory_xact_lock({key})")
            assert not held, "the erasure waits, and finds then what was just stored"
        await ending.fetch(f"select pg_catalog.pg_advisory_xact_lock({key})")
        async with world.pool.acquire() as storing, storing.transaction():
            assert not await is_as_of(storing, "main", erasures)
    assert (await forget(world))[0] == 200
    async with world.pool.acquire() as storing, storing.transaction():
        assert not await is_as_of(storing, "main", erasures)
        assert await is_as_of(storing, "another", 0), "it is nobody else's business"
