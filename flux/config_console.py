"""The table ``[console]`` of ``flux.toml``: where the console's pages are."""

import attrs

from flux.config_values import RefusedValueError, ValueReader, read_text
from flux.listen_address import split_listen_address

OFF = "off"


@attrs.frozen
class ConsoleConfig:
    """The table ``[console]``."""

    listen: str = ""
    """``HOST:PORT`` of the pages, or "off"; empty: a port near that of the functions, where those are on loopback."""


def read_listen(value: object) -> str:
    """Where to listen, or that nothing is to."""
    remedy = 'allowed: "127.0.0.1:4001", or "off"'
    text = read_text(value, remedy)
    if text not in ("", OFF) and split_listen_address(text) is None:
        raise RefusedValueError(f'is "{text[:200]}", which is not HOST:PORT', remedy)
    return text


CONSOLE_KEYS: dict[str, ValueReader] = {"listen": read_listen}
