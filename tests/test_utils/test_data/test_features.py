"""Named features: what is read, how it is processed, and what is said of each mistake."""

import pickle
import sys
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from config.errors import ConfigError
from utils.data import ColumnFeature, DatasetFeature, FeatureDataset, FileFeature
from utils.data import features as module
from utils.data.features import channel_last, identity_mapping
from utils.data.loading import make_loader

pd = pytest.importorskip("pandas")

SYNSETS = ["n03764736", "n03243711", "n03267436", "n08545432"]
INFO = pd.DataFrame({"synset": SYNSETS, "label": [0, 1, 1, 0], "age": [1.5, 2.5, 3.5, 4.5]})


class Synset(DatasetFeature):
    name = "synset"

    def read(self, index):
        return self.info.iloc[index]["synset"]


class RgbImage(DatasetFeature):
    name = "rgb_image"

    def __init__(self, info, root=None, size_px=4):
        super().__init__(info, root)
        self.size_px = size_px

    def read(self, index):
        pixels = np.full((self.size_px, self.size_px + 1, 3), index, np.uint8)
        return Image.fromarray(pixels + np.arange(3, dtype=np.uint8))


class Noise(DatasetFeature):
    name = "noise"

    def read(self, index):
        return np.random.rand(2) + torch.rand(1).item()


class Never(Synset):
    name = "never"

    def __init__(self, info, root=None):
        raise AssertionError("made, although nobody has asked for it")


Label = partial(ColumnFeature, column="label")
Age = partial(ColumnFeature, column="age")
HERE = __name__


def make(*sampled, info=INFO, **arguments):
    return FeatureDataset(info=info, sampled_features=list(sampled), **arguments)


def batch_of(dataset, **config):
    return make_loader(dataset, {"batch_size": 4, **config}, 0, torch.device("cpu"), False).first()


# ---- what is read


def test_the_batch_of_the_readme():
    assert batch_of(make(Synset)).x == {"synset": SYNSETS}
    assert batch_of(make(Synset)).y == {"synset": SYNSETS}
    assert batch_of(make(f"{HERE}.Synset")).x == {"synset": SYNSETS}


def test_a_batch_is_a_dict_of_all_features_by_name():
    batch = batch_of(make(Synset, partial(RgbImage, size_px=6), Label, Age))
    assert list(batch.x) == ["synset", "rgb_image", "label", "age"]
    assert batch.x["synset"] == SYNSETS and batch.x["rgb_image"].shape == (4, 6, 7, 3)
    assert batch.x["label"].tolist() == [0, 1, 1, 0] and batch.x["label"].dtype == torch.int64
    assert batch.x["age"].tolist() == [1.5, 2.5, 3.5, 4.5]
    assert batch.x["age"].dtype == torch.float32  # as networks have it


def test_nothing_else_is_made_or_read(tmp_path, monkeypatch):
    for i in range(3):
        np.save(tmp_path / f"{i}.npy", np.full((2, 2), i))
    table = {"file": [f"{i}.npy" for i in range(3)], "other": ["missing.npy"] * 3}
    opened = []
    read = lambda path: (opened.append(path.name), np.load(path))[1]  # noqa: E731
    monkeypatch.setattr(module, "read_array", read)
    image = partial(FileFeature, column="file", name="image")
    dataset = make(image, info=pd.DataFrame(table), root=tmp_path)
    assert opened == []
    assert dataset[1][0]["image"].tolist() == [[1, 1], [1, 1]] and opened == ["1.npy"]
    with pytest.raises(AssertionError, match="nobody has asked"):
        make(Never)
    assert make(Synset)[0][0] == {"synset": SYNSETS[0]}


def test_a_feature_needs_a_read():
    class Nothing(DatasetFeature):
        name = "nothing"

    with pytest.raises(ConfigError, match=r"SAMPLED_FEATURES, Nothing: TypeError: .*read"):
        make(Nothing)


# ---- processing functions


def scale(rgb_image, **kwargs):
    return {"rgb_image": rgb_image / 255, **kwargs}


def add_noise(age, strength=1.0, **kwargs):
    return {"age": age + strength * np.random.rand(), **kwargs}


def as_target(label, age, **kwargs):
    return {"target": np.array([label + age]), **kwargs}


def test_functions_work_in_order_and_have_every_feature():
    dataset = make(RgbImage, Label, Age, transforms=[channel_last, scale, as_target])
    x, _ = dataset[2]
    assert list(x) == ["target", "rgb_image"] and x["target"].tolist() == [4.5]
    assert x["rgb_image"].shape == (3, 4, 5) and x["rgb_image"].dtype == torch.float32
    assert torch.allclose(x["rgb_image"][:, 0, 0] * 255, torch.tensor([2.0, 3.0, 4.0]))


def test_channel_last_takes_the_channels_from_the_end_to_the_front():
    image = np.arange(24).reshape(2, 4, 3)
    fields = channel_last(rgb_image=image, label=3)
    assert fields["label"] == 3 and np.array_equal(fields["rgb_image"][1], image[..., 1])
    assert identity_mapping(a=1, b=2) == {"a": 1, "b": 2}


@pytest.mark.parametrize("function", ["utils.data.features.channel_last", channel_last])
def test_one_function_needs_no_list(function):
    assert make(RgbImage, transforms=function)[0][0]["rgb_image"].shape == (3, 4, 5)


def test_arguments_of_a_function_are_bound_by_partial():
    x, _ = make(Age, transforms=partial(add_noise, strength=0.0))[3]
    assert x["age"] == 4.5


@pytest.mark.parametrize(
    ("inputs", "target", "x", "y"),
    [
        (None, None, ["synset", "label", "age"], ["synset", "label", "age"]),
        (None, "label", ["synset", "age"], None),
        (["age"], ["label", "synset"], ["age"], ["label", "synset"]),
        ("age", None, None, ["synset", "label", "age"]),
        (("label", "age"), "label", ["label", "age"], None),
    ],
)
def test_inputs_and_target_say_what_x_and_y_are(inputs, target, x, y):
    dataset = make(Synset, Label, Age, inputs=inputs, target=target)
    for part, names in zip(dataset[1], (x, y), strict=True):
        assert isinstance(part, torch.Tensor) if names is None else list(part) == names
    assert dataset[1][1] == 1 if y is None else dataset[1][1]["synset"] == SYNSETS[1]


# ---- what is said of mistakes


def no_kwargs(label):
    return {"label": label}


def forgets(label, **kwargs):
    return {"label": label}


def returns_none(label, **kwargs):
    kwargs["label"] = label


def looks_up(**kwargs):
    return {"old": kwargs["aeg"] > 2, **kwargs}


def returns_object(label, **kwargs):
    return {"label": object(), **kwargs}


class Wrong(DatasetFeature):
    name = "wrong"

    def read(self, index):
        return self.info.iloc[index]["snyset"]


class Nameless(DatasetFeature):
    def read(self, index):
        return 0


@pytest.mark.parametrize(
    ("sampled", "arguments", "message"),
    [
        ([Label], {"transforms": no_kwargs}, r"expected \*\*kwargs in the signature of no_kwargs"),
        ([Label], {"transforms": scale},
         r'expected "rgb_image" for scale, got label\. Sample a feature'),
        ([Label], {"transforms": as_target}, r'expected "age" for as_target, got label'),
        ([Label], {"inputs": "lable"}, r'expected "lable" for inputs, .*Did you mean "label"\?'),
        ([Label], {"target": ["label", "age"]}, r'expected "age" for target, got label'),
        ([Label], {"inputs": 3}, r"inputs: expected the name of a field, a list .* got 3\."),
        ([Label], {"target": []}, r"target: expected the name of a field, a list .* got \[\]\."),
        ([Label], {"transforms": 3}, r"transforms: expected a processing function .* got 3\."),
        ([Label], {"transforms": [dict]}, r"transforms: expected a function of features by name"),
        ([Label], {"transforms": "utils.data.features.channel_lats"}, r"channel_last\"\?"),
        ([], {}, r"SAMPLED_FEATURES: expected a list of classes derived .* got \[\]"),
        (["utils.data.features.Sinset"], {}, r'SAMPLED_FEATURES, utils.*got "Sinset"'),
        ([Nameless], {}, r"SAMPLED_FEATURES, Nameless: expected a feature with a name, got ''"),
        ([dict], {}, r"SAMPLED_FEATURES, dict: TypeError"),
        ([Synset(INFO)], {}, r"SAMPLED_FEATURES, Synset: expected a class derived"),
        ([Synset, Synset], {}, r'expected one feature of the name "synset", got another'),
        ([partial(ColumnFeature, column="agee")], {},
         r'ColumnFeature: expected one of the columns synset, label, age, got "agee".*"age"'),
        ([partial(ColumnFeature, column=["age"])], {}, "expected a feature with a name, got ''"),
        ([partial(ColumnFeature, column=["age", "synset"], name="a")], {},
         r"expected columns of numbers in a list, got text in age, synset"),
        ([partial(ColumnFeature, column=["age", "x"], name="a")], {}, r'columns .* got "x"'),
        ([Label], {"labels": "lable"}, r'labels: expected one of the columns .*"label"'),
        ([partial(RgbImage, size=3)], {}, r"RgbImage: TypeError: .*size"),
        ([partial(FileFeature, column="synset")], {}, r"expected a file, got none at n03764736"),
        ([Label], {"subset": "val"}, r"holdout: expected one with subset"),
        ([Label], {"info": 3}, r"info: expected a pandas.DataFrame, .* got 3\. The path of a file"),
        ([Label], {"info": None}, r"info: expected a table, or else its file .* got neither"),
        ([Label], {"info_file": "a.csv"}, r"info: expected a table, or else its file .* got both"),
        ([Label], {"info": None, "info_file": "a.csv"}, r"info_file a\.csv: expected a table, got"),
        ([Label], {"info": None, "info_file": "a.pkl"}, r"info_file: expected one of \.csv, "),
    ],
)  # fmt: skip
def test_mistakes_show_before_anything_is_read(sampled, arguments, message):
    with pytest.raises(ConfigError, match=message):
        make(*sampled, **arguments)


def test_all_problems_come_at_once():
    with pytest.raises(ConfigError) as found:
        make(Nameless, partial(ColumnFeature, column="x"), transforms=[no_kwargs, 3], inputs=4)
    assert len(found.value.problems) == 5


@pytest.mark.parametrize(
    ("sampled", "arguments", "message"),
    [
        ([Label, Age], {"transforms": forgets, "target": "age"},
         r'expected the field "age" for target from forgets, got label\. forgets drops it'),
        ([Label, Age], {"transforms": [forgets, add_noise]},
         r'expected the field "age" for add_noise from forgets'),
        ([Label, Age], {"transforms": [identity_mapping, scale]},
         r'expected "rgb_image" for scale, got label, age'),
        ([Label], {"transforms": identity_mapping, "target": "lable"}, r'Did you mean "label"'),
        ([Label], {"transforms": returns_none},
         r"expected a dict of all fields from returns_none, got NoneType"),
        ([Age], {"transforms": looks_up},
         r"sample 1: expected looks_up to find .* KeyError: 'aeg'"),
        ([Wrong], {}, r'sample 1: expected the feature "wrong" to find .* KeyError: \'snyset\''),
        ([Label], {"transforms": returns_object},
         r'field "label": expected numbers, an array, a tensor or text, got object'),
    ],
)  # fmt: skip
def test_mistakes_that_only_a_sample_shows_name_function_and_field(sampled, arguments, message):
    dataset = make(*sampled, **arguments)
    with pytest.raises(ValueError, match=message):
        dataset[1]


def test_columns_in_a_list_are_an_array():
    one = partial(ColumnFeature, column=["age"], name="one")
    both = partial(ColumnFeature, column=["age", "label"], name="both")
    batch = batch_of(make(one, both))
    assert batch.x["one"].tolist() == [[1.5], [2.5], [3.5], [4.5]]
    assert batch.x["both"].tolist() == [[1.5, 0], [2.5, 1], [3.5, 1], [4.5, 0]]
    assert batch.x["both"].dtype == torch.float32


@pytest.mark.parametrize("column", ["label", "synset"])
def test_labels_balance_the_classes(column):
    info = pd.concat([INFO] + [INFO.iloc[:1]] * 8, ignore_index=True)  # 9, 1, 1 and 1 of a synset
    dataset = make(Label, Synset, info=info, labels=column)
    assert len(dataset.labels) == 12
    options = {"batch_size": 12, "balanced": True}
    loader = make_loader(dataset, options, 0, torch.device("cpu"), True)
    (batch,) = loader
    values = batch.x[column] if column == "synset" else batch.x[column].tolist()
    n_each = 12 // info[column].nunique()
    assert {value: list(values).count(value) for value in values} == dict.fromkeys(values, n_each)


def test_gaps_in_a_column_are_named():
    info = pd.DataFrame({"age": [1.0, np.nan, 2.0, np.nan], "path": ["a", None, "b", "c"]})
    with pytest.raises(ConfigError, match=r'got none in "age" of row 1, 3 from 0'):
        make(Age, info=info)
    with pytest.raises(ConfigError, match=r'got none in "path" of row 1 from 0'):
        make(partial(FileFeature, column="path"), info=info)


def test_without_pandas_the_remedy_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="expected the package pandas, got none. Run `make env"):
        make(Label)


# ---- values


@pytest.mark.parametrize(
    ("value", "dtype", "shape"),
    [
        (3, torch.int64, ()),
        (np.int32(3), torch.int32, ()),
        (3.5, torch.float32, ()),
        (np.float64(3.5), torch.float32, ()),
        (np.float16(3.5), torch.float16, ()),
        (True, torch.bool, ()),
        ([1.0, 2.0], torch.float32, (2,)),
        (np.zeros((2, 3), np.uint8)[:, ::-1], torch.uint8, (2, 3)),
        (np.zeros((2, 3)).T, torch.float32, (3, 2)),
        (torch.zeros(2, dtype=torch.float64), torch.float64, (2,)),
    ],
)
def test_a_field_becomes_a_tensor(value, dtype, shape):
    class Value(DatasetFeature):
        name = "value"

        def read(self, index):
            return value

    found = make(Value)[0][0]["value"]
    assert found.dtype == dtype and found.shape == shape and found.is_contiguous()
    assert np.array_equal(found.numpy(), np.asarray(value))


def test_text_of_numpy_becomes_text_and_a_ragged_list_is_refused():
    class Text(DatasetFeature):
        name = "text"

        def read(self, index):
            return np.array(["a", "b"])[0] if index else [[1], [1, 2]]

    dataset = make(Text)
    assert type(dataset[1][0]["text"]) is str
    with pytest.raises(ValueError, match='field "text": expected numbers'):
        dataset[0]


# ---- tables


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".json", ".xlsx"])
def test_the_table_may_be_a_file(suffix, tmp_path):
    path = tmp_path / f"info{suffix}"
    write = {
        ".csv": partial(INFO.to_csv, index=False),
        ".tsv": partial(INFO.to_csv, index=False, sep="\t"),
        ".json": INFO.to_json,
        ".xlsx": partial(INFO.to_excel, index=False),
    }
    if suffix == ".xlsx":
        pytest.importorskip("openpyxl")
    write[suffix](path)
    batch = batch_of(make(Synset, Label, Age, info=None, info_file=path))
    assert batch.x["synset"] == SYNSETS and batch.x["label"].dtype == torch.int64
    assert batch.x["age"].tolist() == INFO["age"].tolist()


def test_paths_start_at_the_folder_of_the_table(tmp_path):
    (tmp_path / "images").mkdir()
    for name in "ab":
        np.save(tmp_path / "images" / f"{name}.npy", np.full((2, 3), ord(name)))
    (tmp_path / "info.csv").write_text("file,label\nimages/a.npy,0\nimages/b.npy,1\n")
    image = partial(FileFeature, column="file", name="image")
    dataset = make(image, info=None, info_file=tmp_path / "info.csv")
    assert dataset[1][0]["image"].unique().tolist() == [ord("b")]
    file = partial(FileFeature, column="file")
    info = pd.DataFrame({"file": ["a.npy"]})
    assert make(file, info=info, root=tmp_path / "images")[0][0]["file"].shape == (2, 3)


def table():
    """Ten samples with names of their own."""
    return pd.DataFrame({"label": range(10)}, index=[f"berlin/{i}" for i in range(10)])


def test_rows_are_held_out_by_share_name_or_fold():
    for split in ({"holdout": 0.3}, {"holdout": ["berlin/3", "berlin/7"]}, {"fold": (1, 5)}):
        parts = [make(Label, info=table, subset=subset, **split) for subset in ("train", "val")]
        labels = [sorted(part[i][0]["label"].item() for i in range(len(part))) for part in parts]
        assert sorted(labels[0] + labels[1]) == list(range(10)) and labels[1]
        assert parts[1].names == [f"berlin/{label}" for label in labels[1]]
    assert labels[0] != labels[1]
    assert [make(Label, info=table, subset="val", holdout=["berlin/3"])[0][0]["label"]] == [3]


def test_names_are_row_numbers_where_the_index_has_none():
    assert make(Label, subset="val", holdout=["2"]).names == ["2"]


# ---- in a loader


def read(dataset, epoch=0, **config):
    loader = make_loader(dataset, {"batch_size": 3, **config}, 0, torch.device("cpu"), True)
    loader.set_position(epoch)
    return list(loader)


def test_draws_follow_from_the_sample_whatever_the_workers():
    dataset = make(Synset, Noise, Age, transforms=add_noise)
    here, workers = read(dataset), read(dataset, num_workers=2)
    for a, b in zip(here, workers, strict=True):
        assert a.x["synset"] == b.x["synset"]
        assert torch.equal(a.x["noise"], b.x["noise"]) and torch.equal(a.x["age"], b.x["age"])
    assert not torch.equal(here[0].x["noise"], read(dataset, epoch=1)[0].x["noise"])


def test_it_can_be_pickled_for_spawned_workers():
    dataset = make(Synset, partial(RgbImage, size_px=5), Label, transforms=[channel_last, scale])
    copy = pickle.loads(pickle.dumps(dataset))
    assert str(copy[2]) == str(dataset[2]) and copy.names == dataset.names


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    dataset = make(
        partial(FileFeature, column="file"), info=pd.DataFrame({"file": ["a.png"]}), root=tmp_path
    )
    with pytest.raises(ValueError, match=r"a\.png"):
        dataset[0]
