"""The wall clock of one program, put back and forward from outside while the program runs.

A library stands between the program and the C library: whoever there asks for the time of day gets the machine's and
the seconds that a file holds. Python, and all that Python calls, asks through it; monotonic time is left as it is, as
the kernel leaves it where somebody sets the clock. The machine's own clock is everybody's, and is not touched.
"""

import subprocess
import sys
from pathlib import Path

SOURCE = """
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long offset(void) {
    char text[32] = {0};
    const char *path = getenv("STEPPED_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return 0;
    long got = read(file, text, sizeof text - 1);
    close(file);
    return got > 0 ? atol(text) : 0;
}

int clock_gettime(clockid_t id, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, id, now);
    if (!failed && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) now->tv_sec += offset();
    return failed;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec precise;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *now) {
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (now) *now = precise.tv_sec;
    return precise.tv_sec;
}
"""


def build_clock(folder: Path) -> Path:
    """Return the library, for LD_PRELOAD; the environment's STEPPED_CLOCK names the file with the seconds."""
    source, library = folder / "clock.c", folder / "clock.so"
    source.write_text(SOURCE)
    built = subprocess.run(
        [sys.executable, "-m", "ziglang", "cc", "-O1", "-shared", "-fPIC", "-o", library, source],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    return library
