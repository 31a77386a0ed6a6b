"""The container, without an engine: Dockerfile as text, its steps run in a folder, a fake docker.

The folder stands for the image. Of programs the steps find only the few that are named here, so
that nothing of this machine is changed.
"""

import fnmatch
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.test_project.test_new_project import TINY
from tests.test_project.test_setup import INSTALL, MAKE_VENV, read_log, write_program

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ["data", "logs", "weights"]


def read_steps() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile, each with its text on one line."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in text.split("\n") if line]


def read_ignored() -> list[str]:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def is_ignored(name: str) -> bool:
    """Tell whether .dockerignore keeps a file, or a folder that it is in, out of the image."""
    parts = name.split("/")
    names = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
    for pattern in read_ignored():
        inner = pattern.removeprefix("**/")
        for path in names:
            # `**/` stands for any folders or none; a `*` does not cross a `/`
            last = path.rpartition("/")[2] if inner != pattern else path
            if fnmatch.fnmatchcase(last, inner) and last.count("/") == inner.count("/"):
                return True
    return False


# --------------------------------------------------------------------------------- Dockerfile


def test_the_image_has_the_tested_python():
    tested = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert read_steps()[0] == ("FROM", "python:3.11-slim")
    assert "(Linux, Python 3.11)" in tested
    assert project["requires-python"] == ">=3.11"


def test_a_change_of_code_installs_nothing_again():
    steps = read_steps()
    (install,) = [at for at, (name, text) in enumerate(steps) if name == "RUN" and "make $" in text]
    copied = [text for name, text in steps[:install] if name in ("COPY", "ADD")]
    assert copied == ["Makefile pyproject.toml constraints.txt ./"]
    assert ("COPY", ". .") in steps[install:]
    assert ("ARG", "SETUP=env") in steps[:install]


def test_the_user_is_not_root_and_the_folders_are_volumes():
    steps = dict(read_steps())
    user, group = map(int, steps["USER"].split(":"))
    assert user > 0 and group > 0
    assert steps["VOLUME"] == '["/app/data", "/app/logs", "/app/weights"]'
    assert steps["WORKDIR"] == "/app"
    assert [name for name, _ in read_steps()].index("USER") > max(
        at for at, (name, _) in enumerate(read_steps()) if name == "RUN"
    )


SEEN = "train.py utils/data/datasets.py utils/logging/csv.py tests/conftest.py .env.example"
SEEN += " weights.py docs/index.rst pyproject.toml experiments/data/x.npy"
LEFT_OUT = "data/x/1.npy logs/experiments.csv weights/run/best.pth .env sub/.env .git/HEAD"
LEFT_OUT += " .venv/bin/python .conda utils/__pycache__/loss.pyc x.pyc docs/_build/html build/lib"


def test_the_image_holds_sources_and_no_outputs_or_secrets():
    assert [name for name in SEEN.split() if is_ignored(name)] == []
    assert [name for name in LEFT_OUT.split() if not is_ignored(name)] == []


def test_what_git_ignores_stays_out_of_the_image():
    lines = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    lines = [line.rstrip("/") for line in lines if line and not line.startswith("#")]
    wanted = [line[1:] if line.startswith("/") else f"**/{line}" for line in lines]
    assert sorted([*wanted, ".git"]) == sorted(read_ignored())


# ------------------------------------------------------------------- the steps, run in a folder


def build(folder: Path, setup: str = "env") -> Path:
    """Do what the Dockerfile says in a folder that stands for the image; return its /app."""
    app = folder / "app"
    app.mkdir()
    programs = folder / "bin"
    for name in ("chmod", "cp", "make", "mkdir", "sh", "touch"):
        programs.mkdir(exist_ok=True)
        (programs / name).symlink_to(shutil.which(name))
    for name in ("apt-get", "rm"):
        write_program(programs / name, f'echo "{name} $*" >> {folder}/log\n')
    write_program(folder / "template", f'echo "python $*" >> {folder}/log\n')
    write_program(
        programs / "python3",
        f'if [ "$1" = -c ]; then exec "{sys.executable}" "$@"; fi\n'
        f'echo "python3 $*" >> {folder}/log\n'
        f"mkdir -p .venv/bin && cp {folder}/template .venv/bin/python\n",
    )
    variables = {"PATH": str(programs)}
    for name, text in read_steps():
        if name == "ARG":
            key, _, default = text.partition("=")
            variables[key] = {"SETUP": setup}.get(key, default)
        elif name == "COPY":
            *sources, target = text.split()
            for source in sources:
                copy(ROOT / source, app / target)
        elif name == "RUN":
            command = re.sub(r"^(--\S+\s+)*", "", text)
            done = subprocess.run(
                ["sh", "-c", command],
                cwd=app,
                env=variables,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
    return app


def copy(source: Path, target: Path) -> None:
    """Copy a file, or a folder without what .dockerignore names."""
    if source.is_file():
        shutil.copy2(source, target)
        return

    def skip(path, names):
        relative = Path(path).relative_to(source)
        return [name for name in names if is_ignored((relative / name).as_posix())]

    shutil.copytree(source, target, ignore=skip, dirs_exist_ok=True)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """Return the folder that stands for the image, and what was called to make it."""
    folder = tmp_path_factory.mktemp("image")
    return build(folder), read_log(folder)


def test_the_steps_install_once_and_as_make_env_does(image):
    app, calls = image
    assert calls == [
        "apt-get update",
        "apt-get install --yes --no-install-recommends g++ git make",
        f"rm -rf {' '.join(calls[2].split()[2:])}",
        *MAKE_VENV,
    ]
    assert all(path.startswith("/var/lib/apt/lists/") for path in calls[2].split()[2:])
    assert (app / ".venv" / ".base").exists()


def test_setup_chooses_what_is_installed(tmp_path):
    build(tmp_path, "env-dev")
    assert read_log(tmp_path)[3:] == [*MAKE_VENV, f"{INSTALL} --extra dev"]


def test_whoever_runs_the_image_may_write_outputs_only(image):
    app, _ = image
    modes = {path.name: path.stat().st_mode & 0o7777 for path in app.iterdir()}
    assert {name: modes[name] for name in FOLDERS} == dict.fromkeys(FOLDERS, 0o1777)
    assert [name for name in sorted(modes) if modes[name] & 0o002] == FOLDERS


def run_in(app: Path, *command: str) -> subprocess.CompletedProcess:
    """Run a command of the image, with its variables bar the PATH."""
    (text,) = [text for name, text in read_steps() if name == "ENV"]
    variables = dict(word.split("=", 1) for word in shlex.split(text))
    assert variables.pop("PATH") == "/app/.venv/bin:$PATH"
    variables["GIT_CONFIG_VALUE_0"] = str(app)
    assert command[0] == "python"
    return subprocess.run(
        [sys.executable, *command[1:]],
        cwd=app,
        env={"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"} | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_default_command_shows_help(image):
    (command,) = [text for name, text in read_steps() if name == "CMD"]
    done = run_in(image[0], *re.findall(r'"([^"]*)"', command))
    assert done.stdout.startswith("usage: train.py")
    assert "SESSION_NAME" in done.stdout


@pytest.mark.slow
def test_the_image_trains_and_predicts(tmp_path):
    app = build(tmp_path)
    done = run_in(app, "python", "train.py", *TINY)
    assert done.returncode == 0, done.stderr
    (weights,) = (app / "weights").glob("*_scenes/best.pth")
    code = "import numpy; numpy.save('data/x.npy', numpy.zeros((16, 16, 12), 'float32'))"
    assert run_in(app, "python", "-c", code).returncode == 0
    files = ["-i", "data/x.npy", "-o", "logs/out", "--weights", str(weights)]
    done = run_in(app, "python", "predict.py", *files)
    assert done.returncode == 0, done.stderr
    assert (app / "logs" / "out" / "x.npy").exists()


# -------------------------------------------------------------------------------- make targets

SMI = {
    "a GPU": 'echo "GPU 0: NVIDIA H200 (UUID: GPU-1)"\n',
    "no device": 'echo "No devices were found"\nexit 6\n',
    "no driver": "exit 9\n",
}


@pytest.fixture
def host(tmp_path):
    """Return a folder with the Makefile, a docker that notes its arguments, a user, and no GPU."""
    folder = tmp_path / "my kit"
    folder.mkdir()
    shutil.copy(ROOT / "Makefile", folder)
    note = "{ printf docker; printf '|%s' \"$@\"; echo; } >> log\n"
    write_program(
        folder / "bin" / "docker", '[ ! -e no-image ] || [ "$1" != image ] || exit 1\n' + note
    )
    write_program(folder / "bin" / "nvidia-smi", SMI["no driver"])
    write_program(folder / "bin" / "id", '[ "$1" = -u ] && echo 4242 || echo 4343\n')
    return folder


def make(host: Path, *arguments: str, stdin: int = subprocess.DEVNULL) -> list[list[str]]:
    """Run make with the fake docker; return its calls."""
    outer = {name: text for name, text in os.environ.items() if not name.startswith("MAKE")}
    outer |= {"PATH": f"{host / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    command = ["make", *arguments]
    subprocess.run(command, cwd=host, env=outer, stdin=stdin, capture_output=True, check=True)
    return [line.split("|")[1:] for line in read_log(host)]


def values(call: list[str], option: str) -> list[str]:
    """Return what stands behind an option, each time that it is given."""
    return [after for before, after in zip(call, call[1:], strict=False) if before == option]


def test_docker_build_takes_the_name_and_arguments(host):
    assert make(host, "docker-build") == [["build", "--tag", "plumbline", "."]]
    calls = make(host, "docker-build", "NAME=cells", "ARGS=--build-arg SETUP=env-dev")
    assert calls == [["build", "--tag", "cells", "--build-arg", "SETUP=env-dev", "."]]


def test_docker_run_runs_as_the_user_with_the_folders_mounted(host, tmp_path):
    data = tmp_path / "all data"
    command = "python train.py EPOCHS=3 CLASSES=\"['a b']\""
    calls = make(host, "docker-run", f"ARGS={command}", f"DATA_DIR={data}", "SHM_SIZE=1g")
    look, call = calls
    assert look == ["image", "inspect", "plumbline"]
    assert call[:3] == ["run", "--rm", "--init"]
    assert call[call.index("plumbline") :] == ["plumbline", *shlex.split(command)]
    assert values(call, "--user") == ["4242:4343"]
    assert values(call, "--shm-size") == ["1g"]
    assert values(call, "--volume") == [
        f"{data}:/app/data",
        f"{host}/logs:/app/logs",
        f"{host}/weights:/app/weights",
    ]
    # made here, else docker makes them as root
    assert data.is_dir() and (host / "logs").is_dir() and (host / "weights").is_dir()


def test_docker_run_without_a_command_leaves_it_to_the_image(host):
    assert make(host, "docker-run")[-1][-1] == "plumbline"


@pytest.mark.parametrize("found", SMI)
def test_gpus_are_asked_for_only_where_there_are_some(host, found):
    write_program(host / "bin" / "nvidia-smi", SMI[found])
    gpus = ["all"] if found == "a GPU" else []
    assert values(make(host, "docker-run")[-1], "--gpus") == gpus
    assert values(make(host, "docker-run", "GPUS=")[-1], "--gpus") == []
    assert values(make(host, "docker-run", "GPUS=device=1")[-1], "--gpus") == ["device=1"]


def test_secrets_and_history_are_mounted_read_only(host):
    (host / ".env").touch()
    (host / ".git").mkdir()
    (host / ".git" / "HEAD").touch()
    mounts = values(make(host, "docker-run")[-1], "--volume")[3:]
    assert mounts == [f"{host}/.env:/app/.env:ro", f"{host}/.git:/app/.git:ro"]


def test_a_terminal_is_passed_on(host):
    outer, inner = os.openpty()
    try:
        call = make(host, "docker-run", stdin=inner)[-1]
    finally:
        os.close(outer)
        os.close(inner)
    assert {"--interactive", "--tty"} <= set(call)
    assert not {"--interactive", "--tty"} & set(make(host, "docker-run")[-1])


def test_a_missing_image_is_named_with_the_remedy(host):
    (host / "no-image").touch()
    with pytest.raises(subprocess.CalledProcessError) as caught:
        make(host, "docker-run")
    words = b"make docker-run: expected the image plumbline, got none. Run: make docker-build\n"
    assert words in caught.value.stderr
    assert read_log(host) == []
