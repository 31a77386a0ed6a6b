import functools
import os
import pickle
import re
import shlex
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import train as command_line
from config.errors import ConfigError
from tests.test_training.common import ROUTINES, folders, make_config, train
from tests.test_utils.test_notify.servers import (
    PASSWORD,
    SECRETS,
    ScriptedServer,
    isolate,
    mail_server,
    mails_of,
    pictures_of,
    text_of,
)
from training.callbacks import Callback, Notify
from training.callbacks.notify import describe_end, describe_stall, title_of_end
from training.callbacks.progress import tabulate_result
from training.run import Run
from training.state import RunInterrupted

ADDRESS = "me@example.org"


def draw(rows, best_epoch, title):
    assert rows[best_epoch - 1]["val_loss"] == min(row["val_loss"] for row in rows) and title
    return b"picture"


MAIL = functools.partial(Notify, [ADDRESS], draw=draw)


@pytest.fixture
def outbox(tmp_path, monkeypatch):
    isolate(monkeypatch, tmp_path, SMTP_OUTBOX=tmp_path / "out")
    return tmp_path / "out"


class Ends(Callback):
    """Ends the run in some way after a batch."""

    def __init__(self, way, batch=9):
        self.way, self.batch = way, batch

    def on_batch_end(self, run, loss):
        if run.position.step + 1 < self.batch:
            return
        if self.way == "done":
            run.should_stop = True
        elif self.way == "failed":
            raise RuntimeError("out\r\nBcc: you@example.org\r\nof luck")
        elif self.way == "Ctrl-C":
            raise KeyboardInterrupt
        else:
            os.kill(os.getpid(), signal.SIGTERM)


ENDS = {
    "done": None,
    "failed": RuntimeError,
    "Ctrl-C": KeyboardInterrupt,
    "SIGTERM": RunInterrupted,
}


def end(routine, path, way, *callbacks, **changes):
    """Train until the run ends in this way."""
    callbacks = [*callbacks, functools.partial(Ends, way)]
    if ENDS[way] is None:
        return train(routine, path, CALLBACKS=callbacks, **changes)
    with pytest.raises(ENDS[way]):
        train(routine, path, CALLBACKS=callbacks, **changes)
    return None


def log_of(path):
    return "".join(p.read_text() for p in Path(path).glob("logs/*/train.log"))


# ------------------------------------------------------------------------ one mail for each end


@pytest.mark.parametrize("way", ENDS)
@pytest.mark.parametrize("routine", ROUTINES)
def test_one_mail_for_each_end(routine, way, tmp_path, outbox):
    end(routine, tmp_path, way, MAIL)
    (mail,) = mails_of(outbox)
    status = way if way in ("done", "failed") else "interrupted"
    text = "RuntimeError: .*out Bcc: you@example.org of luck"  # fastai adds words of its own
    if way != "failed":
        text = r"best val_loss \d\.\d+ in epoch [12]"
    assert re.fullmatch(rf"\[plumbline\] \S+_test {status}: {text}", mail["Subject"])
    assert mail["To"] == ADDRESS and mail["Bcc"] is None
    (picture,) = pictures_of(mail)
    assert picture.get_content() == b"picture"
    assert ("The last lines of train.log" in text_of(mail)) == (way == "failed")


@pytest.mark.parametrize(
    ("way", "told"), {"done": "full", "Ctrl-C": "full", "failed": "out"}.items()
)
def test_an_end_that_cannot_be_written_is_told_as_a_failure(
    way, told, tmp_path, outbox, monkeypatch
):
    def fill_disk(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr("training.record.Record.finish", fill_disk)
    monkeypatch.setitem(ENDS, way, OSError)
    end("pytorch", tmp_path, way, NOTIFY=[ADDRESS])
    (mail,) = mails_of(outbox)
    assert " failed: " in mail["Subject"] and told in mail["Subject"]  # what failed first


def test_the_text_of_a_run_that_is_done(tmp_path, outbox):
    result = train("pytorch", tmp_path, CALLBACKS=[MAIL])
    text = text_of(*mails_of(outbox))
    first, best, *_ = text.split("\n\n")
    assert re.fullmatch(
        rf"{result['run']} done after 0:0\d:\d\d on \S+: 2 of 2 epochs, 14 updates, routine \w+",
        first,
    )
    assert best == f"best val_loss {result['best_value']:.4g} in epoch {result['best_epoch']}"
    assert "\n".join(tabulate_result(result)) in text and "val_accuracy" in text
    for name, path in result["paths"].items():
        assert f"{name:>10}  {path}" in text.splitlines()
    assert text.splitlines()[-1] == (
        f"   predict  python predict.py -i FILES -o DIR --weights {result['paths']['best']}"
    )
    assert "resume" not in text and "\n\n\n" not in text


def test_the_text_of_a_run_that_failed(tmp_path, outbox):
    end("pytorch", tmp_path, "failed", MAIL)
    text = text_of(*mails_of(outbox))
    lines = text.splitlines()
    assert lines[4:7] == ["RuntimeError: out", "Bcc: you@example.org", "of luck"]
    tail = text.split("The last lines of train.log:\n\n")[1].splitlines()
    assert tail == log_of(tmp_path).splitlines()[: len(tail)]
    assert "Traceback (most recent call last):" in tail and len(tail) <= 30
    assert any(line.startswith("   predict  python predict.py -i FILES") for line in lines)


def test_the_command_of_the_mail_resumes(tmp_path):
    where = {"LOG_DIR": tmp_path / "lo gs", "WEIGHT_DIR": tmp_path / "weights"}
    run_of = folders(tmp_path) | where
    with pytest.raises(RunInterrupted), Run(make_config(), run_of) as run:
        run.position.epoch = 1
        run.save_checkpoint()
        raise RunInterrupted(signal.SIGTERM)
    text = describe_end(run, run.result() | {"status": "interrupted"})
    (line,) = [line for line in text.splitlines() if line.startswith("    resume")]
    python, script, *arguments = shlex.split(line.removeprefix("    resume"))
    assert (python, script) == ("python", "train.py")
    name = run.record.name
    assert arguments[:2] == ["--resume", name]
    assert arguments[2:] == [*(f"{k}={v}" for k, v in where.items()), f"DATA_DIR={tmp_path}/data"]
    assert command_line.main(arguments) == 0
    (log,) = where["LOG_DIR"].glob("*/train.log")
    assert log.read_text().count(f"{name}: pytorch on cpu") == 2 and "done after" in log.read_text()


# ---------------------------------------------------------------------------- it does no harm


def test_a_server_that_is_silent_changes_no_result(tmp_path, monkeypatch, capsys):
    isolate(monkeypatch, tmp_path)
    plain = train("pytorch", tmp_path / "plain")
    (tmp_path / "mine.py").write_text(
        "from functools import partial\n"
        "from training.callbacks import Notify\n"
        "from tests.test_training.common import Net, Pictures, make_config\n"
        f"train_config = make_config(CALLBACKS=[partial(Notify, ['{ADDRESS}'], deadline=0.3)])\n"
    )
    with ScriptedServer(silent=True) as server:
        isolate(monkeypatch, tmp_path, **server.settings)
        where = [f"LOG_DIR={tmp_path}/logs", f"WEIGHT_DIR={tmp_path}/weights"]
        assert command_line.main([str(tmp_path / "mine.py"), *where]) == 0
        assert server.gone.wait(10)
    warnings = [line for line in log_of(tmp_path).splitlines() if line.startswith("warning")]
    assert warnings == [f"warning: mail to {ADDRESS} not sent: no answer within 0.3 seconds"]
    metrics = [p.read_bytes() for p in tmp_path.rglob("metrics.csv")]
    assert len(metrics) == 2 and metrics[0] == metrics[1]
    (row,) = tmp_path.glob("logs/experiments.csv")
    assert "done" in row.read_text() and plain["status"] == "done"


@pytest.mark.parametrize("way", ENDS)
def test_a_mail_that_fails_twice_changes_no_end(way, tmp_path, monkeypatch):
    monkeypatch.setattr("utils.notify.smtp._PAUSE", 0)
    with ScriptedServer({".": ["451 not now"]}) as server:
        isolate(monkeypatch, tmp_path, **server.settings)
        end("pytorch", tmp_path, way, MAIL)
        assert server.count("MAIL") == 2
    warnings = [line for line in log_of(tmp_path).splitlines() if line.startswith("warning")]
    assert warnings == [f"warning: mail to {ADDRESS} not sent: the server answered 451 not now"]


@pytest.mark.parametrize("name", ["describe_end", "title_of_end", "draw"])
def test_a_fault_in_the_mail_itself(name, tmp_path, outbox, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError("a bug")

    if name == "draw":  # the mail goes without it
        train("pytorch", tmp_path, CALLBACKS=[functools.partial(Notify, ADDRESS, draw=fail)])
        assert not pictures_of(mails_of(outbox)[0])
        assert "no picture in the mail: ZeroDivisionError: a bug" in log_of(tmp_path)
    else:
        monkeypatch.setattr(f"training.callbacks.notify.{name}", fail)
        assert train("pytorch", tmp_path, CALLBACKS=[MAIL])["status"] == "done"
        assert "warning: no message sent: ZeroDivisionError: a bug" in log_of(tmp_path)


def test_what_is_missing_is_known_before_anything_is_written(tmp_path, monkeypatch):
    isolate(monkeypatch, tmp_path)
    with pytest.raises(ConfigError) as error:
        train("pytorch", tmp_path, CALLBACKS=[MAIL])
    assert error.value.problems[0].startswith("CALLBACKS: SMTP_HOST, SMTP_SENDER, SMTP_USER")
    with pytest.raises(
        ConfigError, match="CALLBACKS: expected stall_minutes above 0, or None, got 0"
    ):
        isolate(monkeypatch, tmp_path, SMTP_OUTBOX="out")
        train("pytorch", tmp_path, CALLBACKS=[functools.partial(Notify, ADDRESS, stall_minutes=0)])
    assert not list(tmp_path.iterdir())


def test_only_the_main_process_tells(tmp_path, outbox):
    notify = MAIL(stall_minutes=1)
    with Run(make_config(), folders(tmp_path)) as run:
        run.is_main = False
        notify.on_start(run)
        assert notify.watchdog is None
        notify.on_end(run, run.result())
        assert not outbox.exists()
        run.is_main = True
        notify.on_end(run, run.result())
    assert len(mails_of(outbox)) == 1


def test_nobody_hears_the_password(tmp_path, monkeypatch, caplog, capsys):
    with mail_server(tmp_path, quotes=True) as (inbox, values):
        isolate(monkeypatch, tmp_path)
        for password in (PASSWORD, PASSWORD[::-1]):
            values["SMTP_PASSWORD"] = password
            lines = [f"{name}='{value}'" for name, value in values.items()]
            (tmp_path / ".env").write_text("\n".join(lines))
            notify = Notify(ADDRESS)
            assert PASSWORD.encode() not in pickle.dumps(notify) + repr(vars(notify)).encode()
            end("pytorch", tmp_path / "runs", "failed", functools.partial(Notify, ADDRESS))
    assert len(inbox.mails) == 1  # the other time the server refused, and quoted the password
    assert log_of(tmp_path / "runs").count("the server answered 535 at the login.") == 1
    files = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert {"config.yaml", "environment.json", "train.log", "result.json", "checkpoint.pt"} <= {
        path.name for path in files
    }
    data = b"".join(path.read_bytes() for path in files) + inbox.mails[0].as_bytes()
    data += "".join(capsys.readouterr()).encode()
    wrong = PASSWORD[::-1].encode()
    assert not [secret for secret in [*SECRETS, wrong] if secret in data]


# ------------------------------------------------------------------------------------ a stall


class Hangs(Callback):
    """Waits in its third batch until a mail has come."""

    def __init__(self, got):
        self.got = got

    def on_batch_end(self, run, loss):
        if run.position.step == 3:
            assert self.got.wait(30)


def test_a_run_that_hangs_is_told_while_it_hangs(tmp_path, monkeypatch):
    with mail_server(tmp_path) as (inbox, values):
        isolate(monkeypatch, tmp_path, **values)
        notify = Notify(ADDRESS, stall_minutes=0.3 / 60, deadline=30)
        result = train("pytorch", tmp_path, CALLBACKS=[Hangs(inbox.got), notify])
    assert result["status"] == "done"
    stall, *_, last = inbox.mails
    pattern = rf"\[plumbline\] {result['run']} hangs: no batch has ended for 0:00:0\d"
    assert re.fullmatch(pattern, stall["Subject"])
    text = text_of(stall)
    assert "in epoch 1 of 2, after batch 3 of 7." in text
    assert f"process {os.getpid()} on" in text and "in on_batch_end" in text
    assert last["Subject"].startswith(f"[plumbline] {result['run']} done: ")
    assert sum("done:" in mail["Subject"] for mail in inbox.mails) == 1
    assert "warning: no batch has ended for 0:00:0" in log_of(tmp_path)
    assert notify.watchdog is None


def test_signs_of_life(outbox):
    notify = MAIL(stall_minutes=1000)
    run = SimpleNamespace(is_main=True)
    notify.on_start(run)
    watchdog = notify.watchdog
    signs = [
        functools.partial(notify.on_epoch_start, run),
        functools.partial(notify.on_batch_end, run, 0.5),
        functools.partial(notify.on_validation_start, run),
        functools.partial(notify.on_epoch_end, run, {}),
    ]
    for give in signs:
        watchdog.heard = 0.0
        before = time.monotonic()
        give()
        assert before <= watchdog.heard <= time.monotonic()
    (thread,) = [thread for thread in threading.enumerate() if thread is watchdog._thread]
    notify._tell = lambda make: None
    notify.on_end(run, {})
    thread.join(10)
    assert not thread.is_alive() and thread.daemon


def test_without_stall_minutes_nobody_watches(tmp_path, outbox):
    notify = MAIL()
    assert train("pytorch", tmp_path, CALLBACKS=[notify])["status"] == "done"
    assert notify.watchdog is None


def test_a_fault_while_telling_of_a_stall(tmp_path, outbox, monkeypatch, caplog):
    notify = MAIL(stall_minutes=1)
    run = SimpleNamespace(record=SimpleNamespace(name="a-run"))  # and nothing that a text needs
    notify._tell_stall(run, 60.0)
    assert "no message sent: AttributeError" in caplog.text


# ---------------------------------------------------------------------------- texts, pictures


def test_the_end_of_a_long_log(tmp_path, outbox):
    class Talks(Callback):
        def on_end(self, run, result):
            for i in range(1000):
                run.say(f"line {i} " + "x" * 300)
            lines.extend(describe_end(run, result).split("train.log:\n\n")[1].splitlines())
            Path(run.record.log_dir, "train.log").unlink()
            lines.append(describe_end(run, result))

    lines = []
    end("pytorch", tmp_path, "failed", Talks())
    assert [line.split()[1] for line in lines[:-1]] == [str(i) for i in range(970, 1000)]
    assert "No such file or directory" in lines[-1]


def test_a_run_without_an_epoch():
    result = {"run": "a", "status": "interrupted", "epochs": 0, "best_epoch": None}
    assert title_of_end(result) == "[plumbline] a interrupted: after 0 epochs"


def test_a_stall_after_the_last_epoch():
    run = SimpleNamespace(
        record=SimpleNamespace(name="a"),
        position=SimpleNamespace(epoch=2, batch=0),
        n_epochs=2,
        train_loader=[0] * 7,
    )
    assert "in epoch 2 of 2, after batch 0 of 7." in describe_stall(run, "0:10:00")


def test_a_mail_with_the_real_picture(tmp_path, outbox):
    pytest.importorskip("matplotlib")
    train("pytorch", tmp_path, CALLBACKS=[functools.partial(Notify, ADDRESS)])
    (picture,) = pictures_of(mails_of(outbox)[0])
    assert picture.get_content_type() == "image/png" and picture.get_content()[1:4] == b"PNG"


def test_nothing_is_drawn_without_an_epoch(tmp_path, outbox):
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(36, 3)

        def forward(self, x):
            if self.training:
                raise RuntimeError("broken")
            return self.layer(torch.flatten(x, 1))

    with pytest.raises(RuntimeError, match="broken"):
        callbacks = [functools.partial(Notify, ADDRESS, draw=lambda *_: b"picture")]
        train("pytorch", tmp_path, MODEL=Broken, CALLBACKS=callbacks)
    (mail,) = mails_of(outbox)
    assert not pictures_of(mail) and "predict" not in text_of(mail)
    assert mail["Subject"].endswith("failed: RuntimeError: broken")
