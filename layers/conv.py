"""Convolution blocks: convolution, BatchNorm, activation.

Shapes: N batch, C input channels, K output channels, H, W pixels. Each block takes the class of its
activation, not an instance: `nn.ELU`, or `functools.partial(nn.LeakyReLU, negative_slope=0.1)`.
Convolutions have no bias, because the BatchNorm after them subtracts the mean and adds its own.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Activation = Callable[[], nn.Module]  # a class such as nn.ELU is one too


class ConvLayer(nn.Module):
    """Convolve, normalise and activate; the size is kept, or divided by `stride` (rounded up).

    A channel with one value only (a batch of one image, shrunk to 1 x 1 pixel) has no variance, and
    BatchNorm refuses it in training. Such a batch is normalised by the running statistics, as in
    eval mode, and leaves them as they are.

    Args:
        ch_in: C.
        ch_out: K.
        kernel_size: odd; the border is padded with `kernel_size // 2` zeros.
        stride: 1 keeps the size, 2 halves it.
        activ: makes the activation.

    Raises:
        ValueError: `kernel_size` is even (the size would change).
        TypeError: `activ` is not a class or a function that makes a module.
    """

    def __init__(
        self,
        ch_in: int,
        ch_out: int,
        kernel_size: int = 3,
        stride: int = 1,
        activ: Activation = nn.ELU,
    ) -> None:
        super().__init__()
        self.conv = same_conv(ch_in, ch_out, kernel_size, stride)
        self.norm = nn.BatchNorm2d(ch_out)
        self.activ = make_activation(activ)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) float to (N, K, H / stride, W / stride) float."""
        x = self.conv(x)
        norm = self.norm
        if self.training and x.shape[0] * x.shape[2] * x.shape[3] == 1:
            x = F.batch_norm(
                x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
            )
        else:
            x = norm(x)
        return self.activ(x)


class DeconvLayer(nn.Module):
    """Double height and width by a convolution to 4 K channels and a pixel shuffle.

    Source: Shi et al., Real-Time Single Image and Video Super-Resolution Using an Efficient
    Sub-Pixel Convolutional Neural Network, 2016, https://arxiv.org/abs/1609.05158.

    Args:
        ch_in: C.
        ch_out: K.
        kernel_size: odd; the border is padded with `kernel_size // 2` zeros.
        activ: makes the activation.

    Raises:
        ValueError: `kernel_size` is even (the size would change).
        TypeError: `activ` is not a class or a function that makes a module.
    """

    def __init__(
        self, ch_in: int, ch_out: int, kernel_size: int = 3, activ: Activation = nn.ELU
    ) -> None:
        super().__init__()
        self.conv = same_conv(ch_in, 4 * ch_out, kernel_size)
        self.shuffle = nn.PixelShuffle(2)
        self.norm = nn.BatchNorm2d(ch_out)
        self.activ = make_activation(activ)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) float to (N, K, 2 H, 2 W) float."""
        return self.activ(self.norm(self.shuffle(self.conv(x))))


class TransConvLayer(nn.Module):
    """Double height and width by a transposed convolution of 2 x 2 with stride 2.

    Kernel and stride are equal, so the size doubles exactly and no two outputs overlap (overlaps
    leave a checkerboard: Odena et al., https://distill.pub/2016/deconv-checkerboard).

    Args:
        ch_in: C.
        ch_out: K.
        activ: makes the activation.

    Raises:
        TypeError: `activ` is not a class or a function that makes a module.
    """

    def __init__(self, ch_in: int, ch_out: int, activ: Activation = nn.ELU) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(ch_in, ch_out, kernel_size=2, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(ch_out)
        self.activ = make_activation(activ)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) float to (N, K, 2 H, 2 W) float."""
        return self.activ(self.norm(self.conv(x)))


def same_conv(ch_in: int, ch_out: int, kernel_size: int = 3, stride: int = 1) -> nn.Conv2d:
    """Build a convolution that keeps the size, or divides it by `stride` (rounded up).

    Raises:
        ValueError: `kernel_size` is even.
    """
    if kernel_size % 2 == 0:
        raise ValueError(f"kernel_size: expected an odd number, got {kernel_size}. Use 1, 3 or 5.")
    return nn.Conv2d(ch_in, ch_out, kernel_size, stride, padding=kernel_size // 2, bias=False)


def with_ch_in(conv: nn.Conv2d, ch_in: int) -> nn.Conv2d:
    """Return a convolution as `conv` for other input channels, its weights spread over them.

    Raises:
        ValueError: `ch_in` is no multiple of the groups.
    """
    if ch_in < 1 or ch_in % conv.groups:
        raise ValueError(
            f"ch_in: expected a multiple of the convolution's {conv.groups} groups, got {ch_in}."
            " Choose another number of channels."
        )
    other = nn.Conv2d(
        ch_in,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        conv.padding,
        conv.dilation,
        conv.groups,
        conv.bias is not None,
        conv.padding_mode,
    ).to(conv.weight)
    with torch.no_grad():
        other.weight.copy_(spread_channels(conv.weight, ch_in // conv.groups))
        if conv.bias is not None:
            other.bias.copy_(conv.bias)
    return other


def spread_channels(weight: Tensor, ch_in: int) -> Tensor:
    """Spread the weights of a convolution over another number of input channels.

    For one channel they are summed, so that a grey picture gives what three copies of it gave. For
    others they are repeated in their order and scaled by the ratio of the counts, so that the
    response keeps its size; of copies of one grey channel it is the same for a multiple of C.

    Source: the convention of timm, https://github.com/huggingface/pytorch-image-models,
    `adapt_input_conv`.

    Args:
        weight: (K, C, h, w) float.
        ch_in: C of the result.

    Returns:
        (K, ch_in, h, w) float.
    """
    former = weight.shape[1]
    if ch_in == 1:
        return weight.sum(dim=1, keepdim=True)
    channels = torch.arange(ch_in, device=weight.device) % former
    return weight[:, channels] * (former / ch_in)


def make_activation(activ: Activation) -> nn.Module:
    """Make one activation module from its class or factory.

    Raises:
        TypeError: `activ` is an instance, not callable, or does not make a module.
    """
    layer = None if isinstance(activ, nn.Module) or not callable(activ) else activ()
    if not isinstance(layer, nn.Module):
        raise TypeError(
            f"activ: expected a class or factory of modules, got {activ!r}. "
            "Give the class without brackets, for example torch.nn.ELU."
        )
    return layer


def check_arguments(where: str, dropout: float, **counts: int) -> None:
    """Check the arguments that models share.

    Args:
        where: name of the model, for the message.
        dropout: a share in [0, 1).
        counts: channels, levels and the like, by name; each an integer of at least 1.

    Raises:
        ValueError: with every argument that is wrong.
    """
    problems = [
        f"{name}: expected an integer of at least 1, got {count!r}"
        for name, count in counts.items()
        if not isinstance(count, int) or count < 1
    ]
    if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        problems.append(f"dropout: expected a number from 0 to below 1, got {dropout!r}")
    if problems:
        raise ValueError(f"{where}: {'; '.join(problems)}. Correct the arguments.")
