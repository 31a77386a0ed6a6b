"""What a stranger gives runs nothing and writes nowhere else: files, names in them, names of runs.

The loaders themselves are tested with their modules; here every command line and function that a
file or a name can come in by.
"""

import ast
import contextlib
import csv
import io
import json
import os
import pickle
import shutil
import tarfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import predict
import train
from config.config import ROOT_PATH
from models import ConvNet
from models.predictor import load_predictor
from tests.test_training.common import Net
from utils.logging.csv import read_tracker
from utils.torchutils import load_file, save_file, save_weights

pytestmark = pytest.mark.filterwarnings("ignore:.*(TorchScript archive|pickle protocol)")

TINY = ["EPOCHS=1", "PROGRESS=False", "NUM_THREADS=1", "DEVICE=cpu"]


class Malice:
    """Makes a folder when it is unpickled by a loader that allows it."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.fixture
def marker(tmp_path):
    """What would be there if anything was run."""
    path = tmp_path / "executed"
    yield path
    assert not path.exists()


@pytest.fixture(params=["0", "1"], ids=["", "forced"])
def forced(request, monkeypatch):
    """With and without the variable that turns the safe default of torch.load off."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", request.param)


@pytest.fixture
def place(tmp_path):
    """The folders of a run, as arguments."""
    return [f"{kind}_DIR={tmp_path}/{kind.lower()}" for kind in ("LOG", "WEIGHT", "DATA")]


def write_config(path):
    path.write_text(
        "from tests.test_training.common import make_config\ntrain_config = make_config()\n"
    )
    return [str(path), *TINY]


@pytest.fixture
def config(tmp_path):
    return write_config(tmp_path / "mine.py")


@pytest.fixture
def image(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((6, 6), np.float32))
    return str(tmp_path / "a.npy")


def predict_with(weights, image, *more):
    out = Path(image).parent / "out"
    return predict.main(["-i", image, "-o", str(out), "--weights", str(weights), *more])


# --------------------------------------------------------------------------- malicious files


def write_zip(path, payload):
    torch.save({"model": {"weight": payload}}, path)


def write_as_the_kit_does(path, payload):
    save_file({"format": 1, "model": Net().state_dict(), "meta": {"TASK": payload}}, path)


def write_old_format(path, payload):
    torch.save({"model": payload}, path, _use_new_zipfile_serialization=False)


def write_bare_pickle(path, payload):
    path.write_bytes(pickle.dumps({"model": {"weight": payload}}))


def write_torchscript(path, payload):
    write_zip(path, payload)
    with zipfile.ZipFile(path, "a") as archive:
        folder = archive.namelist()[0].partition("/")[0]
        archive.writestr(f"{folder}/constants.pkl", pickle.dumps((payload,)))
        archive.writestr(f"{folder}/code/__torch__.py", "import os\n")


def write_tar(path, payload):
    with tarfile.open(path, "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            content = pickle.dumps(payload)
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_npy(path, payload):
    with path.open("wb") as file:
        np.save(file, np.array([[payload]], dtype=object), allow_pickle=True)


def write_npz(path, payload):
    with path.open("wb") as file:
        np.savez(file, np.array([[payload]], dtype=object), allow_pickle=True)


WRITERS = [
    write_zip,
    write_as_the_kit_does,
    write_old_format,
    write_bare_pickle,
    write_torchscript,
    write_tar,
    write_npy,
]
all_forms = pytest.mark.parametrize("write", WRITERS)


@pytest.mark.parametrize("write", [w for w in (*WRITERS, write_npz) if w is not write_torchscript])
def test_the_traps_are_real(write, tmp_path):
    write(tmp_path / "bad", Malice(tmp_path / "executed"))
    with warnings.catch_warnings(action="ignore"):
        if write in (write_npy, write_npz):
            loaded = np.load(tmp_path / "bad", allow_pickle=True)
            assert write is write_npy or loaded["arr_0"] is not None
        else:
            with contextlib.suppress(Exception):  # some are no file of torch, once they have run
                torch.load(tmp_path / "bad", weights_only=False)
    assert (tmp_path / "executed").exists()


@all_forms
def test_weights_for_prediction(write, forced, marker, image, tmp_path, capsys):
    write(tmp_path / "bad.pth", Malice(marker))
    for more in ([], ["MODEL=tests.test_training.common.Net"]):
        assert predict_with(tmp_path / "bad.pth", image, *more) == 2
        error = capsys.readouterr().err
        assert 'bad.pth": expected tensors and plain data' in error and "Traceback" not in error
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="bad.pth.*expected tensors and plain data"):
        load_predictor(tmp_path / "bad.pth", Net)


@all_forms
def test_weights_to_start_from(write, forced, marker, config, place, tmp_path, capsys):
    write(tmp_path / "bad.pth", Malice(marker))
    assert train.main([*config, *place, f"WEIGHTS={tmp_path}/bad.pth"]) == 2
    error = capsys.readouterr().err
    assert "WEIGHTS: weights" in error and "expected tensors and plain data" in error
    assert not (tmp_path / "log").exists() and not (tmp_path / "weight").exists()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of one epoch: its folder, and its name."""
    path = tmp_path_factory.mktemp("trained")
    config = write_config(path / "mine.py")
    folders = [f"LOG_DIR={path}/log", f"WEIGHT_DIR={path}/weight"]
    assert train.main([*config, *folders, "DATE=20260101-000000"]) == 0
    return path, "20260101-000000_test"


@pytest.fixture
def run(trained, tmp_path):
    """A copy of that run in the folders of `place`: where its checkpoint is, and its name."""
    path, name = trained
    for folder in ("log", "weight"):
        shutil.copytree(path / folder, tmp_path / folder)
    return tmp_path / "weight" / name / "checkpoint.pt", name


@all_forms
def test_checkpoints(write, forced, marker, run, place, capsys):
    checkpoint, name = run
    for path in (checkpoint, checkpoint.with_name("checkpoint.prev.pt")):
        write(path, Malice(marker))
    assert train.main(["--resume", name, "EPOCHS=2", *place]) == 2
    error = capsys.readouterr().err
    assert error.startswith("train.py: --resume: checkpoint") and "Traceback" not in error
    assert error.count("expected tensors and plain data") == 2


@pytest.mark.parametrize(
    "text",
    [
        "__COMMENT: !!python/object/apply:os.mkdir [{marker}]",
        "LOSS_CONFIG: {{_target_: os.mkdir, _args_: [{marker}]}}",
        "MODEL: os.mkdir\nMODEL_CONFIG: {{path: {marker}}}",
    ],
)
def test_the_config_in_a_checkpoint_is_only_compared(text, marker, run, place, capsys):
    checkpoint, name = run
    state = load_file(checkpoint)
    config = state["config"] + text.format(marker=marker)  # of a key given twice the last counts
    save_file(state | {"config": config}, checkpoint)
    assert train.main(["--resume", name, "EPOCHS=2", *place]) == 2
    error = capsys.readouterr().err
    assert error.startswith("train.py: ") and "Traceback" not in error


DATA = [("npy", write_npy), ("npz", write_npz), ("png", write_zip), ("tif", write_bare_pickle)]
DATA += [("h5", write_zip), ("csv", write_bare_pickle)]
DATA += [("pt", write) for write in (write_zip, write_old_format, write_bare_pickle, write_tar)]


@pytest.mark.parametrize("folder", ["x", "y"])
@pytest.mark.parametrize(("suffix", "write"), DATA)
def test_data_to_train_with(suffix, write, folder, forced, marker, place, tmp_path, capsys):
    for part in ("train", "val"):
        for kind in ("x", "y"):
            (tmp_path / "data" / part / kind).mkdir(parents=True)
            np.save(tmp_path / "data" / part / kind / "0.npy", np.zeros((6, 6), np.uint8))
    (tmp_path / "data" / "train" / folder / "0.npy").unlink()
    bad = tmp_path / "data" / "train" / folder / f"0.{suffix}"
    write(bad, Malice(marker))
    (tmp_path / "mine.py").write_text(
        "from models import UNET\nfrom utils.loss import dice_bce_sum\n"
        "train_config = {'MODEL': UNET, 'LOSS': dice_bce_sum, 'TASK': 'binary_segmentation',\n"
        "    'MODEL_CONFIG': {'ch_in': 1, 'ch_out': 1, 'bulk_ch': 4, 'n_recursions': 1}}\n"
    )
    assert train.main([str(tmp_path / "mine.py"), *TINY, *place]) == 2
    error = capsys.readouterr().err
    assert "TRAIN_DATASET" in error and "Traceback" not in error
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize(("suffix", "write"), DATA)
def test_data_to_predict(suffix, write, forced, marker, image, tmp_path, capsys):
    save_weights(tmp_path / "w.pth", {}, {"MODEL": "torch.nn.Identity", "MODEL_CONFIG": "{}"})
    bad = tmp_path / f"bad.{suffix}"
    write(bad, Malice(marker))
    assert predict_with(tmp_path / "w.pth", image, "-i", str(bad)) == 1
    assert f"bad.{suffix}: expected" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.npy"]


# ------------------------------------------------------------------- names in a weights file

CALLS = {
    "os.mkdir": {"path": "{}"},
    "os.system": {"command": "mkdir {}"},
    "subprocess.call": {"args": ["mkdir", "{}"]},
    "builtins.eval": {"_args_": ["__import__('os').mkdir('{}')"]},
    "torch.hub.load": {"repo_or_dir": "{}", "model": "net", "source": "local"},
    "torch.load": {"f": "{}", "weights_only": False},
    "importlib.import_module": {"name": "antigravity"},
}


def plant(path, name, marker, where):
    """Write a weights file that names a function, as its MODEL or as an argument of its model."""
    arguments = json.loads(json.dumps(CALLS[name]).replace("{}", str(marker)))
    if where == "MODEL":
        meta = {"MODEL": name, "MODEL_CONFIG": json.dumps(arguments)}
    else:
        call = {"_target_": name, **arguments}
        config = {"ch_in": 1, "n_classes": 2, "activ": call}
        meta = {"MODEL": "models.ConvNet", "MODEL_CONFIG": json.dumps(config)}
    save_weights(path, {}, meta)


@pytest.mark.parametrize("where", ["MODEL", "MODEL_CONFIG"])
@pytest.mark.parametrize("name", CALLS)
def test_names_of_functions(name, where, marker, image, tmp_path, capsys):
    plant(tmp_path / "w.pth", name, marker, where)
    expected = "a model of the kit" if where == "MODEL" else "a class of the kit or of torch.nn"
    assert predict_with(tmp_path / "w.pth", image) == 2
    error = capsys.readouterr().err
    assert f"expected {expected}" in error and f'got "{name}"' in error
    with pytest.raises(ValueError, match=f"expected {expected}"):
        load_predictor(tmp_path / "w.pth")


@pytest.mark.parametrize("name", ["os.mkdir", "os.system", "subprocess.call"])
def test_a_function_that_the_user_names_gets_no_argument_of_the_file(name, image, tmp_path):
    """The refusal of the file prints `MODEL=<its name>`, and a user may run that line."""
    marker = tmp_path / "executed"
    plant(tmp_path / "w.pth", name, marker, "MODEL")
    assert predict_with(tmp_path / "w.pth", image, f"MODEL={name}") == 2
    assert not marker.exists()


@pytest.mark.parametrize("key", ["TASK", "CLASSES", "PREPROCESS"])
def test_calls_in_what_a_file_says_beside_its_model(key, marker, image, tmp_path, capsys):
    call = {"_target_": "os.mkdir", "_args_": [str(marker)]}
    meta = {"MODEL": "torch.nn.Identity", "MODEL_CONFIG": "{}", key: call}
    save_weights(tmp_path / "w.pth", {}, meta)
    assert predict_with(tmp_path / "w.pth", image) == 2
    assert key in capsys.readouterr().err


# ------------------------------------------------------------------------------ names of runs

NAMES = ["../../evil", "{}/evil", "two\nlines", "=cmd|' /C calc'!A0", "..", "a/../../b", "@SUM(A1)"]
KEYS = ["SESSION_NAME", "DATE", "LOGFILE", "__COMMENT"]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("name", NAMES)
def test_a_name_writes_nowhere_else_and_is_no_formula(key, name, config, place, tmp_path):
    name = name.format(tmp_path)
    deep = tmp_path / "deep" / "er"  # so that ../.. is seen as well
    place = [argument.replace(str(tmp_path), str(deep)) for argument in place]
    before = set(tmp_path.rglob("*"))
    code = train.main([*config, *place, f"{key}={name}"])
    new = set(tmp_path.rglob("*")) - before
    if code == 2:
        assert not new
        return
    assert code == 0
    assert all(path in (deep.parent, deep) or is_in(path, deep) for path in new)
    (table,) = (deep / "log").glob("*.lock")
    table = table.with_suffix("")
    with table.open(newline="", encoding="utf-8") as file:
        header, row = csv.reader(file)
    assert not any(cell.startswith(("=", "@", "\n")) for cell in row)
    if key in ("SESSION_NAME", "__COMMENT"):
        assert read_tracker(table)[0][key] == name
    assert is_in(deep / "weight" / row[header.index("RUN")] / "last.pth", deep)


def is_in(path, folder):
    """Tell whether a path is one of the folders of a run, or lies in one."""
    path = path.resolve()
    return bool({path, *path.parents} & {folder / "log", folder / "weight"})


@pytest.mark.parametrize("name", ["../{}", "{}", "./{}", "{}/../{}", "..", ".", "{}\n", "=1"])
def test_only_names_of_runs_are_resumed(name, run, place, tmp_path, capsys):
    checkpoint, own = run
    shutil.copytree(checkpoint.parent, tmp_path / "other")  # ../other holds a checkpoint
    wanted = name.format("other", "other")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for text in {wanted, str(tmp_path / "other"), f"../weight/{own}", f"{own}/"}:
        assert train.main(["--resume", text, "EPOCHS=2", *place]) == 2
        assert "--resume: expected a run with a checkpoint" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_class_names_of_a_file_are_no_formulas(image, tmp_path):
    arguments = {"ch_in": 1, "n_classes": 2, "bulk_ch": 2, "n_blocks": 1}
    meta = {"MODEL": "models.ConvNet", "MODEL_CONFIG": json.dumps(arguments)}
    meta |= {"TASK": "multiclass", "CLASSES": ["=cmd|' /C calc'!A0", "@SUM(A1)"]}
    save_weights(tmp_path / "w.pth", ConvNet(**arguments).state_dict(), meta)
    assert predict_with(tmp_path / "w.pth", image) == 0
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not any(cell.startswith(("=", "@")) for cell in cells)


# ---------------------------------------------------------------------------------- the source

LOADERS = {"torch.load", "torch.hub", "np.load", "pickle.load", "pickle.loads", "os.system"}
LOADERS |= {"eval", "exec", "torch.jit.load", "joblib.load", "shelve.open"}


def find_loaders(text):
    """Return the calls in a source that can run what they read."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        keywords = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
        name = ast.unparse(node.func)
        is_safe = name == "torch.load" and keywords.get("weights_only") is True
        if (name in LOADERS and not is_safe) or keywords.get("allow_pickle") or "shell" in keywords:
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


def test_nothing_in_the_source_loads_what_could_run():
    folders = ("config", "utils", "layers", "models", "training", "experiments")
    files = [*ROOT_PATH.glob("*.py"), *(p for f in folders for p in (ROOT_PATH / f).rglob("*.py"))]
    assert len(files) > 30
    found = {str(path): find_loaders(path.read_text(encoding="utf-8")) for path in files}
    assert {path: calls for path, calls in found.items() if calls} == {}


def test_what_could_run_is_found():
    source = (
        "torch.load(p)\ntorch.load(p, weights_only=False)\ntorch.load(p, weights_only=True)\n"
        "eval('1')\nnp.load(p)\nf(allow_pickle=True)\nf(allow_pickle=False)\nrun('x', shell=True)\n"
    )
    assert [line.partition(":")[0] for line in find_loaders(source)] == [
        f"line {number}" for number in (1, 2, 4, 5, 6, 8)
    ]
