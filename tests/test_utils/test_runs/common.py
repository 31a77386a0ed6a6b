"""Runs as their files and rows say, written without training."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType

from config.codec import to_config_yaml
from utils.logging.csv import CsvTracker, flatten

CONFIG = {
    "SESSION_NAME": "digits",
    "SEED": 0,
    "MODEL": "models.ConvNet",
    "MODEL_CONFIG": {"ch_in": 1, "bulk_ch": 16},
    "OPTIMIZER": "torch.optim.AdamW",
    "OPTIMIZER_CONFIG": {"lr": 0.002},
    "EPOCHS": 3,
    "METRICS": {"f1": "utils.metrics.f1"},
    "MONITOR": "val_f1",
    "MONITOR_MODE": "max",
}
# an ancestor's table: an unnamed index, raw line ends, no names of runs
ANCESTOR = (
    ",DATE,SESSION_NAME,MODEL,EPOCHS,VAL_LOSS\n"
    '0,20200101-000000,first,"UNET(\n  (a): Conv2d()\n)",5,0.5\n'
    "1,20200102-000000,second,resnet,7,0.25\n"
)


def folders(path: Path) -> dict[str, Any]:
    """Return a `global_config` below a path."""
    return {"LOG_DIR": path / "logs", "WEIGHT_DIR": path / "weights", "ROOT_PATH": path}


def make_run(
    path: Path,
    name: str,
    f1: tuple[float, ...] = (0.5, 0.75, 0.625),
    status: str = "done",
    environment: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Path:
    """Write row and files of a run, and return its folder of logs.

    Args:
        path: Where `logs` and `weights` lie.
        name: The run.
        f1: Its values, an epoch each.
        status: That of its row; there are values in the row of a run that has ended alone.
        environment: Content of environment.json.
        changes: Of CONFIG; a dict is merged into the one there.
    """
    config = {**CONFIG, "DATE": name.partition("_")[0]}
    for key, value in changes.items():
        is_part = isinstance(value, dict) and key in config
        config[key] = {**config[key], **value} if is_part else value
    log_dir, weight_dir = path / "logs" / name, path / "weights" / name
    log_dir.mkdir(parents=True)
    weight_dir.mkdir(parents=True)
    (log_dir / ".lock").touch()
    (log_dir / "config.yaml").write_text(to_config_yaml(config))
    (log_dir / "environment.json").write_text(json.dumps(environment or {"commit": "a" * 40}))
    lines = [f"{i},{10 * i},0.1,{1 - value!r},{value!r}" for i, value in enumerate(f1, 1)]
    text = "\n".join(["epoch,step,lr,train_loss,val_f1", *lines, ""])
    (log_dir / "metrics.csv").write_text(text)
    for file in ("best.pth", "last.pth", "checkpoint.pt"):
        (weight_dir / file).write_bytes(bytes(1000))
    row = {"RUN": name, "STATUS": status, "HOST": "here", **flatten(config)}
    if status != "running" and f1:
        best = max(f1)
        row |= {"BEST_EPOCH": f1.index(best) + 1, "train_loss": 1 - f1[-1], "val_f1": f1[-1]}
        row |= {"best_train_loss": 1 - best, "best_val_f1": best, "SECONDS": 90.0}
    CsvTracker(path / "logs" / "experiments.csv").append(row)
    return log_dir


def draw(shown: RenderableType, width: int = 100_000) -> str:
    """Return what a terminal of this width shows, without blanks at the ends of lines."""
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(shown, crop=False)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())
