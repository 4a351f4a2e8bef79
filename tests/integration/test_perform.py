"""Host calls performed: whatever a guest asks is answered, and only Flux's own faults are raised."""

import attrs
import pytest
import trio

from flux import hostcalls, values
from flux.grants import Grants
from flux.hostcall import HostCallError, HostCallRequest
from flux.hostcalls.base import CallContext, HostCallKind, QueryResult
from flux.hostcalls.clock import SystemClock
from flux.hostcalls.entropy import SystemEntropy
from flux.hostcalls.http_client import HttpClient
from flux.hostcalls.secret import TenantSecrets
from flux.limits import Limits
from flux.supervisor.perform import ANSWER_BYTES_MAX, HostCallCrashedError, HostTable


@attrs.define
class OddDatabase:
    """A database whose next answer, or failure, a test chooses."""

    next: QueryResult | Exception = attrs.Factory(lambda: QueryResult(("a",), ("int4",), [[1]], "SELECT 1"))

    async def run(self, sql: str, arguments: list[object], call_seq: int) -> QueryResult:  # noqa: ARG002
        await trio.lowlevel.checkpoint()
        if isinstance(self.next, Exception):
            raise self.next
        return self.next

    async def begin(self, isolation: str | None, call_seq: int) -> int:
        raise AssertionError((isolation, call_seq))

    async def commit(self, depth: int, call_seq: int) -> None:
        raise AssertionError((depth, call_seq))

    async def rollback(self, depth: int, call_seq: int) -> None:
        raise AssertionError((depth, call_seq))


def make_table(database: OddDatabase | None = None) -> HostTable:
    return HostTable(
        CallContext(
            tenant="acme",
            function="f",
            grants=Grants.parse([]),
            limits=Limits(),
            clock=SystemClock(),
            entropy=SystemEntropy(),
            database=database,
            http=HttpClient(),
            secrets=TenantSecrets({}, b"key"),
        )
    )


async def error_of(table: HostTable, name: str, *arguments: object) -> HostCallError:
    result = await table.perform(HostCallRequest(1, name, values.encode_canonical(list(arguments))))
    assert result.value == b"null"
    assert result.error is not None
    assert result.now_ns > 0
    return result.error


KINDS = sorted(hostcalls.all_kinds())


@pytest.mark.parametrize("name", KINDS)
async def test_every_call_answers_arguments_of_the_wrong_shape(name: str) -> None:
    for arguments in ([None, {}, [], 1.5], [{"a": [1]}], [None] * 7):
        error = await error_of(make_table(OddDatabase()), name, *arguments)
        assert (error.name, error.code) == ("InvalidArguments", "FLX425")
        assert name in error.message


async def test_a_call_that_is_not_offered_is_an_answer() -> None:
    table = make_table()
    assert table.is_immediate("no.such")
    error = await error_of(table, "no.such", 1)
    assert (error.name, error.code) == ("UnknownHostCall", "FLX426")


async def test_a_malformed_value_is_an_answer() -> None:
    request = HostCallRequest(1, "clock.sleep", b'[{"$decimal":"x"}]')
    result = await make_table().perform(request)
    assert result.error is not None
    assert (result.error.name, result.error.code) == ("InvalidArguments", "FLX425")


async def test_a_project_without_a_database_says_so() -> None:
    error = await error_of(make_table(), "db.query", "select 1", [])
    assert (error.name, error.code) == ("DatabaseError", "FLX423")


async def test_an_answer_that_fits_no_frame_is_an_error_with_its_size() -> None:
    size = ANSWER_BYTES_MAX + 1
    database = OddDatabase(QueryResult(("a",), ("text",), [["x" * size]], "SELECT 1"))
    error = await error_of(make_table(database), "db.query", "select 1", [])
    assert (error.name, error.code) == ("AnswerTooLarge", "FLX427")
    details = values.decode(error.details)
    assert isinstance(details, dict) and details["answer_bytes"] > size


async def test_a_fault_of_ours_is_raised_and_names_the_call() -> None:
    table = make_table(OddDatabase(KeyError("a bug")))
    with pytest.raises(HostCallCrashedError, match=r"performing db.query \(call 7\) failed: KeyError"):
        await table.perform(HostCallRequest(7, "db.query", b'["select 1",[]]'))


async def test_cancellation_passes() -> None:
    with trio.move_on_after(0.01) as scope:
        await make_table().perform(HostCallRequest(1, "clock.sleep", b"[100]"))
    assert scope.cancelled_caught


def test_calls_that_never_wait_are_performed_in_place() -> None:
    immediate = {name for name, kind in hostcalls.all_kinds().items() if kind.immediate}
    assert immediate == {
        "clock.now", "entropy.take", "net.close", "response.end", "response.write", "secret.handle", "secret.reveal",
    }  # fmt: skip
    assert all(isinstance(kind, HostCallKind) for kind in hostcalls.all_kinds().values())
