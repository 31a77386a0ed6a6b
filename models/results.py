"""What a network got right and wrong on a dataset, as files; training and prediction share it."""

import io
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from models.evaluation import Evaluation
from models.outputs import write_rows, write_table
from utils.confusion import score_classes
from utils.logging.results import draw_confusion, draw_scatter
from utils.logging.samples import RIGHT, TEXT, WRONG, draw_sheet
from utils.path import write_atomic, write_json

logger = logging.getLogger("plumbline")


def write_results(
    folder: Path,
    evaluation: Evaluation,
    samples: Sequence[Mapping[str, Any]],
    about: Mapping[str, Any],
    confidence: float = 0.95,
    n_worst: int = 16,
    with_pictures: bool = True,
) -> dict[str, Any]:
    """Write what an evaluation found; docs/results says which files there are for which TASK.

    Args:
        folder: where they go.
        evaluation: iterated to its end.
        samples: the rows that it gave.
        about: what evaluation.json says of it beside the values: "set", "weights"; "metrics" holds
            values that the evaluation does not have.
        confidence: of the intervals.
        n_worst: samples of the highest loss in worst.png; 0 draws none.
        with_pictures: False writes the tables alone.

    Returns:
        The content of evaluation.json.

    Raises:
        OSError: a file cannot be written.
    """
    intervals = evaluation.intervals(confidence)
    values = {**about.get("metrics", {}), **evaluation.values()}
    without = [name for name in values if name not in intervals]
    if without and evaluation.n_resamples:
        logger.info(
            "no interval of %s: no sum over the samples gives the value of the set",
            ", ".join(without),
        )
    content = {
        **about,
        "n_samples": evaluation.n_samples,
        "metrics": values,
        "intervals": {name: list(bounds) for name, bounds in intervals.items()},
        "confidence": confidence,
        "n_resamples": evaluation.n_resamples,
    }
    weights = Path(about["weights"])
    title = f"{weights.parent.name}: {about['set']}, {evaluation.n_samples} samples"
    write_table(folder / "samples.csv", samples)
    if evaluation.confusion is not None:
        _write_confusion(folder, evaluation, title if with_pictures else None)
    if with_pictures and evaluation.predictor.task == "regression":
        _write_scatter(folder, samples, title)
    if with_pictures and n_worst:
        _write_worst(folder, evaluation, samples, n_worst)
    write_json(folder / "evaluation.json", content)
    return content


def _write_confusion(folder: Path, evaluation: Evaluation, title: str | None) -> None:
    counts, names = evaluation.confusion.cpu().numpy(), evaluation.class_names
    header, cells = ["true", *names], counts
    if counts.ndim == 3:
        header = ["label", "true_positive", "false_negative", "false_positive", "true_negative"]
        cells = counts[:, [1, 1, 0, 0], [1, 0, 1, 0]]
    rows = [[name, *row] for name, row in zip(names, cells.tolist(), strict=True)]
    write_rows(folder / "confusion.csv", header, rows)
    is_segmentation = evaluation.predictor.is_segmentation
    write_table(folder / "classes.csv", score_classes(counts, names, with_iou=is_segmentation))
    if title is not None:
        unit = "pixels" if is_segmentation else "samples"
        write_atomic(folder / "confusion.png", draw_confusion(counts, names, title, unit))


def _write_scatter(folder: Path, samples: Sequence[Mapping[str, Any]], title: str) -> None:
    """Draw predicted against true numbers, as far as a row of samples.csv holds them."""
    pairs = [(row.get("target"), row.get("prediction")) for row in samples]
    if not all(target and prediction for target, prediction in pairs):
        return
    target, pred = (
        np.array([list(map(float, text.split(";"))) for text in column])
        for column in zip(*pairs, strict=True)
    )
    write_atomic(folder / "scatter.png", draw_scatter(target, pred, title))


def _write_worst(
    folder: Path, evaluation: Evaluation, samples: Sequence[Mapping[str, Any]], n_worst: int
) -> None:
    """Draw the samples of the highest loss, read once more; none where the input is no picture."""
    rows = [row for row in samples if "loss" in row]
    if len({row["loss"] for row in rows}) < 2:
        return  # a loss of pairs or triplets says nothing of one sample
    rows.sort(key=lambda row: math.inf if math.isnan(row["loss"]) else row["loss"], reverse=True)
    loader, task = evaluation.loader, evaluation.predictor.task
    if loader.n_parts:
        logger.info("no worst.png: a stream cannot be asked for single samples")
        return
    pictures, captions = [], []
    for row in rows[:n_worst]:
        batch = loader.read(row["index"])
        x = _find_picture(batch.x)
        if x is None:
            return
        target = batch.y[0] if isinstance(batch.y, Tensor) else None
        pictures.append((x[0], target, evaluation.logits(batch.x)[0].float()))
        captions.append(_describe(row, task))
    if pictures:
        file = io.BytesIO()
        Image.fromarray(draw_sheet(pictures, captions, task)).save(file, "png")
        write_atomic(folder / "worst.png", file.getvalue())


def _find_picture(part: Any) -> Tensor | None:
    """Return the first tensor (N, C, H, W) of an input, if there is one."""
    if isinstance(part, Tensor):
        return part if part.dim() == 4 else None
    values = part.values() if isinstance(part, Mapping) else part
    found = [] if isinstance(part, str) else map(_find_picture, values)
    return next((x for x in found if x is not None), None)


def _describe(row: Mapping[str, Any], task: str | None) -> list[tuple[str, str]]:
    """Return the lines of a sample with their colours."""
    lines = [(row["name"], TEXT)]
    if "target" in row:
        lines.append((f"true {row['target']}", TEXT))
    if "prediction" in row and task != "embedding":
        colour, text = TEXT, f"pred {row['prediction']}"
        if "confidence" in row:
            colour = RIGHT if row["prediction"] == row["target"] else WRONG
            text += f" ({row['confidence']:.2f})"
        lines.append((text, colour))
    return [*lines, (f"loss {row['loss']:.4g}", TEXT)]
