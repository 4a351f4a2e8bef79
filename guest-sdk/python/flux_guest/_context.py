"""``ctx``: everything a function may ask of the host.

Each method sends one host call. In an ``async def`` handler it returns an
awaitable, in a ``def`` handler the answer itself; the door that it is given
(`flux_guest._doors`) is the difference and the only one.
"""

import copy
import datetime
import json as json_module
import re
from collections.abc import Awaitable, Callable, Mapping
from random import Random
from typing import Any, Protocol

from flux_guest import _values
from flux_guest._bodies import RequestStream
from flux_guest._digests import sha256
from flux_guest._errors import HTTPError


class Row(dict[str, Any]):
    """A row: a dict by column name, whose columns are attributes as well."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the row has no column {name!r}; it has {', '.join(self)}") from None


class _Door(Protocol):
    @property
    def is_async(self) -> bool:
        """Asking returns something to await."""

    def __call__(self, name: str, arguments: list[Any], convert: Callable[[Any], Any]) -> Any: ...


class _Host(Protocol):
    """The host, as far as it is asked and told without a door: at once, in every kind of handler."""

    @property
    def now_ns(self) -> int:
        """The time as of its last answer, in nanoseconds since the Unix epoch."""

    def call(self, name: str, arguments: list[Any]) -> Any:
        """Ask, and wait for the answer."""

    def tell(self, name: str, arguments: list[Any]) -> None:
        """Say something that has no answer."""


def _same(value: Any) -> Any:
    return value


class Request:
    """The HTTP request (or what stands for it) that made the function run."""

    def __init__(self, described: dict[str, Any], door: _Door) -> None:
        upload: dict[str, Any] | None = described.get("upload")
        self.method: str = described["method"]
        self.path: str = described["path"]
        self.params: dict[str, str] = dict(described["params"])
        """Path parameters."""
        self.query: dict[str, str] = dict(described["query"])
        """Query parameters; of a repeated one the last."""
        self.query_list: list[tuple[str, str]] = [(key, value) for key, value in described["query"]]
        """Query parameters in order, repeated ones included."""
        self.headers: dict[str, str] = {}
        """Header fields, names in lower case; repeated ones joined by a comma."""
        for key, value in described["headers"]:
            self.headers[key] = f"{self.headers[key]}, {value}" if key in self.headers else value
        body = _values.from_json(described["body"])
        self._body: bytes | None = None if upload else body.encode() if isinstance(body, str) else body
        self._door = door
        self.size: int = upload["bytes"] if upload else len(self._body or b"")
        """How many bytes the body has."""
        self.client: str | None = described.get("client")
        """The address of who made the request, through the proxies that ``flux.toml`` declares."""
        self.scheme: str | None = described.get("scheme")
        """``http`` or ``https``, as the client used it."""
        self.host: str | None = described.get("host")
        """Host, and port if there was one, as the client wrote it."""
        self.auth: dict[str, Any] | None = _values.from_json(described.get("auth"))
        """Who asks, as Flux has verified it before the function ran: ``kind`` ("jwt" or "api_key"), ``subject``, and
        ``claims`` or ``scopes``. None: nobody was verified."""

    @property
    def body(self) -> bytes:
        """The body as it came; RuntimeError where it is too large to hold: see `stream`."""
        if self._body is None:
            raise RuntimeError(
                f"the request's body has {self.size:,} bytes, more than is held (body under [limits]): "
                "read it with ctx.request.stream()"
            )
        return self._body

    @body.setter
    def body(self, body: bytes) -> None:
        self._body, self.size = body, len(body)

    @property
    def is_streamed(self) -> bool:
        """The body is too large to hold, so `stream` is the only way to it."""
        return self._body is None

    def stream(self) -> RequestStream:
        """Return the body piece by piece, whatever its size: ``async for piece in ctx.request.stream()``.

        In a ``def`` handler it is ``for piece in ctx.request.stream()``.
        """
        return RequestStream(self._door, self._body, self.size)

    def json(self) -> Any:
        """Return the body as JSON; raise `HTTPError` 400 when it is not."""
        try:
            return json_module.loads(self.body)
        except ValueError as error:
            raise HTTPError(400, "INPUT_VALIDATION_ERROR", f"the body is not JSON: {error}") from error


class Response:
    """An answer with its own status and headers, or the answer of an outbound request."""

    def __init__(self, body: Any = None, status: int = 200, headers: Mapping[str, Any] | None = None) -> None:
        self.body = body
        self.status = status
        self.headers: dict[str, Any] = dict(headers or {})
        """Header fields; a list of values sends the field once for each."""


class HttpResponse(Response):
    """The answer of an outbound request; ``body`` is bytes."""

    def json(self) -> Any:
        """Return the body as JSON; raise ValueError when it is not."""
        return json_module.loads(self.body)

    @property
    def text(self) -> str:
        """The body as UTF-8 text, undecodable bytes replaced."""
        return bytes(self.body).decode(errors="replace")

    @property
    def ok(self) -> bool:
        """The status is below 400."""
        return self.status < 400


def _rows(answer: Any) -> list[Row]:
    columns = answer["columns"]
    return [Row(zip(columns, row, strict=True)) for row in answer["rows"]]


def _first(answer: Any) -> Row | None:
    rows = answer["rows"]
    return Row(zip(answer["columns"], rows[0], strict=True)) if rows else None


def _affected(answer: Any) -> int:
    return int(answer["affected"])


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


class Transaction:
    """A transaction, or a savepoint inside the one that is open; for ``with`` and ``async with``."""

    def __init__(self, door: _Door, isolation: str | None) -> None:
        self._door = door
        self._isolation = isolation
        self._depth = 0

    async def __aenter__(self) -> "Transaction":
        self._check(asked=True)
        self._depth = await self._door("db.begin", [self._isolation], _same)
        return self

    async def __aexit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        await self._door("db.commit" if error is None else "db.rollback", [self._depth], _same)

    def __enter__(self) -> "Transaction":
        self._check(asked=False)
        self._depth = self._door("db.begin", [self._isolation], _same)
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        self._door("db.commit" if error is None else "db.rollback", [self._depth], _same)

    def _check(self, *, asked: bool) -> None:
        if asked and not self._door.is_async:
            raise TypeError("in a def handler a transaction is opened with: with ctx.db.transaction()")
        if self._door.is_async and not asked:
            raise TypeError("in an async def handler a transaction is opened with: async with ctx.db.transaction()")


class Table:
    """Short forms of common statements on one table: ``ctx.db.users.insert(email="a@b.com")``."""

    def __init__(self, database: "Database", name: str) -> None:
        self._database = database
        self._name = ".".join(_quote(part) for part in name.split("."))

    def _where(self, where: Mapping[str, Any], arguments: list[Any]) -> str:
        parts = []
        for column, value in where.items():
            if value is None:
                parts.append(f"{_quote(column)} is null")
            else:
                arguments.append(value)
                parts.append(f"{_quote(column)} = ${len(arguments)}")
        return " where " + " and ".join(parts) if parts else ""

    def insert(self, values: Mapping[str, Any] | None = None, /, **more: Any) -> Awaitable[Row]:
        """Insert one row; the answer is the row as stored."""
        row = {**(values or {}), **more}
        if not row:
            return self._database._one(f"insert into {self._name} default values returning *", [])
        columns = ", ".join(_quote(column) for column in row)
        marks = ", ".join(f"${number}" for number in range(1, len(row) + 1))
        return self._database._one(
            f"insert into {self._name} ({columns}) values ({marks}) returning *", list(row.values())
        )

    def find_one(self, where: Mapping[str, Any] | None = None, /, **more: Any) -> Awaitable[Row | None]:
        """Return the first row that equals ``where`` in each column, or None."""
        arguments: list[Any] = []
        clause = self._where({**(where or {}), **more}, arguments)
        return self._database._one(f"select * from {self._name}{clause} limit 1", arguments)

    def find_many(
        self,
        where: Mapping[str, Any] | None = None,
        /,
        *,
        order_by: str | None = None,
        limit: int | None = None,
        **more: Any,
    ) -> Awaitable[list[Row]]:
        """Return the rows that equal ``where``; ``order_by`` is a column, ``-column`` for descending."""
        arguments: list[Any] = []
        sql = f"select * from {self._name}{self._where({**(where or {}), **more}, arguments)}"
        if order_by is not None:
            sql += f" order by {_quote(order_by.lstrip('-'))}{' desc' if order_by.startswith('-') else ''}"
        if limit is not None:
            arguments.append(limit)
            sql += f" limit ${len(arguments)}"
        return self._database.query(sql, *arguments)

    def update(
        self, where: Mapping[str, Any], values: Mapping[str, Any] | None = None, /, **more: Any
    ) -> Awaitable[int]:
        """Set columns of the rows that equal ``where``; the answer is their number."""
        row = {**(values or {}), **more}
        if not row:
            raise ValueError("update needs at least one column to set")
        if not where:
            raise ValueError("update needs a condition; write SQL to change every row")
        arguments: list[Any] = list(row.values())
        sets = ", ".join(f"{_quote(column)} = ${number}" for number, column in enumerate(row, 1))
        clause = self._where(where, arguments)
        return self._database.execute(f"update {self._name} set {sets}{clause}", *arguments)

    def delete(self, where: Mapping[str, Any] | None = None, /, **more: Any) -> Awaitable[int]:
        """Delete the rows that equal ``where``; the answer is their number."""
        condition = {**(where or {}), **more}
        if not condition:
            raise ValueError("delete needs a condition; write SQL to delete every row")
        arguments: list[Any] = []
        clause = self._where(condition, arguments)
        return self._database.execute(f"delete from {self._name}{clause}", *arguments)


class Database:
    """The project's Postgres, one statement a call; parameters are ``$1``, ``$2`` ..."""

    def __init__(self, door: _Door) -> None:
        self._door = door

    def query(self, sql: str, *arguments: Any) -> Awaitable[list[Row]]:
        """Run ``sql`` and return its rows."""
        return self._door("db.query", [sql, list(arguments)], _rows)  # type: ignore[no-any-return]

    def query_one(self, sql: str, *arguments: Any) -> Awaitable[Any]:
        """Run ``sql`` and return its first row, or None when it has none."""
        return self._one(sql, list(arguments))

    def _one(self, sql: str, arguments: list[Any]) -> Awaitable[Any]:
        return self._door("db.query", [sql, arguments], _first)  # type: ignore[no-any-return]

    def execute(self, sql: str, *arguments: Any) -> Awaitable[int]:
        """Run ``sql`` and return the number of rows that it affected."""
        return self._door("db.execute", [sql, list(arguments)], _affected)  # type: ignore[no-any-return]

    def transaction(self, *, isolation: str | None = None) -> Transaction:
        """Open a transaction, or a savepoint inside the one that is open."""
        return Transaction(self._door, isolation)

    def __getattr__(self, name: str) -> Table:
        if name.startswith("_"):
            raise AttributeError(name)
        return Table(self, name)


_TEXT_TYPES = re.compile(r"charset|^text/|json", re.IGNORECASE)


class Http:
    """Outbound HTTP, to the hosts that ``flux.toml`` grants."""

    def __init__(self, door: _Door) -> None:
        self._door = door

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        body: bytes | str | None = None,
        timeout: float | None = None,
        redirects: int = 0,
    ) -> Awaitable[HttpResponse]:
        """Send a request and return the answer, whatever its status.

        ``timeout`` is in seconds. Raises `HttpTimeoutError`, `HttpCallError` or
        `GrantRefusedError` when there is no answer.
        """
        fields = [[str(key), str(value)] for key, value in (headers or {}).items()]
        if json is not None:
            if body is not None:
                raise ValueError("give json or body, not both")
            body = json_module.dumps(
                json, ensure_ascii=False, allow_nan=False, default=_values.default_for_body
            )
            if not any(key.lower() == "content-type" for key, _ in fields):
                fields.append(["content-type", "application/json"])
        options: dict[str, Any] = {
            "headers": fields,
            "body": body,
            "timeout_s": timeout,
            "redirects": redirects,
        }

        def convert(answer: Any) -> HttpResponse:
            content = answer["body"]
            merged: dict[str, str] = {}
            for key, value in answer["headers"]:
                merged[key] = f"{merged[key]}, {value}" if key in merged else value
            return HttpResponse(
                content.encode() if isinstance(content, str) else content, answer["status"], merged
            )

        return self._door("http.request", [method.upper(), url, options], convert)  # type: ignore[no-any-return]

    def get(self, url: str, **options: Any) -> Awaitable[HttpResponse]:
        """``request("GET", ...)``."""
        return self.request("GET", url, **options)

    def post(self, url: str, **options: Any) -> Awaitable[HttpResponse]:
        """``request("POST", ...)``."""
        return self.request("POST", url, **options)

    def put(self, url: str, **options: Any) -> Awaitable[HttpResponse]:
        """``request("PUT", ...)``."""
        return self.request("PUT", url, **options)

    def patch(self, url: str, **options: Any) -> Awaitable[HttpResponse]:
        """``request("PATCH", ...)``."""
        return self.request("PATCH", url, **options)

    def delete(self, url: str, **options: Any) -> Awaitable[HttpResponse]:
        """``request("DELETE", ...)``."""
        return self.request("DELETE", url, **options)


_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


class Clock:
    """The function's clock: it moves with the host's answers."""

    def __init__(self, door: _Door, channel: _Host) -> None:
        self._door = door
        self._channel = channel

    def now(self) -> datetime.datetime:
        """Return the time as of the last answer of the host, in UTC."""
        # In whole numbers: as a float, nanoseconds since 1970 have no exact microseconds.
        return _EPOCH + datetime.timedelta(microseconds=self._channel.now_ns // 1000)

    def fresh(self) -> Awaitable[datetime.datetime]:
        """Ask the host for the time."""
        return self._door("clock.now", [], lambda _answer: self.now())  # type: ignore[no-any-return]


MESSAGE_CHARACTERS_MAX = 256 * 1024
"""What is kept of one log message, and of one of its fields."""


class Log:
    """Structured log lines; they are part of the execution's record."""

    def __init__(self, channel: _Host) -> None:
        self._channel = channel

    def _write(self, level: str, message: str, fields: dict[str, Any]) -> None:
        shown = {_values.printable(key): _loggable(value) for key, value in fields.items()}
        text = str(message)
        if len(text) > MESSAGE_CHARACTERS_MAX:
            text = f"{text[:MESSAGE_CHARACTERS_MAX]}... ({len(text) - MESSAGE_CHARACTERS_MAX:,} characters more)"
        self._channel.tell("log.write", [level, _values.printable(text), shown])

    def debug(self, message: str, **fields: Any) -> None:
        """Log at level debug."""
        self._write("debug", message, fields)

    def info(self, message: str, **fields: Any) -> None:
        """Log at level info."""
        self._write("info", message, fields)

    def warning(self, message: str, **fields: Any) -> None:
        """Log at level warning."""
        self._write("warning", message, fields)

    def error(self, message: str, **fields: Any) -> None:
        """Log at level error."""
        self._write("error", message, fields)


def _loggable(value: Any) -> Any:
    """Return ``value`` if it can travel, else what Python shows of it: logging never fails a function."""
    try:
        if len(_values.encode(value)) <= MESSAGE_CHARACTERS_MAX:
            return value
    except (TypeError, ValueError, RecursionError):
        pass  # It can't travel; it can be shown.
    try:
        return _values.printable(repr(value)[:MESSAGE_CHARACTERS_MAX])
    except Exception as problem:  # a __repr__ of the user's
        return f"(can't be shown: {type(problem).__name__})"


USER_BYTES_MAX = 64 * 1024
"""PROTOCOL.md's, of ``ctx.user`` in JSON."""


class Secrets:
    """The project's secrets: ``ctx.secrets["NAME"]`` is a handle that the host replaces on the way out."""

    def __init__(self, channel: _Host, door: _Door) -> None:
        self._channel = channel
        self._door = door

    def __getitem__(self, name: str) -> str:
        handle = self._channel.call("secret.handle", [name])
        return str(handle)

    def reveal(self, name: str) -> Awaitable[str]:
        """Return the value itself, for code that must have it (an HMAC); the record keeps a token."""
        return self._door("secret.reveal", [name], _same)  # type: ignore[no-any-return]


def _plain_json(value: Any) -> Any:
    """Return ``value`` as JSON has it: what another function is handed is text in between."""
    return json_module.loads(
        json_module.dumps(value, ensure_ascii=False, allow_nan=False, default=_values.default_for_body)
    )


def _user_json(user: Any) -> Any:
    """Return ``user`` as JSON has it; raise TypeError or ValueError where that is nothing."""
    try:
        text = _values.encode_plain(user)
        size_bytes = len(text.encode())
    except (TypeError, ValueError, RecursionError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"ctx.user must have a form in JSON, as it goes on record: {error}") from error
    if size_bytes > USER_BYTES_MAX:
        raise ValueError(f"ctx.user has {size_bytes:,} bytes of JSON; {USER_BYTES_MAX:,} are allowed")
    return json_module.loads(text)


def _job(answer: Any) -> str:
    return str(answer["job"])


class Queue:
    """Work for later: each push is a job, an execution of its own."""

    def __init__(self, door: _Door) -> None:
        self._door = door

    def push(
        self,
        function: str,
        payload: Any = None,
        *,
        delay: float | datetime.timedelta | None = None,
        idempotency_key: str | None = None,
    ) -> Awaitable[str]:
        """Have ``function`` run with ``payload``, which is JSON, once this execution is committed; return the job's id.

        ``delay`` is in seconds. Pushed again with the same ``idempotency_key``, the job is the one of before.
        """
        if isinstance(delay, datetime.timedelta):
            delay = delay.total_seconds()
        options = {"delay_s": delay, "idempotency_key": idempotency_key}
        return self._door("queue.push", [function, _plain_json(payload), options], _job)  # type: ignore[no-any-return]


def _read_invoked(answer: Any) -> Any:
    body, kind = answer["body"], answer["content_type"].partition(";")[0].strip().lower()
    if kind == "application/json" or kind.endswith("+json"):
        return json_module.loads(body)
    if answer["status"] == 204 or (not kind and not body):
        return None
    is_text = _TEXT_TYPES.search(answer["content_type"]) is not None
    return body if is_text or isinstance(body, bytes) else body.encode()


class Context:
    """What a handler gets as ``ctx``."""

    def __init__(
        self, channel: _Host, door: _Door, described: dict[str, Any], seed: bytes
    ) -> None:
        self.request = Request(described, door)
        self.db = Database(door)
        self.http = Http(door)
        self.queue = Queue(door)
        self._door = door
        self.clock = Clock(door, channel)
        self._seed = seed
        self._random: Random | None = None
        self.log = Log(channel)
        self.secrets = Secrets(channel, door)
        self._channel = channel
        user = _values.from_json(described.get("user"))
        self._user: Any = self.request.auth if user is None else user
        self.execution: str = described["execution"]
        """This execution's name: what ``flux why`` takes."""

    @property
    def random(self) -> Random:
        """A `random.Random` seeded for this execution; a replay draws the same numbers."""
        if self._random is None:  # Its state is two pages, which most functions have no use for.
            self._random = Random(sha256(self._seed + b"ctx").digest())
        return self._random

    @random.setter
    def random(self, random: Random) -> None:
        self._random = random

    @property
    def user(self) -> Any:
        """Whom this runs for: what middleware has set, anything that has a form in JSON.

        Before anybody sets it, it is ``ctx.request.auth``; in a function that another one invokes, the user of that.
        """
        return self._user

    @user.setter
    def user(self, user: Any) -> None:
        self._channel.tell("user.set", [_user_json(user)])
        self._user = user

    def invoke(self, function: str, input: Any = None) -> Awaitable[Any]:
        """Run ``function`` on ``input``, which is JSON, in an execution of its own, and return what it answers.

        JSON as what it means, text as str, anything else as bytes, no body as None. Raises `InvokeError` when it fails.
        It runs for the same ``ctx.user``.
        """
        arguments = [function, _plain_json(input)]
        if self._user is not None:
            arguments.append({"user": _user_json(self._user)})
        return self._door("invoke", arguments, _read_invoked)  # type: ignore[no-any-return]

    def response(
        self, body: Any = None, status: int | None = None, headers: Mapping[str, Any] | None = None
    ) -> Response:
        """Return an answer with its own status and headers.

        ``body`` may be whatever a handler returns: an iterator of text or bytes too (a generator, ``async`` or not),
        which is written as it is made, whatever its size. It may also be such an answer: of that, ``status`` and
        ``headers`` take the place of what it has. So middleware makes one of what ``call_next()`` has returned. Without
        a status it is 200, or 204 where there is no body.
        """
        if isinstance(body, Response):
            answer = copy.copy(body)
            answer.status = body.status if status is None else status
            answer.headers = {**body.headers, **(headers or {})}
            return answer
        if status is None:
            status = 204 if body is None else 200
        return Response(body, status, headers)

    def error(self, status: int, code: str = "", message: str = "") -> HTTPError:
        """Return an `HTTPError` to raise: ``raise ctx.error(409, "CONFLICT", "taken")``."""
        return HTTPError(status, code, message)
