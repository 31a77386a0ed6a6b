import pytest

from config.errors import ConfigError
from tests.test_utils.test_runs.common import ANCESTOR, folders, make_run
from utils.runs.best import Ranking, find_best, find_ranking


@pytest.fixture
def places(tmp_path):
    make_run(tmp_path, "1_a", (0.75, 0.5))
    make_run(tmp_path, "2_b", (0.25,))
    make_run(tmp_path, "3_c", (), "failed")
    return folders(tmp_path)


def names(places, ranking, **question):
    return [row["RUN"] for row in find_best(places, ranking, **question).rows]


@pytest.mark.parametrize(
    ("by", "mode", "ranking"),
    [
        (None, None, Ranking("best_val_f1", "max")),  # MONITOR, and its mode
        ("val_f1", None, Ranking("best_val_f1", "max")),
        ("f1", None, Ranking("best_val_f1", "max")),
        ("val_f1", "min", Ranking("best_val_f1", "min")),
        ("train_loss", None, Ranking("best_train_loss", "min")),
        ("lr", "max", Ranking("OPTIMIZER_CONFIG.lr", "max")),
    ],
)
def test_what_runs_are_ranked_by(places, by, mode, ranking):
    assert find_ranking(places, by, mode) == ranking


def test_a_value_that_may_be_good_either_way(places):
    with pytest.raises(ConfigError, match="whether a high SECONDS is good. Add one."):
        find_ranking(places, "SECONDS")
    with pytest.raises(ConfigError, match='Did you mean "SECONDS"'):
        find_ranking(places, "SECOND", "min")


def test_without_a_run_there_is_nothing_to_rank(tmp_path):
    with pytest.raises(ConfigError, match="experiments.csv: expected a run, got none. Train first"):
        find_ranking(folders(tmp_path))


def test_the_best_comes_first_and_runs_without_a_value_not_at_all(places):
    assert names(places, Ranking("best_val_f1", "max"), n_best=5) == ["1_a", "2_b"]
    assert names(places, Ranking("best_val_f1", "min"), n_best=5) == ["2_b", "1_a"]
    assert names(places, Ranking("best_val_f1", "max")) == ["1_a"]
    assert names(places, Ranking("best_val_f1", "max"), where=["f1<0.5"]) == ["2_b"]
    assert names(places, Ranking("best_val_f1", "max"), where=["STATUS=failed"]) == []


def test_the_best_of_the_ancestors_runs(tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "experiments.csv").write_text(ANCESTOR)
    ranking = find_ranking(folders(tmp_path))
    assert ranking == Ranking("VAL_LOSS", "min")
    assert names(folders(tmp_path), ranking) == ["20200102-000000_second"]
