"""Names of classes, functions and modules as text, and what a name stands for.

    torch.nn.ELU              the shortest import path
    /home/me/net.py:Net       what stands in a file outside the project
    experiments.digits        a module; outside the project the path of its file

To look a name up imports its module. So a name is looked up only when the user wrote it, in a
config or on the command line.
"""

import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from config.config import ROOT_PATH
from config.errors import ConfigError, did_you_mean

_folders: set[Path] = set()  # outside the project; modules of the files in them are named by path


# ------------------------------------------------------------------------------ object -> name


def name_of(obj: Any) -> str | None:
    """Return the name of a class or function, or None when it has none.

    Lambdas, classes inside functions and what is defined in a notebook have none.
    """
    module = sys.modules.get(getattr(obj, "__module__", None) or "")
    # torch.relu calls itself torch._VariableFunctionsClass.relu: then the plain name may do
    for name in (getattr(obj, "__qualname__", None), getattr(obj, "__name__", None)):
        if isinstance(name, str) and _is_same(_look_up(module, name.split(".")), obj):
            break
    else:
        return None
    place = module_name(module)
    if place == "__main__":
        return None
    if place.endswith(".py"):
        return f"{place}:{name}"
    parts = place.split(".")
    for end in range(1, len(parts)):
        package = ".".join(parts[:end])
        if _is_same(_look_up(sys.modules.get(package), name.split(".")), obj):
            return f"{package}.{name}"
    return f"{place}.{name}"


def module_name(module: types.ModuleType) -> str:
    """Return the dotted name of a module, or the path of its file outside the project."""
    name, file = module.__name__, getattr(module, "__file__", None) or ""
    if not file.endswith(".py"):  # built in, or typed into a prompt
        return name
    path = Path(file).resolve()
    own_name = _dotted(path, ROOT_PATH)
    if name == "__main__" and own_name is not None:
        return own_name
    is_outside = own_name is None and any(_dotted(path, folder) == name for folder in _folders)
    return str(path) if is_outside or name in ("__main__", _unique_name(path)) else name


def _dotted(path: Path, folder: Path) -> str | None:
    """Return the name under which a file is imported from a folder, or None when it cannot be."""
    if not path.is_relative_to(folder):
        return None
    parts = path.relative_to(folder).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return None if any("." in part for part in parts) else ".".join(parts)


def _is_same(found: Any, obj: Any) -> bool:
    # a class method is a new object at every look
    return found is obj or (inspect.ismethod(obj) and inspect.ismethod(found) and found == obj)


def _look_up(obj: Any, names: Iterable[str]) -> Any:
    for name in names:
        obj = getattr(obj, name, None)
    return obj


# ------------------------------------------------------------------------------ name -> object


def get_object(name: str) -> Any:
    """Import the class, function or module of a name.

    Raises:
        ConfigError: There is no such file, package or name, or importing it fails.
    """
    path, ending, inner = name.rpartition(".py:")
    if ending:
        return _get(import_file(Path(path + ".py")), inner.split("."), name)
    if name.endswith(".py"):
        return import_file(Path(name))
    parts, module, rest = name.split("."), None, []
    for end in range(1, len(parts) + 1):
        package = ".".join(parts[:end])
        if not _is_importable(package):
            break
        module, rest = _import(name, importlib.import_module, package), parts[end:]
        # losses.dice is the function where losses/__init__.py imports it from losses/dice.py
        if _look_up(module, rest) is not None:
            break
    if module is None:
        raise ConfigError(
            f'"{name}": expected an import path, but there is no package "{parts[0]}".'
            " Check the spelling, or install the package."
        )
    return _get(module, rest, name)


def _get(obj: Any, names: Iterable[str], where: str) -> Any:
    for name in names:
        if not hasattr(obj, name):
            raise ConfigError(
                f'"{where}": expected a name in "{getattr(obj, "__name__", obj)}", got "{name}".'
                f"{did_you_mean(name, dir(obj))} Check the spelling."
            )
        obj = getattr(obj, name)
    return obj


def _is_importable(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return package in sys.modules  # also an empty part, or a parent that is no package


def import_file(path: Path) -> types.ModuleType:
    """Import a .py file that the user named, once.

    The folder of a file outside the project goes to the end of `sys.path`: so the file finds its
    neighbours, and worker processes find the file.

    Raises:
        ConfigError: There is no such file, or importing it fails.
    """
    path = path.expanduser().resolve()
    if path.suffix != ".py" or not path.is_file():
        raise ConfigError(f'"{path}": expected a Python file, got none. Check the path.')
    return _import(str(path), _import_file, path)


def _import_file(path: Path) -> types.ModuleType:
    folder, name = ROOT_PATH, _dotted(path, ROOT_PATH)
    if name is None:
        folder = path.parent
        while (folder / "__init__.py").is_file():
            folder = folder.parent
        name = _dotted(path, folder)
        _folders.add(folder)
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    importlib.invalidate_caches()  # the file may be younger than the last look into its folder
    if name is not None:
        if "." in name:
            importlib.import_module(name.rpartition(".")[0])
        spec = None if name in sys.modules else importlib.util.find_spec(name)
        file = spec.origin if spec else getattr(sys.modules.get(name), "__file__", None)
        if file is not None and Path(file).resolve() == path:
            return importlib.import_module(name)
    return _import_alone(path)


def _import_alone(path: Path) -> types.ModuleType:
    """Import a file whose own name is no module's name, or another module's."""
    name = _unique_name(path)
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # before it runs: a config may hold sys.modules[__name__]
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def _unique_name(path: Path) -> str:
    return f"_file_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"


def _import(where: str, load: Callable[..., types.ModuleType], *args: Any) -> types.ModuleType:
    try:
        return load(*args)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f'"{where}": expected the package "{error.name}", got none{_place(error)}.'
            " Run `make env-dev` if it is one of the kit's, else install it."
        ) from error
    except Exception as error:  # noqa: BLE001, the file is the user's and may raise anything
        place = "" if isinstance(error, SyntaxError) else _place(error)  # it says so itself
        raise ConfigError(
            f'"{where}": expected a module that can be imported, got {type(error).__name__}:'
            f" {error}{place}. Mend the file."
        ) from error


def _place(error: BaseException) -> str:
    """Return the last line of the user's own code that led to an error, in brackets."""
    frames = traceback.extract_tb(error.__traceback__)
    others = (os.path.dirname(os.__file__), "<frozen", __file__)
    own = [
        frame
        for frame in frames
        if not frame.filename.startswith(others) and "site-packages" not in frame.filename
    ]
    return f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""
