import errno
import json
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from utils.path import (
    create_dirs,
    fsync_dir,
    read_json,
    remove_dirs,
    remove_stale_temps,
    write_atomic,
    write_json,
)

ROOT = Path(__file__).parents[2]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_create_dirs_makes_parents_and_keeps_what_is_there(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "kept.txt").write_text("kept")
    create_dirs(tmp_path / "a" / "b", str(tmp_path / "old"))
    assert (tmp_path / "a" / "b").is_dir()
    assert (tmp_path / "old" / "kept.txt").read_text() == "kept"


def test_create_dirs_at_the_same_time(tmp_path):
    folder = tmp_path / "a" / "b" / "c" / "d"
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(create_dirs, [folder] * 64))
    assert folder.is_dir()


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_create_dirs_refuses_a_file(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="expected a folder or a free name, got .*file"):
        create_dirs(tmp_path / name)


def test_remove_dirs_removes_folders_below_the_root_alone(tmp_path):
    create_dirs(tmp_path / "logs" / "run" / "deep", tmp_path / "logs" / "other")
    remove_dirs(tmp_path / "logs" / "run", tmp_path / "logs" / "gone", inside=tmp_path / "logs")
    assert names(tmp_path / "logs") == ["other"]


def test_remove_dirs_refuses_all_when_one_is_outside(tmp_path):
    create_dirs(tmp_path / "logs" / "run", tmp_path / "data")
    (tmp_path / "logs" / "link").symlink_to(tmp_path / "data")
    logs = tmp_path / "logs"
    for outside in (logs, logs / "..", logs / ".." / "data", tmp_path / "data", logs / "link"):
        with pytest.raises(ValueError, match="remove_dirs: expected folders below"):
            remove_dirs(logs / "run", outside, inside=logs)
    assert (logs / "run").is_dir()
    assert (tmp_path / "data").is_dir()


def test_write_atomic_takes_bytes_views_and_text(tmp_path):
    path = tmp_path / "file"
    for data in (b"\x00\xff\r\n", memoryview(bytearray(b"view" * 100_000)), "\u00fc\n"):
        write_atomic(path, data)
        assert path.read_bytes() == (data.encode() if isinstance(data, str) else bytes(data))
    assert names(tmp_path) == ["file"]


@pytest.mark.skipif(os.name == "nt", reason="file modes are those of POSIX")
def test_write_atomic_honours_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "file", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_write_atomic_calls_the_hook_between_disk_and_final_name(tmp_path):
    path, former = tmp_path / "new.pt", tmp_path / "new.prev.pt"
    path.write_bytes(b"old")

    def keep_former():
        [temp] = [p for p in tmp_path.iterdir() if p.suffix == ".tmp"]
        assert temp.name.startswith("new.pt.")
        assert temp.read_bytes() == b"new"
        os.replace(path, former)

    write_atomic(path, b"new", before_replace=keep_former)
    assert path.read_bytes() == b"new"
    assert former.read_bytes() == b"old"
    assert names(tmp_path) == ["new.prev.pt", "new.pt"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, SystemExit])
def test_write_atomic_failure_keeps_the_former_file(tmp_path, error):
    path = tmp_path / "file"
    path.write_bytes(b"former")

    def fail():
        raise error("stop")

    with pytest.raises(error, match="stop"):
        write_atomic(path, b"new", before_replace=fail)
    assert path.read_bytes() == b"former"
    assert names(tmp_path) == ["file"]


def test_write_atomic_on_a_folder_fails_and_leaves_no_temporary_file(tmp_path):
    (tmp_path / "name").mkdir()
    with pytest.raises(OSError, match="name"):
        write_atomic(tmp_path / "name", b"new")
    assert names(tmp_path) == ["name"]


@pytest.mark.skipif(os.name == "nt", reason="needs RLIMIT_FSIZE")
def test_write_atomic_on_a_full_disk_keeps_the_former_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"former")
    code = """
import resource, signal, sys
from utils.path import write_atomic
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
try:
    write_atomic(sys.argv[1], bytes(1_000_000))
except OSError as error:
    print("refused", error.errno)
"""
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("refused")
    assert path.read_bytes() == b"former"
    assert names(tmp_path) == ["file"]


def test_remove_stale_temps_takes_those_of_its_own_path_alone(tmp_path):
    others = ["best.pth", "best.pth.mine.tmp", "xbest.pth.0123456789abcdef.tmp", "notes.tmp"]
    for name in [*others, "best.pth.0123456789abcdef.tmp"]:
        (tmp_path / name).write_text("")
    remove_stale_temps(tmp_path / "best.pth")
    assert names(tmp_path) == sorted(others)


def test_fsync_dir_reports_a_missing_folder(tmp_path):
    fsync_dir(tmp_path)
    if os.name != "nt":
        with pytest.raises(FileNotFoundError, match="missing"):
            fsync_dir(tmp_path / "missing")


@pytest.mark.skipif(os.name == "nt", reason="folders are not synced there")
def test_fsync_dir_passes_over_file_systems_that_cannot(tmp_path, monkeypatch):
    def fail(number):
        def fsync(fd):
            raise OSError(number, os.strerror(number))

        return fsync

    monkeypatch.setattr(os, "fsync", fail(errno.EINVAL))
    fsync_dir(tmp_path)
    monkeypatch.setattr(os, "fsync", fail(errno.EIO))
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        fsync_dir(tmp_path)


def test_json_round_trip(tmp_path):
    obj = {"z": 1, "a": [1.5, True, None, "\u00fc\n"], "nested": {"b": {}, "c": []}}
    write_json(tmp_path / "x.json", obj)
    assert read_json(tmp_path / "x.json") == obj
    assert list(read_json(tmp_path / "x.json")) == ["z", "a", "nested"]
    assert '\n  "z": 1' in (tmp_path / "x.json").read_text()


def test_read_json_takes_a_byte_order_mark(tmp_path):
    (tmp_path / "x.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "x.json") == {"a": 1}


def test_write_json_writes_null_where_json_has_no_number(tmp_path):
    loss = {"loss": float("nan"), "all": ({"x": float("inf")}, -float("inf"), 0.1)}
    write_json(tmp_path / "x.json", loss)
    strict = json.loads((tmp_path / "x.json").read_text(), parse_constant=pytest.fail)
    assert strict == {"loss": None, "all": [{"x": None}, None, 0.1]}
    assert loss["all"][1] == -float("inf")  # the caller's object is as it was


def test_write_json_refuses_objects_and_keeps_the_former_file(tmp_path):
    write_json(tmp_path / "x.json", 1)
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(tmp_path / "x.json", {"a": object()})
    assert read_json(tmp_path / "x.json") == 1
    assert names(tmp_path) == ["x.json"]


@pytest.mark.parametrize("data", [b"", b'{"a": ', b"\xff\xfe{}"])
def test_read_json_names_the_damaged_file(tmp_path, data):
    (tmp_path / "x.json").write_bytes(data)
    with pytest.raises(ValueError, match=r"x\.json: expected JSON, got"):
        read_json(tmp_path / "x.json")
