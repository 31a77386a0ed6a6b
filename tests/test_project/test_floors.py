"""Who may import whom: an import only points down, and frameworks stay where they belong."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FLOORS = {"config": 0, "utils": 0, "layers": 1, "models": 2, "training": 3, "experiments": 4}
COMMAND_LINES = 5
FRAMEWORKS = ("ignite", "fastai", "lightning")
SLOW_IMPORTS = ("torch", "torchvision", *FRAMEWORKS)


def list_modules(root: Path) -> dict[str, Path]:
    """Return the kit's modules: dotted name to file."""
    files = sorted(root.glob("*.py"))
    for package in FLOORS:
        files += sorted((root / package).rglob("*.py"))
    names = [".".join(path.relative_to(root).with_suffix("").parts) for path in files]
    return {name.removesuffix(".__init__"): path for name, path in zip(names, files, strict=True)}


def list_imports(name: str, path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of all that a module imports, also inside of functions."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base]).strip(".")
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"


def find_module(imported: str, modules: dict[str, Path]) -> str | None:
    """Return the kit's module that an import statement loads, if it is one of the kit."""
    while imported and imported not in modules:
        imported = imported.rpartition(".")[0]
    return imported or None


def get_floor(name: str) -> int:
    """Return the floor of a module; files at the root are command lines."""
    return FLOORS.get(name.split(".")[0], COMMAND_LINES)


def is_routine(name: str | None) -> bool:
    """Tell whether a module is a training routine."""
    return name is not None and name.startswith("training.") and name.endswith("_training")


def find_violations(root: Path) -> list[str]:
    """Return every import that breaks a rule of the floors, as text with file and line."""
    modules = list_modules(root)
    loads: dict[str, set[str]] = {name: set() for name in modules}
    users: dict[str, set[str]] = {framework: set() for framework in FRAMEWORKS}
    problems = []
    for name, path in modules.items():
        for line, imported in list_imports(name, path):
            where = f"{path.relative_to(root)}:{line}"
            top = imported.split(".")[0]
            if top in users:
                users[top].add(str(path.relative_to(root)))
            target = find_module(imported, modules)
            if target is None:
                continue
            loads[name].add(target)
            if get_floor(target) > get_floor(name):
                problems.append(f"{where}: {name} imports {target}, which is a floor above it")
            if is_routine(name) and is_routine(target) and name != target:
                problems.append(f"{where}: routine {name} imports routine {target}")
    for framework, files in users.items():
        if len(files) > 1:
            problems.append(f"{framework} is imported in {' and '.join(sorted(files))}")
    chain = find_chain("predict", "training", loads)
    if chain:
        problems.append(f"predict.py reaches training: {' -> '.join(chain)}")
    return problems


def find_chain(start: str, package: str, loads: dict[str, set[str]]) -> list[str] | None:
    """Return the shortest chain of imports from a module into a package, if there is one."""
    chains, seen = [[start]], {start}
    for chain in chains:
        if chain[-1].split(".")[0] == package:
            return chain
        # importing a.b.c runs a and a.b as well
        parts = chain[-1].split(".")
        parents = {".".join(parts[:end]) for end in range(1, len(parts))} & loads.keys()
        for name in sorted((loads.get(chain[-1], set()) | parents) - seen):
            seen.add(name)
            chains.append([*chain, name])
    return None


def test_imports_point_down():
    assert list_modules(ROOT), "no module found: this test looks in the wrong folder"
    assert find_violations(ROOT) == []


PLANTED = [
    ({"utils/loss.py": "import models.unet"}, "utils.loss imports models.unet, which is a floor"),
    ({"config/keys.py": "def f():\n    from layers import conv"}, "config/keys.py:2: config.keys"),
    ({"models/unet.py": "from ..training import run"}, "models.unet imports training.run, which"),
    ({"layers/conv.py": "import experiments"}, "layers.conv imports experiments, which is a floor"),
    ({"training/run.py": "import train"}, "training.run imports train, which is a floor above"),
    (
        {"training/fastai_training.py": "from training import ignite_training"},
        "routine training.fastai_training imports routine training.ignite_training",
    ),
    (
        {"training/fastai_training.py": "from .ignite_training import train"},
        "routine training.fastai_training imports routine training.ignite_training",
    ),
    (
        {"utils/loss.py": "def f():\n    from ignite import metrics"},
        "ignite is imported in training/ignite_training.py and utils/loss.py",
    ),
    (
        {
            "training/run.py": "import fastai",
            "models/unet.py": "def f():\n    import fastai.basics",
        },
        "fastai is imported in models/unet.py and training/run.py",
    ),
    (
        {
            "training/lightning_training.py": "from lightning.pytorch import Trainer",
            "utils/data/loading.py": "import lightning",
        },
        "lightning is imported in training/lightning_training.py and utils/data/loading.py",
    ),
    (
        {"predict.py": "from training import run"},
        "predict.py reaches training: predict -> training",
    ),
    (
        {
            "predict.py": "import run_prediction",
            "run_prediction.py": "from training.run import Run",
        },
        "predict.py reaches training: predict -> run_prediction -> training.run",
    ),
    (
        # the package is run although only a module in it is named
        {"predict.py": "import experiments.scenes", "experiments/__init__.py": "import training"},
        "predict -> experiments.scenes -> experiments -> training",
    ),
]


def write_tree(root: Path, planted: dict[str, str]) -> None:
    """Write a small kit without a violation, then the given files over it."""
    clean = {
        "config/__init__.py": "",
        "config/keys.py": "import ast",
        "utils/__init__.py": "",
        "utils/loss.py": "import config.keys",
        "layers/__init__.py": "",
        "layers/conv.py": "from utils import loss",
        "models/__init__.py": "",
        "models/unet.py": "from layers.conv import anything",
        "training/__init__.py": "",
        "training/run.py": "from models import unet\nimport torch",
        "training/ignite_training.py": "import ignite\nfrom training.run import Run",
        "training/fastai_training.py": "from . import run",
        "experiments/__init__.py": "",
        "experiments/scenes.py": "from models import unet",
        "predict.py": "import models.unet",
        "run_prediction.py": "import predict",
        "train.py": "import experiments.scenes",
    }
    for name, text in (clean | planted).items():
        path = root / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")


def test_a_clean_tree_has_no_violation(tmp_path):
    write_tree(tmp_path, {})
    assert find_violations(tmp_path) == []


@pytest.mark.parametrize(("planted", "problem"), PLANTED, ids=[problem for _, problem in PLANTED])
def test_planted_violations_are_found(tmp_path, planted, problem):
    write_tree(tmp_path, planted)
    assert problem in "\n".join(find_violations(tmp_path))


def run_python(code: str, *arguments: str) -> str:
    """Run code in a new Python at the root and return what it printed."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_torchvision_is_imported_only_in_functions():
    """It doubles the time that `import models` takes."""
    for name, path in list_modules(ROOT).items():
        if get_floor(name) < FLOORS["experiments"]:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            lines = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
            names = [alias.name for line in lines for alias in line.names]
            names += [line.module or "" for line in lines if isinstance(line, ast.ImportFrom)]
            assert not [one for one in names if one.split(".")[0] == "torchvision"], path


def test_importing_config_loads_nothing_slow():
    names = [name for name in list_modules(ROOT) if name.split(".")[0] == "config"]
    assert names
    code = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]"
    loaded = run_python(f"{code}; print(*sys.modules)", *names).split()
    assert set(names) <= set(loaded)
    assert not set(SLOW_IMPORTS) & set(loaded)


@pytest.mark.parametrize("script", sorted(path.name for path in ROOT.glob("*.py")))
def test_help_of_a_command_line_loads_nothing_slow(script):
    code = (
        "import runpy, sys\n"
        "sys.argv = [sys.argv[1], '--help']\n"
        "try:\n"
        "    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        "print('LOADED', *sys.modules)"
    )
    help_text, _, loaded = run_python(code, script).rpartition("LOADED")
    assert "usage:" in help_text.lower()
    assert not set(SLOW_IMPORTS) & set(loaded.split())
