"""The models of the kit."""

from torch import nn

from models.convnet import ConvNet
from models.unet import UNET

__all__ = ["MODELS", "UNET", "ConvNet"]

# All that a weights file may name. Add a line for your own: "models.Net": Net, imported above.
MODELS: dict[str, type[nn.Module]] = {
    "models.UNET": UNET,
    "models.ConvNet": ConvNet,
}
