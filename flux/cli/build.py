"""``flux build``: install the packages that the project's functions need.

``flux dev`` does so by itself when they are not there. This is for doing it before, in an
image or in front of a network that ends, and for what only a person can decide: that a
package which comes as source may run its code on this machine.

The answer on stdout is the list of what was installed, each with its version: a
``requirements.txt`` that says exactly that.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flux.cli.screen import Screen, json_text
from flux.cli.settings import settings

if TYPE_CHECKING:
    from flux.supervisor.environments import Environment


@click.command()
@click.option(
    "--allow-sdist", is_flag=True, help="Build packages that come as source: that runs their code, as you."
)
@click.option(
    "--installer", type=click.Choice(["uv", "pip"]), help="Which one to use (default: uv, else pip)."
)
def command(*, allow_sdist: bool, installer: str | None) -> None:
    """Install the packages that the project's functions need."""
    import trio

    from flux.project import find_project
    from flux.supervisor.environments import FOLDER_NAME, Environments, count_packages
    from flux.supervisor.flux_folder import prepare_flux_folder

    root = find_project(Path())
    said = settings()
    story = Screen.stderr()

    async def main() -> "Environment | None":
        environments = Environments(
            prepare_flux_folder(root) / FOLDER_NAME,
            lambda sentence: None if said.quiet else story.line(sentence),
        )
        return await environments.provide(root, allow_sdist=allow_sdist, installer=installer, mend=True)

    found = trio.run(main)
    if said.json:
        Screen.stdout().write_raw_json(json_text(_describe(found)))
        return
    if found is None:
        if not said.quiet:
            story.line("this project names no packages: there is nothing to install")
        return
    if not said.quiet and not found.was_built:
        story.line(
            f"{count_packages(found.packages)} of {found.source}, installed before with {found.installer}"
        )
    screen = Screen.stdout()
    for name, version in found.packages:
        screen.line(f"{name}=={version}")


def _describe(found: "Environment | None") -> dict[str, object]:
    if found is None:
        return {"schema": "flux.build/1", "environment": None}
    return {
        "schema": "flux.build/1",
        "environment": {
            "key": found.key,
            "folder": str(found.packages_folder),
            "source": found.source,
            "installer": found.installer,
            "ran_code": found.ran_code,
            "built": found.was_built,
            "packages": [{"name": name, "version": version} for name, version in found.packages],
        },
    }
