"""``invoke``: another function of the project, now, in an execution of its own.

The invoked function has its own record, limits, grants and transaction. It does not see what its caller has
written and not yet committed, and what it commits stays when its caller is rolled back: to the caller it is
something outside, like a request to another server. So its effect is that it leaves.
"""

from flux.hostcall import Effect
from flux.hostcalls.base import CallContext, HostCallKind, check_arguments
from flux.hostcalls.payload import check_function, encode_payload, get_functions


async def _invoke(context: CallContext, arguments: list[object], seq: int) -> object:
    check_arguments("invoke", arguments, str, object)
    function, value = arguments
    assert isinstance(function, str)
    functions = get_functions(context, "invoke")
    check_function(functions, "invoke", function)
    return await functions.invoke(function, encode_payload("invoke", value), seq)


INVOKE = HostCallKind(name="invoke", effect=Effect.LEAVES, perform=_invoke)
"""Runs another function and waits for its answer."""
