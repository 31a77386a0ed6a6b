import http.server
import json
import logging
import threading

import pytest

from tests.test_utils.test_notify.servers import ScriptedServer, isolate
from utils.notify import make_notifiers, tell
from utils.notify.services import ServiceNotifier

pytest.importorskip("apprise")

SECRET = "xoxb-geheim"


class Service(http.server.BaseHTTPRequestHandler):
    """Keeps the messages that apprise's json:// posts; answers as the server's `status` says."""

    def do_POST(self):  # noqa: N802
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.path, json.loads(body)))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def service(tmp_path, monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service)
    server.got, server.status = [], 200
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    url = f"json://127.0.0.1:{server.server_address[1]}/{SECRET}"
    isolate(monkeypatch, tmp_path, NOTIFY_URLS=url)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def everything(caplog):
    """The text of all logs at their lowest level."""
    caplog.set_level(1)
    for name in ("apprise", "urllib3", "urllib3.connectionpool", "requests"):
        caplog.set_level(1, logger=name)
    return caplog


def test_a_message_to_a_service(service, everything, capsys):
    (notifier,) = make_notifiers([])
    assert tell([notifier], "gr\u00f6\u00dfer\r\nals\x1b", "two\r\nlines", b"a picture")
    ((path, message),) = service.got
    assert path == f"/{SECRET}"
    assert (message["title"], message["message"]) == ("two lines", "gr\u00f6\u00dfer\nals?")
    assert SECRET not in everything.text + "".join(capsys.readouterr())


def test_the_logs_of_others_stay(service, everything):
    assert ServiceNotifier().notify("text", "subject")
    logging.getLogger("urllib3.connectionpool").debug("of someone else")
    assert "of someone else" in everything.text


def test_a_service_that_refuses(service, everything, capsys):
    service.status = 403
    assert not ServiceNotifier().notify("text", "subject")
    warnings = [r.getMessage() for r in everything.records if r.levelname == "WARNING"]
    assert warnings == [
        "message by URL 1 of NOTIFY_URLS not sent: the service refuses the message, or cannot be"
        " reached"
    ]
    assert SECRET not in everything.text + "".join(capsys.readouterr())


def test_a_service_that_says_nothing(tmp_path, monkeypatch, everything):
    with ScriptedServer(silent=True) as server:
        url = f"json://127.0.0.1:{server.settings['SMTP_PORT']}/{SECRET}"
        isolate(monkeypatch, tmp_path, MINE=url)
        assert not ServiceNotifier("MINE", deadline=0.3).notify("text", "subject")
    (warning,) = [r.getMessage() for r in everything.records if r.levelname == "WARNING"]
    assert warning == "message by URL 1 of MINE not sent: no answer within 0.3 seconds"
    assert SECRET not in everything.text


def test_an_unexpected_error_of_a_service_is_not_quoted(service, everything, monkeypatch):
    def fail(*_, **__):
        raise ValueError(SECRET)

    monkeypatch.setattr("apprise.plugins.custom_json.NotifyJSON.notify", fail)
    assert not ServiceNotifier().notify("text", "subject")
    assert "not sent: unexpected ValueError" in everything.text and SECRET not in everything.text
