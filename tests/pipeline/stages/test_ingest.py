"""An existing Pixel-Set dataset as the input: every spelling that is met, and what is refused."""

import hashlib
import json
import os
import pickle
import re
import subprocess
import sys
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from geo.errors import InputError
from pipeline.dataset.normalisation_pickle import read_normalisation
from pipeline.stages.split import split
from pipeline.workflow.config import load, view
from pipeline.workflow.inputs import check_inputs
from pipeline.workflow.paths import RunPaths
from pipeline.workflow.sections import read_recipe
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
from tests.builders.runs import example, opened, read_pixels, read_valid


def content(folder):
    """Digest of everything under a folder, with its times."""
    return {
        path: (
            path.stat().st_mtime_ns,
            path.is_file() and hashlib.sha256(path.read_bytes()).digest(),
        )
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def source(tmp_path):
    return tmp_path / "given"


def ledger_of(run):
    table = pd.read_csv(run.ledger.with_suffix(".csv"), dtype=str, keep_default_na=False)
    return table.set_index("parcel_id")


def test_a_plain_dataset_gets_all_that_the_stages_need(source, tmp_path):
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
    assert set(opened(run).n_dates.values()) == {len(SEASON)}
    assert run.dataset.pixels.is_symlink()
    given = pickle.loads((source / "normalisation_values.pkl").read_bytes())  # noqa: S301
    for a, b in zip(read_normalisation(run.dataset.normalisation), given, strict=True):
        assert np.array_equal(a, b)


def test_a_dataset_of_this_project_is_taken_over_whole(source, tmp_path):
    """Adopting what was ingested changes nothing, and needs nothing to be said again."""
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
def test_ids_are_texts(source, tmp_path, ids):
    parcels = make(source, ids=ids)
    run = ingest_folder(source, tmp_path / "run")
    assert sorted(opened(run).ids) == sorted(ids)
    data = opened(run).pixel_sets(with_features=True)
    for i, parcel_id in enumerate(data.ids):
        label, pixels, _ = parcels[parcel_id]
        assert data.labels[i] == label
        assert np.array_equal(read_pixels(run.dataset, parcel_id), pixels)


def test_numbers_are_in_order_of_number(source, tmp_path):
    ids = [str(i) for i in (5, 40, 7, 300, *range(1000, 1026))]
    make(source, ids=ids)
    assert opened(ingest_folder(source, tmp_path / "run")).ids[:4] == [
        "5",
        "7",
        "40",
        "300",
    ]


@pytest.mark.parametrize("codes", [[3, 1, 20], ["003", "abc", "x y"], [3.0, 1.0, 20.0]])
def test_codes_are_numbers_or_texts(source, tmp_path, codes):
    parcels = make(source)
    write(source / "META" / "labels.json", {"crop": {i: codes[p[0]] for i, p in parcels.items()}})
    run = ingest_folder(source, tmp_path / "run")
    assert [c.code for c in opened(run).classes] == sorted(codes)
    assert all(type(c.code) is (str if "abc" in codes else int) for c in opened(run).classes)
    assert (opened(run).labels >= 0).all()


def test_parcels_without_label_are_kept(source, tmp_path):
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
def test_dates_in_every_spelling(source, tmp_path, spelling, first):
    make(source)
    dates = {str(i): spelling(d) for i, d in enumerate(SEASON, first)}
    write(source / "META" / "dates.json", dates)
    assert opened(ingest_folder(source, tmp_path / "run")).dates == SEASON


@pytest.mark.parametrize("by_key", [True, False])
def test_unsorted_dates_are_sorted_with_the_arrays(source, tmp_path, by_key):
    """Out of order by their values; or only written in another order, which means nothing."""
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
    run = ingest_folder(source, tmp_path / "run")
    for parcel_id, (_, pixels, _) in parcels.items():
        found = read_pixels(run.dataset, parcel_id)
        assert found.dtype == np.uint16
        assert np.array_equal(found, pixels % 200)


def test_a_normalisation_that_is_missing_is_computed(source, tmp_path):
    parcels = make(source, pickled=False)
    run = ingest_folder(source, tmp_path / "run")
    every = np.concatenate([p.transpose(1, 0, 2).reshape(4, -1) for _, p, _ in parcels.values()], 1)
    means, stds = read_normalisation(run.dataset.normalisation)
    np.testing.assert_allclose(means, every.mean(1), rtol=1e-12)
    np.testing.assert_allclose(stds, every.std(1), rtol=1e-9)


def test_parcels_without_pixels_are_accounted_for(source, tmp_path):
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


def spoil_dates(source):
    write(source / "META" / "dates.json", {"0": 20180301})


def spoil_date(source):
    write(source / "META" / "dates.json", dict.fromkeys("0123456", "May"))


def spoil_keys(source):
    write(source / "META" / "dates.json", {"first": 20180301})


def spoil_array(source):
    next((source / "DATA").iterdir()).write_bytes(b"no array")


def spoil_channels(source):
    np.save(source / "DATA" / "100.npy", np.zeros((7, 3, 2), np.uint16))


def spoil_type(source):
    np.save(source / "DATA" / "100.npy", np.zeros((7, 4, 2), np.float32))


def spoil_values(source):
    np.save(source / "DATA" / "100.npy", np.full((7, 4, 2), -5, np.int16))


def spoil_labels(source):
    write(source / "META" / "labels.json", {"crop": {"a": 1}})


def spoil_layout(source):
    write(source / "META" / "labels.json", {"crop": "wheat"})


def spoil_json(source):
    (source / "META" / "labels.json").write_text("{")


def spoil_pickle(source):
    (source / "normalisation_values.pkl").write_bytes(pickle.dumps((Path("x"), 1)))


def spoil_features(source):
    path = source / "META" / "geomfeat.json"
    write(path, json.loads(path.read_text()) | {"103": [1.0, float("nan"), 0.5, 2.0]})


def spoil_feature(source):
    path = source / "META" / "geomfeat.json"
    write(path, json.loads(path.read_text()) | {"103": [1.0, 2.0]})


def spoil_data(source):
    for path in (source / "DATA").iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_dates, r"not the dates of .*: 60, such as 100 \(7 instead of 1\)"),
        (spoil_date, r"dates\.json: 'May' is not a date"),
        (spoil_keys, r"other keys: 1, such as first"),
        (spoil_array, r"is not a readable array"),
        (spoil_channels, r"have 4 channels, others not: 1, such as 100 \(3\)"),
        (spoil_type, r"expected whole numbers.*float32"),
        (spoil_values, r"100\.npy has values from -5 to -5"),
        (spoil_labels, r"no id under 'crop' is that of a file in DATA: it has a, DATA has 100"),
        (spoil_layout, r"expected \{nomenclature.*such as crop"),
        (spoil_json, r"labels\.json is not valid JSON"),
        (spoil_pickle, r"only numpy arrays are read"),
        (spoil_feature, r"geomfeat\.json: expected \{id: \[number"),
        (spoil_features, r"geomfeat\.json: the features of 1 parcels are not finite.* of 103\."),
        (spoil_data, r"has no <id>\.npy files"),
    ],
)
def test_what_cannot_be_read_is_refused(source, tmp_path, spoil, message):
    make(source)
    spoil(source)
    with pytest.raises(InputError, match=message):
        ingest_folder(source, tmp_path / "run")


def test_settings_that_do_not_fit_are_refused(source, tmp_path):
    make(source)
    with pytest.raises(InputError, match=r"'soil', but labels\.json has crop"):
        ingest_folder(source, tmp_path / "run", nomenclature="soil")
    with pytest.raises(InputError, match=r"4 channels, but 2 bands are named: B02, B03"):
        ingest_folder(source, tmp_path / "run", bands=["B02", "B03"])
    with pytest.raises(InputError, match=r"Lower dataset\.classes\.min_parcels"):
        ingest_folder(source, tmp_path / "run", classes={"min_parcels": 40})
    with pytest.raises(InputError, match=r"dataset\.classes lists \['rye'\]"):
        ingest_folder(source, tmp_path / "run", classes=["wheat", "rye"])


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


def test_features_that_are_missing_are_named(source, tmp_path):
    make(source, features=False)
    run = ingest_folder(source, tmp_path / "run")
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


def test_the_runs_own_dataset_is_refused(source, tmp_path):
    make(source)
    run = ingest_folder(source, tmp_path / "run")
    with pytest.raises(InputError, match=r"of this very run.*another name"):
        ingest_folder(run.dataset.root, tmp_path / "run")
    assert len(opened(run).ids) == len(list(run.dataset.pixels.iterdir())) == 60


def test_arrays_that_were_written_anew_make_way_for_a_link(source, tmp_path):
    make(source, ids=[f"ö{i}" for i in range(30)])
    run = ingest_folder(source, tmp_path / "run")
    assert not run.dataset.pixels.is_symlink()
    other = tmp_path / "other"
    make(other)
    run = ingest_folder(other, tmp_path / "run")
    assert run.dataset.pixels.resolve() == other / "DATA"


def test_validity_comes_along_in_order_of_time(source, tmp_path):
    """A masked dataset of this project whose dates were shuffled."""
    parcels = make(source)
    rng = np.random.default_rng(0)
    order = rng.permutation(7)
    (source / "VALID").mkdir()
    valid = {i: rng.random((7, p.shape[2])) < 0.5 for i, (_, p, _) in parcels.items()}
    for parcel_id, (_, pixels, _) in parcels.items():
        np.save(source / "DATA" / f"{parcel_id}.npy", pixels[order])
        np.save(source / "VALID" / f"{parcel_id}.npy", valid[parcel_id][order])
    write(source / "META" / "dataset.json", {"fill": "none", "bands": BANDS})
    dates = {str(i): number(SEASON[place]) for i, place in enumerate(order)}
    write(source / "META" / "dates.json", dates)
    data = opened(ingest_folder(source, tmp_path / "run")).pixel_sets(with_features=False)
    together = np.concatenate([valid[i].T for i in data.ids])
    assert np.array_equal(data.clear, together[together.any(axis=1)])


@pytest.mark.parametrize("fill", ["linear", "none", None])
def test_pixels_that_are_never_clear_are_left_out(source, tmp_path, fill):
    """Some of each parcel's, all of the first parcel's, and a parcel that says so itself."""
    parcels = make(source, pickled=False)
    if fill is not None:
        write(source / "META" / "dataset.json", {"fill": fill, "bands": BANDS})
    hidden, said_hidden, *others = parcels
    write(source / "META" / "n_dates.json", {**dict.fromkeys(others, 5), said_hidden: 0, hidden: 0})
    rng = np.random.default_rng(0)
    valid = {i: rng.random((7, p.shape[2])) < 0.3 for i, (_, p, _) in parcels.items()}
    valid[hidden][:] = False
    valid[said_hidden][:] = True
    write_arrays(source / "VALID", valid)
    before = content(source)
    run = ingest_folder(source, tmp_path / "run")
    assert content(source) == before

    ledger = ledger_of(run)
    held = [i for i in parcels if valid[i].any() and i != said_hidden]
    assert opened(run).ids == held
    ever = {i: valid[i].any(axis=0) for i in held}
    assert sum((~e).sum() for e in ever.values()) > 10
    for parcel_id, seen in ever.items():
        pixels = parcels[parcel_id][1][:, :, seen]
        assert np.array_equal(read_pixels(run.dataset, parcel_id), pixels)
        assert np.array_equal(read_valid(run.dataset, parcel_id), valid[parcel_id][:, seen])
        row = ledger.loc[parcel_id, ["n_pixels", "n_pixels_never_clear", "n_dates"]].astype(int)
        assert row.tolist() == [seen.sum(), (~seen).sum(), 5]
    for parcel_id in set(parcels) - set(held):
        fate = ledger.loc[parcel_id, ["status", "reason", "n_dates"]].tolist()
        assert fate == ["rejected", "never_seen_clearly", "0"]
    assert len(opened(run).pixels) == sum(e.sum() for e in ever.values())

    if fill != "none":
        together = np.concatenate(
            [parcels[i][1][:, :, e].transpose(1, 0, 2).reshape(4, -1) for i, e in ever.items()], 1
        )
        means, stds = read_normalisation(run.dataset.normalisation)
        np.testing.assert_allclose(means, together.mean(axis=1), rtol=1e-12)
        np.testing.assert_allclose(stds, together.std(axis=1), rtol=1e-9)


def test_validity_of_other_pixels_is_refused(source, tmp_path):
    parcels = make(source)
    write_arrays(source / "VALID", {i: np.ones((7, 1), bool) for i in parcels})
    with pytest.raises(InputError, match=r"VALID/\d+.npy: expected bool of shape \(T, S\), \(7,"):
        ingest_folder(source, tmp_path / "run")
    (source / "VALID" / "100.npy").unlink()
    with pytest.raises(InputError, match=r"VALID/100.npy is not a readable array"):
        ingest_folder(source, tmp_path / "run")


def test_another_dataset_leaves_nothing_of_the_first(source, tmp_path):
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


def snakemake(folder, *options, config, **settings):
    """Run the workflow in a folder with a settings file."""
    over = [f"{section}={json.dumps(values)}" for section, values in settings.items()]
    command = [
        *(sys.executable, "-m", "snakemake", *options, "--snakefile", str(ROOT / "Snakefile")),
        *("--directory", str(folder), "--configfile", str(config), "--config", *over),
    ]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def test_the_papers_protocol_is_the_papers():
    """All that the recipe says holds, over whatever the defaults are."""
    values = example("default", **yaml.safe_load((ROOT / "configs" / "t31tfm.yaml").read_text()))
    paper = read_recipe("paper")["train"]
    assert {key: getattr(values.train, key) for key in paper} == paper
    assert (values.split.folds, values.split.by, len(values.dataset.classes)) == (5, "random", 20)
    assert (values.model.name, values.model.T, values.model.positions) == ("psetae", 1000, "days")


def test_the_papers_protocol_runs_whole(tmp_path):
    """In small, on a dataset of the published shape: from its files to the report."""
    given = PARITY / "pixelset_small"
    if not given.is_dir():
        pytest.skip(f"{given} is not there")
    before = content(given)
    config = ROOT / "configs" / "t31tfm.yaml"
    train = {"epochs": 1, "device": "cpu"}
    snakemake(tmp_path, "--cores", "2", config=config, dataset={"path": str(given)}, train=train)
    run = RunPaths(tmp_path / "results" / "t31tfm")
    assert content(given) == before
    table = pd.read_parquet(run.predictions.with_suffix(".parquet"))
    assert len(table) == len(pd.read_csv(run.predictions.with_suffix(".csv"))) == 200
    assert not run.predictions.exists()
    assert table["pred_source"].value_counts().to_dict() == {"out_of_fold": 180, "ensemble": 20}
    assert table["pred_code"].isin(yaml.safe_load(config.read_text())["dataset"]["classes"]).all()
    page = run.report.read_text()
    assert "The run started from the dataset pixelset_small of 24 dates" in page
    assert "The dataset has 200 parcels" in page
    assert "register" not in re.sub(r"<pre>.*?</pre>", "", page, flags=re.S)
    again = snakemake(tmp_path, "-n", config=config, dataset={"path": str(given)}, train=train)
    assert "Nothing to be done" in again
