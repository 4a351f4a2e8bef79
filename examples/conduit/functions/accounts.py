"""Signing up, signing in, and the account of who asks.

Addresses and passwords are blanked on record, and a replay hears what stands for them. So nothing is computed from them
here: the database is asked to, and is asked the same again.
"""

import base64
import hashlib
import hmac
import json
import secrets
from dataclasses import dataclass
from typing import Annotated, Any

from flux_guest import Context, HTTPError, Response, function
from functions.common import signed_in
from msgspec import Meta

TOKEN_S = 30 * 86_400

Name = Annotated[str, Meta(min_length=1, max_length=100)]
Password = Annotated[str, Meta(max_length=200)]


@dataclass
class NewAccount:
    username: Name
    email: Name
    password: Password


@dataclass
class Registration:
    user: NewAccount


@dataclass
class Credentials:
    email: Name
    password: Password


@dataclass
class SignIn:
    user: Credentials


@function("POST /api/users", input=Registration)
async def register(ctx: Context, input: Registration) -> Response:
    """Make an account."""
    salt = secrets.token_bytes(16)
    account = await ctx.db.query_one(
        "insert into account (username, email, password_salt, password_hash) "
        " values ($1, lower($2), $3, hash_new_password($4, $3)) returning *",
        input.user.username, input.user.email, salt, input.user.password,
    )  # fmt: skip
    return ctx.response(await show(ctx, account), status=201)


@function("POST /api/users/login", input=SignIn)
async def login(ctx: Context, input: SignIn) -> dict:
    """Give a token to who knows the password."""
    account = await ctx.db.query_one(
        "select * from account where email = lower($1) and password_hash = hash_password($2, password_salt)",
        input.user.email, input.user.password,
    )  # fmt: skip
    if account is None:
        raise HTTPError(401, message="email or password is invalid")
    return await show(ctx, account)


@function("GET /api/user")
async def current_user(ctx: Context, input: dict) -> dict:
    """The account of who asks."""
    return await show(ctx, await find(ctx))


@function("PUT /api/user")
async def update_user(ctx: Context, input: dict) -> dict:
    """Change what is given of the account of who asks; a null takes a bio or an image away."""
    given = input.get("user")
    if not isinstance(given, dict):
        raise HTTPError(422, message="user is required")
    account = await find(ctx)
    changes: dict[str, Any] = {}
    for name in ("username", "email", "bio", "image"):
        if name in given:
            value, may_be_null = given[name], name in ("bio", "image")
            if not (isinstance(value, str) and (value or may_be_null)) and not (value is None and may_be_null):
                raise HTTPError(422, message=f"{name} can't be blank")
            changes[name] = value
    if "email" in changes:
        await ctx.db.execute("update account set email = lower($2) where id = $1", account.id, changes.pop("email"))
    if changes:
        await ctx.db.account.update({"id": account.id}, **changes)
    if "password" in given:
        if not isinstance(given["password"], str):
            raise HTTPError(422, message="password is no text")
        await ctx.db.execute(
            "update account set password_salt = $2, password_hash = hash_new_password($3, $2) where id = $1",
            account.id, secrets.token_bytes(16), given["password"],
        )  # fmt: skip
    return await show(ctx, await find(ctx))


async def find(ctx: Context) -> Any:
    """The account of who asks; one that is gone is nobody's any more."""
    account = await ctx.db.account.find_one(id=signed_in(ctx))
    if account is None:
        raise HTTPError(401, message="this account is gone")
    return account


async def show(ctx: Context, account: Any) -> dict:
    """An account as its owner sees it, with a new token."""
    return {
        "user": {
            "email": account.email,
            "token": await make_token(ctx, account.id),
            "username": account.username,
            "bio": account.bio,
            "image": account.image,
        }
    }


async def make_token(ctx: Context, account: int) -> str:
    """A JSON Web Token that the gateway takes (`[http.auth]` in flux.toml)."""
    now = int(ctx.clock.now().timestamp())
    claims = {"sub": str(account), "iss": "conduit", "aud": "conduit", "iat": now, "exp": now + TOKEN_S}
    signed = f"{_encode({'alg': 'HS256', 'typ': 'JWT'})}.{_encode(claims)}"
    key = (await ctx.secrets.reveal("JWT_KEY")).encode()
    return f"{signed}.{_base64(hmac.digest(key, signed.encode(), hashlib.sha256))}"


def _encode(document: dict) -> str:
    return _base64(json.dumps(document, separators=(",", ":")).encode())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
