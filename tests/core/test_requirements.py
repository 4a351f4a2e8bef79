"""What requirements.txt and pyproject.toml may say: each form that is taken, each that is refused with its place."""

from collections.abc import Mapping

import pytest

from flux.requirements import (
    Requirement,
    Requirements,
    RequirementsError,
    parse_pyproject,
    parse_requirements,
)

SHA = "sha256:" + "a1" * 32


def parse(text: str, **others: str) -> Requirements:
    files: Mapping[str, str] = {"requirements.txt": text, **others}
    return parse_requirements(files.__getitem__)


ONE_LINE = {
    "numpy": ("numpy", "numpy"),
    "Typing_Extensions>=4,<5": ("typing-extensions", "Typing_Extensions>=4,<5"),
    "requests[socks] == 2.32.0": ("requests", "requests[socks] == 2.32.0"),
    'colorama ; sys_platform == "win32"': ("colorama", 'colorama ; sys_platform == "win32"'),
    "httpx~=0.28  # what we ask with": ("httpx", "httpx~=0.28"),
    "a.b @ https://host/a.b-1.0-py3-none-any.whl": ("a-b", "a.b @ https://host/a.b-1.0-py3-none-any.whl"),
    "https://host/a_b-1.0-py3-none-any.whl": ("a-b", "https://host/a_b-1.0-py3-none-any.whl"),
}


@pytest.mark.parametrize("line", ONE_LINE)
def test_a_line_names_a_package(line: str) -> None:
    name, text = ONE_LINE[line]
    assert parse(f"\n{line}\n").packages == (Requirement(text, "requirements.txt:2", name=name),)


def test_hashes_are_kept_apart_and_lines_that_go_on_are_one() -> None:
    (package,) = parse(f"numpy==2.3.1 \\\n    --hash={SHA} \\\n    --hash=sha256:00\n").packages
    assert package == Requirement(
        "numpy==2.3.1", "requirements.txt:1", hashes=(SHA, "sha256:00"), name="numpy"
    )


def test_a_wheel_by_its_path_is_found_from_the_file_that_names_it() -> None:
    (package,) = parse("-r more/deps.txt", **{"more/deps.txt": "./w/a_b-1-py3-none-any.whl"}).packages
    assert (package.wheel, package.name, package.origin) == (
        "more/w/a_b-1-py3-none-any.whl",
        "a-b",
        "more/deps.txt:1",
    )


def test_files_refer_to_others_and_each_says_its_part_once() -> None:
    found = parse(
        "-r base.txt\n-c constraints.txt\nhttpx\n-i https://${USER}:${TOKEN}@host/simple\n--pre\n-f wheels\n",
        **{
            "base.txt": "-r requirements.txt\nattrs\n",
            "constraints.txt": "-r limits.txt\n",
            "limits.txt": "h11<1\n",
        },
    )
    assert [package.text for package in found.packages] == ["attrs", "httpx"]
    assert [package.text for package in found.constraints] == ["h11<1"]
    assert found.files == ("requirements.txt", "base.txt", "constraints.txt", "limits.txt")
    assert found.options == (
        ("--index-url", "https://${USER}:${TOKEN}@host/simple"),
        ("--pre",),
        ("--find-links", "wheels"),
    )
    assert found.variables == ("USER", "TOKEN")
    assert found.source == "requirements.txt"


@pytest.mark.parametrize(
    "line",
    ["pkg @ git+https://host/pkg", "git+https://host/pkg@main", "https://host/pkg.zip", "./pkg-1.0.tar.gz"],
)
def test_source_is_known_as_source(line: str) -> None:
    (package,) = parse(line).packages
    assert package.needs_building and package.wheel is None


REFUSED = {
    "numpy 2": "'numpy 2' names no package",
    "-e .": "editable",
    "--editable=git+https://host/x": "editable",
    ".": "a folder can't be installed",
    "./lib": "a folder can't be installed",
    "pkg @ ./lib": "a folder can't be installed",
    "--no-binary :all:": "runs the package's own code",
    "--global-option=x": "does not know this option",
    "numpy --global-option=x": "--global-option is not taken here",
    "numpy --config-settings a=b": "--config-settings is not taken here",
    "-r ../outside.txt": "lies in the project's folder",
    "-r /etc/passwd": "lies in the project's folder",
    "-c https://host/constraints.txt": "lies in the project's folder",
    "-r sub/../../outside.txt": "lies in the project's folder",
    '-r "base.txt': "No closing quotation",
    "numpy; $(touch x) --hash=md5": "--hash is not taken here",
    "=2.0": "names no package",
    "/wheels/a-1-py3-none-any.whl": "lies in the project's folder",
    "../a-1-py3-none-any.whl": "lies in the project's folder",
    "a @ ../a-1.tar.gz": "lies in the project's folder",
    "--index-url https://host --no-binary :all:": "it takes one word",
    "--find-links 'a --no-binary :all:'": "it takes one word",
    "--index-url=--pre": "it takes one word",
    "httpx -I": "-I is not taken here",
    "a b c": "names no package",
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_is_not_understood_is_refused_with_its_place(line: str) -> None:
    with pytest.raises(RequirementsError) as caught:
        parse(f"# first\n{line}\n")
    assert caught.value.message.startswith("requirements.txt:2  ")
    assert REFUSED[line] in caught.value.message
    assert caught.value.remedy


def test_files_that_refer_to_each_other_without_end_are_refused() -> None:
    with pytest.raises(RequirementsError, match="refer to each other"):
        parse_requirements(lambda name: f"-r {int(name.partition('.')[0] or 0) + 1}.txt", "0.txt")


def test_pyproject_names_packages_too() -> None:
    found = parse_pyproject(
        '[project]\nname = "shop"\ndependencies = ["httpx>=0.28", "x @ https://h/x-1-py3-none-any.whl"]'
    )
    assert found is not None
    assert [(package.name, package.origin) for package in found.packages] == [
        ("httpx", "pyproject.toml dependencies[0]"),
        ("x", "pyproject.toml dependencies[1]"),
    ]
    assert found.source == "pyproject.toml"


@pytest.mark.parametrize(
    "text", ["", "[project]\n", "[project]\ndependencies = []\n", "[tool.ruff]\nline-length = 1\n"]
)
def test_a_pyproject_without_dependencies_asks_for_nothing(text: str) -> None:
    assert parse_pyproject(text) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[project", "is not TOML"),
        ("project = 1\n", "project is no table"),
        ('[project]\ndynamic = ["dependencies"]\n', "dynamic"),
        ("[project]\ndependencies = 1\n", "no list of text"),
        ('[project]\ndependencies = ["-r requirements.txt"]\n', "names no package"),
        ('[project]\ndependencies = ["httpx\\n--index-url https://host"]\n', "--index-url is not taken here"),
        ('[project]\ndependencies = ["./lib"]\n', "a folder can't be installed"),
    ],
)
def test_a_pyproject_that_can_not_be_used_says_why(text: str, words: str) -> None:
    with pytest.raises(RequirementsError) as caught:
        parse_pyproject(text)
    assert caught.value.message.startswith("pyproject.toml") and words in caught.value.message
