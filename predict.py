"""Predict: `python predict.py -i images/*.npy -o out --weights weights/<run>/best.pth`. See --help.

In a notebook: `models.predictor.load_predictor("best.pth")(array)`.
"""

import argparse
import csv
import functools
import glob
import io
import os
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config.config import global_config

if TYPE_CHECKING:  # --help loads no torch
    from models.predictor import Predictor

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

_KNOWN = (*predict_config, *global_config)  # folders are taken as everywhere, and not used
_MAX_NAMED = 10  # files named in one line; the rest is counted


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the command line; KEY=VALUE may stand anywhere."""
    parser = argparse.ArgumentParser(
        description="Turn input files into outputs of a trained network.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    text = '.npy, .png, .jpg or .tif, also as a pattern: "images/*.png"'
    add("-i", dest="inputs", metavar="FILE", nargs="+", action="extend", required=True, help=text)
    add("-o", dest="out", metavar="DIR", type=Path, required=True, help="where outputs go")
    add("--weights", metavar="FILE", required=True, help="best.pth or last.pth of a run")
    add("--overwrite", action="store_true", help="replace outputs that are there")
    add("overrides", metavar="KEY=VALUE", nargs="*", help="see below")
    args = parser.parse_intermixed_args(argv)
    for text in list(args.inputs):  # -i takes all that follows it
        if "=" in text and _key(text) in _KNOWN:
            args.inputs.remove(text)
            args.overrides.append(text)
    return args


def main(argv: list[str]) -> int:
    """Run the command line.

    Returns:
        0 done, 1 some inputs failed, 2 wrong arguments, 130 interrupted.
    """
    args = parse(argv)
    from config.load import missing_packages

    problem = missing_packages()
    if problem:
        return complain(problem)
    from utils.path import create_dirs

    files, problems = {}, []
    try:
        files = plan(args.inputs, args.out)
    except ValueError as error:
        problems.append(str(error))
    try:
        predictor = load(args.weights, read_overrides(args.overrides))
        problems += check_out(files, args.out, predictor, args.overwrite)
        if not problems:
            create_dirs(args.out)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        problems.append(str(error))
    if problems:
        return complain("\n".join(problems))
    try:
        n_failed = predict_files(predictor, files, args.out)
    except KeyboardInterrupt:
        complain(f"interrupted; the outputs in {args.out} are whole")
        return 130
    except OSError as error:  # of the files about all inputs
        complain(str(error))
        return 1
    print(f"{len(files) - n_failed} of {len(files)} files predicted, outputs in {args.out}")
    if predictor.task is None:
        print("Outputs are raw: the weights file names no TASK. TASK=... makes them decisions.")
    return 1 if n_failed else 0


def plan(inputs: Sequence[str], out: Path) -> dict[str, Path]:
    """Return for each input the path of its outputs, which lacks their suffix.

    Raises:
        ValueError: no input is a file, or inputs of one folder have one name.
    """
    paths: list[str] = []
    for text in inputs:
        found = [] if os.path.exists(text) else sorted(glob.glob(text, recursive=True))
        paths += found or [text]
    absolute = {os.path.abspath(path): path for path in paths}  # one given twice counts once
    if not any(map(os.path.isfile, absolute)):
        raise ValueError(f"-i: expected files, got none by {_some(inputs)}. Check the paths.")
    common = os.path.commonpath(list(map(os.path.dirname, absolute)))
    files = {
        path: out / os.path.relpath(os.path.splitext(place)[0], common)
        for place, path in absolute.items()
    }
    n_inputs = Counter(files.values())
    same = [path for path, base in files.items() if n_inputs[base] > 1]
    if same:
        raise ValueError(
            f"-i: expected files of different names, got {_some(same)}. Give each its own -o."
        )
    return files


def read_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Return `predict_config` with KEY=VALUE applied.

    Raises:
        ConfigError: keys that are not of `predict_config`, values that do not fit.
    """
    from config.errors import ConfigError, did_you_mean
    from config.load import load_config
    from models.predictor import check_values

    problems = [
        f'"{text}": expected KEY=VALUE with one of {", ".join(predict_config)}, got "{_key(text)}".'
        f"{did_you_mean(_key(text), predict_config)} The weights file holds all else."
        for text in overrides
        if _key(text) not in _KNOWN
    ]
    if problems:
        raise ConfigError(problems)
    config, _ = load_config(__file__, overrides, "predict_config")
    problems = check_values(config)
    if config["MODEL_CONFIG"] and config["MODEL"] is None:
        problems.append("MODEL_CONFIG: expected MODEL beside it, got none. Set MODEL=models.UNET.")
    if problems:
        raise ConfigError(problems)
    return config


def load(weights: str, config: Mapping[str, Any]) -> "Predictor":
    """Load the weights; what the config says goes before what the file says."""
    from models.predictor import load_predictor

    model, arguments = config["MODEL"], config["MODEL_CONFIG"] or {}

    @functools.wraps(model, updated=())  # its name is for messages
    def make(**of_file: Any) -> Any:
        return model(**{**of_file, **arguments})

    task, classes, preprocess = config["TASK"], config["CLASSES"], config["PREPROCESS"]
    return load_predictor(weights, model and make, config["DEVICE"], task, classes, preprocess)


def check_out(
    files: Mapping[str, Path], out: Path, predictor: "Predictor", overwrite: bool
) -> list[str]:
    """Return what is wrong with the folder of the outputs, a line for each problem."""
    suffixes = (".npy", ".png") if predictor.is_segmentation else (".npy",)
    outputs = [f"{base}{suffix}" for base in files.values() for suffix in suffixes]
    outputs += [str(out / "classes.json")] if predictor.is_segmentation else []
    outputs += [str(out / "predictions.csv")] if predictor.is_classification else []
    there = [path for path in outputs if os.path.lexists(path)]
    inputs = set(map(os.path.realpath, files))
    if any(os.path.realpath(path) in inputs for path in there):
        return [f"-o: expected another folder than that of the inputs, got {out}. Choose one."]
    if there and not overwrite:
        return [f"-o: expected none of {_some(there)}, got them. Add --overwrite to replace them."]
    return []


def predict_files(predictor: "Predictor", files: Mapping[str, Path], out: Path) -> int:
    """Write the outputs of one file after another; name those that fail, and return how many."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    names: list[str] = []
    rows: list[list[Any]] = []
    try:
        for path, base in track(
            files.items(), "predict", console=console, disable=not console.is_terminal
        ):
            try:
                names, row = write_outputs(predictor, path, base)
                rows.append([path, *row])
            except Exception as error:  # noqa: BLE001, a user's network may raise anything
                is_known = isinstance(error, (ValueError, OSError))
                reason = str(error) if is_known else f"{type(error).__name__}: {error}"
                complain(reason if reason.startswith(path) else f"{path}: {reason}")
    finally:  # of an interrupted prediction, too
        if rows:
            write_table(predictor, names, rows, out)
    return len(files) - len(rows)


def write_outputs(predictor: "Predictor", path: str, base: Path) -> tuple[list[str], list[Any]]:
    """Write the outputs of one input; return the class names and its row of predictions.csv."""
    import numpy as np

    from utils.data.files import read_array
    from utils.data.pictures import draw
    from utils.path import create_dirs, write_atomic

    logits = predictor.logits(read_array(path))
    decision = output = predictor.decide(logits)
    names, row = [], []
    if predictor.is_segmentation or predictor.is_classification:
        names = predictor.class_names(logits.shape[1])
    if predictor.is_classification:
        output = predictor.as_probabilities(logits)
        chosen = np.flatnonzero(decision) if predictor.task == "multilabel" else [int(decision)]
        columns = [1 - output, output] if predictor.task == "binary" else output.ravel()
        row = [";".join(names[i] for i in chosen), *columns]
    create_dirs(base.parent)
    if predictor.is_segmentation:
        write_atomic(f"{base}.png", draw(decision, predictor.task, logits.shape[1]))
    file = io.BytesIO()
    np.save(file, output, allow_pickle=False)
    write_atomic(f"{base}.npy", file.getbuffer())
    return names, row


def write_table(
    predictor: "Predictor", names: Sequence[str], rows: Sequence[Sequence[Any]], out: Path
) -> None:
    """Write what is about all inputs: classes.json or predictions.csv, by TASK."""
    from utils.data.pictures import make_legend
    from utils.path import write_atomic, write_json

    if predictor.is_segmentation:
        write_json(out / "classes.json", make_legend(predictor.task, names))
    if predictor.is_classification:
        file = io.StringIO()
        csv.writer(file, lineterminator="\n").writerows([["file", "class", *names], *rows])
        write_atomic(out / "predictions.csv", file.getvalue())


def complain(problem: str) -> int:
    """Print what is wrong, one problem a line, and return the exit code for it."""
    for line in problem.splitlines():
        print(f"predict.py: {line}", file=sys.stderr)
    return 2


def _key(text: str) -> str:
    return re.split("[.=]", text)[0]


def _some(items: Sequence[str]) -> str:
    text = ", ".join(items[:_MAX_NAMED])
    return text + (f" and {len(items) - _MAX_NAMED} more" if len(items) > _MAX_NAMED else "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
