"""Work that the server does while a command listens: the lines that `flux.supervisor.work_stream` sends."""

from collections.abc import Iterable, Iterator

from flux.cli.client import Answer
from flux.cli.failures import MalformedAnswer, of_code


def follow_work(answers: Iterable[Answer]) -> Iterator[Answer]:
    """Give each line, the one that says how it ended last; raise the problem that this one tells of.

    A stream without that line was cut off, and what came before it is not the whole.
    """
    for answer in answers:
        end = answer.record.maybe_record("end")
        if end is not None and (problem := end.maybe_record("problem")) is not None:
            raise of_code(problem.text("code"), problem.get("exit"))(
                problem.text("detail"), remedy=problem.text("remedy")
            )
        yield answer
        if end is not None:
            return
    raise MalformedAnswer("the answer ends without saying that this was all", remedy="see the server's log")
