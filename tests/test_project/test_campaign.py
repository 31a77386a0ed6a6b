"""Each script of the reliability campaign in its smallest form, and that it notices a loss."""

import sys

import pytest

if not sys.platform.startswith("linux"):
    pytest.skip("the campaign forks, kills and limits processes", allow_module_level=True)

import torch

import utils.torchutils
from tests.campaign import disk_full, flips, kills, saves, tracker
from tests.campaign.common import fork, kill, wait
from utils.torchutils import torch_settings


def test_a_fork_computes_after_torch_has_started_its_threads():
    with torch_settings(2, False):
        torch.ones(1 << 20).sum()
        process = fork(lambda: torch.ones(1 << 20).sum())
        wait(process, 30)
        assert not process.is_alive() or not kill(process), "it waits for a thread that is not"
    assert process.exitcode == 0


@pytest.mark.parametrize("number", [1, 9])  # AdamW and the rest; checkpoints within an epoch
def test_killed_runs_end_with_the_bits_of_unbroken_ones(number, tmp_path, monkeypatch):
    make_run = kills.make_run
    monkeypatch.setattr(kills, "make_run", lambda _, length: make_run(number, length))
    figures = kills.run(tmp_path, 1, 3, commands=0, length=3, routines=("pytorch", "ignite"))
    assert figures["lost"] == 0
    assert figures[kills.RUNS] >= 1 and figures[kills.KILLS] == 3
    phases = [figures[kills.PHASE.format(phase)] for phase in kills.PHASES]
    assert sum(phases) == 3 and any(phases[1:])


def test_processes_killed_while_saving_lose_no_checkpoint(tmp_path):
    figures = saves.run(tmp_path, kills=5, megabytes=4)
    assert figures["lost"] == 0
    assert figures[saves.KILLS] == 5


def test_full_disks_are_told_and_lose_nothing(tmp_path):
    figures = disk_full.run(tmp_path, repeats=1, runs=1, ways=["limit"])
    assert figures["lost"] == 0
    assert figures[disk_full.KEPT] == len(disk_full.PARTS)
    assert figures[disk_full.LOGS] == figures[disk_full.RUNS] == figures[disk_full.RESUMED] == 1


def test_damage_is_noticed(tmp_path, monkeypatch):
    assert flips.run(tmp_path / "a", flips=10, cuts=4)["lost"] == 0
    monkeypatch.setattr(utils.torchutils, "_check_sha256", lambda path, what: True)
    assert flips.run(tmp_path / "b", flips=40, cuts=0)["lost"] > 0


def test_writers_of_the_table_lose_no_row(tmp_path):
    figures = tracker.run(tmp_path, kills=4, repeats=1, writers=3)
    assert figures["lost"] == 0
    assert figures[tracker.ROWS] >= 4 and figures[tracker.CUTS] > 20
    assert figures[tracker.AT_ONCE] == 150
