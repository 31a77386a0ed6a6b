"""Predict: `python predict.py -i images/*.npy -o out --weights weights/<run>/best.pth`. See --help.

In a notebook: `models.predictor.load_predictor("best.pth")("image.png")`.
"""

import argparse
import functools
import glob
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config.config import global_config
from utils.path import find_weights

if TYPE_CHECKING:  # --help loads no torch
    import torch

    from models.outputs import ClassTable, Outputs
    from models.predictor import Predictor

# EDIT: what the command line takes where your weights files say nothing; KEY=VALUE sets the same
predict_config: dict[str, Any] = {
    "PREFIX": "",  # goes before the name of an output
    "SUFFIX": "",  # goes behind it
    "MODEL": None,  # text such as "my.module.Net"; None takes what the file says, here and below
    "MODEL_CONFIG": {},  # goes before the file's, argument by argument
    "DEVICE": None,  # None takes CUDA where there is one, else the CPU
    "TASK": None,
    "CLASSES": None,
    "PREPROCESS": {},  # goes before the file's, key by key; None takes a key out
}

EPILOG = """\
outputs, by TASK; NAME is that of the input with prefix and suffix, sub-folders are kept:
  segmentation    NAME.npy, the decision; NAME.png, a picture of it; classes.json, its colours
  classification  NAME.npy, the probabilities; predictions.csv, a row for each input
  other or none   NAME.npy, what the network gives

KEY=VALUE, for what the weights file does not say:
  MODEL=my.module.Net  MODEL_CONFIG.ch_in=3    class of the network, and its arguments
  TASK=binary_segmentation                     what the outputs mean
  CLASSES="['water', 'land']"                  their names
  PREPROCESS.scale=0.00392                     what is done to an input first
  DEVICE=cpu                                   or cuda

whole datasets, with metrics: python run_prediction.py --help"""

_KNOWN = (*predict_config, *global_config)
_MAX_NAMED = 10  # files named in one line; the rest is counted


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the command line; KEY=VALUE may stand anywhere."""
    parser = argparse.ArgumentParser(
        description="Turn input files into outputs of a trained network.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    text = 'a picture or an array, a folder of them, or a pattern: "images/*.png"'
    add("-i", dest="inputs", metavar="FILE", nargs="+", action="extend", required=True, help=text)
    add("-o", dest="out", metavar="DIR", type=Path, required=True, help="where outputs go")
    text = "a weights file; the name of a run, for its best.pth; or latest"
    add("--weights", metavar="FILE", required=True, help=text)
    text = "inputs of equal size at a time (1); the values agree to rounding"
    add("--batch-size", metavar="N", type=int, default=1, help=text)
    add("--prefix", metavar="TEXT", help="goes before the names of outputs; so does PREFIX=TEXT")
    add("--suffix", metavar="TEXT", help="goes behind them: _mask gives NAME_mask.npy")
    add("--overwrite", action="store_true", help="replace outputs that are there; else they stay")
    add("overrides", metavar="KEY=VALUE", nargs="*", help="see below")
    args = parser.parse_intermixed_args(argv)
    if args.batch_size < 1:
        parser.error(f"--batch-size: expected a number from 1, got {args.batch_size}.")
    for text in list(args.inputs):  # -i takes all that follows it
        if "=" in text and _key(text) in _KNOWN:
            args.inputs.remove(text)
            args.overrides.append(text)
    for key in ("PREFIX", "SUFFIX"):
        value = getattr(args, key.lower())
        args.overrides += [] if value is None else [f"{key}={value}"]
    return args


def main(argv: list[str]) -> int:
    """Run the command line.

    Returns:
        0 done, 1 some inputs failed, 2 wrong arguments, 130 interrupted.
    """
    args = parse(argv)
    from config.errors import ConfigError
    from config.load import missing_packages

    problem = missing_packages()
    if problem:
        return complain(problem)
    try:
        files, outputs, table = prepare(args)
        todo = files if args.overwrite else find_missing(files, outputs, table)
        n_failed = predict_files(todo, outputs, table, args.batch_size)
    except ConfigError as error:  # nothing is written yet
        return complain(str(error))
    except KeyboardInterrupt:
        complain(f"interrupted; the outputs in {args.out} are whole")
        return 130
    except OSError as error:  # of an output
        complain(str(error))
        return 1
    n_kept = len(files) - len(todo)
    print(
        f"{len(todo) - n_failed} of {len(files)} files predicted"
        + (f", {n_failed} failed" if n_failed else "")
        + (f", {n_kept} kept as they are (--overwrite replaces them)" if n_kept else "")
        + f", outputs in {args.out}"
    )
    if outputs.predictor.task is None:
        print("Outputs are raw: the weights file names no TASK. TASK=... makes them decisions.")
    return 1 if n_failed else 0


# --------------------------------------------------------------------------------- arguments


def prepare(args: argparse.Namespace) -> tuple[dict[str, Path], "Outputs", "ClassTable"]:
    """Return the files with the paths of their outputs, and what writes those.

    Raises:
        ConfigError: every problem of the arguments, the weights and the folder.
    """
    from config.errors import ConfigError
    from models.outputs import ClassTable, Outputs

    problems: list[str] = []
    config, folders = attempt(problems, read_overrides, args.overrides) or (None, global_config)
    names = config or predict_config
    files = attempt(
        problems, plan, args.inputs, args.out, names["PREFIX"] or "", names["SUFFIX"] or ""
    )
    weights = attempt(problems, find_weights, args.weights, folders["WEIGHT_DIR"])
    predictor = config and weights and attempt(problems, load, weights, config)
    if not files or predictor is None:
        raise ConfigError(problems)
    outputs = Outputs(predictor, args.out, args.overwrite)
    is_kept = predictor.is_classification and not args.overwrite
    table = attempt(problems, ClassTable, args.out / "predictions.csv", is_kept)
    if table is not None:
        problems += check_out(files, outputs, table)
    if problems:
        raise ConfigError(problems)
    return files, outputs, table


def find_missing(
    files: Mapping[str, Path], outputs: "Outputs", table: "ClassTable"
) -> dict[str, Path]:
    """Return the files of which an output is not there, or the row of a classification."""
    needs_row = outputs.predictor.is_classification
    return {
        path: base
        for path, base in files.items()
        if not outputs.are_there(base) or (needs_row and not table.has(path))
    }


def attempt(problems: list[str], call: Callable[..., Any], *args: Any, where: str = "") -> Any:
    """Return what the call gives; or note its problem, behind `where`, and return None."""
    try:
        return call(*args)
    except (OSError, ValueError, TypeError, RuntimeError, KeyError, ImportError) as error:
        problems += [f"{where}{line}" for line in str(error).splitlines()]
        return None


def plan(inputs: Sequence[str], out: Path, prefix: str = "", suffix: str = "") -> dict[str, Path]:
    """Return for each input file the path of its outputs, which lacks their suffix.

    The tree is kept from the folder that all inputs have in common; one given as a whole counts
    with all of its path.

    Raises:
        ValueError: no input is a file, those of one folder have one name, or a folder that is read
            as a whole holds that of the outputs.
        FileNotFoundError: a folder holds no file that can be read.
    """
    from utils.data.files import list_files
    from utils.name import output_name

    paths: list[str] = []
    roots: list[str] = []
    for text in inputs:
        if os.path.isdir(text):
            roots.append(os.path.abspath(text))
            if Path(text).resolve() in (out.resolve(), *out.resolve().parents):
                raise ValueError(  # outputs would be inputs the next time
                    f"-o: expected a folder outside of {text}, which is read as a whole, got {out}."
                    " Choose one beside it, or name the inputs by a pattern."
                )
            found = [str(path) for path in list_files(text).values()]
        else:
            pattern = [] if os.path.exists(text) else sorted(glob.glob(text, recursive=True))
            found = [path for path in pattern if os.path.isfile(path)] or [text]
            roots += [os.path.dirname(os.path.abspath(path)) for path in found]
        paths += found
    absolute = {os.path.abspath(path): path for path in paths}  # one given twice counts once
    if not any(map(os.path.isfile, absolute)):
        raise ValueError(f"-i: expected files, got none by {_some(inputs)}. Check the paths.")
    common = os.path.commonpath(roots)
    files = {
        path: out
        / os.path.relpath(os.path.dirname(place), common)
        # the ending of the outputs is not part of the name
        / output_name(place, prefix, suffix)
        for place, path in absolute.items()
    }
    n_inputs = Counter(files.values())
    same = [path for path, base in files.items() if n_inputs[base] > 1]
    if same:
        raise ValueError(
            f"-i: expected files of different names, got {_some(same)}. Give each its own -o."
        )
    return files


def read_overrides(overrides: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return `predict_config` with KEY=VALUE applied, and the folders.

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
    config, folders = load_config(__file__, overrides, "predict_config")
    problems = check_values(config)
    if config["MODEL_CONFIG"] and config["MODEL"] is None:
        problems.append("MODEL_CONFIG: expected MODEL beside it, got none. Set MODEL=models.UNET.")
    if problems:
        raise ConfigError(problems)
    return config, folders


def load(weights: str | Path, config: Mapping[str, Any]) -> "Predictor":
    """Load the weights; what the config says goes before what the file says.

    Raises:
        OSError, ValueError, TypeError: they cannot be loaded, see `models.predictor`.
    """
    from torch.nn import Module

    from models.predictor import load_predictor

    model, arguments = config["MODEL"], config["MODEL_CONFIG"] or {}

    @functools.wraps(model, updated=())  # its name is for messages
    def make(**of_file: Any) -> Any:
        is_network = isinstance(model, type) and issubclass(model, Module)
        if not is_network and of_file.keys() - arguments.keys():
            # MODEL=os.system would run what the file says
            raise ValueError(
                "a function gets no argument from a file; give each of them yourself, as"
                f" MODEL_CONFIG.{min(of_file.keys() - arguments.keys())}=..."
            )
        return model(**{**of_file, **arguments})

    task, classes, preprocess = config["TASK"], config["CLASSES"], config["PREPROCESS"]
    return load_predictor(weights, model and make, config["DEVICE"], task, classes, preprocess)


# ------------------------------------------------------------------------------------ outputs


def check_out(files: Mapping[str, Path], outputs: "Outputs", table: "ClassTable") -> list[str]:
    """Return what is wrong with the folder of the outputs, a line for each problem."""
    paths = [str(outputs.legend), str(table.path)]
    paths += [path for base in files.values() for path in outputs.paths(base)]
    there = list(filter(os.path.lexists, paths))
    inputs = set(map(os.path.realpath, files))
    if any(os.path.realpath(path) in inputs for path in there):
        return [
            f"-o: expected another folder than that of the inputs, got {outputs.folder}."
            " Choose one, or a --suffix."
        ]
    folders = {folder for base in files.values() for folder in base.parents}
    wrong = [str(folder) for folder in folders if folder.exists() and not folder.is_dir()]
    if wrong:
        return [f"-o: expected a folder or a free name, got {_some(wrong)}. Choose another."]
    wrong = [path for path in there if os.path.isdir(path)]
    if wrong:
        return [f"-o: expected no folders named as outputs, got {_some(wrong)}. Choose another."]
    return []


def predict_files(
    files: Mapping[str, Path], outputs: "Outputs", table: "ClassTable", batch_size: int
) -> int:
    """Write the outputs of files; name those that fail, and return how many.

    Raises:
        ConfigError: what is in the folder is of other classes; nothing is written.
        OSError: an output cannot be written.
    """
    from rich.console import Console
    from rich.progress import track

    from config.errors import ConfigError
    from models.outputs import class_of

    predictor, console, n_done = outputs.predictor, Console(stderr=True), 0
    results = read_logits(predictor, list(files), batch_size)
    bar = {"console": console, "disable": not console.is_terminal, "total": len(files)}
    try:
        for path, logits in track(results, "predict", **bar):
            if logits is None:
                continue
            try:
                if outputs.names is None:
                    outputs.start(logits)
                    table.start(outputs.names)
                outputs.check(logits)
                if predictor.is_classification:
                    shares = predictor.as_probabilities(logits)
                    shares = [1 - shares, shares] if predictor.task == "binary" else shares.ravel()
                    decision = predictor.decide(logits)
                    table.add(path, class_of(decision, predictor.task, outputs.names), shares)
                outputs.write(files[path], logits)
                n_done += 1
            except ConfigError:
                raise
            except ValueError as error:
                _name_failed(path, error)
    finally:  # of an interrupted prediction, too
        table.write(files)
    return len(files) - n_done


def read_logits(
    predictor: "Predictor", paths: Sequence[str], batch_size: int
) -> Iterator[tuple[str, "torch.Tensor | None"]]:
    """Yield each file with what the network gives for it; one that fails is named and has None."""
    from utils.data.files import read_header

    if batch_size == 1:  # no need to know the sizes
        batches = [[path] for path in paths]
    else:
        sizes = {}
        for path in paths:
            try:
                sizes[path] = read_header(path)
            except Exception as error:  # noqa: BLE001, a reader may raise anything
                _name_failed(path, error)
                yield path, None
        known = list(sizes)
        numbers = predictor.batches(list(sizes.values()), batch_size)
        batches = [[known[i] for i in batch] for batch in numbers]
    for batch in batches:
        yield from _read_batch(predictor, batch)


def _read_batch(
    predictor: "Predictor", paths: Sequence[str]
) -> Iterator[tuple[str, "torch.Tensor | None"]]:
    from utils.data.files import read_array

    try:
        logits = predictor.forward([read_array(path) for path in paths])
    except Exception as error:  # noqa: BLE001, a user's network may raise anything
        if len(paths) > 1:  # one by one: the others may be good
            for path in paths:
                yield from _read_batch(predictor, [path])
        else:
            _name_failed(paths[0], error)
            yield paths[0], None
    else:
        yield from zip(paths, logits, strict=True)


# ----------------------------------------------------------------------------------- messages


def complain(problem: str, script: str = "predict.py") -> int:
    """Print what is wrong, one problem a line, and return the exit code for it."""
    for line in problem.splitlines():
        print(f"{script}: {line}", file=sys.stderr)
    return 2


def _name_failed(path: str, error: Exception) -> None:
    is_known = isinstance(error, (ValueError, OSError))
    reason = str(error) if is_known else f"{type(error).__name__}: {error}"
    complain(reason if reason.startswith(path) else f"{path}: {reason}")


def _key(text: str) -> str:
    return re.split("[.=]", text)[0]


def _some(items: Sequence[str]) -> str:
    text = ", ".join(items[:_MAX_NAMED])
    return text + (f" and {len(items) - _MAX_NAMED} more" if len(items) > _MAX_NAMED else "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
