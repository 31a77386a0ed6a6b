import pytest
from filelock import FileLock

from tests.test_utils.test_runs.common import draw, folders, make_run
from utils.runs import prune
from utils.runs.folder import RunFolder
from utils.runs.table import find_runs
from utils.runs.usage import show_removals, show_usage


def open_runs(path):
    rows = find_runs(folders(path)).rows
    return [RunFolder(row["RUN"], folders(path), row) for row in rows]


def files(path):
    return {str(file.relative_to(path)) for file in path.rglob("*.p*") if file.is_file()}


@pytest.fixture
def runs(tmp_path):
    make_run(tmp_path, "1_a", (0.5,))
    make_run(tmp_path, "2_b", (0.75,))
    make_run(tmp_path, "3_c", (0.25,), "failed")
    make_run(tmp_path, "4_d", (), "interrupted")
    return open_runs(tmp_path)


def plan_of(removals):
    return {r.run.name: sorted(path.name for path in r.files) for r in removals}


def test_checkpoints_go_of_runs_that_are_done(runs):
    plan = prune.plan_checkpoints(runs)
    assert plan_of(plan) == {"1_a": ["checkpoint.pt"], "2_b": ["checkpoint.pt"]}
    assert [removal.n_bytes for removal in plan] == [1000, 1000]


def test_weights_go_of_runs_that_failed(runs):
    assert plan_of(prune.plan_failed(runs)) == {"3_c": ["best.pth", "checkpoint.pt", "last.pth"]}


def test_weights_go_of_all_but_the_best(runs):
    whole = ["best.pth", "checkpoint.pt", "last.pth"]
    assert plan_of(prune.plan_all_but_best(runs, "best_val_f1", "max", 1)) == {"1_a": whole}
    assert plan_of(prune.plan_all_but_best(runs, "best_val_f1", "min", 1)) == {"2_b": whole}
    assert prune.plan_all_but_best(runs, "best_val_f1", "max", 2) == []
    assert plan_of(prune.plan_all_but_best(runs, "best_val_f1", "max", 0)).keys() == {"1_a", "2_b"}


def test_whole_folders_go_of_runs_by_name(runs, tmp_path):
    (tmp_path / "logs" / "tensorboard" / "1_a").mkdir(parents=True)
    plan = prune.plan_whole(runs[:1], folders(tmp_path))
    assert not prune.remove(plan, tmp_path / "weights")
    assert not list(tmp_path.rglob("1_a")) and (tmp_path / "logs" / "2_b").is_dir()
    assert [row["RUN"] for row in find_runs(folders(tmp_path)).rows][0] == "1_a"


def test_only_what_is_planned_goes(runs, tmp_path):
    before = files(tmp_path)
    assert not prune.remove(prune.plan_failed(runs), tmp_path / "weights")
    gone = {f"weights/3_c/{name}" for name in ("best.pth", "last.pth", "checkpoint.pt")}
    assert before - files(tmp_path) == gone
    assert prune.plan_failed(runs) == []


def test_plans_for_one_run_become_one(runs, tmp_path):
    checkpoints = prune.plan_checkpoints(runs)
    (first, second) = prune.merge(
        checkpoints + prune.plan_all_but_best(runs, "best_val_f1", "max", 1)
    )
    assert [path.name for path in first.files] == ["best.pth", "checkpoint.pt", "last.pth"]
    assert first.why == "best_val_f1 0.5" and second == checkpoints[1]
    whole = prune.plan_whole(runs[:1], folders(tmp_path))
    for plans in (checkpoints + whole, whole + checkpoints):
        assert prune.merge(plans)[0] == whole[0] or prune.merge(plans)[1] == whole[0]


def test_a_run_in_training_stays(runs, tmp_path):
    plan = prune.plan_checkpoints(runs)
    with FileLock(tmp_path / "logs" / "1_a" / ".lock"):
        free, held = prune.split_held(plan)
        assert [removal.run.name for removal in free] == ["2_b"]
        assert [removal.run.name for removal in held] == ["1_a"]
        (problem,) = prune.remove(plan, tmp_path / "weights")  # it began since
    assert problem == (
        "1_a: expected a run that has stopped, got one that is being trained. Wait for it."
    )
    assert {path.parent.name for path in tmp_path.rglob("checkpoint.pt")} >= {"1_a"}
    assert not (tmp_path / "weights" / "2_b" / "checkpoint.pt").exists()


@pytest.mark.parametrize("name", ["..", ".", "", "../elsewhere", "link"])
def test_nothing_goes_outside_of_the_folders(tmp_path, name):
    outside = tmp_path / "elsewhere"
    for folder in (outside, tmp_path / "logs", tmp_path / "weights"):
        folder.mkdir()
        (folder / "checkpoint.pt").touch()
    for place in ("logs", "weights"):
        (tmp_path / place / "link").symlink_to(outside, target_is_directory=True)
    (tmp_path / "checkpoint.pt").touch()
    before = files(tmp_path)
    run = RunFolder(name, folders(tmp_path), {"STATUS": "done"})
    for plan in (prune.plan_checkpoints([run]), prune.plan_whole([run], folders(tmp_path))):
        (problem,) = prune.remove(plan, tmp_path / "weights")
        assert "expected f" in problem
    assert files(tmp_path) == before


def test_a_linked_file_stays(runs, tmp_path):
    target = tmp_path / "kept.pt"
    target.touch()
    link = tmp_path / "weights" / "1_a" / "checkpoint.prev.pt"
    link.symlink_to(target)
    plan = prune.plan_checkpoints(runs)
    assert link not in plan[0].files
    assert not prune.remove(plan, tmp_path / "weights") and target.exists()


def test_disk_use_is_shown_with_the_largest_last(runs, tmp_path):
    (tmp_path / "weights" / "2_b" / "last.pth").write_bytes(bytes(10_000))
    lines = draw(show_usage(runs)).splitlines()
    assert lines[0].split() == ["run", "status", "logs", "weights"]
    assert lines[4].split()[:2] == ["2_b", "done"] and lines[4].endswith("12 kB")
    assert any(line.endswith("--checkpoints  2 kB, runs: 2") for line in lines)
    assert any(line.endswith("--failed       3 kB, runs: 1") for line in lines)


def test_what_is_to_go_is_shown_whole(runs, tmp_path):
    plan = prune.merge(prune.plan_failed(runs) + prune.plan_whole(runs[:1], folders(tmp_path)))
    words = draw(show_removals(plan), 60).split()
    assert {"3_c", "weights,", "state", "failed", "3", "kB"} <= set(words)
    assert {"1_a", "named"} <= set(words)
    whole = draw(show_removals(plan)).splitlines()
    assert any(str(tmp_path / "weights" / "1_a") in line for line in whole)


def test_files_of_the_users_own_are_named(runs, tmp_path):
    (tmp_path / "weights" / "3_c" / "mine.pth").touch()
    plan = prune.plan_failed(runs)
    assert "weights, state, mine.pth" in draw(show_removals(plan))
    assert "mine.pth" not in draw(show_removals(prune.plan_checkpoints(runs)))


def test_of_many_runs_the_largest_are_shown(tmp_path):
    for i in range(33):
        make_run(tmp_path, f"{i}_a", ())
    lines = draw(show_usage(open_runs(tmp_path))).splitlines()
    assert lines[31] == "and 3 smaller ones" and lines[33].startswith("1")
