"""Find every problem of a config before anything is built or written."""

import inspect
import types
import typing
from collections.abc import Callable, Container, Mapping, Set
from functools import partial
from typing import Any

from config.errors import did_you_mean, shorten
from config.keys import CHECKPOINT_KEYS, DDP_KEYS, LOADER_KEYS, TABLES, Kind, Table, with_defaults

# what is called with two positional arguments where it is a function, and built where it is a class
_OF_PAIRS = ("LOSS", "BATCH_TRANSFORM")
# how many positional arguments the run itself passes to the callable of a key
_N_GIVEN = {"OPTIMIZER": 1, "SCHEDULER": 1}
# what `train()` and `predict()` may be given instead
_HANDED = ("TRAIN_DATASET", "VAL_DATASET", "DATASET")
_OF_DATASETS = ("task", "preprocess", "classes", "sampled_features")
# what the run fills in when a callable takes it and NAME_CONFIG leaves it out
FILLED_IN = {
    "MODEL": ("num_classes", "n_classes"),
    "LOSS": ("num_classes", "n_classes"),
    "BATCH_TRANSFORM": ("num_classes", "n_classes"),
    "OPTIMIZER": ("lr",),
    "SCHEDULER": ("total_steps", "T_max", "max_lr"),
    "TRAIN_DATASET": _OF_DATASETS,
    "VAL_DATASET": _OF_DATASETS,
    "TEST_DATASET": _OF_DATASETS,
}


def check_config(
    config: Mapping[str, Any], data_given: bool = False, name: str = "train_config"
) -> list[str]:
    """Return the problems of a config, one line each; none for a good one.

    Args:
        config: The user's dict, before defaults are filled in.
        data_given: The datasets are handed over, so the config needs none.
        name: Name of the dict, which decides the table of keys.
    """
    table, problems, good = TABLES[name], [], {}
    for key, value in config.items():
        problem = _check_value(key, value, table)
        if problem is None:
            good[key] = value
        else:
            problems.append(f'{name}["{key}"]: {problem}')
    problems += [
        f'{name}["{key}"]: expected {table.keys[key].kind.rule}, got nothing.'
        f" It is: {table.keys[key].meaning}."
        for key in table.required
        if key not in config and not (data_given and key in _HANDED)
    ]
    bad = {*config, *table.required} - good.keys()  # has its message: what follows leaves it alone
    complete = with_defaults(good, table.keys)
    problems += _check_calls(complete, bad, data_given, table)
    problems += [] if data_given else _check_features(complete, bad, table)
    if name == "train_config":
        problems += _check_groups(complete, bad) + _check_together(complete, bad)
    entries = {
        "CHECKPOINT": CHECKPOINT_KEYS,
        "DATA_LOADER_CONFIG": LOADER_KEYS,
        "DDP_CONFIG": DDP_KEYS,
    }
    for key, rules in entries.items():
        if key in table.keys:
            problems += _check_entries(f'{name}["{key}"]', key, complete[key], rules)
    return problems


def _check_value(name: Any, value: Any, table: Table) -> str | None:
    keys = table.keys
    if name not in keys:
        return (
            f'expected a known key, got "{name}".{did_you_mean(str(name), keys)}'
            f" `python {table.command} --help` lists all keys."
        )
    is_network = name == "MODEL" and _is_module(value)  # could be neither repeated nor captured
    # would make an object of (pred, target)
    is_loss_class = name == "LOSS" and isinstance(value, partial) and isinstance(value.func, type)
    if keys[name].kind.accepts(value) and not is_network and not is_loss_class:
        return None
    is_object = f"{name}_CONFIG" in keys and value is not None and not isinstance(value, str)
    advice = f"It is: {keys[name].meaning}."
    if is_object:
        advice = f"Name the class, and put its arguments into {name}_CONFIG."
    return f"expected {keys[name].kind.rule}, got {shorten(value)}. {advice}"


def _is_module(value: Any) -> bool:
    is_object = not isinstance(value, type)
    return is_object and hasattr(value, "forward") and hasattr(value, "state_dict")


def _check_calls(
    config: Mapping[str, Any], bad: Set[str], data_given: bool, table: Table
) -> list[str]:
    problems = []
    for name in table.keys:
        key = f"{name}_CONFIG"
        is_handed = data_given and name in _HANDED
        if key not in table.keys or is_handed or bad & {name, key}:
            continue
        called, arguments = _find_called(name, config), config[key]
        if called is None:
            if arguments:
                problems.append(
                    f'{table.name}["{name}"]: expected {table.keys[name].kind.rule} for {key}, got'
                    f" nothing. Set {name}, or remove the arguments with ~{key}."
                )
        elif _is_module(called):  # a LOSS or a BATCH_TRANSFORM
            if arguments:
                problems.append(
                    f'{table.name}["{key}"]: expected nothing beside a {name} that is made'
                    f" already, got {shorten(arguments)}. Name the class in {name}."
                )
        elif name != "MODEL" or table.name == "train_config":  # else a file holds more of them
            is_function = not isinstance(getattr(called, "func", called), type)
            takes_pair = name in _OF_PAIRS and is_function
            problems += check_call(
                called,
                arguments,
                f'{table.name}["{key}"]',
                n_given=2 if takes_pair else _N_GIVEN.get(name, 0),
                filled_in=FILLED_IN.get("TEST_DATASET" if name == "DATASET" else name, ()),
                remedy=f"~{key}.",
            )
    return problems


def _find_called(name: str, config: Mapping[str, Any]) -> Any:
    """Return what the run calls with the arguments of NAME_CONFIG."""
    if name == "OPTIMIZER" and config[name] is None:
        from torch.optim import AdamW  # torch costs a second: only where a config is checked

        return AdamW
    if name == "SCHEDULER" and config["ONE_CYCLE"]:
        from torch.optim.lr_scheduler import OneCycleLR

        return OneCycleLR
    if name == "VAL_DATASET" and config["VAL_DATASET_CONFIG"]:
        return config["VAL_DATASET"] or config["TRAIN_DATASET"]
    return config[name]


def check_call(
    called: Callable[..., Any],
    arguments: Mapping[str, Any],
    where: str,
    n_given: int = 0,
    filled_in: Container[str] = (),
    remedy: str = "",
) -> list[str]:
    """Return what is wrong with calling something with these keyword arguments.

    Args:
        called: Class or function; one without a readable signature has no problems.
        arguments: Keyword arguments by name.
        where: Where the arguments stand, the beginning of each message.
        n_given: How many positional arguments the kit passes first.
        filled_in: Names that the kit passes when they are missing.
        remedy: Start of the override that removes an argument, such as `~MODEL_CONFIG.`.
    """
    try:
        parameters = list(inspect.signature(called).parameters.values())
    except (TypeError, ValueError):
        return []
    while isinstance(called, partial):
        called = called.func
    title, hints = getattr(called, "__name__", type(called).__name__), _hints(called)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    accepted = {
        p.name: p
        for i, p in enumerate(parameters)
        if p.kind is p.KEYWORD_ONLY or (p.kind is p.POSITIONAL_OR_KEYWORD and i >= n_given)
    }
    problems = []
    for name, value in arguments.items():
        if name in accepted:
            rule = _broken_rule(value, hints.get(name), accepted[name].default)
            if rule is not None:
                problems.append(
                    f'{where}["{name}"]: expected {rule}, got {shorten(value)}.'
                    f" {title} says so in its signature."
                )
        elif not takes_any:
            remove = f", or remove it with {remedy}{name}" if remedy else " or remove it"
            problems.append(
                f"{where}: expected an argument of {title} ({', '.join(accepted) or 'none'}),"
                f' got "{name}".{did_you_mean(name, accepted)} Rename it{remove}.'
            )
    missing = [
        name
        for name, p in accepted.items()
        if p.default is p.empty and name not in arguments and name not in filled_in
    ]
    if missing:
        problems.append(
            f"{where}: expected a value for {', '.join(missing)}, got none."
            f" {title} cannot be called without."
        )
    return problems


def _check_features(config: Mapping[str, Any], bad: Set[str], table: Table) -> list[str]:
    """Return the problem of SAMPLED_FEATURES that no dataset of the config reads."""
    names = [name for name in table.keys if name.endswith("DATASET")]
    datasets = [config[name] for name in names if name not in bad and config[name] is not None]
    is_read = any(_takes(dataset, "sampled_features") for dataset in datasets)
    if config["SAMPLED_FEATURES"] is None or is_read or bad & {*names, "SAMPLED_FEATURES"}:
        return []
    return [
        f'{table.name}["SAMPLED_FEATURES"]: expected a dataset that takes sampled_features, got'
        f" {', '.join(shorten(dataset) for dataset in datasets) or 'none'}. Set"
        f" {names[0]}=utils.data.FeatureDataset, or remove it with ~SAMPLED_FEATURES."
    ]


def _takes(called: Any, argument: str) -> bool:
    try:
        return argument in inspect.signature(called).parameters
    except (TypeError, ValueError):  # no readable signature
        return False


def _hints(called: Any) -> dict[str, Any]:
    if isinstance(called, type):
        called = called.__init__  # type: ignore[misc]
    elif not inspect.isroutine(called):
        called = type(called).__call__
    try:
        return typing.get_type_hints(called)
    except Exception:  # noqa: BLE001, an annotation may name anything; then there is no rule
        return {}


_PLAIN = {int: (int,), float: (int, float), bool: (bool,), str: (str,), type(None): (type(None),)}


def _broken_rule(value: Any, hint: Any, default: Any) -> str | None:
    """Return the annotation that a value breaks; only numbers, text, flags and None are judged.

    A value of the default's type is right, whatever the annotation says.
    """
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    options = list(typing.get_args(hint)) if is_union else [hint]
    # torch.optim takes `lr: float | Tensor`, which text is not either
    options = [option for option in options if getattr(option, "__name__", "") != "Tensor"]
    is_judged = options and all(isinstance(o, type) and o in _PLAIN for o in options)
    if not is_judged or not isinstance(value, (int, float, str, type(None))):
        return None
    if type(value) is type(default):
        return None
    for option in options:
        is_flag_as_number = isinstance(value, bool) and option is not bool
        if isinstance(value, _PLAIN[option]) and not is_flag_as_number:
            return None
    return " or ".join("None" if option is type(None) else option.__name__ for option in options)


def _check_groups(config: Mapping[str, Any], bad: Set[str]) -> list[str]:
    """Return the arguments in PARAM_GROUPS that the optimizer does not take."""
    if bad & {"OPTIMIZER", "OPTIMIZER_CONFIG", "PARAM_GROUPS"}:
        return []
    optimizer, given = _find_called("OPTIMIZER", config), {"lr", *config["OPTIMIZER_CONFIG"]}
    return [
        problem
        for part, arguments in config["PARAM_GROUPS"].items()
        for problem in check_call(
            optimizer, arguments, f'train_config["PARAM_GROUPS"]["{part}"]', 1, given
        )
    ]


def _check_together(config: Mapping[str, Any], bad: Set[str]) -> list[str]:
    """Return the problems that only several keys together show."""
    problems = []
    lr, own_lr, monitor = config["LR"], config["OPTIMIZER_CONFIG"].get("lr"), config["MONITOR"]
    if lr is not None and own_lr is not None and lr != own_lr:
        problems.append(
            f'train_config["LR"]: expected the learning rate of OPTIMIZER_CONFIG ({own_lr}) or'
            f" none, got {lr}. Remove one of them: ~LR or ~OPTIMIZER_CONFIG.lr."
        )
    if config["ONE_CYCLE"] and config["SCHEDULER"] is not None:
        problems.append(
            'train_config["ONE_CYCLE"]: expected no SCHEDULER beside it, got both.'
            " Set ONE_CYCLE=False, or remove it with ~SCHEDULER."
        )
    is_inferred = "MONITOR_MODE" in bad or monitor.endswith("loss")
    if config["MONITOR_MODE"] is None and not is_inferred:
        problems.append(
            f'train_config["MONITOR_MODE"]: expected "min" or "max" for MONITOR "{monitor}", got'
            " None. Set MONITOR_MODE=max if higher is better."
        )
    return problems


def _check_entries(
    where: str, name: str, entries: Mapping[Any, Any], table: Mapping[str, Kind]
) -> list[str]:
    problems = []
    for entry, value in entries.items():
        if entry not in table:
            problems.append(
                f'{where}: expected one of {", ".join(table)}, got "{entry}".'
                f"{did_you_mean(str(entry), table)} Rename it, or remove it with ~{name}.{entry}."
            )
        elif not table[entry].accepts(value):
            problems.append(
                f'{where}["{entry}"]: expected {table[entry].rule},'
                f" got {shorten(value)}. Set {name}.{entry}=..., or remove it with ~{name}.{entry}."
            )
    return problems
