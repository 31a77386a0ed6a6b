"""Config values as text and back: the only place where text becomes objects.

A class or function is written by its import path, an object by the call that makes it, in the
form that Hydra reads too (`_target_`, `_args_`, `_partial_`):

    torch.nn.ELU                      {_target_: torch.nn.ELU, _partial_: true}
    partial(torch.nn.Dropout, p=0.1)  {_target_: torch.nn.Dropout, p: 0.1, _partial_: true}
    pathlib.Path("a")                 {_target_: pathlib.Path, _args_: [a]}

Two levels of trust: `decode_config` imports what a file names, because the user named the file;
`decode_model` reads weights files of unknown origin and looks names up in a closed table.
"""

import functools
import hashlib
import importlib
import importlib.util
import json
import os
import re
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Any

import yaml

from config.errors import ConfigError, did_you_mean
from config.keys import is_import_path

_FILE_MODULE = "_file_"  # modules of config files outside the project start with this
_MAX_TENSOR = 1000  # elements of a tensor (class weights, for example) that text may hold


class NotCaptured:
    """Stands in a decoded config where the object could not be written as text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return f"<not captured: {self.text}>"


# ------------------------------------------------------------------------------ objects -> text


def name_of(obj: Any) -> str | None:
    """Return the shortest import path of a class or function, or None when it has none.

    Lambdas, classes inside functions and objects that their module does not hold have none.
    What stands in a file outside the project is named `path/of/file.py:Name`.
    """
    module, name = getattr(obj, "__module__", None), getattr(obj, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or "<" in name:
        return None
    if _lookup(sys.modules.get(module), name) is not obj:
        return None
    if module.startswith(_FILE_MODULE):
        return f"{sys.modules[module].__file__}:{name}"
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        package = ".".join(parts[:end])
        if _lookup(sys.modules.get(package), name) is obj:
            return f"{package}.{name}"
    return None


def _lookup(module: Any, name: str) -> Any:
    for part in name.split("."):
        module = getattr(module, part, None)
    return module


def encode(value: Any, where: str = "", lost: list[str] | None = None) -> Any:
    """Return a config value as plain data: dicts, lists, numbers, text and None.

    Args:
        value: Any value of a config.
        where: Name of the value, for `lost`.
        lost: Receives the names of the parts that text cannot hold; they become `NotCaptured`.
    """
    nested = functools.partial(encode, lost=lost)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value.item() if hasattr(value, "item") else value  # numpy numbers are floats, too
    if isinstance(value, Mapping):
        return {str(name): nested(part, f"{where}.{name}") for name, part in value.items()}
    if isinstance(value, list):
        return [nested(part, f"{where}.{i}") for i, part in enumerate(value)]
    if isinstance(value, (tuple, set, frozenset)) and not hasattr(value, "_fields"):
        items = [nested(part, f"{where}.{i}") for i, part in enumerate(value)]
        return {"_target_": f"builtins.{type(value).__name__}", "_args_": [items]}
    if isinstance(value, functools.partial) and name_of(value.func):
        call = {"_target_": name_of(value.func)}
        if value.args:
            call["_args_"] = [nested(part, f"{where}.{i}") for i, part in enumerate(value.args)]
        call |= {name: nested(part, f"{where}.{name}") for name, part in value.keywords.items()}
        return call | {"_partial_": True}
    if isinstance(value, types.ModuleType) and value.__name__ != "__main__":
        return {"_target_": "importlib.import_module", "_args_": [module_name(value)]}
    if isinstance(value, PurePath):
        return {"_target_": "pathlib.Path", "_args_": [str(value)]}
    call = _encode_torch(value) or _encode_numpy(value)
    if call is not None:
        return call
    if callable(value) and name_of(value):
        return {"_target_": name_of(value), "_partial_": True}
    if lost is not None:
        lost.append(where.lstrip("."))
    return NotCaptured(re.sub(r" at 0x[0-9a-f]+", "", repr(value))[:200])


def _encode_torch(value: Any) -> dict[str, Any] | None:
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    if isinstance(value, torch.device):
        return {"_target_": "torch.device", "_args_": [str(value)]}
    if isinstance(value, (torch.dtype, torch.memory_format)):
        return {"_target_": "config.codec.get_object", "_args_": [str(value)]}
    if type(value) is torch.Tensor and value.numel() <= _MAX_TENSOR:
        dtype = encode(value.dtype)
        return {"_target_": "torch.tensor", "_args_": [value.tolist()], "dtype": dtype}
    return None


def _encode_numpy(value: Any) -> Any:
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return None
    if isinstance(value, numpy.generic):
        return value.item()
    if isinstance(value, numpy.ndarray) and value.size <= _MAX_TENSOR:
        return {"_target_": "numpy.array", "_args_": [value.tolist(), str(value.dtype)]}
    return None


def module_name(module: types.ModuleType) -> str:
    """Return the dotted name of a module, or its path when it lies outside the project."""
    return str(module.__file__) if module.__name__.startswith(_FILE_MODULE) else module.__name__


def encode_config(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return a whole config as plain data, and the names of what could not be captured.

    Keys that hold a class or function become import paths, ROUTINE_NAME the name of its module.
    """
    plain, lost = {}, []
    for name, value in config.items():
        if name == "ROUTINE_NAME" and isinstance(value, types.ModuleType):
            plain[name] = module_name(value)
        elif name == "DEVICE" and value is not None:
            plain[name] = str(value)
        elif is_import_path(name) and value is not None and name_of(value):
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
    parts = {name: describe(part) for name, part in plain.items()}
    if "_target_" not in parts:
        return parts
    target = parts.pop("_target_")
    is_partial = parts.pop("_partial_", False)
    arguments = [str(part) for part in parts.pop("_args_", [])]
    arguments += [f"{name}={part}" for name, part in parts.items()]
    return target if is_partial and not arguments else f"{target}({', '.join(arguments)})"


class _Dumper(yaml.SafeDumper):
    """YAML with `!not-captured` and calls of a line."""

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> Any:
        if isinstance(mapping, Mapping) and "_target_" in mapping:
            flow_style = True  # one line for a call
        return super().represent_mapping(tag, mapping, flow_style)

    def ignore_aliases(self, data: Any) -> bool:
        return True


class _Loader(yaml.SafeLoader):
    """YAML that reads 3e-4 as a number; plain YAML 1.1 takes it for text."""


_Dumper.add_representer(
    NotCaptured, lambda dumper, value: dumper.represent_scalar("!not-captured", value.text)
)
_Loader.add_constructor("!not-captured", lambda loader, node: NotCaptured(node.value))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def to_yaml(plain: Any) -> str:
    """Return plain data (see `encode`) as YAML text, in the order given."""
    return yaml.dump(plain, Dumper=_Dumper, sort_keys=False, width=100, allow_unicode=True)


# ------------------------------------------------------------------------------ text -> objects


def from_yaml(text: str, where: str = "config") -> Any:
    """Read YAML text as plain data; makes no object and imports nothing.

    Raises:
        ConfigError: The text is no YAML, or a tag asks for an object.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506, a SafeLoader
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: expected YAML, got {error}. Mend the file.") from error


def get_object(path: str) -> Any:
    """Import the object that `package.module.Name` or `file.py:Name` names.

    Raises:
        ConfigError: There is no such module, or it holds no such name.
    """
    if ".py:" in path:
        file, _, name = path.rpartition(":")
        return _get_attribute(import_file(Path(file)), name, path)
    parts = path.split(".")
    for end in range(len(parts), 0, -1):
        package = ".".join(parts[:end])
        if not _is_importable(package):
            continue
        module = _import(package, path)
        return module if end == len(parts) else _get_attribute(module, ".".join(parts[end:]), path)
    raise ConfigError(
        f'"{path}": expected an import path, but there is no package "{parts[0]}".'
        f" Check the spelling, or install the package."
    )


def _is_importable(package: str) -> bool:
    if package in sys.modules:
        return True
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError, AttributeError):
        return False  # a parent is no package: the rest of the path is an attribute


def _import(package: str, path: str) -> types.ModuleType:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ConfigError(
            f'"{path}": expected a module that can be imported, got {type(error).__name__}:'
            f" {error}. `make env-dev` installs what the kit needs."
        ) from error


def _get_attribute(module: Any, names: str, path: str) -> Any:
    for name in names.split("."):
        if not hasattr(module, name):
            where = getattr(module, "__name__", module)
            raise ConfigError(
                f'"{path}": expected a name in "{where}", got "{name}".'
                f"{did_you_mean(name, dir(module))} Check the spelling."
            )
        module = getattr(module, name)
    return module


def import_file(path: Path) -> types.ModuleType:
    """Import a .py file that the user named: by its dotted name when it is the project's own.

    A file outside the project is imported once per path, and its folder is added to the end of
    `sys.path`, so that it finds its neighbours.

    Raises:
        ConfigError: There is no such file.
    """
    path = path.resolve()
    if not path.is_file():
        raise ConfigError(f'"{path}": expected a Python file, got none. Check the path.')
    root = Path(__file__).resolve().parent.parent
    if path.is_relative_to(root) and all(
        part.isidentifier() for part in path.relative_to(root).with_suffix("").parts
    ):
        return _import(".".join(path.relative_to(root).with_suffix("").parts), str(path))
    name = _FILE_MODULE + path.stem + "_" + hashlib.sha256(str(path).encode()).hexdigest()[:8]
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # before it runs: a config may hold sys.modules[__name__]
        if str(path.parent) not in sys.path:
            sys.path.append(str(path.parent))
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def decode(plain: Any, find: Callable[[str], Any] = get_object) -> Any:
    """Return the objects that plain data stands for; `find` turns a name into what it names."""
    if isinstance(plain, list):
        return [decode(part, find) for part in plain]
    if not isinstance(plain, Mapping):
        return plain
    arguments = {name: decode(part, find) for name, part in plain.items()}
    if "_target_" not in arguments:
        return arguments
    target = find(arguments.pop("_target_"))
    positional = arguments.pop("_args_", [])
    if arguments.pop("_partial_", False):
        bare = not positional and not arguments
        return target if bare else functools.partial(target, *positional, **arguments)
    return target(*positional, **arguments)


def decode_config(text: str, where: str = "config") -> dict[str, Any]:
    """Return the config that YAML text describes, importing what it names.

    Only for a file that the user named as a config: this can run any importable function.

    Raises:
        ConfigError: Every name that cannot be imported and every part that was not captured.
    """
    plain = from_yaml(text, where)
    if not isinstance(plain, dict):
        raise ConfigError(f"{where}: expected a mapping of keys, got {type(plain).__name__}.")
    config, problems = {}, []
    for name, value in plain.items():
        try:
            if is_import_path(name) and isinstance(value, str):
                config[name] = get_object(value)
            else:
                config[name] = decode(value)
        except ConfigError as error:
            problems += [f"{name}: {problem}" for problem in error.problems]
        except (TypeError, ValueError) as error:
            problems.append(f"{name}: expected arguments that fit, got {error}.")
        else:
            problems += [
                f"{name}: expected a value, got {part}. Give it by KEY=VALUE or in a Python config."
                for part in _not_captured(config[name])
            ]
    if problems:
        raise ConfigError([f"{where}: {problem}" for problem in problems])
    return config


def _not_captured(value: Any) -> list[NotCaptured]:
    if isinstance(value, NotCaptured):
        return [value]
    if isinstance(value, functools.partial):
        return _not_captured(list(value.args)) + _not_captured(value.keywords)
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return []
    return [found for part in value for found in _not_captured(part)]


# ------------------------------------------------------------------------------- weights files


def encode_model(config: Mapping[str, Any]) -> str:
    """Return keyword arguments of a model as JSON text for a weights file."""
    lost: list[str] = []
    plain = encode(config, "MODEL_CONFIG", lost)
    return json.dumps(None if lost else plain)


def decode_model(text: str, table: Mapping[str, Any]) -> Any:
    """Read the JSON text of a weights file; names are looked up in `table` and nowhere else.

    Raises:
        ValueError: The text is no JSON, or names something that is not in the table.
    """

    def find(name: str) -> Any:
        if name == "builtins.tuple":
            return tuple
        if name not in table:
            raise ValueError(
                f'expected a class of the kit or of torch.nn, got "{name}".'
                " Name the class yourself: MODEL=my.module.Net."
            )
        return table[name]

    return decode(json.loads(text), find)


def is_file(text: str) -> bool:
    """Tell whether a config argument names a file and not a dotted module."""
    return text.endswith((".py", ".yaml", ".yml")) or os.sep in text
