"""Replaying a case file in this process: what `flux replay FILE` does without any server.

The file is hostile until `flux.case_file` has read it, and its code runs behind the same walls as a server's.
Imported only when there is a case: it brings half of a server along.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import trio

from flux.brought import BroughtAnswer, Content, Status, Timeout
from flux.case_file import FILE_BYTES_MAX, decode_case
from flux.cli.failures import UsageError
from flux.errors import FluxError
from flux.project import NoProjectError, find_project
from flux.supervisor.offline import STRICT, open_offline
from flux.supervisor.present import encode, summary_of_execution
from flux.supervisor.present_replay import replay_json
from flux.supervisor.replay import Replay


def replay_file(path: Path, on: str | None, body: str, isolation: str | None) -> str:
    """Replay the case in ``path``; return the JSON that a server would have answered.

    ``body`` is what would be sent to a server: the answers that the caller brings.
    """
    if isolation is not None and on is not None:
        raise UsageError(
            "flux replay: --isolation is for the code of a case",
            remedy="the project's own flux.toml says how its code is run",
        )
    brought = _read_answers(json.loads(body).get("answers", {}))
    data = _read(path)
    try:
        case = decode_case(data)
    except FluxError as error:
        raise type(error)(f"{path}: {error.message}", remedy=error.remedy) from error
    try:
        root = find_project(Path())
    except NoProjectError:
        root = None

    async def run() -> Replay | FluxError:
        async with open_offline(root, None if on is not None else isolation or STRICT) as offline:
            # Caught in here: what leaves a nursery's block leaves it in a group.
            try:
                return await offline.replay(case, on, brought)
            except FluxError as error:
                return error

    result = trio.run(run)
    if isinstance(result, FluxError):
        raise result
    return encode(replay_json(summary_of_execution(case.execution), result)).decode()


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise UsageError(
            f"flux replay: cannot read {path}: {error.strerror}",
            remedy="flux export ID --case writes a case file",
        ) from error


def _read_answers(answers: Mapping[str, Mapping[str, object]]) -> Mapping[int, BroughtAnswer]:
    found: dict[int, BroughtAnswer] = {}
    for number, said in answers.items():
        match said:
            case {"timeout": True}:
                found[int(number)] = Timeout()
            case {"status": int(status)}:
                found[int(number)] = Status(status)
            case {"body": str(content)}:
                found[int(number)] = Content(content)
            case _:
                raise UsageError(
                    f"flux replay: the answer for call {number} is another execution's, and here is only a case",
                    remedy=f"--answer {number}=FILE, with the body that it is to have",
                )
    return found
