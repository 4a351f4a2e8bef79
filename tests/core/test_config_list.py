"""What ``flux config list`` lists: all that is set, what is not, whose each value is, and no secret."""

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

import flux
from flux.config import ConfigError, parse_config
from flux.config_list import DEFAULT, VARIABLES, Setting, hide_password, list_settings
from tests.dev_process import run_flux

PAGE = Path(__file__).parents[2] / "docs" / "flux-toml.md"
LEAST = '[project]\nname = "shop"\n'
GATE = """
[http.cors]
origins = ["https://app.example.com"]
[http.rate_limit]
rate = "5/min"
[http.auth]
jwks = "https://login.example.com/keys"
issuer = "https://login.example.com"
audience = ["shop"]
"""


def read_page() -> str:
    """The file that the documentation shows, in which every key is."""
    block = re.search(r"^```toml\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert block is not None
    return block[1]


def flatten(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Each key of a TOML document as one writes it, and its value."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from flatten(inner, f"{key}.{name}" if key else name)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for index, inner in enumerate(value):
            yield from flatten(inner, f"{key}[{index}]")
    else:
        yield key, value


def of_file(settings: tuple[Setting, ...]) -> dict[str, Setting]:
    """What is listed of the file, by key."""
    found = {one.key: one for one in settings if one.key not in VARIABLES}
    assert len(found) == len(settings) - len(VARIABLES)
    return found


def test_all_that_the_file_says_is_listed_with_its_line_and_nothing_else() -> None:
    text = read_page()
    settings = of_file(list_settings(text, {}))
    written = dict(flatten(tomllib.loads(text)))
    assert {key: one.value for key, one in settings.items() if one.source != DEFAULT} == written
    lines = text.splitlines()
    for key, one in settings.items():
        if one.source != DEFAULT:
            file, _, number = one.source.partition(":")
            assert file == "flux.toml" and re.split(r"[.\[]", key)[-1] in lines[int(number) - 1]
    assert not any(one.is_hidden for one in settings.values())


def test_what_is_not_in_the_file_is_listed_with_its_default() -> None:
    settings = of_file(list_settings(LEAST, {}))
    # Tables of the project have all their keys; those of functions, schedules and paths are what is written.
    of_project = {key for key in of_file(list_settings(read_page(), {})) if not re.match(r"functions|cron|routes", key)}
    checks = {"http.cors", "http.rate_limit", "http.auth"}
    assert settings.keys() == {key for key in of_project if key.rpartition(".")[0] not in checks} | checks
    assert [key for key, one in settings.items() if one.source != DEFAULT] == ["project.name"]


@pytest.mark.parametrize("text", [LEAST, LEAST + GATE])
def test_a_file_in_which_all_defaults_are_written_says_the_same(text: str) -> None:
    settings = of_file(list_settings(text, {}))
    # Where an empty text stands for "none", there is nothing to write.
    said = [one for one in settings.values() if one.value is not None and one.value != ""]
    written = "".join(f"{one.key} = {json.dumps(one.value)}\n" for one in said)
    assert attrs.evolve(parse_config(written), origins={}) == attrs.evolve(parse_config(text), origins={})


def test_what_is_wrong_with_the_file_is_told_and_nothing_is_listed() -> None:
    with pytest.raises(ConfigError, match=r"flux\.toml:4  limits\.timeout is the number 3"):
        list_settings(LEAST + "[limits]\ntimeout = 3\n", {})


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://app:s3cret@db.internal:5432/shop", "postgresql://app:****@db.internal:5432/shop"),
        ("postgresql://app:s3@cret@db/shop", "postgresql://app:****@db/shop"),
        ("postgresql://app@a:1,b:2/shop?sslmode=require", "postgresql://app@a:1,b:2/shop?sslmode=require"),
        ("postgresql://db/shop?user=app&password=s3cret", "postgresql://db/shop?user=app&password=****"),
        ("postgresql://db/shop?p%61ssword=s3cret", "postgresql://db/shop?p%61ssword=****"),
        ("postgresql://[::1]:5432/shop", "postgresql://[::1]:5432/shop"),
        ("postgresql:///shop?host=/run/postgresql", "postgresql:///shop?host=/run/postgresql"),
        # A password that is not escaped as it has to be: nobody can tell where it ends.
        ("postgresql://app:s3cret/x@db/shop", "postgresql://****"),
        ("postgresql://app:s3cret?x@db/shop", "postgresql://****"),
        ("postgresql://app:s3cret#x@db/shop", "postgresql://****"),
        ("postgresql://app:s3cret", "postgresql://****"),
        ("postgresql://[s3cret", "postgresql://****"),
        ("less -R", "less -R"),
    ],
)
def test_a_password_in_an_address_is_not_shown(url: str, shown: str) -> None:
    assert hide_password(url) == shown
    if url.startswith("postgresql"):
        url_setting = of_file(list_settings(f'{LEAST}[database]\nurl = "{url}"\n', {}))["database.url"]
        assert (url_setting.value, url_setting.is_hidden) == (shown, url != shown)


def test_secrets_of_the_environment_and_private_keys_are_not_shown() -> None:
    key = '[http.auth]\npublic_key = "-----BEGIN PRIVATE KEY-----s3cret"\nissuer = "i"\naudience = ["a"]\n'
    environment = {
        "FLUXRT_TOKEN": "s3cret", "FLUXRT_MASTER_KEY": "s3cret", "OTEL_EXPORTER_OTLP_HEADERS": "a=s3cret",
        "FLUXRT_URL": "http://u:s3cret@host:4000", "FLUXRT_PAGER": "u:s3cret@host", "OTHER": "s3cret",
        "FLUXRT_DATABASE_URL": "postgresql://u:s3cret@host/shop",
    }  # fmt: skip
    settings = list_settings(LEAST + key, environment)
    assert "s3cret" not in str(settings)
    assert {one.key for one in settings if one.is_hidden} == {*VARIABLES, "http.auth.public_key"}
    assert {one.source for one in settings if one.key in VARIABLES} == {"environment"}


def test_every_variable_of_fluxs_own_is_listed() -> None:
    folder = Path(flux.__path__[0])
    said = {name for path in folder.rglob("*.py") for name in re.findall(r"FLUXRT_[A-Z_]+", path.read_text())}
    assert said == {name for name in VARIABLES if name.startswith("FLUXRT_")}


def test_the_command_tells_people_and_programs_the_same_and_escapes_what_it_shows(tmp_path: Path) -> None:
    project = tmp_path / "shop"
    project.mkdir()
    issuer = '[http.auth]\nissuer = "a\\u001b[31m"\naudience = ["' + "x" * 100 + '"]\npublic_key = "k"\n'
    (project / "flux.toml").write_text(LEAST + issuer)
    told = run_flux(project, "config", "list")
    listed = json.loads(run_flux(project, "config", "list", "--json").stdout)
    assert (told.returncode, told.stderr, listed["schema"]) == (0, "", "flux.config/1")
    by_key = {one["key"]: one for one in listed["settings"]}
    assert by_key["http.auth.issuer"] == {
        "key": "http.auth.issuer", "value": "a\x1b[31m", "source": "flux.toml:4", "hidden": False
    }  # fmt: skip
    assert "\x1b" not in told.stdout and "x" * 100 in told.stdout
    lines = told.stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(by_key)
    assert [line.split()[-1] for line in lines] == [one["source"] for one in listed["settings"]]

    nowhere = run_flux(tmp_path, "config", "list")
    assert nowhere.returncode == 2 and "FLX505" in nowhere.stderr
