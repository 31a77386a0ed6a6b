"""What runs.py answers, from the files that runs wrote: needs no torch."""
