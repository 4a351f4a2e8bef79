"""``.env.local``: the secrets of a development machine, one ``NAME=value`` a line.

Deliberately little: no interpolation, no command substitution, no multi-line
values. ``export`` before a name and quotes around a value are allowed, since
people paste such lines; a line that is something else is an error, because a
secret that is silently not read is found out by a failing request.
"""

import re

from flux.errors import OperatorError

_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]{0,99})\s*=\s*(.*)\Z", re.ASCII | re.DOTALL)


class UnreadableSecretsError(OperatorError):
    """``.env.local`` has a line that names no secret."""

    code = "FLX515"


def parse_dotenv(text: str, filename: str = ".env.local") -> dict[str, str]:
    """Return the value of each name; the last one counts. Raise `UnreadableSecretsError` without showing values."""
    found: dict[str, str] = {}
    # Not splitlines(): it ends lines at characters that a value may hold. Some editors write a mark at the start.
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        match = _LINE.match(stripped)
        if match is None:
            raise UnreadableSecretsError(
                f"{filename}:{number}  is not NAME=value",
                remedy="write one secret a line, such as STRIPE_KEY=sk_test_1; a comment begins with #",
            )
        name, value = match[1], match[2]
        if value[:1] in ("'", '"'):
            if len(value) < 2 or value[-1] != value[0]:
                raise UnreadableSecretsError(
                    f"{filename}:{number}  the quote around the value of {name} is never closed",
                    remedy="close it on the same line, or leave the quotes away",
                )
            value = value[1:-1]
        found[name] = value
    return found
