"""What happens around the training: callbacks hear from the Run, whoever drives the loop."""

from training.callbacks.base import Callback
from training.callbacks.early_stopping import EarlyStopping
from training.callbacks.progress import Progress
from training.callbacks.trackers import Trackers

__all__ = ["Callback", "EarlyStopping", "Progress", "Trackers"]
