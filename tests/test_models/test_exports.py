import pytest
import torch

from tests.test_models.test_suite import Case, test_configs

torch.set_num_threads(1)


SLOW = ("embedder", "segmenter")  # MobileNetV3 has many layers


@pytest.fixture(
    params=[pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in test_configs]
)
def case(request):
    return Case(test_configs[request.param])


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
def test_exports_give_the_same_output_at_any_size(case):
    """Script, trace and torch.export, at other sizes and with another batch too."""
    model, x, other = case.build().eval(), case.inputs(2, (17, 22)), case.inputs(3, (16, 19))
    auto = torch.export.Dim.AUTO
    exported = torch.export.export(model, (x,), dynamic_shapes={"x": {0: auto, 2: auto, 3: auto}})
    twins = {
        "script": torch.jit.script(model),
        "trace": torch.jit.trace(model, x),
        "export": exported.module(),
    }
    with torch.no_grad():
        for name, twin in twins.items():
            for batch in (x, other):
                assert torch.allclose(twin(batch), model(batch), atol=1e-6), name


def test_exports_with_a_dynamic_batch_and_a_fixed_size(case):
    model = case.build().eval()
    batch = {0: torch.export.Dim("n")}
    exported = torch.export.export(model, (case.inputs(2),), dynamic_shapes={"x": batch})
    x = case.inputs(5)
    assert torch.allclose(exported.module()(x), model(x), atol=1e-6)
