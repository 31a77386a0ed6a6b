"""The models of the kit."""

from collections.abc import Callable

from torch import nn

from models import zoo
from models.convnet import CIFAR10Net, ConvNet, MNISTNet
from models.unet import UNET

__all__ = ["MODELS", "UNET", "CIFAR10Net", "ConvNet", "MNISTNet"]

# All that a weights file may name. Add a line for your own: "models.Net": Net, imported above.
# An argument `weights` in the file is left out: its own tensors take their place.
MODELS: dict[str, Callable[..., nn.Module]] = {
    "models.UNET": UNET,
    "models.ConvNet": ConvNet,
    "models.CIFAR10Net": CIFAR10Net,
    "models.MNISTNet": MNISTNet,
    "models.zoo.classifier": zoo.classifier,
    "models.zoo.embedder": zoo.embedder,
    "models.zoo.segmenter": zoo.segmenter,
}
