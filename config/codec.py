"""Config values as text and back: the only place where text becomes objects.

A class or function is written by its import path, an object by the call that makes it, in the
form that Hydra reads too (`_target_`, `_args_`, `_partial_`):

    torch.nn.ELU                      {_target_: torch.nn.ELU, _partial_: true}
    partial(torch.nn.Dropout, p=0.1)  {_target_: torch.nn.Dropout, p: 0.1, _partial_: true}
    pathlib.Path("a")                 {_target_: pathlib.Path, _args_: [a]}
    (0.9, 0.99)                       {_target_: builtins.tuple, _args_: [[0.9, 0.99]]}
    {255: 1}                          {_target_: builtins.dict, _args_: [[[255, 1]]]}

Two levels of trust: `decode_config` imports what a file names, because the user named the file;
`decode_model` reads weights files of unknown origin and looks names up in a closed table.
"""

import enum
import functools
import json
import math
import re
import sys
import types
from collections.abc import Callable, Container, Mapping
from pathlib import PurePath
from typing import Any

import yaml

from config.errors import ConfigError, shorten
from config.keys import ALL_KEYS, is_import_path
from config.names import get_object, module_name, name_of

CONFIG_FORMAT = 1  # files without a number are older, or written by hand, and of the same form

_MAX_ELEMENTS = 1000  # of a tensor or array (class weights, for example) that text may hold
_GET_OBJECT = "config.names.get_object"


class NotCaptured:
    """Stands in plain data for an object that cannot be written as text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return f"<not captured: {self.text}>"


# ------------------------------------------------------------------------------ objects -> text


def encode(value: Any, where: str = "", lost: list[str] | None = None) -> Any:
    """Return a config value as plain data: dicts, lists, numbers, text and None.

    Args:
        value: Any value of a config.
        where: Name of the value, for `lost`.
        lost: Receives the names of the parts that text cannot hold; they become `NotCaptured`.
    """

    def inner(part: Any, name: Any) -> Any:
        return encode(part, f"{where}.{name}".lstrip("."), lost)

    def many(parts: Any) -> list[Any]:
        return [inner(part, i) for i, part in enumerate(parts)]

    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Mapping):
        if all(isinstance(name, str) and name != "_target_" for name in value):
            return {str(name): inner(part, name) for name, part in value.items()}
        pairs = [[inner(name, name), inner(part, name)] for name, part in value.items()]
        return _call("builtins.dict", pairs)  # JSON would turn a key of 1 into "1"
    if isinstance(value, list):
        return many(value)
    kind = name_of(type(value))
    if isinstance(value, tuple) and kind and not hasattr(value, "_fields"):
        return _call(kind, many(value))
    if isinstance(value, (set, frozenset)) and kind:
        return _call(kind, many(sorted(value, key=repr)))  # the same text at every start
    if isinstance(value, enum.Enum) and kind:
        return _call(kind, encode(value.value, where, lost))
    if isinstance(value, functools.partial) and name_of(value.func):
        call = _call(name_of(value.func), *many(value.args))
        keywords = {name: inner(part, name) for name, part in value.keywords.items()}
        return call | keywords | {"_partial_": True}
    if isinstance(value, PurePath):
        return _call("pathlib.Path", str(value))
    if isinstance(value, types.ModuleType) and module_name(value) != "__main__":
        return _call(_GET_OBJECT, module_name(value))
    plain = _encode_torch_or_numpy(value)
    if plain is not None:
        return plain
    if callable(value) and name_of(value):
        return {"_target_": name_of(value), "_partial_": True}
    for base in (int, float, str):
        if isinstance(value, base):
            return base(value)
    if lost is not None:
        lost.append(where)
    text = re.sub(r"( at)? ?\b0x[0-9a-fA-F]+", "", repr(value))  # differs from start to start
    return NotCaptured(" ".join(text.split())[:200])


def _call(target: str, *args: Any) -> dict[str, Any]:
    return {"_target_": target, "_args_": list(args)} if args else {"_target_": target}


def _encode_torch_or_numpy(value: Any) -> Any:
    """Return a value of torch or numpy as plain data, or None; neither is imported for it."""
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch and isinstance(value, torch.device):
        return _call("torch.device", str(value))
    if torch and isinstance(value, (torch.dtype, torch.memory_format)):
        return _call(_GET_OBJECT, str(value))
    if torch and type(value) is torch.Tensor:
        is_plain = value.layout is torch.strided and not value.is_complex() and not value.is_meta
        if is_plain and value.numel() <= _MAX_ELEMENTS:
            return _call("torch.tensor", value.tolist()) | {"dtype": encode(value.dtype)}
    if numpy and isinstance(value, numpy.generic):
        item = value.item()
        return item if type(item) in (bool, int, float, str) else None
    if numpy and type(value) is numpy.ndarray:
        if value.dtype.kind in "biufU" and value.size <= _MAX_ELEMENTS:
            return _call("numpy.array", value.tolist(), str(value.dtype))
    return None


def encode_config(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return a whole config as plain data, and the names of what could not be captured.

    Keys that hold a class or function become import paths, ROUTINE_NAME the name of its module.
    """
    plain: dict[str, Any] = {}
    lost: list[str] = []
    for name, value in config.items():
        if name == "ROUTINE_NAME" and isinstance(value, types.ModuleType):
            plain[name] = module_name(value)
        elif name == "DEVICE" and value is not None:
            plain[name] = str(value)
        elif is_import_path(name) and name_of(value):
            plain[name] = name_of(value)
        else:
            plain[name] = encode(value, name, lost)
    return plain, lost


def describe(plain: Any) -> Any:
    """Return plain data with every call as one line of text, for tables that people read."""
    if isinstance(plain, NotCaptured):
        return plain.text
    if isinstance(plain, list):
        return [describe(part) for part in plain]
    if not isinstance(plain, Mapping):
        return plain
    keywords = {name: describe(part) for name, part in plain.items()}
    if "_target_" not in keywords:
        return keywords
    target, args = keywords.pop("_target_"), keywords.pop("_args_", [])
    is_partial = keywords.pop("_partial_", False)
    if target == _GET_OBJECT:
        return args[0]
    if target == "builtins.tuple":
        return tuple(args[0])
    arguments = [*map(str, args), *(f"{name}={part}" for name, part in keywords.items())]
    if is_partial and not arguments:
        return target
    return f"{target.removeprefix('builtins.')}({', '.join(arguments)})"


# ------------------------------------------------------------------------------------- YAML


class _Dumper(yaml.SafeDumper):
    """YAML with `!not-captured` and calls of a line."""

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> Any:
        if isinstance(mapping, Mapping) and "_target_" in mapping:
            flow_style = True  # one line for a call
        return super().represent_mapping(tag, mapping, flow_style)

    def ignore_aliases(self, data: Any) -> bool:
        return True


class _Loader(yaml.SafeLoader):
    """YAML as people write it."""


_Dumper.add_representer(
    NotCaptured, lambda dumper, value: dumper.represent_scalar("!not-captured", value.text)
)
_Loader.add_constructor("!not-captured", lambda loader, node: NotCaptured(node.value))
# 3e-4 is a number, 2026-11-20 is text: YAML 1.1 has it the other way round. Both classes know it,
# because the writer must quote what the reader takes for a number.
for _class in (_Dumper, _Loader):
    _class.yaml_implicit_resolvers = {
        first: [(tag, rule) for tag, rule in rules if not tag.endswith(":timestamp")]
        for first, rules in _class.yaml_implicit_resolvers.items()
    }
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
        list("-+.0123456789"),
    )


def to_yaml(plain: Any) -> str:
    """Return plain data (see `encode`) as YAML text, in the order given."""
    # no line is broken: a call stays on its own
    return yaml.dump(plain, Dumper=_Dumper, sort_keys=False, width=math.inf, allow_unicode=True)


def to_config_yaml(plain: Mapping[str, Any]) -> str:
    """Return a config as the text of its file: the number of the format, then the keys."""
    return to_yaml({"format": CONFIG_FORMAT, **plain})


def from_yaml(text: str, where: str = "config") -> Any:
    """Read YAML text as plain data; makes no object and imports nothing.

    Raises:
        ConfigError: The text is no YAML, or a tag asks for an object.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506, a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())  # with line and column
        raise ConfigError(f"{where}: expected YAML, got {reason}. Mend the file.") from error


# ------------------------------------------------------------------------------ text -> objects


def decode(plain: Any, find: Callable[[str], Any] = get_object) -> Any:
    """Return the objects that plain data stands for; `find` turns a name into what it names.

    Raises:
        ValueError: A call is not of the form that `encode` writes.
    """
    if isinstance(plain, list):
        return [decode(part, find) for part in plain]
    if not isinstance(plain, Mapping):
        return plain
    arguments = {name: decode(part, find) for name, part in plain.items()}
    if "_target_" not in arguments:
        return arguments
    name, positional = arguments.pop("_target_"), arguments.pop("_args_", [])
    if not isinstance(name, str) or not isinstance(positional, list):
        raise ConfigError(
            f"_target_: expected an import path and a list of _args_, got {name!r} and"
            f" {positional!r}. Write {{_target_: torch.nn.ELU, _partial_: true}}."
        )
    target = find(name)
    if arguments.pop("_partial_", False):
        is_bare = not positional and not arguments
        return target if is_bare else functools.partial(target, *positional, **arguments)
    return target(*positional, **arguments)


def decode_config(
    text: str, where: str = "config", replaced: Container[str] = ()
) -> dict[str, Any]:
    """Return the config that YAML text describes, importing what it names.

    Only for a file that the user named as a config: this can run any importable function.
    A call as the value of a key is taken apart: `LOSS: {_target_: my.Loss, gamma: 2}` is LOSS and
    LOSS_CONFIG. One with `_partial_` stays whole.

    Args:
        text: A YAML mapping.
        where: The file, for messages.
        replaced: Keys and dotted entries that get another value afterwards. What is wrong with
            theirs does not matter.

    Raises:
        ConfigError: Every name that cannot be imported and every part that was not captured;
            what Hydra would read and this form does not have; a file of another format.
    """
    plain = from_yaml(text, where)
    if not isinstance(plain, dict):
        raise ConfigError(f"{where}: expected a mapping of keys, got {type(plain).__name__}.")
    is_by_hand = "format" not in plain
    found = plain.pop("format", CONFIG_FORMAT)
    if found != CONFIG_FORMAT:
        raise ConfigError(
            f"{where}: expected format {CONFIG_FORMAT}, got {shorten(found)}. Read it with the"
            " version of the kit that wrote it."
        )
    problems: list[str] = []
    whole = _take_apart(plain, replaced, problems)
    if is_by_hand:
        _find_hydra(whole, "", replaced, problems)
    if problems:  # a part that is not meant as it stands is not called
        raise ConfigError([f"{where}: {problem}" for problem in problems])
    config = {
        name: _decode_entry(value, str(name), replaced, problems) for name, value in whole.items()
    }
    if problems:
        raise ConfigError([f"{where}: {problem}" for problem in problems])
    return config


def _take_apart(
    plain: Mapping[Any, Any], replaced: Container[str], problems: list[str]
) -> dict[Any, Any]:
    """Turn NAME: {_target_: ..., arguments} into NAME and NAME_CONFIG, which may add to them."""
    whole = dict(plain)
    for name, value in plain.items():
        key = f"{name}_CONFIG"
        is_call = is_import_path(name) and isinstance(value, dict) and "_target_" in value
        if not is_call or key not in ALL_KEYS or value.get("_partial_") or "_args_" in value:
            continue
        arguments = {part: value[part] for part in value if part not in ("_target_", "_partial_")}
        beside = plain.get(key) or {}
        whole[name] = value["_target_"]
        if not isinstance(beside, dict):
            continue  # its own problem
        problems += [
            f"{key}.{part}: expected {shorten(arguments[part])}, which stands in {name}, or none,"
            f" got {shorten(beside[part])}. Remove one of them."
            for part in arguments
            if arguments[part] != beside.get(part, arguments[part])
            and key not in replaced
            and f"{key}.{part}" not in replaced
        ]
        whole[key] = arguments | beside
    return whole


# of Hydra, and not of this form: what to do instead
_HYDRA_KEYS = {
    "defaults": "Write the parts that it joins into this file.",
    "hydra": "Leave it out; folders are set by LOG_DIR=... on the command line.",
}
_HYDRA_WORDS = ("_convert_", "_recursive_")
_HYDRA_TEXT = re.compile(r"\?\?\?|.*\$\{.*\}.*", re.DOTALL)


def _find_hydra(plain: Any, where: str, replaced: Container[str], problems: list[str]) -> None:
    """Add a problem for each thing that Hydra reads and this form does not have."""
    if where in replaced or where == "__COMMENT":
        return
    if where in _HYDRA_KEYS:
        problems.append(f"{where}: expected no such key of Hydra. {_HYDRA_KEYS[where]}")
    elif where.rpartition(".")[2] in _HYDRA_WORDS:
        problems.append(f"{where}: expected _target_, _args_ and _partial_ alone. Leave it out.")
    elif isinstance(plain, (dict, list)):
        parts = plain.items() if isinstance(plain, dict) else enumerate(plain)
        for name, part in parts:
            _find_hydra(part, f"{where}.{name}".lstrip("."), replaced, problems)
    elif isinstance(plain, str) and _HYDRA_TEXT.fullmatch(plain):
        problems.append(f"{where}: expected a value, got {shorten(plain)} of Hydra. Write it out.")


def _decode_entry(plain: Any, where: str, replaced: Container[str], problems: list[str]) -> Any:
    """Decode a value that an override can name, entry by entry; None where that fails."""
    if where in replaced:
        problems = []  # nobody asks
    if isinstance(plain, dict) and "_target_" not in plain:
        return {
            name: _decode_entry(part, f"{where}.{name}", replaced, problems)
            for name, part in plain.items()
        }
    try:
        if _holds_lost(plain):
            raise ConfigError(
                "expected a value, got one that was not captured."
                f" Set {where}=..., or leave it out with ~{where}."
            )
        is_name = is_import_path(where) and isinstance(plain, str)
        return get_object(plain) if is_name else decode(plain)
    except ConfigError as error:
        problems += [f"{where}: {problem}" for problem in error.problems]
    except Exception as error:  # noqa: BLE001, the file calls what it likes
        problems.append(
            f"{where}: expected a call that works, got {type(error).__name__}: {error}."
        )
    return None


def _holds_lost(plain: Any) -> bool:
    if isinstance(plain, dict):
        plain = list(plain.values())
    if isinstance(plain, list):
        return any(_holds_lost(part) for part in plain)
    return isinstance(plain, NotCaptured)


# ------------------------------------------------------------------------------- weights files


def encode_model(config: Mapping[str, Any]) -> str:
    """Return keyword arguments of a model as JSON text for a weights file.

    It is "null" when text cannot hold one of them.
    """
    lost: list[str] = []
    plain = encode(config, "MODEL_CONFIG", lost)
    return json.dumps(None if lost else plain)


def _without(arguments: Any, left_out: Container[str]) -> Any:
    if not isinstance(arguments, dict):
        return arguments
    return {name: value for name, value in arguments.items() if name not in left_out}


_CONTAINERS = {f"builtins.{kind.__name__}": kind for kind in (dict, frozenset, set, tuple)}


def decode_model(text: str, table: Mapping[str, Any], left_out: Container[str] = ()) -> Any:
    """Read the JSON text of a weights file; names are looked up in `table` and nowhere else.

    Args:
        text: A JSON object, the keyword arguments of a model.
        table: Classes by name.
        left_out: Arguments that are not handed on.

    Raises:
        ValueError: The text is no JSON, or names something that is not in the table.
    """
    known = {**table, **_CONTAINERS}

    def find(name: str) -> Any:
        if name not in known:
            raise ValueError(
                f'expected a class of the kit or of torch.nn, got "{name}".'
                " A weights file of unknown origin may name no other."
            )
        return known[name]

    try:
        plain = _without(json.loads(text), left_out)
        return _without(decode(plain, find), left_out)  # builtins.dict makes arguments, too
    except RecursionError as error:
        raise ValueError("expected the arguments of a model, got a text nested too deep") from error
