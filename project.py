"""Make a project of your own from this kit, and bring a later version of the kit into it.

    python project.py new ../my-project      in a clone of the kit
    python project.py update                 in the project

An update is one commit that git merges into your files, as with any other branch. Nothing of the
version that it brings is run. Standard library and git only, for there may be no environment yet.
"""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from config.errors import ConfigError

ROOT = Path(__file__).resolve().parent
STATE = ".plumbline.json"  # in a project, under git: what it was made from

# lines that hold the name of the kit, and the first one of each in a project
NAMED = {
    "Makefile": {r"^NAME := .*": "NAME := {name}"},
    "environment.yml": {r"^name: .*": "name: {name}"},
    "dev.yml": {r"^name: .*": "name: {name}"},
    "pyproject.toml": {
        r"^name = .*": 'name = "{name}"',
        r"^version = .*": 'version = "0.1.0"',
        r"^description = .*": 'description = "Made from Plumbline"',
    },
}
README = """\
# {name}

Say here what it is about.

```sh
make demo                          # an environment, and a first training that needs no data
make env-dev                       # all the rest: Ignite, fastai, Lightning, tests, lint, docs
make test
cp experiments/scenes.py experiments/mine.py
python train.py experiments/mine.py
```

`make` lists all commands, and `make doc` builds the handbook from docs/.

Made from Plumbline. `python project.py update` brings a later version of it: see docs/projects.rst.
"""

CONFLICTS = {
    "UU": "changed here and in the kit",
    "AA": "new here and in the kit",
    "UD": "changed here, removed in the kit",
}


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Make a project from the kit, and update it.",
        epilog=__doc__.partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="new|update")
    new = commands.add_parser("new", help="make a project: a folder with a git history of its own")
    new.add_argument("folder", type=Path, help="where; it may not hold anything yet")
    new.add_argument("--name", help="of the project and its environment (default: the folder's)")
    new.add_argument("--kit", metavar="REF", default="HEAD", help="version (default: this clone's)")
    change = commands.add_parser("update", help="merge a later version of the kit into the project")
    change.add_argument("--kit", metavar="REF", help="a tag or branch (default: the newest tag)")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Run the command line.

    Returns:
        0 done, 1 the update waits for the user to settle conflicts, 2 nothing was changed.
    """
    args = parse(argv)
    try:
        if args.command == "new":
            return make_project(args.folder, args.name, args.kit)
        return update(args.kit)
    except ConfigError as error:
        print(f"project.py: {error}", file=sys.stderr)
        return 2


def git(folder: Path, *arguments: str, **variables: str) -> str:
    """Run git in a folder and return what it printed.

    Raises:
        ConfigError: git failed; the message is git's own.
    """
    done = run_git(folder, *arguments, **variables)
    if done.returncode:
        words = done.stderr.strip() or done.stdout.strip()
        raise ConfigError(f"git {' '.join(arguments)}: expected success, got: {words}")
    return done.stdout.strip()


def run_git(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run git in a folder, with more environment variables."""
    # LC_ALL: messages that are passed on are in one language; core.quotePath: names as they are
    command = ["git", "-C", str(folder), "-c", "core.quotePath=false", *arguments]
    environment = os.environ | {"LC_ALL": "C.UTF-8"} | variables
    return subprocess.run(
        command, env=environment, capture_output=True, encoding="utf-8", check=False
    )


# ------------------------------------------------------------------------------ a new project


def make_project(folder: Path, name: str | None, version: str) -> int:
    """Write a version of the kit into a folder under a name of its own, and commit it.

    Raises:
        ConfigError: This is no clone of the kit, the folder is taken, the name will not do as one
            of packages, environments and images, or git does not know who commits.
    """
    folder = folder.expanduser().resolve()
    name = name or re.sub(r"[^a-z0-9]+", "-", folder.name.lower()).strip("-")
    if (ROOT / STATE).exists():
        raise ConfigError(
            f"new: expected to run in a clone of the kit, got a project made from it ({ROOT})."
            " Clone the kit and run it there."
        )
    top = run_git(ROOT, "rev-parse", "--show-toplevel").stdout.strip()
    if not top or Path(top).resolve() != ROOT:
        raise ConfigError(
            f"new: expected a git clone of the kit, got a folder without its history ({ROOT})."
            " Get the kit by `git clone`: an update looks its version up."
        )
    if not re.fullmatch(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", name):
        raise ConfigError(
            "--name: expected small letters and digits with single - or _ between them,"
            f' got "{name}". Choose another.'
        )
    if folder.exists() and not (folder.is_dir() and {".git"} >= {p.name for p in folder.iterdir()}):
        raise ConfigError(f"new: expected an empty folder or none, got {folder}. Choose another.")
    if run_git(ROOT, "var", "GIT_COMMITTER_IDENT").returncode:
        raise ConfigError(
            "new: expected that git knows who commits, got no name. Run:"
            ' git config --global user.name "..." and git config --global user.email "..."'
        )
    commit = find_commit(ROOT, version)
    state = {
        "address": address_of(ROOT),
        "version": describe(ROOT, commit),
        "commit": commit,
        "name": name,
    }
    is_dirty = bool(git(ROOT, "status", "--porcelain"))
    render(ROOT, state, folder)
    git(folder, "init", "--quiet")
    # --force: a list of ignored files of the user's own must not leave any out
    git(folder, "add", "--all", "--force")
    git(folder, "commit", "--quiet", "-m", f"Start from Plumbline {state['version']}")
    if is_dirty:
        print(f"What is not committed in {ROOT} was not taken along.")
    step = f"cd {shlex.quote(str(folder))} && make demo"
    print(f"{name}: made from Plumbline {state['version']}. Next: {step}")
    return 0


def address_of(clone: Path) -> str:
    """Return where a clone was cloned from, without a password; its own folder if from nowhere."""
    origin = run_git(clone, "remote", "get-url", "origin").stdout.strip()
    return re.sub(r"^(https?://)[^/@]*@", r"\1", origin) or str(clone)


def find_commit(clone: Path, version: str) -> str:
    """Return the hash of a version of the kit: a tag, a branch or a commit.

    Raises:
        ConfigError: There is no such version.
    """
    done = run_git(clone, "rev-parse", "--verify", "--quiet", f"{version}^{{commit}}")
    if done.returncode:
        tags = ", ".join(list_tags(clone)[:5]) or "none"
        raise ConfigError(
            f'--kit: expected a version of the kit, got "{version}". Its newest tags are: {tags}.'
        )
    return done.stdout.strip()


def list_tags(clone: Path) -> list[str]:
    """Return the tags that name a release, the newest first."""
    tags = git(clone, "tag", "--list", "--sort=-version:refname").splitlines()
    return [tag for tag in tags if re.fullmatch(r"v?\d+(\.\d+)*", tag)]


def describe(clone: Path, commit: str) -> str:
    """Return a version for people to read: v0.1, or v0.1-3-gabcdef0 between two releases."""
    return git(clone, "describe", "--tags", "--always", commit)


def render(clone: Path, state: dict[str, str], folder: Path) -> None:
    """Write what a project has of a version of the kit; .gitattributes names what it has not."""
    with tempfile.TemporaryDirectory(prefix="plumbline_") as temporary:
        archive = Path(temporary, "kit.tar")
        # autocrlf: on Windows the archive's lines would end otherwise than those in git
        options = ("-c", "core.autocrlf=false")
        git(clone, *options, "archive", "--output", str(archive), state["commit"])
        with tarfile.open(archive) as files:
            for entry in files:
                if entry.isfile():
                    path = folder / entry.name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(files.extractfile(entry).read())
                    path.chmod(entry.mode)
    for file in NAMED.keys() & {path.name for path in folder.iterdir()}:
        text = (folder / file).read_text(encoding="utf-8")
        for line, own in NAMED[file].items():
            text = re.sub(line, own.format(**state), text, count=1, flags=re.MULTILINE)
        write(folder / file, text)
    write(folder / "README.md", README.format(**state))
    write(folder / STATE, json.dumps(state, indent=2) + "\n")


def write(path: Path, text: str) -> None:
    """Write a text file with the line ends of the kit."""
    path.write_text(text, encoding="utf-8", newline="\n")


# ---------------------------------------------------------------------------------- an update


def update(version: str | None) -> int:
    """Merge another version of the kit into the project, as a commit on the current branch.

    The kit as it was and as it will be, both under the project's name, give the change that git
    applies. So the history that the project has does not matter: a shallow clone will do.

    Raises:
        ConfigError: This is no project, it has changes that are not committed, the kit or a version
            of it cannot be had, or a new file of the kit would take the place of one that git does
            not keep.
    """
    state = read_state()
    if git(ROOT, "status", "--porcelain", "--untracked-files=no"):
        raise ConfigError(
            "update: expected no uncommitted changes, got some (git status)."
            " Commit them, or put them away with `git stash`."
        )
    with tempfile.TemporaryDirectory(prefix="plumbline_") as temporary:
        kit = Path(temporary, "kit")
        # `--`: whatever the address is, it is no option
        git(ROOT, "clone", "--quiet", "--bare", "--", state["address"], str(kit))
        commit = find_commit(kit, version or (list_tags(kit) or ["HEAD"])[0])
        target = state | {"version": describe(kit, commit), "commit": commit}
        if run_git(kit, "cat-file", "-e", state["commit"]).returncode:
            raise ConfigError(
                f"update: expected the kit's commit {state['commit'][:12]} at {state['address']},"
                f' got none. Correct "address" in {STATE}; push the commit if it is your own.'
            )
        is_later = not run_git(
            kit, "merge-base", "--is-ancestor", state["commit"], commit
        ).returncode
        if commit == state["commit"] or not (is_later or version):
            print(
                f"Nothing to do: the project has Plumbline {state['version']},"
                f" and the newest is {target['version']}."
            )
            return 0
        words = f"Update Plumbline from {state['version']} to {target['version']}"
        old = write_commit(kit, state, "Plumbline as it was")
        new = write_commit(kit, target, words, "-p", old)
    added = git(ROOT, "diff-tree", "-r", "--name-only", "--diff-filter=A", old, new).splitlines()
    tracked = git(ROOT, "ls-files").splitlines()
    # git itself would overwrite those that it ignores
    in_the_way = [name for name in sorted({*added} - {*tracked}) if (ROOT / name).exists()]
    if in_the_way:
        raise ConfigError(
            f"update: expected that git keeps all files that the kit also has, got"
            f" {', '.join(in_the_way)} beside it. Commit them, or rename them."
        )
    return merge(new, words)


def read_state() -> dict[str, str]:
    """Return what the project was made from.

    Raises:
        ConfigError: It was not made by `project.py new`, or the file is damaged.
    """
    try:
        state = json.loads((ROOT / STATE).read_text(encoding="utf-8"))
        is_whole = all(isinstance(state[key], str) for key in ("address", "name", "version"))
        # a hash and no option: git takes it as an argument
        is_whole = is_whole and re.fullmatch(r"[0-9a-f]{40,64}", state["commit"]) is not None
    except FileNotFoundError:
        raise ConfigError(
            f"update: expected a project made by `project.py new`, got none: {ROOT} has no {STATE}."
            " In a clone of the kit, `git pull` updates."
        ) from None
    except (ValueError, KeyError, TypeError):
        is_whole = False
    if not is_whole:
        raise ConfigError(
            f"{STATE}: expected address, name, version and commit of the kit, got a damaged file."
            f" Take it back from git: git log -- {STATE}"
        )
    return state


def write_commit(clone: Path, state: dict[str, str], message: str, *options: str) -> str:
    """Write a version of the kit as a commit on no branch, into the project's git folder."""
    with tempfile.TemporaryDirectory(prefix="plumbline_") as temporary:
        files = Path(temporary, "files")
        render(clone, state, files)
        store = {
            "GIT_DIR": git(ROOT, "rev-parse", "--absolute-git-dir"),
            "GIT_WORK_TREE": str(files),
            "GIT_INDEX_FILE": str(Path(temporary, "index")),
        }
        git(files, "-c", "core.autocrlf=false", "add", "--all", "--force", **store)
        tree = git(files, "write-tree", **store)
        return git(files, "commit-tree", "-m", message, *options, tree, **store)


def merge(commit: str, words: str) -> int:
    """Apply the change that a commit makes; say what is left to the user.

    Files that the user has deleted stay deleted.

    Raises:
        ConfigError: git refuses to begin.
    """
    done = run_git(ROOT, "cherry-pick", commit)
    unmerged = list_unmerged()
    if done.returncode and not unmerged:
        raise ConfigError(f"git cherry-pick: expected success, got: {done.stderr.strip()}")
    deleted = [name for name, code in unmerged.items() if code == "DU"]
    if deleted:
        git(ROOT, "rm", "--quiet", "--", *deleted)
        print(f"Deleted here, so left out: {', '.join(deleted)}")
        unmerged = list_unmerged()
        if not unmerged:
            git(ROOT, "commit", "--quiet", "--no-verify", "--reuse-message", commit)
    if unmerged:
        print(f"{words}: git could not merge\n", file=sys.stderr)
        for name, code in unmerged.items():
            print(f"    {name}: {CONFLICTS.get(code, 'see git status')}", file=sys.stderr)
        print(
            "\nEdit each, then `git add` it (or `git rm` it), and at the end:"
            "\n    git cherry-pick --continue\nTo have all as it was:\n    git cherry-pick --abort",
            file=sys.stderr,
        )
        return 1
    print(f"{words}: done. `git show --stat` lists what changed, `git revert HEAD` takes it back.")
    return 0


def list_unmerged() -> dict[str, str]:
    """Return the files that git could not merge, each with git's two letters for how."""
    lines = run_git(ROOT, "status", "--porcelain").stdout.splitlines()
    codes = ("DD", "AU", "UD", "UA", "DU", "AA", "UU")
    return {line[3:]: line[:2] for line in lines if line[:2] in codes}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
