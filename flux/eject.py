"""Leaving Flux: a plain ASGI application of a project, as files. No I/O.

How to think about it: Flux's modules decide without waiting, and its supervisor waits. What decides (routes, inputs,
tokens, pages of other sites, rates, retries, schedules) goes along as it is, so that it decides the same. What waits is
written anew for an ordinary application (``flux/ejected``): asyncio and asyncpg in the place of sandboxes, journals and
records. The functions' files are the project's own, byte for byte.

Who leaves must not be told later what did not come along. So each thing that can't is an `Obstacle`, found before
anything is written; who leaves nonetheless finds the list in the README.
"""

import ast
import pprint
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import attrs

from flux.config import Config, FunctionConfig
from flux.eject_names import Missing, find_missing, find_unguarded
from flux.rate_limit import RateLimit
from flux.requirements import Requirement, Requirements

GUEST_MODULES = (
    "_answer", "_bodies", "_chain", "_context", "_digests", "_errors", "_input_types", "_registry", "_validation",
    "_values",
)  # fmt: skip
"""Modules of ``flux_guest`` that go along unchanged: those that know nothing of the wire."""

HOST_MODULES = {
    "bearer": "bearer.py",
    "caller": "caller.py",
    "column_values": "store/column_values.py",
    "cors": "cors.py",
    "errors": "errors.py",
    "grants": "grants.py",
    "http_addresses": "hostcalls/http_addresses.py",
    "http_outbound": "hostcalls/http_outbound.py",
    "inputs": "supervisor/inputs.py",
    "jobs": "jobs.py",
    "limits": "limits.py",
    "message": "message.py",
    "rate_limit": "rate_limit.py",
    "routes": "routes.py",
    "schedule": "schedule.py",
    "signing_keys": "supervisor/signing_keys.py",
    "sql_rules": "sql_rules.py",
    "trace_context": "trace_context.py",
}
"""Modules of Flux that go along, by their names in ``server/``; only what they import from is renamed."""

OWN_NAMES = frozenset(
    {"flux_guest", "main", "migrate", "migrations", "move_jobs", "server", "settings", "worker"}
)
"""What the application calls its own modules and folders."""

TAKEN_NAMES = OWN_NAMES | sys.stdlib_module_names | {
    "anyio", "asyncpg", "attr", "attrs", "certifi", "click", "cronsim", "cryptography", "h11", "httpcore", "httpx",
    "idna", "jwt", "msgspec", "tzdata", "uvicorn",
}  # fmt: skip
"""And what it imports: its own folder is looked through first."""

OWN_VARIABLES = frozenset({"DATABASE_CONNECTIONS", "DATABASE_URL", "FUNCTION_THREADS"})
"""Of the environment, which the application reads itself: no function's secret can stand there."""

LANGUAGES = {"javascript": "JavaScript", "typescript": "TypeScript", "wasm": "WebAssembly"}


@attrs.frozen
class Obstacle:
    """Something of the project that can't come along."""

    what: str
    """A file, or a function and what is asked of it."""
    why: str
    """Half a sentence, with what to do instead."""
    file: str | None = None
    """The file that is left out if one leaves nonetheless; None: it comes along and behaves otherwise."""
    is_final: bool = False
    """Nobody leaves nonetheless."""

    def __str__(self) -> str:
        return f"{self.what}: {self.why}"


@attrs.frozen
class ProjectFiles:
    """What there is to take along."""

    functions: Mapping[str, bytes]
    """Every file under the functions folder, by its path in the project."""
    runtimes: Mapping[str, str]
    """Of those that a runtime loads, which one."""
    migrations: Mapping[str, bytes]
    """In their order."""
    packages: Mapping[str, bytes]
    """Files that an installer takes from the project: wheels, and archives of source."""
    requirements: Requirements | None
    """What an installer is told; None: nothing is needed."""
    local_secrets: frozenset[str] = frozenset()
    """Names in ``.env.local``, without the values."""


def find_obstacles(config: Config, files: ProjectFiles) -> tuple[Obstacle, ...]:
    """Return what can't come along, files first."""
    found: list[Obstacle] = []
    folder = config.project.functions
    first = folder.split("/")[0]
    # Some file systems know no capitals: Server/ and server/ would be one folder there.
    if first in TAKEN_NAMES or first.lower() in OWN_NAMES:
        why = "the application has a module called so, or imports one: rename the folder first"
        found.append(Obstacle(f"{folder}/", why, is_final=True))
    why_not = {
        path: f"it is {LANGUAGES[runtime]}, which needs Flux to run: write it in Python first, or leave it behind"
        for path, runtime in files.runtimes.items()
        if runtime != "python"
    }
    why_not |= _find_in_python({path: files.functions[path] for path in files.functions if path.endswith(".py")})
    found += (Obstacle(path, why_not[path], path) for path in sorted(why_not))
    found += (
        Obstacle(f"--find-links {folder}", "the files in it do not come along: put them there before you install")
        for folder in _list_link_folders(files.requirements)
    )
    keyed = {name for name, table in config.functions.items() if config.get_auth(name) == "api_key" and table}
    if config.gate.auth.require == "api_key":
        found.append(Obstacle("[http.auth] require", _API_KEY))
    else:
        found += (Obstacle(f"[functions.{name}] auth", _API_KEY) for name in sorted(keyed))
    why = "the application has a variable of that name for itself: give the secret another one (left so, it is missing)"
    left_out = why_not.keys()
    taken = list_secrets(config, files, left_out) & OWN_VARIABLES
    found += (Obstacle(f"the secret {name}", why) for name in sorted(taken))
    sources, missing = _keep_python(files, left_out), list_missing(config, files, left_out)
    why = "no file that comes along has a function of this name: take the entry out, or write the function in Python"
    found += (Obstacle(f"[[cron]] {name}", why) for name in sorted(missing.functions))
    for name, middleware in find_unguarded(config, sources, missing.middleware).items():
        why = (
            f"its middleware {middleware} is in no file that comes along, and it is not to run without: write that in "
            "Python first (left as it is, nothing starts it, and its route is answered with 501)"
        )
        found.append(Obstacle(f"the function {name}", why))
    return tuple(found)


def _list_link_folders(needed: Requirements | None) -> list[str]:
    options = () if needed is None else needed.options
    return [option[1] for option in options if option[0] == "--find-links" and "://" not in option[1]]


def list_missing(config: Config, files: ProjectFiles, left_out: Collection[str]) -> Missing:
    """Return what is named of what stays behind with the files ``left_out``."""
    return find_missing(config, _keep_python(files, left_out)) if left_out else Missing()


def _keep_python(files: ProjectFiles, left_out: Collection[str]) -> dict[str, bytes]:
    """The Python files that come along."""
    return {path: source for path, source in files.functions.items() if path.endswith(".py") and path not in left_out}


def list_secrets(config: Config, files: ProjectFiles, left_out: Collection[str]) -> frozenset[str]:
    """Return names of the secrets that the project is known to have, but for those of ``left_out``'s files.

    Flux keeps the others in its database, which is not asked: it is named by whoever edits ``settings.py``.
    """
    found = set(files.local_secrets)
    if config.gate.auth.secret:
        found.add(config.gate.auth.secret)
    for source in _keep_python(files, left_out).values():
        found |= {name for name in _find_secrets(ast.parse(source)) if _SECRET_NAME.fullmatch(name)}
    return frozenset(found)


_SECRET_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}", re.ASCII)


def _find_secrets(tree: ast.AST) -> Iterable[str]:
    """What stands written out in ``secrets["NAME"]`` and ``secrets.reveal("NAME")``, whoever's secrets these are."""
    for node in ast.walk(tree):
        match node:
            case ast.Subscript(value=holder, slice=ast.Constant(value=str(name))):
                pass
            case ast.Call(func=ast.Attribute(value=holder, attr="reveal"), args=[ast.Constant(value=str(name))]):
                pass
            case _:
                continue
        match holder:
            case ast.Attribute(attr="secrets") | ast.Name(id="secrets"):
                yield name


_API_KEY = (
    'it is "api_key", and keys are known by their digests in Flux\'s own tables: ask for a "jwt", or check keys in '
    "middleware (left as it is, such routes are answered with 501)"
)


def _find_in_python(sources: Mapping[str, bytes]) -> dict[str, str]:
    """Return why Python files can't run without Flux, by path: by themselves, or as they import one that can't."""
    why_not: dict[str, str] = {}
    imports: dict[str, set[str]] = {}
    for path, source in sources.items():
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError, RecursionError) as error:
            why_not[path] = f"it can't be read as Python: {error}"
            continue
        imports[path] = {*_list_imports(tree), *_list_inner_imports(tree, path)}
        if why := _find_in_imports(_list_imports(tree)):
            why_not[path] = why
    left = list(why_not)
    while left:
        file = left.pop()
        for path in imports.keys() - why_not.keys():
            if _name_module(file) in imports[path]:
                why_not[path] = f"it imports {file}, which can't come along"
                left.append(path)
    return why_not


def _name_module(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _list_inner_imports(tree: ast.AST, path: str) -> Iterable[str]:
    """Names of modules that ``from ... import`` may mean, relative ones too, as they would be called in full."""
    package = _name_module(path).split(".")
    if not path.endswith("/__init__.py"):
        package.pop()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*above, *([node.module] if node.module else [])])
            yield start
            yield from (f"{start}.{alias.name}" for alias in node.names)


def _find_in_imports(modules: Iterable[str]) -> str:
    """Return why what imports these can't run without Flux, or nothing."""
    for module in modules:
        if module == "flux_guest.asgi":
            return "it wraps an ASGI application: serve that one itself, it needs neither Flux nor this"
        if module.split(".")[0] == "flux":
            return f"it imports {module}, which is Flux itself"
        inner = module.removeprefix("flux_guest.")
        if inner != module and inner.split(".")[0] not in GUEST_MODULES:
            return f"it imports {module}, which speaks to Flux alone"
    return ""


def _list_imports(tree: ast.AST) -> Iterable[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None and not node.level:
            yield node.module
            if node.module == "flux_guest":
                # Of a package's names only modules could be missing.
                modules = (name for alias in node.names if (name := alias.name) == "asgi" or name.startswith("_"))
                yield from (f"flux_guest.{name}" for name in modules)


def make_files(
    config: Config,
    files: ProjectFiles,
    obstacles: Sequence[Obstacle],
    read_own: Callable[[str], bytes],
    read_guest: Callable[[str], bytes],
    templates: Mapping[str, bytes],
    *,
    flux_version: str,
    python_version: str,
) -> Mapping[str, bytes]:
    """Return the application's files by their paths.

    ``read_own`` gives a file of the package ``flux``, ``read_guest`` one of ``flux_guest``; ``templates`` are those of
    ``flux/ejected``, by their paths there.
    """
    left_out = {obstacle.file for obstacle in obstacles if obstacle.file is not None}
    made: dict[str, bytes] = {path.removesuffix(".txt"): content for path, content in templates.items()}
    for name in GUEST_MODULES:
        made[f"flux_guest/{name}.py"] = read_guest(f"{name}.py")
    made["flux_guest/py.typed"] = b""
    for name, path in HOST_MODULES.items():
        made[f"server/{name}.py"] = rename_imports(read_own(path).decode()).encode()
    # What other servers are told asks them: as before.
    made["server/__init__.py"] += f'\n__version__ = "{flux_version}"\n"""Of the Flux that wrote this."""\n'.encode()
    made["settings.py"] = write_settings(
        config, list_secrets(config, files, left_out), list_missing(config, files, left_out)
    ).encode()
    lists = _write_requirements(files.requirements)
    made |= {path: content.encode() for path, content in lists.items()}
    made["Dockerfile"] = _write_dockerfile(lists, python_version).encode()
    made[".dockerignore"] = b".git\n.venv\n__pycache__\n.env*\n"
    made["README.md"] = _write_readme(
        made["README.md"].decode(), config, obstacles, flux_version, _install(lists)
    ).encode()
    theirs = {path: content for path, content in files.functions.items() if path not in left_out}
    for more in (theirs, files.migrations, files.packages):
        for path, content in more.items():
            if made.setdefault(path, content) != content:
                raise ValueError(f"{path} would be written twice, with different contents")
    return dict(sorted(made.items()))


_IMPORT = re.compile(r"^from flux(?:\.(?:hostcalls|store|supervisor))?\.([a-z_]+) import ", re.MULTILINE)


def rename_imports(source: str) -> str:
    """Return a module's source as it stands in ``server/``; raise ValueError when it imports what does not go along."""
    renamed = source.replace("from flux import values\n", "from flux_guest import _values as values\n")
    renamed = renamed.replace("from flux import __version__\n", "from server import __version__\n")
    for module in _IMPORT.findall(renamed):
        if module not in HOST_MODULES:
            raise ValueError(
                f"flux.{module} is imported by a module that goes along, and does not go along itself"
            )
    return _IMPORT.sub(lambda match: f"from server.{match[1]} import ", renamed)


def write_settings(config: Config, secrets: Collection[str], missing: Missing) -> str:
    """Return ``settings.py``: what ``flux.toml`` said, as far as it means something without Flux.

    ``secrets`` are the names of those that functions may read; ``missing`` is left out.
    """
    gate = config.gate
    cors = None if gate.cors is None else attrs.asdict(gate.cors)
    networks = [str(network) for network in gate.proxies.networks]
    limits = {name: value for name, value in attrs.asdict(config.limits).items() if name in _LIMITS}
    sections: list[tuple[str, str, str, object]] = [
        ("NAME", "str", "What the application calls itself, to the database for one.", config.project.name),
        ("FUNCTIONS_FOLDER", "str", "Every module in it is loaded.", config.project.functions),
        ("TIME_ZONE", "str", "Of schedules that name none.", config.project.time_zone),
        ("ISOLATION", "str", "Of a function's transaction, where its decorator names none.", config.database.isolation),
        ("LIMITS", "dict[str, Any]", "Of every execution; seconds and bytes. FUNCTIONS may have others.", limits),
        ("HTTP_ALLOW", "list[str]", "Hosts that ctx.http of every function may reach.", list(config.http.allow)),
        ("SECRETS", "list[str]", "Variables of the environment that ctx.secrets and AUTH may read, and no other one.",
         sorted(set(secrets) - OWN_VARIABLES)),
        ("MIDDLEWARE", "list[str]", "Around every route, outermost first.", list(config.http.middleware)),
        ("MIDDLEWARE_LEFT_OUT", "list[str]",
         "What did not come along. A function that one of them would stand around is not started by anything.",
         sorted(missing.middleware)),
        ("ROUTES", "list[dict[str, Any]]", "Middleware of the routes below a path.", [
            {"below": one.below, "middleware": list(one.middleware), "without": list(one.without)}
            for one in config.routes
        ]),
        ("FUNCTIONS", "dict[str, dict[str, Any]]", "What is otherwise for one function, by its name.", {
            name: said for name, table in config.functions.items() if (said := _describe_function(table))
        }),
        ("PROXIES", "dict[str, Any]", "Whose word on a client's address is believed.",
         {"networks": networks, "headers": gate.proxies.headers}),
        ("CORS", "dict[str, Any] | None", "Which pages of other sites may read answers; None: nothing is said of it.",
         cors),
        ("RATE_LIMIT", "dict[str, Any] | None", "Of one client, over all functions, in each process; None: none.",
         _describe_rate(gate.rate_limit)),
        ("AUTH", "dict[str, Any]", "Who may ask. A secret is named, and stands in the environment.",
         attrs.asdict(gate.auth)),
        ("QUEUE", "dict[str, Any]",
         "Jobs that a worker runs at once, and how long one that is not heard of keeps its own.",
         {"concurrency": config.queue.concurrency, "lease_s": config.queue.lease}),
        ("CRON", "list[dict[str, Any]]", "Schedules; one that names a function stands for its decorator's.", [
            {"function": one.function, "schedule": one.schedule, "time_zone": one.time_zone or config.project.time_zone,
             "catch_up": one.catch_up}
            for one in config.cron
            if one.function not in missing.functions
        ]),
    ]  # fmt: skip
    lines = [
        '"""What flux.toml said, as far as it means something here. It is read when the application starts."""',
        "",
        "from typing import Any",
    ]
    for name, kind, comment, value in sections:
        lines += ["", f"# {comment}", f"{name}: {kind} = {pprint.pformat(value, width=80, sort_dicts=False)}"]
    return "\n".join(lines) + "\n"


_LIMITS = ("timeout_s", "body_bytes_max", "response_bytes_max", "stream_bytes_max")


def _describe_function(table: FunctionConfig) -> dict[str, object]:
    limits = {name: value for name, value in table.limits.items() if name in _LIMITS}
    said: dict[str, object] = {
        "http": list(table.http), "without": list(table.without), "scopes": list(table.scopes), "auth": table.auth,
        "limits": limits, "concurrency": table.concurrency, "rate_limit": _describe_rate(table.rate_limit),
    }  # fmt: skip
    said = {name: value for name, value in said.items() if value}
    # An empty list says something: that what the decorator names does not run.
    return said if table.middleware is None else {**said, "middleware": list(table.middleware)}


def _describe_rate(limit: RateLimit | None) -> dict[str, object] | None:
    return None if limit is None else attrs.asdict(limit)


_FUNCTIONS_LIST, _CONSTRAINTS = "requirements-functions.txt", "constraints-functions.txt"


def _write_requirements(needed: Requirements | None) -> dict[str, str]:
    """Return the files that tell an installer what to take, in the order in which it is to read them.

    What says where the project's packages come from, and which files they are, holds for all that is installed with
    them, so such a project's packages are installed apart: the application's own are on no list of its hashes.
    """
    own = [
        "asyncpg>=0.30", "attrs>=24.2", "cronsim>=2.6", "cryptography>=42", "httpcore>=1.0", "httpx>=0.28",
        "msgspec>=0.19", "pyjwt>=2.10", "tzdata", "uvicorn>=0.34",
    ]  # fmt: skip
    text = "# What the application itself needs.\n" + "\n".join(own) + "\n"
    if needed is None:
        return {"requirements.txt": text}
    theirs = "# What the functions need.\n" + "".join(f"{_ask(one)}\n" for one in needed.packages)
    options = [" ".join(option) for option in needed.options]
    if not options and not needed.constraints and not any(one.hashes for one in needed.packages):
        return {"requirements.txt": f"{text}\n{theirs}"}
    agreed = "".join(f"{_ask(one)}\n" for one in needed.constraints)
    options += [f"--constraint {_CONSTRAINTS}"] if agreed else []
    lists = {
        "requirements.txt": text,
        _FUNCTIONS_LIST: "".join(f"{option}\n" for option in options) + theirs,
    }
    return {**lists, _CONSTRAINTS: agreed} if agreed else lists


def _ask(package: Requirement) -> str:
    place = package.text if package.path is None else f"./{package.path}"
    return " ".join([place, *(f"--hash={digest}" for digest in package.hashes)])


def _install(lists: Collection[str]) -> str:
    """What is typed to install them."""
    if _FUNCTIONS_LIST not in lists:
        return "pip install -r requirements.txt"
    return f"pip install -r requirements.txt\npip install -r {_FUNCTIONS_LIST} && pip check"


_DOCKERFILE = """\
FROM python:{python}-slim
WORKDIR /app
COPY . .
RUN {install} && useradd --system app
USER app
EXPOSE 8000
# Jobs and schedules: the same image with "python worker.py". Migrations, before a new version: "python migrate.py".
CMD ["uvicorn", "main:application", "--host", "0.0.0.0", "--port", "8000", "--no-proxy-headers"]
"""


def _write_dockerfile(lists: Collection[str], python_version: str) -> str:
    install = _install(lists).replace("\n", " && ").replace("pip install", "pip install --no-cache-dir")
    return _DOCKERFILE.format(python=python_version, install=install)


def _write_readme(
    template: str, config: Config, obstacles: Sequence[Obstacle], flux_version: str, install: str
) -> str:
    left = "Everything of the project came along."
    if obstacles:
        left = "This did not come along:\n\n" + "\n".join(f"- `{one.what}`: {one.why}" for one in obstacles)
        left += (
            "\n\nA function whose middleware is in `MIDDLEWARE_LEFT_OUT` of `settings.py` is started by nothing, and "
            "its route answers `501`:\nit is not to run without. It is there again as soon as a module declares a "
            "`@middleware` of that name."
        )
    said = {
        "name": config.project.name,
        "folder": config.project.functions,
        "version": flux_version,
        "left": left,
        "install": install,
    }
    # In one go: what is put in is looked at for marks no more.
    return re.sub(r"{{([a-z]+)}}", lambda mark: said[mark[1]], template)
