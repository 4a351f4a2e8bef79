"""numpy: its generators, those of modules and those of functions, and the order of what it sorts and sums."""

from typing import Any

import numpy
from flux_guest import Context, function

MODULE = numpy.random.default_rng()
SPAWNED = MODULE.spawn(2)
SEEDED = numpy.random.default_rng(4)
LEGACY = numpy.random.RandomState()
LEGACY.standard_normal()
BITS = numpy.random.Philox()
numpy.random.seed(17)


@function()
async def draws_with_numpy(ctx: Context, input: dict[str, Any]) -> Any:
    drawn = [
        *(MODULE.random(), SPAWNED[1].random(), SEEDED.random(), LEGACY.standard_normal(), int(BITS.random_raw())),
        *(numpy.random.rand(), numpy.random.standard_normal(), numpy.random.choice(input["list"], 3).tolist()),
        *(numpy.random.default_rng().random(), numpy.random.RandomState().rand(), numpy.random.SeedSequence().entropy),
    ]
    await ctx.db.execute("insert into drawn values ($1)", drawn[0])
    numpy.random.seed(None)
    return [*drawn, numpy.random.rand(), MODULE.permutation(9).tolist(), str(numpy.datetime64("now"))]


@function()
async def computes_with_numpy(ctx: Context, input: dict[str, Any]) -> Any:
    numbers = numpy.array(input["list"], dtype=float)
    matrix = numpy.outer(numbers, numbers) + numpy.eye(len(numbers))
    await ctx.db.execute("insert into computed values ($1)", float(numpy.linalg.norm(matrix)))
    return [
        *(numpy.argsort(numbers % 7).tolist(), numpy.unique(numbers % 5).tolist()),
        float(numpy.linalg.slogdet(matrix)[1]),
        *(numpy.fft.fft(numbers).real.tolist()[:3], float((matrix @ matrix).sum()), numpy.empty(0).tolist()),
    ]
