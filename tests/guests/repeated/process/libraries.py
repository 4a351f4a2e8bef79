"""What the standard library keeps between calls: caches, counters, generators, finalizers."""

import collections
import copy
import dataclasses
import decimal
import enum
import fractions
import functools
import hashlib
import heapq
import itertools
import json
import pickle
import re
import statistics
import zlib
from typing import Any

from flux_guest import Context, function


class Size(enum.Flag):
    SMALL, LARGE = 1, 2


@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    y: int


@functools.cache
def _square(number: int) -> int:
    return number * number


@function()
async def computes_with_the_standard_library(ctx: Context, input: dict[str, Any]) -> Any:
    numbers = input["list"]
    points = {Point(number % 7, number % 5) for number in numbers}
    text = json.dumps(numbers) + input["text"]
    await ctx.db.execute("insert into computed values ($1)", hashlib.sha256(text.encode()).hexdigest())
    return [
        *(statistics.fmean(numbers), str(decimal.Decimal(1) / 7), str(fractions.Fraction(numbers[0], 97))),
        *([dataclasses.astuple(point) for point in points], _square.cache_info().hits, list(map(_square, numbers))),
        *(heapq.nsmallest(3, numbers), re.findall(r"[a-f]\d", text), zlib.crc32(pickle.dumps(points))),
        *(str(Size.SMALL | Size.LARGE), list(collections.ChainMap({"a": 1}, {"b": 2}))),
        *(list(itertools.pairwise("abc")), copy.deepcopy({"a": numbers})["a"][:2]),
    ]  # fmt: skip


@function()
async def streams_through_generators(ctx: Context, input: dict[str, Any]) -> Any:
    left: list[Any] = []

    async def rows() -> Any:
        try:
            for number in range(5):
                yield number, await ctx.db.execute("update streamed set n = $1", number)
        finally:
            left.append(await ctx.db.execute("update streamed set n = $1", -1))

    seen = []
    async for number, affected in rows():
        seen.append((number, affected))
        if number == input["n"] % 4:
            break
    return [seen, left]
