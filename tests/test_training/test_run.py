"""The Run's arithmetic against a loop written out by hand, and what it refuses."""

import functools
import logging
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import lr_scheduler

from config.errors import ConfigError
from tests.test_training.common import (
    CLASSES,
    Net,
    Noise,
    Pictures,
    folders,
    make_config,
    rows,
    train,
)
from training.callbacks import Callback
from training.run import Run
from utils.data.loading import make_loader
from utils.seed import STEP, WEIGHTS, mix, seed_all, seed_torch
from utils.torchutils import load_weights


def by_hand(accumulate=1, clip=None, epochs=2, schedule=None, decay=None):
    """Train the tiny task without the kit's Run; returns the weights and the average."""
    seed_all(mix(0, WEIGHTS))
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    n_updates = epochs * math.ceil(7 / accumulate)
    scheduler = schedule(optimizer, n_updates) if schedule else None
    average = [p.detach().clone() for p in model.parameters()]
    loader = make_loader(Pictures(), {"batch_size": 8}, 0, torch.device("cpu"), train=True)
    for epoch in range(epochs):
        loader.set_position(epoch)
        for i, (x, y) in enumerate(loader):
            seed_torch(mix(0, STEP, epoch, 0) + i)
            (nn.functional.cross_entropy(model(x), y) / accumulate).backward()
            if (i + 1) % accumulate and i + 1 < 7:
                continue
            if clip:
                clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad()
            if scheduler:
                scheduler.step()
            if decay:
                for mean, p in zip(average, model.parameters(), strict=True):
                    mean.mul_(decay).add_(p.detach(), alpha=1 - decay)
    return model, average


def trained(tmp_path, **changes):
    return load_weights(train("pytorch", tmp_path, **changes)["paths"]["last"])["model"]


@pytest.mark.parametrize(
    ("config", "options"),
    [
        ({}, {}),
        ({"ACCUMULATE": 3}, {"accumulate": 3}),
        ({"ACCUMULATE": 2, "CLIP_NORM": 0.1}, {"accumulate": 2, "clip": 0.1}),
        ({"ACCUMULATE": 50}, {"accumulate": 50}),  # one window, never full, flushed at the end
    ],
)
def test_weights_equal_a_loop_written_by_hand(config, options, tmp_path):
    torch.set_num_threads(1)
    expected, _ = by_hand(**options)
    for name, value in trained(tmp_path, **config).items():
        assert torch.equal(value, expected.state_dict()[name]), name


def test_one_cycle_spans_the_updates_of_the_run(tmp_path):
    def schedule(optimizer, n_updates):
        return lr_scheduler.OneCycleLR(optimizer, max_lr=0.05, total_steps=n_updates)

    expected, _ = by_hand(accumulate=3, schedule=schedule)
    state = trained(tmp_path, ACCUMULATE=3, ONE_CYCLE=True)
    assert torch.equal(state["head.2.weight"], expected.head[2].weight)


def test_average_is_validated_and_saved(tmp_path):
    expected, average = by_hand(decay=0.8)
    state = trained(tmp_path, EMA=0.8)
    for (name, _), mean in zip(expected.named_parameters(), average, strict=True):
        assert torch.allclose(state[name], mean, atol=1e-6)
    assert not torch.allclose(state["head.2.weight"], expected.head[2].weight, atol=1e-6)
    # batch norm's statistics are the model's own
    assert torch.equal(state["body.1.running_mean"], expected.body[1].running_mean)


def test_val_loss_is_the_mean_over_samples_and_train_loss_too(tmp_path):
    result = train("pytorch", tmp_path, EPOCHS=1, OPTIMIZER_CONFIG={"lr": 0.0})
    model = Net()
    model.load_state_dict(load_weights(result["paths"]["last"])["model"])
    data = Pictures(19, seed=1, augment=False)
    with torch.no_grad():
        loss = nn.functional.cross_entropy(model.eval()(data.x), data.y).item()
    assert result["metrics"]["val_loss"] == pytest.approx(loss, abs=1e-6)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_counted_metrics_equal_scikit_learns_for_any_batch_size(batch_size, tmp_path):
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    base = train("pytorch", tmp_path / "base", EPOCHS=1)["paths"]["last"]
    config = {"WEIGHTS": base, "OPTIMIZER_CONFIG": {"lr": 0.0}, "EPOCHS": 1}
    # batch norm's statistics must stay: a frozen copy of the network
    result = train("pytorch", tmp_path / "again", **config, MODEL=Frozen,
                   DATA_LOADER_CONFIG={"batch_size": batch_size})  # fmt: skip
    model = Net()
    model.load_state_dict(load_weights(base)["model"])
    data = Pictures(19, seed=1, augment=False)
    with torch.no_grad():
        decided = model.eval()(data.x).argmax(1)
    assert result["metrics"]["val_accuracy"] == (decided == data.y).sum().item() / 19
    f1 = sklearn_metrics.f1_score(data.y, decided, average="macro")
    assert result["metrics"]["val_f1"] == pytest.approx(f1, abs=1e-12)


class Frozen(Net):
    def train(self, mode=True):
        return super().train(False)


def test_lr_in_metrics_csv_is_that_of_the_last_update(tmp_path):
    cosine = {"SCHEDULER": lr_scheduler.CosineAnnealingLR, "EPOCHS": 2}
    result = train("pytorch", tmp_path, **cosine)
    metrics = rows(Path(result["paths"]["log_dir"], "metrics.csv"))
    assert [float(row["lr"]) for row in metrics] == [0.05, 0.025]
    assert metrics[0]["lr"] == "0.05"


def test_plateau_sees_the_monitored_value(tmp_path):
    config = {
        "SCHEDULER": lr_scheduler.ReduceLROnPlateau,
        "SCHEDULER_CONFIG": {"patience": 0, "threshold": 9.0, "threshold_mode": "abs"},
        "EPOCHS": 3,
    }
    metrics = rows(Path(train("pytorch", tmp_path, **config)["paths"]["log_dir"], "metrics.csv"))
    assert [float(row["lr"]) for row in metrics] == pytest.approx([0.05, 0.05, 0.005])


def test_lr_key_and_default_optimizer(tmp_path):
    run = Run(make_config(OPTIMIZER=None, OPTIMIZER_CONFIG={}, LR=0.125), folders(tmp_path))
    assert isinstance(run.optimizer, torch.optim.AdamW)
    assert run.optimizer.param_groups[0]["lr"] == 0.125


def test_loss_as_class_function_and_module(tmp_path):
    smooth = {"label_smoothing": 0.3}
    losses = []
    for loss, arguments in [
        (nn.CrossEntropyLoss, smooth),
        (nn.functional.cross_entropy, smooth),
        (nn.CrossEntropyLoss(**smooth), {}),
    ]:
        run = Run(make_config(LOSS=loss, LOSS_CONFIG=arguments), folders(tmp_path))
        losses.append(run.loss(torch.eye(CLASSES), torch.arange(CLASSES)).item())
    assert losses[0] == losses[1] == losses[2]


def test_a_loss_module_of_the_config_is_not_trained_itself(tmp_path):
    weighted = nn.CrossEntropyLoss(weight=torch.ones(CLASSES))
    run = Run(make_config(LOSS=weighted), folders(tmp_path))
    assert run.loss is not weighted


def test_weights_start_the_training(tmp_path):
    first = train("pytorch", tmp_path / "first")
    run = Run(make_config(WEIGHTS=first["paths"]["last"]), folders(tmp_path))
    state = load_weights(first["paths"]["last"])["model"]
    assert all(torch.equal(value, state[name]) for name, value in run.module.state_dict().items())


def test_compiled_models_save_plain_names(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    result = train("pytorch", tmp_path, COMPILE=True, EPOCHS=1)
    assert set(load_weights(result["paths"]["last"])["model"]) == set(Net().state_dict())


def test_threads_are_recorded_and_given_back(tmp_path):
    before = torch.get_num_threads()
    result = train("pytorch", tmp_path, NUM_THREADS=2, EPOCHS=1)
    assert torch.get_num_threads() == before
    text = Path(result["paths"]["log_dir"], "config.yaml").read_text()
    assert "NUM_THREADS: 2\n" in text


def test_user_state_is_tracked(tmp_path):
    with Run(make_config(), folders(tmp_path)) as run:
        other = torch.optim.SGD(Net().parameters(), lr=1.0)
        run.track("other", other)
        assert "other" in run.state_dict()
        with pytest.raises(ValueError, match='expected the part "module", got other'):
            run.load_state_dict({"other": {}})


def test_a_key_of_another_routine_is_warned_about(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    result = train("pytorch", tmp_path, FASTAI_CBS=[1], EPOCHS=1)
    log = Path(result["paths"]["log_dir"], "train.log").read_text()
    assert "warning: FASTAI_CBS does nothing under the routine pytorch" in log


def test_what_cannot_be_captured_is_named(tmp_path):
    result = train("pytorch", tmp_path, CALLBACKS=[Noise()], EPOCHS=1)
    log = Path(result["paths"]["log_dir"], "train.log").read_text()
    assert "warning: not captured" in log and "CALLBACKS.0" in log
    text = Path(result["paths"]["log_dir"], "config.yaml").read_text()
    assert "!not-captured" in text and "0x" not in text


# ------------------------------------------------------------------------------ bad input


def problems_of(tmp_path, **changes):
    with pytest.raises(ConfigError) as error:
        Run(make_config(**changes), folders(tmp_path))
    assert not list(tmp_path.iterdir())
    return "\n".join(error.value.problems)


def test_problems_of_data_model_and_metrics_come_together(tmp_path):
    text = problems_of(
        tmp_path,
        MODEL=broken_model,
        TRAIN_DATASET=Empty,
        METRICS={"f1": 3},
    )
    assert "TRAIN_DATASET: " in text and "METRICS: " in text
    assert "MODEL_CONFIG: expected luck" in text


def broken_model():
    raise ValueError("expected luck, got none.")


class Empty(Pictures):
    def __init__(self):
        super().__init__(0)


def test_labels_outside_the_classes(tmp_path):
    text = problems_of(tmp_path, MODEL=functools.partial(SmallNet, 2))
    assert "TRAIN_DATASET, first batch: " in text and "VAL_DATASET, first batch: " in text


class SmallNet(nn.Sequential):
    def __init__(self, n):
        super().__init__(nn.Flatten(), nn.Linear(36, n))


def test_more_classes_than_outputs_by_name(tmp_path):
    assert "first batch" in problems_of(tmp_path, CLASSES=["one", "two"])


def test_a_loss_that_gives_no_number(tmp_path):
    text = problems_of(tmp_path, LOSS_CONFIG={"reduction": "none"})
    assert "LOSS: expected one number for a batch, got a tensor of shape (2,)" in text


def test_a_model_that_does_not_take_the_data(tmp_path):
    assert "first batch" in problems_of(tmp_path, MODEL=functools.partial(nn.Linear, 5, 3))


def test_unknown_monitor(tmp_path):
    text = problems_of(tmp_path, MONITOR="val_acuracy", MONITOR_MODE="max")
    assert 'got "val_acuracy". Did you mean "val_accuracy"?' in text


def test_no_validation_data_for_the_monitor(tmp_path):
    text = problems_of(tmp_path, VAL_DATASET=None)
    assert 'MONITOR: expected validation data for "val_loss"' in text


def test_weights_of_another_network(tmp_path):
    first = train("pytorch", tmp_path / "first", EPOCHS=1)
    with pytest.raises(ConfigError, match="WEIGHTS: weights .*unexpected: body.0.weight"):
        Run(make_config(MODEL=functools.partial(SmallNet, 3), WEIGHTS=first["paths"]["last"]),
            folders(tmp_path))  # fmt: skip


def test_drop_last_that_leaves_nothing(tmp_path):
    text = problems_of(tmp_path, DATA_LOADER_CONFIG={"batch_size": 64, "drop_last": True})
    assert "expected a batch_size of at most 51 samples with drop_last, got 64" in text


# ---------------------------------------------------------------------------------- ends


class Late(Callback):
    """Fails when the run is over."""

    def on_end(self, run, result):
        raise ValueError("late")


class Heard(Callback):
    ends: list = []

    def on_end(self, run, result):
        Heard.ends.append(result["status"])


def test_a_callback_that_fails_at_the_end_fails_the_run_and_the_others_hear_of_it(tmp_path):
    Heard.ends.clear()
    with pytest.raises(ValueError, match="late"):
        train("pytorch", tmp_path, EPOCHS=1, CALLBACKS=[Late, Heard])
    assert Heard.ends == ["done"]
    (row,) = rows(tmp_path / "logs" / "experiments.csv")
    assert row["STATUS"] == "failed" and row["ERROR"] == "ValueError: late"


class Early(Callback):
    def on_start(self, run):
        raise ValueError("early")


def test_a_failure_at_the_start_is_recorded_and_frees_everything(tmp_path):
    before = torch.get_num_threads()
    with pytest.raises(ValueError, match="early"):
        train("pytorch", tmp_path, CALLBACKS=[Early], NUM_THREADS=before + 1)
    (row,) = rows(tmp_path / "logs" / "experiments.csv")
    assert row["STATUS"] == "failed" and torch.get_num_threads() == before


class SplitAtRandom(Pictures):
    def __init__(self):
        super().__init__()
        keep = torch.randperm(51)[:40]
        self.x, self.y = self.x[keep], self.y[keep]


def test_a_dataset_that_splits_at_random_is_the_same_in_every_run(tmp_path):
    torch.manual_seed(1)
    first = trained(tmp_path / "a", TRAIN_DATASET=SplitAtRandom)
    torch.manual_seed(2)
    second = trained(tmp_path / "b", TRAIN_DATASET=SplitAtRandom)
    assert all(torch.equal(first[name], second[name]) for name in first)


class DrawsInEval(Net):
    def forward(self, x):
        return super().forward(x) + 0.1 * torch.rand(1)


def test_a_model_that_draws_in_eval_mode_has_the_same_values(tmp_path):
    torch.manual_seed(1)
    first = train("pytorch", tmp_path / "a", MODEL=DrawsInEval)["metrics"]
    second = train("pytorch", tmp_path / "b", MODEL=DrawsInEval, CALLBACKS=[Noise])["metrics"]
    assert first == second
