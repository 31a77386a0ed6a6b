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


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ` Did you mean "x"?` for the nearest known word, or an empty string."""
    by_case = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), by_case, n=1)
    return f' Did you mean "{by_case[near[0]]}"?' if near else ""


def shorten(value: object, limit: int = 80) -> str:
    """Return the repr of a value on one line, cut to `limit` characters."""
    text = re.sub(r"\s*\n\s*", " ", repr(value))  # torch's modules take a line for each part
    return text if len(text) <= limit else text[: limit - 3] + "..."
