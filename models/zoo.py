"""Networks of torchvision for any number of classes and input channels, pretrained or new.

    classifier("resnet50", num_classes=37, weights="DEFAULT")
    embedder("mobilenet_v3_small", embedding_size=128)
    segmenter("deeplabv3_resnet50", num_classes=2, ch_in=12)

What comes back is torchvision's own network with its names of layers: its weights files fit, and
guides that name `layer4` or `features` do. torchvision is imported when a network is made.

Shapes: N batch, C input channels, K classes, D embedding size, H, W pixels.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from config.errors import did_you_mean
from layers.conv import check_arguments, spread_channels, with_ch_in
from utils.torchutils import load_weights

logger = logging.getLogger("plumbline")

_RESNETS = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "wide_resnet50_2",
    "wide_resnet101_2",
)
CLASSIFIERS = (
    *_RESNETS,
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "efficientnet_b3",
    "efficientnet_b4",
    "densenet121",
    "densenet161",
    "densenet169",
    "densenet201",
)
SEGMENTERS = (
    "fcn_resnet50",
    "fcn_resnet101",
    "deeplabv3_resnet50",
    "deeplabv3_resnet101",
    "deeplabv3_mobilenet_v3_large",
    "lraspp_mobilenet_v3_large",
)

Weights = str | Path  # torchvision's name of them, or a file


# ---------------------------------------------------------------------------------- networks


def classifier(
    name: str,
    num_classes: int,
    ch_in: int = 3,
    weights: Weights | None = None,
    small_images: bool = False,
) -> nn.Module:
    """Make a classifier: (N, C, H, W) float to (N, K) logits.

    `embedding_size` of the network is the number of its pooled features, which the head sees.

    Pretrained weights fit any `ch_in`: those of the first convolution are spread over the channels,
    see `layers.conv.spread_channels`. Layers that the weights do not fit, such as the head for
    another number of classes, stay new; a line of the log names them.

    Sources: ResNet, He et al., 2016, https://arxiv.org/abs/1512.03385, whose section 4.2 has the
    stem of `small_images`; ResNeXt, Xie et al., 2017, https://arxiv.org/abs/1611.05431; Wide
    ResNet, Zagoruyko and Komodakis, 2016, https://arxiv.org/abs/1605.07146; MobileNetV2, Sandler et
    al., 2018, https://arxiv.org/abs/1801.04381; MobileNetV3, Howard et al., 2019,
    https://arxiv.org/abs/1905.02244; EfficientNet, Tan and Le, 2019,
    https://arxiv.org/abs/1905.11946; DenseNet, Huang et al., 2017,
    https://arxiv.org/abs/1608.06993. The code is torchvision's.

    Args:
        name: one of `CLASSIFIERS`; case and underscores do not matter, as in `MobilenetV3Small`.
        num_classes: K; 1 for a binary task.
        ch_in: C.
        weights: torchvision's name of them ("DEFAULT", "IMAGENET1K_V1"), which are downloaded once,
            or the path of a file with a state dict of this network, of the kit or of torchvision.
        small_images: for pictures of about 32 x 32 pixels, the ResNet family alone: begin with a
            3 x 3 convolution of stride 1 and no max-pooling, so that all that follows sees a map
            four times as high and wide. A picture costs nearly 16 times the arithmetic.

    Raises:
        ValueError: no network or weights of this name, a count below 1, a file that is damaged or
            of another network, or `small_images` for a network that has no such form.
        ImportError: torchvision is not installed.

    Example:
        >>> import torch
        >>> classifier("mobilenet_v3_small", num_classes=5)(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 5])
    """
    check_arguments("classifier", 0.0, num_classes=num_classes, ch_in=ch_in)
    name = _find_name("classifier", name, CLASSIFIERS)
    model = _make(name, ch_in, small_images, num_classes=num_classes)
    model.embedding_size = _count_features(model)
    if weights is not None:
        _load(model, name, weights, _head_name(model))
    return model


def embedder(
    name: str,
    embedding_size: int | None = None,
    ch_in: int = 3,
    weights: Weights | None = None,
    normalize: bool = False,
    small_images: bool = False,
) -> nn.Module:
    """Make an embedder: (N, C, H, W) float to (N, D) float, near each other for the same identity.

    It is the classifier of this name with another head: none, which leaves the pooled features, or
    a linear layer. `embedding_size` of the network is D.

    Args:
        name: as in `classifier`.
        embedding_size: D; None gives the pooled features as they are.
        ch_in: C.
        weights: as in `classifier`; the head of a classifier among them is left out.
        normalize: bring each embedding to length 1.
        small_images: as in `classifier`.

    Raises:
        ValueError, ImportError: as `classifier`.

    Example:
        >>> import torch
        >>> embedder("mobilenet_v3_small")(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 576])
    """
    size = {} if embedding_size is None else {"embedding_size": embedding_size}
    check_arguments("embedder", 0.0, **size, ch_in=ch_in)
    name = _find_name("embedder", name, CLASSIFIERS)
    model = _make(name, ch_in, small_images)
    n_features = _count_features(model)
    head = nn.Sequential()  # empty, it hands the features on
    if embedding_size is not None:
        head.add_module("project", nn.Linear(n_features, embedding_size))
    if normalize:
        head.add_module("normalize", UnitLength())
    setattr(model, _head_name(model), head)
    model.embedding_size = embedding_size or n_features
    if weights is not None:
        _load(model, name, weights, _head_name(model))
    return model


def segmenter(
    name: str, num_classes: int, ch_in: int = 3, weights: Weights | None = None
) -> nn.Module:
    """Make a segmentation network: (N, C, H, W) float to (N, K, H, W) logits, for any size.

    DeepLabV3 has BatchNorm behind a mean over all pixels: in training its batches need two images,
    the last one too (DATA_LOADER_CONFIG.drop_last=True).

    Sources: FCN, Long et al., 2015, https://arxiv.org/abs/1411.4038; DeepLabV3, Chen et al., 2017,
    https://arxiv.org/abs/1706.05587; LR-ASPP, Howard et al., 2019,
    https://arxiv.org/abs/1905.02244. The code is torchvision's.

    Args:
        name: one of `SEGMENTERS`; case and underscores do not matter.
        num_classes: K; 1 for a binary task.
        ch_in: C.
        weights: as in `classifier` (here "DEFAULT" is "COCO_WITH_VOC_LABELS_V1").

    Raises:
        ValueError, ImportError: as `classifier`.
    """
    check_arguments("segmenter", 0.0, num_classes=num_classes, ch_in=ch_in)
    name = _find_name("segmenter", name, SEGMENTERS)
    # torchvision would download a backbone where none is asked for
    network = _make(name, ch_in, num_classes=num_classes, weights_backbone=None)
    if weights is not None:
        _load(network, name, weights, "classifier")
    return Segmenter(network)


class Segmenter(nn.Module):
    """A segmentation network of torchvision that gives a tensor, its output "out".

    Args:
        network: gives a dict.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) float to (N, K, H, W) float, logits."""
        return self.network(x)["out"]


class UnitLength(nn.Module):
    """Bring vectors to length 1; a vector of zeros stays one."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, D) float to (N, D) float."""
        return F.normalize(x)


# ------------------------------------------------------------------------------------- parts


def _torchvision() -> Any:
    """Import torchvision, which takes a second, where it is needed."""
    try:
        import torchvision
    except ModuleNotFoundError as error:
        raise ImportError(
            "models.zoo: expected the package torchvision, got none. Install the extra `zoo`, or"
            " run `make env-dev`."
        ) from error
    return torchvision


def _find_name(where: str, name: str, known: Sequence[str]) -> str:
    """Return torchvision's spelling of a name."""
    spellings = {one.replace("_", ""): one for one in known}
    found = spellings.get(str(name).lower().replace("_", ""))
    if found is None:
        raise ValueError(
            f'{where}: expected a name of {", ".join(known)}, got "{name}".'
            f"{did_you_mean(str(name), known)} Other networks go in by their import path, as MODEL."
        )
    return found


def _make(name: str, ch_in: int, small_images: bool = False, **arguments: Any) -> nn.Module:
    """Make a network of torchvision with new weights, and a new stem where it needs another."""
    model = _torchvision().models.get_model(name, weights=None, **arguments)
    stem, first = _find_stem(model)
    conv = first
    if small_images:
        if name not in _RESNETS:
            raise ValueError(
                f"small_images: expected one of {', '.join(_RESNETS)}, got {name}. Choose one of"
                " them, or enlarge the pictures: PREPROCESS.size."
            )
        conv = nn.Conv2d(first.in_channels, first.out_channels, 3, padding=1, bias=False)
        model.maxpool = nn.Identity()
    if ch_in != conv.in_channels:
        conv = with_ch_in(conv, ch_in)
    if conv is not first:
        # drawn as torchvision does: copies of three channels would stay copies
        mode = "fan_in" if name.startswith("densenet") else "fan_out"
        nn.init.kaiming_normal_(conv.weight, mode=mode, nonlinearity="relu")
        model.set_submodule(stem, conv)
    return model


def _find_stem(model: nn.Module) -> tuple[str, nn.Conv2d]:
    """Return name and layer of the first convolution."""
    return next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))


def _head_name(model: nn.Module) -> str:
    """Return the name of what follows the pooled features of a classifier."""
    return "fc" if hasattr(model, "fc") else "classifier"


def _count_features(model: nn.Module) -> int:
    head = getattr(model, _head_name(model))
    return next(m.in_features for m in head.modules() if isinstance(m, nn.Linear))


# ----------------------------------------------------------------------------------- weights


def _load(model: nn.Module, name: str, weights: Weights, head: str) -> None:
    """Load weights into a network; what of stem and head they do not fit stays new, and is named.

    Raises:
        ValueError: there are no such weights, or they are of another network.
    """
    # models.MODELS, which it reads, names this module
    from models.load import load_state  # pylint: disable=cyclic-import

    where, state = _read(name, weights)
    own = model.state_dict()
    others = (f"{head}.", "aux_classifier.")  # heads that this network may not have
    state = {n: value for n, value in state.items() if n in own or not n.startswith(others)}
    new = [n for n in own if n.startswith(f"{head}.") and not _fits(state.get(n), own[n])]
    layers = {n.rpartition(".")[0] for n in new}
    stem, conv = _find_stem(model)
    first = state.get(f"{stem}.weight")
    if isinstance(first, Tensor) and first.ndim == 4:
        if first.shape[2:] != conv.kernel_size:
            layers.add(stem)  # of small images, here or there
        elif first.shape[1] != conv.in_channels:  # no stem here has groups
            state[f"{stem}.weight"] = spread_channels(first, conv.in_channels)
    new = [n for n in own if n.rpartition(".")[0] in layers]
    load_state(model, {**state, **{n: own[n] for n in new}}, where)
    if new:
        logger.info("%s: nothing in it fits %s, which stay new", where, ", ".join(new))


def _fits(value: Any, own: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == own.shape


def _read(name: str, weights: Weights) -> tuple[str, dict[str, Tensor]]:
    """Return what messages call the weights, and their state dict under torchvision's names."""
    models = _torchvision().models
    known = models.get_model_weights(name)
    choice = str(weights).removeprefix(f"{known.__name__}.")
    if choice in known.__members__:
        where = f"weights {choice} of {name}"
        return where, models.get_model(name, weights=known[choice]).state_dict()
    if not Path(choice).is_file():
        raise ValueError(
            f"weights: expected one of {', '.join(known.__members__)} for {name}, or the path of a"
            f' file, got "{weights}".{did_you_mean(choice, known.__members__)} Check the spelling.'
        )
    return f'weights "{choice}"', _as_torchvision(name, load_weights(choice)["model"])


def _as_torchvision(name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict of a file under the names that the network has today."""
    state = {n.removeprefix("network."): value for n, value in state.items()}  # of a Segmenter
    if name.startswith("densenet"):  # its files are older than its code
        state = {
            re.sub(r"\.(norm|conv)\.([12])\.", r".\1\2.", n): value for n, value in state.items()
        }
    return state
