"""Predict: `python predict.py -i images/*.npy -o out --weights weights/<run>/best.pth`. See --help.

In a notebook: `from predict import load_predictor`, then `load_predictor("best.pth")(array)`.
"""

import argparse
import functools
import io
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # --help loads neither
    import numpy as np
    import torch

# EDIT: what the command line takes where your weights files say nothing; KEY=VALUE sets the same
predict_config: dict[str, Any] = {
    "MODEL": None,  # text such as "my.module.Net"; None takes what the file says, here and below
    "MODEL_CONFIG": {},  # goes before the file's, argument by argument
    "DEVICE": None,  # None takes CUDA where there is one, else the CPU
    "TASK": None,
    "CLASSES": None,
    "PREPROCESS": {},  # goes before the file's, key by key; None takes a key out
}

EPILOG = """\
outputs, by TASK; sub-folders of the inputs are kept:
  segmentation    NAME.npy, the decision; NAME.png, a picture of it; classes.json, its colours
  classification  NAME.npy, the probabilities; predictions.csv, a row for each input
  other or none   NAME.npy, what the network gives

KEY=VALUE, for what the weights file does not say:
  MODEL=my.module.Net  MODEL_CONFIG.ch_in=3    class of the network, and its arguments
  TASK=binary_segmentation                     what the outputs mean
  CLASSES="['water', 'land']"                  their names
  PREPROCESS.scale=0.00392                     what is done to an input first
  DEVICE=cpu                                   or cuda"""

_MAX_NAMED = 10  # files named in one line; the rest is counted


# --------------------------------------------------------------------------------------- arrays


class Predictor:
    """A trained network with what it takes to use it: arrays as they are on disk, in and out.

    Arrays are channels-last: (H, W, C) in and (H, W, K) out, or (H, W) where there is one channel.
    Maps have the size of the input, also where PREPROCESS resizes it for the network.

    Attributes:
        model: the network, on the device and in eval mode.
        device: where it is.
        task: TASK, see utils.data.tasks; None: outputs stay as the network gives them.
        classes: names of the classes, or None.
        preprocess: makes a tensor of an array.

    Raises:
        ValueError: task, classes or preprocess is not what its key in a config may be.
    """

    def __init__(
        self,
        model: "torch.nn.Module",
        device: "str | torch.device",
        task: str | None = None,
        classes: Sequence[str] | None = None,
        preprocess: Mapping[str, Any] | None = None,
    ) -> None:
        from utils.data.preprocess import Preprocess

        problems = _check_kinds({"TASK": task, "CLASSES": classes})
        if problems:
            raise ValueError("\n".join(problems))
        self.model, self.device = model.to(device).eval(), device
        self.task, self.classes = task, None if classes is None else list(map(str, classes))
        self.preprocess = Preprocess(preprocess)

    def __call__(self, array: "np.ndarray") -> "np.ndarray":
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

    def probabilities(self, array: "np.ndarray") -> "np.ndarray":
        """Return the probability of each class: (H, W, K), (H, W), (K,) or () float32 in [0, 1].

        Of a regression or an embedding: what the network gives.

        Raises:
            ValueError: as a call, or there is no task.
        """
        return self.as_probabilities(self.logits(array))

    def logits(self, array: "np.ndarray") -> "torch.Tensor":
        """Return what the network gives for an array: (1, K, H, W) or (1, K) float, on its device.

        Raises:
            ValueError: as a call.
        """
        import numpy as np
        import torch
        from torch.nn import functional as F

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
        import torch

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
        is_map, is_binary = is_segmentation(self.task), self.task.startswith("binary")
        if logits.ndim != (4 if is_map else 2) or (is_binary and logits.shape[1] != 1):
            shape = f"(1, {1 if is_binary else 'K'}{', H, W' if is_map else ''})"
            raise ValueError(
                f"TASK: expected outputs {shape} for {self.task}, got {tuple(logits.shape)}."
                " Give the TASK that the network was trained for."
            )

    def decide(self, logits: "torch.Tensor") -> "np.ndarray":
        """Turn `logits` into what a call returns."""
        import torch

        from utils.data.tasks import activation, decide

        if self.task is None:
            return _channels_last(logits)
        decision = decide(logits, self.task)
        if activation(self.task) != "softmax":
            return _channels_last(decision)
        is_small = is_segmentation(self.task) and logits.shape[1] <= 256
        return decision[0].to(torch.uint8 if is_small else torch.int64).cpu().numpy()

    def as_probabilities(self, logits: "torch.Tensor") -> "np.ndarray":
        """Turn `logits` into what `probabilities` returns."""
        from utils.data.tasks import probabilities

        return _channels_last(probabilities(logits, self.task))

    def class_names(self, n_outputs: int) -> list[str]:
        """Return a name for each output; of a binary task for no and yes.

        Raises:
            ValueError: CLASSES holds another number of names.
        """
        is_binary = self.task is not None and self.task.startswith("binary")
        n_names = 2 if is_binary else n_outputs
        names = self.classes or list(map(str, range(n_names)))
        if is_binary and len(names) == 1:
            names = [f"not {names[0]}", *names]
        if len(names) != n_names:
            raise ValueError(
                f"CLASSES: expected {n_names} names for {self.task}, got {', '.join(names)}."
                " Give them as CLASSES=\"['a', 'b']\"."
            )
        return names


def load_predictor(
    weights: str | Path,
    model: "Callable[..., torch.nn.Module] | None" = None,
    device: "str | torch.device | None" = None,
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
    import json

    from config.codec import decode_model
    from config.device import get_device
    from models.load import load_model

    device = get_device(device)
    network, meta = load_model(weights, model, device)
    of_file = decode_model(json.dumps(meta.get("PREPROCESS")), {})  # tuples stand there as calls
    if preprocess:
        preprocess = {**(of_file or {}), **preprocess}
    return Predictor(
        network,
        device,
        meta.get("TASK") if task is None else task,
        meta.get("CLASSES") if classes is None else classes,
        preprocess or of_file,
    )


def is_segmentation(task: str | None) -> bool:
    """Tell whether the decision of a task is a map."""
    return task is not None and task.endswith("_segmentation")


def is_classification(task: str | None) -> bool:
    """Tell whether the decision of a task is about the input as a whole."""
    return task in ("binary", "multiclass", "multilabel")


def _check_kinds(config: Mapping[str, Any]) -> list[str]:
    from config.errors import shorten
    from config.keys import KEYS

    return [
        f"{name}: expected {KEYS[name].kind.rule}, got {shorten(value)}. Set {name}=..."
        for name, value in config.items()
        if not (value is None or KEYS[name].kind.accepts(value))
    ]


def _channels_last(output: "torch.Tensor") -> "np.ndarray":
    """Turn (1, K, ...) into float32 or, from bool, uint8; without the channel axis if K is 1."""
    import numpy as np
    import torch

    dtype = torch.uint8 if output.dtype == torch.bool else torch.float32
    array = output[0].to(dtype).cpu().numpy()
    if array.ndim and len(array) == 1:
        return np.asarray(array[0])
    return np.moveaxis(array, 0, -1) if array.ndim == 3 else array


# ------------------------------------------------------------------------------------- pictures


def make_palette(n_colours: int) -> "np.ndarray":
    """Return (n_colours, 3) uint8, RGB: black, then hues that the colour-blind can tell apart.

    From the ninth on they are darker shades of the seven hues, more alike the more there are.

    Source: Okabe and Ito, Color Universal Design, 2008, https://jfly.uni-koeln.de/color/.
    """
    import numpy as np

    orange, sky_blue, green = (230, 159, 0), (86, 180, 233), (0, 158, 115)
    yellow, blue, vermilion, purple = (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167)
    hues = np.array([orange, sky_blue, green, yellow, blue, vermilion, purple])
    n_shades = n_colours // len(hues) + 1
    shades = [hues * (1 - 0.7 * shade / n_shades) for shade in range(n_shades)]
    return np.concatenate([np.zeros((1, 3)), *shades])[:n_colours].round().astype(np.uint8)


def draw(decision: "np.ndarray", task: str, n_outputs: int) -> bytes:
    """Return a PNG of the decision of a segmentation.

    binary: grey, 0 and 255. multiclass: a palette picture, its indices are the classes. multilabel:
    one with the index label + 1, the highest where labels overlap, and 0 where there is none.
    """
    import numpy as np
    from PIL import Image

    if task == "binary_segmentation":
        image = Image.fromarray(decision * 255)
    else:
        index = decision
        if task == "multilabel_segmentation":
            labels = decision.reshape(*decision.shape[:2], n_outputs)
            index = (labels * np.arange(1, n_outputs + 1)).max(axis=2)
        image = Image.fromarray(index.astype(np.uint8))  # beyond 256, colours return
        image.putpalette(make_palette(min(n_outputs + 1, 256)).tobytes())
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def make_legend(task: str, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return what the numbers and colours of a segmentation mean: the content of classes.json."""
    first = 1 if task == "multilabel_segmentation" else 0
    palette = make_palette(min(len(names) + 1, 256))
    colours = ["#" + palette[(i + first) % 256].tobytes().hex() for i in range(len(names))]
    if task == "binary_segmentation":
        colours = ["#000000", "#ffffff"]
    return [
        {"index": i, "class": name, "colour": colour}
        for i, (name, colour) in enumerate(zip(names, colours, strict=True))
    ]


# ---------------------------------------------------------------------------------------- files


def plan(inputs: Sequence[str], out: Path) -> dict[str, Path]:
    """Return for each input the path of its outputs, which lacks their suffix.

    Raises:
        ValueError: no input is a file, or inputs of one folder have one name.
    """
    import glob

    paths: list[str] = []
    for text in inputs:
        found = [] if os.path.exists(text) else sorted(glob.glob(text, recursive=True))
        paths += found or [text]
    files = {os.path.abspath(path): path for path in paths}  # one given twice counts once
    if not any(map(os.path.isfile, files)):
        raise ValueError(f"-i: expected files, got none by {_some(inputs)}. Check the paths.")
    common = os.path.commonpath([os.path.dirname(path) for path in files])
    named: dict[Path, list[str]] = {}
    for absolute, path in files.items():
        stem = os.path.splitext(absolute)[0]
        named.setdefault(out / os.path.relpath(stem, common), []).append(path)
    same = [path for paths in named.values() if len(paths) > 1 for path in paths]
    if same:
        raise ValueError(
            f"-i: expected files of different names, got {_some(same)}. Give each its own -o."
        )
    return {path: base for base, (path,) in named.items()}


def check_out(files: Mapping[str, Path], out: Path, task: str | None, overwrite: bool) -> list[str]:
    """Return what is wrong with the folder of the outputs, a line for each problem."""
    suffixes = (".npy", ".png") if is_segmentation(task) else (".npy",)
    outputs = [f"{base}{suffix}" for base in files.values() for suffix in suffixes]
    outputs += [str(out / "classes.json")] if is_segmentation(task) else []
    outputs += [str(out / "predictions.csv")] if is_classification(task) else []
    there = [path for path in outputs if os.path.lexists(path)]
    inputs = set(map(os.path.realpath, files))
    if any(os.path.realpath(path) in inputs for path in there):
        return [f"-o: expected another folder than that of the inputs, got {out}. Choose one."]
    if there and not overwrite:
        return [f"-o: expected none of {_some(there)}, got them. Add --overwrite to replace them."]
    return []


def predict_files(predictor: Predictor, files: Mapping[str, Path], out: Path) -> int:
    """Write the outputs of one file after another; a file that fails is named and left out.

    Args:
        predictor: what predicts.
        files: each input with the path of its outputs, without suffix.
        out: folder of classes.json and predictions.csv.

    Returns:
        How many failed.
    """
    import csv

    from rich.console import Console
    from rich.progress import track

    from utils.data.files import read_array
    from utils.path import write_atomic, write_json

    console = Console(stderr=True)
    names: list[str] = []
    rows: list[list[Any]] = []
    n_failed = 0
    try:
        for path, base in track(
            files.items(), "predict", console=console, disable=not console.is_terminal
        ):
            try:
                names, row = _write_outputs(predictor, read_array(path), base)
            except Exception as error:  # noqa: BLE001, a user's network may raise anything
                n_failed += 1
                is_known = isinstance(error, (ValueError, OSError))
                reason = str(error) if is_known else f"{type(error).__name__}: {error}"
                complain([reason if reason.startswith(path) else f"{path}: {reason}"])
            else:
                rows.append([path, *row])
    finally:  # of an interrupted prediction, too
        if rows and is_segmentation(predictor.task):
            write_json(out / "classes.json", make_legend(str(predictor.task), names))
        if rows and is_classification(predictor.task):
            file = io.StringIO()
            csv.writer(file, lineterminator="\n").writerows([["file", "class", *names], *rows])
            write_atomic(out / "predictions.csv", file.getvalue())
    return n_failed


def _write_outputs(
    predictor: Predictor, array: "np.ndarray", base: Path
) -> tuple[list[str], list[Any]]:
    """Write the outputs of one input; return the class names and its row of predictions.csv."""
    import numpy as np

    from utils.path import create_dirs, write_atomic

    task, logits = predictor.task, predictor.logits(array)
    decision = output = predictor.decide(logits)
    names, row = [], []
    if is_segmentation(task) or is_classification(task):
        names = predictor.class_names(logits.shape[1])
    if is_classification(task):
        output = predictor.as_probabilities(logits)
        chosen = np.flatnonzero(decision) if task == "multilabel" else [int(decision)]
        columns = [1 - output, output] if task == "binary" else output.ravel()
        row = [";".join(names[i] for i in chosen), *columns]
    create_dirs(base.parent)
    if is_segmentation(task):
        write_atomic(f"{base}.png", draw(decision, str(task), logits.shape[1]))
    file = io.BytesIO()
    np.save(file, output, allow_pickle=False)
    write_atomic(f"{base}.npy", file.getbuffer())
    return names, row


# ---------------------------------------------------------------------------- the command line


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the command line; KEY=VALUE may stand anywhere."""
    parser = argparse.ArgumentParser(
        description="Turn input files into outputs of a trained network.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("-i", dest="inputs", metavar="FILE", nargs="+", action="extend", required=True,
        help='.npy, .png, .jpg or .tif, also as a pattern: "images/*.png"')  # fmt: skip
    add("-o", dest="out", metavar="DIR", type=Path, required=True, help="where outputs go")
    add("--weights", metavar="FILE", required=True, help="best.pth or last.pth of a run")
    add("--overwrite", action="store_true", help="replace outputs that are there")
    add("overrides", metavar="KEY=VALUE", nargs="*", help="see below")
    args = parser.parse_intermixed_args(argv)
    for text in list(args.inputs):  # -i takes all that follows it
        if "=" in text and _key(text) in predict_config:
            args.inputs.remove(text)
            args.overrides.append(text)
    return args


def _key(text: str) -> str:
    return text.partition("=")[0].partition(".")[0]


def main(argv: list[str]) -> int:
    """Run the command line.

    Returns:
        0 done, 1 some inputs failed, 2 wrong arguments, 130 interrupted.
    """
    args = parse(argv)
    from config.load import missing_packages

    problem = missing_packages()
    if problem:
        return complain([problem])
    from utils.path import create_dirs

    problems, files, predictor = [], {}, None
    try:
        files = plan(args.inputs, args.out)
    except ValueError as error:
        problems.append(str(error))
    try:
        predictor = _load(args.weights, read_overrides(args.overrides))
        problems += check_out(files, args.out, predictor.task, args.overwrite)
        if not problems:
            create_dirs(args.out)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        problems += str(error).splitlines()
    if problems or predictor is None:
        return complain(problems)
    try:
        n_failed = predict_files(predictor, files, args.out)
    except KeyboardInterrupt:
        complain([f"interrupted; the outputs in {args.out} are whole"])
        return 130
    except OSError as error:  # of the files about all inputs
        complain([str(error)])
        return 1
    print(f"{len(files) - n_failed} of {len(files)} files predicted, outputs in {args.out}")
    if predictor.task is None:
        print("Outputs are raw: the weights file names no TASK. TASK=... makes them decisions.")
    return 1 if n_failed else 0


def read_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Return `predict_config` with KEY=VALUE applied.

    The folders of `global_config` are taken as by every command line, and not used.

    Raises:
        ConfigError: keys that are not of `predict_config`, values that do not fit.
    """
    from config.config import global_config
    from config.errors import ConfigError, did_you_mean
    from config.load import load_config

    problems = [
        f'"{text}": expected KEY=VALUE with one of {", ".join(predict_config)}, got "{_key(text)}".'
        f"{did_you_mean(_key(text), predict_config)} The weights file holds all else."
        for text in overrides
        if _key(text) not in (*predict_config, *global_config)
    ]
    if problems:
        raise ConfigError(problems)
    config, _ = load_config(__file__, overrides, "predict_config")
    problems = _check_kinds(config)
    if config["MODEL_CONFIG"] and config["MODEL"] is None:
        problems.append("MODEL_CONFIG: expected MODEL beside it, got none. Set MODEL=models.UNET.")
    if problems:
        raise ConfigError(problems)
    return config


def _load(weights: str, config: Mapping[str, Any]) -> Predictor:
    model = config["MODEL"]
    if model is not None:
        model = _with_arguments(model, config["MODEL_CONFIG"])
    task, classes, preprocess = config["TASK"], config["CLASSES"], config["PREPROCESS"]
    return load_predictor(weights, model, config["DEVICE"], task, classes, preprocess)


def _with_arguments(model: Callable[..., Any], arguments: Mapping[str, Any]) -> Callable[..., Any]:
    @functools.wraps(model, updated=())
    def make(**of_file: Any) -> Any:
        return model(**{**of_file, **arguments})

    return make


def complain(problems: Iterable[str]) -> int:
    """Print what is wrong, one problem a line, and return the exit code for it."""
    for line in problems:
        print(f"predict.py: {line}", file=sys.stderr)
    return 2


def _some(items: Sequence[str]) -> str:
    text = ", ".join(items[:_MAX_NAMED])
    return text + (f" and {len(items) - _MAX_NAMED} more" if len(items) > _MAX_NAMED else "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
