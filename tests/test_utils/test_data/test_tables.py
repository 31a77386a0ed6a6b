"""Tables: names are told, cells become numbers or text, and what is no table is refused."""

import json
import zipfile

import numpy as np
import pytest

from utils.data.files import read_array, read_table


def as_lists(table):
    return {name: column.tolist() for name, column in table.items()}


def read(path, text, **how):
    path.write_bytes(text.encode())
    return as_lists(read_table(path, **how))


# -------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,2\n3,4\n", {"0": [1, 3], "1": [2, 4]}),
        ("a,b\n1,2\n", {"a": [1], "b": [2]}),
        ("id,2020\n7,2\n", {"id": [7], "2020": [2]}),  # one column tells
        ("1,cat\n2,dog\n", {"0": [1, 2], "1": ["cat", "dog"]}),
        ("size,kind\n1,cat\n2,dog\n", {"size": [1, 2], "kind": ["cat", "dog"]}),
        ("cat,red\ndog,blue\n", {"0": ["cat", "dog"], "1": ["red", "blue"]}),
        ("cat,1\n,2\n", {"0": ["cat", ""], "1": [1, 2]}),  # a gap is no number
        ("NA,2\n3,4\n", {"0": [None, 3], "1": [2, 4]}),
        ("\ufeffa;b, c\r\n1;2\r\n\r\n3;4\r\n", {"a": [1, 3], "b, c": [2, 4]}),
        ('"a, b", c\n1, 2\n', {"a, b": [1], "c": [2]}),
        ("a\tb\n1\t2\n", {"a": [1], "b": [2]}),
        ("# a b\n1 2\n", {"a": [1], "b": [2]}),
        ("# 19 20\n1 2\n", {"19": [1], "20": [2]}),
        ("  1   2\n 3 4 \n", {"0": [1, 3], "1": [2, 4]}),
        (",a\n0,5\n1,6\n", {"a": [5, 6]}),  # the index of pandas
        (",a\n3,5\n1,6\n", {"0": [3, 1], "a": [5, 6]}),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".txt"])
def test_names_and_marks_are_told_by_the_text(tmp_path, text, expected, suffix):
    found = read(tmp_path / f"a{suffix}", text)
    assert {
        name: [None if cell != cell else cell for cell in column] for name, column in found.items()
    } == expected


def test_tabs_alone_part_a_tsv(tmp_path):
    assert read(tmp_path / "a.tsv", "a, b\tc\n1\t2\n") == {"a, b": [1], "c": [2]}


def test_who_knows_better_says_so(tmp_path):
    assert read(tmp_path / "a.csv", "cat,red\ndog,blue\n", header=True) == {
        "cat": ["dog"],
        "red": ["blue"],
    }
    assert read(tmp_path / "a.csv", "a\n1\n", header=False) == {"0": ["a", "1"]}


def test_gaps_are_nan_in_numbers_and_empty_in_text(tmp_path):
    table = read_table(write(tmp_path / "a.csv", "a,b\n1,x\n,\nnan,y\nN/A,z\n"))
    np.testing.assert_array_equal(table["a"], [1, np.nan, np.nan, np.nan])
    assert table["b"].tolist() == ["x", "", "y", "z"]


def write(path, text):
    path.write_text(text)
    return path


def test_an_underscore_makes_text(tmp_path):
    assert read(tmp_path / "a.csv", "a\n1_0\n2_0\n") == {"0": ["a", "1_0", "2_0"]}


# ------------------------------------------------------------------------ other formats


@pytest.mark.parametrize(
    "data",
    [
        [{"a": 1, "b": "x"}, {"a": None, "b": "y"}],
        [{"a": 1, "b": "x"}, {"b": "y"}],
        {"a": [1, None], "b": ["x", "y"]},
        {"a": {"0": 1, "1": None}, "b": {"0": "x", "1": "y"}},  # pandas
        [["a", "b"], [1, "x"], [None, "y"]],
    ],
)
def test_json_tables_in_their_forms(tmp_path, data):
    table = read_table(write(tmp_path / "a.json", json.dumps(data)))
    np.testing.assert_array_equal(table["a"], [1, np.nan])
    assert table["b"].tolist() == ["x", "y"]


def test_json_numbers_without_names(tmp_path):
    assert read(tmp_path / "a.json", "[[1, 2], [3, true]]") == {"0": [1, 3], "1": [2, 1]}
    assert read(tmp_path / "a.json", "[1, 2]") == {"0": [1, 2]}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1}', "an object that is no table"),
        ('{"a": [1], "b": [1, 2]}', "columns of different lengths"),
        ("3", "one int"),
        ("[]", "no rows"),
        ("{}", "no rows"),
        ("[[1, 2], [3]]", "1 cells in row 2 and 2 in the first"),
    ],
)
def test_json_that_is_no_table(tmp_path, text, reason):
    with pytest.raises(ValueError, match=rf"a\.json: .*, got {reason}"):
        read(tmp_path / "a.json", text)


def test_a_workbook_gives_its_first_sheet_without_what_is_empty(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    workbook = openpyxl.Workbook()
    sheet = workbook.active
    for row in ([None, "a", "b", None], [0, 1, "x"], [1, None, "y"], [None, None], [2, True, 3]):
        sheet.append(row)
    sheet["Z40"] = None
    workbook.create_sheet("other").append([1, 2, 3])
    workbook.save(tmp_path / "a.xlsx")
    table = read_table(tmp_path / "a.xlsx")
    assert list(table) == ["a", "b"]  # the first column counts the rows
    np.testing.assert_array_equal(table["a"], [1, np.nan, 1])
    assert table["b"].tolist() == ["x", "y", "3"]


def test_a_workbook_that_misstates_its_size_is_read_whole(tmp_path):
    workbook = pytest.importorskip("openpyxl").Workbook()
    for row in ([1, 2, 3], [4, 5, 6]):
        workbook.active.append(row)
    workbook.save(tmp_path / "a.xlsx")
    with (
        zipfile.ZipFile(tmp_path / "a.xlsx") as old,
        zipfile.ZipFile(tmp_path / "b.xlsx", "w") as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name).replace(b'ref="A1:C2"', b'ref="A1"'))
    assert read_array(tmp_path / "b.xlsx").tolist() == [[1, 2, 3], [4, 5, 6]]


def test_pandas_writes_what_is_read(tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("openpyxl")
    frame = pandas.DataFrame({"a": [1.5, None, 3], "b": ["x", "y", "z"]})
    frame.to_csv(tmp_path / "a.csv")
    frame.to_csv(tmp_path / "b.csv", index=False)
    frame.to_excel(tmp_path / "c.xlsx")
    frame.to_json(tmp_path / "d.json")
    frame.to_json(tmp_path / "e.json", orient="records")
    for path in sorted(tmp_path.iterdir()):
        table = read_table(path)
        assert list(table) == ["a", "b"], path
        np.testing.assert_array_equal(table["a"], frame["a"])
        assert table["b"].tolist() == ["x", "y", "z"]


# ---------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no rows"),
        ("a,b\n1,2\n3\n", "1 cells in row 3 and 2 in the first"),
        ("a,a\n1,2\n", 'two columns of the name "a"'),
        ('a,b\n1,"2\n', "unexpected end of data"),
        ("# a,b\n", "no rows below the names"),
    ],
)
def test_what_is_no_table_is_said(tmp_path, text, reason):
    with pytest.raises(ValueError, match=rf"a\.csv: expected a readable \.csv file, got {reason}"):
        read(tmp_path / "a.csv", text)


def test_other_encodings_are_named(tmp_path):
    (tmp_path / "a.csv").write_bytes("gr\u00f6\u00dfe\n1\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"a\.csv: .* 'utf-8' codec"):
        read_table(tmp_path / "a.csv")


def test_a_table_as_one_sample_is_rows_and_columns(tmp_path):
    path = write(tmp_path / "a.csv", "t,v\n0,1.5\n1,2.5\n2,3.5\n")
    assert read_array(path).tolist() == [[0, 1.5], [1, 2.5], [2, 3.5]]
    write(path, "t,kind\n0,a\n1,b\n")
    with pytest.raises(ValueError, match=r'a\.csv: .* text in column "kind", "a" in its row 1'):
        read_array(path)
