"""Variants of SAFE products: archives, old names, several tiles, halves of tiles, masks."""

import shutil
import zipfile
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from geo.imagery.discovery import find_acquisitions
from geo.imagery.raster_reading import read_window
from tests.builders.items import assert_survive, refusal
from tests.builders.safe import SafeProduct, write_image, write_safe, zip_product

WHOLE = slice(None)
DATATAKE = "20160103T104432"


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def assert_same_pixels(acquisition, pixels):
    for name, band in {**acquisition.bands, **acquisition.masks}.items():
        np.testing.assert_array_equal(read_window(band, WHOLE, WHOLE), pixels[name])
        np.testing.assert_array_equal(
            read_window(band, slice(3, 9), slice(5, 99)), pixels[name][3:9, 5:99]
        )


@pytest.mark.parametrize("top", ["S2A_MSIL2A_20220413T105031.SAFE", "renamed é", "a/b.SAFE", None])
def test_an_archive_is_read_like_its_folder(tmp_path, rng, top):
    product = write_safe(tmp_path / "folders", rng, offsets=-1000)
    (unpacked,) = find_acquisitions(tmp_path / "folders")
    archive = zip_product(product, top=top)
    before = sorted(tmp_path.rglob("*"))
    for path in (archive, archive.parent, tmp_path):
        (found,) = find_acquisitions(path)
        assert found.product == archive
        assert found.id == unpacked.id
        assert found.bands["B02"].grid == unpacked.bands["B02"].grid
        assert {band.offset for band in found.bands.values()} == {-1000}
        assert found.bands["B02"].source.startswith("/vsizip/")
        assert_same_pixels(found, product.pixels)
    assert sorted(tmp_path.rglob("*")) == before, "nothing is unpacked"


def test_archives_and_folders_are_found_together(tmp_path, rng):
    write_safe(tmp_path, rng, sensed="20220403T105031", name="without_ending")
    zip_product(write_safe(tmp_path, rng, sensed="20220413T105031"), top="x.SAFE")
    zip_product(write_safe(tmp_path, rng, sensed="20220423T105031"))
    (tmp_path / "readme.zip").write_bytes(b"PK\5\6" + bytes(18))  # an empty archive
    assert [item.date.day for item in find_acquisitions(tmp_path)] == [3, 13, 23]


def test_an_archive_at_a_relative_path_is_read(tmp_path, rng, monkeypatch):
    product = write_safe(tmp_path / "imagery", rng)
    zip_product(product, top="x.SAFE")
    monkeypatch.chdir(tmp_path)
    (found,) = find_acquisitions(Path("imagery"))
    assert found.product.parts[0] == "imagery"
    assert_same_pixels(found, product.pixels)


def test_a_product_that_exists_twice_gets_two_ids(tmp_path, rng):
    product = write_safe(tmp_path, rng, bands=("B02",))
    zip_product(product, top=product.path.name, keep=True)
    ids = {item.id for item in find_acquisitions(tmp_path)}
    assert ids == {"20220413T105031_31UDS_N0400", "20220413T105031_31UDS_N0400_2"}


@pytest.mark.parametrize("kept", [0, 100, 0.5, 0.999])
def test_a_truncated_archive_is_refused_by_name(tmp_path, rng, kept):
    archive = zip_product(write_safe(tmp_path, rng, bands=("B02",)), top="x.SAFE")
    content = archive.read_bytes()
    archive.write_bytes(content[: int(kept * len(content)) if kept < 1 else kept])
    message = refusal(tmp_path)
    assert f"{archive} is not a zip archive, or is truncated" in message
    assert "Download it again" in message


def test_a_damaged_member_of_an_archive_is_refused_by_name(tmp_path, rng):
    archive = zip_product(write_safe(tmp_path, rng, bands=("B02",)), top="x.SAFE")
    content = bytearray(archive.read_bytes())
    with zipfile.ZipFile(archive) as packed:
        places = {info.filename: info.header_offset for info in packed.infolist()}
    (metadata,) = (place for name, place in places.items() if "MTD_" in name)
    damaged = content.copy()
    damaged[metadata + 100 : metadata + 200] = bytes(100)
    archive.write_bytes(damaged)
    message = refusal(tmp_path)
    assert f"{archive}: x.SAFE/MTD_MSIL2A.xml is damaged or incomplete" in message
    (image,) = (place for name, place in places.items() if name.endswith("B02_10m.jp2"))
    damaged = content.copy()
    damaged[image : image + 4] = bytes(4)
    archive.write_bytes(damaged)
    assert "B02_10m.jp2 cannot be opened" in refusal(tmp_path)


def write_long_named(folder, rng, tiles, *, level="1C", generation="13", clouds=None):
    """Write a product as they were named before December 2016; {tile: pixels by band}."""
    kind = "OPER" if level == "1C" else "USER"
    times = f"PDMC_20160103T201600_R008_V{DATATAKE}_{DATATAKE}"
    path = folder / f"S2A_{kind}_PRD_MSIL{level}_{times}.SAFE"
    pixels, listed = {}, ""
    for number, tile in enumerate(tiles):
        stem = f"TL_SGS__20160103T174751_A002779_T{tile}"
        granule = f"S2A_{kind}_MSI_L{level}_{stem}_N02.04"
        pixels[tile], names = {}, []
        for band, resolution in (("B02", 10), ("B8A", 20), ("SCL", 20)):
            if level == "1C" and band == "SCL":
                continue
            values = rng.integers(1, 5000 if band != "SCL" else 12, (600 // resolution,) * 2)
            values = values.astype(np.uint16 if band != "SCL" else np.uint8)
            if level == "1C":
                place, name = "", f"S2A_{kind}_MSI_L1C_{stem}_{band}"
            elif band == "SCL":
                place, name = "", f"S2A_{kind}_SCL_L2A_{stem}_20m"
            else:
                place, name = f"R{resolution}m", f"S2A_{kind}_MSI_L2A_{stem}_{band}_{resolution}m"
            image = path / "GRANULE" / granule / "IMG_DATA" / place / f"{name}.jp2"
            image.parent.mkdir(parents=True, exist_ok=True)
            write_image(image, values, tile, resolution, 500_000 + 600 * number)
            pixels[tile][band] = values
            names.append(name)
        tag = "IMAGE_ID" if level == "1C" else "IMAGE_ID_2A"
        images = "".join(f"<{tag}>{name}</{tag}>" for name in names)
        strip = f"S2A_{kind}_MSI_L{level}_DS_SGS__20160103T174751_S20160103T104435_N02.04"
        listed += f"""<Granule_List><Granules datastripIdentifier="{strip}"
          granuleIdentifier="{granule}" imageFormat="JPEG2000">{images}</Granules></Granule_List>"""
        if clouds:
            xml = f"S2A_{kind}_MTD_L{level}_{stem}.xml"
            (path / "GRANULE" / granule / xml).write_text(
                f"<T><CLOUDY_PIXEL_PERCENTAGE>{clouds[number]}</CLOUDY_PIXEL_PERCENTAGE></T>"
            )
    quantification = "QUANTIFICATION_VALUE" if level == "1C" else "L2A_BOA_QUANTIFICATION_VALUE"
    (path / f"S2A_{kind}_MTD_SAFL{level}_{times}.xml").write_text(
        f"""<n1:P xmlns:n1="https://psd-{generation}.sentinel2.eo.esa.int/PSD/User_Product.xsd">
        <PROCESSING_BASELINE>02.04</PROCESSING_BASELINE>
        <GENERATION_TIME>2016-01-03T20:16:00.000Z</GENERATION_TIME>
        <SPACECRAFT_NAME>Sentinel-2A</SPACECRAFT_NAME>
        <DATATAKE_SENSING_START>2016-01-03T10:44:32.000Z</DATATAKE_SENSING_START>
        <Product_Organisation>{listed}</Product_Organisation>
        <L1C_TOA_QUANTIFICATION_VALUE>7</L1C_TOA_QUANTIFICATION_VALUE>
        <{quantification} unit="none">1000</{quantification}>
        <L2A_AOT_QUANTIFICATION_VALUE unit="none">1000.0</L2A_AOT_QUANTIFICATION_VALUE>
        <Cloud_Coverage_Assessment>50.0</Cloud_Coverage_Assessment></n1:P>"""
    )
    return path, pixels


@pytest.mark.parametrize("level", ["1C", "2A"])
@pytest.mark.parametrize("zipped", [False, True])
def test_every_tile_of_an_old_product_is_an_acquisition(tmp_path, rng, level, zipped):
    path, pixels = write_long_named(tmp_path, rng, ["32TLQ", "32TMQ"], level=level, clouds=[20, 80])
    if zipped:
        path = zip_product(SafeProduct(path, {}), top=path.name)
    found = find_acquisitions(tmp_path)
    assert [item.id for item in found] == [
        "20160103T104435_32TLQ_N0204",
        "20160103T104435_32TMQ_N0204",
    ]
    assert [item.cloud_fraction for item in found] == [0.2, 0.8]
    for number, item in enumerate(found):
        assert (item.date, item.baseline) == (date(2016, 1, 3), "02.04")
        assert (item.product, item.datastrip) == (path, "20160103T104435")
        assert item.grid.x_min == 500_000 + 600 * number
        assert {band.offset for band in item.bands.values()} == {0}
        assert {band.scale for band in item.bands.values()} == {10}
        assert list(item.masks) == (["SCL"] if level == "2A" else [])
        assert_same_pixels(item, pixels[item.tile])
        again = {other.id: other for other in find_acquisitions(item.product)}
        assert again[item.id] == item


def test_tiles_that_were_not_downloaded_are_left_out(tmp_path, rng):
    path, _ = write_long_named(tmp_path, rng, ["32TLQ", "32TMQ"])
    shutil.rmtree(next(path.glob("GRANULE/*32TLQ*")))
    (found,) = find_acquisitions(path, bands=["B02"])
    assert found.tile == "32TMQ"
    assert found.cloud_fraction is None, "that of the product is not that of the tile"
    shutil.rmtree(path / "GRANULE")
    assert refusal(path, bands=["B02"]).count("no B02 (it has none of those asked for)") == 2


def test_level_2a_of_2017_is_read(tmp_path, rng):
    """Names and elements have a prefix, and a granule is listed once for every resolution."""
    product = write_safe(tmp_path, rng, baseline="02.05", quantification=2000)
    for file in list(product.path.rglob("*.jp2")):
        file.rename(file.with_name(f"L2A_{file.name}"))
    (path,) = product.path.glob("MTD_*.xml")
    text = path.read_text().replace("IMAGE_FILE", "IMAGE_FILE_2A").replace("/T31UDS", "/L2A_T31UDS")
    text = text.replace("BOA_QUANTIFICATION_VALUE", "L2A_BOA_QUANTIFICATION_VALUE")
    start, end = text.index("<Granule>"), text.index("</Granule>") + len("</Granule>")
    once = text[start:end].replace(">", ' granuleIdentifier="G">', 1)
    kinds = [once.replace("_20m", "_99m"), once.replace("_10m", "_99m")]
    path.write_text(text[:start] + "".join(kinds) + text[end:])
    (found,) = find_acquisitions(tmp_path)
    assert {band.scale for band in found.bands.values()} == {5}
    assert list(found.bands) == ["B02", "B03", "B8A", "B11"]
    assert_same_pixels(found, product.pixels)


def test_halves_of_a_tile_have_the_same_ids_when_read_alone(tmp_path, rng):
    for second, generated in (("27", "00"), ("41", "01")):
        write_safe(
            tmp_path, rng, bands=("B02",), datastrip=f"20220413T1050{second}",
            generated=f"2022-04-13T15:00:{generated}.000000Z",
        )  # fmt: skip
    found = find_acquisitions(tmp_path)
    assert [item.datastrip for item in found] == ["20220413T105027", "20220413T105041"]
    assert len({item.id for item in found}) == 2
    for item in found:
        assert find_acquisitions(item.product) == [item]


@pytest.mark.parametrize(
    "name", ["MSK_CLDPRB_{}m", "L2A_T31UDS_20170823T094031_CLD_{}m", "S2A_USER_CLD_L2A_TL_31_{}m"]
)
def test_the_cloud_probability_is_a_mask(tmp_path, rng, name):
    product = write_safe(tmp_path, rng, bands=("B02", "SCL"), offsets=-1000)
    folder = next(product.path.glob("GRANULE/*")) / "QI_DATA"
    folder.mkdir()
    percent = rng.integers(0, 101, (30, 30)).astype(np.uint8)
    write_image(folder / f"{name.format(20)}.jp2", percent, "31UDS", 20, 500_000)
    write_image(folder / f"{name.format(60)}.jp2", percent[:10, :10], "31UDS", 60, 500_000)
    (found,) = find_acquisitions(tmp_path, bands=["B02"])
    assert list(found.masks) == ["SCL", "CLDPRB"]
    band = found.masks["CLDPRB"]
    np.testing.assert_array_equal(read_window(band, WHOLE, WHOLE), percent)
    assert (band.scale, band.offset, band.nodata) == (1, 0, None), "0 % is not nodata"


def test_opaque_clouds_of_level_1c_are_a_mask(tmp_path, rng):
    product = write_safe(tmp_path, rng, bands=("B02",), level="1C")
    folder = next(product.path.glob("GRANULE/*")) / "QI_DATA"
    folder.mkdir()
    clouds = rng.integers(0, 2, (3, 10, 10)).astype(np.uint8)
    with rasterio.open(
        folder / "MSK_CLASSI_B00.jp2", "w", driver="JP2OpenJPEG", height=10, width=10, count=3,
        dtype="uint8", crs="EPSG:32631", transform=Affine(60, 0, 500_000, 0, -60, 5_600_000),
        QUALITY="100", REVERSIBLE="YES", YCBCR420="NO",
    ) as raster:  # fmt: skip
        raster.write(clouds)
    (found,) = find_acquisitions(tmp_path)
    assert list(found.masks) == ["MASK"]
    np.testing.assert_array_equal(read_window(found.masks["MASK"], WHOLE, WHOLE), clouds[0])


def write_manifest(product, sizes):
    listed = "".join(
        f'<dataObject><byteStream size="{size}"><fileLocation href="./{name}"/></byteStream>'
        "</dataObject>"
        for name, size in sizes.items()
    )
    (product.path / "manifest.safe").write_text(
        f'<x:XFDU xmlns:x="urn:ccsds:schema:xfdu:1"><dataObjectSection>{listed}'
        "</dataObjectSection></x:XFDU>"
    )


@pytest.mark.parametrize("zipped", [False, True])
def test_images_must_have_the_size_that_the_manifest_states(tmp_path, rng, zipped, monkeypatch):
    monkeypatch.setattr("geo.formats.safe._TILE_M", 600)  # the side of the product that is written
    product = write_safe(tmp_path, rng, bands=("B02", "B8A"))
    files = {
        file.relative_to(product.path).as_posix(): file for file in product.path.rglob("*.jp2")
    }
    write_manifest(product, {name: file.stat().st_size for name, file in files.items()})
    assert len(find_acquisitions(tmp_path)) == 1
    sizes = {name: file.stat().st_size + ("B8A" in name) for name, file in files.items()}
    write_manifest(product, sizes)
    if zipped:
        zip_product(product, top="x.SAFE")
    message = refusal(tmp_path)
    (name,) = (name for name in files if "B8A" in name)
    assert f"{name} has {sizes[name] - 1} bytes, by manifest.safe it should have" in message
    assert "remove manifest.safe" in message
    monkeypatch.setattr("geo.formats.safe._TILE_M", 109_800)
    assert len(find_acquisitions(tmp_path)) == 1, "a clip keeps the manifest of the original"


@pytest.mark.parametrize("zipped", [False, True])
def test_items_keep_relative_paths_and_data_strips(tmp_path, rng, monkeypatch, zipped):
    strip = "20220413T105029"
    product = write_safe(tmp_path / "imagery", rng, offsets=-1000, datastrip=strip, no_data=30)
    if zipped:
        zip_product(product, top="x {a}.SAFE")
    monkeypatch.chdir(tmp_path)
    assert_survive(find_acquisitions(Path("imagery")), Path("items"))
