"""Train: `python train.py experiments/digits.py --routine ignite EPOCHS=5`. See --help."""

import argparse
import functools
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

DEFAULT_CONFIG = "experiments/scenes.py"

# changes config and folders before a run is built
Prepare = Callable[[dict[str, Any], dict[str, Any]], tuple[dict[str, Any], dict[str, Any]]]


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the command line; CONFIG and KEY=VALUE may come in any order."""
    parser = argparse.ArgumentParser(
        description="Train the model of a config.",
        epilog=_epilog() if {"-h", "--help"} & set(argv) else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "arguments",
        nargs="*",
        metavar="CONFIG KEY=VALUE",
        help="a .py file or dotted module with `train_config`, or a .yaml (default:"
        f" {DEFAULT_CONFIG}); then overrides, dotted into nested dicts (OPTIMIZER_CONFIG.lr=3e-4);"
        " ~KEY.sub removes an entry",
    )
    parser.add_argument(
        "--routine", metavar="NAME", help="pytorch, ignite, fastai, lightning or yours"
    )
    parser.add_argument(
        "--resume", metavar="RUN", help="go on with a stopped run: its name, or latest"
    )
    parser.add_argument(
        "--verify-resume",
        action="store_true",
        help="train a few batches, kill the run, resume it, and tell whether the bits are equal",
    )
    parser.add_argument(
        "--print-config",
        action="store_true",
        help="print the config with its overrides and defaults as YAML, and train nothing",
    )
    parser.add_argument(
        "-s", "--smtp", metavar="ADDRESS", help="mail how the run ends; several by commas"
    )
    parser.add_argument("-w", "--warnings", action="store_true", help="show libraries' warnings")
    args = parser.parse_intermixed_args(argv)
    args.overrides = [text for text in args.arguments if "=" in text or text.startswith("~")]
    sources = [text for text in args.arguments if text not in args.overrides]
    if len(sources) > 1:
        parser.error(
            f"expected one CONFIG, got {' '.join(sources)}. Overrides have the form KEY=VALUE."
        )
    if args.resume == "":
        parser.error("--resume: expected the name of a run, or latest, got nothing. Name it.")
    if args.verify_resume and args.resume:
        parser.error(
            "--verify-resume: expected no --resume beside it, got both. It starts a run of its own."
        )
    args.config = sources[0] if sources else None
    return args


def _epilog() -> str:
    from config.config import global_config
    from config.keys import KEYS

    rows = [f"  {key.name:22}{key.meaning} [{key.default}]" for key in KEYS.values()]
    folders = ", ".join(global_config)
    return "\n".join(["keys of a config [default]:", *rows, f"folders: {folders}"])


def main(argv: list[str]) -> int:
    """Run the command line.

    Returns:
        0 done, 1 the run failed, 2 wrong config or arguments, 130 and 143 interrupted.
    """
    args = parse(argv)
    from config.load import missing_packages

    problem = missing_packages()
    if problem:
        return complain(problem)
    try:
        if args.print_config:
            return print_config(args)
        return verify(args) if args.verify_resume else run(args)
    except KeyboardInterrupt:  # before the run handles it, such as in an import
        return 130


def run(args: argparse.Namespace, prepare: Prepare | None = None) -> int:
    """Train what the arguments say; `prepare` may change config and folders before."""
    from config.errors import ConfigError
    from config.load import load_routine

    if not args.warnings:
        warnings.filterwarnings("ignore")
    try:
        config, folders = load(args)
        if prepare is not None:
            config, folders = prepare(config, folders)
        routine = load_routine(config.get("ROUTINE_NAME", "pytorch"))
    except ConfigError as error:
        return complain(str(error))
    if args.resume and is_done(config, folders):
        if is_main():
            print(f"{folders['RESUME']} is done: all its epochs are trained. EPOCHS=N trains more.")
        return 0
    from torch import OutOfMemoryError

    from training.remedies import train
    from training.run import NonFiniteLossError, RunInterrupted

    try:
        train(routine, config, folders)
    except ConfigError as error:
        return complain(str(error))
    except (NonFiniteLossError, OutOfMemoryError):
        return 1  # the run has said it, with the remedies; a traceback helps nobody
    except (RunInterrupted, KeyboardInterrupt) as stop:
        return getattr(stop, "exit_code", 130)
    return 0


def print_config(args: argparse.Namespace) -> int:
    """Print the config of the arguments as the text of a file that can be run; write nothing."""
    from config.codec import encode_config, to_config_yaml
    from config.errors import ConfigError
    from config.keys import with_defaults

    try:
        config, _ = load(args)
    except ConfigError as error:
        return complain(str(error))
    plain, lost = encode_config(with_defaults(config))
    if is_main():
        print(to_config_yaml(plain), end="")
    if lost:
        return complain(
            f"--print-config: expected values that text can hold, got {', '.join(lost)}."
            " Name a class, a function or a functools.partial instead."
        )
    return 0


def verify(args: argparse.Namespace) -> int:
    """Tell whether the config of the arguments resumes to the bit."""
    from config.errors import ConfigError
    from training.verify import verify_resume

    try:
        return verify_resume(functools.partial(run, args))
    except ConfigError as error:
        return complain(str(error))


def load(args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the config and the folders of the command line; of the stopped run with --resume."""
    from config.load import load_config, load_folders

    source, resumed = args.config or default_config(), {}
    if args.resume:
        from training.resume import config_of, find_run

        folders = load_folders(args.overrides)
        resumed = {"RESUME": find_run(args.resume, folders)}
        source = args.config or config_of(resumed["RESUME"], folders)
    config, folders = load_config(source, args.overrides)
    if args.routine:
        config["ROUTINE_NAME"] = args.routine
    if args.smtp:
        config["NOTIFY"] = [*as_list(config.get("NOTIFY")), *args.smtp.split(",")]
    return config, folders | resumed


def as_list(receivers: Any) -> list[Any]:
    """Return the value of NOTIFY as a list."""
    return receivers.split(",") if isinstance(receivers, str) else list(receivers or [])


def is_done(config: Mapping[str, Any], folders: Mapping[str, Any]) -> bool:
    """Tell whether the run that is to be resumed has nothing left to train."""
    from config.keys import KEYS
    from training.resume import is_finished

    return is_finished(folders["RESUME"], folders, config.get("EPOCHS", KEYS["EPOCHS"].default))


def default_config() -> str:
    """Return the path of the config that is taken when none is named, from whatever folder."""
    from config.config import ROOT_PATH

    return str(ROOT_PATH / DEFAULT_CONFIG)


def complain(problem: str) -> int:
    """Print what is wrong, one problem a line, and return the exit code for it."""
    if not is_main():
        time.sleep(10)  # process 0 says it, and torchrun ends this one with it
    for line in problem.splitlines():
        print(f"train.py: {line}", file=sys.stderr)
    return 2


def is_main() -> bool:
    """Tell whether this is the process that speaks, of those that torchrun starts."""
    return os.environ.get("RANK", "0") == "0"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
