import json

from tests.test_utils.test_runs.common import ANCESTOR, draw, folders, make_run
from utils.runs.folder import RunFolder
from utils.runs.show import format_bytes, format_seconds, show_run
from utils.runs.table import open_runs


def show(path, text="latest", width=100, **options):
    (run,) = open_runs([text], folders(path), "show")
    return draw(show_run(run, **options), width)


def section(text, head):
    """Return the lines below a head, up to the next empty one."""
    return text.partition(f"\n{head}")[2].partition("\n\n")[0].splitlines()[1:]


def test_a_run_tells_what_it_was(tmp_path):
    make_run(
        tmp_path,
        "1_a",
        environment={"commit": "b" * 40, "diff": "x"},
        ROUTINE_NAME="ignite",
        __COMMENT="a note",
    )
    assert show(tmp_path).splitlines()[:7] == [
        "1_a",
        "  status   done",
        "  epochs   3 of 3",
        "  time     2 min",
        "  routine  ignite on here",
        f"  commit   {'b' * 40}, with uncommitted changes",
        "  comment  a note",
    ]


def test_the_config_is_shown_as_calls_and_without_defaults(tmp_path):
    make_run(tmp_path, "1_a", ACCUMULATE=1, CLIP_NORM=2.0)
    lines = section(show(tmp_path), "config")
    assert "  MODEL         models.ConvNet(ch_in=1, bulk_ch=16)" in lines
    assert "  METRICS       f1=utils.metrics.f1" in lines
    assert "  CLIP_NORM     2.0" in lines
    assert not [line for line in lines if "ACCUMULATE" in line or "SESSION_NAME" in line]
    whole = section(show(tmp_path, shows_all=True), "config")
    assert "  ACCUMULATE    1" in whole


def test_values_of_the_best_and_the_last_epoch(tmp_path):
    make_run(tmp_path, "1_a")
    assert section(show(tmp_path), "values") == [
        "              best (epoch 2)   last",
        "  train_loss            0.25  0.375",
        "  val_f1 *              0.75  0.625",
    ]


def test_intervals_stand_beside_the_values(tmp_path):
    log_dir = make_run(tmp_path, "1_a")
    intervals = {"f1": [0.7, 0.8], "loss": [None, None]}
    text = json.dumps({"set": "val", "intervals": intervals})
    (log_dir / "evaluation.json").write_text(text)
    assert section(show(tmp_path), "values")[-1] == (
        "  val_f1 *              0.75  0.625  [0.7000, 0.8000]"
    )


def test_files_with_their_sizes(tmp_path):
    make_run(tmp_path, "1_a")
    lines = [line.split() for line in section(show(tmp_path, width=200), "files")]
    assert [str(tmp_path / "weights" / "1_a"), "3", "kB"] in lines
    assert ["best.pth", "1", "kB"] in lines and not any(".lock" in line for line in lines)


def test_a_lost_run_tells_how_it_goes_on(tmp_path):
    make_run(tmp_path, "1_a", status="running")
    text = show(tmp_path, folders=["LOG_DIR=/my logs"], width=60)
    assert "  status   lost  its process ended without a word" in text
    lines = section(text, "commands")
    config = tmp_path / "logs" / "1_a" / "config.yaml"
    assert lines == [  # whole, however narrow the terminal is
        "  resume   python train.py --resume 1_a 'LOG_DIR=/my logs'",
        f"  repeat   python train.py {config} 'LOG_DIR=/my logs'",
        f"  predict  python predict.py -i FILES -o DIR --weights {tmp_path}/weights/1_a/best.pth",
    ]


def test_a_run_without_a_checkpoint_is_not_resumed(tmp_path):
    make_run(tmp_path, "1_a", status="interrupted")
    assert "--resume" in show(tmp_path)
    (tmp_path / "weights" / "1_a" / "checkpoint.pt").unlink()
    assert "--resume" not in show(tmp_path)


def test_a_failed_run_tells_why(tmp_path):
    log_dir = make_run(tmp_path, "1_a", status="failed")
    (log_dir / "result.json").write_text(json.dumps({"error": "ValueError: no"}))
    assert "  error    ValueError: no" in show(tmp_path)


def test_a_run_whose_folder_is_gone_is_shown_by_its_row(tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "experiments.csv").write_text(ANCESTOR)
    text = show(tmp_path, "first")
    assert "MODEL   UNET(   (a): Conv2d() )" in text and "files" not in text


def test_a_run_whose_row_lacks_values_is_shown_by_its_files(tmp_path):
    make_run(tmp_path, "1_a")
    (tmp_path / "logs" / "experiments.csv").unlink()
    run = RunFolder("1_a", folders(tmp_path))
    assert run.monitor == ("val_f1", "max") and run.best_epoch()["epoch"] == "2"
    assert "val_f1 *              0.75" in show(tmp_path)


def test_times_and_sizes_as_people_say_them():
    assert [format_seconds(s) for s in (0.123, 59, 3600)] == ["0.123 s", "59 s", "1 h 0 min"]
    assert [format_bytes(n) for n in (0, 999, 1000, 2.5e9, 3e15)] == [
        "0 B",
        "999 B",
        "1 kB",
        "2.5 GB",
        "3e+03 TB",
    ]
