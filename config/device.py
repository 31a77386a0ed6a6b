"""Which device a run uses."""

from typing import Any

from config.errors import ConfigError


def get_device(wanted: Any = None) -> Any:
    """Return the wanted `torch.device`, or CUDA when there is one, else the CPU.

    Args:
        wanted: A `torch.device`, its name ("cpu", "cuda", "cuda:1"), or None to choose.

    Raises:
        ConfigError: The name is no device, or CUDA is asked for where there is none.
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
    if device.type == "cuda":
        n_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= n_devices:
            raise ConfigError(
                f"DEVICE: expected a device of this machine ({n_devices} CUDA devices),"
                f' got "{device}". Set DEVICE=cpu, or leave it out to choose.'
            )
    return device
