"""The best runs by a value."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from config.errors import ConfigError
from utils.logging.csv import scan_tracker
from utils.runs.query import find_column, read_number
from utils.runs.table import LOGFILE, Found, find_runs


class Ranking(NamedTuple):
    """By which column runs are ranked, and whether its smallest or largest value is best."""

    column: str
    mode: str


def find_ranking(
    folders: Mapping[str, Any],
    by: str | None = None,
    mode: str | None = None,
    logfile: str = LOGFILE,
    option: str = "--by",
) -> Ranking:
    """Return how to rank runs by a value: by that of the best epoch, whose weights are best.pth.

    Args:
        folders: The `global_config`.
        by: A value such as "val_f1", or any column; None: MONITOR of the newest run.
        mode: "min" or "max"; None: as the newest run has it for its MONITOR, and min for a loss.
        logfile: Name of the table in LOG_DIR.
        option: For messages.

    Raises:
        ConfigError: There is no run or no such column, or nothing tells what is better.
    """
    path = Path(folders["LOG_DIR"], logfile)
    columns = scan_tracker(path, 1).columns
    newest = find_runs(folders, last=1, logfile=logfile).rows
    if not newest:
        raise ConfigError(f"{path}: expected a run, got none. Train first.")
    monitor = newest[0].get("MONITOR", "")
    by = by or monitor or "val_loss"
    best = f"best_{by}"
    column = best if best in columns else find_column(by, columns, option)
    value = column.removeprefix("best_")
    if mode is None and value == monitor:
        mode = newest[0].get("MONITOR_MODE") or None
    if mode is None and value.lower().endswith("loss"):
        mode = "min"
    if mode is None:
        raise ConfigError(
            f"{option}: expected --max or --min beside it, got neither, and nothing tells whether a"
            f" high {value} is good. Add one."
        )
    return Ranking(column, mode)


def find_best(
    folders: Mapping[str, Any],
    ranking: Ranking,
    where: Iterable[str] = (),
    n_best: int = 1,
    logfile: str = LOGFILE,
) -> Found:
    """Return the best runs, the best one first; those without the value are none of them.

    Raises:
        ConfigError: What is wrong with the conditions.
        ValueError: The table is damaged.
    """
    is_reversed = ranking.mode == "min"
    found = find_runs(folders, where, ranking.column, is_reversed, n_best, logfile)
    rows = [row for row in found.rows[::-1] if read_number(row[ranking.column]) is not None]
    return found._replace(rows=rows)
