"""Several existing datasets as one: ids, dates, seasons, classes, and what must agree."""

import json
from datetime import date

import numpy as np
import pandas as pd
import pytest

from geo.errors import InputError
from models.crop_model import CropModel
from pipeline.dataset.existing_sources import season_years
from pipeline.dataset.model_inputs import describe_data
from pipeline.dataset.pixel_set_dataset import read_folds
from pipeline.dataset.season import season_of
from pipeline.inspection.inspect import dataset_section
from pipeline.stages.split import split
from pipeline.stages.train import train
from pipeline.workflow.config import load, view
from pipeline.workflow.inputs import check_inputs
from tests.builders.pixel_sets import BANDS, SEASON, ingested, make, number, write
from tests.builders.runs import opened, read_pixels


def later(day, years):
    return day.replace(year=day.year + years)


def settings_of(*folders, **over):
    return load(
        {
            "dataset": {
                "paths": list(folders), "bands": BANDS, "classes": {"min_parcels": 5},
                **over.pop("dataset", {}),
            },
            "split": {"by": "dataset", **over.pop("split", {})},
            "train": {"epochs": 1, "batch_size": 16, "pixels": 4, "members": 1, "device": "cpu"},
            **over,
        }
    )  # fmt: skip


@pytest.fixture
def pair(tmp_path):
    """Two runs' datasets of 30 and 21 parcels; the second two years and eleven days later."""
    folders = [tmp_path / "results" / name / "dataset" for name in ("north", "south")]
    parcels = [make(folder, n) for folder, n in zip(folders, (30, 21), strict=True)]
    dates = [date(d.year + 2, d.month, d.day).toordinal() + 11 for d in SEASON]
    meta = folders[1] / "META"
    write(
        meta / "dates.json",
        {str(i): number(date.fromordinal(day)) for i, day in enumerate(dates)},
    )
    labels = json.loads((meta / "labels.json").read_text())["crop"]
    write(
        meta / "labels.json", {"crop": {i: {"barley": "rye"}.get(c, c) for i, c in labels.items()}}
    )
    return folders, parcels


def test_parcels_of_both_are_in_the_dataset_on_their_own_dates(pair, tmp_path):
    folders, parcels = pair
    run = ingested(settings_of(*folders), tmp_path / "run")
    data = opened(run)
    # All ids of the second are ids of the first, too.
    shared = list(parcels[1])
    assert data.ids == [
        *(f"north:{i}" if i in shared else i for i in parcels[0]),
        *(f"south:{i}" for i in shared),
    ]
    sets = data.pixel_sets(with_features=True)
    days = np.array([(d - SEASON[0]).days for d in SEASON])
    for name, own, extra in (("north", parcels[0], 0), ("south", parcels[1], 11)):
        for i, (_, pixels, _) in own.items():
            place = data.ids.index(f"{name}:{i}" if i in shared else i)
            rows = slice(sets.offsets[place], sets.offsets[place + 1])
            assert np.array_equal(sets.pixels[rows].transpose(1, 2, 0), pixels)
            assert np.array_equal(read_pixels(run.dataset, data.ids[place]), pixels)
            # Days are counted from 1 March of each season.
            assert sets.days[place].tolist() == (days + extra).tolist()
    assert data.dates == sorted({*SEASON, *(d for own in data.parcel_dates.values() for d in own)})
    assert data.season_dates[0] == SEASON[0]
    assert {d.year for d in data.season_dates} == {2018}
    assert {d.year for d in data.dates} == {2018, 2020}
    assert [c.code for c in data.classes] == ["barley", "maize", "rye", "wheat"]
    assert data.codes[data.ids.index("south:100")] == "rye"
    assert data.codes[data.ids.index("north:100")] == "barley"
    assert {name: len(ids) for name, ids in data.datasets.items()} == {"north": 30, "south": 21}
    assert (data.labels >= 0).all()
    # The normalisation is that of all pixels, not one of the pickles.
    means = np.concatenate(
        [p.transpose(0, 2, 1).reshape(-1, 4) for o in parcels for _, p, _ in o.values()]
    )
    found = describe_data(data).normalisation
    np.testing.assert_allclose(found.means, means.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found.stds, means.std(0), rtol=1e-6)
    ledger = pd.read_parquet(run.ledger)
    assert ledger["parcel_id"].tolist() == data.ids


def test_each_dataset_is_the_test_part_of_a_fold(pair, tmp_path):
    folders, _ = pair
    settings = settings_of(*folders)
    assert settings.split.folds == 2
    run = ingested(settings, tmp_path / "run")
    split(run.dataset.root, run.folds, view(settings, "split"))
    data = opened(run)
    folds = read_folds(run.folds)
    for (name, ids), fold in zip(data.datasets.items(), folds, strict=True):
        assert fold["test"] == ids, name
        others = set(data.ids) - set(ids)
        assert set(fold["train"]) | set(fold["validation"]) == others
        assert len(fold["validation"]) == len(others) // 5
        assert not set(fold["train"]) & set(fold["validation"])
    train(run.dataset.root, run.folds, 2, run.fold(2), view(settings, "train"))
    about = CropModel.load(run.fold(2), "cpu").description
    assert about.first_date == SEASON[0].isoformat()
    # A season later, the model is applied on the same days of the year; no date is unknown.
    season = season_of(about, [later(d, 3) for d in SEASON])
    assert season.day_0 == later(SEASON[0], 3)
    assert season.unknown == season.missing == []


def test_the_order_of_the_datasets_changes_no_day(pair, tmp_path):
    folders, _ = pair
    one, two = (
        opened(ingested(settings_of(*order), tmp_path / str(i)))
        for i, order in enumerate((folders, folders[::-1]))
    )
    days = [
        dict(zip(data.ids, data.pixel_sets(with_features=False).days.tolist(), strict=True))
        for data in (one, two)
    ]
    assert days[0] == days[1]
    assert list(days[0]) != list(days[1])


@pytest.mark.parametrize(
    ("firsts", "years"),
    [
        (["2018-03-05", "2018-02-20"], [0, 0]),
        (["2018-03-05", "2019-04-10"], [0, 1]),
        (["2020-04-10", "2018-03-05"], [2, 0]),
        (["2017-10-05", "2018-09-28"], [0, 1]),
        (["2017-10-05", "2019-01-10"], [0, 1]),
        (["2018-12-20", "2020-01-05"], [0, 1]),
        (["2020-02-29", "2021-03-01"], [0, 1]),
    ],
)
def test_a_season_begins_near_the_same_day_of_a_year(firsts, years):
    assert season_years([date.fromisoformat(day) for day in firsts]) == years


def test_masks_features_and_positions_are_kept_if_all_have_them(pair, tmp_path):
    folders, parcels = pair
    for folder, own in zip(folders, parcels, strict=True):
        (folder / "VALID").mkdir()
        for i, (_, pixels, _) in own.items():
            clear = np.ones((len(SEASON), pixels.shape[2]), bool)
            clear[2] = False
            np.save(folder / "VALID" / f"{i}.npy", clear)
        write(folder / "META" / "positions.json", {i: [1.0, 2.0] for i in own})
        description = {"bands": BANDS, "fill": "none", "crs": "EPSG:32631", "simulated": False}
        write(folder / "META" / "dataset.json", description)
    run = ingested(settings_of(*folders), tmp_path / "run")
    data = opened(run)
    sets = data.pixel_sets(with_features=True)
    assert not sets.clear[:][:, 2].any()
    assert sets.clear[:][:, 3].all()
    assert sets.n_features == 4
    assert data.positions.shape == (51, 2)
    for crs in ("EPSG:32632", None):
        write(folders[1] / "META" / "dataset.json", {**description, "crs": crs})
        other = ingested(settings_of(*folders), tmp_path / "other")
        assert not other.dataset.positions.exists()
        with pytest.raises(InputError, match=r"do not state the same .*system"):
            check_inputs(settings_of(*folders, split={"by": "block", "folds": 2}))
    (folders[1] / "META" / "geomfeat.json").unlink()
    without = ingested(settings_of(*folders), tmp_path / "without")
    assert not without.dataset.features.exists()
    with pytest.raises(InputError, match=r"south/dataset/META/geomfeat\.json"):
        check_inputs(settings_of(*folders))


def describe(folder, **changes):
    write(folder / "META" / "dataset.json", {"bands": BANDS, "fill": "linear", **changes})


def fewer_features(folders):
    path = folders[1] / "META" / "geomfeat.json"
    write(path, {i: v[:2] for i, v in json.loads(path.read_text()).items()})


def other_nomenclature(folders):
    path = folders[1] / "META" / "labels.json"
    write(path, {"group": json.loads(path.read_text())["crop"]})


def taken_id(folders):
    data = folders[0] / "DATA"
    (data / "133.npy").rename(data / "south%3A100.npy")


def without_labels(folders):
    (folders[1] / "META" / "labels.json").unlink()


REFUSED = {
    "bands": (
        lambda folders: [describe(folders[0]), describe(folders[1], bands=BANDS[::-1])],
        {"dataset": {"bands": None}},
        "south/dataset has the bands B08, B04, B03, B02, .*north/dataset has B02, B03, B04, B08",
    ),
    "clouds": (
        lambda folders: describe(folders[1], fill="none"),
        {},
        "south/dataset keeps cloudy observations and masks them, .* interpolates",
    ),
    "features": (fewer_features, {}, "geomfeat.json have 2 and 4 features"),
    "nomenclature": (
        other_nomenclature,
        {},
        "dataset.nomenclature is not set, that of the first dataset is 'crop', but .* has group",
    ),
    "a prefixed id that is taken": (taken_id, {}, "but south:100 are ids already"),
    "no labels to test on": (
        without_labels,
        {},
        "split.by is dataset, and south has 0 of the 30 labelled parcels: expected at least 1",
    ),
}


@pytest.mark.parametrize(("spoil", "over", "words"), REFUSED.values(), ids=REFUSED)
def test_datasets_that_do_not_agree_are_refused(pair, tmp_path, spoil, over, words):
    folders, _ = pair
    spoil(folders)
    settings = settings_of(*folders, **over)
    with pytest.raises(InputError, match=f"(?s){words}"):
        split(
            ingested(settings, tmp_path / "run").dataset.root,
            tmp_path / "folds.json",
            view(settings, "split"),
        )


SETTINGS = {
    "path, too": ({"dataset": {"path": "x"}}, "dataset.path and dataset.paths are set"),
    "imagery, too": ({"imagery": {"path": "x"}}, "dataset.paths takes the place of imagery.path"),
    "one": ({"dataset": {"paths": ["x"]}}, "paths: .*at least 2 items"),
    "another number of folds": ({"split": {"folds": 3}}, "dataset.paths: 2, split.folds: 3"),
    "dates of one dataset": ({"normalise": {"by": "date_channel"}}, "have dates of their own"),
    "no datasets": ({"dataset": {"paths": None, "path": "x"}}, "dataset.paths: 0, split.folds: 5"),
}


@pytest.mark.parametrize(("over", "words"), SETTINGS.values(), ids=SETTINGS)
def test_settings_that_contradict_each_other_are_refused(over, words):
    with pytest.raises(InputError, match=f"(?s){words}"):
        settings_of("a", "b", **over)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ("same", "lists .* twice"),
        ("nowhere", r"dataset.paths\[1\]: there is no"),
        (".", "no folder DATA"),
    ],
)
def test_paths_are_checked_before_a_run(pair, tmp_path, other, words):
    first = pair[0][0]
    second = {"same": first, "nowhere": tmp_path / "nowhere", ".": tmp_path}[other]
    with pytest.raises(InputError, match=words):
        check_inputs(settings_of(first, second))


def test_datasets_of_one_name_are_numbered(tmp_path):
    folders = [tmp_path / side / "a" / "dataset" for side in "xyz"]
    for folder in folders:
        make(folder, 12)
    run = ingested(settings_of(*folders, split={"by": "random", "folds": 2}), tmp_path / "run")
    assert list(opened(run).datasets) == ["a", "a_2", "a_3"]


def test_inspect_shows_all_datasets(pair):
    folders, _ = pair
    text = dataset_section(folders, settings_of(*folders))
    assert "51 parcels" in text
    assert all(str(folder) in text for folder in folders)


def test_one_dataset_has_no_datasets_json(pair, tmp_path):
    dataset = {"path": pair[0][0], "classes": {"min_parcels": 5}, "bands": BANDS}
    run = ingested(load({"dataset": dataset}), tmp_path / "run")
    assert not run.dataset.datasets.exists()
    assert not run.dataset.parcel_dates.exists()
    assert [path.name for path in (run.dataset.root / "tiles").iterdir()] == ["ingested"]
