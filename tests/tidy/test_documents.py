"""Each kind of JSON document that Flux speaks of has a schema, the page shows it, and `flux schema` prints it."""

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.shell_completion import ShellComplete

import flux
from flux.cli import main
from flux.cli.registry import root
from flux.documents import find_kind, list_kinds, render
from tests import documents

ROOT = Path(__file__).parents[2]
SOURCES = Path(flux.__file__).parent
TAG = re.compile(r"""["'`](flux\.[a-z][a-z-]*/[0-9]+)["'`\\]""")
QUOTED = re.compile(r'"schema": ?"([^"]+)"')


def find_tags() -> dict[str, str]:
    """Each kind that the code names, and a file that does."""
    found = {}
    for path in SOURCES.rglob("*.py"):
        if path.parent.name != "documents":
            text = path.read_text(encoding="utf-8")
            found |= dict.fromkeys([*TAG.findall(text), *QUOTED.findall(text)], str(path.relative_to(SOURCES)))
    return found


def walk(schema: Any, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each member of each object of a schema."""
    if isinstance(schema, dict):
        for name, member in schema.get("properties", {}).items():
            if not where.endswith(("/if", "/then")):
                yield f"{where}.{name}", member
        for key, below in schema.items():
            yield from walk(below, f"{where}/{key}")
    elif isinstance(schema, list):
        for each in schema:
            yield from walk(each, where)


def test_the_code_names_the_kinds_that_have_a_schema_and_no_other() -> None:
    tags = find_tags()
    tagged = {tag for tag, kind in list_kinds().items() if kind.is_tagged}
    missing = {tag: path for tag, path in tags.items() if tag not in tagged}
    assert missing == {}, "flux/documents describes them"
    assert tagged - set(tags) == set(), "nothing says that it is one of these"
    assert set(list_kinds()) - tagged == {"flux.http-problem/1", "flux.server-log/1"}
    assert len(tags) > 70


@pytest.mark.parametrize("is_strict", [False, True], ids=["open", "strict"])
def test_each_schema_is_one_and_tells_what_each_member_means(is_strict: bool) -> None:
    shared: dict[str, Any] = {}
    for tag, kind in list_kinds().items():
        schema = render(kind, is_strict=is_strict)
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema.get("properties", {}).get("schema", {}).get("const") == (tag if kind.is_tagged else None)
        silent = [where for where, member in walk(schema, tag) if not member.get("description")]
        assert silent == []
        for name, shape in schema.get("$defs", {}).items():
            assert name == "line" or shared.setdefault(name, shape) == shape, f"two shapes are called {name}"


def test_the_open_form_lets_be_what_a_later_version_may_add_and_the_strict_one_does_not() -> None:
    health = {"schema": "flux.health/1", "ready": False, "reasons": [{"name": "database", "code": "FLX204"}]}
    newer = {**health, "since": "now", "reasons": [{"name": "tired", "code": None, "more": 1}]}
    broken = [
        {**health, "ready": "no"}, {**health, "schema": "flux.health/2"}, {"schema": "flux.health/1", "ready": True},
        {**health, "reasons": [{"name": "database"}]},
    ]  # fmt: skip
    kind = list_kinds()["flux.health/1"]
    strict, published = (jsonschema.Draft202012Validator(render(kind, is_strict=each)) for each in (True, False))
    assert [strict.is_valid(each) for each in (health, newer, *broken)] == [True, *[False] * 5]
    assert [published.is_valid(each) for each in (health, newer, *broken)] == [True, True, *[False] * 4]


def find_alternatives(schema: Any, where: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Each place of a strict schema where one of several records stands."""
    if isinstance(schema, dict):
        records = [each for each in schema.get("anyOf", ()) if each.get("type") == "object" or "$ref" in each]
        if len(records) > 1 or where.endswith("/$defs/line"):
            yield where, records
        for key, below in schema.items():
            yield from find_alternatives(below, f"{where}/{key}")


def test_the_open_form_lets_another_record_be_wherever_one_of_several_stands_and_holds_those_that_it_knows() -> None:
    found: list[str] = []
    for tag, kind in list_kinds().items():
        published, strict = (render(kind, is_strict=each) for each in (False, True))
        for where, records in find_alternatives(strict, tag):
            path = [part for part in where.removeprefix(tag).split("/") if part]
            place = reduce(lambda schema, key: schema[key], path, published)
            newer, known = (
                jsonschema.Draft202012Validator(schema | {"$defs": published.get("$defs", {})})
                for schema in (place, {"anyOf": place["anyOf"][: len(records)]})
            )
            another = {"replaced": {"by": "qk3f81xa"}, "reason": "so"}
            assert newer.is_valid(another) and not known.is_valid(another), where
            assert not newer.is_valid("replaced") and not newer.is_valid(None), where
            found.append(where)
    assert {where.removeprefix(where.partition("/1/")[0]) for where in found} == {
        "", "/1/$defs/line", "/1/$defs/output", "/1/properties/executions/items",
    }  # fmt: skip
    output = render(list_kinds()["flux.trace/1"])["$defs"]["output"]
    killed = {"limit": "timeout", "allowed": "1s", "origin": "flux.toml:1", "detail": ""}
    valid = jsonschema.Draft202012Validator(output)
    assert valid.is_valid({"status": 504, "killed": killed, "more": 1})
    wrong = {**killed, "limit": 1}
    for broken in ({"killed": killed}, {"status": 504, "killed": wrong}, {"status": 200, "headers": {}}):
        assert not valid.is_valid(broken), broken
    replays = render(list_kinds()["flux.replays/1"])
    line = jsonschema.Draft202012Validator({"$ref": "#/$defs/line", "$defs": replays["$defs"]})
    for broken in ({"end": {}}, {"heartbeat": False}, {"schema": "flux.replay/1"}, {"verdict": "unreplayable"}):
        assert not line.is_valid(broken), broken


def test_what_the_harnesses_use_refuses_what_is_of_no_kind_or_not_as_described() -> None:
    live = {"schema": "flux.live/1", "live": True}
    documents.check(live)
    documents.check({"openapi": "3.1.0"})
    for wrong in ({"live": True}, {"schema": "flux.lives/1"}, {**live, "more": 1}, [live], None):
        with pytest.raises(documents.BadDocumentError):
            documents.check(wrong)
    head = {"schema": "flux.guarded/1", "asked": 3}
    end = {"end": {"deploy": None, "problem": None}}
    documents.check_lines([head, {"judged": 1, "of": 3}, {"heartbeat": True}, end])
    unknown = {"judged": 1, "of": 3, "more": 1}
    for stream in ([head, {"judged": 1}], [head, {"gap": 1}], [live, unknown], [head, live, 3]):
        with pytest.raises(documents.BadDocumentError):
            documents.check_lines(stream)
    documents.check_text("")
    said = json.dumps(live)
    documents.check_text(f"{said}\n{said}\n")
    for text in (
        '{"schema": "flux.live/1", "live": 1}\n', "FLX100  no JSON\n", "\n", f"{said}\nFLX100  no JSON\n",
        f"no JSON\n{said}\n", f"{said}\n\n{said}", said[:-1], '{"openapi": NaN}',
    ):  # fmt: skip
        with pytest.raises(documents.BadDocumentError):
            documents.check_text(text)
    documents.check_command(["trace", "--json", "--help"], "usage\n", "")
    for stdout, stderr in (("usage\n", ""), ("", f"{said[:-1]}\n"), (said, '{"schema": "flux.lives/1"}\n')):
        with pytest.raises(documents.BadDocumentError):
            documents.check_command(["trace", "--json"], stdout, stderr)
    long = {"schema": "flux.schemas/1", "kinds": [{"name": "a", "what": "b", "sources": []}] * 1000 + [{}]}
    with pytest.raises(documents.BadDocumentError):
        documents.check(long)


def test_the_page_is_what_is_made_of_the_schemas() -> None:
    spec = importlib.util.spec_from_file_location("json_documents", ROOT / "scripts" / "json_documents.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    text = script.PAGE.read_text(encoding="utf-8")
    assert script.make_page(text) == text, "python scripts/json_documents.py writes it"
    assert all(f"\n### {tag}\n" in text for tag in list_kinds())
    # What is one of several records shows the members of each.
    assert all(f"\n| `{path}` |" in text for path in ("headers", "killed.limit", "exited.signal", "error_message"))


def read_braces(text: str) -> set[str]:
    """Names of the members that ``{a, b: what it is, c: {d}}``, with which the text begins, tells of."""
    depth, parts = 0, [""]
    for character in text:
        depth += (character in "{[(") - (character in ")]}")
        if depth == 0:
            break
        if depth == 1 and character == ",":
            parts.append("")
        else:
            parts[-1] += character
    return {found[1] for part in parts if (found := re.match(r"\{?\s*([a-z_]+)\s*(:|$)", part))}


def test_the_apis_page_tells_of_the_members_that_a_document_has_and_of_no_other() -> None:
    text = (ROOT / "docs" / "console-api.md").read_text(encoding="utf-8")
    told = [(found[1], read_braces(text[found.end() :])) for found in re.finditer(r"`(flux\.[a-z-]+/1)` (?=\{)", text)]
    assert len(told) > 30 and read_braces("{a, b: what it is, of all, c: {d}} {e}") == {"a", "b", "c"}
    for tag, members in told:
        assert members and members <= render(list_kinds()[tag])["properties"].keys(), tag
    in_words = {"schema", "number"}  # Told once for all; and of a replay's place, in the row of `POST replays`.
    for tag in {tag for tag, _ in told}:
        said = {name for each, members in told if each == tag for name in members}
        assert render(list_kinds()[tag])["properties"].keys() - said <= in_words, tag


@pytest.mark.parametrize(
    ("arguments", "tag"),
    [
        (["--version"], "flux.version/1"), (["explain"], "flux.explain-list/1"),
        (["explain", "FLX114"], "flux.explain/1"), (["completion", "bash"], "flux.completion/1"),
    ],
    ids=lambda given: given if isinstance(given, str) else " ".join(given),
)  # fmt: skip
def test_what_flux_says_of_itself_is_as_described(
    arguments: list[str], tag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    documents.check(document)
    assert document["schema"] == tag


def test_the_tab_key_offers_the_kinds_by_the_name_that_is_begun() -> None:
    def offers(begun: str) -> list[str]:
        completer = ShellComplete(root, {}, "flux", "_FLUX_COMPLETE")
        return [item.value for item in completer.get_completions(["schema"], begun)]

    assert offers("trac") == ["trace", "trace-diff"] and offers("flux.trace/") == ["flux.trace/1"] and offers("x") == []
    assert {*offers("")} == {kind.name for kind in list_kinds().values()}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "flux", *arguments], capture_output=True, text=True, check=False)


def test_the_command_lists_the_kinds_and_prints_one_however_it_is_named() -> None:
    listed = run("schema", "--json")
    documents.check_text(listed.stdout)
    assert [each["name"] for each in json.loads(listed.stdout)["kinds"]] == [
        kind.tag for kind in sorted(list_kinds().values(), key=lambda kind: kind.name)
    ]
    printed = run("schema", "flux.trace/1", "--strict")
    kind = find_kind("trace")
    assert kind is not None and json.loads(printed.stdout) == render(kind, is_strict=True)
    assert find_kind("flux.trace") is kind and find_kind("trace/1") is kind and find_kind("trace/2") is None
    unknown = run("schema", "traec", "--json")
    error = json.loads(unknown.stderr)
    documents.check(error)
    assert (unknown.returncode, unknown.stdout, error["code"]) == (3, "", "FLX114")
    assert "trace" in error["message"]
