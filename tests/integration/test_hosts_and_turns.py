"""Whose a request is, and when an execution's turn comes: what a server with tenants decides, without its parts."""

import contextlib
import json
import math
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import attrs
import pytest
import trio
import trio.testing

from flux.message import Admission, HttpRequest, HttpResponse, RawPath, RequestHead
from flux.store.postgres import ConnectOptions
from flux.store.tenant_database import TenantDatabaseError
from flux.store.tenants import Quotas, TenantRow, add_tenant
from flux.supervisor.debug_room import DebugRoom
from flux.supervisor.hosted import Hosted
from flux.supervisor.hosts import Hosts
from flux.supervisor.master_key import MasterKey
from flux.supervisor.tenant_order import read_order
from flux.supervisor.tenant_seal import ANSWER_BYTES_MAX, ANSWER_S_MAX, seal_database
from flux.supervisor.tenants import Tenants
from flux.supervisor.turns import WAITING_MAX, CpuQuotaError, QuotaError, Share, Turns
from flux.tenant import Tenant
from tests.conftest import Database

PATIENCE_S = 60.0
MIB = 2**20
TICKET = object()


@attrs.define
class Named:
    """Answers with its name, when it may."""

    name: str
    may_answer: trio.Event = attrs.field(factory=trio.Event)
    asked: int = 0
    tickets: list[object] = attrs.field(factory=list)

    async def admit(self, _head: RequestHead) -> Admission:
        await trio.lowlevel.checkpoint()
        return Admission(100, ticket=TICKET)

    async def handle(self, request: HttpRequest) -> HttpResponse:
        self.asked += 1
        if request.admission is not None:
            self.tickets.append(request.admission.ticket)
        await self.may_answer.wait()
        return HttpResponse(200, (), self.name.encode())


def named(name: str, *, waits: bool = False) -> Named:
    made = Named(name)
    if not waits:
        made.may_answer.set()
    return made


def head(host: str | None, path: str = "/x") -> RequestHead:
    headers = () if host is None else (("host", host),)
    return RequestHead("GET", path, path, RawPath(path), (), headers, "1.1", "10.0.0.1:1")


def make_hosts() -> Hosts:
    hosts = Hosts()
    hosts.set_own(named("own"))
    return hosts


async def ask(hosts: Hosts, host: str | None, path: str = "/x") -> tuple[int, bytes]:
    """What a client hears, as the gateway asks: the head first."""
    admission = await hosts.admit(head(host, path))
    response = admission.answer or await hosts.handle(HttpRequest(head(host, path), admission=admission))
    assert isinstance(response.body, bytes)
    return response.status, response.body


async def test_a_request_is_the_tenants_whose_host_it_names_and_else_the_installations() -> None:
    hosts, drain = Hosts(), trio.Event()
    names = ("acme.localhost", "api.acme.test")
    acme = hosts.reserve(names, "http://acme.localhost")
    assert [(await ask(hosts, host))[0] for host in ("acme.localhost", "other.test")] == [503, 503]
    hosts.set_own(named("own"))
    with trio.fail_after(PATIENCE_S):
        assert (await ask(hosts, "acme.localhost"))[0] == 503, "nobody answers in a tenant's place"
        async with trio.open_nursery() as nursery:
            await nursery.start(acme.serve, named("acme"), drain)
            for host in ("acme.localhost", "ACME.localhost:4000", "api.acme.test.", "API.ACME.TEST.:80"):
                assert await ask(hosts, host) == (200, b"acme"), host
            for host in (None, "", "localhost", "acme", "acme.test", "x.api.acme.test", "api.acme.test.evil",
                         "[::1]:4000", "api.acme.test:x", "127.0.0.1", "acme.localhost@x",
                         " acme.localhost"):  # fmt: skip
                assert await ask(hosts, host) == (200, b"own"), host
            assert hosts.find_taken(["free.test", "api.acme.test"]) == "api.acme.test"
            drain.set()
        assert (await ask(hosts, "api.acme.test"))[0] == 503
        other = hosts.reserve(["api.acme.test", "api.acme.test", "other.test"], "http://other.localhost")
        hosts.release(other)
        assert (await ask(hosts, "api.acme.test"))[0] == 503, "it was another's before, and still is"
        assert await ask(hosts, "other.test") == (200, b"own")
        hosts.release(acme)
        assert await ask(hosts, "api.acme.test") == (200, b"own")


async def test_what_one_project_has_admitted_no_other_one_is_handed() -> None:
    hosts, drain = make_hosts(), trio.Event()
    own, acme = named("own"), named("acme")
    hosts.set_own(own)
    with trio.fail_after(PATIENCE_S):
        before = await hosts.admit(head("a.test"))
        share = hosts.reserve(["a.test"], "http://a.test")
        async with trio.open_nursery() as nursery:
            await nursery.start(share.serve, acme, drain)
            during = await hosts.admit(head("a.test"))
            assert (await hosts.handle(HttpRequest(head("a.test"), admission=before))).body == b"own"
            assert (await hosts.handle(HttpRequest(head("a.test"), admission=during))).body == b"acme"
            assert acme.tickets == [TICKET], "it has its own ticket again"
            drain.set()
        # The head has been admitted, the body has come, and the tenant is gone: first stopped, then removed.
        assert (await hosts.handle(HttpRequest(head("a.test"), b"secret", during))).status == 503
        hosts.release(share)
        assert (await hosts.handle(HttpRequest(head("a.test"), b"secret", during))).status == 503
        assert (own.asked, acme.asked) == (1, 1)


async def test_a_tenant_that_drains_finishes_what_it_has_begun() -> None:
    hosts, slow, drain, heard = make_hosts(), named("acme", waits=True), trio.Event(), []
    share = hosts.reserve(["a.test"], "http://a.test")

    async def client() -> None:
        heard.append(await ask(hosts, "a.test"))

    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(share.serve, slow, drain)
            nursery.start_soon(client)
            nursery.start_soon(client)
            await trio.testing.wait_all_tasks_blocked()
            assert slow.asked == 2
            drain.set()
            await trio.testing.wait_all_tasks_blocked()
            assert (await ask(hosts, "a.test"))[0] == 503
            slow.may_answer.set()
    assert heard == [(200, b"acme")] * 2


async def test_requests_beyond_a_tenants_rate_are_refused_and_its_console_is_not(
    autojump_clock: trio.testing.MockClock,
) -> None:
    hosts = make_hosts()
    share = hosts.reserve(["a.test"], "http://a.test", requests_per_minute=3)
    async with trio.open_nursery() as nursery:
        drain = trio.Event()
        await nursery.start(share.serve, named("acme"), drain)
        assert [(await ask(hosts, "a.test"))[0] for _ in range(5)] == [200, 200, 200, 429, 429]
        assert (await ask(hosts, "a.test", "/_flux/api/executions"))[0] == 200
        assert (await ask(hosts, "other.test"))[0] == 200
        await trio.sleep(21)
        assert [(await ask(hosts, "a.test"))[0] for _ in range(2)] == [200, 429]
        drain.set()


# --- tenants: of their servers only what they are given ---------------------------------------------


async def test_tenants_have_their_names_before_they_are_served_and_until_the_server_ends(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database: Database
) -> None:
    key, pool = MasterKey(tmp_path), database.pool()
    sealed = seal_database("acme", key.get_or_make(), "postgres://x@127.0.0.1:1/x")
    row = TenantRow("acme", str(tmp_path), ("acme.localhost", "api.acme.test"), sealed, False, Quotas(), ())
    asked, seen = trio.Event(), []

    async with pool.acquire() as connection:
        await add_tenant(connection, row)

    @contextlib.asynccontextmanager
    async def hang(_options: object, _story: object, hosted: Hosted) -> AsyncIterator[None]:
        seen.append(hosted)
        asked.set()
        await trio.sleep_forever()  # What a database that does not answer comes to.
        yield

    checked, problems = [], []

    async def check(options: ConnectOptions, tenant: Tenant) -> None:
        await trio.lowlevel.checkpoint()
        checked.append((options, tenant.name))
        if len(checked) == 1:
            raise TenantDatabaseError("everybody may connect", remedy="revoke")

    monkeypatch.setattr("flux.store.tenant_database.check_given_database", check)
    monkeypatch.setattr("flux.supervisor.tenants.open_server", hang)
    monkeypatch.setattr("flux.supervisor.tenants.STOP_S_MAX", 0.1)
    hosts, stop = make_hosts(), trio.Event()
    story = SimpleNamespace(problem=lambda what, error, is_serving: problems.append((what, error.code, is_serving)))
    story.named = lambda tenant: SimpleNamespace(problem=story.problem)  # noqa: ARG005
    server = SimpleNamespace(
        backing=SimpleNamespace(owner=pool), vault=SimpleNamespace(master_key=key), hosts=hosts, port=4000,
        turns=Turns(), console=None, options=SimpleNamespace(logs_requests=False), debug_room=DebugRoom(),
    )  # fmt: skip
    tenants = Tenants(cast(Any, server), cast(Any, story))
    with trio.fail_after(PATIENCE_S):
        await tenants.read()
        assert (await ask(hosts, "api.acme.test"))[0] == 503, "nothing has begun, and a request has come"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tenants.run, stop)
            tenants.attach(cast(Any, None))
            await asked.wait()
            assert problems == [("this tenant", "FLX812", False)]
            assert len(checked) == 2, "a database that was given is looked at before each start"
            database = seen[0].database
            assert checked[1] == (database, "acme")
            assert (database.answer_bytes_max, database.answer_s_max) == (ANSWER_BYTES_MAX, ANSWER_S_MAX)
            stop.set()
        assert (await ask(hosts, "api.acme.test"))[0] == 503, "the gateway may not have closed yet"
        await pool.aclose()


def test_a_host_that_a_tenant_has_anyway_is_not_its_twice(tmp_path: Path) -> None:
    (tmp_path / "flux.toml").write_text("")
    said = {"name": "acme", "folder": str(tmp_path), "hosts": ["Acme.localhost.", "api.acme.com", "API.acme.com"]}
    assert read_order(json.dumps(said).encode()).hosts == ("api.acme.com",)


# --- turns -----------------------------------------------------------------------------------------


async def hold(share: Share, until: trio.Event, log: Callable[[str], None], name: str) -> None:
    async with share.taken(MIB, PATIENCE_S):
        log(name)
        await until.wait()


async def test_without_tenants_nobody_waits_and_with_one_all_share_the_turns() -> None:
    turns, until, begun = Turns(turns_max=2), trio.Event(), []
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(hold, turns.own, until, begun.append, "own")
            await trio.testing.wait_all_tasks_blocked()
            assert len(begun) == 10
            with turns.opened("acme", Quotas()) as acme:
                nursery.start_soon(hold, acme, until, begun.append, "acme")
                await trio.testing.wait_all_tasks_blocked()
                assert len(begun) == 10, "ten run, and two may"
                until.set()
                await trio.testing.wait_all_tasks_blocked()
                assert begun[10:] == ["acme"]


async def test_what_is_left_of_a_tenant_that_ends_gives_its_turns_back_and_gets_no_new_ones() -> None:
    turns, until, begun = Turns(turns_max=4), trio.Event(), []
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            with turns.opened("acme", Quotas()) as gone:
                nursery.start_soon(hold, turns.own, until, begun.append, "own")
                for _ in range(3):
                    nursery.start_soon(hold, gone, until, begun.append, "before")
                await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(QuotaError, match="has ended"):
                async with gone.taken(MIB, PATIENCE_S):
                    raise AssertionError("its server has ended")
            with turns.opened("acme", Quotas()) as again:
                nursery.start_soon(hold, again, until, begun.append, "after")
                await trio.testing.wait_all_tasks_blocked()
                assert sorted(begun) == ["before"] * 3 + ["own"], "all turns are taken"
                until.set()
                await trio.testing.wait_all_tasks_blocked()
                assert begun[4:] == ["after"]


@pytest.mark.parametrize("quotas", [Quotas(concurrency=3), Quotas(memory_bytes=3 * MIB)], ids=["turns", "memory"])
async def test_a_tenant_has_no_more_than_its_quota_and_the_other_goes_on(quotas: Quotas) -> None:
    turns, until, begun = Turns(), trio.Event(), []
    with trio.fail_after(PATIENCE_S), turns.opened("wolf", quotas) as wolf, turns.opened("lamb", Quotas()) as lamb:
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(hold, wolf, until, begun.append, "wolf")
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(hold, lamb, until, begun.append, "lamb")
            await trio.testing.wait_all_tasks_blocked()
            assert sorted(begun) == ["lamb"] + ["wolf"] * 3
            until.set()
    assert len(begun) == 51


async def test_a_request_that_gets_no_turn_is_refused_by_name_and_a_job_waits(
    autojump_clock: trio.testing.MockClock,
) -> None:
    turns, until, begun = Turns(), trio.Event(), []
    with turns.opened("wolf", Quotas(concurrency=1)) as wolf:
        with pytest.raises(QuotaError, match="memory limit"):
            async with wolf.taken(2**40, math.inf):
                raise AssertionError("it can never have that much")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold, wolf, until, begun.append, "first")
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(QuotaError, match="no turn within 5 s"):
                async with wolf.taken(MIB, 5):
                    raise AssertionError("the first has the only turn")
            with trio.CancelScope() as gone:  # Clients that give up leave no place behind.
                async with trio.open_nursery() as clients:
                    for _ in range(WAITING_MAX):
                        clients.start_soon(hold, wolf, until, begun.append, "waits")
                    await trio.testing.wait_all_tasks_blocked()
                    with pytest.raises(QuotaError, match="too many"):
                        async with wolf.taken(MIB, 5):
                            raise AssertionError("the queue is full")
                    gone.cancel()

            async def job() -> None:
                async with wolf.taken(MIB, math.inf):
                    begun.append("job")

            nursery.start_soon(job)
            await trio.sleep(10_000)
            assert begun == ["first"]
            until.set()
        assert begun == ["first", "job"]


async def test_quotas_that_are_changed_hold_for_who_waits_already(autojump_clock: trio.testing.MockClock) -> None:
    turns, until, begun = Turns(), trio.Event(), []
    with turns.opened("wolf", Quotas(concurrency=1)) as wolf:
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(hold, wolf, until, begun.append, "wolf")
            await trio.testing.wait_all_tasks_blocked()
            wolf.set_quotas(Quotas(concurrency=3))
            await trio.testing.wait_all_tasks_blocked()
            assert len(begun) == 3

            async def client() -> None:
                with pytest.raises(QuotaError, match="memory limit"):
                    async with wolf.taken(2 * MIB, math.inf):
                        raise AssertionError("it has no turn")
                begun.append("refused")

            nursery.start_soon(client)
            await trio.testing.wait_all_tasks_blocked()
            wolf.set_quotas(Quotas(concurrency=3, memory_bytes=MIB))
            await trio.testing.wait_all_tasks_blocked()
            assert begun[3:] == ["refused"], "what can't have a turn any more is in nobody's way"
            until.set()
        assert begun[4:] == ["wolf"]


async def test_who_has_used_his_processor_time_is_refused_and_his_jobs_wait(
    autojump_clock: trio.testing.MockClock,
) -> None:
    turns, begun = Turns(), []
    with turns.opened("wolf", Quotas(cpu_ms_per_minute=6000)) as wolf, turns.opened("lamb", Quotas()) as lamb:
        wolf.charge_cpu(9)
        lamb.charge_cpu(9000)

        async def job() -> None:
            async with wolf.taken(MIB, math.inf):
                begun.append(trio.current_time())

        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(job)
            with pytest.raises(CpuQuotaError, match=r"9\.0 of 6 s") as refused:
                async with wolf.taken(MIB, 5):
                    raise AssertionError("it has nothing left")
            async with lamb.taken(MIB, 5):
                pass
        assert (refused.value.status, wolf.refused, lamb.refused) == (429, {"cpu": 1}, {})
        assert begun[0] - began == pytest.approx(30, abs=0.1)
        wolf.charge_cpu(600)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(job)
            await trio.sleep(1)
            wolf.set_quotas(Quotas())
            await trio.testing.wait_all_tasks_blocked()
            assert len(begun) == 2, "a quota that is taken away lets it go on at once"


async def test_a_tenant_without_room_gets_no_turns_until_it_has_some(autojump_clock: trio.testing.MockClock) -> None:
    turns, begun = Turns(), []
    with turns.opened("wolf", Quotas()) as wolf:
        wolf.close("storage", "the storage quota is used up")
        with pytest.raises(QuotaError, match="storage"):
            async with wolf.taken(MIB, 5):
                raise AssertionError("there is no room")

        async def job() -> None:
            async with wolf.taken(MIB, math.inf):
                begun.append("job")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(job)
            await trio.sleep(1000)
            wolf.close("storage", "the storage quota is used up: more")
            await trio.sleep(1000)
            assert begun == []
            wolf.open()
        async with wolf.taken(MIB, 5):
            assert begun == ["job"]
