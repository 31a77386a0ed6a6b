"""The space of a hyperparameter search: which values a key of a config may take.

    search_space = {
        "OPTIMIZER_CONFIG.lr": interval(1e-4, 1e-1, log=True),
        "MODEL_CONFIG.bulk_ch": choice(8, 16, 32),
        "OPTIMIZER, OPTIMIZER_CONFIG": choice((SGD, {"lr": 0.1}), (AdamW, {"lr": 1e-3})),
    }

Keys are dotted as in KEY=VALUE; several, separated by commas, take the parts of one option.
"""

import ast
import inspect
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from config.check import check_config
from config.codec import decode, describe, encode
from config.errors import ConfigError, did_you_mean, shorten
from config.keys import KEYS, copy_containers
from config.load import load_config

_SPREAD = 30  # times and parts of the config's learning rate that the default space reaches


class Choice(NamedTuple):
    """One of several values of any kind; made by `choice`."""

    options: tuple[Any, ...]


class Interval(NamedTuple):
    """A number from low to high, both included; whole if both are. Made by `interval`."""

    low: float
    high: float
    log: bool = False


Space = Mapping[str, Choice | Interval]


def choice(*options: Any) -> Choice:
    """Return a choice of values.

    Raises:
        ConfigError: There are fewer than two.
    """
    if len(options) < 2:
        raise ConfigError(f"choice: expected two values or more, got {len(options)}. Add others.")
    return Choice(options)


def interval(low: float, high: float, log: bool = False) -> Interval:
    """Return an interval of numbers.

    Args:
        low: The smallest value.
        high: The largest.
        log: Draw evenly over the magnitudes, as learning rates want it.

    Raises:
        ConfigError: The bounds are no finite numbers in this order, or not above 0 with `log`.
    """
    are_numbers = all(
        isinstance(bound, (int, float)) and not isinstance(bound, bool) and math.isfinite(bound)
        for bound in (low, high)
    )
    if not are_numbers or low >= high or (log and low <= 0):
        rule = "numbers above 0" if log else "numbers"
        raise ConfigError(
            f"interval: expected {rule}, the lower one first, got {shorten(low)} and"
            f" {shorten(high)}. Write interval(1e-4, 1e-1, log=True)."
        )
    return Interval(low, high, bool(log))


def split_space(overrides: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Return the overrides `KEY=choice(...)` and `KEY=interval(...)` by key, and all others."""
    texts, others = {}, []
    for text in overrides:
        key, _, value = text.partition("=")
        if value.startswith(("choice(", "interval(")):
            texts[key] = value
        else:
            others.append(text)
    return texts, others


def read_space(texts: Mapping[str, str], source: str, overrides: Iterable[str]) -> dict[str, Any]:
    """Return the space that overrides describe.

    Args:
        texts: Key -> `choice(8, torch.nn.ELU)` or `interval(1e-4, 1e-1, log=True)`; options are
            read as KEY=VALUE reads them.
        source: The config, whose values say how text is read.
        overrides: All other overrides.

    Raises:
        ConfigError: Every text that is no choice or interval, or names what cannot be imported.
    """
    space, problems = {}, []
    for key, text in texts.items():
        try:
            arguments, options = _take_apart(text)
            if text.startswith("interval("):
                space[key] = interval(*map(ast.literal_eval, arguments), **options)
                continue
            configs = [
                load_config(source, [*overrides, f"{key}={option}"])[0] for option in arguments
            ]
            space[key] = choice(*(_get(config, key) for config in configs))
        except ConfigError as error:
            problems += [f"{key}: {problem}" for problem in error.problems]
        except (SyntaxError, ValueError, TypeError):
            problems.append(
                f"{key}: expected choice(8, 16) or interval(1e-4, 1e-1, log=True), got"
                f" {shorten(text)}. Correct it."
            )
    if problems:
        raise ConfigError(problems)
    return space


def _take_apart(text: str) -> tuple[list[str], dict[str, Any]]:
    """Return the arguments of a call as text, those of quotes without them, and its keywords."""
    call = ast.parse(text, mode="eval").body
    if not isinstance(call, ast.Call):
        raise ValueError(text)
    arguments = [
        arg.value
        if isinstance(arg, ast.Constant) and isinstance(arg.value, str)
        else ast.get_source_segment(text, arg) or ""
        for arg in call.args
    ]
    return arguments, {word.arg: ast.literal_eval(word.value) for word in call.keywords}


def default_space(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the space of a config that brings none: learning rate and batch size around its own.

    Raises:
        ConfigError: The config names no learning rate, and its optimizer has no default.
    """
    lr, key = config.get("LR"), "LR"
    if lr is None:
        lr, key = config.get("OPTIMIZER_CONFIG", {}).get("lr"), "OPTIMIZER_CONFIG.lr"
    if lr is None:
        optimizer = config.get("OPTIMIZER")
        parameters = inspect.signature(optimizer).parameters if optimizer else {}
        lr = parameters["lr"].default if "lr" in parameters else 1e-3  # that of AdamW
    if not isinstance(lr, (int, float)) or lr <= 0:
        raise ConfigError(
            f"search_space: expected one, or a learning rate to search around, got {shorten(lr)}."
            " Give OPTIMIZER_CONFIG.lr=..., or a space."
        )
    batch_size = config.get("DATA_LOADER_CONFIG", {}).get("batch_size", 1)
    sizes = sorted({max(1, batch_size // 2), batch_size, 2 * batch_size})
    return {
        key: interval(lr / _SPREAD, lr * _SPREAD, log=True),
        "DATA_LOADER_CONFIG.batch_size": choice(*sizes),
    }


def check_space(space: Any, config: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with a space, a line for each problem.

    Every option is tried in the config, the others staying as they are.
    """
    if not isinstance(space, Mapping) or not space:
        return [
            f"search_space: expected a dict from key to choice or interval, got {shorten(space)}."
            ' Write {"OPTIMIZER_CONFIG.lr": interval(1e-4, 1e-1, log=True)}.'
        ]
    problems = []
    for key, values in space.items():
        if not isinstance(values, (Choice, Interval)):
            problems.append(
                f'search_space["{key}"]: expected choice(...) or interval(...), got'
                f" {shorten(values)}. Import them from config.search."
            )
            continue
        names = [part.split(".")[0] for part in _split(key)]
        unknown = [name for name in names if name not in KEYS]
        if unknown:
            problems.append(
                f'search_space["{key}"]: expected a key of a config, got "{unknown[0]}".'
                f"{did_you_mean(unknown[0], KEYS)} `python train.py --help` lists all keys."
            )
            continue
        options = values.options if isinstance(values, Choice) else (values.low, values.high)
        for option in options:
            try:
                tried = check_config(apply(config, {key: option}))
            except ConfigError as error:
                tried = error.problems
            problems += [f'search_space["{key}"], {shorten(option, 40)}: {line}' for line in tried]
    return list(dict.fromkeys(problems))


def apply(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a config with these values at their dotted keys.

    Raises:
        ConfigError: A key leads through something that is no dict, or an option has not a part for
            each of several keys.
    """
    config = copy_containers(config)
    for key, value in values.items():
        paths = _split(key)
        parts = [value] if len(paths) == 1 else value
        if not isinstance(parts, (list, tuple)) or len(parts) != len(paths):
            raise ConfigError(
                f'search_space["{key}"]: expected options of {len(paths)} parts, got'
                f" {shorten(value)}. Write choice((a, b), (c, d))."
            )
        for path, part in zip(paths, parts, strict=True):
            _set(config, path, copy_containers(part))
    return config


def _split(key: str) -> list[str]:
    return [part.strip() for part in key.split(",")]


def _set(config: dict[str, Any], path: str, value: Any) -> None:
    *outer, last = path.split(".")
    for name in outer:
        config = config.setdefault(name, {})
        if not isinstance(config, dict):
            raise ConfigError(
                f'search_space["{path}"]: expected a dict at "{name}", got {shorten(config)}.'
                f' Search "{name}" as a whole.'
            )
    config[last] = value


def _get(config: Any, path: str) -> Any:
    for name in path.split("."):
        config = config[name]
    return config


def label_options(options: Iterable[Any]) -> list[str]:
    """Return a text for each option, no two alike."""
    texts = [str(describe(encode(option))) for option in options]
    return [f"{i}: {text}" if texts.count(text) > 1 else text for i, text in enumerate(texts)]


def encode_space(space: Space, lost: list[str]) -> dict[str, Any]:
    """Return a space as plain data; `lost` receives what text cannot hold."""
    return {
        key: {"choice": [encode(option, key, lost) for option in values.options]}
        if isinstance(values, Choice)
        else {"interval": list(values)}
        for key, values in space.items()
    }


def decode_space(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return the space that `encode_space` wrote, importing what it names."""
    return {
        key: Choice(tuple(decode(values["choice"])))
        if "choice" in values
        else Interval(*values["interval"])
        for key, values in plain.items()
    }
