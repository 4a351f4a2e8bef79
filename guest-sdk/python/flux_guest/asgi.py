"""Serve an ASGI application (FastAPI, Starlette) from functions, as it is.

    from flux_guest import asgi
    from functions.shop.main import app     # app = FastAPI()

    asgi.wrap(app)

Each route of the application becomes a function with the name of its endpoint, so that lists, filters and bisects
tell one from another. The application still does its own routing, validation and middleware: Flux hands it the
request, in an execution of its own, and takes its answer. What its endpoints ask of the world goes through host calls,
as in any function, and `context` gives them ``ctx``.

Two things differ from a server that lives on. The application's lifespan is entered and left in each execution: what
it makes is an execution's own. And an exception that no handler of the application's answers is the function's own: it
is on record with its frames, and its database work is rolled back.
"""

import asyncio
import contextlib
import contextvars
import functools
import importlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlencode

from flux_guest._context import Context, Response
from flux_guest._registry import FUNCTIONS, RegistrationError, find_place, function

App = Callable[..., Coroutine[Any, Any, None]]
Message = Mapping[str, Any]

METHODS = ("DELETE", "GET", "OPTIONS", "PATCH", "POST", "PUT")
"""What a part of an application answers that does not say which methods it has. HEAD is GET's."""

HELD_BYTES_MAX = 1 << 20
"""Up to here an answer that comes in pieces is put together."""

_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(?::([a-z]+))?\}")
_REFUSED_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]+")

_context: contextvars.ContextVar[Context] = contextvars.ContextVar("flux context")


def context() -> Context:
    """Return the ``ctx`` of the execution in which an endpoint runs; LookupError outside of one."""
    return _context.get()


def wrap(app: App, *, at: str | None = None, **options: Any) -> None:
    """Make functions of an application's routes; ``options`` are those of `flux_guest.function`, for each of them.

    ``at`` is a route's path, ``"/shop/{rest...}"``, for an application that does not list its routes, or of
    which all is to be one function for each method. `RegistrationError` for one that lists none where it is not given.
    """
    _run_threads_in_place()
    routes = list(_list_routes(app)) if at is None else [("app", at, METHODS, app)]
    if not routes:
        raise RegistrationError(
            f"{app!r} lists no routes; say where it is to be: asgi.wrap(app, at='/{{rest...}}')"
        )
    taken: set[str] = set()
    given: list[str] = []
    for name, path, methods, endpoint in routes:
        for method in methods:
            route = f"{method} {path}"
            shape = re.sub(r"\{\w+", "{", route)
            if shape in taken:
                continue  # The application tells them apart by itself, in the order that it has them.
            taken.add(shape)
            handler = _make_handler(app, endpoint)
            given.append(_choose_name(name, method, find_place(handler), given))
            function(route, name=given[-1], **options)(handler)


def _list_routes(app: Any) -> Iterator[tuple[str, str, tuple[str, ...], Any]]:
    """Yield name, path, methods and endpoint of each route; of what is mounted, one for all below it."""
    for route in getattr(app, "routes", ()):
        inner = getattr(route, "app", None) if not hasattr(route, "endpoint") else None
        name = _REFUSED_IN_NAMES.sub("_", getattr(route, "name", "") or "") or "app"
        if hasattr(route, "endpoint"):
            # None: the endpoint is a class or an application that looks at the method itself. A WebSocket has no such
            # field.
            given = getattr(route, "methods", ())
            methods = METHODS if given is None else tuple(sorted(set(given) - {"HEAD"}))
            yield name, _translate(route.path), methods, route.endpoint
        elif inner is not None and hasattr(route, "path"):
            below = route.path.rstrip("/")
            name = _REFUSED_IN_NAMES.sub("_", below.strip("/")) or name
            yield name, _translate(f"{below}/{{rest:path}}"), METHODS, inner


def _translate(path: str) -> str:
    """Write a Starlette path as a route of Flux's that takes the same requests, or more."""
    segments = path.split("/")
    last = len(segments) - 1
    translated = []
    for index, segment in enumerate(segments):
        parameter = _PARAMETER.fullmatch(segment)
        if parameter and parameter[2] == "path" and index == last:
            translated.append(f"{{{parameter[1]}...}}")
        elif ":path}" in segment:  # Any number of segments, in the middle: all that follows is the application's.
            translated.append(f"{{rest{index}...}}")
            break
        elif parameter:
            translated.append(f"{{{parameter[1]}}}")
        elif "{" in segment:
            translated.append(f"{{part{index}}}")
        else:
            translated.append(quote(segment))
    return "/".join(translated)


def _choose_name(name: str, method: str, place: tuple[str, int], given: Collection[str]) -> str:
    """Return a name that no other function has: the endpoint's, with the method, with a number."""
    name = (name if re.match(r"[A-Za-z_]", name) else f"_{name}")[:80]
    for candidate in (name, f"{name}.{method.lower()}", *(f"{name}.{method.lower()}{n}" for n in range(2, 1000))):
        other = FUNCTIONS.get(candidate)
        # The module was imported in vain once, and is imported again: its functions are those of then.
        if candidate not in given and (other is None or (other.file, other.line) == place):
            return candidate
    raise RegistrationError(f"there are a thousand functions named {name}")


def _make_handler(app: App, endpoint: Any) -> Callable[[Context, Any], Awaitable[Response]]:
    async def handler(ctx: Context, _input: Any) -> Response:
        return await _serve(app, ctx)

    # A record's place is the endpoint's, where that is a function; an application or a class stands for itself here.
    with contextlib.suppress(RegistrationError):
        find_place(endpoint)
        functools.update_wrapper(handler, endpoint)
    return handler


async def _serve(app: App, ctx: Context) -> Response:
    """Have the application answer one request, inside of its lifespan."""
    token = _context.set(ctx)
    try:
        async with contextlib.AsyncExitStack() as stack:
            state = await stack.enter_async_context(_lifespan(app))
            answer = _Answer()
            task = asyncio.create_task(app(_make_scope(ctx, state), _Request(ctx, answer.ended).receive, answer.send))
            await answer.wait_begun(task)
            if not answer.is_stream:
                await task  # What the application does after its answer belongs to the execution, and may fail it.
                return ctx.response(bytes(answer.body), answer.status, answer.headers)
            ending = stack.pop_all()
            return ctx.response(_stream(answer, task, ending), answer.status, answer.headers)
    finally:
        _context.reset(token)


async def _stream(
    answer: "_Answer", task: "asyncio.Task[None]", ending: contextlib.AsyncExitStack
) -> AsyncIterator[bytes]:
    async with ending:
        async for piece in answer.read_pieces(task):
            yield piece
        await task


class _Request:
    """The request's side of the application: the body, then, once the answer is whole, that the client is gone."""

    def __init__(self, ctx: Context, answered: asyncio.Event) -> None:
        self._answered = answered
        self._pieces = aiter(ctx.request.stream()) if ctx.request.is_streamed else None
        self._body = b"" if ctx.request.is_streamed else ctx.request.body
        self._over = False

    async def receive(self) -> Message:
        if self._over:
            # A client that leaves before ends the execution from outside, and the application hears nothing.
            await self._answered.wait()
            return {"type": "http.disconnect"}
        if self._pieces is not None:
            async for piece in self._pieces:
                return {"type": "http.request", "body": piece, "more_body": True}
        self._over = True
        return {"type": "http.request", "body": self._body, "more_body": False}


class _Answer:
    """The answer's side: status, headers, and a body.

    Frameworks hand over in pieces what they could as well hand over whole, so a body is a stream only from
    `HELD_BYTES_MAX` on. A client sees no difference: it hears nothing before the function has ended.
    """

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, list[str]] = {}
        self.body = bytearray()
        self.is_stream = False
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue(1)
        self._begun = asyncio.Event()
        self.ended = asyncio.Event()
        """The last of the body was handed over."""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            for name, value in message.get("headers", ()):
                text = name.decode("latin-1").lower()
                if text != "content-length":  # Flux counts what it sends.
                    self.headers.setdefault(text, []).append(value.decode("latin-1"))
        elif message["type"] == "http.response.body":
            await self._take(bytes(message.get("body", b"")), message.get("more_body", False))
        else:
            raise RuntimeError(f"the application sends {message['type']!r}, which is nothing that Flux serves")

    async def _take(self, piece: bytes, more: bool) -> None:
        if not more:
            self.ended.set()
        if not self.is_stream:
            self.body += piece
            self.is_stream = more and len(self.body) > HELD_BYTES_MAX
            if self.is_stream or not more:
                self._begun.set()
            if not self.is_stream:
                return
            piece, self.body = bytes(self.body), bytearray()
        if piece:
            await self._pieces.put(piece)
        if not more:
            await self._pieces.put(None)

    async def wait_begun(self, task: "asyncio.Task[None]") -> None:
        """Wait until the body is there, or too long to wait for; raise what the application raised before that."""
        begun = asyncio.create_task(self._begun.wait())
        await asyncio.wait([task, begun], return_when=asyncio.FIRST_COMPLETED)
        if not self._begun.is_set():
            begun.cancel()
            await task
            raise RuntimeError("the application returned without an answer")

    async def read_pieces(self, task: "asyncio.Task[None]") -> AsyncIterator[bytes]:
        """Yield the body's pieces; raise what ends the application in the middle of them."""
        while True:
            piece = asyncio.create_task(self._pieces.get())
            await asyncio.wait([task, piece], return_when=asyncio.FIRST_COMPLETED)
            if not piece.done():
                piece.cancel()
                await task
                raise RuntimeError("the application returned in the middle of its answer")
            found = piece.result()
            if found is None:
                return
            yield found


@contextlib.asynccontextmanager
async def _lifespan(app: App) -> AsyncIterator[dict[str, Any]]:
    """Start the application and stop it; yield the state that it made.

    One that knows no lifespan raises at the first message, which the protocol takes for a no.
    """
    state: dict[str, Any] = {}
    questions: asyncio.Queue[Message] = asyncio.Queue()
    answers: asyncio.Queue[Message] = asyncio.Queue()
    scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": state}
    task = asyncio.create_task(app(scope, questions.get, answers.put))

    async def ask(what: str) -> None:
        questions.put_nowait({"type": f"lifespan.{what}"})
        answer = asyncio.create_task(answers.get())
        await asyncio.wait([task, answer], return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            answer.cancel()
        elif answer.result()["type"] == f"lifespan.{what}.failed":
            said = answer.result().get("message", "")
            with contextlib.suppress(Exception):  # It is raised below, where it is not only told.
                await task
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error
            raise RuntimeError(f"the application's {what} failed: {said}")

    await ask("startup")
    is_known = not task.done()
    try:
        yield state
    finally:
        if is_known:
            await ask("shutdown")
            await task


def _make_scope(ctx: Context, state: dict[str, Any]) -> dict[str, Any]:
    request = ctx.request
    host, _, port = (request.host or "").rpartition(":")
    if not port.isdigit():
        host, port = request.host or "", "443" if request.scheme == "https" else "80"
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": request.scheme or "http",
        "path": request.path,
        "raw_path": quote(request.path, safe="/%:@!$&'()*+,;=~").encode(),
        "query_string": urlencode(request.query_list).encode(),
        "root_path": "",
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in request.headers.items()],
        "client": (request.client, 0) if request.client else None,
        "server": (host, int(port)),
        "state": state.copy(),
    }


async def _run_in_place(call: Callable[..., Any], *arguments: Any, **_options: Any) -> Any:
    await asyncio.sleep(0)
    return call(*arguments)


def _run_threads_in_place() -> None:
    """Have ``def`` endpoints run where they are asked for.

    Frameworks send them to threads, by anyio. Functions have none, as their order would be nobody's;
    `asyncio.to_thread` does the same.
    """
    with contextlib.suppress(ImportError):
        threads = importlib.import_module("anyio.to_thread")
        threads.run_sync = _run_in_place  # type: ignore[attr-defined]
