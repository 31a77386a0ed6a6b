"""A trained network in use: arrays as they are on disk in, decisions out.

In a notebook: `load_predictor("weights/<run>/best.pth")(array)`.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from config.device import get_device
from config.errors import ConfigError, shorten
from config.keys import KEYS
from models.load import load_model
from utils.data import tasks
from utils.data.preprocess import Preprocess


class Predictor:
    """A trained network with what it takes to use it.

    Arrays are channels-last: (H, W, C) in and (H, W, K) out, or (H, W) where there is one channel.
    Maps have the size of the input, also where PREPROCESS resizes it for the network.

    Attributes:
        model: the network, on the device and in eval mode.
        device: where it is.
        task: TASK, see utils.data.tasks; None: outputs stay as the network gives them.
        is_segmentation: the decision is a map.
        is_classification: the decision is about the input as a whole.
        classes: names of the classes, or None.
        preprocess: makes a tensor of an array.

    Raises:
        ConfigError: task, classes or preprocess is not what its key in a config may be.
    """

    def __init__(
        self,
        model: nn.Module,
        device: str | torch.device,
        task: str | None = None,
        classes: Sequence[str] | None = None,
        preprocess: Mapping[str, Any] | None = None,
    ) -> None:
        problems = check_values({"TASK": task, "CLASSES": classes})
        if problems:
            raise ConfigError(problems)
        self.model, self.device = model.to(device).eval(), device
        self.task, self.classes = task, None if classes is None else list(map(str, classes))
        self.is_segmentation = task is not None and task.endswith("_segmentation")
        self.is_classification = task in ("binary", "multiclass", "multilabel")
        self._is_binary = task in ("binary", "binary_segmentation")
        self.preprocess = Preprocess(preprocess)

    def __call__(self, array: np.ndarray) -> np.ndarray:
        """Decide what an array shows.

        Args:
            array: (H, W) or (H, W, C), any numbers, as `utils.data.files.read_array` gives them.

        Returns:
            - binary_segmentation, multilabel_segmentation: uint8, 1 inside the object, 0 outside;
            - multiclass_segmentation: (H, W) uint8, the class; int64 where there are over 256;
            - binary, multilabel: () or (K,) uint8, 1 or 0; multiclass: () int64, the class;
            - else float32, what the network gives.

        Raises:
            ValueError: the array does not fit the network, or its outputs do not fit the task.
        """
        return self.decide(self.logits(array))

    def probabilities(self, array: np.ndarray) -> np.ndarray:
        """Return the probability of each class: (H, W, K), (H, W), (K,) or () float32 in [0, 1].

        Of a regression or an embedding: what the network gives.

        Raises:
            ValueError: as a call, or there is no task.
        """
        return self.as_probabilities(self.logits(array))

    def logits(self, array: np.ndarray) -> torch.Tensor:
        """Return what the network gives for an array: (1, K, H, W) or (1, K) float, on its device.

        Raises:
            ValueError: as a call.
        """
        array = np.asarray(array)
        x = self.preprocess(array)[None].to(self.device)  # (1, C, H, W)
        try:
            with torch.inference_mode():
                logits = self.model(x)
        except RuntimeError as error:
            reason = str(error).partition("\n")[0].rstrip(".")
            raise ValueError(
                f"expected an array that the network takes, got shape {array.shape}: {reason}."
                " Check its channels (the last axis) and PREPROCESS; without memory, DEVICE=cpu."
            ) from error
        self._check_outputs(logits)
        is_map = logits.ndim == 4 and logits.shape[2:] == x.shape[2:]
        if is_map and x.shape[2:] != array.shape[:2]:
            logits = F.interpolate(logits, array.shape[:2], mode="bilinear", antialias=True)
        return logits

    def _check_outputs(self, logits: Any) -> None:
        if not isinstance(logits, torch.Tensor):
            raise ValueError(
                f"MODEL: expected a network that gives a tensor, got {type(logits).__name__}."
                " Name a class that picks the tensor."
            )
        if logits.isnan().any():  # a comparison with NaN would be a quiet no
            raise ValueError(
                "expected numbers from the network, got NaN. Look for NaN in the array."
            )
        if self.task in (None, "regression"):
            return
        n_axes = 4 if self.is_segmentation else 2
        if logits.ndim != n_axes or (self._is_binary and logits.shape[1] != 1):
            shape = f"(1, {1 if self._is_binary else 'K'}{', H, W' if n_axes == 4 else ''})"
            raise ValueError(
                f"TASK: expected outputs {shape} for {self.task}, got {tuple(logits.shape)}."
                " Give the TASK that the network was trained for."
            )

    def decide(self, logits: torch.Tensor) -> np.ndarray:
        """Turn `logits` into what a call returns."""
        if self.task is None:
            return _channels_last(logits)
        decision = tasks.decide(logits, self.task)
        if not self.task.startswith("multiclass"):
            return _channels_last(decision)
        is_small = self.is_segmentation and logits.shape[1] <= 256
        return decision[0].to(torch.uint8 if is_small else torch.int64).cpu().numpy()

    def as_probabilities(self, logits: torch.Tensor) -> np.ndarray:
        """Turn `logits` into what `probabilities` returns."""
        return _channels_last(tasks.probabilities(logits, self.task))

    def class_names(self, n_outputs: int) -> list[str]:
        """Return a name for each output; of a binary task for no and yes.

        Raises:
            ValueError: CLASSES holds another number of names.
        """
        n_names = 2 if self._is_binary else n_outputs
        names = self.classes or list(map(str, range(n_names)))
        if self._is_binary and len(names) == 1:
            names = [f"not {names[0]}", *names]
        if len(names) != n_names:
            raise ValueError(
                f"CLASSES: expected {n_names} names for {self.task}, got {', '.join(names)}."
                " Give them as CLASSES=\"['a', 'b']\"."
            )
        return names


def load_predictor(
    weights: str | Path,
    model: Callable[..., nn.Module] | None = None,
    device: str | torch.device | None = None,
    task: str | None = None,
    classes: Sequence[str] | None = None,
    preprocess: Mapping[str, Any] | None = None,
) -> Predictor:
    """Load a weights file for use; nothing that it holds is run.

    Args:
        weights: a file of the kit, or a state dict that another program saved.
        model: builds the network, where the file names none of the kit; see models.load.
        device: None takes CUDA where there is one, else the CPU.
        task: TASK; None takes what the file says, here and below.
        classes: CLASSES.
        preprocess: keys of PREPROCESS that go before the file's; None takes a key out.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, holds more than tensors and plain data, or does not fit.
        TypeError: `model` builds something else than a module.

    Example:
        predictor = load_predictor("weights/<run>/best.pth")
        mask = predictor(read_array("images/1.png"))
    """
    device = get_device(device)
    network, meta = load_model(weights, model, device)
    return Predictor(
        network,
        device,
        meta.get("TASK") if task is None else task,
        meta.get("CLASSES") if classes is None else classes,
        {**Preprocess(meta.get("PREPROCESS")).config, **(preprocess or {})},
    )


def check_values(config: Mapping[str, Any]) -> list[str]:
    """Return which values are not what their key may be, a line each; None is always good."""
    return [
        f"{name}: expected {KEYS[name].kind.rule}, got {shorten(value)}. Set {name}=..."
        for name, value in config.items()
        if not (value is None or KEYS[name].kind.accepts(value))
    ]


def _channels_last(output: torch.Tensor) -> np.ndarray:
    """Turn (1, K, ...) into float32 or, from bool, uint8; without the channel axis if K is 1."""
    dtype = torch.uint8 if output.dtype == torch.bool else torch.float32
    array = output[0].to(dtype).cpu().numpy()
    if array.ndim and len(array) == 1:
        return np.asarray(array[0])
    return np.moveaxis(array, 0, -1) if array.ndim == 3 else array
