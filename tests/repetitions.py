"""How often tests repeat what they draw at random: kills, damage, cuts, records.

The suite repeats each as often as its ten minutes or so allow. Whoever has more time multiplies that::

    FLUX_TEST_TIMES=10 ./test tests/faults/test_kill_9.py
"""

import os

TIMES = int(os.environ.get("FLUX_TEST_TIMES", "1"))
"""Factor to the numbers that the tests themselves name."""
