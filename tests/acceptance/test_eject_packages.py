"""What an ejected application takes from others: its packages, addresses of other servers, and whom it trusts in TLS.

pip itself installs from the lists that were written, and is to refuse what Flux would have refused. The server's
modules are asked in a process of the application's own.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import trustme

from tests.dev_process import run_flux, write_project
from tests.ejected import eject, make_command
from tests.wheels import write_wheel

ONE = 'from flux_guest import function\n@function("GET /one")\ndef one(ctx, input):\n    return 1\n'

NETWORK = """
import asyncio
import json
import socket
import ssl

import httpcore

from server.execution import Executor
from server.outbound import Network, make_client


async def main():
    silent = socket.create_server(("127.0.0.2", 0), backlog=0)
    port = silent.getsockname()[1]
    # With its queue full, a server does not answer who wants to connect.
    waiting = [socket.socket() for _ in range(4)]
    for one in waiting:
        one.setblocking(False)
        one.connect_ex(("127.0.0.2", port))
    answering = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", port)
    said = {}
    for name, addresses in {
        "silent first": ("127.0.0.2", "127.0.0.1"), "nobody first": ("127.0.0.3", "127.0.0.2", "127.0.0.1"),
        "nobody": ("127.0.0.3", "127.0.0.4"),
    }.items():
        try:
            stream = await Network(addresses).connect_tcp("a.name", port)
            said[name] = stream.get_extra_info("server_addr")[0]
            await stream.aclose()
        except httpcore.ConnectError as error:
            said[name] = type(error).__name__
        said[name + ", left"] = len([task for task in asyncio.all_tasks() if "connect_tcp" in repr(task)])
    asking = asyncio.create_task(Network(("127.0.0.2",)).connect_tcp("a.name", port))
    while not any("AnyIOBackend.connect_tcp" in repr(task) for task in asyncio.all_tasks()):
        await asyncio.sleep(0.01)
    asking.cancel()
    await asyncio.wait([asking])
    said["cancelled"] = asking.cancelled()
    said["cancelled, left"] = len([task for task in asyncio.all_tasks() if "connect_tcp" in repr(task)])
    answering.close()
    tls = Executor(None, []).tls
    said["trusted"] = [dict(part[0] for part in one["subject"])["organizationName"] for one in tls.get_ca_certs()]
    async with make_client(tls) as client:
        said["one context"] = client._transport._pool._ssl_context is tls
    said["checks"] = [tls.check_hostname, tls.verify_mode == ssl.CERT_REQUIRED]
    print(json.dumps(said))


asyncio.run(main())
"""


def test_packages_come_from_where_they_came_from_and_are_those_that_were_meant(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    project = write_project(tmp_path / "p", {"one.py": ONE})
    wheel = write_wheel(
        project / "wheels", "acme_prices", {"acme_prices.py": "VALUE = 1\n"}, requires=["acme-tax"]
    )
    taxes = [
        write_wheel(project / "links", "acme_tax", {"acme_tax.py": f"V = {n}\n"}, version=f"{n}.0")
        for n in (1, 2)
    ]
    digests = [f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}" for path in (wheel, *taxes)]
    (project / "requirements.txt").write_text(
        "--index-url https://packages.acme.invalid/simple\n--find-links links\n-c constraints.txt\n"
        f"./wheels/{wheel.name} --hash={digests[0]}\nacme-tax==1.0 --hash={digests[1]} --hash={digests[2]}\n"
    )
    (project / "constraints.txt").write_text("acme-tax==1.0\n")
    target = tmp_path / "out"
    refused = run_flux(project, "eject", str(target))
    assert refused.returncode == 2 and "--find-links links: the files in it" in refused.stderr
    eject(project, target, "--partial")
    assert (target / "wheels" / wheel.name).read_bytes() == wheel.read_bytes()
    own = (target / "requirements.txt").read_text()
    theirs = (target / "requirements-functions.txt").read_text()
    assert "acme" not in own and "asyncpg" in own and "asyncpg" not in theirs
    assert theirs.startswith(
        "--index-url https://packages.acme.invalid/simple\n--find-links links\n"
        "--constraint constraints-functions.txt\n"
    )
    assert (target / "constraints-functions.txt").read_text() == "acme-tax==1.0\n"
    install = "pip install -r requirements.txt\npip install -r requirements-functions.txt && pip check\n"
    assert install in (target / "README.md").read_text()
    dockerfile = (target / "Dockerfile").read_text()
    assert (
        "-r requirements.txt && pip install --no-cache-dir -r requirements-functions.txt && pip check"
        in dockerfile
    )
    # What the README says of --find-links is done; then pip takes the files that were meant.
    (target / "links").mkdir()
    for path in taxes:
        (target / "links" / path.name).write_bytes(path.read_bytes())
    done = _pip_install(target, tmp_path / "installed")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "installed").glob("*.py")) == [
        "acme_prices.py",
        "acme_tax.py",
    ]
    assert (tmp_path / "installed" / "acme_tax.py").read_text() == "V = 1\n"
    # And refuses another file of that name.
    write_wheel(target / "links", "acme_tax", {"acme_tax.py": "V = 'evil'\n"}, version="1.0")
    done = _pip_install(target, tmp_path / "again")
    assert done.returncode != 0 and "DO NOT MATCH THE HASHES" in done.stderr


def test_packages_without_conditions_stand_in_one_list(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    project = write_project(tmp_path / "p", {"one.py": ONE})
    (project / "requirements.txt").write_text("attrs>=24\n")
    target = eject(project, tmp_path / "out")
    assert (target / "requirements.txt").read_text().endswith("\n# What the functions need.\nattrs>=24\n")
    assert not list(target.glob("*-functions.txt"))
    assert "pip install -r requirements.txt\nexport" in (target / "README.md").read_text()


def test_it_connects_to_who_answers_and_trusts_whom_the_machine_trusts(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    target = eject(write_project(tmp_path / "p", {"one.py": ONE}), tmp_path / "out")
    (target / "network.py").write_text(NETWORK)
    authority = tmp_path / "authority.pem"
    trustme.CA(organization_name="acme").cert_pem.write_to_path(authority)
    environ = {**os.environ, "SSL_CERT_FILE": str(authority), "SSL_CERT_DIR": str(tmp_path / "none")}
    asked = subprocess.run(
        make_command(target, "path", str(target / "network.py")), env=environ, cwd=target,
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert asked.returncode == 0, asked.stderr
    assert json.loads(asked.stdout) == {
        "silent first": "127.0.0.1", "silent first, left": 0,
        "nobody first": "127.0.0.1", "nobody first, left": 0,
        "nobody": "ConnectError", "nobody, left": 0,
        "cancelled": True, "cancelled, left": 0,
        "trusted": ["acme"], "one context": True, "checks": [True, True],
    }  # fmt: skip


def _pip_install(folder: Path, target: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pip", "install", "--isolated", "--no-index", "--no-cache-dir", "--target", str(target),
         "-r", "requirements-functions.txt"],
        cwd=folder, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
