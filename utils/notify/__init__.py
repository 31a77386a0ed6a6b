"""Messages about a run: by mail, and by apprise to other services. None of them can harm the run.

A notifier has `start(message, subject, picture)`, which gives a `Delivery`, and `notify`, which
waits for it.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from config.errors import ConfigError
from utils.notify.delivery import DEADLINE
from utils.notify.services import URLS, ServiceNotifier, find_urls
from utils.notify.settings import complain_of_address, is_address, read_settings
from utils.notify.smtp import SMTPNotifier

# and the message for one does not quote it
_NO_URL = (
    "expected a mail address or env:NAME, got a URL. It holds secrets, and a config is written down"
    f" with each run: put it into the environment or into .env, {URLS}=..., and name env:{URLS}."
)


def make_notifiers(receivers: str | Sequence[str], deadline: float = DEADLINE) -> list[Any]:
    """Return what tells these receivers and the services of the variable NOTIFY_URLS.

    Args:
        receivers: Mail addresses, and `env:NAME` for a variable of the environment or of `.env`
            that holds URLs for apprise. Text is divided at its commas.
        deadline: Seconds after which a message is given up.

    Raises:
        ConfigError: All that is wrong with the receivers, and all settings that are missing.
    """
    problems: list[str] = []
    addresses, variables = [], []
    if isinstance(receivers, str):
        receivers = [part.strip() for part in receivers.split(",")]
    for receiver in receivers if isinstance(receivers, (list, tuple)) else [receivers]:
        if is_address(receiver):
            addresses.append(receiver)
        elif isinstance(receiver, str) and receiver.startswith("env:"):
            variables.append(receiver.removeprefix("env:"))
        elif isinstance(receiver, str) and "://" in receiver:
            problems.append(_NO_URL)
        else:
            problems.append(complain_of_address(receiver))
    notifiers: list[Any] = []
    try:
        if read_settings().get(URLS):
            variables.append(URLS)
        if addresses:
            notifiers.append(SMTPNotifier(addresses, deadline=deadline))
    except ConfigError as error:
        problems += error.problems
    for variable in dict.fromkeys(variables):
        try:
            numbers = range(len(find_urls(variable)))
            notifiers += [ServiceNotifier(variable, i, deadline=deadline) for i in numbers]
        except ConfigError as error:
            problems += error.problems
    if not notifiers and not problems:
        problems.append(f"expected receivers, got none. Name a mail address, or set {URLS}.")
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    return notifiers


def check_receivers(receivers: str | Sequence[str]) -> list[str]:
    """Return what is wrong with receivers and settings, one line each; nothing is sent."""
    try:
        make_notifiers(receivers)
    except ConfigError as error:
        return error.problems
    return []


def tell(
    notifiers: Iterable[Any], message: str, subject: str, picture: bytes | None = None
) -> bool:
    """Send a message by all notifiers at once; True when all of them could.

    One that could not is a warning. Takes no longer than the deadline of the slowest.
    """
    deliveries = [notifier.start(message, subject, picture) for notifier in notifiers]
    sent = [delivery.wait() for delivery in deliveries]  # of all, whatever became of the first
    return all(sent)
