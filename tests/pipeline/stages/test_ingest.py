"""An existing Pixel-Set dataset as the input: every spelling that occurs, and what is refused."""

import hashlib
import json
import pickle
import re
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from geo.errors import InputError
from pipeline.dataset.existing_metadata import read_declared
from pipeline.dataset.normalisation_pickle import read_normalisation
from pipeline.stages.split import split
from pipeline.workflow.config import load, view
from pipeline.workflow.inputs import check_inputs
from pipeline.workflow.paths import DatasetPaths, RunPaths
from pipeline.workflow.sections.models import read_recipe
from tests.builders.models import save_models
from tests.builders.paths import PARITY, ROOT
from tests.builders.pixel_sets import (
    BANDS,
    CLASSES,
    OPTIONS,
    SEASON,
    ingest_folder,
    make,
    number,
    write,
    write_arrays,
)
from tests.builders.runs import example, opened, read_pixels, read_valid, snakemake


def content(folder):
    """Digest and time of everything below a folder."""
    return {
        path: (
            path.stat().st_mtime_ns,
            path.is_file() and hashlib.sha256(path.read_bytes()).digest(),
        )
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def source(tmp_path):
    return tmp_path / "existing"


def ledger_of(run):
    table = pd.read_csv(run.ledger.with_suffix(".csv"), dtype=str, keep_default_na=False)
    return table.set_index("parcel_id")


def test_a_plain_dataset_gets_everything_that_the_stages_need(source, tmp_path):
    parcels = make(source)
    before = content(source)
    run = ingest_folder(source, tmp_path / "run")
    assert content(source) == before
    data = opened(run).pixel_sets(with_features=True)
    assert data.ids == list(parcels)
    assert data.observed is None
    for i, (label, pixels, _) in enumerate(parcels.values()):
        own = data.pixels[data.offsets[i] : data.offsets[i + 1]]
        assert np.array_equal(own.transpose(1, 2, 0), pixels)
        assert data.labels[i] == label
    assert data.days[0].tolist() == [(d - SEASON[0]).days for d in SEASON]
    assert [c.code for c in opened(run).classes] == CLASSES
    assert opened(run).description["bands"] == BANDS
    assert set(opened(run).n_dates.tolist()) == {len(SEASON)}
    assert run.dataset.pixels.is_symlink()
    expected = pickle.loads((source / "normalisation_values.pkl").read_bytes())  # noqa: S301
    for a, b in zip(read_normalisation(run.dataset.normalisation), expected, strict=True):
        assert np.array_equal(a, b)


def test_ingesting_an_ingested_dataset_changes_nothing(source, tmp_path):
    """No setting of the first run has to be repeated."""
    make(source)
    first = ingest_folder(source, tmp_path / "first")
    second = ingest_folder(first.dataset.root, tmp_path / "second", bands=None)
    for path in (first.dataset.root / "META").iterdir():
        assert (second.dataset.root / "META" / path.name).read_text() == path.read_text()
    for table in (Path.with_suffix(first.ledger, ".csv"), first.ledger, first.classes):
        other = second.root / table.relative_to(first.root)
        assert other.read_bytes() == table.read_bytes()


@pytest.mark.parametrize(
    "ids",
    [
        [f"{i:05}" for i in range(30)],
        [f"field-{i}" for i in range(30)],
        [f"Bröd {i}" for i in range(30)],
        [f"{i}.5" for i in range(30)],
        ["7", "07", *map(str, range(100, 128))],
    ],
    ids=["leading zeros", "words", "letters beyond ASCII", "dots", "same number"],
)
def test_any_text_can_be_an_id(source, tmp_path, ids):
    parcels = make(source, ids=ids)
    run = ingest_folder(source, tmp_path / "run")
    assert sorted(opened(run).ids) == sorted(ids)
    data = opened(run).pixel_sets(with_features=True)
    for i, parcel_id in enumerate(data.ids):
        label, pixels, _ = parcels[parcel_id]
        assert data.labels[i] == label
        assert np.array_equal(read_pixels(run.dataset, parcel_id), pixels)


def test_ids_that_are_numbers_are_ordered_as_numbers(source, tmp_path):
    ids = [str(i) for i in (5, 40, 7, 300, *range(1000, 1026))]
    make(source, ids=ids)
    assert opened(ingest_folder(source, tmp_path / "run")).ids[:4] == [
        "5",
        "7",
        "40",
        "300",
    ]


@pytest.mark.parametrize("codes", [[3, 1, 20], ["003", "abc", "x y"], [3.0, 1.0, 20.0]])
def test_codes_can_be_numbers_or_texts(source, tmp_path, codes):
    parcels = make(source)
    write(source / "META" / "labels.json", {"crop": {i: codes[p[0]] for i, p in parcels.items()}})
    run = ingest_folder(source, tmp_path / "run")
    assert [c.code for c in opened(run).classes] == sorted(codes)
    assert all(type(c.code) is (str if "abc" in codes else int) for c in opened(run).classes)
    assert (opened(run).labels >= 0).all()


def test_parcels_without_label_stay_in_the_dataset(source, tmp_path):
    parcels = make(source)
    ids = list(parcels)
    labels = {i: CLASSES[p[0]] for i, p in parcels.items()}
    del labels[ids[0]]
    labels |= {ids[1]: None, ids[2]: "", ids[3]: "rare", "elsewhere": "wheat"}
    write(source / "META" / "labels.json", {"crop": labels})
    run = ingest_folder(source, tmp_path / "run")
    assert opened(run).labels[:4].tolist() == [-1] * 4
    assert opened(run).ids == ids
    ledger = ledger_of(run)
    assert ledger.loc[ids[:4], "reason"].tolist() == [*["no_label"] * 3, "class_too_rare"]
    assert ledger.loc["elsewhere", ["status", "reason"]].tolist() == ["rejected", "no_pixels"]
    assert (ledger.loc[ids[4:], "status"] == "used").all()


@pytest.mark.parametrize(
    "spelling", [number, lambda d: str(number(d)), date.isoformat, lambda d: f"{d}T10:30:00"]
)
@pytest.mark.parametrize("first", [0, 1])
def test_dates_are_read_in_every_spelling(source, tmp_path, spelling, first):
    make(source)
    dates = {str(i): spelling(d) for i, d in enumerate(SEASON, first)}
    write(source / "META" / "dates.json", dates)
    assert opened(ingest_folder(source, tmp_path / "run")).dates == SEASON


@pytest.mark.parametrize("by_key", [True, False])
def test_unsorted_dates_are_sorted_with_the_arrays(source, tmp_path, by_key):
    """Either the dates are unsorted, or only the keys of the JSON file, which has no effect."""
    parcels = make(source)
    order = np.array([3, 0, 6, 1, 5, 2, 4])
    (source / "normalisation_values.pkl").unlink()
    means = np.arange(28.0).reshape(7, 4)
    if by_key:
        dates = {str(place): number(SEASON[place]) for place in order}
        order = np.arange(7)
    else:
        dates = {str(i): number(SEASON[place]) for i, place in enumerate(order)}
    write(source / "META" / "dates.json", dates)
    for parcel_id, (_, pixels, _) in parcels.items():
        np.save(source / "DATA" / f"{parcel_id}.npy", pixels[order])
    pair = pickle.dumps((means[order], means[order] + 1))
    (source / "S2-2017-T31TFM-meanstd.pkl").write_bytes(pair)
    before = content(source)
    run = ingest_folder(source, tmp_path / "run")
    assert content(source) == before
    assert opened(run).dates == SEASON
    for parcel_id, (_, pixels, _) in parcels.items():
        assert np.array_equal(read_pixels(run.dataset, parcel_id), pixels)
    found, stds = read_normalisation(run.dataset.normalisation)
    assert np.array_equal(found, means)
    assert np.array_equal(stds, means + 1)


@pytest.mark.parametrize("dtype", [np.int16, np.int64, np.uint8])
def test_other_integers_become_uint16(source, tmp_path, dtype):
    parcels = make(source)
    for parcel_id, (_, pixels, _) in parcels.items():
        np.save(source / "DATA" / f"{parcel_id}.npy", (pixels % 200).astype(dtype))
    run = ingest_folder(source, tmp_path / "run", reflectance_scale=0.0001)  # so they are dark
    for parcel_id, (_, pixels, _) in parcels.items():
        found = read_pixels(run.dataset, parcel_id)
        assert found.dtype == np.uint16
        assert np.array_equal(found, pixels % 200)


def test_a_missing_normalisation_is_computed(source, tmp_path):
    parcels = make(source, pickled=False)
    run = ingest_folder(source, tmp_path / "run")
    every = np.concatenate([p.transpose(1, 0, 2).reshape(4, -1) for _, p, _ in parcels.values()], 1)
    means, stds = read_normalisation(run.dataset.normalisation)
    np.testing.assert_allclose(means, every.mean(1), rtol=1e-12)
    np.testing.assert_allclose(stds, every.std(1), rtol=1e-9)


def test_parcels_without_pixels_are_in_the_ledger(source, tmp_path):
    parcels = make(source)
    first = next(iter(parcels))
    np.save(source / "DATA" / f"{first}.npy", np.zeros((7, 4, 0), np.uint16))
    run = ingest_folder(source, tmp_path / "run")
    assert first not in opened(run).ids
    assert ledger_of(run).loc[first, "reason"] == "no_pixels"


def test_listed_classes_keep_their_order_and_names(source, tmp_path):
    make(source)
    names = tmp_path / "names.csv"
    names.write_text("code,name\nwheat,winter wheat\n")
    run = ingest_folder(source, tmp_path / "run", classes=["wheat", "barley"], names=names)
    assert [(c.code, c.name) for c in opened(run).classes] == [
        ("wheat", "winter wheat"), ("barley", "barley"),
    ]  # fmt: skip
    assert set(ledger_of(run)["reason"]) == {"", "class_not_listed"}
    # The setting of the encoding is for registers, whose settings a dataset has not.
    names.write_bytes("code,name\nwheat,blé\n".encode("cp1252"))
    with pytest.raises(InputError, match=r"'blé' in cp1252.*\. Write the file in UTF-8\.$"):
        ingest_folder(source, tmp_path / "run", names=names)
    names.write_text("code,name\nWheat,x\n")
    with pytest.raises(InputError, match=r"has none of the \d declared codes, .*Write 'Wheat' as"):
        ingest_folder(source, tmp_path / "run", names=names)


def text(name, content):
    """Write a text file of META."""
    return lambda source: (source / "META" / name).write_text(content)


def meta(name, value):
    """Write a JSON file of META."""
    return lambda source: write(source / "META" / name, value)


def array(values):
    """Replace the array of parcel 100."""
    return lambda source: np.save(source / "DATA" / "100.npy", values)


def features(values):
    """Replace the features of parcel 103."""

    def spoil(source):
        path = source / "META" / "geomfeat.json"
        write(path, json.loads(path.read_text()) | {"103": values})

    return spoil


def mask(array):
    """Write a VALID of clear pixels, except for parcel 100."""

    def spoil(source):
        pixels = {path.stem: np.load(path) for path in (source / "DATA").iterdir()}
        write_arrays(
            source / "VALID", {i: np.ones((7, p.shape[2]), bool) for i, p in pixels.items()}
        )
        if array is None:
            (source / "VALID" / "100.npy").unlink()
        else:
            np.save(source / "VALID" / "100.npy", array)

    return spoil


# dates.json of the builder.
SPELLED = {str(i): number(day) for i, day in enumerate(SEASON)}


def appended(source):
    """Save a second array behind the first one, in the same file."""
    with (source / "DATA" / "100.npy").open("ab") as file:
        np.save(file, np.zeros((7, 4, 2), np.uint16))


def cut(source):
    path = source / "DATA" / "100.npy"
    path.write_bytes(path.read_bytes()[:-1])


def reshaped(source):
    """Write a header whose shape no array can have, in place of its blanks."""
    path = source / "DATA" / "100.npy"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"(7, 4, ", b"(7, -4,", 1))


def remove_arrays(source):
    for path in (source / "DATA").iterdir():
        path.unlink()


UNREADABLE = {
    "too few dates": (
        meta("dates.json", {"0": 20180301}),
        r"not the dates of .*: 60, such as 100 \(7 instead of 1\)",
    ),
    "not a date": (
        meta("dates.json", dict.fromkeys("0123456", "May")),
        r"dates\.json: 'May' is not a date",
    ),
    "no dates": (meta("dates.json", {}), r"dates\.json has no dates"),
    "a place left out": (
        meta("dates.json", {str(i + (i > 2)): number(day) for i, day in enumerate(SEASON)}),
        r"keys must count from 0 or from 1.*Found 0 to 7, without 3\. Correct them",
    ),
    "places from 2": (
        meta("dates.json", {str(i + 2): number(day) for i, day in enumerate(SEASON)}),
        r"keys must count from 0 or from 1.*Found 2 to 8\. Correct them",
    ),
    "a week": (meta("dates.json", {**SPELLED, "6": "2018-W40"}), r"'2018-W40' is not a date"),
    "dates of their own in place of shared ones": (
        meta("dates.json", {"100": [20180301, 20180401], "103": [20180301]}),
        r"dates\.json contains one list .* to .*META/parcel_dates\.json.*: 2, such as 100, 103\.",
    ),
    "objects of dates": (
        meta("dates.json", {"a": {"0": 20180301}}),
        r"to .*META/parcel_dates\.json, .* have the ids: 1, such as a\.",
    ),
    "fewer dates in one array": (
        array(np.zeros((6, 4, 2), np.uint16)),
        r"dates of their own: META/parcel_dates\.json, .*: 1, such as 100 \(6 instead of 7\)",
    ),
    "other keys": (meta("dates.json", {"first": 20180301}), r"other keys: 1, such as first"),
    "a list of dates": (meta("dates.json", [20180301]), r"dates\.json contains '\[20180301\]'"),
    "own dates without a list": (
        meta("parcel_dates.json", {"100": 20180301}),
        r"expected \{id: \[YYYYMMDD, \.\.\.\]\}; other values: 1, such as 100",
    ),
    "damaged array": (
        lambda source: (source / "DATA" / "100.npy").write_bytes(b"no array"),
        r"100\.npy is not a readable array",
    ),
    "other channels": (
        array(np.zeros((7, 3, 2), np.uint16)),
        r"have 4 channels, others do not: 1, such as 100 \(3\)",
    ),
    "floats among integers": (
        array(np.ones((7, 4, 2), np.float32)),
        r"some arrays are integers, others are floats: 1, such as 100\.npy",
    ),
    "complex numbers": (array(np.zeros((7, 4, 2), complex)), r"expected numbers.*complex128"),
    "records": (array(np.zeros((7, 4, 2), "u2,u2")), r"100\.npy: expected numbers of shape"),
    "objects": (array(np.full((7, 4, 2), None)), r"100\.npy.*contains objects, which are not read"),
    "two axes": (array(np.zeros((7, 4), np.uint16)), r"shape \(T, C, S\), found uint16 of shape"),
    "a longer file": (
        appended,
        r"100\.npy is not a readable array: it has \d+ bytes, expected \d+: something was appended",
    ),
    "a shorter file": (cut, r"100\.npy is not a readable array: .*it is incomplete"),
    "a header of other numbers": (
        reshaped,
        r"100\.npy is not a readable array: its shape is \(7, -4, \d+\)",
    ),
    "a date twice": (
        meta("dates.json", {str(i): number(SEASON[i // 2]) for i in range(7)}),
        r"dates\.json contains 2018-03-01, 2018-03-21, 2018-04-15 more than once\. Merge",
    ),
    "a date twice in two spellings": (
        meta("dates.json", {**SPELLED, "6": "2018-03-01T10:30:00"}),
        r"dates\.json contains 2018-03-01 more than once",
    ),
    "own dates twice": (
        meta("parcel_dates.json", {"100": [20180301, 20180301], "103": [20180301]}),
        r"parcels that have a date more than once: 1, such as 100 \(2018-03-01\)",
    ),
    **{
        f"the year {year}": (
            meta("dates.json", {**SPELLED, "6": f"{year}0301"}),
            rf"dates\.json: '{year}0301' is not the date of an image: expected 1972 to today",
        )
        for year in ("9999", "0001", "1918", "2108")
    },
    "a key twice": (
        text("dates.json", '{"0": 20180301, "1": 20180401, "0": 20180501}'),
        r"dates\.json is not valid JSON: the key '0' occurs more than once",
    ),
    "a code that is a list": (
        meta("labels.json", {"crop": {"100": ["wheat"], "103": "wheat"}}),
        r"codes in 'crop' that are neither numbers nor text: 1, such as 100",
    ),
    "positions that are NaN": (
        text("positions.json", '{"100": [NaN, 3], "103": [1, 2]}'),
        r"positions\.json: expected \{id: \[x, y\]\}; other values: 1, such as 100",
    ),
    "a number of dates that is text": (
        meta("n_dates.json", {"100": "7"}),
        r"n_dates\.json: expected \{id: number of dates\}; other values: 1, such as 100",
    ),
    "bands as text": (
        meta("dataset.json", {"bands": "B02 B03 B04 B08"}),
        r"dataset\.json: bands is 'B02 B03 B04 B08', expected a list of names",
    ),
    "another fill": (
        meta("dataset.json", {"fill": "spline"}),
        r"dataset\.json: fill is 'spline', expected linear, none or null",
    ),
    "names that are numbers": (
        meta("names.json", {"wheat": 3}),
        r"names\.json: expected \{code: name\}; other values: 1, such as wheat",
    ),
    "labels of other parcels": (
        meta("labels.json", {"crop": {"a": 1}}),
        r"no id under 'crop' is that of a file in DATA: it has a, DATA has 100",
    ),
    "a label under an id that is written differently": (
        meta("labels.json", {"crop": {"100.0": 1, "103": 2}}),
        r"the id '100\.0' under 'crop' has no file in DATA, and '100', which has one, no label",
    ),
    "labels under ids that are written differently": (
        meta("labels.json", {"crop": {"0100": 1, "0103": 2}}),
        r"no id under 'crop' is that of a file in DATA: .*Write ids as the names of the files",
    ),
    "labels without ids": (
        meta("labels.json", {"crop": "wheat"}),
        r"expected \{nomenclature.*such as crop",
    ),
    "labels that are not JSON": (text("labels.json", "{"), r"labels\.json is not valid JSON"),
    "a pickle of other objects": (
        lambda source: (source / "normalisation_values.pkl").write_bytes(
            pickle.dumps((Path("x"), 1))
        ),
        r"only numpy arrays are read",
    ),
    "fewer features": (features([1.0, 2.0]), r"geomfeat\.json: expected \{id: \[number"),
    "features that are NaN": (
        features([1.0, float("nan"), 0.5, 2.0]),
        r"geomfeat\.json: the features of 1 parcels are not finite.* of 103\.",
    ),
    "no arrays": (remove_arrays, r"has no <id>\.npy files"),
    "a mask of other pixels": (
        mask(np.ones((7, 99), bool)),
        r"VALID/100\.npy: expected bool of shape \(T, S\), \(7,",
    ),
    "a missing mask": (mask(None), r"There is no .*VALID/100\.npy, but other parcels have one"),
    "a mask of bytes": (
        mask(np.ones((7, 2), np.uint8)),
        r"VALID/100\.npy: expected bool of shape \(T, S\)",
    ),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_unreadable_and_contradicting_files_are_refused(source, tmp_path, case):
    spoil, message = UNREADABLE[case]
    make(source)
    spoil(source)
    with pytest.raises(InputError, match=message):
        ingest_folder(source, tmp_path / "run")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nomenclature": "soil"}, r"'soil', but labels\.json has crop"),
        ({"bands": ["B02", "B03"]}, r"4 channels, but 2 bands are named: B02, B03"),
        ({"classes": {"min_parcels": 40}}, r"Lower dataset\.classes\.min_parcels"),
        ({"classes": ["wheat", "rye"]}, r"dataset\.classes lists \['rye'\]"),
    ],
)
def test_settings_that_do_not_fit_the_dataset_are_refused(source, tmp_path, options, message):
    make(source)
    with pytest.raises(InputError, match=message):
        ingest_folder(source, tmp_path / "run", **options)


def test_without_training_classes_need_no_parcels(source, tmp_path):
    make(source, labelled=0)
    run = ingest_folder(source, tmp_path / "run", weights=tmp_path, classes=["wheat", "rye"])
    assert [c.code for c in opened(run).classes] == ["wheat", "rye"]
    assert (opened(run).labels == -1).all()


def test_blocks_need_positions(source, tmp_path):
    make(source)
    settings = load({"dataset": {"path": source, **OPTIONS}, "split": {"by": "block"}})
    with pytest.raises(InputError, match=r"no META/positions\.json.*split\.by to random"):
        check_inputs(settings)
    run = ingest_folder(source, tmp_path / "run")
    with pytest.raises(InputError, match=r"positions\.json.*split\.by to random"):
        split(run.dataset.root, run.folds, view(settings, "split"))
    write(source / "META" / "positions.json", {str(100 + 3 * i): [i * 900, 0] for i in range(60)})
    check_inputs(settings)
    run = ingest_folder(source, tmp_path / "run")
    split(run.dataset.root, run.folds, view(settings, "split"))
    assert json.loads(run.folds.read_text())["by"] == "block"


def test_missing_features_are_named(source, tmp_path, caplog):
    make(source, features=False)
    values = {"dataset": {"path": source, **OPTIONS}}
    with pytest.raises(InputError, match=r"geomfeat\.json.*model\.geometric_features to false"):
        check_inputs(load(values))
    check_inputs(load({**values, "model": {"geometric_features": False}}))
    run = ingest_folder(source, tmp_path / "run")
    assert "geomfeat.json: models can be trained only without" in caplog.text
    assert opened(run).pixel_sets(with_features=False).features is None
    with pytest.raises(InputError, match=r"model\.geometric_features to false"):
        opened(run).pixel_sets(with_features=True)
    every = {str(i): [i, 2, 3, 4] for i in range(100, 280)}
    write(source / "META" / "geomfeat.json", every)
    run = ingest_folder(source, tmp_path / "run")
    assert opened(run).all_features[:, 0].tolist() == list(range(100, 280))
    assert opened(run).pixel_sets(with_features=True).features[1].tolist() == [103, 2, 3, 4]
    write(source / "META" / "geomfeat.json", {"100": [1, 2, 3, 4]})
    run = ingest_folder(source, tmp_path / "run")
    with pytest.raises(InputError, match=r"lacks 59 parcels, such as 103"):
        opened(run).pixel_sets(with_features=True)


def test_weights_with_features_need_those_of_the_dataset(source, tmp_path):
    make(source, features=False)
    save_models(tmp_path / "weights", members=1)
    weights = {"weights": str(tmp_path / "weights")}
    settings = load({"dataset": {"path": source, **OPTIONS}, "predict": weights})
    with pytest.raises(InputError, match=r"predict\.weights: .*features, and there is no .*Add it"):
        check_inputs(settings)
    write(source / "META" / "geomfeat.json", {"100": [1, 2, 3, 4]})
    check_inputs(settings)


def test_a_normalisation_that_is_not_computed_has_no_settings(source):
    make(source)
    settings = load({"dataset": {"path": source, **OPTIONS}, "normalise": {"by": "all"}})
    with pytest.raises(InputError, match=r"normalise\.by: without effect, .*\.pkl.*Remove"):
        check_inputs(settings)
    (source / "normalisation_values.pkl").unlink()
    check_inputs(settings)


def test_the_dataset_of_the_same_run_is_refused(source, tmp_path):
    make(source)
    run = ingest_folder(source, tmp_path / "run")
    with pytest.raises(InputError, match=r"dataset of this run.*another name"):
        ingest_folder(run.dataset.root, tmp_path / "run")
    assert len(opened(run).ids) == len(list(run.dataset.pixels.iterdir())) == 60


def test_a_link_replaces_arrays_of_an_earlier_run(source, tmp_path):
    make(source, ids=[f"ö{i}" for i in range(30)])
    run = ingest_folder(source, tmp_path / "run")
    assert not run.dataset.pixels.is_symlink()
    other = tmp_path / "other"
    make(other)
    run = ingest_folder(other, tmp_path / "run")
    assert run.dataset.pixels.resolve() == other / "DATA"


def test_masks_are_sorted_with_the_dates(source, tmp_path):
    parcels = make(source)
    rng = np.random.default_rng(0)
    order = rng.permutation(7)
    (source / "VALID").mkdir()
    clear = {i: rng.random((7, p.shape[2])) < 0.5 for i, (_, p, _) in parcels.items()}
    for parcel_id, (_, pixels, _) in parcels.items():
        np.save(source / "DATA" / f"{parcel_id}.npy", pixels[order])
        np.save(source / "VALID" / f"{parcel_id}.npy", clear[parcel_id][order])
    write(source / "META" / "dataset.json", {"fill": "none", "bands": BANDS})
    dates = {str(i): number(SEASON[place]) for i, place in enumerate(order)}
    write(source / "META" / "dates.json", dates)
    data = opened(ingest_folder(source, tmp_path / "run")).pixel_sets(with_features=False)
    together = np.concatenate([clear[i].T for i in data.ids])
    assert np.array_equal(data.clear, together[together.any(axis=1)])


@pytest.mark.parametrize("fill", ["linear", "none", None])
def test_pixels_that_are_never_clear_are_left_out(source, tmp_path, fill):
    """Some of each parcel, all of the first, and, according to n_dates.json, of the second."""
    parcels = make(source, pickled=False)
    if fill is not None:
        write(source / "META" / "dataset.json", {"fill": fill, "bands": BANDS})
    never_clear, without_dates, *others = parcels
    write(
        source / "META" / "n_dates.json",
        {**dict.fromkeys(others, 5), without_dates: 0, never_clear: 0},
    )
    rng = np.random.default_rng(0)
    clear = {i: rng.random((7, p.shape[2])) < 0.3 for i, (_, p, _) in parcels.items()}
    clear[never_clear][:] = False
    clear[without_dates][:] = True
    write_arrays(source / "VALID", clear)
    before = content(source)
    run = ingest_folder(source, tmp_path / "run")
    assert content(source) == before

    ledger = ledger_of(run)
    usable = [i for i in parcels if clear[i].any() and i != without_dates]
    assert opened(run).ids == usable
    ever_clear = {i: clear[i].any(axis=0) for i in usable}
    assert sum((~e).sum() for e in ever_clear.values()) > 10
    for parcel_id, chosen in ever_clear.items():
        pixels = parcels[parcel_id][1][:, :, chosen]
        assert np.array_equal(read_pixels(run.dataset, parcel_id), pixels)
        assert np.array_equal(read_valid(run.dataset, parcel_id), clear[parcel_id][:, chosen])
        row = ledger.loc[parcel_id, ["n_pixels", "n_pixels_never_clear", "n_dates"]].astype(int)
        assert row.tolist() == [chosen.sum(), (~chosen).sum(), 5]
    for parcel_id in set(parcels) - set(usable):
        status = ledger.loc[parcel_id, ["status", "reason", "n_dates"]].tolist()
        assert status == ["rejected", "never_seen_clearly", "0"]
    assert len(opened(run).pixels) == sum(e.sum() for e in ever_clear.values())

    if fill != "none":
        together = np.concatenate(
            [
                parcels[i][1][:, :, e].transpose(1, 0, 2).reshape(4, -1)
                for i, e in ever_clear.items()
            ],
            1,
        )
        means, stds = read_normalisation(run.dataset.normalisation)
        np.testing.assert_allclose(means, together.mean(axis=1), rtol=1e-12)
        np.testing.assert_allclose(stds, together.std(axis=1), rtol=1e-9)


def test_nothing_of_an_earlier_dataset_is_left(source, tmp_path):
    make(source)
    ingest_folder(source, tmp_path / "run")
    other = tmp_path / "other"
    make(other, 30, features=False)
    run = ingest_folder(other, tmp_path / "run")
    assert len(opened(run).ids) == 30
    assert not run.dataset.features.exists()
    assert len(list((source / "DATA").iterdir())) == 60


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dataset": {"path": "x"}, "imagery": {"path": "y"}}, r"takes the place of imagery\.path"),
        ({"dataset": {"path": "nowhere"}}, r"dataset\.path: there is no nowhere"),
        ({"dataset": {"path": str(ROOT)}}, r"has no folder DATA"),
        ({"dataset": {"classes": {"min_parcels": 2}}}, r"dataset\.classes\.min_parcels is 2"),
    ],
)
def test_bad_settings_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        check_inputs(load(values))


def test_the_example_of_the_paper_has_the_settings_of_the_paper():
    """The recipe replaces the defaults."""
    values = example("default", **yaml.safe_load((ROOT / "configs" / "t31tfm.yaml").read_text()))
    paper = read_recipe("paper")["train"]
    assert {key: getattr(values.train, key) for key in paper} == paper
    assert (values.split.folds, values.split.by, len(values.dataset.classes)) == (5, "random", 20)
    assert (values.model.name, values.model.T, values.model.positions) == ("psetae", 1000, "days")


@pytest.mark.slow
def test_the_example_of_the_paper_runs_from_files_to_report(tmp_path):
    """On a small dataset of the published shape, with two folds."""
    existing = PARITY / "pixelset_small"
    if not existing.is_dir():
        pytest.skip(f"{existing} does not exist")
    before = content(existing)
    config = ROOT / "configs" / "t31tfm.yaml"
    settings = {
        "dataset": {"path": str(existing)},
        "train": {"epochs": 1, "device": "cpu"},
        "split": {"folds": 2},
    }
    snakemake(tmp_path, "--cores", "2", configfile=config, **settings)
    run = RunPaths(tmp_path / "results" / "t31tfm")
    assert content(existing) == before
    table = pd.read_parquet(run.predictions.with_suffix(".parquet"))
    assert len(table) == len(pd.read_csv(run.predictions.with_suffix(".csv"))) == 200
    assert not run.predictions.exists()
    assert table["pred_source"].value_counts().to_dict() == {"out_of_fold": 180, "ensemble": 20}
    assert table["pred_code"].isin(yaml.safe_load(config.read_text())["dataset"]["classes"]).all()
    page = run.report.read_text()
    assert "The run started from the dataset pixelset_small of 24 dates" in page
    assert "The dataset has 200 parcels" in page
    assert "register" not in re.sub(r"<pre>.*?</pre>", "", page, flags=re.S)
    again = snakemake(tmp_path, "-n", configfile=config, **settings)
    assert "Nothing to be done" in again.stdout + again.stderr


def test_files_of_macos_and_nfs_are_no_parcels(source, tmp_path):
    parcels = make(source)
    for name in ("._100.npy", ".nfs0000002a.npy"):
        (source / "DATA" / name).write_bytes(b"\0\x05\x16\x07")
    assert list(opened(ingest_folder(source, tmp_path / "run")).ids) == list(parcels)


def test_a_code_that_is_nan_is_none(source, tmp_path):
    labels = {i: CLASSES[label] for i, (label, _, _) in make(source).items()}
    write(source / "META" / "labels.json", {"crop": {**labels, "100": float("nan")}})
    assert read_declared(DatasetPaths(source)) == {"crop": {**labels, "100": None}}
