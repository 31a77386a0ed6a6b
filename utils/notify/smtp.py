"""Mails by SMTP, or into a folder. The settings: .env.example."""

import email.policy
import html
import os
import smtplib
import socket
import time
from collections.abc import Iterable
from email.message import EmailMessage
from email.utils import localtime, make_msgid
from typing import Any

from config.errors import ConfigError
from utils.notify.delivery import DEADLINE, Delivery, DeliveryError, clean, one_line
from utils.notify.settings import (
    MailSettings,
    complain_of_address,
    is_address,
    read_mail_settings,
)
from utils.path import create_dirs, write_atomic

_MAX_SUBJECT, _MAX_REASON = 200, 300  # letters
_PAUSE = 0.1  # of the deadline, between two attempts
# most programs show plain text in letters of any width, in which no table stands
_PAGE = '<pre style="font: 13px/1.5 monospace; white-space: pre-wrap">{}</pre>{}\n'
_PICTURE = '<p><img src="cid:{}" alt="learning curves" style="max-width: 100%"></p>'
# SMTP takes 998; where Python folds a subject at 78, a space may be lost or added
_FORM = email.policy.SMTP.clone(max_line_length=900)


class SMTPNotifier:
    """Sends mails; knows the addresses, and reads all the rest from the settings for each mail.

    Args:
        receiver_mail_addresses: A list, or text with commas.
        sender_mail_address: None takes SMTP_SENDER, or SMTP_USER if it is an address.
        cc_mail_addresses: They get the mail, too, and all see them.
        deadline: Seconds after which a mail is given up.

    Raises:
        ConfigError: What is wrong with the addresses, and all settings that are missing.
    """

    def __init__(
        self,
        receiver_mail_addresses: str | Iterable[str],
        sender_mail_address: str | None = None,
        cc_mail_addresses: str | Iterable[str] = (),
        *,
        deadline: float = DEADLINE,
    ) -> None:
        receivers, cc = _list(receiver_mail_addresses), _list(cc_mail_addresses)
        problems = [
            complain_of_address(address) for address in (*receivers, *cc) if not is_address(address)
        ]
        if not receivers:
            problems.append("expected a mail address to send to, got none. Name one.")
        try:
            read_mail_settings(sender_mail_address)
        except ConfigError as error:
            problems += error.problems
        if problems:
            raise ConfigError(problems)
        self.receivers, self.cc = list(dict.fromkeys(receivers)), list(dict.fromkeys(cc))
        self.sender, self.deadline = sender_mail_address, deadline

    def notify(self, message: str, subject: str, picture: bytes | None = None) -> bool:
        """Send a mail and wait for it. A failure is a warning in the log.

        Args:
            message: The text.
            subject: Line ends in it become spaces.
            picture: A PNG.

        Returns:
            Whether it was sent.
        """
        return self.start(message, subject, picture).wait()

    def start(self, message: str, subject: str, picture: bytes | None = None) -> Delivery:
        """Send a mail in the background; the arguments are those of `notify`."""

        def send(delivery: Delivery) -> None:
            settings = read_mail_settings(self.sender)
            mail = _make_mail(settings.sender, self.receivers, self.cc, subject, message, picture)
            receivers = list(dict.fromkeys([*self.receivers, *self.cc]))
            _send(mail.as_bytes(policy=_FORM), settings, receivers, delivery)

        return Delivery(f"mail to {', '.join(self.receivers)}", send, self.deadline)


def _list(addresses: str | Iterable[str]) -> list[str]:
    if isinstance(addresses, str):
        return [address.strip() for address in addresses.split(",")] if addresses else []
    return list(addresses)


def _make_mail(
    sender: str,
    receivers: list[str],
    cc: list[str],
    subject: str,
    text: str,
    picture: bytes | None,
) -> EmailMessage:
    mail = EmailMessage()
    mail["From"] = sender
    mail["To"] = ", ".join(receivers)
    if cc:
        mail["Cc"] = ", ".join(cc)
    mail["Subject"] = one_line(subject)[:_MAX_SUBJECT]
    mail["Date"] = localtime()
    mail["Message-ID"] = make_msgid(domain=sender.rpartition("@")[2])  # else it asks the DNS
    mail["Auto-Submitted"] = "auto-generated"  # keeps absence notes from answering
    text, cid = clean(text), make_msgid(domain="curves")
    shown = "" if picture is None else _PICTURE.format(cid[1:-1])
    mail.set_content(text)
    mail.add_alternative(_PAGE.format(html.escape(text), shown), subtype="html")
    if picture is not None:
        page = mail.get_body(("html",))
        page.add_related(
            picture, "image", "png", cid=cid, filename="curves.png", disposition="inline"
        )
    return mail


# ----------------------------------------------------------------------------------- sending


def _send(mail: bytes, settings: MailSettings, receivers: list[str], delivery: Delivery) -> None:
    """Send a mail or write it, with a second attempt after a temporary failure.

    Raises:
        DeliveryError: Both attempts failed, or the failure is none that passes.
    """
    attempts = 2
    while True:
        attempts -= 1
        try:
            if settings.outbox is not None:
                _write(mail, settings)
            else:
                _attempt(mail, settings, receivers, delivery)
            return
        except OSError as error:  # what smtplib raises is one, too
            if not attempts or not _is_temporary(error):
                raise DeliveryError(_explain(error, settings)) from None
            if isinstance(error, smtplib.SMTPRecipientsRefused):
                receivers = list(error.recipients)  # the others have it
        time.sleep(_PAUSE * delivery.seconds)


def _write(mail: bytes, settings: MailSettings) -> None:
    assert settings.outbox is not None
    create_dirs(settings.outbox)
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(8).hex()}.eml"
    write_atomic(settings.outbox / name, mail)


def _attempt(mail: bytes, settings: MailSettings, receivers: list[str], delivery: Delivery) -> None:
    # longer than the deadline, which then comes first and gives the reason
    timeout = delivery.time_left() + 1
    connection = socket.create_connection((settings.host, settings.port), timeout)
    try:
        delivery.watch(connection)
        delivery.time_left()  # the DNS may have taken it all
        if settings.context is not None and settings.tls == "at once":
            connection = settings.context.wrap_socket(connection, server_hostname=settings.host)
        client = _Client(connection, settings)
        try:
            if settings.tls == "starttls":
                client.starttls(context=settings.context)  # raises where it is not offered
            if settings.user is not None:
                _log_in(client, settings)
            refused = client.sendmail(settings.sender, receivers, mail)
            client.putcmd("QUIT")  # the mail is sent, whatever the answer
        finally:
            client.close()
    finally:
        connection.close()
    if refused:
        raise smtplib.SMTPRecipientsRefused(refused)


class _Client(smtplib.SMTP):
    """smtplib on a connection that is there already."""

    def __init__(self, connection: socket.socket, settings: MailSettings) -> None:
        self._connection = connection
        # smtplib would ask the DNS for a name of this machine
        super().__init__(settings.host, settings.port, local_hostname="[127.0.0.1]")

    def _get_socket(self, *_args: Any) -> socket.socket:
        return self._connection


def _log_in(client: smtplib.SMTP, settings: MailSettings) -> None:
    try:
        client.login(settings.user or "", settings.password or "")
    except smtplib.SMTPException as error:
        # in own words: an answer to a login may quote what was sent
        code = getattr(error, "smtp_code", 0)
        text = b"at the login. Check SMTP_USER and SMTP_PASSWORD."
        raise smtplib.SMTPAuthenticationError(code, text) from None


def _is_temporary(error: OSError) -> bool:
    codes = [getattr(error, "smtp_code", 0)]
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        codes = [code for code, _ in error.recipients.values()]
    return isinstance(error, ConnectionRefusedError) or any(400 <= code < 500 for code in codes)


def _explain(error: OSError, settings: MailSettings) -> str:
    """Say what went wrong in one line that holds no secret."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        answers = [f"{to}: {_answer(*answer)}" for to, answer in error.recipients.items()]
        text = f"refused for {', '.join(answers)}"
    elif isinstance(error, smtplib.SMTPResponseException):
        text = f"the server answered {_answer(error.smtp_code, error.smtp_error)}"
    else:
        server = f" ({settings.host}:{settings.port})" if settings.host else ""
        text = f"{str(error) or type(error).__name__}{server}"
    if settings.password:
        text = text.replace(settings.password, "***")
    return one_line(text)[:_MAX_REASON]


def _answer(code: int, text: bytes | str) -> str:
    return f"{code} {text.decode('utf-8', 'replace') if isinstance(text, bytes) else text}"
