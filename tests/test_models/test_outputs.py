import pytest

from models.outputs import name_output, write_table


def test_names_of_outputs_stay_apart_and_below_their_folder():
    taken: set[str] = set()
    names = ["a", "a", "a_2", "b/a.png", "../../b/a", "/c.1", "..", "d\\e\0f", "x.tif", "g. "]
    found = [name_output(name, "", "", taken) for name in names]
    expected = ["a", "a_2", "a_2_2", "b/a", "b/a_2", "c.1", "sample", "d/e/f", "x", "g. "]
    assert found == expected
    assert name_output("b/a.jpg", "p_", "_s", taken) == "b/p_a_s"
    assert len(taken) == len(names) + 1


def test_a_table_has_all_columns_and_no_formulas(tmp_path):
    rows = [{"name": "=a", "value": 0.1}, {"name": "b", "=more": 1 / 3, "value": float("nan")}]
    write_table(tmp_path / "a.csv", rows)
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert lines == ["name,value,'=more", "'=a,0.1,", "b,nan,0.3333333333333333"]


@pytest.mark.parametrize("name", ["", ".", "///"])
def test_a_sample_without_a_name_gets_one(name):
    assert name_output(name, "p_", "", set()) == "p_sample"
