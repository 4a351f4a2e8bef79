"""The gate and the front door behind it: what is admitted, for which code, and what the operator is told."""

import contextlib
import json
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import attrs
import trio

from flux.composition import Chain
from flux.config import parse_config
from flux.deployment import Function
from flux.grants import Grants
from flux.hostcall import Position
from flux.limits import Limits
from flux.message import HttpRequest, HttpResponse, RawPath, RequestHead
from flux.sandbox.scripted import Script, ScriptedGuest, ScriptedSandbox
from flux.store.postgres import ConnectOptions, Pool
from flux.store.tokens import TokenFound, find_token
from flux.supervisor.console import Console
from flux.supervisor.deployments import Deployments, LiveDeployment
from flux.supervisor.drive import Bounds
from flux.supervisor.front_door import FrontDoor
from flux.supervisor.gate import Gate
from flux.supervisor.runnable import Runnable
from tests.conftest import Database
from tests.execution_world import DEPLOYMENT, NO_RULES, ExecutionWorld, open_world
from tests.token_issuer import claims, make_key, public_pem, sign

KEY = make_key("P-256")
OPEN = '[project]\nname = "s"\n'
ASKS = f'''{OPEN}[http.auth]
public_key = """{public_pem(KEY)}"""
issuer = "https://login.example"
audience = ["shop"]
require = "jwt"
'''


@attrs.define
class Served:
    """What `FrontDoor` knows of deployments: the one that is current."""

    current: LiveDeployment | None


@attrs.define
class Entrance:
    """A front door with a real executor behind it, and functions that are scripts."""

    world: ExecutionWorld
    sandbox: ScriptedSandbox
    served: Served
    door: FrontDoor
    gate: Gate
    notes: list[str]
    now: float = 0.0
    documents: list[dict[str, Any]] = attrs.field(factory=list)
    """What the function was started with."""

    def serve(self, toml: str) -> None:
        """Make the function current under another ``flux.toml``."""
        function = Function("play", "POST /play", Position("play.py", 1, "play"))
        runnable = Runnable(
            function=function, deployment=DEPLOYMENT, sandbox=self.sandbox, bounds=Bounds(Limits(), {}), limits=(),
            grants=Grants(), isolation="repeatable read", chain=Chain((), ()), rules=NO_RULES,
        )  # fmt: skip
        sandboxes = cast(Any, None)  # Nobody asks it for anything here.
        self.served.current = LiveDeployment(DEPLOYMENT, sandboxes, {"play": runnable}, parse_config(toml), "0" * 64)

    async def ask(self, head: RequestHead, *, then: str | None = None) -> HttpResponse:
        """As the gateway does; ``then`` is the ``flux.toml`` of the code that is served when the body is there."""
        admission = await self.door.admit(head)
        if admission.answer is not None:
            return admission.answer
        if then is not None:
            self.serve(then)
        return await self.door.handle(HttpRequest(head, b"{}", admission))


def refuse_page(_head: RequestHead) -> HttpResponse:
    raise AssertionError("no page is asked for here")


@contextlib.asynccontextmanager
async def open_entrance(database: Database, journal: Path, *, tokens: Pool | None = None) -> AsyncIterator[Entrance]:
    async with open_world(database, journal) as world:
        notes: list[str] = []
        backing = world.backing

        async def find(digest: bytes, now: datetime) -> TokenFound | None:
            return await find_token(tokens or backing.owner, "main", digest, now)

        entrance: Entrance

        async def play(_guest: ScriptedGuest, document: dict[str, Any]) -> str:
            entrance.documents.append(document)
            return "done"

        script: Script = play
        gate = Gate(backing.http, find, backing.secrets.find, notes.append, backing.clock, lambda: entrance.now)
        served = Served(None)
        door = FrontDoor(
            cast(Deployments, served), gate, world.executor, cast(Console, None), tells_why=False, lead=refuse_page
        )
        sandbox = ScriptedSandbox({"play": script}, world.nursery)
        entrance = Entrance(world, sandbox, served, door, gate, notes)
        yield entrance


def head(token: str | None = None, peer: str = "192.0.2.9:5000", **headers: str) -> RequestHead:
    fields = [("host", "shop.example"), *headers.items()]
    if token is not None:
        fields.append(("authorization", f"Bearer {token}"))
    return RequestHead("POST", "/play", "/play", RawPath("/play"), (), tuple(fields), "1.1", peer)


async def test_what_was_admitted_by_other_code_is_asked_again(database: Database, tmp_path: Path) -> None:
    """A body takes its time, and meanwhile code is deployed that lets nobody in without a token."""
    token = sign(KEY, "ES256", claims())
    async with open_entrance(database, tmp_path / "journal") as entrance:
        assert (await entrance.ask(head())).status == 503, "nothing is served yet"
        entrance.serve(OPEN)
        assert (await entrance.ask(head(), then=ASKS)).status == 401
        assert entrance.documents == [], "nothing of it ran"
        entrance.serve(OPEN)
        assert (await entrance.ask(head(token), then=ASKS)).status == 200
        assert (await entrance.ask(head(), then=OPEN)).status == 401
        [document] = entrance.documents
        assert document["request"]["auth"]["subject"] == "ada"
        assert document["request"]["client"] == "192.0.2.9"
        await entrance.world.settle()
        assert entrance.world.database.psql("select count(*) from flux.execution") == "1"


async def test_who_brings_a_token_that_is_not_needed_needs_a_good_one(database: Database, tmp_path: Path) -> None:
    good = sign(KEY, "ES256", claims())
    async with open_entrance(database, tmp_path / "journal") as entrance:
        entrance.serve(ASKS.replace('"jwt"', '"jwt_optional"').replace("[http.auth]", '[http.auth]\nscheme = "Token"'))
        given = [None, f"Token {good}", f"token  {good}", f"Bearer {good}", f"Token {good}x"]
        answers = [
            await entrance.ask(head() if one is None else head(authorization=one)) for one in given
        ]
        assert [answer.status for answer in answers] == [200, 200, 200, 200, 401]
        challenge = dict(answers[-1].headers)["www-authenticate"]
        assert challenge.startswith('Token realm="flux", error="invalid_token"')
        asked_by = [document["request"].get("auth") for document in entrance.documents]
        # One that stands behind another word is none of the issuer's, and whoever brings it is nobody.
        assert [one and one["subject"] for one in asked_by] == [None, "ada", "ada", None]


async def test_a_limit_counts_by_what_the_token_says_and_by_address_without_one(
    database: Database, tmp_path: Path
) -> None:
    limit = '[functions.play.rate_limit]\nrate = "1/h"\nby = "claim:tenant"\n'
    acme, other = (sign(KEY, "ES256", claims(tenant=name)) for name in ("acme", {"id": 7}))
    async with open_entrance(database, tmp_path / "journal") as entrance:
        entrance.serve(ASKS + limit)
        assert (await entrance.ask(head(acme))).status == 200
        refused = await entrance.ask(head(sign(KEY, "ES256", claims(tenant="acme", sub="bob")), "198.51.100.1:1"))
        assert (refused.status, dict(refused.headers)["retry-after"]) == (429, "3600")
        assert (await entrance.ask(head(other))).status == 200
        assert (await entrance.ask(head(other, "198.51.100.1:1"))).status == 429
        entrance.serve(OPEN + limit)
        asked = [await entrance.ask(head(peer=f"[2001:db8::{n}]:1")) for n in (1, 2)]
        assert [answer.status for answer in asked] == [200, 429], "of one network"
        entrance.now += 3600
        assert (await entrance.ask(head(acme))).status == 200


async def test_who_is_refused_a_thousand_times_writes_two_lines(database: Database, tmp_path: Path) -> None:
    async with open_entrance(database, tmp_path / "journal") as entrance:
        entrance.serve(ASKS)
        for number in range(1000):
            entrance.now = number * 0.0601
            assert (await entrance.ask(head(f"not.a.token{number}"))).status == 401
        assert [note.partition(":")[0] for note in entrance.notes] == [
            "refused with UNAUTHORIZED, once", "refused with UNAUTHORIZED, 999 times",
        ]  # fmt: skip
        assert entrance.gate.refused == {"UNAUTHORIZED": 1000}
        assert not any("not.a.token" in note for note in entrance.notes)


async def test_keys_are_not_taken_on_trust_while_the_database_is_gone(database: Database, tmp_path: Path) -> None:
    nowhere = Pool(ConnectOptions(host=str(tmp_path), port=1, user="flux", database="flux"), 1)
    try:
        async with open_entrance(database, tmp_path / "journal", tokens=nowhere) as entrance:
            entrance.serve(OPEN + '[functions.play]\nauth = "api_key"\n')
            with trio.fail_after(120):
                answer = await entrance.ask(head("flux_api_" + "A" * 43))
            assert isinstance(answer.body, bytes)
            assert (answer.status, json.loads(answer.body)["code"]) == (503, "OVERLOADED")
            assert (await entrance.ask(head("not one of ours"))).status == 401, "nobody has to be asked for that"
            assert entrance.documents == []
    finally:
        await nowhere.aclose()
