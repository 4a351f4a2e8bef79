"""The script that somebody would write by hand for ``git bisect run``: the request on a checkout, without Flux.

    git bisect run python alone.py [FOLDER]

Exit code 0 when the request is answered, 1 when it fails, 125 when nothing can be said. It stands in for the
database and for what is called outside, as such scripts do. It knows nothing of how a history was made, so it is also
what the truth of one is held against. Its own imports are the standard library's, so any Python runs it.
"""

import sys
import types
from pathlib import Path

BODY = {"product": 1, "quantity": "1,200", "people": 0, "country": "xx", "zone": "xx", "coupon": None}
GOOD, BAD, SKIP = 0, 1, 125


class Database:
    """Knows the two statements of the handler."""

    async def query_one(self, sql: str, *parameters: object) -> dict[str, object]:
        """Answer as the tables would."""
        if "price_cents" in sql:
            raise RuntimeError('column "price_cents" does not exist')
        return {"id": 7} if sql.startswith("insert") else {"id": parameters[0], "cents": 900}


class Outside:
    """Answers whatever is sent."""

    async def post(self, _url: str, **_more: object) -> None:
        """Say nothing."""


class HTTPError(Exception):
    """As the SDK's."""


def run(folder: Path) -> int:
    """Send the request; return the exit code."""
    sys.dont_write_bytecode = True
    # A wheel can be imported from as it is.
    sys.path[:0] = [str(folder), *map(str, sorted((folder / "wheels").glob("*.whl"))[-1:])]
    guest = types.ModuleType("flux_guest")
    guest.__dict__.update(function=lambda _route: lambda function: function, HTTPError=HTTPError)
    sys.modules["flux_guest"] = guest
    try:
        from functions.shop import order
    except (ImportError, SyntaxError):
        return SKIP
    context = types.SimpleNamespace(db=Database(), http=Outside())
    try:
        # Nothing in here waits, so no event loop is needed, nor the time to import one.
        order(context, dict(BODY)).send(None)
    except StopIteration:
        return GOOD
    except Exception as error:
        is_other = isinstance(error, KeyError) and error.args == ("warehouse",)
        return SKIP if is_other else BAD
    raise AssertionError("the handler waits for something")


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()))
