"""A project made from the kit, and a later version of the kit merged into it: real git, no network.

The later version is made up here: it mends, adds, renames and removes files.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
OUTPUTS = (".git", ".venv", ".conda", "data", "logs", "weights")
TINY = "EPOCHS=1 MODEL_CONFIG.bulk_ch=2 NUM_THREADS=1 DATA_LOADER_CONFIG.batch_size=2".split()
TINY += [
    f"{part}_DATASET_CONFIG.{size}"
    for part in ("TRAIN", "VAL", "TEST")
    for size in ("n_scenes=4", "size_px=16")
]
pytestmark = pytest.mark.skipif(not shutil.which("git"), reason="needs git")


@pytest.fixture(autouse=True, scope="module")
def _git_of_nobody(tmp_path_factory):
    """Keep git away from the user's settings and from a repository whose hook runs the tests."""
    settings = tmp_path_factory.mktemp("git") / "config"
    settings.write_text(
        "[user]\nname = Me\nemail = me@example.org\n[init]\ndefaultBranch = main\n", "utf-8"
    )
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("GIT_", "MAKE"))]:
            patch.delenv(name)
        patch.setenv("GIT_CONFIG_GLOBAL", str(settings))
        patch.setenv("GIT_CONFIG_NOSYSTEM", "1")
        yield


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def commit(folder: Path, message: str) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "-m", message)


def call(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run project.py of a folder, from another one."""
    command = [sys.executable, str(folder / "project.py"), *arguments]
    return subprocess.run(command, cwd=folder.parent, capture_output=True, text=True, check=False)


def change(path: Path, line: str, text: str) -> None:
    """Put other text in the place of the first line that a pattern matches."""
    old = path.read_text(encoding="utf-8")
    new, n_changed = re.subn(f"^{line}$", text, old, count=1, flags=re.MULTILINE)
    assert n_changed, f"{path} has no line {line}"
    path.write_text(new, encoding="utf-8")


def make_kit(folder: Path, left_out: tuple[str, ...]) -> Path:
    """Return a clone of this kit without some folders, as if v0.1 were released."""
    origin, clone = folder / "origin", folder / "plumbline"

    def skip(path, names):
        outputs = left_out if Path(path) == ROOT else ()
        return [name for name in names if name in outputs or name == "__pycache__"]

    shutil.copytree(ROOT, origin, ignore=skip)
    # files that the later version will change, of a known content
    for name in ("mended", "kept", "clash", "gone", "gone_mine", "moved", "unwanted"):
        text = "".join(f"{name}_{line} = {line}\n" for line in range(30))
        (origin / "layers" / f"{name}.py").write_text(text, encoding="utf-8")
    git(folder, "init", "--quiet", str(origin))
    commit(origin, "First")
    git(origin, "tag", "v0.1")
    git(folder, "clone", "--quiet", str(origin), str(clone))
    return clone


@pytest.fixture(scope="module")
def kit(tmp_path_factory):
    """Return a clone of the whole kit; tests only read it."""
    return make_kit(tmp_path_factory.mktemp("kit"), OUTPUTS)


@pytest.fixture(scope="module")
def small_kit(tmp_path_factory):
    """Return a clone of a part of the kit, which git is quick with; tests only read it."""
    left_out = (*OUTPUTS, "docs", "tests", "training", "utils")
    return make_kit(tmp_path_factory.mktemp("small_kit"), left_out)


def release(origin: Path) -> None:
    """Commit a made-up later version of the kit, v0.2."""
    layers = origin / "layers"
    for name in ("mended", "kept", "clash", "unwanted", "moved"):
        change(layers / f"{name}.py", f"{name}_5 = 5", f"{name}_5 = 'v0.2'")
    for name in ("gone", "gone_mine"):
        (layers / f"{name}.py").unlink()
    (layers / "moved.py").rename(layers / "moved_there.py")
    for name in ("new", "new_too"):
        (layers / f"{name}.py").write_text("ORIGIN = 'the kit'\n", encoding="utf-8")
    (origin / "benchmarks" / "new.py").write_text("ORIGIN = 'the kit'\n", encoding="utf-8")
    (origin / "README.md").write_text("# Another\n", encoding="utf-8")
    (origin / "dev.yml").unlink()
    change(origin / "pyproject.toml", "version = .*", 'version = "9.0.0"')
    change(origin / "pyproject.toml", r"dependencies = \[", 'dependencies = [\n    "of-the-kit",')
    change(origin / "project.py", "import tarfile", "import tarfile\nimport zlib  # v0.2")
    commit(origin, "Second")
    git(origin, "tag", "v0.2")


def edit(project: Path) -> None:
    """Commit what a user does to a project."""
    layers = project / "layers"
    change(layers / "kept.py", "kept_25 = 25", "kept_25 = 'mine'")
    change(layers / "clash.py", "clash_5 = 5", "clash_5 = 'mine'")
    change(layers / "gone_mine.py", "gone_mine_25 = 25", "gone_mine_25 = 'mine'")
    change(layers / "moved.py", "moved_25 = 25", "moved_25 = 'mine'")
    (layers / "unwanted.py").unlink()
    (project / "experiments" / "scenes.py").unlink()
    for name in ("layers/new.py", "models/mine.py", "experiments/mine.py"):
        (project / name).write_text("ORIGIN = 'me'\n", encoding="utf-8")
    (project / "README.md").write_text("# Cells\n\nMy text.\n", encoding="utf-8")
    change(project / "pyproject.toml", "version = .*", 'version = "3.0.0"')
    change(project / "pyproject.toml", r"dev = \[", 'dev = [\n    "mine",')
    commit(project, "Mine")


@pytest.fixture
def pair(small_kit, tmp_path):
    """Return a repository of the kit and a project made from a clone of it, to be changed."""
    origin, clone, project = tmp_path / "origin", tmp_path / "plumbline", tmp_path / "cells"
    git(tmp_path, "clone", "--quiet", str(small_kit.parent / "origin"), str(origin))
    git(tmp_path, "clone", "--quiet", str(origin), str(clone))
    done = call(clone, "new", str(project))
    assert done.returncode == 0, done.stderr
    return origin, project


# ------------------------------------------------------------------------------ a new project


@pytest.fixture(scope="module")
def project(kit, tmp_path_factory):
    """Return a project as it was made; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("new") / "Cell Counter"
    done = call(kit, "new", str(folder))
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        done.stdout == f"cell-counter: made from Plumbline v0.1. Next: cd '{folder}' && make demo\n"
    )
    return folder


def test_a_new_project_has_its_own_name(project):
    about = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))["project"]
    assert about["name"] == "cell-counter"
    for name in ("environment.yml", "dev.yml"):
        assert yaml.safe_load((project / name).read_text("utf-8"))["name"] == "cell-counter"
    assert "\nNAME := cell-counter\n" in (project / "Makefile").read_text("utf-8")
    assert (project / "README.md").read_text("utf-8").startswith("# cell-counter\n")


def test_nothing_else_differs_from_the_kit(project, kit):
    names = git(project, "ls-files").splitlines()
    changed = [
        name
        for name in names
        if not (kit / name).exists() or (kit / name).read_bytes() != (project / name).read_bytes()
    ]
    assert set(changed) == {
        ".plumbline.json",
        "Makefile",
        "README.md",
        "dev.yml",
        "environment.yml",
        "pyproject.toml",
    }
    for name in ("Makefile", "dev.yml", "environment.yml"):
        lines = zip(
            (kit / name).read_text("utf-8").splitlines(),
            (project / name).read_text("utf-8").splitlines(),
            strict=True,
        )
        assert [own for line, own in lines if line != own] in (
            ["name: cell-counter"],
            ["NAME := cell-counter"],
        )


def test_what_only_the_kit_needs_is_left_out(project, kit):
    left_out = set(git(kit, "ls-files").splitlines()) - set(git(project, "ls-files").splitlines())
    folders = {name if name.count("/") < 2 else name.rpartition("/")[0] for name in left_out}
    tops = {re.match(r"tests/test_\w+|tests/campaign|[^/]+", folder)[0] for folder in folders}
    assert tops - {"tests/campaign", "tests/test_docs"} == {
        ".ci",
        ".gitattributes",
        "CHANGELOG.md",
        "benchmarks",
        "tests/test_benchmarks",
        "tests/test_experiments",
        "tests/test_project",
    }


def test_the_tests_of_a_project_import_nothing_that_was_left_out(project):
    code = (project / "tests").rglob("*.py")
    imported = {
        name
        for path in code
        for name in re.findall(r"^\s*(?:from|import) ([\w.]+)", path.read_text("utf-8"), re.M)
        if name.split(".")[0] in ("benchmarks", "experiments", "tests")
    }
    assert imported
    assert [
        name
        for name in sorted(imported)
        if name.startswith(("benchmarks", "experiments"))
        or not (project / name.replace(".", "/")).with_suffix(".py").exists()
        and not (project / name.replace(".", "/")).is_dir()
    ] == []


def test_a_new_project_has_a_history_of_one_commit(project):
    assert git(project, "log", "--format=%an %s") == "Me Start from Plumbline v0.1"
    assert git(project, "status", "--porcelain") == ""
    assert git(project, "remote") == ""


def test_the_command_lines_of_a_new_project_run(project):
    for name in ("train.py", "predict.py", "project.py"):
        command = [sys.executable, str(project / name), "--help"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.stdout.startswith("usage: "), done.stderr


@pytest.mark.slow
def test_make_demo_test_and_doc_work_in_a_new_project(project, tmp_path):
    folders = [f"{name}_DIR={tmp_path / name}" for name in ("LOG", "WEIGHT")]
    for arguments in (
        ["demo", f"ARGS={' '.join([*TINY, *folders])}"],
        ["test", "ARGS=tests/test_layers"],
        ["test", "ARGS=--collect-only"],
        ["doc"],
    ):
        command = ["make", *arguments, f"PYTHON={sys.executable}"]
        done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert list((tmp_path / "WEIGHT").glob("*_scenes/best.pth"))
    assert git(project, "status", "--porcelain") == ""


def test_the_address_is_kept_without_a_password(small_kit, tmp_path):
    clone = tmp_path / "plumbline"
    git(tmp_path, "clone", "--quiet", str(small_kit), str(clone))
    addresses = {
        "https://me:secret@example.org/kit.git": "https://example.org/kit.git",
        "https://secret@example.org/kit.git": "https://example.org/kit.git",
        "https://example.org/kit@2.git": "https://example.org/kit@2.git",
        "git@example.org:kit.git": "git@example.org:kit.git",
        "ssh://git@example.org/kit.git": "ssh://git@example.org/kit.git",
    }
    for number, (origin, kept) in enumerate(addresses.items()):
        git(clone, "remote", "set-url", "origin", origin)
        assert call(clone, "new", str(tmp_path / f"p{number}")).returncode == 0
        state = json.loads((tmp_path / f"p{number}" / ".plumbline.json").read_text("utf-8"))
        assert state["address"] == kept
    git(clone, "remote", "remove", "origin")
    assert call(clone, "new", str(tmp_path / "alone")).returncode == 0
    state = json.loads((tmp_path / "alone" / ".plumbline.json").read_text("utf-8"))
    assert state["address"] == str(clone)


def test_an_empty_repository_is_filled_under_a_given_name(small_kit, tmp_path):
    folder = tmp_path / "123"
    git(tmp_path, "init", "--quiet", str(folder))
    git(folder, "remote", "add", "origin", "git@example.org:cells.git")
    assert call(small_kit, "new", str(folder), "--name", "cells").returncode == 0
    assert git(folder, "remote") == "origin"
    assert git(folder, "log", "--oneline").count("\n") == 0
    assert "\nNAME := cells\n" in (folder / "Makefile").read_text("utf-8")


def test_what_is_not_committed_in_the_kit_is_named(pair, tmp_path):
    clone = tmp_path / "plumbline"
    (clone / "experiments" / "tried.py").write_text("tried = 1\n", encoding="utf-8")
    done = call(clone, "new", str(tmp_path / "other"))
    assert done.stdout.startswith(f"What is not committed in {clone} was not taken along.\n")
    assert not (tmp_path / "other" / "experiments" / "tried.py").exists()


def check_refused(done: subprocess.CompletedProcess, words: str) -> None:
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"project.py: {words}"), done.stderr


def test_new_refuses_what_cannot_work(kit, project, tmp_path, monkeypatch):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "x").touch()
    check_refused(
        call(kit, "new", str(tmp_path / "taken")),
        f"new: expected an empty folder or none, got {tmp_path / 'taken'}. Choose another.",
    )
    for name in ("Cells", "cells.2", "2cells", "cells--x", "a b", "$(x)"):
        words = (
            "--name: expected small letters and digits with single - or _ between them,"
            f' got "{name}". Choose another.'
        )
        check_refused(call(kit, "new", str(tmp_path / "new"), "--name", name), words)
    words = '--kit: expected a version of the kit, got "v9". Its newest tags are: v0.1.'
    check_refused(call(kit, "new", str(tmp_path / "new"), "--kit", "v9"), words)
    check_refused(
        call(project, "new", str(tmp_path / "new")),
        f"new: expected to run in a clone of the kit, got a project made from it ({project}).",
    )
    unpacked = tmp_path / "unpacked"
    (unpacked / "config").mkdir(parents=True)
    for name in ("project.py", "config/__init__.py", "config/errors.py"):
        shutil.copy(kit / name, unpacked / name)
    words = f"new: expected a git clone of the kit, got a folder without its history ({unpacked})."
    check_refused(call(unpacked, "new", str(tmp_path / "new")), words)
    git(tmp_path, "init", "--quiet")  # the history of another project is none of the kit's
    check_refused(call(unpacked, "new", str(tmp_path / "new")), words)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_AUTHOR_NAME", "")
    monkeypatch.setenv("GIT_COMMITTER_NAME", "")
    words = "new: expected that git knows who commits, got no name. Run: git config --global"
    check_refused(call(kit, "new", str(tmp_path / "new")), words)
    assert not (tmp_path / "new").exists()


# ---------------------------------------------------------------------------------- an update


def test_a_project_without_edits_becomes_the_later_version(pair, tmp_path):
    origin, project = pair
    release(origin)
    done = call(project, "update")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Update Plumbline from v0.1 to v0.2: done.")
    git(tmp_path / "plumbline", "pull", "--quiet", "--tags")
    assert call(tmp_path / "plumbline", "new", str(tmp_path / "new" / "cells")).returncode == 0
    tree = git(project, "rev-parse", "HEAD^{tree}")
    assert tree == git(tmp_path / "new" / "cells", "rev-parse", "HEAD^{tree}")
    assert git(project, "log", "--format=%s").splitlines() == [
        "Update Plumbline from v0.1 to v0.2",
        "Start from Plumbline v0.1",
    ]
    done = call(project, "update")
    assert done.stdout == "Nothing to do: the project has Plumbline v0.2, and the newest is v0.2.\n"


@pytest.fixture(scope="module")
def updated(small_kit, tmp_path_factory):
    """Return an edited project after an update that left conflicts, and the call."""
    folder = tmp_path_factory.mktemp("updated")
    origin, project = folder / "origin", folder / "cells"
    git(folder, "clone", "--quiet", str(small_kit.parent / "origin"), str(origin))
    git(folder, "clone", "--quiet", str(origin), str(folder / "plumbline"))
    assert call(folder / "plumbline", "new", str(project)).returncode == 0
    edit(project)
    (project / "untracked.txt").write_text("mine", encoding="utf-8")
    release(origin)
    return project, call(project, "update")


def read(project: Path, name: str) -> str:
    return (project / "layers" / f"{name}.py").read_text(encoding="utf-8")


def test_files_that_were_not_edited_follow_the_kit(updated):
    project, _ = updated
    assert "mended_5 = 'v0.2'\n" in read(project, "mended")
    assert not (project / "layers" / "gone.py").exists()
    assert read(project, "new_too") == "ORIGIN = 'the kit'\n"
    assert not (project / "dev.yml").exists()
    assert not (project / "benchmarks").exists()
    assert "import zlib  # v0.2\n" in (project / "project.py").read_text("utf-8")


def test_what_the_user_made_or_deleted_stays_so(updated):
    project, done = updated
    for name in ("models/mine.py", "experiments/mine.py"):
        assert (project / name).read_text("utf-8") == "ORIGIN = 'me'\n"
    assert (project / "README.md").read_text("utf-8") == "# Cells\n\nMy text.\n"
    assert (project / "untracked.txt").read_text("utf-8") == "mine"
    assert not (project / "experiments" / "scenes.py").exists()
    assert not (project / "layers" / "unwanted.py").exists()
    assert done.stdout == "Deleted here, so left out: layers/unwanted.py\n"


def test_edits_of_both_sides_are_merged(updated):
    project, _ = updated
    kept, moved = read(project, "kept"), read(project, "moved_there")
    assert "kept_5 = 'v0.2'\n" in kept and "kept_25 = 'mine'\n" in kept
    assert "moved_5 = 'v0.2'\n" in moved and "moved_25 = 'mine'\n" in moved
    assert not (project / "layers" / "moved.py").exists()
    about = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))["project"]
    assert (about["name"], about["version"]) == ("cells", "3.0.0")
    assert about["dependencies"][0] == "of-the-kit"
    assert about["optional-dependencies"]["dev"][0] == "mine"


def test_what_git_cannot_merge_is_reported_and_kept(updated):
    project, done = updated
    assert done.returncode == 1
    assert done.stderr.startswith("Update Plumbline from v0.1 to v0.2: git could not merge\n")
    assert re.findall(r"^    (layers/.*)$", done.stderr, re.M) == [
        "layers/clash.py: changed here and in the kit",
        "layers/gone_mine.py: changed here, removed in the kit",
        "layers/new.py: new here and in the kit",
    ]
    for command in ("git cherry-pick --continue", "git cherry-pick --abort"):
        assert f"    {command}\n" in done.stderr
    clash = "<<<<<<< HEAD\nclash_5 = 'mine'\n=======\nclash_5 = 'v0.2'\n>>>>>>> "
    assert clash in read(project, "clash")
    assert read(project, "new").startswith("<<<<<<< HEAD\nORIGIN = 'me'\n=======\n")
    assert "gone_mine_25 = 'mine'\n" in read(project, "gone_mine")


def test_an_update_with_conflicts_is_finished_or_undone_by_git(pair):
    origin, project = pair
    edit(project)
    before = git(project, "rev-parse", "HEAD")
    release(origin)
    assert call(project, "update").returncode == 1
    words = "update: expected no uncommitted changes, got some (git status)."
    check_refused(call(project, "update"), words)
    git(project, "cherry-pick", "--abort")
    assert git(project, "rev-parse", "HEAD") == before
    assert git(project, "status", "--porcelain") == ""
    assert call(project, "update").returncode == 1
    git(project, "checkout", "--ours", "layers/clash.py", "layers/new.py")
    git(project, "add", "layers")
    git(project, "-c", "core.editor=true", "cherry-pick", "--continue")
    assert git(project, "log", "-1", "--format=%s") == "Update Plumbline from v0.1 to v0.2"
    assert call(project, "update").stdout.startswith(
        "Nothing to do: the project has Plumbline v0.2"
    )


def test_files_that_the_user_deleted_need_no_answer(pair):
    origin, project = pair
    git(project, "rm", "--quiet", "layers/unwanted.py")
    commit(project, "Mine")
    release(origin)
    done = call(project, "update")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Deleted here, so left out: layers/unwanted.py\nUpdate Plumbline")
    assert not (project / "layers" / "unwanted.py").exists()
    assert git(project, "status", "--porcelain") == ""
    assert git(project, "log", "-1", "--format=%s") == "Update Plumbline from v0.1 to v0.2"


def test_a_list_of_ignored_files_of_the_users_own_leaves_nothing_out(pair, tmp_path, monkeypatch):
    origin, project = pair
    release(origin)
    (tmp_path / "ignored").write_text("*.py\n", encoding="utf-8")
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "core.excludesFile")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", str(tmp_path / "ignored"))
    assert call(tmp_path / "plumbline", "new", str(tmp_path / "other")).returncode == 0
    assert "train.py" in git(tmp_path / "other", "ls-files").splitlines()
    assert call(project, "update").returncode == 0
    assert "mended_5 = 'v0.2'\n" in read(project, "mended")


def test_a_colleagues_clone_without_the_history_is_updated(pair, tmp_path):
    origin, project = pair
    change(project / "layers" / "kept.py", "kept_25 = 25", "kept_25 = 'mine'")
    commit(project, "Mine")
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", "--depth", "1", f"file://{project}", str(clone))
    release(origin)
    assert call(clone, "update").returncode == 0
    assert "kept_5 = 'v0.2'\n" in read(clone, "kept")
    assert "kept_25 = 'mine'\n" in read(clone, "kept")


def test_a_kit_without_tags_is_followed_by_commits(pair, tmp_path):
    origin, _ = pair
    git(origin, "tag", "--delete", "v0.1")
    clone, project = tmp_path / "untagged", tmp_path / "other"
    git(tmp_path, "clone", "--quiet", str(origin), str(clone))
    assert call(clone, "new", str(project)).returncode == 0
    release(origin)
    git(origin, "tag", "--delete", "v0.2")
    assert call(project, "update").returncode == 0
    assert "mended_5 = 'v0.2'\n" in read(project, "mended")


def test_a_project_that_is_ahead_of_the_newest_release_stays(pair, tmp_path):
    origin, project = pair
    (origin / "later.txt").write_text("later\n", encoding="utf-8")
    commit(origin, "Later")
    assert call(project, "update").stdout.startswith("Nothing to do")
    done = call(project, "update", "--kit", "main")
    assert done.returncode == 0, done.stderr
    assert (project / "later.txt").exists()
    done = call(project, "update")
    assert re.fullmatch(
        r"Nothing to do: the project has Plumbline v0.1-1-g\w+, and the newest is v0.1.\n",
        done.stdout,
    )
    assert call(project, "update", "--kit", "v0.1").returncode == 0  # back, because it was said
    assert not (project / "later.txt").exists()


@pytest.mark.parametrize("is_ignored", [False, True])
def test_a_file_that_git_does_not_keep_is_not_overwritten(pair, is_ignored):
    origin, project = pair
    if is_ignored:
        with (project / ".gitignore").open("a", encoding="utf-8") as file:
            file.write("/layers/new.py\n")
        commit(project, "Mine")
    (project / "layers" / "new.py").write_text("ORIGIN = 'me'\n", encoding="utf-8")
    release(origin)
    head = git(project, "rev-parse", "HEAD")
    words = "update: expected that git keeps all files that the kit also has, got layers/new.py"
    check_refused(call(project, "update"), words)
    assert read(project, "new") == "ORIGIN = 'me'\n"
    assert git(project, "rev-parse", "HEAD") == head


def test_update_refuses_what_cannot_work(pair, small_kit, tmp_path):
    origin, project = pair
    words = "update: expected a project made by `project.py new`, got none:"
    check_refused(call(small_kit, "update"), words)
    words = '--kit: expected a version of the kit, got "v9". Its newest tags are: v0.1.'
    check_refused(call(project, "update", "--kit", "v9"), words)
    with (project / "train.py").open("a", encoding="utf-8") as file:
        file.write("# mine\n")
    words = (
        "update: expected no uncommitted changes, got some (git status)."
        " Commit them, or put them away with `git stash`."
    )
    check_refused(call(project, "update"), words)
    git(project, "checkout", "--", "train.py")
    state = project / ".plumbline.json"
    good = json.loads(state.read_text("utf-8"))
    for bad in ({"commit": "--output=x"}, {"commit": 5}, {"address": None}):
        state.write_text(json.dumps(good | bad), encoding="utf-8")
        words = ".plumbline.json: expected address, name, version and commit of the kit, got"
        check_refused(call(project, "update"), words)
    for text in ("{", "[]"):
        state.write_text(text, encoding="utf-8")
        check_refused(call(project, "update"), words)
    state.write_text(json.dumps(good | {"commit": "0" * 40}), encoding="utf-8")
    commit(project, "Bad")
    words = f"update: expected the kit's commit 000000000000 at {origin}, got none."
    check_refused(call(project, "update"), words)
    run = f"touch {tmp_path}/ran"
    for address in (tmp_path / "nowhere", f"--upload-pack={run}", f"ext::{run}"):
        state.write_text(json.dumps(good | {"address": str(address)}), encoding="utf-8")
        commit(project, "Bad")
        check_refused(call(project, "update"), f"git clone --quiet --bare -- {address} ")
    assert not (tmp_path / "ran").exists()


def test_an_update_runs_nothing_of_the_new_version(pair, tmp_path):
    origin, project = pair
    release(origin)
    shout = f"open({str(tmp_path / 'ran')!r}, 'w')\n"
    for name in ("project.py", "config/__init__.py", "config/errors.py", "setup.py"):
        with (origin / name).open("a", encoding="utf-8") as file:
            file.write(shout)
    (origin / ".gitattributes").write_text("*.py filter=shout\n", encoding="utf-8")
    commit(origin, "Third")
    git(origin, "tag", "v0.3")
    assert call(project, "update").returncode == 0
    assert shout in (project / "setup.py").read_text("utf-8")
    assert not (tmp_path / "ran").exists()
