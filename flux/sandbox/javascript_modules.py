"""Which file an ``import`` means.

A module's name is its path in the project, ``functions/payments/create.ts``: that is
what stacks and records show. A function imports its neighbours by relative paths, with
or without a suffix, and ``@flux/guest``; there are no packages and nothing of Node's.
What TypeScript's users write, ``./money.js`` for a file ``money.ts``, is understood.
"""

import posixpath
from collections.abc import Collection

SDK = "@flux/guest"
BOOT = "flux:boot"
"""Base of the imports that the host itself writes."""
SUFFIXES = (".ts", ".js", "/index.ts", "/index.js")


class UnresolvedImportError(ValueError):
    """An import that means no file; the message says why."""


def resolve(base: str, specifier: str, files: Collection[str]) -> str:
    """Return the name of the module that ``specifier`` means in ``base``; raise `UnresolvedImportError`."""
    if base.startswith(BOOT):
        return specifier
    if base.startswith(SDK):
        return f"{SDK}/{specifier.removeprefix('./')}"
    if specifier == SDK:
        return specifier
    if not specifier.startswith(("./", "../")):
        raise UnresolvedImportError(_explain(specifier))
    path = posixpath.normpath(posixpath.join(posixpath.dirname(base), specifier))
    candidates = [path]
    if path.endswith((".js", ".mjs")):
        candidates.append(path[: path.rindex(".")] + ".ts")
    candidates += [path + suffix for suffix in SUFFIXES]
    for candidate in candidates:
        if candidate in files:
            return candidate
    raise UnresolvedImportError(f'there is no file for "{specifier}": looked for {", ".join(candidates)}')


def _explain(specifier: str) -> str:
    if specifier.startswith("node:"):
        return f'there is no "{specifier}": a function asks for everything through ctx, and runs without Node'
    if specifier.startswith(("/", "http:", "https:", "data:")):
        return f'"{specifier}" can\'t be imported: write a path that begins with ./ or ../'
    return (
        f'"{specifier}" is a package, and there are none here: import @flux/guest, or a file by a path '
        "that begins with ./ or ../"
    )
