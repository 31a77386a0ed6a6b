"""What happens around the training: callbacks hear from the Run, whoever drives the loop."""

from training.callbacks.base import Callback
from training.callbacks.curves import Curves
from training.callbacks.early_stopping import EarlyStopping
from training.callbacks.figures import Figures
from training.callbacks.ledger import Ledger
from training.callbacks.notify import Notify
from training.callbacks.progress import Progress
from training.callbacks.summary import Summary
from training.callbacks.trackers import Trackers
from training.callbacks.unfreeze import Unfreeze

__all__ = [
    "Callback",
    "Curves",
    "EarlyStopping",
    "Figures",
    "Ledger",
    "Notify",
    "Progress",
    "Summary",
    "Trackers",
    "Unfreeze",
]
