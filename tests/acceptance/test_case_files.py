"""``flux export --case`` and ``flux replay FILE`` as typed: the server has ended, its database is dropped, the stub is
closed, and the cases replay in another folder.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import msgspec
import pytest
import trio

from flux.brought import Status
from flux.case_file import Case, CaseFile, decode_case, encode_case, hash_files
from flux.errors import FluxError
from flux.execution import Execution, Returned
from flux.hostcalls.secret import TenantSecrets
from flux.mutation import Mutation, Operation
from flux.project import find_requirements, read_project
from flux.supervisor.case_export import SecretInCaseError, describe_python, make_case_file
from flux.supervisor.environments import make_key
from flux.supervisor.offline import STRICT, open_offline
from flux.supervisor.replay import Replay
from flux.verdict import Verdict
from tests.conftest import Database
from tests.dev_process import DevServer, counting_stub, database_url, run_flux, running_dev, write_project
from tests.guests.cases import ask
from tests.postgres_server import PostgresServer

RECORDINGS = Path(__file__).parents[1] / "recordings"
KEY = "sk_live_of_nobody_else"
PASSWORD = "hunter2-of-the-database"
SCHEMA = "create table users (id bigint generated always as identity primary key, email text not null);"
PYTHON = """\
import random
from flux_guest import function

STUB = "http://127.0.0.1:PORT"


@function("POST /signup")
async def create_user(ctx, input):
    user = await ctx.db.query_one("insert into users (email) values ($1) returning id", input["email"])
    charge = await ctx.http.post(STUB + "/charges", json={"user": user["id"], "cents": 900})
    ctx.log.info("charged", lucky=random.random(), at=__file__)
    return {"id": user["id"], "amount": charge.json()["amount"]}


@function("POST /who")
async def tell_who(ctx, input):
    token = ctx.request.headers["authorization"].removeprefix("Bearer ")
    key = await ctx.secrets.reveal("KEY")
    return {"length": len(token), "of": len(key)}
"""
SCRIPT = """\
import { defineFunction } from "@flux/guest";

export default defineFunction({
  route: "POST /script",
  handler: async ({ input, ctx }) => {
    const answer = await ctx.http.get("http://127.0.0.1:PORT/slow/5");
    await ctx.db.execute("insert into users (email) values ($1)", input.email);
    return { amount: answer.json().amount.toFixed(2) };
  },
});
"""


@attrs.frozen
class Cases:
    """What is left of a server that has ended."""

    project: Path
    folder: Path
    """Another one, with the cases and nothing else."""
    names: dict[str, str]
    """Of the executions, by path."""

    def path(self, of: str) -> Path:
        return self.folder / f"{of}.fluxcase"

    def read(self, of: str) -> Case:
        return decode_case(self.path(of).read_bytes())

    def replay(self, of: str, *options: str, at: Path | None = None, exit_code: int) -> Any:
        done = run_flux(at or self.folder, "replay", str(self.path(of)), *options, "--json")
        assert done.returncode == exit_code, f"{done.stdout}\n{done.stderr}"
        return json.loads(done.stdout or done.stderr)


def export(server: DevServer, *arguments: str) -> None:
    done = server.command("export", *arguments)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def cases(
    tmp_path_factory: pytest.TempPathFactory,
    postgres18: PostgresServer,
    make_database: Callable[[PostgresServer], Database],
) -> Iterator[Cases]:
    root = tmp_path_factory.mktemp("cases")
    root.chmod(0o755)
    database = make_database(postgres18)
    url = database_url(database).replace("@", f":{PASSWORD}@", 1)
    folder = root / "elsewhere"
    folder.mkdir()
    with counting_stub() as stub:
        texts = {"shop.py": PYTHON, "script.js": SCRIPT}
        project = write_project(
            root / "shop",
            {name: text.replace("PORT", str(stub.port)) for name, text in texts.items()},
            toml=f'[http]\nallow = ["127.0.0.1:{stub.port}"]\n\n[database]\nurl = "{url}"\n',
            migrations={"001.sql": SCHEMA},
        )
        (project / ".env.local").write_text(f"KEY={KEY}\n")
        with running_dev(project) as server:
            asked = {"authorization": "Bearer of-a-person"}
            names = {
                path: server.request("POST", f"/{path}", {"email": "a@b.com"}, asked).flux_id
                for path in ("signup", "who", "script")
            }
            for path in ("who", "script"):
                status, data = ask(server, "GET", f"executions/{names[path]}/case")
                assert status == 200
                (folder / f"{path}.fluxcase").write_bytes(data)
            export(server, names["signup"], "--case", "-o", str(folder / "signup.fluxcase"))
            # Where nobody says otherwise; and the same once more.
            export(server, names["signup"], "--case")
            assert (project / f"{names['signup']}.fluxcase").read_bytes() == (
                folder / "signup.fluxcase"
            ).read_bytes()
            (project / f"{names['signup']}.fluxcase").unlink()
    postgres18.psql(f"drop database {database.name} with (force)")
    yield Cases(project, folder, names)
    shutil.rmtree(root, ignore_errors=True)


def test_a_case_replays_in_another_folder_with_server_database_and_stub_gone(cases: Cases) -> None:
    replay = cases.replay("signup", exit_code=1)
    assert (replay["schema"], replay["verdict"], replay["divergence"]) == (
        "flux.replay/1",
        "same failure",
        None,
    )
    assert replay["execution"]["name"] == cases.names["signup"]
    assert (replay["code"]["is_recorded"], replay["grades"]["exact"]) == (True, 2)
    assert replay["synthetic"] == ["header authorization"]
    assert not list(cases.folder.glob(".*")), "nothing is left in the folder"
    script = replay_here(cases.read("script"))
    assert script.judgement.verdict is Verdict.SAME_FAILURE


def test_a_case_is_for_its_owners_eyes_and_holds_no_secret(cases: Cases) -> None:
    assert cases.path("signup").stat().st_mode & 0o777 == 0o600
    for of in cases.names:
        case = cases.read(of)
        whole = repr(case)
        assert KEY not in whole and PASSWORD not in whole and "of-a-person" not in whole
        assert case.hidden == ("flux.toml is without the password in an address",)
        assert case.made.environment == ""


def test_rows_that_were_committed_are_handed_on_redacted_or_without_their_images(
    cases: Cases, tmp_path: Path
) -> None:
    """They come from the database's own log, which nobody redacts."""
    recorded = cases.read("signup").execution
    artifact = tmp_path / "artifact"
    shutil.copytree(cases.project / ".flux" / "artifacts" / recorded.deployment, artifact)
    with (artifact / "flux.toml").open("a") as toml:
        toml.write('\n[recording]\nredact = ["column:users.ssn"]\n')
    image = '{"id":1,"ssn":"123-45-6789"}'
    row = Mutation("public", "users", '{"id":1}', Operation.INSERT, None, image, committed=True, xid=7)

    def hand_on(execution: Execution) -> Mutation:
        data = make_case_file(
            attrs.evolve(execution, mutations=(row,)), read_project(artifact), TenantSecrets({}, b"key")
        )
        (found,) = decode_case(data).execution.mutations
        return found

    plain = hand_on(attrs.evolve(recorded, trigger=attrs.evolve(recorded.trigger, headers=())))
    assert plain.after is not None and '"ssn":"redacted:' in plain.after and "123-45" not in plain.after
    # A header was redacted, and its value may lie in any column.
    assert hand_on(recorded) == attrs.evolve(row, key=None, after=None)


def test_a_case_on_repaired_code_passes_and_stops_at_a_statement_that_nobody_asked(cases: Cases) -> None:
    shop = cases.project / "functions" / "shop.py"
    before = shop.read_text()
    try:
        shop.write_text(before.replace('charge.json()["amount"]', 'charge.json().get("amount", 900)'))
        passed = cases.replay("signup", "--on", ".", at=cases.project, exit_code=0)
        assert (passed["verdict"], passed["on"]) == ("passed", ".")
        assert any("there is no database here" in note for note in passed["notes"])
        asks_more = before.replace("    charge =", '    await ctx.db.query("select 7")\n    charge =')
        shop.write_text(asks_more)
        stopped = replay_here(cases.read("signup"), root=cases.project, on=".")
        assert stopped.judgement.verdict is Verdict.DIVERGED
        assert stopped.replayed.divergence is not None and stopped.replayed.divergence.seq == 2
    finally:
        shop.write_text(before)
    with pytest.raises(FluxError, match="no project here"):
        replay_here(cases.read("signup"), on=".")


def test_a_file_that_is_no_case_of_ours_ends_with_exit_code_6_and_its_reason(cases: Cases) -> None:
    cases.path("cut").write_bytes(cases.path("signup").read_bytes()[:-9])
    refused = cases.replay("cut", exit_code=6)
    assert refused["code"] == "FLX340" and "cut.fluxcase: it is cut" in refused["message"]


# --- without a command's start each time --------------------------------------------------------------------


def replay_here(case: Case, root: Path | None = None, **options: Any) -> Replay:
    """Replay a case as the command does; raise what it would tell."""

    async def run() -> Replay | FluxError:
        async with open_offline(root, STRICT if root is None else None) as offline:
            try:
                return await offline.replay(decode_case(encode_case(case)), **options)
            except FluxError as error:
                return error

    result = trio.run(run)
    if isinstance(result, FluxError):
        raise result
    return result


def with_files(case: Case, *changes: tuple[bytes, bytes, bytes]) -> Case:
    """The case with other code, of which it says that it is the recorded one."""
    files = {file.path: file.content for file in case.files}
    for path, old, new in changes:
        before = files.get(path, b"")
        files[path] = before.replace(old, new) if old else before + new
    # In the order in which a deployment's files are hashed.
    listed = sorted(files, key=lambda path: (path != b"flux.toml", path != b"requirements.txt", path))
    made = tuple(CaseFile(path, files[path]) for path in listed)
    return attrs.evolve(
        case, files=made, execution=attrs.evolve(case.execution, deployment=hash_files(made)[:16]), hidden=()
    )


def refusal(case: Case) -> FluxError:
    with pytest.raises(FluxError) as refused:
        replay_here(case)
    return refused.value


def test_a_case_of_another_python_another_engine_or_other_packages_is_refused(cases: Cases) -> None:
    signup, script = cases.read("signup"), cases.read("script")
    other = attrs.evolve(signup, made=msgspec.structs.replace(signup.made, python="cpython-2.7"))
    refused = refusal(other)
    assert (refused.code, refused.exit_code) == ("FLX344", 6)
    level = attrs.evolve(script.execution.level, meter="another engine")
    engine = attrs.evolve(script, execution=attrs.evolve(script.execution, level=level))
    refused = refusal(engine)
    assert (refused.code, "another engine" in refused.message) == ("FLX344", True)
    packages = with_files(signup, (b"requirements.txt", b"", b"six==1.17.0\n"))
    assert refusal(packages).code == "FLX344"


def test_packages_that_are_not_here_are_named_and_not_fetched(cases: Cases, tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("six==1.17.0\n")
    requirements = find_requirements(tmp_path)
    assert requirements is not None
    signup = with_files(cases.read("signup"), (b"requirements.txt", b"", b"six==1.17.0\n"))
    made = msgspec.structs.replace(signup.made, environment=make_key(requirements, tmp_path))
    needing = attrs.evolve(signup, made=made)
    missing = refusal(needing)
    assert (missing.code, missing.exit_code, "flux build" in missing.remedy) == ("FLX343", 6, True)


def test_a_case_chooses_neither_its_walls_nor_what_it_may_touch(cases: Cases, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    touched = tmp_path / "touched"
    hostile = b'\nimport contextlib\nwith contextlib.suppress(OSError):\n    open("%b", "w").close()\n'
    case = with_files(
        cases.read("signup"),
        (b"flux.toml", b"", b'\n[sandbox]\nisolation = "core"\nwarm = 9\n'),
        (b"functions/shop.py", b"900", b"901"),
        (b"functions/more.py", b"", hostile % bytes(touched)),
    )
    replay = replay_here(case)
    assert replay.replayed.execution.level.isolation == "strict"
    assert not touched.exists()
    # Its code asks otherwise than its record says, and that is what is told.
    assert replay.judgement.verdict is Verdict.DIVERGED
    assert replay.replayed.divergence is not None and replay.replayed.divergence.seq == 2


async def test_stand_ins_are_not_taken_for_values_and_answers_are_brought(cases: Cases) -> None:
    async with open_offline(None, STRICT) as offline:
        who = await offline.replay(cases.read("who"))
        brought = await offline.replay(cases.read("signup"), answers={2: Status(503)})
    assert who.replayed.synthetic == ("header authorization", "secret KEY")
    assert who.judgement.verdict is Verdict.DIVERGED
    assert "it ends otherwise than it was recorded" in who.judgement.reason
    assert "stand-ins for values that are not on record, which may be why" in who.judgement.reason
    assert brought.replayed.brought == {2}


def test_no_case_is_written_that_would_have_a_secret_in_it(cases: Cases, tmp_path: Path) -> None:
    case = cases.read("signup")
    artifact = tmp_path / "artifact"
    shutil.copytree(cases.project / ".flux" / "artifacts" / case.execution.deployment, artifact)

    def refused(secrets: Mapping[str, str]) -> str:
        with pytest.raises(SecretInCaseError) as error:
            make_case_file(case.execution, read_project(artifact), TenantSecrets(secrets, b"key"))
        return error.value.message

    assert "functions/shop.py holds the value of WORD" in refused(
        {"WORD": "lucky=random", "ANOTHER": "not there"}
    )
    assert "the record holds the value of MAIL" in refused({"MAIL": "a@b.com"})
    (artifact / "requirements.txt").write_text(
        "--index-url https://me:mine@pypi.example/simple\nsix==1.17.0\n"
    )
    assert "requirements.txt has a password" in refused({})

# --- cases of each format, kept for ever ----------------------------------------------------------------------

KEPT = {"case-1-python": 2, "case-1-javascript": 2, "case-1-wasi": 0}
"""Of ``tests/recordings``: how many statements and requests are in each. They are never written again."""
BODIES = {
    "case-1-python": '{"amount":900,"id":1,"item":"水 & tea"}',
    "case-1-javascript": '{"amount":900,"item":"水 & tea"}',
    "case-1-wasi": '{"greeting":"hello from wasm"}',
}


def as_if_made_here(case: Case, refused: Any) -> Case:
    """The case without what FLX344 was right to refuse: the version of Python, or the engine and all its counts."""
    assert refused["code"] == "FLX344", refused
    execution = case.execution
    if execution.level.kind == "process":
        assert case.made.python != describe_python()
        return attrs.evolve(case, made=msgspec.structs.replace(case.made, python=describe_python()))
    here = re.search(r"here it would run in \w+ \((.+)\)$", refused["message"])
    assert here is not None and here[1] != execution.level.meter, refused
    calls = tuple(attrs.evolve(call, request=attrs.evolve(call.request, fuel=None)) for call in execution.calls)
    level = attrs.evolve(execution.level, meter=here[1])
    return attrs.evolve(case, execution=attrs.evolve(execution, level=level, calls=calls, fuel=None))


def test_each_case_that_is_kept_is_here() -> None:
    assert {path.stem for path in RECORDINGS.glob("*.fluxcase")} == set(KEPT) == set(BODIES)


@pytest.mark.parametrize("name", KEPT)
def test_a_case_that_was_kept_is_replayed_and_does_as_it_did_then(name: str, tmp_path: Path) -> None:
    """With the command, as somebody does who finds one after years. Its engine and its Python may be others by now."""
    path = RECORDINGS / f"{name}.fluxcase"
    case = decode_case(path.read_bytes())
    asked = [call.request.name for call in case.execution.calls if call.request.name.startswith(("db.", "http."))]
    assert len(asked) == KEPT[name]
    done = run_flux(tmp_path, "replay", str(path), "--json")
    if done.returncode != 0:
        here = tmp_path / path.name
        here.write_bytes(encode_case(as_if_made_here(case, json.loads(done.stdout or done.stderr))))
        done = run_flux(tmp_path, "replay", str(here), "--json")
    replay = json.loads(done.stdout)
    assert (replay["verdict"], done.returncode, replay["divergence"]) == ("identical", 0, None), replay
    assert replay["execution"]["name"] == case.execution.name
    outcome = case.execution.outcome
    assert isinstance(outcome, Returned)
    assert json.loads(outcome.body) == json.loads(BODIES[name])
