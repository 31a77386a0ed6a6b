import dataclasses
import email.policy
import html
import re
import subprocess
import sys
import threading
import time

import pytest

from config.config import ROOT_PATH
from tests.test_utils.test_notify.servers import (
    HOST,
    PASSWORD,
    SECRETS,
    USER,
    ScriptedServer,
    isolate,
    mail_server,
    mails_of,
    page_of,
    pictures_of,
    text_of,
)
from utils.notify import smtp, tell
from utils.notify.delivery import THREAD
from utils.notify.smtp import SMTPNotifier

DEADLINE = 0.3
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))


@pytest.fixture
def env(tmp_path, monkeypatch):
    """Set settings in the environment; without any there are none."""
    isolate(monkeypatch, tmp_path)
    return lambda values: isolate(monkeypatch, tmp_path, **values)


@pytest.fixture
def outbox(tmp_path, env):
    env({"SMTP_OUTBOX": tmp_path / "out"})
    return tmp_path / "out"


def warnings_of(caplog):
    ours = [record for record in caplog.records if record.name == "plumbline"]
    return [record.getMessage() for record in ours if record.levelname == "WARNING"]


# ------------------------------------------------------------------------ what arrives, and where


def test_a_mail_by_starttls_and_login(tmp_path, env, caplog):
    caplog.set_level("DEBUG")
    with mail_server(tmp_path) as (inbox, values):
        env(values)
        notifier = SMTPNotifier("a@x.org, b@x.org", "run@x.org", ["c@x.org", "a@x.org"])
        text = "Gr\u00f6\u00dfe: 1 \u00b5m\n.\n..two dots\n" + "x" * 3000 + "\nFrom here\n"
        assert notifier.notify(text, "L\u00e4uft", PNG)
    (mail,) = inbox.mails
    assert inbox.receivers == [["a@x.org", "b@x.org", "c@x.org"]]  # Cc is sent to, nobody twice
    assert (mail["From"], mail["To"]) == ("run@x.org", "a@x.org, b@x.org")
    assert (mail["Cc"], mail["Subject"]) == ("c@x.org, a@x.org", "L\u00e4uft")
    assert mail["Message-ID"].endswith("@x.org>") and mail["Date"].datetime.tzinfo is not None
    assert text_of(mail) == text
    (picture,) = pictures_of(mail)
    assert (picture.get_content_type(), picture.get_content()) == ("image/png", PNG)
    assert picture.get_content_disposition() == "inline"
    assert not warnings_of(caplog)


@pytest.mark.filterwarnings("ignore:Requiring AUTH")  # TLS is required by other means
def test_port_465_is_tls_at_once(tmp_path, env, monkeypatch):
    with mail_server(tmp_path, at_once=True) as (inbox, values):
        env(values | {"SMTP_PORT": 465})
        read = smtp.read_mail_settings

        def read_with_port(sender):  # only root may listen at 465
            assert read(sender).port == 465
            return dataclasses.replace(read(sender), port=values["SMTP_PORT"])

        monkeypatch.setattr(smtp, "read_mail_settings", read_with_port)
        assert SMTPNotifier("a@x.org").notify("text", "subject")
    assert len(inbox.mails) == 1


def test_a_plain_relay_without_login(env):
    with ScriptedServer() as server:
        env(server.settings)
        assert SMTPNotifier("a@x.org").notify("text", "subject")
        assert server.gone.wait(10)
    assert server.heard[0].startswith("ehlo [127.0.0.1]") and server.heard[-1] == "QUIT"
    assert server.count("MAIL") == 1 and not server.count("AUTH") and not server.count("STARTTLS")


def test_the_page_of_a_mail_shows_the_text_as_it_is(outbox):
    text = "a  <b>1 & 2</b>\nlr     {} 3e-4"
    assert SMTPNotifier("a@x.org").notify(text, "s")
    (mail,) = mails_of(outbox)
    (shown,) = re.findall(r"<pre [^>]*>(.*)</pre>", page_of(mail), re.DOTALL)
    assert html.unescape(shown).strip() == text and "<b>" not in shown
    assert text_of(mail).strip() == text


def test_a_list_of_keys_without_a_subject_line_is_no_header(outbox):
    assert SMTPNotifier("a@x.org").notify("To: b@x.org\nBcc: c@x.org\n\nhello", "s")
    (mail,) = mails_of(outbox)
    assert mail["To"] == "a@x.org" and mail["Bcc"] is None
    assert text_of(mail) == "To: b@x.org\nBcc: c@x.org\n\nhello\n"


BREAKS = [
    "\r",
    "\n",
    "\r\n",
    "\n\n",
    "\r\n ",
    "\n\t",
    "\x0b",
    "\x0c",
    "\x1c",
    "\x85",
    "\u2028",
    "\0",
]


@pytest.mark.parametrize("line_end", BREAKS)
def test_no_line_end_adds_a_header(line_end, outbox):
    wicked = f"name{line_end}Bcc: c@x.org{line_end}X-More: \u00f6{line_end}{line_end}<body>"
    assert SMTPNotifier("a@x.org").notify(wicked, f"[plumbline] {wicked}")
    (path,) = outbox.iterdir()
    (mail,) = mails_of(outbox)
    names = {"From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "MIME-Version"}
    names |= {"Content-Type"}
    assert set(mail.keys()) == names and not mail.defects
    assert re.fullmatch(
        r"\[plumbline\] name\W+Bcc: c@x.org\W+X-More: \u00f6\W+<body>", mail["Subject"]
    )
    head = path.read_bytes().split(b"\r\n\r\n")[0]
    starts = [line.split(b":")[0].decode() for line in re.split(rb"\r\n(?![ \t])", head)]
    assert (
        set(starts) == names
        and re.search(rb"[\r\n\0](?<!\r\n)", head.replace(b"\r\n", b"")) is None
    )


@pytest.mark.parametrize("n", [0, 10, 30, 60, 100])
def test_subjects_arrive_as_they_are(n, outbox):
    words = ["ende", "\u00fcber", "\u00e4 \u00f6 \u00fc", "\u00e4" * (80 - n // 2)]
    subjects = [f"[plumbline] a failed: x{'y' * n} {word}" for word in words]
    subjects.append("[plumbline] 20261121-101156_test done: best val_loss 0.1234 in epoch 7")
    for subject in subjects:
        assert SMTPNotifier("a@x.org").notify("text", subject)
    assert {mail["Subject"] for mail in mails_of(outbox)} == set(subjects)


def test_half_characters_and_long_subjects(outbox):
    assert SMTPNotifier("a@x.org").notify("file \udce4.png", "\udce4 " + "y" * 5000)
    (mail,) = mails_of(outbox)
    assert text_of(mail) == "file \\udce4.png\n"
    assert mail["Subject"].startswith("\\udce4 yyy") and len(mail["Subject"]) == 200


def test_many_mails_at_once_get_names_of_their_own(outbox):
    notifiers = [SMTPNotifier(f"{i}@x.org") for i in range(20)]
    assert tell(notifiers, "text", "subject")
    assert len(list(outbox.iterdir())) == 20 and {p.suffix for p in outbox.iterdir()} == {".eml"}
    assert {mail["To"] for mail in mails_of(outbox)} == {f"{i}@x.org" for i in range(20)}


def test_an_outbox_that_cannot_be_written(tmp_path, env, caplog):
    (tmp_path / "out").write_text("a file")
    env({"SMTP_OUTBOX": tmp_path / "out"})
    assert not SMTPNotifier("a@x.org").notify("text", "subject")
    (warning,) = warnings_of(caplog)
    assert warning.startswith("mail to a@x.org not sent: create_dirs: expected a folder")


# ------------------------------------------------------------------------- servers that misbehave


def refused(caplog, deadline=DEADLINE, receivers="a@x.org"):
    """Send a mail that cannot be sent, and return the one warning."""
    caplog.clear()
    assert SMTPNotifier(receivers, deadline=deadline).notify("text", "subject") is False
    (warning,) = warnings_of(caplog)
    assert warning.startswith(f"mail to {receivers} not sent: ")
    return warning.removeprefix(f"mail to {receivers} not sent: ")


def test_a_server_that_is_down(env, caplog, monkeypatch):
    with ScriptedServer() as server:
        values = server.settings
    env(values)
    monkeypatch.setattr(smtp, "_PAUSE", 0)
    reason = refused(caplog, deadline=60)
    assert reason.endswith(f"Connection refused ({HOST}:{values['SMTP_PORT']})")


def test_a_silent_server(env, caplog):
    with ScriptedServer(silent=True) as server:
        env(server.settings)
        assert refused(caplog) == "no answer within 0.3 seconds"
        assert server.gone.wait(10)  # the connection was shut down


@pytest.mark.parametrize("drips", [b"2", b"220-not yet\r\n"])
def test_a_dripping_server(drips, env, caplog):
    with ScriptedServer(drips=drips) as server:  # for ever, were it not for the deadline
        env(server.settings)
        assert refused(caplog) == "no answer within 0.3 seconds"
        assert server.gone.wait(10)


def test_a_server_that_is_silent_after_the_mail_has_it(env, caplog):
    """Only the answer to QUIT is missing: the mail is sent."""
    with ScriptedServer({"QUIT": [""]}) as server:
        env(server.settings)
        assert SMTPNotifier("a@x.org", deadline=60).notify("text", "subject")
    assert not warnings_of(caplog)


@pytest.mark.parametrize("quotes", [False, True])
def test_a_wrong_password(quotes, tmp_path, env, caplog, capsys):
    caplog.set_level("DEBUG")
    with mail_server(tmp_path, quotes=quotes) as (inbox, values):
        wrong = PASSWORD[::-1]
        env(values | {"SMTP_PASSWORD": wrong})
        reason = refused(caplog, deadline=60)
    assert reason == "the server answered 535 at the login. Check SMTP_USER and SMTP_PASSWORD."
    said = [record.getMessage() for record in caplog.records if record.name != "mail.log"]
    assert not inbox.mails and wrong not in "".join([*said, *capsys.readouterr()])


def test_a_certificate_that_nobody_has_signed(tmp_path, env, caplog):
    with mail_server(tmp_path) as (inbox, values):
        env(values | {"SMTP_CA_FILE": ""})
        assert "certificate verify failed" in refused(caplog, deadline=60)
    assert not inbox.mails


def test_a_certificate_of_another_host(tmp_path, env, caplog):
    with mail_server(tmp_path, host="127.0.0.2") as (inbox, values):
        env(values)
        assert f"IP address mismatch, certificate is not valid for '{HOST}'" in refused(caplog, 60)
    assert not inbox.mails


def test_a_server_without_starttls_gets_neither_login_nor_mail(env, caplog):
    answers = {"EHLO": ["250-here\r\n250 AUTH PLAIN LOGIN"]}
    with ScriptedServer(answers) as server:
        login = {"SMTP_USER": USER, "SMTP_PASSWORD": PASSWORD}
        env(server.settings | login | {"SMTP_STARTTLS": ""})
        assert refused(caplog, deadline=60).startswith("STARTTLS extension not supported by")
        assert server.gone.wait(10)
    assert [line.split()[0] for line in server.heard] == ["ehlo"]


def test_a_server_that_takes_no_login(env, caplog, monkeypatch):
    with ScriptedServer({"EHLO": ["250 here"]}) as server:
        env(server.settings)
        read = smtp.read_mail_settings
        login = {"user": USER, "password": PASSWORD}
        monkeypatch.setattr(
            smtp, "read_mail_settings", lambda sender: dataclasses.replace(read(sender), **login)
        )
        assert "at the login. Check SMTP_USER and SMTP_PASSWORD" in refused(caplog, deadline=60)


@pytest.mark.parametrize("where", ["GREETING", "EHLO", "MAIL", "RCPT", "DATA", "."])
@pytest.mark.parametrize("code", [421, 451])
def test_a_temporary_failure_is_tried_again(where, code, env, caplog, monkeypatch):
    monkeypatch.setattr(smtp, "_PAUSE", 0)
    good = {"GREETING": "220 here", "DATA": "354 go on"}.get(where, "250 fine")
    answers = {where: [f"{code} not now", good]}
    if where == "EHLO":  # smtplib then tries HELO
        answers["HELO"] = [f"{code} not now", "250 fine"]
    with ScriptedServer(answers) as server:
        env(server.settings)
        assert SMTPNotifier("a@x.org", deadline=60).notify("text", "subject")
        assert server.gone.wait(10)
    assert server.count("QUIT") >= 1 and not warnings_of(caplog)


def test_only_once_again(env, caplog, monkeypatch):
    monkeypatch.setattr(smtp, "_PAUSE", 0)
    with ScriptedServer({"MAIL": ["451 not now"]}) as server:
        env(server.settings)
        assert refused(caplog, deadline=60) == "the server answered 451 not now"
        assert server.count("MAIL") == 2


def test_a_lasting_failure_is_not_tried_again(env, caplog):
    with ScriptedServer({".": ["554 looks like\x1b[2J spam"]}) as server:
        env(server.settings)
        assert refused(caplog, deadline=60) == "the server answered 554 looks like?[2J spam"
        assert server.count("MAIL") == 1


def test_a_server_that_is_back_soon(env, monkeypatch):
    """Connection refused, then there: it starts in the pause between the attempts."""
    server = ScriptedServer()
    server.socket.close()
    port = server.settings["SMTP_PORT"]
    pauses = []

    def start_server(seconds):
        pauses.append(seconds)
        server.socket = smtp.socket.create_server((HOST, port))
        server.thread.start()

    env(server.settings)
    monkeypatch.setattr(smtp.time, "sleep", start_server)
    assert SMTPNotifier("a@x.org", deadline=20).notify("text", "subject")
    assert pauses == [2.0]
    server.__exit__()


def test_who_has_the_mail_does_not_get_it_twice(env, caplog, monkeypatch):
    monkeypatch.setattr(smtp, "_PAUSE", 0)
    with ScriptedServer({"RCPT": ["250 fine", "451 not now", "250 fine"]}) as server:
        env(server.settings)
        assert SMTPNotifier("a@x.org,b@x.org", deadline=60).notify("text", "subject")
        assert server.gone.wait(10)
    receivers = [line for line in server.heard if line.upper().startswith("RCPT")]
    assert [line.split(":")[1] for line in receivers] == ["<a@x.org>", "<b@x.org>", "<b@x.org>"]
    assert not warnings_of(caplog)


def test_receivers_that_are_refused_are_named(env, caplog):
    with ScriptedServer({"RCPT": ["250 fine", "550 unknown"]}) as server:
        env(server.settings)
        reason = refused(caplog, receivers="a@x.org, b@x.org")
    assert reason == "refused for b@x.org: 550 unknown" and server.count("DATA") == 1


def test_an_answer_that_quotes_the_password(tmp_path, env, caplog, monkeypatch):
    with mail_server(tmp_path) as (inbox, values):

        async def handle(self, server, session, envelope):
            return "554 " + "x" * 270 + PASSWORD  # where the reason is cut

        monkeypatch.setattr(type(inbox), "handle_DATA", handle)
        env(values)
        reason = refused(caplog, deadline=60)
    assert reason.endswith("xxx***") and PASSWORD[:4] not in reason


def test_settings_that_are_gone_when_the_mail_is_due(env, caplog):
    with ScriptedServer() as server:
        env(server.settings)
        notifier = SMTPNotifier("a@x.org")
        env({})
        assert not notifier.notify("text", "subject")
    (warning,) = warnings_of(caplog)
    assert "SMTP_HOST, SMTP_SENDER, SMTP_USER, SMTP_PASSWORD: expected a value" in warning


def test_an_unexpected_error_is_not_quoted(outbox, caplog, monkeypatch):
    def fail(*_):
        raise RuntimeError(PASSWORD)

    monkeypatch.setattr(smtp, "_write", fail)
    assert refused(caplog) == "unexpected RuntimeError"


def test_a_machine_without_a_thread_left(outbox, caplog, monkeypatch):
    def fail(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    assert refused(caplog) == "can't start new thread"


def test_all_servers_share_one_deadline(env, caplog):
    with ScriptedServer(silent=True) as server:
        env(server.settings)
        notifiers = [SMTPNotifier(f"{i}@x.org", deadline=DEADLINE) for i in range(20)]
        start = time.monotonic()
        assert not tell(notifiers, "text", "subject")
        assert time.monotonic() - start < 20 * DEADLINE  # what one after the other would take
    assert len(warnings_of(caplog)) == 20


CODE = """
import sys
from utils.notify.smtp import SMTPNotifier
deliveries = [SMTPNotifier("a@x.org", deadline=1000).start("text", "subject")]
sys.exit(7)
"""


def test_python_ends_while_a_mail_is_on_its_way(env):
    with ScriptedServer(silent=True) as server:
        env(server.settings)
        done = subprocess.run(
            [sys.executable, "-c", CODE], cwd=ROOT_PATH, timeout=300, capture_output=True, text=True
        )
    assert (done.returncode, done.stderr) == (7, "")


def test_no_secret_in_what_is_sent_or_said(tmp_path, env, caplog, capsys):
    caplog.set_level("DEBUG")
    with mail_server(tmp_path) as (inbox, values):
        env(values)
        assert SMTPNotifier("a@x.org").notify("text", "subject", PNG)
    said = "".join([caplog.text, *capsys.readouterr()])
    data = inbox.mails[0].as_bytes(policy=email.policy.SMTP) + said.encode()
    assert not [secret for secret in SECRETS if secret in data]
    assert not [thread for thread in threading.enumerate() if thread.name == THREAD]
