"""Mail servers for tests: a real one with TLS and login, and ones that misbehave."""

import base64
import datetime
import email
import email.policy
import functools
import ipaddress
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from utils.notify import settings

HOST = "127.0.0.1"
USER, PASSWORD = "me@example.org", "hunter2-geheim"
# as an answer, a log or a file could hold it
SECRETS = [
    PASSWORD.encode(),
    base64.b64encode(PASSWORD.encode()).rstrip(b"="),
    base64.b64encode(f"\0{USER}\0{PASSWORD}".encode()).rstrip(b"="),
]


def isolate(monkeypatch: Any, folder: Path, **values: Any) -> None:
    """Set these settings and no others; `.env` would be in the folder."""
    for name in ("HOST", "PORT", "USER", "PASSWORD", "SENDER", "STARTTLS", "CA_FILE", "OUTBOX"):
        monkeypatch.delenv(f"SMTP_{name}", raising=False)
    monkeypatch.delenv("NOTIFY_URLS", raising=False)
    monkeypatch.setattr(settings, "ENV_FILE", folder / ".env")
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))


def mails_of(outbox: Path) -> list[EmailMessage]:
    """Return the mails of an outbox, in the order of their names."""
    return [read_mail(path.read_bytes()) for path in sorted(outbox.glob("*"))]


def read_mail(data: bytes) -> EmailMessage:
    return email.message_from_bytes(data, policy=email.policy.default)


def text_of(mail: EmailMessage) -> str:
    """Return the text of a mail with plain line ends."""
    part = mail.get_body(("plain",))
    assert part is not None
    return part.get_content().replace("\r\n", "\n")


def page_of(mail: EmailMessage) -> str:
    """Return the HTML of a mail."""
    part = mail.get_body(("html",))
    assert part is not None
    return part.get_content().replace("\r\n", "\n")


def pictures_of(mail: EmailMessage) -> list[EmailMessage]:
    """Return the pictures of a mail, all of which its HTML must show."""
    pictures = [part for part in mail.walk() if part.get_content_maintype() == "image"]
    shown = [f"<{name}>" for name in re.findall(r'src="cid:([^"]+)"', page_of(mail))]
    assert [picture["Content-ID"] for picture in pictures] == shown
    return pictures


# ------------------------------------------------------------------------------ a real server


@functools.cache
def make_certificate(host: str = HOST) -> bytes:
    """Return key and certificate of a host for one day, in PEM form."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    private = key.private_bytes(*form, serialization.NoEncryption())
    return private + certificate.public_bytes(serialization.Encoding.PEM)


class Inbox:
    """Keeps the mails and who they were for."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self.receivers: list[list[str]] = []
        self.got = threading.Event()

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        self.mails.append(read_mail(envelope.content))
        self.receivers.append(envelope.rcpt_tos)
        self.got.set()
        return "250 kept"


@contextmanager
def mail_server(
    folder: Path, host: str = HOST, at_once: bool = False, quotes: bool = False
) -> Iterator[tuple[Inbox, dict[str, Any]]]:
    """Run a server with TLS and login; give its inbox and the settings for it.

    Args:
        folder: Gets the certificate.
        host: Whom the certificate is for.
        at_once: TLS from the start in place of STARTTLS.
        quotes: The answer to a wrong password quotes it.
    """
    path = folder / f"{host}.pem"
    path.write_bytes(make_certificate(host))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)

    def authenticate(server: Any, session: Any, envelope: Any, mechanism: str, login: Any) -> Any:
        if (login.login, login.password) == (USER.encode(), PASSWORD.encode()):
            return AuthResult(success=True)
        message = b"535 not " + login.password + b" " + base64.b64encode(login.password)
        return AuthResult(
            success=False, handled=False, message=message.decode() if quotes else None
        )

    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    tls: dict[str, Any] = {"ssl_context": context, "auth_require_tls": False}
    if not at_once:
        tls = {"tls_context": context, "require_starttls": True, "auth_require_tls": True}
    inbox = Inbox()
    login = {"auth_required": True, "authenticator": authenticate}
    controller = Controller(inbox, hostname=HOST, port=port, **tls, **login)
    controller.start()
    try:
        values = {"SMTP_HOST": HOST, "SMTP_PORT": port, "SMTP_USER": USER}
        yield inbox, values | {"SMTP_PASSWORD": PASSWORD, "SMTP_CA_FILE": path}
    finally:
        controller.stop()


# -------------------------------------------------------------------- servers that misbehave


class ScriptedServer:
    """A plain server in a thread, without TLS and login.

    Args:
        answers: What it answers to a command (or "GREETING", or "." for the end of a mail), the
            first time, the second time, ...; the last one stays.
        drips: It sends these bytes again and again, and nothing else.
        silent: It accepts connections and says nothing.

    Attributes:
        heard: All lines that it was sent.
        gone: Set when a client has closed its connection.
    """

    def __init__(
        self,
        answers: dict[str, list[str]] | None = None,
        drips: bytes | None = None,
        silent: bool = False,
    ) -> None:
        self.answers = {"GREETING": ["220 here"], "DATA": ["354 go on"]} | (answers or {})
        self.drips, self.silent = drips, silent
        self.heard: list[str] = []
        self.gone = threading.Event()
        self.closed = threading.Event()
        self.connections: list[socket.socket] = []
        self.socket = socket.create_server((HOST, 0))
        self.settings = {"SMTP_HOST": HOST, "SMTP_PORT": self.socket.getsockname()[1]}
        self.settings |= {"SMTP_STARTTLS": 0, "SMTP_SENDER": USER}
        self.thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> "ScriptedServer":
        self.thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.closed.set()
        for connection in (self.socket, *self.connections):
            with suppress(OSError):  # it is closed
                connection.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self.thread.join(10)

    def count(self, command: str) -> int:
        return sum(line.upper().startswith(command) for line in self.heard)

    def _accept(self) -> None:
        while not self.closed.is_set():
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.connections.append(connection)
            with connection, suppress(OSError):
                self._talk(connection)
            self.gone.set()

    def _talk(self, connection: socket.socket) -> None:
        if self.silent:
            while connection.recv(1000):
                pass
        while self.drips is not None and not self.closed.wait(0.01):
            connection.sendall(self.drips)
        if self.silent or self.drips is not None:
            return
        with connection.makefile("rwb", buffering=0) as file:
            self._answer(file, "GREETING")
            is_data = False
            for line in file:
                text = line.decode().rstrip("\r\n")
                self.heard.append(text)
                if is_data and text != ".":
                    continue
                is_data = text.upper() == "DATA"
                self._answer(file, text.split(" ")[0].upper())

    def _answer(self, file: Any, command: str) -> None:
        answers = self.answers.get(command, ["250 fine"])
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        file.write(answer.encode() + b"\r\n")
