"""What tests share: two real servers, and databases of their own on them.

``postgres18`` (the wheel's) and ``postgres15`` (the system's) start once a session. A test that
must hold on both asks for ``postgres``. ``make_database`` gives a fresh database with Flux's
schema in it, copied from a template: that takes a tenth of a second. It is there until the file's
last test has ended.
"""

import gc
import os
import signal
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attrs
import pytest
import trio
from hypothesis import HealthCheck, settings

from flux.store.connect_options import ConnectOptions, TlsMode
from flux.store.migrate import prepare
from flux.store.postgres import Pool, connect
from tests.forks import Forker
from tests.postgres_server import PostgresServer, find_memory, older_bin_dir, running_postgres
from tests.suite_order import put_longest_first

# No deadline: how long an example takes says more about the machine's load than about Flux, and so does how long it is
# drawn. And a gate draws the same examples each time; whoever runs the tests at a desk draws new ones.
settings.register_profile(
    "flux", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize="CI" in os.environ
)
settings.load_profile("flux")


# A shell that runs the tests in the background has ctrl-c ignored, and children inherit that: a `flux tail` of a
# test would never end. With a handler of ours here, they begin with the system's own.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure() -> None:
    """Have folders of tests in memory where there is room: journals and clusters wait for a disk at each commit."""
    memory = find_memory()
    if memory is not None:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(memory))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with what takes longest where several processes share the tests; else leave them as they stand."""
    if hasattr(config, "workerinput"):
        put_longest_first(items)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Read the tests without looking through what was read of them: all of it stays."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_finish() -> None:
    """Have the tests that were read, which stay to the end, not looked through at each collection of what does not."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def flux_is_forked() -> Iterator[Forker]:
    """Have `tests.dev_process` fork its processes from one that has imported Flux: `tests.forks` says how, and why."""
    from tests import dev_process  # It needs this module, for `Database`.

    forker = Forker()
    dev_process.forker = None if os.environ.get("FLUX_TESTS_EXEC") else forker
    yield forker
    dev_process.forker = None
    forker.close()


@attrs.frozen
class Database:
    """A database for one test."""

    server: PostgresServer
    """Where it is."""
    name: str
    """Its name."""

    def psql(self, sql: str) -> str:
        """What a second client says."""
        return self.server.psql(sql, self.name)

    def options(self, user: str = "") -> ConnectOptions:
        """How to connect, as the superuser unless told otherwise."""
        return ConnectOptions(
            host=self.server.host, port=self.server.port, user=user or self.server.user, database=self.name,
            tls=TlsMode.DISABLE,
        )  # fmt: skip

    def pool(self, size: int = 4) -> Pool:
        """A pool of connections to it; close it in the test."""
        return Pool(self.options(), size)


LASTS_A_RUN = ("autovacuum=off",)
"""A database of a test is gone before its statistics are old; to look after all of them takes until the run's end."""


@pytest.fixture(scope="session")
def postgres18() -> Iterator[PostgresServer]:
    """The wheel's PostgreSQL 18."""
    with running_postgres(extra_settings=LASTS_A_RUN) as server:
        yield server


@pytest.fixture(scope="session")
def postgres15() -> Iterator[PostgresServer]:
    """The system's PostgreSQL 15, or a 16 where there is none."""
    with running_postgres(older_bin_dir(), LASTS_A_RUN) as server:
        yield server


@pytest.fixture(params=["postgres18", "postgres15"])
def postgres(request: pytest.FixtureRequest) -> PostgresServer:
    """Each of the two, one after the other."""
    server: PostgresServer = request.getfixturevalue(request.param)
    return server


_counter = iter(range(1_000_000))


def create_database(server: PostgresServer, template: str = "template0") -> Database:
    """A new database on ``server``."""
    name = f"t{next(_counter)}"
    # As files: through the log, which is the default, each of its pages is written twice.
    server.psql(f"create database {name} template {template} strategy file_copy")
    return Database(server, name)


_made: list[Database] = []
"""What `make_database` has given to the file of tests that runs."""


@pytest.fixture(scope="module", autouse=True)
def databases_of_a_file() -> Iterator[None]:
    """Drop what the file's tests were given once the last has ended: a database is 300 files, and many are made."""
    yield
    while _made:
        database = _made.pop()
        if Path(database.server.host).exists():  # Else its server has ended since, with all that it had.
            database.server.psql(f"drop database if exists {database.name} with (force)")


@pytest.fixture(scope="session")
def make_database() -> Callable[[PostgresServer], Database]:
    """Gives fresh databases with Flux's schema, each until the last test of the file has ended."""
    templates: dict[int, str] = {}

    def make(server: PostgresServer) -> Database:
        if server.pid not in templates:
            template = create_database(server)
            # In a thread of its own: tests under trio may ask for databases too.
            with ThreadPoolExecutor(1) as thread:
                thread.submit(trio.run, _prepare, template).result()
            templates[server.pid] = template.name
        database = create_database(server, templates[server.pid])
        _made.append(database)
        return database

    return make


async def _prepare(database: Database) -> None:
    connection = await connect(database.options())
    await prepare(connection)
    await connection.aclose()


@pytest.fixture
def database(postgres18: PostgresServer, make_database: Callable[[PostgresServer], Database]) -> Database:
    """A fresh database with Flux's schema on PostgreSQL 18."""
    return make_database(postgres18)
