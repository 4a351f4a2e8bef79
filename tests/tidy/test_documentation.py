"""The documentation can be made, and each of its links, those to headings too, leads to something: Sphinx says so."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def build(source: Path, output: Path) -> subprocess.CompletedProcess[str]:
    """Read and resolve all pages; nothing is written: that takes as long again."""
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "-b", "dummy", "-c", ROOT / "docs"]
    return subprocess.run([*command, source, output], capture_output=True, text=True, check=False)


def test_the_documentation_is_made_without_a_warning(tmp_path: Path) -> None:
    built = build(ROOT / "docs", tmp_path)
    assert (built.returncode, built.stderr) == (0, "")


def test_a_link_to_nowhere_and_a_page_without_a_place_are_told(tmp_path: Path) -> None:
    (tmp_path / "index.md").write_text("# Flux\n\n[there](index.md#nowhere) [no page](gone.md)\n")
    (tmp_path / "lost.md").write_text("# Lost\n")
    built = build(tmp_path, tmp_path / "made")
    assert built.returncode == 1
    assert all(name in built.stderr for name in ("nowhere", "gone.md", "lost.md"))
