"""Registers in archives: the same rows as in the file that was packed."""

import bz2
import gzip
import io
import json
import lzma
import re
import tarfile
import zipfile

import pytest
from shapely import box

from geo.errors import InputError
from geo.register import archives
from geo.register.reading import (
    fiboa_columns,
    read_bounds,
    read_columns,
    read_named,
    read_register,
    read_register_parts,
)
from tests.builders.registers import frame

SQUARES = frame([box(i, 0, i + 1, 1) for i in range(3)], ID=["a", "b", "ü"])
SUFFIXES = [".gpkg", ".shp", ".geojson", ".fgb", ".parquet", ".gdb", ".tab", ".gml", ".csv"]
DRIVERS = {".tab": "MapInfo File", ".gdb": "OpenFileGDB"}
# The .prj beside a table has its coordinate system.
OPTIONS = {".csv": {"GEOMETRY": "AS_WKT", "CREATE_CSVT": "YES"}}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Return the folder of a register by its suffix; it is written once."""
    root = tmp_path_factory.mktemp("registers")
    for suffix in SUFFIXES:
        folder = root / suffix[1:]
        folder.mkdir()
        path = folder / f"fields{suffix}"
        if suffix == ".parquet":
            SQUARES.to_parquet(path)
        else:
            SQUARES.to_file(path, driver=DRIVERS.get(suffix), **OPTIONS.get(suffix, {}))
    return lambda suffix: root / suffix[1:]


def pack(folder, path, inside="", also=()):
    """Pack all files of a folder, below the folder `inside` of the archive, and others."""
    files = [(file, inside + str(file.relative_to(folder))) for file in folder.rglob("*.*")]
    files = [(file, name) for file, name in files if file.is_file()]
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file, name in files:
                archive.write(file, name)
                # macOS adds such files.
                archive.writestr(f"__MACOSX/{inside}._{file.name}", "")
            for name, content in also:
                archive.writestr(name, content)
        return path
    with tarfile.open(path, f"w:{path.suffix[1:]}" if path.suffix != ".tar" else "w") as archive:
        for file, name in files:
            archive.add(file, name)
        for name, content in also:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def ids_of(path):
    """Read the ids in all ways, and check that they are alike."""
    table, ids = read_named(path, None, "ID", {})
    found = sorted(ids)
    assert sorted(read_columns(path, None, "ID", {})[1]) == found
    parts = [own for _, own in read_register_parts(path, None, "ID", {}, 2)]
    assert sorted(i for own in parts for i in own) == found
    assert len(read_bounds(path)) == 4
    assert fiboa_columns(path, None) is None
    assert table.area.tolist() == [1] * 3
    return found


@pytest.mark.parametrize("inside", ["", "années 2023/région/"])
@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_register_in_an_archive_has_the_same_rows(tmp_path, written, suffix, kind, inside):
    also = [("read me.txt", b"x"), ("about.json", b'{"title": "fields"}'), ("style.qml", b"")]
    path = pack(written(suffix), tmp_path / f"r.{kind}", inside, also)
    assert ids_of(path) == ["a", "b", "ü"]


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".parquet"])
@pytest.mark.parametrize(
    ("ending", "module"), [(".gz", gzip), (".bz2", bz2), (".xz", lzma)], ids=str
)
def test_a_single_packed_file_has_the_same_rows(tmp_path, written, suffix, ending, module):
    path = tmp_path / f"fields{suffix}{ending}"
    path.write_bytes(module.compress((written(suffix) / f"fields{suffix}").read_bytes()))
    assert ids_of(path) == ["a", "b", "ü"]


@pytest.mark.parametrize("kind", ["zip", "tar", "gz"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_points_of_a_packed_table_are_read(tmp_path, kind, encoding):
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "points.csv"
    path.write_bytes("ID;lon;lat\n1;3,5;36,25\n002;4;37\n".encode(encoding))
    packed = tmp_path / f"points.csv.{kind}"
    if kind == "gz":
        packed.write_bytes(gzip.compress(path.read_bytes()))
    else:
        pack(tmp_path / "in", packed)
    table, ids = read_named(packed, None, "ID", {})
    assert ids.tolist() == ["1", "002"]
    assert [(p.x, p.y) for p in table.geometry] == [(3.5, 36.25), (4, 37)]


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_table_beside_a_register_describes_it(tmp_path, written, kind):
    path = pack(written(".gpkg"), tmp_path / f"r.{kind}", also=[("codes.csv", b"code;name\n")])
    assert ids_of(path) == ["a", "b", "ü"]


def test_a_replaced_archive_is_read_again(tmp_path, written):
    path = pack(written(".parquet"), tmp_path / "r.zip")
    assert len(read_register(path)) == 3
    folder = tmp_path / "other"
    folder.mkdir()
    SQUARES[:1].to_parquet(folder / "fields.parquet")
    pack(folder, path)
    assert len(read_register(path)) == 1


def test_several_layers_are_listed_whatever_the_archive(tmp_path):
    folder = tmp_path / "r"
    folder.mkdir()
    for layer in ("fields", "blocks"):
        SQUARES.to_file(folder / "r.gpkg", layer=layer)
    for kind in ("zip", "tar.gz"):
        path = pack(folder, tmp_path / f"r.{kind}")
        with pytest.raises(InputError, match=r"2 layers with geometries: (fields|blocks), "):
            read_register(path)
        assert len(read_register(path, "fields")) == 3


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize("other", ["more.gpkg", "x/more.parquet", "old.gdb/a00000001.gdbtable"])
def test_several_registers_in_an_archive_are_refused(tmp_path, written, kind, other):
    path = pack(written(".gpkg"), tmp_path / f"r.{kind}", also=[(other, b"x")])
    words = rf"r\.{kind} contains 2 files: fields\.gpkg, .*Unpack it.*parcels\.path"
    with pytest.raises(InputError, match=words):
        read_register(path)


REFUSED = {
    "r.7z": (b"7z\xbc\xaf\x27\x1c rest", "is a 7z archive, which is not opened. Unpack it, and"),
    "r.rar": (b"Rar!\x1a\x07\x01\x00", "is a RAR archive, which is not opened. Unpack it, and"),
    "r.gpkg.zst": (b"\x28\xb5\x2f\xfd....", "is a Zstandard archive, which is not opened"),
    "r.gpkg": (b"7z\xbc\xaf\x27\x1c rest", "is a 7z archive"),
    "r.gpkg.gz": (b"\x1f\x8b and no more", "is not an archive that can be unpacked: "),
    "r.tar.gz": (gzip.compress(b"no tar"), "is not an archive that can be unpacked: "),
    "r.geojson.xz": (lzma.compress(b"{" * 999)[:60], "is not an archive that can be unpacked: "),
    "r.tar": (b"", "is not an archive that can be unpacked: "),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_archives_and_damaged_ones_are_refused(tmp_path, name):
    content, words = REFUSED[name]
    path = tmp_path / name
    path.write_bytes(content)
    for read in (read_register, read_bounds):
        with pytest.raises(InputError, match=f"{re.escape(str(path))} {words}"):
            read(path)


def test_an_archive_without_a_register_is_refused(tmp_path):
    with tarfile.open(tmp_path / "r.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("readme.txt"))
    with pytest.raises(InputError, match=r"r\.tar contains no file of parcels, but: readme\.txt"):
        read_register(tmp_path / "r.tar")


def test_members_of_an_archive_stay_within_the_temporary_folder(tmp_path):
    """Absolute names, names that lead upwards, and links."""
    SQUARES.to_parquet(tmp_path / "fields.parquet")
    content = (tmp_path / "fields.parquet").read_bytes()
    for name in ("/fields.parquet", "../../fields.parquet"):
        with tarfile.open(tmp_path / "r.tar", "w") as archive:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        unpacked = archives.unpacked(tmp_path / "r.tar")
        assert unpacked.parts[-2:] == ("r.tar", "fields.parquet")
        assert ".." not in unpacked.parts
        assert len(read_register(tmp_path / "r.tar")) == 3
    with tarfile.open(tmp_path / "r.tar", "w") as archive:
        link = tarfile.TarInfo("fields.parquet")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "fields.parquet")
        archive.addfile(link)
    with pytest.raises(InputError, match="contains no file of parcels"):
        read_register(tmp_path / "r.tar")


def test_a_file_that_unpacks_to_much_more_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "_LARGE", 1_000_000)
    text = json.dumps({"type": "FeatureCollection"}) + " " * 20_000_000
    (tmp_path / "r.geojson.gz").write_bytes(gzip.compress(text.encode()))
    with pytest.raises(InputError, match=r"r\.geojson unpacks from [\d,]+ bytes to [\d,]+, more"):
        read_register(tmp_path / "r.geojson.gz")
