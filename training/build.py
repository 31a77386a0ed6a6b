"""From a config to the parts of a run; what can fail is tried before a file is written."""

import copy
import functools
import inspect
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from config.check import FILLED_IN
from config.errors import ConfigError, did_you_mean
from models import MODELS
from models.load import start_from
from training.callbacks import Callback, Notify
from training.callbacks.summary import describe_shape
from training.parameters import Group, describe_groups, group_parameters, make_grouped, trainable
from utils.data.datasets import PairedFolder
from utils.data.images import ClassFolder
from utils.data.loading import Batch, Loader, make_loader
from utils.data.preprocess import check_preprocess
from utils.data.splits import some
from utils.data.tasks import check_target, label_of
from utils.distributed import main_first, rank, world_size
from utils.logging.console import logging_into
from utils.metrics import Metrics, as_metrics
from utils.path import find_weights
from utils.seed import DATA, VALIDATION, WEIGHTS, mix, seed_all
from utils.torchutils import load_weights

logger = logging.getLogger("plumbline")

# what wrong arguments or wrong data raise; other errors are bugs and keep their traceback
_USER_ERRORS = (ValueError, TypeError, OSError, KeyError, RuntimeError, ImportError)


@dataclass
class Parts:
    """What a config stands for, on its device and ready to train."""

    model: nn.Module
    loss: Callable[..., torch.Tensor]
    optimizer: torch.optim.Optimizer
    scheduler: Any
    scheduler_interval: str
    metrics: Metrics
    named_metrics: dict[str, Any]  # METRICS as a dict, Ignite's Loss(f) as f
    filled_in: dict[str, Any]  # keys of the config that the data and WEIGHTS decide
    callbacks: list[Any]
    notify: Notify | None
    loaders: dict[str, Loader | None]  # "train", "val", "test"
    notes: list[str]  # for the log, once there is one


def build(
    config: Mapping[str, Any], folders: Mapping[str, Any], data: Mapping[str, Any], device: Any
) -> Parts:
    """Build the parts of a run, and try the first batches on them.

    Args:
        config: A complete config (`config.keys.with_defaults`) without static problems.
        folders: The `global_config`.
        data: Datasets handed to `train()`: "train" and "val", each may be None.
        device: The `torch.device`.

    Raises:
        ConfigError: Every problem found in the data, the model and the rest.
    """
    is_segmentation = str(config["TASK"]).endswith("_segmentation")
    problems = check_preprocess(config["PREPROCESS"], is_segmentation)
    notes: list[str] = []
    attempt = functools.partial(_attempt, problems)
    loaders, filled_in, classes = {}, {}, None
    for number, part in enumerate(("train", "val", "test")):
        seed_all(mix(config["SEED"], DATA, number))  # for a dataset that splits at random
        where = f"{part.upper()}_DATASET"
        dataset = data.get(part)
        if dataset is None and (part == "test" or data.get("train") is None):
            with main_first():  # one process downloads, or fills a cache
                dataset = attempt(where, make_dataset, part, config, folders)
        found = dataset is not None
        if found and part == "train":
            classes = class_names(dataset)
            filled_in = fill_in_classes(config, classes)
            config = {**config, **filled_in}
        elif found:
            problems += _check_classes(where, config["TASK"], class_names(dataset), classes)
        with logging_into(notes):
            loader = attempt(where, _loader, part, dataset, config, device) if found else None
        loaders[part] = loader
    transform = attempt("BATCH_TRANSFORM_CONFIG", make_batch_transform, config)
    if loaders["train"] is not None:
        loaders["train"].transform = transform
    if loaders["train"] is None and any(_lacks(key, config) for key in ("MODEL", "LOSS")):
        raise ConfigError(problems)  # the data would have said how many classes there are
    seed_all(mix(config["SEED"], WEIGHTS))  # the weights follow from it, whatever was drawn before
    with main_first(), logging_into(notes):  # one process downloads
        model = attempt("MODEL_CONFIG", make_model, config, device, bool(folders.get("RESUME")))
    # a resumed run has them in its checkpoint, and the file may be gone
    if model is not None and config["WEIGHTS"] is not None and not folders.get("RESUME"):
        path = attempt("WEIGHTS", find_weights, config["WEIGHTS"], folders["WEIGHT_DIR"])
        if path is not None:  # "latest" would be another one when the run is repeated
            filled_in["WEIGHTS"] = str(path.absolute())
            notes += attempt("WEIGHTS", _load_weights, model, path, config) or []
    loss = attempt("LOSS_CONFIG", make_loss, config, device)
    named = attempt("METRICS", as_metrics, config["METRICS"]) or {}
    metrics = attempt("METRICS", Metrics, named, device, config["CLASSES"])
    callbacks = attempt("CALLBACKS", make_callbacks, config["CALLBACKS"])
    notify = attempt("NOTIFY", make_notify, config["NOTIFY"], config["NOTIFY_STALL_MINUTES"])
    if not problems:
        problems += _check_monitor(config["MONITOR"], loaders["val"], list(named))
    if model is None or loss is None:
        raise ConfigError(problems)
    for callback in callbacks or ():
        problems += [f"CALLBACKS: {problem}" for problem in callback.check(model, config)]
    for part, loader in loaders.items():
        if loader is not None:
            problems += check_batch(part, loader, model, loss, config)
    groups = attempt("PARAM_GROUPS", make_groups, config, model, loss)
    optimizer = None
    if groups is not None:
        notes += describe_groups(groups) if config["PARAM_GROUPS"] else []
        optimizer = attempt("OPTIMIZER_CONFIG", make_optimizer, config, groups)
    if optimizer is None or loaders["train"] is None:
        raise ConfigError(problems)
    n_updates = math.ceil(len(loaders["train"]) / config["ACCUMULATE"])
    scheduler = attempt("SCHEDULER_CONFIG", make_scheduler, config, optimizer, n_updates)
    if problems:
        raise ConfigError(problems)
    interval = "step" if config["ONE_CYCLE"] else config["SCHEDULER_INTERVAL"]
    return Parts(
        model,
        loss,
        optimizer,
        scheduler,
        interval,
        metrics,
        named,
        filled_in,
        callbacks,
        notify,
        loaders,
        notes,
    )


def _attempt(problems: list[str], where: str, call: Callable[..., Any], *args: Any) -> Any:
    try:
        return call(*args)
    except ConfigError as error:
        problems += [f"{where}: {problem}" for problem in error.problems]
    except _USER_ERRORS as error:
        kind = "" if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: "
        problems.append(f"{where}: {kind}{error}")
    return None


# ------------------------------------------------------------------------------------- data


def _loader(part: str, dataset: Any, config: Mapping[str, Any], device: torch.device) -> Loader:
    is_train, seed = part == "train", config["SEED"]
    return make_loader(
        dataset,
        config["DATA_LOADER_CONFIG"],
        seed if is_train else mix(seed, VALIDATION),
        device,
        is_train,
        config["CHANNELS_LAST"],
        rank(),
        world_size(),
        config["ON_BAD_SAMPLE"] == "skip",
    )


def make_dataset(part: str, config: Mapping[str, Any], folders: Mapping[str, Any]) -> Any:
    """Return the dataset of a part ("train", "val", "test"), or None when the config has none.

    Relative paths among the arguments start at DATA_DIR; TASK, PREPROCESS and CLASSES are handed to
    a dataset that takes `task`, `preprocess` and `classes`.
    """
    name = f"{part.upper()}_DATASET"
    make, arguments = config[name], dict(config[f"{name}_CONFIG"])
    data_dir = Path(folders["DATA_DIR"])
    if make is None and part == "val" and arguments:
        make = config["TRAIN_DATASET"]
    if make is None:
        if config["TRAIN_DATASET"] is not None or part == "test":
            return None
        # masks of one or more channels, values from 0 to 1, where the config names no TASK
        task = config["TASK"] or "multilabel_segmentation"
        make = ClassFolder if task in ("binary", "multiclass", "embedding") else PairedFolder
        arguments = {"root": _default_folder(part, data_dir), "task": task}
    for key, value in arguments.items():
        if is_path_argument(key) and isinstance(value, (str, Path)):
            arguments[key] = data_dir / value  # an absolute path stays itself
    accepted = inspect.signature(make).parameters
    for key in FILLED_IN[name]:
        if key in accepted and key not in arguments and config[key.upper()] is not None:
            arguments[key] = config[key.upper()]
    if part != "train" and isinstance(arguments.get("transform"), str):
        logger.warning(
            '%s_CONFIG: the pictures are augmented ("%s"), which is for training',
            name,
            arguments["transform"],
        )
    return make(**arguments)


def class_names(dataset: Any) -> list[str] | None:
    """Return the names of the classes that a dataset knows, by number; None: it names none."""
    classes = getattr(dataset, "classes", None)
    return list(map(str, classes)) if isinstance(classes, (list, tuple)) else None


def fill_in_classes(config: Mapping[str, Any], classes: Sequence[str] | None) -> dict[str, Any]:
    """Return the keys that the classes of the training data decide, as far as the config does not.

    CLASSES are their names; MODEL, LOSS and BATCH_TRANSFORM are told how many there are where they
    take `num_classes` or `n_classes`. The identities of an embedding are no outputs of the network,
    so that the loss alone hears of them.

    Args:
        config: A complete config.
        classes: Their names by number, or None.
    """
    filled_in: dict[str, Any] = {}
    is_embedding = config["TASK"] == "embedding"
    if config["CLASSES"] is None and classes and not is_embedding:
        filled_in["CLASSES"] = classes
    names = classes if is_embedding else config["CLASSES"] or classes
    if not names:
        return filled_in
    for key in ("LOSS",) if is_embedding else ("MODEL", "LOSS", "BATCH_TRANSFORM"):
        missing = _to_fill_in(key, config)
        if missing:
            number = 1 if config["TASK"] == "binary" else len(names)
            arguments = {**config[f"{key}_CONFIG"], **dict.fromkeys(missing, number)}
            filled_in[f"{key}_CONFIG"] = arguments
    return filled_in


def _to_fill_in(key: str, config: Mapping[str, Any]) -> dict[str, inspect.Parameter]:
    """Return the arguments of such a key that the classes decide and the config leaves out."""
    called = config[key]
    if isinstance(called, nn.Module):  # made already
        return {}
    try:
        accepted = inspect.signature(called).parameters
    except (TypeError, ValueError):  # one without a readable signature
        return {}
    # a functools.partial shows what it binds as well
    given = {**getattr(called, "keywords", {}), **config[f"{key}_CONFIG"]}
    return {
        name: accepted[name] for name in FILLED_IN[key] if name in accepted and name not in given
    }


def _lacks(key: str, config: Mapping[str, Any]) -> list[str]:
    """Return the arguments without which MODEL or LOSS cannot be called."""
    missing = _to_fill_in(key, config)
    return [name for name in missing if missing[name].default is inspect.Parameter.empty]


def _require_filled_in(key: str, config: Mapping[str, Any]) -> None:
    for name in _lacks(key, config):
        raise ValueError(
            f"expected a value for {name}, got none. Set {key}_CONFIG.{name}, or name the CLASSES,"
            " whose number it is."
        )


def _check_classes(
    where: str, task: str | None, classes: Sequence[str] | None, of_training: Sequence[str] | None
) -> list[str]:
    if task == "embedding" or not classes or not of_training or classes == of_training:
        return []
    return [
        f"{where}: expected the classes of the training data ({some(of_training)}), in their order,"
        f" got {some(classes)}. Give the dataset the same: classes=[...], or CLASSES in the config."
    ]


def is_path_argument(name: str) -> bool:
    """Tell by its name whether an argument is a path: root, path, folder, ..._dir, ..._file."""
    return name.split("_")[-1] in ("root", "path", "folder", "dir", "file")


def _default_folder(part: str, data_dir: Path) -> Path:
    if part == "val" and not (data_dir / "val").exists() and (data_dir / "test").exists():
        logger.warning(
            "no folder %s: %s serves as validation data", data_dir / "val", data_dir / "test"
        )
        return data_dir / "test"
    return data_dir / part


def check_batch(
    part: str, loader: Loader, model: nn.Module, loss: Callable[..., Any], config: Mapping[str, Any]
) -> list[str]:
    """Read the first batch of a loader, and try model and loss on two of its samples.

    In eval mode and without gradients, so that nothing of the run's state changes.
    """
    problems: list[str] = []
    where = f"{part.upper()}_DATASET"
    batch = _attempt(problems, where, loader.first)
    if batch is None:
        return problems
    given = batch
    if loader.transform is not None:
        given = _attempt(problems, "BATCH_TRANSFORM, first batch", _transformed, loader, batch)
        if given is None:
            return problems
    x, y = head(given.x, 2), head(given.y, 2)
    n_classes = len(config["CLASSES"]) if config["CLASSES"] else None
    model.eval()
    with torch.no_grad():
        shape = tuple(x.shape) if isinstance(x, torch.Tensor) else describe_shape(x)
        pred = _attempt(problems, f"{where}, first batch {shape} through MODEL", model, x)
        if n_classes is None and isinstance(pred, torch.Tensor) and pred.dim() > 1:
            n_classes = pred.shape[1]
        task = config["TASK"]
        if part == "train":
            problems += _check_outputs(pred, task, config["CLASSES"])
        if task is not None and isinstance(label_of(batch.y, task), torch.Tensor):
            left_out = config["LOSS_CONFIG"].get("ignore_index")
            problem = check_target(batch.y, task, n_classes, left_out)
            problems += [f"{where}, first batch: {problem}"] if problem else []
        if not problems:
            value = _attempt(problems, f"{where}, first batch through LOSS", loss, pred, y)
            if problems and given is not batch:
                problems[0] += (
                    f" BATCH_TRANSFORM has made the targets {_describe(y)}: take a loss for these,"
                    " such as torch.nn.CrossEntropyLoss for shares of classes."
                )
            if isinstance(value, torch.Tensor) and value.dim() > 0:
                problems.append(
                    f"LOSS: expected one number for a batch, got a tensor of shape"
                    f" {tuple(value.shape)}. Reduce it, for example by its mean."
                )
    return problems


def _check_outputs(pred: Any, task: str | None, classes: Sequence[str] | None) -> list[str]:
    """Return the problem of a network that has another number of outputs than there are classes."""
    has_many = str(task).startswith(("multiclass", "multilabel"))
    if not (has_many and classes and isinstance(pred, torch.Tensor) and pred.dim() > 1):
        return []
    if pred.shape[1] == len(classes):
        return []
    return [
        f"MODEL: expected an output for each of {len(classes)} CLASSES ({some(classes)}), got"
        f" {pred.shape[1]}. Correct MODEL_CONFIG, or the names in CLASSES."
    ]


def _transformed(loader: Loader, batch: Batch) -> Batch:
    kind = type(loader.transform)
    if kind.__module__.startswith("torchvision.") and not isinstance(batch.x, torch.Tensor):
        raise ValueError(
            f"expected a tensor x for torchvision's {kind.__name__}, got {type(batch.x).__name__},"
            " of which it would change one part alone. Write a function (x, y) -> (x, y)."
        )
    return loader.transformed(batch)


def _describe(part: Any) -> str:
    if not isinstance(part, torch.Tensor):
        return type(part).__name__
    sizes = ", ".join(["N", *map(str, part.shape[1:])])
    return f"({sizes}) {str(part.dtype).removeprefix('torch.')}"


def head(part: Any, n: int) -> Any:
    """Return the first n samples of a part of a batch."""
    if isinstance(part, Mapping):
        return {name: head(value, n) for name, value in part.items()}
    if isinstance(part, tuple):
        return tuple(head(value, n) for value in part)
    return part[:n]


# ------------------------------------------------------------------------------------ model


def make_model(
    config: Mapping[str, Any], device: torch.device, is_resumed: bool = False
) -> nn.Module:
    """Return the network on its device; a resumed one without weights to start from."""
    _require_filled_in("MODEL", config)
    arguments = dict(config["MODEL_CONFIG"])
    if is_resumed and config["MODEL"] in MODELS.values():
        arguments.pop("weights", None)  # the file may be gone, as that of WEIGHTS
    model = config["MODEL"](**arguments)
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"expected MODEL to make a torch.nn.Module, got {type(model).__name__}. Name its class."
        )
    memory_format = torch.channels_last if config["CHANNELS_LAST"] else torch.preserve_format
    return model.to(device=device, memory_format=memory_format)


def _load_weights(model: nn.Module, path: Path, config: Mapping[str, Any]) -> list[str]:
    """Load the weights that the training starts from, and return what to say of them."""
    content = load_weights(path)
    where = f'weights "{path}"'
    note = start_from(model, content["model"], where, config["WEIGHTS_STRICT"])
    former, classes = content["meta"].get("CLASSES"), list(map(str, config["CLASSES"] or []))
    if note is None and former and classes and former != classes:
        note = f"{where}: its classes are {', '.join(former)}; the head is kept for other ones"
    return [note] if note else []


def make_loss(config: Mapping[str, Any], device: torch.device) -> Callable[..., torch.Tensor]:
    """Return loss(pred, target): a class is built, a function bound to its arguments."""
    loss, arguments = config["LOSS"], config["LOSS_CONFIG"]
    _require_filled_in("LOSS", config)
    if isinstance(loss, type):
        loss = loss(**arguments)
    elif arguments:
        return functools.partial(loss, **arguments)
    elif isinstance(loss, nn.Module):
        loss = copy.deepcopy(loss)  # its weights are trained; the config's own stay as they are
    return loss.to(device) if isinstance(loss, nn.Module) else loss


def make_batch_transform(config: Mapping[str, Any]) -> Callable[[Any, Any], Any] | None:
    """Return the function (x, y) -> (x, y) of BATCH_TRANSFORM, or None.

    A class is built, a function bound to its arguments. So are those in the list `transforms`,
    which torchvision's RandomChoice takes.
    """
    make, arguments = config["BATCH_TRANSFORM"], dict(config["BATCH_TRANSFORM_CONFIG"])
    if isinstance(arguments.get("transforms"), (list, tuple)):
        inner = [
            {**config, "BATCH_TRANSFORM": part, "BATCH_TRANSFORM_CONFIG": {}}
            for part in arguments["transforms"]
        ]
        inner = [part | fill_in_classes(part, None) for part in inner]
        arguments["transforms"] = list(map(make_batch_transform, inner))
    if isinstance(getattr(make, "func", make), type):  # a class or a partial of one
        return make(**arguments)
    return functools.partial(make, **arguments) if arguments else make


def make_groups(
    config: Mapping[str, Any], model: nn.Module, loss: Callable[..., Any]
) -> list[Group]:
    """Return the model's and the loss's trainable parameters in the groups of PARAM_GROUPS."""
    named = trainable(model) | trainable(loss, "loss.")
    return group_parameters(named, config["PARAM_GROUPS"])


def make_optimizer(config: Mapping[str, Any], groups: Sequence[Group]) -> torch.optim.Optimizer:
    """Return the optimizer of these parameters."""
    arguments = dict(config["OPTIMIZER_CONFIG"])
    if config["LR"] is not None:
        arguments["lr"] = config["LR"]
    if config["PARAM_GROUPS"]:
        return make_grouped(config["OPTIMIZER"], arguments, groups)
    return config["OPTIMIZER"]([p for group in groups for p in group.params], **arguments)


def make_scheduler(
    config: Mapping[str, Any], optimizer: torch.optim.Optimizer, n_updates: int
) -> Any:
    """Return the scheduler, or None; a horizon that the config leaves out is the whole run.

    Args:
        config: A complete config.
        optimizer: The optimizer whose learning rate it sets.
        n_updates: Updates per epoch.
    """
    make, arguments = config["SCHEDULER"], dict(config["SCHEDULER_CONFIG"])
    per_step = config["SCHEDULER_INTERVAL"] == "step"
    if config["ONE_CYCLE"]:
        make, per_step = torch.optim.lr_scheduler.OneCycleLR, True
    if make is None:
        return None
    horizon = config["EPOCHS"] * (n_updates if per_step else 1)
    accepted = inspect.signature(make).parameters
    for name in ("total_steps", "T_max"):
        if name in accepted and not {"epochs", "steps_per_epoch"} & set(arguments):
            arguments.setdefault(name, horizon)
    if "max_lr" in accepted:
        arguments.setdefault("max_lr", [group["lr"] for group in optimizer.param_groups])
    return make(optimizer, **arguments)


def make_callbacks(callbacks: Sequence[Any]) -> list[Any]:
    """Return the callbacks of a config; classes and partials are called, objects taken as is."""
    made = [c() if isinstance(c, (type, functools.partial)) else c for c in callbacks]
    for callback in made:
        if not isinstance(callback, Callback):
            raise TypeError(
                "expected classes, partials or objects of training.callbacks.Callback,"
                f" got {type(callback).__name__}. Derive yours from it."
            )
    return made


def make_notify(receivers: Any, stall_minutes: float | None) -> Notify | None:
    """Return who tells how the run ends; None when nobody wants to know."""
    return Notify(receivers, stall_minutes) if receivers else None


def _check_monitor(monitor: str, val_loader: Loader | None, metrics: list[str]) -> list[str]:
    if monitor == "train_loss":
        return []
    if val_loader is None:
        return [
            f'MONITOR: expected validation data for "{monitor}", got none.'
            " Set VAL_DATASET, or MONITOR=train_loss to train without."
        ]
    known = ["train_loss", "val_loss", *(f"val_{name}" for name in metrics)]
    # a metric of many values has names that show only when it is computed
    if any(monitor.startswith(name) for name in known):
        return []
    return [
        f'MONITOR: expected one of {", ".join(known)}, got "{monitor}".'
        f"{did_you_mean(monitor, known)} Name a value that is computed."
    ]
