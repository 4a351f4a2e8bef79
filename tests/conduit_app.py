"""Conduit, the example application, as tests run it: a copy of ``examples/conduit`` with a key, and clients of it."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import attrs

from tests.dev_process import Answer, DevServer
from tests.shell_blocks import read_steps

EXAMPLE = Path(__file__).parents[1] / "examples" / "conduit"


def copy_conduit(folder: Path) -> Path:
    """Copy the application to ``folder`` and give it a key to sign tokens with, as its README says."""
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns(".flux", ".env.local", "__pycache__"))
    make_key, serve = read_steps("examples/conduit/README.md")
    assert serve.line == "flux dev"
    subprocess.run(["/bin/sh", "-c", make_key.line], cwd=folder, check=True)
    return folder


@attrs.frozen
class Client:
    """Somebody who uses it, signed in or not."""

    server: DevServer
    token: str | None = None

    def ask(self, method: str, path: str, body: object = None, *, status: int = 200) -> Any:
        """Send one request; return the JSON of its answer, None where there is none."""
        answer = self.send(method, path, body)
        assert answer.status == status, (method, path, answer.status, answer.body)
        return json.loads(answer.body) if answer.body else None

    def send(self, method: str, path: str, body: object = None) -> Answer:
        headers = {} if self.token is None else {"authorization": f"Token {self.token}"}
        return self.server.request(method, path, body, headers)

    def sign_up(self, name: str) -> "Client":
        """Make an account; return its client."""
        user = {"username": name, "email": f"{name}@example.org", "password": f"the word of {name}"}
        made = self.ask("POST", "/api/users", {"user": user}, status=201)["user"]
        return Client(self.server, made["token"])

    def publish(self, title: str, *tags: str) -> Any:
        """Publish an article; return it."""
        article = {"title": title, "description": "of it", "body": f"All of {title}.", "tagList": list(tags)}
        return self.ask("POST", "/api/articles", {"article": article}, status=201)["article"]


def replay_all(server: DevServer) -> dict[str, list[str]]:
    """Replay all that is on record, each on its own code; return the executions by verdict."""
    token = json.loads((server.project / ".flux" / "dev.json").read_text())["token"]
    fields = {"authorization": f"Bearer {token}"}
    listed = server.request("GET", "/_flux/api/executions?n=1000", None, fields).json["executions"]
    verdicts: dict[str, list[str]] = {}
    for one in listed:
        answer = server.request("POST", f"/_flux/api/executions/{one['id']}/replay", {}, fields)
        assert answer.status == 200, answer.body
        said = f"{one['method']} {one['path']}: {answer.json['reason']}"
        verdicts.setdefault(answer.json["verdict"], []).append(said)
    return verdicts
