"""What `benchmarks.sandboxes` is measured beside: a cold interpreter, a bare fork, Deno and workerd.

Deno and workerd come from npm, into a folder that goes away with the run. Where npm or the network is missing,
`install` says so and they are left out: a benchmark of Flux must not need them.

Deno is asked to do what Flux does: a new `Worker` (an isolate of its own) for each execution, which answers at once or
after five messages to and fro, and is then ended. `deno serve` and workerd run their one isolate for all requests and
keep nothing of them apart, which is what they are for; they are beside ``flux dev`` over HTTP.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PACKAGES = {"deno": "deno", "workerd": "workerd"}
INSTALL_S_MAX = 300.0
START_S_MAX = 30.0
MESSAGE = b'[1,"clock.now",[]]\n'

_WORKER = """
self.onmessage = ({ data }) => {
  if (data.start !== undefined) {
    self.left = data.start;
  } else {
    self.left -= 1;
  }
  if (self.left > 0) self.postMessage({ call: "clock.now" });
  else self.postMessage({ answer: { ok: true } });
};
"""
_DENO = """
const url = new URL("./worker.js", import.meta.url).href;

function run(calls, hold) {
  return new Promise((resolve) => {
    const began = performance.now();
    const worker = new Worker(url, { type: "module" });
    worker.onmessage = ({ data }) => {
      if (data.call !== undefined) {
        if (hold) resolve(worker);
        else worker.postMessage({ now: 1 });
        return;
      }
      worker.terminate();
      resolve((performance.now() - began) * 1000);
    };
    worker.postMessage({ start: calls });
  });
}

async function measure({ calls, count, atOnce }) {
  const times = [];
  const began = performance.now();
  let left = count;
  const one = async () => {
    while (left-- > 0) times.push(await run(calls, false));
  };
  await Promise.all(Array.from({ length: atOnce }, one));
  return { times, elapsed: (performance.now() - began) / 1000 };
}

async function suspend({ count }) {
  const began = performance.now();
  const workers = await Promise.all(Array.from({ length: count }, () => run(1, true)));
  const started = (performance.now() - began) / 1000;
  console.log(JSON.stringify({ started }));
  return () => workers.forEach((worker) => worker.terminate());
}

let release = () => {};
const lines = Deno.stdin.readable.pipeThrough(new TextDecoderStream());
let buffer = "";
for await (const text of lines) {
  buffer += text;
  let end;
  while ((end = buffer.indexOf("\\n")) >= 0) {
    const asked = JSON.parse(buffer.slice(0, end));
    buffer = buffer.slice(end + 1);
    if (asked.what === "measure") console.log(JSON.stringify(await measure(asked)));
    else if (asked.what === "suspend") release = await suspend(asked);
    else { release(); console.log("{}"); }
  }
}
"""
_DENO_SERVER = """
Deno.serve({ port: Number(Deno.args[0]), hostname: "127.0.0.1", onListen() {} }, () => Response.json({ ok: true }));
"""
_WORKERD = """
using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [(name = "main", worker = .main)],
  sockets = [(name = "http", address = "127.0.0.1:PORT", http = (), service = "main")]
);
const main :Workerd.Worker = (
  modules = [(name = "worker", esModule = "export default { fetch() { return Response.json({ ok: true }); } };")],
  compatibilityDate = "2024-01-01"
);
"""


def install(folder: Path) -> dict[str, Path]:
    """Fetch the peers with npm; return the programs that are there, and say which are not."""
    found: dict[str, Path] = {}
    npm = shutil.which("npm")
    for name, package in PACKAGES.items():
        if npm is None:
            print(f"{name} is left out: there is no npm here")
            continue
        where = folder / name
        where.mkdir()
        try:
            done = subprocess.run(
                [npm, "install", "--no-audit", "--no-fund", "--prefix", str(where), package],
                capture_output=True, text=True, timeout=INSTALL_S_MAX, check=False, cwd=where,
            )  # fmt: skip
            program = where / "node_modules" / ".bin" / name
            told = subprocess.run(
                [program, "--version"], capture_output=True, text=True, timeout=60, check=True
            )
        except (OSError, subprocess.SubprocessError) as error:
            print(f"{name} is left out: npm can't install it here ({type(error).__name__}: {error})")
            continue
        if done.returncode:
            print(f"{name} is left out: npm ended with {done.returncode}: {done.stderr.strip()[-200:]}")
            continue
        print(f"{name}: {told.stdout.splitlines()[0]}")
        found[name] = program
    return found


class DenoWorkers:
    """A Deno that runs each execution in a `Worker` of its own."""

    def __init__(self, program: Path, folder: Path) -> None:
        (folder / "worker.js").write_text(_WORKER)
        (folder / "main.js").write_text(_DENO)
        self._process = subprocess.Popen(
            [program, "run", "--allow-read", "--no-remote", str(folder / "main.js")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "NO_COLOR": "1"},
        )  # fmt: skip

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def _ask(self, **what: Any) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def measure(self, calls: int, count: int, at_once: int) -> tuple[list[float], float]:
        """Run so many executions; return the seconds of each, and of all."""
        said = self._ask(what="measure", calls=calls, count=count, atOnce=at_once)
        return [each / 1e6 for each in said["times"]], float(said["elapsed"])

    def suspend(self, count: int) -> float:
        """Let so many wait for a message; return the seconds until they do."""
        return float(self._ask(what="suspend", count=count)["started"])

    def release(self) -> None:
        """End those that wait."""
        self._ask(what="release")

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()


def get_free_port() -> int:
    """Return a port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def serving(name: str, program: Path, folder: Path) -> Iterator[tuple[int, int, float]]:
    """Run ``deno serve`` or workerd; gives its port, its process and the seconds to its first answer."""
    port = get_free_port()
    if name == "deno":
        (folder / "server.js").write_text(_DENO_SERVER)
        command = [str(program), "run", "--allow-net", "--no-remote", str(folder / "server.js"), str(port)]
    else:
        (folder / "config.capnp").write_text(_WORKERD.replace("PORT", str(port)))
        command = [str(program), "serve", str(folder / "config.capnp")]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "NO_COLOR": "1"})
    try:
        wait_answer(port)
        yield port, process.pid, time.perf_counter() - began
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def wait_answer(port: int) -> None:
    """Ask until somebody answers."""
    deadline = time.perf_counter() + START_S_MAX
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                if client.recv(1):
                    return
        except OSError:
            if time.perf_counter() > deadline:
                raise
        time.sleep(0.002)


def run_cold_python() -> float:
    """Start an interpreter that answers and ends; return the seconds."""
    began = time.perf_counter()
    program = "import json, sys; json.loads(sys.argv[1]); print(json.dumps({'ok': True}))"
    subprocess.run([sys.executable, "-c", program, "{}"], stdout=subprocess.PIPE, check=True)
    return time.perf_counter() - began


def run_fork(calls: int) -> float:
    """Fork this process; the child asks so often, answers and ends. Return the seconds."""
    began = time.perf_counter()
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        for _ in range(calls):
            theirs.sendall(MESSAGE)
            theirs.recv(65536)
        theirs.sendall(b'["return",{"ok":true}]\n')
        os._exit(0)
    theirs.close()
    for _ in range(calls):
        ours.recv(65536)
        ours.sendall(b"[1,null,1,1]\n")
    ours.recv(65536)
    elapsed_s = time.perf_counter() - began
    ours.close()
    os.waitpid(pid, 0)
    return elapsed_s
