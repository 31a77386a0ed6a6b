"""The table of the zoo in docs/zoo.rst: what each network is, takes and costs.

    python -m benchmarks.zoo                   measure all 18 and write the table
    python -m benchmarks.zoo --only resnet50   print some lines of it

Each network is tried with new weights: those of 1000 classes go into a file, and networks for other
channels and classes start from it. Times are CPU time of one thread, so that other programs matter
little; a ratio is that of turns with resnet18.
"""

import argparse
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from models.zoo import CLASSIFIERS, classifier, embedder
from utils.torchutils import count_parameters

PAGE = Path(__file__).resolve().parents[1] / "docs" / "zoo.rst"
BEGIN, END = (f".. {word} of the table by python -m benchmarks.zoo\n" for word in ("begin", "end"))
HEAD = ("name", "weights [M]", "embedding", "channels", "other classes", "ms", "ratio")
CHANNELS = (1, 3, 12)
REFERENCE = "resnet18"
SIZE_PX, SIZE_TIMED_PX = 64, 224


class Row(NamedTuple):
    """A line of the table.

    Attributes:
        name: Of the network.
        n_weights: Trainable parameters.
        embedding_size: Pooled features.
        channels: For how many the weights of 3 could be used.
        other_classes: Whether a training of other classes could start from the weights.
        ms: Forward pass of one picture [ms].
        ratio: That to the time of resnet18.
    """

    name: str
    n_weights: int
    embedding_size: int
    channels: tuple[int, ...]
    other_classes: bool
    ms: float
    ratio: float

    def cells(self) -> list[str]:
        """Return the text of each cell."""
        return [
            f"``{self.name}``",
            f"{self.n_weights / 1e6:.1f}",
            str(self.embedding_size),
            ", ".join(map(str, self.channels)),
            "yes" if self.other_classes else "no",
            f"{self.ms:.0f}",
            f"{self.ratio:.2f}",
        ]


def measure(name: str, n_rounds: int) -> Row:
    """Try a network and measure its forward pass in turns with that of the reference."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, features = classifier(name, 1000).eval(), embedder(name).eval()
    x = torch.rand(2, 3, SIZE_PX, SIZE_PX)
    with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
        embedding_size = features(x).shape[1]
        path = Path(folder) / "weights.pth"
        torch.save(model.state_dict(), path)
        channels = tuple(ch_in for ch_in in CHANNELS if takes_channels(name, ch_in, path, model))
        with torch.inference_mode(False):
            other_classes = takes_classes(name, path)
        pairs = time_pairs(model, classifier(REFERENCE, 1000).eval(), n_rounds)
    ms = 1e3 * min(ours for ours, _ in pairs)
    ratio = statistics.median(ours / other for ours, other in pairs)
    return Row(name, count_parameters(model), embedding_size, channels, other_classes, ms, ratio)


def takes_channels(name: str, ch_in: int, path: Path, model: nn.Module) -> bool:
    """Tell whether with the weights of 3 channels grey copies give what they gave in colour."""
    grey = torch.rand(2, 1, SIZE_PX, SIZE_PX)
    want = model(grey.expand(-1, 3, -1, -1))
    other = classifier(name, 1000, ch_in=ch_in, weights=path).eval()
    found = other(grey.expand(-1, ch_in, -1, -1))
    return bool((found - want).abs().max() <= 1e-3 * want.abs().max())


def takes_classes(name: str, path: Path) -> bool:
    """Tell whether 7 classes start from the weights of 1000, and every weight takes a step."""
    model = classifier(name, 7, weights=path).train()
    before = {key: value.clone() for key, value in model.named_parameters()}
    start = torch.load(path, weights_only=True)
    n_new = sum(not torch.equal(value, start[key]) for key, value in before.items())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.rand(4, 3, SIZE_PX, SIZE_PX), torch.tensor([0, 2, 4, 6])
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    after = dict(model.named_parameters())
    learns = all(
        value.isfinite().all() and not torch.equal(value, before[key])
        for key, value in after.items()
    )
    return n_new == 2 and learns  # weight and bias of the head


def time_pairs(model: nn.Module, reference: nn.Module, n_rounds: int) -> list[tuple[float, float]]:
    """Return CPU seconds of a forward pass of the model and of the reference, in turns."""
    x = torch.rand(1, 3, SIZE_TIMED_PX, SIZE_TIMED_PX)
    pairs = []
    for turn in range(n_rounds + 1):
        seconds = []
        for one in (model, reference):
            start = time.process_time()
            one(x)
            seconds.append(time.process_time() - start)
        if turn > 0:  # the first one warms up
            pairs.append((seconds[0], seconds[1]))
    return pairs


def format_table(rows: Sequence[Row]) -> str:
    """Return the table as reStructuredText, with a line on the machine below it."""
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for cells in (HEAD, *(row.cells() for row in rows)):
        lines += [f"   {'* -' if i == 0 else '  -'} {cell}" for i, cell in enumerate(cells)]
    return "\n".join(lines) + f"\n\n{describe_machine()}\n"


def describe_machine() -> str:
    """Return a sentence on what was measured, and where."""
    import torchvision

    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text(encoding="utf-8").splitlines() if cpu.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (
        f"Times are of one picture of {SIZE_TIMED_PX} x {SIZE_TIMED_PX} pixels, CPU time of one"
        f" thread: {(names or [platform.machine()])[0]},\n"
        f"torch {torch.__version__.partition('+')[0]},"
        f" torchvision {torchvision.__version__.partition('+')[0]}."
    )


def write_table(path: Path, table: str) -> None:
    """Put a table between the marks of a page.

    Raises:
        ValueError: The page lacks the marks.
    """
    text = path.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f'{path}: expected "{BEGIN.strip()}" and "{END.strip()}", once each.')
    head, rest = text.split(BEGIN)
    path.write_text(f"{head}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the networks; write the table if it is of all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=CLASSIFIERS)
    parser.add_argument("--rounds", type=int, default=9, help="turns of a time")
    args = parser.parse_args(arguments)
    rows = []
    for name in args.only or CLASSIFIERS:
        print(name, file=sys.stderr)
        rows.append(measure(name, args.rounds))
    table = format_table(rows)
    print(table)
    if not args.only:
        write_table(PAGE, table)


if __name__ == "__main__":
    main()
