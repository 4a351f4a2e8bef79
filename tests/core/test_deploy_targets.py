"""What ``flux deploy --target`` writes: read again by those who will have to, and held against what the server does."""

import sys
from pathlib import Path
from typing import Any

import attrs
import pytest
import yaml

from flux.cli import main
from flux.deploy_targets import STOP_S, TARGETS, Site, write_target
from flux.supervisor import crew
from tests import documents

SITE = Site(
    name="The Shop", root="/srv/the shop", user="root", python=sys.executable, python_version="3.12",
    flux_version="1.2.3", port=4001, workers=3, isolation="strict",
)  # fmt: skip


def read(target: str, name: str, site: Site = SITE) -> str:
    (text,) = [text for path, text in write_target(target, site).items() if path.endswith(name)]
    return text


def read_unit(site: Site = SITE) -> dict[str, str]:
    lines = [line for line in read("systemd", ".service", site).splitlines() if "=" in line and line[0] != "#"]
    return dict(line.split("=", 1) for line in lines)


def read_manifests(site: Site = SITE) -> dict[str, Any]:
    return {one["kind"]: one for one in yaml.safe_load_all(read("k8s", ".yaml", site))}


def test_the_unit_starts_what_the_command_line_has_and_gives_it_time_to_drain() -> None:
    unit = read_unit()
    assert unit["ExecStart"] == f'"{sys.executable}" -P -m flux serve --bind 127.0.0.1:4001 --workers 3'
    assert unit["WorkingDirectory"] == "/srv/the shop"
    assert int(unit["TimeoutStopSec"]) == STOP_S > crew.STOP_S
    assert (unit["KillMode"], unit["Restart"], unit["Delegate"]) == ("mixed", "on-failure", "yes")
    assert "postgresql.service" in unit["After"]
    assert "postgresql.service" not in read_unit(attrs.evolve(SITE, database_url="postgresql://db/x"))["After"]
    # What would take the sandbox's namespaces away is named in a comment, and set nowhere.
    assert not {"RestrictNamespaces", "ProtectKernelTunables", "ProtectProc", "SystemCallFilter"} & set(unit)


@pytest.mark.parametrize("isolation", ["strict", "core"])
def test_the_compose_file_waits_for_a_healthy_database_and_asks_for_walls_only_where_they_are_wanted(
    isolation: str,
) -> None:
    compose = yaml.safe_load(read("docker", "compose.yaml", attrs.evolve(SITE, isolation=isolation)))
    app, database = compose["services"]["app"], compose["services"]["database"]
    assert compose["name"] == "the-shop"
    assert app["depends_on"] == {"database": {"condition": "service_healthy"}}
    assert database["healthcheck"]["test"][:2] == ["CMD", "pg_isready"]
    assert app["cap_drop"] == ["ALL"]
    assert app["stop_grace_period"] == f"{STOP_S}s"
    assert app["ports"] == ["127.0.0.1:4001:4001"]
    assert ("security_opt" in app) == (isolation == "strict")
    assert set(compose["volumes"]) == {volume.partition(":")[0] for volume in app["volumes"] + database["volumes"]}
    # Nobody gets a password that is written in a file.
    assert "POSTGRES_PASSWORD:?" in app["environment"]["FLUXRT_DATABASE_URL"] and "command" not in app


def test_the_image_leaves_this_machines_secrets_and_database_out() -> None:
    dockerfile = read("docker", "Dockerfile")
    assert 'ENTRYPOINT ["flux", "serve", "--deploy", "--bind", "0.0.0.0:4001", "--workers", "3"]' in dockerfile
    assert dockerfile.index("USER 10001") < dockerfile.index("COPY") < dockerfile.index("RUN flux build")
    assert {".flux", ".env*"} <= set(read("docker", "Dockerfile.dockerignore").splitlines())


@pytest.mark.parametrize("isolation", ["strict", "core"])
def test_the_manifests_belong_together_and_take_every_right_that_is_not_needed(isolation: str) -> None:
    found = read_manifests(attrs.evolve(SITE, isolation=isolation))
    assert set(found) == {"Deployment", "Service", "PodDisruptionBudget"}
    pod = found["Deployment"]["spec"]["template"]
    labels = pod["metadata"]["labels"]
    assert found["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert found["Service"]["spec"]["selector"] == labels
    assert found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    (container,) = pod["spec"]["containers"]
    assert container["readinessProbe"]["httpGet"] == {"path": "/_flux/health", "port": "http"}
    assert container["livenessProbe"]["httpGet"] == {"path": "/_flux/live", "port": "http"}
    assert pod["spec"]["terminationGracePeriodSeconds"] > STOP_S
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    security = container["securityContext"]
    assert (security["allowPrivilegeEscalation"], security["capabilities"]) == (False, {"drop": ["ALL"]})
    is_strict = isolation == "strict"
    profile = pod["spec"]["securityContext"]["seccompProfile"]["type"]
    assert profile == ("Unconfined" if is_strict else "RuntimeDefault")
    assert ("procMount" in security) == ("hostUsers" in pod["spec"]) == is_strict


def test_files_are_written_once_and_over_others_only_when_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "flux.toml").write_text('[project]\nname = "shop"\n')
    monkeypatch.chdir(tmp_path)
    for target in TARGETS:
        assert main(["deploy", "--target", target, "--json"]) == 0
    documents.check_text(capsys.readouterr().out)
    unit = tmp_path / "deploy" / "systemd" / "shop.service"
    written = unit.read_text()
    assert main(["deploy", "--target", "systemd"]) == 0  # It is the same.
    unit.write_text("mine\n")
    capsys.readouterr()
    assert main(["deploy", "--target", "systemd"]) == 2
    assert "FLX634  deploy/systemd/shop.service is there" in capsys.readouterr().err
    assert unit.read_text() == "mine\n"
    assert main(["deploy", "--target", "systemd", "--force"]) == 0
    assert unit.read_text() == written
    assert main(["deploy", "--force"]) == 2
    assert main(["deploy", "--target", "k8s", "--on", "HEAD"]) == 2
