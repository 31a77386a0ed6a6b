"""Predict scenes that no training has seen, by the newest run: a first prediction, to copy.

    python train.py                  a minute; writes the weights
    python run_prediction.py         this file

To make it yours: `cp experiments/prediction/scenes.py experiments/prediction/mine.py`, edit the
copy at the marks EDIT, run `python run_prediction.py experiments/prediction/mine.py`. All keys:
`python run_prediction.py --help`.

To expect: below logs/predictions/ a folder with outputs/ (a decision and a picture of each scene),
samples.csv (a row of each) and metrics.json; an f1 of 0.98 after all epochs of experiments/scenes.
"""

from utils.data import SyntheticScenes
from utils.loss import dice_bce_sum
from utils.metrics import f1, precision, recall

predict_config = {
    "WEIGHTS": "latest",  # EDIT: or the name of a run, or a file
    "SESSION_NAME": "scenes",  # the folder is called <start time>_scenes
    # EDIT: data, of (x, y); a dataset of x or (x, name) gives outputs without metrics
    "DATASET": SyntheticScenes,
    "DATASET_CONFIG": {"n_scenes": 60, "size_px": 64, "seed": 2},
    "DATA_LOADER_CONFIG": {"batch_size": 8, "num_workers": 0},
    "METRICS": {"f1": f1, "precision": precision, "recall": recall},
    "LOSS": dice_bce_sum,  # None leaves it out
}
