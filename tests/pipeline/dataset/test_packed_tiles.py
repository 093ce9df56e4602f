"""Packed pixels equal the stacked files of an existing dataset; .npy files equal numpy's."""

import numpy as np
import pytest

from geo.errors import InputError
from pipeline.dataset.npy_files import read_array, read_shape, write_array
from pipeline.dataset.packed_tiles import batches
from pipeline.workflow.paths import INGESTED
from tests.builders.pixel_sets import ingest_folder, make, write, write_arrays
from tests.builders.runs import opened


def by_hand(ids, folder, width):
    """Stack the files of all parcels, (sum of S, width, ...), padded behind with 0."""
    rows = []
    for parcel_id in ids:
        own = np.moveaxis(np.load(folder / f"{parcel_id}.npy"), -1, 0)
        rows += [
            np.concatenate([r, np.zeros((width - len(r), *r.shape[1:]), r.dtype)]) for r in own
        ]
    return np.stack(rows)


@pytest.mark.parametrize("own_dates", [False, True])
@pytest.mark.parametrize("fill", ["none", "linear"])
def test_packed_pixels_equal_the_files_stacked_by_hand(tmp_path, own_dates, fill):
    source = tmp_path / "existing"
    parcels = make(source, 40, own_dates=own_dates)
    rng = np.random.default_rng(0)
    shapes = {i: (p.shape[0], p.shape[2]) for i, (_, p, _) in parcels.items()}
    clear_of = {i: rng.random(shape) < 0.7 for i, shape in shapes.items()}
    for own in clear_of.values():
        own[0] = True  # every pixel is clear at least once, so none is left out
    write_arrays(source / "VALID", clear_of)
    write(source / "META" / "dataset.json", {"fill": fill})
    run = ingest_folder(source, tmp_path / "run")

    width = max(n for n, _ in shapes.values())
    tile, dataset = run.dataset.tile(INGESTED), opened(run)
    packed, clear = np.load(tile.pixels), np.load(tile.clear)
    assert (packed.dtype, clear.dtype) == (np.uint16, bool)
    assert packed.flags.c_contiguous
    assert np.array_equal(packed, by_hand(dataset.ids, source / "DATA", width))
    assert np.array_equal(clear, by_hand(dataset.ids, source / "VALID", width))
    assert not list(tile.root.glob(".*"))
    # Models need the mask only if cloudy observations are masked.
    data = dataset.pixel_sets(with_features=False)
    assert np.array_equal(data.clear, clear) if fill == "none" else data.clear is None


def test_pixels_are_mapped_and_not_read(tmp_path):
    make(tmp_path / "existing", 40)
    dataset = opened(ingest_folder(tmp_path / "existing", tmp_path / "run"))
    for array in (dataset.pixels, dataset.clear):
        assert isinstance(array, np.memmap)
        assert not array.flags.writeable
    # Without VALID every observation is clear.
    assert dataset.clear.all()


def test_a_read_error_names_the_file_and_leaves_the_earlier_pixels(tmp_path, monkeypatch):
    parcels = make(tmp_path / "existing", 40)
    run = ingest_folder(tmp_path / "existing", tmp_path / "run")
    before = run.dataset.tile(INGESTED).pixels.read_bytes()
    last = (tmp_path / "existing" / "DATA" / list(parcels)[-1]).with_suffix(".npy")

    def read_broken(path):
        if path == last:
            raise OSError("Input/output error")
        return read_array(path)

    monkeypatch.setattr("pipeline.dataset.existing_dataset.read_array", read_broken)
    with pytest.raises(InputError, match=rf"{last.name} is not a readable array: Input/output"):
        ingest_folder(tmp_path / "existing", tmp_path / "run")
    assert run.dataset.tile(INGESTED).pixels.read_bytes() == before
    assert not list(run.dataset.tile(INGESTED).root.glob(".*"))


def test_packed_pixels_that_contradict_meta_are_refused(tmp_path):
    make(tmp_path / "existing", 40)
    run = ingest_folder(tmp_path / "existing", tmp_path / "run")
    path = run.dataset.tile(INGESTED).pixels
    pixels = np.load(path)
    np.save(path, pixels[1:])
    with pytest.raises(InputError, match=r"META says \(\d+, 7, 4\)\. Make .* snakemake -R ingest"):
        _ = opened(run).pixels
    np.save(path, pixels.astype(np.int16))
    with pytest.raises(InputError, match=r"it is int16 of shape .*, expected uint16 of 3"):
        _ = opened(run).pixels
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"pixels\.npy is not a readable array"):
        _ = opened(run).pixels
    np.save(path, pixels)
    with path.open("ab") as file:
        file.write(b"\0")
    with pytest.raises(InputError, match=r"it has \d+ bytes, expected \d+"):
        _ = opened(run).pixels
    path.unlink()
    with pytest.raises(InputError, match=r"There is no .*pixels\.npy\. Make it again: .*-R ingest"):
        _ = opened(run).pixels


def test_without_npy_files_nothing_is_linked(tmp_path):
    make(tmp_path / "existing", 40)
    run = ingest_folder(tmp_path / "existing", tmp_path / "run")
    packed = run.dataset.tile(INGESTED).pixels.read_bytes()
    assert run.dataset.pixels.is_symlink()
    ingest_folder(tmp_path / "existing", tmp_path / "run", npy_files=False)
    assert not run.dataset.pixels.is_symlink()
    assert not run.dataset.pixels.exists()
    assert run.dataset.tile(INGESTED).pixels.read_bytes() == packed
    assert len(list((tmp_path / "existing" / "DATA").iterdir())) == 40


def test_batches_contain_all_parcels_and_exceed_the_limit_only_by_one_large_parcel():
    offsets = np.concatenate([[0], np.cumsum([3, 4, 50, 1, 1, 1, 7])])
    assert list(batches(offsets, 8)) == [(0, 2), (2, 3), (3, 6), (6, 7)]
    assert list(batches(offsets, 0)) == [(i, i + 1) for i in range(7)]
    assert list(batches([0], 8)) == []


@pytest.mark.parametrize("shape", [(0,), (3,), (2, 0, 4), (24, 10, 83)])
@pytest.mark.parametrize("dtype", [np.uint16, bool, ">i4", np.float64])
def test_files_equal_those_of_numpy(tmp_path, shape, dtype):
    array = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    write_array(tmp_path / "ours.npy", array)
    np.save(tmp_path / "numpy.npy", array)
    assert (tmp_path / "ours.npy").read_bytes() == (tmp_path / "numpy.npy").read_bytes()
    assert read_shape(tmp_path / "numpy.npy") == (array.shape, array.dtype)
    found = read_array(tmp_path / "numpy.npy")
    assert found.dtype == array.dtype
    assert np.array_equal(found, array)


def test_fortran_order_and_version_2_are_read(tmp_path):
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    np.save(tmp_path / "fortran.npy", np.asfortranarray(array))
    with (tmp_path / "second.npy").open("wb") as file:
        np.lib.format.write_array(file, array, version=(2, 0))
    for name in ("fortran.npy", "second.npy"):
        assert np.array_equal(read_array(tmp_path / name), array)
        assert read_shape(tmp_path / name) == (array.shape, array.dtype)


@pytest.mark.parametrize("read", [read_array, read_shape])
def test_incomplete_files_and_objects_are_refused(tmp_path, read):
    path = tmp_path / "a.npy"
    np.save(path, np.arange(100))
    whole = path.read_bytes()
    for content, words in ((whole[:-1], "incomplete"), (b"", "magic"), (b"text" * 99, "magic")):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=words):
            read(path)
    np.save(path, np.array([{}, {}], object))
    with pytest.raises(ValueError, match="objects"):
        read(path)
