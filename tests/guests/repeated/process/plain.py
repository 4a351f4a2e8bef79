"""What every function does: ask, take its time, answer."""

import asyncio
import time
import uuid
from typing import Any

from flux_guest import Context, function


@function()
async def asks_five_at_once(ctx: Context, input: dict[str, Any]) -> Any:
    found = await asyncio.gather(
        *[ctx.db.query("select $1", [number]) for number in range(5)], return_exceptions=True
    )
    return {
        "found": [repr(one) for one in found],
        "at": time.time(),
        "id": str(uuid.uuid4()),
        "n": input["n"],
    }
