"""Settings with secrets, from the environment or from `.env` at the project's root.

They are read when they are needed and kept nowhere: no config, log, checkpoint or pickle can hold
them, and no process that is started here inherits what stands in `.env` alone.
"""

import os
import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from config.config import ROOT_PATH
from config.errors import ConfigError, shorten

ENV_FILE = ROOT_PATH / ".env"

_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)")
# in quotes up to the same quote, else up to a comment
_VALUE = re.compile(r"""(?:"([^"]*)"|'([^']*)')(?:\s+#.*)?|((?!["']).*?)(?:(?:^|\s+)#.*)?""")
# ASCII without spaces and without what has a meaning in a header
_ADDRESS = re.compile(r"""[^\x00-\x20\x7f-\U0010ffff@<>()\[\],;:"'\\/]+@[A-Za-z0-9.-]+""")
_FLAGS = {"1": True, "true": True, "yes": True, "on": True}
_FLAGS |= {"0": False, "false": False, "no": False, "off": False}


def is_address(value: object) -> bool:
    """Tell whether a value is a plain mail address, such as me@example.org."""
    return isinstance(value, str) and _ADDRESS.fullmatch(value) is not None


def complain_of_address(value: object) -> str:
    """Say that a value is no mail address; one that may be a URL is not quoted."""
    is_harmless = isinstance(value, str) and "@" in value and not re.search("[:/]", value)
    got = shorten(value) if is_harmless else "something else"
    return f"expected a plain mail address, such as me@example.org, got {got}. Correct it."


def read_env_file(path: Path) -> dict[str, str]:
    """Read lines KEY=VALUE; a missing file has none.

    Empty lines, lines that start with `#` and an `export` before the key are skipped. A value may
    stand in quotes; outside of them ` #` starts a comment. Nothing is expanded, no escape is read.

    Raises:
        ConfigError: A line is none of these; its number is told, its content is not.
    """
    try:
        text = path.read_text("utf-8-sig")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8"
        # not as the cause: it holds the content
        raise ConfigError(f"{path}: expected a text file, got {why}. Mend it.") from None
    values, problems = {}, []
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        entry = _LINE.fullmatch(line)
        value = entry and _VALUE.fullmatch(entry[2])
        if value:
            values[entry[1]] = next((part for part in value.groups() if part is not None), "")
        else:
            problems.append(
                f"{path}, line {number}: expected KEY=VALUE, got something else. Mend the line."
            )
    if problems:
        raise ConfigError(problems)
    return values


def read_settings() -> dict[str, str]:
    """Return the environment over `.env`; an empty value counts as none.

    Raises:
        ConfigError: `.env` cannot be read.
    """
    values = {**read_env_file(ENV_FILE), **{name: v for name, v in os.environ.items() if v}}
    return {name: value for name, value in values.items() if value}


@dataclass(frozen=True)
class MailSettings:
    """How mails are sent.

    Attributes:
        outbox: Folder that mails are written into in place of being sent.
        tls: "starttls", "at once" (port 465) or "none".
        context: Checks the server's certificate.
    """

    sender: str
    outbox: Path | None = None
    host: str = ""
    port: int = 0
    tls: str = "starttls"
    context: ssl.SSLContext | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    def __reduce__(self) -> NoReturn:
        raise TypeError("MailSettings: expected never to be written, since they hold a password")


def read_mail_settings(sender: str | None = None) -> MailSettings:
    """Return the settings for mails.

    Args:
        sender: Goes before SMTP_SENDER.

    Raises:
        ConfigError: All that is missing or wrong. No message quotes user or password.
    """
    values = read_settings()
    host, user, password = (values.get(f"SMTP_{name}") for name in ("HOST", "USER", "PASSWORD"))
    sender = sender or values.get("SMTP_SENDER") or (user if is_address(user) else None)
    problems: list[str] = []
    if sender is not None and not is_address(sender):
        problems.append(f"SMTP_SENDER: {complain_of_address(sender)}")
    if "SMTP_OUTBOX" in values:
        _raise(problems)
        return MailSettings(sender or "plumbline@localhost", ROOT_PATH / values["SMTP_OUTBOX"])
    port, tls = _read_port(values, problems), _read_tls(values, problems)
    needed: dict[str, Any] = {"SMTP_HOST": host, "SMTP_SENDER": sender}
    if tls != "none":
        needed |= {"SMTP_USER": user, "SMTP_PASSWORD": password}
    elif user or password:
        problems.append(
            "SMTP_STARTTLS: expected 1 with a login, got 0, which would send the password in clear."
            " Remove SMTP_STARTTLS, or SMTP_USER and SMTP_PASSWORD."
        )
    missing = [name for name, value in needed.items() if not value]
    if missing:
        problems.append(
            f"{', '.join(missing)}: expected a value, got none. Set what is missing in the"
            " environment or in .env at the project's root; .env.example names all."
        )
    if not f"{user}{password}".isascii():
        problems.append(
            "SMTP_USER, SMTP_PASSWORD: expected ASCII letters, got others, which smtplib cannot"
            " send. Choose another password, such as one for applications."
        )
    context = None
    if tls != "none":
        file = values.get("SMTP_CA_FILE")
        try:
            # checks chain and host name; smtplib's own default checks neither
            context = ssl.create_default_context(cafile=file and str(ROOT_PATH / file))
        except OSError as error:
            problems.append(
                f"SMTP_CA_FILE: expected certificates in PEM form, got {shorten(file)}, which fails"
                f" with {type(error).__name__}. Correct the path."
            )
    _raise(problems)
    return MailSettings(sender or "", None, host or "", port, tls, context, user, password)


def _raise(problems: list[str]) -> None:
    if problems:
        raise ConfigError(problems)


def _read_port(values: dict[str, str], problems: list[str]) -> int:
    text = values.get("SMTP_PORT", "587")
    if re.fullmatch(r"[0-9]{1,5}", text) and 0 < int(text) < 65536:
        return int(text)
    problems.append(f"SMTP_PORT: expected 1 to 65535, got {shorten(text)}. Most servers take 587.")
    return 0


def _read_tls(values: dict[str, str], problems: list[str]) -> str:
    text = values.get("SMTP_STARTTLS", "1")
    if text.lower() not in _FLAGS:
        problems.append(f"SMTP_STARTTLS: expected 1 or 0, got {shorten(text)}. Correct it.")
    if values.get("SMTP_PORT") == "465":
        return "at once"
    return "starttls" if _FLAGS.get(text.lower(), True) else "none"
