"""Notice that nothing happens any more."""

import math
import threading
import time
from collections.abc import Callable


class Watchdog:
    """Calls `tell(seconds)` once when nothing has been heard for too long, and then again if so.

    Attributes:
        heard: The moment of the last sign of life; set it to `time.monotonic()`.
    """

    def __init__(self, seconds: float, tell: Callable[[float], None]) -> None:
        self.seconds, self.tell = seconds, tell
        self.heard = time.monotonic()
        self._told_of = math.nan  # the last sign of life before the silence that was told
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        """Begin to watch, in a thread that keeps no process alive."""
        self._thread.start()

    def stop(self) -> None:
        """End it, without waiting for a call of `tell` that runs."""
        self._stopped.set()

    def check(self, now: float) -> float:
        """Tell of a silence, if there is a new one; return the seconds until the next check."""
        heard = self.heard
        if heard == self._told_of:
            return self.seconds
        left = heard + self.seconds - now
        if left > 0:
            return left
        self._told_of = heard
        self.tell(now - heard)
        return self.seconds

    def _watch(self) -> None:
        while not self._stopped.wait(self.check(time.monotonic())):
            pass
