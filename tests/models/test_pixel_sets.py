"""Several arrays read as one, in order or by index, against numpy's concatenation."""

import dataclasses
import os

import numpy as np
import pytest
import torch

from models.errors import InputError
from models.hyperparameters import Hyperparameters
from models.pixel_sets import PixelSets, StackedRows, stacked
from models.standardisation import Normalisation
from models.training.resume import training_digest
from models.training.sampling import PixelRows
from tests.builders.models import describe, make_batches, make_data, training_settings

SHAPES = [(5, 3, 2), (0, 4, 2), (7, 4, 2), (1, 2, 2)]


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return [rng.integers(1, 9999, shape, np.uint16) for shape in SHAPES]


@pytest.fixture
def whole(arrays):
    """The same as one array, padded with 0 at the end."""
    return np.concatenate([np.pad(a, ((0, 0), (0, 4 - a.shape[1]), (0, 0))) for a in arrays])


def test_slices_and_indexed_rows_equal_those_of_one_array(arrays, whole):
    rows = StackedRows(arrays)
    assert (rows.shape, rows.dtype, rows.ndim, len(rows)) == ((13, 4, 2), np.uint16, 3, 13)
    assert (rows.itemsize, rows.nbytes) == (2, whole.nbytes)
    for start in range(14):
        for stop in range(14):
            assert np.array_equal(rows[start:stop], whole[start:stop])
            if start <= stop:
                part = rows.between(start, stop)
                assert part.shape == whole[start:stop].shape
                assert np.array_equal(part[:], whole[start:stop])
    assert np.array_equal(rows[-4:], whole[-4:])
    rng = np.random.default_rng(1)
    for shape in ((20,), (4, 6), (0,)):
        chosen = rng.integers(0, 13, shape)
        assert np.array_equal(rows[chosen], whole[chosen])
    with pytest.raises(IndexError, match="a step of 2"):
        _ = rows[::2]


def test_views_share_memory(arrays):
    rows = StackedRows(arrays)
    assert np.shares_memory(rows[5:9], arrays[2])
    assert np.shares_memory(rows.between(6, 12), arrays[2])
    narrow = rows.between(1, 7)
    assert all(np.shares_memory(a, b) for a, b in zip(narrow.arrays[:1], arrays[:1], strict=True))


def test_a_single_array_is_returned_unchanged(arrays):
    assert stacked(arrays[:1]) is arrays[0]


def test_arrays_that_do_not_fit_are_refused(arrays):
    with pytest.raises(InputError, match=r"found uint16 of \(5, 3, 2\) and uint16 of \(7, 4, 1\)"):
        StackedRows([arrays[0], arrays[2][:, :, :1]])
    with pytest.raises(InputError, match=r"found uint16 .* and bool"):
        StackedRows([arrays[0], arrays[2].astype(bool)])


def in_tiles(data, after=(2, 3)):
    """Split the pixels of a dataset into three arrays, between parcels."""
    cuts = [int(data.offsets[i]) for i in after]
    return dataclasses.replace(
        data,
        pixels=StackedRows(np.split(data.pixels, cuts)),
        clear=StackedRows(np.split(data.clear, cuts)),
    )


def equal(a, b):
    return all(
        torch.equal(x, y) if isinstance(x, torch.Tensor) else np.array_equal(x, y)
        for x, y in zip(dataclasses.astuple(a), dataclasses.astuple(b), strict=True)
    )


def test_batches_of_several_arrays_equal_those_of_one():
    data = make_data()
    cut = in_tiles(data)
    one, several = make_batches(data), make_batches(cut)
    every = np.arange(len(data))
    assert equal(one.of(every), several.of(every))

    def training(batches):
        return list(batches.training(every, 3, np.random.default_rng(2)))

    assert all(equal(a, b) for a, b in zip(training(one), training(several), strict=True))
    for first, last in ((0, 6), (1, 3), (2, 6), (3, 3)):
        parts = data.between(first, last), cut.between(first, last)
        for name in ("ids", "offsets", "days", "labels", "observed", "features"):
            assert np.array_equal(*(getattr(part, name) for part in parts))
        for name in ("pixels", "clear"):
            assert np.array_equal(*(getattr(part, name)[:] for part in parts))
        assert len(parts[0]) == last - first
        assert isinstance(parts[0], PixelSets)


def test_chosen_parcels_have_the_pixels_of_each():
    data = make_data()
    for own in (data, in_tiles(data)):
        chosen = own.chosen(np.array([4, 0, 3]))
        for place, i in enumerate((4, 0, 3)):
            expected, found = data.between(i, i + 1), chosen.between(place, place + 1)
            for name in ("ids", "days", "labels", "features", "pixels", "clear"):
                assert np.array_equal(getattr(found, name), getattr(expected, name)), name


def test_the_copy_on_a_device_contains_every_array():
    """The copy in chunks for a GPU, made on the CPU."""
    from models.training.sampling import _copied

    data = in_tiles(make_data())
    copy = _copied(data.pixels, torch.device("cpu"), torch.int16)
    assert np.array_equal(copy.numpy().view(np.uint16), data.pixels[:])
    rows = PixelRows(data, torch.device("cpu"), keep=True)
    pixels, clear = rows.gather(torch.tensor([[0, 37], [12, 5]]))
    assert np.array_equal(pixels.numpy(), data.pixels[np.array([[0, 37], [12, 5]])])
    assert clear.shape == (2, 2, 4)


def test_the_digest_of_a_training_depends_on_every_mapped_file(tmp_path):
    """If any of the files is rewritten, the data are different."""
    data = make_data()
    for name, part in zip("ab", np.split(data.pixels, [12]), strict=True):
        np.save(tmp_path / f"{name}.npy", part)

    def digest():
        mapped = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "ab"]
        cut = dataclasses.replace(data, pixels=StackedRows(mapped))
        return training_digest(cut, *others)

    some = np.arange(3)
    hyperparameters = Hyperparameters.for_data("psetae", n_channels=2, n_classes=3)
    about = describe(hyperparameters, Normalisation(0.0, 1.0))
    others = (some, some, about, training_settings(), torch.device("cpu"))
    first = digest()
    assert digest() == first
    os.utime(tmp_path / "b.npy", ns=(0, 0))
    assert digest() != first
