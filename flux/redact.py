"""What must not be stored, and what stands in its place.

Rules come from ``flux.toml``: header fields, JSON paths and columns. Whatever
matches is replaced by a *token* before anything is written down, to the journal
included. A token follows from the value and the execution's own seed, so equal
values have equal tokens within one execution (a replay still matches) and tell
nothing across executions.

Values of secrets are hidden wherever they occur, by the caller's ``hide``.

It fails closed: what can't be examined is replaced whole. A `Redactor` belongs
to one execution.
"""

import hashlib
import hmac
import json
import re
from collections.abc import Callable, Iterable

import attrs
import msgspec

from flux import values
from flux.execution import LogLine, Raised, Returned, Trigger
from flux.hostcall import HostCallError, HostCallRequest, HostCallResult
from flux.mutation import Mutation

ALWAYS = frozenset({"authorization", "cookie", "set-cookie", "proxy-authorization"})
"""Header fields that are redacted whatever ``flux.toml`` says: they carry sessions by definition."""

UNEXAMINED = "redacted:unexamined"
"""Stands for what could not be read, and so could not be shown to be harmless."""

_JSON_PATH = re.compile(r"\$((?:\.[A-Za-z_][A-Za-z0-9_-]*|\.\*|\[(?:\*|[0-9]{1,9})\])+)\Z")
_STEP = re.compile(r"\.([A-Za-z_][A-Za-z0-9_-]*|\*)|\[(\*|[0-9]+)\]")

Hide = Callable[[bytes], bytes]


@attrs.frozen
class RedactionRules:
    """What is to be replaced."""

    headers: frozenset[str] = ALWAYS
    """Names of header fields in lower case."""
    json_paths: tuple[tuple[str, ...], ...] = ()
    """Steps from the top of a JSON document; ``*`` is any member or element, digits are an element."""
    columns: frozenset[tuple[str, str]] = frozenset()
    """(table, column), the table without its schema."""

    @classmethod
    def parse(cls, texts: Iterable[str]) -> "RedactionRules":
        """Read rules as `flux.config` has checked them: ``header:x``, ``json:$.a.b``, ``column:t.c``."""
        headers, paths, columns = set(ALWAYS), [], set()
        for text in texts:
            kind, _, what = text.partition(":")
            if kind == "header":
                headers.add(what.lower())
            elif kind == "json":
                match = _JSON_PATH.match(what)
                assert match is not None, f"flux.config let the JSON path {what!r} through"
                paths.append(tuple(name or index for name, index in _STEP.findall(match[1])))
            else:
                table, _, column = what.rpartition(".")
                columns.add((table.rpartition(".")[2], column))
        return cls(frozenset(headers), tuple(paths), frozenset(columns))


def _nothing_hidden(data: bytes) -> bytes:
    return data


class Redactor:
    """Redacts the parts of one execution."""

    def __init__(self, rules: RedactionRules, seed: bytes, hide: Hide = _nothing_hidden) -> None:
        self._rules = rules
        self._key = hashlib.sha256(b"redaction" + seed).digest()
        self._hide = hide

    def token(self, value: str | bytes) -> str:
        """Return what stands for ``value``: the same for the same value within this execution."""
        data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
        return "redacted:" + hmac.new(self._key, data, hashlib.sha256).hexdigest()[:12]

    # Parts of an execution

    def trigger(self, trigger: Trigger) -> Trigger:
        """Return the trigger as it may be stored."""
        return attrs.evolve(
            trigger,
            path=self._text(trigger.path),
            params=self._pairs(trigger.params),
            query=self._pairs(trigger.query),
            headers=self._headers(trigger.headers),
            body=self._body(trigger.body),
        )

    def request(self, request: HostCallRequest) -> HostCallRequest:
        """Return the question as it may be stored."""
        arguments = self._hide(request.arguments)
        if request.name == "http.request":
            arguments = self._http_arguments(arguments)
        elif self._rules.json_paths and request.name.startswith("db."):
            arguments = self._database_arguments(arguments)
        return request if arguments is request.arguments else attrs.evolve(request, arguments=arguments)

    def result(self, request: HostCallRequest, result: HostCallResult) -> HostCallResult:
        """Return the answer as it may be stored."""
        if request.name == "secret.reveal" and result.error is None:
            value = self._hide(result.value)
            if value == result.value:  # A value so short or odd that hiding did not find it.
                value = values.encode(self.token(result.value))
            return attrs.evolve(result, value=value)
        value = self._hide(result.value)
        if request.name == "http.request" and result.error is None:
            value = self._http_answer(value)
        elif self._rules.columns and request.name == "db.query" and result.error is None:
            value = self._rows(value)
        error = result.error
        if error is not None:
            error = self._error(error)
        if value is result.value and error is result.error:
            return result
        return attrs.evolve(result, value=value, error=error)

    def log(self, line: LogLine) -> LogLine:
        """Return the log line as it may be stored."""
        return attrs.evolve(line, message=self._text(line.message), fields=self._json(self._hide(line.fields)))

    def returned(self, outcome: Returned) -> Returned:
        """Return the answer to the client as it may be stored."""
        return attrs.evolve(outcome, headers=self._headers(outcome.headers), body=self._body(outcome.body))

    def raised(self, outcome: Raised) -> Raised:
        """Return the failure as it may be stored."""
        return attrs.evolve(
            outcome,
            message=self._text(outcome.message),
            cause=self._text(outcome.cause),
            violations=self._hide(outcome.violations),
        )

    def mutation(self, mutation: Mutation) -> Mutation:
        """Return the row change as it may be stored."""
        names = {column for table, column in self._rules.columns if table == mutation.table}
        before, after = self._image(mutation.before, names), self._image(mutation.after, names)
        if before is mutation.before and after is mutation.after:
            return mutation
        return attrs.evolve(mutation, before=before, after=after)

    # Their parts

    def _text(self, text: str) -> str:
        data = text.encode("utf-8", "surrogatepass")
        hidden = self._hide(data)
        return text if hidden == data else hidden.decode("utf-8", "surrogatepass")

    def _pairs(self, pairs: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        paths = self._rules.json_paths
        return tuple(
            (name, self.token(value) if (name,) in paths else self._text(value)) for name, value in pairs
        )

    def _headers(self, headers: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        names = self._rules.headers
        return tuple(
            (name, self.token(value) if name.lower() in names else self._text(value))
            for name, value in headers
        )

    def _body(self, body: bytes) -> bytes:
        """A body on its way in or out: JSON paths hold in it when it is JSON."""
        body = self._hide(body)
        return self._json(body) if self._rules.json_paths and body else body

    def _json(self, data: bytes) -> bytes:
        paths = self._rules.json_paths
        if not paths or (data[:1] not in (b"{", b"[") and data.lstrip()[:1] not in (b"{", b"[")):
            return data
        try:
            document = json.loads(data)
        except ValueError:
            # Not JSON after all, although it begins like it: a rule might have meant something in it.
            return UNEXAMINED.encode() if any(path[-1].encode() in data for path in paths) else data
        except RecursionError:
            return UNEXAMINED.encode()
        changed = [self._replace(document, path) for path in paths]
        if not any(changed):
            return data
        return json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass")

    def _replace(self, node: object, path: tuple[str, ...]) -> bool:
        step, rest = path[0], path[1:]
        if isinstance(node, dict):
            keys = list(node) if step == "*" else [step] if step in node else []
            items: Iterable[tuple[object, object]] = [(key, node[key]) for key in keys]
        elif isinstance(node, list) and step == "*":
            items = list(enumerate(node))
        elif isinstance(node, list) and step.isdigit() and int(step) < len(node):
            items = [(int(step), node[int(step)])]
        else:
            return False
        changed = False
        for key, value in items:
            if rest:
                changed |= self._replace(value, rest)
            elif value is not None:
                node[key] = self.token(json.dumps(value, sort_keys=True))  # type: ignore[call-overload]
                changed = True
        return changed

    def _http_arguments(self, data: bytes) -> bytes:
        arguments = values.decode(data)
        match arguments:
            case [_, _, dict() as options]:
                headers = options.get("headers")
                if isinstance(headers, list):
                    options["headers"] = [self._header_pair(pair) for pair in headers]
                options["body"] = self._any_body(options.get("body"))
                return values.encode_canonical(arguments)
        return data  # Malformed: it was refused, and nothing of it was sent.

    def _http_answer(self, data: bytes) -> bytes:
        answer = values.decode(data)
        assert isinstance(answer, dict)
        answer["headers"] = [self._header_pair(pair) for pair in answer["headers"]]
        answer["body"] = self._any_body(answer["body"])
        return values.encode(answer)

    def _header_pair(self, pair: object) -> object:
        match pair:
            case [str(name), value] if name.lower() in self._rules.headers:
                return [name, self.token(str(value))]
        return pair

    def _any_body(self, body: object) -> object:
        if not self._rules.json_paths or not isinstance(body, str | bytes) or not body:
            return body
        data = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
        redacted = self._json(data)
        return body if redacted is data else values.text_or_bytes(redacted)

    def _database_arguments(self, data: bytes) -> bytes:
        arguments = values.decode(data)
        match arguments:
            case [str(), list() as parameters]:
                changed = False
                for index, parameter in enumerate(parameters):
                    if isinstance(parameter, dict | list):
                        parts = [self._replace(parameter, path) for path in self._rules.json_paths]
                        changed |= any(parts)
                    elif isinstance(parameter, str) and parameter[:1] in ("{", "["):
                        parameters[index] = self._any_body(parameter)
                        changed |= parameters[index] is not parameter
                return values.encode_canonical(arguments) if changed else data
        return data

    def _rows(self, data: bytes) -> bytes:
        """Rows carry their columns' names but not their tables': a column's name alone decides."""
        names = {column for _, column in self._rules.columns}
        answer = values.decode(data)
        assert isinstance(answer, dict)
        hidden = [index for index, name in enumerate(answer["columns"]) if name in names]
        if not hidden:
            return data
        for row in answer["rows"]:
            for index in hidden:
                if row[index] is not None:
                    row[index] = self.token(values.encode_canonical(row[index]))
        return values.encode(answer)

    def _image(self, image: str | None, names: set[str]) -> str | None:
        if image is None:
            return None
        image = self._text(image)
        if not names:
            return image
        # Raw: the other columns keep each digit that Postgres wrote.
        row = msgspec.json.decode(image, type=dict[str, msgspec.Raw])
        found = [name for name in names if bytes(row.get(name, b"null")) != b"null"]
        if not found:
            return image
        for name in found:
            row[name] = msgspec.Raw(json.dumps(self.token(bytes(row[name]))).encode())
        return msgspec.json.encode(row).decode()

    def _error(self, error: HostCallError) -> HostCallError:
        return attrs.evolve(error, message=self._text(error.message), details=self._hide(error.details))
