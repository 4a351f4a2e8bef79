"""Which pages of other sites may read our answers: CORS, as the Fetch standard has it.

A browser asks before it lets a page use what another site answers. Nothing is allowed unless ``[http.cors]`` of
``flux.toml`` names the page's origin; where there is such a table, Flux alone answers these questions. This is the
browser's wall around its user, and none around us: a page may *send* a simple request whatever stands here, so a
function that trusts cookies still has to look at where a request comes from.

Pure: `answer_preflight` gives the answer to a question, `make_headers` what stands on any other answer.
"""

import re
from urllib.parse import urlsplit

import attrs

from flux.message import HttpResponse, RequestHead, problem

OWN = frozenset(
    {
        "access-control-allow-origin",
        "access-control-allow-credentials",
        "access-control-allow-methods",
        "access-control-allow-headers",
        "access-control-expose-headers",
        "access-control-max-age",
        "access-control-allow-private-network",
    }
)
"""Header fields that are the gateway's where there is ``[http.cors]``: two of one are none to a browser."""

EXPOSED = ("x-request-id", "flux-id", "retry-after")
"""Of our own headers, what a page may read besides those that are configured."""

_ORIGIN = re.compile(r"(?P<scheme>https?)://(?P<host>(?:\*\.)?[a-z0-9.-]+|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_DEFAULT_PORTS = {"http": "80", "https": "443"}


@attrs.frozen
class CorsRules:
    """The table ``[http.cors]``."""

    origins: tuple[str, ...] = ()
    """Origins as `normalise_origin` writes them, ``*`` in the place of labels below a name, or ``*`` alone: any."""

    methods: tuple[str, ...] = ()
    """Methods that pages may use; empty: those that the path answers."""

    headers: tuple[str, ...] = ("content-type",)
    """Header fields that pages may send, in lower case; ``*`` is any but ``authorization``."""

    expose: tuple[str, ...] = ()
    """Header fields of answers that pages may read, in lower case."""

    credentials: bool = False
    """Whether requests with cookies or a browser's own credentials are answered to the page."""

    max_age_s: float = 600
    """Seconds for which a browser may remember the answer to its question."""

    def allows(self, origin: str) -> bool:
        """Whether pages of ``origin``, as a browser writes it, may read answers."""
        if "*" in self.origins:
            return True
        normal = normalise_origin(origin)
        # An asterisk in what a client sends is no wildcard.
        if normal is None or "*" in normal:
            return False
        return any(normal == allowed or _is_below(normal, allowed) for allowed in self.origins)


def normalise_origin(text: str) -> str | None:
    """Return an origin in lower case and without its scheme's own port; None when it is none.

    ``*.`` may stand before the name. ``null``, which any sandboxed page has, is none.
    """
    text = text.lower()
    match = _ORIGIN.fullmatch(text)
    if match is None:
        return None
    try:
        hostname = urlsplit(text).hostname
    except ValueError:
        return None
    labels = match["host"].removeprefix("*.").split(".")
    if not hostname or (not match["host"].startswith("[") and not all(labels)):
        return None
    port = match["port"]
    suffix = "" if port is None or port == _DEFAULT_PORTS[match["scheme"]] else f":{int(port)}"
    return f"{match['scheme']}://{match['host']}{suffix}"


def read_field_name(text: str) -> str | None:
    """Return the name of a header field in lower case, or ``*``; None for what is no name."""
    return text.lower() if _NAME.fullmatch(text) else None


def is_preflight(head: RequestHead) -> bool:
    """Whether a browser asks, rather than somebody who wants the answer of an ``OPTIONS``."""
    return (
        head.method == "OPTIONS"
        and head.header("origin") is not None
        and head.header("access-control-request-method") is not None
    )


def answer_preflight(rules: CorsRules, head: RequestHead, allow: tuple[str, ...]) -> HttpResponse:
    """Return the answer to a browser's question; ``allow`` are the methods that the path answers.

    What it asks for is never repeated: it gets the list, and decides itself.
    """
    vary = ("vary", "origin, access-control-request-method, access-control-request-headers")
    origin = head.header("origin") or ""
    if not rules.allows(origin) or _count(head, "origin") != 1:
        refusal = problem(403, "FORBIDDEN", f'pages of "{origin[:200]}" may not use this: see [http.cors] in flux.toml')
        return attrs.evolve(refusal, headers=(*refusal.headers, vary))
    methods = tuple(method for method in allow if not rules.methods or method in rules.methods)
    headers = [
        ("access-control-allow-methods", ", ".join(methods)),
        ("access-control-allow-headers", ", ".join(rules.headers)),
        ("access-control-max-age", str(int(rules.max_age_s))),
        vary,
    ]
    return HttpResponse(204, tuple((name, value) for name, value in headers if value))


def make_headers(rules: CorsRules, head: RequestHead) -> tuple[tuple[str, str], ...]:
    """Return what stands on every answer to ``head``, refusals included."""
    any_origin = "*" in rules.origins
    # Which origin may read an answer follows from who asked, so no cache may give it to another. Not so for all.
    vary = () if any_origin else (("vary", "origin"),)
    origin = head.header("origin")
    if origin is None or not rules.allows(origin) or _count(head, "origin") != 1:
        return vary
    return (
        ("access-control-allow-origin", "*" if any_origin else origin),
        *((("access-control-allow-credentials", "true"),) if rules.credentials else ()),
        ("access-control-expose-headers", ", ".join((*EXPOSED, *rules.expose))),
        *vary,
    )


def _count(head: RequestHead, name: str) -> int:
    return sum(found == name for found, _ in head.headers)


def _is_below(origin: str, allowed: str) -> bool:
    """``https://a.b.example.com`` is below ``https://*.example.com``; ``https://example.com`` is not."""
    scheme, star, rest = allowed.partition("://*.")
    return bool(star) and origin.startswith(f"{scheme}://") and origin.endswith(f".{rest}")
