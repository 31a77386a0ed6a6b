import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from utils.name import MAX_LENGTH, output_name, reserve_dir, run_name, timestamp

ROOT = Path(__file__).parents[2]
DATE = "20261120-143000"


def test_timestamp_has_the_form_of_date():
    assert re.fullmatch(r"\d{8}-\d{6}", timestamp())
    assert datetime.strptime(timestamp(), "%Y%m%d-%H%M%S").year >= 2024


@pytest.mark.parametrize(
    ("session", "name"),
    [
        ("training-run", "training-run"),
        ("v1.2_b", "v1.2_b"),
        ("", "run"),
        ("first try", "first-try"),
        ("../../etc", "..-..-etc"),
        ("/etc/passwd", "-etc-passwd"),
        ("C:\\temp", "C--temp"),
        ("a\nb\r\0c", "a-b--c"),
        ("=cmd|' /C calc'!A0", "-cmd----C-calc--A0"),
        ("gr\u00f6\u00dfe", "gr--e"),
        ("end...", "end"),
    ],
)
def test_run_name_is_date_and_safe_session(session, name):
    assert run_name(DATE, session) == f"{DATE}_{name}"


@pytest.mark.parametrize("date", ["", ".", "../", "/abs", "=1", "-rf", "..."])
@pytest.mark.parametrize(
    "session", ["", ".", "..", "../x", ".hidden", "-rf", "=x", "\n", "a" * 999]
)
def test_run_name_is_one_plain_component_whatever_the_parts(date, session, tmp_path):
    name = run_name(date, session)
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name)
    assert len(name) <= MAX_LENGTH
    assert reserve_dir(tmp_path, name).parent == tmp_path


def test_run_name_without_parts_is_run():
    assert run_name("", "") == "run"
    assert run_name("", "...") == "run"


def test_reserve_dir_numbers_a_taken_name(tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "name_2").write_text("a file takes a name too")
    made = [reserve_dir(tmp_path / "logs", "name").name for _ in range(3)]
    assert made == ["name", "name_3", "name_4"]


def test_reserve_dir_makes_the_parent(tmp_path):
    assert reserve_dir(tmp_path / "a" / "b", "name").is_dir()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "/abs", "a\\b", "a\0b"])
def test_reserve_dir_refuses_more_than_one_component(tmp_path, name):
    with pytest.raises(ValueError, match="reserve_dir: expected one file name without folders"):
        reserve_dir(tmp_path / "logs", name)
    assert not (tmp_path / "logs").exists()


def test_reserve_dir_gives_each_process_its_own(tmp_path):
    code = """
import sys
from utils.name import reserve_dir
print("ready", flush=True)
sys.stdin.readline()
for _ in range(5):
    print(reserve_dir(sys.argv[1], "name").name)
"""
    start = [sys.executable, "-c", code, str(tmp_path / "logs")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    children = [subprocess.Popen(start, **pipes) for _ in range(8)]
    assert [child.stdout.readline() for child in children] == ["ready\n"] * 8
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    made = [name for child in children for name in child.communicate()[0].split()]
    assert sorted(made) == sorted(["name", *(f"name_{i}" for i in range(2, 41))])


def test_output_name_is_prefix_stem_suffix():
    assert output_name("in/scene.npy") == "scene"
    assert output_name(Path("in/scene.v2.npy"), "pred_", "_mask.npy") == "pred_scene.v2_mask.npy"


@pytest.mark.parametrize(
    ("path", "prefix", "suffix"),
    [
        ("x.npy", "../", ""),
        ("x.npy", "", "/../y"),
        ("x.npy", "/abs/", ""),
        ("..", "", ""),
        ("", "", ""),
    ],
)
def test_output_name_stays_in_its_folder(path, prefix, suffix):
    with pytest.raises(ValueError, match="output_name: expected one file name without folders"):
        output_name(path, prefix, suffix)
