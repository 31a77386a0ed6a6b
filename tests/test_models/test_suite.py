"""The checks that every model of the kit passes; for a model of your own, too.

    pytest tests/test_models/test_suite.py                                      new weights
    TEST_WEIGHTS=weights/<run>/best.pth pytest tests/test_models/test_suite.py  those of a file

For your own: copy this file to tests/test_models/test_<name>.py and put your model into
`test_configs` alone. A number in INPUT_DIM or OUTPUT_DIM may be the name of an argument in
MODEL_CONFIG: with TEST_WEIGHTS the file has its own. MIN_SIZE is the least height and width [px] of
a model that needs so many.
"""

import copy
import os
import pickle

import pytest
import torch
from torch import nn

from config.names import name_of
from models import UNET, CIFAR10Net, ConvNet, MNISTNet, zoo
from models.load import load_model
from utils.torchutils import load_weights, save_weights

torch.set_num_threads(1)

DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)

SIZES = [(32, 32), (33, 47), (16, 31)]  # EDIT: heights and widths of inputs that must fit [px]

# EDIT: LOSS gets targets of 0 and 1 in the shape of the outputs
test_configs = {
    "UNET": {
        "DEFAULT_WEIGHTS": None,  # a weights file of this model; None: new weights
        "INPUT_DIM": (2, "ch_in", 33, 47),  # (N, C, H, W)
        "OUTPUT_DIM": (2, "ch_out", 33, 47),  # (N, K, H, W)
        "LOSS": nn.BCEWithLogitsLoss(),
        "MODEL": UNET,
        "MODEL_CONFIG": {"ch_in": 12, "ch_out": 2, "bulk_ch": 4, "n_recursions": 3, "dropout": 0.2},
        "OPTIMIZER": torch.optim.SGD,
        "OPTIMIZER_CONFIG": {"lr": 1e-2},
        "DEVICE": "cpu",
    },
    "UNET with pooling": {
        "DEFAULT_WEIGHTS": None,
        "INPUT_DIM": (2, "ch_in", 33, 47),
        "OUTPUT_DIM": (2, "ch_out", 33, 47),
        "LOSS": nn.CrossEntropyLoss(),
        "MODEL": UNET,
        "MODEL_CONFIG": {"ch_in": 3, "ch_out": 4, "bulk_ch": 4, "n_recursions": 3}
        | {"use_pooling": True, "use_shuffle": False, "activ": nn.GELU},
        "OPTIMIZER": torch.optim.SGD,
        "OPTIMIZER_CONFIG": {"lr": 1e-2},
        "DEVICE": "cpu",
    },
    "ConvNet": {
        "DEFAULT_WEIGHTS": None,
        "INPUT_DIM": (2, "ch_in", 9, 13),
        "OUTPUT_DIM": (2, "n_classes"),  # (N, K)
        "LOSS": nn.CrossEntropyLoss(),
        "MODEL": ConvNet,
        "MODEL_CONFIG": {"ch_in": 1, "n_classes": 3, "bulk_ch": 4, "dropout": 0.2},
        "OPTIMIZER": torch.optim.SGD,
        "OPTIMIZER_CONFIG": {"lr": 1e-2},
        "DEVICE": "cpu",
    },
    "MNISTNet": {
        "DEFAULT_WEIGHTS": None,
        "INPUT_DIM": (2, 1, 28, 28),
        "OUTPUT_DIM": (2, "n_classes"),
        "LOSS": nn.CrossEntropyLoss(),
        "MODEL": MNISTNet,
        "MODEL_CONFIG": {"n_classes": 5, "dropout": 0.2},
        "OPTIMIZER": torch.optim.SGD,
        "OPTIMIZER_CONFIG": {"lr": 1e-2},
        "DEVICE": "cpu",
    },
    "CIFAR10Net": {
        "DEFAULT_WEIGHTS": None,
        "INPUT_DIM": (2, 3, 32, 32),
        "OUTPUT_DIM": (2, "n_classes"),
        "LOSS": nn.CrossEntropyLoss(),
        "MODEL": CIFAR10Net,
        "MODEL_CONFIG": {"n_classes": 5},
        "OPTIMIZER": torch.optim.SGD,
        "OPTIMIZER_CONFIG": {"lr": 1e-2},
        "DEVICE": "cpu",
    },
    "classifier": {
        "DEFAULT_WEIGHTS": None,
        "INPUT_DIM": (2, "ch_in", 17, 24),
        "OUTPUT_DIM": (2, "num_classes"),
        "LOSS": nn.CrossEntropyLoss(),
        "MODEL": zoo.classifier,
        "MODEL_CONFIG": {"name": "resnet18", "num_classes": 3, "ch_in": 1, "small_images": True},
        "OPTIMIZER": torch.optim.SGD,
        "OPTIMIZER_CONFIG": {"lr": 1e-3},
        "DEVICE": "cpu",
    },
    "embedder": {
        "DEFAULT_WEIGHTS": None,
        "INPUT_DIM": (2, "ch_in", 40, 35),
        "OUTPUT_DIM": (2, "embedding_size"),
        "MIN_SIZE": 33,
        "LOSS": nn.MSELoss(),
        "MODEL": zoo.embedder,
        "MODEL_CONFIG": {"name": "mobilenet_v3_small", "embedding_size": 16, "ch_in": 4},
        "OPTIMIZER": torch.optim.SGD,
        "OPTIMIZER_CONFIG": {"lr": 1e-2},
        "DEVICE": "cpu",
    },
    "segmenter": {
        "DEFAULT_WEIGHTS": None,
        "INPUT_DIM": (2, "ch_in", 40, 35),
        "OUTPUT_DIM": (2, "num_classes", 40, 35),
        "MIN_SIZE": 33,
        "LOSS": nn.BCEWithLogitsLoss(),
        "MODEL": zoo.segmenter,
        "MODEL_CONFIG": {"name": "lraspp_mobilenet_v3_large", "num_classes": 2, "ch_in": 12},
        "OPTIMIZER": torch.optim.SGD,
        "OPTIMIZER_CONFIG": {"lr": 1e-2},
        "DEVICE": "cpu",
    },
}


def choose(configs, path):
    """Return the configs for the model of a weights file, with its arguments; all without one."""
    if not path:
        return configs
    meta = load_weights(path)["meta"]
    own = {name: c for name, c in configs.items() if name_of(c["MODEL"]) == meta.get("MODEL")}
    found = own or (configs if len(configs) == 1 else {})
    if not found:
        raise ValueError(
            f'TEST_WEIGHTS="{path}": expected weights of {", ".join(configs)}, got those of'
            f" {meta.get('MODEL')}. Copy this file and put the model into test_configs."
        )
    name = next(iter(found))
    return {name: found[name] | {"DEFAULT_WEIGHTS": path}}


class Case:
    """A model to be tested, and batches for it."""

    def __init__(self, config):
        self.config, self.path = config, config["DEFAULT_WEIGHTS"]
        self.arguments = config["MODEL_CONFIG"]
        if self.path is not None:
            load_model(self.path, self._take_arguments)

    def _take_arguments(self, **of_file):
        self.arguments = of_file or self.arguments
        return self.config["MODEL"](**self.arguments)

    def build(self):
        """Return the model, with the weights of the file or new ones."""
        torch.manual_seed(0)
        model = self.config["MODEL"](**self.arguments)
        if self.path is not None:
            model.load_state_dict(load_weights(self.path)["model"])
        return model.to(self.config["DEVICE"])

    def shape(self, key, n=None, size=None):
        """Return the shape of inputs or outputs: for n samples, of another size."""
        dims = [self.arguments.get(dim, dim) for dim in self.config[key]]
        dims[0] = n or dims[0]
        size = [max(pixels, self.config.get("MIN_SIZE", 1)) for pixels in size or dims[2:]]
        return (*dims[:2], *size) if len(dims) == 4 else tuple(dims)

    def inputs(self, n=None, size=None):
        """Return (N, C, H, W) random numbers."""
        generator = torch.Generator().manual_seed(1)  # what the model draws goes on
        x = torch.randn(self.shape("INPUT_DIM", n, size), generator=generator)
        return x.to(self.config["DEVICE"])

    def targets(self):
        """Return 0 and 1 in the shape of the outputs."""
        generator = torch.Generator().manual_seed(2)
        y = torch.rand(self.shape("OUTPUT_DIM"), generator=generator).round()
        return y.to(self.config["DEVICE"])

    def loss(self, model):
        """Return the loss of a batch."""
        return self.config["LOSS"](model(self.inputs()), self.targets())


CONFIGS = choose(test_configs, os.environ.get("TEST_WEIGHTS"))


@pytest.fixture(params=CONFIGS)
def case(request):
    return Case(CONFIGS[request.param])


@pytest.fixture
def model(case):
    return case.build()


def without_dropout(model):
    """Return the model; a feature that is dropped has no gradient."""
    for module in model.modules():
        if isinstance(module, DROPOUT):
            module.p = 0.0
    return model


def test_parameters_are_finite(model):
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


@pytest.mark.parametrize("size", [None, *SIZES], ids=str)
def test_outputs_have_their_shape_for_any_size(case, model, size):
    for n in (None, 1, 3):
        output = model(case.inputs(n, size))
        assert output.shape == case.shape("OUTPUT_DIM", n, size)
        assert torch.isfinite(output).all()


def test_every_parameter_gets_a_gradient_and_a_step(case, model):
    optimizer = case.config["OPTIMIZER"](model.parameters(), **case.config["OPTIMIZER_CONFIG"])
    before = copy.deepcopy(model.state_dict())
    case.loss(without_dropout(model)).backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name
        assert not torch.equal(parameter, before[name]), name


def test_a_step_of_the_optimizer_lowers_the_loss(case, model):
    without_dropout(model)
    optimizer = case.config["OPTIMIZER"](model.parameters(), **case.config["OPTIMIZER_CONFIG"])
    before = case.loss(model)
    before.backward()
    optimizer.step()
    assert case.loss(model) < before


def test_a_weights_file_gives_the_same_output(case, model, tmp_path):
    model(case.inputs())  # moves the running statistics: they must travel, too
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1
    save_weights(tmp_path / "weights.pth", model.state_dict(), {})
    other = case.build()
    assert not torch.equal(other.eval()(case.inputs()), model.eval()(case.inputs()))
    other.load_state_dict(load_weights(tmp_path / "weights.pth")["model"])
    assert torch.equal(other(case.inputs()), model(case.inputs()))


def test_copies_give_the_same_output(case, model):
    model.eval()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(case.inputs()), model(case.inputs()))


def test_in_eval_mode_nothing_draws_and_nothing_changes(case, model):
    before = copy.deepcopy(model.eval().state_dict())
    first = model(case.inputs())
    assert torch.equal(model(case.inputs()), first)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_in_eval_mode_samples_do_not_see_each_other(case, model):
    batch = case.inputs(3)
    alone = torch.cat([model.eval()(sample) for sample in batch.split(1)])
    assert torch.allclose(model(batch), alone, rtol=1e-4, atol=1e-5)


def test_train_mode_comes_back(case, model):
    model.eval()(case.inputs())
    outputs = [model.train()(case.inputs()) for _ in range(2)]
    assert all(module.training for module in model.modules())
    if any(isinstance(module, DROPOUT) and module.p > 0 for module in model.modules()):
        assert not torch.equal(*outputs)
