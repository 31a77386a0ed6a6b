"""One HTML file that tells what runs were and came to, to a person who has none of their files."""

import base64
import csv
import hashlib
import io
import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from config.errors import ConfigError
from config.keys import KEYS
from utils.compare import compare, has_decision, line_up, read_samples
from utils.logging.csv import flatten
from utils.path import create_dirs, write_atomic
from utils.runs.folder import RunFolder
from utils.runs.listing import shorten_number
from utils.runs.plots import BOTTOM, HEIGHT, MOST_PLOTS, TOP, WIDTH, make_plots, thin
from utils.runs.query import read_number
from utils.runs.show import (
    about_run,
    commands_of_run,
    config_lines,
    intervals_of_run,
    values_of_run,
)

_SETS = (("validation set", "."), ("test set", "test"))  # and the folders of their results
_PICTURES = (
    ("worst.png", "the samples of the highest loss"),
    ("scatter.png", "true and predicted"),
)
_MOST_SAMPLES = 16  # rows of a table of samples
_MOST_CLASSES = 100  # rows of a table of classes
_MOST_CELLS = 30  # rows of a table of counts; of more the picture is shown
_MOST_EPOCHS = 100  # rows of the numbers of a run
_MOST_LINES = 40  # of a log
_LOG_BYTES = 20_000
_DIFF_LETTERS = 200_000
_PICTURE_BYTES = 1_000_000  # of one
_ALL_PICTURES_BYTES = 5_000_000
_SIDES = (1600, 1200, 800, 400)  # to which a picture with more bytes is shrunk [px]

Rows = list[dict[str, Any]]


def write_report(path: str | Path, runs: Sequence[RunFolder], folders: Sequence[str] = ()) -> None:
    """Write the report of runs as one HTML file, which needs no other file and no network.

    Args:
        path: The file; its folder is made.
        runs: One, or several to be compared.
        folders: `LOG_DIR=...` and the like of the command line, which its commands need as well.

    Raises:
        ConfigError: There is neither a row nor a folder of a run, or no run at all.
        ImportError: jinja2 is not installed.
        ValueError: A file of a run is damaged.
    """
    page = make_report(runs, folders)
    create_dirs(Path(path).parent)
    write_atomic(path, page.encode("utf-8", "replace"))  # a diff may hold half a letter


def make_report(runs: Sequence[RunFolder], folders: Sequence[str] = ()) -> str:
    """Return the report of runs as the text of one HTML file, see `write_report`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    if not runs:
        raise ConfigError("report: expected a run, got none. Train first.")
    here = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(here),
        autoescape=True,  # all that a run wrote is text, whatever is in it
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["short"] = shorten_number
    script = (here / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("report.html").render(
        style=Markup((here / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_digest=digest,
        made=time.strftime("%Y-%m-%d %H:%M"),
        plot={"width": WIDTH, "height": HEIGHT, "top": TOP, "bottom": HEIGHT - BOTTOM},
        runs=[_head(run, folders) for run in runs],
        results=_results(runs),
        comparisons=_comparisons(runs),
        plots=make_plots(runs)[:MOST_PLOTS],
        epochs=[thin(run.epochs, _MOST_EPOCHS) for run in runs],
        classes=[(title, _classes(runs, folder)) for title, folder in _SETS],
        samples=[(title, _samples(runs, folder)) for title, folder in _SETS],
        pictures=_pictures(runs),
        config=_config(runs),
        environment=_environment(runs),
    )


# --------------------------------------------------------------------------------------- head


def _head(run: RunFolder, folders: Sequence[str]) -> dict[str, Any]:
    """Return how a run stands, its code and its commands."""
    about = {name: str(text) for name, text in about_run(run).items()}
    name, mode = run.monitor
    best = values_of_run(run)[0].get(name, "")
    commands = commands_of_run(run, folders)
    typed = run.environment.get("command")
    if isinstance(typed, list) and typed:
        commands = {"typed": shlex.join(["python", *map(str, typed)]), **commands}
    diff = str(run.environment.get("diff") or "")
    lines = diff[:_DIFF_LETTERS].splitlines()
    return {
        "name": run.name,
        "status": run.status,
        "started": _say_date(run),
        "error": about.get("error", ""),
        "comment": about.get("comment", ""),
        "facts": {what: about.get(what, "") for what in ("epochs", "time", "routine")},
        "monitor": name,
        "mode": {"min": "smallest", "max": "largest"}.get(mode, mode),
        "best": best,
        "best_epoch": run.best_epoch().get("epoch") or run.row.get("BEST_EPOCH", ""),
        "interval": intervals_of_run(run).get(name),
        "commit": str(run.environment.get("commit") or ""),
        "commands": commands,
        "log": [] if run.status == "done" else _last_lines(run.log_dir / "train.log"),
        "diff": [(_kind_of_line(line), line) for line in lines],
        "is_cut": len(diff) > _DIFF_LETTERS,
    }


def _say_date(run: RunFolder) -> str:
    text = run.row.get("DATE") or run.name.partition("_")[0]
    try:
        return datetime.strptime(text, "%Y%m%d-%H%M%S").strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return run.row.get("DATE", "")


def _last_lines(path: Path) -> list[str]:
    if not path.is_file():
        return []
    with open(path, "rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - _LOG_BYTES))
        text = file.read().decode("utf-8", "replace")
    return text.splitlines()[-_MOST_LINES:]


def _kind_of_line(line: str) -> str:
    if line.startswith(("diff ", "+++", "---", "index ", "@@")):
        return "place"
    return {"+": "added", "-": "removed"}.get(line[:1], "")


# ------------------------------------------------------------------------------------- values


def _results(runs: Sequence[RunFolder]) -> dict[str, Any]:
    """Return losses and metrics of the best epochs, a cell of each run, and which is the best."""
    values = [values_of_run(run) for run in runs]
    intervals = [intervals_of_run(run) for run in runs]
    names = dict.fromkeys(name for best, last in values for name in [*last, *best])
    rows = []
    for name in names:
        cells = [
            {"best": best.get(name, ""), "last": last.get(name, ""), "interval": found.get(name)}
            for (best, last), found in zip(values, intervals, strict=True)
        ]
        numbers = [read_number(cell["best"]) for cell in cells]
        choose = _best_of(name, runs)
        known = [number for number in numbers if number is not None]
        top = choose(known) if choose and len(known) > 1 else None
        for cell, number in zip(cells, numbers, strict=True):
            cell["is_top"] = top is not None and number == top
        is_monitor = all(run.monitor[0] == name for run in runs)
        rows.append({"name": name, "is_monitor": is_monitor, "cells": cells})
    about = next((run.evaluation for run in runs if run.evaluation.get("intervals")), {})
    monitors = {run.monitor[0] for run in runs}
    return {
        "rows": rows,
        "chosen_by": monitors.pop() if len(monitors) == 1 else "MONITOR of each run",
        "has_intervals": any(intervals),
        "confidence": f"{100 * about.get('confidence', 0.95):g} %",
        "n_samples": about.get("n_samples", ""),
    }


def _best_of(name: str, runs: Sequence[RunFolder]) -> Callable[[Sequence[float]], float] | None:
    """Return what chooses the better of two values, if anything tells it."""
    modes = {mode for monitor, mode in (run.monitor for run in runs) if monitor == name}
    if not modes and name.endswith("loss"):
        modes = {"min"}
    return {"min": min, "max": max}.get(modes.pop()) if len(modes) == 1 else None


def _comparisons(runs: Sequence[RunFolder]) -> Rows:
    """Return the paired comparison of the first run with each other one, sample by sample."""
    found = []
    for number, run in enumerate(runs[1:], 1):
        paths = [Path(each.log_dir, "samples.csv") for each in (runs[0], run)]
        if all(path.is_file() for path in paths):
            try:
                found.append({"run": number, "found": compare(*paths), "problem": ""})
            except ValueError as error:
                found.append({"run": number, "found": None, "problem": str(error)})
    return found


# ------------------------------------------------------------------------- classes and samples


def _classes(runs: Sequence[RunFolder], folder: str) -> dict[str, Any]:
    """Return counts and scores of the classes of a set."""
    tables = []
    scores: dict[str, dict[int, dict[str, str]]] = {}
    for number, run in enumerate(runs):
        table = _counts(run.log_dir / folder / "confusion.csv")
        if table:
            tables.append({"run": number, **table})
        for row in _read_rows(run.log_dir / folder / "classes.csv"):
            scores.setdefault(row.get("class", ""), {})[number] = row
    given = [row for of_class in scores.values() for row in of_class.values()]
    columns = ["precision", "recall", "f1", "iou"]
    columns = [name for name in columns if any(name in row for row in given)]
    numbers = sorted({number for of_class in scores.values() for number in of_class})
    if len(numbers) > 1:  # or no page is wide enough
        columns = [name for name in columns if name in ("f1", "iou")]
    rows = [
        {
            "class": name,
            "support": next((row["support"] for row in of_class.values() if "support" in row), ""),
            "cells": [
                _round(of_class.get(number, {}).get(column, ""))
                for number in numbers
                for column in columns
            ],
        }
        for name, of_class in scores.items()
    ]
    n_classes = len(rows)
    if n_classes > _MOST_CLASSES:  # those that are found worst

        def least(row: dict[str, Any]) -> float:
            f1 = (read_number(each.get("f1", "")) for each in scores[row["class"]].values())
            return min((score for score in f1 if score is not None), default=1.0)

        rows = sorted(rows, key=least)[:_MOST_CLASSES]
    return {
        "runs": numbers,
        "counts": tables,
        "columns": columns,
        "rows": rows,
        "n_classes": n_classes,
    }


def _counts(path: Path) -> dict[str, Any] | None:
    """Return a confusion matrix as cells of count, share of the row's truth and kind.

    Raises:
        ValueError: A cell is no count.
    """
    rows = _read_rows(path)
    if not rows or len(rows) > _MOST_CELLS:
        return None
    head, *names = rows[0]
    is_square = head == "true"
    body = []
    for i, row in enumerate(rows):
        try:
            counts = [int(row[name]) for name in names]
        except ValueError as error:
            raise ValueError(f"{path}: expected counts, got {error}. Remove the file.") from error
        wholes = [sum(counts)] * len(counts)
        if not is_square:  # found, missed, wrongly found, rightly not found
            wholes = [sum(counts[:2])] * 2 + [sum(counts[2:])] * 2
        cells = []
        for j, (count, whole) in enumerate(zip(counts, wholes, strict=True)):
            is_right = i == j if is_square else j in (0, 3)
            share = (count / whole) ** 0.5 if whole else 0.0  # its root: few errors are seen too
            kind = "right" if is_right else "wrong"
            cells.append({"count": count, "share": f"{share:.2f}", "kind": kind})
        body.append({"name": row[head], "cells": cells})
    columns = [name.replace("_", " ") for name in names] if not is_square else names
    return {"head": head, "columns": columns, "rows": body}


def _samples(runs: Sequence[RunFolder], folder: str) -> dict[str, Any]:
    """Return the samples that most runs get wrong, those of the highest loss first; and others."""
    files = {}
    for number, run in enumerate(runs):
        path = run.log_dir / folder / "samples.csv"
        if path.is_file():
            files[str(number)] = path
    if not files:
        return {"runs": [], "worst": [], "some": []}
    lined = line_up(files)
    is_decided = all(has_decision(read_samples(path)[0]) for path in files.values())
    loss_of = {
        id(row): sum(read_number(row.get(f"{number}.loss", "")) or 0.0 for number in files)
        for row in lined
    }
    worst = sorted(lined, key=lambda row: (-row["n_wrong"], -loss_of[id(row)]))[:_MOST_SAMPLES]
    return {
        "runs": [int(number) for number in files],
        "is_decided": is_decided,
        "n_samples": len(lined),
        "n_wrong": sum(row["n_wrong"] > 0 for row in lined),
        "worst": [_sample(row, files, is_decided) for row in worst],
        "some": [
            _sample(row, files, is_decided)
            for row in thin(sorted(lined, key=lambda row: row["name"]), _MOST_SAMPLES)
        ],
    }


def _sample(row: Mapping[str, Any], numbers: Sequence[str], is_decided: bool) -> dict[str, Any]:
    cells = []
    for number in numbers:
        prediction = row.get(f"{number}.prediction", "")
        cell = {name: row.get(f"{number}.{name}", "") for name in ("confidence", "loss")}
        cell["prediction"] = _round(prediction)
        is_there = f"{number}.loss" in row or f"{number}.prediction" in row
        cell["is_wrong"] = is_decided and is_there and prediction != row["target"]
        cells.append(cell)
    return {"name": row["name"], "target": _round(row["target"]), "cells": cells}


def _round(text: str) -> str:
    """Return text in which long numbers, which may be joined by ;, are cut to four digits."""
    return ";".join(map(shorten_number, text.split(";")))


def _read_rows(path: Path) -> list[dict[str, str]]:
    """Return the whole rows of a table of a run; none without it."""
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if None not in row and None not in row.values()]


# ----------------------------------------------------------------------------------- pictures


def _pictures(runs: Sequence[RunFolder]) -> Rows:
    """Return the pictures of the runs as data of the page, in all no more than a few MB."""
    found = []
    for title, folder in _SETS:
        for name, what in _PICTURES:
            for number, run in enumerate(runs):
                path = run.log_dir / folder / name
                if path.is_file():
                    about = {"run": number, "what": f"{what}, {title}"}
                    found.append((about, path))
        for number, run in enumerate(runs):
            path = run.log_dir / folder / "confusion.png"
            is_large = len(_read_rows(path.with_suffix(".csv"))) > _MOST_CELLS
            if is_large and path.is_file():
                about = {"run": number, "what": f"which classes are taken for others, {title}"}
                found.append((about, path))
    limit = min(_PICTURE_BYTES, _ALL_PICTURES_BYTES // max(1, len(found)))
    return [{**about, **_inline(path, limit)} for about, path in found]


def _inline(path: Path, most_bytes: int) -> dict[str, Any]:
    """Return a picture as a data address, shrunk if need be, and its width; or what is wrong."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            if picture.format == "PNG" and path.stat().st_size <= most_bytes:
                picture.load()
                return _as_data(path.read_bytes(), "png", picture.width)
            picture = picture.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return {"data": "", "problem": f"{path.name} cannot be shown: {error}"}
    for side in _SIDES:
        picture.thumbnail((side, side))
        file = io.BytesIO()
        picture.save(file, "jpeg", quality=85)
        if file.tell() <= most_bytes:
            return _as_data(file.getvalue(), "jpeg", picture.width)
    return {"data": "", "problem": f"{path.name} is too large to be shown"}


def _as_data(content: bytes, kind: str, width: int) -> dict[str, Any]:
    text = base64.b64encode(content).decode("ascii")
    return {"data": f"data:image/{kind};base64,{text}", "width": width, "problem": ""}


# -------------------------------------------------------------------- config and environment


def _config(runs: Sequence[RunFolder]) -> dict[str, Any]:
    """Return what the configs differ in, what they share beside the defaults, and the whole."""
    flat = [run.flat_config for run in runs]
    lines = [config_lines(run) for run in runs]
    whole = _side_by_side(flat, ("DATE", "SESSION_NAME"), _default_of)
    return {
        "differing": [row for row in whole if row["differs"]],
        "shared": [
            {"name": name, "texts": [text], "differs": False}
            for name, text in lines[0].items()
            if all(each.get(name) == text for each in lines)
        ],
        "whole": whole,
    }


def _default_of(name: str) -> str:
    key = KEYS.get(name)
    return "" if key is None or key.default in (None, {}, []) else str(key.default)


def _environment(runs: Sequence[RunFolder]) -> Rows:
    """Return machine, versions and data of the runs."""
    tables = []
    for run in runs:
        about = run.environment
        names = ("python", "platform", "cuda", "threads", "processes")
        flat = {name: about.get(name) for name in names}
        data = about.get("data")
        flat |= flatten({"data": data}) if data else {}
        flat |= about.get("versions") or {}
        if about.get("not_captured"):
            flat["not captured"] = ", ".join(map(str, about["not_captured"]))
        flat = {name: "" if value in (None, {}, []) else str(value) for name, value in flat.items()}
        tables.append({name: text for name, text in flat.items() if text})
    return _side_by_side(tables)


def _side_by_side(
    tables: Sequence[Mapping[str, str]],
    left_out: Sequence[str] = (),
    default_of: Callable[[str], str] = lambda name: "",
) -> Rows:
    """Return a row of each name with the text of every table, and whether they differ."""
    names = dict.fromkeys(name for table in tables for name in table if name not in left_out)
    rows = []
    for name in names:
        texts = [re.sub(r"\s+", " ", table.get(name) or default_of(name)) for table in tables]
        rows.append({"name": name, "texts": texts, "differs": len(set(texts)) > 1})
    return rows
