"""Parts of a model by the names of their parameters, as PARAM_GROUPS and `Unfreeze` take them.

layer4              all parameters of a module
layer4.0.bn1.bias   one parameter
*.bias              a pattern, as of fnmatch; `*` takes dots as well
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import torch
from torch import nn

from config.errors import ConfigError, did_you_mean

# a word of PARAM_GROUPS; what stands there comes on top of what a parameter gets by its name
NORM_AND_BIAS = "norm_and_bias"


class Group(NamedTuple):
    """Parameters that the optimizer treats alike; `arguments` are those of this group alone."""

    title: str
    params: list[nn.Parameter]
    arguments: dict[str, Any]


def trainable(module: Any, prefix: str = "") -> dict[str, nn.Parameter]:
    """Return the trainable parameters of a module by name; none of what is no module."""
    named = module.named_parameters() if isinstance(module, nn.Module) else ()
    return {prefix + name: param for name, param in named if param.requires_grad}


def matches(pattern: str, name: str) -> bool:
    """Tell whether a pattern means the parameter of this name."""
    return name == pattern or name.startswith(f"{pattern}.") or fnmatchcase(name, pattern)


def explain_unmatched(pattern: str, names: Iterable[str]) -> str:
    """Return the message for a pattern that means none of the parameters of these names."""
    pieces = [name.split(".") for name in names]
    top = dict.fromkeys(path[0] for path in pieces)
    parts = dict.fromkeys(".".join(path[:n]) for path in pieces for n in range(1, len(path) + 1))
    return (
        f"expected a part that is trained ({', '.join(top)}), one inside of it, or a pattern such"
        f' as "*.bias", got "{pattern}".{did_you_mean(pattern, parts)} See print(model) for names.'
    )


def group_parameters(
    named: Mapping[str, nn.Parameter], wanted: Mapping[str, Mapping[str, Any]]
) -> list[Group]:
    """Divide parameters among the groups of PARAM_GROUPS.

    A parameter belongs to the first pattern that means it. Those that none means come first. The
    order follows from the config and the model, so that a resumed run finds its groups.

    Args:
        named: Parameters by name; those of the loss begin with "loss.".
        wanted: Pattern to arguments of the optimizer. `norm_and_bias` means all parameters of at
            most one dimension, such as those of norm layers, and all biases.

    Raises:
        ConfigError: Every pattern that means no parameter, or none that is left for it.
    """
    patterns = [pattern for pattern in wanted if pattern != NORM_AND_BIAS]
    found: dict[tuple[str, bool], list[nn.Parameter]] = {
        (pattern, is_small): [] for pattern in ("", *patterns) for is_small in (False, True)
    }
    for name, param in named.items():
        pattern = next((pattern for pattern in patterns if matches(pattern, name)), "")
        is_small = param.dim() <= 1 or name.endswith(".bias")
        found[pattern, is_small and NORM_AND_BIAS in wanted].append(param)
    problems = []
    for pattern in patterns:
        if not any(matches(pattern, name) for name in named):
            problems.append(explain_unmatched(pattern, named))
        elif not found[pattern, False] + found[pattern, True]:
            problems.append(
                f'expected parameters for "{pattern}" that no pattern before it means, got none.'
                " The first one counts: put it before them."
            )
    if NORM_AND_BIAS in wanted and not any(found[key] for key in found if key[1]):
        problems.append(f'expected norm layers or biases for "{NORM_AND_BIAS}", got none.')
    if problems:
        raise ConfigError(problems)
    return [
        Group(
            f"{pattern or 'rest'}{f', {NORM_AND_BIAS}' if is_small else ''}",
            params,
            {**wanted.get(pattern, {}), **(wanted[NORM_AND_BIAS] if is_small else {})},
        )
        for (pattern, is_small), params in found.items()
        if params
    ]


def make_grouped(
    make: Callable[..., torch.optim.Optimizer],
    arguments: Mapping[str, Any],
    groups: Sequence[Group],
) -> torch.optim.Optimizer:
    """Return the optimizer of several groups.

    Raises:
        ConfigError: Every argument of a group that the optimizer refuses, or does not keep for
            each group: torch itself takes any.
    """
    made = make([{"params": group.params, **group.arguments} for group in groups], **arguments)
    problems = []
    for group in groups:
        others = [name for name in group.arguments if name not in made.defaults]
        if others:
            problems.append(
                f'PARAM_GROUPS, "{group.title}": expected what {type(made).__name__} keeps for each'
                f" group ({', '.join(made.defaults)}), got {', '.join(others)}."
                " Move it to OPTIMIZER_CONFIG."
            )
        elif group.arguments:
            try:
                make(group.params, **{**arguments, **group.arguments})
            except (TypeError, ValueError) as error:
                problems.append(f'PARAM_GROUPS, "{group.title}": {error}')
    if problems:
        raise ConfigError(problems)
    return made


def describe_groups(groups: Iterable[Group]) -> list[str]:
    """Return a line for each group, beginning with its learning rate's name in the trackers."""
    lines = []
    for i, group in enumerate(groups):
        n_params = sum(param.numel() for param in group.params)
        own = "".join(f", {name}={value}" for name, value in group.arguments.items())
        lines.append(f"{f'lr_{i}' if i else 'lr'}: {group.title}, {n_params:,} parameters{own}")
    return lines
