import csv
import math
import os
import random
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from utils.logging.csv import CsvTracker, flatten, read_tracker, scan_tracker

ROOT = Path(__file__).parents[3]

# Saved with an unnamed index: raw newlines and backslashes in the fields.
OLD = (
    ",DATE,MODEL,PATH,NOTE\n"
    '0,20200101-000000,"UNET(\n  (a): Conv2d()\n)",C:\\new\\runs,=1+1\n'
    "1,20200102-000000,resnet,,'quoted'\n"
)
OLD_ROWS = [
    {
        "DATE": "20200101-000000",
        "MODEL": "UNET(\n  (a): Conv2d()\n)",
        "PATH": "C:\\new\\runs",
        "NOTE": "=1+1",
    },
    {"DATE": "20200102-000000", "MODEL": "resnet", "PATH": "", "NOTE": "'quoted'"},
]


def table(path: Path) -> list[list[str]]:
    """Return all lines as the standard reader sees them."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def start(code: str, *arguments: object, **options: object) -> subprocess.Popen:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, **options)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_append_makes_folder_and_table(tmp_path):
    CsvTracker(tmp_path / "logs" / "e.csv").append({"RUN": "a", "STATUS": "running"})
    assert (tmp_path / "logs" / "e.csv").read_bytes() == b"RUN,STATUS\na,running\n"
    assert files(tmp_path / "logs") == ["e.csv", "e.csv.lock"]


def test_new_keys_become_last_columns_and_missing_ones_stay_empty(tmp_path):
    tracker = CsvTracker(tmp_path / "e.csv")
    tracker.append({"RUN": "a", "LR": 0.1})
    tracker.append({"SEED": 0, "RUN": "b"})
    tracker.append({"LR": 0.2})
    assert table(tmp_path / "e.csv") == [
        ["RUN", "LR", "SEED"],
        ["a", "0.1", ""],
        ["b", "", "0"],
        ["", "0.2", ""],
    ]


def test_known_columns_are_appended_without_a_rewrite(tmp_path):
    tracker = CsvTracker(tmp_path / "e.csv")
    tracker.append({"RUN": "a", "LR": 0.1})
    before = (tmp_path / "e.csv").stat().st_ino
    tracker.append({"LR": 0.2, "RUN": "b"})
    assert (tmp_path / "e.csv").stat().st_ino == before
    assert read_tracker(tmp_path / "e.csv")[1] == {"RUN": "b", "LR": "0.2"}


def test_update_replaces_named_fields_of_its_run_and_keeps_the_others(tmp_path):
    tracker = CsvTracker(tmp_path / "e.csv")
    for run in ("=a", "b", "c"):
        tracker.append({"RUN": run, "STATUS": "running", "LR": 0.1})
    tracker.update("=a", {"STATUS": "failed", "f1": 0.5})
    tracker.update("b", {"STATUS": "done", "LR": None})
    assert read_tracker(tmp_path / "e.csv") == [
        {"RUN": "=a", "STATUS": "failed", "LR": "0.1", "f1": "0.5"},
        {"RUN": "b", "STATUS": "done", "LR": "", "f1": ""},
        {"RUN": "c", "STATUS": "running", "LR": "0.1", "f1": ""},
    ]


def test_update_appends_an_unknown_run_and_means_the_last_of_several(tmp_path):
    tracker = CsvTracker(tmp_path / "e.csv")
    tracker.update("a", {"STATUS": "running"})
    tracker.append({"RUN": "a", "STATUS": "running"})
    tracker.update("a", {"STATUS": "done"})
    assert [row["STATUS"] for row in read_tracker(tmp_path / "e.csv")] == ["running", "done"]


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (None, ""),
        (True, "True"),
        (3, "3"),
        (0.1 + 0.2, "0.30000000000000004"),
        (math.nan, "nan"),
        (math.inf, "inf"),
        (Path("a/b"), os.path.join("a", "b")),
        ([1, 0.5], "[1, 0.5]"),
        # numbers stay numbers, as values and as text
        (-0.5, "-0.5"),
        (-1e-3, "-0.001"),
        (-1e-30, "-1e-30"),
        (-math.inf, "-inf"),
        (-7, "-7"),
        ("-0.5", "-0.5"),
        ("-1e-3", "-1e-3"),
        ("+5", "+5"),
        ("-.5", "-.5"),
        # text that a spreadsheet would run
        ("=1+1", "'=1+1"),
        ("+SUM(A1)", "'+SUM(A1)"),
        ("-2+3", "'-2+3"),
        ("-", "'-"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\tx", "'\tx"),
        ("\rx", "'\\rx"),
        ("\0x", "'\\0x"),
        ("\uff1d1", "'\uff1d1"),
        ("\uff0b1", "'\uff0b1"),
        ("\uff0d1", "'\uff0d1"),
        ("\uff201", "'\uff201"),
        (" =1", "' =1"),
        ("\n=1", "'\\n=1"),
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ('=HYPERLINK("x","y")', '\'=HYPERLINK("x","y")'),
        ("-1_000", "'-1_000"),
        ("-\u0661", "'-\u0661"),
        # text that looks like the above once written
        ("'=1", "''=1"),
        ("''-0.5", "'''-0.5"),
        ("'quoted'", "'quoted'"),
        ("'", "'"),
        # escapes, so that a newline in the file ends a record and nothing else does
        ("a\nb\r\nc", "a\\nb\\r\\nc"),
        ("\\n", "\\\\n"),
        ("C:\\new\\", "C:\\\\new\\\\"),
        ("\\udc80", "\\\\udc80"),
        ("half \udc80", "half \\udc80"),
        ('a,"b";c', 'a,"b";c'),
        (" space ", " space "),
        ("\x0b\x0c\x1c\x85\u2028", "\x0b\x0c\x1c\x85\u2028"),
        ("\u00fc \U0001f600", "\u00fc \U0001f600"),
    ],
)
def test_value_stands_safely_in_the_file_and_reads_back_exactly(tmp_path, value, field):
    path = tmp_path / "e.csv"
    CsvTracker(path).append({"RUN": "a", "VALUE": value, "END": "e"})
    assert table(path) == [["RUN", "VALUE", "END"], ["a", field, "e"]]
    assert path.read_bytes().count(b"\n") == 2
    text = "" if value is None else str(value)
    assert read_tracker(path) == [{"RUN": "a", "VALUE": text, "END": "e"}]


def test_random_text_and_column_names_read_back_exactly(tmp_path):
    generator = random.Random(0)
    letters = "ab ',;\"\\\n\r\t\0=+-@01.enu\u00fc\uff1d\udc80"
    texts = ["".join(generator.choices(letters, k=generator.randint(1, 8))) for _ in range(400)]
    tracker = CsvTracker(tmp_path / "e.csv")
    written = []
    for i in range(0, 400, 20):
        written.append(dict.fromkeys(texts[i : i + 5]) | {"RUN": texts[i]})
        written[-1] = {name: texts[(i + j) % 400] for j, name in enumerate(written[-1])}
        tracker.append(written[-1])
    for want, got in zip(written, read_tracker(tmp_path / "e.csv"), strict=True):
        assert {name: got[name] for name in want} == want
        assert not any(field for name, field in got.items() if name not in want)


def test_numpy_numbers_are_written_as_plain_numbers(tmp_path):
    numpy = pytest.importorskip("numpy")
    CsvTracker(tmp_path / "e.csv").append({"a": numpy.float64(-0.1), "b": numpy.int64(3)})
    assert read_tracker(tmp_path / "e.csv") == [{"a": "-0.1", "b": "3"}]


def test_very_long_fields_are_read_back(tmp_path):
    tracker = CsvTracker(tmp_path / "e.csv")
    tracker.append({"RUN": "a", "NOTE": "x" * 300_000})
    tracker.update("a", {"STATUS": "done"})
    assert len(read_tracker(tmp_path / "e.csv")[0]["NOTE"]) == 300_000


@pytest.mark.parametrize("row", [{}, {"": 1}, {"RUN": "a", 3: 1}, {None: 1}])
def test_columns_without_a_name_are_refused(tmp_path, row):
    with pytest.raises(ValueError, match="expected column names that are text and not empty"):
        CsvTracker(tmp_path / "e.csv").append(row)
    assert files(tmp_path) == []


def test_missing_table_has_no_records_and_reading_makes_no_file(tmp_path):
    assert read_tracker(tmp_path / "logs" / "e.csv") == []
    assert files(tmp_path) == []


def test_empty_file_is_an_empty_table(tmp_path):
    path = tmp_path / "e.csv"
    path.write_bytes(b"")
    assert read_tracker(path) == []
    CsvTracker(path).append({"RUN": "a"})
    assert read_tracker(path) == [{"RUN": "a"}]


def test_folder_that_may_only_be_read_is_read_without_a_lock(tmp_path, monkeypatch):
    path = tmp_path / "e.csv"
    path.write_text("RUN,LR\na,0.1\nb,0")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    assert read_tracker(path) == [{"RUN": "a", "LR": "0.1"}]
    assert files(tmp_path) == ["e.csv"]


def test_link_shares_table_and_lock_with_its_target(tmp_path):
    CsvTracker(tmp_path / "e.csv").append({"RUN": "a"})
    (tmp_path / "link.csv").symlink_to(tmp_path / "e.csv")
    CsvTracker(tmp_path / "link.csv").append({"RUN": "b", "NEW": 1})
    assert (tmp_path / "link.csv").is_symlink()
    assert [row["RUN"] for row in read_tracker(tmp_path / "e.csv")] == ["a", "b"]
    assert files(tmp_path) == ["e.csv", "e.csv.lock", "link.csv"]


def test_table_with_an_index_column_is_read(tmp_path):
    (tmp_path / "e.csv").write_text(OLD)
    assert read_tracker(tmp_path / "e.csv") == OLD_ROWS


@pytest.mark.parametrize("row", [{"RUN": "new"}, {"DATE": "new"}])
def test_table_with_an_index_column_is_continued(tmp_path, row):
    path = tmp_path / "e.csv"
    path.write_text(OLD)
    CsvTracker(path).append(row)
    CsvTracker(path).append(row)
    read = read_tracker(path)
    assert [{name: old[name] for name in OLD_ROWS[0]} for old in read[:2]] == OLD_ROWS
    assert [{k: v for k, v in new.items() if v} for new in read[2:]] == [row, row]
    assert {len(line) for line in table(path)} == {len(read[0])}


def test_table_saved_by_a_script_with_an_index_keeps_its_escapes(tmp_path):
    path = tmp_path / "e.csv"
    CsvTracker(path).append({"RUN": "a", "NOTE": "=1\n2"})
    lines = path.read_text().splitlines()
    path.write_text(
        "".join(f"{number},{line}\n" for number, line in zip(["", 0], lines, strict=True))
    )
    assert read_tracker(path) == [{"RUN": "a", "NOTE": "=1\n2"}]
    CsvTracker(path).update("a", {"STATUS": "done"})
    assert read_tracker(path) == [{"RUN": "a", "NOTE": "=1\n2", "STATUS": "done"}]


def test_table_saved_by_a_spreadsheet_is_read_and_continued(tmp_path):
    path = tmp_path / "e.csv"
    path.write_bytes(b'\xef\xbb\xbfRUN,NOTE\r\n"a","x\xe9"\r\nb\r\n\r\n')
    CsvTracker(path).append({"RUN": "c", "NOTE": "y"})
    assert path.read_bytes() == b"RUN,NOTE\na,x\\xe9\nb,\nc,y\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("RUN,LR\na,1\nb,2,3\n", "line 3: expected 2 fields, got 3. Mend the line by hand"),
        ("RUN,RUN\na,1\n", "line 1: expected different column names, got one twice"),
        ('RUN,LR\na,"1\nb,2\n', "unexpected end of data. Mend the line by hand"),
    ],
)
def test_damaged_table_is_named_and_left_as_it_is(tmp_path, text, message):
    path = tmp_path / "e.csv"
    path.write_text(text)
    for change in (
        lambda: read_tracker(path),
        lambda: CsvTracker(path).append({"NEW": 1}),
        lambda: CsvTracker(path).update("a", {"LR": 2}),
    ):
        with pytest.raises(ValueError, match=f"e.csv {message}|e.csv line .*{message}"):
            change()
    assert path.read_text() == text


def test_append_refuses_a_column_that_stands_twice(tmp_path):
    (tmp_path / "e.csv").write_text("RUN,LR,LR\n")
    with pytest.raises(ValueError, match="expected different column names, got one twice"):
        CsvTracker(tmp_path / "e.csv").append({"RUN": "a", "LR": 1})


@pytest.mark.parametrize("new", [{"RUN": "new"}, {"RUN": "new", "MORE": 1}])
def test_record_cut_at_any_byte_is_dropped_alone(tmp_path, new):
    path = tmp_path / "e.csv"
    tracker = CsvTracker(path)
    first = [{"RUN": "a", "NOTE": "x\ny"}, {"RUN": "b", "NOTE": '"'}]
    for row in first:
        tracker.append(row)
    size = path.stat().st_size
    tracker.append({"RUN": "c", "NOTE": 'new\nline, "quoted" \u00fc'})
    whole = path.read_bytes()
    assert len(whole) > size + 20
    for cut in range(size, len(whole)):
        path.write_bytes(whole[:cut])
        assert read_tracker(path) == first
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            tracker.append(new)
        assert [w.filename for w in caught] == [__file__] * (cut > size)  # nothing goes in silence
        read = read_tracker(path)
        assert [{k: row[k] for k in ("RUN", "NOTE")} for row in read[:2]] == first
        assert [{k: v for k, v in row.items() if v} for row in read[2:]] == [
            {k: str(v) for k, v in new.items()}
        ]


def test_header_cut_at_any_byte_is_an_empty_table(tmp_path):
    path = tmp_path / "e.csv"
    for cut in range(1, len("RUN,LR\n")):
        path.write_text("RUN,LR\n"[:cut])
        with pytest.warns(UserWarning, match="e.csv: dropped a record that was cut short: b'R"):
            CsvTracker(path).update("a", {"LR": 1})
        assert path.read_text() == "RUN,LR\na,1\n"


def test_sixteen_writers_lose_and_double_nothing(tmp_path):
    path = tmp_path / "e.csv"
    code = """
import sys
from utils.logging.csv import CsvTracker
tracker, writer = CsvTracker(sys.argv[1]), int(sys.argv[2])
for i in range(50):
    run = f"{writer}-{i}"
    tracker.append({"RUN": run, "VALUE": i, f"COLUMN_{(writer + i) % 30}": f"{run}\\n"})
    if i % 25 == 0:
        tracker.update(run, {"STATUS": "done"})
"""
    writers = [start(code, path, writer) for writer in range(16)]
    assert [writer.communicate()[0] for writer in writers] == [""] * 16
    assert [writer.returncode for writer in writers] == [0] * 16
    rows = {row["RUN"]: row for row in read_tracker(path)}
    assert len(read_tracker(path)) == len(rows) == 800
    for writer in range(16):
        for i in range(50):
            row = rows[f"{writer}-{i}"]
            assert row["VALUE"] == str(i)
            assert row[f"COLUMN_{(writer + i) % 30}"] == f"{writer}-{i}\n"
            assert row["STATUS"] == ("done" if i % 25 == 0 else "")
    assert {len(line) for line in table(path)} == {33}
    assert files(tmp_path) == ["e.csv", "e.csv.lock"]


@pytest.mark.skipif(os.name == "nt", reason="needs kill -9")
def test_killed_writers_lose_no_acknowledged_record(tmp_path):
    path = tmp_path / "e.csv"
    code = """
import itertools, os, sys
from utils.logging.csv import CsvTracker
write = os.write
os.write = lambda fd, data: write(fd, data[:1])  # slow writes: most kills meet one half done
tracker = CsvTracker(sys.argv[1])
for i in itertools.count():
    run = f"{os.getpid()}-{i}"
    tracker.append({"RUN": run, f"COLUMN_{i % 7}": "x\\ny" * 50})
    print(run, "", flush=True)
    if i % 5 == 0:
        tracker.update(run, {"STATUS": "done", f"COLUMN_{os.getpid()}": i})
        print(run, "done", flush=True)
"""
    generator = random.Random(0)
    acknowledged = []
    for _ in range(5):
        writers = [start(code, path), start(code, path)]
        for writer in writers:
            for _ in range(generator.randint(2, 15)):
                acknowledged.append(writer.stdout.readline())
        for writer in writers:
            writer.kill()
            acknowledged += writer.communicate()[0].splitlines(keepends=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the last kill may have cut a record
        CsvTracker(path).append({"RUN": "after", f"COLUMN_{os.getpid()}": 1})
    rows = {row["RUN"]: row for row in read_tracker(path)}
    assert len(rows) == len(read_tracker(path))
    assert "after" in rows
    whole = [line.split(" ") for line in acknowledged if line.endswith("\n")]
    assert len(whole) >= 20
    for run, status in whole:
        assert status.strip() in ("", rows[run]["STATUS"])
    assert len({len(line) for line in table(path)}) == 1
    assert files(tmp_path) == ["e.csv", "e.csv.lock"]


@pytest.mark.skipif(os.name == "nt", reason="needs RLIMIT_FSIZE")
@pytest.mark.parametrize("change", ["append(row)", "append({**row, 'NEW': 1})", "update('1', row)"])
def test_full_disk_raises_and_keeps_what_was_written(tmp_path, change):
    path = tmp_path / "e.csv"
    tracker = CsvTracker(path)
    for i in range(20):
        tracker.append({"RUN": i, "NOTE": "x" * 50})
    before = path.read_bytes()
    code = f"""
import os, resource, signal, sys
from utils.logging.csv import CsvTracker
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(sys.argv[1]) + 100, hard))
row = {{"RUN": "big", "NOTE": "y" * 10_000}}
try:
    CsvTracker(sys.argv[1]).{change}
except OSError as error:
    print("refused", error.strerror)
"""
    writer = start(code, path)
    assert writer.communicate()[0].startswith("refused")
    assert writer.returncode == 0
    assert path.read_bytes() == before
    assert files(tmp_path) == ["e.csv", "e.csv.lock"]
    tracker.append({"RUN": "after"})
    assert len(read_tracker(path)) == 21


def test_rewrite_removes_what_a_killed_one_left(tmp_path):
    CsvTracker(tmp_path / "e.csv").append({"RUN": "a"})
    (tmp_path / "e.csv.0123456789abcdef.tmp").write_text("RUN,ST")
    CsvTracker(tmp_path / "e.csv").update("a", {"STATUS": "done"})
    assert files(tmp_path) == ["e.csv", "e.csv.lock"]


def test_append_interrupted_in_the_middle_leaves_no_trace(tmp_path, monkeypatch):
    path = tmp_path / "e.csv"
    tracker = CsvTracker(path)
    tracker.append({"RUN": "a"})

    def interrupt(fd):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupt)
        for change in (lambda: tracker.append({"RUN": "b"}), lambda: tracker.append({"NEW": "b"})):
            with pytest.raises(KeyboardInterrupt):
                change()
    assert path.read_bytes() == b"RUN\na\n"
    assert files(tmp_path) == ["e.csv", "e.csv.lock"]
    tracker.append({"RUN": "b"})
    assert len(read_tracker(path)) == 2


def test_flatten_makes_dotted_columns_in_order():
    config = {
        "MODEL": "models.unet.UNET",
        "OPTIMIZER_CONFIG": {"lr": 1e-3, "betas": (0.9, 0.99), "more": {"deep": [1, "a"]}},
        "CLASSES": {0: "cat"},
        "METRICS": [],
        "EMPTY": {},
        "__COMMENT": None,
    }
    flat = flatten(config)
    assert list(flat.items()) == [
        ("MODEL", "models.unet.UNET"),
        ("OPTIMIZER_CONFIG.lr", 1e-3),
        ("OPTIMIZER_CONFIG.betas", "(0.9, 0.99)"),
        ("OPTIMIZER_CONFIG.more.deep", "[1, 'a']"),
        ("CLASSES.0", "cat"),
        ("METRICS", "[]"),
        ("EMPTY", "{}"),
        ("__COMMENT", None),
    ]
    assert config["OPTIMIZER_CONFIG"]["more"] == {"deep": [1, "a"]}  # the config is as it was


@pytest.mark.parametrize(
    "config", [{"A.b": 1, "A": {"b": 2}}, {"A": {"1": 1, 1: 2}}, {"1": 1, 1: 2}]
)
def test_flatten_refuses_two_entries_for_one_column(config):
    with pytest.raises(ValueError, match=r"flatten: expected one entry per column, got .* for .*"):
        flatten(config)


@pytest.mark.parametrize(
    "folder", [ROOT, ROOT / "utils", ROOT / "utils" / "logging", ROOT / "tests"]
)
def test_module_never_shadows_the_standard_ones_and_imports_little(tmp_path, folder):
    script = tmp_path / "script.py"  # as train.py, started from any folder
    script.write_text("""
import csv, logging, sys
import utils.logging.csv as ours, utils.name, utils.path
assert ours is not csv and hasattr(csv, "DictReader") and hasattr(logging, "getLogger")
assert ours.csv is csv and utils.logging is not logging
heavy = {"torch", "numpy", "pandas", "filelock"} & set(sys.modules)
assert not heavy, heavy
""")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, str(script)], cwd=folder, env=environment, check=True)


def scan(path: Path, last: int | None = None) -> list[dict[str, str]]:
    columns, rows, decode = scan_tracker(path, last)
    return [dict(zip(columns, map(decode, row), strict=True)) for row in rows]


def test_a_scan_gives_what_read_tracker_gives(tmp_path):
    tracker = CsvTracker(tmp_path / "e.csv")
    texts = ["a\nb", "=1+1", "'a", "\\n", 'a,"b"', "", "-1", "\udc80"]
    for i, text in enumerate(texts):
        tracker.append({"RUN": i, "=NAME": text})
    for last in (None, 1, 3, len(texts), 100):
        assert scan(tracker.path, last) == read_tracker(tracker.path)[-(last or 100) :]


@pytest.mark.parametrize("last", [None, 1, 2, 5])
def test_a_scan_of_a_table_saved_with_an_index(tmp_path, last):
    (tmp_path / "e.csv").write_text(OLD, newline="")
    assert scan(tmp_path / "e.csv", last) == OLD_ROWS[-(last or 5) :]
    (tmp_path / "e.csv").write_text("".join(OLD.partition("1,")[:1]), newline="")
    assert scan(tmp_path / "e.csv", last) == OLD_ROWS[:1]


def test_a_scan_from_the_end_takes_whole_records(tmp_path):
    path = tmp_path / "e.csv"
    wide = "x" * 50_000  # several of the pieces that are read
    path.write_text("RUN,NOTE\n" + "".join(f"{i},{wide}\n" for i in range(20)) + "20,cut")
    for last in (1, 5, 19, 20, 21):
        rows = scan(path, last)
        assert [row["RUN"] for row in rows] == [str(i) for i in range(20)][-last:]
        assert all(row["NOTE"] == wide for row in rows)


def test_a_scan_of_nothing(tmp_path):
    assert scan(tmp_path / "e.csv", 3) == scan(tmp_path / "e.csv") == []
    (tmp_path / "e.csv").write_text("RUN,NOTE\n")
    assert scan(tmp_path / "e.csv", 3) == []
    assert scan_tracker(tmp_path / "e.csv", 3).columns == ["RUN", "NOTE"]


def test_a_scan_of_a_damaged_table_tells_the_line(tmp_path):
    (tmp_path / "e.csv").write_text("RUN\na\nb\nc,d\n")
    for last in (None, 1):
        with pytest.raises(ValueError, match="line 4: expected 1 fields, got 2"):
            scan(tmp_path / "e.csv", last)
