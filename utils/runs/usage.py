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


def show_usage(runs: Sequence[RunFolder]) -> RenderableType:
    """Return what each run takes, the largest last, and what the options would free."""
    sizes = {run: [_size(run.log_dir), _size(run.weight_dir)] for run in runs}
    table = _make_table("run", "status", "logs", "weights")
    for run in sorted(runs, key=lambda run: sum(sizes[run])):
        if any(sizes[run]):
            table.add_row(
                Text(run.name), status_text(run.status), *map(Text, map(format_bytes, sizes[run]))
            )
    total = format_bytes(sum(map(sum, sizes.values())))
    lines = [f"{total} in all. To make room, each asks first:"]
    for option, removals in (
        ("--checkpoints", plan_checkpoints(runs)),
        ("--failed", plan_failed(runs)),
    ):
        freed = format_bytes(sum(removal.n_bytes for removal in removals))
        lines.append(f"  python runs.py prune {option:14} {freed} of {len(removals)} runs")
    lines.append("  python runs.py prune --keep N       weights of done runs, but of the best N")
    lines.append("  python runs.py prune RUN            all files of a run")
    return Group(table, "", Text("\n".join(lines)))


def show_removals(removals: Sequence[Removal]) -> RenderableType:
    """Return what is to go of each run, and why."""
    table = _make_table("run", "goes", "bytes")
    for removal in removals:
        names = [path.name for path in removal.files]
        names += [str(path) for path, _ in removal.folders]
        table.add_row(
            Text(removal.run.name),
            Text(f"{', '.join(names)} ({removal.why})"),
            Text(format_bytes(removal.n_bytes)),
        )
    return table


def _make_table(*heads: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for head in heads:
        is_size = head in ("logs", "weights", "bytes")
        table.add_column(head, justify="right" if is_size else "left", overflow="fold")
    return table


def _size(folder: Path) -> int:
    return sum(size for _, size in list_files(folder)) if folder.is_dir() else 0
