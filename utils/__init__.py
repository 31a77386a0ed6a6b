"""Tools without knowledge of models or training: data, logging, losses, paths, weights."""
