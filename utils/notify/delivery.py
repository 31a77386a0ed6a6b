"""A message on its way, whatever the server does: hard deadline, one warning, no exception."""

import contextlib
import logging
import re
import socket
import threading
import time
from collections.abc import Callable

from config.errors import ConfigError

logger = logging.getLogger("plumbline")

DEADLINE = 15.0  # seconds for a message, a second attempt included
THREAD = "plumbline-notify"


class DeliveryError(Exception):
    """A message was not delivered; the text holds no secret."""


class Delivery:
    """Calls `send(delivery)` in a daemon thread, and gives it up at the deadline.

    A timeout of a socket is for one read: a server that drips bytes never meets it. The thread is a
    daemon, so that a process never waits for it when it ends.

    Args:
        what: Message and receivers, for the warning.
        send: Sends the message; raises DeliveryError.
        seconds: From now to the deadline.
    """

    def __init__(self, what: str, send: Callable[["Delivery"], None], seconds: float) -> None:
        self.what, self.seconds = what, seconds
        self._end = time.monotonic() + seconds
        self._problem: str | None = f"no answer within {seconds:g} seconds"
        self._connection: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, args=(send,), name=THREAD, daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # the machine has no thread left
            self._problem = str(error)

    def _run(self, send: Callable[["Delivery"], None]) -> None:
        try:
            send(self)
            self._problem = None
        except (DeliveryError, ConfigError) as error:  # the latter: settings have changed since
            self._problem = one_line(str(error))
        except Exception as error:  # noqa: BLE001, its text may hold a secret
            self._problem = f"unexpected {type(error).__name__}"
        finally:
            if self._connection is not None:
                self._connection.close()

    def time_left(self) -> float:
        """Return the seconds to the deadline.

        Raises:
            TimeoutError: There are none.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("the deadline is over")
        return left

    def watch(self, connection: socket.socket) -> None:
        """Remember a connection, to be shut down at the deadline."""
        if self._connection is not None:
            self._connection.close()
        self._connection = connection.dup()  # stays the same one when TLS takes the other over

    def wait(self) -> bool:
        """Wait until the message is sent or given up; log a warning if it is not sent.

        Returns:
            Whether it is sent.
        """
        if self._thread.ident is not None:
            self._thread.join(max(0.0, self._end - time.monotonic()))
        problem = self._problem
        if problem is None:
            return True
        if self._connection is not None:  # what has not been sent by now shall not arrive later
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)
        logger.warning("%s not sent: %s", self.what, problem)
        return False


def clean(text: str) -> str:
    """Return text that UTF-8 can hold, with plain line ends and without control characters."""
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    text = re.sub(r"\r\n?", "\n", text)
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "?", text)


def one_line(text: str) -> str:
    """Return text for a header: `clean`, and every run of white space is one space."""
    return " ".join(clean(text).split())
