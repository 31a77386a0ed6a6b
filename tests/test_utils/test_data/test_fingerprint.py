import functools
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset

from utils.data import Arrays, ClassFolder, Digits, FeatureDataset, InputFolder, PairedFolder
from utils.data.features import ColumnFeature
from utils.data.fingerprint import NUM_SIZES, fingerprint


def write_pairs(root):
    for kind in ("x", "y"):
        (root / kind).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(np.full((8, 8), i % 2, np.uint8)).save(root / kind / f"{i}.png")
    return root


def test_the_same_files_elsewhere_and_at_another_time_are_the_same(tmp_path):
    here, there = write_pairs(tmp_path / "here"), write_pairs(tmp_path / "elsewhere" / "b")
    os.utime(there / "x" / "0.png", (0, 0))
    found = fingerprint(PairedFolder(here))
    assert found == fingerprint(PairedFolder(there))
    assert (found["samples"], found["of"], len(found["hash"])) == (4, "files", 16)
    assert found == fingerprint(PairedFolder(there, cache=True, repeat=2)) | {"samples": 4}


def rename(root):
    for kind in ("x", "y"):
        (root / kind / "3.png").rename(root / kind / "4.png")


def enlarge(root):
    with open(root / "y" / "3.png", "ab") as file:
        file.write(b"0")


def shorten(root):
    for kind in ("x", "y"):
        (root / kind / "3.png").unlink()


@pytest.mark.parametrize("change", [rename, enlarge, shorten])
def test_other_files_are_others(change, tmp_path):
    root = write_pairs(tmp_path)
    before = fingerprint(PairedFolder(root))
    change(root)
    assert fingerprint(PairedFolder(root))["hash"] != before["hash"]


def test_a_file_that_is_gone_since_is_no_error(tmp_path):
    dataset = PairedFolder(write_pairs(tmp_path))
    (tmp_path / "y" / "3.png").unlink()
    assert fingerprint(dataset)["samples"] == 4


def test_labels_count_beside_files(tmp_path):
    for name in ("cat/1.png", "cat/2.png", "dog/3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / name)
    dataset = ClassFolder(tmp_path)
    before = fingerprint(dataset)
    assert before["of"] == "files, labels" and before["samples"] == 3
    dataset.labels = [1, 0, 1]
    assert fingerprint(dataset)["hash"] != before["hash"]


def test_arrays_in_memory():
    x, y = np.arange(24, dtype=np.float32).reshape(6, 4), np.arange(6) % 2
    found = fingerprint(Arrays(x, y))
    assert found == fingerprint(Arrays(torch.tensor(x), torch.tensor(y)))
    assert (found["samples"], found["of"]) == (6, "x, y")
    others = [(x + 1, y), (x, 1 - y), (x.reshape(6, 2, 2), y), (x.astype(np.float64), y)]
    assert found["hash"] not in {fingerprint(Arrays(*other))["hash"] for other in others}
    assert fingerprint(Arrays(x[::-1].copy(), y))["hash"] != found["hash"]


def test_a_table(tmp_path):
    pd = pytest.importorskip("pandas")

    feature = functools.partial(ColumnFeature, column="price")

    def found(price):
        info = pd.DataFrame({"name": ["a", None, "c"], "price": [1.5, 2.5, price]})
        return fingerprint(FeatureDataset(info, sampled_features=[feature]))

    assert found(3.5) == found(3.5) and found(3.5)["hash"] != found(4.5)["hash"]
    assert found(3.5)["samples"] == 3 and found(3.5)["of"] == "info, names"


def test_a_large_table_is_read_in_parts(monkeypatch):
    pd = pytest.importorskip("pandas")
    monkeypatch.setattr("utils.data.fingerprint._NUM_ROWS", 10)
    dataset = Odd()

    def found(values):
        dataset.table = pd.DataFrame({"a": values})
        return fingerprint(dataset)["hash"]

    assert len({found(range(100)), found(range(1, 101)), found(range(99))}) == 3


def test_inputs_alone_and_digits(tmp_path):
    assert fingerprint(InputFolder(write_pairs(tmp_path) / "x"))["of"] == "files"
    digits = [fingerprint(Digits(subset)) for subset in ("train", "train", "val")]
    assert digits[0] == digits[1] and digits[0]["hash"] != digits[2]["hash"]


class Nothing(Dataset):
    files = property(lambda self: pytest.fail("a property may cost a lot"))

    def __len__(self):
        return 7


class Odd(Nothing):
    def __init__(self):
        self.__dict__["files"] = [3, None]
        self.labels = [[1], {2}]
        self.names = np.array(["a", None], object)
        self.tensors = torch.eye(3).to_sparse(), torch.empty(2, device="meta")
        self.sparse, self.meta = self.tensors


class Stream(IterableDataset):
    def __iter__(self):
        return iter(())


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_what_tells_nothing_has_no_hash():
    odd = Odd()
    odd.nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    assert fingerprint(odd) == {"samples": 7, "of": None, "hash": None}
    assert fingerprint(Nothing()) == {"samples": 7, "of": None, "hash": None}
    assert fingerprint(Stream()) == {"samples": None, "of": None, "hash": None}


class Many(Dataset):
    def __init__(self, n, folder):
        self.files = [(Path(folder, f"x/{i}.png"), Path(folder, f"y/{i}.png")) for i in range(n)]

    def __len__(self):
        return len(self.files)


def test_of_many_files_few_are_asked_for(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("utils.data.fingerprint._size", lambda path: asked.append(path) or "1")
    found = fingerprint(Many(3 * NUM_SIZES // 2, tmp_path))
    assert len(asked) <= NUM_SIZES and {Path(path).parent.name for path in asked} == {"x", "y"}
    assert found["samples"] == 3 * NUM_SIZES // 2


def test_tensors_that_are_views():
    x = torch.tensor([[1 + 2j, 3 - 1j], [0j, 1j]])
    found = [fingerprint(Arrays(part, x.real))["hash"] for part in (x, x.conj(), x.conj().clone())]
    assert found[0] != found[1] == found[2]
    assert fingerprint(Arrays(x, x.mT))["hash"] != found[0]


def test_a_large_array_is_read_in_parts(monkeypatch):
    monkeypatch.setattr("utils.data.fingerprint._NUM_BYTES", 100)
    x = torch.arange(1000.0)
    before = fingerprint(Arrays(x, x))["hash"]
    assert fingerprint(Arrays(x + 1, x))["hash"] != before
    assert fingerprint(Arrays(x[:-1], x[:-1]))["hash"] != before
