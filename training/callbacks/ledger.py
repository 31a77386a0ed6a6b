"""What the best weights get right and wrong, sample by sample, at the end of a run."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch.nn.parallel import DistributedDataParallel

from models.evaluation import Evaluation, is_function
from models.predictor import Predictor
from models.results import write_results
from training.callbacks.base import Callback
from training.callbacks.trackers import Trackers
from utils.distributed import on_main
from utils.path import create_dirs
from utils.seed import VALIDATION, mix, seed_torch

if TYPE_CHECKING:
    from training.run import Run
    from utils.data.loading import Loader


class Ledger(Callback):
    """Passes the best weights over the validation set once more, when a run is done.

    Into LOG_DIR/<run>/ go samples.csv, evaluation.json with bootstrap intervals and, as TASK has
    them, confusion.csv, confusion.png, classes.csv, scatter.png and worst.png, the samples of the
    highest loss; into LOG_DIR/<run>/test/ the same of the test set, if there is one. The sheet of
    the worst goes to trackers that take pictures, the intervals into the table at the end.

    The values are those of the training. Under several processes the first one makes the pass. An
    error in it fails the run, whose weights are on the disk by then.

    Args:
        n_worst: Samples in worst.png; 0 draws none.
        n_resamples: Of the bootstrap; 0 gives no intervals.
        confidence: Share of the resamples' values that an interval holds.

    Raises:
        ValueError: An argument is out of range; all are told at once.
    """

    def __init__(
        self, n_worst: int = 16, n_resamples: int = 1000, confidence: float = 0.95
    ) -> None:
        problems = [
            f"Ledger: expected {name} of at least 0, got {value}."
            for name, value in (("n_worst", n_worst), ("n_resamples", n_resamples))
            if value < 0
        ]
        if not 0 < confidence < 1:
            problems.append(
                f"Ledger: expected confidence above 0 and below 1, got {confidence}. 0.95 is usual."
            )
        if problems:
            raise ValueError("\n".join(problems))
        self.n_worst, self.n_resamples, self.confidence = n_worst, n_resamples, confidence

    def on_end(self, run: "Run", result: Mapping[str, Any]) -> None:
        if result["status"] == "done":
            on_main(lambda: self._write_all(run, result))

    def _write_all(self, run: "Run", result: Mapping[str, Any]) -> None:
        values = {"val": result["best_metrics"], "test": result["test_metrics"]}
        folders = {"val": run.record.log_dir, "test": run.record.log_dir / "test"}
        with run.best_weights() as weights, torch.no_grad():
            for part, loader in (("val", run.val_loader), ("test", run.test_loader)):
                if loader is None:
                    continue
                create_dirs(folders[part])
                known = {
                    name.removeprefix(f"{part}_"): value
                    for name, value in values[part].items()
                    if name.startswith(f"{part}_")
                }
                about = {"set": part, "weights": str(weights), "metrics": known}
                self._write(run, loader, folders[part], about)

    def _write(self, run: "Run", loader: "Loader", folder: Path, about: dict[str, Any]) -> None:
        config = run.config
        loader.take_all()
        loss = run.loss.module if isinstance(run.loss, DistributedDataParallel) else run.loss
        evaluation = Evaluation(
            Predictor(run.module, run.device, config["TASK"], config["CLASSES"]),
            loader,
            loss,
            # the others would wait for the other processes; their values are known
            {name: metric for name, metric in config["METRICS"].items() if is_function(metric)},
            config["MIXED_PRECISION"],
            config["LOSS_CONFIG"].get("ignore_index"),
            self.n_resamples,
        )
        best = run.history.best_epoch
        # as in the validation, for a model that draws in eval mode
        seed_torch(mix(run.seed, VALIDATION, run.position.epoch if best is None else best, 0))
        samples = [row for _, rows in evaluation for row in rows]
        content = write_results(folder, evaluation, samples, about, self.confidence, self.n_worst)
        part = about["set"]
        for name, low_high in content["intervals"].items():
            # not of another value: a loss with weights of its own has no others than the last ones
            shown = about["metrics"].get(name, math.nan)  # none in an epoch without validation
            if math.isclose(content["metrics"][name], shown, rel_tol=1e-3):
                run.intervals[f"{part}_{name}"] = low_high
        worst = folder / "worst.png"
        for callback in run.callbacks if worst.exists() else ():
            if isinstance(callback, Trackers):
                picture = np.asarray(Image.open(worst))
                callback.on_picture(f"{part}_worst", picture, run.position.step)
