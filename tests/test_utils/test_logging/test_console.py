import io
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress

from utils.logging.console import logging_into, logging_to, make_console

ROOT = Path(__file__).parents[3]

logger = logging.getLogger("plumbline")


def test_lines_go_to_the_console_and_the_file(tmp_path):
    out = io.StringIO()
    with logging_to(Console(file=out), tmp_path / "train.log"):
        logger.info("%d epochs", 3)
        logger.warning("odd")
        logger.error("broken")
        logger.debug("for the file alone")
    logger.error("after the run")
    shown = "3 epochs\nwarning: odd\nerror: broken\n"
    assert out.getvalue() == shown
    assert (tmp_path / "train.log").read_text() == shown + "for the file alone\n"


def test_lines_are_kept_for_later(capfd):
    lines = []
    with logging_into(lines):
        logger.info("%d epochs", 3)
        logger.warning("odd")
        logger.debug("for a file alone")
    assert lines == ["3 epochs", "warning: odd"]
    assert capfd.readouterr() == ("", "")


def test_without_a_console_the_file_alone(tmp_path, capfd):
    with logging_to(None, tmp_path / "train.log"):
        logger.warning("odd")
    assert capfd.readouterr() == ("", "")
    assert (tmp_path / "train.log").read_text() == "warning: odd\n"


@pytest.mark.parametrize("is_terminal", [True, False])
def test_lines_are_shown_as_they_are(is_terminal):
    # no markup, no emoji, no colour of numbers, no wrapping
    line = "[red]run[/red] :warning: 12 'text' /a/path " + "x" * 200
    out = io.StringIO()
    with logging_to(Console(file=out, width=40, force_terminal=is_terminal)):
        logger.info("%s", line)
    assert out.getvalue() == line + "\n"


def test_the_file_holds_no_bar(tmp_path):
    out = io.StringIO()
    console = Console(file=out, force_terminal=True)
    with logging_to(console, tmp_path / "train.log"), Progress(console=console) as bar:
        bar.add_task("epoch", total=3)
        logger.info("a line above the bar")
    assert "\u2501" in out.getvalue() and "a line above the bar" in out.getvalue()
    assert (tmp_path / "train.log").read_text() == "a line above the bar\n"


@pytest.mark.parametrize("fails", [True, False])
def test_the_logger_is_left_as_it_was(fails, tmp_path):
    state = logger.level, logger.propagate, logger.handlers[:], logger.isEnabledFor(logging.DEBUG)
    try:
        with logging_to(None, tmp_path / "train.log"):
            assert logger.isEnabledFor(logging.DEBUG) and not logger.propagate
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    assert not state[3]  # what was enabled is remembered by level: it must be forgotten
    assert state == (
        logger.level, logger.propagate, logger.handlers, logger.isEnabledFor(logging.DEBUG)
    )  # fmt: skip


def test_letters_that_the_terminal_or_utf8_cannot_write(tmp_path, monkeypatch):
    data = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(data, encoding="ascii"))
    with logging_to(make_console(), tmp_path / "train.log"):
        logger.info("m\u00fcll \udc80")  # the second is a half character of a broken file name
    assert data.getvalue() == b"m\\xfcll \\udc80\n"
    assert (tmp_path / "train.log").read_text(encoding="utf-8") == "m\u00fcll \\udc80\n"


def test_console_writes_to_the_standard_output_of_the_moment(capsys, monkeypatch):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    make_console().print("here")
    assert capsys.readouterr().out == "here\n"
    assert not make_console().is_terminal


TRAIN = """
import logging, os, sys
from pathlib import Path
from utils.logging.console import logging_into, logging_to, make_console

logger = logging.getLogger("plumbline")
with logging_to(make_console(), Path(sys.argv[1])):
    logger.info("one")
    sys.stdin.readline()  # until the reader is gone
    logger.info("two")
    logger.info("three")
sys.exit(7)
"""


def test_a_reader_that_goes_ends_no_run(tmp_path):
    # `train.py | tee log`: Ctrl-C ends tee, while the run still has its state to save
    read, write = os.pipe()
    command = [sys.executable, "-c", TRAIN, str(tmp_path / "train.log")]
    options = {"stdin": subprocess.PIPE, "stdout": write, "stderr": subprocess.PIPE}
    # buffered, as it is for users: what is left in the buffer must not fail when Python ends
    environment = {name: os.environ[name] for name in os.environ if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, **options) as process:
        os.close(write)
        assert os.read(read, 100) == b"one\n"
        os.close(read)
        _, errors = process.communicate(b"\n")
    assert (process.returncode, errors) == (7, b"")
    assert (tmp_path / "train.log").read_text() == "one\ntwo\nthree\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a full disk")
def test_a_full_disk_is_told_once_and_the_run_goes_on(capfd):
    out = io.StringIO()
    former = logger.level, logger.propagate
    with logging_to(Console(file=out, width=200), Path("/dev/full")):
        logger.info("first")
        logger.info("second")
    said = out.getvalue()
    assert said.count("No space left on device") == 1 and "/dev/full" in said
    assert "first\n" in said and "second\n" in said
    assert capfd.readouterr().err == ""  # no call stack of logging's own
    assert (logger.level, logger.propagate) == former
