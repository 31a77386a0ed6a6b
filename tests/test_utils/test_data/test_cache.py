"""A cache of pictures: the values of the files, whatever happens to it."""

import multiprocessing
import os
import pickle

import numpy as np
import pytest

from config.errors import ConfigError
from utils.data import cache
from utils.data.cache import PictureCache
from utils.data.files import read_array, write_array


@pytest.fixture
def files(tmp_path):
    """Arrays of several types and sizes, an odd number of bytes among them."""
    draw = np.random.default_rng(0)
    arrays = {
        "a.png": draw.integers(0, 256, (3, 5, 3), dtype=np.uint8),
        "b.npy": draw.normal(size=(4, 2)).astype(np.float32),
        "c.npy": draw.integers(0, 60000, (2, 3, 4)).astype(">u2"),
        "d.npy": draw.normal(size=(1, 1)),
        "e.png": draw.integers(0, 256, (7, 1), dtype=np.uint8),
    }
    for name, array in arrays.items():
        write_array(tmp_path / name, array)
    return [tmp_path / name for name in arrays]


def check(kept, files):
    for file in files:
        array = read_array(file)
        assert kept[file].dtype == array.dtype and kept.shape(file) == array.shape
        assert np.array_equal(kept[file], array)


def contents(folder):
    return sorted(path.suffix for path in folder.iterdir())


@pytest.mark.parametrize("folder", [None, "cache", "a/new/one"])
def test_what_is_kept_is_what_is_read(files, tmp_path, folder):
    folder = folder and tmp_path / folder
    kept = PictureCache(files, folder, "x")
    check(kept, files)
    check(pickle.loads(pickle.dumps(kept)), files)
    check(kept, files[::-2])


def count_reads(monkeypatch):
    reads = []

    def read(path):
        reads.append(path.name)
        return read_array(path)

    monkeypatch.setattr(cache, "read_array", read)
    return reads


def test_files_are_read_once_until_they_change(files, tmp_path, monkeypatch):
    reads = count_reads(monkeypatch)
    folder = tmp_path / "cache"
    for _ in range(2):
        check(PictureCache(files, folder, "x"), files)
    assert len(reads) == 5
    write_array(files[0], np.zeros((3, 5, 3), np.uint8))
    os.utime(files[0], ns=(1, 1))
    check(PictureCache(files, folder, "x"), files)
    assert len(reads) == 10
    check(PictureCache(files[:2], folder, "x"), files[:2])
    assert len(reads) == 12 and contents(folder) == [".bin", ".json", ".lock"]
    check(PictureCache(files, folder, "another source"), files)
    assert len(list(folder.glob("*.bin"))) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda bin, json: bin.write_bytes(bin.read_bytes()[:-1]),
        lambda bin, json: bin.unlink(),
        lambda bin, json: json.write_text("{"),
        lambda bin, json: json.write_text("[]"),
        lambda bin, json: json.write_text(json.read_text().replace('"|u1"', '"|O"')),
        lambda bin, json: json.write_text(json.read_text().replace('"format": 1', '"format": 0')),
    ],
)
def test_a_damaged_cache_is_written_anew(files, tmp_path, damage, monkeypatch):
    folder = tmp_path / "cache"
    PictureCache(files, folder, "x")
    (bin,), (json,) = folder.glob("*.bin"), folder.glob("*.json")
    before = json.read_text()
    damage(bin, json)
    reads = count_reads(monkeypatch)
    check(PictureCache(files, folder, "x"), files)
    assert len(reads) == 5 and json.read_text() == before


def test_what_is_in_use_stays_while_another_is_written(files, tmp_path):
    first = PictureCache(files, tmp_path / "cache", "x")
    old = [first[file].copy() for file in files]
    write_array(files[0], np.zeros((9, 9, 3), np.uint8))
    check(PictureCache(files, tmp_path / "cache", "x"), files)
    assert all(np.array_equal(first[f], array) for f, array in zip(files, old, strict=True))


def test_all_damaged_files_are_named(files):
    files[0].write_bytes(b"no picture")
    files[3].unlink()
    with pytest.raises(ConfigError) as caught:
        PictureCache(files)
    first, second = caught.value.problems
    assert "a.png: expected a readable .png file" in first and "d.npy" in second


def test_a_stop_half_way_leaves_no_file(files, tmp_path):
    files[4].write_bytes(b"no picture")
    with pytest.raises(ConfigError, match=r"e\.png: expected a readable"):
        PictureCache(files, tmp_path / "cache", "x")
    assert contents(tmp_path / "cache") == [".lock"]


def test_a_folder_that_cannot_be_written_is_named(files, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="expected a folder that can be written, got .*file"):
        PictureCache(files, tmp_path / "file" / "cache", "x")


def open_cache(barrier, files, folder, results):
    barrier.wait()
    kept = PictureCache(files, folder, "x")
    results.put(all(np.array_equal(kept[file], read_array(file)) for file in files))


def test_two_processes_may_begin_at_once(files, tmp_path):
    processes = multiprocessing.get_context("fork")
    barrier, results = processes.Barrier(3), processes.Queue()
    arguments = (barrier, files, tmp_path / "cache", results)
    running = [processes.Process(target=open_cache, args=arguments) for _ in range(3)]
    for process in running:
        process.start()
    assert [results.get(timeout=60) for _ in running] == [True] * 3
    for process in running:
        process.join()
    assert contents(tmp_path / "cache") == [".bin", ".json", ".lock"]
