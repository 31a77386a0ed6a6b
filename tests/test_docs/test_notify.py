"""The page "Mail and other messages": its program sends, its settings are read."""

from tests.test_docs.blocks import read_blocks
from tests.test_utils.test_notify.servers import isolate, mails_of, text_of
from utils.notify.settings import read_env_file


def test_a_mail_from_a_program(tmp_path, monkeypatch):
    isolate(monkeypatch, tmp_path, SMTP_OUTBOX=tmp_path / "outbox", SMTP_SENDER="us@example.org")
    (block,) = read_blocks("notify.rst", "python")
    block.run()
    (mail,) = mails_of(tmp_path / "outbox")
    assert (mail["To"], mail["Cc"]) == ("me@example.org", "you@example.org")
    assert mail["Subject"] == "The subject" and text_of(mail).strip() == "The text."


def test_urls_of_other_services(tmp_path):
    (block,) = read_blocks("notify.rst", "ini")
    (urls,) = read_env_file(block.write(tmp_path / ".env")).values()
    assert urls.split() == ["ntfy://my-topic", "slack://TOKEN_A/TOKEN_B/TOKEN_C"]
