"""One process; several are in tests/test_training/test_distributed.py."""

import pickle

import pytest
import torch

from config.errors import ConfigError
from utils import distributed

ALONE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
SECOND = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}


@pytest.fixture
def launched(monkeypatch):
    def launch(variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return launch


def test_one_process_is_given_back_what_it_gave(launched):
    launched(ALONE)
    with distributed.joined(torch.device("cpu")), distributed.main_first():
        assert (distributed.rank(), distributed.world_size()) == (0, 1)
        assert distributed.gather("value") == ["value"]
        assert distributed.gather_number(1.5) == [1.5]
        assert distributed.on_main(lambda: 7) == 7
    assert not torch.distributed.is_initialized()


def test_the_number_is_known_before_the_processes_are_joined(launched):
    assert (distributed.launched_rank(), distributed.launched_world_size()) == (0, 1)
    launched(SECOND)
    assert (distributed.launched_rank(), distributed.launched_world_size()) == (1, 2)
    assert distributed.rank() == 0


def test_each_process_takes_a_gpu_of_its_own(launched, monkeypatch):
    cuda = torch.device("cuda")
    assert distributed.own_device(cuda) == cuda
    launched(SECOND)
    assert distributed.own_device(torch.device("cpu")) == torch.device("cpu")
    with pytest.raises(ValueError, match='expected "cuda" or "cpu" under torchrun'):
        distributed.own_device(torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="expected a GPU for each of 2 processes, got 1"):
        distributed.own_device(cuda)
    chosen = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert distributed.own_device(cuda) == torch.device("cuda", 1) and chosen == [1]


@pytest.mark.parametrize(
    ("parts", "items"),
    [([[0, 2, 4], [1, 3]], [0, 1, 2, 3, 4]), ([[0, 1]], [0, 1]), ([[0], [1], []], [0, 1])],
)
def test_interleave(parts, items):
    assert distributed.interleave(parts) == items


def test_the_errors_that_process_0_hands_on_survive():
    error = pickle.loads(pickle.dumps(ConfigError(["first", "second"])))
    assert isinstance(error, ConfigError) and str(error) == "first\nsecond"
