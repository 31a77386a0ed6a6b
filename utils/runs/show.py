"""What one run was and came to, and the commands that go on with it."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from config.keys import KEYS
from utils.runs.folder import RunFolder
from utils.runs.listing import pairs, shorten_number, status_text, whole_line

_NOT_A_VALUE = ("epoch", "step", "lr")


def show_run(run: RunFolder, folders: Sequence[str] = (), shows_all: bool = False) -> Group:
    """Return what `runs.py show` prints.

    Args:
        run: The run.
        folders: `LOG_DIR=...` and the like of the command line, which its commands need as well.
        shows_all: Show the whole config, not only what differs from the defaults.
    """
    about, values = about_run(run), _values(run)
    parts: list[RenderableType] = [Text(run.name, style="bold"), pairs(about)]
    title = "config" if shows_all else "config (what differs from the defaults; --all: whole)"
    for head, body in (
        (title, pairs(config_lines(run, shows_all))),
        ("values", values),
        ("files", pairs(_files(run))),
        ("commands", _commands(run, folders)),
    ):
        if body is not None and not (isinstance(body, Table) and not body.row_count):
            parts += ["", Text(head, style="bold"), body]
    return Group(*parts)


def config_lines(run: RunFolder, shows_all: bool = False) -> dict[str, str]:
    """Return the config of a run, a line of text for each key with its arguments."""
    config = run.config
    lines = {}
    for name, value in config.items():
        key = KEYS.get(name)
        if name in ("DATE", "SESSION_NAME") or name.endswith("_CONFIG") and name[:-7] in config:
            continue  # in the name of the run; beside what is called
        arguments = config.get(f"{name}_CONFIG")
        is_default = key is not None and value == key.default and not arguments
        if shows_all or not is_default:
            lines[name] = _to_text(value, arguments)
    return lines


def _to_text(value: Any, arguments: Any = None) -> str:
    if isinstance(arguments, Mapping) and arguments:
        return f"{_to_text(value)}({_list_entries(arguments)})"
    if isinstance(value, Mapping):
        return _list_entries(value) or "{}"
    return "None" if value is None else str(value)


def _list_entries(entries: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in entries.items())


def about_run(run: RunFolder) -> dict[str, str | Text]:
    """Return how a run stands, and what it was trained by and when, as far as it is known."""
    planned = run.flat_config.get("EPOCHS", "")
    about: dict[str, str | Text] = {"status": status_text(run.status)}
    if run.status == "lost":
        about["status"].append("  its process ended without a word", style="default")
    error = run.row.get("ERROR") or run.result.get("error")
    if error:
        about["error"] = str(error)
    if run.epochs or planned:
        about["epochs"] = f"{len(run.epochs)} of {planned}" if planned else str(len(run.epochs))
    seconds = run.row.get("SECONDS") or run.result.get("seconds")
    if seconds:
        about["time"] = format_seconds(float(seconds))
    routine = run.row.get("ROUTINE_NAME")
    host = run.row.get("HOST")
    if routine or host:
        about["routine"] = f"{routine or ''}{f' on {host}' if host else ''}"
    commit = run.environment.get("commit")
    if commit:
        diff = run.environment.get("diff")
        about["commit"] = commit + (", with uncommitted changes" if diff else "")
    note = run.row.get("__COMMENT")
    if note:
        about["comment"] = note
    return about


def format_seconds(seconds: float) -> str:
    """Return a time as people say it.

    Example:
        >>> format_seconds(5025)
        '1 h 24 min'
    """
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest} min" if hours else f"{minutes} min"


def values_of_run(run: RunFolder) -> tuple[dict[str, str], dict[str, str]]:
    """Return losses and metrics of the best and of the last epoch; of a test set among the first.

    They are those of metrics.csv; without it, those of the row.
    """
    last = run.epochs[-1] if run.epochs else {}
    best = run.best_epoch()
    if not last:
        row = {name: value for name, value in run.row.items() if value}
        best = {name[5:]: value for name, value in row.items() if name.startswith("best_")}
        last = {name: row[name] for name in best if name in row}
    best = {name: value for name, value in best.items() if name not in _NOT_A_VALUE and value}
    last = {name: value for name, value in last.items() if name not in _NOT_A_VALUE and value}
    tests = {name: value for name, value in run.row.items() if name.startswith("test_") and value}
    return best | tests, last


def _values(run: RunFolder) -> Table | None:
    best, last = values_of_run(run)
    if not best and not last:
        return None
    intervals = {
        name: f"[{low:.4f}, {high:.4f}]" for name, (low, high) in intervals_of_run(run).items()
    }
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    epoch = run.best_epoch().get("epoch") or run.row.get("BEST_EPOCH")
    table.add_column("")
    table.add_column(f"best (epoch {epoch})" if epoch else "best", justify="right")
    table.add_column("last", justify="right")
    if intervals:
        table.add_column("interval of best", justify="right")
    monitor, _ = run.monitor
    for name in dict.fromkeys([*last, *best]):
        row = [f"  {name}{' *' if name == monitor else ''}", best.get(name, ""), last.get(name, "")]
        row[1:] = [shorten_number(value) for value in row[1:]]
        table.add_row(*map(Text, [*row, intervals.get(name, "")] if intervals else row))
    return table


def intervals_of_run(run: RunFolder) -> dict[str, tuple[float, float]]:
    """Return the bootstrap intervals by name of the value, such as val_f1."""
    found = {}
    for evaluation in (run.evaluation, run.test_evaluation):
        for name, bounds in (evaluation.get("intervals") or {}).items():
            if isinstance(bounds, list) and None not in bounds:
                low, high = bounds
                found[f"{evaluation.get('set', 'val')}_{name}"] = (low, high)
    return found


def _files(run: RunFolder) -> dict[str, str]:
    files: dict[str, str] = {}
    for folder in (run.log_dir, run.weight_dir):
        if folder.is_dir():
            files[str(folder)] = format_bytes(sum(size for _, size in list_files(folder)))
            files |= {
                f"  {path.relative_to(folder)}": format_bytes(size)
                for path, size in list_files(folder)
                if not path.name.startswith(".")
            }
    return files


def list_files(folder: Path) -> list[tuple[Path, int]]:
    """Return the files in a folder and below, with their bytes; links are not followed."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() or path.is_symlink()]
    return [(path, path.lstat().st_size) for path in files]


def format_bytes(n_bytes: float) -> str:
    """Return a size as people say it.

    Example:
        >>> format_bytes(3_500_000)
        '3.5 MB'
    """
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} TB"


def _commands(run: RunFolder, folders: Sequence[str]) -> RenderableType | None:
    commands = commands_of_run(run, folders)
    lines = (whole_line(f"  {what:8} {command}") for what, command in commands.items())
    return Group(*lines) if commands else None


def commands_of_run(run: RunFolder, folders: Sequence[str] = ()) -> dict[str, str]:
    """Return what can be done with the run, and how."""
    places = f" {shlex.join(folders)}" if folders else ""
    commands = {}
    if run.can_resume:
        commands["resume"] = f"python train.py --resume {run.name}{places}"
    config = run.log_dir / "config.yaml"
    if config.is_file():
        commands["repeat"] = f"python train.py {_quote(config)}{places}"
    weights = find_weights_of(run)
    if weights is not None:
        commands["predict"] = f"python predict.py -i FILES -o DIR --weights {_quote(weights)}"
    return commands


def _quote(path: Path) -> str:
    """Return a path for the shell, as seen from the working folder."""
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


def find_weights_of(run: RunFolder) -> Path | None:
    """Return the run's best weights, or else its last."""
    files = [run.weight_dir / name for name in ("best.pth", "last.pth")]
    return next((file for file in files if file.is_file()), None)
