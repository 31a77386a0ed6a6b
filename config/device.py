"""Which device a run uses."""

from typing import Any

from config.errors import ConfigError


def get_device(wanted: Any = None) -> Any:
    """Return the wanted `torch.device`, or CUDA when there is one, else the CPU.

    Args:
        wanted: A `torch.device`, its name ("cpu", "cuda", "cuda:1"), or None to choose.

    Raises:
        ConfigError: The name is no device, or this machine has no such device.
    """
    import torch

    if wanted is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(
            f'DEVICE: expected "cpu", "cuda" or "cuda:N", got {wanted!r}. Leave it out to choose.'
        ) from error
    try:
        torch.zeros((), device=device).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        raise ConfigError(
            f"DEVICE: expected a device of this machine ({torch.cuda.device_count()} CUDA devices),"
            f' got "{device}". Set DEVICE=cpu, or leave it out to choose.'
        ) from error
    return device
