"""Taking the values of one row out of what was recorded, so that the rest can still be read and replayed.

A person's row is to be forgotten. Its values stand in the log of changes, and they stand wherever functions carried
them: in requests, parameters, answers, log lines, errors. Each is replaced by a token (``forgotten:`` and twelve
digits), the same for the same value in all that one erasure touches; so what had been equal stays equal, and a replay
that hears tokens asks what was recorded. The key of the tokens is thrown away afterwards: unlike the tokens of
redaction, nobody can try values against them.

How far a value is looked for follows from what it could be taken for (`RowValue`):

* one that no other row of the table has, and that is long enough, is the row's own wherever it occurs, in any record,
  in the encodings that `flux.hidden` knows. Text of statements is code as well: there, a plain word stays.
* one that other rows have too (a town, a plan) is taken for the row's only in executions that wrote or read the row,
  or were caused by these; and not in the text of statements, where it is what somebody wrote into the code.
* a short one is everywhere by chance. In the same executions it goes where something names its column: a member of
  JSON, a column of an answer, the parameter that a statement gives to it.

A record that holds nothing of all this is returned as it is, the same object. `flux.forget_images` does the log.
"""

import base64
import binascii
import hashlib
import hmac
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence

import attrs

from flux import values
from flux.calls import read_statement
from flux.execution import (
    Execution,
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
from flux.hostcall import HostCall, HostCallError
from flux.mutation import Mutation
from flux.sql_columns import find_sensitive

PREFIX = "forgotten:"
"""How a token begins."""

_WORD = re.compile(r"[A-Za-z_ -]+")
_BYTES = re.compile(rb'"\$bytes"\s*:\s*"([A-Za-z0-9+/=]*)"')
_TAGGED = rb'\{"\$(?:decimal|int|uuid|date)":"[^"\\]*"\}'
_SCALAR = rb'"(?:[^"\\]|\\.)*"|-?[0-9][0-9.eE+-]*|' + _TAGGED


@attrs.frozen
class RowValue:
    """A value that the row had in a column."""

    names: tuple[str, ...]
    """What the column was ever called; what it is called now comes first."""
    text: str
    """A text, or a number as it is written."""
    is_shared: bool = False
    """Another row of the table has it as well."""
    is_measure: bool = False
    """A number that changed so often that it is no name of anything: it is looked for under its column's name only."""


def make_token(secret: bytes, value: str) -> str:
    """Return what stands for ``value`` in all that one erasure touches."""
    digest = hmac.new(secret, value.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()
    return PREFIX + digest[:12]


class Forgetter:
    """Takes a row's values out of executions."""

    def __init__(self, tables: Collection[str], row_values: Sequence[RowValue], secret: bytes) -> None:
        """``tables`` is what the row's table was ever called, without schema. ``secret`` is this erasure's alone."""
        self._secret = secret
        self.own = HiddenValues()
        """What is the row's own wherever it occurs."""
        self._in_statements = HiddenValues()
        self._in_touched = HiddenValues()
        self._named: dict[str, set[str]] = {}
        for value in row_values:
            token = make_token(secret, value.text)
            for spelling in () if value.is_measure else _spellings(value.text):
                if not value.is_shared:
                    self.own.add(spelling, token)
                    if not (isinstance(spelling, str) and _WORD.fullmatch(spelling)):
                        self._in_statements.add(spelling, token)
                self._in_touched.add(spelling, token)
            for name in value.names:
                self._named.setdefault(name, set()).add(value.text)
        self._tables = frozenset(tables)
        self._had = frozenset().union(*self._named.values())
        names = b"|".join(re.escape(json.dumps(name, ensure_ascii=False).encode()) for name in sorted(self._named))
        self._member = re.compile(rb"((?:" + (names or rb"(?!)") + rb")\s*:\s*)(" + _SCALAR + rb")", re.DOTALL)

    def execution(self, execution: Execution, *, is_touched: bool, image: Callable[[Mutation], Mutation]) -> Execution:
        """Return ``execution`` without the row's values; ``is_touched``: it wrote or read the row, or comes of that.

        ``image`` does the rows that it changed.
        """
        part = _Part(self, is_touched)
        changed = attrs.evolve(
            execution,
            trigger=part.trigger(execution.trigger),
            outcome=part.outcome(execution.outcome),
            calls=tuple(map(part.call, execution.calls)),
            logs=tuple(map(part.log, execution.logs)),
            mutations=tuple(map(image, execution.mutations)),
            completeness=tuple(map(part.text, execution.completeness)),
            user=part.json(execution.user),
        )
        return execution if changed == execution else changed

    def verdict(self, reason: str, divergence: bytes | None, *, is_touched: bool) -> tuple[str, bytes | None]:
        """Return what a replay has shown (JSON: where it left its record) without the row's values; as `execution`."""
        part = _Part(self, is_touched)
        return part.text(reason), None if divergence is None else part.divergence(divergence)

    def _hide_named(self, data: bytes) -> bytes:
        """Members of JSON that are called as a column is and have a value that the row had in it."""

        def replace(match: re.Match[bytes]) -> bytes:
            name = json.loads(match[1].rstrip().removesuffix(b":"))
            said = values.read_scalar(values.decode_json(match[2]))
            if said is None or said not in self._named[name]:
                return match[0]
            return match[1] + json.dumps(make_token(self._secret, said)).encode()

        return self._member.sub(replace, data)

    def _is_in(self, name: object, value: object) -> str | None:
        """Return the token of a value that the row had in the column ``name``, or None when it had not."""
        said = values.read_scalar(value) if isinstance(name, str) and name in self._named else None
        return None if said is None or said not in self._named[str(name)] else make_token(self._secret, said)


class _Part:
    """The parts of one execution."""

    def __init__(self, forgetter: Forgetter, is_touched: bool) -> None:
        self._forgetter = forgetter
        self._is_touched = is_touched
        self._hidden = forgetter._in_touched if is_touched else forgetter.own

    def text(self, text: str) -> str:
        return self._hidden.hide_text(text)

    def json(self, data: bytes) -> bytes:
        if self._is_touched:
            data = self._forgetter._hide_named(data)
        return self._hidden.hide_json(data)

    def body(self, body: bytes) -> bytes:
        """A body, which may be JSON or anything."""
        if body.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"["):
            return self.json(body)
        return self._hidden.hide(body)

    def pairs(self, pairs: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        return tuple((self.text(name), self._pair(name, value)) for name, value in pairs)

    def _pair(self, name: str, value: str) -> str:
        token = self._forgetter._is_in(name, value) if self._is_touched else None
        return self.text(value) if token is None else token

    def trigger(self, trigger: Trigger) -> Trigger:
        path = trigger.path
        for (_, before), (_, after) in zip(trigger.params, self.pairs(trigger.params), strict=True):
            if before != after and before:
                path = "/".join(after if part == before else part for part in path.split("/"))
        return attrs.evolve(
            trigger,
            path=self.text(path),
            params=self.pairs(trigger.params),
            query=self.pairs(trigger.query),
            headers=self.pairs(trigger.headers),
            correlation=self.pairs(trigger.correlation),
            body=self.body(trigger.body),
            auth=self.json(trigger.auth),
            user=self.json(trigger.user),
            client=self.text(trigger.client),
            host=self.text(trigger.host),
        )

    def outcome(self, outcome: Outcome) -> Outcome:
        match outcome:
            case Returned(headers=headers, body=body):
                return attrs.evolve(outcome, headers=self.pairs(headers), body=self.body(body))
            case Raised():
                return attrs.evolve(
                    outcome,
                    type=self.text(outcome.type),
                    message=self.text(outcome.message),
                    cause=self.text(outcome.cause),
                    violations=self.json(outcome.violations),
                    frames=tuple(map(self._frame, outcome.frames)),
                )
            case Killed(detail=detail) | Exited(detail=detail):
                return attrs.evolve(outcome, detail=self.text(detail))
            case Interrupted(reason=reason):
                return attrs.evolve(outcome, reason=self.text(reason))

    def _frame(self, frame: Frame) -> Frame:
        return attrs.evolve(frame, source=self._forgetter._in_statements.hide_text(frame.source))

    def log(self, line: LogLine) -> LogLine:
        return attrs.evolve(line, message=self.text(line.message), fields=self.json(line.fields))

    def call(self, call: HostCall) -> HostCall:
        request, result = call.request, call.result
        name = request.name
        if name.startswith("db."):
            request = attrs.evolve(request, arguments=self._statement(request.arguments))
        elif name.startswith("net."):
            request = attrs.evolve(request, arguments=self.json(self._in_place(request.arguments)))
        else:
            request = attrs.evolve(request, arguments=self._tagged_json(request.arguments))
        if result is not None:
            value = result.value
            if name.startswith("net."):
                value = self._in_place(value)
            elif name == "db.query" and self._is_touched:
                value = self._rows(value)
            error = None if result.error is None else self._error(result.error)
            result = attrs.evolve(result, value=self._tagged_json(value), error=error)
        return attrs.evolve(call, request=request, result=result)

    def divergence(self, data: bytes) -> bytes:
        """Where a replay left its record, as it is shown: a call has its arguments by name there."""
        if not self._is_touched:
            return self.json(data)
        try:
            document = values.decode_json(data)
        except values.ValueFormatError:
            return self.json(data)
        before = values.encode_json(document)
        sides = [document.get(name) for name in ("recorded", "replayed")] if isinstance(document, dict) else []
        for side in sides:
            match side:
                case {"arguments": {"sql": str(sql), "args": list() as parameters} as named}:
                    named["sql"] = self._given(sql, parameters)
                case {"arguments": {"body": str(body)} as named}:
                    hidden = self.body(body.encode("utf-8", "surrogatepass"))
                    named["body"] = hidden.decode("utf-8", "surrogatepass")
        after = values.encode_json(document)
        return self.json(data if after == before else after)

    def _error(self, error: HostCallError) -> HostCallError:
        name, message = self.text(error.name), self.text(error.message)
        return attrs.evolve(error, name=name, message=message, details=self.json(error.details))

    def _statement(self, data: bytes) -> bytes:
        try:
            arguments = values.decode_json(data)
        except values.ValueFormatError:
            return self._hidden.hide_json(data)
        match arguments:
            case [str(sql), list() as parameters, *rest]:
                if self._is_touched:
                    sql = self._given(sql, parameters)
                text = self._forgetter._in_statements.hide_text(sql)
                hidden = self.json(values.encode_json_canonical([parameters, *rest]))
                return values.encode_json_canonical([text, *_as_list(values.decode_json(hidden))])
        return self._hidden.hide_json(data)

    def _given(self, sql: str, parameters: list[object]) -> str:
        """Replace what a statement gives to the row's columns, as far as the row had it there; return its text."""
        forgetter = self._forgetter
        sensitive = find_sensitive(sql, forgetter._tables, forgetter._named)
        for number in sensitive.parameters:
            said = values.read_scalar(parameters[number - 1]) if number <= len(parameters) else None
            if said is not None and said in forgetter._had:
                parameters[number - 1] = make_token(forgetter._secret, said)
        for start, end in reversed(sensitive.literals):
            head, quote, text = sql[start:end].partition("'")
            said = text.removesuffix("'").replace("''", "'") if quote else head
            if said in forgetter._had:
                sql = f"{sql[:start]}'{make_token(forgetter._secret, said)}'{sql[end:]}"
        return sql

    def _rows(self, data: bytes) -> bytes:
        try:
            answer = values.decode_json(data)
        except values.ValueFormatError:
            return data
        match answer:
            case {"columns": list() as columns, "rows": list() as rows}:
                changed = False
                for row in rows:
                    for index, name in enumerate(columns[: len(row)] if isinstance(row, list) else ()):
                        token = self._forgetter._is_in(name, row[index])
                        if token is not None:
                            row[index], changed = token, True
                return values.encode_json(answer) if changed else data
        return data

    def _tagged_json(self, data: bytes) -> bytes:
        """JSON in which a body may stand as text: what that says by name is looked at as well."""
        if not self._is_touched or b'"body"' not in data:
            return self.json(data)
        try:
            document = values.decode_json(data)
        except values.ValueFormatError:
            return self.json(data)
        holder = document[-1] if isinstance(document, list) and document else document
        if isinstance(holder, dict) and isinstance(body := holder.get("body"), str):
            hidden = self.body(body.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogatepass")
            if hidden != body:
                holder["body"] = hidden
                is_list = isinstance(document, list)
                data = values.encode_json_canonical(document) if is_list else values.encode_json(document)
        return self.json(data)

    def _in_place(self, data: bytes) -> bytes:
        """Bytes of a connection keep their number: something else in them says how many they are."""

        def replace(match: re.Match[bytes]) -> bytes:
            try:
                said = base64.b64decode(match[1], validate=True)
            except binascii.Error:
                return match[0]
            hidden = self._hidden.hide_in_place(said)
            return match[0] if hidden is said else b'"$bytes":"%b"' % base64.b64encode(hidden)

        return _BYTES.sub(replace, data)


def reads_row(execution: Execution, places: Collection[tuple[str, str, str]]) -> bool:
    """Whether a statement of ``execution`` returned the row that is at ``places`` in the log: (schema, table, key)."""
    keys: dict[tuple[str, str], list[dict[str, str | None]]] = {}
    for schema, table, key in places:
        named = values.decode_json(key.encode("utf-8", "surrogatepass"))
        assert isinstance(named, dict), "the log has keys as objects"
        keys.setdefault((schema, table), []).append({name: values.read_scalar(each) for name, each in named.items()})
    answers = {call.request.seq: call for call in execution.calls}
    for read in execution.reads:
        wanted = keys.get((read.schema, read.table))
        statement = read_statement(answers[read.call]) if wanted and read.call in answers else None
        for row in (statement.rows or ()) if statement is not None else ():
            if all(index < len(row) for _, index in read.key):
                found = {name: values.read_scalar(row[index]) for name, index in read.key}
                if found in (wanted or ()):
                    return True
    return execution.replay_of is not None and any(_may_return(call, keys) for call in execution.calls)


def _may_return(call: HostCall, keys: Mapping[tuple[str, str], Sequence[Mapping[str, str | None]]]) -> bool:
    """Whether ``call`` names a table and was answered with a key of it.

    Of a replay it is not known which tables its columns are of. To take one for a reader that is none hides more.
    """
    statement = read_statement(call)
    if statement is None or not statement.rows:
        return False
    for (_, table), wanted in keys.items():
        if table.lower() not in statement.sql.lower():
            continue
        for row in statement.rows:
            found = [(name, values.read_scalar(each)) for name, each in zip(statement.columns, row, strict=False)]
            if any(all(pair in found for pair in key.items()) for key in wanted):
                return True
    return False


def _as_list(value: object) -> list[object]:
    assert isinstance(value, list), "what was written as a list is one"
    return value


def _spellings(text: str) -> list[str | bytes]:
    """What is looked for: bytes are written in another way by functions than by PostgreSQL."""
    spellings: list[str | bytes] = [text]
    if re.fullmatch(r"\\x(?:[0-9a-f]{2})+", text):  # bytea
        spellings.append(bytes.fromhex(text[2:]))
    return [spelling for spelling in spellings if len(spelling) >= HIDDEN_CHARACTERS_MIN]
