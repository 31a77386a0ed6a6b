"""Errors that a user can mend, and the way they are worded."""

import difflib
import re
from collections.abc import Iterable


class ConfigError(ValueError):
    """A config or its data cannot work; holds every problem found, not only the first.

    Raised before a run writes anything. The command lines print it and exit with 2.
    """

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


def did_you_mean(word: str, known: Iterable[object]) -> str:
    """Return ` Did you mean "x"?` for the nearest known word, or an empty string."""
    known = [str(name) for name in known]
    near = difflib.get_close_matches(word.lower(), [name.lower() for name in known], n=1)
    # of names that differ in case alone, such as a class and its module, the one most alike
    near = [name for name in known if name.lower() in near]
    near = difflib.get_close_matches(word, near, n=1, cutoff=0)
    return f' Did you mean "{near[0]}"?' if near else ""


def shorten(value: object, limit: int = 80) -> str:
    """Return the repr of a value on one line, cut to `limit` characters."""
    text = re.sub(r"\s*\n\s*", " ", repr(value))  # torch's modules take a line for each part
    return text if len(text) <= limit else text[: limit - 3] + "..."
