"""Ask what was trained: `python runs.py list --where "lr<1e-3" --sort f1`. See --help."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:  # --help loads none of them
    from rich.console import Console

TEXT = """\
Ask the table of all runs and their files; needs no server and no torch.

  python runs.py list                                      the last 20, and what they differ in
  python runs.py list --where "lr<1e-3" --sort f1          names may be shortened
  python runs.py show latest                               one run: config, values, files
  python runs.py best --by val_f1 --max                    and how to use it
  python runs.py curve RUN RUN --of val_loss               drawn in the terminal
  python runs.py diff RUN RUN                              config, code, versions, data, values
  python runs.py report RUN RUN                            one HTML file to send to others
  python runs.py prune                                     disk use, and what could go

RUN is a name, a part of one that no other has, or latest. LOG_DIR=... WEIGHT_DIR=... LOGFILE=...
ask another project. `python runs.py COMMAND --help` tells more of each."""


class Command(NamedTuple):
    """A sub-command: what it is for, an example, its options, and what it does."""

    help: str
    example: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the command line; runs, folders and options may come in any order."""
    if not argv or argv[0] not in COMMANDS:
        parser = argparse.ArgumentParser(
            description=TEXT, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        parser.add_argument(
            "command", choices=COMMANDS, metavar="COMMAND", help=", ".join(COMMANDS)
        )
        return parser.parse_args(argv)  # ends with the help, or says what is wrong
    command = COMMANDS[argv[0]]
    parser = argparse.ArgumentParser(
        prog=f"runs.py {argv[0]}",
        description=command.help,
        epilog=f"example:\n{command.example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_options(parser)
    parser.add_argument(
        "arguments",
        nargs="*",
        metavar="RUN LOG_DIR=...",
        help="runs, where the command takes any; then folders, and LOGFILE=... for another table",
    )
    args = parser.parse_intermixed_args(argv[1:])
    args.command = argv[0]
    args.places = [text for text in args.arguments if "=" in text]
    args.runs = [text for text in args.arguments if "=" not in text]
    return args


def main(argv: list[str]) -> int:
    """Run the command line.

    Returns:
        0 done, 1 the command found nothing or failed, 2 wrong arguments or table, 130 interrupted.
    """
    args = parse(argv)
    from config.errors import ConfigError
    from config.load import missing_packages

    problem = missing_packages()
    if problem:
        return complain(problem)
    try:
        read_places(args)
        return COMMANDS[args.command].run(args)
    except (ConfigError, ValueError, OSError) as error:
        return complain(str(error))
    except KeyboardInterrupt:
        return 130


def read_places(args: argparse.Namespace) -> None:
    """Set the folders and the table that the arguments name.

    Raises:
        ConfigError: An argument is none of them.
    """
    from config.config import global_config
    from config.errors import ConfigError, did_you_mean
    from config.load import load_folders
    from utils.runs.table import LOGFILE

    known = [*global_config, "LOGFILE"]
    names = {text: text.partition("=")[0] for text in args.places}
    problems = [
        f'"{text}": expected one of {", ".join(known)}, got {name}.{did_you_mean(name, known)}'
        " Other keys are asked for by --where."
        for text, name in names.items()
        if name not in known
    ]
    if problems:
        raise ConfigError(problems)
    args.folders = load_folders(text for text in args.places if names[text] in global_config)
    tables = [text.partition("=")[2] for text in args.places if names[text] == "LOGFILE"]
    args.logfile = Path(tables[-1]).name if tables else LOGFILE


# ----------------------------------------------------------------------------------- commands


def add_list(parser: argparse.ArgumentParser) -> None:
    """Add the options of `list`."""
    add_where(parser)
    parser.add_argument("--sort", metavar="COLUMN", help="the largest last (default: the newest)")
    parser.add_argument("--reverse", action="store_true", help="the smallest last")
    parser.add_argument("--last", type=count, metavar="N", help="so many (default: 20; 0: all)")
    parser.add_argument("--columns", metavar="NAMES", help="these, separated by commas")
    add_machine(parser)


def run_list(args: argparse.Namespace) -> int:
    """Show the runs of the table."""
    from utils.runs.listing import show_columns, show_runs
    from utils.runs.query import find_columns
    from utils.runs.table import find_runs

    refuse_runs(args)
    last = args.last if args.last is not None else (None if args.csv or args.json else 20)
    found = find_runs(args.folders, args.where, args.sort, args.reverse, last or None, args.logfile)
    names = [name.strip() for name in (args.columns or "").split(",") if name.strip()]
    columns = find_columns(names, found.columns, "--columns")
    if args.csv or args.json:
        return write(found.rows, columns or found.columns, args.csv)
    if not found.rows:
        table = Path(args.folders["LOG_DIR"], args.logfile)
        say("no run meets the conditions" if args.where else f"no runs yet in {table}")
        return 0
    console, width = make_console()
    if columns:
        console.print(show_columns(found.rows, columns, width), crop=False)
    else:
        console.print(show_runs(found, args.folders, width), crop=False)
    if found.has_more:
        say(f"the last {len(found.rows)}; there are more (--last N, 0 for all)")
    if any(row.get("STATUS") == "lost" for row in found.rows):
        say("lost: the process ended without a word; runs.py show RUN tells how to resume it")
    return 0


def add_show(parser: argparse.ArgumentParser) -> None:
    """Add the options of `show`."""
    parser.add_argument("--all", action="store_true", help="the whole config, defaults as well")


def run_show(args: argparse.Namespace) -> int:
    """Show runs, the newest if none is named."""
    from utils.runs.show import show_run

    console, _ = make_console()
    for i, run in enumerate(open_named(args, default="latest")):
        if i:
            console.print()
        console.print(show_run(run, folders_of(args), args.all), crop=False)
    return 0


def add_best(parser: argparse.ArgumentParser) -> None:
    """Add the options of `best`."""
    add_by(parser)
    add_where(parser)
    parser.add_argument("--top", type=count, default=1, metavar="N", help="so many (default: 1)")
    add_machine(parser)


def run_best(args: argparse.Namespace) -> int:
    """Show the best runs by a value."""
    from utils.runs.best import find_best, find_ranking
    from utils.runs.folder import RunFolder
    from utils.runs.listing import show_runs
    from utils.runs.show import show_run

    refuse_runs(args)
    ranking = find_ranking(args.folders, args.by, args.mode, args.logfile)
    found = find_best(args.folders, ranking, args.where, args.top or 1, args.logfile)
    if args.csv or args.json:
        return write(found.rows, found.columns, args.csv)
    if not found.rows:
        print(f"runs.py: no run has a value of {ranking.column}", file=sys.stderr)
        return 1
    console, width = make_console()
    if len(found.rows) > 1:
        console.print(show_runs(found, args.folders, width), crop=False)
        return 0
    row = found.rows[0]
    word = {"min": "smallest", "max": "largest"}[ranking.mode]
    say(f"{word} {ranking.column}: {row[ranking.column]}\n")
    console.print(show_run(RunFolder(row["RUN"], args.folders, row), folders_of(args)), crop=False)
    return 0


def add_curve(parser: argparse.ArgumentParser) -> None:
    """Add the options of `curve`."""
    parser.add_argument(
        "--of", metavar="VALUE", help="column of metrics.csv (default: MONITOR of the first run)"
    )
    parser.add_argument("--height", type=count, default=15, metavar="LINES", help="(default: 15)")


def run_curve(args: argparse.Namespace) -> int:
    """Draw a value over the epochs."""
    from utils.runs.curve import draw_curves, read_points

    console, width = make_console()
    runs = open_named(args, default="latest")
    name = args.of or runs[0].monitor[0]
    curves = {run.name: read_points(run, name) for run in runs}
    has_colours = console.color_system is not None
    height = max(3, args.height)
    console.print(
        draw_curves(curves, name, width or 80, height, has_colours or len(runs) == 1), crop=False
    )
    return 0


def run_diff(args: argparse.Namespace) -> int:
    """Show what two runs differ in."""
    from config.errors import ConfigError
    from utils.runs.diff import diff_runs

    if len(args.runs) != 2:
        raise ConfigError(
            f"diff: expected two runs, got {len(args.runs)}. `python runs.py list` shows them."
        )
    console, _ = make_console()
    console.print(diff_runs(*open_named(args)), crop=False)
    return 0


def add_report(parser: argparse.ArgumentParser) -> None:
    """Add the options of `report`."""
    parser.add_argument(
        "-o",
        dest="file",
        type=Path,
        metavar="FILE",
        help="(default: report.html in the folder of the run; of several in LOG_DIR)",
    )


def run_report(args: argparse.Namespace) -> int:
    """Write the report of runs."""
    from utils.runs.report import write_report
    from utils.runs.show import format_bytes

    runs = list({run.name: run for run in open_named(args, default="latest")}.values())
    folder = runs[0].log_dir if len(runs) == 1 else Path(args.folders["LOG_DIR"])
    file = args.file or folder / "report.html"
    write_report(file, runs, folders_of(args))
    print(f"{file}  {format_bytes(file.stat().st_size)}")
    return 0


def add_prune(parser: argparse.ArgumentParser) -> None:
    """Add the options of `prune`."""
    parser.add_argument(
        "--checkpoints", action="store_true", help="the state for resume of runs that are done"
    )
    parser.add_argument("--failed", action="store_true", help="the weights of runs that failed")
    parser.add_argument(
        "--keep",
        type=count,
        metavar="N",
        help="the weights of all done runs but the best N by --by",
    )
    add_by(parser)
    add_where(parser)
    parser.add_argument("--yes", action="store_true", help="do not ask")


def run_prune(args: argparse.Namespace) -> int:
    """Show what runs take on the disk; delete what the options say, after asking."""
    from utils.runs import prune
    from utils.runs.best import find_ranking
    from utils.runs.show import format_bytes
    from utils.runs.usage import show_removals, show_usage

    everything, chosen = open_all(args)
    console, _ = make_console()
    removals = prune.plan_whole(exact_runs(args, everything), args.folders)
    if args.checkpoints:
        removals += prune.plan_checkpoints(chosen)
    if args.failed:
        removals += prune.plan_failed(chosen)
    if args.keep is not None:
        ranking = find_ranking(args.folders, args.by, args.mode, args.logfile)
        removals += prune.plan_all_but_best(chosen, *ranking, args.keep)
    if not (args.runs or args.checkpoints or args.failed or args.keep is not None):
        console.print(show_usage(chosen), crop=False)
        return 0
    free, held = prune.split_held(prune.merge(removals))
    for removal in held:
        say(f"{removal.run.name} is being trained, and stays as it is")
    if not free:
        say("nothing to delete")
        return 0
    console.print(show_removals(free), crop=False)
    total = format_bytes(sum(removal.n_bytes for removal in free))
    if not args.yes and not confirm(f"delete {total}? The rows of the table stay. [y/N] "):
        say("nothing deleted")
        return 0
    left = prune.remove(free, Path(args.folders["WEIGHT_DIR"]))
    for text in left:
        complain(text)
    say(f"deleted what is listed above{', bar what is named here' if left else ''}")
    return 1 if left else 0


# ------------------------------------------------------------------------------------- helpers


def add_where(parser: argparse.ArgumentParser) -> None:
    """Add the option that chooses runs."""
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="CONDITION",
        help='COLUMN<VALUE, or <= > >= = != and ~ (contains); several must all hold: "lr<1e-3"',
    )


def add_machine(parser: argparse.ArgumentParser) -> None:
    """Add the forms for other programs."""
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="all columns, as CSV")
    form.add_argument("--json", action="store_true", help="all columns, as JSON")


def add_by(parser: argparse.ArgumentParser) -> None:
    """Add what runs are ranked by."""
    parser.add_argument("--by", metavar="VALUE", help="such as val_f1 (default: MONITOR)")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--max", dest="mode", action="store_const", const="max", help="high is good")
    mode.add_argument("--min", dest="mode", action="store_const", const="min", help="low is good")


def count(text: str) -> int:
    """Read a number of things."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a number from 0, got {text}")
    return int(text)


def refuse_runs(args: argparse.Namespace) -> None:
    """Complain of names of runs where a command takes none.

    Raises:
        ConfigError: There are some.
    """
    from config.errors import ConfigError

    if args.runs:
        raise ConfigError(
            f"{args.command}: expected no runs by name, got {' '.join(args.runs)}."
            f" Choose them by --where RUN~{args.runs[0]}."
        )


def open_named(args: argparse.Namespace, default: str | None = None) -> list[Any]:
    """Return the runs that the arguments name."""
    from utils.runs.table import open_runs

    texts = args.runs or [text for text in [default] if text]
    return open_runs(texts, args.folders, args.command, args.logfile)


def open_all(args: argparse.Namespace) -> tuple[list[Any], list[Any]]:
    """Return all runs, those without a row first; and those that meet the conditions."""
    from utils.runs.folder import RunFolder
    from utils.runs.table import find_runs, list_names

    rows = {row["RUN"]: row for row in find_runs(args.folders, logfile=args.logfile).rows}
    names = list_names(args.folders, args.logfile)
    runs = [RunFolder(name, args.folders, rows.get(name)) for name in names]
    if not args.where:
        return runs, runs
    found = find_runs(args.folders, args.where, logfile=args.logfile).rows
    wanted = {row["RUN"] for row in found}
    return runs, [run for run in runs if run.name in wanted]


def exact_runs(args: argparse.Namespace, runs: Sequence[Any]) -> list[Any]:
    """Return the runs that are named in full: what is deleted is not guessed.

    Raises:
        ConfigError: There is no such run.
    """
    from config.errors import ConfigError, did_you_mean

    known = {run.name: run for run in runs}
    problems = [
        f'prune: expected the whole name of a run, got "{name}".{did_you_mean(name, known)}'
        for name in args.runs
        if name not in known
    ]
    if problems:
        raise ConfigError(problems)
    return [known[name] for name in args.runs]


def folders_of(args: argparse.Namespace) -> list[str]:
    """Return the folders of the command line as other commands take them."""
    return [text for text in args.places if not text.startswith("LOGFILE=")]


def make_console() -> tuple["Console", int | None]:
    """Return a console, and its width; None into a pipe or a file, where no line is folded."""
    from utils.logging.console import make_console as make

    console = make()
    if console.is_terminal or "COLUMNS" in os.environ:
        return console, console.width
    console.width = 100_000
    return console, None


def write(rows: Sequence[Any], columns: Sequence[str], as_csv: bool) -> int:
    """Print rows for another program."""
    from utils.runs.listing import write_csv, write_json

    say((write_csv if as_csv else write_json)(rows, columns).rstrip("\n"))
    return 0


def say(text: str) -> None:
    """Print a line, also when nobody reads any longer, as behind `| head`."""
    from utils.logging.console import SteadyOutput

    output = SteadyOutput(sys.stdout)
    output.write(text + "\n")
    output.flush()


def confirm(question: str) -> bool:
    """Ask in the terminal.

    Raises:
        ConfigError: There is none.
    """
    from config.errors import ConfigError

    if not sys.stdin.isatty():
        raise ConfigError("prune: expected a terminal to ask in, got none. Add --yes to delete.")
    return input(question).strip().lower() in ("y", "yes")


def complain(problem: str) -> int:
    """Print what is wrong, one problem a line, and return the exit code for it."""
    from predict import complain as print_problem

    return print_problem(problem, "runs.py")


COMMANDS = {
    "list": Command(
        "Show the runs of the table: run, status, epochs, best value, and what they differ in.",
        '  python runs.py list --where "OPTIMIZER_CONFIG.lr<1e-3" --where STATUS=done --sort f1',
        add_list,
        run_list,
    ),
    "show": Command(
        "Show what a run was and came to, its files, and the commands that go on with it.",
        "  python runs.py show latest",
        add_show,
        run_show,
    ),
    "best": Command(
        "Show the run that is best by a value, of the epoch that best.pth is from.",
        "  python runs.py best --by val_f1 --max --where SESSION_NAME=digits",
        add_best,
        run_best,
    ),
    "curve": Command(
        "Draw a value of runs over the epochs in the terminal.",
        "  python runs.py curve latest --of val_loss",
        add_curve,
        run_curve,
    ),
    "diff": Command(
        "Show what two runs differ in: config, code, versions, data, values, samples.",
        "  python runs.py diff 20260101-120000_mine latest",
        lambda parser: None,
        run_diff,
    ),
    "report": Command(
        "Write one HTML file that tells what runs were and came to; it opens without a network.",
        "  python runs.py report 20260101-120000_mine latest -o report.html",
        add_report,
        run_report,
    ),
    "prune": Command(
        "Show what runs take on the disk, and delete what the options or names say, after asking.",
        "  python runs.py prune --keep 3 --by val_f1 --max --where SESSION_NAME=digits",
        add_prune,
        run_prune,
    ),
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
