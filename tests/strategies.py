"""Hypothesis strategies for Flux's nouns.

Written by hand: ``st.builds`` can't read the annotations of attrs classes, and what a
guest may put into a field is wider than what a field is meant for.
"""

import uuid

from hypothesis import strategies as st

from flux.execution import (
    Execution,
    Exited,
    Frame,
    Interrupted,
    Killed,
    Level,
    LimitInForce,
    LogLine,
    Raised,
    Read,
    Returned,
    StatementSnapshot,
    Transaction,
    Trigger,
)
from flux.hostcall import HostCall, HostCallError, HostCallRequest, HostCallResult, Position
from flux.mutation import Mutation, Operation

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
"""Any text that is Unicode: NUL and private characters included, lone surrogates not."""
HOSTILE_TEXT = st.text(st.characters(), max_size=20)
"""Lone surrogates included."""
BYTES = st.binary(max_size=40)
INTS = st.integers(-(2**63), 2**63 - 1)
NATURALS = st.integers(0, 2**63 - 1)
PAIRS = st.lists(st.tuples(TEXT, TEXT), max_size=3).map(tuple)

positions = st.builds(lambda *a: Position(*a), TEXT, st.integers(0, 10**6), TEXT)
frames = st.builds(lambda *a: Frame(*a), TEXT, INTS, TEXT, st.booleans(), TEXT)
triggers = st.builds(lambda *a: Trigger(*a), TEXT, TEXT, TEXT, TEXT, PAIRS, PAIRS, PAIRS, BYTES, PAIRS)
outcomes = st.one_of(
    st.builds(lambda *a: Returned(*a), st.integers(100, 599), PAIRS, BYTES),
    st.builds(
        lambda *a: Raised(*a),
        TEXT, TEXT, st.lists(frames, max_size=3).map(tuple), st.integers(100, 599), TEXT, BYTES,
        st.none() | NATURALS, TEXT,
    ),
    st.builds(lambda *a: Killed(*a), TEXT, TEXT, TEXT, TEXT),
    st.builds(lambda *a: Exited(*a), st.none() | INTS, st.none() | INTS, TEXT),
    st.builds(lambda reason: Interrupted(reason), TEXT),
)  # fmt: skip
requests = st.builds(
    lambda *a: HostCallRequest(*a),
    NATURALS, TEXT, BYTES, NATURALS, st.none() | positions, st.booleans(), st.none() | NATURALS,
)  # fmt: skip
errors = st.builds(lambda *a: HostCallError(*a), TEXT, TEXT, TEXT, BYTES)
results = st.builds(lambda *a: HostCallResult(*a), BYTES, st.none() | errors, INTS, INTS)
calls = st.builds(lambda *a: HostCall(*a), requests, st.none() | results, INTS, st.none() | NATURALS)
log_lines = st.builds(lambda *a: LogLine(*a), INTS, TEXT, TEXT, BYTES, st.none() | positions)
statement_snapshots = st.builds(lambda *a: StatementSnapshot(*a), NATURALS, TEXT, TEXT)
transactions = st.builds(
    lambda *a: Transaction(*a), TEXT, TEXT, st.none() | NATURALS, st.booleans(), NATURALS, INTS, TEXT,
    st.lists(statement_snapshots, max_size=2).map(tuple),
)  # fmt: skip
mutations = st.builds(
    lambda *a: Mutation(*a),
    TEXT, TEXT, st.none() | TEXT, st.sampled_from(Operation), st.none() | TEXT, st.none() | TEXT, st.booleans(),
    NATURALS, NATURALS, NATURALS, st.none() | NATURALS, INTS,
)  # fmt: skip
places = st.lists(st.tuples(TEXT, NATURALS), max_size=2).map(tuple)
reads = st.builds(lambda *a: Read(*a), NATURALS, TEXT, TEXT, places, places)
levels = st.builds(lambda *a: Level(*a), TEXT, TEXT, TEXT, TEXT)
limits = st.builds(lambda *a: LimitInForce(*a), TEXT, TEXT, TEXT)


def _some(strategy: st.SearchStrategy) -> st.SearchStrategy:  # type: ignore[type-arg]
    return st.lists(strategy, max_size=3).map(tuple)


executions = st.builds(
    lambda *a: Execution(*a),
    st.builds(lambda number: uuid.UUID(int=number), st.integers(0, 2**128 - 1)),
    TEXT, TEXT, TEXT, TEXT, st.booleans(), triggers, NATURALS, st.binary(min_size=32, max_size=32), levels,
    _some(limits), outcomes, NATURALS, _some(calls), _some(mutations), NATURALS, _some(log_lines), _some(transactions),
    _some(st.tuples(NATURALS, NATURALS, NATURALS)), _some(reads), _some(TEXT), st.none() | st.uuids(),
    st.integers(1, 10), st.none() | NATURALS, st.none() | NATURALS,
)  # fmt: skip
"""Executions with something of everything, and anything in it."""
