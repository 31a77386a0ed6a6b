"""The page "Named features": every code block of it runs."""

import re
import textwrap

import numpy as np
import pytest
from PIL import Image

import run_prediction
import train
from config.codec import decode_config
from config.config import ROOT_PATH
from config.load import load_config

pd = pytest.importorskip("pandas")

PAGE = (ROOT_PATH / "docs" / "features.rst").read_text(encoding="utf-8")
BLOCKS = [
    textwrap.dedent(re.sub(r"^   :caption:.*\n", "", block)).lstrip()
    for block in re.findall(r"code-block:: python\n((?:   .*\n|\n)+)", PAGE)
]
FEATURE, BATCH, CARS, SPECTRUM, PREDICTION = BLOCKS
(YAML,) = re.findall(r"code-block:: yaml\n((?:   .*\n|\n)+)", PAGE)
SMALL = ["EPOCHS=1", "NUM_THREADS=1", "PROGRESS=False", "DEVICE=cpu"]


def out(folder):
    return [f"LOG_DIR={folder}/logs", f"WEIGHT_DIR={folder}/weights", f"DATA_DIR={folder}"]


def test_the_batch():
    names = {"__name__": __name__}
    exec(FEATURE + BATCH, names)
    assert names["batch"].x == {"synset": ["n03764736", "n03243711"]}


@pytest.fixture
def cars(tmp_path):
    (tmp_path / "images").mkdir()
    rows = ["image,age,price"]
    for i in range(12):
        pixels = np.full((16, 12, 3), 20 * i, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
        rows.append(f"images/{i}.png,{i % 5},{1.5 * i}")
    (tmp_path / "cars.csv").write_text("\n".join(rows))
    (tmp_path / "mine.py").write_text(CARS)
    return tmp_path


def test_the_whole_example(cars):
    assert train.main([str(cars / "mine.py"), *SMALL, *out(cars)]) == 0
    (metrics,) = cars.glob("logs/*/metrics.csv")
    assert len(metrics.read_text().splitlines()) == 2


def test_a_feature_of_ones_own(tmp_path):
    names = {"__name__": __name__}
    exec(SPECTRUM, names)
    np.save(tmp_path / "a.npy", np.sin(np.arange(100)))
    feature = names["Spectrum"](pd.DataFrame({"recording": ["a.npy"]}), tmp_path, n_bins=32)
    assert feature.read(0).shape == (32,) and feature.read(0).argmax() == 10  # 63 / (2 pi)


def test_the_yaml_is_a_config():
    text = textwrap.dedent(YAML)
    config = decode_config(text)
    assert config["SAMPLED_FEATURES"][0] == "experiments.mine.Synset"
    assert config["SAMPLED_FEATURES"][1].keywords == {"column": "image", "name": "rgb_image"}


def test_the_override_is_read():
    (override,) = re.findall(r'SAMPLED_FEATURES="(.*)"', PAGE)
    config, _ = load_config("experiments/features.py", [f"SAMPLED_FEATURES={override}"])
    assert config["SAMPLED_FEATURES"] == ["experiments.mine.Synset"]


def test_the_prediction(tmp_path):
    pytest.importorskip("sklearn")
    tiny = ["MODEL_CONFIG.bulk_ch=2", "DATA_LOADER_CONFIG.batch_size=256"]
    config = str(ROOT_PATH / "experiments" / "features.py")
    assert train.main([config, *SMALL, *tiny, *out(tmp_path)]) == 0
    (tmp_path / "mine.py").write_text(PREDICTION)
    arguments = ["PROGRESS=False", "DATA_LOADER_CONFIG.batch_size=256", "NUM_THREADS=1"]
    mine = str(tmp_path / "mine.py")
    assert run_prediction.main([mine, *arguments, f"OUTPUT_DIR={tmp_path}/p", *out(tmp_path)]) == 0
    (metrics,) = tmp_path.glob("logs/*features/metrics.csv")
    accuracy = metrics.read_text().splitlines()[1].split(",")[-2]
    assert f'"accuracy": {accuracy}' in (tmp_path / "p" / "metrics.json").read_text()
    header, first, *_ = (tmp_path / "p" / "samples.csv").read_text().splitlines()
    assert header == "index,name,output,target,prediction,confidence,accuracy"
    assert first.split(",")[1] != "0"  # the number of the row in the table, not of the sample
