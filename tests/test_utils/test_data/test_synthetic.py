"""Synthetic scenes: the same for the same seed, worth learning, and files like anyone's."""

import pickle
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from utils.data import PairedFolder, SyntheticScenes
from utils.data.synthetic import CLASSES, main, make_scene

ROOT = Path(__file__).resolve().parents[3]


def test_a_scene_follows_from_seed_and_index_alone():
    first = SyntheticScenes(4, size_px=32, seed=3)
    _ = first[0]
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    second = SyntheticScenes(9, size_px=32, seed=3)
    for index in (3, 0, 2):
        for one, other in zip(first[index], second[index], strict=True):
            assert torch.equal(one, other)
    assert not torch.equal(first[0][0], first[1][0])
    assert not torch.equal(first[0][0], SyntheticScenes(4, size_px=32, seed=4)[0][0])


def test_scenes_have_the_promised_form():
    dataset = SyntheticScenes(30)
    x = torch.stack([x for x, _ in dataset])
    y = torch.stack([y for _, y in dataset])
    assert x.shape == (30, 12, 64, 64) and x.dtype == torch.float32
    assert y.shape == (30, len(CLASSES), 64, 64) and y.dtype == torch.float32
    assert set(y.unique().tolist()) == {0, 1}
    assert abs(x.mean()) < 0.1 and abs(x.std() - 1) < 0.1
    shares = y.mean(dim=(2, 3))
    assert shares.min() > 0.01 and shares.max() < 0.5  # each scene shows both
    assert (y.sum(dim=1) <= 1).all()


def test_no_band_and_threshold_solve_it():
    x, y = (np.stack(part) for part in zip(*(make_scene(0, i) for i in range(20)), strict=True))
    for target in y.transpose(1, 0, 2, 3) > 0:
        best = 0.0
        for band in range(12):
            for limit in np.quantile(x[:, band], np.linspace(0.02, 0.98, 25)):
                for pred in (x[:, band] > limit, x[:, band] < limit):
                    best = max(best, 2 * (pred & target).sum() / (pred.sum() + target.sum()))
        assert 0.4 < best < 0.93


@pytest.mark.parametrize(("size_px", "n_bands"), [(16, 1), (33, 4), (130, 12)])
def test_any_size_and_number_of_bands(size_px, n_bands):
    x, y = SyntheticScenes(1, size_px=size_px, n_bands=n_bands)[0]
    assert x.shape == (n_bands, size_px, size_px) and y.shape == (2, size_px, size_px)


def test_scenes_are_kept_but_not_sent_to_workers():
    dataset = SyntheticScenes(5, size_px=64)
    empty = len(pickle.dumps(dataset))
    assert dataset[4][0] is dataset[-1][0]
    assert len(pickle.dumps(dataset)) == empty < 1000
    with pytest.raises(IndexError):
        _ = dataset[5]


@pytest.mark.parametrize("wrong", [{"n_scenes": 0}, {"size_px": 8}, {"n_bands": 0}, {"seed": -1}])
def test_impossible_sizes_are_refused(wrong):
    with pytest.raises(ValueError, match="SyntheticScenes: expected n_scenes and n_bands from 1"):
        SyntheticScenes(**{"n_scenes": 1, **wrong})


def test_written_scenes_read_back_are_the_dataset(tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "utils.data.synthetic", "--out", str(tmp_path / "train")]
        + ["--n", "3", "--size", "32", "--seed", "5"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stderr == ""
    assert run.stdout.startswith("3 scenes of 32 x 32 px in")
    assert np.load(tmp_path / "train/x/scene_000.npy", allow_pickle=False).shape == (32, 32, 12)
    assert np.load(tmp_path / "train/y/scene_002.npy", allow_pickle=False).shape == (32, 32, 2)
    files = PairedFolder(tmp_path / "train", task="multilabel_segmentation")
    scenes = SyntheticScenes(3, size_px=32, seed=5)
    assert len(files) == 3
    for (x, y), (scene_x, scene_y) in zip(files, scenes, strict=True):
        assert torch.equal(x, scene_x) and torch.equal(y, scene_y)


def test_files_of_others_are_not_touched(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(SystemExit, match="2"):
        main(["--out", str(tmp_path)])
    assert "expected a new or empty folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_impossible_arguments_end_with_a_message_and_write_nothing(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["--out", str(tmp_path / "new"), "--n", "0"])
    assert "n_scenes and n_bands from 1" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
