"""Search hyperparameters: `python hyperparameter.py [CONFIG] [KEY=VALUE ...] [--trials N]`.

In a notebook: `training.search.Search(train_config, space, global_config)`. See --help.
"""

import argparse
import functools
import sys
from typing import TYPE_CHECKING, Any

from config.config import ROOT_PATH
from predict import complain

if TYPE_CHECKING:  # --help loads no torch
    from training.search import Search

DEFAULT_CONFIG = "experiments/digits.py"

TEXT = """\
Search hyperparameters of a config by Optuna: the values of its keys that make MONITOR best.

The space is the dict `search_space` beside `train_config` in the file, or the command line's:

  "OPTIMIZER_CONFIG.lr=interval(1e-4, 1e-1, log=True)"
  "OPTIMIZER=choice(torch.optim.SGD, torch.optim.AdamW)"

Choices alone, with no more combinations than --trials, are all tried. Without any space the
learning rate and the batch size are searched around those of the config.

Each trial is a run of train.py, with a row in experiments.csv. Into LOG_DIR/searches/<name>/ go:

  trials.csv    a row of each trial: state, value, parameters, run
  best.yaml     the config of the best trial: python train.py .../best.yaml
  trials/       config and output of each trial"""


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the command line; CONFIG and KEY=VALUE may come in any order."""
    parser = argparse.ArgumentParser(
        description=TEXT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "arguments",
        nargs="*",
        metavar="CONFIG KEY=VALUE",
        help=f"as for train.py (default: {DEFAULT_CONFIG}); VALUE may be choice(...) or"
        " interval(...)",
    )
    parser.add_argument("--trials", type=_count, metavar="N", help="in all (default: 20)")
    parser.add_argument(
        "--jobs", type=_count, default=1, metavar="N", help="trials at a time (default: 1)"
    )
    parser.add_argument(
        "--continue",
        action="store_true",
        dest="continues",
        help="go on with the newest search; trials that were stopped are resumed",
    )
    parser.add_argument(
        "--prune",
        action="store_true",
        help="stop a trial in an epoch whose value is worse than the median of the others",
    )
    args = parser.parse_intermixed_args(argv)
    args.overrides = [text for text in args.arguments if "=" in text or text.startswith("~")]
    sources = [text for text in args.arguments if text not in args.overrides]
    if len(sources) > 1:
        parser.error(
            f"expected one CONFIG, got {' '.join(sources)}. Overrides have the form KEY=VALUE."
        )
    if args.continues and sources:
        parser.error(
            f"--continue: expected no CONFIG beside it, got {sources[0]}. The search has its own."
        )
    args.config = sources[0] if sources else str(ROOT_PATH / DEFAULT_CONFIG)
    return args


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a count from 1, got {text}")
    return int(text)


def main(argv: list[str]) -> int:
    """Run the command line.

    Returns:
        0 done, 1 no trial succeeded, 2 wrong config or arguments, 130 and 143 interrupted.
    """
    args = parse(argv)
    say = functools.partial(complain, script="hyperparameter.py")
    from config.load import missing_packages

    problem = missing_packages(("optuna",))
    if problem:
        return say(problem)
    from config.errors import ConfigError
    from training.state import RunInterrupted

    try:
        search = make_search(args)
        result = search.run(args.jobs, args.prune)
    except ConfigError as error:
        return say(str(error))
    except RuntimeError as error:
        say(str(error))
        return 1
    except RunInterrupted as stop:
        print(f"stopped; {search.folder.name} goes on by: python hyperparameter.py --continue")
        return stop.exit_code
    return report(search, result)


def make_search(args: argparse.Namespace) -> "Search":
    """Return the search of the command line, begun.

    Raises:
        ConfigError: every problem of its config and space.
    """
    from config.errors import ConfigError
    from config.load import load_config, load_folders
    from config.search import read_space, split_space
    from training.search import Search

    texts, overrides = split_space(args.overrides)
    if args.continues:
        folders = load_folders(overrides)
        others = [text for text in args.overrides if text.partition("=")[0] not in folders]
        if others:
            raise ConfigError(
                f"--continue: expected folders alone beside it, got {' '.join(others)}. The config"
                " is that of the search."
            )
        search = Search.continued(folders, args.trials, print)
        print(f"{search.folder.name} goes on")
        return search
    config, folders = load_config(args.config, overrides)
    space = read_space(texts, args.config, overrides) or find_space(args.config, config)
    search = Search(config, space, folders, args.trials or 20, print)
    search.start()
    keys = ", ".join(search.space)
    print(f"{search.folder.name}: {search.n_trials} trials over {keys}")
    return search


def find_space(source: str, config: dict[str, Any]) -> Any:
    """Return the `search_space` beside a config, else the default one."""
    from config.names import get_object
    from config.search import default_space

    if source.endswith((".yaml", ".yml")):
        return default_space(config)
    return getattr(get_object(source), "search_space", None) or default_space(config)


def report(search: "Search", result: dict[str, Any]) -> int:
    """Print the best trials; return the exit code."""
    if result["run"] is None:
        print(f"hyperparameter.py: no trial succeeded; see {search.folder}", file=sys.stderr)
        return 1
    params = ", ".join(f"{name}={value}" for name, value in result["params"].items())
    print(f"best of {result['n_trials']}: {result['value']:.4g} by {params}")
    print(f"  its run: {result['run']}, its config: {result['config']}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
