"""Configs that train as they are: copy one, edit the copy, run `python train.py experiments/mine.py`."""
