"""Files: every format gives channels-last arrays, and damaged files are named."""

import json
import logging
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from utils.data.files import SUFFIXES, list_files, read_array, read_header, read_table, write_array

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


@pytest.mark.parametrize(("options", "alpha"), [({}, []), ({"transparency": 1}, [255, 0])])
def test_a_palette_gives_indices_of_a_mask_and_colours_of_a_picture(tmp_path, options, alpha):
    mask = numbers(6, 6) % 4
    palette = [(200, 10, 10), (0, 0, 0), (10, 200, 10), (255, 255, 255)]
    picture = Image.fromarray(mask)
    picture.putpalette([value for colour in palette for value in colour])
    picture.save(tmp_path / "a.png", **options)
    assert np.array_equal(read_array(tmp_path / "a.png", as_mask=True), mask)
    assert read_header(tmp_path / "a.png", as_mask=True) == (6, 6, 1)
    read = read_array(tmp_path / "a.png")
    assert np.array_equal(read[..., :3], np.array(palette)[mask])
    assert read_header(tmp_path / "a.png") == read.shape == (6, 6, 4 if alpha else 3)
    if alpha:
        assert np.array_equal(read[..., 3], np.array([255, 0, 255, 255])[mask])


@pytest.mark.parametrize("suffix", [".bmp", ".webp", ".png", ".jpg"])
def test_pictures_of_other_programs(tmp_path, suffix):
    picture = np.kron(numbers(3, 4, 3), np.ones((8, 8, 1), np.uint8))
    Image.fromarray(picture).save(tmp_path / f"a{suffix}", lossless=True, quality=100)
    read = read_array(tmp_path / f"a{suffix}")
    assert read.shape == picture.shape == read_header(tmp_path / f"a{suffix}")
    assert np.abs(read.astype(int) - picture).max() <= (20 if suffix == ".jpg" else 0)


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_a_film_is_no_picture(tmp_path, suffix):
    first, second = (Image.fromarray(numbers(8, 8, 3) ^ i) for i in (0, 255))
    first.save(tmp_path / f"a{suffix}", save_all=True, append_images=[second])
    for read in (read_array, read_header):
        with pytest.raises(ValueError, match="several pictures in one file"):
            read(tmp_path / f"a{suffix}")


def test_a_program_that_draws_is_no_picture(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png: .* got cannot identify image file"):
        read_array(tmp_path / "a.png")


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
        ((12, 5, 7), {"metadata": None}, (5, 7, 12)),  # pages
        ((12, 5, 7), {"metadata": {"axes": "ZYX"}}, (5, 7, 12)),
    ],
)
def test_bands_and_pages_of_a_tif_become_the_last_axis(tmp_path, shape, options, expected):
    array = numbers(*shape, dtype="uint16")
    tifffile.imwrite(tmp_path / "a.tif", array, **options)
    read = read_array(tmp_path / "a.tif")
    assert read.shape == expected
    assert np.array_equal(read, array if shape == expected else array.transpose(1, 2, 0))
    assert read_header(tmp_path / "a.tif") == (*expected, 1)[:3]


def test_a_tif_without_the_package_of_its_compression_names_it(tmp_path, monkeypatch):
    Image.fromarray(numbers(8, 8)).save(tmp_path / "a.tif", compression="tiff_lzw")
    assert read_header(tmp_path / "a.tif") == (8, 8, 1)
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(ImportError, match=r"a\.tif: .* imagecodecs, .* `pip install imagecodecs`"):
        read_array(tmp_path / "a.tif")


def test_a_tif_of_several_pictures_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", numbers(2, 5, 7, 3), photometric="rgb", metadata=None)
    for read in (read_array, read_header):
        with pytest.raises(ValueError, match=r"a\.tif: .* several pictures in one file"):
            read(tmp_path / "a.tif")


def test_other_colour_modes_are_refused(tmp_path):
    Image.new("LAB", (8, 8)).save(tmp_path / "b.tiff")
    (tmp_path / "b.tiff").rename(tmp_path / "b.png")  # Pillow goes by content
    with pytest.raises(ValueError, match=r"b\.png: .* colour mode LAB"):
        read_header(tmp_path / "b.png")


def write_any(path: Path, array: np.ndarray) -> None:
    """Write an array (H, W) of 8 bit in the format of the suffix."""
    suffix = path.suffix
    if suffix == ".npz":
        np.savez_compressed(path, a=array)
    elif suffix in (".pt", ".pth"):
        torch.save(torch.from_numpy(array), path)
    elif suffix in (".h5", ".hdf5"):
        h5py = pytest.importorskip("h5py")
        with h5py.File(path, "w") as file:
            file["a"] = array
    elif suffix in (".tif", ".tiff"):
        tifffile.imwrite(path, array)
    elif suffix in (".csv", ".tsv", ".txt"):
        mark = {".csv": ",", ".tsv": "\t", ".txt": " "}[suffix]
        np.savetxt(path, array, delimiter=mark)
    elif suffix == ".json":
        path.write_text(json.dumps(array.tolist()))
    elif suffix == ".xlsx":
        workbook = pytest.importorskip("openpyxl").Workbook()
        for row in array.tolist():
            workbook.active.append(row)
        workbook.save(path)
    elif suffix in (".npy", ".png"):
        write_array(path, array)
    else:
        Image.fromarray(array).save(path, lossless=True, quality=100)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_is_written_and_read(tmp_path, suffix):
    array = np.kron(numbers(3, 5), np.ones((16, 16), np.uint8))
    write_any(tmp_path / f"a{suffix}", array)
    assert read_header(tmp_path / f"a{suffix}")[:2] == (48, 80)
    read = read_array(tmp_path / f"a{suffix}")
    read = read[..., 0] if suffix == ".webp" else read  # knows RGB alone
    assert read.shape == (48, 80)
    assert np.abs(read - array.astype(float)).max() <= (2 if "jp" in suffix else 0)
    assert list(list_files(tmp_path)) == ["a"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("content", [b"", b"no picture at all", None])
def test_a_damaged_file_is_named(tmp_path, suffix, content):
    path = tmp_path / f"broken{suffix}"
    if content is None:  # cut off in the middle
        array = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
        write_any(path, array)
        content = path.read_bytes()[: path.stat().st_size // 2 - 40]
    elif suffix == ".xlsx":
        pytest.importorskip("openpyxl")
    path.write_bytes(content)
    rule = rf"a readable \{suffix} file" if suffix != ".txt" else r"one of \.npy, .*, got"
    with pytest.raises(ValueError, match=rf"broken\{suffix}: expected {rule}") as caught:
        read_array(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".h5", ".xlsx"])
def test_a_missing_package_is_named_with_the_command(tmp_path, monkeypatch, suffix):
    package = {".h5": "h5py", ".xlsx": "openpyxl"}[suffix]
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / f"a{suffix}").touch()
    for read in (read_array, read_header, read_table):
        with pytest.raises(ImportError, match=rf"a\{suffix}: .* {package}, .* install {package}`"):
            read(tmp_path / f"a{suffix}")


# --------------------------------------------------------------------- archives and tensors


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
@pytest.mark.parametrize("suffix", [".npz", ".pt", ".h5"])
def test_one_array_is_read_channels_last(tmp_path, suffix, shape):
    array = numbers(*shape, dtype="float32")
    write_any(tmp_path / f"a{suffix}", array)
    read = read_array(tmp_path / f"a{suffix}")
    assert read.dtype == np.float32 and np.array_equal(read, array)
    assert read_header(tmp_path / f"a{suffix}") == (*shape, 1)[:3]


def test_several_arrays_in_one_file_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", a=numbers(4, 4), b=numbers(4, 4))
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a"], file["g/b"] = numbers(4, 4), numbers(4, 4)
    torch.save({"a": torch.zeros(2, 2)}, tmp_path / "a.pt")
    for name, reason in (
        ("a.npz", r"2 arrays in one file, a\.npy, b\.npy"),
        ("a.h5", r"2 arrays in one file, a \(4, 4\), g/b \(4, 4\)"),
        ("a.pt", "a dict, no tensor"),
    ):
        for read in (read_array, read_header):
            with pytest.raises(ValueError, match=f"{name[:1]}\\{name[1:]}: .* got {reason}"):
                read(tmp_path / name)


@pytest.mark.parametrize("old", [False, True])
def test_tensors_of_any_kind_are_read_and_nothing_is_run(tmp_path, old):
    tensor = torch.arange(6.0, requires_grad=True).reshape(2, 3).bfloat16()
    torch.save(tensor, tmp_path / "a.pth", _use_new_zipfile_serialization=not old)
    assert read_array(tmp_path / "a.pth").tolist() == [[0, 1, 2], [3, 4, 5]]
    assert read_header(tmp_path / "a.pth") == (2, 3, 1)
    torch.save(Path("a"), tmp_path / "b.pt", _use_new_zipfile_serialization=not old)
    for read in (read_array, read_header):
        with pytest.raises(ValueError, match=r"b\.pt: .* other things than one tensor\. Write"):
            read(tmp_path / "b.pt")


@pytest.mark.filterwarnings("ignore:.*looks like a TorchScript archive")
def test_a_program_is_no_tensor(tmp_path):
    torch.save(torch.zeros(2, 2), tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt", "a") as archive:
        archive.writestr("a/constants.pkl", b"")  # by it torch tells a program
    with pytest.raises(ValueError, match=r"a\.pt: .* got other things than one tensor\. Write"):
        read_array(tmp_path / "a.pt")


def test_long_reasons_are_cut_to_a_line(tmp_path):
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (2, 2), }" + b" " * 20000
    length = struct.pack("<I", len(header))
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x02\x00" + length + header + bytes(4))
    with pytest.raises(ValueError, match=r"a\.npy: .* Header info length") as caught:
        read_array(tmp_path / "a.npy")
    assert "\n" not in str(caught.value)


def test_columns_of_an_hdf_file_are_a_table(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["t/a"], file["t/b"], file["t/c"] = [1, 2], [0.5, 1.5], ["x", "yy"]
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["t"] = np.array([(1, 0.5), (2, 1.5)], dtype=[("a", "i4"), ("b", "f4")])
    table = read_table(tmp_path / "a.h5")
    assert {name: list(column) for name, column in table.items()} == {
        "t/a": [1, 2],
        "t/b": [0.5, 1.5],
        "t/c": ["x", "yy"],
    }
    with pytest.raises(ValueError, match=r'a\.h5: .* text in column "t/c", "x" in its row 1'):
        read_array(tmp_path / "a.h5")
    assert read_array(tmp_path / "b.h5").tolist() == [[1, 0.5], [2, 1.5]]
    assert read_header(tmp_path / "b.h5") == (2, 2, 1)


def test_an_array_serves_as_a_table(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[1, 2], [3, 4], [5, 6]]))
    table = read_table(tmp_path / "a.npy")
    assert {name: column.tolist() for name, column in table.items()} == {
        "0": [1, 3, 5],
        "1": [2, 4, 6],
    }
    np.save(tmp_path / "b.npy", np.zeros((2, 3, 4)))
    with pytest.raises(ValueError, match=r"b\.npy: expected a table .* got shape \(2, 3, 4\)"):
        read_table(tmp_path / "b.npy")


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
        with pytest.raises(ValueError, match=r"a\.doc: expected one of \.npy, .* got '\.doc'"):
            read(tmp_path / "a.doc")


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_folders_in_it_are_part_of_the_name(tmp_path):
    touch(tmp_path, "b/1.npy", "a/deep/1.png", "1.npy", ".git/x.npy", "b/.ipynb/1.npy", "b/~$1.npy")
    (tmp_path / "b" / "back").symlink_to(tmp_path, target_is_directory=True)
    touch(tmp_path.parent / f"{tmp_path.name}_other", "2.npy")
    (tmp_path / "link").symlink_to(f"{tmp_path}_other", target_is_directory=True)
    assert list(list_files(tmp_path)) == ["1", "a/deep/1", "b/1", "link/2"]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*_mask", {"a": "a_mask.png", "b": "b_mask.npy", "c/d": "c/d_mask.png"}),
        ("*_mask.png", {"a": "a_mask.png", "c/d": "c/d_mask.png"}),
        ("img_*", {"1": "img_1.JPG", "c/2": "c/img_2.jpg"}),
        ("img_*.jpg", {"1": "img_1.JPG", "c/2": "c/img_2.jpg"}),
    ],
)
def test_a_pattern_says_which_part_is_the_name(tmp_path, pattern, names):
    touch(tmp_path, "a_mask.png", "b_mask.npy", "c/d_mask.png", "img_1.JPG", "c/img_2.jpg")
    touch(tmp_path, "_mask.png", "img_.png")
    found = list_files(tmp_path, pattern)
    assert {name: path.relative_to(tmp_path).as_posix() for name, path in found.items()} == names


@pytest.mark.parametrize("pattern", ["mask", "*_*"])
def test_a_pattern_has_one_star(tmp_path, pattern):
    with pytest.raises(ValueError, match=r"expected a name with one \*, got"):
        list_files(tmp_path, pattern)


def test_tables_beside_arrays_are_notes(tmp_path):
    touch(tmp_path, "a.csv", "b.json", "c.txt")
    assert list(list_files(tmp_path)) == ["a", "b", "c"]
    touch(tmp_path, "a.png")
    assert list(list_files(tmp_path)) == ["a"]
    assert list(list_files(tmp_path, "*.csv").values()) == [tmp_path / "a.csv"]


def test_files_are_listed_by_name_without_hidden_foreign_and_folders(tmp_path, caplog):
    for name in ("b.npy", "a.PNG", ".hidden.npy", "notes.txt", "Thumbs.db"):
        (tmp_path / name).touch()
    (tmp_path / "folder.npy").mkdir()
    with caplog.at_level(logging.WARNING, logger="plumbline"):
        assert list_files(tmp_path) == {"a": tmp_path / "a.PNG", "b": tmp_path / "b.npy"}
    (record,) = caplog.records
    assert "2 files are ignored, such as Thumbs.db" in record.getMessage()


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
    (tmp_path / "a.npy").touch()
    with pytest.raises(FileNotFoundError, match=r"expected files \(.*\) called \*_x, got none"):
        list_files(tmp_path, "*_x")


def test_reading_needs_no_package_but_numpy():
    code = (
        "import sys, utils.data.files; slow = {'torch', 'tifffile', 'pandas', 'h5py', 'openpyxl',"
        " 'PIL'}; print(sorted(slow & set(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"
