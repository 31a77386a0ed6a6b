"""The tables of config keys, one for training and one for prediction: name, rule, default, meaning.

Validation, KEY=VALUE overrides, defaults, `--help` and the docs page are made from them.
"""

import ast
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Kind(NamedTuple):
    """What a key accepts: the rule in words, a test of a value, how KEY=VALUE text is read."""

    rule: str
    accepts: Callable[[Any], bool]
    read: Callable[[str], Any]


class Key(NamedTuple):
    """One row of the table."""

    name: str
    kind: Kind
    default: Any
    meaning: str


def read_literal(text: str) -> Any:
    """Read a Python literal; text that is none stays text, and the key's rule decides."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError):  # TypeError: a list as the key of a dict
        return text


def read_text(text: str) -> str | None:
    """Read text as it stands; `None` means no value."""
    return None if text == "None" else text


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and abs(value) < math.inf  # False for NaN


def _or_none(kind: Kind) -> Kind:
    return Kind(
        f"{kind.rule}, or None", lambda value: value is None or kind.accepts(value), kind.read
    )


def _choice(*options: Any) -> Kind:
    return Kind(
        "one of " + ", ".join(repr(option) for option in options),
        # 1 == True in Python: the type decides as well
        lambda value: any(type(value) is type(option) and value == option for option in options),
        read_literal,
    )


FLAG = Kind("True or False", lambda value: isinstance(value, bool), read_literal)
TEXT = Kind("text", lambda value: isinstance(value, str), read_text)
COUNT = Kind("an integer of at least 1", lambda value: _is_int(value) and value >= 1, read_literal)
INTEGER = Kind(
    "an integer from 0 to 2**63 - 1",
    lambda value: _is_int(value) and 0 <= value < 2**63,
    read_literal,
)
POSITIVE = Kind("a number above 0", lambda value: _is_number(value) and value > 0, read_literal)
SECONDS = Kind(
    "a number of at least 0", lambda value: _is_number(value) and value >= 0, read_literal
)
SHARE = Kind(
    "a number above 0 and below 1", lambda value: _is_number(value) and 0 < value < 1, read_literal
)
CALLABLE = Kind("a class or a function", callable, read_text)
MAYBE_CALLABLE = _or_none(CALLABLE)
LOSS = Kind("a class, a function or a loss module", callable, read_text)
IMPORTED = (CALLABLE, MAYBE_CALLABLE, LOSS)  # text from files and overrides is an import path
ARGUMENTS = Kind(
    "a dict of keyword arguments",
    lambda value: isinstance(value, Mapping) and all(isinstance(name, str) for name in value),
    read_literal,
)
GROUPS = Kind(
    "a dict from parts of the model to dicts of arguments",
    lambda value: ARGUMENTS.accepts(value) and all(map(ARGUMENTS.accepts, value.values())),
    read_literal,
)
MAPPING = Kind("a dict", lambda value: isinstance(value, Mapping), read_literal)
FEATURES = Kind(
    "a list of feature classes, partials of them or import paths",
    lambda value: (
        isinstance(value, (list, tuple))
        and all(isinstance(entry, str) or callable(entry) for entry in value)
    ),
    read_literal,
)
LIST = Kind("a list", lambda value: isinstance(value, (list, tuple)), read_literal)
METRICS = Kind(
    "a dict from name to metric, or a list of metrics",
    lambda value: isinstance(value, (Mapping, list, tuple)),
    read_literal,
)
FILE = Kind(
    "the path of a file",
    lambda value: isinstance(value, str) or hasattr(value, "__fspath__"),
    read_text,
)
# `Notify` checks them: a message of this table would quote what may be a secret
RECEIVERS = Kind("mail addresses, and env:NAME", lambda value: True, read_literal)
FILE_NAME = Kind(
    "the name of a file",
    lambda value: isinstance(value, str) and value.split("/")[-1] not in ("", ".", ".."),
    read_text,
)
DEVICE = Kind(
    '"cpu", "cuda", "cuda:N" or a torch.device',
    lambda value: isinstance(value, str) or type(value).__name__ == "device",
    read_text,
)
ROUTINE = Kind(
    'a short name ("pytorch"), a dotted module or a module with train()',
    lambda value: isinstance(value, str) or type(value).__name__ == "module",
    read_text,
)

TASK_NAMES = (
    "binary",
    "multiclass",
    "multilabel",
    "binary_segmentation",
    "multiclass_segmentation",
    "multilabel_segmentation",
    "embedding",
    "regression",
)

_TABLE = [
    # the run
    Key("DATE", _or_none(TEXT), None, "start of the run; only DATE=... as an override is kept"),
    Key("SESSION_NAME", TEXT, "training-run", "second half of the run's name"),
    Key(
        "ROUTINE_NAME",
        ROUTINE,
        "pytorch",
        "who drives the loop: pytorch, ignite, fastai, lightning, yours",
    ),
    Key("SEED", INTEGER, 0, "weights, order, augmentation and dropout follow from it"),
    Key("DEVICE", _or_none(DEVICE), None, "None takes CUDA where there is one, else the CPU"),
    Key("NUM_THREADS", _or_none(COUNT), None, "threads of torch on the CPU; the bits depend on it"),
    Key("DETERMINISTIC", FLAG, False, "only deterministic kernels (CUDA: slower)"),
    Key("__COMMENT", _or_none(TEXT), None, "a note for experiments.csv"),
    # the task
    Key(
        "TASK", _or_none(_choice(*TASK_NAMES)), None, "decides target check and what predict writes"
    ),
    Key(
        "CLASSES",
        _or_none(LIST),
        None,
        "names of the classes or channels; None: as the data name them",
    ),
    Key("PREPROCESS", _or_none(MAPPING), None, "input scaling; travels in the weights file"),
    # data
    Key(
        "TRAIN_DATASET",
        MAYBE_CALLABLE,
        None,
        "None reads DATA_DIR/train/{x,y}, or a folder of each class",
    ),
    Key("TRAIN_DATASET_CONFIG", ARGUMENTS, {}, "its arguments; relative paths start at DATA_DIR"),
    Key("VAL_DATASET", MAYBE_CALLABLE, None, "None: TRAIN_DATASET, or DATA_DIR/val likewise"),
    Key("VAL_DATASET_CONFIG", ARGUMENTS, {}, "its arguments"),
    Key("TEST_DATASET", MAYBE_CALLABLE, None, "evaluated once at the end on the best weights"),
    Key("TEST_DATASET_CONFIG", ARGUMENTS, {}, "its arguments"),
    Key(
        "SAMPLED_FEATURES",
        _or_none(FEATURES),
        None,
        "what a dataset that takes `sampled_features` reads, such as FeatureDataset",
    ),
    Key("DATA_LOADER_CONFIG", ARGUMENTS, {}, "batch_size, num_workers, ... of torch's DataLoader"),
    Key(
        "BATCH_TRANSFORM",
        MAYBE_CALLABLE,
        None,
        "(x, y) -> (x, y) of each training batch, such as MixUp: a class or a function",
    ),
    Key("BATCH_TRANSFORM_CONFIG", ARGUMENTS, {}, "its arguments; num_classes is filled in"),
    # model, loss, optimizer
    Key("MODEL", CALLABLE, None, "class or function that makes the network"),
    Key("MODEL_CONFIG", ARGUMENTS, {}, "its arguments"),
    Key("WEIGHTS", _or_none(FILE), None, "file or run that training starts from, or latest"),
    Key("WEIGHTS_STRICT", FLAG, True, "False loads the tensors that fit and names the others"),
    Key("LOSS", LOSS, None, "loss(pred, target): a class with LOSS_CONFIG, a function, a module"),
    Key("LOSS_CONFIG", ARGUMENTS, {}, "its arguments"),
    Key("OPTIMIZER", MAYBE_CALLABLE, None, "None is torch.optim.AdamW"),
    Key("OPTIMIZER_CONFIG", ARGUMENTS, {}, "its arguments"),
    Key("PARAM_GROUPS", GROUPS, {}, "arguments of single parts: {'head': {'lr': 1e-2}}"),
    Key("LR", _or_none(POSITIVE), None, "learning rate where OPTIMIZER_CONFIG has none"),
    Key("SCHEDULER", MAYBE_CALLABLE, None, "class from torch.optim.lr_scheduler"),
    Key("SCHEDULER_CONFIG", ARGUMENTS, {}, "its arguments; T_max and total_steps are filled in"),
    Key("SCHEDULER_INTERVAL", _choice("epoch", "step"), "epoch", "when the scheduler steps"),
    Key("ONE_CYCLE", FLAG, False, "torch's OneCycleLR per step, peak at the learning rate"),
    # training
    Key("EPOCHS", COUNT, 10, "passes over the training data"),
    Key("ACCUMULATE", COUNT, 1, "batches per update; the last window of an epoch may be shorter"),
    Key("CLIP_NORM", _or_none(POSITIVE), None, "largest norm of the gradient"),
    Key(
        "MIXED_PRECISION",
        _choice(False, True, "bf16", "fp16"),
        False,
        "True is bf16 on the CPU, fp16 with a loss scaler on CUDA",
    ),
    Key("EMA", _or_none(SHARE), None, "decay of averaged weights, used in validation and saved"),
    Key("COMPILE", FLAG, False, "torch.compile the model"),
    Key("CHANNELS_LAST", FLAG, False, "memory format of images and weights"),
    Key("DDP_CONFIG", MAPPING, {}, "options of torch's DistributedDataParallel, under torchrun"),
    Key(
        "ON_NAN",
        _choice("stop", "skip"),
        "stop",
        "skip: go back to the last checkpoint once and leave out the update that gave NaN",
    ),
    Key(
        "ON_OOM",
        _choice("stop", "halve"),
        "stop",
        "halve: go back, with half the batch size and twice ACCUMULATE, when CUDA has no memory",
    ),
    Key(
        "ON_BAD_SAMPLE",
        _choice("stop", "skip"),
        "stop",
        "skip: leave out a sample that cannot be read, and count it in bad_samples.csv",
    ),
    # validation and output
    Key("METRICS", METRICS, {}, "computed on the validation set, whatever the batch size"),
    Key("VALIDATE_EVERY", COUNT, 1, "epochs between validations; the last is always validated"),
    Key("MONITOR", TEXT, "val_loss", "chooses best.pth: val_loss, val_<metric> or train_loss"),
    Key(
        "MONITOR_MODE", _or_none(_choice("min", "max")), None, 'inferred for names ending in "loss"'
    ),
    Key(
        "CHECKPOINT", MAPPING, {}, "state for resume: every_epochs (1), every_steps, every_minutes"
    ),
    Key("CALLBACKS", LIST, [], "classes or partials of training.callbacks.Callback"),
    Key("TRACKERS", LIST, [], "classes or partials: tracker(run) with log(values, step), close()"),
    Key("LOGFILE", FILE_NAME, "experiments.csv", "table of all runs in LOG_DIR"),
    Key("NOTIFY", RECEIVERS, [], "who is told how a run ends: mail addresses, env:NAME"),
    Key(
        "NOTIFY_STALL_MINUTES",
        _or_none(POSITIVE),
        None,
        "tell as well when no batch has ended for so long",
    ),
    Key("CURVES", FLAG, True, "draw the learning curves into curves.png"),
    Key("PROGRESS", FLAG, True, "progress bar and epoch table in the terminal"),
    # passed through to one framework; a warning under another routine
    Key("IGNITE_ATTACH", MAYBE_CALLABLE, None, "called with (trainer, evaluator)"),
    Key("FASTAI_CBS", LIST, [], "fastai callbacks"),
    Key("LIGHTNING_CALLBACKS", LIST, [], "Lightning callbacks"),
]

KEYS: dict[str, Key] = {key.name: key for key in _TABLE}

# keys that one framework alone understands, and the routine they are for
PASSED_THROUGH = {
    "IGNITE_ATTACH": "ignite",
    "FASTAI_CBS": "fastai",
    "LIGHTNING_CALLBACKS": "lightning",
}

REQUIRED = ("MODEL", "LOSS")

_PREDICT_TABLE = [
    Key("WEIGHTS", FILE, None, "weights file, or name of a run (its best.pth), or latest"),
    # data and what is computed of it
    Key("DATASET", CALLABLE, None, "of samples (x, y); of x or (x, name) for outputs alone"),
    Key("DATASET_CONFIG", ARGUMENTS, {}, "its arguments; relative paths start at DATA_DIR"),
    KEYS["SAMPLED_FEATURES"],
    KEYS["DATA_LOADER_CONFIG"],
    Key("METRICS", METRICS, {}, "of the whole dataset, whatever the batch size"),
    Key("LOSS", MAYBE_CALLABLE, None, "loss(pred, target), as in training"),
    KEYS["LOSS_CONFIG"],
    # outputs
    Key("OUTPUT_DIR", _or_none(FILE), None, "new folder; None: LOG_DIR/predictions/<date>_<name>"),
    Key("SESSION_NAME", TEXT, "prediction", "<name> of the folder"),
    Key("OUTPUTS", FLAG, True, "write the output of each sample; False: the tables alone"),
    Key("PREFIX", TEXT, "", "goes before the name of an output"),
    Key("SUFFIX", TEXT, "", "goes behind the name of an output"),
    KEYS["PROGRESS"],
    # how it is computed; with the values of the training come the bits of its validation
    KEYS["DEVICE"],
    KEYS["NUM_THREADS"],
    KEYS["DETERMINISTIC"],
    KEYS["MIXED_PRECISION"],
    KEYS["CHANNELS_LAST"],
    Key("SEED", INTEGER, 0, "random draws of the dataset follow from it"),
    # of weights that another program saved; else the file says it
    Key("MODEL", MAYBE_CALLABLE, None, "class or function that makes the network"),
    Key("MODEL_CONFIG", ARGUMENTS, {}, "goes before the file's, argument by argument"),
    KEYS["TASK"],
    KEYS["CLASSES"],
    Key("PREPROCESS", _or_none(MAPPING), None, "goes before the file's, key by key"),
]

PREDICT_KEYS: dict[str, Key] = {key.name: key for key in _PREDICT_TABLE}
ALL_KEYS = PREDICT_KEYS | KEYS  # a name is of one kind in all tables


class Table(NamedTuple):
    """A kind of config: name of the dict, its keys, those that must be given, who reads it."""

    name: str
    keys: Mapping[str, Key]
    required: tuple[str, ...]
    command: str
    example: str


TABLES = {
    "train_config": Table("train_config", KEYS, REQUIRED, "train.py", "experiments/scenes.py"),
    "predict_config": Table(
        "predict_config",
        PREDICT_KEYS,
        ("WEIGHTS", "DATASET"),
        "run_prediction.py",
        "experiments/prediction/scenes.py",
    ),
}

CHECKPOINT_KEYS = {"every_epochs": COUNT, "every_steps": COUNT, "every_minutes": POSITIVE}

# of torch's DistributedDataParallel
DDP_KEYS = {
    "find_unused_parameters": FLAG,
    "static_graph": FLAG,
    "gradient_as_bucket_view": FLAG,
    "bucket_cap_mb": POSITIVE,
}

# what DATA_LOADER_CONFIG may hold: `balanced` and `per_class`, and the arguments of torch's
# DataLoader, bar those that say which samples make a batch, which follow from SEED
LOADER_KEYS = {
    "batch_size": COUNT,
    "shuffle": FLAG,
    "balanced": FLAG,
    "per_class": _or_none(COUNT),
    "drop_last": FLAG,
    "num_workers": INTEGER,
    "pin_memory": FLAG,
    "persistent_workers": FLAG,
    "prefetch_factor": _or_none(COUNT),
    "timeout": SECONDS,
    "collate_fn": MAYBE_CALLABLE,
    "worker_init_fn": MAYBE_CALLABLE,
    "multiprocessing_context": _or_none(TEXT),
}


def with_defaults(config: Mapping[str, Any], keys: Mapping[str, Key] = KEYS) -> dict[str, Any]:
    """Return a private copy of a config in which every key of the table has a value.

    Dicts and lists are copied, everything in them is the caller's own object.
    """
    complete = {name: key.default for name, key in keys.items()} | dict(config)
    return {name: copy_containers(value) for name, value in complete.items()}


def copy_containers(value: Any) -> Any:
    """Copy dicts, lists and tuples all the way down; keep the leaves, which may be modules."""
    if isinstance(value, Mapping):
        return {name: copy_containers(part) for name, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(copy_containers(part) for part in value)
    return value


def is_import_path(name: str) -> bool:
    """Tell whether text as the value of this key names a class or function."""
    return name in ALL_KEYS and ALL_KEYS[name].kind in IMPORTED
