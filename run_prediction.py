"""Predict a whole dataset: `python run_prediction.py [CONFIG] [KEY=VALUE ...]`. See --help.

In a notebook: `predict(dataset, {"WEIGHTS": "latest", "METRICS": [f1]})`.
"""

import argparse
import functools
import itertools
import logging
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config.config import ROOT_PATH, global_config
from config.keys import PREDICT_KEYS, TABLES
from predict import attempt, complain, load
from utils.path import find_weights

if TYPE_CHECKING:  # --help loads no torch
    import torch

    from models.evaluation import Evaluation
    from models.predictor import Predictor
    from utils.data.loading import Loader

DEFAULT_CONFIG = ROOT_PATH / TABLES["predict_config"].example

TEXT = """\
Predict all samples of a dataset by the network of a weights file. Into OUTPUT_DIR go:

  outputs/        a file of each sample, as predict.py writes it
  samples.csv     a row of each: name, target, prediction, confidence, loss, metrics
  metrics.json    loss and metrics of the whole set, with the names and bits of the training's
  metrics.csv     the same
  evaluation.json the same with bootstrap intervals; confusion.*, classes.csv, worst.png, as on
                  the page "What a run got wrong"
  config.yaml     the config; it can be run again"""

_N_RESAMPLES = 1000  # of the intervals

say = functools.partial(complain, script="run_prediction.py")


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the command line; CONFIG and KEY=VALUE may come in any order."""
    rows = [f"  {key.name:20}{key.meaning} [{key.default}]" for key in PREDICT_KEYS.values()]
    folders = ", ".join(global_config)
    parser = argparse.ArgumentParser(
        description=TEXT,
        epilog="\n".join(["keys of a config [default]:", *rows, f"folders: {folders}"]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "arguments",
        nargs="*",
        metavar="CONFIG KEY=VALUE",
        help="a .py file or dotted module with `predict_config`, or a .yaml (default:"
        f" {DEFAULT_CONFIG.relative_to(ROOT_PATH)}); then overrides, dotted into nested dicts"
        " (DATASET_CONFIG.root=test); ~KEY.sub removes an entry",
    )
    args = parser.parse_intermixed_args(argv)
    args.overrides = [text for text in args.arguments if "=" in text or text.startswith("~")]
    sources = [text for text in args.arguments if text not in args.overrides]
    if len(sources) > 1:
        parser.error(
            f"expected one CONFIG, got {' '.join(sources)}. Overrides have the form KEY=VALUE."
        )
    args.config = sources[0] if sources else str(DEFAULT_CONFIG)
    return args


def main(argv: list[str]) -> int:
    """Run the command line.

    Returns:
        0 done, 1 the prediction failed, 2 wrong config or arguments, 130 interrupted.
    """
    args = parse(argv)
    from config.load import missing_packages

    problem = missing_packages()
    if problem:
        return say(problem)
    from config.errors import ConfigError
    from config.load import load_config

    try:
        config, folders = load_config(args.config, args.overrides, "predict_config")
        result = predict(None, config, folders)
    except ConfigError as error:
        return say(str(error))
    except KeyboardInterrupt:
        say("interrupted; the outputs so far are whole, and samples.csv has their rows")
        return 130
    except (OSError, ValueError, RuntimeError) as error:
        say(str(error))
        return 1
    for name, value in result["metrics"].items():
        print(f"{name:>12} {value:.4g}")
    print(f"{result['n_samples']} samples predicted, outputs in {result['paths']['output_dir']}")
    return 0


def predict(
    dataset: Any,
    predict_config: Mapping[str, Any],
    global_config: Mapping[str, Any] = global_config,
) -> dict[str, Any]:
    """Predict a dataset and write what the command line writes.

    Args:
        dataset: of (x, y), x or (x, name); None for the one that the config names.
        predict_config: the config; it is not changed.
        global_config: folders.

    Returns:
        `n_samples`, `metrics` (name -> value, empty without targets) and `paths`.

    Raises:
        ConfigError: every problem of the config, the weights and the first batch; nothing is
            written.
        OSError, ValueError, RuntimeError: a later sample or an output fails. samples.csv has the
            rows so far, and there is no metrics.json.
    """
    import torch

    from config.check import check_config
    from config.errors import ConfigError
    from config.keys import with_defaults
    from models.outputs import write_table
    from models.results import write_results
    from utils.path import write_json
    from utils.torchutils import torch_settings

    problems = check_config(predict_config, dataset is not None, "predict_config")
    if problems:
        raise ConfigError(problems)
    config = with_defaults(predict_config, PREDICT_KEYS)
    n_threads = config["NUM_THREADS"] or torch.get_num_threads()
    with torch_settings(n_threads, config["DETERMINISTIC"]), torch.no_grad():
        config["WEIGHTS"], evaluation = build(config, global_config, dataset)
        batches = iter(evaluation)
        try:
            first = next(batches)
        except (OSError, ValueError, TypeError, RuntimeError, LookupError) as error:
            is_known = isinstance(error, (OSError, ValueError))
            kind = "" if is_known else f"{type(error).__name__}: "
            raise ConfigError(f"DATASET, first batch: {kind}{error}") from error
        folder = make_folder(config, global_config)
        write_config(folder, config | ({} if dataset is None else {"DATASET": dataset}))
        table = write_samples(folder, itertools.chain([first], batches), evaluation, config)
        metrics = evaluation.values()
        if evaluation.has_targets:
            about = {"set": "prediction", "weights": config["WEIGHTS"]}
            write_results(folder, evaluation, table, about, with_pictures=config["OUTPUTS"])
    paths = {"output_dir": folder, "samples": folder / "samples.csv"}
    if metrics:
        write_json(folder / "metrics.json", metrics)
        write_table(folder / "metrics.csv", [metrics])
        paths["metrics"] = folder / "metrics.json"
    return {
        "n_samples": evaluation.n_samples,
        "metrics": metrics,
        "paths": {name: str(path) for name, path in paths.items()},
    }


# ------------------------------------------------------------------------------------ set-up


def build(
    config: Mapping[str, Any], folders: Mapping[str, Any], dataset: Any
) -> tuple[str, "Evaluation"]:
    """Return the path of the weights file, and the pass over the dataset, not begun.

    Raises:
        ConfigError: every problem found on the way.
    """
    import torch

    from config.errors import ConfigError
    from models.evaluation import Evaluation
    from training.build import make_loss
    from utils.metrics import as_metrics
    from utils.name import output_name

    problems: list[str] = []
    attempt(
        problems, output_name, "a", config["PREFIX"], config["SUFFIX"], where="PREFIX, SUFFIX: "
    )
    folder = config["OUTPUT_DIR"] and Path(config["OUTPUT_DIR"]).expanduser()
    if folder and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        problems.append(
            f"OUTPUT_DIR: expected a new or empty folder, got {folder}. Choose another."
        )
    weights = attempt(problems, find_weights, config["WEIGHTS"], folders["WEIGHT_DIR"])
    predictor = weights and attempt(problems, load, weights, config)
    if not predictor:
        raise ConfigError(problems)
    device = predictor.device
    loss = config["LOSS"] and attempt(problems, make_loss, config, device, where="LOSS_CONFIG: ")
    if isinstance(loss, torch.nn.Module) and any(True for _ in loss.parameters()):
        problems.append(
            "LOSS: expected one without weights of its own, which no weights file holds, got"
            f" {type(loss).__name__}. Leave it out: ~LOSS."
        )
    if config["CHANNELS_LAST"]:
        predictor.model.to(memory_format=torch.channels_last)
    if dataset is None:
        dataset = attempt(problems, make_data, config, folders, predictor, where="DATASET: ")
    loader = None
    if dataset is not None:
        loader = attempt(problems, make_batches, dataset, config, device, where="DATASET: ")
    metrics = attempt(problems, as_metrics, config["METRICS"])
    if problems:
        raise ConfigError(problems)
    evaluation = attempt(
        problems,
        Evaluation,
        predictor,
        loader,
        loss,
        metrics,
        config["MIXED_PRECISION"],
        config["LOSS_CONFIG"].get("ignore_index"),
        _N_RESAMPLES,
        where="METRICS: ",
    )
    if problems:
        raise ConfigError(problems)
    return str(weights.resolve()), evaluation


def make_data(config: Mapping[str, Any], folders: Mapping[str, Any], predictor: "Predictor") -> Any:
    """Return the dataset of the config; what the weights say is handed to it."""
    from training.build import make_dataset
    from utils.seed import DATA, mix, seed_all

    seed_all(mix(config["SEED"], DATA, 1))  # as for VAL_DATASET, should it draw
    about = {
        "TEST_DATASET": config["DATASET"],
        "TEST_DATASET_CONFIG": config["DATASET_CONFIG"],
        "TASK": predictor.task,
        "PREPROCESS": predictor.preprocess.config or None,
        "CLASSES": predictor.classes,
        "SAMPLED_FEATURES": config["SAMPLED_FEATURES"],
    }
    return make_dataset("test", about, folders)


def make_batches(dataset: Any, config: Mapping[str, Any], device: "torch.device") -> "Loader":
    """Return the loader that a validation with this dataset has."""
    from utils.data.loading import make_loader, stack
    from utils.seed import VALIDATION, mix

    options = dict(config["DATA_LOADER_CONFIG"])
    join = options.get("collate_fn") or stack
    options["collate_fn"] = functools.partial(join_samples, join=join)
    seed = mix(config["SEED"], VALIDATION)
    return make_loader(dataset, options, seed, device, False, config["CHANNELS_LAST"])


def join_samples(samples: list[Any], join: Callable[[list[Any]], Any]) -> Any:
    """Join samples (x, y); of samples x make (x, None)."""
    if isinstance(samples[0], (tuple, list)) and len(samples[0]) == 2:
        return join(samples)
    if isinstance(samples[0], (tuple, list)) and len(samples[0]) == 1:
        samples = [sample[0] for sample in samples]
    return join(samples), None


# ------------------------------------------------------------------------------------- files


def make_folder(config: Mapping[str, Any], folders: Mapping[str, Any]) -> Path:
    """Make the folder of the outputs and return it.

    Raises:
        ConfigError: it cannot be made.
    """
    from config.errors import ConfigError
    from utils.name import reserve_dir, run_name, timestamp
    from utils.path import create_dirs

    name = run_name(timestamp(), config["SESSION_NAME"])
    try:
        if not config["OUTPUT_DIR"]:
            return reserve_dir(Path(folders["LOG_DIR"], "predictions"), name)
        folder = Path(config["OUTPUT_DIR"]).expanduser()
        create_dirs(folder)
        return folder
    except OSError as error:
        raise ConfigError(f"OUTPUT_DIR: {error}") from error


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write config.yaml, and warn of what it cannot hold."""
    from config.codec import encode_config, to_config_yaml
    from utils.path import write_atomic

    plain, lost = encode_config(config)
    if lost:
        names = ", ".join(lost)
        logging.getLogger("plumbline").warning("not captured in config.yaml: %s", names)
    write_atomic(folder / "config.yaml", to_config_yaml(plain))


def write_samples(
    folder: Path,
    batches: Iterable[tuple["torch.Tensor", list[dict[str, Any]]]],
    evaluation: "Evaluation",
    config: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Write the outputs of each sample and, at the end or when stopped, samples.csv; return it."""
    from rich.console import Console
    from rich.progress import track

    from models.outputs import Outputs, name_output, write_table

    outputs = Outputs(evaluation.predictor, folder / "outputs", replace=True)
    console = Console(stderr=True)
    is_silent = not (config["PROGRESS"] and console.is_terminal)
    bar = {"total": len(evaluation.loader), "console": console, "disable": is_silent}
    table: list[dict[str, Any]] = []
    taken: set[str] = set()
    try:
        for logits, rows in track(batches, "predict", **bar):
            for one, row in zip(logits.split(1), rows, strict=True):
                if config["OUTPUTS"]:
                    name = name_output(row["name"], config["PREFIX"], config["SUFFIX"], taken)
                    if outputs.names is None:
                        outputs.start(one)
                    outputs.check(one)
                    outputs.write(outputs.folder / name, one)
                    first = {"index": row.pop("index"), "name": row.pop("name")}
                    row = {**first, "output": f"outputs/{name}.npy", **row}
                table.append(row)
    finally:
        if table:
            write_table(folder / "samples.csv", table)
    return table


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
