"""Taking a row out of what was recorded: all of it, or nothing. Another client asks the tables what is left."""

import json
import time
import uuid
from collections.abc import AsyncIterator

import pytest

from flux.forget import Forgetter
from flux.store import forgetting
from flux.supervisor.present import logs_of_execution, summary_of_execution
from tests.conftest import Database
from tests.console_world import START_NS, World, make_execution, open_world, read

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
    execution = make_execution()
    world.live.publish(summary_of_execution(execution), logs_of_execution(execution), stored=False)
    digest = world.database.psql(DIGEST)
    status, said = await forget(world)
    assert (status, said["code"]) == (503, "FLX617") and world.database.psql(DIGEST) == digest
    status, counted = await forget(world, dry_run=1)
    assert status == 200 and counted["not_stored"] == 1
    world.live.mark_stored(execution.id)
    assert (await forget(world))[0] == 200


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
