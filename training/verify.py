"""Show that a config resumes to the bit: `python train.py CONFIG --verify-resume`.

Three processes train the config on a few batches, in a temporary folder: one is not broken, one
kills itself in an epoch, one resumes that one. Each writes down what it sees: the hash of every
batch, every loss, the state after every update, the values of every epoch. The first line that
differs tells what a checkpoint does not hold.
"""

import collections
import contextlib
import functools
import hashlib
import json
import math
import multiprocessing
import os
import random
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset

from config.check import check_config
from config.errors import ConfigError
from config.keys import with_defaults
from training import build
from training.callbacks import Callback
from training.resume import find_run
from utils.data.loading import Loader
from utils.data.sampling import find_labels
from utils.distributed import launched_world_size
from utils.path import find_weights, read_json

if TYPE_CHECKING:
    from training.run import Run

# not fork or forkserver: a new process has its own order of sets, as a resumed run has
_START = "spawn"

# what is written down of a position, in the order in which it comes about
_BATCH, _STATE, _OUTSIDE, _EPOCH = range(4)

# hooks and the like, which come and go
_OF_ANY_MODULE = vars(torch.nn.Module()).keys()

PARTS = ("unbroken", "killed", "resumed")

Place = tuple[int, int, int]  # epoch from 0, finished batches, one of the four above
Trace = dict[Place, dict[str, str]]  # name to value; "#" and a hash for what is long


class Difference(NamedTuple):
    """What two traces do not agree on."""

    place: Place
    name: str
    expected: str
    got: str


# ------------------------------------------------------------------------------ the three runs


def verify_resume(train: Callable[[Callable[..., Any]], int]) -> int:
    """Print whether a config resumes to the bit, and if not, what differs first and why.

    Args:
        train: Picklable; trains the config once and returns an exit code. It is given a function
            that changes config and folders before the run is built.

    Returns:
        0 it does; 1 it does not; the exit code of `train` when it fails unbroken.

    Raises:
        ConfigError: The run cannot be killed: it ends by itself before, or torchrun started it.
    """
    if launched_world_size() > 1:
        raise ConfigError(
            f"--verify-resume: expected one process, got {launched_world_size()}."
            " Start it without torchrun."
        )
    traces = {}
    with tempfile.TemporaryDirectory(prefix="plumbline_", ignore_cleanup_errors=True) as folder:
        for part in PARTS:
            code, traces[part], is_killed = _run(part, train, Path(folder))
            error = _find_error(Path(folder))
            if code and part == "unbroken":
                if error:
                    print(f"This run fails, killed or not: {error}")
                return code if code > 0 else 1
            if code:
                print(f"This config does not resume: the {part} run fails, not the first. {error}")
                return 1
            if part == "killed" and not is_killed:
                raise ConfigError(
                    "--verify-resume: expected a run of two epochs, got one that ended by itself"
                    " before it was killed. Leave out the callback that ends it (~CALLBACKS)."
                )
    is_exact, text = judge(**traces)
    print(text)
    return 0 if is_exact else 1


def _run(part: str, train: Callable[..., int], folder: Path) -> tuple[int, Trace, bool]:
    """Run a part in a process of its own.

    Returns:
        Its exit code, 0 when it killed itself as planned; what it wrote; whether it killed itself.
    """
    prepare = functools.partial(_prepare, part, folder)
    context = multiprocessing.get_context(_START)
    process = context.Process(target=_train, args=(train, prepare))
    process.start()
    try:
        process.join()
    finally:
        process.kill()  # at Ctrl-C, of which it does not hear
        process.join()
    trace, is_killed = read_trace(folder / f"{part}.jsonl")
    return 0 if is_killed else process.exitcode, trace, is_killed


def _find_error(folder: Path) -> str:
    """Return the error of the run that failed, if its folder tells one."""
    results = [read_json(path) for path in folder.glob("*/logs/*/result.json")]
    return "".join(result["error"] or "" for result in results)


def _train(train: Callable[..., int], prepare: Callable[..., Any]) -> None:
    if hasattr(os, "setsid"):
        os.setsid()  # the kill takes the loaders' workers along
    multiprocessing.set_start_method(None, force=True)  # the workers start as they ever do
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        sys.exit(train(prepare))


def _prepare(
    part: str, folder: Path, config: Mapping[str, Any], folders: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return config and folders of a part of the verification; its data are made short.

    Three epochs, each validated, so that what happens at the end of one is compared as well.
    """
    problems = check_config(config)
    if problems:
        raise ConfigError(problems)
    config = with_defaults(config)
    observer = Observer(part, folder / f"{part}.jsonl")
    _shorten_data(config, observer.datasets)
    if config["WEIGHTS"]:  # the folders below hold no run to start from
        try:
            path = find_weights(config["WEIGHTS"], folders["WEIGHT_DIR"])
        except FileNotFoundError as error:
            raise ConfigError(f"WEIGHTS: {error}") from error
        config["WEIGHTS"] = str(path.absolute())
    changes = {"EPOCHS": max(3, config["EPOCHS"]), "VALIDATE_EVERY": 1}
    changes |= {"CALLBACKS": [*config["CALLBACKS"], observer], "TRACKERS": [], "PROGRESS": False}
    changes |= {"NOTIFY": [], "CURVES": False}
    home = folder / ("whole" if part == "unbroken" else "broken")
    own = {"LOG_DIR": home / "logs", "WEIGHT_DIR": home / "weights"}
    if part == "resumed":
        own["RESUME"] = find_run("latest", own)
    return config | changes, {**folders, **own}


# ------------------------------------------------------------------------------------- the data


def _shorten_data(config: Mapping[str, Any], datasets: dict[str, Any]) -> None:
    """Let this process build datasets of a few batches; `datasets` receives the whole ones.

    Three windows of ACCUMULATE batches and one that is shorter: enough to be killed in a window.
    """
    batch_size = config["DATA_LOADER_CONFIG"].get("batch_size", 1)
    n_train = batch_size * (3 * config["ACCUMULATE"] + 1)
    make_dataset = build.make_dataset

    def make_short(part: str, *args: Any) -> Any:
        dataset = make_dataset(part, *args)
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            return dataset  # none, or one that is refused
        datasets[part] = dataset
        kind = ShortOfBatches if hasattr(dataset, "__getitems__") else Short
        kind = ShortStream if isinstance(dataset, IterableDataset) else kind
        return kind(dataset, n_train if part == "train" else 4 * batch_size)

    build.make_dataset = make_short


class Short(Dataset):
    """A few samples of a dataset, evenly spread; all else is the dataset's own."""

    def __init__(self, dataset: Any, n_samples: int) -> None:
        n_all = len(dataset)
        n_samples = min(n_samples, n_all)
        self.dataset = dataset
        self.indices = [i * n_all // n_samples for i in range(n_samples)]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[self.indices[index]]

    @property
    def labels(self) -> Any:
        labels = find_labels(self.dataset)
        return None if labels is None else labels[self.indices]

    def __getattr__(self, name: str) -> Any:
        if name == "dataset":  # asked for before it is there, by a worker that unpickles this
            raise AttributeError(name)
        return getattr(self.dataset, name)


class ShortOfBatches(Short):
    """The same of a dataset that can read a batch at once."""

    def __getitems__(self, indices: list[int]) -> Any:
        return self.dataset.__getitems__([self.indices[i] for i in indices])


class ShortStream(Short, IterableDataset):
    """The beginning of a stream."""

    def __iter__(self) -> Iterator[Any]:
        return iter(self.dataset)


class Watched:
    """The batches of a loader, each told to a function of (epoch, batch from 1, content)."""

    def __init__(self, loader: Loader, tell_batch: Callable[[int, int, Any], None]) -> None:
        self.batches, self.sampler, self.tell_batch = loader.loader, loader.sampler, tell_batch

    def __iter__(self) -> Iterator[Any]:
        epoch, first = self.sampler.epoch, self.sampler.start + 1
        for i, batch in enumerate(self.batches, first):
            self.tell_batch(epoch, i, batch)
            yield batch


# ------------------------------------------------------------------------------------ the trace


class Observer(Callback):
    """Writes the trace of a run, and kills its process where the part of the run ends.

    It comes last of the config's callbacks, so it sees the state that a checkpoint would hold.
    """

    def __init__(self, part: str, path: Path) -> None:
        self.part, self.path = part, path
        self.datasets: dict[str, Any] = {}
        self.hashes: dict[tuple[int, int], dict[str, str]] = {}  # of batches that are on their way

    def on_start(self, run: "Run") -> None:
        self.window, self.n_batches = run.config["ACCUMULATE"], len(run.train_loader)
        run.train_loader.loader = Watched(run.train_loader, self._keep_hash)

    def _keep_hash(self, epoch: int, batch: int, content: Any) -> None:
        parts = dict(zip("xy", content, strict=True))
        self.hashes[epoch, batch] = {f"data: {name}": text for name, text in leaves(parts)}

    def on_epoch_start(self, run: "Run") -> None:
        self._write_state(run)

    def on_batch_end(self, run: "Run", loss: float) -> None:
        at = (run.position.epoch, run.position.batch)
        self._write(*at, _BATCH, {**self.hashes.pop(at, {}), "loss": repr(loss)})
        first_update = min(self.window, self.n_batches)
        if at[1] % self.window == 0 or at[1] == self.n_batches:
            self._write_state(run)
        if self.part != "killed":
            if at == (2, first_update):
                self._kill()
            return
        if at == (1, first_update):
            run.save_checkpoint()
        if at == (1, min(2 * self.window + 1, self.n_batches)):  # in the window after the next
            self._kill()

    def on_epoch_end(self, run: "Run", metrics: Mapping[str, float]) -> None:
        values = {name: repr(value) for name, value in metrics.items()}
        self._write(run.position.epoch, run.position.batch, _EPOCH, values)

    def _write_state(self, run: "Run") -> None:
        at = (run.position.epoch, run.position.batch)
        state = {
            f"{part}: {name}": text
            for part, values in run.state_dict().items()
            for name, text in leaves(values)
        }
        self._write(*at, _STATE, state)
        owners = {f"{part} data": dataset for part, dataset in self.datasets.items()}
        for i, callback in enumerate(run.callbacks[: run.callbacks.index(self)]):
            owners[f"callback.{i}"] = callback
        for name, part in run.module.named_modules():
            owners[f"model {name}".rstrip()] = part
        self._write(*at, _OUTSIDE, dict(find_outside({**owners, "loss": run.loss})))

    def _write(self, *line: Any) -> None:
        with self.path.open("a", encoding="utf-8") as file:  # closed, so that it outlives the kill
            file.write(json.dumps(line) + "\n")

    def _kill(self) -> None:
        self._write("killed")
        if hasattr(os, "killpg"):
            os.killpg(os.getpid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGTERM)  # Windows, where it asks nobody either


def read_trace(path: Path) -> tuple[Trace, bool]:
    """Return what an `Observer` wrote, and whether its process killed itself in the end."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    content = [json.loads(line) for line in lines]
    is_killed = content[-1:] == [["killed"]]
    events = content[:-1] if is_killed else content
    return {(epoch, batch, kind): values for epoch, batch, kind, values in events}, is_killed


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield (name, text) of the tensors and values of a nested state."""
    parts: Any = ()
    if isinstance(value, Mapping):
        parts = value.items()
    elif isinstance(value, (list, tuple)) and any(_is_nested(part) for part in value):
        parts = enumerate(value)
    else:
        yield name, fingerprint(value)
    for key, part in parts:
        yield from leaves(part, f"{name} {key}".lstrip())


def _is_nested(value: Any) -> bool:
    return isinstance(value, (torch.Tensor, Mapping, list, tuple))


def fingerprint(value: Any) -> str:
    """Return text that is equal for equal bits: short values by repr, others by their hash."""
    if isinstance(value, torch.Tensor):
        flat = value.detach().cpu().contiguous().reshape(-1)
        content, title = flat.view(torch.uint8).numpy(), f"{value.dtype} {list(value.shape)}"
    elif isinstance(value, np.ndarray):
        content, title = value.tobytes(), f"{value.dtype} {value.shape}"
    else:
        content, title = repr(value).encode(), ""
        if len(content) <= 40:
            return content.decode()
    return f"#{title}{hashlib.sha256(content).hexdigest()}"


def find_outside(owners: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (name, text) of what could change a step and is in no state dict.

    These are the numbers, arrays, generators and lengths of containers among the attributes of
    objects and functions, and among the globals of the files that define them.
    """
    named = {}
    for role, owner in owners.items():
        while isinstance(owner, functools.partial):
            owner = owner.func
        home = owner if hasattr(owner, "__globals__") else type(owner)
        named[f"{home.__name__} ({role})"] = owner
        file = sys.modules.get(home.__module__)
        if file is not None and "site-packages" not in (getattr(file, "__file__", None) or ""):
            named[file.__name__] = file
    for title, owner in named.items():
        for attribute, value in getattr(owner, "__dict__", {}).items():
            is_inner = attribute in _OF_ANY_MODULE or attribute.startswith("__")
            text = None if is_inner else _describe(value)
            if text is not None:
                yield f"{attribute} of {title}", text


def _describe(value: Any) -> str | None:
    if isinstance(value, (int, float)):
        return fingerprint(value)
    if isinstance(value, (torch.Tensor, np.ndarray)):
        is_data = math.prod(value.shape) > 10**7  # of a dataset: not at every update
        return None if is_data else fingerprint(value)
    if isinstance(value, (list, dict, set, collections.deque)):
        return f"{len(value)} entries"
    if isinstance(value, random.Random):
        return fingerprint(value.getstate())
    if isinstance(value, np.random.Generator):
        return fingerprint(value.bit_generator.state)
    if isinstance(value, torch.Generator):
        return fingerprint(value.get_state())
    return None


# ------------------------------------------------------------------------------------ the verdict

_HINTS = {
    "repeat": "Two runs differ that nobody killed: something follows neither from SEED nor from the"
    " position, such as the time, the order of a set or a generator of its own; on a GPU set"
    " DETERMINISTIC=True.",
    "data": "A sample must follow from its index: the dataset keeps a count, a cache or a generator"
    " of its own, or draws although it says deterministic = True. Draw from the global generators"
    " of python, numpy or torch; they are seeded before each sample.",
    "loss": "Weights and data were equal: model or loss keep something that no checkpoint holds,"
    " such as a global or a plain attribute. Make it a buffer (register_buffer) or run.track it.",
    "length": "A callback or the routine counts by itself. Give the count to the checkpoint"
    " (state_dict and load_state_dict of the callback), or read run.position.",
    "restored": "It is saved but not taken back: its load_state_dict must set all that its"
    " state_dict returned.",
    "state": "Losses were equal: an optimizer, a hook or a callback that changes it keeps something"
    " that no checkpoint holds. run.track it; a callback has state_dict and load_state_dict.",
    "epoch": "The training was equal: validation data, a metric or a callback keep something from"
    " one epoch to the next that no checkpoint holds.",
}


def judge(unbroken: Trace, killed: Trace, resumed: Trace) -> tuple[bool, str]:
    """Return whether the resumed run repeats the unbroken one, and what to tell the user."""
    so_far = {place: values for place, values in unbroken.items() if place <= max(killed)}
    found = find_difference(so_far, killed)
    if found is not None:
        what = tell(found, "first", "second")
        return False, f"This config cannot be repeated, killed or not: {what} {_HINTS['repeat']}"
    found, lost = find_difference(unbroken, resumed), find_lost(unbroken, resumed)
    if found is None:
        lost = [text for text in lost if not text.endswith(" entries)")]  # a cache does no harm
        note = f" Other after the resume, without effect so far: {', '.join(lost)}." if lost else ""
        return True, tell_what_is_equal(unbroken, killed, resumed) + note
    note = f" Other after the resume and in no checkpoint: {', '.join(lost)}." if lost else ""
    what = tell(found, "unbroken", "resumed")
    hint = _HINTS[_kind_of(found, is_first=found.place == min(resumed))]
    return False, f"This config does not resume to the bit: {what} {hint}{note}"


def find_difference(whole: Trace, part: Trace) -> Difference | None:
    """Return what differs first from the beginning of `part` on, or None.

    The random states count only with something else: who draws from them shows in what he draws.
    """
    found = list(_differences(whole, part))
    is_drawn = any(not difference.name.startswith("random: ") for difference in found)
    return found[0] if is_drawn else None


def _differences(whole: Trace, part: Trace) -> Iterator[Difference]:
    for place in sorted(whole.keys() | part.keys()):
        if place < min(part) or place[2] == _OUTSIDE:
            continue
        if place not in whole or place not in part:
            ends = ["goes on" if place in trace else "is over" for trace in (whole, part)]
            yield Difference(place, "the length of the run", *ends)
            return
        expected, got = whole[place], part[place]
        for name in expected | got:
            pair = expected.get(name, "missing"), got.get(name, "missing")
            if pair[0] != pair[1]:
                yield Difference(place, name, *pair)


def find_lost(unbroken: Trace, resumed: Trace) -> list[str]:
    """Return what no checkpoint holds and was another value after the resume, five at most."""
    place = min((place for place in resumed if place[2] == _OUTSIDE), default=None)
    before, after = (trace.get(place, {}) for trace in (unbroken, resumed))
    pairs = {name: (before[name], after.get(name, "not set")) for name in before}
    differing = [name for name, (former, now) in pairs.items() if former != now]
    return [f"{name}{_show(*pairs[name])}" for name in differing[:5]]


def _show(before: str, after: str, names: tuple[str, str] = ("before", "after")) -> str:
    if "#" in (before[0], after[0]):
        return ""
    return f" ({names[0]} {before}, {names[1]} {after})"


def tell(found: Difference, *runs: str) -> str:
    """Return what differs first, where, and in which of the two runs it is what."""
    epoch, batch, kind = found.place
    where = f"in epoch {epoch + 1}, batch {batch}"
    if kind == _STATE:
        where = f"after batch {batch} of epoch {epoch + 1}"
    if kind == _EPOCH or batch == 0:
        where = f"at the {'start' if batch == 0 else 'end'} of epoch {epoch + 1}"
    return f"{found.name} differs first, {where}{_show(found.expected, found.got, runs)}."


def _kind_of(found: Difference, is_first: bool) -> str:
    """Return which of the hints fits."""
    if found.name == "the length of the run":
        return "length"
    if found.place[2] == _BATCH:
        return "loss" if found.name == "loss" else "data"
    if found.place[2] == _EPOCH:
        return "epoch"
    return "restored" if is_first else "state"


def tell_what_is_equal(unbroken: Trace, killed: Trace, resumed: Trace) -> str:
    """Return the good news, with what was compared."""
    kill, start, end = max(killed), min(resumed), max(resumed)
    n_values = len({name for place in resumed if place[2] == _STATE for name in resumed[place]})
    n_batches = max(batch for _, batch, _ in unbroken)
    return (
        f"This config resumes to the bit: killed after batch {kill[1]} of epoch {kill[0] + 1} and"
        f" resumed after batch {start[1]}, it repeats an unbroken run up to batch {end[1]} of epoch"
        f" {end[0] + 1}: data, losses, values of the epochs, and {n_values} tensors and values of"
        f" the state. An epoch had {n_batches} batches of the data."
    )
