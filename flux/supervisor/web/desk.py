"""Answers for the pages: who may see them, which one is meant, and in which form it is sent.

Everything here is asked for by a browser, so it is careful about who else could make one ask. Host, Origin and
``Sec-Fetch-Site`` are judged as the API's are; what acts takes an Origin of ours besides, which browsers send with
every POST and no page of another site can choose: a cookie alone, had by whatever way, acts on nothing.

Jinja is imported with the first page. Most servers never show one.
"""

import json
from collections.abc import Awaitable, Callable, Container, Mapping
from datetime import datetime
from functools import partial
from urllib.parse import quote, urlencode, urlsplit

import attrs

from flux.as_curl import write_curl
from flux.errors import FluxError
from flux.message import HttpRequest, HttpResponse, RawPath, RequestHead, problem
from flux.scopes import Scope, get_needed
from flux.supervisor.console_door import Door, without_port
from flux.supervisor.console_errors import describe_error
from flux.supervisor.console_query import read_query
from flux.supervisor.present import Document, encode
from flux.supervisor.web import gather
from flux.supervisor.web.events import EventStream
from flux.supervisor.web.files import find_file
from flux.supervisor.web.markdown import write_markdown
from flux.supervisor.web.page import Asked
from flux.supervisor.web.session import Sessions

API = "/_flux/api/"
NOWHERE = "http://127.0.0.1:4000"
"""Where functions are said to be by a console that belongs to no server."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types 'none'"
)
"""Nothing but what is served from here, no markup made by scripts, in nobody's frame."""
HEADERS = (
    ("content-security-policy", POLICY),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cache-control", "no-store"),
)
"""Of each answer."""
SESSION_BYTES_MAX = 4096
"""Of a body that brings a token."""
_HTML = ("content-type", "text/html; charset=utf-8")
_JSON = ("content-type", "application/json")
_TEXT = ("content-type", "text/plain; charset=utf-8")
_EVENTS = ("content-type", "text/event-stream")

AskApi = Callable[[list[str], HttpRequest], Awaitable[Document | HttpResponse]]
"""The API behind its door, by the words of a path."""
Gather = Callable[..., Awaitable[None]]


@attrs.frozen
class _Place:
    """An address below ``/_flux/``."""

    page: str
    """Name of what builds it, in `flux.supervisor.web.pages`."""
    gather: Gather
    allowed: tuple[str, ...] = ()
    """Parameters that it takes."""
    is_installations: bool = False
    """It is there on an installation's server alone."""
    progress: Gather | None = None
    """Of a page with a run: asks how far that is."""
    whole: Gather | None = None
    """Of a page that shows some of what there is: asks for all, which is its JSON."""


_PLACES = {
    "executions": _Place("executions", gather.gather_executions, ("q", "before")),
    "errors": _Place("errors", gather.gather_errors, ("since",)),
    "state": _Place("state", gather.gather_state, ("table", "key", "change", "time", "mark", "from", "to")),
    "deployments": _Place("deployments", gather.gather_deployments),
    "queue": _Place("queue", gather.gather_queue, ("state", "function")),
    "tenants": _Place("tenants", gather.gather_tenants, is_installations=True),
    "doctor": _Place("doctor", gather.gather_doctor),
    "i": _Place("incidents", gather.gather_incidents),
    "b": _Place("bisects", gather.gather_bisects),
    "b/*": _Place("bisect", gather.gather_bisect, progress=gather.gather_bisect),
    "cron/*": _Place("cron", gather.gather_cron),
    "d/*": _Place("diff", gather.gather_diff),
    "e/*": _Place(
        "execution", gather.gather_execution_page, ("from", "find", "rows"), whole=gather.gather_execution
    ),
    "x/*": _Place("debug", gather.gather_debug, ("at", "up", "expression", "watch")),
    "i/*": _Place("incident", gather.gather_incident, progress=gather.gather_incident_run),
}
"""By the words of an address; ``*`` is the name of something."""

_FORMS: Mapping[str, Container[str]] = {
    "json": _PLACES,
    "events": ("executions",),
    "curl": ("e/*",),
    "md": ("e/*",),
    "html": ("e/*",),
    "progress": [words for words, place in _PLACES.items() if place.progress is not None],
}
"""What a page's address may end with, and the pages that have it."""

_PAGE = ""
"""The form of what has none of these ends."""
_COPIES = ("curl", "md", "html")
"""Forms of an execution that are taken elsewhere."""

_ACTS = (
    ("executions", "*", "replay"), ("executions", "*", "pytest"), ("incidents",), ("incidents", "*", "replay"),
    ("incidents", "*", "replay", "cancel"), ("bisects", "*"), ("bisects", "*", "cancel"), ("rollback",),
    ("debugs", "*"), ("debugs", "*", "end"), ("queue", "*", "retry"), ("cron", "*", "pause"), ("cron", "*", "resume"),
)  # fmt: skip
"""What pages do beside showing: questions of the API."""


class WebDesk:
    """See the module."""

    def __init__(
        self, door: Door, ask: AskApi, now: Callable[[], datetime], url: str = NOWHERE,
        has_tenants: Callable[[], bool] = lambda: False,
    ) -> None:  # fmt: skip
        """``url``: where the functions are, on this machine; ``has_tenants``: whether it is an installation's,
        which may have some."""
        self._door = door
        self._ask = ask
        self._now = now
        self._functions = urlsplit(url)
        self._has_tenants = has_tenants
        self._sessions = Sessions()

    async def export(self, name: str) -> Document:
        """Return an execution's page as a file that is opened anywhere."""
        documents = gather.Documents(self._put)
        try:
            await gather.gather_execution(documents, {}, name)
        except _RefusedError as refused:
            raise AssertionError("what is asked here is answered, or raises") from refused
        from flux.supervisor.web import pages

        text = pages.render_file(documents.read, self._now()).decode()
        return {"schema": "flux.html/1", "execution": documents.read["trace"]["name"], "text": text}

    async def answer(self, path: list[str], request: HttpRequest) -> HttpResponse | None:
        """Answer what is below ``/_flux/`` and not the API's; None when nothing is there, and no page is wanted."""
        head = request.head
        answer = self._door.refuse_place(head) or await self._answer(path, request)
        if answer is None:
            return show_missing(head, no_such_path(head))
        return _with_headers(answer)

    async def _answer(self, path: list[str], request: HttpRequest) -> HttpResponse | None:
        head = request.head
        if path[0] == "static" and len(path) == 2 and head.method in ("GET", "HEAD"):
            return await find_file(path[1])
        if path == ["session"]:
            return await self._open_session(request)
        if path == ["session", "end"]:
            return self._refuse_act(head) or self._said({"schema": "flux.session/1"}, self._sessions.close(head))
        token = self._sessions.find_token(head)
        if path[0] == "act":
            return self._refuse_act(head) or await self._act(path[1:], request, token)
        return await self._show(path, request, token)

    # --- sessions ------------------------------------------------------------------------------------

    async def _open_session(self, request: HttpRequest) -> HttpResponse:
        if (refusal := self._refuse_act(request.head)) is not None:
            return refusal
        try:
            # Anybody may ask, so what is no token is not read.
            said = json.loads(request.body) if len(request.body) <= SESSION_BYTES_MAX else None
        except (ValueError, RecursionError):
            said = None
        token = said.get("token") if isinstance(said, dict) else None
        if not isinstance(token, str):
            return problem(400, "INPUT_VALIDATION_ERROR", "the body has a token, and nothing else",
                           extra={"remedy": '{"token": "..."}'})  # fmt: skip
        if (refusal := await self._door.refuse_token(token, Scope.READ)) is not None:
            return refusal
        return self._said({"schema": "flux.session/1"}, self._sessions.open(request.head, token))

    @staticmethod
    def _said(document: Document, cookie: str) -> HttpResponse:
        return HttpResponse(200, (_JSON, ("set-cookie", cookie)), encode(document))

    def _refuse_act(self, head: RequestHead) -> HttpResponse | None:
        """Refuse what does not come from a page of ours. That its Origin is ours was seen at the door."""
        if head.method != "POST":
            return _allow("POST", head)
        if head.header("origin") is None:
            return problem(403, "FORBIDDEN", "a page of the console says with its Origin where it comes from",
                           extra={"remedy": "programs use /_flux/api/ and a token"})  # fmt: skip
        return self._door.refuse_body(head)

    async def _act(self, path: list[str], request: HttpRequest, token: str | None) -> HttpResponse:
        if not any(_fits(form, path) for form in _ACTS):
            return problem(404, "NOT_FOUND", f"pages do nothing at {request.head.path[:500]}")
        if (refusal := await self._refuse(token, get_needed("POST", path[0]))) is not None:
            return refusal
        try:
            answer = await self._ask(path, request)
        except FluxError as error:
            return describe_error(error)
        return answer if isinstance(answer, HttpResponse) else HttpResponse(200, (_JSON,), encode(answer))

    async def _refuse(self, token: str | None, needed: Scope) -> HttpResponse | None:
        if token is None:
            return problem(401, "UNAUTHORIZED", "open the console with its link first",
                           extra={"remedy": "flux dev prints it; the token is in .flux/dev.json too"})  # fmt: skip
        return await self._door.refuse_token(token, needed)

    # --- pages ---------------------------------------------------------------------------------------

    async def _show(self, path: list[str], request: HttpRequest, token: str | None) -> HttpResponse | None:
        head = request.head
        words = path if path != [""] else ["executions"]
        form = next((end for end in _FORMS if words[-1].endswith(f".{end}")), _PAGE)
        if form != _PAGE:
            words = [*words[:-1], words[-1].removesuffix(f".{form}")]
        key = "/".join([words[0], *("*" for _ in words[1:])])
        place = _PLACES.get(key)
        if place is None or not all(words) or key not in _FORMS.get(form, _PLACES):
            return None
        if place.is_installations and not self._has_tenants():
            return None
        if head.method not in ("GET", "HEAD"):
            return _allow("GET", head)
        if (refusal := await self._refuse(token, get_needed("GET", words[0]))) is not None:
            return refusal if form != _PAGE else self._ask_for_token(refusal)
        if form == "events":
            return await self._follow(head)
        if form in _COPIES:
            return await self._copy(form, words[1], head)
        return await self._page(place, words, form, head)

    async def _page(self, place: _Place, words: list[str], form: str, head: RequestHead) -> HttpResponse:
        documents = gather.Documents(self._put)
        ask = {"progress": place.progress, "json": place.whole or place.gather}.get(form, place.gather)
        assert ask is not None, "only pages with a run have this form"
        try:
            query = read_query(head, place.allowed)
            await ask(documents, query, *words[1:])
        except _RefusedError as refused:
            return refused.answer if form != _PAGE else _show_problem(refused.answer)
        except FluxError as error:
            return describe_error(error) if form != _PAGE else _show_problem(describe_error(error))
        if form == "json":
            return HttpResponse(200, (_JSON,), _join(place.page, documents.written))
        from flux.supervisor.web import pages

        if form == "progress":
            return HttpResponse(200, (_JSON,), pages.render_progress(place.page, documents.read))
        asked = Asked("/".join(words), query, self._now(), self._has_tenants())
        return HttpResponse(200, (_HTML,), pages.render_page(place.page, documents.read, asked))

    async def _put(self, path: tuple[str, ...], query: Mapping[str, str]) -> bytes:
        """Ask the API; what it refuses is raised."""
        address = API + "/".join(path)
        head = RequestHead(
            method="GET", target=f"{address}?{urlencode(query)}", path=address, raw_path=RawPath(quote(address)),
            query=tuple(query.items()), headers=(), version="1.1", peer="",
        )  # fmt: skip
        answer = await self._ask(list(path), HttpRequest(head))
        if isinstance(answer, HttpResponse):
            raise _RefusedError(answer)
        return encode(answer)

    async def _copy(self, form: str, name: str, head: RequestHead) -> HttpResponse:
        """Return an execution to be taken elsewhere: its request as a command, what is known of it, or its page."""
        documents = gather.Documents(self._put)
        try:
            await gather.gather_execution(documents, read_query(head, ()), name)
            if form == "curl":
                # Under the name that the browser has used, and on the functions' port: this one has none.
                where = f"{self._functions.scheme}://{_name_of(head)}:{self._functions.port}"
                return _take(_TEXT, write_curl(documents.written["trace"].decode(), where))
        except _RefusedError as refused:
            return refused.answer
        except FluxError as error:
            return describe_error(error)
        if form == "md":
            return _take(_TEXT, write_markdown(documents.read["trace"], documents.read["why"]))
        from flux.supervisor.web import pages

        file = HttpResponse(200, (_HTML,), pages.render_file(documents.read, self._now()))
        called = f'attachment; filename="{documents.read["trace"]["name"]}.html"'
        return attrs.evolve(file, headers=(*file.headers, ("content-disposition", called)))

    async def _follow(self, head: RequestHead) -> HttpResponse:
        """Send executions as they end, as a browser's EventSource reads them."""
        try:
            query = read_query(head, ("q", "since"))
            # A browser that lost the connection says which event was its last; the page knows what it has already.
            since = head.header("last-event-id") or query.get("since", "")
            asked = attrs.evolve(head, query=(("q", query.get("q", "")), ("since", since), ("follow", "1")))
            answer = await self._ask(["tail"], HttpRequest(asked))
        except FluxError as error:
            return describe_error(error)
        assert isinstance(answer, HttpResponse), "a stream is no document"
        if isinstance(answer.body, bytes):
            return answer
        return HttpResponse(200, (_EVENTS,), EventStream(answer.body, self._now, partial(self._may_follow, head)))

    async def _may_follow(self, head: RequestHead) -> bool:
        try:
            return await self._refuse(self._sessions.find_token(head), Scope.READ) is None
        except FluxError:
            return False  # Nobody can say. The browser asks again, and hears of the failure.

    @staticmethod
    def _ask_for_token(refusal: HttpResponse) -> HttpResponse:
        from flux.supervisor.web import pages

        return HttpResponse(refusal.status, (_HTML,), pages.render_sign_in(_read_problem(refusal)))


def no_such_path(head: RequestHead) -> HttpResponse:
    """Return what is said where the console has nothing."""
    return problem(404, "NOT_FOUND", f"the console has nothing at {head.path[:500]}")


def show_missing(head: RequestHead, refusal: HttpResponse) -> HttpResponse | None:
    """Return ``refusal`` as a page; None where it is no browser that goes there.

    What programs fetch, a page's scripts included, does not name HTML as something to be answered with.
    """
    if head.method not in ("GET", "HEAD") or "text/html" not in (head.header("accept") or "").lower():
        return None
    return _with_headers(_show_problem(refusal))


def _with_headers(answer: HttpResponse) -> HttpResponse:
    own = {name for name, _ in answer.headers}
    return attrs.evolve(answer, headers=(*answer.headers, *(each for each in HEADERS if each[0] not in own)))


class _RefusedError(Exception):
    """The API answered with something else than a document."""

    def __init__(self, answer: HttpResponse) -> None:
        super().__init__(answer.status)
        self.answer = answer


def _show_problem(refusal: HttpResponse) -> HttpResponse:
    from flux.supervisor.web import pages

    return HttpResponse(refusal.status, (_HTML,), pages.render_problem(_read_problem(refusal)))


def _read_problem(answer: HttpResponse) -> Document:
    assert isinstance(answer.body, bytes), "problems are whole"
    said: Document = json.loads(answer.body)
    return said


def _allow(method: str, head: RequestHead) -> HttpResponse:
    refusal = problem(405, "METHOD_NOT_ALLOWED", f"{head.path[:500]} is asked with {method}")
    return attrs.evolve(refusal, headers=(*refusal.headers, ("allow", method)))


def _take(kind: tuple[str, str], text: str) -> HttpResponse:
    return HttpResponse(200, (kind,), text.encode("utf-8", "backslashreplace"))


def _name_of(head: RequestHead) -> str:
    name = without_port(head.header("host") or "")
    return f"[{name}]" if ":" in name else name


def _fits(form: tuple[str, ...], path: list[str]) -> bool:
    return len(form) == len(path) and all(each in ("*", word) for each, word in zip(form, path, strict=True))


def _join(page: str, written: Mapping[str, bytes]) -> bytes:
    """Put documents together as they came: no number in them is read and written again."""
    members = b",".join(json.dumps(name).encode() + b":" + document for name, document in written.items())
    return b'{"schema":"flux.page/1","page":%s,"documents":{%s}}' % (json.dumps(page).encode(), members)
