"""What a jailed process is told: which walls, what it may read, what it becomes.

The supervisor writes a `Plan`, the process that will be jailed reads it from its command
line. It is a dataclass and no attrs class because it is imported by every guest process,
which has no use for attrs.
"""

import json
from dataclasses import asdict, dataclass

MIB = 2**20
_ENCODED_CHARACTERS = 1024
SDK_PACKAGES = ("msgspec",)
"""Packages that the guest SDK has loaded before the project's code is: a project can only have the same version."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The jail to build and the program to be in it."""

    isolation: str
    """``strict`` or ``core``."""
    parent: int
    """Process id of the supervisor: the jail ends with it."""
    control: int
    """Descriptor of the control socket; the only one kept beside 0, 1 and 2."""
    program: str
    """``zygote``, ``wasm`` (a process of wasm guests), or the probe of either: ``probe``, ``wasm-probe``."""
    project: str = ""
    """Folder of the deployment's code: readable in the jail."""
    environment: str = ""
    """Folder of the project's packages, or empty when it has none: readable then in place of Flux's own."""
    functions: str = ""
    """Folder of the functions, relative to the project's."""
    warm: bool = False
    """Whether a worker serves more than one execution."""
    cgroup: str = ""
    """Folder of the control group to go into first, or empty for none."""
    shuffle: int = 0
    """Unless 0: objects lie in another order, which follows from this number (``flux_guest._layout``)."""
    uid: int | None = None
    """User and group id to become (strict, started as root), or None to stay who we are."""
    data_bytes_max: int = 1024 * MIB
    """Private memory that any process in the jail can have at most."""
    cache: str = ""
    """Of ``wasm``: folder of compiled code, which is looked at before the jail is built; empty for none."""
    owner: str = ""
    """Of ``wasm``: whose compiled code it may use."""
    guest_memory_bytes_max: int = 0
    """Of ``wasm``: what all of its guests together may hold."""

    @property
    def runs_wasm(self) -> bool:
        """Whether it is a process of wasm guests, or the probe of one."""
        return self.program.startswith("wasm")

    def encode(self) -> str:
        """Return the plan as one line."""
        text = json.dumps(asdict(self))
        # Of a round length: how many digits a process id has would decide where objects lie in the process
        # (`flux_guest._layout`).
        return text.ljust(-(-len(text) // _ENCODED_CHARACTERS) * _ENCODED_CHARACTERS)

    @staticmethod
    def decode(text: str) -> "Plan":
        """Return the plan that `encode` wrote."""
        return Plan(**json.loads(text))
