"""The set-up: Makefile, environment files, what git ignores, and the script of the checks."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from config.keys import KEYS

ROOT = Path(__file__).resolve().parents[2]
OWN_FILES = (
    ".ci/run",
    ".gitignore",
    ".pylintrc",
    "CHANGELOG.md",
    "Makefile",
    "constraints.txt",
    "dev.yml",
    "environment.yml",
    "pyproject.toml",
    *(f"docs/{path.name}" for path in (ROOT / "docs").iterdir() if path.is_file()),
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def normalize(name: str) -> str:
    """Return the one spelling of a distribution's name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def write_program(path: Path, text: str) -> None:
    """Write an executable shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + text, encoding="utf-8")
    path.chmod(0o755)


@pytest.fixture
def kit(tmp_path):
    """Return a folder with the set-up files and no environment, and `bin` for fake programs."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "environment.yml", "dev.yml"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "bin").mkdir()
    return tmp_path


def run_make(kit: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run make with the fake programs before the real ones, and no conda but a fake one."""
    # a make above this one (make test) would pass its flags on
    environment = {
        name: text
        for name, text in os.environ.items()
        if not name.startswith("MAKE") and name not in ("PYTHON3", "ARGS")
    }
    folders = [
        folder
        for folder in environment["PATH"].split(os.pathsep)
        if not any(shutil.which(tool, path=folder) for tool in ("conda", "mamba", "micromamba"))
    ]
    environment["PATH"] = os.pathsep.join([str(kit / "bin"), *folders])
    return subprocess.run(
        ["make", *arguments], cwd=kit, env=environment, capture_output=True, text=True, check=False
    )


def fake_python(kit: Path, change: str) -> None:
    """Put a python3 on the PATH that runs `-c` code of this Python after a change to it."""
    write_program(
        kit / "bin" / "python3",
        '[ "$1" = -c ] || exit 3\n'
        f'exec "{sys.executable}" -c "import platform, sys; {change}\n$2"\n',
    )


def fake_environment(kit: Path) -> None:
    """Put a python3 and a conda on the PATH that write down what they are asked to do."""
    write_program(kit / "template", 'echo "python $*" >> log\n')
    write_program(
        kit / "bin" / "python3",
        f'if [ "$1" = -c ]; then exec "{sys.executable}" "$@"; fi\n'
        'echo "python3 $*" >> log\nmkdir -p .venv/bin && cp template .venv/bin/python\n',
    )


def fake_conda(kit: Path, name: str) -> None:
    """Put a conda on the PATH that keeps its one environment in the folder envs/plumbline."""
    write_program(kit / "template", 'echo "python $*" >> log\n')
    write_program(
        kit / "bin" / name,
        f'echo "{name} $*" >> log\n'
        'case "$*" in\n'
        '"env list") [ ! -d envs ] || echo "plumbline   $PWD/envs/plumbline";;\n'
        '"env create"*) mkdir -p envs/plumbline/bin && cp template envs/plumbline/bin/python;;\n'
        '"env remove"*) rm -r envs;;\n'
        "*sys.prefix*) echo $PWD/envs/plumbline;;\n"
        "esac\n",
    )


def read_log(kit: Path) -> list[str]:
    """Return the calls of the fake programs since the last look."""
    log = kit / "log"
    calls = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return calls


# ------------------------------------------------------------------------------------- Makefile


def list_targets() -> list[str]:
    """Return the commands of the Makefile."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)[1].split()


def test_help_is_the_default_and_explains_every_target(kit):
    done = run_make(kit)
    assert done.stdout == run_make(kit, "help").stdout
    lines = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    assert [target for _, target, _ in lines] == list_targets()
    assert all(len(text) > 10 for _, _, text in lines)


def test_every_target_of_the_kit_is_there():
    wanted = "help env env-dev env-remove demo test test-all lint format doc clean clean-doc"
    assert {*wanted.split(), "docker-build", "docker-run"} <= set(list_targets())


def test_old_python_is_named_with_the_remedy(kit):
    fake_python(kit, "platform.python_version = lambda: '3.9.2'; sys.version_info = (3, 9, 2)")
    done = run_make(kit, "env")
    assert done.returncode != 0
    assert (
        "make env: expected Python >= 3.11 as python3, got 3.9.2."
        " Install it and run: make env PYTHON3=python3.11\n"
    ) in done.stderr
    assert not (kit / ".venv").exists()


def test_missing_python_is_named_with_the_remedy(kit):
    done = run_make(kit, "env", "PYTHON3=no-such-python")
    assert done.returncode != 0
    assert (
        "make env: expected Python >= 3.11 as no-such-python, got none."
        " Install it and run: make env PYTHON3=python3.11\n"
    ) in done.stderr


@pytest.mark.parametrize("module", ["venv", "ensurepip"])
def test_missing_venv_module_is_named_with_the_remedy(kit, module):
    fake_python(kit, f"sys.modules['{module}'] = None")
    done = run_make(kit, "env")
    assert done.returncode != 0
    assert (
        "make env: expected the venv module in python3, got none."
        " Install it (Debian, Ubuntu: apt install python3-venv)\n"
    ) in done.stderr
    assert not (kit / ".venv").exists()


INSTALL = (
    "python -m uv pip install --python .venv/bin/python"
    " --constraints constraints.txt --requirements pyproject.toml"
)
MAKE_VENV = [
    "python3 -m venv .venv",
    "python -m pip install --quiet --constraint constraints.txt uv",
    INSTALL,
]


@pytest.mark.parametrize(
    ("target", "calls"),
    [
        ("env", MAKE_VENV),
        ("env-dev", [*MAKE_VENV, f"{INSTALL} --extra dev"]),
        ("demo", [*MAKE_VENV, "python train.py"]),
        ("test", [*MAKE_VENV, f"{INSTALL} --extra dev", "python -m pytest -m not slow"]),
    ],
)
def test_targets_set_up_what_they_need(kit, target, calls):
    fake_environment(kit)
    assert run_make(kit, target).returncode == 0
    assert read_log(kit) == calls


def test_a_second_make_installs_again_only_after_a_change(kit):
    fake_environment(kit)
    run_make(kit, "env-dev")
    read_log(kit)
    assert run_make(kit, "env-dev").returncode == 0
    assert read_log(kit) == []
    later = (kit / ".venv" / ".dev").stat().st_mtime + 10
    os.utime(kit / "constraints.txt", (later, later))
    assert run_make(kit, "env-dev").returncode == 0
    assert read_log(kit) == [*MAKE_VENV[1:], f"{INSTALL} --extra dev"]


def test_a_failed_install_is_tried_again(kit):
    fake_environment(kit)
    write_program(kit / "template", 'echo "python $*" >> log\n[ "$2" != uv ]\n')
    assert run_make(kit, "env").returncode != 0
    read_log(kit)
    assert run_make(kit, "env").returncode != 0
    assert read_log(kit) == MAKE_VENV[1:]


def test_a_given_python_is_used_as_it_is(kit):
    write_program(kit / "my-python", 'echo "python $*" >> log\n')
    assert run_make(kit, "test", "PYTHON=./my-python", "ARGS=-k unet").returncode == 0
    assert read_log(kit) == ["python -m pytest -m not slow -k unet"]


@pytest.mark.parametrize("name", ["conda", "mamba", "micromamba"])
def test_conda_on_the_path_is_used(kit, name):
    fake_conda(kit, name)
    assert run_make(kit, "env-dev").returncode == 0
    find_prefix = f"{name} run --name plumbline python -c import sys; print(sys.prefix)"
    install_dev = "python -m pip install --constraint constraints.txt .[dev]"
    assert read_log(kit) == [
        f"{name} env list",
        f"{name} env create --file environment.yml",
        find_prefix,
        install_dev,
    ]
    later = (kit / ".conda" / ".dev").stat().st_mtime + 10
    os.utime(kit / "pyproject.toml", (later, later))
    assert run_make(kit, "env-dev").returncode == 0
    assert read_log(kit) == [
        f"{name} env list",
        f"{name} run --name plumbline python -m pip install --constraint constraints.txt .",
        find_prefix,
        install_dev,
    ]
    assert run_make(kit, "env-remove").returncode == 0
    assert read_log(kit) == [f"{name} env remove --name plumbline"]
    assert not (kit / ".conda").is_symlink()


def test_an_empty_conda_variable_or_a_venv_that_is_there_means_venv(kit):
    fake_conda(kit, "conda")
    fake_environment(kit)
    assert run_make(kit, "env", "CONDA=").returncode == 0
    assert run_make(kit, "env-dev").returncode == 0
    assert read_log(kit) == [*MAKE_VENV, f"{INSTALL} --extra dev"]
    assert run_make(kit, "env-remove").returncode == 0
    assert not (kit / ".venv").exists()


def test_clean_leaves_what_the_user_made(kit):
    kept = ["data/__pycache__/x.npy", "logs/experiments.csv", "weights/run/best.pth", "mine.py"]
    kept += ["docs/index.rst", ".venv/lib/__pycache__/x.pyc"]
    removed = ["utils/data/__pycache__/x.pyc", ".ruff_cache/x", "build/x", "docs/_build/x"]
    for name in kept + removed:
        (kit / name).parent.mkdir(parents=True, exist_ok=True)
        (kit / name).write_text("x", encoding="utf-8")
    assert run_make(kit, "clean", "clean-doc").returncode == 0
    assert [name for name in kept if not (kit / name).exists()] == []
    assert [name for name in removed if (kit / name).exists()] == []


# ----------------------------------------------------------------------------- the one list


def get_name(requirement: str) -> str:
    """Return the name of a requirement without version and extras."""
    return normalize(re.match(r"[\w.-]+", requirement)[0])


def test_constraints_cover_every_direct_dependency():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []
    direct = PROJECT["dependencies"] + [one for extra in EXTRAS.values() for one in extra]
    assert {get_name(one) for one in direct} | {"uv"} == {get_name(line) for line in lines}


@pytest.mark.parametrize(("name", "installed"), [("environment.yml", "."), ("dev.yml", ".[dev]")])
def test_environment_files_use_the_one_list(name, installed):
    environment = yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))
    assert environment["name"] == PROJECT["name"] == "plumbline"
    python, pip, by_pip = environment["dependencies"]
    assert python == f"python{PROJECT['requires-python']}"
    assert pip == "pip"
    assert by_pip == {"pip": ["--constraint constraints.txt", installed]}
    assert (ROOT / "constraints.txt").is_file()
    assert "dev" in EXTRAS


def test_the_makefile_names_the_same_environment_and_python():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f"\nNAME := {PROJECT['name']}\n" in text
    assert PROJECT["requires-python"] == ">=3.11"
    assert set(re.findall(r"Python >= ([\d.]+)", text)) == {"3.11"}
    assert "sys.version_info >= (3, 11)" in text


# ------------------------------------------------------------------------------- other files


def test_own_files_name_no_machine():
    private = re.compile(
        r"/home/|/root\b|/Users/|index-url|find-links|https?://\S*(simple|pypi)", re.I
    )
    found = {name: private.findall((ROOT / name).read_text("utf-8")) for name in OWN_FILES}
    assert {name: hits for name, hits in found.items() if hits} == {}


FOLDERS = ("config", "utils", "layers", "models", "training", "experiments", "tests")
# where people who know kits of this kind look
KNOWN = """
config/__init__.py config/config.py config/device.py docs layers/__init__.py layers/conv.py
models/__init__.py models/unet.py tests/__init__.py tests/test_models/__init__.py
training/__init__.py training/fastai_training.py training/ignite_training.py
training/pytorch_training.py utils/__init__.py utils/data/__init__.py utils/data/datasets.py
utils/logging/__init__.py utils/logging/csv.py utils/notify/__init__.py utils/notify/smtp.py
utils/loss.py utils/name.py utils/path.py utils/torchutils.py .gitignore .pylintrc dev.yml
Dockerfile environment.yml hyperparameter.py Makefile predict.py README.md run_prediction.py
train.py
"""


def test_files_are_where_they_are_looked_for():
    assert [name for name in KNOWN.split() if not (ROOT / name).exists()] == []


def test_every_folder_of_modules_is_a_package_and_none_needs_a_path():
    code = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(code) > 80
    assert [path for path in code if not path.with_name("__init__.py").exists()] == []
    added = re.compile(r"^\s*sys\.path\.(append|insert)\(['\"]", re.MULTILINE)
    assert [path for path in code if added.search(path.read_text("utf-8"))] == []


SEEN = "docs/index.rst pyproject.toml notebooks/a.ipynb LICENSE README.md .ci/run .pylintrc"
SEEN += " utils/data/datasets.py utils/logging/csv.py config/config.py tests/data/x.npy weights.py"
HIDDEN = "data/train/x/1.npy logs/experiments.csv weights/run/best.pth .env .venv/bin/python"
HIDDEN += " .conda utils/__pycache__/loss.pyc docs/_build/html docs/_generated/x.rst build/lib"


def test_git_ignores_outputs_and_no_sources(tmp_path):
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    shutil.copy(ROOT / ".gitignore", tmp_path)
    done = subprocess.run(
        ["git", "check-ignore", "--no-index", *SEEN.split(), *HIDDEN.split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == HIDDEN.split()


def test_the_documentation_builds_without_a_warning_and_shows_every_key(tmp_path):
    made = shutil.ignore_patterns("_build", "_generated", "__pycache__")
    for name in ("docs", "config", "utils", "layers", "models", "training"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=made)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", "docs", "html"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "html" / "config.html").read_text(encoding="utf-8")
    shown = re.findall(r'<code[^>]*><span class="pre">(\w+)</span></code></p></td>', page)
    assert set(KEYS) <= set(shown)


def run_checks(kit: Path, failing: str) -> tuple[int, list[str]]:
    """Run .ci/run with a make that notes its target and fails at one."""
    shutil.copytree(ROOT / ".ci", kit / ".ci")
    write_program(kit / "bin" / "make", f'echo "$*" >> log\n[ "$*" != "{failing}" ]\n')
    done = subprocess.run(
        [kit / ".ci" / "run"],
        env=os.environ | {"PATH": f"{kit / 'bin'}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    return done.returncode, read_log(kit)


@pytest.mark.parametrize(
    ("failing", "calls"),
    [("nothing", ["lint", "test"]), ("lint", ["lint"]), ("test", ["lint", "test"])],
)
def test_checks_run_lint_and_test_and_pass_failure_on(kit, failing, calls):
    code, called = run_checks(kit, failing)
    assert called == calls
    assert (code == 0) == (failing == "nothing")


def test_the_license_is_the_apache_license():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert text.split()[:4] == ["Apache", "License", "Version", "2.0,"]
    assert "END OF TERMS AND CONDITIONS" in text
    assert PROJECT["license"] == "Apache-2.0"
