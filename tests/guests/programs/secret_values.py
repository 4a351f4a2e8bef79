"""Secrets: handles, and values that the record does not hold."""

import hashlib
import hmac

from flux_guest import Context, function


# Expect: returned 200; secret.handle 1, http.request 1
@function()
async def sends_a_handle(ctx: Context, input: dict) -> dict:
    handle = ctx.secrets["API_KEY"]
    assert "sk_live" not in handle
    answer = await ctx.http.post(f"http://127.0.0.1:{input['port']}/echo", body=f"key={handle}")
    return {"status": answer.status}


# Expect: raised HostCallError; secret.handle 1
@function()
async def asks_for_no_secret(ctx: Context, input: dict) -> None:
    ctx.secrets["NO_SUCH"]


# Expect: returned 200; secret.reveal 1
@function()
async def computes_with_a_value(ctx: Context, input: dict) -> dict:
    value = await ctx.secrets.reveal("PEPPER")
    return {"length": len(hmac.new(value.encode(), b"message", hashlib.sha256).hexdigest())}
