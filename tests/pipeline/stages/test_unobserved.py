"""Pixels that are never clear are left out of pixel sets; parcels with too few pixels are rejected.

A simulated scene of two tiles; every parcel is a square of 6 x 6 pixels. In some parcels a part of
the pixels is never clear: it is outside the swath, one band has nodata, or it is under clouds.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
import torch

from geo.errors import InputError
from models.crop_model import CropModel
from pipeline.classes.ledger import count_observed, count_pixels
from pipeline.dataset.model_inputs import read_inputs
from pipeline.dataset.normalisation_pickle import read_normalisation
from pipeline.stages.predict import predict
from pipeline.stages.split import split
from pipeline.stages.train import train
from pipeline.workflow.config import load, view
from pipeline.workflow.paths import RunPaths
from tests.builders.pixel_sets import ingest_dataset, write_arrays
from tests.builders.runs import merged, opened, prepare_dataset, read_pixels, read_valid
from tests.builders.safe import write_safe

SIZE, PITCH, SIDE = 80, 8, 6  # pixels of 10 m of the scene, between parcels, of a parcel
MIN_PIXELS = 3
X_MIN = {"31UDS": 500_000, "31UES": 600_000}
DAYS = {"31UDS": (3, 8, 18, 28), "31UES": (5, 10, 20)}
CLASSES = ("maize", "wheat")
# Pixels of a parcel that are not in a hole. B11 and SCL have pixels of 20 m: the first column of a
# parcel is half of such a pixel.
HOLES = {
    "sixth": np.arange(SIDE)[None, :] >= 1,
    "half": np.arange(SIDE)[None, :] >= 3,
    "too few": (np.arange(SIDE)[:, None] >= 5) & (np.arange(SIDE)[None, :] >= 5),
    "all": np.zeros((SIDE, SIDE), bool),
}
CAUSES = ("swath edge", "no B11", "cloud")
# Every seventh parcel of a tile has a hole.
HOLED = {
    3 + 7 * m: (cause, hole)
    for m, (cause, hole) in enumerate((c, h) for c in CAUSES for h in HOLES)
}
LEARNING = {
    "split": {"folds": 2},
    "model": {
        **{"mlp1": [2, 8, 16], "mlp2": [32, 16], "mlp3": [32, 16], "mlp4": [16, 8, 2]},
        **{"n_head": 2, "d_k": 4},
    },
    "train": {
        **{"epochs": 10, "batch_size": 16, "pixels": 16, "members": 1},
        **{"device": "cpu", "learning_rate": 0.01},
    },
}
N_TILE = (SIZE // PITCH) ** 2


@dataclass(frozen=True)
class Scene:
    """Files of a scene, and their content by tile.

    `values` is (T, 2, rows, columns) of B02 and B11, `clear` is bool (T, rows, columns).
    """

    folder: Path
    values: dict[str, np.ndarray]
    clear: dict[str, np.ndarray]

    @property
    def register(self):
        return self.folder / "register.gpkg"

    def settings(self, fill, **over):
        values = {
            "imagery": {
                **{"path": str(self.folder / "imagery"), "bands": ["B02", "B11"]},
                **{"resampling": "nearest", "radiometry": "trust"},
            },
            "clouds": {"fill": fill},
            "parcels": {
                **{"path": str(self.register), "id": "ID", "labels": {"crop": "CODE"}},
                **{"classes": {"min_parcels": 2}, "min_pixels": MIN_PIXELS},
            },
            **LEARNING,
        }
        return load(merged(values, over))


def id_of(tile, place):
    return str(1000 * (1 + list(DAYS).index(tile)) + place)


def window(place):
    """Rows and columns of a parcel; they are odd, so it begins in the middle of a 20 m pixel."""
    row, col = (PITCH * i + 1 for i in divmod(place, SIZE // PITCH))
    return slice(row, row + SIDE), slice(col, col + SIDE)


def fine(band, values):
    return values if band == "B02" else values.repeat(2, axis=0).repeat(2, axis=1)


def coarse(values):
    """Return one of four 10 m pixels as the 20 m pixel."""
    return values[::2, ::2]


def make_scene(folder, *, holed):
    values, clear = {}, {}
    for tile, days in DAYS.items():
        rng = np.random.default_rng(days)
        crops = np.add.outer(*[np.arange(SIZE) // PITCH] * 2) % 2
        missing = {cause: np.zeros((SIZE, SIZE), bool) for cause in CAUSES}
        for place, (cause, hole) in HOLED.items():
            # The pixels around a parcel belong to no parcel.
            row, col = (part.start for part in window(place))
            observed = np.pad(np.broadcast_to(HOLES[hole], (SIDE, SIDE)), 1, mode="edge")
            missing[cause][row - 1 : row + SIDE + 1, col - 1 : col + SIDE + 1] |= ~observed
        series, masks = [], []
        for t, day in enumerate(days):
            level = 1000 + 1500 * crops + 400 * t * (1 - crops)
            noisy = level + rng.normal(0, 250, level.shape)
            numbers = {
                "B02": np.clip(noisy, 1, None).astype(np.uint16),
                "B11": coarse(np.clip(1.5 * noisy, 1, None).astype(np.uint16)),
                "SCL": np.where(rng.random((SIZE // 2, SIZE // 2)) < 0.2, 9, 4).astype(np.uint8),
            }
            if holed:
                edge = missing["swath edge"]
                numbers["B02"][edge] = 0
                numbers["B11"][coarse(edge | missing["no B11"])] = 0
                numbers["SCL"][coarse(edge)] = 0
                numbers["SCL"][coarse(missing["cloud"])] = 9
            write_safe(
                folder / "imagery", rng, tile=tile, sensed=f"202204{day:02}T105031",
                x_min=X_MIN[tile], bands=tuple(numbers), size=SIZE, numbers=numbers,
            )  # fmt: skip
            bands = np.stack([fine(band, numbers[band]) for band in ("B02", "B11")])
            with_data = (bands > 0).all(axis=0)
            series.append(bands * with_data)
            masks.append(with_data & (fine("SCL", numbers["SCL"]) == 4))
        values[tile], clear[tile] = np.stack(series), np.stack(masks)
    write_register(folder / "register.gpkg")
    return Scene(folder, values, clear)


def write_register(path):
    rows = []
    for tile, x_min in X_MIN.items():
        for place in range(N_TILE):
            down, right = window(place)
            left, top = x_min + 10 * right.start, 5_600_000 - 10 * down.start
            outline = shapely.box(left, top - 10 * SIDE, left + 10 * SIDE, top)
            crop = CLASSES[sum(divmod(place, SIZE // PITCH)) % 2]
            rows.append((id_of(tile, place), crop, outline))
    columns = dict(zip(("ID", "CODE", "geometry"), zip(*rows, strict=True), strict=True))
    gpd.GeoDataFrame(columns, crs="EPSG:32631").to_file(path)


def brute_force(scene, tile, place, fill):
    """Read a parcel pixel by pixel: values (T, 2, S) and clear mask (T, S) of pixels ever clear."""
    down, right = window(place)
    days = np.array(DAYS[tile])
    pixels, masks = [], []
    for row in range(down.start, down.stop):
        for col in range(right.start, right.stop):
            series, clear = scene.values[tile][:, :, row, col], scene.clear[tile][:, row, col]
            if not clear.any():
                continue
            if fill == "linear":
                lines = [np.interp(days, days[clear], s[clear]) for s in series.T]
                series = np.floor(np.stack(lines, axis=1) + 0.5).astype(np.int64)
            pixels.append(series)
            masks.append(clear)
    if not pixels:
        return np.zeros((len(days), 2, 0)), np.zeros((len(days), 0), bool)
    return np.stack(pixels, axis=2), np.stack(masks, axis=1)


PLACES = [(tile, place) for tile in DAYS for place in range(N_TILE)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The scene without the holes."""
    return make_scene(tmp_path_factory.mktemp("whole"), holed=False)


@pytest.fixture(scope="module")
def holed(tmp_path_factory):
    return make_scene(tmp_path_factory.mktemp("holed"), holed=True)


@pytest.fixture(scope="module", params=["linear", "none"])
def fill(request):
    return request.param


@pytest.fixture(scope="module")
def run(holed, fill, tmp_path_factory):
    """The dataset of the scene with holes."""
    return prepare_dataset(holed.settings(fill), tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def expected(holed, fill):
    return {id_of(*where): brute_force(holed, *where, fill) for where in PLACES}


def ledger_of(run):
    table = run.ledger.with_suffix(".csv")
    rows = pd.read_csv(table, keep_default_na=False, dtype={"parcel_id": str})
    return rows.set_index("parcel_id")


def test_the_scene_has_every_kind_of_hole(expected):
    counts = {
        (cause, hole): {expected[id_of(tile, place)][0].shape[2] for tile in DAYS}
        for place, (cause, hole) in HOLED.items()
    }
    # A pixel outside the holes can be cloudy on every date, too.
    most = {"sixth": 30, "half": 18, "too few": 1, "all": 0}
    assert all(max(sizes) <= most[hole] for (_, hole), sizes in counts.items())
    assert all(min(sizes) > most[hole] / 2 - 1 for (_, hole), sizes in counts.items())


def test_arrays_contain_the_pixels_that_are_ever_clear(run, expected, fill):
    held = [i for i, (pixels, _) in expected.items() if pixels.shape[2] >= MIN_PIXELS]
    assert opened(run).ids == held
    for parcel_id in held:
        pixels, clear = expected[parcel_id]
        found, valid = read_pixels(run.dataset, parcel_id), read_valid(run.dataset, parcel_id)
        assert found.shape == pixels.shape
        assert np.array_equal(valid, clear)
        # Interpolation may round an exact half up or down.
        assert np.abs(found.astype(int) - pixels).max() <= (fill == "linear")
        assert found.transpose(0, 2, 1)[clear].tolist() == pixels.transpose(0, 2, 1)[clear].tolist()
        if fill == "linear":
            assert found.min() > 0


def test_all_files_contain_the_same_parcels(run, expected):
    held = {i for i, (pixels, _) in expected.items() if pixels.shape[2] >= MIN_PIXELS}
    sizes = {i: expected[i][0].shape[2] for i in held}
    dataset = run.dataset
    for name in ("sizes", "labels", "features", "positions", "n_dates"):
        found = json.loads(getattr(dataset, name).read_text())
        assert set(found["crop"] if name == "labels" else found) == held, name
    assert json.loads(dataset.sizes.read_text()) == sizes
    for folder in (dataset.pixels, dataset.valid):
        assert {path.stem for path in folder.iterdir()} == held
    assert set(opened(run).parcel_dates) == held
    assert len(opened(run).pixels) == sum(sizes.values())
    for parcel_id, n_dates in zip(opened(run).ids, opened(run).n_dates, strict=True):
        assert n_dates == expected[parcel_id][1].any(axis=1).sum()
    # The features describe the outline, not the pixels.
    assert (opened(run).features[:, 1:3] == [SIDE**2, 1]).all()


def test_the_ledger_has_pixels_and_reasons_of_all_parcels(run, expected):
    ledger = ledger_of(run)
    assert list(ledger.index) == list(expected)
    fates = set()
    for parcel_id, row in ledger.iterrows():
        pixels, clear = expected[parcel_id]
        size = pixels.shape[2]
        assert row["n_pixels"] == size
        assert row["n_pixels_never_clear"] == SIDE**2 - size
        assert row["n_dates"] == clear.any(axis=1).sum()
        reason = "" if size else "never_seen_clearly"
        if 0 < size < MIN_PIXELS:
            reason = "too_few_pixels_observed"
        assert row["reason"] == reason
        assert row["status"] == ("rejected" if reason else "used")
        fates.add(reason)
    assert len(fates) == 3


def test_the_normalisation_is_that_of_clear_pixels(run, expected, fill):
    held = [i for i, (pixels, _) in expected.items() if pixels.shape[2] >= MIN_PIXELS]
    counted = [
        expected[i][0].transpose(0, 2, 1)[expected[i][1] if fill == "none" else ...].reshape(-1, 2)
        for i in held
    ]
    together = np.concatenate(counted).astype(float)
    means, stds = read_normalisation(run.dataset.normalisation)
    # An interpolated exact half may differ by half a digital number.
    np.testing.assert_allclose(means, together.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(stds, together.std(axis=0), rtol=1e-4)


def test_folds_contain_only_used_parcels(holed, run, fill, tmp_path):
    split(run.dataset.root, tmp_path / "folds.json", view(holed.settings(fill), "split"))
    folds = json.loads((tmp_path / "folds.json").read_text())["folds"]
    tested = sorted(i for fold in folds for i in fold["test"])
    ledger = ledger_of(run)
    assert tested == sorted(ledger.index[ledger["status"] == "used"])


@pytest.fixture(scope="module")
def trained(whole, fill, tmp_path_factory):
    """Models of the scene without holes, and its dataset."""
    settings = whole.settings(fill)
    run = prepare_dataset(settings, tmp_path_factory.mktemp("trained"))
    split(run.dataset.root, run.folds, view(settings, "split"))
    torch.set_num_threads(1)
    for fold in (1, 2):
        train(run.dataset.root, run.folds, fold, run.fold(fold), view(settings, "train"))
    return run


def cut(source, target, expected, whole):
    """Write the dataset without holes, every parcel cut to its pixels in `expected`."""
    arrays, valid = {}, {}
    for tile, place in PLACES:
        parcel_id = id_of(tile, place)
        down, right = window(place)
        if expected[parcel_id][0].shape[2] < MIN_PIXELS:
            continue
        ever = {
            scene: scene_clear[tile][:, down, right].any(axis=0).ravel()
            for scene, scene_clear in (("holed", expected["clear"]), ("whole", whole.clear))
        }
        chosen = ever["holed"][ever["whole"]]
        arrays[parcel_id] = read_pixels(source, parcel_id)[:, :, chosen]
        valid[parcel_id] = read_valid(source, parcel_id)[:, chosen]
    write_arrays(target / "DATA", arrays)
    write_arrays(target / "VALID", valid)
    (target / "META").mkdir()
    for path in (source.root / "META").glob("*.json"):
        (target / "META" / path.name).write_text(path.read_text())


def probabilities(run, models, settings):
    """Compute the log-probabilities of every parcel by both models, {id: (2, K)}."""
    own = [CropModel.load(models / f"Fold_{k}", torch.device("cpu")) for k in (1, 2)]
    dataset = opened(run)
    data = read_inputs(dataset, own, dataset.classes)
    every = np.arange(len(data.ids))
    scores = [model.log_probabilities(data, every, settings.predict.batch_size) for model in own]
    return dict(zip(data.ids, np.stack(scores, axis=1), strict=True))


@pytest.mark.slow
def test_predictions_equal_those_of_parcels_cut_to_their_clear_pixels(
    whole, holed, fill, run, trained, expected, tmp_path
):
    cut(trained.dataset, tmp_path / "cut", {**expected, "clear": holed.clear}, whole)
    given = {"path": str(tmp_path / "cut"), "classes": {"min_parcels": 2}}
    settings = load({"dataset": given, **LEARNING, "predict": {"weights": str(trained.models)}})
    other = RunPaths(tmp_path / "run")
    ingest_dataset(settings, other)
    ours, theirs = (probabilities(r, trained.models, settings) for r in (run, other))
    assert set(ours) == set(theirs)
    for parcel_id, scores in theirs.items():
        np.testing.assert_allclose(np.exp(ours[parcel_id]), np.exp(scores), atol=1e-6)

    tables = []
    given = holed.settings(fill, predict={"weights": str(trained.models)})
    for one, register, own in ((run, holed.register, given), (other, None, settings)):
        options = view(own, "predict")
        predict(
            one.dataset.root, trained.models, one.ledger, one.predictions, options,
            register=register,
        )  # fmt: skip
        table = pd.read_csv(one.predictions.with_suffix(".csv"), dtype={"parcel_id": str})
        tables.append(table.set_index("parcel_id"))
    chosen = ["pred_code", "pred2_code", "confidence", "n_pixels", "n_dates"]
    held = sorted(theirs)
    pd.testing.assert_frame_equal(
        tables[0].loc[held, chosen], tables[1].loc[held, chosen], check_dtype=False
    )
    # The task is easy: half of a parcel is enough for the right class.
    assert (tables[0].loc[held, "pred_code"] == tables[0].loc[held, "declared_code"]).mean() > 0.9

    layer = gpd.read_file(run.predictions, layer="parcels").set_index("parcel_id")
    assert list(layer.index) == list(expected)
    for parcel_id, row in layer.iterrows():
        size = expected[parcel_id][0].shape[2]
        assert row["n_pixels"] == size
        if size >= MIN_PIXELS:
            assert row["status"] == "used"  # by the ledger of the training
            assert row["pred_code"] in CLASSES
            continue
        reason = "too_few_pixels_observed" if size else "never_seen_clearly"
        assert (row["status"], row["reason"]) == ("rejected", reason)
        assert row[["pred_code", "pred2_code", "confidence"]].isna().all()
        assert row["n_dates"] == expected[parcel_id][1].any(axis=1).sum()


def test_a_register_without_clear_pixels_is_refused(whole, tmp_path):
    settings = whole.settings(
        "linear", clouds={"classes": [4, 9]}, imagery={"max_cloud_fraction": 1.0}
    )
    match = r"None of the 200 parcels has parcels.min_pixels, 3, .* the largest number is 0\. "
    with pytest.raises(InputError, match=match):
        prepare_dataset(settings, tmp_path)
    assert not (tmp_path / "dataset" / "DATA").exists()


def test_rows_and_parcels_are_joined_by_id():
    def rows():
        return pd.DataFrame(
            {
                "row": [0, 1, 2, 3],
                "parcel_id": ["a", "a", "b", "c"],
                "reason": ["duplicate_id", "", "", ""],
            }
        )

    counts = pd.DataFrame(
        {"row": [2, 1, 0, 3], "n_pixels": [7, 9, 4, 2], "indexed": [True, True, False, False]}
    )
    observed = pd.DataFrame(
        {"parcel_id": ["b", "a"], "n_pixels": [2, 9], "n_dates": [1, 2], "held": [False, True]}
    )
    found = rows()
    count_pixels(found, counts)
    count_observed(found, observed)
    assert found["reason"].tolist() == [
        "duplicate_id", "", "too_few_pixels_observed", "too_few_pixels",
    ]  # fmt: skip
    assert found["n_pixels"].tolist() == [4, 9, 2, 2]
    assert found["n_pixels_never_clear"].tolist() == [pd.NA, 0, 5, pd.NA]
    assert found["n_dates"].tolist() == [pd.NA, 2, 1, pd.NA]
    with pytest.raises(InputError, match=r"1 usable parcels were not rasterised, such as b\. .*-R"):
        count_pixels(rows(), counts[1:])
    found = rows()
    count_pixels(found, counts)
    with pytest.raises(InputError, match=r"1 usable parcels were not assembled, such as a\. .*-R"):
        count_observed(found, observed[:1])
