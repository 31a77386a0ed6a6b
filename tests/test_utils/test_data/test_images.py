"""Pictures with labels: a folder for each class, a table, identities."""

import logging
import pickle
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import utils.data
from config.errors import ConfigError
from utils.data import ClassFolder, IdentityFolder, ImageTable, Preprocess, images
from utils.data.files import read_array
from utils.data.loading import make_loader


def draw(path, size=(8, 6), channels=3, seed=None):
    """Write a picture; the same for the same name."""
    seed = sum(map(ord, path.name)) if seed is None else seed
    shape = size if channels == 1 else (*size, channels)
    values = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


@pytest.fixture
def root(tmp_path):
    """Three classes: ant 1 2, bee 1 deep/2 3, cat 1 2."""
    for name in ("ant/1", "ant/2", "bee/1", "bee/deep/2", "bee/3", "cat/1", "cat/2"):
        draw(tmp_path / "pictures" / f"{name}.png")
    return tmp_path / "pictures"


def load(dataset, train=False, **config):
    """Return the batches of one epoch, as a run gets them."""
    loader = make_loader(dataset, {"batch_size": 3, **config}, 0, torch.device("cpu"), train)
    return list(loader)


def same(batches, others):
    return all(
        torch.equal(batch.x, other.x) and torch.equal(batch.y, other.y)
        for batch, other in zip(batches, others, strict=True)
    )


def problems_of(make, *arguments, **options):
    with pytest.raises(ConfigError) as caught:
        make(*arguments, **options)
    return caught.value.problems


def only_problem(make, *arguments, **options):
    (problem,) = problems_of(make, *arguments, **options)
    return problem


# ----------------------------------------------------------------------- a folder for each class


def test_a_folder_is_a_class(root):
    (root / "notes.txt").write_text("what this is")
    (root / ".hidden").mkdir()
    dataset = ClassFolder(root)
    assert dataset.classes == ["ant", "bee", "cat"] and len(dataset) == 7
    assert dataset.names == ["ant/1", "ant/2", "bee/1", "bee/3", "bee/deep/2", "cat/1", "cat/2"]
    assert dataset.labels == [0, 0, 1, 1, 1, 2, 2] == [int(y) for _, y in dataset]
    for file, (x, y) in zip(dataset.files, dataset, strict=True):
        assert torch.equal(x, torch.tensor(read_array(file)).permute(2, 0, 1).float())
        assert y.dtype == torch.int64 and y.shape == ()
    (batch, *_) = load(dataset)
    assert batch.x.shape == (3, 3, 8, 6) and batch.y.tolist() == [0, 0, 1]


def test_training_and_prediction_see_the_same_tensor(root):
    config = {"scale": 1 / 255, "short_side": 5, "crop": [4, 5], "mean": 0.5, "std": [1, 2, 3]}
    dataset = ClassFolder(root, preprocess=config)
    for file, (x, _) in zip(dataset.files, dataset, strict=True):
        assert torch.equal(x, Preprocess(config)(read_array(file)))


def test_two_classes_may_be_binary(root):
    shutil.rmtree(root / "bee")
    dataset = ClassFolder(root, task="binary")
    assert dataset.classes == ["ant", "cat"] and dataset.labels == [0, 0, 1, 1]
    assert dataset[2][1].tolist() == [1.0] and dataset[2][1].dtype == torch.float32
    (root / "bee").mkdir()
    draw(root / "bee" / "1.png")
    assert "two classes for binary, got ant, bee, cat." in only_problem(
        ClassFolder, root, task="binary"
    )


def test_classes_may_have_an_order_of_their_own(root, caplog):
    dataset = ClassFolder(root, classes=["cat", "dog", "bee", "ant"])
    assert dataset.labels == [3, 3, 2, 2, 2, 0, 0]
    assert f"{root}: there are no pictures of dog" in caplog.text
    problem = only_problem(ClassFolder, root, classes=["ant", "cat"])
    assert problem.startswith(
        f"{root}: expected one of the classes ant, cat, got bee (bee/1). What training has not seen"
    )


@pytest.mark.parametrize(
    ("options", "val"),
    [
        ({"holdout": ["ant/1", "bee/*"]}, None),
        ({"holdout": ["ant/1", "cat/2"]}, ["ant/1", "cat/2"]),
        ({"fold": (0, 3)}, "a third"),
    ],
)
def test_one_folder_is_split(root, options, val):
    if val is None:  # no bee is left to be trained
        problem = only_problem(ClassFolder, root, subset="train", **options)
        assert "on the side of training, got none of bee: all of them are held out" in problem
        return
    parts = [ClassFolder(root, subset=subset, **options) for subset in ("train", "val")]
    names = [name for part in parts for name in part.names]
    assert sorted(names) == ClassFolder(root).names and all(
        part.classes == ["ant", "bee", "cat"] for part in parts
    )
    assert val == "a third" or parts[1].names == val


def test_identities_of_the_training_are_numbered_first(root):
    options = {"task": "embedding", "holdout": ["ant/*", "cat/*"]}
    train, val = (ClassFolder(root, subset=subset, **options) for subset in ("train", "val"))
    assert train.classes == ["bee"] and set(train.labels) == {0}
    assert val.classes == ["bee", "ant", "cat"] and sorted(set(val.labels)) == [1, 2]
    assert [val.classes[label] for label in val.labels] == [n.split("/")[0] for n in val.names]


def test_what_is_wrong_with_folders_is_told_at_once(root):
    (root / "empty").mkdir()
    draw(root / "alone.png")
    found = problems_of(
        ClassFolder, root, task="multi", subset="trian", preprocess={"scal": 1}, repeat=0, cache=3
    )
    text = "\n".join(found)
    for part in (
        "task: expected one of multiclass, binary, embedding, got 'multi'. Did you mean",
        "subset: expected one of all, train, val, got 'trian'.",
        f"{root}: expected each picture in the folder of its class, got alone.png beside",
        f"{root}: expected pictures in the folder of each class, got none in empty. Fill",
        'Did you mean "scale"?',
        "repeat: expected a count from 1, got 0.",
        'cache: expected False, True or "disk", got 3.',
    ):
        assert part in text
    assert len(found) == 7


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ([], "expected a folder, got none"),
        (["train/ant", "val/ant"], "expected a folder for each class, got train, val. These are"),
        (["images/ant", "images/bee"], "pictures of several classes, got images alone. Name the"),
    ],
)
def test_a_folder_above_or_nowhere_is_pointed_out(tmp_path, folders, message):
    for folder in folders:
        draw(tmp_path / "data" / folder / "1.png")
    assert message in only_problem(ClassFolder, tmp_path / "data")


# ------------------------------------------------------------------------- sizes and channels


def test_sizes_that_differ_need_a_common_one(root):
    draw(root / "cat" / "2.png", size=(8, 7))
    problem = only_problem(ClassFolder, root)
    assert problem.startswith(
        "expected pictures of one size and equal channels, got 8 x 6 and 3 channels in 6 files, "
        f"but 8 x 7 and 3 channels in {root}/cat/2.png. Make them equal by PREPROCESS:"
    )
    assert "8 x 7" in only_problem(ClassFolder, root, transform="hard")
    assert len(problems_of(ClassFolder, root, preprocess={"short_side": 6})) == 1
    for config in ({"size": [4, 4]}, {"crop": [8, 6]}, {"short_side": 6, "crop": [6, 6]}):
        for transform in (None, "hard"):
            batches = load(ClassFolder(root, preprocess=config, transform=transform))
            assert len({batch.x.shape[2:] for batch in batches}) == 1


def test_a_transform_that_cuts_sees_the_whole_picture(root):
    v2 = pytest.importorskip("torchvision.transforms.v2")
    draw(root / "cat" / "2.png", size=(20, 30))
    seen = []

    def look(x, y):
        seen.append(tuple(x.shape[1:]))
        return x, y

    config = {"short_side": 5, "crop": [5, 5]}
    whole = ClassFolder(root, preprocess=config, transform=[look, v2.RandomResizedCrop(7)])
    assert whole[6][0].shape == (3, 7, 7) and seen == [(20, 30)]
    small = ClassFolder(root, preprocess=config, transform=[look])
    assert small[6][0].shape == (3, 5, 5) and seen[1:] == [(5, 7)]


def test_pictures_smaller_than_the_crop_are_named(root):
    draw(root / "cat" / "2.png", size=(5, 30))
    problem = only_problem(ClassFolder, root, preprocess={"crop": [6, 6]})
    assert problem.startswith('PREPROCESS["crop"]: expected pictures of at least 6 x 6, got')
    assert f"{root}/cat/2.png" in problem
    assert ClassFolder(root, preprocess={"short_side": 6, "crop": [6, 6]})[6][0].shape == (3, 6, 6)


def test_gray_among_colour_names_the_key(root):
    draw(root / "ant" / "2.png", channels=1)
    problem = only_problem(ClassFolder, root)
    assert f"but 8 x 6 and 1 channel in {root}/ant/2.png" in problem
    assert '"channels" is "gray" or "rgb"' in problem
    for channels, number in (("gray", 1), ("rgb", 3)):
        assert load(ClassFolder(root, preprocess={"channels": channels}))[0].x.shape[1] == number
    problem = only_problem(ClassFolder, root, preprocess={"channels": "gray", "mean": [1, 2, 3]})
    assert '"mean"' in problem and "got 3" in problem


def test_a_damaged_header_is_named_before_training(root):
    (root / "ant" / "2.png").write_bytes(b"no picture")
    assert f"{root}/ant/2.png: expected a readable .png file" in only_problem(ClassFolder, root)


def test_of_many_files_a_few_headers_are_read_and_the_rest_is_found_when_read(root, monkeypatch):
    draw(root / "ant" / "2.png", size=(8, 7))
    draw(root / "bee" / "3.png", channels=1)
    monkeypatch.setattr(images, "NUM_HEADERS", 3)  # of 7 files the first, the fourth, the seventh
    with pytest.raises(ConfigError, match=r"but 8 x 6 and 1 channel in .*bee/3\.png"):
        ClassFolder(root)
    draw(root / "bee" / "3.png")
    dataset = ClassFolder(root)
    with pytest.raises(ValueError, match=r"ant/2\.png: expected a picture of 8 x 6 and 3 channels"):
        dataset[1]
    with pytest.raises(ConfigError, match=r"8 x 7 .* in .*ant/2\.png"):
        ClassFolder(root, cache=True)


# --------------------------------------------------------------------------- the same everywhere


@pytest.mark.parametrize("transform", [None, "medium"])
def test_caches_and_workers_give_the_same_bits(root, tmp_path, transform):
    options = {"preprocess": {"scale": 1 / 255, "mean": 0.5}, "transform": transform, "repeat": 2}
    expected = load(ClassFolder(root, **options), train=True)
    assert sum(len(batch.y) for batch in expected) == 14
    for cache in (False, True, "disk", "disk"):
        dataset = ClassFolder(root, cache=cache, cache_dir=tmp_path / "cache", **options)
        assert dataset.labels == [0, 0, 1, 1, 1, 2, 2] * 2
        assert same(load(dataset, train=True), expected)
        assert same(load(dataset, train=True, num_workers=2), expected)
    assert len(list((tmp_path / "cache").glob("*.bin"))) == 1


def test_spawned_workers_give_the_same_bits(root, tmp_path):
    parts = [
        ClassFolder(root, transform="light", cache=cache, cache_dir=tmp_path)
        for cache in (False, True, "disk")
    ]
    both = torch.utils.data.ConcatDataset(parts)  # to start one worker alone, which takes seconds
    spawned = load(both, train=True, num_workers=1, multiprocessing_context="spawn")
    assert same(spawned, load(both, train=True))


def test_a_copy_of_a_dataset_reads_the_same(root, tmp_path):
    for cache in (False, True, "disk"):
        dataset = ClassFolder(root, cache=cache, cache_dir=tmp_path)
        copy = pickle.loads(pickle.dumps(dataset))
        assert torch.equal(copy[3][0], dataset[3][0]) and copy.names == dataset.names


def test_a_cache_beside_the_pictures_is_no_class(root):
    ClassFolder(root, cache="disk")
    assert (root / ".cache").is_dir() and ClassFolder(root).classes == ["ant", "bee", "cat"]


def test_one_cache_serves_both_subsets(root, tmp_path):
    for subset in ("train", "val"):
        dataset = ClassFolder(
            root, subset=subset, holdout=["ant/1"], cache="disk", cache_dir=tmp_path / "cache"
        )
        assert torch.equal(
            dataset[0][0],
            torch.tensor(read_array(dataset.files[0])).permute(2, 0, 1).float(),
        )
    assert len(list((tmp_path / "cache").glob("*.bin"))) == 1


def test_a_transform_in_place_leaves_the_target_alone(root):
    def count(x, y):
        y += 1
        return x, y

    dataset = ClassFolder(root, transform=count)
    assert [int(dataset[0][1]) for _ in range(3)] == [1, 1, 1]


# --------------------------------------------------------------------------------------- tables


@pytest.fixture
def table(tmp_path):
    """A function that writes train_dataset/images/{train,test}/<n>.jpg and a table of rows."""
    for part, n in (("train", 6), ("test", 4)):
        for i in range(n):
            draw(tmp_path / "train_dataset" / "images" / part / f"{i}.jpg", seed=i + n)

    def write(text, place="train_dataset/train_metadata.csv"):
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write


def rows(labels, header="image_path,label", prefix=""):
    return "\n".join([header, *(f"{prefix}{i}.jpg,{label}" for i, label in enumerate(labels)), ""])


@pytest.mark.parametrize("place", ["train_dataset/", "", "train_dataset/images/"])
@pytest.mark.parametrize("prefix", ["", "train/", "images/train/", "train_dataset/images/train/"])
def test_a_table_inside_or_beside_finds_its_pictures(table, tmp_path, place, prefix):
    path = table(rows([0, 1, 2, 0, 1, 2], prefix=prefix), f"{place}train_metadata.csv")
    if prefix.startswith("train_dataset") and place:
        assert "expected its pictures below" in only_problem(ImageTable, path)
        return
    if prefix.startswith("images") and place == "train_dataset/images/":
        assert "Name the folder where these paths start: folder=..." in only_problem(
            ImageTable, path
        )
        path_options = {"folder": tmp_path / "train_dataset"}
    else:
        path_options = {}
    dataset = ImageTable(path, **path_options)
    assert [file.parent.name for file in dataset.files] == ["train"] * 6
    assert [int(y) for _, y in dataset] == dataset.labels == [0, 1, 2, 0, 1, 2]
    assert dataset.classes == ["0", "1", "2"]
    x = torch.tensor(read_array(tmp_path / "train_dataset/images/train/4.jpg"))
    assert torch.equal(dataset[4][0], x.permute(2, 0, 1).float())


def test_the_name_of_a_table_tells_train_from_test(table):
    path = table(rows([0, 1, 1, 0]), "train_dataset/test_metadata.csv")
    assert [file.parent.name for file in ImageTable(path).files] == ["test"] * 4
    path = table(rows([0, 1, 1, 0]), "train_dataset/labels.csv")
    problem = only_problem(ImageTable, path)
    assert "in one folder, got files of these names in" in problem and "folder=..." in problem
    folder = path.parent / "images" / "test"
    assert ImageTable(path, folder=folder).files[0].parent == folder


def test_a_folder_beside_is_told_by_its_name_too(tmp_path):
    for part in ("train", "test"):
        for i in range(2):
            draw(tmp_path / f"{part}_set" / "images" / f"{i}.png", seed=i)
        (tmp_path / f"{part}.csv").write_text("image_path,label\n0.png,a\n1.png,b\n")
        dataset = ImageTable(tmp_path / f"{part}.csv")
        assert {file.parent for file in dataset.files} == {tmp_path / f"{part}_set" / "images"}


def test_labels_may_be_names(table):
    path = table(rows(["dog", "cat", "dog", "cat", "dog", "dog"]))
    dataset = ImageTable(path)
    assert dataset.classes == ["cat", "dog"] and dataset.labels == [1, 0, 1, 0, 1, 1]
    assert dataset.names == ["0", "1", "2", "3", "4", "5"]
    assert ImageTable(path, classes=["dog", "cat"]).labels == [0, 1, 0, 1, 0, 0]
    assert ImageTable(path, task="binary")[0][1].tolist() == [1.0]
    problem = only_problem(ImageTable, path, classes=["cat", "bird"])
    assert "expected one of the classes cat, bird, got dog (0)." in problem


def test_numbers_of_classes_mean_their_place_among_the_classes(table):
    path = table(rows([2, 0, 2, 0, 0, 2]))
    dataset = ImageTable(path, classes=["a", "b", "c"])
    assert dataset.labels == [2, 0, 2, 0, 0, 2] and dataset.classes == ["a", "b", "c"]
    assert "got none of 1. Number the classes without gaps" in only_problem(ImageTable, path)
    problem = only_problem(ImageTable, path, classes=["a", "b"])
    assert "expected one of the classes 0, 1, got 2 (0)." in problem
    path = table(rows([0, 1, 0, 1, 0.5, 2]))
    assert "whole numbers from 0 for multiclass, got 0.5 (4)." in only_problem(ImageTable, path)
    path = table(rows([0, 1, 0, 1, 1, 1]))
    assert ImageTable(path, task="binary", classes=["dog"])[1][1].tolist() == [1.0]
    assert ImageTable(table(rows([0] * 6)), task="binary").classes == ["0", "1"]


def test_identities_of_any_number(table):
    dataset = ImageTable(table(rows([900, 7, 900, 31, 7, 900])), task="embedding")
    assert dataset.classes == ["7", "31", "900"] and dataset.labels == [2, 0, 2, 1, 0, 2]


MULTILABEL = "image_path,class_0,class_1,class_2,author"


def test_a_column_for_each_label(table):
    labels = ["1.0,0.0,1.0,ann", "0,0,0,bob", "1,1,0,", "0,1,0,ann", "0,0,1,ann", "1,1,1,ann"]
    dataset = ImageTable(table(rows(labels, MULTILABEL)), task="multilabel")
    assert dataset.classes == ["class_0", "class_1", "class_2"] and dataset.labels is None
    assert dataset[0][1].tolist() == [1, 0, 1] and dataset[5][1].dtype == torch.float32
    some = ImageTable(dataset_path(dataset), task="multilabel", classes=["class_2", "class_0"])
    assert some.classes == ["class_2", "class_0"] and some[3][1].tolist() == [0, 0]
    some = ImageTable(dataset_path(dataset), task="multilabel", label_columns=["class_1"])
    assert some.classes == ["class_1"] and some[3][1].tolist() == [1]
    options = {"task": "multilabel", "classes": ["class_3"]}
    problem = only_problem(ImageTable, dataset_path(dataset), **options)
    assert 'expected a column "class_3", got image_path, class_0' in problem


def dataset_path(dataset):
    return dataset.files[0].parents[2] / "train_metadata.csv"


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("7", 'expected 0 and 1 for multilabel, got 7 in the column "class_1" (2).'),
        ("x", 'expected numbers in the column "class_1", got "x" in row 3 (2.jpg).'),
        ("", 'expected a value in each cell, got none in "class_1" of row 3 (2.jpg).'),
        ("nan", 'expected a value in each cell, got none in "class_1" of row 3 (2.jpg).'),
    ],
)
def test_a_wrong_label_names_its_row(table, cell, message):
    labels = ["1,0,1,a", "0,0,0,a", f"1,{cell},0,a", "0,1,0,a", "0,0,1,a", "1,1,1,a"]
    path = table(rows(labels, MULTILABEL))
    assert message in only_problem(ImageTable, path, task="multilabel")


def test_numbers_for_a_regression(table):
    path = table(rows([f"{i / 2},{-i}" for i in range(6)], "image_path,width,height"))
    dataset = ImageTable(path, task="regression")
    assert dataset[3][1].tolist() == [1.5, -3.0] and dataset.classes == ["width", "height"]
    one = ImageTable(path, task="regression", label_columns="height")
    assert one[3][1].tolist() == [-3.0]


def test_other_columns_and_formats(table, tmp_path):
    text = rows(["a,0", "b,1", "c,0", "d,1", "e,0", "f,1"], "file,who,kind")
    path = table(text.replace(",", ";"), "train_dataset/train.csv")
    problem = only_problem(ImageTable, path, path_column="file")
    assert 'expected a column "label" or a single one beside "file", got who, kind.' in problem
    dataset = ImageTable(path, path_column="file", label_columns="kind")
    assert dataset.labels == [0, 1, 0, 1, 0, 1]
    assert 'expected a column "image_path", got file, who, kind.' in only_problem(ImageTable, path)
    path = table("image_path,label\n1,0\n2,1\n", "numbers.csv")
    assert "Write them with suffix, such as 1.jpg." in only_problem(ImageTable, path)
    assert "expected a column" not in only_problem(ImageTable, tmp_path / "none.csv")


def test_what_is_wrong_with_a_table_is_told_at_once(table):
    labels = ["cat", "dog", "", "cat", "dgo"]
    path = table(rows(labels) + "0.jpg,cat\n9.jpg,dog\n,cat\n")
    found = problems_of(ImageTable, path, classes=["cat", "dog"])
    text = "\n".join(found)
    folder = path.parent / "images" / "train"
    for part in (
        f'{path}: expected a value in each cell, got none in "image_path" of row 8 (), "label" of '
        "row 3 (2.jpg).",
        f"{path}: expected one row for each picture, got several of 0.jpg (rows 1 and 6).",
        f"{path}: expected a picture for each label, got none in {folder} for 9.jpg.",
        f"{path}: expected a label for each picture, got none for {folder}/5.jpg.",
        f"{path}: expected one of the classes cat, dog, got dgo (4).",
    ):
        assert part in text
    assert len(found) == 5


def test_pictures_without_a_label(table, tmp_path):
    path = table(rows([0, 1, 0, 1]))
    assert "got none for" in only_problem(ImageTable, path)
    assert len(ImageTable(path, allow_unlabelled=True)) == 4
    table("what,ever\n1,2\n", "train_dataset/other.csv")
    table("image_path,label\n4.jpg,1\n5.jpg,0\n", "train_dataset/more_train.csv")
    assert len(ImageTable(path)) == 4  # another table names them
    assert not (tmp_path / "train_dataset/images/train/.cache").exists()


def test_a_table_is_split_by_names(table):
    path = table(rows([0, 1, 0, 1, 0, 1]))
    options = {"holdout": ["0", "5"]}
    assert ImageTable(path, subset="val", **options).names == ["0", "5"]
    assert ImageTable(path, subset="train", **options).labels == [1, 0, 1, 0]


# ----------------------------------------------------------------------------------- identities


@pytest.fixture
def identities(tmp_path):
    for name in (
        "train/a/1",
        "train/b/1",
        "base/x/1",
        "base/x/2",
        "base/y/1",
        "val/y/1",
        "val/x/1",
    ):
        draw(tmp_path / "faces" / f"{name}.png", seed=sum(map(ord, name)))
    return tmp_path / "faces"


def test_queries_are_told_from_the_gallery(identities, caplog):
    train, val = IdentityFolder(identities), IdentityFolder(identities, part="val")
    assert train.classes == ["a", "b"] and [int(y) for _, y in train] == train.labels == [0, 1]
    assert val.names == ["base/x/1", "base/x/2", "base/y/1", "val/x/1", "val/y/1"]
    assert val.classes == ["a", "b", "x", "y"] and not caplog.records
    (batch, rest) = load(val)
    assert batch.y["label"].tolist() + rest.y["label"].tolist() == [2, 2, 3, 2, 3] == val.labels
    assert batch.y["gallery"].tolist() + rest.y["gallery"].tolist() == [True] * 3 + [False] * 2
    assert batch.y["label"].dtype == torch.int64 and batch.y["gallery"].dtype == torch.bool


def test_identities_may_stand_in_tables(identities):
    for part, place in (("train", "train.csv"), ("base", "base/list.csv"), ("val", "val.csv")):
        files = sorted((identities / part).glob("*/*.png"))
        lines = [f"{file.parent.name}/{file.name},{ord(file.parent.name)}" for file in files]
        (identities / place).write_text("\n".join(["image_path,label", *lines, ""]))
    val = IdentityFolder(identities, part="val")
    assert val.classes == [str(ord(name)) for name in "abxy"] and val.labels == [2, 2, 3, 2, 3]
    assert IdentityFolder(identities).classes == [str(ord("a")), str(ord("b"))]
    (identities / "base" / "more.csv").write_text("image_path,label\n")
    assert "expected one table, got" in "\n".join(
        problems_of(IdentityFolder, identities, part="val")
    )


def test_an_identity_has_one_number_in_training_and_validation(identities):
    for part in ("base", "val"):
        draw(identities / part / "b" / "7.png")
    val = IdentityFolder(identities, part="val")
    assert {
        name.split("/")[1]: label for name, label in zip(val.names, val.labels, strict=True)
    } == {"b": 1, "x": 2, "y": 3}
    shutil.rmtree(identities / "train")  # as where a trained network is tried
    assert IdentityFolder(identities, part="val").labels == [0, 1, 1, 2, 0, 1, 2]


def test_each_query_must_be_in_the_gallery(identities):
    draw(identities / "val" / "z" / "1.png")
    problem = only_problem(IdentityFolder, identities, part="val")
    assert problem.startswith(f"{identities}/base: expected pictures of each identity in")
    assert "got none of z." in problem
    assert 'part: expected "train" or "val", got \'vla\'. Did you mean' in only_problem(
        IdentityFolder, identities, part="vla"
    )
    shutil.rmtree(identities / "base")
    assert "base: expected a folder, got none" in "\n".join(
        problems_of(IdentityFolder, identities, part="val")
    )


def test_a_transform_of_a_gallery_leaves_its_target(identities):
    batch = load(IdentityFolder(identities, part="val", transform="hard"))[0]
    assert batch.y["label"].tolist() == [2, 2, 3]


def test_they_are_found_under_utils_data(caplog):
    caplog.set_level(logging.INFO)
    for name in ("ClassFolder", "ImageTable", "IdentityFolder"):
        assert getattr(utils.data, name) is getattr(images, name)
