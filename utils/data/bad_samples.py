"""Samples that cannot be read: left out of their batches, told and counted (ON_BAD_SAMPLE=skip)."""

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch.utils.data import Dataset

from utils.distributed import gather

logger = logging.getLogger("plumbline")

# what a reader raises for a file that is damaged, missing or refused; other errors are bugs
_OF_READING = (OSError, ValueError)


BadSample = tuple[int, str]  # index and error


class BadSamples:
    """The samples of a dataset that could not be read; each is told once.

    Attributes:
        found: Index of a sample -> (its name, what was wrong).
        of_batch: The indices of those that belonged to the batch that was given last.
        n_samples: Samples of the dataset.

    Args:
        dataset: The dataset, whose `names` or `files` are used where it has them.
        is_skipping: False where a bad sample stops the run, so that none is ever found.
    """

    def __init__(self, dataset: Any, is_skipping: bool) -> None:
        self.n_samples, self.is_skipping = len(dataset), is_skipping
        self._names: list[Any] = []
        for names in (getattr(dataset, "files", None), getattr(dataset, "names", None)):
            # fewer names than samples: a dataset that repeats them
            if isinstance(names, (list, tuple)) and names and self.n_samples % len(names) == 0:
                self._names = list(names)
        self.found: dict[int, tuple[str, str]] = {}
        self.of_batch: list[int] = []

    def note(self, bad: list[BadSample]) -> None:
        """Note those of a batch."""
        self.of_batch = [index for index, _ in bad]
        for index, error in bad:
            self.add(index, error)

    def add(self, index: int, error: str) -> None:
        """Note a sample, and warn if it is a new one."""
        if index in self.found:
            return
        names = self._names
        name = str(names[index % len(names)]) if names else f"sample {index}"
        if all(name != known for known, _ in self.found.values()):
            logger.warning("left out %s: %s", name, error)
        self.found[index] = (name, error)

    def gather(self) -> None:
        """Take over what other processes have found. Collective."""
        if not self.is_skipping:
            return
        for found in gather(self.found):
            for index, (_, error) in found.items():
                self.add(index, error)

    def check(self, key: str) -> None:
        """Refuse a dataset of which more than half could not be read.

        Args:
            key: The key of the dataset.

        Raises:
            ValueError: So it is; a broken disk must not look like a good run.
        """
        if 2 * len(self.found) > self.n_samples:
            raise ValueError(
                f"{key}: expected at least half of the {self.n_samples} samples to be readable, got"
                f" {len(self.found)} that are not. Look at bad_samples.csv and at the disk."
            )

    def state_dict(self) -> dict[str, Any]:
        """Return what was found, in plain numbers and text. Collective."""
        self.gather()
        return {"found": {index: list(about) for index, about in self.found.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.found = {index: tuple(about) for index, about in state["found"].items()}


class GoodSamples(Dataset):
    """A `KeyedDataset` that leaves out what cannot be read.

    A batch is (samples, whether they are joined already, the bad ones): what a worker finds must
    travel with it.
    """

    def __init__(self, keyed: Any) -> None:
        self.keyed, self.dataset = keyed, keyed.dataset

    def __len__(self) -> int:
        return len(self.keyed)

    def __getitems__(self, keys: list[tuple[int, int]]) -> tuple[Any, bool, list[BadSample]]:
        if self.keyed.reads_batches:
            with contextlib.suppress(*_OF_READING):  # one of them: they are read one by one
                return self.keyed.__getitems__(keys), self.keyed.collated, []
        samples, bad = [], []
        with self.keyed.states_kept():
            for key in keys:
                try:
                    samples.append(self.keyed[key])
                except _OF_READING as error:
                    bad.append((key[1], f"{type(error).__name__}: {error}"))
        return samples, False, bad


def collate_good(
    batch: tuple[Any, bool, list[BadSample]], collate: Callable[[Any, bool], Any]
) -> tuple[Any, list[BadSample]]:
    """Join the samples that could be read; None where there is none."""
    samples, collated, bad = batch
    has_any = collated or len(samples) > 0
    return collate(samples, collated) if has_any else None, bad


class GoodBatches:
    """The batches of a DataLoader of `GoodSamples`.

    Args:
        loader: Gives what `collate_good` returns.
        note: Is told which samples were left out, of each batch before it is given.
    """

    def __init__(
        self,
        loader: Iterable[tuple[Any, list[BadSample]]],
        note: Callable[[list[BadSample]], None],
    ) -> None:
        self.loader, self.note = loader, note

    def __iter__(self) -> Iterator[Any]:
        for batch, bad in self.loader:
            self.note(bad)
            if batch is None:
                raise ValueError(
                    f"dataset: expected a sample that can be read in each batch, got none of"
                    f" {len(bad)}; the first: {bad[0][1]} Look at the disk, or raise batch_size."
                )
            yield batch


def ignore(_: list[BadSample]) -> None:
    """Do nothing: a sample is told when it is read in its turn."""
