"""Find every problem of a config before anything is built or written."""

import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from config.errors import did_you_mean, shorten
from config.keys import CHECKPOINT_KEYS, KEYS, LOADER_KEYS, REQUIRED, Kind

# how many positional arguments the run itself passes to the callable of a key
_N_GIVEN = {"OPTIMIZER": 1, "SCHEDULER": 1}
# what the run fills in when a callable takes it and NAME_CONFIG leaves it out
FILLED_IN = {
    "OPTIMIZER": ("lr",),
    "SCHEDULER": ("total_steps", "T_max", "max_lr"),
    "TRAIN_DATASET": ("task", "preprocess"),
    "VAL_DATASET": ("task", "preprocess"),
    "TEST_DATASET": ("task", "preprocess"),
}
_CALLED = ("MODEL", "LOSS", "OPTIMIZER", "SCHEDULER", *FILLED_IN)


def check_config(config: Mapping[str, Any], data_given: bool = False) -> list[str]:
    """Return the problems of a config, one line each; none for a good one.

    Args:
        config: The user's dict, before defaults are filled in.
        data_given: The datasets are handed to `train()`, so the config needs none.
    """
    problems = []
    for name, value in config.items():
        if name not in KEYS:
            problems.append(
                f'train_config["{name}"]: expected a known key, got "{name}".'
                f"{did_you_mean(name, KEYS)} `python train.py --help` lists all keys."
            )
        elif not KEYS[name].kind.accepts(value):
            problems.append(
                f'train_config["{name}"]: expected {KEYS[name].kind.rule}, got {shorten(value)}.'
                f" It is: {KEYS[name].meaning}."
            )
    problems += [
        f'train_config["{name}"]: expected {KEYS[name].kind.rule}, got nothing.'
        f" It is: {KEYS[name].meaning}."
        for name in REQUIRED
        if config.get(name) is None
    ]
    if problems:  # the checks below compare values whose kinds are right
        return problems + _check_calls(config, skip=_names_in(problems))
    return _check_calls(config) + _check_together(config, data_given)


def _names_in(problems: Iterable[str]) -> set[str]:
    return {problem.split('"')[1] for problem in problems}


def _check_calls(config: Mapping[str, Any], skip: Iterable[str] = ()) -> list[str]:
    problems = []
    for name in dict.fromkeys(_CALLED):
        arguments = config.get(f"{name}_CONFIG", {})
        called = config.get(name)
        if called is None or name in skip or f"{name}_CONFIG" in skip:
            continue
        if name == "LOSS" and not isinstance(called, type) and _is_module(called):
            if arguments:
                problems.append(
                    'train_config["LOSS_CONFIG"]: expected nothing beside a LOSS that is built'
                    f" already, got {shorten(dict(arguments))}. Give LOSS the class."
                )
            continue
        is_loss_function = name == "LOSS" and not isinstance(called, type)  # loss(pred, target)
        problems += check_call(
            called,
            arguments,
            f'train_config["{name}_CONFIG"]',
            n_given=2 if is_loss_function else _N_GIVEN.get(name, 0),
            filled_in=FILLED_IN.get(name, ()),
            remedy=f"~{name}_CONFIG.",
        )
    return problems


def _is_module(value: Any) -> bool:
    return hasattr(value, "forward") and hasattr(value, "state_dict")


def check_call(
    called: Callable[..., Any],
    arguments: Mapping[str, Any],
    where: str,
    n_given: int = 0,
    filled_in: Iterable[str] = (),
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
        signature = inspect.signature(called)
    except (TypeError, ValueError):
        return []
    hints = _hints(called)
    title = getattr(called, "__name__", None) or getattr(
        getattr(called, "func", called), "__name__", type(called).__name__
    )
    parameters = list(signature.parameters.values())
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
    by_name = {
        p.name: p
        for i, p in enumerate(parameters)
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        and not (i < n_given and p.kind is not p.KEYWORD_ONLY)
    }
    problems = []
    for name, value in arguments.items():
        if name not in by_name:
            if not open_ended:
                problems.append(
                    f"{where}: expected an argument of {title} ({', '.join(by_name) or 'none'}),"
                    f' got "{name}".{did_you_mean(name, by_name)} Rename it, or remove it'
                    f" with {remedy}{name}."
                )
        elif (rule := _type_problem(value, hints.get(name))) is not None:
            problems.append(
                f'{where}["{name}"]: expected {rule}, got {shorten(value)}.'
                f" {title} says so in its signature."
            )
    missing = [
        name
        for name, p in by_name.items()
        if p.default is p.empty and name not in arguments and name not in filled_in
    ]
    if missing:
        problems.append(
            f"{where}: expected a value for {', '.join(missing)}, got none."
            f" {title} cannot be called without."
        )
    return problems


def _hints(called: Any) -> dict[str, Any]:
    while isinstance(called, functools.partial):
        called = called.func
    try:
        return typing.get_type_hints(called.__init__ if isinstance(called, type) else called)
    except Exception:  # noqa: BLE001, an annotation may name anything; then there is no rule
        return {}


_PLAIN = {int: (int,), float: (int, float), bool: (bool,), str: (str,), type(None): (type(None),)}


def _type_problem(value: Any, hint: Any) -> str | None:
    """Return the rule that a value breaks; only numbers, text, flags and None are judged."""
    options = (
        typing.get_args(hint)
        if typing.get_origin(hint) in (typing.Union, types.UnionType)
        else (hint,)
    )
    if not all(option in _PLAIN for option in options) or not isinstance(
        value, (int, float, str, type(None))
    ):
        return None
    for option in options:
        is_flag_as_number = isinstance(value, bool) and option is not bool
        if isinstance(value, _PLAIN[option]) and not is_flag_as_number:
            return None
    return " or ".join("None" if o is type(None) else o.__name__ for o in options)


def _check_together(config: Mapping[str, Any], data_given: bool) -> list[str]:
    """Return the problems that only several keys together show."""
    problems = []
    get = {name: key.default for name, key in KEYS.items()} | dict(config)
    lr = get["OPTIMIZER_CONFIG"].get("lr")
    if get["LR"] is not None and lr is not None and lr != get["LR"]:
        problems.append(
            f'train_config["LR"]: expected the learning rate of OPTIMIZER_CONFIG ({lr}) or none,'
            f" got {get['LR']}. Remove one of them: ~LR or ~OPTIMIZER_CONFIG.lr."
        )
    if get["ONE_CYCLE"] and get["SCHEDULER"] is not None:
        problems.append(
            'train_config["ONE_CYCLE"]: expected no SCHEDULER beside it, got both.'
            " Set ONE_CYCLE=False, or remove it with ~SCHEDULER."
        )
    if get["MONITOR_MODE"] is None and not get["MONITOR"].endswith("loss"):
        problems.append(
            f'train_config["MONITOR_MODE"]: expected "min" or "max" for MONITOR "{get["MONITOR"]}",'
            " got None. Set MONITOR_MODE=max if higher is better."
        )
    problems += _check_entries("CHECKPOINT", get["CHECKPOINT"], CHECKPOINT_KEYS)
    problems += _check_entries("DATA_LOADER_CONFIG", get["DATA_LOADER_CONFIG"], LOADER_KEYS)
    if data_given:
        return problems
    if get["TRAIN_DATASET"] is None and get["TRAIN_DATASET_CONFIG"]:
        problems.append(
            'train_config["TRAIN_DATASET"]: expected a dataset class for TRAIN_DATASET_CONFIG,'
            " got None. Name one, for example utils.data.PairedFolder."
        )
    return problems


def _check_entries(name: str, entries: Mapping[str, Any], table: Mapping[str, Kind]) -> list[str]:
    problems = []
    for entry, value in entries.items():
        if entry not in table:
            problems.append(
                f'train_config["{name}"]: expected one of {", ".join(table)}, got "{entry}".'
                f"{did_you_mean(entry, table)} Rename it, or remove it with ~{name}.{entry}."
            )
        elif not table[entry].accepts(value):
            problems.append(
                f'train_config["{name}"]["{entry}"]: expected {table[entry].rule},'
                f" got {shorten(value)}. Set {name}.{entry}=..."
            )
    return problems
