import json

import numpy as np
import pytest
import torch
from torch import nn

from models.predictor import Predictor, load_predictor
from utils.torchutils import save_weights

torch.set_num_threads(1)


class FirstRow(nn.Module):
    """Gives the first row of the picture as logits: (N, C, H, W) to (N, W)."""

    def forward(self, x):
        return x[:, 0, 0]


class Whole(nn.Module):
    """Gives no tensor."""

    def forward(self, x):
        return {"out": x}


class Squeezed(nn.Module):
    """Loses the batch axis of a single picture."""

    def forward(self, x):
        return x.squeeze()


def pick(weight) -> nn.Module:
    """Return a 1 x 1 convolution with these weights (K, C)."""
    weight = torch.as_tensor(weight, dtype=torch.float32)
    network = nn.Conv2d(weight.shape[1], len(weight), 1, bias=False)
    network.weight.data = weight[:, :, None, None]
    return network


@pytest.fixture
def path(tmp_path):
    return tmp_path / "w.pth"


def save(path, **meta):
    """Save the weights of a convolution that gives what it gets."""
    config = {"in_channels": 1, "out_channels": 1, "kernel_size": 1, "bias": False}
    config = {"MODEL": "torch.nn.Conv2d", "MODEL_CONFIG": json.dumps(config)}
    save_weights(path, pick([[1]]).state_dict(), config | meta)


@pytest.mark.parametrize(
    ("task", "row", "decision"),
    [
        ("multiclass", [0, 3, 1], np.int64(1)),
        ("multilabel", [1, -1], np.array([1, 0], np.uint8)),
        ("binary", [2], np.uint8(1)),
        ("regression", [2, -1], np.array([2, -1], np.float32)),
        (None, [2], np.float32(2)),
    ],
)
def test_decisions_about_the_whole_input(task, row, decision):
    found = Predictor(FirstRow(), "cpu", task)(np.array([row, row]))
    assert isinstance(found, np.ndarray)
    assert found.dtype == decision.dtype
    assert np.array_equal(found, decision)


@pytest.mark.parametrize(
    ("task", "pixels", "decision"),
    [  # of one row, which stays an axis
        ("binary_segmentation", [0, 5, -5], [0, 1, 0]),
        ("multilabel_segmentation", [1, -1], [1, 0]),  # of one label
        ("multilabel_segmentation", [[1, -1], [2, 3]], [[1, 0], [1, 1]]),
        ("multiclass_segmentation", [[5, 0, 0], [0, 1, 5]], [0, 2]),
    ],
)
def test_maps_of_decisions(task, pixels, decision):
    x = np.array([pixels], np.float32)
    predictor = Predictor(nn.Identity(), "cpu", task)
    found, shares = predictor(x), predictor.probabilities(x)
    assert (found.dtype, shares.dtype) == (np.uint8, np.float32)
    assert found.tolist() == [decision]
    if task == "multiclass_segmentation":
        assert np.allclose(shares, np.exp(x) / np.exp(x).sum(axis=2, keepdims=True), atol=1e-6)
    else:
        assert np.allclose(shares, 1 / (1 + np.exp(-x)), atol=1e-6)


def test_more_classes_than_a_byte_holds():
    x = np.zeros((1, 2, 300))
    x[0, [0, 1], [299, 1]] = 1
    decision = Predictor(nn.Identity(), "cpu", "multiclass_segmentation")(x)
    assert decision.dtype == np.int64
    assert decision.tolist() == [[299, 1]]


@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 6), (3, 2)])
def test_maps_have_the_size_of_the_input_although_it_is_resized(path, height, width):
    save(path, TASK="binary_segmentation", PREPROCESS={"size": [4, 4], "scale": 0.5, "mean": 1})
    x = np.zeros((height, width))
    x[:, width // 2 :] = 8
    predictor = load_predictor(path)
    decision = predictor(x)
    assert decision.shape == x.shape == predictor.probabilities(x).shape
    assert decision[:, 0].max() == 0
    assert decision[:, -1].min() == 1
    raw = load_predictor(path, preprocess={"size": None})
    assert np.allclose(raw.logits(x).numpy()[0, 0], x * 0.5 - 1)  # the file's other keys stay


# ---- several inputs, and files


class Counting(nn.Module):
    """Gives what it gets, and notes the shapes."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def forward(self, x):
        self.shapes.append(tuple(x.shape))
        return 2 * x


@pytest.fixture
def pictures():
    """Return pictures of two sizes, one of them once without its only channel."""
    shapes = [(2, 3), (4, 3, 1), (2, 3, 1), (4, 3), (2, 3)]
    return [np.full(shape, i - 2, np.float32) for i, shape in enumerate(shapes)]


def test_a_list_gives_a_list_in_its_order(pictures):
    predictor = Predictor(Counting(), "cpu", "binary_segmentation")
    alone = [predictor(picture) for picture in pictures]
    predictor.model.shapes.clear()
    together = predictor(pictures, batch_size=2)
    assert predictor.model.shapes == [(2, 1, 2, 3), (1, 1, 2, 3), (2, 1, 4, 3)]
    assert all(map(np.array_equal, together, alone))
    assert [found.shape for found in together] == [(2, 3), (4, 3), (2, 3), (4, 3), (2, 3)]
    shares = predictor.probabilities(tuple(pictures), 3)
    assert [bool(share.max() > 0.5) for share in shares] == [False, False, False, True, True]
    assert [logits.shape for logits in predictor.logits(pictures, 5)][1] == (1, 1, 4, 3)
    assert predictor([]) == []


def test_inputs_that_are_resized_to_one_size_go_together(pictures):
    predictor = Predictor(Counting(), "cpu", "binary_segmentation", None, {"size": [4, 4]})
    together = predictor(pictures, batch_size=5)
    assert predictor.model.shapes == [(5, 1, 4, 4)]
    assert [found.shape for found in together] == [(2, 3), (4, 3), (2, 3), (4, 3), (2, 3)]


def test_an_array_of_pictures_is_a_list_of_them():
    predictor, pictures = Predictor(Counting(), "cpu"), np.arange(24.0).reshape(3, 2, 2, 2)
    found = predictor(pictures, batch_size=2)
    assert predictor.model.shapes == [(2, 2, 2, 2), (1, 2, 2, 2)]
    assert np.array_equal(found, 2 * pictures)


def test_files_are_read(tmp_path, pictures):
    paths = [tmp_path / f"{i}.npy" for i in range(5)]
    for file, picture in zip(paths, pictures, strict=True):
        np.save(file, picture)
    predictor = Predictor(Counting(), "cpu", "binary_segmentation")
    assert np.array_equal(predictor(paths[3]), predictor(pictures[3]))
    assert np.array_equal(predictor(str(paths[3])), predictor(pictures[3]))
    found = predictor([*paths, pictures[0]], batch_size=2)
    assert all(map(np.array_equal, found, predictor([*pictures, pictures[0]])))
    with pytest.raises(FileNotFoundError, match=r"none\.npy"):
        predictor([paths[0], tmp_path / "none.npy"])


def test_what_is_given_goes_before_the_file(path):
    save(path, TASK="binary_segmentation", CLASSES=["sea", "ship"])
    of_file = load_predictor(path)
    assert (of_file.task, of_file.class_names(1)) == ("binary_segmentation", ["sea", "ship"])
    given = load_predictor(path, device="cpu", task="multilabel_segmentation", classes=("ship",))
    assert (given.task, given.class_names(1)) == ("multilabel_segmentation", ["ship"])
    assert given.device == torch.device("cpu")


@pytest.mark.parametrize(
    ("task", "classes", "n_outputs", "names"),
    [
        ("binary", None, 1, ["0", "1"]),
        ("binary_segmentation", ["ship"], 1, ["not ship", "ship"]),
        ("binary", ["sea", "ship"], 1, ["sea", "ship"]),
        ("multilabel", ["ship"], 1, ["ship"]),
        ("multiclass", [], 2, ["0", "1"]),
        ("multiclass", [4, 7], 2, ["4", "7"]),
    ],
)
def test_names_of_classes(task, classes, n_outputs, names):
    assert Predictor(nn.Identity(), "cpu", task, classes).class_names(n_outputs) == names


def test_names_that_do_not_fit_the_outputs_are_refused():
    predictor = Predictor(nn.Identity(), "cpu", "multiclass", ["a", "b"])
    with pytest.raises(ValueError, match="CLASSES: expected 3 names for multiclass, got a, b."):
        predictor.class_names(3)


@pytest.mark.parametrize(
    ("meta", "problem"),
    [
        ({"TASK": "os.system"}, "TASK: expected one of .*, got 'os.system'"),
        ({"TASK": ["binary"], "CLASSES": 3}, "TASK: expected one of .*\nCLASSES: expected a list"),
        ({"CLASSES": "ab"}, "CLASSES: expected a list, or None, got 'ab'"),
        ({"PREPROCESS": {"_target_": "os.getcwd"}}, r'PREPROCESS\["_target_"\]: expected one of'),
        ({"PREPROCESS": 3}, "PREPROCESS: expected a dict, got 3"),
    ],
)
def test_what_the_file_says_is_checked(path, meta, problem):
    save(path, **meta)
    with pytest.raises(ValueError, match=problem):
        load_predictor(path, preprocess={"scale": 0.5})


@pytest.mark.parametrize(
    ("network", "task", "problem"),
    [
        (Whole(), None, "MODEL: expected a network that gives a tensor, got dict"),
        (FirstRow(), "binary", r"expected outputs \(1, 1\) for binary, got \(1, 3\)"),
        (Squeezed(), None, r"expected outputs \(1, \.\.\.\) for None, got \(2, 3\)"),
        (
            FirstRow(),
            "multiclass_segmentation",
            r"expected outputs \(1, K, H, W\) for multiclass_segmentation, got \(1, 3\)",
        ),
        (pick([[1], [2]]), "binary_segmentation", r"\(1, 1, H, W\) for .*, got \(1, 2, 2, 3\)"),
        (nn.Identity(), "multilabel", r"outputs \(1, K\) for multilabel, got \(1, 1, 2, 3\)"),
        (pick([[1, 1]]), None, r"expected an array that the network takes, got shape \(2, 3\): "),
        (pick([[np.nan]]), "binary_segmentation", "expected numbers from the network, got NaN"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(network, task, problem):
    with pytest.raises(ValueError, match=problem):
        Predictor(network, "cpu", task)(np.zeros((2, 3)))


def test_without_a_task_there_are_no_probabilities():
    with pytest.raises(ValueError, match="TASK: expected one of"):
        Predictor(nn.Identity(), "cpu").probabilities(np.zeros((2, 3)))
