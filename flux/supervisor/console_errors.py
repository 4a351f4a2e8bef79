"""How an error is told to whoever asked the console: a status, the error's code, its remedy, the exit code."""

from flux.errors import BrokenInvariantError, FluxError, OperatorError
from flux.message import HttpResponse, problem
from flux.store.postgres import DatabaseError, is_away

_STATUS = {
    "FLX101": 404, "FLX102": 409, "FLX113": 404, "FLX599": 404, "FLX527": 404, "FLX528": 409,
    "FLX541": 404, "FLX542": 404, "FLX543": 409, "FLX544": 503, "FLX545": 404, "FLX583": 404, "FLX584": 404,
    "FLX576": 404, "FLX577": 409, "FLX802": 404, "FLX804": 404, "FLX805": 409, "FLX811": 404, "FLX816": 503,
    "FLX616": 409, "FLX617": 503, "FLX730": 429, "FLX740": 409,
    "FLX202": 503, "FLX222": 503, "FLX223": 503, "FLX226": 503,
    "FLX720": 503, "FLX721": 503, "FLX722": 503, "FLX723": 503, "FLX701": 503, "FLX702": 503,
}  # fmt: skip
"""The status that goes with an error's code; an operator's other errors are 400, ours are 500."""

def describe_error(error: FluxError) -> HttpResponse:
    """Return an error as the answer to the question that met it."""
    status = _STATUS.get(error.code)
    if status is None:
        status = 400 if isinstance(error, OperatorError) else 500
        if isinstance(error, DatabaseError) and is_away(error.sqlstate):
            status = 503
    remedy = error.remedy or ("please report this" if isinstance(error, BrokenInvariantError) else "")
    extra = {"remedy": remedy, "exit": error.exit_code}
    return problem(status, error.code, error.message, extra=extra)
