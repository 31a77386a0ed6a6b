"""Training: one run's state and arithmetic (`run.py`), and the routines that drive it."""
