"""The table of the zoo: a line tells a network that fails, and a page takes the table whole."""

import pytest
import torch
from torch import nn

from benchmarks import zoo
from models.zoo import classifier

pytest.importorskip("torchvision")


@pytest.fixture(autouse=True)
def keep_threads():
    """Give torch its threads back."""
    former = torch.get_num_threads()
    yield
    torch.set_num_threads(former)


@pytest.fixture
def path(tmp_path):
    torch.manual_seed(0)
    torch.save(classifier("mobilenet_v3_small", 1000).state_dict(), tmp_path / "w.pth")
    return tmp_path / "w.pth"


def test_weights_that_do_not_suit_other_channels_are_found(path, monkeypatch):
    model = classifier("mobilenet_v3_small", 1000, weights=path).eval()
    assert zoo.takes_channels("mobilenet_v3_small", 12, path, model)
    monkeypatch.setattr("models.zoo.spread_channels", lambda w, n: w.repeat(1, n // 3, 1, 1))
    assert not zoo.takes_channels("mobilenet_v3_small", 12, path, model)


def test_a_network_that_does_not_learn_or_starts_anew_is_found(path, monkeypatch):
    assert zoo.takes_classes("mobilenet_v3_small", path)
    freeze = nn.Module.requires_grad_

    def frozen(name, n, weights):
        model = classifier(name, n, weights=weights)
        freeze(model.features[0][0], False)
        return model

    monkeypatch.setattr(zoo, "classifier", frozen)
    assert not zoo.takes_classes("mobilenet_v3_small", path)
    monkeypatch.setattr(zoo, "classifier", lambda name, n, weights: classifier(name, n))
    assert not zoo.takes_classes("mobilenet_v3_small", path)


def test_times_are_those_of_the_passes_themselves(monkeypatch):
    clock = iter(range(0, 100))
    monkeypatch.setattr(zoo.time, "process_time", lambda: next(clock))
    pairs = zoo.time_pairs(nn.Flatten(), nn.Flatten(), 3)
    assert pairs == [(1, 1)] * 3


def test_a_table_stands_between_the_marks(tmp_path):
    page = tmp_path / "page.rst"
    row = zoo.Row("resnet18", 11_689_512, 512, (1, 3), False, 54.6, 1.004)
    table = zoo.format_table([row])
    page.write_text(f"before\n{zoo.BEGIN}old\n{zoo.END}after\n")
    for _ in range(2):
        zoo.write_table(page, table)
        text = page.read_text()
        assert text == f"before\n{zoo.BEGIN}\n{table}\n{zoo.END}after\n"
    line = "\n     - ".join(["   * - ``resnet18``", "11.7", "512", "1, 3", "no", "55", "1.00"])
    assert f"\n{line}\n" in table and "old" not in text
    page.write_text("no marks")
    with pytest.raises(ValueError, match="page.rst: expected .*begin of the table.* once each"):
        zoo.write_table(page, table)


def test_some_lines_are_printed_and_not_written(monkeypatch, capsys):
    monkeypatch.setattr(zoo, "write_table", None)  # a call would fail
    zoo.main(["--only", "mobilenet_v3_small", "--rounds", "1"])
    assert "``mobilenet_v3_small``\n     - 2.5\n     - 576\n" in capsys.readouterr().out
