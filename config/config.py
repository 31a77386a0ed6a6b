"""Where a project reads and writes. Change a folder here and all input or output moves with it."""

from pathlib import Path

ROOT_PATH = Path(__file__).resolve().parent.parent

# EDIT: the folders of your project; they are created when a run needs them
global_config = {
    "ROOT_PATH": ROOT_PATH,
    "WEIGHT_DIR": ROOT_PATH / "weights",  # best.pth, last.pth and checkpoints, a folder per run
    "LOG_DIR": ROOT_PATH / "logs",  # experiments.csv, and a folder per run
    "DATA_DIR": ROOT_PATH / "data",  # relative paths in *_DATASET_CONFIG start here
}
