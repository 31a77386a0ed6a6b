"""From the command line to a config: load the file, apply KEY=VALUE, resolve names."""

import importlib.util
import os
import sys
import types
from collections.abc import Container, Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any

from config.config import ROOT_PATH, global_config
from config.errors import ConfigError, did_you_mean, shorten
from config.keys import TABLES, Table, copy_containers, is_import_path, read_literal, read_text
from config.names import get_object


def load_config(
    source: str, overrides: Iterable[str] = (), name: str = "train_config"
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Load a config, apply the overrides, and return it with the project's folders.

    Args:
        source: A .py file or dotted module that holds `name`, or a .yaml file.
        overrides: `KEY=VALUE`, `KEY.sub=VALUE`, or `~KEY.sub` to remove an entry. The keys of
            `global_config` are overridden in the same way.
        name: Name of the dict in a Python file; `predict_config` has keys of its own.

    Returns:
        The config as a private dict, and the `global_config` with its overrides. `DATE=...` goes
        to the latter, because a DATE in the config is that of an earlier run.

    Raises:
        ConfigError: The file cannot be read, or else all that is wrong with the overrides and
            with the names in the file.
    """
    overrides = list(overrides)
    replaced = {text.removeprefix("~").partition("=")[0] for text in overrides}
    table = TABLES.get(name) or TABLES["train_config"]._replace(name=name)
    config = copy_containers(_read(source, table, replaced))
    folders, problems = dict(global_config), []
    for text in overrides:
        try:
            _override(config, folders, text, table)
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


def load_folders(overrides: Iterable[str]) -> dict[str, Any]:
    """Return the `global_config` with those of the overrides that concern it, and no others."""
    folders = dict(global_config)
    for text in overrides:
        path, _, value = text.partition("=")
        if path in global_config:
            folders[path] = _read_folder(text, value, folders[path])
    return folders


def _read(source: str, table: Table, replaced: Container[str]) -> Mapping[str, Any]:
    if source.endswith((".yaml", ".yml")):
        from config.codec import decode_config  # needs PyYAML: see missing_packages

        path = Path(source)
        if not path.is_file():
            raise ConfigError(f'"{source}": expected a config file, got none. Check the path.')
        return decode_config(path.read_text(encoding="utf-8"), source, replaced)
    config = getattr(get_object(source), table.name, None)
    if not isinstance(config, Mapping):
        raise ConfigError(
            f'"{source}": expected a module with a dict `{table.name}`, got'
            f" {'none' if config is None else type(config).__name__}."
            f" Copy {table.example} to start with."
        )
    return config


def _override(config: dict[str, Any], folders: dict[str, Any], text: str, table: Table) -> None:
    removes = text.startswith("~")
    path, equals, value = text.removeprefix("~").partition("=")
    key = path.split(".")[0]
    if removes == bool(equals):
        raise ConfigError(f'"{text}": expected KEY=VALUE or ~KEY, got neither. See --help.')
    if key in global_config:
        if path != key or removes:
            raise ConfigError(f'"{text}": expected {key}=VALUE, got another form. Change it whole.')
        folders[key] = _read_folder(text, value, folders[key])
    elif key not in table.keys:
        near = did_you_mean(key, [*table.keys, *global_config])
        raise ConfigError(
            f'"{text}": expected a known key, got "{path}".{near}'
            f" `python {table.command} --help` lists all keys."
        )
    elif removes:
        _remove(config, path, text)
    elif path == "DATE":
        folders[path] = table.keys[path].kind.read(value)
    else:
        _set(config, path, value, text, table)


def _set(config: dict[str, Any], path: str, value: str, text: str, table: Table) -> None:
    *outer, last = path.split(".")
    holder = config
    for part in outer:
        if holder.get(part) is None:
            holder[part] = {}
        holder = _enter(holder, part, text)
    if outer:
        holder[last] = _read_entry(value, holder.get(last))
    else:
        holder[last] = table.keys[path].kind.read(value)


def _remove(config: dict[str, Any], path: str, text: str) -> None:
    *outer, last = path.split(".")
    holder = config
    for part in outer:
        holder = _enter(holder, part, text)
    if last not in holder:
        raise ConfigError(
            f'"{text}": expected an entry of the config, got "{path}".{did_you_mean(last, holder)}'
            " There is nothing to remove."
        )
    del holder[last]


def _enter(holder: dict[str, Any], part: str, text: str) -> dict[str, Any]:
    inner = holder.get(part)
    if not isinstance(inner, dict):
        raise ConfigError(
            f'"{text}": expected a dict at "{part}", got {shorten(inner)}.'
            f' Set or remove "{part}" as a whole.'
        )
    return inner


def _read_folder(text: str, value: str, former: Any) -> Any:
    if not isinstance(former, PurePath):  # a setting of your own
        return _read_entry(value, former)
    if not value:
        raise ConfigError(f'"{text}": expected a folder, got nothing. Give its path.')
    return Path(value).expanduser().resolve()


def _read_entry(text: str, former: Any) -> Any:
    """Read the value of an argument: a literal, an import path, else text.

    What replaces text or a path stays text.
    """
    if isinstance(former, (str, PurePath)):
        return read_text(text)
    value = read_literal(text)
    is_name = value == text and ("." in text or callable(former))
    if not is_name:
        return value
    try:
        return get_object(text)
    except ConfigError:
        if callable(former):
            raise
        return text


# ------------------------------------------------------------------------------------ routines


def list_routines() -> list[str]:
    """Return the short names of the routines: the files training/<name>_training.py."""
    suffix = "_training.py"
    found = (ROOT_PATH / "training").glob("*" + suffix)
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
        path = f"training.{routine}_training" if routine in names else routine
        if "." not in path:
            raise ConfigError(
                f"ROUTINE_NAME: expected one of {', '.join(names)} or a module with train(),"
                f' got "{routine}".{did_you_mean(routine, names)} Set --routine.'
            )
        try:
            module = get_object(path)
        except ConfigError as error:
            raise ConfigError([f"ROUTINE_NAME: {line}" for line in error.problems]) from error
    if not callable(getattr(module, "train", None)):
        raise ConfigError(
            "ROUTINE_NAME: expected a module with train(), got"
            f' "{getattr(module, "__name__", module)}". Choose one with --routine pytorch.'
        )
    return module


def missing_packages(also: Iterable[str] = ()) -> str | None:
    """Return what to do when this Python lacks the kit's packages, or None when it has them.

    Args:
        also: Packages that a command needs beside those of every command.
    """
    needed = ("torch", "numpy", "yaml", "rich", "filelock", *also)
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if not missing:
        return None
    python = ROOT_PATH / ".venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    remedy = f"Use {python}" if python.exists() else f"Run `make env-dev` in {ROOT_PATH}"
    return f"expected {', '.join(missing)} in {sys.executable}, got none. {remedy}."
