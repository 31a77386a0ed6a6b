import multiprocessing
import os
import random

import pytest
import torch

from training.checkpoint import load_checkpoint, save_checkpoint
from utils.torchutils import save_file


@pytest.fixture
def warned(caplog):
    """The kit's warnings."""
    return lambda: [record.getMessage() for record in caplog.records]


def save(folder, *steps):
    for step in steps:
        save_checkpoint({"step": step, "weights": torch.full((100,), step)}, folder)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_is_loaded_and_the_former_kept(tmp_path, warned):
    save(tmp_path, 1)
    assert names(tmp_path) == ["checkpoint.pt"]
    save(tmp_path, 2, 3)
    assert names(tmp_path) == ["checkpoint.prev.pt", "checkpoint.pt"]
    state = load_checkpoint(tmp_path)
    assert state["step"] == 3 and torch.equal(state["weights"], torch.full((100,), 3))
    former = torch.load(tmp_path / "checkpoint.prev.pt", weights_only=True)
    assert former["step"] == 2 and former["format"] == 1
    assert not warned()


def test_a_damaged_one_falls_back_to_the_former(tmp_path, warned):
    save(tmp_path, 1, 2)
    flip(tmp_path / "checkpoint.pt")
    assert load_checkpoint(tmp_path)["step"] == 1
    (warning,) = warned()
    assert "checkpoint.pt" in warning and "the file is damaged" in warning
    assert warning.endswith("Falling back to checkpoint.prev.pt.")


def test_a_missing_one_falls_back_to_the_former(tmp_path, warned):
    save(tmp_path, 1, 2)
    (tmp_path / "checkpoint.pt").unlink()  # a process killed between two renames leaves this
    assert load_checkpoint(tmp_path)["step"] == 1
    (warning,) = warned()
    assert "expected a file, got none" in warning and "Falling back to" in warning


def test_a_damaged_former_one_does_not_matter(tmp_path, warned):
    save(tmp_path, 1, 2)
    flip(tmp_path / "checkpoint.prev.pt")
    assert load_checkpoint(tmp_path)["step"] == 2
    assert not warned()


def test_both_damaged_are_both_named(tmp_path):
    save(tmp_path, 1, 2)
    for name in names(tmp_path):
        flip(tmp_path / name)
    with pytest.raises(ValueError, match=r'checkpoint.pt": .*\n.*checkpoint.prev.pt": .*damaged'):
        load_checkpoint(tmp_path)


def test_no_checkpoint_at_all(tmp_path):
    with pytest.raises(FileNotFoundError, match="stopped before its first one; start it anew"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("content", [{"format": 2, "step": 5}, {"step": 5}, [5]])
def test_another_format_is_refused(content, tmp_path):
    save(tmp_path, 1, 2)
    save_file(content, tmp_path / "checkpoint.pt")
    found = content.get("format") if isinstance(content, dict) else None
    with pytest.raises(ValueError, match=f"expected format 1, got {found}. Resume with the ver"):
        load_checkpoint(tmp_path)


def test_a_save_that_fails_changes_nothing(tmp_path):
    save(tmp_path, 1, 2)
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint({"step": lambda: 3}, tmp_path)
    assert load_checkpoint(tmp_path)["step"] == 2
    assert names(tmp_path) == ["checkpoint.prev.pt", "checkpoint.pt"]


def save_for_ever(folder, first, pipe):
    for step in range(first, 1 << 31):
        save(folder, step)
        os.write(pipe, step.to_bytes(4, "big"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a fork of this process is killed")
def test_a_process_killed_while_saving_leaves_a_checkpoint(tmp_path, warned):
    draw = random.Random(0)
    last = 0
    for _ in range(20):
        read, write = os.pipe()
        process = multiprocessing.get_context("fork").Process(
            target=save_for_ever, args=(tmp_path, last + 1, write)
        )
        process.start()
        os.close(write)
        with open(read, "rb") as pipe:
            first = pipe.read(4)
            process.join(draw.uniform(0, 0.02))
            process.kill()
            process.join()
            acknowledged = int.from_bytes((first + pipe.read())[-4:], "big")
        state = load_checkpoint(tmp_path)
        # nothing acknowledged is lost; the save in work may be there already
        assert acknowledged <= state["step"] <= acknowledged + 1
        assert torch.equal(state["weights"], torch.full((100,), state["step"]))
        last = state["step"]


def test_after_a_fall_back_the_next_save_keeps_the_whole_one(tmp_path):
    for step in (1, 2):
        save_checkpoint({"step": step}, tmp_path)
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:-1])
    assert load_checkpoint(tmp_path)["step"] == 1
    save_checkpoint({"step": 3}, tmp_path)
    path.unlink()
    assert load_checkpoint(tmp_path)["step"] == 1
