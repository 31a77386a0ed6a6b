import subprocess

import pytest

from tests.test_utils.test_runs.common import ANCESTOR, draw, make_run
from tests.test_utils.test_runs.common import folders as places
from utils.runs import diff
from utils.runs.diff import diff_runs
from utils.runs.table import open_runs

DIFF = """\
diff --git a/utils/loss.py b/utils/loss.py
--- a/utils/loss.py
+++ b/utils/loss.py
@@ -1 +1 @@
-a
+{}
"""


def show(path, *texts, width=100):
    return draw(diff_runs(*open_runs(texts, places(path), "diff")), width)


def section(text, head):
    return text.partition(f"\n{head}\n")[2].partition("\n\n")[0].splitlines()


def test_equal_runs_are_said_to_be_equal(tmp_path):
    make_run(tmp_path, "1_a")
    make_run(tmp_path, "2_b")
    assert show(tmp_path, "1_a", "2_b").splitlines() == [
        "A  1_a  done  2 min",
        "B  2_b  done  2 min",
        "",
        "config: the same",
        "",
        "code: the same",
        "",
        "versions and machine: the same",
        "",
        "data: not recorded",
        "",
        "values of the best epoch",
        "                 A     B  B - A",
        "  train_loss  0.25  0.25     +0",
        "  val_f1      0.75  0.75     +0",
        "",
        "samples: no samples.csv in both (training.callbacks.Ledger writes it)",
    ]


def test_the_config_shows_changed_keys_alone(tmp_path):
    make_run(tmp_path, "1_a", OPTIMIZER_CONFIG={"lr": 0.001, "eps": 1e-8})
    make_run(tmp_path, "2_b", OPTIMIZER_CONFIG={"lr": 1e-2}, CLIP_NORM=1.0, SESSION_NAME="other")
    lines = section(show(tmp_path, "1_a", "2_b"), "config")
    assert [line.split() for line in lines] == [
        ["A", "B"],
        ["OPTIMIZER_CONFIG.lr", "0.001", "0.01"],
        ["OPTIMIZER_CONFIG.eps", "1e-08", "-"],
        ["CLIP_NORM", "-", "1.0"],
    ]


def test_a_key_that_a_run_of_before_it_lacks_has_its_default(tmp_path):
    make_run(tmp_path, "1_a")
    make_run(tmp_path, "2_b", ACCUMULATE=1, CLIP_NORM=None, ON_NAN="skip")
    for names in (("1_a", "2_b"), ("2_b", "1_a")):
        lines = section(show(tmp_path, *names), "config")
        assert [line.split()[0] for line in lines[1:]] == ["ON_NAN"]


def test_uncommitted_changes_are_compared(tmp_path):
    make_run(tmp_path, "1_a", environment={"commit": "a" * 40, "diff": DIFF.format("b")})
    make_run(tmp_path, "2_b", environment={"commit": "a" * 40, "diff": DIFF.format("c" * 200)})
    lines = section(show(tmp_path, "1_a", "2_b"), "code")
    assert lines[:2] == [
        "  uncommitted in A: utils/loss.py",
        "  uncommitted in B: utils/loss.py",
    ]
    assert "  -+b" in lines and f"  ++{'c' * 200}" in lines  # not folded


def test_files_that_git_does_not_know_are_compared(tmp_path):
    same = {"same.py": {"sha256": "0", "text": "x"}}
    for name, text in (("1_a", "a = 1\nb = 2\n"), ("2_b", "a = 1\nb = 3\n")):
        untracked = {"mine.py": {"sha256": text, "text": text}, **same}
        make_run(tmp_path, name, environment={"commit": "a" * 40, "untracked": untracked})
    lines = section(show(tmp_path, "1_a", "2_b"), "code")
    assert lines[0] == "  not in git, and not the same: mine.py"
    assert "  -b = 2" in lines and "  +b = 3" in lines and not any("same.py" in x for x in lines)
    make_run(tmp_path, "3_c", environment={"commit": "a" * 40, "untracked": same})
    lines = section(show(tmp_path, "1_a", "3_c"), "code")
    assert lines[0] == "  not in git, and not the same: mine.py" and "  -a = 1" in lines


def test_commits_are_told_with_the_files_between_them(tmp_path, monkeypatch):
    make_run(tmp_path, "1_a", environment={"commit": "a" * 40})
    make_run(tmp_path, "2_b", environment={"commit": "b" * 40})
    lines = section(show(tmp_path, "1_a", "2_b"), "code")
    assert lines[0] == f"  commit {'a' * 40} -> {'b' * 40}"
    assert f"git diff {'a' * 12} {'b' * 12}" in lines[1]
    monkeypatch.setattr(diff, "ROOT_PATH", _repository(tmp_path))
    first, second = _commits(tmp_path / "repository")
    make_run(tmp_path, "3_c", environment={"commit": first})
    make_run(tmp_path, "4_d", environment={"commit": second})
    text = show(tmp_path, "3_c", "4_d")
    assert "model.py | 1 +" in text and "1 file changed" in text


def test_a_commit_is_no_option_of_git(tmp_path):
    make_run(tmp_path, "1_a", environment={"commit": f"--output={tmp_path / 'x'}"})
    make_run(tmp_path, "2_b", environment={"commit": "HEAD"})
    assert len(section(show(tmp_path, "1_a", "2_b"), "code")) == 1
    assert not (tmp_path / "x").exists()


def _git(folder, *words):
    name = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *name, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _repository(path):
    folder = path / "repository"
    folder.mkdir()
    _git(folder, "init", "--quiet")
    for text in ("", "a = 1\n"):
        (folder / "model.py").write_text(text)
        _git(folder, "add", "model.py")
        _git(folder, "commit", "--quiet", "--message", "a")
    return folder


def _commits(folder):
    return _git(folder, "rev-parse", "HEAD~1"), _git(folder, "rev-parse", "HEAD")


def test_versions_and_data_that_differ(tmp_path):
    one = {"python": "3.11", "versions": {"torch": "2.10", "numpy": "2.0"}, "threads": 1}
    other = {**one, "versions": {"torch": "2.11", "numpy": "2.0"}, "threads": 2}
    make_run(tmp_path, "1_a", environment={**one, "data": {"train": {"hash": "x"}}})
    make_run(tmp_path, "2_b", environment={**other, "data": {"train": {"hash": "y"}}})
    text = show(tmp_path, "1_a", "2_b")
    assert [line.split() for line in section(text, "versions and machine")] == [
        ["A", "B"],
        ["threads", "1", "2"],
        ["torch", "2.10", "2.11"],
    ]
    assert section(text, "data")[1].split() == ["train.hash", "x", "y"]
    assert "data: the same" in show(tmp_path, "1_a", "1_a")


def test_values_that_one_run_lacks(tmp_path):
    make_run(tmp_path, "1_a", (0.5,))
    log_dir = make_run(tmp_path, "2_b", (0.25,))
    text = (log_dir / "metrics.csv").read_text().replace("train_loss", "val_loss")
    (log_dir / "metrics.csv").write_text(text)
    lines = section(show(tmp_path, "1_a", "2_b"), "values of the best epoch")
    assert [line.split() for line in lines[1:]] == [
        ["train_loss", "0.5", "-"],
        ["val_f1", "0.5", "0.25", "-0.25"],
        ["val_loss", "-", "0.75"],
    ]


def test_samples_are_compared_in_pairs(tmp_path):
    for name, right in (("1_a", 19), ("2_b", 20)):
        rows = [f"{i},{i},x,{'x' if i < right else 'y'},0.9,{0.1 * i}" for i in range(20)]
        head = "index,name,target,prediction,confidence,loss"
        log_dir = make_run(tmp_path, name)
        (log_dir / "samples.csv").write_text("\n".join([head, *rows, ""]))
    lines = section(show(tmp_path, "1_a", "2_b"), "samples")
    assert lines[0] == "  20 samples that both have"
    assert "0.9500 -> 1.0000" in lines[1] and lines[1].endswith("not distinguishable")


def test_samples_of_other_data_are_said_to_be_so(tmp_path):
    for name in ("1_a", "2_b"):
        log_dir = make_run(tmp_path, name)
        (log_dir / "samples.csv").write_text(f"index,name,loss\n0,{name},0.5\n")
    lines = section(show(tmp_path, "1_a", "2_b"), "samples")
    assert "got none of them" in " ".join(lines)


def test_rows_without_files_are_compared(tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "experiments.csv").write_text(ANCESTOR)
    text = show(tmp_path, "first", "second")
    assert ["EPOCHS", "5", "7"] in [line.split() for line in section(text, "config")]
    assert "  no environment.json of A and B" in text


@pytest.mark.parametrize("width", [60, 80, 160])
def test_tables_keep_to_the_width(tmp_path, width):
    make_run(tmp_path, "1_a", OPTIMIZER="torch.optim." + "x" * 100)
    make_run(tmp_path, "2_b")
    lines = section(show(tmp_path, "1_a", "2_b", width=width), "config")
    assert max(map(len, lines)) <= width
    assert "".join(lines).count("x") == 100
