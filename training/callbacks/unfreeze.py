"""Freeze parts of a network, and let them learn later."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from training.callbacks.base import Callback
from training.parameters import explain_unmatched, matches, trainable
from utils.distributed import world_size

if TYPE_CHECKING:
    from training.run import Run


class Unfreeze(Callback):
    """Let parts of the network learn from the start, others after some epochs, the rest never.

    What does not learn gets no gradient, no update and no weight decay, and what lies before all
    that learns takes no time in the backward pass. A part has the learning rate of PARAM_GROUPS and
    the scheduler of the run, also when it begins to learn late. What the model itself has frozen
    stays so, and the parameters of a loss always learn.

    Batch norm of a frozen part is in eval mode: it uses its running statistics, not those of the
    batch, and leaves them as they are.

    Source: Howard and Ruder, Universal Language Model Fine-tuning for Text Classification, 2018,
    https://arxiv.org/abs/1801.06146, where each epoch lets one more layer learn.

    Args:
        stages: Number of epochs that are done to names of what learns from then on: modules,
            parameters or patterns, as in PARAM_GROUPS. One stage begins at 0.
        fix_statistics: False leaves batch norm of frozen parts in train mode, so that its
            statistics become those of the new data.

    Raises:
        ValueError: `stages` is something else.

    Example:
        The head learns alone for two epochs, then with layer4, and from the sixth on all does.

        >>> from functools import partial
        >>> callbacks = [partial(Unfreeze, stages={0: ["head"], 2: ["layer4"], 5: ["*"]})]
    """

    def __init__(self, stages: Mapping[int, Sequence[str]], fix_statistics: bool = True) -> None:
        is_good = isinstance(stages, Mapping) and all(map(_is_stage, stages.items()))
        if not is_good or 0 not in stages:
            raise ValueError(
                "Unfreeze: expected stages such as {0: ['head'], 3: ['*']}, epochs to lists of"
                f" names, the first at 0, got {stages}."
            )
        self.stages, self.fix_statistics = dict(stages), fix_statistics
        self.params: dict[str, nn.Parameter] = {}  # what can learn
        self.norms: list[tuple[nn.Module, nn.Module]] = []  # batch norm, and the part it is of
        self.fixed: list[nn.Module] = []  # in eval mode now

    def check(self, model: nn.Module, config: Mapping[str, Any]) -> list[str]:
        names = trainable(model)
        problems = [
            f"Unfreeze: {explain_unmatched(pattern, names)}"
            for patterns in self.stages.values()
            for pattern in patterns
            if not any(matches(pattern, name) for name in names)
        ]
        options = config["DDP_CONFIG"]
        if world_size() > 1 and not options.get("find_unused_parameters"):
            problems.append(
                "Unfreeze: expected DDP_CONFIG.find_unused_parameters=True under several"
                " processes, which wait for each gradient without it. Set it."
            )
        if world_size() > 1 and options.get("static_graph"):
            problems.append(
                "Unfreeze: expected DDP_CONFIG.static_graph=False, for what learns changes, got"
                " True. Remove it with ~DDP_CONFIG.static_graph."
            )
        return problems

    def on_start(self, run: "Run") -> None:
        learnt = {id(p) for group in run.optimizer.param_groups for p in group["params"]}
        named = run.module.named_parameters()
        self.params = {name: param for name, param in named if id(param) in learnt}
        self.norms = list(_find_norms(run.module)) if self.fix_statistics else []
        self._freeze(run.position.epoch)  # before the parts are counted for the log

    def on_epoch_start(self, run: "Run") -> None:
        epoch = run.position.epoch
        self._freeze(epoch)
        if epoch in self.stages and run.position.batch == 0:
            n_learning = sum(p.numel() for p in self.params.values() if p.requires_grad)
            n_all = sum(p.numel() for p in self.params.values())
            run.say(
                f"epoch {epoch + 1}: trains {', '.join(self._names(epoch))},"
                f" {n_learning:,} of {n_all:,} parameters"
            )

    def on_batch_start(self, run: "Run") -> None:
        # here, because fastai and Lightning put the model in train mode after on_epoch_start
        for norm in self.fixed:
            norm.training = False

    def _freeze(self, epoch: int) -> None:
        """Let learn what the stages until this epoch name: it follows from the position alone."""
        patterns = self._names(epoch)
        for name, param in self.params.items():
            param.requires_grad_(any(matches(pattern, name) for pattern in patterns))
        self.fixed = [
            norm for norm, part in self.norms if not any(p.requires_grad for p in part.parameters())
        ]

    def _names(self, epoch: int) -> list[str]:
        starts = sorted(start for start in self.stages if start <= epoch)
        return [pattern for start in starts for pattern in self.stages[start]]


def _is_stage(stage: tuple[Any, Any]) -> bool:
    start, names = stage
    is_list = isinstance(names, (list, tuple)) and len(names) > 0
    return type(start) is int and start >= 0 and is_list and all(isinstance(n, str) for n in names)


def _find_norms(model: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Yield every module with running statistics, and the part with parameters that it is of.

    That is the module itself or, where it has no weights of its own, the nearest one around it.
    """
    for name, module in model.named_modules():
        if getattr(module, "running_mean", None) is not None:
            part = module
            while name and not any(True for _ in part.parameters()):
                name = name.rpartition(".")[0]
                part = model.get_submodule(name)
            yield module, part
