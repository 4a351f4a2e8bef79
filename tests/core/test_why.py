"""What ``flux why`` says, record by record; the table is ``tests/failing_executions.py``."""

import json
import re
import shlex

import attrs
import pytest

from flux import why
from flux.evidence import INFERRED, RECORDED, Evidence, Fact, RowWriter
from flux.execution import Execution, Raised, Read, Returned
from flux.failure import Kind
from flux.hostcall import Position
from flux.mutation import Mutation, Operation
from flux.sanitize import sanitize
from tests.failing_executions import (
    ANSWERS,
    FAILING,
    HEALTHY,
    SIGNUP,
    Told,
    _peers,
    at,
    execution,
    frame,
    http,
    of_host_call,
    query,
    raised,
    refused,
    row,
)

EVERY = (*FAILING, *ANSWERS)


def told_of(name: str) -> Told:
    """The case of that name."""
    return next(told for told in EVERY if told.name == name)


def has(facts: tuple[Fact, ...], head: str, part: str) -> bool:
    return any(f"{fact.mark} {fact.rule}" == head and part in fact.text for fact in facts)


@pytest.mark.parametrize("told", EVERY, ids=[told.name for told in EVERY])
def test_an_explanation_has_the_facts_of_its_record(told: Told) -> None:
    explained = why.explain(told.whole)
    assert explained.failure is not None and explained.failure.kind == told.kind
    for head, part in told.facts:
        assert has(explained.facts, head, part), [f"{f.mark} {f.rule}: {f.text}" for f in explained.facts]
    assert told.verdict in explained.verdict_text[0]
    for part in told.next:
        assert any(part in step for step in explained.next), explained.next


@pytest.mark.parametrize("told", EVERY, ids=[told.name for told in EVERY])
def test_the_answer_names_the_line_in_its_second_line(told: Told) -> None:
    explained = why.explain(told.whole)
    if told.line is None:
        assert len(explained.verdict_text) == 1
    else:
        assert re.match(rf"functions/\w+\.py:{told.line} in \w+\(\)", explained.verdict_text[1])


def test_callers_stand_behind_the_failing_line() -> None:
    frames = [frame(line, function=f"f{line}") for line in range(1, 9)]
    text = why.explain(Evidence(execution(raised("E", "x", *frames)))).verdict_text[1]
    assert text.startswith(f"{SIGNUP}:8 in f8()  ←  {SIGNUP}:7 in f7()")
    assert text.endswith("←  3 more")


@pytest.mark.parametrize("healthy", HEALTHY)
def test_a_healthy_execution_is_said_to_have_no_failure(healthy: Execution) -> None:
    explained = why.explain(Evidence(healthy))
    assert explained.failure is None
    assert explained.verdict_text[0].startswith(f"no failure: it answered {healthy.status} in 14 ms")
    assert explained.next == (f"flux trace {healthy.name}",)


def test_what_a_healthy_execution_went_through_is_told() -> None:
    committed, caught = why.explain(Evidence(HEALTHY[2])), why.explain(Evidence(HEALTHY[3]))
    assert has(committed.facts, "● changes", "1 row change committed: it stays")
    assert has(caught.facts, "● caught-error", "call 3 (POST https://api.stripe.com/v1/charges) had failed")


def test_the_mutations_are_all_there_in_order() -> None:
    told = told_of("an exception in a helper, from a null that this execution wrote and an input that lacks a field")
    assert why.explain(told.whole).mutations == told.execution.mutations


def test_the_same_evidence_gives_the_same_explanation() -> None:
    for told in EVERY:
        assert why.explain(told.whole) == why.explain(told.whole)


def test_no_fact_is_said_twice() -> None:
    for told in EVERY:
        facts = why.explain(told.whole).facts
        assert len(set(facts)) == len(facts)


# --- what is not known -----------------------------------------------------------------------------


def test_when_the_record_does_not_tell_the_answer_is_that_it_does_not() -> None:
    silent = why.explain(Evidence(execution(Returned(500))))
    assert silent.verdict_text == (why.CANNOT_TELL,)
    assert has(silent.facts, "● returned", "nothing raised")
    nameless = why.explain(Evidence(execution(raised("Mystery", ""))))
    assert nameless.verdict_text == (why.CANNOT_TELL,)


def test_what_is_missing_from_the_record_or_could_not_be_looked_up_is_said() -> None:
    cut = execution(raised("E", "x", frame(1)), completeness=("the body was cut at 8 MiB",), mutation_count=3)
    facts = why.explain(Evidence(cut, unavailable=("the counts: FLX222 the connection broke",))).facts
    assert has(facts, "● completeness", "this record is not whole: the body was cut at 8 MiB")
    assert has(facts, "● unavailable", "could not be looked up: the counts: FLX222")
    assert has(facts, "● changes", "3 row changes in all; the record holds 0 of them")


def test_nothing_is_said_to_be_left_behind_or_not_when_only_some_changes_are_on_record() -> None:
    made = (row("insert", None, {"id": 1}, call=1),)
    cut = execution(raised("E", "x", frame(1)), mutations=made, mutation_count=2)
    facts = why.explain(Evidence(cut)).facts
    assert has(facts, "● changes", "1 row change was made and rolled back")
    assert not any("left behind" in fact.text for fact in facts)


def test_changes_that_were_committed_before_the_failure_stay() -> None:
    made = (row("insert", None, {"id": 1}, call=1, committed=True), row("insert", None, {"id": 2}, call=2))
    facts = why.explain(Evidence(execution(raised("E", "x", frame(1)), mutations=made))).facts
    assert has(facts, "● changes", "1 row change committed: it stays; 1 more rolled back")


def test_counts_without_an_earlier_deployment_name_this_one_alone() -> None:
    counted = Evidence(execution(raised("E", "x", frame(1))), count=why.Count("nogit-ab12cd34", 1, 1_200))
    (fact,) = [fact for fact in why.explain(counted).facts if fact.rule == "counts"]
    assert fact.text == "this failure: 1 of 1,200 POST /signup on ab12cd3"


@pytest.mark.parametrize(("having", "asked", "told"), [(20, 20, True), (18, 20, True), (17, 20, False), (2, 2, False)])
def test_neighbours_are_a_witness_only_when_nearly_all_agree(having: int, asked: int, told: bool) -> None:
    peers = (*_peers(having, plan="pro"), *_peers(asked - having))
    facts = why.explain(Evidence(execution(raised("E", "x", frame(1))), peers=peers)).facts
    assert any(fact.rule == "input-of-peers" for fact in facts) is told


def test_of_an_input_that_is_no_object_nothing_is_claimed() -> None:
    for body in (b"a=1&b=2", b"[1]", b'{"cut'):
        lacking = execution(raised("KeyError", "'plan'", frame(1, 'input["plan"]')), body=body)
        facts = why.explain(Evidence(lacking, peers=_peers(20, plan="pro"))).facts
        assert not any(fact.rule.startswith("input") for fact in facts)


def test_a_field_that_is_null_is_not_called_absent() -> None:
    null = execution(raised("KeyError", "None", frame(1, 'PRICES[input["plan"]]')), body=b'{"plan":null}')
    assert has(why.explain(Evidence(null)).facts, "● input-absent", "input.plan is null")


def test_a_value_counts_as_read_only_when_the_record_says_that_the_row_was_read() -> None:
    writer = RowWriter(1, "shop", "users", '{"id":42}', "plan", "null", None, "q81x0000")
    asked = query(1, "select plan from users", [], ["plan"], [[None]], position=at(3))
    unread = execution(raised("E", "x", frame(4)), asked)
    read = attrs.evolve(unread, reads=(Read(1, "shop", "users", (), (("plan", 0),)),))
    for record, told in ((unread, False), (read, True)):
        facts = why.explain(Evidence(record, row_writers=(writer,))).facts
        assert any(fact.rule == "value-read" for fact in facts) is told


def test_values_that_the_failure_speaks_of_come_first_and_the_others_are_counted() -> None:
    columns = ("a", "b", "c", "d", "plan")
    writers = tuple(RowWriter(1, "shop", "users", '{"id":1}', c, '"v"', None, "q81x0000") for c in columns)
    record = execution(
        raised("KeyError", "'v'", frame(4, 'PRICES[user["plan"]]')),
        query(1, "select * from users", [], list(columns), [["w"] * 5], position=at(3)),
        reads=(Read(1, "shop", "users", (), ()),),
    )
    plan_only = tuple(attrs.evolve(w, value='"w"') if w.column != "plan" else w for w in writers)
    texts = [f.text for f in why.explain(Evidence(record, row_writers=plan_only)).facts if f.rule == "value-read"]
    assert texts[0].startswith('call 1 read users[1].plan = "v", written by q81x0000')
    assert texts[1] == "who wrote 4 more values read here is known, too"


def test_a_value_that_is_no_name_is_not_missed_in_an_answer() -> None:
    record = execution(
        raised("KeyError", "'gift'", frame(4, 'PRICES[input["plan"]]')),
        query(1, "select id from users", [], ["id"], [[1]], position=at(3)), body=b'{"plan":"gift"}',
    )  # fmt: skip
    facts = why.explain(Evidence(record)).facts
    assert not any("gift" in fact.text and "no " in fact.text for fact in facts)
    assert has(facts, "● value-met", 'input.plan is "gift"')


def test_where_a_memory_error_has_a_line_no_other_is_named() -> None:
    facts = why.explain(told_of("the memory limit, met by the interpreter").whole).facts
    assert not any(fact.rule == "last-known" for fact in facts)


# --- hostile records -------------------------------------------------------------------------------

HOSTILE = ("'; rm -rf ~ #", "$(reboot)", "`id`", "\x1b[2J", "a\nb", "\u202eevil", "--help", "x" * 500, "", "\x00")


@pytest.mark.parametrize("text", HOSTILE)
def test_recorded_text_never_runs_when_a_command_is_pasted(text: str) -> None:
    key = json.dumps({"id": text})
    changed = Mutation("shop", text, key, Operation.INSERT, None, key, False, xid=1, call=1)
    error = refused("23505", text, detail=text, constraint=text, table=text, hint=text)
    bad = query(1, text, [text], [], [], error=error, position=Position(text, 3, text))
    record = execution(
        of_host_call("DatabaseError", bad, frame(3, text, function=text, file=text), cause=text),
        bad, http(2, text, text, 500, text), mutations=(changed,), function=text,
    )  # fmt: skip
    explained = why.explain(Evidence(
        record, peers=_peers(3), unavailable=(text,),
        row_writers=(RowWriter(1, text, text, key, text, key, key, text, text, text),),
    ))  # fmt: skip
    for step in explained.next:
        assert sanitize(step) == step
        words = shlex.split(step)
        assert words[0] == "flux"
        # A shell sees what we meant, word by word: nothing in it is its own syntax.
        unquoted = shlex.split(re.sub(r"'[^']*'|\"'\"", "Q", step))
        assert not re.search(r"[;$`|&<>()#~*?\n]", " ".join(unquoted)), step
    for line in (*explained.verdict_text, *(fact.text for fact in explained.facts)):
        assert sanitize(line) == line and "\n" not in line
        assert len(line) < 2_000


def test_a_module_that_no_package_has_is_offered_to_be_added() -> None:
    def steps(message: str, kind: str = "ModuleNotFoundError") -> list[str]:
        explained = why.explain(Evidence(execution(raised(kind, message, frame(3)))))
        return [step for step in explained.next if step.startswith("add to requirements.txt: ")]

    (step,) = steps("No module named 'numpy'")
    assert "the package that has numpy" in step
    for message in ("No module named 'numpy.nothing'", "No module named 'a; rm -rf /'", "no numpy here"):
        assert steps(message) == []
    assert steps("No module named 'numpy'", "ValueError") == []


def test_a_key_that_looks_like_an_option_is_no_option() -> None:
    negative = row("insert", None, {"id": -5}, call=1)
    explained = why.explain(Evidence(execution(raised("E", "x", frame(1)), mutations=(negative,))))
    assert "flux state history -- users -5" in explained.next


def test_composite_keys_are_written_as_the_command_reads_them() -> None:
    def step(key: dict[str, object]) -> list[str]:
        text = json.dumps(key)
        changed = Mutation("shop", "line", text, Operation.INSERT, None, text, False, xid=1, call=1)
        explained = why.explain(Evidence(execution(raised("E", "x", frame(1)), mutations=(changed,))))
        return [step for step in explained.next if "history" in step]

    assert step({"order": 7, "item": "mug"}) == ["flux state history line order=7,item=mug"]
    assert step({"order": 7, "item": "a,b=c"}) == []  # it would be read as two columns
    assert step({"email": "it's me"}) == ["flux state history line 'it'\"'\"'s me'"]


def test_only_commands_that_exist_are_offered() -> None:
    known = re.compile(
        r"flux (replay q?\w{8} --on \.|bug bisect q?\w{8}|trace q?\w{8}( --call \d+)?|trace d(iff q?\w{8}|ebug) q?\w{8}"
        r"|state history (-- )?\S+ .+|errors|explain FLX\d{3}|why \w{8}|queue retry [0-9a-f-]{36})"
        r"|add to (flux\.toml: \[functions\.\w+\] http = \[\"[^\"]+\"\]|\.env\.local: \w+=\.\.\.)"
    )
    for told in EVERY:
        for step in why.explain(told.whole).next:
            assert known.fullmatch(step), step


def test_marks_are_facts_or_named_rules() -> None:
    for told in EVERY:
        for fact in why.explain(told.whole).facts:
            assert fact.mark in (RECORDED, INFERRED) and re.fullmatch(r"[a-z]+(-[a-z]+)*", fact.rule)


def test_no_kind_of_failure_goes_without_a_word() -> None:
    for told in FAILING:
        explained = why.explain(told.whole)
        assert explained.verdict_text and explained.next
        plain = (Kind.UNHANDLED_EXCEPTION, Kind.HTTP_ERROR, Kind.INVALID_RESPONSE)
        assert explained.facts or told.kind in plain


def test_an_exception_that_a_query_without_rows_explains_only_by_chance_is_not_blamed_on_it() -> None:
    unrelated = execution(
        Raised("AttributeError", "'NoneType' object has no attribute 'strip'", (frame(9, "name = header.strip()"),)),
        query(1, "select total from orders", [], ["total"], [], position=at(5)),
    )
    explained = why.explain(Evidence(unrelated))
    assert explained.failure is not None and explained.failure.kind == Kind.UNHANDLED_EXCEPTION
    assert not any(fact.mark == INFERRED for fact in explained.facts)


def test_beside_its_limit_a_call_took_what_its_host_took_however_long_we_were_held_up() -> None:
    told = told_of("a time-out of an outbound call under Flux's default limit")
    calls = []
    for call in told.execution.calls:
        assert call.result is not None
        late = attrs.evolve(call.result, elapsed_ns=call.result.elapsed_ns + 400 * 10**6, held_up_ns=400 * 10**6)
        calls.append(attrs.evolve(call, result=late))
    said = why.explain(Evidence(attrs.evolve(told.execution, calls=tuple(calls))))
    assert any("was not answered in 10,000 ms" in fact.text for fact in said.facts)
