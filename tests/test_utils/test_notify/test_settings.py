import os
import pickle

import pytest

from config.errors import ConfigError
from tests.test_utils.test_notify.servers import PASSWORD, isolate
from utils.notify import check_receivers, make_notifiers, settings
from utils.notify.services import ServiceNotifier, find_urls
from utils.notify.settings import is_address, read_env_file, read_mail_settings, read_settings
from utils.notify.smtp import SMTPNotifier

LOGIN = {"SMTP_HOST": "mail.example.org", "SMTP_USER": "me@example.org", "SMTP_PASSWORD": PASSWORD}


@pytest.fixture
def env(tmp_path, monkeypatch):
    """Set settings in the environment; without any there are none."""
    isolate(monkeypatch, tmp_path)
    return lambda **values: isolate(monkeypatch, tmp_path, **values)


def problems(**arguments):
    with pytest.raises(ConfigError) as error:
        read_mail_settings(**arguments)
    return error.value.problems


# --------------------------------------------------------------------------------------- .env


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("KEY=plain", "plain"),
        ("  export KEY = spaces around  ", "spaces around"),
        ("KEY=a=b#c", "a=b#c"),
        ("KEY=value # a comment", "value"),
        ("KEY='  # kept  '  # a comment", "  # kept  "),
        ('KEY="it\'s"', "it's"),
        ("KEY='say \"it\"'", 'say "it"'),
        ("KEY=with\\n$HOME ${HOME} `id`", "with\\n$HOME ${HOME} `id`"),
        ("KEY=don't", "don't"),
        ("KEY=", ""),
        ("KEY=''", ""),
        ("KEY= # only a comment", ""),
        ("KEY=\u00e4\u00df", "\u00e4\u00df"),
    ],
)
def test_values_of_env_files(line, value, tmp_path):
    path = tmp_path / ".env"
    path.write_text(f"\n# KEY=no\n{line}\r\n\nOTHER=1\n", encoding="utf-8-sig")
    assert read_env_file(path) == {"KEY": value, "OTHER": "1"}


@pytest.mark.parametrize(
    "line", ["secret", "1KEY=secret", "KEY='secret", "KEY='a'secret", "=secret"]
)
def test_a_wrong_line_is_told_by_its_number_and_not_quoted(line, tmp_path):
    path = tmp_path / ".env"
    path.write_text(f"GOOD=1\n{line}\n")
    with pytest.raises(ConfigError, match="line 2: expected KEY=VALUE, got something") as error:
        read_env_file(path)
    assert "secret" not in str(error.value)


def test_a_file_in_another_encoding_is_not_quoted(tmp_path):
    path = tmp_path / ".env"
    path.write_bytes(b"SMTP_PASSWORD=geheim\xe4")
    with pytest.raises(ConfigError, match="expected a text file, got not UTF-8") as error:
        read_env_file(path)
    assert error.value.__cause__ is None and error.value.__suppress_context__
    path.unlink()
    path.mkdir()
    with pytest.raises(ConfigError, match="expected a text file, got Is a directory"):
        read_env_file(path)


def test_the_environment_goes_before_the_file_and_empty_counts_as_none(tmp_path, env):
    env(SMTP_HOST="of-environment", SMTP_USER="")
    (tmp_path / ".env").write_text("SMTP_HOST=of-file\nSMTP_USER=user-of-file\nSMTP_PORT=\n")
    values = read_settings()
    assert (values["SMTP_HOST"], values["SMTP_USER"]) == ("of-environment", "user-of-file")
    assert "SMTP_PORT" not in values
    assert os.environ["SMTP_USER"] == ""  # what the file holds is not passed on


def test_the_example_names_the_six_keys_and_sets_none(env):
    path = settings.ROOT_PATH / ".env.example"
    names = ("HOST", "PORT", "USER", "PASSWORD", "SENDER", "STARTTLS")
    assert read_env_file(path) == {f"SMTP_{name}": "" for name in names}


# ------------------------------------------------------------------------------- for mails


def test_all_that_is_missing_is_told_at_once(env):
    (line,) = problems()
    names = "SMTP_HOST, SMTP_SENDER, SMTP_USER, SMTP_PASSWORD"
    assert line.startswith(f"{names}: expected a value, got none. Set what is missing in the")
    env(**LOGIN | {"SMTP_USER": ""})
    assert problems()[0].startswith("SMTP_SENDER, SMTP_USER: expected a value")
    env(SMTP_STARTTLS="0")
    assert problems()[0].startswith("SMTP_HOST, SMTP_SENDER: expected a value")


def test_defaults(env):
    env(**LOGIN)
    read = read_mail_settings()
    assert (read.port, read.tls, read.sender, read.outbox) == (
        587,
        "starttls",
        LOGIN["SMTP_USER"],
        None,
    )
    assert read.context.check_hostname and read.context.verify_mode.name == "CERT_REQUIRED"
    env(**LOGIN, SMTP_SENDER="run@example.org")
    assert read_mail_settings().sender == "run@example.org"
    assert read_mail_settings("other@example.org").sender == "other@example.org"


@pytest.mark.parametrize(
    ("port", "starttls", "tls"),
    [
        ("587", "yes", "starttls"),
        ("25", "1", "starttls"),
        ("465", "", "at once"),
        ("465", "0", "at once"),
    ],
)
def test_how_the_connection_is_encrypted(port, starttls, tls, env):
    env(**LOGIN, SMTP_PORT=port, SMTP_STARTTLS=starttls)
    assert read_mail_settings().tls == tls


def test_without_encryption_only_without_a_login(env):
    env(SMTP_HOST="localhost", SMTP_SENDER="me@localhost", SMTP_STARTTLS="off")
    read = read_mail_settings()
    assert (read.tls, read.context, read.user, read.password) == ("none", None, None, None)
    for change in ({}, {"SMTP_USER": ""}, {"SMTP_PASSWORD": ""}):
        env(**LOGIN | {"SMTP_SENDER": "me@localhost", "SMTP_STARTTLS": "0"} | change)
        (line,) = problems()
        assert line.startswith("SMTP_STARTTLS: expected 1 with a login, got 0, which would send")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"SMTP_PORT": "smtp"}, "SMTP_PORT: expected 1 to 65535, got 'smtp'"),
        ({"SMTP_PORT": "0"}, "SMTP_PORT: expected 1 to 65535, got '0'"),
        ({"SMTP_PORT": "65536"}, "SMTP_PORT: expected 1 to 65535"),
        ({"SMTP_STARTTLS": "perhaps"}, "SMTP_STARTTLS: expected 1 or 0, got 'perhaps'"),
        ({"SMTP_SENDER": "me@example.org\nBcc: you"}, "SMTP_SENDER: expected a plain mail address"),
        ({"SMTP_CA_FILE": "/no/such/file"}, "SMTP_CA_FILE: expected certificates in PEM form"),
        ({"SMTP_PASSWORD": "geh\u00e4m"}, "SMTP_USER, SMTP_PASSWORD: expected ASCII letters"),
    ],
)
def test_wrong_settings_are_refused(change, message, env):
    env(**LOGIN | change)
    (line,) = problems()
    assert line.startswith(message) and "geh\u00e4m" not in line


def test_a_ca_file_that_is_none(tmp_path, env):
    (tmp_path / "ca.pem").write_text("nothing")
    env(**LOGIN, SMTP_CA_FILE=str(tmp_path / "ca.pem"))
    assert problems()[0].startswith("SMTP_CA_FILE: expected certificates in PEM form, got")


def test_an_outbox_needs_no_server(tmp_path, env):
    env(SMTP_OUTBOX=str(tmp_path / "out"))
    read = read_mail_settings()
    assert (read.outbox, read.sender) == (tmp_path / "out", "plumbline@localhost")
    env(SMTP_OUTBOX="out", SMTP_SENDER="me@example.org")
    read = read_mail_settings()
    assert (read.outbox, read.sender) == (settings.ROOT_PATH / "out", "me@example.org")


def test_settings_do_not_show_or_store_the_password(env):
    env(**LOGIN)
    read = read_mail_settings()
    assert read.password == PASSWORD and PASSWORD not in repr(read)
    with pytest.raises(TypeError, match="expected never to be written"):
        pickle.dumps(read)
    for notifier in (SMTPNotifier("me@example.org"), *make_notifiers("me@example.org")):
        assert PASSWORD not in repr(notifier) + str(vars(notifier))
        assert PASSWORD.encode() not in pickle.dumps(notifier)


# ------------------------------------------------------------------------------ receivers

GOOD = ["me@example.org", "a.b+c@x-y.example", "root@localhost", "o=x@1.2.3.4"]
BAD = ["", "me", "me@", "@x", "a b@x", "a@x\nBcc: b@x", "a@x\r", "a@x\n", "a@b@c", "\u00e4@x.org"]
BAD += ["a@\u00e4.org", "Me <a@x>", "a@x,b@x", "a:b@x", "a/b@x", None, 3, ["a@x"], b"a@x"]


def test_plain_addresses():
    assert [address for address in GOOD if not is_address(address)] == []
    assert [address for address in BAD if is_address(address)] == []


def test_receivers_as_text_or_list(env):
    env(SMTP_OUTBOX="out")
    (notifier,) = make_notifiers("a@x, b@x,a@x")
    assert notifier.receivers == ["a@x", "b@x"]
    (notifier,) = make_notifiers(("a@x", "b@x"))
    assert notifier.receivers == ["a@x", "b@x"]
    assert check_receivers("a@x") == []


@pytest.mark.parametrize("bad", BAD)
def test_wrong_receivers_are_told(bad, env):
    env(SMTP_OUTBOX="out")
    (line,) = check_receivers(["good@x", bad])
    assert line.startswith("expected a plain mail address, such as me@example.org, got")
    with pytest.raises(ConfigError, match="expected a plain mail address"):
        SMTPNotifier("good@x", cc_mail_addresses=[bad])


@pytest.mark.parametrize("receivers", [[], ()])
def test_without_receivers(receivers, env):
    assert check_receivers(receivers)[0].startswith("expected receivers, got none. Name")
    with pytest.raises(ConfigError, match="expected a mail address to send to, got none"):
        SMTPNotifier(receivers)


def test_receivers_and_settings_are_checked_together(env):
    receivers = ["me@x", "you", "env:MISSING", "slack://T/B/geheim"]
    lines = check_receivers(receivers)
    assert len(lines) == 4 and "geheim" not in "".join(lines)
    assert lines[1].startswith("expected a mail address or env:NAME, got a URL. It holds secrets")
    assert lines[2].startswith("SMTP_HOST, ") and lines[3].startswith("env:MISSING: expected URLs")


URL = "slack://xoxb-geheim,#a/geheim"


@pytest.mark.parametrize("receivers", [URL, [URL], f"me@x,{URL}", {"x": URL}, [[URL]], [{URL}]])
def test_urls_are_refused_without_being_quoted(receivers, env):
    env(SMTP_OUTBOX="out")
    lines = check_receivers(receivers)
    assert lines and "geheim" not in "".join(lines) and "xoxb" not in "".join(lines)


# ------------------------------------------------------------------------------- services


def test_urls_stand_apart_by_spaces_or_commas(env):
    env(MINE=" json://a/?x=1,2 slack://b, ntfy://c,\nntfy://d,e ")
    assert find_urls("MINE") == ["json://a/?x=1,2", "slack://b", "ntfy://c", "ntfy://d,e"]


def test_services_of_the_environment(env):
    pytest.importorskip("apprise")
    env(NOTIFY_URLS="json://localhost/geheim", MINE="json://a/geheim json://b/geheim")
    notifiers = make_notifiers(["env:MINE", "env:NOTIFY_URLS"])
    assert [(n.variable, n.number) for n in notifiers] == [
        ("MINE", 0),
        ("MINE", 1),
        ("NOTIFY_URLS", 0),
    ]
    assert len(make_notifiers([])) == 1  # NOTIFY_URLS alone
    for notifier in notifiers:
        assert b"geheim" not in pickle.dumps(notifier) + repr(vars(notifier)).encode()


def test_a_url_that_apprise_does_not_know(env, caplog, capsys):
    pytest.importorskip("apprise")
    env(NOTIFY_URLS="json://localhost nothing://geheim slack://geheim")
    (line,) = check_receivers([])
    assert line.startswith(
        "env:NOTIFY_URLS: expected URLs that apprise knows, got another as URL 2."
    )
    env(NOTIFY_URLS="slack://geheim")
    (line,) = check_receivers([])
    caplog.set_level("DEBUG")
    assert "geheim" not in line + caplog.text + "".join(capsys.readouterr())


def test_without_apprise(env, monkeypatch):
    env(NOTIFY_URLS="json://localhost")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match="expected the package apprise, got none. Install it: pip"
    ):
        ServiceNotifier()
