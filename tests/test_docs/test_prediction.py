"""The page "Prediction": each of its blocks runs, and its tables say what is there."""

import glob
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import predict
import run_prediction
from config.config import ROOT_PATH, global_config
from config.keys import PREDICT_KEYS
from models import UNET
from tests.test_docs.blocks import Block
from tests.test_docs.blocks import read_blocks as read_page
from utils.data.files import write_array
from utils.data.synthetic import make_scene
from utils.torchutils import save_weights

PAGE = (ROOT_PATH / "docs" / "prediction.rst").read_text(encoding="utf-8")
RUN = "20260101-120000_mine"
SCENES = {"ch_in": 12, "ch_out": 2, "bulk_ch": 2, "n_recursions": 1}
PICTURES = SCENES | {"ch_in": 3, "ch_out": 1}


def read_blocks(kind: str) -> list[Block]:
    """Return the code blocks of a kind, with a run that there is."""
    blocks = read_page("prediction.rst", kind)
    return [block.replace("<run>", RUN) if "<run>" in block else block for block in blocks]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with what the page takes for granted; give it the arguments of a model."""
    monkeypatch.chdir(tmp_path)
    for name, folder in (("WEIGHT_DIR", "weights"), ("LOG_DIR", "logs"), ("DATA_DIR", "data")):
        monkeypatch.setitem(global_config, name, tmp_path / folder)
    rng = np.random.default_rng(0)
    for folder in ("images", "more", "data/test/x", "data/test/y", f"weights/{RUN}"):
        (tmp_path / folder).mkdir(parents=True)
    for i in (1, 2):
        picture = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        write_array(tmp_path / "images" / f"{i}.png", picture)
        write_array(tmp_path / "more" / f"{i}.npy", picture)
        write_array(tmp_path / "data/test/x" / f"{i}.png", picture)
        write_array(tmp_path / "data/test/y" / f"{i}.png", picture[..., 0] // 128)

    def write(arguments, task):
        torch.manual_seed(0)
        text = str(arguments).replace("'", '"')
        meta = {"MODEL": "models.UNET", "MODEL_CONFIG": text, "TASK": task}
        path = tmp_path / "weights" / RUN / "best.pth"
        save_weights(path, UNET(**arguments).state_dict(), meta)
        return tmp_path

    return write


def run_command(line: str) -> None:
    """Run a line as a shell would, in this process."""
    python, script, *words = shlex.split(line)
    words = [name for word in words for name in (sorted(glob.glob(word)) or [word])]
    main = {"predict.py": predict.main, "run_prediction.py": run_prediction.main}[script]
    assert python == "python" and main([*words, "DEVICE=cpu"]) == 0


def test_files(place):
    folder = place(PICTURES, "binary_segmentation")
    first, second = read_blocks("sh")[0].splitlines()
    run_command(first)
    names = ["classes.json", "images/1.npy", "images/1.png", "images/2.npy", "images/2.png"]
    names += ["more/1.npy", "more/1.png", "more/2.npy", "more/2.png"]
    assert files_in(folder / "predictions") == names
    run_command(second)
    endings = ["1_mask.npy", "1_mask.png", "2_mask.npy", "2_mask.png", "classes.json"]
    assert files_in(folder / "everything") == endings


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_dataset(place, monkeypatch):
    folder = place(SCENES, "multilabel_segmentation")
    monkeypatch.setattr("utils.data.SyntheticScenes.__getitem__", small_scene)
    first, second = read_blocks("sh")[1].replace("\\\n", " ").splitlines()
    run_command(first)
    (own,) = (folder / "logs" / "predictions").iterdir()
    run_command(second.replace("experiments/", f"{ROOT_PATH}/experiments/"))
    (kinds,) = read_blocks("text")
    names = set(re.findall(r"OUTPUT_DIR/([\w.]+)", kinds.use())) | {"metrics.csv"}
    for out in (own, folder / "seven"):
        assert {path.name for path in out.iterdir()} == names
    header = (own / "samples.csv").read_text().splitlines()[0].split(",")
    assert header == ["index", "name", "output", "confidence", "loss", "f1", "precision", "recall"]


def small_scene(scenes, index):
    """Return a quarter of a scene, for speed."""
    return tuple(torch.from_numpy(part) for part in make_scene(scenes.seed, index, 16))


def test_a_config_of_ones_own(place):
    folder = place(PICTURES, "binary_segmentation")
    path = read_blocks("python")[0].write(folder / "experiments" / "prediction" / "mine.py")
    run_command(read_blocks("sh")[2].replace("experiments/prediction/mine.py", str(path)))
    (out,) = (folder / "logs" / "predictions").iterdir()
    assert len(files_in(out / "outputs")) == 2 * 2 + 1
    header = (out / "samples.csv").read_text().splitlines()[0]
    assert header == "index,name,output,path,confidence,loss,iou,f1"


def test_a_notebook(place):
    place(PICTURES, "binary_segmentation")
    names = read_blocks("python")[1].run()
    assert names["mask"].shape == names["shares"].shape == (6, 8)
    assert all(np.array_equal(mask, names["mask"]) for mask in names["masks"])
    folder = place(SCENES, "multilabel_segmentation")
    read_blocks("python")[2].run(names)
    assert 0 <= names["result"]["metrics"]["f1"] <= 1
    assert Path(names["result"]["paths"]["samples"]).is_relative_to(folder / "logs")


def test_weights_of_another_program(place, monkeypatch):
    folder = place(PICTURES, "binary_segmentation")
    (folder / "my").mkdir()
    (folder / "my" / "__init__.py").touch()
    (folder / "my" / "module.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Conv2d):\n"
        "    def __init__(self, ch_in):\n        super().__init__(ch_in, 1, 1)\n"
    )
    torch.save(torch.nn.Conv2d(3, 1, 1).state_dict(), folder / "theirs.pth")
    monkeypatch.syspath_prepend(folder)
    run_command(read_blocks("sh")[3].replace("\\\n", " "))
    assert '"class": "land"' in (folder / "theirs" / "classes.json").read_text()
    for name in ("my", "my.module"):
        sys.modules.pop(name)


def test_the_table_of_keys_is_whole():
    _, _, table = PAGE.partition("   * - Key\n")
    table, _, _ = table.partition("In a notebook")
    rows = re.findall(r"   \* - (.*)\n     - ", table)
    names = [name for row in rows for name in re.findall(r"``(\w+)``", row)]
    assert sorted(names) == sorted(PREDICT_KEYS)


def test_options_of_the_page_are_there():
    options = set(re.findall(r"--[a-z][a-z-]+", PAGE))
    args = ["-i", "a", "-o", "b", "--weights", "c"]
    known = {f"--{name.replace('_', '-')}" for name in vars(predict.parse(args))}
    assert options == {"--weights", "--batch-size", "--suffix", "--prefix", "--overwrite"} <= known
