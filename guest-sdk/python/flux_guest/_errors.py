"""What a function may see raised, and what it may raise."""

from typing import Any

CODE_OF_STATUS = {
    400: "INPUT_VALIDATION_ERROR",
    401: "UNAUTHORIZED",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    409: "CONFLICT",
    413: "PAYLOAD_TOO_LARGE",
    429: "RATE_LIMITED",
    500: "FUNCTION_ERROR",
    502: "DEPENDENCY_ERROR",
    503: "OVERLOADED",
    504: "TIMEOUT",
}


class HTTPError(Exception):
    """Raise to answer with an HTTP error; the execution's database work is rolled back.

    ``HTTPError(404, "NOT_FOUND", "no such order")``. ``code`` defaults to the status's own.
    """

    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        if not 400 <= status <= 599:
            raise ValueError(f"an HTTPError has a status from 400 to 599, not {status}")
        self.status = status
        self.code = code or CODE_OF_STATUS.get(status, "CLIENT_ERROR" if status < 500 else "FUNCTION_ERROR")
        self.message = message
        super().__init__(message or self.code)


class ValidationError(HTTPError):
    """The input is not what the function asked for; answered with 400 and the violations."""

    def __init__(self, violations: list[dict[str, str]]) -> None:
        self.violations = violations
        """One ``{"path": "input.age", "message": "..."}`` for each thing wrong."""
        text = "; ".join(f"{item['path']}: {item['message']}" for item in violations)
        super().__init__(400, "INPUT_VALIDATION_ERROR", text)


class HostCallError(Exception):
    """The host could not do what was asked."""

    def __init__(self, name: str, message: str, code: str, details: dict[str, Any], call: int) -> None:
        super().__init__(message)
        self.name = name
        """Class of failure as the host names it."""
        self.code = code
        """A finer code: an SQLSTATE, an ``FLX`` code."""
        self.details = details
        """What the host knows beyond the message."""
        self.call = call
        """Number of the host call in this execution."""


class DatabaseError(HostCallError):
    """Postgres refused a statement; ``code`` is the SQLSTATE, e.g. 23505 for a unique violation."""


class GrantRefusedError(HostCallError):
    """The function has no grant for what it asked; ``flux.toml`` can give one."""


class HttpCallError(HostCallError):
    """An outbound HTTP request had no answer."""


class HttpTimeoutError(HttpCallError, TimeoutError):
    """An outbound HTTP request had no answer in time."""


class InvokeError(HostCallError):
    """An invoked function failed, or could not be run."""

    @property
    def type(self) -> str:
        """Class of what it raised, e.g. ``KeyError``; ``Killed`` or ``Exited`` when it raised nothing; else empty."""
        return str(self.details.get("type", ""))

    @property
    def status(self) -> int:
        """The HTTP status that its failure has: 404 of an `HTTPError` that it raised, 500 of another exception."""
        return int(self.details.get("status", 500))

    @property
    def execution(self) -> str:
        """Its execution's name, what ``flux why`` takes; empty when it never ran."""
        return str(self.details.get("execution", ""))


class DeadlockError(Exception):
    """The function waits for something that nothing will ever do."""


_CLASS_OF_NAME: dict[str, type[HostCallError]] = {
    "DatabaseError": DatabaseError,
    "GrantRefused": GrantRefusedError,
    "HttpTimeout": HttpTimeoutError,
}

_CLASS_OF_PREFIX: tuple[tuple[str, type[HostCallError]], ...] = (("Http", HttpCallError), ("Invoke", InvokeError))


def make_host_call_error(described: dict[str, Any], call: int) -> HostCallError:
    """Return the exception for an error that the host described."""
    name = described["name"]
    default = next((kind for prefix, kind in _CLASS_OF_PREFIX if name.startswith(prefix)), HostCallError)
    kind = _CLASS_OF_NAME.get(name, default)
    return kind(name, described["message"], described["code"], described["details"], call)
