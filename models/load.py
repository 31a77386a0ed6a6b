"""Rebuild the network of a weights file without trusting the file."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from config.codec import decode_model
from config.errors import shorten
from models import MODELS
from utils.torchutils import load_weights

# Exact names only. To walk attributes ("torch.nn." + anything) would reach os.system.
_TORCH_NN = {
    f"torch.nn.{name}": value
    for name, value in vars(nn).items()
    if isinstance(value, type) and issubclass(value, nn.Module)
}
_MAX_NAMES = 5  # listed per kind of mismatch


def load_model(
    path: str | Path,
    model: Callable[..., nn.Module] | None = None,
    device: str | torch.device = "cpu",
) -> tuple[nn.Module, dict[str, Any]]:
    """Rebuild the network of a weights file, in eval mode; the file imports and runs nothing.

    The names in the file are looked up in `models.MODELS` and among the modules of torch.nn.

    Args:
        path: a file of the kit, or a state dict: bare, under "model" or under "model_state_dict".
        model: builds the network, called with the MODEL_CONFIG of the file (without arguments when
            the file has none); needed when the file names no model of the kit.
        device: where the network is put.

    Returns:
        The network and what the file says about it: MODEL, MODEL_CONFIG, TASK, CLASSES, PREPROCESS;
        empty for a state dict alone.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, names a model or an argument that is not of the kit, or its
            MODEL_CONFIG or its tensors do not fit the model.
        TypeError: `model` builds something else than a module.
    """
    where = f'weights "{path}"'
    weights = load_weights(path)
    meta = weights["meta"]
    table = MODELS | _TORCH_NN
    if model is None:
        name = meta.get("MODEL")
        if not isinstance(name, str) or name not in table:
            raise ValueError(_unknown_model(where, name))
        model = table[name]
    network = _build(where, model, meta.get("MODEL_CONFIG"), table)
    load_state(network, weights["model"], where)
    return network.to(device).eval(), meta


def load_state(network: nn.Module, state: Mapping[str, torch.Tensor], where: str) -> None:
    """Load a state dict into a network, or say which tensors do not fit.

    Args:
        network: the network.
        state: tensors by name, as `network.state_dict()` gives them.
        where: where they come from, the beginning of the message.

    Raises:
        ValueError: tensors are missing, unexpected or of another shape; the first are named.
    """
    _check_state(where, network, state)
    network.load_state_dict(state)


def _unknown_model(where: str, name: Any) -> str:
    # any other text stays out of the line that the user is told to run
    is_path = isinstance(name, str) and re.fullmatch(r"\w+(\.\w+)+", name, re.ASCII)
    got = "none" if name is None else f'"{name}"' if is_path else shorten(name)
    return (
        f"{where}: expected a model of the kit ({', '.join(MODELS)}), got {got}. Name the class "
        f"yourself: python predict.py ... MODEL={name if is_path else 'my.module.Net'}."
    )


def _build(
    where: str, model: Callable[..., nn.Module], text: Any, table: Mapping[str, type]
) -> nn.Module:
    try:
        config = None if text is None else decode_model(text, table)
        network = model(**(config or {}))  # null: not captured as text
    except (TypeError, ValueError, RuntimeError) as error:
        name = getattr(model, "__name__", repr(model))
        raise ValueError(
            f"{where}: expected a MODEL_CONFIG that fits {name}, got {shorten(text, 300)}: "
            f"{str(error).rstrip('.')}. Check MODEL, or give a model that needs no arguments."
        ) from error
    if not isinstance(network, nn.Module):
        raise TypeError(
            f"{where}: expected a model that builds a torch.nn.Module, got {shorten(network)}. "
            "Give a class of modules, or a function that returns one."
        )
    return network


def _check_state(where: str, network: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    own = network.state_dict()
    found = {
        "missing": [name for name in own if name not in state],
        "unexpected": [name for name in state if name not in own],
        "wrong shape": [
            f"{name} {_shape(state[name])} instead of {_shape(own[name])}"
            for name in own
            if name in state and _shape(own[name]) not in (None, _shape(state[name]))
        ],
    }
    problems = [
        f"{kind}: {', '.join(map(str, names[:_MAX_NAMES]))}"
        + (f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else "")
        for kind, names in found.items()
        if names
    ]
    if problems:
        raise ValueError(
            f"{where}: expected the weights of this {type(network).__name__}, got others. "
            f"{'; '.join(problems)}. Check MODEL and MODEL_CONFIG."
        )


def _shape(value: Any) -> tuple[int, ...] | None:
    """Return the shape; () for what is no tensor, None for a lazy layer, which takes any shape."""
    return None if is_lazy(value) else tuple(getattr(value, "shape", ()))
