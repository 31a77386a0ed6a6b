"""Other services (Slack, Telegram, ntfy, ...) by the package apprise, which is optional.

Their URLs hold secrets: they are read from a variable of the environment or of `.env` whenever they
are needed, and kept nowhere.
"""

import importlib.util
import logging
import re
from typing import Any

from config.errors import ConfigError
from utils.notify.delivery import DEADLINE, THREAD, Delivery, DeliveryError, clean, one_line
from utils.notify.settings import read_settings

URLS = "NOTIFY_URLS"


def find_urls(variable: str) -> list[str]:
    """Return the URLs of a variable, which stand apart by spaces or commas.

    Raises:
        ConfigError: The variable is empty.
    """
    text = read_settings().get(variable, "").strip()
    if not text:
        raise ConfigError(
            f"env:{variable}: expected URLs for apprise in this variable, got none. Set it in the"
            " environment or in .env at the project's root."
        )
    # a comma may be part of a URL, but not before a scheme
    return re.split(r"[\s,]+(?=[A-Za-z][A-Za-z0-9+.-]*://)", text)


class ServiceNotifier:
    """Sends texts to one service.

    Args:
        variable: The variable that holds its URL.
        number: Which of the URLs, from 0.
        deadline: Seconds after which a message is given up.

    Raises:
        ConfigError: apprise is missing, or does not know such a URL.
    """

    def __init__(
        self, variable: str = URLS, number: int = 0, *, deadline: float = DEADLINE
    ) -> None:
        self.variable, self.number, self.deadline = variable, number, deadline
        self._make()

    def notify(self, message: str, subject: str) -> bool:
        """Send a text and wait for it; False and a warning when it could not be sent."""
        return self.start(message, subject).wait()

    def start(self, message: str, subject: str, _picture: bytes | None = None) -> Delivery:
        """Send a text in the background. The picture is left out: few services take one."""

        def send(_delivery: Delivery) -> None:
            service = self._make()
            # one service in this thread: apprise's own pool of threads holds up the end of Python
            title, body = one_line(subject), clean(message)
            if not service.notify(body=body, title=title, overflow="truncate"):
                raise DeliveryError("the service refuses the message, or cannot be reached")

        return Delivery(f"message {self._name()}", send, self.deadline)

    def _name(self) -> str:
        return f"by URL {self.number + 1} of {self.variable}"

    def _make(self) -> Any:
        if importlib.util.find_spec("apprise") is None:
            raise ConfigError(
                f"env:{self.variable}: expected the package apprise, got none."
                " Install it: pip install apprise."
            )
        _keep_silent()
        import apprise

        urls = find_urls(self.variable)[self.number :]
        service = apprise.Apprise.instantiate(urls[0]) if urls else None
        if service is None:
            raise ConfigError(
                f"env:{self.variable}: expected URLs that apprise knows, got another as URL"
                f" {self.number + 1}. See the list of services in apprise's documentation."
            )
        return service


def _keep_silent() -> None:
    """Keep the URLs out of all logs, which apprise and its HTTP client write them to."""
    logging.getLogger("apprise").addFilter(_refuse)
    logging.getLogger("urllib3.connectionpool").addFilter(_is_of_others)


def _refuse(_record: logging.LogRecord) -> bool:
    return False


def _is_of_others(record: logging.LogRecord) -> bool:
    return record.threadName != THREAD
