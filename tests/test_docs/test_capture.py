"""The page "Repeat a run": its config by hand, and the entries of environment.json."""

import json
import re

import torch

import train
from config.codec import decode_config
from config.config import ROOT_PATH
from tests.test_docs.blocks import read_blocks
from utils.data.fingerprint import NUM_SIZES

PAGE = (ROOT_PATH / "docs" / "capture.rst").read_text(encoding="utf-8")
(YAML,) = read_blocks("capture.rst", "yaml")


def test_the_config_by_hand_trains_and_its_run_has_what_the_page_lists(tmp_path):
    config = YAML.replace("n_scenes: 40, size_px: 64", "n_scenes: 4, size_px: 16")
    config = config.replace("n_scenes: 8, size_px: 64", "n_scenes: 2, size_px: 16")
    config = config.replace("bulk_ch: 8", "bulk_ch: 2").write(tmp_path / "mine.yaml")
    out = [f"{name}={tmp_path / name}" for name in ("LOG_DIR", "WEIGHT_DIR")]
    small = ["EPOCHS=1", "NUM_THREADS=1", "PROGRESS=False", "DEVICE=cpu", "CURVES=False"]
    assert train.main([str(config), *small, *out]) == 0
    (path,) = tmp_path.glob("LOG_DIR/*/environment.json")
    found = json.loads(path.read_text(encoding="utf-8"))
    table = PAGE[PAGE.index(".. list-table::") :]
    listed = {
        name for row in re.findall(r"\* - (``.*)", table) for name in re.findall(r"``(\w+)``", row)
    }
    assert listed == found.keys() - {"format"} and found["format"] == 1
    assert f"{NUM_SIZES:,} of them" in PAGE
    captured = path.with_name("config.yaml").read_text(encoding="utf-8")
    assert captured.startswith("format: 1\n")
    config = decode_config(captured)
    assert config["MODEL_CONFIG"]["activ"] is torch.nn.ELU
    assert config["OPTIMIZER_CONFIG"] == {"lr": 1e-3}
