import csv
import random
import time

import pytest
from filelock import FileLock

from config.errors import ConfigError
from tests.test_utils.test_runs.common import ANCESTOR, folders, make_run
from utils.runs.table import differing_columns, find_runs, list_names, open_runs


def names(found):
    return [row["RUN"] for row in found.rows]


@pytest.fixture
def three(tmp_path):
    make_run(tmp_path, "1_a", (0.5,), OPTIMIZER_CONFIG={"lr": 0.01})
    make_run(tmp_path, "2_b", (0.25,), "failed", OPTIMIZER_CONFIG={"lr": 1e-4})
    make_run(tmp_path, "3_c", (), "interrupted", OPTIMIZER_CONFIG={"lr": 0.5})
    return folders(tmp_path)


def test_all_runs_in_the_order_of_the_table(three):
    found = find_runs(three)
    assert names(found) == ["1_a", "2_b", "3_c"]
    assert found.columns[:2] == ["RUN", "STATUS"] and not found.has_more
    assert found.rows[1]["OPTIMIZER_CONFIG.lr"] == "0.0001"


def test_the_last_runs(three):
    assert names(find_runs(three, last=2)) == ["2_b", "3_c"]
    assert find_runs(three, last=2).has_more
    assert not find_runs(three, last=3).has_more


def test_runs_that_meet_all_conditions(three):
    assert names(find_runs(three, ["lr<0.1"])) == ["1_a", "2_b"]
    assert names(find_runs(three, ["lr<0.1", "STATUS=done"])) == ["1_a"]
    assert names(find_runs(three, ["STATUS!=done"], last=1)) == ["3_c"]


def test_sorted_runs_end_with_the_largest_and_begin_with_those_without_a_value(three):
    found = find_runs(three, sort="f1")
    assert names(found) == ["3_c", "2_b", "1_a"] and found.by == "best_val_f1"
    assert names(find_runs(three, sort="f1", is_reversed=True)) == ["3_c", "1_a", "2_b"]
    assert names(find_runs(three, sort="lr", last=2)) == ["1_a", "3_c"]


def test_the_last_of_sorted_runs_are_those_of_a_full_sort(tmp_path):
    rng = random.Random(0)
    path = tmp_path / "logs" / "experiments.csv"
    path.parent.mkdir()
    values = [rng.choice(["", "nan", "x", str(rng.randrange(20))]) for _ in range(300)]
    path.write_text("RUN,SEED\n" + "".join(f"{i},{value}\n" for i, value in enumerate(values)))
    for is_reversed in (False, True):
        whole = names(find_runs(folders(tmp_path), sort="SEED", is_reversed=is_reversed))
        for last in (1, 7, 299, 300, 301):
            found = find_runs(folders(tmp_path), (), "SEED", is_reversed, last)
            assert names(found) == whole[-last:]


def test_all_problems_of_a_question_come_at_once(three):
    with pytest.raises(ConfigError) as caught:
        find_runs(three, ["modle=a"], sort="f2")
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["--sort", "--where"]


def test_a_run_whose_lock_is_free_is_lost(tmp_path):
    log_dir = make_run(tmp_path, "1_a", status="running")
    make_run(tmp_path, "2_b", status="running")
    with FileLock(log_dir / ".lock"):
        found = find_runs(folders(tmp_path))
        assert [row["STATUS"] for row in found.rows] == ["running", "lost"]
        assert names(find_runs(folders(tmp_path), ["STATUS=lost"])) == ["2_b"]
    assert names(find_runs(folders(tmp_path), ["STATUS=lost"])) == ["1_a", "2_b"]


def test_a_missing_table_has_no_runs(tmp_path):
    assert find_runs(folders(tmp_path), last=3).rows == []
    assert list_names(folders(tmp_path)) == []


def test_a_damaged_table_is_told_with_its_line(three):
    path = three["LOG_DIR"] / "experiments.csv"
    path.write_text(path.read_text() + "a,b\n" + "x," * 500 + "\n")
    for last in (None, 2):
        with pytest.raises(ValueError, match=r"experiments.csv line 6: expected \d+ fields, got"):
            find_runs(three, last=last)


def test_the_ancestors_table_is_read(tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "experiments.csv").write_text(ANCESTOR)
    found = find_runs(folders(tmp_path), sort="VAL_LOSS", is_reversed=True)
    assert names(found) == ["20200101-000000_first", "20200102-000000_second"]
    assert found.rows[0]["MODEL"] == "UNET(\n  (a): Conv2d()\n)"
    assert names(find_runs(folders(tmp_path), last=1)) == ["20200102-000000_second"]
    assert names(find_runs(folders(tmp_path), ["EPOCHS<6"])) == ["20200101-000000_first"]


def test_columns_that_differ_are_those_of_the_config(tmp_path):
    make_run(tmp_path, "1_a", (0.5,), PROGRESS=True)
    make_run(tmp_path, "2_b", (0.25,), OPTIMIZER_CONFIG={"lr": 0.5}, EPOCHS=5, PROGRESS=False)
    found = find_runs(folders(tmp_path))
    assert differing_columns(found.rows, found.columns) == ["OPTIMIZER_CONFIG.lr"]


def test_a_key_that_older_rows_lack_has_its_default_there():
    rows = [{"ACCUMULATE": "", "CLIP_NORM": ""}, {"ACCUMULATE": "1", "CLIP_NORM": "2.0"}]
    assert differing_columns(rows, ["ACCUMULATE", "CLIP_NORM"]) == ["CLIP_NORM"]


def test_runs_are_named_in_part_or_as_the_latest(three):
    (run,) = open_runs(["2_"], three, "show")
    assert run.name == "2_b" and run.row["STATUS"] == "failed"
    assert [run.name for run in open_runs(["latest", "1_a"], three, "show")] == ["3_c", "1_a"]


def test_a_run_without_a_row_is_found_by_its_folder(three):
    (three["LOG_DIR"] / "experiments.csv").unlink()
    (run,) = open_runs(["2_b"], three, "show")
    assert run.row == {} and run.flat_config["OPTIMIZER_CONFIG.lr"] == "0.0001"


def test_a_run_that_is_not_there_or_not_the_only_one(three):
    with pytest.raises(ConfigError) as caught:
        open_runs(["_", "2_c"], three, "show")
    several, unknown = caught.value.problems
    assert several == (
        'show: expected one run, got "_", which is part of 1_a, 2_b, 3_c. Write more of it.'
    )
    assert unknown.startswith('show: expected a run, part of its name, or latest, got "2_c".')


def test_a_question_takes_little_longer_than_reading_the_table(tmp_path):
    path = tmp_path / "logs" / "experiments.csv"
    path.parent.mkdir()
    fields = [*(f"{number / 7:.6f}" for number in range(40)), "['0', '1', '2']", *["torch.x"] * 17]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["RUN", "EPOCHS", *(f"MODEL_CONFIG.{i}" for i in range(len(fields)))])
        writer.writerows([f"{i}_a", i, *fields] for i in range(10_000))

    def seconds(call):
        start = time.process_time()
        call()
        return time.process_time() - start

    def read():
        with open(path, newline="", encoding="utf-8") as file:
            for _ in csv.reader(file):
                pass

    ask = {"where": ["EPOCHS<5000"], "sort": "EPOCHS", "last": 20}
    plain = min(seconds(read) for _ in range(5))
    asked = min(seconds(lambda: find_runs(folders(tmp_path), **ask)) for _ in range(5))
    newest = min(seconds(lambda: find_runs(folders(tmp_path), last=20)) for _ in range(5))
    assert asked < 4 * plain  # 2 alone on a core
    assert newest < plain / 4  # the end of the file alone
