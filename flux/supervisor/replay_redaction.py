"""What a replay hides: whatever the code that runs, the code that is served or the code that made the record hides.

A record was redacted by the rules of its time, and code that runs again may know none of them, or newer ones. Rows come
from the tables, which nobody redacts. So what a replay stores is redacted by the rules of all three.

Where some of them are newer than the record, it holds in clear what they hide. It is then laid beside the replay as
they would have had it, or each such value would be a difference; what the function hears is what is on record.
"""

from collections.abc import Sequence

import attrs

from flux import streamed
from flux.execution import Execution
from flux.hostcall import HostCall
from flux.hostcalls.secret import HANDLE_CALL, REVEAL
from flux.redact import RedactionRules, Redactor

_STANDS_AS_IT_IS = streamed.WRITES | {streamed.READ, REVEAL.name, HANDLE_CALL.name}
"""Recorded as digests, handles and tokens whatever the rules say."""


@attrs.frozen
class RulesInForce:
    """The rules of redaction that hold beside those of the code that runs."""

    served: RedactionRules = attrs.field(factory=RedactionRules)
    """Of what is served now."""
    recorded: RedactionRules | None = None
    """Of the code that made the record; None when that is gone."""

    def add(self, own: RedactionRules) -> RedactionRules:
        """Return these and the rules of the code that runs."""
        rules = own.union(self.served)
        return rules if self.recorded is None else rules.union(self.recorded)

    def are_newer(self, own: RedactionRules) -> bool:
        """Whether the record may hold in clear what one of them hides, or of those of the code that runs."""
        known = RedactionRules() if self.recorded is None else self.recorded
        return known.union(self.add(own)) != known


def redact_again(execution: Execution, redactor: Redactor) -> Execution:
    """Return a record as it would have been stored by the rules of ``redactor``, which has met nothing yet."""
    trigger = redactor.trigger(execution.trigger)
    calls = tuple(_redact_call(call, redactor) for call in execution.calls)
    return attrs.evolve(
        execution,
        trigger=trigger,
        calls=calls,
        logs=tuple(map(redactor.log, execution.logs)),
        outcome=redactor.outcome(execution.outcome),
        user=redactor.user(execution.user),
        mutations=tuple(map(redactor.mutation, execution.mutations)),
    )


def _redact_call(call: HostCall, redactor: Redactor) -> HostCall:
    if call.request.name in _STANDS_AS_IT_IS:
        return call
    request = redactor.request(call.request)
    result = None if call.result is None else redactor.result(request, call.result)
    return attrs.evolve(call, request=request, result=result)


def find_by_number(calls: Sequence[HostCall], call: HostCall | None) -> HostCall | None:
    """Return the call of ``call``'s number: what is on record of one that was redacted again."""
    if call is None:
        return None
    return next((each for each in calls if each.request.seq == call.request.seq), None)
