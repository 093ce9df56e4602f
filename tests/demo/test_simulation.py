"""The simulated scene: its formats, its properties, and its register."""

import csv
import hashlib
import inspect
import re
from collections import Counter
from datetime import datetime
from pathlib import Path
from xml.etree import ElementTree

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
from shapely.geometry import Point, box

from demo import simulate
from demo.clouds import CLOUD_CLASSES, NO_DATA, SHADOW, coarsen, disturbed, draw_sky
from demo.landscape import draw_landscape
from demo.noise import block_mean, blur
from demo.phenology import BACKGROUND, CROPS, NEVER, RARE_CROPS, draw_stands, ground_cover
from demo.products import write_product
from demo.scene import (
    Acquisition,
    Observation,
    Scene,
    draw_scene,
    observe,
    plan_acquisitions,
)
from demo.spectra import BANDS, BANDS_10M, BANDS_20M
from geo.errors import InputError
from tests.builders.paths import DATA, ROOT

REAL_METADATA = DATA / "safe-metadata"
SMALL = {"seed": 5, "size_m": 1280, "acquisitions": 5, "parcels": 60}
OFFSETS = {"03.01": 0, "05.00": -1000}


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """A small scene, written by the demo."""
    folder = tmp_path_factory.mktemp("raw")
    simulate(folder / "imagery", folder / "parcels.gpkg", **SMALL)
    return folder


@pytest.fixture(scope="module")
def register(raw) -> gpd.GeoDataFrame:
    """The register of the small scene with its defects, in the CRS of the imagery."""
    frame = gpd.read_file(raw / "parcels.gpkg")
    truth = pd.read_csv(raw / "parcels.truth.csv", keep_default_na=False)
    frame["planted"], frame["true_code"] = truth["planted"], truth["true_code"]
    return frame.to_crs("EPSG:32631")


@pytest.fixture(scope="module")
def scene() -> Scene:
    return draw_scene(1280, 60, np.random.default_rng(3))


def overpass(**changes) -> Acquisition:
    values = {
        "sensing": datetime(2021, 6, 10, 10, 40, 31),
        "spacecraft": "S2A",
        "baseline": "03.01",
        "offset": 0,
        "cloud_fraction": 0.0,
        "at_swath_edge": False,
    }
    return Acquisition(**{**values, **changes})


def products(folder: Path) -> list[Path]:
    return sorted((folder / "imagery").glob("*.SAFE"))


def metadata(product: Path, pattern: str = "MTD_MSIL2A.xml") -> ElementTree.Element:
    (path,) = product.glob(pattern)
    return ElementTree.parse(path).getroot()  # noqa: S314, the XML is our own


def text_of(product: Path, tag: str) -> str:
    return metadata(product).findtext(f".//{tag}") or ""


def read_band(product: Path, band: str) -> np.ndarray:
    (path,) = product.glob(f"GRANULE/*/IMG_DATA/R*/*_{band}_*m.jp2")
    with rasterio.open(path) as image:
        return image.read(1)


# Products


def test_bands_are_read_back_on_the_grids_of_the_tile(raw):
    for path in (raw / "imagery").glob("*.SAFE/GRANULE/*/IMG_DATA/R*/*.jp2"):
        resolution = int(re.search(r"_(\d\d)m\.jp2$", path.name)[1])
        with rasterio.open(path) as image:
            assert image.driver == "JP2OpenJPEG"
            assert image.crs.to_epsg() == 32631
            assert image.transform[:6] == (resolution, 0, 640_020, 0, -resolution, 5_160_000)
            assert image.shape == (1280 // resolution,) * 2
            assert image.dtypes[0] == ("uint8" if "_SCL_" in path.name else "uint16")


def test_bands_are_written_without_loss(scene, tmp_path):
    acquisition = overpass(cloud_fraction=0.3, at_swath_edge=True)
    observation = observe(scene, acquisition, np.random.default_rng(0))
    product = write_product(tmp_path, acquisition, observation, scene.grid)
    for band, numbers in {**observation.bands, "SCL": observation.scl}.items():
        np.testing.assert_array_equal(read_band(product, band), numbers)


def test_products_have_the_layout_and_names_of_safe(raw):
    name = r"S2[AB]_MSIL2A_(\d{8}T\d{6})_N(0301|0500)_R\d{3}_(T31TFM)_\d{8}T\d{6}\.SAFE"
    assert len(products(raw)) == SMALL["acquisitions"]
    for product in products(raw):
        sensing, _, tile = re.fullmatch(name, product.name).groups()
        (granule,) = (product / "GRANULE").iterdir()
        assert re.fullmatch(rf"L2A_{tile}_A\d{{6}}_{sensing}", granule.name)
        assert (granule / "MTD_TL.xml").exists()
        ten = {f"R10m/{tile}_{sensing}_{band}_10m.jp2" for band in BANDS_10M}
        twenty = {f"R20m/{tile}_{sensing}_{band}_20m.jp2" for band in (*BANDS_20M, "SCL")}
        images = granule / "IMG_DATA"
        assert {p.relative_to(images).as_posix() for p in images.rglob("*.*")} == ten | twenty
        listed = metadata(product).iter("IMAGE_FILE")
        assert {f"{e.text}.jp2" for e in listed} == {
            p.relative_to(product).as_posix() for p in images.rglob("*.jp2")
        }


def test_no_temporary_or_auxiliary_file_is_left(raw):
    left = [p for p in raw.rglob("*") if p.name.startswith(".") or p.name.endswith(".aux.xml")]
    assert left == []
    assert {p.name for p in raw.iterdir()} == {"imagery", "parcels.gpkg", "parcels.truth.csv"}


def test_all_files_state_that_they_are_simulated(raw, register):
    assert "simulated" in (raw / "imagery" / "README.txt").read_text()
    for product in products(raw):
        assert text_of(product, "SPACECRAFT_NAME") == "Simulated"
        assert text_of(product, "PRODUCT_TYPE") == "S2MSI2A"
    assert gpd.list_layers(raw / "parcels.gpkg")["name"].tolist() == ["simulated_parcels"]
    assert set(register["source"]) == {"simulated"}


def test_both_baselines_occur_and_only_one_declares_offsets(raw):
    found = set()
    for product in products(raw):
        root = metadata(product)
        baseline = root.findtext(".//PROCESSING_BASELINE")
        offsets = {e.get("band_id"): int(e.text) for e in root.iter("BOA_ADD_OFFSET")}
        expected = {str(i): -1000 for i in range(13)} if OFFSETS[baseline] else {}
        assert offsets == expected
        assert f"_N{baseline.replace('.', '')}_" in product.name
        found.add(baseline)
    assert found == set(OFFSETS)


def test_metadata_has_the_elements_of_real_products_in_the_same_places(raw):
    if not REAL_METADATA.is_dir():
        pytest.skip(reason="shared/data/safe-metadata is not there")

    def paths(element: ElementTree.Element, above: str = "") -> set[str]:
        here = f"{above}/{element.tag.rpartition('}')[2]}"
        return {here}.union(*(paths(child, here) for child in element))

    def attributes(root: ElementTree.Element, tag: str, key: str) -> dict[str, str]:
        return {e.get(key): e.text for e in root.iter(tag)}

    (real,) = REAL_METADATA.glob("S2A_MSIL2A_20230821*.SAFE")
    for file in ("MTD_MSIL2A.xml", "GRANULE/*/MTD_TL.xml"):
        theirs = metadata(real, file)
        for product in products(raw):
            ours = metadata(product, file)
            assert paths(ours) <= paths(theirs)
            assert ours.tag.startswith("{https://psd-14.sentinel2.eo.esa.int/PSD/")
            bands = {
                e.get("bandId"): e.get("physicalBand") for e in ours.iter("Spectral_Information")
            }
            if bands:
                assert bands == {
                    e.get("bandId"): e.get("physicalBand")
                    for e in theirs.iter("Spectral_Information")
                }
            if text_of(product, "PROCESSING_BASELINE") == "05.00":
                tag = "BOA_ADD_OFFSET"
                assert attributes(ours, tag, "band_id") == attributes(theirs, tag, "band_id")


def test_reported_cloud_and_no_data_shares_are_those_of_the_classification(raw):
    for product in products(raw):
        scl = read_band(product, "SCL")
        clouds = 100 * np.isin(scl[scl != 0], CLOUD_CLASSES).mean()
        assert float(text_of(product, "Cloud_Coverage_Assessment")) == pytest.approx(clouds)
        no_data = 100 * (scl == 0).mean()
        assert float(text_of(product, "NODATA_PIXEL_PERCENTAGE")) == pytest.approx(no_data)


def test_one_acquisition_is_overcast_and_one_lies_at_the_edge_of_the_swath(raw):
    cover = [float(text_of(p, "Cloud_Coverage_Assessment")) for p in products(raw)]
    assert sum(c > 90 for c in cover) >= 1
    assert min(cover) < 30
    empty = [float(text_of(p, "NODATA_PIXEL_PERCENTAGE")) for p in products(raw)]
    assert sorted(e > 0 for e in empty) == [False] * 4 + [True]
    product = products(raw)[int(np.argmax(empty))]
    outside = read_band(product, "SCL") == NO_DATA
    assert 0.1 < outside.mean() < 0.7
    for band in BANDS:
        size = 2 if band in BANDS_10M else 1
        expected = outside.repeat(size, axis=0).repeat(size, axis=1)
        np.testing.assert_array_equal(read_band(product, band) == 0, expected)


# Images of the sensor


def test_20_m_bands_are_the_mean_of_the_reflectance_at_10_m(scene):
    observation = observe(scene, overpass(cloud_fraction=0.4), np.random.default_rng(1))
    for k, band in enumerate(BANDS):
        truth = observation.truth[k].astype(np.float64)
        if band in BANDS_20M:
            quarters = [truth[i::2, j::2] for i in (0, 1) for j in (0, 1)]
            truth = np.mean(quarters, axis=0)
        error = observation.bands[band] / 10_000 - truth
        sigma = 0.0015 + 0.008 * truth
        # The error is sensor noise only, without bias.
        # Tolerances are five standard errors of a mean and of a standard deviation.
        assert abs((error / sigma).mean()) < 5 / error.size**0.5, band
        assert (error / sigma).std() == pytest.approx(1, abs=5 / (2 * error.size) ** 0.5), band


def test_products_with_and_without_offset_decode_to_the_same_reflectance(scene):
    decoded = {}
    for baseline, offset in OFFSETS.items():
        acquisition = overpass(baseline=baseline, offset=offset)
        observation = observe(scene, acquisition, np.random.default_rng(2))
        decoded[baseline] = {b: n.astype(int) + offset for b, n in observation.bands.items()}
    for band in BANDS:
        # Only numbers below 1 differ: without an offset they would be nodata.
        np.testing.assert_array_equal(
            decoded["03.01"][band], np.maximum(decoded["05.00"][band], 1), err_msg=band
        )


def test_border_pixels_are_mixed(scene):
    observation = observe(scene, overpass(), np.random.default_rng(4))
    cells = scene.units.reshape(128, 2, 128, 2).transpose(0, 2, 1, 3).reshape(128, 128, 4)
    mixed = (cells != cells[..., :1]).any(axis=-1)
    assert 0.05 < mixed.mean() < 0.5
    water = [cover.name for cover in BACKGROUND].index("water")
    infrared = observation.truth[BANDS.index("B08")]
    share = (cells == water).mean(axis=-1)
    assert infrared[share == 1].mean() < infrared[share == 0.5].mean() < infrared[share == 0].mean()


def test_blur_is_that_of_a_dense_gaussian_kernel():
    image = np.random.default_rng(0).random((9, 11), dtype=np.float32)
    padded = np.pad(image, 2, mode="edge")
    weights = np.exp(-0.5 * (np.arange(-2, 3) / 0.6) ** 2)
    kernel = np.outer(weights, weights) / weights.sum() ** 2
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5))
    np.testing.assert_allclose(blur(image, 0.6), (windows * kernel).sum((-2, -1)), rtol=1e-5)
    found, expected = block_mean(image[:8, :10], 2)[1, 2], image[2:4, 4:6].mean()
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def scl_errors(observation: Observation) -> tuple[float, float, float]:
    """Return the fractions of correct pixels, missed clouds and shadows, and false alarms."""
    cloud, shadow = disturbed(coarsen(observation.sky, 2))
    truth, observed = cloud | shadow, observation.scl != NO_DATA
    masked = np.isin(observation.scl, (SHADOW, *CLOUD_CLASSES))
    return (
        (masked == truth)[observed].mean(),
        (truth & ~masked)[observed].sum() / max(truth[observed].sum(), 1),
        (masked & ~truth)[observed].mean(),
    )


def test_the_classification_mostly_agrees_with_the_truth(scene):
    rng = np.random.default_rng(6)
    errors = np.array(
        [
            scl_errors(observe(scene, overpass(cloud_fraction=fraction), rng))
            for fraction in (0.05, 0.2, 0.35, 0.5, 0.7)
        ]
    )
    agreement, missed, false_alarms = errors.mean(axis=0)
    assert 0.85 < agreement < 0.995
    assert 0.03 < missed < 0.25
    assert 0 < false_alarms < 0.03


def test_some_thick_clouds_are_missed_altogether(scene):
    rng = np.random.default_rng(10)
    missed = []
    for _ in range(4):
        observation = observe(scene, overpass(cloud_fraction=0.4), rng)
        cloud = coarsen(observation.sky, 2).cloud
        thick = (cloud > 0.6) & (cloud < 0.95)
        missed.append(~np.isin(observation.scl, CLOUD_CLASSES)[thick])
    assert 0.005 < np.concatenate(missed).mean() < 0.2


def test_shadows_are_the_clouds_moved_away_from_the_sun():
    # With the sun in the south-east (azimuth 135 degrees), shadows are in the north-west.
    sky = draw_sky((300, 300), 0.25, 135.0, 45.0, np.random.default_rng(8))
    matches = {
        (down, right): np.abs(
            sky.shadow[120:180, 120:180]
            - sky.cloud[120 - down : 180 - down, 120 - right : 180 - right]
        ).mean()
        for down in range(-90, 91, 1)
        for right in (down, -down)
    }
    down, right = min(matches, key=matches.get)
    assert matches[down, right] == 0
    assert down < 0 and right < 0
    assert 500 <= 10 * np.hypot(down, right) <= 1_120


@pytest.mark.parametrize(("month", "low", "high"), [(6, 55, 68), (3, 30, 45), (10, 22, 40)])
def test_the_sun_has_the_position_of_burgundy_before_noon(month, low, high):
    azimuth, elevation = overpass(sensing=datetime(2021, month, 15, 10, 40)).sun_angles_deg
    assert 130 < azimuth < 175
    assert low < elevation < high


# Crops


def test_green_cover_is_the_double_logistic_of_beck():
    wheat = next(crop for crop in CROPS if crop.code == "BTH")
    maize = next(crop for crop in CROPS if crop.code == "MIS")
    stands = draw_stands([maize, wheat], np.random.default_rng(0))
    for day in (120.0, 160.0, 200.0):
        green, _, _ = ground_cover(stands, day)
        for i, crop in enumerate((maize, wheat)):
            if day > stands.tilled[i]:
                continue
            rise = 1 / (1 + np.exp(-crop.green_up_rate * (day - stands.green_up[i])))
            fall = 1 / (1 + np.exp(crop.senescence_rate * (day - stands.senescence[i])))
            double = (rise + fall - 1) * (stands.peak[i] - stands.resting[i]) + stands.resting[i]
            # A ripe crop has no green left, not even its green cover of winter.
            assert green[i] == pytest.approx(min(double * fall, 0.98), abs=2e-4)


def test_cover_fractions_add_up_to_at_most_1():
    covers = [*BACKGROUND, *CROPS, *RARE_CROPS] * 20
    stands = draw_stands(covers, np.random.default_rng(1))
    for day in range(60, 306, 5):
        parts = np.array(ground_cover(stands, float(day)))
        assert parts.min() >= 0
        assert parts.sum(axis=0).max() <= 1 + 1e-6


def test_mown_cover_grows_back():
    alfalfa = next(crop for crop in CROPS if crop.code == "LUZ")
    stands = draw_stands([alfalfa] * 50, np.random.default_rng(2))
    first = stands.cuts.min(axis=1)
    # A cut is left out at random: some stands have none.
    mown = np.flatnonzero(first < NEVER)
    assert len(mown) >= 40
    before, after, later = (
        np.array([ground_cover(stands, first[i] + days)[0][i] for i in mown])
        for days in (-1, 1, 18)
    )
    assert (after < before).all()
    assert np.median(after / before) < 0.6
    # A stand may be cut again within these days or ripen: in three of six seeds, about one of 50.
    assert (later > after).mean() >= 0.9


def test_the_hard_pair_differs_by_ten_days_of_senescence():
    crops = {crop.code: crop for crop in CROPS}
    assert 8 <= crops["BTH"].senescence - crops["ORH"].senescence <= 14


# Parcels


def test_parcels_do_not_overlap_and_are_sized_like_fields():
    extent = (640_020.0, 5_157_440.0, 642_580.0, 5_160_000.0)
    landscape = draw_landscape(extent, 250, np.random.default_rng(9))
    assert len(landscape.inside) >= 250
    tree = shapely.STRtree(landscape.parcels)
    for i, j in tree.query(landscape.parcels, predicate="intersects").T:
        if i < j:
            common = landscape.parcels[i].intersection(landscape.parcels[j]).area
            assert common < 1e-3, (i, j)
    hectares = shapely.area(landscape.parcels) / 1e4
    assert hectares.min() > 0.1
    assert 0.8 < np.median(hectares) < 3.5
    assert np.quantile(hectares, 0.95) > 2 * np.median(hectares)
    inside = [landscape.parcels[i] for i in landscape.inside]
    assert all(box(*extent).contains(parcel) for parcel in inside)
    assert any(len(p.interiors) for p in inside if p.geom_type == "Polygon")
    assert any(p.geom_type == "MultiPolygon" for p in inside)


def test_more_parcels_than_fit_are_refused():
    with pytest.raises(InputError, match="do not fit into a scene of 164 ha"):
        draw_landscape((0.0, 0.0, 1280.0, 1280.0), 2_000, np.random.default_rng(0))


def test_register_has_another_crs_than_the_imagery(raw):
    assert gpd.read_file(raw / "parcels.gpkg").crs.to_epsg() == 2154


def test_the_register_has_the_requested_number_of_intact_parcels(register):
    kinds = ["", "sown late", "wrongly declared", "no label"]
    sound = register[register["planted"].isin(kinds)]
    assert len(sound) == SMALL["parcels"]
    frame = box(640_020, 5_160_000 - 1280, 640_020 + 1280, 5_160_000)
    assert sound.within(frame.buffer(0.01)).all()
    assert sound.is_valid.all()
    assert sound["ID_PARCEL"].is_unique
    declared = sound[sound["planted"].isin(["", "sown late"])]
    assert (declared["CODE_CULTU"] == declared["true_code"]).all()


def test_the_register_has_every_kind_of_defect(register):
    frame = box(640_020, 5_160_000 - 1280, 640_020 + 1280, 5_160_000)

    def planted(kind: str) -> gpd.GeoDataFrame:
        rows = register[register["planted"] == kind]
        assert len(rows) > 0, kind
        return rows

    assert planted("null geometry").geometry.isna().all()
    empty = planted("empty geometry").geometry
    assert not empty.isna().any() and empty.is_empty.all()
    bow_tie = planted("bow-tie").geometry.iloc[0]
    assert not bow_tie.is_valid and shapely.make_valid(bow_tie).area > 300
    collapsed = planted("collapsed").geometry.iloc[0]
    assert not collapsed.is_valid and shapely.make_valid(collapsed).area < 1e-6
    assert planted("point").geom_type.tolist() == ["Point"]
    assert planted("line").geom_type.tolist() == ["LineString"]
    assert planted("duplicate id")["ID_PARCEL"].tolist() == [9_200_001] * 2
    assert planted("missing id")["ID_PARCEL"].isna().all()
    assert planted("no label")["CODE_CULTU"].isna().all()
    assert planted("outside").disjoint(frame).all()
    assert planted("partly outside").crosses(frame.boundary).all()
    small = planted("too small").geometry.iloc[0]
    x, y = np.floor(small.centroid.x / 10) * 10, np.floor(small.centroid.y / 10) * 10
    centres = [Point(x + i, y + j) for i in (-5, 5, 15) for j in (-5, 5, 15)]
    assert small.area < 100 and not any(small.contains(c) for c in centres)
    overlap = planted("overlap").geometry.iloc[0]
    others = register[register.geometry.is_valid & (register["planted"] != "overlap")]
    assert (others.intersection(overlap).area > 100).any()
    assert len(planted("hole").geometry.iloc[0].interiors) == 1
    assert planted("multipolygon").geom_type.tolist() == ["MultiPolygon"]
    rare = register["CODE_CULTU"].isin([crop.code for crop in RARE_CROPS])
    assert 1 <= rare.sum() < 30


def test_nomenclature_of_the_repository_names_every_crop(register):
    with (ROOT / "configs" / "nomenclatures" / "simulated.csv").open() as file:
        names = {row["code"]: row["name"] for row in csv.DictReader(file)}
    assert names == {crop.code: crop.name for crop in (*CROPS, *RARE_CROPS)}
    labelled = register[register["CODE_CULTU"].notna()]
    assert (labelled["CODE_CULTU"].map(names) == labelled["CROP_NAME"]).all()


# The scene


def test_the_default_scene_has_the_documented_size_and_classes():
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(simulate).parameters.items()
    }
    assert 5_000 <= defaults["size_m"] <= 5_200
    plan = plan_acquisitions(defaults["acquisitions"], defaults["year"], np.random.default_rng(1))
    dates = [acquisition.sensing for acquisition in plan]
    assert len(set(dates)) == len(dates) >= 20 and dates == sorted(dates)
    assert dates[0].month == 3 and dates[-1].month == 10
    assert {a.baseline: a.offset for a in plan} == OFFSETS
    assert sum(a.cloud_fraction == 1 for a in plan) == 1
    assert sum(a.at_swath_edge for a in plan) == 1
    scene = draw_scene(defaults["size_m"], defaults["parcels"], np.random.default_rng(1))
    count = Counter(scene.crops[i].code for i in scene.landscape.inside)
    common = {code: n for code, n in count.items() if n >= 40}
    assert len(common) >= 8 and sum(common.values()) >= 900 / 0.94
    assert max(common.values()) < 0.35 * sum(common.values())
    assert all(0 < count[crop.code] < 30 for crop in RARE_CROPS)


def digests(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.rglob("*")
        if p.is_file()
    }


def test_equal_seeds_give_equal_bytes_and_others_do_not(raw, tmp_path):
    simulate(tmp_path / "a" / "imagery", tmp_path / "a" / "parcels.gpkg", **SMALL)
    assert digests(tmp_path / "a") == digests(raw)
    # The second scene replaces the first one.
    simulate(tmp_path / "a" / "imagery", tmp_path / "a" / "parcels.gpkg", **{**SMALL, "seed": 6})
    assert digests(tmp_path / "a")["parcels.gpkg"] != digests(raw)["parcels.gpkg"]
    assert len(products(tmp_path / "a")) == SMALL["acquisitions"]


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "imagery").mkdir()
    (tmp_path / "imagery" / "holiday.jpg").touch()
    with pytest.raises(InputError, match="is not empty and was not simulated"):
        simulate(tmp_path / "imagery", tmp_path / "parcels.gpkg", **SMALL)
    assert (tmp_path / "imagery" / "holiday.jpg").exists()


@pytest.mark.parametrize(
    "wrong", [{"size_m": 1000}, {"size_m": 1290}, {"acquisitions": 2}, {"parcels": 10}]
)
def test_impossible_scenes_are_refused(wrong, tmp_path):
    with pytest.raises(InputError, match="at least 50 parcels; found size_m"):
        simulate(tmp_path / "imagery", tmp_path / "parcels.gpkg", **{**SMALL, **wrong})
