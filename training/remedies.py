"""Go on after a failure that has a known remedy: a NaN, or a GPU without enough memory.

The config allows it, by ON_NAN and ON_OOM. A remedy is a new call of the routine, which resumes the
run from its last checkpoint, or starts it again when there is none yet.
"""

import gc
import logging
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch

from config.errors import ConfigError
from config.keys import with_defaults
from training.resume import find_run
from training.run import NonFiniteLossError
from utils.distributed import launched_world_size

logger = logging.getLogger("plumbline")


def train(
    routine: ModuleType, config: Mapping[str, Any], folders: Mapping[str, Any]
) -> dict[str, Any]:
    """Train a config, with the remedies that it allows, and return the result.

    Raises:
        NonFiniteLossError: ON_NAN is "stop", or it became NaN a second time.
        torch.OutOfMemoryError: ON_OOM is "stop", the batch is a single sample, or its classes are
            chosen by `per_class`.
    """
    while True:
        try:
            return routine.train(None, None, config, folders)
        except (NonFiniteLossError, torch.OutOfMemoryError) as error:
            remedy = find_remedy(error, config, folders)
            if remedy is None:
                raise
            config, folders = remedy
        # outside of the handler: its traceback holds the tensors of the failed run
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def find_remedy(
    error: Exception, config: Mapping[str, Any], folders: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return the config and the folders to go on with; None when there is no remedy left."""
    changes: dict[str, Any] = {}
    folders = {name: value for name, value in folders.items() if name not in ("RESUME", "DATE")}
    complete = with_defaults(config)
    if isinstance(error, NonFiniteLossError):
        if complete["ON_NAN"] == "stop" or error.has_skipped:
            return None
        folders["SKIP"] = error.window
    else:
        # one process alone has failed: the others cannot know
        if complete["ON_OOM"] == "stop" or launched_world_size() > 1:
            return None
        loader = complete["DATA_LOADER_CONFIG"]
        divisor = smallest_divisor(loader.get("batch_size", 1))
        if divisor is None or loader.get("per_class"):  # a loss of pairs needs the whole batch
            return None
        batch_size, accumulate = loader["batch_size"] // divisor, complete["ACCUMULATE"] * divisor
        changes["DATA_LOADER_CONFIG"] = {**loader, "batch_size": batch_size}
        changes["ACCUMULATE"] = accumulate
    try:
        folders["RESUME"] = find_run(error.run, folders)
        where = f"from the last checkpoint of {error.run}"
    except (ConfigError, AttributeError):  # no checkpoint, or no run: it failed in the set-up
        where = "from the start"
    said = ", ".join(f"{name}={value}" for name, value in changes.items())
    logger.warning("going on %s %s", where, f"with {said}" if said else "without that update")
    return {**config, **changes}, folders


def smallest_divisor(n: int) -> int | None:
    """Return the smallest prime factor of a number; None for 1."""
    return next((k for k in range(2, n + 1) if n % k == 0), None)
