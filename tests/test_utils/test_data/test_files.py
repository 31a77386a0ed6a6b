"""Files: every format gives channels-last arrays, and damaged files are named."""

import logging
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from utils.data.files import list_files, read_array, read_header, write_array

ROOT = Path(__file__).resolve().parents[3]


def numbers(*shape, dtype="uint8"):
    return (np.arange(np.prod(shape)) % 251).reshape(shape).astype(dtype)


@pytest.mark.parametrize("suffix", [".npy", ".png"])
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 2), (5, 7, 3), (5, 7, 4)])
def test_what_is_written_is_read(tmp_path, suffix, shape):
    array = numbers(*shape)
    write_array(tmp_path / f"a{suffix}", array)
    read = read_array(tmp_path / f"a{suffix}")
    assert read.dtype == np.uint8
    assert np.array_equal(read, array)
    assert read_header(tmp_path / f"a{suffix}") == (5, 7, 1 if len(shape) == 2 else shape[2])


@pytest.mark.parametrize(
    ("array", "dtype"),
    [
        (numbers(4, 5) > 3, np.uint8),
        (numbers(4, 5, dtype="int64"), np.uint8),
        (numbers(4, 5, 1), np.uint8),
        (numbers(4, 5, dtype="int64") * 200, np.uint16),
    ],
)
def test_a_png_takes_integers_of_any_width_unchanged(tmp_path, array, dtype):
    write_array(tmp_path / "a.png", array)
    read = read_array(tmp_path / "a.png")
    assert read.dtype == dtype
    assert np.array_equal(read, array.reshape(4, 5))
    assert read_header(tmp_path / "a.png") == (4, 5, 1)


@pytest.mark.parametrize(
    "array",
    [
        numbers(4, 5, dtype="float32"),
        numbers(4, 5, dtype="int64") - 1,
        numbers(4, 5, dtype="int64") + 65536,
        numbers(4, 5, 3, dtype="int64") + 300,
        numbers(4, 5, 5),
        numbers(4),
        numbers(0, 5),
    ],
)
def test_a_png_refuses_what_it_cannot_hold(tmp_path, array):
    with pytest.raises(ValueError, match=r"a\.png: expected integers 0\.\."):
        write_array(tmp_path / "a.png", array)
    assert not (tmp_path / "a.png").exists()


def test_other_formats_are_not_written(tmp_path):
    with pytest.raises(ValueError, match=r"a\.jpg: expected \.npy or \.png, got '\.jpg'"):
        write_array(tmp_path / "a.jpg", numbers(4, 5))


def test_npy_keeps_its_type_and_can_stay_on_disk(tmp_path):
    array = numbers(5, 7, 12, dtype=">f4")
    write_array(tmp_path / "a.npy", array)
    mapped = read_array(tmp_path / "a.npy", mmap=True)
    assert isinstance(mapped, np.memmap) and not mapped.flags.writeable
    assert np.array_equal(mapped, array)
    assert read_header(tmp_path / "a.npy") == (5, 7, 12)


def test_palette_masks_give_their_indices(tmp_path):
    mask = numbers(6, 6) % 4
    picture = Image.fromarray(mask).convert("P")
    picture.putpalette([200, 10, 10, 0, 0, 0, 10, 200, 10, 255, 255, 255])
    picture.putdata(mask.ravel().tolist())
    picture.save(tmp_path / "a.png")
    assert np.array_equal(read_array(tmp_path / "a.png"), mask)
    assert read_header(tmp_path / "a.png") == (6, 6, 1)


def test_one_bit_pictures_give_0_and_1(tmp_path):
    Image.fromarray(numbers(4, 4) % 2 * 255).convert("1").save(tmp_path / "a.png")
    read = read_array(tmp_path / "a.png")
    assert read.dtype == np.uint8
    assert np.array_equal(read, numbers(4, 4) % 2)


@pytest.mark.parametrize(("mode", "n_channels"), [("L", 1), ("RGB", 3), ("CMYK", 3)])
def test_jpg_is_read_as_gray_or_rgb(tmp_path, mode, n_channels):
    Image.new("RGB", (9, 6), (200, 100, 50)).convert(mode).save(tmp_path / "a.JPG", format="JPEG")
    read = read_array(tmp_path / "a.JPG")
    assert read.shape == ((6, 9) if n_channels == 1 else (6, 9, 3))
    assert read_header(tmp_path / "a.JPG") == (6, 9, n_channels)
    if n_channels == 3:
        assert np.abs(read.astype(int) - (200, 100, 50)).max() < 12


def png_chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def test_16_bit_colour_is_refused_instead_of_cut_to_8(tmp_path):
    header = struct.pack(">IIBBBBB", 16, 2, 16, 2, 0, 0, 0)
    rows = (b"\0" + b"\x12\x34" * 48) * 2
    (tmp_path / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(rows))
        + png_chunk(b"IEND", b"")
    )
    for read in (read_array, read_header):
        with pytest.raises(ValueError, match=r"a\.png: .* 16-bit colour"):
            read(tmp_path / "a.png")


def test_a_picture_16_px_wide_is_not_taken_for_16_bit(tmp_path):
    write_array(tmp_path / "a.png", numbers(16, 16, 3))
    assert read_header(tmp_path / "a.png") == (16, 16, 3)


@pytest.mark.parametrize(
    ("shape", "options", "expected"),
    [
        ((5, 7), {}, (5, 7)),
        ((5, 7, 3), {}, (5, 7, 3)),
        ((5, 7, 12), {}, (5, 7, 12)),
        ((5, 7, 12), {"photometric": "minisblack", "planarconfig": "contig"}, (5, 7, 12)),
        ((12, 5, 7), {"photometric": "minisblack", "planarconfig": "separate"}, (5, 7, 12)),
        ((12, 5, 7), {"imagej": True}, (5, 7, 12)),
        ((5, 7, 1), {}, (5, 7, 1)),
    ],
)
def test_bands_of_a_tif_become_the_last_axis(tmp_path, shape, options, expected):
    array = numbers(*shape, dtype="uint16")
    tifffile.imwrite(tmp_path / "a.tif", array, **options)
    read = read_array(tmp_path / "a.tif")
    assert read.shape == expected
    assert np.array_equal(read, array if shape == expected else array.transpose(1, 2, 0))
    assert read_header(tmp_path / "a.tif") == (*expected, 1)[:3]


def test_a_tif_of_several_pictures_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", numbers(12, 5, 7), metadata=None)
    for read in (read_array, read_header):
        with pytest.raises(ValueError, match=r"a\.tif: .* several pictures in one file"):
            read(tmp_path / "a.tif")


def test_other_colour_modes_are_refused(tmp_path):
    Image.new("LAB", (8, 8)).save(tmp_path / "b.tiff")
    (tmp_path / "b.tiff").rename(tmp_path / "b.png")  # Pillow goes by content
    with pytest.raises(ValueError, match=r"b\.png: .* colour mode LAB"):
        read_header(tmp_path / "b.png")


@pytest.mark.parametrize("suffix", [".npy", ".png", ".jpg", ".tif"])
@pytest.mark.parametrize("content", [b"", b"no picture at all", None])
def test_a_damaged_file_is_named(tmp_path, suffix, content):
    path = tmp_path / f"broken{suffix}"
    if content is None:  # cut off in the middle
        array = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
        if suffix == ".tif":
            tifffile.imwrite(path, array)
        elif suffix == ".jpg":
            Image.fromarray(array).save(path)
        else:
            write_array(path, array)
        content = path.read_bytes()[: path.stat().st_size // 2]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"broken\{suffix}: expected a readable \{suffix} file"):
        read_array(path)


def test_a_missing_file_stays_a_missing_file(tmp_path):
    for read in (read_array, read_header):
        with pytest.raises(FileNotFoundError, match=r"gone\.npy"):
            read(tmp_path / "gone.npy")


def test_pickled_arrays_and_archives_are_never_opened(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "b.npz", a=numbers(4, 4))
    (tmp_path / "b.npz").rename(tmp_path / "b.npy")
    for name in ("a", "b"):
        for read in (read_array, read_header):
            with pytest.raises(ValueError, match=rf"{name}\.npy: expected a readable \.npy file"):
                read(tmp_path / f"{name}.npy")


@pytest.mark.parametrize(
    "array", [numbers(4), numbers(2, 3, 4, 5), np.zeros((4, 4), complex), np.full((2, 2), "a")]
)
def test_what_is_no_picture_is_refused(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    for read in (read_array, read_header):
        with pytest.raises(ValueError, match=r"a\.npy: expected numbers of shape \(H, W\)"):
            read(tmp_path / "a.npy")


def test_unknown_formats_are_refused_with_the_list(tmp_path):
    for read in (read_array, read_header):
        with pytest.raises(ValueError, match=r"a\.csv: expected one of \.npy, .* got '\.csv'"):
            read(tmp_path / "a.csv")


def test_files_are_listed_by_name_without_hidden_foreign_and_folders(tmp_path, caplog):
    for name in ("b.npy", "a.PNG", ".hidden.npy", "notes.txt", "Thumbs.db"):
        (tmp_path / name).touch()
    (tmp_path / "folder.npy").mkdir()
    with caplog.at_level(logging.WARNING, logger="plumbline"):
        assert list_files(tmp_path) == {"a": tmp_path / "a.PNG", "b": tmp_path / "b.npy"}
    assert [record.getMessage().count("3 entries") for record in caplog.records] == [1]


def test_no_warning_without_a_reason(tmp_path, caplog):
    (tmp_path / "a.npy").touch()
    (tmp_path / ".gitkeep").touch()
    list_files(str(tmp_path))
    assert not caplog.records


def test_two_files_of_one_name_are_both_named(tmp_path):
    (tmp_path / "a.npy").touch()
    (tmp_path / "a.png").touch()
    with pytest.raises(ValueError, match=r"one file per name, got a\.npy and a\.png"):
        list_files(tmp_path)


def test_missing_and_empty_folders_are_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone: expected a folder, got none"):
        list_files(tmp_path / "gone")
    (tmp_path / ".gitkeep").touch()
    with pytest.raises(FileNotFoundError, match=r"expected files \(\.npy.* got none"):
        list_files(tmp_path)


def test_reading_needs_neither_torch_nor_tifffile():
    code = "import sys, utils.data.files; print(sorted({'torch', 'tifffile'} & set(sys.modules)))"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"
