"""A server's story for programs: one JSON object a line on stderr, whatever happens.

Each has ``time``, ``level``, ``event`` and ``message``, and fields of the event beside them: ``docs/telemetry.md``. All
that comes from clients and functions is escaped, so a line is a line and shows nothing to a terminal that it is not. A
line is never longer than what the kernel writes to a pipe in one piece: several processes may share that pipe.
"""

import json
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from flux import __version__
from flux.cli.screen import Screen
from flux.errors import FluxError
from flux.sanitize import sanitize_json

if TYPE_CHECKING:
    from flux.project import Project
    from flux.supervisor.deploy import Switch
    from flux.supervisor.story import Route

LINE_BYTES_MAX = 4096
"""PIPE_BUF, with the line's end."""
_EXECUTION = (
    "id", "name", "tenant", "trigger", "function", "method", "path", "route", "status", "outcome", "elapsed_ms",
    "calls", "mutations", "sha", "dirty", "parent",
)  # fmt: skip
"""What is said of an execution, of its summary; and its error."""


class JsonStory:
    """Writes what happens to stderr. A `flux.supervisor.story.Story`."""

    def __init__(self, *, quiet: bool, json_schema: str | None, who: Mapping[str, Any] | None = None) -> None:
        """``quiet`` leaves out what is neither a warning nor an answer; ``who`` says whose story it is."""
        self._screen = Screen.stderr(colour=False, is_lasting=True)
        self._quiet = quiet
        self._json_schema = json_schema
        self._who = dict(who or {})

    def named(self, **who: str | int) -> "JsonStory":
        """See `Story.named`."""
        return JsonStory(quiet=self._quiet, json_schema=None, who={**self._who, **who})

    def remember(self, routes: "Sequence[Route]") -> None:
        """Routes that came or went are not told here."""

    def begin(self, project: "Project", branch: str | None, sha: str, changed_files: int) -> None:
        """See `Story.begin`."""
        name = project.config.project.name
        self._tell("begin", f"flux {__version__} begins to serve {name}", version=__version__, project=name,
                   branch=branch, sha=sha, changed_files=changed_files)  # fmt: skip

    def step(self, name: str, detail: str, elapsed_s: float) -> None:
        """See `Story.step`."""
        self._tell("step", f"{name}: {detail}", step=name, detail=detail, elapsed_ms=round(elapsed_s * 1000, 1))

    def note(self, text: str) -> None:
        """See `Story.note`."""
        self._tell("note", text, level="warning")

    def ready(
        self, url: str, routes: "Sequence[Route]", elapsed_s: float, watched: Sequence[str], _console: str = "", /
    ) -> None:
        """See `Story.ready`. The console's link is not told: its token is not for those who read logs."""
        from flux.cli.serving import tell_ready_on_stdout

        self._tell("ready", f"ready at {url}", is_answer=True, url=url, functions=len(routes), pid=os.getpid(),
                   watched=list(watched), elapsed_ms=round(elapsed_s * 1000, 1))  # fmt: skip
        if self._json_schema is not None:
            tell_ready_on_stdout(self._json_schema, url, routes)

    def reload(self, changed: Sequence[str], code: str, routes: "Sequence[Route]", elapsed_s: float) -> None:
        """See `Story.reload`."""
        what = changed[0] if len(changed) == 1 else f"{len(changed)} files"
        self._tell("reload", f"{what} changed, {code} is served", changed=list(changed[:20]), code=code,
                   functions=len(routes), elapsed_ms=round(elapsed_s * 1000, 1))  # fmt: skip

    def switched(self, switch: "Switch", routes: "Sequence[Route]", *, held: bool) -> None:
        """See `Story.switched`."""
        deployment = switch.live.deployment
        self._tell(switch.cause.value, f"{deployment.sha[:12]} is served", deployment=deployment.id, sha=deployment.sha,
                   dirty=deployment.dirty, functions=len(routes), held=held)  # fmt: skip

    def problem(self, what: str, error: FluxError, *, is_serving: bool) -> None:
        """See `Story.problem`."""
        stack = "".join(failure.traceback for failure in getattr(error, "failures", ()))
        self._tell("problem", f"{what}: {error.message}", level="error", code=error.code, remedy=error.remedy,
                   serving=is_serving, stack=stack)  # fmt: skip

    def failed(self, error: FluxError) -> None:
        """Say why the server can't go on, or never began."""
        self._tell("failed", error.message, level="error", code=error.code, remedy=error.remedy, exit=error.exit_code)

    def crash(self, error: BaseException) -> None:
        """See `Story.crash`."""
        self._tell("crash", f"Flux itself failed: {type(error).__name__}: {error}", level="error",
                   stack="".join(traceback.format_exception(error)))  # fmt: skip

    def output(self, text: str) -> None:
        """See `Story.output`."""
        for line in filter(None, text.split("\n")):
            self._tell("output", line)

    def executed(self, summary: Mapping[str, Any]) -> None:
        """See `Story.executed`."""
        from flux.cli.serving import describe_execution

        error = summary["error"] or {}
        fields = {key: summary[key] for key in _EXECUTION if summary.get(key) not in (None, "")}
        if error:
            fields |= {"error_type": error["type"], "error_message": error["message"]}
        is_fault = summary["outcome"] != "returned" and not 400 <= (summary["status"] or 500) < 500
        level = "error" if is_fault else "info"
        self._tell("execution", describe_execution(summary), level=level, is_answer=True, **fields)

    def stopping(self) -> None:
        """See `Story.stopping`."""
        self._tell("stopping", "requests in flight are finished")

    def _tell(self, event: str, message: str, *, level: str = "info", is_answer: bool = False, **fields: Any) -> None:
        """``is_answer``: somebody has asked for it, or waits for it."""
        if self._quiet and level == "info" and not is_answer:
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = {"time": now, "level": level, "event": event, "message": message, **self._who, **fields}
        self._screen.put(encode_line(line) + "\n")


def encode_line(line: Mapping[str, Any]) -> str:
    """Return ``line`` as JSON in ASCII, not too long for a pipe; texts that were shortened for that end in ``...``."""
    said = dict(line)
    while len(text := sanitize_json(json.dumps(said))) >= LINE_BYTES_MAX:
        key = max(said, key=lambda each: len(json.dumps(said[each])))
        value = said[key]
        if isinstance(value, str) and len(value) > 16:
            said[key] = value[: len(value) // 2] + "..."
        else:
            del said[key]
    return text


def tell_failure(error: FluxError) -> int:
    """Say why a command that serves can't go on; return its exit code."""
    JsonStory(quiet=False, json_schema=None).failed(error)
    sys.stderr.flush()
    return error.exit_code
