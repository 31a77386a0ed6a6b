"""The command line runs.py: its output, its exit codes, and runs as training leaves them."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

import runs
from config.config import ROOT_PATH
from tests.test_training.common import train
from tests.test_utils.test_runs.common import make_run


@pytest.fixture
def three(tmp_path, monkeypatch):
    make_run(tmp_path, "20260101-000000_a", (0.5,), OPTIMIZER_CONFIG={"lr": 0.01})
    make_run(tmp_path, "20260102-000000_b", (0.75, 0.5), OPTIMIZER_CONFIG={"lr": 1e-4})
    make_run(tmp_path, "20260103-000000_c", (0.25,), "failed")
    monkeypatch.delenv("COLUMNS", raising=False)
    return [f"LOG_DIR={tmp_path / 'logs'}", f"WEIGHT_DIR={tmp_path / 'weights'}"]


def ask(capsys, *words):
    """Run the command; return its exit code, output and errors."""
    code = runs.main(list(words))
    return (code, *capsys.readouterr())


def test_list(three, capsys):
    code, out, _ = ask(capsys, "list", *three)
    assert code == 0
    assert [line.split() for line in out.splitlines()] == [
        ["run", "status", "epochs", "best", "val_f1", "lr"],
        ["20260101-000000_a", "done", "1/3", "0.5", "0.01"],
        ["20260102-000000_b", "done", "2/3", "0.75", "0.0001"],
        ["20260103-000000_c", "failed", "1/3", "0.25", "0.002"],
    ]


def test_list_with_a_question(three, capsys):
    words = ["--where", "lr<0.005", three[0], "--sort", "f1", "--last", "1", three[1]]
    code, out, _ = ask(capsys, "list", *words)
    assert code == 0
    assert "20260102-000000_b" in out and "20260103-000000_c" not in out
    assert "the last 1; there are more" in out
    assert ask(capsys, "list", "--where", "lr>9", *three)[:2] == (
        0,
        "no run meets the conditions\n",
    )


def test_list_for_machines(three, capsys):
    _, out, _ = ask(capsys, "list", "--csv", "--columns", "RUN,lr", *three)
    assert list(csv.reader(io.StringIO(out)))[1] == ["20260101-000000_a", "0.01"]
    _, out, _ = ask(capsys, "list", "--json", "--last", "1", *three)
    assert [row["RUN"] for row in json.loads(out)] == ["20260103-000000_c"]


def test_list_before_the_first_run(tmp_path, capsys):
    code, out, _ = ask(capsys, "list", f"LOG_DIR={tmp_path}")
    assert code == 0 and out == f"no runs yet in {tmp_path / 'experiments.csv'}\n"


def test_list_of_another_table(three, capsys, tmp_path):
    (tmp_path / "logs" / "other.csv").write_text("RUN,STATUS\nx_y,done\n")
    assert "x_y" in ask(capsys, "list", *three, "LOGFILE=other.csv")[1]


@pytest.mark.parametrize("width", ["80", "160"])
def test_output_keeps_to_the_width_of_the_terminal(three, capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", width)
    for words in (["list"], ["show"], ["diff", "_a", "_b"], ["curve", "_b"], ["prune"]):
        code, out, _ = ask(capsys, *words, *three)
        lines = [line for line in out.splitlines() if "python " not in line]
        assert code == 0 and max(map(len, lines)) <= int(width)


def test_show(three, capsys):
    code, out, _ = ask(capsys, "show", "_b", *three)
    assert code == 0 and out.startswith("20260102-000000_b\n")
    assert f"config.yaml {' '.join(three)}" in out
    assert ask(capsys, "show", *three)[1].startswith("20260103-000000_c\n")


def test_best(three, capsys):
    code, out, _ = ask(capsys, "best", *three)
    assert code == 0
    assert out.splitlines()[:3] == ["largest best_val_f1: 0.75", "", "20260102-000000_b"]
    _, out, _ = ask(capsys, "best", "--by", "train_loss", "--where", "lr>0.001", *three)
    assert out.splitlines()[::2][:2] == ["smallest best_train_loss: 0.5", "20260101-000000_a"]
    _, out, _ = ask(capsys, "best", "--by", "lr", "--min", "--json", *three)
    assert [row["RUN"] for row in json.loads(out)] == ["20260102-000000_b"]
    _, out, _ = ask(capsys, "best", "--top", "2", *three)
    assert [line.split()[0] for line in out.splitlines()[1:]] == [
        "20260102-000000_b",
        "20260101-000000_a",
    ]


def test_best_without_a_value_or_a_direction(three, capsys):
    code, _, err = ask(capsys, "best", "--where", "lr>9", *three)
    assert (code, err) == (1, "runs.py: no run has a value of best_val_f1\n")
    code, _, err = ask(capsys, "best", "--by", "SECONDS", *three)
    assert code == 2 and err.startswith("runs.py: --by: expected --max or --min beside it")


def test_curve(three, capsys):
    code, out, _ = ask(capsys, "curve", "_a", "_b", "--of", "train_loss", "--height", "5", *three)
    lines = out.splitlines()
    assert code == 0 and lines[0] == "train_loss" and len(lines) == 1 + 5 + 2 + 2
    assert lines[-1] == "b 20260102-000000_b  0.5 in epoch 2"
    assert "val_f1" in ask(capsys, "curve", *three)[1]


def test_diff(three, capsys):
    code, out, _ = ask(capsys, "diff", "_a", "_b", *three)
    assert code == 0 and "OPTIMIZER_CONFIG.lr" in out
    code, _, err = ask(capsys, "diff", "_a", *three)
    assert code == 2 and "runs.py: diff: expected two runs, got 1." in err


def test_report(three, capsys, tmp_path):
    code, out, _ = ask(capsys, "report", *three)
    file = tmp_path / "logs" / "20260103-000000_c" / "report.html"
    assert code == 0 and out.startswith(f"{file}  ")
    assert f"config.yaml {' '.join(three)}" in file.read_text(encoding="utf-8")
    assert ask(capsys, "report", "_a", "_b", "_a", *three)[0] == 0
    text = (tmp_path / "logs" / "report.html").read_text(encoding="utf-8")
    assert "<h1>2 runs compared</h1>" in text
    file = tmp_path / "new" / "x.html"
    assert ask(capsys, "report", "_a", "-o", str(file), *three)[0] == 0 and file.is_file()
    code, _, err = ask(capsys, "report", "_a", "-o", str(tmp_path / "logs"), *three)
    assert code == 2 and err.startswith("runs.py: ")


def files(tmp_path):
    return sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.p*"))


def test_prune_shows_and_deletes_nothing_by_itself(three, capsys, tmp_path):
    before = files(tmp_path)
    code, out, _ = ask(capsys, "prune", *three)
    assert code == 0 and "--checkpoints  2 kB, runs: 2" in out and files(tmp_path) == before


def test_prune_needs_a_terminal_or_yes(three, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    before = files(tmp_path)
    code, _, err = ask(capsys, "prune", "--checkpoints", *three)
    assert code == 2 and err == (
        "runs.py: prune: expected a terminal to ask in, got none. Add --yes to delete.\n"
    )
    assert files(tmp_path) == before
    code, out, _ = ask(capsys, "prune", "--checkpoints", "--yes", *three)
    assert code == 0 and "deleted" in out
    assert len(before) - len(files(tmp_path)) == 2


@pytest.mark.parametrize(("answer", "n_gone"), [("y", 3), ("yes", 3), ("n", 0), ("", 0)])
def test_prune_asks(three, capsys, tmp_path, monkeypatch, answer, n_gone):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: answer)
    before = files(tmp_path)
    assert ask(capsys, "prune", "--failed", *three)[0] == 0
    assert len(before) - len(files(tmp_path)) == n_gone


def test_prune_keeps_the_best(three, capsys, tmp_path):
    assert ask(capsys, "prune", "--keep", "1", "--by", "f1", "--max", "--yes", *three)[0] == 0
    assert {Path(name).parts[1] for name in files(tmp_path)} == {
        "20260102-000000_b",
        "20260103-000000_c",  # not done: nobody asked
    }
    assert ask(capsys, "prune", "--keep", "1", "--by", "f1", "--max", "--yes", *three)[1] == (
        "nothing to delete\n"
    )


def test_prune_of_some_runs(three, capsys, tmp_path):
    words = ["--checkpoints", "--where", "lr=0.01", "--yes", *three]
    code, out, _ = ask(capsys, "prune", *words)
    assert code == 0 and "20260102-000000_b" not in out
    left = {path.parent.name for path in tmp_path.rglob("checkpoint.pt")}
    assert left == {"20260102-000000_b", "20260103-000000_c"}


def test_prune_takes_whole_names_only(three, capsys, tmp_path):
    code, _, err = ask(capsys, "prune", "_a", "latest", "--yes", *three)
    assert code == 2 and err.count("prune: expected the whole name of a run, got") == 2
    assert ask(capsys, "prune", "20260101-000000_a", "--yes", *three)[0] == 0
    assert not list(tmp_path.rglob("20260101-000000_a"))
    assert "20260101-000000_a" in ask(capsys, "list", *three)[1]


def test_wrong_arguments_are_told_at_once(three, capsys):
    code, _, err = ask(capsys, "list", "EPOCHS=3", "LOG_DIRR=a")
    assert code == 2 and err.count("runs.py: ") == 2
    assert 'Did you mean "LOG_DIR"?' in err
    code, _, err = ask(capsys, "list", "_a", *three)
    assert code == 2 and "list: expected no runs by name, got _a." in err
    code, _, err = ask(capsys, "list", "--columns", "lr,modle,sed", *three)
    assert code == 2 and err.count("--columns: expected a column of the table") == 2
    code, _, err = ask(capsys, "show", "nothing", *three)
    assert code == 2 and "show: expected a run" in err


@pytest.mark.parametrize("command", runs.COMMANDS)
def test_every_command_has_a_help_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as stop:
        runs.main([command, "--help"])
    out = capsys.readouterr().out
    assert stop.value.code == 0 and f"example:\n  python runs.py {command}" in out
    words = out.partition("  python runs.py ")[2].replace('"', "").split()
    assert runs.parse(words).command == command


@pytest.mark.parametrize("words", [[], ["lst"]])
def test_a_command_that_is_none(words, capsys):
    with pytest.raises(SystemExit) as stop:
        runs.main(words)
    assert stop.value.code == 2 and "usage:" in capsys.readouterr().err


def test_a_pipe_that_nobody_reads_is_no_error(three):
    for words in (["list", "--last", "1"], ["list", "--json"], ["best"], ["prune"]):
        command = [sys.executable, "runs.py", *words, *three]
        with subprocess.Popen(command, cwd=ROOT_PATH, stdout=-1, stderr=-1, text=True) as asked:
            asked.stdout.close()
            assert (asked.stderr.read(), asked.wait()) == ("", 0)


def test_no_command_loads_torch_or_matplotlib(three, tmp_path):
    code = (
        "import sys, runs\n"
        "for words in (['list'], ['list', '--json'], ['show'], ['best'], ['curve', '_a', '_b'],\n"
        "              ['diff', '_a', '_b'], ['prune'], ['report', '_a', '_b']):\n"
        "    assert runs.main([*words, *sys.argv[1:]]) == 0\n"
        "print('LOADED', *sys.modules)\n"
    )
    for name in ("20260101-000000_a", "20260102-000000_b"):
        text = "index,name,target,prediction,confidence,loss\n0,0,x,x,0.5,0.5\n1,1,x,y,0.5,0.5\n"
        (tmp_path / "logs" / name / "samples.csv").write_text(text)
    command = [sys.executable, "-c", code, *three]
    done = subprocess.run(command, cwd=ROOT_PATH, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = done.stdout.rpartition("LOADED")[2].split()
    assert "not distinguishable" in done.stdout and "rich" in loaded
    assert not {"torch", "matplotlib", "pandas"} & set(loaded)


def test_runs_as_training_leaves_them(tmp_path, capsys):
    first = train("pytorch", tmp_path)
    second = train(
        "pytorch", tmp_path, OPTIMIZER_CONFIG={"lr": 0.01}, MONITOR="val_f1", MONITOR_MODE="max"
    )
    places = [f"LOG_DIR={tmp_path / 'logs'}", f"WEIGHT_DIR={tmp_path / 'weights'}"]
    _, out, _ = ask(capsys, "list", *places)
    assert [line.split()[:3] for line in out.splitlines()[1:]] == [
        [first["run"], "done", "2/2"],
        [second["run"], "done", "2/2"],
    ]
    assert "lr" in out.splitlines()[0].split()
    _, out, _ = ask(capsys, "show", "latest", *places)
    best = second["best_metrics"]["val_f1"]
    assert f"best (epoch {second['best_epoch']})" in out and f"{best:.4g}" in out
    assert f"--weights {second['paths']['best']}" in out
    _, out, _ = ask(capsys, "best", "--by", "val_loss", "--json", *places)
    smallest = min(first, second, key=lambda result: result["best_metrics"]["val_loss"])
    assert json.loads(out)[0]["RUN"] == smallest["run"]
    _, out, _ = ask(capsys, "diff", first["run"], second["run"], *places)
    assert "OPTIMIZER_CONFIG.momentum" in out and "samples: no samples.csv" in out
    code, out, _ = ask(capsys, "curve", first["run"], second["run"], "--of", "val_loss", *places)
    assert code == 0 and first["run"] in out
