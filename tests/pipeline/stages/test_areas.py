"""The stage areas on tables that a test made: what is given, what is left out, and why."""

import json
import logging

import numpy as np
import pandas as pd
import pytest

from geo.errors import InputError
from pipeline.report.areas import hectares, read_areas
from pipeline.stages.areas import ALL, UNSTATED, areas
from pipeline.workflow.config import load, view
from pipeline.workflow.paths import RunPaths

N = 200
CLASSES = [("BTH", "winter wheat"), ("MIS", "maize")]
ESTIMATES = [
    f"{name}{end}_ha" for name in ("error_adjusted", "difference") for end in ("", "_low", "_high")
]


class Run:
    """Tables of 200 predicted parcels of 1 ha or 2 ha in two regions, 120 of them labelled."""

    def __init__(self, folder):
        self.paths = RunPaths(folder)
        rng = np.random.default_rng(1)
        self.ids = [f"p{i}" for i in range(N)]
        true = rng.choice(3, N, p=[0.5, 0.4, 0.1])  # the last class is not trained on
        mapped = np.where(rng.random(N) < 0.8, np.minimum(true, 1), rng.integers(0, 2, N))
        codes = np.array(["BTH", "MIS", "LUZ"])
        labelled = rng.permutation(N) < 120
        self.predictions = pd.DataFrame(
            {
                "parcel_id": self.ids,
                "declared_code": pd.Series(np.where(labelled, codes[true], None), dtype="string"),
                "pred_code": codes[mapped],
                "pred_name": [CLASSES[k][1] for k in mapped],
                "pred_source": np.where(labelled & (true < 2), "out_of_fold", "ensemble"),
            }
        )
        self.register = pd.DataFrame(
            {
                "row": np.arange(N),
                "parcel_id": self.ids,
                "reason": "",
                "area_m2": np.where(np.arange(N) % 2, 10_000.0, 20_000.0),
                "register:REGION": np.where(np.arange(N) < 190, "north", None),
                "register:SIZE": np.arange(N) % 2,
            }
        )
        self.true, self.labelled, self.mapped = true, labelled, mapped
        right = np.where(rng.random(N) < 0.9, 0.8, 0.6)
        first = np.where(mapped == 0, right, 1 - right)
        self.probabilities = pd.DataFrame({"parcel_id": self.ids, "BTH": first, "MIS": 1 - first})
        self.positions = {i: rng.uniform(0, 9000, 2).tolist() for i in self.ids}

    def __call__(self, weights=False, **options):
        paths, meta = self.paths, self.paths.dataset
        for folder in (paths.predictions.parent, paths.register.parent, meta.tiles.parent):
            folder.mkdir(parents=True, exist_ok=True)
        written = {
            meta.tiles: ["ingested"],
            meta.sizes: dict.fromkeys(self.ids, 9),
            meta.classes: [{"code": code, "name": name} for code, name in CLASSES],
            meta.names: {**dict(CLASSES), "LUZ": "alfalfa"},
            meta.positions: self.positions,
        }
        for path, values in written.items():
            path.write_text(json.dumps(values))
        self.predictions.to_parquet(paths.predictions.with_suffix(".parquet"))
        self.register.to_parquet(paths.register)
        self.probabilities.to_parquet(paths.probabilities)
        areas(
            paths.predictions.with_suffix(".parquet"), paths.register, meta.root, paths.areas,
            view(load({"areas": options}), "areas"), None if weights else paths.probabilities,
        )  # fmt: skip
        self.account = json.loads(paths.areas_account.read_text())
        self.table = pd.read_parquet(paths.areas)
        return self

    def rows(self, region=ALL):
        return self.table[self.table["region"] == region].set_index("name")


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


def test_mapped_and_declared_areas_are_counted(run):
    rows = run().rows()
    hectares = run.register["area_m2"] / 10_000
    for index, name in enumerate(["winter wheat", "maize", "other declared classes"]):
        own = run.labelled & (run.true == index)
        assert rows.loc[name, "n_labelled"] == own.sum()
        assert rows.loc[name, "declared_ha"] == hectares[own].sum()
        assert rows.loc[name, "mapped_ha"] == hectares[run.mapped == index].sum()
    assert rows["code"].tolist() == ["BTH", "MIS", ""]
    assert run.account["n_parcels"] == 200
    assert run.account["area_ha"] == 300
    assert run.account["n_labelled"] == 120
    assert run.account["labelled_ha"] == rows["declared_ha"].sum()


def test_estimates_add_up_and_contain_what_is_declared(run):
    rows = run(sample="random").rows()
    assert run.account["reason"] == ""
    assert run.account["differences"] == []
    for name in ("error_adjusted", "difference"):
        assert rows[f"{name}_ha"].sum() == pytest.approx(300)
        assert (rows["declared_ha"] <= rows[f"{name}_low_ha"]).all()
        assert (rows[f"{name}_low_ha"] < rows[f"{name}_ha"]).all()
        assert (rows[f"{name}_ha"] < rows[f"{name}_high_ha"]).all()
    # The class that is never predicted has an area.
    assert rows.loc["other declared classes", "mapped_ha"] == 0
    assert rows.loc["other declared classes", "difference_low_ha"] > 0
    value, low, high = run.account["accuracy"]["overall"]
    assert low < value < high
    assert [c["code"] for c in run.account["accuracy"]["classes"]] == ["BTH", "MIS", ""]
    assert run.account["accuracy"]["classes"][2]["users"] is None


def unlabelled(run):
    run.predictions["declared_code"] = pd.Series([None] * N, dtype="string")


def few(run):
    run.predictions.loc[15:, "declared_code"] = None


@pytest.mark.parametrize(
    ("options", "change", "reason"),
    [
        ({}, None, "it is not known how the labelled parcels were chosen: areas.sample"),
        ({"sample": "random"}, unlabelled, "no parcel declares a class"),
        ({"sample": "random"}, few, "too few labelled parcels"),
        ({"weights": True}, None, "it is not known which parcels the existing weights"),
    ],
)
def test_areas_that_are_not_estimated_say_why(run, options, change, reason):
    if change is not None:
        change(run)
    run(**options)
    assert run.account["reason"].startswith(reason)
    assert run.account["accuracy"] is None
    assert run.table["reason"].str.startswith(reason).all()
    assert run.table[ESTIMATES].isna().all(axis=None)
    assert run.rows()["mapped_ha"].sum() == 300
    assert read_areas(run.paths).chart is None


def test_if_all_parcels_declare_a_class_their_areas_are_exact(run):
    """It does not matter then how they were chosen."""
    codes = np.array(["BTH", "MIS", "LUZ"])
    run.predictions["declared_code"] = pd.Series(codes[run.true], dtype="string")
    rows = run().rows()
    assert run.account["reason"] == ""
    assert all((rows[column] == rows["declared_ha"]).all() for column in ESTIMATES)


def test_regions_are_estimated_where_they_have_enough_labelled_parcels(run):
    run(sample="random", region="REGION")
    assert run.table["region"].unique().tolist() == [ALL, UNSTATED, "north"]
    parts = run.rows("north"), run.rows(UNSTATED)
    for column in ("n_labelled", "declared_ha", "mapped_ha"):
        total = parts[0][column] + parts[1][column]
        assert total.tolist() == pytest.approx(run.rows()[column].tolist())
    assert parts[0]["difference_high_ha"].notna().all()
    assert parts[1][ESTIMATES].isna().all(axis=None)
    assert parts[1]["reason"].unique().tolist() == ["too few labelled parcels"]
    assert read_areas(run.paths).has_regions


def test_a_class_with_few_labelled_parcels_has_no_interval(run):
    others = run.predictions["declared_code"] == "LUZ"
    run.predictions.loc[others[others].index[4:], "declared_code"] = None
    row = run(sample="random").rows().loc["other declared classes"]
    assert row["n_labelled"] == 4
    assert row["difference_ha"] > 0
    assert np.isnan(row["difference_low_ha"])
    assert row["reason"] == "too few labelled parcels of the class for an interval"


def test_strata_are_used(run):
    """Within strata of equal areas, the size of a parcel says nothing."""
    plain = run(sample="random").rows()
    rows = run(sample="random", strata="SIZE").rows()
    assert rows["difference_ha"].sum() == pytest.approx(300)
    assert (rows["difference_ha"] != plain["difference_ha"]).all()


def test_labelled_parcels_that_are_not_random_are_reported(run, caplog):
    small = run.register["area_m2"] < 15_000
    run.predictions.loc[~small & (np.arange(N) % 10 < 8), "declared_code"] = None
    run(sample="random")
    assert [d["what"] for d in run.account["differences"]] == ["area"]
    [record] = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert "areas.sample is random, but labelled parcels differ" in record.message
    assert "their median area is 1 ha, that of the others 2 ha" in record.message


def test_points_have_no_area(run):
    run.register.loc[:9, "area_m2"] = np.nan
    run(sample="random")
    assert run.account["n_without_area"] == 10
    assert run.account["n_parcels"] == 190


def test_a_register_of_points_alone_has_no_areas(run):
    run.register["area_m2"] = np.nan
    run(sample="random")
    assert run.account["n_parcels"] == 0
    assert run.account["reason"] == "no predicted parcel has an outline"
    assert (run.table["mapped_ha"] == 0).all()
    assert read_areas(run.paths).chart is None


def misspelt(run):
    run.register = run.register.rename(columns={"register:REGION": "register:REGIO"})


def without_area(run):
    run.register = run.register.drop(columns="area_m2")


def other_register(run):
    run.register = run.register.iloc[5:]


def rejected(run):
    run.register.loc[3, "reason"] = "too_small"


def other_probabilities(run):
    run.probabilities = run.probabilities.iloc[:-1]


def other_classes(run):
    run.probabilities["LUZ"] = 0.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (misspelt, r"areas.region: the register has no column 'REGION'. Did you mean 'REGIO'\?"),
        (without_area, r"register.parquet .* it lacks the columns area_m2.* snakemake -R clean"),
        (other_register, r"not usable in .*: p0, p1, p2, p3, p4\. .*snakemake -R predict"),
        (rejected, r"not usable in .*register.parquet, or more than once: p3\."),
        (other_probabilities, r"probabilities.parquet .* lacks parcels of the predictions"),
        (other_classes, r"probabilities.parquet .* it has 3 classes, not 2"),
    ],
)
def test_tables_that_do_not_fit_are_refused(run, change, message):
    change(run)
    with pytest.raises(InputError, match=message):
        run(sample="random", region="REGION")


def test_hectares_are_written_with_three_digits():
    assert [hectares(v) for v in (0, 9.96, 99.94, 99.96, 1234.5)] == [
        "0.0", "10.0", "99.9", "100", "1,234",
    ]  # fmt: skip
