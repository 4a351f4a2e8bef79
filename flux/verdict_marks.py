"""How a verdict on a replay is marked, on a terminal and on a page, and which verdicts are no finding.

The verdicts are words of `flux.verdict.Verdict`, which is not imported: the command line would wait for all that
judging takes.
"""

MARKS = {
    "passed": ("✓", "good"),
    "past it": ("✓", "good"),
    "identical": ("=", "good"),
    "changed": ("≠", "warn"),
    "same failure": ("✗", "bad"),
    "other failure": ("≠", "bad"),
    "diverged": ("⤳", "warn"),
    "outside": ("⏻", "warn"),
    "unfaithful": ("!", "bad"),
}
"""A mark, and whether the verdict is good, bad, or a reason to look twice."""
UNKNOWN = ("?", "warn")
"""Of any other: nothing was decided."""

FINE = frozenset({"passed", "past it", "identical"})
"""Verdicts that are no finding."""
STRICTLY_FINE = FINE - {"past it"}
"""The same for ``--strict``: what stopped early has not passed."""

FAITHFUL = frozenset({"identical", "same failure", "outside"})
"""Verdicts of a run on its own code that did what is on record."""

GRADE_WORDS = {"exact": "as recorded", "reordered": "as recorded, in another place", "changed": "changed"}
"""How a call compares with the record, where it has one."""
