"""A tiny task for the tests of the Run and the routines: 19 of 70 pictures are validation."""

import csv
import functools
import hashlib
import importlib
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from config.config import global_config
from training.callbacks import Callback
from utils.metrics import accuracy, f1
from utils.torchutils import load_weights

# A routine is held to the contract by being in this list.
ROUTINES = ["pytorch", "ignite", "fastai", "lightning"]

CLASSES = 3


class Pictures(torch.utils.data.Dataset):
    """Pictures (1, 6, 6) of three classes; augmentation draws from python, numpy and torch."""

    def __init__(self, n: int = 51, seed: int = 0, augment: bool = True) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.y = torch.randint(0, CLASSES, (n,), generator=generator)
        noise = torch.randn(n, 1, 6, 6, generator=generator)
        self.x = noise + self.y.view(-1, 1, 1, 1) - 1.0
        self.augment = augment
        self.deterministic = not augment

    @property
    def labels(self) -> torch.Tensor:
        return self.y

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.x[index]
        if self.augment:
            x = x * (1 + 0.1 * random.random()) + 0.05 * np.random.rand() + 0.05 * torch.rand(1)
        return x, self.y[index]


class Stream(torch.utils.data.IterableDataset):
    """The pictures one after the other, divided among the workers."""

    def __init__(self, n: int = 51, seed: int = 0, augment: bool = True) -> None:
        self.pictures = Pictures(n, seed, augment)
        self.deterministic = not augment

    def __len__(self) -> int:
        return len(self.pictures)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        worker = torch.utils.data.get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        return (self.pictures[i] for i in range(first, len(self), step))


class Net(nn.Module):
    """Convolution, batch norm and dropout: all that depends on mode, order and random draws."""

    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(dropout), nn.Linear(64, CLASSES))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


class Noise(Callback):
    """Draws from every global generator after each batch: the training must not notice."""

    def on_batch_end(self, run: Any, loss: float) -> None:
        random.random(), np.random.rand(), torch.rand(3)

    def on_epoch_end(self, run: Any, metrics: Mapping[str, float]) -> None:
        random.random(), np.random.rand(), torch.rand(3)


class StopAfter(Callback):
    """Asks the run to stop after an epoch."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_epoch_end(self, run: Any, metrics: Mapping[str, float]) -> None:
        run.should_stop = run.position.epoch + 1 >= self.epochs


def make_config(**changes: Any) -> dict[str, Any]:
    """Return a config of 7 training batches (the last one of 3) and 3 validation batches."""
    config = {
        "SESSION_NAME": "test",
        "TASK": "multiclass",
        "MODEL": Net,
        "MODEL_CONFIG": {},
        "TRAIN_DATASET": Pictures,
        "VAL_DATASET": functools.partial(Pictures, n=19, seed=1, augment=False),
        "DATA_LOADER_CONFIG": {"batch_size": 8},
        "OPTIMIZER": torch.optim.SGD,
        "OPTIMIZER_CONFIG": {"lr": 0.05, "momentum": 0.9},
        "LOSS": nn.CrossEntropyLoss,
        "METRICS": [accuracy, f1],
        "EPOCHS": 2,
        "DEVICE": "cpu",
        "NUM_THREADS": 1,
        "PROGRESS": False,
        "CURVES": False,
    }
    return config | changes


def folders(path: Path) -> dict[str, Any]:
    """Return a `global_config` that writes below a path."""
    return {
        **global_config,
        "LOG_DIR": path / "logs",
        "WEIGHT_DIR": path / "weights",
        "DATA_DIR": path / "data",
    }


def train(routine: str, path: Path, **changes: Any) -> dict[str, Any]:
    """Train the tiny task under a routine and return the result."""
    module = importlib.import_module(f"training.{routine}_training")
    return module.train(None, None, make_config(**changes), folders(path))


def hash_weights(path: str | Path) -> str:
    """Return a SHA-256 over the names and bytes of the tensors of a weights file."""
    digest = hashlib.sha256()
    for name, tensor in load_weights(path)["model"].items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def bits(result: Mapping[str, Any]) -> tuple[str, bytes]:
    """Return what must be equal: the hash of last.pth, and metrics.csv byte by byte."""
    metrics = Path(result["paths"]["log_dir"], "metrics.csv").read_bytes()
    return hash_weights(result["paths"]["last"]), metrics


def rows(path: str | Path) -> list[dict[str, str]]:
    """Read a CSV file."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
