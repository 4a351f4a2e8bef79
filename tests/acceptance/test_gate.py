"""What the gateway checks before a function runs, on a real server: a second psql counts what ran."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Database
from tests.dev_process import Answer, DevServer, counting_stub, running_dev, write_project
from tests.postgres_server import PostgresServer
from tests.token_issuer import claims, jwk, make_key, sign

FUNCTIONS = '''\
from flux_guest import HTTPError, function

@function("GET /who")
def who(ctx, input):
    request = ctx.request
    return ctx.response(
        {"client": request.client, "scheme": request.scheme, "host": request.host, "auth": request.auth},
        headers={"access-control-allow-origin": "https://evil.example", "vary": "accept"},
    )

@function("POST /who")
def upload(ctx, input):
    return None

@function("GET /rare")
def rare(ctx, input):
    return None

@function("POST /orders")
def orders(ctx, input):
    return {"user": ctx.user, "auth": ctx.request.auth, "header": ctx.request.headers["authorization"]}

@function("GET /report")
def report(ctx, input):
    return ctx.request.auth

@function("GET /broken")
def broken(ctx, input):
    raise HTTPError(409, "CONFLICT", "no")
'''
TOML = """
[http]
proxies = ["127.0.0.0/8"]
[http.cors]
origins = ["https://*.shop.example"]
credentials = true
[functions.rare.rate_limit]
rate = "2/h"
[functions.upload]
body = "1KiB"
[http.auth]
jwks = "http://127.0.0.1:PORT/keys"
issuer = "https://login.example"
audience = ["shop"]
[functions.orders]
auth = "jwt"
scopes = ["orders:write"]
rate_limit = { rate = "3/h", by = "subject" }
[functions.report]
auth = "api_key"
scopes = ["reports:read"]
"""
KEY = make_key("P-256")
SHOP = "https://app.shop.example"


@pytest.fixture
def served(
    tmp_path: Path, postgres18: PostgresServer, make_database: Callable[[PostgresServer], Database]
) -> Iterator[tuple[DevServer, Database]]:
    database = make_database(postgres18)
    with counting_stub() as issuer:
        issuer.pages["/keys"] = json.dumps({"keys": [jwk(KEY, kid="k1")]}).encode()
        project = write_project(tmp_path, {"api.py": FUNCTIONS}, toml=TOML.replace("PORT", str(issuer.port)))
        with running_dev(project, database) as server:
            yield server, database


def allowed(answer: Answer) -> str | None:
    return answer.headers.get("access-control-allow-origin")


def ask_console(server: DevServer, path: str, body: object = None) -> Answer:
    """As the command line asks, without another process."""
    token = json.loads((server.project / ".flux" / "dev.json").read_text())["token"]
    method = "GET" if body is None else "POST"
    return server.request(method, f"/_flux/api/{path}", body, {"authorization": f"Bearer {token}"})


def check_cors(server: DevServer) -> None:
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "x-evil"}
    answer = server.request("OPTIONS", "/who", headers={"origin": SHOP, **asks})
    assert (answer.status, allowed(answer)) == (204, SHOP)
    assert answer.headers["access-control-allow-methods"] == "GET, HEAD, OPTIONS, POST"
    assert answer.headers["access-control-allow-credentials"] == "true"
    assert "evil" not in repr(answer)
    answer = server.request("OPTIONS", "/who", headers={"origin": "https://evil.example", **asks})
    assert (answer.status, allowed(answer)) == (403, None)
    assert server.request("OPTIONS", "/nowhere", headers={"origin": SHOP, **asks}).status == 404
    assert server.request("OPTIONS", "/_flux/api/executions", headers={"origin": SHOP, **asks}).status == 403

    whole = server.request("GET", "/who", headers={"origin": SHOP})
    assert (whole.status, allowed(whole)) == (200, SHOP)
    assert whole.headers["vary"] == "origin"  # The function's own stands on a line before it.
    assert allowed(server.request("GET", "/who", headers={"origin": "https://evil.example"})) is None
    # Errors are as readable as answers: of a function, of the router, and of the gateway over a body it did not read.
    for method, path, body, status in [
        ("GET", "/broken", None, 409), ("DELETE", "/who", None, 405), ("GET", "/nowhere", None, 404),
        ("POST", "/who", b"x" * 2000, 413),
    ]:  # fmt: skip
        answer = server.request(method, path, body, headers={"origin": SHOP})
        assert (answer.status, allowed(answer)) == (status, SHOP)


def check_proxies(server: DevServer) -> None:
    forwarded = {"x-forwarded-for": "1.1.1.1, 192.0.2.9", "x-forwarded-proto": "https"}
    forwarded["x-forwarded-host"] = "shop.example"
    answer = server.request("GET", "/who", headers=forwarded)
    assert answer.json == {"client": "192.0.2.9", "scheme": "https", "host": "shop.example", "auth": None}
    assert ask_console(server, f"executions/{answer.flux_id}").json["input"]["client"] == "192.0.2.9"


def check_rates(server: DevServer, database: Database) -> None:
    from_one = {"x-forwarded-for": "192.0.2.9", "origin": SHOP}
    statuses = [server.request("GET", "/rare", headers=from_one).status for _ in range(3)]
    assert statuses == [204, 204, 429]
    # What a client writes before its own address does not make it another one.
    spoofed = server.request("GET", "/rare", headers={"x-forwarded-for": "203.0.113.7, 192.0.2.9", "origin": SHOP})
    assert (spoofed.status, spoofed.json["code"], allowed(spoofed)) == (429, "RATE_LIMITED", SHOP)
    assert 1700 < int(spoofed.headers["retry-after"]) <= 1800
    assert server.request("GET", "/rare", headers={"x-forwarded-for": "192.0.2.10"}).status == 204
    server.wait_story("refused with RATE_LIMITED, once: more than 2/h of one client, by [functions.rare.rate_limit]")
    metrics = server.request("GET", "/_flux/metrics").body.decode()
    assert 'flux_requests_refused_total{code="RATE_LIMITED"} 2' in metrics
    deadline = time.monotonic() + 120
    while (ran := database.psql("select count(*) from flux.execution where function = 'rare'")) != "3":
        assert int(ran) < 3, "what is refused is no execution"
        assert time.monotonic() < deadline
        time.sleep(0.05)  # Records of what wrote nothing are stored a moment later.


def check_tokens(server: DevServer) -> None:
    def order(token: str, *more: tuple[str, str], body: bytes = b"{}") -> Answer:
        headers = {"authorization": f"Bearer {token}", "origin": SHOP, **dict(more)}
        return server.request("POST", "/orders", body, headers)

    good = sign(KEY, "ES256", claims(scope="openid orders:write", email="ada@login.example"), kid="k1")
    answer = order(good)
    assert answer.status == 200
    assert answer.json["user"] == answer.json["auth"]
    assert (answer.json["auth"]["kind"], answer.json["auth"]["subject"]) == ("jwt", "ada")
    assert answer.json["auth"]["claims"]["email"] == "ada@login.example"
    assert answer.json["header"] == f"Bearer {good}"
    shown = ask_console(server, f"executions/{answer.flux_id}").json
    assert shown["input"]["auth"] == answer.json["auth"]
    assert good not in json.dumps(shown), "the record holds what a token says, and not the token"

    refused = server.request("POST", "/orders", {}, {"origin": SHOP})
    assert (refused.status, refused.json["code"], allowed(refused)) == (401, "UNAUTHORIZED", SHOP)
    assert refused.headers["www-authenticate"] == 'Bearer realm="flux"'
    forged = order(sign(make_key("P-256"), "ES256", claims(scope="orders:write"), kid="k1"))
    assert (forged.status, 'error="invalid_token"' in forged.headers["www-authenticate"]) == (401, True)
    assert order(sign(KEY, "none", claims(scope="orders:write"), kid="k1")).status == 401
    # Nothing of a body is read for who may not come in.
    assert order("x", ("content-length", str(2**33)), body=b"").status == 401
    narrow = order(sign(KEY, "ES256", claims(scope="orders:read"), kid="k1"))
    assert (narrow.status, narrow.json["code"]) == (403, "FORBIDDEN")
    assert 'scope="orders:write"' in narrow.headers["www-authenticate"]
    # By whom a token is for, from wherever it comes.
    elsewhere = [order(good, ("x-forwarded-for", f"192.0.2.{number}")).status for number in range(3)]
    assert elsewhere == [200, 200, 429]
    other = sign(KEY, "ES256", claims(sub="bob", scope="orders:write"), kid="k1")
    assert order(other).status == 200


def check_api_keys(server: DevServer, database: Database) -> None:
    def report(key: str) -> Answer:
        return server.request("GET", "/report", headers={"authorization": f"Bearer {key}"})

    listed = {one["name"]: one["auth"] for one in ask_console(server, "functions").json["functions"]}
    assert listed["report"] == {"kind": "api_key", "scopes": ["reports:read"]}
    assert listed["who"] is None
    assert "jwt orders:write" in server.command("function", "list").stdout
    made = server.json("token", "create", "partner", "--api-key", "--scope", "reports:read")["token"]
    narrow = ask_console(server, "tokens", {"name": "narrow", "kind": "api"}).json["token"]
    console = ask_console(server, "tokens", {"name": "ops", "scopes": ["admin"]}).json["token"]
    answer = report(made)
    assert answer.json == {"kind": "api_key", "subject": "partner", "scopes": ["reports:read"]}
    assert made not in json.dumps(ask_console(server, f"executions/{answer.flux_id}").json)
    assert report(narrow).status == 403
    # Neither is the other: a token of the console, a token of the issuer, a key that was made up.
    jwt = sign(KEY, "ES256", claims(scope="reports:read"), kid="k1")
    other = made[:-1] + ("B" if made.endswith("A") else "A")  # One in sixteen keys ends so.
    assert [report(key).status for key in (console, jwt, other, "flux_api_", "x" * 9000)] == [401] * 5
    assert server.request("GET", "/report").headers["www-authenticate"] == 'Bearer realm="flux"'
    assert server.request("GET", "/_flux/api/executions", headers={"authorization": f"Bearer {made}"}).status == 401
    assert ask_console(server, "tokens/revoke", {"name": "partner"}).status == 404, "no token is called so, but a key"
    assert report(made).status == 200
    assert server.command("token", "revoke", "partner", "--api-key").returncode == 0
    assert report(made).status == 401
    database.psql("update flux.token set expires_at = created_at, scopes = '{reports:read}' where name = 'narrow'")
    assert report(narrow).status == 401


def test_what_the_gateway_refuses_never_runs(served: tuple[DevServer, Database]) -> None:
    server, database = served
    check_cors(server)
    check_proxies(server)
    check_rates(server, database)
    check_tokens(server)
    check_api_keys(server, database)
