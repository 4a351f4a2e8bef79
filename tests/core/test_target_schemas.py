"""What ``flux deploy --target`` writes, held against what others made to tell right files from wrong ones.

Compose files against the Compose Specification's schema, manifests against the API of several versions of Kubernetes,
units by systemd's own verifier. Each of these is shown to object to a file with one letter too many, so that its
silence means something.
"""

import importlib.resources
import itertools
import json
import shutil
import subprocess
import warnings
from collections.abc import Sequence
from pathlib import Path

import attrs
import jsonschema
import kubernetes_validate
import pytest
import yaml

from flux.deploy_targets import Site, write_target

SITES = [
    Site(
        name="The 50% $HOME Shop", root="/srv/the shop", user="shop", python="/opt/flux/bin/python",
        python_version="3.12", flux_version="1.2.3", port=4001, workers=workers, isolation=isolation, database_url=url,
    )
    for workers, isolation, url in ((1, "core", ""), (3, "strict", "postgresql://db/x"))
]  # fmt: skip
KUBERNETES = ("1.33", "1.37")
"""The oldest that is still maintained when this is written, and the newest."""


def read(target: str, site: Site, ending: str) -> str:
    (text,) = [text for path, text in write_target(target, site).items() if path.endswith(ending)]
    return text


def list_compose_errors(text: str) -> list[str]:
    path = importlib.resources.files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    schema = json.loads(path.read_text(encoding="utf-8"))
    checker = jsonschema.validators.validator_for(schema)(schema)
    return [error.message for error in checker.iter_errors(yaml.safe_load(text))]


def list_manifest_errors(text: str, versions: Sequence[str] = KUBERNETES) -> list[str]:
    errors = []
    for manifest, version in itertools.product(yaml.safe_load_all(text), versions):
        try:
            kubernetes_validate.validate(manifest, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            errors.append(f"{version}: {error.message}")
    return errors


def test_compose_files_fit_the_schema_of_the_compose_specification() -> None:
    for site in SITES:
        text = read("docker", site, "compose.yaml")
        assert list_compose_errors(text) == []
        for key in ("stop_grace_period", "condition", "healthcheck"):
            assert list_compose_errors(text.replace(key, f"{key}s", 1)) != []


def test_manifests_fit_the_api_of_old_and_new_kubernetes() -> None:
    for site in SITES:
        assert list_manifest_errors(read("k8s", site, ".yaml")) == []
    deployment, *_ = read("k8s", SITES[1], ".yaml").split("\n---\n")
    for right, wrong in (("secretKeyRef:", "secretKeyRefs:"), ("replicas: 2", "replicas: two")):
        assert list_manifest_errors(deployment.replace(right, wrong, 1), KUBERNETES[-1:]) != []


@pytest.mark.parametrize("site", SITES, ids=lambda site: site.isolation)
def test_systemd_finds_nothing_wrong_with_the_unit(site: Site, tmp_path: Path) -> None:
    verifier = shutil.which("systemd-analyze")
    if verifier is None:
        # Said at the end of the run. What can be read without it is held by tests/core/test_deploy_targets.py.
        warnings.warn("systemd-analyze is missing (package systemd): no unit was verified", stacklevel=1)
        return
    text = read("systemd", attrs.evolve(site, root=str(tmp_path), user="root", python="/bin/sh"), ".service")
    path = tmp_path / "shop.service"

    def verify(text: str) -> list[str]:
        path.write_text(text)
        done = subprocess.run([verifier, "verify", "--man=no", path], capture_output=True, text=True, check=False)
        return [line for line in done.stderr.splitlines() if "shop.service" in line]

    assert verify(text) == []
    assert verify(text.replace("TimeoutStopSec", "TimeoutStopSecs")) != []
