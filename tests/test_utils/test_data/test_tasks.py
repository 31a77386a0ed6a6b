"""Tasks: what a target is, and what logits become."""

import pytest
import torch

from utils.data.tasks import TASKS, check_target, decide, label_of, probabilities

SHAPES = {  # task -> (logits, a target that fits)
    "binary": ((4, 1), torch.tensor([[0.0], [1.0], [0.5], [1.0]])),
    "multiclass": ((4, 3), torch.tensor([0, 1, 2, 0])),
    "multilabel": ((4, 3), torch.ones(4, 3)),
    "binary_segmentation": ((2, 1, 4, 5), torch.ones(2, 1, 4, 5)),
    "multiclass_segmentation": ((2, 3, 4, 5), torch.full((2, 4, 5), 2)),
    "multilabel_segmentation": ((2, 3, 4, 5), torch.zeros(2, 3, 4, 5)),
    "embedding": ((4, 8), torch.tensor([0, 70, 70, 3])),
    "regression": ((4, 2), torch.tensor([[-9.0, 4.0]] * 4)),
}


def test_every_task_is_covered():
    assert tuple(SHAPES) == TASKS


@pytest.mark.parametrize("task", TASKS)
def test_probabilities_and_decisions_agree(task):
    logits = torch.randn(SHAPES[task][0], generator=torch.Generator().manual_seed(0))
    share, decision = probabilities(logits, task), decide(logits, task)
    if task in ("embedding", "regression"):
        assert share is logits and decision is logits
    elif task.startswith("multiclass"):
        assert (share.sum(dim=1) - 1).abs().max() < 1e-6
        assert decision.dtype == torch.int64
        assert torch.equal(decision, share.argmax(dim=1))
    else:
        assert torch.equal(decision, share > 0.5)
        assert decision.shape == logits.shape


def test_a_logit_of_zero_is_a_no():
    assert not decide(torch.zeros(1, 1), "binary").any()


@pytest.mark.parametrize("task", TASKS)
def test_a_target_that_fits_has_no_problem(task):
    logits, target = SHAPES[task]
    assert check_target(target, task, logits[1]) is None
    assert check_target(target, task) is None


@pytest.mark.parametrize(
    ("task", "target", "n_classes", "problem"),
    [
        ("multiclass", torch.tensor([0, 3, 255]), 3, r"classes 0\.\.2 .* got 3, 255\."),
        ("multiclass", torch.tensor([0, -1]), None, "numbers from 0 .* got -1"),
        ("multiclass", torch.tensor([0.0, 1.0]), 3, "int64 .* got torch.float32"),
        ("multiclass", torch.tensor([[0], [1]]), 3, r"shape \(N\) .* got \(2, 1\)"),
        ("multiclass_segmentation", torch.full((1, 2, 2), 9), 9, r"classes 0\.\.8 .* got 9"),
        ("multiclass_segmentation", torch.zeros(1, 1, 2, 2).long(), 9, r"\(N, H, W\)"),
        ("binary", torch.tensor([[0.0], [255.0]]), 1, r"\[0, 1\] .* got 255\. .*label_values"),
        ("binary", torch.tensor([[float("nan")]]), 1, r"\[0, 1\] .* got nan"),
        ("binary", torch.tensor([[1.5]]), 1, r"\[0, 1\] .* got 1.5"),
        ("binary", torch.zeros(2), 1, r"shape \(N, 1\) .* got \(2,\)"),
        ("binary_segmentation", torch.zeros(2, 2, 4, 4), 2, r"shape \(N, 1, H, W\)"),
        ("multilabel", torch.zeros(2, 3), 4, r"shape \(N, 4\) .* got \(2, 3\)"),
        ("multilabel", torch.tensor([[-0.5]]), None, r"\[0, 1\] .* got -0.5"),
        ("multilabel_segmentation", torch.zeros(2, 4, 4), None, r"shape \(N, K, H, W\)"),
        ("embedding", torch.tensor([-2, 1]), 128, "numbers from 0 .* got -2"),
        ("regression", torch.tensor([[1.0, float("inf")]]), None, "finite floats .* got 1, inf"),
        ("regression", torch.tensor([1, 2]), None, "finite floats .* got 1, 2"),
    ],
)
def test_a_target_that_does_not_fit_is_described_in_one_line(task, target, n_classes, problem):
    with pytest.raises(ValueError, match=problem):
        raise ValueError(check_target(target, task, n_classes))
    assert "\n" not in check_target(target, task, n_classes)


def gallery(label, among):
    return {"label": torch.tensor(label), "gallery": torch.tensor(among)}


def test_a_target_of_queries_and_gallery_fits_an_embedding():
    target = gallery([0, 70, 3], [True, False, True])
    assert check_target(target, "embedding", 8) is None
    assert label_of(target, "embedding") is target["label"]
    assert label_of(target, "regression") is target
    assert label_of({"name": "a"}, "embedding") == {"name": "a"}


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        (gallery([0, -2], [True, False]), "numbers from 0 .* got -2"),
        (gallery([0.0, 1.0], [True, False]), "int64 .* got torch.float32"),
        (gallery([0, 1], [1, 0]), "gallery as bool .* got torch.int64"),
        (gallery([[0], [1]], [True, False]), r"label \(N,\) and gallery \(N,\) in a dict"),
        ({"label": torch.tensor([0])}, r"label \(N,\) and gallery \(N,\) in a dict"),
    ],
)
def test_a_gallery_that_does_not_fit_is_described(target, problem):
    with pytest.raises(ValueError, match=problem):
        raise ValueError(check_target(target, "embedding"))


def test_many_wrong_values_are_cut_short():
    assert "got 2, 3, 4, 5, 6, ...." in check_target(torch.arange(20), "multiclass", 2)


@pytest.mark.parametrize("call", [probabilities, decide, check_target])
def test_unknown_task_names_the_nearest(call):
    with pytest.raises(ValueError, match="got 'multi_label'. Did you mean \"multilabel\"?"):
        call(torch.zeros(2, 2), "multi_label")
