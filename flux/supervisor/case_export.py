"""Making a case file of a stored execution: its record, the code that made it, and what ran that.

What a record hides stays hidden, as the record is taken as it is stored; rows that were committed are redacted here, as
the database's log of them is not. The code was never redacted, since it is
not recorded; so here it is looked through. The password in ``flux.toml``'s address of a database is left out, as no
replay needs it. Any other password, or the value of a secret that stands in the code or came into the record before
it was a secret, is a reason to write no case at all: to take it out of the code would make other code of it.
"""

import os
import re
import sys
import sysconfig
from functools import partial
from pathlib import Path

import attrs
import trio

from flux import __version__, codec
from flux.case_file import Case, CaseFile, Made, encode_case
from flux.config import CONFIG_NAME, parse_config
from flux.errors import OperatorError
from flux.execution import Execution
from flux.hostcalls.secret import TenantSecrets
from flux.mutation import Mutation
from flux.project import Project, find_requirements, list_artifact_files
from flux.redact import RedactionRules, Redactor
from flux.store.connect_options import masked
from flux.supervisor.deployments import Deployments
from flux.supervisor.environment_installer import hide_passwords
from flux.supervisor.environments import make_key
from flux.synthetic import list_synthetic

_PASSWORDS = (
    (re.compile(r"(://[^\s/:@\"']*:)[^\s@\"']+@"), r"\1***@"),
    (re.compile(r"([?&]password=)[^&\s\"']+"), r"\1***"),
)


class SecretInCaseError(OperatorError):
    """A case would have the value of a secret in it."""

    code = "FLX342"
    exit_code = 6


async def export_case(execution: Execution, deployments: Deployments, secrets: TenantSecrets) -> bytes:
    """Return the case file of ``execution``, which has all of its mutations.

    Raises `CodeGoneError`, `SecretInCaseError` and `flux.case_file.CaseTooLargeError`.
    """
    project = await trio.to_thread.run_sync(deployments.find_kept, execution.deployment, execution.sha)
    return await trio.to_thread.run_sync(partial(make_case_file, execution, project, secrets))


def make_case_file(execution: Execution, project: Project, secrets: TenantSecrets) -> bytes:
    """Return the case file of ``execution``, whose deployment's files are those of ``project``; see `export_case`."""
    files, hidden = _read_files(project)
    requirements = find_requirements(project.root)
    made = Made(
        flux=__version__,
        python=describe_python(),
        machine=sysconfig.get_platform(),
        environment="" if requirements is None else make_key(requirements, project.root),
        folder=os.fsencode(project.root.absolute()),
    )
    execution = attrs.evolve(execution, mutations=_redact_rows(execution, project, secrets))
    case = Case(execution, files, made, hidden)
    for file in files:
        _check_secrets(file.content, f"{file.path.decode('utf-8', 'replace')} holds", secrets)
    _check_secrets(codec.encode(execution), "the record holds", secrets)
    return encode_case(case)


def _redact_rows(execution: Execution, project: Project, secrets: TenantSecrets) -> tuple[Mutation, ...]:
    """The rows that it changed, as they may be handed on.

    Those that were committed come from the log of changes, which the database writes and nobody redacts. Columns that
    rules name are redacted here. What a rule has met elsewhere may lie in any column, and the record no longer says
    what it was: then the images are left out. A replay needs none of them.
    """
    rules = RedactionRules.parse(project.config.recording.redact)
    redactor = Redactor(rules, execution.seed, secrets.of_execution(execution.seed).stand_ins())
    rows = tuple(map(redactor.mutation, execution.mutations))
    if not list_synthetic(execution, has_secrets=True):
        return rows
    return tuple(
        attrs.evolve(row, before=None, after=None, key=None) if row.committed else row for row in rows
    )


def describe_python() -> str:
    """Return which Python runs Python functions here: ``cpython-3.13``."""
    return f"{sys.implementation.name}-{sys.version_info.major}.{sys.version_info.minor}"


def _read_files(project: Project) -> tuple[tuple[CaseFile, ...], tuple[str, ...]]:
    """The deployment's files as a case may hold them, and what stands otherwise there."""
    files, hidden = [], []
    functions = project.config.project.functions
    for path in list_artifact_files(project):
        content = (project.root / path).read_bytes()
        if path == CONFIG_NAME:
            shown = _without_passwords(content)
            if shown != content:
                hidden.append(f"{CONFIG_NAME} is without the password in an address")
            content = shown
        elif Path(path).parts[0] != Path(functions).parts[0] and not path.endswith(".whl"):
            _check_requirements(path, content)
        files.append(CaseFile(path.encode("utf-8", "surrogateescape"), content))
    return tuple(files), tuple(hidden)


def _without_passwords(content: bytes) -> bytes:
    """``flux.toml`` with its lines where they are, and the passwords in its addresses replaced."""
    text = content.decode("utf-8")  # It was deployed, so it is.
    for pattern, shown in _PASSWORDS:
        text = pattern.sub(shown, text)
    url = parse_config(text.replace("\r\n", "\n"), CONFIG_NAME).database.url
    if masked(url) != url:
        raise SecretInCaseError(
            f"{CONFIG_NAME} has a password in the address of the database, written so that it can't be left out",
            remedy="write the address in plain characters, or give it by --database-url",
        )
    return text.encode("utf-8")


def _check_requirements(path: str, content: bytes) -> None:
    text = content.decode("utf-8", "replace")
    if hide_passwords(text) != text:
        raise SecretInCaseError(
            f"{path} has a password in an address, and a case would hold it",
            remedy="give it to the installer instead: in ~/.netrc, or in the settings of pip or uv",
        )


def _check_secrets(data: bytes, what: str, secrets: TenantSecrets) -> None:
    found = secrets.find_in(data)
    if found:
        raise SecretInCaseError(
            f"{what} the value of {', '.join(found)}, which is a secret",
            remedy="a case is for handing on, so none is written; ask for secrets in the code with ctx.secrets",
        )
