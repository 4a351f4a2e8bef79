"""``invoke``: another function of the project, now, in an execution of its own.

The invoked function has its own record, limits, grants and transaction. It does not see what its caller has
written and not yet committed, and what it commits stays when its caller is rolled back: to the caller it is
something outside, like a request to another server. So its effect is that it leaves.

It runs for the same user: what ``ctx.user`` is to the caller goes with the question, and is on record as a part
of it.
"""

from flux.hostcall import Effect
from flux.hostcalls.base import CallContext, HostCallFailed, HostCallKind, check_arguments
from flux.hostcalls.payload import check_function, encode_payload, get_functions
from flux.hostcalls.user import BadUserError, encode_user


async def _invoke(context: CallContext, arguments: list[object], seq: int) -> object:
    if len(arguments) == 2:
        arguments = [*arguments, {}]
    check_arguments("invoke", arguments, str, object, dict)
    function, value, options = arguments
    assert isinstance(function, str) and isinstance(options, dict)
    if unknown := sorted(options.keys() - {"user"}):
        raise HostCallFailed("InvalidArguments", f"invoke has no option {unknown[0]!r}; it has user", code="FLX425")
    functions = get_functions(context, "invoke")
    check_function(functions, "invoke", function)
    try:
        user = b"" if options.get("user") is None else encode_user(options["user"])
    except BadUserError as error:
        raise HostCallFailed("InvalidArguments", f"invoke: {error}", code="FLX425") from error
    return await functions.invoke(function, encode_payload("invoke", value), user, seq)


INVOKE = HostCallKind(name="invoke", effect=Effect.LEAVES, perform=_invoke)
"""Runs another function and waits for its answer."""
