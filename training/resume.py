"""Find a stopped run, and tell whether it can go on with the config at hand."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config.codec import describe, from_yaml, to_yaml
from config.errors import ConfigError, did_you_mean, shorten
from config.keys import with_defaults
from training.checkpoint import load_checkpoint
from utils.distributed import main_first, world_size
from utils.path import read_json

if TYPE_CHECKING:
    from training.run import Run

# what may differ: nothing of it changes the result of a step
_MAY_CHANGE = {
    "DATE",
    "EPOCHS",
    "ROUTINE_NAME",
    "DEVICE",
    "PROGRESS",
    "LOGFILE",
    "CHECKPOINT",
    "TRACKERS",
    "NOTIFY",
    "NOTIFY_STALL_MINUTES",
    "CURVES",
    "ON_NAN",
    "ON_OOM",
    "ON_BAD_SAMPLE",
    "__COMMENT",
    "IGNITE_ATTACH",
    "FASTAI_CBS",
    "LIGHTNING_CALLBACKS",
}
_LOADER_MAY_CHANGE = {
    "num_workers",
    "pin_memory",
    "persistent_workers",
    "prefetch_factor",
    "timeout",
    "multiprocessing_context",
}


def find_run(name: str, folders: Mapping[str, Any]) -> str:
    """Return the run to resume: a name, or "latest" for the newest one with a checkpoint.

    Raises:
        ConfigError: There is no such run, or it has no checkpoint.
    """
    weight_dir = Path(folders["WEIGHT_DIR"])
    saved = {path.parent.name: path.stat().st_mtime for path in weight_dir.glob("*/checkpoint*.pt")}
    if name == "latest" and saved:
        return max(saved, key=saved.__getitem__)
    if name not in saved:
        raise ConfigError(
            f'--resume: expected a run with a checkpoint in {weight_dir}, got "{name}".'
            f"{did_you_mean(name, saved)} A run writes its first checkpoint after an epoch."
        )
    return name


def config_of(run: str, folders: Mapping[str, Any]) -> str:
    """Return the path of the config that a run was started with.

    Raises:
        ConfigError: There is none.
    """
    path = Path(folders["LOG_DIR"], run, "config.yaml")
    if not path.is_file():
        raise ConfigError(f'--resume: expected "{path}", got none. Name the CONFIG as well.')
    return str(path)


def is_finished(run: str, folders: Mapping[str, Any], n_epochs: int) -> bool:
    """Tell whether a run has ended by itself and is asked for no more epochs than it was."""
    folder = Path(folders["LOG_DIR"], run)
    if not (folder / "result.json").is_file() or not (folder / "config.yaml").is_file():
        return False
    planned = from_yaml((folder / "config.yaml").read_text(encoding="utf-8"))["EPOCHS"]
    return read_json(folder / "result.json")["status"] == "done" and n_epochs <= planned


def describe_run(run: "Run") -> dict[str, Any]:
    """Return what a run that goes on must have in common with the one that stopped."""
    loaders = (run.train_loader, run.val_loader)
    n_samples = [loader.n_samples if loader else 0 for loader in loaders]
    return {
        "config": to_yaml(run.record.plain),
        "n_samples": n_samples,
        "processes": world_size(),
        "stream_parts": run.train_loader.n_parts,
    }


def samples_per_batch(about: Mapping[str, Any]) -> int:
    """Return the batch size of a described run."""
    return from_yaml(about["config"]).get("DATA_LOADER_CONFIG", {}).get("batch_size", 1)


def read_checkpoint(run: "Run", folders: Mapping[str, Any]) -> dict[str, Any]:
    """Return the checkpoint of the run that RESUME in the folders names.

    Raises:
        ConfigError: There is no whole one, or the run at hand is not the one that stopped.
    """
    try:
        with main_first():  # it may put a damaged checkpoint aside
            checkpoint = load_checkpoint(Path(folders["WEIGHT_DIR"], folders["RESUME"]))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--resume: {error}") from error
    former, weights = from_yaml(checkpoint["config"]).get("WEIGHTS"), run.config["WEIGHTS"]
    if former and weights and not Path(weights).is_absolute():
        run.record.plain["WEIGHTS"] = former  # "latest" was another run when this one started
    problems = check_changes(checkpoint, describe_run(run), run.scheduler)
    if problems:
        raise ConfigError(problems)
    return checkpoint


def check_changes(
    checkpoint: Mapping[str, Any], now: Mapping[str, Any], scheduler: Any
) -> list[str]:
    """Return what forbids that a run goes on.

    Args:
        checkpoint: The checkpoint, with its `config` (YAML) and `n_samples`.
        now: The same of the run at hand.
        scheduler: Its scheduler, or None.
    """
    # a checkpoint may be older than a key, and what it does not name was as it is by default
    before, after = (
        describe(with_defaults(from_yaml(about["config"]))) for about in (checkpoint, now)
    )
    is_divided = max(checkpoint["stream_parts"], now["stream_parts"]) > 1
    if (
        _has_same_windows(before, after) and not is_divided
    ):  # smaller batches, as many more of them in an update
        before = before | {name: after[name] for name in ("DATA_LOADER_CONFIG", "ACCUMULATE")}
    problems = [
        f"--resume: expected {name} as the run had it, {shorten(before.get(name))},"
        f" got {shorten(after.get(name))}. Leave it, or start a new run (WEIGHTS=last.pth)."
        for name in sorted(before.keys() | after.keys())
        if name not in _MAY_CHANGE and _part(name, before) != _part(name, after)
    ]
    if checkpoint["n_samples"] != now["n_samples"]:
        problems.append(
            "--resume: expected the data that the run had (training and validation samples:"
            f" {checkpoint['n_samples']}), got {now['n_samples']}. Put the files back."
        )
    if checkpoint["stream_parts"] != now["stream_parts"]:
        problems.append(
            f"--resume: expected {checkpoint['stream_parts']} workers, which divided the stream of"
            f" the run, got {now['stream_parts']}. Leave DATA_LOADER_CONFIG.num_workers."
        )
    if checkpoint["processes"] != now["processes"]:
        problems.append(
            f"--resume: expected {checkpoint['processes']} processes, as the run had, got"
            f" {now['processes']}. Start it by torchrun --nproc-per-node {checkpoint['processes']}"
            " train.py ..., or without torchrun for one."
        )
    has_horizon = hasattr(scheduler, "total_steps") or hasattr(scheduler, "T_max")
    if has_horizon and before["EPOCHS"] != after["EPOCHS"]:
        problems.append(
            f"--resume: expected EPOCHS={before['EPOCHS']}, for which the scheduler was made, got"
            f" {after['EPOCHS']}. Start a new run from its weights: WEIGHTS=last.pth."
        )
    return problems


def _has_same_windows(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Tell whether an update takes the same samples, in batches of whatever size."""
    loaders = [config.get("DATA_LOADER_CONFIG", {}) for config in (before, after)]
    effective = [
        loader.get("batch_size", 1) * config.get("ACCUMULATE", 1)
        for loader, config in zip(loaders, (before, after), strict=True)
    ]
    rest = [_part("DATA_LOADER_CONFIG", {"DATA_LOADER_CONFIG": loader}) for loader in loaders]
    rest = [{**loader, "batch_size": None} for loader in rest]
    is_fixed = rest[0].get("drop_last") or rest[0].get("per_class")
    return effective[0] == effective[1] and rest[0] == rest[1] and not is_fixed


def _part(name: str, config: Mapping[str, Any]) -> Any:
    value = config.get(name)
    if name == "DATA_LOADER_CONFIG" and isinstance(value, dict):
        return {key: part for key, part in value.items() if key not in _LOADER_MAY_CHANGE}
    return value
