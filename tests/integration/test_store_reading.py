"""Reading what executions did: by what people type, by filter, whole, and by row.

The filter is held to `flux.filter.matches`, which the live tail asks: a list and the tail must mean the same. What
rows became is asked of the log that real transactions of a guest made.
"""

import random
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from flux import ids
from flux.execution import Execution, Exited, Interrupted, Killed, LogLine, Outcome, Returned, Trigger
from flux.filter import Filter, Term, matches, parse
from flux.mutation import Mutation, Operation
from flux.store import reading
from flux.store.postgres import Connection, Pool, connect
from flux.store.queries import QUERIES, where
from flux.store.reading import (
    AmbiguousExecutionError,
    KeyDoesNotFitError,
    NoSuchExecutionError,
    NoSuchTableError,
    Summary,
    make_facts,
)
from flux.store.records import RecordStore, commit_parameters, make_record
from flux.store.summaries import make_conditions, make_summary
from tests.conftest import Database
from tests.postgres_server import PostgresServer
from tests.stored_executions import TOKEN, commit_record, guest_connection, lost_host, make_execution, raised

BASE_NS = 1_764_000_000_000_000_000
SECOND_NS = 1_000_000_000
ALL = Filter()


async def store(pool: Pool, *executions: Execution) -> None:
    for execution in executions:
        await RecordStore(pool).add(execution)


@pytest.fixture
async def pool(database: Database) -> AsyncIterator[Pool]:
    pool = database.pool()
    yield pool
    await pool.aclose()


def named(name: str, second: int = 0, **changes: object) -> Execution:
    """An execution whose name begins so."""
    started_at_ns = BASE_NS + second * SECOND_NS
    letters = name.ljust(ids.NAME_LENGTH, "0")
    tail = ids.FIRST.index(letters[0])
    for letter in letters[1:]:
        tail = tail << 5 | ids.ALPHABET.index(letter)
    entropy = (random.getrandbits(41) << 39 | tail).to_bytes(10)
    execution_id = ids.make_execution_id(started_at_ns // 1_000_000, entropy)
    execution = make_execution(started_at_ns=started_at_ns, id=execution_id, **changes)
    assert execution.name == letters
    return execution


# --- by what people type ---------------------------------------------------------------------------


async def test_an_execution_is_found_by_any_beginning_of_its_names(pool: Pool) -> None:
    first, second, third = named("qk3f81xa", 1), named("qk7d", 2), named("ztt", 3)
    failed, replayed = named("gg", 4, outcome=raised()), named("hh", 5, trigger=Trigger("replay"))
    failed = attrs.evolve(failed, outcome=raised())
    await store(pool, first, second, third, failed, replayed)
    whole = str(first.id)
    for text, wanted in {
        "qk3f81xa": first, "qk3": first, "QK3F": first, " qk3 ": first, "z": third, "qk7": second,
        whole: first, whole.upper(): first, whole.replace("-", ""): first, whole[:30]: first,
        "@-1": failed, "@-2": third, "@-4": first, "@last-error": failed, "@LAST-ERROR": failed,
    }.items():  # fmt: skip
        assert (await reading.find_summary(pool, text)).id == wanted.id, text
    assert (await reading.get_summary(pool, third.id)).name == "ztt00000"


NO_EXECUTION = ["qk9a", "00000000", "ffff", str(uuid.UUID(int=7)), "@-3", "@-0", "@-", "@-x", "@1",
                "@last", "", " ", "-", "qk3f81xaa", "no such", "é", "g'; drop", "\0", "\ud800",
                "%", "_", "g%", "x" * 10_000, "a" * 33]  # fmt: skip


async def test_what_names_no_execution_is_an_error_with_the_latest_ones(pool: Pool) -> None:
    await store(pool, named("qk3", 1), named("qk7", 2), named("qk8", 3, trigger=Trigger("replay")))
    for text in NO_EXECUTION:
        with pytest.raises(NoSuchExecutionError) as caught:
            found = await reading.find_summary(pool, text)
            raise AssertionError(f"{text!r} found {found}")
        assert caught.value.code == "FLX101" and caught.value.exit_code == 3
        assert len(caught.value.message) < 200
        if text == "qk9a":
            assert caught.value.message == 'no execution starts with "qk9a"'
            assert caught.value.remedy.startswith(
                "the latest are qk700000 (16:00:02 UTC) and qk300000 (16:00:01 UTC)"
            )


async def test_in_an_empty_store_the_error_says_that_nothing_is_recorded(pool: Pool) -> None:
    for text in ("qk3", "@-1"):
        with pytest.raises(NoSuchExecutionError) as caught:
            await reading.find_summary(pool, text)
        assert "nothing is recorded yet" in caught.value.remedy
    with pytest.raises(NoSuchExecutionError, match="no execution has failed"):
        await reading.find_summary(pool, "@last-error")
    with pytest.raises(NoSuchExecutionError):
        await reading.get_execution(pool, uuid.UUID(int=7))
    assert await reading.list_summaries(pool, ALL, 10) == []
    assert await reading.list_error_groups(pool, None, 10) == []
    assert await reading.list_logs(pool) == reading.LogPage((), is_cut=False)


async def test_a_beginning_of_several_names_lists_up_to_ten(pool: Pool) -> None:
    await store(pool, *(named(f"qk{number:x}", number) for number in range(12)))
    with pytest.raises(AmbiguousExecutionError) as caught:
        await reading.find_summary(pool, "qk")
    lines = caught.value.message.splitlines()
    assert lines[0] == 'more than one execution starts with "qk":' and lines[-1] == "... and more"
    assert len(lines) == 12 and lines[1] == "qkb00000  2025-11-24 16:00:11 UTC  create_order"
    with pytest.raises(AmbiguousExecutionError):
        await reading.find_summary(pool, "019")


async def test_two_of_the_same_name_are_told_apart_by_their_ids(pool: Pool) -> None:
    twins = [named("qk3f81xa", 1), named("qk3f81xa", 2)]
    await store(pool, *twins)
    with pytest.raises(AmbiguousExecutionError) as caught:
        await reading.find_summary(pool, "qk3f81xa")
    for twin in twins:
        assert str(twin.id) in caught.value.message
        assert (await reading.find_summary(pool, str(twin.id))).id == twin.id


# --- by filter -------------------------------------------------------------------------------------

PATHS = ("/", "/orders", "/orders/7", "/orders/7/lines", "/a.b", "/a\nb", "/%_\\", "/ümlaut", "/x" * 200)
MESSAGES = ("'plan'", "no such Straße", "STRASSE", "K is Kelvin", "ſtop", "ﬁle", "İstanbul", "a%b_c\\d", "", "ΣΊΣΥΦΟΣ")
FUNCTIONS = ("create_order", "create-order", "nightly", "été", "a.b*c")
OUTCOMES: tuple[Outcome, ...] = (
    *(Returned(status) for status in (200, 204, 301, 404, 499, 500, 503)),
    *(raised("KeyError", message) for message in MESSAGES),
    raised("HTTPError", "gone", status=410, code="GONE"),
    raised("HTTPError", "busy", status=503, code="OVERLOADED"),
    Killed("timeout", "10s", "flux.toml:12"),
    Killed("memory", "256MiB", "Flux's default"),
    Exited(None, 11, "Segmentation fault"),
    Interrupted("the supervisor ended"),
)
KINDS = ("http", "invoke", "cron", "queue", "replay")


def population() -> list[Execution]:
    draw = random.Random(7)
    executions = []
    for number in range(120):
        kind = KINDS[number % len(KINDS)] if number % 3 else "http"
        trigger = (
            Trigger("http", draw.choice(["GET", "POST"]), draw.choice(PATHS), "/x") if kind == "http" else Trigger(kind)
        )
        executions.append(
            make_execution(
                OUTCOMES[number % len(OUTCOMES)],
                started_at_ns=BASE_NS + draw.randrange(3) * SECOND_NS + draw.choice([0, 1000, 999_999_000]),
                trigger=trigger,
                function=draw.choice(FUNCTIONS),
                sha=draw.choice(["3f9c1e2d", "3f9d0000", "nogit-0123", "ab"]),
                deployment=draw.choice(["5d41402abc4b", "5d9", "7"]),
            )
        )
    return executions


@pytest.fixture(scope="module")
def populated(
    postgres18: PostgresServer, make_database: Callable[[PostgresServer], Database]
) -> Iterator[tuple[Database, list[Summary]]]:
    database = make_database(postgres18)

    async def fill() -> list[Summary]:
        pool = database.pool()
        await store(pool, *population())
        async with pool.acquire() as connection:
            query, values = where(QUERIES.list_executions, (), (1000,))
            rows = await connection.fetch(query, *values)
        await pool.aclose()
        return [make_summary(row) for row in rows]

    yield database, trio.run(fill)


def without_replays(filter_: Filter, found: list[Summary]) -> list[Summary]:
    """What a list shows: replays only where the trigger or the name is asked for."""
    if any(term.key in ("trigger", "name") for term in filter_.terms):
        return found
    return [summary for summary in found if summary.trigger != "replay"]


def like_terms(key: str, texts: tuple[str, ...]) -> st.SearchStrategy[Term]:
    """Texts, their parts, and parts with stars."""
    part = st.sampled_from(texts).flatmap(
        lambda text: st.tuples(st.integers(0, len(text)), st.integers(0, len(text))).map(
            lambda cut: text[: min(cut)] + "*" + text[max(cut) :]
        )
    )
    odd = st.sampled_from(("*", "/*", "/orders/{id}", "/{a}{b}", "/{}", "a\0b", "\ud800"))
    value = st.sampled_from(texts) | part | odd
    method = st.sampled_from((None, "GET", "POST", "NO")) if key == "route" else st.none()
    return st.builds(lambda v, m, n: Term(key, "like", v, m, n), value, method, st.booleans())  # type: ignore[arg-type]


NEEDLES = ("key", "KEYERROR: '", "straße", "STRASSE", "ss", "k", "K", "s", "ſ", "fi", "ﬁ", "i̇", "İ", "%", "_", "\\",
           "σ", "ς", "Σίσυφος", "http", ": ", "signal", "a\0", "\ud800", "zzz")  # fmt: skip
moments = st.sampled_from(
    [
        datetime.fromtimestamp(BASE_NS / SECOND_NS, UTC) + timedelta(seconds=second, microseconds=micro)
        for second in (-86400, 0, 1, 2, 3, 86400)
        for micro in (0, 1, 999_999)
    ]
    + [datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, tzinfo=UTC), datetime(1900, 1, 1, tzinfo=UTC)]
)
statuses = st.sampled_from((100, 200, 204, 404, 410, 499, 500, 503, 504, 599))
terms = st.one_of(
    st.builds(lambda o, v, n: Term("status", o, v, None, n), st.sampled_from(("=", ">=", ">", "<=", "<")), statuses,
              st.booleans()),
    st.builds(lambda v, n: Term("status", "class", v, None, n), st.integers(1, 5), st.booleans()),
    st.builds(lambda v, n: Term("since", ">=", v, None, n), moments, st.booleans()),
    st.builds(lambda v, n: Term("until", "<", v, None, n), moments, st.booleans()),
    like_terms("route", PATHS),
    like_terms("function", FUNCTIONS),
    st.builds(lambda v, n: Term("error", "contains", v, None, n), st.sampled_from(NEEDLES), st.booleans()),
    st.builds(lambda v, n: Term("sha", "prefix", v, None, n), st.sampled_from(("3", "3f9", "3f9c", "nogit-", "f")),
              st.booleans()),
    st.builds(lambda v, n: Term("deploy", "prefix", v, None, n), st.sampled_from(("5", "5d4", "5d41402abc4b0", "0")),
              st.booleans()),
    st.builds(lambda v, n: Term("name", "prefix", v, None, n), st.sampled_from(tuple("ghjkmnpqrstvwxyz")),
              st.booleans()),
    st.builds(lambda v, n: Term("trigger", "=", v, None, n), st.sampled_from(KINDS), st.booleans()),
    st.builds(lambda v, n: Term("outcome", "=", v, None, n),
              st.sampled_from(("returned", "raised", "killed", "exited", "interrupted")), st.booleans()),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(terms, min_size=1, max_size=3).map(lambda some: Filter(tuple(some))), min_size=8, max_size=8))
def test_a_filter_means_the_same_in_the_store_as_on_a_live_execution(
    populated: tuple[Database, list[Summary]], filters: list[Filter]
) -> None:
    database, everything = populated

    async def ask() -> None:
        pool = database.pool(1)
        for filter_ in filters:
            wanted = [summary for summary in everything if matches(filter_, make_facts(summary))]
            listed = without_replays(filter_, wanted)
            assert await reading.list_summaries(pool, filter_, 1000) == listed, filter_
            after = await reading.list_summaries_after(pool, filter_, 1000)
            assert after == listed[::-1], filter_
            # What SQL alone selects is never too little, and exact but for the case of letters.
            async with pool.acquire() as connection:
                query, values = where(QUERIES.list_executions, make_conditions(filter_), (1000,))
                selected = [make_summary(row) for row in await connection.fetch(query, *values)]
            assert [summary for summary in selected if summary in wanted] == wanted
            if all(term.key != "error" for term in filter_.terms):
                assert selected == wanted
        await pool.aclose()

    trio.run(ask)


@pytest.mark.parametrize("text", ["", "-error:zzz", "error:k", "status:>=500", "error:ß"])
@pytest.mark.parametrize("limit", [1, 7, 1000])
def test_pages_of_a_list_join_without_a_gap_or_a_double(
    populated: tuple[Database, list[Summary]], text: str, limit: int
) -> None:
    database, everything = populated
    filter_ = parse(text, datetime.now(UTC))
    wanted = without_replays(
        filter_, [summary for summary in everything if matches(filter_, make_facts(summary))]
    )

    async def page_through() -> tuple[list[Summary], list[Summary]]:
        pool = database.pool(1)
        back: list[Summary] = []
        while page := await reading.list_summaries(pool, filter_, limit, back[-1].id if back else None):
            assert len(page) <= limit
            back += page
        forth: list[Summary] = []
        while page := await reading.list_summaries_after(pool, filter_, limit, forth[-1].id if forth else None):
            forth += page
        await pool.aclose()
        return back, forth

    back, forth = trio.run(page_through)
    assert back == wanted and forth == wanted[::-1]


@pytest.mark.parametrize("value", ["*" * 1200, "a*" * 600, "(" * 1200, "{a}" * 400, "x" * 4000])
def test_a_filter_of_any_length_is_answered(populated: tuple[Database, list[Summary]], value: str) -> None:
    database, everything = populated

    async def ask(filter_: Filter) -> list[Summary]:
        pool = database.pool(1)
        found = await reading.list_summaries(pool, filter_, 1000)
        await pool.aclose()
        return found

    for text in (f'function:"{value}"', f'-route:"/{value}"', f'error:"{value}"'):
        filter_ = parse(text, datetime.now(UTC))
        wanted = [each for each in everything if matches(filter_, make_facts(each))]
        assert trio.run(ask, filter_) == without_replays(filter_, wanted)


async def test_a_status_of_500_and_up_is_always_a_failure_with_a_signature(pool: Pool) -> None:
    # The lists rely on it: failures have an index.
    await store(pool, *population())
    for summary in await reading.list_summaries(pool, ALL, 1000):
        assert summary.status is None or summary.status < 500 or summary.signature is not None, summary


# --- whole -----------------------------------------------------------------------------------------


@pytest.fixture
async def guest(database: Database) -> AsyncIterator[Connection]:
    async with guest_connection(database) as connection:
        database.psql(
            "create table shop.users (id int primary key, plan text); create table shop.pairs (b text, a int, v int, "
            "primary key (a, b)); create table shop.loose (x int);"
            "grant all on all tables in schema shop to flux_guest_default"
        )
        yield connection


async def commit(guest: Connection, execution: Execution, *statements: str) -> tuple[int, ...]:
    """Commit the statements and the record in one transaction; return the transaction's id."""
    await guest.begin("repeatable read")
    for statement in statements:
        await guest.execute(statement)
    xid = await commit_record(guest, commit_parameters(make_record(execution), TOKEN))
    await guest.commit()
    assert xid is not None
    return (xid,)


async def test_an_execution_has_its_rows_kept_and_lost_in_the_order_they_were_changed(
    pool: Pool, guest: Connection, database: Database
) -> None:
    xid = int(database.psql("select pg_snapshot_xmax(pg_current_snapshot())"))
    lost = Mutation("shop", "users", '{"id":2}', Operation.INSERT, None, '{"id":2,"plan":null}', False, xid, 2, 1, 2, 7)
    execution = make_execution(
        mutations=(lost,), mutation_count=3, ordinals=((xid, 1, 1), (xid, 2, 2), (xid, 2, 3)), attempt=2
    )
    assert (xid,) == await commit(
        guest, execution, "insert into users values (1, 'free')", "update users set plan = 'paid' where id = 1"
    )
    # The log of changes has the lost row too, for the row's own history. It is shown once.
    async with pool.acquire() as connection:
        await connection.execute(
            QUERIES.add_rolled_back_mutations, execution.id, [None], [str(xid)], [2], ["shop"], ["users"], ["I"], [1],
            ['{"id":2}'], [None], ['{"id":2,"plan":null}'],
        )  # fmt: skip
    summary, read = await reading.get_execution(pool, execution.id)
    assert [(m.call, m.op, m.committed, m.before, m.after) for m in read.mutations] == [
        (1, "insert", True, None, '{"id":1,"plan":"free"}'),
        (2, "insert", False, None, '{"id":2,"plan":null}'),
        (3, "update", True, '{"id":1,"plan":"free"}', '{"id":1,"plan":"paid"}'),
    ]
    assert attrs.evolve(read, mutations=(lost,)) == execution
    assert (summary.xid, summary.mutation_count, summary.attempt) == (xid, 3, 2)


async def test_what_was_rolled_back_and_is_only_in_the_log_is_found_too(pool: Pool, guest: Connection) -> None:
    execution = make_execution()
    (xid,) = await commit(guest, execution, "insert into users values (1, 'free')")
    async with pool.acquire() as connection:
        await connection.execute(
            QUERIES.add_rolled_back_mutations, execution.id, [None] * 2, [str(xid)] * 2, [1, 1], ["shop"] * 2,
            ["users"] * 2, ["D"] * 2, [1, 1], ['{"id":7}', '{"id":8}'], ['{"id":7}', '{"id":8}'], [None, None],
        )  # fmt: skip
    _, read = await reading.get_execution(pool, execution.id)
    assert [(m.key, m.committed) for m in read.mutations] == [
        ('{"id":1}', True), ('{"id":7}', False), ('{"id":8}', False),
    ]  # fmt: skip


async def test_an_execution_of_several_transactions_has_the_rows_of_all(
    pool: Pool, guest: Connection, database: Database
) -> None:
    execution = make_execution()
    for number in (1, 2):
        await guest.begin()
        await guest.execute("insert into users values ($1, 'free')", number)
        await guest.fetch_value(QUERIES.mark_transaction, TOKEN, execution.id, "1:1:", "read committed")
        await guest.commit()
    database.psql("insert into shop.users values (3, 'outside')")
    await store(pool, execution)
    _, read = await reading.get_execution(pool, execution.id)
    assert [m.key for m in read.mutations] == ['{"id":1}', '{"id":2}']
    (version,) = await reading.list_row_history(pool, "shop", "users", "2")
    assert (version.execution, version.outside) == (execution.id, False)


async def test_more_rows_than_are_shown_are_said_to_be_more(pool: Pool, guest: Connection) -> None:
    execution = make_execution()
    await commit(guest, execution, "insert into users select n, 'free' from generate_series(1, 30) n")
    _, read = await reading.get_execution(pool, execution.id, mutations_max=20)
    assert len(read.mutations) == 20
    assert read.completeness == ("of its row changes only the first 20 are shown",)


# --- others ----------------------------------------------------------------------------------------


async def test_children_are_those_that_it_caused(pool: Pool) -> None:
    parent = named("qk3", 1)
    children = [named("m", second, parent=parent.id, trigger=Trigger("queue")) for second in (2, 3)]
    await store(pool, parent, *children, named("n", 4))
    assert [child.id for child in await reading.list_children(pool, parent.id, 10)] == [each.id for each in children]
    assert len(await reading.list_children(pool, parent.id, 1)) == 1


async def test_failures_are_grouped_by_signature(pool: Pool) -> None:
    often = [named("q", second, function=f"f{second % 2}") for second in range(3)]
    often = [attrs.evolve(each, outcome=raised("KeyError", f"no row {n}")) for n, each in enumerate(often)]
    rare = attrs.evolve(named("r", 9), outcome=raised("ValueError", "x"))
    answered = attrs.evolve(named("s", 10), outcome=raised("HTTPError", "gone", status=404))
    replayed = attrs.evolve(named("t", 11, trigger=Trigger("replay")), outcome=raised("KeyError", "no row 9"))
    await store(pool, *often, rare, answered, replayed, named("v", 12))
    first, second = await reading.list_error_groups(pool, None, 10)
    assert (first.count, first.sample, first.sample_id) == (3, often[-1].name, often[-1].id)
    assert first.functions == ("f0", "f1") and first.error_message == "no row 2"
    assert first.error_location is not None and first.error_location.line == 12
    assert (first.last - first.first).seconds == 2
    assert (second.count, second.error_type) == (1, "ValueError")
    since = datetime.fromtimestamp(BASE_NS / SECOND_NS, UTC) + timedelta(seconds=2)
    assert [group.count for group in await reading.list_error_groups(pool, since, 10)] == [1, 1]
    assert len(await reading.list_error_groups(pool, None, 1)) == 1


async def test_counts_are_by_commit(pool: Pool) -> None:
    executions = [
        attrs.evolve(named("q", second, sha=sha), outcome=outcome)
        for second, (sha, outcome) in enumerate(
            [("old", Returned(200)), ("old", raised()), ("new", raised()), ("new", raised()), ("new", Returned(200))]
        )
    ]
    await store(pool, *executions, named("r", 9, function="other"))
    signature = (await reading.get_summary(pool, executions[1].id)).signature
    assert signature is not None
    failures = await reading.count_signature(pool, signature)
    totals = await reading.count_function(pool, "create_order")
    assert [(each.sha, each.count) for each in failures] == [("new", 2), ("old", 1)]
    assert [(each.sha, each.count) for each in totals] == [("new", 3), ("old", 2)]
    assert (totals[1].first_id, totals[1].last_id) == (executions[0].id, executions[1].id)


async def test_the_deployment_before_is_the_one_that_served_other_code(pool: Pool) -> None:
    async with pool.acquire() as connection:
        for name, sha in (("d1", "aaa"), ("d2", "bbb"), ("d3", "ccc"), ("d4", "ccc")):
            await connection.execute(QUERIES.add_deployment, name, "default", sha, False, "hash", "{}")
            if name != "d2":
                await connection.execute(QUERIES.activate_deployment, name)
    found = await reading.find_previous_deployment(pool, "d4")
    assert found is not None and (found.id, found.sha, found.dirty) == ("d1", "aaa", False)
    assert await reading.find_previous_deployment(pool, "d1") is None
    assert await reading.find_previous_deployment(pool, "none such") is None


async def test_who_else_lost_a_host_is_known(pool: Pool) -> None:
    lost = [
        attrs.evolve(execution, calls=(lost_host(url),))
        for execution, url in (
            (named("q", 1), "https://api.stripe.com/a"), (named("r", 2), "https://api.stripe.com/b"),
            (named("s", 3), "https://example.com/"), (named("t", 400), "https://api.stripe.com/c"),
        )
    ]  # fmt: skip
    await store(pool, *lost, named("v", 2))
    began = datetime.fromtimestamp(BASE_NS / SECOND_NS, UTC)
    found = await reading.list_host_failures(pool, "api.stripe.com", began, began + timedelta(minutes=5), 10)
    assert [(each.id, each.name, each.function) for each in found] == [
        (each.id, each.name, "create_order") for each in lost[:2]
    ]


async def test_peers_are_those_that_passed_before_it_nearest_first(pool: Pool) -> None:
    passed = [named("q", second) for second in range(5)]
    failed = attrs.evolve(named("r", 5), outcome=raised())
    await store(pool, *passed, failed, named("s", 2, function="other"), named("t", 9))
    peers = await reading.list_peers(pool, "create_order", failed.sha, failed.id, 100, 3)
    assert peers == [passed[4], passed[3], passed[2]]


async def test_other_code_and_answers_of_4xx_are_no_peers_and_the_search_for_peers_has_an_end(pool: Pool) -> None:
    passed = named("q", 0)
    refused = attrs.evolve(named("r", 1), outcome=Returned(404))
    other = attrs.evolve(named("s", 2), sha="f" * 40)
    failed = [attrs.evolve(named("t", second), outcome=raised()) for second in (3, 4)]
    await store(pool, passed, refused, other, *failed)
    assert await reading.list_peers(pool, "create_order", passed.sha, failed[1].id, 4, 3) == [passed]
    assert await reading.list_peers(pool, "create_order", passed.sha, failed[1].id, 3, 3) == []


async def test_logs_are_the_latest_lines_oldest_first(pool: Pool) -> None:
    executions = [
        named("q", second, function=f"f{second % 2}",
              logs=(LogLine(0, "info", f"{second} first"), LogLine(1_500_000_000, "info", f"{second} last")))
        for second in range(250)
    ]  # fmt: skip
    await store(pool, *executions, named("r", 300, logs=()))
    page = await reading.list_logs(pool, lines_max=4)
    # The lines of executions that ran at once are in the order of their times.
    assert [logged.line.message for logged in page.lines] == ["247 last", "249 first", "248 last", "249 last"]
    assert page.is_cut
    whole = await reading.list_logs(pool)
    assert len(whole.lines) == 500 and not whole.is_cut
    assert [logged.number for logged in whole.lines[:4]] == [0, 0, 1, 0]
    only = await reading.list_logs(pool, function="f1")
    assert {logged.execution.function for logged in only.lines} == {"f1"} and len(only.lines) == 250
    since = datetime.fromtimestamp(BASE_NS / SECOND_NS, UTC) + timedelta(seconds=249)
    recent = await reading.list_logs(pool, since=since)
    assert [logged.line.message for logged in recent.lines] == ["249 first", "248 last", "249 last"]
    few = await reading.list_logs(pool, executions_max=1, lines_max=1000)
    assert few.is_cut and len(few.lines) == 2 * 199


# --- rows ------------------------------------------------------------------------------------------


async def test_a_row_has_all_its_versions_and_who_made_them(pool: Pool, guest: Connection, database: Database) -> None:
    first, second = make_execution(), make_execution(function="charge", sha="bbb", dirty=True)
    await commit(guest, first, "insert into users values (42, 'free')")
    await commit(guest, second, "update users set plan = 'paid'", "update users set plan = null")
    database.psql("update shop.users set plan = 'by hand'")
    versions = await reading.list_row_history(pool, "shop", "users", "42")
    assert [(v.version, v.mutation.op, v.mutation.after, v.outside, v.name, v.gap) for v in versions] == [
        (4, "update", '{"id":42,"plan":"by hand"}', True, None, False),
        (3, "update", '{"id":42,"plan":null}', False, second.name, False),
        (2, "update", '{"id":42,"plan":"paid"}', False, second.name, False),
        (1, "insert", '{"id":42,"plan":"free"}', False, first.name, False),
    ]
    charged = versions[1]
    assert (charged.execution, charged.function, charged.sha, charged.dirty, charged.trigger, charged.method) == (
        second.id, "charge", "bbb", True, "http", "POST",
    )  # fmt: skip
    assert versions[0].execution is versions[0].function is versions[0].dirty is None
    assert [v.version for v in await reading.list_row_history(pool, "shop", "users", "42", 2)] == [4, 3]
    assert await reading.list_row_history(pool, "shop", "users", "43") == []


async def test_a_change_past_the_capture_shows_as_a_gap_and_an_added_column_does_not(
    pool: Pool, guest: Connection, database: Database
) -> None:
    database.psql("insert into shop.users values (1, 'free'); alter table shop.users add column age int default 7")
    database.psql("update shop.users set plan = 'paid'")
    database.psql(
        "set session_replication_role = replica; update shop.users set plan = 'sneaked';"
        "reset session_replication_role; update shop.users set plan = 'next'"
    )
    versions = await reading.list_row_history(pool, "shop", "users", "1")
    assert [(v.mutation.op, v.gap) for v in versions] == [("update", True), ("update", False), ("insert", False)]
    assert [v.gap for v in await reading.list_row_history(pool, "shop", "users", "1", 1)] == [True]


async def test_a_table_is_named_as_in_sql(pool: Pool, guest: Connection, database: Database) -> None:
    database.psql("insert into shop.users values (1, 'free')")
    for text in ("users", "shop.users", '"users"', 'shop."users"', "USERS", " users "):
        assert len(await reading.list_row_history(pool, "shop", text, "1")) == 1, text


NO_TABLE = ["order", "public.users", "flux.execution", "pg_class", "", ".", "a.b.c", "users;", '"',
            "x" * 5000, "\0", "\ud800", "us'ers", '"us""ers"']  # fmt: skip


async def test_a_table_that_is_none_is_an_error_that_lists_them(pool: Pool, guest: Connection) -> None:
    for text in NO_TABLE:
        with pytest.raises(NoSuchTableError) as caught:
            found = await reading.list_row_history(pool, "shop", text, "1")
            raise AssertionError(f"{text!r} found {found}")
        assert len(caught.value.message) < 200
        if text == "order":
            assert caught.value.remedy == "the tables are shop.loose, shop.pairs, shop.users"


async def test_of_two_tables_with_one_name_the_tenants_is_meant(
    pool: Pool, guest: Connection, database: Database
) -> None:
    database.psql(
        "create schema other; create table other.users (id int primary key); insert into other.users values (1);"
        'create table other."Odd Name" (id int primary key); insert into other."Odd Name" values (1)'
    )
    assert await reading.list_row_history(pool, "shop", "users", "1") == []
    assert len(await reading.list_row_history(pool, "shop", "other.users", "1")) == 1
    for text in ("Odd Name", '"Odd Name"', 'other."Odd Name"'):
        assert len(await reading.list_row_history(pool, "shop", text, "1")) == 1
    with pytest.raises(NoSuchTableError, match="more than one") as caught:
        await reading.list_row_history(pool, "elsewhere", "users", "1")
    assert caught.value.remedy == "write one of other.users, shop.users"


async def test_a_key_of_several_columns_is_written_by_name(
    pool: Pool, guest: Connection, database: Database
) -> None:
    database.psql("insert into shop.pairs values ('x', 1, 2), ('x,c=2', 2, 3)")
    for text in ("a=1,b=x", "b=x,a=1", "a=01, b=x", "a= 1 ,b=x"):
        (version,) = await reading.list_row_history(pool, "shop", "pairs", text)
        assert version.mutation.key == '{"a":1,"b":"x"}', text
    (version,) = await reading.list_row_history(pool, "shop", "pairs", "a=2,b=x,c=2")
    assert version.mutation.key == '{"a":2,"b":"x,c=2"}'


NO_KEY = [
    ("users", "x", "invalid input syntax"), ("users", "", "invalid input syntax"),
    ("users", "99999999999999", "out of range"), ("users", "1.5", "invalid input syntax"),
    ("users", "\0", "not a key of shop.users"), ("users", "\ud800", "not a key of shop.users"),
    ("users", "id=x", "invalid input syntax"), ("users", "id=1,id=2", "its primary key is (id)"),
    ("pairs", "1", "its primary key is (a, b)"), ("pairs", "a=1", "its primary key is (a, b)"),
    ("pairs", "a=1,b=2,a=3", "its primary key is (a, b)"), ("pairs", "junk,a=1,b=2", "its primary key is"),
    ("pairs", "a=x,b=2", "invalid input syntax"), ("loose", "1", "has no primary key"),
]  # fmt: skip


async def test_a_key_that_does_not_fit_is_an_error_and_no_empty_history(pool: Pool, guest: Connection) -> None:
    for table, key, said in NO_KEY:
        with pytest.raises(KeyDoesNotFitError) as caught:
            found = await reading.list_row_history(pool, "shop", table, key)
            raise AssertionError(f"{key!r} of {table} found {found}")
        assert said in caught.value.message


async def test_the_version_that_a_snapshot_saw_is_found(pool: Pool, guest: Connection, database: Database) -> None:
    first, second = make_execution(), make_execution()
    await commit(guest, first, "insert into users values (1, 'free')")
    reader = await connect(database.options())
    await reader.begin("repeatable read")
    snapshot = await reader.fetch_value("select pg_current_snapshot()")
    await commit(guest, second, "update users set plan = 'paid'")
    # The reader's own statement is the oracle of what its snapshot saw.
    assert await reader.fetch_value("select plan from shop.users") == "free"
    version = await reading.find_row_writer(pool, "shop", "users", {"id": 1}, snapshot)
    assert version is not None
    assert (version.execution, version.mutation.after) == (first.id, '{"id":1,"plan":"free"}')
    assert await reading.find_row_writer(pool, "shop", "users", {"id": 2}, snapshot) is None
    await reader.rollback()
    await reader.aclose()
