"""The parts of the model, in train.log."""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from training.callbacks.base import Callback
from utils.torchutils import count_parameters

if TYPE_CHECKING:
    from training.run import Run

logger = logging.getLogger("plumbline")


class Summary(Callback):
    """Writes a table of the model's parts to train.log once a batch has gone through it.

    Hooks read the shapes off the first forward pass and are gone after it, so the table costs no
    pass and no reading of its own. A compiled model is left without hooks, and so without shapes.
    """

    def __init__(self) -> None:
        self.shapes: dict[str, str] = {}
        self.hooks: list[Any] = []

    def on_start(self, run: "Run") -> None:
        if run.config["COMPILE"]:
            logger.debug("%s", summarize(run.module, {}))
            return
        for name, part in run.module.named_children():
            self.hooks.append(part.register_forward_hook(self._make_hook(name)))
        self.hooks.append(run.module.register_forward_hook(self._note_whole))

    def on_epoch_end(self, run: "Run", metrics: Mapping[str, float]) -> None:
        self._write(run.module)  # a routine that calls the parts alone

    def on_end(self, run: "Run", result: Mapping[str, Any]) -> None:
        self._remove_hooks()

    def _make_hook(self, name: str) -> Any:
        def note_part(_module: nn.Module, _args: Any, output: Any) -> None:
            self.shapes[name] = describe_shape(output)

        return note_part

    def _note_whole(self, module: nn.Module, _args: Any, output: Any) -> None:
        self.shapes[""] = describe_shape(output)
        self._write(module)

    def _write(self, module: nn.Module) -> None:
        if self.hooks:
            self._remove_hooks()
            logger.debug("%s", summarize(module, self.shapes))

    def _remove_hooks(self) -> None:
        for hook in self.hooks:
            hook.remove()
        self.hooks.clear()


def summarize(module: nn.Module, shapes: Mapping[str, str]) -> str:
    """Return a table of a model's top-level parts: parameters, trainable ones, output.

    Args:
        module: The model.
        shapes: Part to shape of its output; "" is the model itself. Parts may be missing.
    """
    parts = [(name, name, part) for name, part in module.named_children()]
    rows = [("part", "parameters", "trainable", "output")]
    for name, title, part in [*parts, ("", type(module).__name__, module)]:
        n_all = sum(p.numel() for p in part.parameters())
        rows.append((title, f"{n_all:,}", f"{count_parameters(part):,}", shapes.get(name, "")))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return "\n".join(
        f"{title:{widths[0]}}  {n_all:>{widths[1]}}  {n_trainable:>{widths[2]}}  {shape}".rstrip()
        for title, n_all, n_trainable, shape in rows
    )


def describe_shape(output: Any) -> str:
    """Return the shapes of the tensors in an output, N being the batch."""
    if isinstance(output, torch.Tensor):
        return f"({', '.join(['N', *map(str, output.shape[1:])])})" if output.dim() else "()"
    if isinstance(output, Mapping):
        return ", ".join(f"{name} {describe_shape(part)}" for name, part in output.items())
    if isinstance(output, list) and all(isinstance(text, str) for text in output):
        return "text"
    if isinstance(output, (list, tuple)):
        return ", ".join(map(describe_shape, output))
    return type(output).__name__
