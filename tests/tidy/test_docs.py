"""The docs say what the code does: each host call, each key of flux.toml, each link."""

import re
from pathlib import Path

import flux_guest
import pytest
import yaml

from flux import hostcalls
from flux.config import parse_config
from flux.hostcalls import log, user
from flux.hostcalls.base import LogLevel

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PROTOCOL = (ROOT / "guest-sdk" / "PROTOCOL.md").read_text(encoding="utf-8")
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md"), ROOT / "guest-sdk" / "PROTOCOL.md"])

CALLS = sorted([*hostcalls.all_kinds(), log.NAME, user.NAME])


@pytest.mark.parametrize("name", CALLS)
def test_a_host_call_is_in_the_protocol_and_has_a_page(name: str) -> None:
    page = DOCS / "host-calls" / f"{name.partition('.')[0]}.md"
    kind = hostcalls.all_kinds().get(name)
    if name == user.NAME:
        assert f"`{name}`" in page.read_text(encoding="utf-8")
    elif kind is None:
        text = page.read_text(encoding="utf-8")
        assert all(level in text for level in LogLevel)
    else:
        text = page.read_text(encoding="utf-8")
        assert f"`{name}`" in text
        assert kind.effect.value in text, "the page says what performing it does to the world"
    assert f"`{name}`" in PROTOCOL


def test_the_page_of_flux_toml_is_a_flux_toml_with_every_key() -> None:
    text = (DOCS / "flux-toml.md").read_text(encoding="utf-8")
    example = re.search(r"```toml\n(.*?)```", text, re.DOTALL)
    assert example is not None
    config = parse_config(example[1])
    missing = [key for key, origin in config.origins.items() if not origin.startswith("flux.toml")]
    assert missing == [], "each key stands in the example"


def test_the_page_for_authors_names_what_the_sdk_offers() -> None:
    pages = [DOCS / "guest-api.md", *(DOCS / "host-calls").glob("*.md")]
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    inner = {"Request", "Response", "Row", "HostCallError", "ValidationError"}
    for name in set(flux_guest.__all__) - inner:
        assert re.search(rf"\b{name}\b", text), f"{name} of flux_guest is on no page"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("name", ["demo", "test", "scripts/venv.sh", ".ci/run"])
def test_the_readmes_commands_are_there(name: str) -> None:
    path = ROOT / name
    assert path.read_text(encoding="utf-8")
    assert name == "scripts/venv.sh" or path.stat().st_mode & 0o111, "it can be run"


def test_what_is_not_released_stands_below_the_headings_of_keep_a_changelog() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    unreleased = text.partition("## [Unreleased]\n")[2].partition("\n## [")[0]
    headings = re.findall(r"^### (.*)$", unreleased, re.MULTILINE)
    known = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]
    assert headings == [name for name in known if name in headings] and {"Added", "Changed", "Fixed"} <= {*headings}
    lines = [line for line in unreleased.splitlines() if line.startswith("- ")]
    assert len(lines) == len(set(lines)), "merging two changes wrote a line twice"


def test_what_pages_have_prometheus_ask_for_is_what_the_page_of_metrics_lists() -> None:
    """`tests/acceptance/test_telemetry.py` holds that page to what a server says."""
    page = (DOCS / "metrics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(flux_\w+)` \| (\w+) \| (.*?) \|", page, re.MULTILINE)
    labels = {name: set(re.findall(r"`(\w+)`", named)) | {"worker"} for name, _, named in rows}
    for name, kind, _ in rows:
        if kind == "histogram":
            labels |= {f"{name}_{part}": labels[name] for part in ("sum", "count")}
            labels[f"{name}_bucket"] = labels[name] | {"le"}
    how_to = (DOCS / "how-to" / "watch-a-server.md").read_text(encoding="utf-8")
    rules = re.findall(r"```yaml\n(groups:.*?)```", how_to, re.DOTALL)
    assert len(rules) == 1
    expressions = [rule["expr"] for group in yaml.safe_load(rules[0])["groups"] for rule in group["rules"]]
    assert len(expressions) > 5
    expressions += re.findall(r"`([^`]*flux_\w+[^`]*)`", page.partition("Worth an alert:")[2])
    for said in expressions:
        for name, selected in re.findall(r"\b(flux_\w+)(?:\{(.*?)\})?", said):
            assert name in labels, f"{said}: there is no {name}"
            assert set(re.findall(r"(\w+)\s*[=!]", selected)) <= labels[name], said
        for grouped in re.findall(r"\b(?:by|without) \((.*?)\)", said):
            known = set.union(*(labels[name] for name in re.findall(r"\bflux_\w+", said)))
            assert {each.strip() for each in grouped.split(",")} <= known, said
