"""The stage worklist on tables that a test made, and the command that reads the visits."""

import json

import geopandas
import numpy as np
import pandas as pd
import pyogrio
import pytest
import shapely

import pipeline.stages.worklist as worklist_stage
from geo.errors import InputError
from pipeline.command_line import main
from pipeline.inspection.checked import checked
from pipeline.predictions.work_list import SAMPLE, TO_CHECK, say_why
from pipeline.stages.worklist import worklist
from pipeline.workflow.config import load, view
from pipeline.workflow.paths import RunPaths

NAMES = {"01": "winter wheat", "02": "maize", "9": 'fallow <b>"&'}
# An id of a file that is opened in a spreadsheet, of a page, and of a path.
STRANGE = '=1+1 <i>&"../ø'
N = 12


class Run:
    """Parcels of 100 m x 100 m in a row, in two tiles of neighbouring UTM zones.

    Parcels 1 and 2 are in doubt; parcel 9 declares a rare class, parcel 10 none, and a rejected row
    repeats the id of parcel 1.
    """

    def __init__(self, folder):
        self.paths = RunPaths(folder)
        self.ids = [STRANGE, *(f"p{i}" for i in range(1, N))]
        declared = ["01", "01", "01", "02", "02", "02", "01", "01", "02", "9", None, "02"]
        verdict = ["CONFORM", "DOUBT", "CONFLICT", *["CONFORM"] * 6, None, None, "CONFORM"]
        predicted = np.where(np.isin(np.arange(N), [1, 2]), "02", declared)
        predicted = ["01" if code not in ("01", "02") else code for code in predicted]
        self.rows = pd.DataFrame(
            {
                "parcel_id": self.ids,
                "status": ["used"] * 9 + ["predict_only"] * 2 + ["used"],
                "declared_code": pd.Series(declared, dtype="str"),
                "declared_name": pd.Series(declared).map(NAMES).astype("str"),
                "pred_code": predicted,
                "pred_name": [NAMES[code] for code in predicted],
                "confidence": np.where(np.arange(N) == 2, 0.914, 0.6),
                "declared_probability": np.where(np.arange(N) == 2, 0.01, 0.3),
                "verdict": pd.Series(verdict, dtype="str"),
                "doubt_rank": pd.array([3, 2, 1, *range(4, 10), None, None, 10], dtype="Int64"),
                "n_pixels": pd.array([90] * N, dtype="Int64"),
                "n_dates": pd.array([7] * N, dtype="Int64"),
                "reason": ["", *[""] * 8, "class_too_rare", "no_label", ""],
                "tile": ["31A"] * 8 + ["32B"] * 4,
                "area_ha": 1.0,
                # The register's own columns, with names of ours.
                "Tile": range(N),
                "FARM": [f"farm {i}" for i in range(N)],
            }
        )
        twin = self.rows.iloc[[1]].assign(status="rejected", verdict=None, doubt_rank=None)
        self.rows = pd.concat([self.rows, twin], ignore_index=True)
        # The first parcels are 25 km west of the border of the zones, in the first tile.
        west = 709_000 + 110 * np.arange(N)
        outlines = geopandas.GeoSeries(
            shapely.box(west, 5_200_000, west + 100, 5_200_100), index=self.ids, crs="EPSG:32631"
        )
        self.tiles = {"31A": outlines[:8], "32B": outlines[8:].to_crs("EPSG:32632")}
        self.outlines = outlines
        first = np.where(self.rows["pred_code"] == "01", 0.8, 0.1)[:N]
        self.probabilities = pd.DataFrame({"parcel_id": self.ids, "01": first, "02": 1 - first})

    def write(self, *, outlines=True):
        paths, meta = self.paths, self.paths.dataset
        for folder in (paths.predictions.parent, paths.parcels, meta.tiles.parent):
            folder.mkdir(parents=True, exist_ok=True)
        centres = shapely.get_coordinates(self.outlines.centroid.to_numpy())
        written = {
            meta.tiles: [*self.tiles] if outlines else ["ingested"],
            meta.sizes: dict.fromkeys(self.ids, 90),
            meta.names: NAMES,
            meta.description: {"bands": ["B02"], "fill": "linear", "simulated": True}
            | {"crs": "EPSG:32631" if outlines else None, "tiles": {}},
            meta.positions: dict(zip(self.ids, centres.tolist(), strict=True)),
            paths.doubts: {"false_alarms": 0.1},
        }
        for path, values in written.items():
            path.write_text(json.dumps(values))
        for tile, own in self.tiles.items():
            frame = geopandas.GeoDataFrame(
                {"row": 0, "parcel_id": own.index}, geometry=own.to_numpy(), crs=own.crs
            )
            frame.to_parquet(paths.parcels / f"{tile}.parquet")
        self.rows.to_parquet(paths.predictions.with_suffix(".parquet"))
        self.probabilities.to_parquet(paths.probabilities)

    def __call__(self, *, outlines=True, **options):
        paths = self.paths
        self.write(outlines=outlines)
        worklist(
            paths.predictions.with_suffix(".parquet"), paths.probabilities, paths.doubts,
            paths.dataset.root, paths.to_check, paths.quality_sample, paths.worklist_account,
            view(load({"check": options}), "worklist"),
            paths.parcels if outlines else None,
        )  # fmt: skip
        self.account = json.loads(paths.worklist_account.read_text())
        return pd.read_parquet(paths.to_check)


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


def test_the_list_has_the_doubted_declarations_in_order_with_reason_and_place(run):
    table = run()
    assert [*table] == [*TO_CHECK, "register_Tile", "FARM"]
    assert table["parcel_id"].tolist() == ["p2", "p1"]
    assert table["verdict"].tolist() == ["CONFLICT", "DOUBT"]
    # Parcel 2 lies between 1 and 3; then come 0 and 4, and 5 is as near as its other side is far.
    assert table["reason"].tolist() == [
        "declared winter wheat, looks like maize (91 %); 3 of 5 neighbours declare maize",
        "declared winter wheat, looks like maize (60 %); 3 of 5 neighbours declare maize",
    ]
    assert table["neighbours"].tolist() == ["3 maize, 2 winter wheat"] * 2
    assert table["area_ha"].tolist() == [1, 1]
    assert table["tile"].tolist() == ["31A", "31A"]
    assert table["FARM"].tolist() == ["farm 2", "farm 1"]
    centres = run.outlines.centroid.to_crs("EPSG:4326")[["p2", "p1"]]
    np.testing.assert_allclose(table["longitude"], centres.x, atol=1e-6)
    np.testing.assert_allclose(table["latitude"], centres.y, atol=1e-6)
    as_csv = pd.read_csv(run.paths.to_check.with_suffix(".csv"), dtype={"declared_code": str})
    assert as_csv["reason"].tolist() == table["reason"].tolist()
    assert as_csv["declared_code"].tolist() == ["01", "01"]
    assert run.account["n_judged"] == 10
    assert (run.account["n_doubted"], run.account["n_listed"], run.account["area_ha"]) == (2, 2, 2)
    assert [line["n"] for line in run.account["visits"]] == [2]


def test_neighbours_are_found_across_tiles(run):
    run.rows.loc[7, ["verdict", "pred_name"]] = "DOUBT", "maize"
    table = run().set_index("parcel_id")
    # 6 and 8 (of the other tile), 5 and 9, and then 4, because 10 declares nothing.
    assert table.loc["p7", "neighbours"] == '3 maize, 1 winter wheat, 1 fallow <b>"&'


@pytest.mark.parametrize(("shift_m", "read"), [(0, ["31A", "32B"]), (20_000, ["31A"])])
def test_only_tiles_near_listed_parcels_are_read(run, monkeypatch, shift_m, read):
    of_tile, tiles = worklist_stage._read_tile, []

    def noted(folder, tile, *others):
        tiles.append(tile)
        return of_tile(folder, tile, *others)

    monkeypatch.setattr(worklist_stage, "_read_tile", noted)
    run.rows.loc[7, "verdict"] = "DOUBT"  # the last parcel of its tile
    run.tiles["32B"] = run.tiles["32B"].translate(shift_m)
    assert run()["tile"].unique().tolist() == ["31A"]
    assert tiles == read


def test_the_layer_has_the_rows_and_outlines_of_the_list(run):
    table = run()
    path = run.paths.to_check.with_suffix(".gpkg")
    layer = geopandas.read_file(path, layer="to_check")
    assert layer["parcel_id"].tolist() == table["parcel_id"].tolist()
    assert layer["reason"].tolist() == table["reason"].tolist()
    assert layer.geometry.geom_equals_exact(
        run.outlines[["p2", "p1"]].reset_index(drop=True), 1e-3
    ).all()
    assert layer.crs.to_epsg() == 32631
    meta = pyogrio.read_info(path, layer="to_check")["layer_metadata"]
    assert meta["DESCRIPTION"].startswith("SIMULATED imagery and parcels.")
    style = pyogrio.read_dataframe(path, layer="layer_styles")
    assert style["styleQML"].str.contains("CONFLICT").all()


def test_visits_limit_the_list(run):
    table = run(visits=1)
    assert table["parcel_id"].tolist() == ["p2"]
    assert (run.account["n_doubted"], run.account["n_listed"]) == (2, 1)
    assert len(pd.read_parquet(run.paths.quality_sample)) == 10


def test_without_outlines_places_and_neighbours_are_empty(run):
    run.rows["area_ha"] = np.nan
    table = run(outlines=False)
    assert [*table] == [*TO_CHECK, "register_Tile", "FARM"]
    assert table[["longitude", "latitude"]].isna().all(axis=None)
    assert table["reason"].tolist()[0] == "declared winter wheat, looks like maize (91 %)"
    assert table["n_neighbours"].tolist() == [0, 0]
    assert not run.paths.to_check.with_suffix(".gpkg").exists()
    assert run.account["area_ha"] is None


def test_a_list_without_declarations_has_its_columns(run):
    run.rows["verdict"] = run.rows["verdict"].where(run.rows["verdict"].isna(), "CONFORM")
    table = run()
    assert table.empty
    assert [*table] == [*TO_CHECK, "register_Tile", "FARM"]
    assert geopandas.read_file(run.paths.to_check.with_suffix(".gpkg"), layer="to_check").empty
    assert run.account["visits"] == []


def test_the_sample_has_its_design_and_a_column_to_fill_in(run):
    run()
    sample = pd.read_parquet(run.paths.quality_sample)
    assert [*sample] == [*SAMPLE, "register_Tile", "FARM"]
    assert set(sample["parcel_id"]) == {i for i in run.ids if i not in ("p9", "p10")}
    assert sample["weight"].tolist() == [1] * 10
    sheet = pd.read_csv(run.paths.quality_sample.with_suffix(".csv"), dtype=str)
    assert sheet["found_code"].isna().all()
    assert not [name for name in sheet if name.startswith("pred")]
    assert run.account["sample"]["verdicts"][0] == {"verdict": "CONFLICT", "n": 1, "sampled": 1}


@pytest.mark.parametrize(
    ("as_predicted", "n", "expected"),
    [
        (0, 0, ""),
        (0, 1, "; none of 1 neighbour declares b"),
        (1, 1, "; 1 of 1 neighbour declares b"),
        (1, 4, "; 1 of 4 neighbours declares b"),
        (4, 5, "; 4 of 5 neighbours declare b"),
    ],
)
def test_the_reason_counts_neighbours(as_predicted, n, expected):
    said = say_why("a", "b", 0.999, as_predicted, n)
    assert said == f"declared a, looks like b (>99 %){expected}"


def lacks_probability(run):
    run.probabilities = run.probabilities.iloc[1:]


def lacks_outline(run):
    run.tiles["31A"] = run.tiles["31A"][1:]


def lacks_column(run):
    run.rows = run.rows.drop(columns="verdict")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lacks_probability, r"probabilities.parquet .*lacks parcels .*snakemake -R predict"),
        (lacks_outline, r"tiles lacks parcels of the predictions: =1.* snakemake -R clean"),
        (lacks_column, r"parcels.parquet is not a table of predictions.*snakemake -R predict"),
    ],
)
def test_tables_that_do_not_fit_are_refused(run, change, message):
    change(run)
    with pytest.raises(InputError, match=message):
        run()


def fill_in(run, found, *, separator=",", rename=(), drop=()):
    """Fill in the sample, {id: code that was found}; return the copy."""
    sheet = pd.read_csv(run.paths.quality_sample.with_suffix(".csv"), dtype=str)
    sheet["found_code"] = sheet["parcel_id"].map(found)
    sheet = sheet[~sheet["parcel_id"].isin(drop)].rename(columns=dict(rename))
    path = run.paths.root / "visited.csv"
    sheet.to_csv(path, index=False, sep=separator)
    return path


def test_visits_of_the_whole_sample_give_the_exact_share(run, capsys):
    run()
    found = dict(zip(run.ids, run.rows["declared_code"], strict=False))
    checked(fill_in(run, found | {"p2": "02", "p1": "other"}, separator=";"))
    text = capsys.readouterr().out.replace("\u202f", " ")
    assert "10 of 10 parcels of the sample were visited." in text
    lines = {line.split("  ")[0]: " ".join(line.split()) for line in text.splitlines() if line}
    assert lines["CONFLICT"].endswith("CONFLICT 1 1 1 100.0 % (all were visited)")
    assert lines["CONFORM"].endswith("CONFORM 8 8 0 0.0 % (all were visited)")
    assert lines["all"].endswith("all 10 10 2 20.0 % (all were visited)")
    assert lines["winter wheat (01)"].endswith("5 5 2 40.0 % (all were visited)")
    assert "About 2 of all 10 declarations are wrong (2 to 2)." in text


def test_without_visits_of_a_verdict_nothing_is_said_about_all(run, capsys):
    run()
    checked(fill_in(run, {"p3": "02", "p4": "01"}))
    text = capsys.readouterr().out
    assert "2 of 10 parcels" in text
    assert "Without visits of each verdict, nothing can be said about all declarations." in text
    assert "CONFLICT                            1        0      0  not known" in text


def test_visits_are_understood_after_the_run_has_changed(run, capsys):
    run()
    path = fill_in(run, {"p1": "01", "p2": "02", "p3": "02"})
    checked(path)
    before = capsys.readouterr().out
    run.rows["verdict"] = run.rows["verdict"].where(run.rows["verdict"].isna(), "CONFORM")
    run()
    checked(path)
    assert capsys.readouterr().out == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rename": {"parcel_id": "id"}}, "has no column 'parcel_id'.*Did you mean 'id'"),
        ({"rename": {"found_code": "found"}}, "no column 'found_code'.*Did you mean 'found'"),
        ({"drop": ["p3"]}, "sample has 5 parcels .*CONFORM and the code 02, here are 4. Keep"),
        ({"drop": ["p2"]}, "rows of the sample are missing. Keep every row"),
        ({"drop": [STRANGE, *(f"p{i}" for i in range(N))]}, "rows of the sample are missing"),
    ],
)
def test_a_sample_without_all_rows_and_columns_is_refused(run, options, message):
    run()
    with pytest.raises(InputError, match=message):
        checked(fill_in(run, {"p1": "01"}, **options))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("p3,02", "p3,2", "codes that no parcel of the sample declares: 2. Did you mean '02'"),
        ("p3,02", "p3,02\np3,01", r"p3. .*FORM|rows without a verdict, .*: p3"),
        (",CONFORM,", ",conform,", "rows without a verdict, or whose population"),
        ("\np4,", "\np3,", "parcels are in more than one row: p3. Keep every row"),
    ],
)
def test_visits_that_cannot_be_used_are_refused(run, old, new, message):
    run()
    path = fill_in(run, {"p3": "02"})
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(InputError, match=message):
        checked(path)


def test_the_command_takes_the_file_by_position(run, capsys):
    run()
    path = fill_in(run, {"p3": "02"})
    assert main(["checked", str(path)]) == 0
    assert "1 of 10 parcels of the sample were visited." in capsys.readouterr().out
    assert main(["checked", str(path.with_name("none.csv"))]) == 1
    with pytest.raises(SystemExit):
        main(["checked"])
    assert "the following arguments are required: FILE" in capsys.readouterr().err
