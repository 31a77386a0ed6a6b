"""Which samples of one source are for training and which are held out for validation."""

import fnmatch
import hashlib
from collections.abc import Iterable, Sequence
from numbers import Real

from config.errors import did_you_mean, shorten

SUBSETS = ("all", "train", "val")
NUM_NAMED = 10  # names in one problem; the rest is counted

Holdout = Sequence[str] | float
Fold = Sequence[int] | None


def check_split(subset: str, holdout: Holdout, fold: Fold, seed: int) -> list[str]:
    """Return what is wrong with the arguments of a split, a line for each problem.

    See `held_out` for what they mean.
    """
    problems = []
    if subset not in SUBSETS:
        problems.append(
            f"subset: expected one of {', '.join(SUBSETS)}, got {subset!r}."
            f"{did_you_mean(str(subset), SUBSETS)}"
        )
    if isinstance(holdout, Real):
        is_right = 0 < holdout < 1
    else:
        is_right = isinstance(holdout, list | tuple | set | frozenset)
        is_right = is_right and all(isinstance(name, str) for name in holdout)
    if not is_right:
        problems.append(
            "holdout: expected a list of file names without suffix, as text, or a share between "
            f"0 and 1, got {shorten(holdout)}. Correct it."
        )
    elif holdout and fold is not None:
        problems.append("fold: expected a fold or a holdout, got both. Take one out.")
    elif fold is None and subset in SUBSETS and bool(holdout) == (subset == "all"):
        problems.append(
            f'holdout: expected one with subset "train" or "val" and none with "all", got '
            f'{shorten(holdout)} with "{subset}". Give both or neither.'
        )
    if fold is not None and not _is_fold(fold):
        problems.append(
            "fold: expected [number from 0, how many], such as [0, 5], got "
            f"{shorten(fold)}. Correct it."
        )
    elif fold is not None and subset == "all":
        problems.append(
            f'fold: expected none with subset "all", got {shorten(fold)}. '
            'Give subset="train" or subset="val".'
        )
    if not isinstance(seed, int) or isinstance(seed, bool):
        problems.append(f"seed: expected a whole number, got {shorten(seed)}. Correct it.")
    return problems


def held_out(
    names: Iterable[str], holdout: Holdout, fold: Fold, seed: int, where: str
) -> tuple[set[str], list[str]]:
    """Return the names held out for validation, and what is wrong with them.

    The same in every process and on every machine, whatever order the names have.

    Args:
        names: The names of all samples.
        holdout: Those held out, a star in one standing for any text; or the share. A share is
            drawn by a hash of each name, so a sample stays on its side when others are added; of
            few samples it is met roughly (0.2 of 30: 2 to 10, and never none).
        fold: (number from 0, how many): one of so many parts of equal size, drawn by the same hash.
        seed: Another one gives another draw.
        where: What the names are of, for errors.
    """
    names = set(names)
    order = sorted(names, key=lambda name: _hash(name, seed))
    asked = shorten(holdout)
    if fold is not None:
        number, n_folds = fold
        held = set(order[number::n_folds])
        asked = f"fold {shorten(fold)}"
    elif isinstance(holdout, Real):
        n_held = sum(_hash(name, seed) < holdout * 2**64 for name in order)
        held = set(order[: min(max(n_held, 1), len(order) - 1)])
    else:
        found = {text: _find(text, names) for text in holdout}
        unknown = sorted(text for text, those in found.items() if not those)
        if unknown:
            return set(), [
                f"holdout: expected names of {where}, got {some(unknown)}. "
                "Give the names without suffix."
            ]
        held = set().union(*found.values())
    if len(held) in (0, len(names)):
        return held, [
            f"holdout: expected some on both sides, got {len(held)} of {len(names)} held out "
            f"by {asked}. Name those to hold out."
        ]
    return held, []


def some(items: Sequence) -> str:
    """Return the first items as text, and how many more there are."""
    text = ", ".join(str(item) for item in items[:NUM_NAMED])
    return text + (f" and {len(items) - NUM_NAMED} more" if len(items) > NUM_NAMED else "")


def _is_fold(fold: object) -> bool:
    if not isinstance(fold, list | tuple) or len(fold) != 2:
        return False
    is_whole = all(isinstance(part, int) and not isinstance(part, bool) for part in fold)
    return is_whole and 0 <= fold[0] < fold[1] and fold[1] > 1


def _find(text: str, names: set[str]) -> set[str]:
    return {text} & names or {name for name in names if fnmatch.fnmatchcase(name, text)}


def _hash(name: str, seed: int) -> int:
    # Python's own hash() differs from process to process
    text = f"{seed}:{name}" if seed else name
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
