import pytest
import torch

from config.device import get_device
from config.errors import ConfigError


def test_none_chooses():
    assert get_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert get_device(None) == get_device()


@pytest.mark.parametrize("wanted", ["cpu", torch.device("cpu")])
def test_wanted_device_by_name_or_object(wanted):
    assert get_device(wanted) == torch.device("cpu")


@pytest.mark.parametrize("wanted", ["gpu", "cuda:x", "", -1, 3.5, True, {}])
def test_no_device_at_all(wanted):
    with pytest.raises(
        ConfigError, match='^DEVICE: expected "cpu", "cuda" or "cuda:N", got'
    ) as got:
        get_device(wanted)
    assert repr(wanted) in str(got.value)


@pytest.mark.parametrize("wanted", ["cuda:99", "mps", "xpu", "meta"])
def test_device_that_this_machine_has_not(wanted):
    if wanted == "mps" and torch.backends.mps.is_available():
        pytest.skip("this machine has it")
    if wanted == "xpu" and torch.xpu.is_available():
        pytest.skip("this machine has it")
    message = rf'\(\d+ CUDA devices\), got "{wanted}". Set DEVICE=cpu, or leave it out to choose.'
    with pytest.raises(ConfigError, match=message):
        get_device(wanted)


def test_cuda_without_cuda():
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(ConfigError, match=r'\(0 CUDA devices\), got "cuda"'):
        get_device("cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda():
    assert get_device("cuda:0") == torch.device("cuda", 0)
    assert get_device(0) == torch.device("cuda", 0)
