"""U-Net for segmentation of images of any size."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from layers.conv import Activation, ConvLayer, DeconvLayer, TransConvLayer, check_arguments


class UNET(nn.Module):
    """Segment an image: an encoder, a decoder, and a skip connection at every level.

    Level 0 has `bulk_ch` channels at full size; each of the `n_recursions` levels below has twice
    the channels at half the size. A level is two 3 x 3 convolutions on the way down and two on the
    way up.

    Any size fits. Halving rounds up, and after doubling the decoder cuts the one row or column that
    is too much, so that it meets its skip connection. Nothing is padded: no computing on invented
    pixels, and pixel (0, 0) stays where it is, so that tiles which start at multiples of
    2 ** n_recursions line up with the whole image.

    BatchNorm measures its statistics on the batch: for a batch of one image, choose `n_recursions`
    so small that the deepest level keeps some pixels (a single one passes, but is not normalised).

    Source: Ronneberger et al., U-Net: Convolutional Networks for Biomedical Image Segmentation,
    2015, https://arxiv.org/abs/1505.04597. Up-sampling by pixel shuffle: Shi et al., 2016,
    https://arxiv.org/abs/1609.05158.

    Args:
        ch_in: C, for example bands or colours.
        ch_out: K, one per class.
        bulk_ch: channels of the first level.
        n_recursions: number of levels below the first.
        use_shuffle: up-sample by pixel shuffle, otherwise by transposed convolution.
        dropout: probability that a channel is dropped before each level but the first, [0, 1).
        activ: class of the activations, or a function that makes one.
        use_pooling: down-sample by max-pooling, otherwise by convolution with stride 2.

    Raises:
        ValueError: a count below 1, or `dropout` outside of [0, 1).
        TypeError: `activ` is not a class or a function that makes a module.

    Example:
        >>> UNET(ch_in=3, ch_out=2, n_recursions=2)(torch.zeros(1, 3, 33, 47)).shape
        torch.Size([1, 2, 33, 47])
    """

    def __init__(
        self,
        ch_in: int,
        ch_out: int,
        bulk_ch: int = 16,
        n_recursions: int = 4,
        use_shuffle: bool = True,
        dropout: float = 0.0,
        activ: Activation = nn.ELU,
        use_pooling: bool = False,
    ) -> None:
        super().__init__()
        check_arguments(
            "UNET", dropout, ch_in=ch_in, ch_out=ch_out, bulk_ch=bulk_ch, n_recursions=n_recursions
        )
        self.dropout = nn.Dropout2d(dropout)
        self.first = two_convs(ch_in, bulk_ch, activ)
        self.downs, self.encoders = nn.ModuleList(), nn.ModuleList()  # from the top to the deepest
        self.ups, self.decoders = nn.ModuleList(), nn.ModuleList()  # from the deepest to the top
        up_layer = DeconvLayer if use_shuffle else TransConvLayer
        widths = [bulk_ch * 2**level for level in range(n_recursions)]
        for ch in widths:
            self.downs.append(
                nn.MaxPool2d(2, ceil_mode=True)
                if use_pooling
                else ConvLayer(ch, ch, stride=2, activ=activ)
            )
            self.encoders.append(two_convs(ch, 2 * ch, activ))
        for ch in reversed(widths):
            self.ups.append(up_layer(2 * ch, ch, activ=activ))
            self.decoders.append(two_convs(2 * ch, ch, activ))
        self.head = nn.Conv2d(bulk_ch, ch_out, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits of every pixel.

        Args:
            x: (N, C, H, W) float, channels-first images.

        Returns:
            (N, K, H, W) float, logits.
        """
        x = self.first(x)
        skips = []
        for down, encoder in zip(self.downs, self.encoders, strict=True):
            skips.append(x)
            x = encoder(self.dropout(down(x)))
        for up, decoder in zip(self.ups, self.decoders, strict=True):
            skip = skips.pop()
            x = crop(up(x), skip)
            x = decoder(self.dropout(torch.cat([skip, x], dim=1)))
        return self.head(x)


def two_convs(ch_in: int, ch_out: int, activ: Activation) -> nn.Sequential:
    """Build the two convolutions of a level: (N, ch_in, H, W) to (N, ch_out, H, W)."""
    return nn.Sequential(
        ConvLayer(ch_in, ch_out, activ=activ), ConvLayer(ch_out, ch_out, activ=activ)
    )


def crop(x: Tensor, like: Tensor) -> Tensor:
    """Cut rows at the bottom and columns at the right of `x` to the size of `like`.

    A padding by negative amounts: it exports for any size, where a slice ties the exported program
    to sizes that need the same cuts as the example did.
    """
    return F.pad(x, (0, like.shape[3] - x.shape[3], 0, like.shape[2] - x.shape[2]))
