"""Items as the public catalogues write them: bands, grids and radiometry are read from JSON."""

import json
from datetime import date, datetime

import pytest
from pyproj import CRS

from geo.errors import InputError
from geo.imagery.discovery import find_acquisitions
from tests.builders.items import assert_survive
from tests.builders.stac import item_of

TEN = ("B02", "B03", "B04", "B08")
TWENTY = ("B05", "B06", "B07", "B8A", "B11", "B12", "SCL")
KEYS = {
    **{"B01": "coastal", "B02": "blue", "B03": "green", "B04": "red", "B05": "rededge1"},
    **{"B06": "rededge2", "B07": "rededge3", "B08": "nir", "B8A": "nir08", "B09": "nir09"},
    **{"B11": "swir16", "B12": "swir22", "SCL": "scl"},
}


def metres_of(name):
    return 10 if name in TEN else 20 if name in TWENTY else 60


def placed(name, west, north, metres=None):
    """Return the fields of the extension projection, as all three catalogues write them."""
    metres = metres or metres_of(name)
    shape = [109_800 // metres] * 2
    return {"proj:shape": shape, "proj:transform": [metres, 0, west, 0, -metres, north]}


def earth_search(baseline="05.09", applied=True, offset=-0.1):
    """Return an item of Earth Search: STAC 1.0, a JPEG 2000 beside every GeoTIFF, a preview."""
    store = "https://cogs.example/sentinel-s2-l2a-cogs/22/M/HD/2023/9/S2B_22MHD_20230912_0_L2A"
    assets = {}
    for name, key in KEYS.items():
        layer = {"nodata": 0, "data_type": "uint16", "bits_per_sample": 15}
        if name != "SCL":
            layer |= {"scale": 0.0001, "offset": offset}
        band = {"name": key, "common_name": "rededge" if "rededge" in key else key}
        assets[key] = {
            "href": f"{store}/{name}.tif",
            "type": "image/tiff; application=geotiff; profile=cloud-optimized",
            "eo:bands": [] if name == "SCL" else [band],
            "gsd": metres_of(name),
            "raster:bands": [layer],
            "roles": ["data", "reflectance"],
            **placed(name, 799_980, 9_900_040),
        }
        assets[f"{key}-jp2"] = {
            **assets[key],
            "href": f"s3://sentinel-s2-l2a/tiles/22/M/HD/2023/9/12/0/R10m/{name}.jp2",
            "type": "image/jp2",
        }
    preview = [{"name": name} for name in ("red", "green", "blue")]
    assets["visual"] = {**assets["red"], "href": f"{store}/TCI.tif", "eo:bands": preview}
    assets["visual"] |= {"roles": ["visual"], "raster:bands": [{"data_type": "uint8"}] * 3}
    assets["thumbnail"] = {"href": f"{store}/thumbnail.jpg", "type": "image/jpeg"}
    assets["granule_metadata"] = {"href": f"{store}/metadata.xml", "roles": ["metadata"]}
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": "S2B_22MHD_20230912_0_L2A",
        "collection": "sentinel-2-l2a",
        "bbox": [-48.3, -1.9, -47.3, -0.9],
        "properties": {
            "datetime": "2023-09-12T13:42:47.536000Z",
            "platform": "sentinel-2b",
            "proj:epsg": 32722,
            "mgrs:utm_zone": 22,
            "mgrs:latitude_band": "M",
            "mgrs:grid_square": "HD",
            "grid:code": "MGRS-22MHD",
            "eo:cloud_cover": 1.286568,
            "s2:nodata_pixel_percentage": 25,
            "s2:processing_baseline": baseline,
            "s2:generation_time": "2023-09-12T17:40:59.000000Z",
            "s2:datastrip_id": "S2B_OPER_MSI_L2A_DS_2BPS_20230912T174059_S20230912T133836_N05.09",
            "earthsearch:boa_offset_applied": applied,
        },
        "assets": assets,
    }


def planetary_computer(baseline="02.12"):
    """Return an item of the Planetary Computer: STAC 1.0, without scale and offset."""
    product = f"S2B_MSIL2A_20190629T212529_N{baseline.replace('.', '')}_R043_T06VVN_20201006T080531"
    store = f"https://account.blob.core.windows.net/sentinel2-l2/06/V/VN/{product}.SAFE"
    assets = {
        name: {
            "href": f"{store}/T06VVN_20190629T212529_{name}_{metres_of(name)}m.tif",
            "type": "image/tiff; application=geotiff; profile=cloud-optimized",
            "gsd": metres_of(name),
            "eo:bands": [{"name": name, "common_name": key.rstrip("123")}],
            "roles": ["data"],
            **placed(name, 399_960, 6_800_040),
        }
        for name, key in KEYS.items()
    }
    assets["visual"] = {**assets["B02"], "href": f"{store}/TCI.tif"}
    assets["visual"]["eo:bands"] = [{"name": name} for name in ("B04", "B03", "B02")]
    assets["AOT"] = {**assets["B02"], "href": f"{store}/AOT.tif", "eo:bands": []}
    assets["product-metadata"] = {"href": f"{store}/MTD_MSIL2A.xml", "type": "application/xml"}
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": product.replace(f"_N{baseline.replace('.', '')}", ""),
        "collection": "sentinel-2-l2a",
        "bbox": [-148.9, 60.3, -146.8, 61.3],
        "properties": {
            "datetime": "2019-06-29T21:25:29.024000Z",
            "platform": "Sentinel-2B",
            "proj:epsg": 32606,
            "s2:mgrs_tile": "06VVN",
            "eo:cloud_cover": 0.314306,
            "s2:processing_baseline": baseline,
            "s2:product_uri": f"{product}.SAFE",
            "s2:generation_time": "2020-10-06T08:05:31.830Z",
            "s2:datastrip_id": "S2B_OPER_MSI_L2A_DS_ESRI_20201006T080533_S20190629T212530_N02.12",
            "s2:nodata_pixel_percentage": 0.0,
        },
        "assets": assets,
    }


def copernicus(baseline="05.11"):
    """Return an item of the Copernicus Data Space: STAC 1.1, every band at several resolutions."""
    product = "S2C_MSIL2A_20250330T100051_N0511_R122_T33UWP_20250330T145914"
    assets = {}
    for name, key in KEYS.items():
        for metres in (10, 20, 60):
            if metres < metres_of(name) and name != "B01":
                continue
            assets[f"{name}_{metres}m"] = {
                "href": f"s3://eodata/Sentinel-2/{product}.SAFE/R{metres}m/{name}_{metres}m.jp2",
                "type": "image/jp2",
                "bands": [{"name": name, "eo:common_name": key.rstrip("123")}],
                "gsd": metres,
                "roles": ["data", "reflectance", f"gsd:{metres}m"],
                "nodata": 0,
                "data_type": "uint16",
                "proj:code": "EPSG:32633",
                "raster:scale": 0.0001,
                "raster:offset": -0.1,
                **placed(name, 499_980, 5_400_000, metres),
            }
    assets["AOT_10m"] = {**assets["B02_10m"], "href": "s3://eodata/AOT_10m.jp2"}
    del assets["AOT_10m"]["bands"]
    assets["TCI_10m"] = {**assets["B02_10m"], "roles": ["visual", "gsd:10m"]}
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "id": product,
        "collection": "sentinel-2-l2a",
        "bbox": [15.0, 47.7, 16.5, 48.8],
        "properties": {
            "datetime": "2025-03-30T10:00:51.025Z",
            "platform": "sentinel-2c",
            "grid:code": "MGRS-33UWP",
            "eo:cloud_cover": 86.041468,
            "statistics": {"nodata": 2.374249, "water": 0.07},
            "processing:version": baseline,
            "processing:datetime": "2025-03-30T14:59:14.000000Z",
            "eopf:datastrip_id": "S2C_OPER_MSI_L2A_DS_2CPS_20250330T145914_S20250330T100435_N05.11",
        },
        "assets": assets,
    }


@pytest.fixture
def read(tmp_path):
    def read(item, **options):
        path = tmp_path / f"{item['id']}.json"
        path.write_text(json.dumps(item))
        (found,) = find_acquisitions(path, **options)
        return found

    return read


def test_an_item_of_earth_search(read):
    found = read(earth_search())
    assert (found.id, found.tile, found.date) == (
        "S2B_22MHD_20230912_0_L2A", "22MHD", date(2023, 9, 12),
    )  # fmt: skip
    assert (found.baseline, found.platform, found.datastrip) == (
        "05.09", "sentinel-2b", "20230912T133836",
    )  # fmt: skip
    assert found.sensing_start == datetime(2023, 9, 12, 13, 42, 47, 536000)
    assert found.cloud_fraction == pytest.approx(0.01286568)
    assert found.valid_fraction == 0.75
    assert found.generated == "2023-09-12T17:40:59.000000Z"
    assert list(found.bands) == [name for name in KEYS if name != "SCL"]
    assert list(found.masks) == ["SCL"]
    for name, band in {**found.bands, **found.masks}.items():
        assert band.source.endswith(f"/S2B_22MHD_20230912_0_L2A/{name}.tif")
        assert band.grid.crs == "EPSG:32722"
        assert band.grid.pixel_width == metres_of(name)
        assert band.grid.bounds == (799_980, 9_790_240, 909_780, 9_900_040)
        assert (band.scale, band.offset, band.nodata) == (1, 0, 0)


@pytest.mark.parametrize(
    ("baseline", "applied", "stated", "offset"),
    [
        ("05.09", True, -0.1, 0),  # subtracted from the pixels, but still stated
        ("05.09", False, -0.1, -1000),
        ("05.00", None, -0.1, -1000),  # as in sentinel-2-c1-l2a
        ("03.01", False, 0, 0),
        ("02.14", None, None, 0),
        ("04.00", None, None, -1000),
        ("04.00", True, None, 0),
    ],
)
def test_the_offset_is_the_one_that_the_pixels_still_have(read, baseline, applied, stated, offset):
    found = read(earth_search(baseline, applied, stated))
    assert {band.offset for band in found.bands.values()} == {offset}
    assert found.masks["SCL"].offset == 0


@pytest.mark.parametrize(("baseline", "offset"), [("02.12", 0), ("04.00", -1000), ("05.10", -1000)])
def test_an_item_of_the_planetary_computer(read, baseline, offset):
    found = read(planetary_computer(baseline), signed_by="planetary_computer")
    assert found.tile == "06VVN"
    assert found.baseline == baseline
    assert list(found.bands) == [name for name in KEYS if name != "SCL"]
    for name, band in {**found.bands, **found.masks}.items():
        start = "planetary-computer+https://account.blob.core.windows.net/sentinel2-l2/"
        assert band.source.startswith(start)
        assert band.source.endswith(f"_{name}_{metres_of(name)}m.tif")
        assert (band.scale, band.offset) == (1, offset if name in found.bands else 0)
        assert band.grid.crs == "EPSG:32606"


def test_an_item_of_copernicus(read):
    found = read(copernicus())
    assert (found.tile, found.baseline, found.datastrip) == ("33UWP", "05.11", "20250330T100435")
    assert found.valid_fraction == pytest.approx(0.97625751)
    assert list(found.bands) == [name for name in KEYS if name != "SCL"]
    for name, band in {**found.bands, **found.masks}.items():
        # The native resolution is chosen.
        assert band.source.startswith("s3://eodata/Sentinel-2/S2C_MSIL2A_20250330T100051_")
        assert band.source.endswith(f"/{name}_{metres_of(name)}m.jp2")
        assert band.grid.crs == "EPSG:32633"
        assert (band.scale, band.offset) == (1, -1000 if name in found.bands else 0)


def test_layers_of_one_file_are_bands(read):
    item = item_of("20180405", "https://somewhere")
    names = ("nir", "B03", "blue", "mask")
    item["assets"] = {
        "data": {
            "href": "https://somewhere/all.tif",
            "bands": [{"name": name, "data_type": "float32"} for name in names],
            "raster:scale": 0.01,
            "proj:shape": [5, 6],
            "proj:transform": [10, 0, 500_000, 0, -10, 5_600_000, 0, 0, 1],
        },
        "green": {**item["assets"]["green"], "href": "https://somewhere/green.tif"},
    }
    found = read(item)
    assert {name: (band.source[17:], band.layer) for name, band in found.bands.items()} == {
        "B02": ("/all.tif", 3), "B03": ("/green.tif", 1), "B08": ("/all.tif", 1),
    }  # fmt: skip
    assert (found.bands["B02"].scale, found.bands["B02"].offset) == (100, 0)


@pytest.mark.parametrize(
    ("key", "file", "mask"),
    [
        ("cloud", "CLD_20m.tif", "CLDPRB"),  # as sentinel-2-c1-l2a
        ("CLD_20m", "T31UES_CLD_20m.jp2", "CLDPRB"),
        ("MSK_CLDPRB_20m", "x.tif", "CLDPRB"),
        ("cloud", "cloud_mask.tif", None),
        ("classes", "SCL.tif", "SCL"),
    ],
)
def test_masks_are_recognised_by_key_and_file_name(read, key, file, mask):
    item = item_of("20180405", "https://somewhere")
    mask_asset = {**item["assets"].pop("scl"), "href": f"https://somewhere/{file}?a=b"}
    item["assets"][key] = mask_asset
    assert list(read(item).masks) == ([mask] if mask else [])


@pytest.mark.parametrize(
    ("properties", "tile"),
    [
        ({"grid:code": "MGRS-6VVN"}, "06VVN"),
        ({"s2:mgrs_tile": "06VVN"}, "06VVN"),
        ({"s2:product_uri": "S2B_MSIL2A_20190629T212529_N0212_R043_T06VVN_2020.SAFE"}, "06VVN"),
        ({"mgrs:utm_zone": 6, "mgrs:latitude_band": "V", "mgrs:grid_square": "VN"}, "06VVN"),
        ({"grid:code": "WRS2-1"}, "31UES"),  # from the id
        ({}, "31UES"),
    ],
)
def test_the_tile_is_read_from_properties_or_the_id(read, properties, tile):
    item = item_of("20180405", "https://somewhere")
    del item["properties"]["grid:code"]
    item["properties"] |= properties
    assert read(item).tile == tile


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda item: item["properties"].pop("datetime"), "has no datetime"),
        (lambda item: item.update(type="Collection"), "is a STAC Collection, expected an item"),
        (lambda item: item.pop("assets"), r"is not a STAC item: it lacks 'assets'"),
        (lambda item: item["properties"].update({"eo:cloud_cover": "much"}), "is not a STAC item"),
        (
            lambda item: item["assets"]["blue"].update({"proj:transform": [9, 1, 0, 1, -9, 0]}),
            "Asset blue of .*: Rotated rasters",
        ),
        (lambda item: item["properties"].update({"proj:epsg": 999_999}), "Asset blue of"),
    ],
)
def test_items_that_cannot_be_used_are_refused(read, change, message):
    item = item_of("20180405", "https://somewhere")
    change(item)
    with pytest.raises(InputError, match=message):
        read(item, bands=["B02"])


def old_item(version):
    """Return an item of STAC before 1.0: its assets name bands by number, if not by their keys."""
    bands = [{"name": name, "common_name": KEYS[name].rstrip("123")} for name in TEN + TWENTY[:-1]]
    grid = placed("B02", 600_000, 5_700_000)
    assets = {
        f"file{number}": {
            "href": f"https://somewhere/{number}.tif",
            "type": "image/vnd.stac.geotiff; cloud-optimized=true",
            "eo:bands": [number],
        }
        for number in (0, 1)
    }
    assets["file0"] |= grid
    # The red edge has no common name of its own, and three layers are in one file.
    assets["edge"] = {
        "href": "https://somewhere/e.tif",
        "type": "image/tiff",
        "eo:bands": [4, 5, 6],
    }
    assets["edge"] |= placed("B05", 600_000, 5_700_000)
    return {
        "type": "Feature",
        "stac_version": version,
        "id": "S2A_31UES_20180405_0_L1C",
        "properties": {
            "datetime": "2018-04-05T10:50:31.024Z",
            "eo:platform": "sentinel-2a",
            "eo:epsg": 32631,
            "eo:gsd": 10,
            "eo:cloud_cover": 20,
            "eo:bands": bands,
            "sentinel:utm_zone": 31,
            "sentinel:latitude_band": "U",
            "sentinel:grid_square": "ES",
            "sentinel:data_coverage": 78.5,
            "sentinel:product_id": "S2A_MSIL1C_20180405T105031_N0206_R051_T31UES_20180405T130217",
            **grid,
        },
        "assets": assets,
    }


@pytest.mark.parametrize("version", ["0.6.2", "0.7.0", "0.8.0", "0.8.1", "0.9.0", "1.0.0-beta.2"])
def test_items_before_version_1_are_read(read, version):
    found = read(old_item(version))
    assert {name: (band.source[-5:], band.layer) for name, band in found.bands.items()} == {
        "B02": ("0.tif", 1), "B03": ("1.tif", 1),
        "B05": ("e.tif", 1), "B06": ("e.tif", 2), "B07": ("e.tif", 3),
    }  # fmt: skip
    assert {band.grid.bounds for band in found.bands.values()} == {
        (600_000, 5_590_200, 709_800, 5_700_000)
    }
    assert {name: band.grid.pixel_width for name, band in found.bands.items()} == {
        "B02": 10, "B03": 10, "B05": 20, "B06": 20, "B07": 20,
    }  # fmt: skip
    assert found.bands["B05"].grid.crs == "EPSG:32631"
    assert (found.tile, found.baseline, found.platform) == ("31UES", "02.06", "sentinel-2a")
    assert (found.valid_fraction, found.cloud_fraction) == (0.785, 0.2)
    assert found.sensing_start == datetime(2018, 4, 5, 10, 50, 31, 24000)


def test_numbers_of_bands_that_the_item_does_not_list_are_ignored(read):
    item = old_item("0.8.1")
    del item["properties"]["eo:bands"]
    item["assets"]["B04"] = {**item["assets"].pop("file0"), "eo:bands": [3]}
    assert list(read(item).bands) == ["B04"]


def test_a_period_of_version_0_8_has_its_first_day(read):
    item = old_item("0.8.1")
    item["properties"]["dtr:start_datetime"] = item["properties"].pop("datetime")
    assert read(item).date == date(2018, 4, 5)


@pytest.mark.parametrize(
    ("properties", "asset", "crs"),
    [
        ({"proj:code": "EPSG:32631", "proj:epsg": 32632}, {}, "EPSG:32631"),
        ({"proj:epsg": 32632}, {"proj:code": "EPSG:32631"}, "EPSG:32631"),
        ({"proj:epsg": "32631"}, {}, "EPSG:32631"),
        ({"proj:epsg": None, "proj:code": "EPSG:32631"}, {}, "EPSG:32631"),
        ({"proj:code": None, "proj:wkt2": CRS(32631).to_wkt()}, {}, "EPSG:32631"),
        ({"proj:projjson": CRS(32631).to_json_dict()}, {}, "EPSG:32631"),
    ],
)
def test_the_coordinate_system_is_stated_in_many_ways(read, properties, asset, crs):
    item = item_of("20180405", "https://somewhere")
    del item["properties"]["proj:epsg"]
    item["properties"] |= properties
    for fields in item["assets"].values():
        fields |= asset
    assert {band.grid.crs for band in read(item).bands.values()} == {crs}


def test_bands_of_version_1_1_have_their_names_and_scales_inside(read):
    item = item_of("20180405", "https://somewhere")
    item["stac_version"] = "1.1.0"
    grid = placed("B02", 600_000, 5_700_000)
    inside = {"name": "x", "eo:common_name": "nir", "raster:scale": 0.01, "raster:offset": -0.5}
    item["assets"] = {
        "a": {"href": "https://somewhere/a.tif", "bands": [inside], "nodata": 7, **grid},
        "b": {
            "href": "https://somewhere/b.tif",
            "bands": [{"eo:common_name": "rededge071"}],
            **grid,
        },
    }
    item["assets"]["b"] |= {"raster:scale": 0.001, "raster:offset": -0.1, "data_type": "int16"}
    bands = read(item).bands
    assert {name: (b.scale, b.offset, b.nodata) for name, b in bands.items()} == {
        "B05": (10, -100, 0), "B08": (100, -50, 7),
    }  # fmt: skip


def test_missing_bands_are_refused(read):
    with pytest.raises(InputError, match=r"_L2A\.json: no B11 \(it has B02\)"):
        read(item_of("20180405", "https://somewhere"), bands=["B02", "B11"])


def test_a_setting_of_the_scale_is_refused(read):
    with pytest.raises(InputError, match="leave out reflectance_scale"):
        read(item_of("20180405", "https://somewhere"), reflectance_scale=1e-4)


@pytest.mark.parametrize("service", [earth_search, planetary_computer, copernicus])
@pytest.mark.parametrize("signed_by", [None, "planetary_computer"])
def test_items_of_services_can_be_written_and_read_again(tmp_path, service, signed_by):
    """Addresses are signed when they are read, so items contain them unsigned."""
    (tmp_path / "item.json").write_text(json.dumps(service()))
    found = find_acquisitions(tmp_path / "item.json", signed_by=signed_by)
    assert_survive(found, tmp_path / "ours")
    (path,) = (tmp_path / "ours").iterdir()
    for asset in json.loads(path.read_text())["assets"].values():
        assert asset["href"].startswith(("https://", "s3://"))
        assert asset.get("parcelwise:signed_by") == signed_by


@pytest.mark.parametrize(
    ("percent", "fraction"),
    [(float("nan"), None), (-50, None), (9999, None), (100.05, 1.0005), (0, 0.0), ("20", 0.2)],
)
def test_a_cloud_cover_that_is_none_is_not_stated(tmp_path, percent, fraction):
    item = item_of("20180405", "https://example.org")
    item["properties"]["eo:cloud_cover"] = percent
    (tmp_path / "x.json").write_text(json.dumps(item))
    (found,) = find_acquisitions(tmp_path, "stac")
    assert found.cloud_fraction == (None if fraction is None else pytest.approx(fraction))
