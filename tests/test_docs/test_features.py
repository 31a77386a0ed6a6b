"""The page "Named features": every code block of it runs."""

from functools import partial

import numpy as np
import pytest
from PIL import Image

import run_prediction
import train
from config.codec import decode_config
from config.config import ROOT_PATH
from tests.test_docs.blocks import read_blocks
from utils.data import ColumnFeature, DatasetFeature, FeatureDataset
from utils.data.features import channel_last

FEATURE, BATCH, CARS, SPECTRUM, PREDICTION = read_blocks("features.rst", "python")
LAYOUT, MESSAGES = read_blocks("features.rst", "text")
(YAML,) = read_blocks("features.rst", "yaml")
SMALL = ["NUM_THREADS=1", "PROGRESS=False", "DEVICE=cpu"]


def out(folder):
    return [f"LOG_DIR={folder}/logs", f"WEIGHT_DIR={folder}/weights", f"DATA_DIR={folder}/data"]


def write_cars(folder):
    """Make the table of the page and its pictures."""
    (folder / "images").mkdir(parents=True)
    rows = ["image,age,price"]
    for i in range(12):
        pixels = np.full((16, 12, 3), 20 * i, np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
        rows.append(f"images/{i}.png,{i % 5},{1.5 * i}")
    (folder / "cars.csv").write_text("\n".join(rows))


def test_the_batch():
    pytest.importorskip("pandas")
    names = BATCH.run(FEATURE.run({"__name__": __name__}))
    assert names["batch"].x == {"synset": ["n03764736", "n03243711"]}


def test_the_whole_example(tmp_path):
    pytest.importorskip("pandas")
    write_cars(tmp_path / "data")
    (_, header), (_, row) = (line.rsplit(maxsplit=1) for line in LAYOUT.use().splitlines()[:2])
    written = (tmp_path / "data" / "cars.csv").read_text().splitlines()
    assert header == written[0] and row.count(",") == written[1].count(",")
    config = CARS.write(tmp_path / "mine.py")
    assert train.main([str(config), "EPOCHS=1", *SMALL, *out(tmp_path)]) == 0
    (metrics,) = tmp_path.glob("logs/*/metrics.csv")
    assert len(metrics.read_text().splitlines()) == 2


def test_a_feature_of_ones_own(tmp_path):
    pd = pytest.importorskip("pandas")
    names = SPECTRUM.run({"__name__": __name__})
    np.save(tmp_path / "a.npy", np.sin(np.arange(100)))
    feature = names["Spectrum"](pd.DataFrame({"recording": ["a.npy"]}), tmp_path, n_bins=32)
    assert feature.read(0).shape == (32,) and feature.read(0).argmax() == 10  # 63 / (2 pi)


def test_the_yaml_is_a_config():
    config = decode_config(YAML.use())
    assert config["SAMPLED_FEATURES"][0] == "experiments.mine.Synset"
    assert config["SAMPLED_FEATURES"][1].keywords == {"column": "image", "name": "rgb_image"}


class Misspelt(DatasetFeature):
    name = "synset"

    def read(self, index):
        return self.info.iloc[index]["snyset"]


def columns(*names):
    return [partial(ColumnFeature, column=name) for name in names]


def scale_image(image):
    return {"image": image}


def drop_age(image, price, age, **kwargs):
    return {"image": image, "price": price}


def return_nothing(**kwargs):
    kwargs["age"] = 0


def say(*features, read=False, **arguments):
    """Return what is said of a mistake."""
    import pandas as pd

    info = pd.DataFrame({name: [1.0] * 4 for name in ("image", "age", "price")})
    with pytest.raises(ValueError) as error:
        dataset = FeatureDataset(info=info, sampled_features=features, **arguments)
        assert read, "it was to be said at once"
        dataset[3]
    return str(error.value)


def test_the_messages_are_these():
    pytest.importorskip("pandas")
    for function in (scale_image, drop_age, return_nothing):
        function.__name__ = "scale"
    said = [
        say(*columns("image"), transforms=scale_image),
        say(*columns("image", "age"), transforms=channel_last),
        say(*columns("image", "age", "price"), transforms=drop_age, inputs=["age"], read=True),
        say(*columns("age"), transforms=return_nothing, read=True),
        say(Misspelt, read=True),
    ]
    for line, message in zip(MESSAGES.use().splitlines(), said, strict=True):
        assert message.startswith(line)


def test_the_prediction(tmp_path):
    pytest.importorskip("sklearn")
    pytest.importorskip("pandas")
    small = ["EPOCHS=1", "MODEL_CONFIG.bulk_ch=2", "DATA_LOADER_CONFIG.batch_size=256", *SMALL]
    config = str(ROOT_PATH / "experiments" / "features.py")
    assert train.main([config, *small, *out(tmp_path)]) == 0
    mine = str(PREDICTION.write(tmp_path / "mine.py"))
    same = ["DATA_LOADER_CONFIG.batch_size=256", *SMALL, f"OUTPUT_DIR={tmp_path}/p"]
    assert run_prediction.main([mine, *same, *out(tmp_path)]) == 0
    (metrics,) = tmp_path.glob("logs/*features/metrics.csv")
    accuracy = metrics.read_text().splitlines()[1].split(",")[-2]
    assert f'"accuracy": {accuracy}' in (tmp_path / "p" / "metrics.json").read_text()
    header, first, *_ = (tmp_path / "p" / "samples.csv").read_text().splitlines()
    assert header == "index,name,output,target,prediction,confidence,accuracy"
    assert first.split(",")[1] != "0"  # the number of the row in the table, not of the sample
