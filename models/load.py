"""Rebuild the network of a weights file without trusting the file."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from config.codec import decode_model
from config.errors import shorten
from models import MODELS
from utils.torchutils import load_weights

# What a weights file may not ask of a model: to read a file or to fetch one.
_LEFT_OUT = ("weights",)
# Exact names only. To walk attributes ("torch.nn." + anything) would reach os.system.
_TORCH_NN = {
    f"torch.nn.{name}": value
    for name, value in vars(nn).items()
    if isinstance(value, type) and issubclass(value, nn.Module)
}
_MAX_NAMES = 5  # listed per kind of mismatch
_COUNT = ".num_batches_tracked"


def load_model(
    path: str | Path,
    model: Callable[..., nn.Module] | None = None,
    device: str | torch.device = "cpu",
) -> tuple[nn.Module, dict[str, Any]]:
    """Rebuild the network of a weights file, in eval mode; the file imports and runs nothing.

    The names in the file are looked up in `models.MODELS` and among the modules of torch.nn. An
    argument `weights` of a model of the kit is left out: the tensors of the file take their place.

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
    table, left_out = MODELS | _TORCH_NN, ()
    if model is None:
        name = meta.get("MODEL")
        if not isinstance(name, str) or name not in table:
            raise ValueError(_unknown_model(where, name))
        model, left_out = table[name], _LEFT_OUT
    network = _build(where, model, meta.get("MODEL_CONFIG"), left_out)
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
    state = _with_plain_names(network, state)
    misfits = _compare(network, state)
    if misfits:
        raise ValueError(
            f"{where}: expected the weights of this {type(network).__name__}, got others. "
            f"{_tell(misfits, network, state)}. Check MODEL and MODEL_CONFIG."
        )
    network.load_state_dict(state, strict=False)


def start_from(
    network: nn.Module, state: Mapping[str, torch.Tensor], where: str, strict: bool = True
) -> str | None:
    """Load a state dict to start a training from; a head for other classes stays new.

    Where all that differs is the number of classes, the tensors of the head keep what the network
    was made with, and the rest is loaded.

    Args:
        network: the network.
        state: tensors by name, as `network.state_dict()` gives them.
        where: where they come from, the beginning of the message.
        strict: anything else that does not fit is an error; False leaves it out.

    Returns:
        A line that names the tensors that were not loaded; None when all were.

    Raises:
        ValueError: tensors do not fit and `strict`, or none fits; the first are named.
    """
    state = _with_plain_names(network, state)
    misfits = _compare(network, state)
    left_out = {name for names in misfits.values() for name in names}
    fitting = {name: value for name, value in state.items() if name not in left_out}
    counts = _counts_of_classes(misfits, network, state)
    title = f"this {type(network).__name__}"
    if misfits and not fitting:
        raise ValueError(
            f"{where}: expected tensors of {title}, got none that fits. "
            f"{_tell(misfits, network, state)}. Check MODEL and MODEL_CONFIG."
        )
    if misfits and strict and counts is None:
        raise ValueError(
            f"{where}: expected the weights of {title}, got others. "
            f"{_tell(misfits, network, state)}. Check MODEL and MODEL_CONFIG, or load what fits:"
            " WEIGHTS_STRICT=False."
        )
    network.load_state_dict(fitting, strict=False)
    if not misfits:
        return None
    text = _tell(misfits, network, state, limit=None)
    if counts is not None:
        there, here = counts
        return f"{where}: {there} classes there, {here} here, so the head is new; {text}"
    n_own = len(network.state_dict())
    return f"{where}: {len(fitting)} of {n_own} tensors of {title} loaded; {text}"


def _unknown_model(where: str, name: Any) -> str:
    # any other text stays out of the line that the user is told to run
    is_path = isinstance(name, str) and re.fullmatch(r"\w+(\.\w+)+", name, re.ASCII)
    got = "none" if name is None else f'"{name}"' if is_path else shorten(name)
    return (
        f"{where}: expected a model of the kit ({', '.join(MODELS)}), got {got}. Name the class "
        f"yourself: python predict.py ... MODEL={name if is_path else 'my.module.Net'}."
    )


def _build(
    where: str, model: Callable[..., nn.Module], text: Any, left_out: Sequence[str]
) -> nn.Module:
    # an argument may be a class: a function of the kit would be called with what the file says
    table = {name: one for name, one in (MODELS | _TORCH_NN).items() if isinstance(one, type)}
    try:
        config = None if text is None else decode_model(text, table, left_out)
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


def _with_plain_names(network: nn.Module, state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Drop what DistributedDataParallel and torch.compile put before each name."""
    prefix = re.compile(r"((module|_orig_mod)\.)+")
    is_wrapped = all(prefix.match(str(name)) for name in state)
    if not is_wrapped or any(map(prefix.match, network.state_dict())):
        return state
    return {prefix.sub("", name, count=1): value for name, value in state.items()}


def _compare(network: nn.Module, state: Mapping[str, torch.Tensor]) -> dict[str, list[str]]:
    """Return the names of the tensors that do not fit, by kind."""
    own = network.state_dict()
    found = {
        # files older than torch 0.4.1 lack the counts of batch norm
        "missing": [name for name in own if name not in state and not name.endswith(_COUNT)],
        "unexpected": [name for name in state if name not in own],
        "wrong shape": [
            name
            for name in own
            if name in state and _shape(own[name]) not in (None, _shape(state[name]))
        ],
    }
    return {kind: names for kind, names in found.items() if names}


def _tell(
    misfits: Mapping[str, list[str]],
    network: nn.Module,
    state: Mapping[str, torch.Tensor],
    limit: int | None = _MAX_NAMES,
) -> str:
    """Return what does not fit as text; of more names than `limit` their number."""
    own = network.state_dict()
    texts = []
    for kind, names in misfits.items():
        shown = [
            f"{name} {_shape(state[name])} instead of {_shape(own[name])}"
            if kind == "wrong shape"
            else str(name)
            for name in names[:limit]
        ]
        n_left = len(names) - len(shown)
        texts.append(f"{kind}: {', '.join(shown)}" + (f" and {n_left} more" if n_left else ""))
    return "; ".join(texts)


def _counts_of_classes(
    misfits: Mapping[str, list[str]], network: nn.Module, state: Mapping[str, torch.Tensor]
) -> tuple[int, int] | None:
    """Return the numbers of classes, there and here, where nothing else tells the shapes apart.

    Only the first dimension differs then, in all tensors alike. Any other layer with more outputs
    is followed by one with more inputs, which differs in its second dimension.
    """
    if misfits.keys() != {"wrong shape"}:
        return None
    own = network.state_dict()
    pairs = [(_shape(state[name]), _shape(own[name])) for name in misfits["wrong shape"]]
    if any(not there or not here or there[1:] != here[1:] for there, here in pairs):
        return None
    counts = {(there[0], here[0]) for there, here in pairs}
    return counts.pop() if len(counts) == 1 else None


def _shape(value: Any) -> tuple[int, ...] | None:
    """Return the shape; () for what is no tensor, None for a lazy layer, which takes any shape."""
    return None if is_lazy(value) else tuple(getattr(value, "shape", ()))
