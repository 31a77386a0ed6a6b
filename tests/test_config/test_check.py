import functools
import inspect
import re
import sys
from collections.abc import Callable
from typing import Any, Optional

import pytest
import torch
from torch import nn

from config.check import FILLED_IN, check_call, check_config
from config.keys import KEYS
from models import UNET
from utils.loss import f1, precision, recall, smooth_dice_loss


class Net(nn.Module):
    def __init__(
        self,
        ch_in: int,
        depth: int | None = None,
        width: Optional[int] = None,  # noqa: UP045, users write it
        dropout: "float" = 0.0,
        name: str = "net",
        flat: bool = False,
        activ: Callable[[], nn.Module] = nn.ELU,
        old: int = None,  # noqa: RUF013, users write it
        half: int = 0.5,
    ) -> None:
        super().__init__()


class Data:
    def __init__(self, root: str, task: str, fold: int = 0) -> None:
        self.root = root


def loss(pred: torch.Tensor, target: torch.Tensor, gamma: float = 2.0) -> torch.Tensor:
    return gamma * (pred - target).abs().mean()


def anything(**kwargs: Any) -> nn.Module:
    return nn.Identity()


GOOD = {"MODEL": Net, "MODEL_CONFIG": {"ch_in": 3}, "LOSS": loss}


def problems(**config):
    return check_config(GOOD | config)


def only(found):
    assert len(found) == 1, found
    return found[0]


# ------------------------------------------------------------------------------ good configs


def test_a_good_config_has_no_problem():
    assert problems() == []


def test_dict_of_the_first_readme_has_no_problem():
    class Loss:  # the one of Ignite costs 3 s to import
        def __init__(self, function: Callable) -> None:
            self.function = function

    train_config = {
        "DATE": "20261120-143000",
        "SESSION_NAME": "training-run",
        "ROUTINE_NAME": sys.modules[__name__],
        "MODEL": UNET,
        "MODEL_CONFIG": {
            "ch_in": 12,
            "ch_out": 2,
            "n_recursions": 5,
            "dropout": 0.2,
            "use_shuffle": True,
            "activ": nn.ELU,
        },
        "DATA_LOADER_CONFIG": {
            "batch_size": 1,
            "shuffle": True,
            "pin_memory": True,
            "num_workers": 8,
        },
        "OPTIMIZER": torch.optim.SGD,
        "OPTIMIZER_CONFIG": {"lr": 1e-3},
        "EPOCHS": 100,
        "LOSS": smooth_dice_loss,
        "METRICS": {"f1": Loss(f1), "precision": Loss(precision), "recall": Loss(recall)},
        "DEVICE": torch.device("cuda"),
        "LOGFILE": "experiments.csv",
        "__COMMENT": None,
    }
    assert check_config(train_config) == []


@pytest.mark.parametrize(
    ("optimizer", "arguments"),
    [
        (None, {"lr": 1e-3, "weight_decay": 0}),
        (torch.optim.SGD, {"lr": 0.1, "momentum": 0, "nesterov": False}),
        (torch.optim.Adam, {"lr": torch.tensor(0.1), "betas": (0.9, 0.99), "fused": None}),
        (torch.optim.AdamW, {"amsgrad": True, "eps": 1e-8}),
        (torch.optim.RMSprop, {}),
        (torch.optim.LBFGS, {"max_iter": 4, "max_eval": None, "line_search_fn": "strong_wolfe"}),
        (functools.partial(torch.optim.SGD, momentum=0.9), {"lr": 1}),
    ],
)
def test_optimizers_of_torch_give_no_false_alarm(optimizer, arguments):
    assert problems(OPTIMIZER=optimizer, OPTIMIZER_CONFIG=arguments) == []


def test_every_optimizer_of_torch_can_be_named_alone():
    found = vars(torch.optim).values()
    optimizers = [
        value
        for value in found
        if isinstance(value, type)
        and issubclass(value, torch.optim.Optimizer)
        and value is not torch.optim.Optimizer
    ]
    assert len(optimizers) > 10
    assert [
        problems(OPTIMIZER=optimizer) for optimizer in optimizers if problems(OPTIMIZER=optimizer)
    ] == []


@pytest.mark.parametrize(
    ("scheduler", "arguments"),
    [
        ("OneCycleLR", {}),
        ("OneCycleLR", {"max_lr": 0.1, "total_steps": 10, "anneal_strategy": "linear"}),
        ("OneCycleLR", {"epochs": 2, "steps_per_epoch": 5, "pct_start": 0}),
        ("CosineAnnealingLR", {}),
        ("CosineAnnealingLR", {"T_max": 10, "eta_min": 0}),
        ("CosineAnnealingWarmRestarts", {"T_0": 2}),
        ("ReduceLROnPlateau", {"mode": "max", "patience": 3, "min_lr": [0.1]}),
        ("StepLR", {"step_size": 10}),
        ("MultiStepLR", {"milestones": [2, 3], "gamma": 0.5}),
        ("LinearLR", {"start_factor": 0.1}),
        ("LambdaLR", {"lr_lambda": abs}),
        ("ExponentialLR", {"gamma": 1}),
        ("PolynomialLR", {}),
    ],
)
def test_schedulers_of_torch_give_no_false_alarm(scheduler, arguments):
    scheduler = getattr(torch.optim.lr_scheduler, scheduler)
    assert problems(SCHEDULER=scheduler, SCHEDULER_CONFIG=arguments) == []


@pytest.mark.parametrize(
    ("made", "arguments"),
    [
        (nn.MSELoss, {}),
        (nn.CrossEntropyLoss, {"label_smoothing": 0.1, "weight": torch.ones(2)}),
        (nn.functional.cross_entropy, {"label_smoothing": 0.1, "reduction": "mean"}),
        (nn.BCEWithLogitsLoss(), {}),
        (functools.partial(loss, gamma=1.0), {}),
        (lambda pred, target: (pred - target).mean(), {}),
    ],
)
def test_losses_give_no_false_alarm(made, arguments):
    assert problems(LOSS=made, LOSS_CONFIG=arguments) == []


def make_net(ch_in: int, ch_out: int = 1) -> nn.Module:
    return nn.Linear(ch_in, ch_out)


@pytest.mark.parametrize(
    ("made", "arguments"),
    [
        (make_net, {"ch_in": 3}),
        (functools.partial(make_net, 3), {"ch_out": 1}),
        (functools.partial(make_net, ch_in=3), {}),
        (functools.partial(functools.partial(make_net, ch_in=3), ch_out=2), {"ch_out": 3}),
        (anything, {"whatever": 1}),
        (nn.Linear, {"in_features": 1, "out_features": 1, "dtype": torch.float64}),
        (dict, {"a": 1}),  # a built-in without a signature
    ],
)
def test_what_makes_a_model_may_be_any_callable(made, arguments):
    assert problems(MODEL=made, MODEL_CONFIG=arguments) == []


def test_builtins_without_a_signature_are_left_alone():
    with pytest.raises(ValueError, match="no signature found"):
        inspect.signature(dict)
    assert check_call(dict, {"a": 1}, "here") == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ch_in", 3),
        ("depth", None),
        ("depth", 4),
        ("width", None),
        ("width", 4),
        ("dropout", 0),
        ("dropout", 0.5),
        ("name", "a"),
        ("flat", True),
        ("activ", nn.ReLU),
        ("activ", "text where no rule is known"),
        ("old", None),
        ("half", 0.25),
    ],
)
def test_argument_that_fits_its_annotation(name, value):
    assert problems(MODEL_CONFIG={"ch_in": 3, name: value}) == []


# --------------------------------------------------------------------------- one bad thing each


def test_unknown_key_says_what_was_meant():
    assert only(problems(OPTIMISER=torch.optim.SGD)) == (
        'train_config["OPTIMISER"]: expected a known key, got "OPTIMISER".'
        ' Did you mean "OPTIMIZER"? `python train.py --help` lists all keys.'
    )


def test_key_that_is_no_text():
    assert 'train_config["3"]: expected a known key, got "3".' in only(check_config(GOOD | {3: 1}))


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("EPOCHS", 1.5, "an integer of at least 1, got 1.5. It is: passes over the training data."),
        ("SEED", -1, "an integer from 0 to 2**63 - 1, got -1. "),
        ("LR", "1e-3", "a number above 0, or None, got '1e-3'. "),
        ("EMA", 1, "a number above 0 and below 1, or None, got 1. "),
        ("ONE_CYCLE", "true", "True or False, got 'true'. "),
        ("MIXED_PRECISION", 1, "one of False, True, 'bf16', 'fp16', got 1. "),
        ("SESSION_NAME", None, "text, got None. "),
        ("MODEL_CONFIG", [1], "a dict of keyword arguments, got [1]. "),
        ("MODEL_CONFIG", {1: 2}, "a dict of keyword arguments, got {1: 2}. "),
        ("METRICS", "f1", "a dict from name to metric, or a list of metrics, got 'f1'. "),
        ("CALLBACKS", {}, "a list, got {}. "),
        ("CHECKPOINT", 1, "a dict, got 1. "),
        ("WEIGHTS", 1, "the path of a file, or None, got 1. "),
        ("DEVICE", 0, '"cpu", "cuda", "cuda:N" or a torch.device, or None, got 0. '),
        ("ROUTINE_NAME", 1, 'a short name ("pytorch"), a dotted module or a module with train()'),
        ("MODEL", "models.UNET", "a class or a function, got 'models.UNET'. It is: "),
        ("LOSS", 1, "a class, a function or a loss module, got 1. Name the class, and put its"),
        ("TRAIN_DATASET", [1], "a class or a function, or None, got [1]. Name the class, and put"),
    ],
)
def test_wrong_kind(name, value, rule):
    assert only(problems(**{name: value})).startswith(f'train_config["{name}"]: expected {rule}')


def test_model_that_is_built_already():
    assert only(problems(MODEL=nn.Sequential(nn.Linear(3, 2), nn.ReLU()))) == (
        'train_config["MODEL"]: expected a class or a function, got Sequential( (0):'
        " Linear(in_features=3, out_features=2, bias=True) (1): ReLU() )."
        " Name the class, and put its arguments into MODEL_CONFIG."
    )


def test_loss_that_is_a_partial_of_a_class_would_be_called_with_a_batch():
    made = functools.partial(nn.CrossEntropyLoss, label_smoothing=0.1)
    problem = only(problems(LOSS=made))
    assert problem.startswith('train_config["LOSS"]: expected a class, a function or a loss module')
    assert problem.endswith("Name the class, and put its arguments into LOSS_CONFIG.")


@pytest.mark.parametrize("name", ["MODEL", "LOSS"])
@pytest.mark.parametrize("is_none", [True, False])
def test_required_key(name, is_none):
    config = GOOD | {name: None}
    if not is_none:
        del config[name]
    assert only(check_config(config)).startswith(f'train_config["{name}"]: expected a class')


@pytest.mark.parametrize(
    ("name", "value", "arguments", "message"),
    [
        (
            "MODEL",
            Net,
            {"ch_in": 3, "droput": 0.5},
            "expected an argument of Net (ch_in, depth, width, dropout, name, flat, activ, old,"
            ' half), got "droput". Did you mean "dropout"? Rename it, or remove it with'
            " ~MODEL_CONFIG.droput.",
        ),
        (
            "OPTIMIZER",
            functools.partial(torch.optim.SGD, nesterov=True),
            {"momentun": 0.9},
            'got "momentun". Did you mean "momentum"? Rename it, or remove it with'
            " ~OPTIMIZER_CONFIG.momentun.",
        ),
        (
            "LOSS",
            loss,
            {"gama": 1.0},
            'expected an argument of loss (gamma), got "gama". Did you mean "gamma"? Rename it,'
            " or remove it with ~LOSS_CONFIG.gama.",
        ),
        (
            "LOSS",
            nn.CrossEntropyLoss,
            {"label_smooth": 0.1},
            'got "label_smooth". Did you mean "label_smoothing"? Rename it',
        ),
        (
            "TRAIN_DATASET",
            Data,
            {"root": "a", "folder": 1},
            'expected an argument of Data (root, task, fold), got "folder". Did you mean "fold"?'
            " Rename it, or remove it with ~TRAIN_DATASET_CONFIG.folder.",
        ),
        (
            "SCHEDULER",
            torch.optim.lr_scheduler.StepLR,
            {"step_size": 1, "gama": 0.1},
            'expected an argument of StepLR (step_size, gamma, last_epoch), got "gama". Did you',
        ),
        ("LOSS", loss, {"pred": 1}, 'expected an argument of loss (gamma), got "pred".'),
        (
            "MODEL",
            nn.Identity.forward,
            {"inputt": 1, "self": 1, "input": 1},
            'expected an argument of forward (self, input), got "inputt".',
        ),
    ],
)
def test_misspelt_argument(name, value, arguments, message):
    problem = only(problems(**{name: value, f"{name}_CONFIG": arguments}))
    assert problem.startswith(f'train_config["{name}_CONFIG"]: ')
    assert message in problem


def test_optimizer_that_is_not_named_is_adamw():
    message = "expected an argument of AdamW (lr, betas, eps, weight_decay, "
    assert message in only(problems(OPTIMIZER_CONFIG={"momentum": 0.9}))


def test_one_cycle_takes_the_arguments_of_the_scheduler():
    assert problems(ONE_CYCLE=True, SCHEDULER_CONFIG={"pct_start": 0.2}) == []
    message = only(problems(ONE_CYCLE=True, SCHEDULER_CONFIG={"pct_strat": 0.2}))
    assert "of OneCycleLR" in message and 'Did you mean "pct_start"?' in message


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("ch_in", "12", "int, got '12'"),
        ("ch_in", True, "int, got True"),
        ("ch_in", 1.0, "int, got 1.0"),
        ("ch_in", None, "int, got None"),
        ("depth", "4", "int or None, got '4'"),
        ("width", 1.5, "int or None, got 1.5"),
        ("dropout", "0.5", "float, got '0.5'"),
        ("dropout", False, "float, got False"),
        ("name", 3, "str, got 3"),
        ("name", None, "str, got None"),
        ("flat", 1, "bool, got 1"),
        ("flat", "yes", "bool, got 'yes'"),
        ("half", "x", "int, got 'x'"),
    ],
)
def test_argument_of_a_wrong_type(name, value, rule):
    assert only(problems(MODEL_CONFIG={"ch_in": 3, name: value})) == (
        f'train_config["MODEL_CONFIG"]["{name}"]: expected {rule}. Net says so in its signature.'
    )


def test_text_is_no_learning_rate():
    message = 'train_config["OPTIMIZER_CONFIG"]["lr"]: expected float, got \'1e-3x\'.'
    found = problems(OPTIMIZER=torch.optim.Adam, OPTIMIZER_CONFIG={"lr": "1e-3x"})
    assert only(found).startswith(message)


def test_types_are_judged_below_partials_and_of_functions():
    made = functools.partial(functools.partial(make_net, ch_in=1))
    found = problems(MODEL=made, MODEL_CONFIG={"ch_out": "2"})
    assert "expected int, got '2'. make_net says so" in only(found)


def test_annotation_that_names_nothing_is_no_rule():
    def made(ch_in: "NoSuchType", width: int = 1):  # noqa: F821
        return nn.Identity()

    assert problems(MODEL=made, MODEL_CONFIG={"ch_in": 1, "width": "2"}) == []


def test_object_that_is_called_is_named_by_its_class():
    class Factory:
        def __init__(self, ch_in: str = "a") -> None:
            self.ch_in = ch_in

        def __call__(self, ch_in: int) -> nn.Module:
            return nn.Identity()

    message = "expected an argument of Factory (ch_in)"
    assert message in only(problems(MODEL=Factory(), MODEL_CONFIG={"ch_in": 1, "chin": 2}))
    message = "expected int, got 'a'. Factory says so"
    assert message in only(problems(MODEL=Factory(), MODEL_CONFIG={"ch_in": "a"}))


@pytest.mark.parametrize(
    ("name", "value", "arguments", "missing"),
    [
        ("MODEL", UNET, {}, "ch_in, ch_out"),
        ("MODEL", functools.partial(UNET, 3), {}, "ch_out"),
        ("TRAIN_DATASET", Data, {}, "root"),  # the task is filled in
        ("SCHEDULER", torch.optim.lr_scheduler.StepLR, {}, "step_size"),
    ],
)
def test_missing_argument(name, value, arguments, missing):
    problem = only(problems(**{name: value, f"{name}_CONFIG": arguments}))
    assert problem.startswith(
        f'train_config["{name}_CONFIG"]: expected a value for {missing}, got none. '
    )


def test_validation_data_without_a_class_of_its_own_is_that_of_training():
    train = {"TRAIN_DATASET": Data, "TRAIN_DATASET_CONFIG": {"root": "a"}}
    assert problems(**train, VAL_DATASET_CONFIG={"root": "b"}) == []
    message = only(problems(**train, VAL_DATASET_CONFIG={"rot": "b", "root": "b"}))
    assert message.startswith('train_config["VAL_DATASET_CONFIG"]: expected an argument of Data')


@pytest.mark.parametrize("name", ["TRAIN_DATASET", "VAL_DATASET", "TEST_DATASET", "SCHEDULER"])
def test_arguments_of_nothing(name):
    assert only(problems(**{f"{name}_CONFIG": {"root": "a"}})) == (
        f'train_config["{name}"]: expected a class or a function, or None for {name}_CONFIG, got'
        f" nothing. Set {name}, or remove the arguments with ~{name}_CONFIG."
    )


def test_datasets_that_are_handed_over_need_no_config():
    config = GOOD | {"TRAIN_DATASET_CONFIG": {"a": 1}, "VAL_DATASET": Data}
    assert len(check_config(config)) == 2
    assert check_config(config, data_given=True) == []


def test_loss_that_is_made_already_takes_no_arguments():
    found = problems(LOSS=nn.MSELoss(), LOSS_CONFIG={"reduction": "sum"})
    assert only(found) == (
        'train_config["LOSS_CONFIG"]: expected nothing beside a LOSS that is made already,'
        " got {'reduction': 'sum'}. Name the class in LOSS."
    )


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            {"batchsize": 4},
            '"]: expected one of batch_size, shuffle, balanced, per_class, drop_last, .*,'
            ' got "batchsize". Did you mean "batch_size"? Rename it, or remove it with'
            " ~DATA_LOADER_CONFIG.batchsize.",
        ),
        (
            {"batch_size": 0},
            '"]["batch_size"]: expected an integer of at least 1, got 0.'
            " Set DATA_LOADER_CONFIG.batch_size=...",
        ),
        ({"num_workers": -1}, '"]["num_workers"]: expected an integer from 0'),
        ({"shuffle": 1}, '"]["shuffle"]: expected True or False, got 1'),
        ({"per_class": 0}, '"]["per_class"]: expected an integer of at least 1, or None, got 0'),
        ({"sampler": None}, '"]: expected one of batch_size, .*, got "sampler"'),
    ],
)
def test_entries_of_the_data_loader(entries, message):
    pattern = re.escape('train_config["DATA_LOADER_CONFIG' + message).replace(r"\.\*", ".*")
    assert re.match(pattern, only(problems(DATA_LOADER_CONFIG=entries)))


def test_entries_of_checkpoint():
    assert problems(CHECKPOINT={"every_epochs": 5}) == []
    found = only(problems(CHECKPOINT={"every_epoch": 5}))
    assert 'got "every_epoch". Did you mean "every_epochs"?' in found
    assert "expected one of every_epochs, " in only(problems(CHECKPOINT={1: 5}))


# ------------------------------------------------------------------------------- keys together


def test_learning_rate_given_twice():
    sgd = {"OPTIMIZER": torch.optim.SGD}
    assert problems(**sgd, LR=0.1) == []
    assert problems(**sgd, LR=0.1, OPTIMIZER_CONFIG={"lr": 0.1}) == []
    assert only(problems(**sgd, LR=0.1, OPTIMIZER_CONFIG={"lr": 0.2})) == (
        'train_config["LR"]: expected the learning rate of OPTIMIZER_CONFIG (0.2) or none,'
        " got 0.1. Remove one of them: ~LR or ~OPTIMIZER_CONFIG.lr."
    )


def test_one_cycle_beside_a_scheduler():
    found = problems(ONE_CYCLE=True, SCHEDULER=torch.optim.lr_scheduler.CosineAnnealingLR)
    assert only(found).startswith('train_config["ONE_CYCLE"]: expected no SCHEDULER beside it')


def test_monitor_needs_its_direction():
    assert problems(MONITOR="train_loss") == []
    assert problems(MONITOR="val_f1", MONITOR_MODE="max") == []
    found = only(problems(MONITOR="val_f1"))
    assert found.startswith('train_config["MONITOR_MODE"]: expected "min" or "max" for MONITOR')
    assert found.endswith("Set MONITOR_MODE=max if higher is better.")
    # one message is enough
    assert "one of 'min', 'max'" in only(problems(MONITOR="val_f1", MONITOR_MODE="maximum"))


def test_all_problems_are_told_together():
    found = check_config(
        {
            "MODEL": Net,
            "MODEL_CONFIG": {"chin": 3, "depth": "4"},
            "EPOCH": 3,
            "EPOCHS": 0,
            "OPTIMIZER": torch.optim.SGD,
            "OPTIMIZER_CONFIG": {"lr": 0.1},
            "LR": 0.2,
            "ONE_CYCLE": True,
            "SCHEDULER": torch.optim.lr_scheduler.StepLR,
            "SCHEDULER_CONFIG": [],
            "DATA_LOADER_CONFIG": {"batch_size": 0, "bathc_size": 1},
            "MONITOR": "val_f1",
        }
    )
    starts = [
        '"EPOCH"]: expected a known key',
        '"EPOCHS"]: expected an integer',
        '"SCHEDULER_CONFIG"]: expected a dict',
        '"LOSS"]: expected a class',
        '"MODEL_CONFIG"]: expected an argument of Net',
        '"MODEL_CONFIG"]["depth"]: expected int or None',
        '"MODEL_CONFIG"]: expected a value for ch_in',
        '"LR"]: expected the learning rate',
        '"ONE_CYCLE"]: expected no SCHEDULER',
        '"MONITOR_MODE"]: expected "min" or "max"',
        '"DATA_LOADER_CONFIG"]["batch_size"]: expected',
        '"DATA_LOADER_CONFIG"]: expected one of',
    ]
    assert len(found) == len(starts)
    for problem, start in zip(found, starts, strict=True):
        assert problem.startswith(f"train_config[{start}"), problem
        assert "\n" not in problem


def test_the_dict_is_left_as_it_is():
    config = GOOD | {"OPTIMIZER_CONFIG": {"lr": "x"}, "CALLBACKS": []}
    before = {name: dict(v) if isinstance(v, dict) else v for name, v in config.items()}
    check_config(config)
    assert config == before


def test_check_call_without_a_remedy():
    assert only(check_call(make_net, {"ch_in": 1, "a": 2}, "here")) == (
        'here: expected an argument of make_net (ch_in, ch_out), got "a". Rename it or remove it.'
    )


def test_what_is_filled_in_belongs_to_what_is_called():
    assert {f"{name}_CONFIG" for name in FILLED_IN} <= set(KEYS)


# ------------------------------------------------------------------------------ features


def test_features_that_no_dataset_reads_are_told():
    features = {"SAMPLED_FEATURES": ["my.Synset"], "TRAIN_DATASET": anything_but_features}
    assert only(problems(**features)).startswith(
        'train_config["SAMPLED_FEATURES"]: expected a dataset that takes sampled_features, got'
    )
    assert problems(**features, VAL_DATASET=of_features) == []
    assert check_config(GOOD | features, data_given=True) == []
    wrong = only(problems(SAMPLED_FEATURES=[3], TRAIN_DATASET=of_features))
    assert wrong.startswith('train_config["SAMPLED_FEATURES"]: expected a list of feature classes')


def anything_but_features(root: str = "") -> None:
    """Make no dataset."""


def of_features(sampled_features: list) -> None:
    """Take features."""
