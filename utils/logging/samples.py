"""Samples of a dataset beside what a network made of them, as one picture."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from utils.data.pictures import draw
from utils.data.tasks import activation, decide

_SIDE = 160  # longest side of a sample in the picture [px]
_GAP = 4  # between samples
_PER_ROW = 8  # samples side by side in a sheet
_BAND_GAP = 12  # between its rows
_LINE = 14  # height of a line of text
RIGHT, WRONG, TEXT = "#007a3d", "#c00000", "#000000"


def draw_samples(
    x: Tensor, target: Tensor, logits: Tensor, task: str, classes: Sequence[Any] | None = None
) -> np.ndarray | None:
    """Draw a column for each sample, (height, width, 3) uint8, RGB.

    Of a segmentation: input, target and decision, from top to bottom. Of a classification: the
    input, the true class and the decided one. Three and more channels of an input show their first
    three as red, green and blue, fewer the first as gray, from the smallest to the largest value.

    Args:
        x: (N, C, H, W) float.
        target: As utils.data.tasks says.
        logits: As utils.data.tasks says, (N, K, H, W) or (N, K) float.
        task: One of utils.data.tasks.TASKS.
        classes: Names of the classes; numbers where there are none.

    Returns:
        None for a task without such a picture, or an input that is no picture.
    """
    if activation(task) == "none" or x.dim() != 4:
        return None
    is_segmentation = task.endswith("_segmentation")
    decision = decide(logits, task)
    columns = []
    for sample, truth, decided in zip(x, target, decision, strict=True):
        column = [_fit(_to_image(sample), Image.Resampling.BILINEAR)]
        if is_segmentation:
            n_outputs = logits.shape[1]
            column += [_draw_mask(mask, task, n_outputs) for mask in (truth, decided)]
        else:
            names = [_name(label, task, classes) for label in (truth, decided)]
            colour = RIGHT if names[0] == names[1] else WRONG
            column += [_write(f"true {names[0]}", TEXT), _write(f"pred {names[1]}", colour)]
        columns.append(column)
    rows = list(zip(*columns, strict=True))
    labels = ("input", "target", "prediction") if is_segmentation else ()
    return np.asarray(_arrange(rows, labels))


def draw_sheet(
    samples: Sequence[tuple[Tensor, Tensor | None, Tensor]],
    captions: Sequence[Sequence[tuple[str, str]]],
    task: str | None,
) -> np.ndarray:
    """Draw samples in rows of eight with lines below them, (height, width, 3) uint8, RGB.

    Of a segmentation a column each: input, target and decision.

    Args:
        samples: Input (C, H, W) float, target and logits of each, as utils.data.tasks says, without
            the first axis; of sizes of their own.
        captions: The lines of each with their colours; one longer than its picture is cut in its
            middle.
        task: One of utils.data.tasks.TASKS, or None.
    """
    is_segmentation = task is not None and task.endswith("_segmentation")
    columns = []
    for (x, target, logits), lines in zip(samples, captions, strict=True):
        column = [_fit(_to_image(x), Image.Resampling.BILINEAR)]
        if is_segmentation:
            masks = (target, decide(logits[None], task)[0])
            column += [_draw_mask(mask, task, len(logits)) for mask in masks]
        columns.append([*column, *(_write(_cut(text), colour) for text, colour in lines)])
    labels = ["input", "target", "prediction", *[""] * len(captions[0])] if is_segmentation else []
    bands = [columns[first : first + _PER_ROW] for first in range(0, len(columns), _PER_ROW)]
    pictures = [_arrange(list(zip(*band, strict=True)), labels) for band in bands]
    height = sum(picture.height + _BAND_GAP for picture in pictures) - _BAND_GAP
    sheet = Image.new("RGB", (pictures[0].width, height), "white")
    top = 0
    for picture in pictures:
        sheet.paste(picture, (0, top))
        top += picture.height + _BAND_GAP
    return np.asarray(sheet)


def _cut(text: str) -> str:
    """Cut a text in its middle, to the width of a picture."""
    font, kept, short = ImageFont.load_default(11), len(text), text
    while font.getlength(short) > _SIDE:
        kept -= 1
        short = f"{text[: kept - kept // 2]}..{text[len(text) - kept // 2 :]}"
    return short


def _to_image(sample: Tensor) -> Image.Image:
    """Stretch (C, H, W) over black to white."""
    values = sample[: 3 if len(sample) >= 3 else 1].float().cpu().numpy()
    low, high = values.min(), values.max()
    values = (values - low) / max(high - low, 1e-12) * 255
    values = np.nan_to_num(values).astype(np.uint8).transpose(1, 2, 0)
    return Image.fromarray(values if values.shape[2] == 3 else values[..., 0]).convert("RGB")


def _draw_mask(mask: Tensor, task: str, n_outputs: int) -> Image.Image:
    """Draw a target or a decision of a segmentation, (K, H, W) or of classes (H, W)."""
    values = mask.cpu().numpy()
    if task != "multiclass_segmentation":
        values = (values > 0.5).transpose(1, 2, 0)  # (H, W, K)
        values = values[..., 0] if task == "binary_segmentation" else values
    image = Image.open(io.BytesIO(draw(values.astype(np.uint8), task, n_outputs)))
    return _fit(image.convert("RGB"), Image.Resampling.NEAREST)


def _fit(image: Image.Image, resampling: Image.Resampling) -> Image.Image:
    """Bring the longest side to _SIDE; the pixels of a small picture stay sharp."""
    scale = _SIDE / max(image.size)
    if scale > 1:
        resampling = Image.Resampling.NEAREST
    size = [max(1, round(length * scale)) for length in image.size]
    return image.resize(size, resampling)


def _name(label: Tensor, task: str, classes: Sequence[Any] | None) -> str:
    """Return the class, or the labels, of a target or a decision."""
    if task == "multiclass":
        return str(classes[int(label)]) if classes else str(int(label))
    chosen = (label > 0.5).nonzero().flatten().tolist()
    if task == "binary":
        index = len(chosen)
        return str(classes[index]) if classes and len(classes) == 2 else ("no", "yes")[index]
    return ", ".join(str(classes[i]) if classes else str(i) for i in chosen) or "none"


def _write(text: str, colour: str) -> Image.Image:
    image = Image.new("RGB", (_SIDE, _LINE), "white")
    ImageDraw.Draw(image).text((0, 0), text, colour, ImageFont.load_default(11))
    return image


def _arrange(rows: Sequence[Sequence[Image.Image]], labels: Sequence[str]) -> Image.Image:
    """Paste rows of pictures on white, with the labels at the left of their rows."""
    margin = 60 if labels else 0
    heights = [max(image.height for image in row) + _GAP for row in rows]
    canvas = Image.new(
        "RGB", (margin + len(rows[0]) * (_SIDE + _GAP) - _GAP, sum(heights) - _GAP), "white"
    )
    top = 0
    for i, (row, height) in enumerate(zip(rows, heights, strict=True)):
        if labels:
            canvas.paste(_write(labels[i], TEXT), (0, top))
        for k, image in enumerate(row):
            canvas.paste(image, (margin + k * (_SIDE + _GAP), top))
        top += height
    return canvas
