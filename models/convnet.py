"""Small convolutional classifiers for images of 8 to 32 pixels."""

from torch import Tensor, nn

from layers.conv import Activation, ConvLayer, check_arguments


class ConvNet(nn.Module):
    """Classify a small image by blocks of two convolutions and a mean over all pixels.

    Each block after the first halves the size (rounded up) by max-pooling and doubles the channels.
    The mean at the end takes any size, odd and non-square ones too.

    Source: the plan of Simonyan and Zisserman, Very Deep Convolutional Networks, 2014,
    https://arxiv.org/abs/1409.1556, with BatchNorm and, in place of the large linear layers, the
    global average pooling of Lin et al., Network In Network, 2013, https://arxiv.org/abs/1312.4400.

    Args:
        ch_in: C, 1 for grey images and 3 for colour images.
        n_classes: K.
        bulk_ch: channels of the first block.
        n_blocks: number of blocks; the last one sees the image 2 ** (n_blocks - 1) times smaller.
        dropout: probability that a feature is dropped before the last layer, [0, 1).
        activ: class of the activations, or a function that makes one.

    Raises:
        ValueError: a count below 1, or `dropout` outside of [0, 1).
        TypeError: `activ` is not a class or a function that makes a module.

    Example:
        >>> import torch
        >>> ConvNet(ch_in=1, n_classes=10)(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        ch_in: int,
        n_classes: int,
        bulk_ch: int = 16,
        n_blocks: int = 3,
        dropout: float = 0.0,
        activ: Activation = nn.ELU,
    ) -> None:
        super().__init__()
        check_arguments(
            "ConvNet", dropout, ch_in=ch_in, n_classes=n_classes, bulk_ch=bulk_ch, n_blocks=n_blocks
        )
        widths = [bulk_ch * 2**block for block in range(n_blocks)]
        blocks = []
        for block, ch in enumerate(widths):
            if block > 0:
                blocks.append(nn.MaxPool2d(2, ceil_mode=True))
            blocks.append(ConvLayer(ch_in if block == 0 else ch // 2, ch, activ=activ))
            blocks.append(ConvLayer(ch, ch, activ=activ))
        self.blocks = nn.Sequential(*blocks)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(widths[-1], n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits of the classes.

        Args:
            x: (N, C, H, W) float, channels-first images.

        Returns:
            (N, K) float, logits.
        """
        features = self.blocks(x).mean(dim=(2, 3))  # (N, bulk_ch * 2 ** (n_blocks - 1))
        return self.head(self.dropout(features))


class MNISTNet(ConvNet):
    """A `ConvNet` for MNIST: grey pictures of 28 x 28 pixels, 10 classes, 73 thousand weights.

    Args:
        n_classes: K.
        dropout: as in `ConvNet`.
        activ: as in `ConvNet`.
    """

    def __init__(
        self, n_classes: int = 10, dropout: float = 0.0, activ: Activation = nn.ELU
    ) -> None:
        super().__init__(1, n_classes, bulk_ch=16, n_blocks=3, dropout=dropout, activ=activ)


class CIFAR10Net(ConvNet):
    """A `ConvNet` for CIFAR-10: colour pictures of 32 x 32 pixels, 10 classes, 1.2 million weights.

    Args:
        n_classes: K.
        dropout: as in `ConvNet`.
        activ: as in `ConvNet`.
    """

    def __init__(
        self, n_classes: int = 10, dropout: float = 0.2, activ: Activation = nn.ELU
    ) -> None:
        super().__init__(3, n_classes, bulk_ch=32, n_blocks=4, dropout=dropout, activ=activ)
