"""One run: its state and the arithmetic with traps. Who drives the loop is the routine's business.

A routine calls, in this order:

    begin_epoch -> (begin_batch, forward and loss, backward, update, end_batch) per batch
                -> validating: val_step per batch -> end_epoch

The forward pass and the loss stand in the routine, where they are edited. Scaling, accumulation and
its last window, clipping, averaging, the scheduler, seeding and the files stand here, once.
"""

import contextlib
import logging
import math
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from config.check import check_config
from config.config import global_config
from config.device import get_device
from config.errors import ConfigError
from config.keys import PASSED_THROUGH, with_defaults
from config.names import module_name
from training.build import Parts, build
from training.callbacks import Callback, Curves, Figures, Progress, Summary, Trackers
from training.checkpoint import save_checkpoint
from training.record import Record, make_result, values_of
from training.resume import describe_run, read_checkpoint, samples_per_batch
from training.state import Average, History, LossMean, Position, RunInterrupted, StopSignals
from utils.data.loading import Batch, Loader, count_samples
from utils.distributed import (
    copy_from_main,
    gather,
    gather_number,
    interleave,
    joined,
    on_main,
    own_device,
    rank,
    world_size,
)
from utils.logging.console import logging_to, make_console
from utils.seed import EPOCH, STEP, VALIDATION, RandomState, mix, seed_all, seed_torch
from utils.torchutils import all_finite, load_weights, torch_settings

logger = logging.getLogger("plumbline")


class NonFiniteLossError(RuntimeError):
    """The loss or a weight is NaN or infinite; the weights before it are kept.

    Attributes:
        window: [epoch, window] of the update, both counted from 0.
        has_skipped: The run has left out such an update before.
    """

    def __init__(self, text: str, window: list[int], has_skipped: bool) -> None:
        super().__init__(text)
        self.text, self.window, self.has_skipped = text, window, has_skipped

    def __str__(self) -> str:
        return self.text  # fastai writes its own words into the arguments of an exception


class Run:
    """One run of a config: a context manager that keeps its state, its status and its files.

    Building it checks everything and writes nothing; entering it makes the folders.

    Attributes:
        model: What the routine calls, compiled if the config says so; `module` is the plain one.
        loss: loss(pred, target) -> scalar tensor.
        optimizer: The torch optimizer; `scheduler` the torch scheduler, or None.
        train_loader: Yields `Batch(x, y)` on the device; so do `val_loader` and `test_loader`,
            which may be None.
        position: Epoch, batch and step, the only ones there are.
        figures: What the last epoch took, and its gradient; see `training.callbacks.Figures`.
        intervals: Low and high of values of the best weights, where a `Ledger` has found them.
        should_stop: Set it to end the run after this epoch.
        is_main: Whether this process writes the files; under torchrun one of several does.

    Raises:
        ConfigError: Every problem of the config and its data.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        folders: Mapping[str, Any] = global_config,
        routine: str = "pytorch",
        train_dataset: Any = None,
        val_dataset: Any = None,
    ) -> None:
        config = {**config, "OPTIMIZER": config.get("OPTIMIZER") or torch.optim.AdamW}
        problems = check_config(config, data_given=train_dataset is not None)
        if problems:
            raise ConfigError(problems)
        self.config = config = with_defaults(config)
        try:
            self.device = own_device(get_device(config["DEVICE"]))
        except ValueError as error:
            raise ConfigError(f"DEVICE: {error}") from error
        config["NUM_THREADS"] = config["NUM_THREADS"] or torch.get_num_threads()  # recorded
        data = {"train": train_dataset, "val": val_dataset}
        with contextlib.ExitStack() as settings:
            settings.enter_context(torch_settings(config["NUM_THREADS"], config["DETERMINISTIC"]))
            settings.enter_context(joined(self.device))
            parts = _agreed(build, config, folders, data, self.device)
            self._set_up(parts, folders, routine)
            self._open = settings.pop_all()  # until the run ends

    # ------------------------------------------------------------------------------ set-up

    def _set_up(self, parts: Parts, folders: Mapping[str, Any], routine: str) -> None:
        config = self.config
        config |= {"METRICS": parts.named_metrics, **parts.filled_in}
        self.module, self.loss, self.metrics = parts.model, parts.loss, parts.metrics
        self.is_main, self._n_processes = rank() == 0, world_size()
        self._replicas: list[DistributedDataParallel] = []
        self.model = self._replicate(self.module)
        if config["COMPILE"]:
            self.model = torch.compile(self.model)
        self.optimizer, self.scheduler = parts.optimizer, parts.scheduler
        self.train_loader, self.val_loader, self.test_loader = parts.loaders.values()
        self.n_epochs, self.seed = config["EPOCHS"], config["SEED"]
        self.monitor = config["MONITOR"]
        self.test_metrics: dict[str, float] = {}
        self.figures: dict[str, float] = {}
        self.intervals: dict[str, list[float]] = {}
        self.last_update: dict[str, float] = {}

        self._per_step = parts.scheduler is not None and parts.scheduler_interval == "step"
        self._is_cuda = self.device.type == "cuda"
        self._accumulate, self._clip_norm = config["ACCUMULATE"], config["CLIP_NORM"]
        self._n_batches = len(self.train_loader)
        self._params = [p for group in self.optimizer.param_groups for p in group["params"]]
        self._set_precision(config["MIXED_PRECISION"])
        # a forward pass that meets a NaN has already written it into batch norm's statistics
        self._buffers = [b for b in self.module.buffers() if b.is_floating_point()]
        self._former_buffers = [b.clone() for b in self._buffers]

        routine = module_name(sys.modules[routine]) if routine in sys.modules else routine
        self.routine = routine.removeprefix("training.").removesuffix("_training")
        datasets = {part: loader.dataset for part, loader in parts.loaders.items() if loader}
        self.record = Record(config, folders, self.routine, datasets)
        self.position = Position()
        self._resumed = folders.get("RESUME")
        self._checkpoint: Any = None
        if self._resumed:
            self._checkpoint = _agreed(read_checkpoint, self, folders)
        self._to_skip = folders.get("SKIP")
        self.history = History(self.monitor, config["MONITOR_MODE"] or "min")
        self.train_mean = LossMean()
        self._val_losses: list[tuple[float, int]] = []  # and samples of each batch
        self._val_values: dict[str, float] = {}
        self.ema = Average(self.module, config["EMA"]) if config["EMA"] else None
        self._is_averaged = self._is_testing = False
        self._saves_in_epoch = bool({"every_steps", "every_minutes"} & set(config["CHECKPOINT"]))
        self._state: dict[str, Any] = {}
        self._loaded: dict[str, Any] | None = None  # what no part has taken yet, when resumed
        for name in ("module", "optimizer", "scheduler", "scaler", "ema", "position", "history"):
            self.track(name, getattr(self, name))
        self.track("loss", self.loss if isinstance(self.loss, nn.Module) else None)
        self.loss = self._replicate(self.loss)
        self.track("train_mean", self.train_mean)
        self.random = RandomState()
        self.track("random", self.random)
        self._bad = {part: loader.bad for part, loader in parts.loaders.items() if loader}
        for part, bad in self._bad.items():
            self.track(f"bad_samples.{part}", bad)
        for i, callback in enumerate(parts.callbacks):
            self.track(f"callback.{i}.{type(callback).__name__}", callback)

        self._notes = parts.notes
        self._stop_signals = StopSignals()
        self._console = make_console() if config["PROGRESS"] and self.is_main else None
        own = [Figures(), Summary(), *([Curves()] if config["CURVES"] else [])]
        own += [Trackers(config["TRACKERS"]), Progress(self._console)]
        self._notify = parts.notify
        own += [parts.notify] if parts.notify is not None else []
        self.callbacks = [*parts.callbacks, *(own if self.is_main else [])]

    def _set_precision(self, wanted: bool | str) -> None:
        """Choose autocast and loss scaler: bf16 on the CPU, fp16 on CUDA unless named."""
        self.scaler = None
        self._autocast: Any = contextlib.nullcontext()
        if wanted:
            is_fp16 = wanted == "fp16" or (wanted is True and self.device.type == "cuda")
            dtype = torch.float16 if is_fp16 else torch.bfloat16
            self._autocast = torch.autocast(self.device.type, dtype)
            if is_fp16:
                self.scaler = torch.amp.GradScaler(self.device.type)

    def _replicate(self, module: Any) -> Any:
        """Return what averages a module's gradients over the processes; one process needs none."""
        is_trained = isinstance(module, nn.Module) and any(
            p.requires_grad for p in module.parameters()
        )
        if self._n_processes == 1 or not is_trained:
            return module
        replica = DistributedDataParallel(module, **self.config["DDP_CONFIG"])
        # `begin_batch` copies them: a process without a batch left takes no part in a `forward`
        replica.broadcast_buffers = False
        self._replicas.append(replica)
        return replica

    def _hooks(self, name: str) -> list[Any]:
        """Return the callbacks' methods of this name, without those that do nothing."""
        return [
            getattr(callback, name)
            for callback in self.callbacks
            if getattr(type(callback), name, None) is not getattr(Callback, name)
        ]

    def track(self, name: str, stateful: Any) -> None:
        """Register an object whose `state_dict` belongs into the checkpoint; None is left out.

        In a resumed run the object is given its state at once.
        """
        if stateful is not None:
            self._state[name] = stateful
            if self._loaded is not None:
                self._restore(name, stateful)

    def say(self, line: str) -> None:
        """Show a line in the terminal and keep it in train.log."""
        logger.info("%s", line)

    # ------------------------------------------------------------------------ start and end

    def __enter__(self) -> "Run":
        self.started = self._saved_at = time.monotonic()
        try:
            name = on_main(lambda: self.record.start(self._resumed))
            self.record.set_name(name)
        except BaseException:
            self._open.close()
            self.record.release()
            raise
        try:
            self._start()
        except BaseException:
            self.__exit__(*sys.exc_info())  # Python calls it for the block alone
            raise
        return self

    def _start(self) -> None:
        log = self.record.log_dir / "train.log" if self.is_main else None
        self._open.enter_context(logging_to(self._console, log))
        self._stop_signals.install()
        self._open.callback(self._stop_signals.remove)
        if self._checkpoint is not None:
            self.load_state_dict(self._checkpoint.pop("state"))
            self._adapt_position(self._checkpoint)
        if self._to_skip is not None:
            self.position.skipped = list(self._to_skip)
        self._on_batch_start = self._hooks("on_batch_start")
        self._on_batch_end = self._hooks("on_batch_end")
        self._warn()
        for line in self._notes:
            self.say(line)
        for hook in self._hooks("on_start"):
            hook(self)

    def _warn(self) -> None:
        if self.record.lost:
            logger.warning(
                "not captured, so this run cannot be repeated from config.yaml: %s. Name a class,"
                " a function or a functools.partial instead.",
                ", ".join(self.record.lost),
            )
        for key, routine in PASSED_THROUGH.items():
            if self.config[key] and self.routine != routine:
                logger.warning("%s does nothing under the routine %s", key, self.routine)

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        with self._open:
            try:
                if self._is_averaged:
                    self._swap_average()
                if isinstance(error, NonFiniteLossError) and all_finite(self._params):
                    self._save_weights("last.pth")
                if error is not None:
                    error.run = self.record.name  # type: ignore[attr-defined]  # to be resumed
                late = self._tell_end(error)
                error = error or late
            finally:
                self._finish(error)
            if late is not None:
                raise late

    def _finish(self, error: BaseException | None) -> None:
        if not self.is_main:
            return
        result = make_result(self, _status(error), error)
        try:
            self.record.finish(result)
        except Exception as problem:
            if _status(error) != "failed":  # else what failed first is what is told
                result = make_result(self, "failed", problem)
            raise
        finally:
            if self._notify is not None:  # last: what it says is on the disk
                self._notify.on_end(self, result)

    def _tell_end(self, error: BaseException | None) -> Exception | None:
        """Tell every callback the result; return what one of them raised, if nothing did before."""
        late = None
        _log(error)
        result = make_result(self, _status(error), error)
        for callback in self.callbacks:
            if callback is self._notify:
                continue
            try:
                callback.on_end(self, result)
            except Exception as problem:  # noqa: BLE001, the other callbacks hear of the end, too
                _log(problem)
                late = late or (problem if error is None else None)
        return late

    def result(self) -> dict[str, Any]:
        """Return what the run came to; the content of result.json."""
        return make_result(self, "done")

    # ---------------------------------------------------------------------------- training

    def epochs(self) -> Iterator[int]:
        """Yield the epochs that are left, counted from 0."""
        while not self.is_over:
            yield self.position.epoch

    @property
    def is_over(self) -> bool:
        """Whether no epoch is left to train."""
        return self.position.epoch >= self.n_epochs or self.should_stop

    def begin_epoch(self) -> None:
        """Put the model in train mode and the loader at the position."""
        epoch, batch = self.position.epoch, self.position.batch
        if self._loaded:
            raise ValueError(
                f"checkpoint: expected parts of this run, got {', '.join(self._loaded)} as well."
                " Resume with the routine that tracked them."
            )
        self._epoch_seed = mix(self.seed, STEP, epoch, rank())
        skipped = self.position.skipped
        self._skipped_window = skipped[1] if skipped and skipped[0] == epoch else -1
        self.last_update = {}
        self.module.train()
        self.train_loader.set_position(epoch, batch)
        if batch == 0:  # a resumed epoch goes on with its sums and random states
            self.train_mean.reset()
            seed_all(mix(self.seed, EPOCH, epoch, rank()))
        else:
            self.random.restore()
        for hook in self._hooks("on_epoch_start"):
            hook(self)

    def begin_batch(self) -> None:
        """Seed this step: dropout and whatever else draws follow from its position."""
        for hook in self._on_batch_start:  # before the seed: a callback may draw
            hook(self)
        seed_torch(self._epoch_seed + self.position.batch, self._is_cuda)
        done = self.position.batch + 1
        self._is_border = done % self._accumulate == 0 or done == self._n_batches
        self._is_skipped = self.position.batch // self._accumulate == self._skipped_window
        if self._replicas:
            copy_from_main(self._buffers)
            for replica in self._replicas:  # as its `no_sync` does
                replica.require_backward_grad_sync = self._is_border and not self._is_skipped
        if self._buffers:
            _copy(self._buffers, self._former_buffers)

    def autocast(self) -> Any:
        """Return the context for forward pass and loss; it does nothing without MIXED_PRECISION."""
        return self._autocast

    def scaled(self, loss: torch.Tensor) -> torch.Tensor:
        """Return what `backward()` is called on: the loss over ACCUMULATE, times the loss scale.

        Raises:
            NonFiniteLossError: The loss is NaN or infinite; nothing has been updated by it.
        """
        # the one wait for the device in a step: it keeps a NaN away from the weights
        self._loss_value = loss.item()
        if self._n_processes > 1:
            self._loss_value = sum(gather_number(self._loss_value)) / self._n_processes
        if self._is_skipped:
            return torch.zeros((), device=self.device, requires_grad=True)
        if not math.isfinite(self._loss_value):
            self._stop_non_finite(f"the loss is {self._loss_value}")
        if self._accumulate > 1:
            loss = loss / self._accumulate
        return loss if self.scaler is None else self.scaler.scale(loss)

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of this batch."""
        self.scaled(loss).backward()

    def update(self) -> bool:
        """Step the optimizer when the window of ACCUMULATE batches is full or the epoch ends.

        Returns:
            Whether it stepped.
        """
        if not self._is_border:
            return False
        if self._is_skipped:
            self.optimizer.zero_grad()
            self.position.step += 1
            self.say(f"epoch {self.position.epoch + 1}: left out the update {self.position.step}")
            return False
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        if self.position.batch + 1 == self._n_batches:
            self._note_update()
        if self._clip_norm is not None:
            clip_grad_norm_(self._params, self._clip_norm)
        stepped = True
        if self.scaler is None:
            self.optimizer.step()
        else:
            scale = self.scaler.get_scale()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            stepped = self.scaler.get_scale() >= scale  # it skips a step with infinite gradients
        self.optimizer.zero_grad()
        if stepped and self.ema is not None:
            self.ema.update()
        if self._per_step:
            self.position.lr = self._read_lr()
            if stepped:
                self.scheduler.step()
        self.position.step += 1
        return True

    def _note_update(self) -> None:
        """Note gradient and learning rates of the epoch's last update.

        A norm of all gradients takes as long as a small step: once in an epoch it costs nothing.
        """
        norms = [p.grad.norm().item() for p in self._params if p.grad is not None]
        self.last_update = {"grad_norm": math.hypot(*norms)}
        for i, group in enumerate(self.optimizer.param_groups[1:], 1):
            self.last_update[f"lr_{i}"] = float(group["lr"])

    def end_batch(self, batch: Batch) -> float:
        """Count the batch, tell the callbacks, and return its loss; stop here if a signal came."""
        self.position.batch += 1
        if not self._is_skipped:
            self.train_mean.add(self._loss_value, self._count_samples(batch))
        elif self._buffers:
            _copy(self._former_buffers, self._buffers)
        for hook in self._on_batch_end:
            hook(self, self._loss_value)
        if self._is_border:  # of an update: gradients are no part of a checkpoint
            stop = self._received_signal()
            if stop is not None:
                self._stop_by_signal(stop)
            if self._saves_in_epoch and self._is_checkpoint_due():
                self.save_checkpoint()
        return self._loss_value

    def _count_samples(self, batch: Batch) -> int:
        """Return the samples of this batch in all processes."""
        own = count_samples(batch.y)
        if self._n_processes == 1 or self.config["ON_BAD_SAMPLE"] == "stop":
            return own * self._n_processes
        return int(sum(gather_number(own)))

    # -------------------------------------------------------------------------- validation

    def validates(self) -> bool:
        """Tell whether this epoch is validated: every VALIDATE_EVERY-th, and the last one."""
        epoch = self.position.epoch + 1
        is_due = epoch % self.config["VALIDATE_EVERY"] == 0 or epoch == self.n_epochs
        return self.val_loader is not None and is_due

    def begin_validation(self) -> None:
        """Turn to eval mode and averaged weights; start the metrics."""
        if self.ema is not None:
            self._swap_average()
        self._begin_evaluation()
        for hook in self._hooks("on_validation_start"):
            hook(self)

    def _begin_evaluation(self) -> None:
        self.module.eval()
        if self._replicas:
            copy_from_main(self._buffers)
        self._val_losses = []
        self.metrics.reset()
        # a model may draw in eval mode, too: then the values follow from the epoch
        seed_torch(mix(self.seed, VALIDATION, self.position.epoch, rank()))

    def val_step(self, pred: Any, target: Any, loss: torch.Tensor) -> None:
        """Add a batch to the validation's metrics and loss."""
        self.metrics.update(pred, target)
        self._val_losses.append((loss.item(), count_samples(target)))
        # several processes stop together, after the validation: here one may have a batch less
        if self._stop_signals.received is not None and self._n_processes == 1:
            self._stop_by_signal(self._stop_signals.received)

    def _end_evaluation(self) -> dict[str, float]:
        """Return loss and metrics of the whole set, the same in every process."""
        mean = LossMean()
        for loss, n_samples in interleave(gather(self._val_losses)):
            mean.add(loss, n_samples)
        self.metrics.gather()
        return {"loss": mean.mean(), **self.metrics.compute()}

    def end_validation(self) -> None:
        """Compute the metrics; turn back to train mode and the weights in training."""
        self._val_values = self._end_evaluation()
        if self._is_averaged:
            self._swap_average()
        self.module.train()

    @contextlib.contextmanager
    def validating(self) -> Iterator[Loader]:
        """Validate in this block: eval mode, averaged weights, no gradients. Gives the loader."""
        self.begin_validation()
        with torch.no_grad():
            yield self.val_loader
        self.end_validation()

    @contextlib.contextmanager
    def testing(self) -> Iterator[Loader]:
        """Evaluate TEST_DATASET in this block, on the best weights. Gives the loader."""
        self._is_testing = True
        with self.best_weights(), torch.no_grad():
            self._begin_evaluation()
            yield self.test_loader
            self._settle_bad_samples()
            values = self._end_evaluation()
        self.test_metrics = {f"test_{name}": value for name, value in values.items()}
        self._is_testing = False

    @contextlib.contextmanager
    def best_weights(self) -> Iterator[Path]:
        """Put the best weights into the model in this block, before any validation the last ones.

        Gives the file. After the block the model has the weights that it had before.
        """
        state = {name: value.clone() for name, value in self.module.state_dict().items()}
        paths = self.record.paths()
        path = Path(paths.get("best") or paths["last"])
        self.module.load_state_dict(load_weights(path)["model"])
        try:
            yield path
        finally:
            self.module.load_state_dict(state)

    def _swap_average(self) -> None:
        self.ema.swap()
        self._is_averaged = not self._is_averaged

    # ------------------------------------------------------------------------ end of epoch

    def end_epoch(self) -> None:
        """Step the scheduler, write the epoch's row and weights, and move on."""
        self._settle_bad_samples()
        if not self._per_step:
            self.position.lr = self._read_lr()
        if not all_finite(self._params):
            self._stop_non_finite("a weight is not finite after the last update")
        row = {"epoch": self.position.epoch + 1, "step": self.position.step, "lr": self.position.lr}
        row["train_loss"] = self.train_mean.mean()
        if self.validates():
            row |= {f"val_{name}": value for name, value in self._val_values.items()}
        if self.scheduler is not None and not self._per_step:
            self._step_scheduler(row)
        is_best = self.history.add(row)
        self._warn_of_monitor(row)
        for hook in self._hooks("on_epoch_end"):
            hook(self, values_of(row))
        self.should_stop = any(gather(self.should_stop))
        self.position.epoch += 1
        self.position.batch = 0
        on_main(lambda: self._write_epoch(is_best))
        stop = None if self.is_over else self._received_signal()
        every = self.config["CHECKPOINT"].get("every_epochs", 1)
        if self.is_over or stop is not None or self.position.epoch % every == 0:
            self.save_checkpoint()
        if stop is not None:
            raise RunInterrupted(stop)

    @property
    def n_bad_samples(self) -> int | None:
        """How many samples were left out because they could not be read; None: one stops the run.

        Another process's are counted from the end of the epoch on.
        """
        if self.config["ON_BAD_SAMPLE"] == "stop":
            return None
        return sum(len(bad.found) for bad in self._bad.values())

    def _settle_bad_samples(self) -> None:
        """Let all processes know what was left out, write it down, and stop where it is much."""
        if self.n_bad_samples is None:
            return
        for bad in self._bad.values():
            bad.gather()
        on_main(lambda: self.record.write_bad_samples(self._bad))
        for part, bad in self._bad.items():
            bad.check(f"{part.upper()}_DATASET")

    def _write_epoch(self, is_best: bool) -> None:
        self.record.write_metrics(self.history.rows)
        self._save_weights("last.pth")
        if is_best:
            self._save_weights("best.pth")

    def _warn_of_monitor(self, row: Mapping[str, Any]) -> None:
        """Say that an epoch cannot be the best one; where none can, there is no best.pth."""
        if not math.isnan(row.get(self.monitor, math.nan)):
            return
        if self.validates() or self.monitor == "train_loss":
            known = [f"{name} {value:.4g}" for name, value in values_of(row).items()]
            logger.warning(
                'MONITOR: expected a number for "%s", got %s, so epoch %d cannot be the best one.'
                " Without any other there is no best.pth. Name a value that is one: %s.",
                self.monitor,
                "nan" if self.monitor in row else "nothing",
                row["epoch"],
                ", ".join(known),
            )

    def _read_lr(self) -> float:
        return self.optimizer.param_groups[0]["lr"]

    def _step_scheduler(self, row: Mapping[str, Any]) -> None:
        if not isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            self.scheduler.step()
        elif self.monitor in row:  # not in an epoch without validation
            self.scheduler.step(row[self.monitor])

    def _save_weights(self, name: str) -> None:
        if not self.is_main:
            return
        if self.ema is not None:
            self._swap_average()
        self.record.save_weights(name, self.module.state_dict(), self.position.epoch)
        if self.ema is not None:
            self._swap_average()

    # ------------------------------------------------------------------------------- state

    @property
    def should_stop(self) -> bool:
        """Whether the epoch in work is the last one; set it to end the run after it."""
        return self.position.should_stop

    @should_stop.setter
    def should_stop(self, stop: bool) -> None:
        self.position.should_stop = stop

    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumed run needs, whichever routine resumes it. Collective.

        Only on the border of an update: gradients are not part of it.
        """
        return {name: stateful.state_dict() for name, stateful in self._state.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned; parts that are tracked later get theirs then.

        Raises:
            ValueError: The state lacks a part of this run.
        """
        self._loaded = dict(state)
        for name, stateful in self._state.items():
            # a checkpoint that is older than ON_BAD_SAMPLE knows of none
            if name in self._loaded or not name.startswith("bad_samples."):
                self._restore(name, stateful)
        self.optimizer.zero_grad()

    def _restore(self, name: str, stateful: Any) -> None:
        if name not in self._loaded:
            raise ValueError(
                f'checkpoint: expected the part "{name}", got {", ".join(self._loaded) or "none"}.'
                " Resume with the config and the routine's parts that the run had."
            )
        stateful.load_state_dict(self._loaded.pop(name))

    def save_checkpoint(self) -> None:
        """Write the state for resume. Collective."""
        state = {**describe_run(self), "state": self.state_dict()}
        on_main(lambda: save_checkpoint(state, self.record.weight_dir))
        self._saved_at = time.monotonic()

    def _is_checkpoint_due(self) -> bool:
        every = self.config["CHECKPOINT"]
        if "every_steps" in every and self.position.step % every["every_steps"] == 0:
            return True
        if "every_minutes" not in every:
            return False
        is_due = time.monotonic() - self._saved_at > 60 * every["every_minutes"]
        return bool(gather_number(is_due)[0])  # one clock for all processes

    def _adapt_position(self, checkpoint: Mapping[str, Any]) -> None:
        """Count the finished batches anew when the resumed run has a batch size of its own."""
        former, now = (samples_per_batch(about) for about in (checkpoint, describe_run(self)))
        if former != now:
            logger.warning(
                "batch size %d instead of %d: the effective batch is the same, the bits are not",
                now,
                former,
            )
            # up: at the end of an epoch, whose last window may be shorter
            batches = math.ceil(self.position.batch * former / now)
            self.position.batch = min(batches, self._n_batches)

    def _received_signal(self) -> int | None:
        """Return the number of a stop signal that some process has received."""
        if self._n_processes == 1:
            return self._stop_signals.received
        return int(max(gather_number(self._stop_signals.received or 0))) or None

    def _stop_by_signal(self, number: int) -> None:
        if self._is_averaged:
            self._swap_average()
        if not self._is_testing:  # a test pass has the best weights in the model; all is saved
            self._save_weights("last.pth")
            self.save_checkpoint()
        raise RunInterrupted(number)

    def _stop_non_finite(self, what: str) -> None:
        if self._buffers:
            _copy(self._former_buffers, self._buffers)
        window = max(0, min(self.position.batch, self._n_batches - 1)) // self._accumulate
        raise NonFiniteLossError(
            f"epoch {self.position.epoch + 1}, batch {self.position.batch + 1}: expected finite"
            f" numbers, but {what}. Lower the learning rate, set CLIP_NORM=1.0, look for NaN in"
            " the data, or leave the update out by ON_NAN=skip.",
            [self.position.epoch, window],
            self.position.skipped is not None,
        )


def _agreed(make: Callable[..., Any], *args: Any) -> Any:
    """Call what may find problems in every process; a problem of one ends them all.

    Raises:
        ConfigError: The problems of all processes.
    """
    made, problems = None, []
    try:
        made = make(*args)
    except ConfigError as error:
        problems = error.problems
    problems = list(dict.fromkeys(problem for own in gather(problems) for problem in own))
    if problems:
        raise ConfigError(problems)
    return made


@torch.no_grad()
def _copy(source: list[torch.Tensor], target: list[torch.Tensor]) -> None:
    """Copy tensors, all in one call: on CUDA one kernel, on the CPU half the time of a loop."""
    torch._foreach_copy_(target, source)  # pylint: disable=protected-access


def _status(error: BaseException | None) -> str:
    if error is None:
        return "done"
    stops = (RunInterrupted, KeyboardInterrupt)
    return "interrupted" if isinstance(error, stops) else "failed"


def _log(error: BaseException | None) -> None:
    """Say what went wrong; the traceback goes to train.log alone."""
    if error is not None and _status(error) == "failed":
        logger.error("%s: %s", type(error).__name__, error)
        if isinstance(error, torch.OutOfMemoryError):
            logger.error(
                "the GPU has too little memory: halve DATA_LOADER_CONFIG.batch_size and double"
                " ACCUMULATE (ON_OOM=halve does both), or set MIXED_PRECISION=True"
            )
        logger.debug("%s", "".join(traceback.format_exception(error)))
