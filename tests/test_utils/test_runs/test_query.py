import pytest

from config.errors import ConfigError
from utils.runs.query import (
    Condition,
    find_column,
    read_conditions,
    read_number,
    shorten_column,
    sort_key,
)

COLUMNS = [
    "RUN",
    "LR",
    "OPTIMIZER_CONFIG.lr",
    "MODEL",
    "MODEL_CONFIG.ch_in",
    "LOSS_CONFIG.alpha",
    "SCHEDULER_CONFIG.alpha",
    "METRICS.f1",
    "val_f1",
    "best_val_f1",
    "test_iou",
]


@pytest.mark.parametrize(
    ("text", "field", "holds"),
    [
        ("LR<1e-3", "0.0009", True),
        ("LR<1e-3", "0.001", False),
        ("LR<=1e-3", "0.001", True),
        ("LR = 1e-3", "0.001", True),
        ("LR==0.0010", "1e-3", True),
        ("LR!=1e-3", "0.001", False),
        ("LR>9", "10", True),  # as text "10" is the smaller one
        ("LR>=10", "9", False),
        ("LR<1", "", False),
        ("LR>-1", "", False),
        ("LR!=1", "", True),
        ("LR=", "", True),
        ("LR!=", "3", True),
        ("MODEL=models.UNET", "models.UNET", True),
        ("MODEL=UNET", "models.UNET", False),
        ("MODEL~unet", "models.UNET", True),
        ("MODEL~conv", "models.UNET", False),
        ("MODEL~", "anything", True),
        ("RUN>20260102", "20260103-000000_a", True),
        ("RUN>20260102", "20260101-000000_a", False),
        ("LR<inf", "nan", False),
        ("MODEL=a=b", "a=b", True),
    ],
)
def test_a_condition_holds(text, field, holds):
    (condition,) = read_conditions([text], COLUMNS)
    assert condition.holds(field) is holds


def test_names_in_conditions_are_found():
    found = read_conditions(["lr<1", "f1>0.5", "ch_in=1"], COLUMNS)
    assert found == [
        Condition("OPTIMIZER_CONFIG.lr", "<", "1"),
        Condition("best_val_f1", ">", "0.5"),
        Condition("MODEL_CONFIG.ch_in", "=", "1"),
    ]


def test_all_problems_of_conditions_come_at_once():
    with pytest.raises(ConfigError) as caught:
        read_conditions(["lr", "alpha=1", "modle=a", "LR<1"], COLUMNS)
    no_condition, several, unknown = caught.value.problems
    assert no_condition.startswith('--where: expected COLUMN<VALUE (or <= > >= = != ~), got "lr".')
    assert several.startswith(
        '--where: expected one column, got "alpha", which is short for LOSS_CONFIG.alpha,'
        " SCHEDULER_CONFIG.alpha. Write it in full."
    )
    assert 'expected a column of the table, got "modle". Did you mean "MODEL"?' in unknown


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("LR", "LR"),
        ("lr", "OPTIMIZER_CONFIG.lr"),
        ("val_f1", "val_f1"),
        ("f1", "best_val_f1"),
        ("iou", "test_iou"),
        ("model", "MODEL"),
        ("CH_IN", "MODEL_CONFIG.ch_in"),
        ("LOSS_CONFIG.alpha", "LOSS_CONFIG.alpha"),
    ],
)
def test_a_column_is_found_by_a_short_name(name, column):
    assert find_column(name, COLUMNS, "--sort") == column


def test_a_misspelt_end_of_a_column_is_understood():
    with pytest.raises(ConfigError, match='got "ch_inn". Did you mean "ch_in"'):
        find_column("ch_inn", COLUMNS, "--sort")


@pytest.mark.parametrize("column", COLUMNS)
def test_a_shortened_column_is_found_again(column):
    assert find_column(shorten_column(column, COLUMNS), COLUMNS, "") == column


def test_columns_are_shortened_where_no_other_ends_so():
    short = {name: shorten_column(name, COLUMNS) for name in COLUMNS}
    assert short["OPTIMIZER_CONFIG.lr"] == "lr"
    assert short["LOSS_CONFIG.alpha"] == "LOSS_CONFIG.alpha"
    assert short["METRICS.f1"] == "METRICS.f1"  # f1 is the value


def test_fields_are_sorted_as_nothing_text_and_numbers():
    fields = ["10", "9", "b", "", "-inf", "a", "nan", "1e-3"]
    assert sorted(fields, key=sort_key) == ["", "nan", "a", "b", "-inf", "1e-3", "9", "10"]


@pytest.mark.parametrize(
    ("field", "number"),
    [("1", 1.0), ("-2.5e-3", -0.0025), ("inf", float("inf")), ("1_000", None), ("nan", None)],
)
def test_a_number_is_read(field, number):
    assert read_number(field) == number
