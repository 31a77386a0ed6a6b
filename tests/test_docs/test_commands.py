"""Every shell line of README and docs runs, or a table says why it is only read.

The lines of a page run in their order, in a folder of the page: `python train.py ...` is a call of
`train.main`, `make` runs with `-n`. There are the kit's experiments, one of the reader's own
(`experiments/mine.py`, a copy of scenes.py), pictures, and a run. SMALL makes trainings short,
GIVEN is what a page takes for granted beyond that, and READ names the lines that cannot run here:
their arguments, keys and files are still those of the kit.
"""

import csv
import glob
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import predict
import run_prediction
import runs
import train
from config.config import ROOT_PATH, global_config
from config.load import list_routines, load_config
from tests.test_docs import test_features, test_images, test_metric_learning
from tests.test_docs.blocks import PAGES, read_blocks
from training.resume import find_run

TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT_PATH / "Makefile").read_text(), re.MULTILINE))
RUN = "20260101-120000_mine"
SCENES = ROOT_PATH / "experiments" / "scenes.py"
# a word of a config file, and what makes such a config small; ONE_CYCLE is made for EPOCHS, which
# a resume here raises
SMALL = {
    "SyntheticScenes": [
        *(f"{part}_DATASET_CONFIG.n_scenes=4" for part in ("TRAIN", "VAL", "TEST")),
        *(f"{part}_DATASET_CONFIG.size_px=16" for part in ("TRAIN", "VAL", "TEST")),
        "MODEL_CONFIG.bulk_ch=2",
        "ONE_CYCLE=False",
    ],
    "ClassFolder": test_images.SMALL,
    "draw_signs": [
        *("TRAIN_DATASET_CONFIG.last=20", "LOSS_CONFIG.num_classes=20"),
        *("VAL_DATASET_CONFIG.last=104", "MODEL_CONFIG.bulk_ch=2"),
    ],
    "PairedFolder": ["MODEL_CONFIG.bulk_ch=2", "MODEL_CONFIG.n_recursions=1"],
    "digits": ["ONE_CYCLE=False"],
    "": [],
}
# lines (as "page: line", by their beginning) that are read and do not run here: why
READ = {
    "docs/experiments.rst: python train": "CIFAR-10 in folders: test_experiments trains it small",
    "docs/prediction.rst: python": "test_prediction.py runs them, with weights that suit each",
    "docs/zoo.rst: python predict": "networks of timm and the like: test_models/test_zoo.py",
    r".*: python hyperparameter\.py": "a process for each trial: test_training/test_search.py",
    r".*--verify-resume": "three processes: test_own_routine.py, test_training/test_verify.py",
    r".*: python -m (tests\.campaign|benchmarks|pytest)": "minutes: test_project/test_campaign.py,"
    " test_benchmarks and the tests themselves run them in small",
    r".*: (docker|make docker-run .*pytest)": "needs Docker: test_project/test_docker.py",
    r".*: (git|cd|.*project\.py)": "makes and updates projects: test_project/test_new_project.py",
    r".*: (source|conda|uv|pip)": "installs: test_project/test_setup.py compares what",
    r".*: tensorboard": "a server: test_logging.py reads what it would show",
}


# --------------------------------------------------------------------------- what readers have


def give_membrane(folder: Path, _: pytest.MonkeyPatch) -> None:
    """Slices with the names that experiments/membrane.py holds out, and new ones."""
    cells = np.kron(np.random.default_rng(0).random((16, 16)) < 0.8, np.ones((16, 16)))
    for place in ("my/folder/image", "my/folder/label", "my/new"):
        (folder / place).mkdir(parents=True)
        for name in ("0", "5", "11", "17", "23", "29"):
            Image.fromarray((255 * cells).astype(np.uint8)).save(folder / place / f"{name}.png")


def give_few(folder: Path, _: pytest.MonkeyPatch) -> None:
    """Give the config of the page."""
    read_blocks("finetuning.rst", "python")[1].write(folder / "experiments" / "few.py")


def give_momentum(folder: Path, _: pytest.MonkeyPatch) -> None:
    """Give a config with something to remove."""
    (folder / "experiments" / "mine.py").write_text(
        "import torch\nfrom experiments.scenes import SyntheticScenes, train_config as scenes\n"
        'train_config = {**scenes, "OPTIMIZER": torch.optim.SGD}\n'
        'train_config["OPTIMIZER_CONFIG"] = {"lr": 0.1, "momentum": 0.9}\n'
    )


def give_model(folder: Path, _: pytest.MonkeyPatch) -> None:
    """Give the model of the page, trained, and pictures that it takes."""
    read_blocks("own_model.rst", "python")[0].write(folder / "experiments" / "mine.py")
    assert train.main(["experiments.mine", "EPOCHS=1", "DEVICE=cpu", "PROGRESS=False"]) == 0
    np.save(folder / "images" / "1.npy", np.zeros((8, 8, 1), np.float32))


def give_routines(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a routine in a file and one in the kit."""
    for name in ("my_routine.py", "training/mine_training.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT_PATH / "training" / "pytorch_training.py", folder / name)
    names = [*list_routines(), "mine"]  # of the files in the kit's own folder
    monkeypatch.setattr("config.load.list_routines", lambda: names)


def give_classes(folder: Path, _: pytest.MonkeyPatch) -> None:
    """Give a config with a class for each sample."""
    shutil.copy(ROOT_PATH / "experiments" / "digits.py", folder / "experiments" / "mine.py")


def give_cars(folder: Path, _: pytest.MonkeyPatch) -> None:
    """Give the table and the pictures of the page, and its config."""
    test_features.write_cars(folder / "data")
    test_features.CARS.write(folder / "experiments" / "mine.py")


def give_tracker(folder: Path, _: pytest.MonkeyPatch) -> None:
    """Give the config with TensorBoard."""
    block = read_blocks("logging.rst", "python")[1]
    block.replace("digits, ", 'digits, "EPOCHS": 1, ').write(folder / "experiments" / "mine.py")


def give_ledger(folder: Path, _: pytest.MonkeyPatch) -> None:
    """Give the config with a ledger."""
    read_blocks("results.rst", "python")[0].write(folder / "experiments" / "mine.py")


def give_zoo(folder: Path, _: pytest.MonkeyPatch) -> None:
    """Give the first config of the page, for an epoch of the 360 pictures."""
    small = '"EPOCHS": 1, "TRAIN_DATASET_CONFIG": {"subset": "val"}'
    block = read_blocks("zoo.rst", "python")[0]
    block.replace('"EPOCHS": 3', small).write(folder / "experiments" / "mine.py")


def give_pets(folder: Path, _: pytest.MonkeyPatch) -> None:
    """Give a folder of pictures for each class, and the config of the page."""
    test_images.write_pets(folder / "my" / "pets")
    test_images.CONFIG.write(folder / "experiments" / "mine.py")


def give_faces(folder: Path, _: pytest.MonkeyPatch) -> None:
    """Give the folders of the page and its config, for an epoch of a batch."""
    test_metric_learning.write_faces(folder / "my" / "data" / "faces")
    few = '"batch_size": 12, "per_class": 4, "num_workers": 0'
    config = test_metric_learning.CONFIG.replace('"EPOCHS": 30', '"EPOCHS": 1')
    config = config.replace('"batch_size": 64, "per_class": 4, "num_workers": 2', few)
    config.replace("[64, 64]", "[32, 32]").write(folder / "experiments" / "mine.py")


GIVEN: dict[str, Callable[[Path, pytest.MonkeyPatch], None]] = {
    "README.md": give_membrane,
    "docs/batches.rst": give_classes,
    "docs/config.rst": give_momentum,
    "docs/features.rst": give_cars,
    "docs/finetuning.rst": give_few,
    "docs/images.rst": give_pets,
    "docs/logging.rst": give_tracker,
    "docs/metric_learning.rst": give_faces,
    "docs/own_model.rst": give_model,
    "docs/own_routine.rst": give_routines,
    "docs/results.rst": give_ledger,
    "docs/zoo.rst": give_zoo,
}


@pytest.fixture(scope="module")
def first_run(tmp_path_factory):
    """Train one epoch under the name that the pages use; return the folder of logs and weights."""
    folder = tmp_path_factory.mktemp("run")
    places = [f"LOG_DIR={folder / 'logs'}", f"WEIGHT_DIR={folder / 'weights'}"]
    name = ["DATE=20260101-120000", "SESSION_NAME=mine", "EPOCHS=1", "DEVICE=cpu", "NUM_THREADS=1"]
    assert train.main([str(SCENES), *name, *SMALL["SyntheticScenes"], *places]) == 0
    return folder


@pytest.fixture
def folder(first_run, tmp_path, monkeypatch):
    """Return the folder in which the lines of a page run."""
    import experiments
    import training

    shutil.copytree(first_run, tmp_path, dirs_exist_ok=True)
    shutil.copytree(ROOT_PATH / "experiments", tmp_path / "experiments")
    shutil.copy(SCENES, tmp_path / "experiments" / "mine.py")
    for place in ("images", "data/new"):
        (tmp_path / place).mkdir(parents=True)
        np.save(tmp_path / place / "1.npy", np.zeros((16, 16, 12), np.float32))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # a config's folder joins it
    for name, place in (("LOG_DIR", "logs"), ("WEIGHT_DIR", "weights"), ("DATA_DIR", "data")):
        monkeypatch.setitem(global_config, name, tmp_path / place)
    monkeypatch.setenv("SMTP_OUTBOX", str(tmp_path / "outbox"))
    for package in (experiments, training):
        own = str(tmp_path / package.__name__)
        monkeypatch.setattr(package, "__path__", [*package.__path__, own])
    yield tmp_path
    for package, name in ((experiments, "mine"), (training, "mine_training")):
        sys.modules.pop(f"{package.__name__}.{name}", None)
        vars(package).pop(name, None)


# ------------------------------------------------------------------------------------ lines


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT_PATH))


def read_lines(page: Path) -> list[list[str]]:
    """Return the commands of a page's shell blocks, as words."""
    lines = "".join(read_blocks(page, "sh")).replace("\\\n", " ").splitlines()
    commands = [shlex.split(line, comments=True) for line in lines if line.strip()]
    return [part for words in commands for part in split_at(words, "&&")]


def split_at(words: list[str], mark: str) -> list[list[str]]:
    """Split a list at a word."""
    parts: list[list[str]] = [[]]
    for word in words:
        parts.append([]) if word == mark else parts[-1].append(word)
    return [part for part in parts if part]


def find_reason(page: Path, words: list[str]) -> str | None:
    """Return why a line is only read, if it is."""
    line = f"{name_of(page)}: {shlex.join(words)}"
    return next((READ[start] for start in READ if re.match(start, line)), None)


SHELL_PAGES = [page for page in PAGES if read_blocks(page, "sh")]


def test_every_reason_is_of_use_and_names_a_test():
    lines = [
        f"{name_of(page)}: {shlex.join(words)}" for page in PAGES for words in read_lines(page)
    ]
    assert len(lines) > 60
    for start, reason in READ.items():
        assert any(re.match(start, line) for line in lines), start
        for name in re.findall(r"[\w/]*test_\w+(?:\.py)?", reason):
            places = (ROOT_PATH / "tests" / name, ROOT_PATH / "tests" / "test_docs" / name)
            assert any(path.exists() for path in places), name


@pytest.mark.parametrize("page", SHELL_PAGES, ids=name_of)
def test_the_lines_of_a_page_run(page, folder, monkeypatch):
    if name_of(page) in GIVEN:
        GIVEN[name_of(page)](folder, monkeypatch)
    for words in read_lines(page):
        if find_reason(page, words):
            read_line(words)
        else:
            code = run_line(words, folder)
            assert code == 0, f"{shlex.join(words)}: exit code {code}"


def run_line(words: list[str], folder: Path) -> int:
    """Run a line as a shell would, and return its exit code."""
    newest = max((folder / "weights").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    words = [re.sub(r"^(\w+=)?/my/", rf"\1{folder}/my/", word) for word in words]
    words = [word.replace("<run>", newest.name) for word in words]
    if words[0] == "torchrun":  # the processes: test_training/test_distributed.py
        words = ["python", *words[words.index("train.py") :]]
    program, *arguments = words
    if program == "make":
        return run_make(arguments, folder)
    if program == "cp":
        shutil.copy(*arguments)
        forget(folder / arguments[1])
        return 0
    assert program == "python", f"{shlex.join(words)}: what runs it? See READ in {__file__}"
    script, *arguments = arguments
    arguments = [name for word in arguments for name in (sorted(glob.glob(word)) or [word])]
    if script == "train.py":
        return run_training(arguments)
    if script == "runs.py":
        return runs.main(arguments)
    main = {"predict.py": predict.main, "run_prediction.py": run_prediction.main}[script]
    return main([*arguments, "DEVICE=cpu"])


def forget(path: Path) -> None:
    """Have a file imported anew, as by a process of its own."""
    modules = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
    for name in [name for name, file in modules.items() if file == str(path)]:
        del sys.modules[name]


def run_training(arguments: list[str]) -> int:
    """Train as the line says, but not for long; a resumed run for another epoch."""
    if "--help" in arguments:
        with pytest.raises(SystemExit) as stop:
            train.main(arguments)
        return stop.value.code or 0
    args = train.parse(arguments)
    small = ["EPOCHS=1", "NUM_THREADS=1", "DEVICE=cpu", "PROGRESS=False", "CURVES=False"]
    if args.resume:
        run = find_run(args.resume, global_config)
        with open(f"logs/{run}/metrics.csv", newline="", encoding="utf-8") as file:
            small[0] = f"EPOCHS={len(list(csv.reader(file)))}"
    if args.config or not args.resume:
        source = Path(args.config or SCENES).read_text(encoding="utf-8")
        small += next(overrides for mark, overrides in SMALL.items() if mark in source)
    return train.main([*arguments, *small])


def run_make(arguments: list[str], folder: Path) -> int:
    """Have make say what it would do; what `docker-run` would run in the image runs here."""
    assert {word for word in arguments if "=" not in word} <= TARGETS
    inner = next((word[5:] for word in arguments if word.startswith("ARGS=python ")), None)
    if inner is not None and (code := run_line(shlex.split(inner), folder)):
        return code
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "--dry-run", *arguments]
    return subprocess.run(command, cwd=ROOT_PATH, env=env, stdout=subprocess.DEVNULL).returncode


# ------------------------------------------------------------------- lines that are only read


def read_line(words: list[str]) -> None:
    """Hold the arguments of a line that does not run here to those that the kit takes."""
    words = [word.removeprefix("plumbline/") for word in words if word != "-it"]
    if words[0] in ("python", "python3"):
        words = words[1:]
    if words[0] == "-m" and words[1] != "pytest":
        path = ROOT_PATH.joinpath(*words[1].split("."))
        path = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
        for option in (word.removeprefix("--") for word in words if word.startswith("--")):
            assert re.search(rf"\b{option}\b", path.read_text(encoding="utf-8")), option
    elif words[0] == "train.py":
        args = train.parse(words[1:])
        load_config(str(ROOT_PATH / (args.config or SCENES)).replace("mine", "scenes"))
    elif words[0].endswith(".py"):
        name = words[0].removesuffix(".py")
        importlib.import_module(name).parse(words[1:])
    for word in words[1:]:
        if re.fullmatch(r"[\w.]+\.(yml|toml|txt)", word):
            assert (ROOT_PATH / word).is_file(), word
        if word.startswith("tests/"):
            assert (ROOT_PATH / word).exists(), word


# ------------------------------------------------------------------------------------- links


@pytest.mark.parametrize("page", [page for page in PAGES if page.suffix == ".rst"], ids=str)
def test_every_page_is_linked(page):
    index = (ROOT_PATH / "docs" / "index.rst").read_text(encoding="utf-8")
    assert page.stem == "index" or f"   {page.stem}\n" in index
    assert page.stem not in ("search", "genindex", "py-modindex"), "Sphinx makes one of this name"


def test_links_of_the_readme_lead_to_files():
    text = (ROOT_PATH / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]+)\)", text)
    files = [link for link in links if "://" not in link]
    assert files and all((ROOT_PATH / link).exists() for link in files)
