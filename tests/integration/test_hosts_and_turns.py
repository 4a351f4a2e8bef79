"""Whose a request is, and when an execution's turn comes: what a server with tenants decides, without its parts."""

import math
from collections.abc import Callable

import attrs
import pytest
import trio
import trio.testing

from flux.message import Admission, HttpRequest, HttpResponse, RawPath, RequestHead
from flux.store.tenants import Quotas
from flux.supervisor.hosts import Hosts
from flux.supervisor.turns import WAITING_MAX, QuotaError, Share, Turns

PATIENCE_S = 60.0
MIB = 2**20


@attrs.define
class Named:
    """Answers with its name, when it may."""

    name: str
    may_answer: trio.Event = attrs.field(factory=trio.Event)
    asked: int = 0

    async def admit(self, _head: RequestHead) -> Admission:
        await trio.lowlevel.checkpoint()
        return Admission(100)

    async def handle(self, _request: HttpRequest) -> HttpResponse:
        self.asked += 1
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


async def ask(hosts: Hosts, host: str | None, path: str = "/x") -> tuple[int, bytes]:
    """What a client hears, as the gateway asks: the head first."""
    request = HttpRequest(head(host, path))
    admission = await hosts.admit(request.head)
    response = admission.answer or await hosts.handle(request)
    assert isinstance(response.body, bytes)
    return response.status, response.body


async def test_a_request_is_the_tenants_whose_host_it_names_and_else_the_installations() -> None:
    hosts, drain = Hosts(named("own")), trio.Event()
    names = ("acme.localhost", "api.acme.test")
    with trio.fail_after(PATIENCE_S), hosts.reserved(names, "http://acme.localhost") as acme:
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
    assert await ask(hosts, "api.acme.test") == (200, b"own")


async def test_a_tenant_that_drains_finishes_what_it_has_begun() -> None:
    hosts, slow, drain, heard = Hosts(named("own")), named("acme", waits=True), trio.Event(), []

    async def client() -> None:
        heard.append(await ask(hosts, "a.test"))

    with trio.fail_after(PATIENCE_S), hosts.reserved(["a.test"], "http://a.test") as share:
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
    hosts = Hosts(named("own"))
    with hosts.reserved(["a.test"], "http://a.test", requests_per_minute=3) as share:
        async with trio.open_nursery() as nursery:
            drain = trio.Event()
            await nursery.start(share.serve, named("acme"), drain)
            assert [(await ask(hosts, "a.test"))[0] for _ in range(5)] == [200, 200, 200, 429, 429]
            assert (await ask(hosts, "a.test", "/_flux/api/executions"))[0] == 200
            assert (await ask(hosts, "other.test"))[0] == 200
            await trio.sleep(21)
            assert [(await ask(hosts, "a.test"))[0] for _ in range(2)] == [200, 429]
            drain.set()


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


async def test_a_tenant_without_room_gets_no_turns_until_it_has_some(autojump_clock: trio.testing.MockClock) -> None:
    turns, begun = Turns(), []
    with turns.opened("wolf", Quotas()) as wolf:
        wolf.close("the storage quota is used up")
        with pytest.raises(QuotaError, match="storage"):
            async with wolf.taken(MIB, 5):
                raise AssertionError("there is no room")

        async def job() -> None:
            async with wolf.taken(MIB, math.inf):
                begun.append("job")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(job)
            await trio.sleep(1000)
            wolf.close("the storage quota is used up: more")
            await trio.sleep(1000)
            assert begun == []
            wolf.open()
        async with wolf.taken(MIB, 5):
            assert begun == ["job"]
