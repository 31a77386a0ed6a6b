"""Data: files, preprocessing, datasets, transforms. Channels last on disk, first in tensors."""

from importlib import import_module

_MODULES = {
    "Arrays": "datasets",
    "ClassFolder": "images",
    "ColumnFeature": "features",
    "DatasetFeature": "features",
    "Digits": "datasets",
    "FeatureDataset": "features",
    "FileFeature": "features",
    "IdentityFolder": "images",
    "ImageTable": "images",
    "InputFolder": "datasets",
    "PairedFolder": "datasets",
    "Preprocess": "preprocess",
    "SyntheticScenes": "synthetic",
    "TableRows": "datasets",
    "TorchvisionDataset": "vision",
    "from_arrays": "datasets",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> object:
    # on first use only: reading files needs no torch, and `python -m utils.data.synthetic` may not
    # find its own module imported already
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
