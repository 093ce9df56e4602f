"""The dataset as one file equals its files, stacked by hand."""

import numpy as np
import pytest
from pipeline.stages.pack import pack
from pixel_set_fixture import BANDS, ingest_dataset, make, write, write_arrays

from geo.errors import InputError
from pipeline.dataset.npy_files import read_array, read_shape, write_array
from pipeline.dataset.pixel_set_dataset import PixelSetDataset
from pipeline.stages import pack as stage
from pipeline.workflow.config import load, view
from pipeline.workflow.paths import RunPaths

PACK = view(load({}), "pack")


def ingested(source, root):
    settings = load({"dataset": {"path": source, "bands": BANDS, "classes": {"min_parcels": 5}}})
    run = RunPaths(root)
    ingest_dataset(settings, run)
    return run.dataset


def by_hand(dataset, folder, width):
    """Stack the files of all parcels, (sum of S, width, ...), with 0 where dates are lacking."""
    rows = []
    for parcel_id in PixelSetDataset.open(dataset.root).ids:
        own = np.moveaxis(np.load(folder / f"{parcel_id}.npy"), -1, 0)
        rows += [
            np.concatenate([r, np.zeros((width - len(r), *r.shape[1:]), r.dtype)]) for r in own
        ]
    return np.stack(rows)


@pytest.mark.parametrize("largest_block", [1, 1500, 10**9])
@pytest.mark.parametrize("own_dates", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_equals_the_files_stacked_by_hand(tmp_path, monkeypatch, own_dates, masked, largest_block):
    source = tmp_path / "given"
    parcels = make(source, 40, own_dates=own_dates)
    rng = np.random.default_rng(0)
    shapes = {i: (p.shape[0], p.shape[2]) for i, (_, p, _) in parcels.items()}
    valid = {i: rng.random(shape) < 0.7 for i, shape in shapes.items()}
    for own in valid.values():
        own[0] = True  # no pixel is left out for being clear on no date
    write_arrays(source / "VALID", valid)
    write(source / "META" / "dataset.json", {"fill": "none" if masked else "linear"})
    monkeypatch.setattr(stage, "LARGEST_BLOCK", largest_block)
    dataset = ingested(source, tmp_path / "run")

    width = max(n for n, _ in shapes.values())
    packed = np.load(dataset.packed_pixels)
    assert packed.dtype == np.uint16
    assert packed.flags.c_contiguous
    assert np.array_equal(packed, by_hand(dataset, source / "DATA", width))
    assert dataset.packed_valid.is_file() == masked
    if masked:
        valid = np.load(dataset.packed_valid)
        assert valid.dtype == bool
        assert np.array_equal(valid, by_hand(dataset, source / "VALID", width))
    assert not list(dataset.root.glob(".*"))


def test_pixels_are_mapped_not_read(tmp_path):
    make(tmp_path / "given", 40)
    data = PixelSetDataset.open(ingested(tmp_path / "given", tmp_path / "run").root).pixel_sets(
        with_features=False
    )
    assert isinstance(data.pixels, np.memmap)
    assert not data.pixels.flags.writeable


def test_validity_of_an_earlier_packing_goes(tmp_path):
    make(tmp_path / "given", 40)
    dataset = ingested(tmp_path / "given", tmp_path / "run")
    dataset.packed_valid.write_bytes(b"of an earlier run")
    pack(dataset.root, PACK)
    assert not dataset.packed_valid.exists()


def test_an_array_that_is_not_what_meta_says_is_named_and_nothing_is_left(tmp_path):
    parcels = make(tmp_path / "given", 40)
    dataset = ingested(tmp_path / "given", tmp_path / "run")
    before = dataset.packed_pixels.read_bytes()
    first = next(iter(parcels))
    np.save(tmp_path / "given" / "DATA" / f"{first}.npy", np.zeros((7, 4, 99), np.uint16))
    with pytest.raises(InputError, match=rf"{first}\.npy is uint16 of shape \(7, 4, 99\), exp"):
        pack(dataset.root, PACK, 2)
    assert dataset.packed_pixels.read_bytes() == before
    assert not list(dataset.root.glob(".*"))


def test_what_was_packed_of_another_dataset_is_refused(tmp_path):
    make(tmp_path / "given", 40)
    dataset = ingested(tmp_path / "given", tmp_path / "run")
    np.save(dataset.packed_pixels, np.load(dataset.packed_pixels)[1:])
    with pytest.raises(InputError, match=r"META says uint16 of .* Pack it anew"):
        PixelSetDataset.open(dataset.root).pixel_sets(with_features=False)
    dataset.packed_pixels.unlink()
    with pytest.raises(InputError, match=r"lacks .*pixels\.npy, its arrays in one file: python"):
        PixelSetDataset.open(dataset.root).pixel_sets(with_features=False)


def test_blocks_cover_all_parcels_and_fit_but_for_parcels_that_are_larger():
    sizes = np.array([3, 4, 50, 1, 1, 1, 7])
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    layout = PackedLayout(list("abcdefg"), offsets, np.full(7, 2), 2, 3, masked=False)
    blocks = list(layout.blocks(8 * 2 * 2 * 3))
    assert blocks == [(0, 2), (2, 3), (3, 6), (6, 7)]


@pytest.mark.parametrize("shape", [(0,), (3,), (2, 0, 4), (24, 10, 83)])
@pytest.mark.parametrize("dtype", [np.uint16, bool, ">i4", np.float64])
def test_files_are_those_of_numpy(tmp_path, shape, dtype):
    array = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    write_array(tmp_path / "ours.npy", array)
    np.save(tmp_path / "numpy.npy", array)
    assert (tmp_path / "ours.npy").read_bytes() == (tmp_path / "numpy.npy").read_bytes()
    assert read_shape(tmp_path / "numpy.npy") == (array.shape, array.dtype)
    found = read_array(tmp_path / "numpy.npy")
    assert found.dtype == array.dtype
    assert np.array_equal(found, array)


def test_other_forms_of_npy_are_read_too(tmp_path):
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    np.save(tmp_path / "fortran.npy", np.asfortranarray(array))
    with (tmp_path / "second.npy").open("wb") as file:
        np.lib.format.write_array(file, array, version=(2, 0))
    for name in ("fortran.npy", "second.npy"):
        assert np.array_equal(read_array(tmp_path / name), array)
        assert read_shape(tmp_path / name) == (array.shape, array.dtype)


@pytest.mark.parametrize("read", [read_array, read_shape])
def test_what_is_no_whole_array_is_refused(tmp_path, read):
    path = tmp_path / "a.npy"
    np.save(path, np.arange(100))
    whole = path.read_bytes()
    for content, words in ((whole[:-1], "not whole"), (b"", "magic"), (b"text" * 99, "magic")):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=words):
            read(path)
    np.save(path, np.array([{}, {}], object))
    with pytest.raises(ValueError, match="objects"):
        read(path)
