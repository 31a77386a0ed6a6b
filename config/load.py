"""From the command line to a config: load the file, apply KEY=VALUE, resolve names."""

import importlib
import os
import sys
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from config.codec import decode_config, get_object, import_file, is_file
from config.config import global_config
from config.errors import ConfigError, did_you_mean
from config.keys import KEYS, TEXT, copy_containers, is_import_path, read_literal


def load_config(
    source: str, overrides: Iterable[str] = (), name: str = "train_config"
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Load a config, apply the overrides, and return it with the project's folders.

    Args:
        source: A .py file or dotted module that holds `name`, or a .yaml file.
        overrides: `KEY=VALUE`, `KEY.sub=VALUE`, or `~KEY.sub` to remove an entry. The keys of
            `global_config` are overridden in the same way.
        name: Name of the dict in a Python file.

    Returns:
        The config as a private dict, and the `global_config` with its overrides.

    Raises:
        ConfigError: Everything that is wrong with the file and the overrides.
    """
    config = copy_containers(_read(source, name))
    folders, problems = dict(global_config), []
    for text in overrides:
        try:
            _override(config, folders, text)
        except ConfigError as error:
            problems += error.problems
    for key, value in config.items():
        if is_import_path(key) and isinstance(value, str):
            try:
                config[key] = get_object(value)
            except ConfigError as error:
                problems += [f"{key}: {problem}" for problem in error.problems]
    if problems:
        raise ConfigError(problems)
    return config, folders


def _read(source: str, name: str) -> Mapping[str, Any]:
    if source.endswith((".yaml", ".yml")):
        path = Path(source)
        if not path.is_file():
            raise ConfigError(f'"{source}": expected a config file, got none. Check the path.')
        return decode_config(path.read_text(encoding="utf-8"), source)
    module = import_file(Path(source)) if is_file(source) else get_object(source)
    if not isinstance(module, types.ModuleType):
        raise ConfigError(f'"{source}": expected a module, got {type(module).__name__}.')
    config = getattr(module, name, None)
    if not isinstance(config, Mapping):
        raise ConfigError(
            f'"{source}": expected a file with a dict `{name}`, got'
            f" {'none' if config is None else type(config).__name__}."
            " Copy experiments/scenes.py to start with."
        )
    return config


def _override(config: dict[str, Any], folders: dict[str, Any], text: str) -> None:
    removes = text.startswith("~")
    path, equals, value = text.lstrip("~").partition("=")
    key, *inner = path.split(".")
    if removes == bool(equals):
        raise ConfigError(f'"{text}": expected KEY=VALUE or ~KEY, got neither. See --help.')
    if key in folders and not inner and not removes:
        folders[key] = Path(value).expanduser().resolve()
        return
    if key not in KEYS:
        known = [*KEYS, *folders]
        raise ConfigError(
            f'"{text}": expected a known key, got "{key}".{did_you_mean(key, known)}'
            " `python train.py --help` lists all keys."
        )
    holder = config
    for part in [key, *inner][:-1]:
        if holder is config and part not in config:
            config[part] = copy_containers(KEYS[part].default)
        holder = holder.get(part) if isinstance(holder, dict) else None
        if not isinstance(holder, dict):
            raise ConfigError(f'"{text}": expected a dict at "{part}", got none. Set {part} first.')
    last = inner[-1] if inner else key
    if removes:
        if last not in holder:
            raise ConfigError(
                f'"{text}": expected an entry of the config, got "{path}".'
                f"{did_you_mean(last, holder)} There is nothing to remove."
            )
        del holder[last]
    else:
        holder[last] = _read_inner(value, holder.get(last)) if inner else _read_key(key, value)


def _read_key(key: str, text: str) -> Any:
    kind = KEYS[key].kind
    if kind.read is TEXT.read:
        return kind.read(text)
    if is_import_path(key):
        return None if text == "None" else get_object(text)
    return kind.read(text)


def _read_inner(text: str, former: Any) -> Any:
    """Read the value of an argument: a literal, an import path, else text.

    Text that replaces text stays text; other text with a dot is tried as an import path.
    """
    if isinstance(former, str):
        return text
    value = read_literal(text)
    if not isinstance(value, str) or value != text or "." not in text:
        return value
    try:
        return get_object(text)
    except ConfigError:
        if callable(former):
            raise
        return text


# ------------------------------------------------------------------------------------ routines


def list_routines(folders: Mapping[str, Any] = global_config) -> list[str]:
    """Return the short names of the routines: the files training/<name>_training.py."""
    suffix = "_training.py"
    found = Path(folders["ROOT_PATH"], "training").glob("*" + suffix)
    return sorted(path.name.removesuffix(suffix) for path in found)


def load_routine(routine: Any) -> types.ModuleType:
    """Return the module whose `train()` runs a config.

    Args:
        routine: A short name ("pytorch"), a dotted module or .py file, or a module.

    Raises:
        ConfigError: There is no such routine, its framework is not installed, or it has no train().
    """
    module = routine
    if isinstance(routine, str):
        names = list_routines()
        if routine in names:
            module = _import_routine(f"training.{routine}_training", routine)
        elif is_file(routine):
            module = import_file(Path(routine))
        elif "." in routine:
            module = _import_routine(routine, routine)
        else:
            raise ConfigError(
                f"ROUTINE_NAME: expected one of {', '.join(names)} or a module with train(),"
                f' got "{routine}".{did_you_mean(routine, names)} Set --routine.'
            )
    if not callable(getattr(module, "train", None)):
        raise ConfigError(
            "ROUTINE_NAME: expected a module with train(), got"
            f' "{getattr(module, "__name__", module)}". Choose one with --routine pytorch.'
        )
    return module


def _import_routine(name: str, routine: str) -> types.ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f'ROUTINE_NAME: expected the package "{error.name}" for the routine "{routine}",'
            " got none. Run `make env-dev`."
        ) from error


def missing_packages() -> str | None:
    """Return what to do when this Python lacks the kit's packages, or None when it has them."""
    needed = ("torch", "numpy", "yaml", "rich", "filelock")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if not missing:
        return None
    root = Path(__file__).resolve().parent.parent
    python = root / ".venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    remedy = f"Use {python}" if python.exists() else f"Run `make env-dev` in {root}"
    return f"expected {', '.join(missing)} in {sys.executable}, got none. {remedy}."
