"""Tables of `runs.py prune`: what runs take on the disk, and what is to go."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from utils.runs.folder import RunFolder
from utils.runs.listing import status_text
from utils.runs.prune import Removal, plan_checkpoints, plan_failed
from utils.runs.show import format_bytes, list_files

_MANY = 30  # runs that are shown with their sizes


def show_usage(runs: Sequence[RunFolder]) -> RenderableType:
    """Return what each run takes, the largest last, and what the options would free."""
    sizes = {run: (_size(run.log_dir), _size(run.weight_dir)) for run in runs}
    ranked = sorted(runs, key=lambda run: sum(sizes[run]))
    table = _make_table("run", "status", "logs", "weights")
    for run in ranked[-_MANY:]:
        if any(sizes[run]):
            fields = (Text(format_bytes(size)) for size in sizes[run])
            table.add_row(Text(run.name), status_text(run.status), *fields)
    lines = [f"and {len(runs) - _MANY} smaller ones"] if len(runs) > _MANY else []
    total = format_bytes(sum(map(sum, sizes.values())))
    lines += ["", f"{total} in all. To make room, each asks first:"]
    for option, removals in (
        ("--checkpoints", plan_checkpoints(runs)),
        ("--failed", plan_failed(runs)),
    ):
        freed = format_bytes(sum(removal.n_bytes for removal in removals))
        lines.append(f"  python runs.py prune {option:14} {freed}, runs: {len(removals)}")
    lines.append("  python runs.py prune --keep N       weights of done runs, but of the best N")
    lines.append("  python runs.py prune RUN            all files of a run")
    return Group(table, Text("\n".join(lines)))


def show_removals(removals: Sequence[Removal]) -> RenderableType:
    """Return what is to go of each run, and why."""
    table = _make_table("run", "goes", "why", "bytes")
    for removal in removals:
        goes = "\n".join(str(path) for path, _ in removal.folders) or _say_files(removal.files)
        size = format_bytes(removal.n_bytes)
        table.add_row(*map(Text, (removal.run.name, goes, removal.why, size)))
    if all(removal.folders for removal in removals):
        return table
    legend = "weights: best.pth, last.pth; state: checkpoint.pt, checkpoint.prev.pt"
    return Group(table, Text(legend, style="dim"))


def _say_files(files: Sequence[Path]) -> str:
    """Return the files in a word for each kind; files of the user's own by name."""
    words = {"best.pth": "weights", "last.pth": "weights"}
    words |= {"checkpoint.pt": "state", "checkpoint.prev.pt": "state"}
    return ", ".join(dict.fromkeys(words.get(path.name, path.name) for path in files))


def _make_table(*heads: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for head in heads:
        is_size = head in ("logs", "weights", "bytes")
        table.add_column(head, justify="right" if is_size else "left", overflow="fold")
    return table


def _size(folder: Path) -> int:
    return sum(size for _, size in list_files(folder)) if folder.is_dir() else 0
