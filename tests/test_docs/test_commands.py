"""Every command in README and docs is one that the kit takes, with keys and files that exist."""

import functools
import importlib
import re
import shlex
from pathlib import Path

import pytest
import yaml

from config.config import ROOT_PATH
from config.load import load_config

PAGES = [ROOT_PATH / "README.md", *sorted((ROOT_PATH / "docs").glob("*.rst"))]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT_PATH / "Makefile").read_text(), re.MULTILINE))
# what readers have and the kit does not: their own config, routine, runs
THEIRS = {"experiments/mine.py": "experiments/scenes.py"}
# programs that are not the kit's: that a page names them is checked by eye
OTHERS = {"git", "cp", "cd", "source", "conda", "uv", "pip", "pytest", "docker", "copier", "export",
          "tensorboard", "echo"}  # fmt: skip


def read_commands(page: Path) -> list[list[str]]:
    """Return the commands of a page's shell blocks, as words."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".md":
        blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    else:
        blocks = re.findall(r"code-block:: sh\n\n((?:   .*\n|\n)+)", text)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    commands = [shlex.split(line, comments=True) for line in lines if line.strip()]
    return [part for words in commands for part in split_at(words, "&&")]


def split_at(words: list[str], mark: str) -> list[list[str]]:
    """Split a list at a word."""
    parts: list[list[str]] = [[]]
    for word in words:
        parts.append([]) if word == mark else parts[-1].append(word)
    return [part for part in parts if part]


COMMANDS = [
    pytest.param(words, id=f"{page.name}: {' '.join(words)}")
    for page in PAGES
    for words in read_commands(page)
]


def test_commands_are_found():
    assert len(COMMANDS) > 30


@pytest.mark.parametrize("words", COMMANDS)
def test_a_command_is_one_that_the_kit_takes(words):
    words = [word for word in words if not re.fullmatch(r"[A-Z_]+=\S*", word)] or words
    while words[0] in ("python", "python3", "torchrun"):
        words = [words[1].removeprefix("plumbline/"), *words[2:]]  # from beside a clone
        if words[0] == "--nproc-per-node":
            words = words[2:]
    if words[0] == "make":
        assert {word for word in words[1:] if "=" not in word} <= TARGETS
    elif words[0] == "-m":
        parts = words[1].split(".")
        path = ROOT_PATH.joinpath(*parts)
        assert words[1] == "pytest" or path.with_suffix(".py").is_file() or path.is_dir()
    elif words[0] == "train.py":
        check_training(words[1:])
    elif words[0].endswith(".py"):
        check_script(words[0], words[1:])
    else:
        assert words[0] in OTHERS, words


def check_training(arguments: list[str]) -> None:
    """Read the arguments and the config that they name, with the overrides."""
    import train

    if "--help" in arguments:
        return
    args = train.parse([THEIRS.get(word, word) for word in arguments])
    if args.config is None or Path(args.config).is_absolute() or "<" in args.config:
        return
    overrides = [text for text in args.overrides if not text.startswith("~")]
    path = ROOT_PATH / args.config
    if path.is_file():  # others are the reader's own
        load_config(str(path), overrides)
    else:
        assert "mine" in args.config or "my" in args.config, args.config


def check_script(script: str, arguments: list[str]) -> None:
    """Read the arguments as the script would."""
    assert (ROOT_PATH / script).is_file()
    if "--help" not in arguments and "/" not in script:
        importlib.import_module(script.removesuffix(".py")).parse(arguments)


@functools.cache
def read_index() -> str:
    return (ROOT_PATH / "docs" / "index.rst").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", [page for page in PAGES if page.suffix == ".rst"], ids=str)
def test_every_page_is_linked(page):
    assert page.stem == "index" or f"   {page.stem}\n" in read_index()


def test_links_of_the_readme_lead_to_files():
    text = (ROOT_PATH / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]+)\)", text)
    files = [link for link in links if "://" not in link]
    assert files and all((ROOT_PATH / link).exists() for link in files)


def test_yaml_blocks_are_yaml():
    blocks = [
        block
        for page in PAGES
        for block in re.findall(
            r"code-block:: yaml\n\n((?:   .*\n|\n)+)", page.read_text(encoding="utf-8")
        )
    ]
    for block in blocks:
        yaml.safe_load(block)
