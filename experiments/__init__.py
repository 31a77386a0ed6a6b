"""Configs that train as they are. Copy one and edit the copy; start with scenes.py."""
