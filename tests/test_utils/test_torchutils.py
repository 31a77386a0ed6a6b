import contextlib
import os
import random
import warnings
from collections import OrderedDict

import pytest
import torch
from torch import nn

from utils.torchutils import (
    all_finite,
    count_parameters,
    load_file,
    load_weights,
    save_file,
    save_weights,
)


class Net(nn.Linear):
    """A whole object of it, pickled, names a class that is not torch's."""

    def __init__(self):
        super().__init__(2, 3)


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "net.pth"
    save_weights(path, Net().state_dict(), {"MODEL": "my.Net", "CLASSES": ["a", "b"]})
    return path


# -------------------------------------------------------------------------- written and read

CONTENT = {
    "tensors": [torch.arange(3), torch.tensor(1.5, dtype=torch.bfloat16)],
    "plain": {"a": 1, 2: (3.5, None, True), "text": "\u00e9", "inf": float("inf")},
}


def test_what_is_saved_is_loaded(tmp_path):
    save_file(CONTENT, tmp_path / "a.pt")
    loaded = load_file(tmp_path / "a.pt")
    assert loaded["plain"] == CONTENT["plain"]
    assert all(map(torch.equal, loaded["tensors"], CONTENT["tensors"]))
    assert loaded["tensors"][1].dtype == torch.bfloat16
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_plain_torch_reads_it(weights):
    content = torch.load(weights, weights_only=True)
    assert content["format"] == 1 and set(content["model"]) == {"weight", "bias"}
    assert content["meta"] == {"MODEL": "my.Net", "CLASSES": ["a", "b"]}


def test_a_file_of_torch_without_sha256_is_read(tmp_path):
    torch.save(CONTENT, tmp_path / "a.pt")
    assert load_file(tmp_path / "a.pt")["plain"] == CONTENT["plain"]


def test_before_replace_sees_the_former_file(tmp_path):
    path = tmp_path / "a.pt"
    save_file([1], path)
    seen = []
    save_file([2], path, before_replace=lambda: seen.append(load_file(path)))
    assert seen == [[1]] and load_file(path) == [2]


def test_no_file_by_this_name(tmp_path):
    with pytest.raises(FileNotFoundError, match='thing ".*a.pt": expected a file, got none. Check'):
        load_file(tmp_path / "a.pt", "thing")
    with pytest.raises(FileNotFoundError, match=r'weights ".*": expected a file, got none'):
        load_weights(tmp_path)


# ---------------------------------------------------------------------------------- damage


def test_one_flipped_bit_anywhere_is_noticed(weights):
    good = weights.read_bytes()
    draw = random.Random(0)
    places = [draw.randrange(8 * len(good)) for _ in range(200)]
    places += range(8 * (len(good) - 75), 8 * len(good))  # the sha256 and what stands around it
    for place in places:
        data = bytearray(good)
        data[place // 8] ^= 1 << place % 8
        weights.write_bytes(data)
        with pytest.raises(ValueError, match=r'weights ".*net.pth": expected .* damaged'):
            load_weights(weights)


def test_a_file_cut_short_is_noticed(weights):
    good = weights.read_bytes()
    draw = random.Random(0)
    for size in [0, 1, len(good) - 1, *(draw.randrange(len(good)) for _ in range(50))]:
        weights.write_bytes(good[:size])
        with pytest.raises(ValueError, match=r'weights ".*net.pth": expected .* damaged'):
            load_weights(weights)


def test_an_empty_file_has_a_readable_message(tmp_path):
    (tmp_path / "a.pt").touch()
    with pytest.raises(ValueError, match=r"got EOFError\. The file is damaged"):
        load_file(tmp_path / "a.pt")


@contextlib.contextmanager
def file_size_limit(n_bytes):
    """Refuse files above a size, as a full disk does."""
    resource = pytest.importorskip("resource")
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, former[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)


def test_a_full_disk_raises_and_leaves_the_former_file(tmp_path):
    path = tmp_path / "a.pt"
    save_file(torch.zeros(10), path)
    former = path.read_bytes()
    with file_size_limit(30_000):
        with pytest.raises(OSError, match="File too large"):
            save_file(torch.zeros(10_000), path)
        assert path.read_bytes() == former
        assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]
        save_file(torch.ones(10), path)  # the next one that fits is written
    assert torch.equal(load_file(path), torch.ones(10))


def test_what_cannot_be_saved_leaves_the_former_file(tmp_path):
    path = tmp_path / "a.pt"
    save_file([1], path)
    with pytest.raises(Exception, match="pickle"):
        save_file([lambda: 1], path)
    assert load_file(path) == [1] and len(list(tmp_path.iterdir())) == 1


# ---------------------------------------------------------------------------------- malice


class Malice:
    """Runs a command when it is unpickled by a loader that allows it."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("load", [load_file, load_weights])
def test_nothing_in_a_file_is_executed(load, is_zip, tmp_path, monkeypatch):
    mark, path = tmp_path / "executed", tmp_path / "bad.pth"
    content = {"model": {"weight": Malice(mark)}}
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(ValueError, match="expected tensors and plain data, got UnpicklingError"):
        load(path)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(ValueError, match="expected tensors and plain data, got UnpicklingError"):
        load(path)
    assert not mark.exists()
    with warnings.catch_warnings(action="ignore"):
        torch.load(path)  # the trap is real: the variable turns torch's own default off
    assert mark.exists()


@pytest.mark.parametrize("whole", [Net(), {"model": Net()}])
def test_whole_modules_are_refused_with_the_remedy(whole, tmp_path):
    torch.save(whole, tmp_path / "a.pth")
    message = "holds whole objects, which are refused .* Save the state dict of the model"
    with pytest.raises(ValueError, match=message):
        load_weights(tmp_path / "a.pth")


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*TorchScript archive")
def test_torchscript_archives_are_refused(tmp_path):
    torch.jit.trace(Net(), torch.zeros(1, 2)).save(tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r'weights ".*a.pth": expected tensors and plain data'):
        load_weights(tmp_path / "a.pth")


# -------------------------------------------------------------------------- weights of others

STATE = OrderedDict(weight=torch.ones(2), bias=torch.zeros(2))


@pytest.mark.parametrize(
    ("content", "meta"),
    [
        ({"format": 1, "model": STATE, "meta": {"TASK": "binary"}}, {"TASK": "binary"}),
        ({"model": STATE, "opt": {"lr": 0.1}}, {}),
        ({"model_state_dict": STATE, "epoch": 3}, {}),
        (STATE, {}),
        ({"model": STATE, "meta": "no dict"}, {}),
    ],
)
def test_every_layout_of_weights(content, meta, tmp_path):
    save_file(content, tmp_path / "a.pth")
    loaded = load_weights(tmp_path / "a.pth")
    assert set(loaded) == {"model", "meta"} and loaded["meta"] == meta
    assert list(loaded["model"]) == ["weight", "bias"]
    assert all(map(torch.equal, loaded["model"].values(), STATE.values()))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "expected a state dict, got list. Save model.state_dict"),
        (torch.zeros(2), "expected a state dict, got Tensor"),
        ({"format": 2, "model": STATE}, "expected format 1, got 2. Read it with the version"),
        ({"epoch": 3, "lr": 0.1}, 'one under "model", got the entries epoch, lr. Save'),
    ],
)
def test_what_holds_no_weights_is_refused(content, message, tmp_path):
    save_file(content, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=f'weights ".*a.pth": .*{message}'):
        load_weights(tmp_path / "a.pth")


def test_a_file_of_the_kit_without_its_sha256_is_refused(tmp_path):
    torch.save({"format": 1, "model": STATE, "meta": {}}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="expected a sha256 at its end, got none"):
        load_weights(tmp_path / "a.pth")


def test_weights_of_another_device_are_read_to_the_cpu(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"weight": torch.ones(2)}, path)
    data = path.read_bytes()
    assert data.count(b"cpu") == 1
    path.write_bytes(data.replace(b"cpu", b"zzz"))
    with pytest.raises(Exception, match="zzz"):
        torch.load(path, weights_only=True)
    assert load_weights(path)["model"]["weight"].device.type == "cpu"


# ------------------------------------------------------------------------------ small helpers


def test_count_parameters_counts_what_is_trained():
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    assert count_parameters(net) == 9 + 6
    net[0].weight.requires_grad_(False)
    assert count_parameters(net) == 3 + 6


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_all_finite(bad):
    good = [torch.ones(2), torch.arange(3), torch.ones(2, dtype=torch.bfloat16)]
    assert all_finite(good) and all_finite([])
    assert not all_finite([*good, torch.tensor([1.0, bad])])
