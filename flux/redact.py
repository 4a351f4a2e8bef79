"""What must not be stored, and what stands in its place.

Rules come from ``flux.toml``: header fields, JSON paths and columns. Whatever
matches is replaced by a *token* before anything is written down, to the journal
included. A token follows from the value and the execution's own seed, so equal
values have equal tokens within one execution (a replay still matches).

A rule names a place, and values move: the password of the body becomes a parameter
of a statement, a part of an error's message, a line of a log. So a value that a rule
has met is hidden wherever it occurs from then on, as the values of secrets are
from the start (`flux.hidden` says how they are found). Rules are applied first to
a whole part, then what was met is looked for in all of it.

A replay hears tokens in the place of values, and what it does with them must be
redacted to the same: so what is a token already, stays.

It fails closed: what can't be examined is replaced whole. A `Redactor` belongs
to one execution.
"""

import base64
import binascii
import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import unquote_plus

import attrs
import msgspec

from flux import streamed, values
from flux.execution import (
    Exited,
    Frame,
    Interrupted,
    Killed,
    LogLine,
    Outcome,
    Raised,
    Returned,
    Trigger,
)
from flux.hidden import HIDDEN_CHARACTERS_MIN, HiddenValues
from flux.hostcall import HostCallError, HostCallRequest, HostCallResult
from flux.mutation import Mutation
from flux.redact_plaintext import Hiding, PlaintextRedactor
from flux.sql_columns import find_sensitive

ALWAYS = frozenset({"authorization", "cookie", "set-cookie", "proxy-authorization"})
"""Header fields that are redacted whatever ``flux.toml`` says: they carry sessions by definition."""

UNEXAMINED = "redacted:unexamined"
"""Stands for what could not be read, and so could not be shown to be harmless."""

_JSON_PATH = re.compile(r"\$((?:\.[A-Za-z_][A-Za-z0-9_-]*|\.\*|\[(?:\*|[0-9]{1,9})\])+)\Z")
_STEP = re.compile(r"\.([A-Za-z_][A-Za-z0-9_-]*|\*)|\[(\*|[0-9]+)\]")
_NAME = re.compile(r"[A-Za-z_]")
_KEY_DETAIL = re.compile(r"Key \(([^)]*)\)")
TOKEN = re.compile(r"(?:redacted|forgotten):[0-9a-f]{12}\Z")
"""What `Redactor.token` makes, and what `flux.forget` leaves behind."""
_BOM = b"\xef\xbb\xbf"

MET_MAX = 256
"""So many values that rules have met are looked for elsewhere: each is looked for in all that comes behind it."""


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

    def union(self, other: "RedactionRules") -> "RedactionRules":
        """Return what replaces all that either replaces; ``self`` where the other adds nothing."""
        paths = tuple(dict.fromkeys((*self.json_paths, *other.json_paths)))
        return RedactionRules(self.headers | other.headers, paths, self.columns | other.columns)


class Redactor:
    """Redacts the parts of one execution."""

    def __init__(self, rules: RedactionRules, seed: bytes, secrets: Iterable[tuple[str, str]] = ()) -> None:
        """``secrets`` are values and the handles that stand for them."""
        self._rules = rules
        self._key = hashlib.sha256(b"redaction" + seed).digest()
        self._hidden = HiddenValues(secrets)
        self._met = 0
        self._fields = frozenset(path[0] for path in rules.json_paths if len(path) == 1)
        """Names that a JSON path of one step gives: they hold in queries, forms and path parameters too."""
        self._columns = frozenset(column for _, column in rules.columns)
        self._tables = frozenset(table for table, _ in rules.columns)
        named = [next((step for step in reversed(path) if _NAME.match(step)), "") for path in rules.json_paths]
        self._plaintext = PlaintextRedactor(
            Hiding(
                self._hidden,
                header=self._header,
                url=self._url,
                body=self._fields_of_body,
                meet=self._meet_json,
                token=self.token,
                fields=[name for name in dict.fromkeys(named) if name],
            )
        )

    def token(self, value: str | bytes) -> str:
        """Return what stands for ``value``: the same for the same value within this execution."""
        data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
        return "redacted:" + hmac.new(self._key, data, hashlib.sha256).hexdigest()[:12]

    # Parts of an execution

    def trigger(self, trigger: Trigger) -> Trigger:
        """Return the trigger as it may be stored."""
        met = -1
        parts: dict[str, Any] = {}
        while met != len(self._hidden):  # What a later part has met may stand in an earlier one.
            met = len(self._hidden)
            parts = {
                "params": self._pairs(trigger.params),
                "query": self._pairs(trigger.query),
                "headers": self._headers(trigger.headers),
                "correlation": self._headers(trigger.correlation),
                "body": self._body(trigger.body),
                "auth": self._auth(trigger.auth),
                "user": self.user(trigger.user),
                "host": self._hidden.hide_text(trigger.host),
            }
        return attrs.evolve(trigger, **parts, path=self._path(trigger))

    def request(self, request: HostCallRequest) -> HostCallRequest:
        """Return the question as it may be stored."""
        arguments = request.arguments
        if request.name == "http.request":
            arguments = self._http_arguments(arguments)
        elif request.name == "net.send":
            arguments = self._plaintext.sent(arguments)
        elif request.name.startswith("db.") and (self._rules.json_paths or self._rules.columns):
            arguments = self._database_arguments(arguments)
        elif request.name == "invoke":
            arguments = self._invoke_arguments(arguments)
        elif request.name == streamed.WRITE:
            arguments = streamed.describe_written(arguments, self._hidden.hide)
        arguments = self._hidden.hide_json(arguments)
        return request if arguments is request.arguments else attrs.evolve(request, arguments=arguments)

    def result(self, request: HostCallRequest, result: HostCallResult) -> HostCallResult:
        """Return the answer as it may be stored."""
        value, error = result.value, result.error
        if error is not None:
            error = self._error(error)
        elif request.name == "secret.reveal":
            value = self._hidden.hide_json(value)
            if value == result.value:  # A value so short that it is not looked for.
                value = values.encode(self._replacement(values.decode_json(value)))
        elif request.name == "http.request":
            value = self._http_answer(value)
        elif request.name == "net.recv":
            value = self._plaintext.received(request.arguments, value)
        elif request.name == streamed.READ:
            value = streamed.describe_read(value, self._hidden.hide)
        elif self._rules.columns and request.name == "db.query":
            value = self._rows(value)
        value = self._hidden.hide_json(value)
        if value is result.value and error is result.error:
            return result
        return attrs.evolve(result, value=value, error=error)

    def log(self, line: LogLine) -> LogLine:
        """Return the log line as it may be stored."""
        if not self._hidden and not self._rules.json_paths:
            return line
        fields = self._hidden.hide_json(self._json(line.fields))
        return attrs.evolve(line, message=self._hidden.hide_text(line.message), fields=fields)

    def outcome(self, outcome: Outcome) -> Outcome:
        """Return the end as it may be stored."""
        text = self._hidden.hide_text
        match outcome:
            case Returned(headers=headers, body=body):
                kept = self._body(body)  # First: what it meets is looked for in the headers.
                kept_headers = self._headers(headers)
                if kept is body and kept_headers == headers:
                    return outcome
                return attrs.evolve(outcome, headers=kept_headers, body=kept)
            case Raised():
                return attrs.evolve(
                    outcome,
                    type=text(outcome.type),
                    message=text(outcome.message),
                    code=text(outcome.code),
                    cause=text(outcome.cause),
                    violations=self._hidden.hide_json(self._json(outcome.violations)),
                    frames=tuple(map(self._frame, outcome.frames)),
                )
            case Killed(detail=detail) | Exited(detail=detail):
                return attrs.evolve(outcome, detail=text(detail))
            case Interrupted(reason=reason):
                return attrs.evolve(outcome, reason=text(reason))

    def user(self, user: bytes) -> bytes:
        """Return what ``ctx.user`` was set to, in JSON, as it may be stored."""
        return self._hidden.hide_json(self._json(user)) if user else user

    def mutation(self, mutation: Mutation) -> Mutation:
        """Return the row change as it may be stored."""
        names = {column for table, column in self._rules.columns if table == mutation.table}
        before, after = self._image(mutation.before, names), self._image(mutation.after, names)
        key = self._image(mutation.key, names)
        if before is mutation.before and after is mutation.after and key is mutation.key:
            return mutation
        return attrs.evolve(mutation, before=before, after=after, key=key)

    # A value that a rule has met

    def _replace_text(self, value: str) -> str:
        """Return the token of ``value``, which is hidden from now on."""
        if TOKEN.match(value):
            return value  # Of a replay.
        token = self.token(value)
        if self._met < MET_MAX:
            self._met += 1
            self._hidden.add(value, token)
        return token

    def _replacement(self, value: object) -> str:
        """The same for any JSON value, its tags left as they are: the texts in it are hidden too."""
        scalar = values.read_scalar(value)
        if scalar is not None:
            return self._replace_text(scalar)
        for text in _list_texts(value):
            self._replace_text(text)
        return self.token(values.encode_json_canonical(value))

    # Their parts

    def _path(self, trigger: Trigger) -> str:
        """The path holds the parameters, short ones as well."""
        path = trigger.path
        for name, value in trigger.params:
            if name in self._fields and value and not TOKEN.match(value):
                path = "/".join(self.token(value) if part == value else part for part in path.split("/"))
        return self._hidden.hide_text(path)

    def _pairs(self, pairs: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        return tuple(
            (name, self._replace_text(value) if name in self._fields else self._hidden.hide_text(value))
            for name, value in pairs
        )

    def _headers(self, headers: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        return tuple((name, self._header(name, value)) for name, value in headers)

    def _header(self, name: str, value: str) -> str:
        name = name.lower()
        if name not in self._rules.headers:
            return self._hidden.hide_text(self._url(value) if name in ("location", "referer") else value)
        match name:
            case "cookie":
                return "; ".join(map(self._cookie, value.split("; ")))
            case "set-cookie":
                pair, semicolon, attributes = value.partition(";")
                return self._cookie(pair) + semicolon + self._hidden.hide_text(attributes)
            case "authorization" | "proxy-authorization":
                scheme, space, credentials = value.partition(" ")
                if space and scheme.isalpha():
                    self._meet_credentials(scheme, credentials.strip())
                    return f"{scheme} {self._replace_text(credentials.strip())}"
        return self._replace_text(value)

    def _cookie(self, pair: str) -> str:
        name, equals, value = pair.partition("=")
        return name + equals + self._replace_text(value) if equals else self._replace_text(pair)

    def _meet_credentials(self, scheme: str, credentials: str) -> None:
        if scheme.lower() == "basic":
            try:
                _user, _, password = base64.b64decode(credentials, validate=True).decode().partition(":")
            except (binascii.Error, UnicodeDecodeError):
                return
            self._replace_text(password)

    def _url(self, url: str) -> str:
        """A URL whose query may hold fields that a JSON path names."""
        head, question, query = url.partition("?")
        if not question or not self._fields:
            return url
        query, hash_, fragment = query.partition("#")
        return head + question + self._form(query) + hash_ + fragment

    def _form(self, text: str) -> str:
        """``a=1&b=2`` with the values of fields that a JSON path names replaced."""
        pairs = []
        for pair in text.split("&"):
            name, equals, value = pair.partition("=")
            if equals and unquote_plus(name) in self._fields:
                said = unquote_plus(value)
                token = self._replace_text(said)
                if said != value and not TOKEN.match(said):
                    self._hidden.add(value, token)  # As it is written, as well.
                pair = name + equals + token
            pairs.append(pair)
        return "&".join(pairs)

    def _body(self, body: bytes) -> bytes:
        """A body on its way in or out: rules hold in it when it is JSON or a form."""
        redacted = self._fields_of_body(body)
        hidden = self._hidden.hide(redacted)
        if hidden is not redacted and _looks_like_json(redacted):
            return self._hidden.hide_json(redacted)
        return hidden

    def _auth(self, auth: bytes) -> bytes:
        """What the gateway has verified: a path means a claim, as it means a member of a body."""
        if not auth or not self._rules.json_paths:
            return self.user(auth)
        said = values.decode_json(auth)
        if isinstance(said, dict) and "claims" in said:
            auth = values.encode_json({**said, "claims": self._json_value(said["claims"])})
        return self.user(auth)

    def _invoke_arguments(self, arguments: bytes) -> bytes:
        """What another function is handed: its own record has it redacted as a body is, and so has its caller's."""
        if not self._rules.json_paths:
            return arguments
        match values.decode_json(arguments):
            case [function, value, *more]:
                redacted = [function, self._json_value(value), *map(self._options_of_invoke, more)]
                return values.encode_json_canonical(redacted)
        return arguments

    def _options_of_invoke(self, options: object) -> object:
        if isinstance(options, dict) and "user" in options:
            return {**options, "user": self._json_value(options["user"])}
        return options

    def _json_value(self, value: object) -> object:
        return values.decode_json(self._json(values.encode_json(value)))

    def _fields_of_body(self, body: bytes) -> bytes:
        paths = self._rules.json_paths
        if not paths or not body:
            return body
        if _looks_like_json(body):
            return self._json(body)
        names = [name.encode() for name in self._fields]
        if any(b'name="' + name + b'"' in body or b"name=" + name in body for name in names):
            return UNEXAMINED.encode()  # A form in parts.
        if b"=" in body and body.isascii() and any(name in body for name in names):
            return self._form(body.decode("ascii")).encode()
        return body

    def _json(self, data: bytes) -> bytes:
        paths = self._rules.json_paths
        if not paths or not _looks_like_json(data):
            return data
        try:
            document = json.loads(data.removeprefix(_BOM))
        except (ValueError, RecursionError):
            # Not JSON after all, although it begins like it: a rule might have meant something in it.
            names = {step.encode() for path in paths for step in path if step != "*" and not step.isdigit()}
            suspicious = not names or b"\\u" in data or any(name in data for name in names)
            return UNEXAMINED.encode() if suspicious else data
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
                node[key] = self._replacement(value)  # type: ignore[call-overload]
                changed = True
        return changed

    def _meet_json(self, data: bytes) -> None:
        """Hide what rules name in ``data``, if there is JSON in it, from now on."""
        start = min((place for place in map(data.find, (b"{", b"[")) if place >= 0), default=-1)
        end = max(map(data.rfind, (b"}", b"]")))
        if 0 <= start < end:
            try:
                document = json.loads(data[start : end + 1])
            except (ValueError, RecursionError):
                return  # Part of one, or none.
            for path in self._rules.json_paths:
                self._replace(document, path)

    def _http_arguments(self, data: bytes) -> bytes:
        arguments = values.decode_json(data)
        match arguments:
            case [str(method), str(url), dict() as options]:
                headers = options.get("headers")
                if isinstance(headers, list):
                    options["headers"] = [self._header_pair(pair) for pair in headers]
                if "body" in options:
                    options["body"] = self._tagged_body(options["body"])
                return values.encode_json_canonical([method, self._url(url), options])
        return data  # Malformed: it was refused, and nothing of it was sent.

    def _http_answer(self, data: bytes) -> bytes:
        answer = values.decode_json(data)
        assert isinstance(answer, dict)
        answer["headers"] = [self._header_pair(pair) for pair in answer["headers"]]
        answer["body"] = self._tagged_body(answer["body"])
        answer["url"] = self._url(answer["url"])
        for redirect in answer["redirects"]:
            redirect["url"], redirect["location"] = (
                self._url(redirect["url"]),
                self._url(redirect["location"]),
            )
        return values.encode_json(answer)

    def _header_pair(self, pair: object) -> object:
        match pair:
            case [str(name), str(value)]:
                return [name, self._header(name, value)]
        return pair

    def _tagged_body(self, body: object) -> object:
        """A body as it stands in JSON: text, or bytes under their tag."""
        match body:
            case str():
                data = body.encode("utf-8", "surrogatepass")
            case {"$bytes": str(encoded)}:
                try:
                    data = base64.b64decode(encoded, validate=True)
                except binascii.Error:
                    return body
            case _:
                return body
        redacted = self._fields_of_body(data)
        return body if redacted is data else values.to_json(values.text_or_bytes(redacted))

    def _database_arguments(self, data: bytes) -> bytes:
        arguments = values.decode_json(data)
        match arguments:
            case [str(sql), list() as parameters]:
                for index, parameter in enumerate(parameters):
                    parameters[index] = self._document(parameter)
                if self._columns:
                    sql = self._statement(sql, parameters)
                return values.encode_json_canonical([sql, parameters])
        return data

    def _document(self, parameter: object) -> object:
        """A parameter that is a JSON document, as one or as its text."""
        if isinstance(parameter, dict | list):
            for path in self._rules.json_paths:
                self._replace(parameter, path)
        elif isinstance(parameter, str) and parameter[:1] in ("{", "["):
            return self._tagged_body(parameter)
        return parameter

    def _statement(self, sql: str, parameters: list[object]) -> str:
        """Replace what a statement gives to redacted columns, among its parameters and in its text."""
        sensitive = find_sensitive(sql, self._tables, self._columns)
        for number in sensitive.parameters:
            if number <= len(parameters) and parameters[number - 1] is not None:
                parameters[number - 1] = self._replacement(parameters[number - 1])
        for start, end in reversed(sensitive.literals):
            head, quote, text = sql[start:end].partition("'")
            said = text.removesuffix("'").replace("''", "'") if quote else head
            sql = f"{sql[:start]}'{self._replace_text(said)}'{sql[end:]}"
        return sql

    def _rows(self, data: bytes) -> bytes:
        """Rows carry their columns' names but not their tables': a column's name alone decides."""
        answer = values.decode_json(data)
        assert isinstance(answer, dict)
        hidden = [index for index, name in enumerate(answer["columns"]) if name in self._columns]
        if not hidden:
            return data
        for row in answer["rows"]:
            for index in hidden:
                if row[index] is not None:
                    row[index] = self._replacement(row[index])
        return values.encode_json(answer)

    def _image(self, image: str | None, names: set[str]) -> str | None:
        if image is None:
            return None
        redacted = image
        if names:
            # Raw: the other columns keep each digit that Postgres wrote.
            row = msgspec.json.decode(image, type=dict[str, msgspec.Raw])
            found = [name for name in names if bytes(row.get(name, b"null")) != b"null"]
            for name in found:
                value = values.decode_json(bytes(row[name]))
                row[name] = msgspec.Raw(json.dumps(self._replacement(value)).encode())
            if found:
                redacted = msgspec.json.encode(row).decode()
        data = redacted.encode("utf-8", "surrogatepass")
        hidden = self._hidden.hide_json(data)
        return redacted if hidden is data else hidden.decode("utf-8", "surrogatepass")

    def _error(self, error: HostCallError) -> HostCallError:
        details = error.details
        if self._columns:
            details = self._details(details)
        return attrs.evolve(
            error,
            message=self._hidden.hide_text(error.message),
            details=self._hidden.hide_json(details),
        )

    def _details(self, data: bytes) -> bytes:
        """PostgreSQL repeats values: ``Key (ssn)=(1) already exists``, ``Failing row contains (...)``."""
        details = values.decode_json(data)
        if not isinstance(details, dict) or not isinstance(detail := details.get("detail"), str):
            return data
        key = _KEY_DETAIL.match(detail)
        columns = key[1].replace('"', "").split(", ") if key is not None else ()
        if self._columns.intersection(columns) or (key is None and details.get("table") in self._tables):
            if len(detail) >= HIDDEN_CHARACTERS_MIN:
                self._hidden.add(detail, UNEXAMINED)
            details["detail"] = UNEXAMINED
            return values.encode_json_canonical(details)
        return data

    def _frame(self, frame: Frame) -> Frame:
        source = self._hidden.hide_text(frame.source)
        return frame if source is frame.source else attrs.evolve(frame, source=source)


def _looks_like_json(data: bytes) -> bool:
    return data.removeprefix(_BOM).lstrip()[:1] in (b"{", b"[")


def _list_texts(value: object) -> Sequence[str]:
    """Return the texts and numbers in a JSON value."""
    scalar = values.read_scalar(value)
    match value:
        case _ if scalar is not None:
            return [scalar]
        case dict():
            return [text for item in value.values() for text in _list_texts(item)]
        case list():
            return [text for item in value for text in _list_texts(item)]
    return []
