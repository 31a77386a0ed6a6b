"""A trained network in use: files, or arrays as they are on disk, in, decisions out.

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
from config.keys import PREDICT_KEYS
from models.load import load_model
from utils.data import tasks
from utils.data.files import read_array, read_header
from utils.data.preprocess import Preprocess, check_preprocess

Input = np.ndarray | str | Path  # what one thing to predict may be


class Predictor:
    """A trained network with what it takes to use it.

    Arrays are channels-last: (H, W, C) in and (H, W, K) out, or (H, W) where there is one channel.
    Maps have the size of the input, also where PREPROCESS resizes it for the network.

    An input is an array or the path of a file. A list of inputs, or an array (N, H, W, C), gives a
    list of outputs; the network takes up to `batch_size` of equal size at once. The values do not
    depend on it, but for the rounding of the arithmetic: on a CPU probabilities agree to 1e-6.

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
        problems += check_preprocess(preprocess, str(task).endswith("_segmentation"))
        if problems:
            raise ConfigError(problems)
        self.model, self.device = model.to(device).eval(), device
        self.task, self.classes = task, None if classes is None else list(map(str, classes))
        self.is_segmentation = task is not None and task.endswith("_segmentation")
        self.is_classification = task in ("binary", "multiclass", "multilabel")
        self._is_binary = task in ("binary", "binary_segmentation")
        self.preprocess = Preprocess(preprocess)

    def __call__(
        self, inputs: Input | Sequence[Input], batch_size: int = 1
    ) -> np.ndarray | list[np.ndarray]:
        """Decide what an input shows.

        Args:
            inputs: (H, W) or (H, W, C), any numbers, or a file as `utils.data.files.read_array`
                takes it; or several, see the class.
            batch_size: how many of several the network takes at once.

        Returns:
            - binary_segmentation, multilabel_segmentation: uint8, 1 inside the object, 0 outside;
            - multiclass_segmentation: (H, W) uint8, the class; int64 where there are over 256;
            - binary, multilabel: () or (K,) uint8, 1 or 0; multiclass: () int64, the class;
            - else float32, what the network gives.

        Raises:
            OSError: there is no such file.
            ValueError: a file is damaged, an array does not fit the network, or its outputs do not
                fit the task.
        """
        return self._each(self.decide, inputs, batch_size)

    def probabilities(
        self, inputs: Input | Sequence[Input], batch_size: int = 1
    ) -> np.ndarray | list[np.ndarray]:
        """Return the probability of each class: (H, W, K), (H, W), (K,) or () float32 in [0, 1].

        Of a regression or an embedding: what the network gives.

        Raises:
            OSError, ValueError: as a call, or there is no task.
        """
        return self._each(self.as_probabilities, inputs, batch_size)

    def logits(
        self, inputs: Input | Sequence[Input], batch_size: int = 1
    ) -> torch.Tensor | list[torch.Tensor]:
        """Return what the network gives: (1, K, H, W) or (1, K) float, on its device.

        Raises:
            OSError, ValueError: as a call.
        """
        return self._each(lambda logits: logits, inputs, batch_size)

    def _each(
        self,
        turn: Callable[[torch.Tensor], Any],
        inputs: Input | Sequence[Input],
        batch_size: int,
    ) -> Any:
        if not isinstance(inputs, (list, tuple)) and getattr(inputs, "ndim", 0) != 4:
            return turn(self.forward([_read(inputs)])[0])
        found = {}
        for batch in self.batches(list(map(_size, inputs)), batch_size):
            outputs = self.forward([_read(inputs[i]) for i in batch])
            found |= {i: turn(output) for i, output in zip(batch, outputs, strict=True)}
        return [found[i] for i in range(len(inputs))]

    def batches(self, sizes: Sequence[tuple[int, ...]], batch_size: int) -> list[list[int]]:
        """Return the numbers of the inputs in batches that `forward` takes at once.

        Args:
            sizes: (height, width, channels) of each input [px, px, 1].
            batch_size: the most inputs in a batch.
        """
        groups: dict[tuple[int, ...], list[int]] = {}
        for i, size in enumerate(sizes):
            groups.setdefault(size[2:] if self.preprocess.out_size else size, []).append(i)
        return [
            group[first : first + batch_size]
            for group in groups.values()
            for first in range(0, len(group), batch_size)
        ]

    def forward(self, arrays: Sequence[np.ndarray]) -> list[torch.Tensor]:
        """Return what the network gives for arrays of one size, (1, K, H, W) or (1, K) for each.

        Raises:
            ValueError: as a call.
        """
        inputs = [self.preprocess(array) for array in arrays]
        x = (torch.stack(inputs) if len(inputs) > 1 else inputs[0][None]).to(self.device)
        try:
            with torch.inference_mode():
                outputs = self.model(x)
        except RuntimeError as error:
            reason = str(error).partition("\n")[0].rstrip(".")
            raise ValueError(
                f"expected an array that the network takes, got shape {arrays[0].shape}: {reason}."
                " Check its channels (the last axis) and PREPROCESS; without memory, DEVICE=cpu."
            ) from error
        self.check_outputs(outputs, len(x))
        is_map = outputs.ndim == 4 and outputs.shape[2:] == x.shape[2:]
        if is_map and self.preprocess.cut:
            raise ValueError(
                f'PREPROCESS["crop"]: expected none for a network that gives maps, got'
                f" {self.preprocess.cut}. Take it out: PREPROCESS.crop=None."
            )
        logits = list(outputs.split(1))
        for i, array in enumerate(arrays):
            if is_map and x.shape[2:] != array.shape[:2]:
                logits[i] = F.interpolate(
                    logits[i], array.shape[:2], mode="bilinear", antialias=True
                )
        return logits

    def check_outputs(self, outputs: Any, n_inputs: int) -> None:
        """Refuse what is not one output of the task for each input.

        Raises:
            ValueError: it is no tensor, holds NaN, or has another shape.
        """
        if not isinstance(outputs, torch.Tensor):
            raise ValueError(
                f"MODEL: expected a network that gives a tensor, got {type(outputs).__name__}."
                " Name a class that picks the tensor."
            )
        if outputs.isnan().any():  # a comparison with NaN would be a quiet no
            raise ValueError(
                "expected numbers from the network, got NaN. Look for NaN in the array."
            )
        n_axes = None if self.task in (None, "regression") else 4 if self.is_segmentation else 2
        is_right = n_axes in (None, outputs.ndim) and outputs.shape[:1] == (n_inputs,)
        if not is_right or (self._is_binary and outputs.shape[1] != 1):
            axes = "..." if n_axes is None else "1" if self._is_binary else "K"
            shape = f"({n_inputs}, {axes}{', H, W' if self.is_segmentation else ''})"
            raise ValueError(
                f"TASK: expected outputs {shape} for {self.task}, got {tuple(outputs.shape)}."
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
        mask = predictor("images/1.png")
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
        f"{name}: expected {PREDICT_KEYS[name].kind.rule}, got {shorten(value)}. Set {name}=..."
        for name, value in config.items()
        if not (value is None or PREDICT_KEYS[name].kind.accepts(value))
    ]


def _read(one: Input) -> np.ndarray:
    return read_array(one) if isinstance(one, (str, Path)) else np.asarray(one)


def _size(one: Input) -> tuple[int, ...]:
    """Return (height, width, channels); the shape of what is no picture."""
    if isinstance(one, (str, Path)):
        return read_header(one)
    shape = np.shape(one)
    return (*shape, 1) if len(shape) == 2 else shape


def _channels_last(output: torch.Tensor) -> np.ndarray:
    """Turn (1, K, ...) into float32 or, from bool, uint8; without the channel axis if K is 1."""
    dtype = torch.uint8 if output.dtype == torch.bool else torch.float32
    array = output[0].to(dtype).cpu().numpy()
    if array.ndim and len(array) == 1:
        return np.asarray(array[0])
    return np.moveaxis(array, 0, -1) if array.ndim == 3 else array
