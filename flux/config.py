"""What ``flux.toml`` says, and where it says it.

`parse_config` takes the file's text and gives a frozen `Config`; it reads no
file itself. Everything that is wrong with the text is found in one go and
reported together, each problem with its line, what would be allowed and the
word that was probably meant: nobody should have to start Flux four times to
learn of four typos. An unknown key is an error, because a setting that is
silently ignored is found out in production.

A `Config` also remembers its origins: for each key, the line that set it or
the words "Flux's default". ``flux why`` needs them to say whose limit it was.

How to think about the code: a *table reader* takes one table, hands each known
key to a *value reader* and calls the other keys unknown. A value reader
returns the value or raises `RefusedValueError`; only the table reader knows paths
and lines.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import attrs

from flux.config_console import CONSOLE_KEYS, ConsoleConfig
from flux.config_gate import (
    FUNCTION_KEYS,
    HTTP_KEYS,
    HTTP_TABLES,
    GateConfig,
    check_function,
    read_gate,
    read_rate_limit,
)
from flux.config_telemetry import TELEMETRY_KEYS, TelemetryConfig
from flux.config_values import (
    RefusedValueError,
    ValueReader,
    did_you_mean,
    integer_between,
    is_function_name,
    list_of,
    name_type,
    one_of,
    read_database_url,
    read_duration_s,
    read_folder,
    read_function_name,
    read_host,
    read_project_name,
    read_redaction,
    read_route_prefix,
    read_schedule,
    read_size_bytes,
    read_time_zone,
)
from flux.errors import OperatorError
from flux.limits import Limits
from flux.rate_limit import RateLimit
from flux.toml_lines import KeyPath, dotted, find_key_lines

CONFIG_NAME = "flux.toml"
DEFAULT_ORIGIN = "Flux's default"


class ConfigError(OperatorError):
    """Something about ``flux.toml``. Never raised itself: its subclasses have the codes."""


class UnreadableConfigError(ConfigError):
    """The file is not TOML, or not text at all."""

    code = "FLX501"


class UnknownKeyError(ConfigError):
    """A key or table that Flux does not know."""

    code = "FLX502"


class WrongValueError(ConfigError):
    """A known key with a value of the wrong type, or outside what is allowed."""

    code = "FLX503"


class MissingKeyError(ConfigError):
    """A key without which the file says too little."""

    code = "FLX504"


class SeveralConfigProblemsError(ConfigError):
    """More than one problem: the message lists all of them, each with its own code."""

    code = "FLX509"

    def __init__(self, message: str, *, problems: tuple[ConfigError, ...], remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.problems = problems
        """Each problem as the error it would have been alone, in the order of lines."""


@attrs.frozen
class ProjectConfig:
    """The table ``[project]``."""

    name: str
    """What the project calls itself; also the name of its tenant until others are added."""

    functions: str = "functions"
    """Folder, relative to the project's, in which every module is loaded."""

    time_zone: str = "UTC"
    """Of schedules that name none."""


@attrs.frozen
class DevConfig:
    """The table ``[dev]``: what only ``flux dev`` reads."""

    port: int = 4000
    """TCP port on 127.0.0.1; 0 takes any free one."""


@attrs.frozen
class DatabaseConfig:
    """The table ``[database]``."""

    url: str = attrs.field(default="", repr=False)  # it may hold a password
    """Address of a Postgres; empty for the embedded one under ``.flux/``."""

    isolation: str = "repeatable read"
    """Isolation level of an execution's transaction, in Postgres' words."""


@attrs.frozen
class SandboxConfig:
    """The table ``[sandbox]``."""

    isolation: str = "strict"
    """"strict": every layer the machine offers, or no start. "core": the layers that every Linux has."""

    cgroups: str = "auto"
    """"auto": a control group for each deployment's processes where they are to be had. "required": or no start."""

    warm: int = 1
    """Requests that a worker serves before it is replaced; 1 is a fresh guest for each."""


@attrs.frozen
class HttpConfig:
    """The table ``[http]``."""

    allow: tuple[str, ...] = ()
    """Hosts that any function may reach."""

    middleware: tuple[str, ...] = ()
    """Names of the middleware around every route, outermost first."""


@attrs.frozen
class QueueConfig:
    """The table ``[queue]``."""

    concurrency: int = 8
    """Jobs that one server runs at once; 0: it runs none, and leaves them to others."""

    lease: float = 10.0
    """Seconds after which others take over the jobs of a server that has not been heard of."""


@attrs.frozen
class RecordingConfig:
    """The table ``[recording]``."""

    retention_days: int = 30
    """Days for which the record of an execution that succeeded is kept."""

    error_retention_days: int = 90
    """Days for which the record of an execution that failed is kept."""

    redact: tuple[str, ...] = ("header:authorization", "header:cookie")
    """What is blanked before anything is stored."""

    self_check_s: int = 30
    """Seconds between two executions that Flux replays by itself, to see that they repeat; 0: it does not."""


@attrs.frozen
class FunctionConfig:
    """A table ``[functions.NAME]``: what is set for one function only. None leaves the project's value."""

    http: tuple[str, ...] = ()
    """Hosts that this function may reach besides those that all may."""

    middleware: tuple[str, ...] | None = None
    """Names of the middleware to run before it, outermost first; None leaves the decorator's."""

    without: tuple[str, ...] = ()
    """Names of middleware that would stand around its route and is not to."""

    concurrency: int | None = None
    """Jobs of it that may run at once, over all servers; None: any number."""

    rate_limit: RateLimit | None = None
    """How often a client may ask for it, besides what holds for all."""

    auth: str | None = None
    """What it asks of a request: one of `flux.bearer.KINDS`; None: what all ask."""

    scopes: tuple[str, ...] = ()
    """Scopes that a token or key needs, all of them."""

    limits: Mapping[str, float | int] = attrs.field(factory=lambda: MappingProxyType({}))
    """Fields of `Limits` that this function has otherwise, by name."""


@attrs.frozen
class RoutesConfig:
    """One element of ``[[routes]]``: what is set for the routes below a path."""

    below: str
    """The path, from its slash on. It is compared with routes segment by segment."""

    middleware: tuple[str, ...] = ()
    """Names of the middleware around them, inside of what is around them already, outermost first."""

    without: tuple[str, ...] = ()
    """Names of middleware that is around them and is not to be."""


@attrs.frozen
class CronConfig:
    """One element of ``[[cron]]``."""

    function: str
    """Name of the function to start."""

    schedule: str
    """Five fields in cron's notation."""

    time_zone: str | None = None
    """Name of a time zone; None leaves the project's."""

    catch_up: str = "one"
    """What becomes of times that no server was there for: "skip", "one" or "all"."""


@attrs.frozen
class Config:
    """All that ``flux.toml`` says, defaults filled in."""

    project: ProjectConfig
    dev: DevConfig = DevConfig()
    database: DatabaseConfig = DatabaseConfig()
    limits: Limits = attrs.field(factory=Limits)
    sandbox: SandboxConfig = SandboxConfig()
    http: HttpConfig = HttpConfig()
    gate: GateConfig = attrs.field(factory=GateConfig)
    queue: QueueConfig = QueueConfig()
    recording: RecordingConfig = RecordingConfig()
    console: ConsoleConfig = attrs.field(factory=ConsoleConfig)
    telemetry: TelemetryConfig = attrs.field(factory=TelemetryConfig)
    functions: Mapping[str, FunctionConfig] = attrs.field(factory=lambda: MappingProxyType({}))
    """By function name, only those that have a table."""
    cron: tuple[CronConfig, ...] = ()
    """In the file's order."""
    routes: tuple[RoutesConfig, ...] = ()
    """Likewise."""
    origins: Mapping[str, str] = attrs.field(factory=lambda: MappingProxyType({}))
    """Where each key's value comes from: "limits.timeout" is at "flux.toml:12", or Flux's default."""

    def get_function(self, name: str) -> FunctionConfig:
        """What is set for this function; an empty `FunctionConfig` when nothing is."""
        return self.functions.get(name, FunctionConfig())

    def get_limits(self, function: str) -> Limits:
        """The limits of one function: Flux's, then the project's, then its own."""
        return attrs.evolve(self.limits, **self.get_function(function).limits)  # type: ignore[arg-type]

    def get_limit_origin(self, function: str, key: str) -> str:
        """Whose limit it is, by its key in the file ("timeout"): "flux.toml:12", or "Flux's default"."""
        own = self.origins.get(f"functions.{function}.{key}")
        return own if own is not None else self.origins.get(f"limits.{key}", DEFAULT_ORIGIN)

    def get_auth(self, function: str) -> str:
        """What one function asks of a request: what its table says, or what all ask."""
        return self.get_function(function).auth or self.gate.auth.require

    def get_http_allow(self, function: str) -> tuple[str, ...]:
        """Hosts that one function may reach, each once, the project's first."""
        return tuple(dict.fromkeys((*self.http.allow, *self.get_function(function).http)))


def parse_config(text: str, filename: str = CONFIG_NAME) -> Config:
    """The configuration that ``text`` describes; raise one `ConfigError` with every problem in it.

    ``filename`` is only for messages and origins.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _not_toml(error, text, filename) from error
    return _ConfigReader(document, find_key_lines(text), filename).read()


def describe_limit_key(field: str) -> str:
    """The key of the file that sets a field of `Limits`: "timeout_s" is set by "timeout"."""
    return next(key for key, (name, _) in LIMIT_KEYS.items() if name == field)


@attrs.frozen
class _Problem:
    """One thing that is wrong, and where."""

    line: int
    """Counted from 1; 0 when what is missing has no line."""

    path: KeyPath
    """The key that it is about."""

    error: ConfigError
    """How it is reported."""


class _ConfigReader:
    """Walks one document, collecting problems and origins on its way."""

    def __init__(self, document: Mapping[str, object], lines: Mapping[KeyPath, int], filename: str) -> None:
        self._document = document
        self._lines = lines
        self._filename = filename
        self._problems: list[_Problem] = []
        self._origins: dict[str, str] = {}

    def read(self) -> Config:
        self._refuse_unknown((), self._document, (*TABLES, "limits", "functions", "cron", "routes"))
        tables = {
            name: self.read_table((name,), keys, tables=_SUBTABLES.get(name, ())) for name, keys in TABLES.items()
        }
        http = {key: tables["http"].pop(key) for key in HTTP_KEYS if key in tables["http"]}
        gate = read_gate(self, http)
        limits = self.read_table(("limits",), {key: reader for key, (_, reader) in LIMIT_KEYS.items()})
        functions = self._read_functions(gate)
        cron = tuple(CronConfig(**entry) for entry in self._read_entries("cron", _CRON_KEYS, _CRON_EXAMPLES))
        routes = tuple(RoutesConfig(**entry) for entry in self._read_entries("routes", _ROUTES_KEYS, _ROUTES_EXAMPLES))
        if "name" not in tables["project"]:
            self.report_missing(("project",), "name", 'name = "shop" under [project]')
        if self._problems:
            raise self._as_one_error()
        return Config(
            project=ProjectConfig(**tables["project"]),
            dev=DevConfig(**tables["dev"]),
            database=DatabaseConfig(**tables["database"]),
            limits=Limits(**_as_limits(limits)),
            sandbox=SandboxConfig(**tables["sandbox"]),
            http=HttpConfig(**tables["http"]),
            gate=gate,
            queue=QueueConfig(**tables["queue"]),
            recording=RecordingConfig(**tables["recording"]),
            console=ConsoleConfig(**tables["console"]),
            telemetry=TelemetryConfig(**tables["telemetry"]),
            functions=MappingProxyType(functions),
            cron=cron,
            routes=routes,
            origins=MappingProxyType(self._origins),
        )

    def _read_functions(self, gate: GateConfig) -> dict[str, FunctionConfig]:
        functions = {}
        for name in self._get_table(("functions",), self._document):
            path = ("functions", name)
            if not is_function_name(name):
                remedy = "allowed: letters, digits, _ and -, no digit first"
                self._report(WrongValueError, path, "is no function name", remedy)
                continue
            values = self.read_table(path, _FUNCTION_KEYS, defaults=False, tables=("rate_limit",))
            auth, scopes = values.pop("auth", None), values.pop("scopes", ())
            check_function(self, gate, path, auth, scopes)
            functions[name] = FunctionConfig(
                auth=auth,
                scopes=scopes,
                http=values.pop("http", ()),
                middleware=values.pop("middleware", None),
                without=values.pop("without", ()),
                concurrency=values.pop("concurrency", None),
                rate_limit=read_rate_limit(self, (*path, "rate_limit")),
                limits=MappingProxyType(_as_limits(values)),
            )
        return functions

    def _read_entries(
        self, name: str, keys: Mapping[str, ValueReader], examples: Mapping[str, str]
    ) -> Iterator[dict[str, Any]]:
        """Yield the values of each table under ``[[name]]`` that has all keys of ``examples``, which it needs."""
        elements = self._document.get(name, [])
        if not isinstance(elements, list) or not all(isinstance(element, dict) for element in elements):
            remedy = f"allowed: tables, each under its own [[{name}]]"
            self._report(WrongValueError, (name,), f"is {name_type(elements)}", remedy)
            return
        for index in range(len(elements)):
            path = (name, index)
            values = self.read_table(path, keys, defaults=False)
            for key in examples:
                if key not in values:
                    self.report_missing(path, key, f'{key} = "{examples[key]}"')
            if values.keys() >= examples.keys():
                yield values

    def read_table(
        self, path: KeyPath, keys: Mapping[str, ValueReader], *, defaults: bool = True, tables: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        """The values of one table that could be read; the others are among the problems.

        ``tables`` are the tables that may stand in it, which are read on their own.
        """
        table = self._get_table(path, self._document)
        self._refuse_unknown(path, table, (*keys, *tables))
        values = {}
        for key, reader in keys.items():
            here = (*path, key)
            if key not in table:
                if defaults:
                    self._origins[dotted(here)] = DEFAULT_ORIGIN
                continue
            try:
                values[key] = reader(table[key])
            except RefusedValueError as refused:
                self._report(WrongValueError, here, refused.problem, refused.remedy)
            self._origins[dotted(here)] = f"{self._filename}:{self._line_of(here)}"
        return values

    def _get_table(self, path: KeyPath, document: object) -> Mapping[str, object]:
        """The table at ``path``, empty when there is none; something else in its place is a problem."""
        value: object = document
        for part in path:
            if isinstance(value, dict):
                value = value.get(str(part), {})
            elif isinstance(value, list) and isinstance(part, int):
                value = value[part]
        if isinstance(value, dict):
            return value
        self._report(WrongValueError, path, f"is {name_type(value)}", f"allowed: a table, [{dotted(path)}]")
        return {}

    def has_table(self, path: KeyPath) -> bool:
        """Whether something stands at ``path``; when it is no table, reading it says so."""
        value: object = self._document
        for part in path:
            if not isinstance(value, dict) or part not in value:
                return False
            value = value[part]
        return True

    def report_wrong(self, path: KeyPath, problem: str, remedy: str) -> None:
        """Add a problem with a value that is fine by itself."""
        self._report(WrongValueError, path, problem, remedy)

    def _refuse_unknown(self, path: KeyPath, table: Mapping[str, object], known: tuple[str, ...]) -> None:
        for key in table:
            if key not in known:
                where = f"[{dotted(path)}]" if path else f"the top of {self._filename}"
                meant = _ELSEWHERE.get(key) or did_you_mean(key, known) or _find_home(key)
                remedy = f"{meant}{where} knows {', '.join(known)}"
                self._report(UnknownKeyError, (*path, key), "is unknown", remedy)

    def _report(self, kind: type[ConfigError], path: KeyPath, problem: str, remedy: str) -> None:
        line = self._line_of(path)
        error = kind(f"{self._filename}:{line}  {dotted(path)} {problem}", remedy=remedy)
        self._problems.append(_Problem(line, path, error))

    def report_missing(self, path: KeyPath, key: str, example: str) -> None:
        """Add a problem, unless what stands there is spoken of already."""
        if self._has_problem_at(path) or self._has_problem_at((*path, key)):
            return
        line = self._lines.get(path)
        where = self._filename if line is None else f"{self._filename}:{line}"
        error = MissingKeyError(f"{where}  {dotted((*path, key))} is missing", remedy=f"write: {example}")
        self._problems.append(_Problem(line or 0, (*path, key), error))

    def _has_problem_at(self, path: KeyPath) -> bool:
        """Whether ``path`` is already spoken of, so that a wrong value is not called missing as well."""
        return any(problem.path == path for problem in self._problems)

    def _line_of(self, path: KeyPath) -> int:
        """The line of ``path``, or of the nearest table around it that has one."""
        while path not in self._lines:
            path = path[:-1]
        return self._lines[path]

    def _as_one_error(self) -> ConfigError:
        problems = tuple(found.error for found in sorted(self._problems, key=lambda found: found.line))
        if len(problems) == 1:
            return problems[0]
        # Each problem keeps its two lines, so that a list reads like the single errors do.
        listed = "\n".join(f"  {line}" for problem in problems for line in str(problem).splitlines())
        return SeveralConfigProblemsError(
            f"{self._filename} has {len(problems)} problems\n{listed}",
            problems=problems,
            remedy="flux explain with a code from the list says more",
        )


def _not_toml(error: tomllib.TOMLDecodeError, text: str, filename: str) -> UnreadableConfigError:
    """tomllib's own words, with the place moved to where every other message has it."""
    told = re.fullmatch(r"(?P<what>.*) \(at line (?P<line>\d+), column (?P<column>\d+)\)", str(error), re.S)
    if told is None:
        # "(at end of document)" is the only other place that tomllib names.
        line = text.count("\n") + (0 if text.endswith("\n") else 1)
        return UnreadableConfigError(f"{filename}:{max(line, 1)}  is not TOML: {error}", remedy=_TOML_REMEDY)
    what, where = told["what"], f"{filename}:{told['line']}:{told['column']}"
    remedy = next((remedy for words, remedy in _TOML_REMEDIES.items() if what.startswith(words)), _TOML_REMEDY)
    return UnreadableConfigError(f"{where}  is not TOML: {what}", remedy=remedy)


_TOML_REMEDY = 'text values stand in quotes: name = "shop"'
_IN_QUOTES = 'a name with other characters than A-Z, a-z, 0-9, _ and - stands in quotes: [functions."größe"]'
_TOML_REMEDIES: Mapping[str, str] = {
    "Cannot declare": "a table stands once: move what is in the second into the first",
    "Cannot overwrite": "a key stands once in its table: remove one of the two",
    "Expected ']' at the end of a table": f"a table is a name in brackets; {_IN_QUOTES}",
    "Invalid initial character for a key part": _IN_QUOTES,
}
"""By how tomllib's words begin."""

LIMIT_KEYS: Mapping[str, tuple[str, ValueReader]] = {
    "timeout": ("timeout_s", read_duration_s),
    "memory": ("memory_bytes_max", read_size_bytes),
    "host_calls": ("host_calls_max", integer_between(1, 1_000_000)),
    "body": ("body_bytes_max", read_size_bytes),
    "response": ("response_bytes_max", read_size_bytes),
    "log": ("log_bytes_max", read_size_bytes),
    "stream": ("stream_bytes_max", read_size_bytes),
}
"""Key in the file: the field of `Limits` and how its value is read."""

TABLES: Mapping[str, Mapping[str, ValueReader]] = {
    "project": {"name": read_project_name, "functions": read_folder, "time_zone": read_time_zone},
    "dev": {"port": integer_between(0, 65535)},
    "database": {
        "url": read_database_url,
        "isolation": one_of("repeatable read", "read committed", "serializable"),
    },
    "sandbox": {
        "isolation": one_of("strict", "core"),
        "cgroups": one_of("auto", "required"),
        "warm": integer_between(1, 1_000_000),
    },
    "http": {"allow": list_of(read_host), "middleware": list_of(read_function_name), **HTTP_KEYS},
    "queue": {"concurrency": integer_between(0, 1000), "lease": read_duration_s},
    "recording": {
        "retention_days": integer_between(1, 36_500),
        "error_retention_days": integer_between(1, 36_500),
        "redact": list_of(read_redaction),
        "self_check_s": integer_between(0, 86_400),
    },
    "console": CONSOLE_KEYS,
    "telemetry": TELEMETRY_KEYS,
}
"""The tables whose keys are the fields of their nouns."""

_SUBTABLES: Mapping[str, tuple[str, ...]] = {"http": HTTP_TABLES}
"""Tables that stand in those, and are read by whoever knows what they mean."""

_FUNCTION_KEYS: Mapping[str, ValueReader] = {
    "http": list_of(read_host),
    "middleware": list_of(read_function_name),
    "concurrency": integer_between(1, 1000),
    "without": list_of(read_function_name),
    **FUNCTION_KEYS,
    **{key: reader for key, (_, reader) in LIMIT_KEYS.items()},
}

_CRON_KEYS: Mapping[str, ValueReader] = {
    "function": read_function_name,
    "schedule": read_schedule,
    "time_zone": read_time_zone,
    "catch_up": one_of("skip", "one", "all"),
}
_CRON_EXAMPLES = {"function": "nightly", "schedule": "0 3 * * *"}
"""The keys that each entry needs."""

_ROUTES_KEYS: Mapping[str, ValueReader] = {
    "below": read_route_prefix,
    "middleware": list_of(read_function_name),
    "without": list_of(read_function_name),
}
_ROUTES_EXAMPLES = {"below": "/admin"}


def _as_limits(values: Mapping[str, Any]) -> dict[str, Any]:
    return {LIMIT_KEYS[key][0]: value for key, value in values.items()}


_SECRETS = "values that nobody should read are in no file of git's: flux secrets set NAME keeps one, or .env.local; "
_ELSEWHERE: Mapping[str, str] = {
    "secrets": _SECRETS, "secret": _SECRETS, "env": _SECRETS, "environment": _SECRETS,
    "schedule": 'a schedule is cron="0 3 * * *" of @function, or an entry of [[cron]]; ',
}  # fmt: skip
"""Hints for what other programs have in such a file, and Flux elsewhere."""


def _find_home(key: str) -> str:
    """A hint for a key that stands in the wrong table."""
    homes = [name for name, keys in {**TABLES, "limits": LIMIT_KEYS}.items() if key in keys]
    return f"it belongs under [{homes[0]}]; " if homes else ""
