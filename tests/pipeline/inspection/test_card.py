"""The card of a parcel: refusals, ids of every kind, and numbers that equal those of the run."""

import json
import re
from html.parser import HTMLParser

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely

from geo.errors import InputError
from pipeline.command_line import main
from pipeline.dataset.npy_files import file_name
from pipeline.inspection.card import card, suggest
from pipeline.report.parcel_card import (
    Explanation,
    attention_chart,
    occlusion_chart,
    say_attention,
    say_explanation,
    say_verdict,
    series_charts,
)
from pipeline.report.parcel_place import read_place
from pipeline.report.parcel_series import NDVI, ParcelSeries, envelope, read_series
from pipeline.stages.calibrate import calibrate
from pipeline.stages.explain import explain
from pipeline.stages.predict import predict
from pipeline.stages.split import split
from pipeline.workflow.config import view
from pipeline.workflow.paths import RunPaths
from tests.builders.models import FOLDS, save_models
from tests.builders.pixel_sets import CLASSES, SEASON, ingested, make, settings_for
from tests.builders.predictions import write_predictions
from tests.builders.runs import opened, write_record

# Names of files, and what could be taken for HTML, a template, or a part of a query.
ODD = ["<b>&amp;'\"", "ü Müller {{ run }}", "-5", "it's", "../a/b", "x" * 240]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run from a dataset, with odd ids and some parcels without label; random models."""
    folder = tmp_path_factory.mktemp("card")
    ids = [*ODD, *(str(1000 + 7 * i) for i in range(54))]
    escaped = [i.replace("/", "%2F") for i in ids]  # as in names of files
    make(folder / "existing", 60, ids=escaped, own_dates=True, labelled=5 / 6)
    for file in (folder / "existing" / "META").glob("*.json"):
        file.write_text(file.read_text().replace("%2F", "/"))
    settings = settings_for(folder / "existing", split={"folds": FOLDS})
    paths = ingested(settings, folder / "results" / "mine")
    split(paths.dataset.root, paths.folds, view(settings, "split"))
    save_models(paths.models)
    calibrate(paths.dataset.root, paths.folds, paths.models, view(settings, "calibrate"))
    options = view(settings, "predict")
    predict(
        paths.dataset.root, paths.models, paths.ledger, paths.predictions, options, paths.folds,
        doubts=paths.doubts,
    )  # fmt: skip
    write_record(paths.record("predict"), settings, "predict")
    explain(
        paths.dataset.root, paths.models, paths.probabilities, paths.attention,
        paths.attention_account, view(settings, "explain"), paths.folds,
    )  # fmt: skip
    return paths


class Page(HTMLParser):
    """Collect text, tags and references of a page."""

    def __init__(self, path):
        super().__init__()
        self.texts, self.tags, self.references, self.titles = [], [], [], []
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join(" ".join(self.texts).split()).replace("\N{NARROW NO-BREAK SPACE}", " ")

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.references += [v for k, v in attrs if k in ("href", "src")]

    def handle_data(self, data):
        self.texts.append(data)
        if self.tags[-1:] == ["title"]:
            self.titles.append(data)


def page_of(run, parcel_id):
    card(run.root, [parcel_id])
    return Page(run.cards / file_name(parcel_id, ".html"))


def test_ids_of_every_kind_have_a_page_of_their_own(run):
    card(run.root, [*ODD, "1007"])
    assert len({file_name(i, ".html") for i in ODD}) == len(ODD)
    for parcel_id in ODD:
        page = Page(run.cards / file_name(parcel_id, ".html"))
        assert parcel_id in page.text
        assert page.tags.count("script") == 1  # the page's own
        assert not [r for r in page.references if not r.startswith(("geo:", "#"))]
    odd = (run.cards / file_name(ODD[0], ".html")).read_text()
    assert "&lt;b&gt;&amp;amp;&#39;&#34;" in odd
    assert ODD[0] not in odd
    assert not [path for path in run.cards.iterdir() if path.suffix != ".html"]


def test_the_page_shows_the_numbers_of_the_run(run):
    table = pd.read_parquet(run.predictions.with_suffix(".parquet")).set_index("parcel_id")
    probabilities = pd.read_parquet(run.probabilities).set_index("parcel_id")
    labelled, unlabelled = "1007", "1371"
    for parcel_id in (labelled, unlabelled):
        row, text = table.loc[parcel_id], page_of(run, parcel_id).text
        for code in CLASSES:
            share = 100 * probabilities.loc[parcel_id, code]
            assert f"{share:.1f} %" in text
        assert f"{row['pred_name']}" in text
        dates = len(opened(run).parcel_dates[parcel_id])
        assert f"Dates {dates}:" in text
        assert "What the prediction depends on" in text
    row, text = table.loc[labelled], page_of(run, labelled).text
    assert f"{row['verdict']} The models predict" in text
    assert f"Rank {row['doubt_rank']} of 50 declarations" in text
    assert "the model that was not trained on this parcel" in text
    text = page_of(run, unlabelled).text
    assert "; nothing declared" in text
    assert "all models together" in text
    assert "no declared class" in text


def test_the_attention_of_the_page_is_that_of_the_table(run):
    page = run.cards / file_name("1007", ".html")
    card(run.root, ["1007"])
    own = pd.read_parquet(run.attention).set_index("parcel_id").loc["1007"].dropna()
    shown = re.findall(
        r"(\d+ \w+ \d+): ([\d.]+)\s%? ?of the attention",
        page.read_text().replace("\N{NARROW NO-BREAK SPACE}", " "),
    )
    assert len(shown) == len(own) > 2
    for (day, share), (name, value) in zip(shown, own.items(), strict=True):
        assert pd.Timestamp(day) == pd.Timestamp(name)
        assert float(share) == pytest.approx(100 * value, abs=0.06)


def test_an_unknown_id_is_refused_with_those_like_it(run):
    with pytest.raises(InputError, match=r"has no parcel '1008'\. Did you mean '1007'"):
        card(run.root, ["1007", "1008"])
    with pytest.raises(InputError, match=r"has no parcel ''\.$"):
        card(run.root, [""])
    with pytest.raises(InputError, match="has no parcel"):
        card(run.root, ["' OR 1=1 --"])


def test_suggestions_are_quick_and_near():
    known = [str(9 * i) for i in range(100_000)]
    close = re.findall(r"'(\d+)'", suggest("450001", known))
    assert len(close) == 3
    assert {*close} <= {*known}
    assert all(i.startswith("450") for i in close)
    assert suggest("zzz", known) == suggest("", known) == ""
    assert suggest("A-12", ["a-13", "A-121", "B"]) != ""


@pytest.mark.parametrize(
    ("lacking", "words"),
    [
        ("predictions/parcels.parquet", "is not finished: it has no .*parcels.parquet. Run"),
        ("settings/predict.json", "is not finished: it has no .*predict.json. Run"),
        ("models/Fold_1/model.json", "Fold_1/model.json is not there.*snakemake -R train"),
        ("models/out_of_fold.parquet", "There is no .*snakemake -R calibrate"),
    ],
)
def test_a_run_that_is_not_finished_says_what_to_run(run, lacking, words):
    path = run.root / lacking
    path.rename(path.with_name("away"))
    try:
        with pytest.raises(InputError, match=words):
            card(run.root, ["1007"])
    finally:
        path.with_name("away").rename(path)


def test_predictions_of_other_models_are_refused(run):
    path = run.predictions.with_suffix(".parquet")
    table = pd.read_parquet(path)
    table.assign(confidence=table["confidence"] / 2).to_parquet(path)
    try:
        with pytest.raises(InputError, match=r"were made by other models\. Make them again"):
            card(run.root, ["1007"])
    finally:
        table.to_parquet(path)


def test_a_dataset_that_was_made_since_is_refused(run):
    saved = run.dataset.sizes.read_text()
    values = json.loads(saved)
    values["other"] = values.pop("1007")
    run.dataset.sizes.write_text(json.dumps(values))
    try:
        with pytest.raises(InputError, match=r"lacks parcels that were predicted: 1007\. Predict"):
            card(run.root, ["1007"])
    finally:
        run.dataset.sizes.write_text(saved)


def test_a_settings_file_names_the_run(run, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(run.root.parents[1])
    settings = tmp_path / "mine.yaml"
    settings.write_text("run: mine\ndataset: {path: existing}\n")
    page = RunPaths.of("mine").cards / "-5.html"
    # A folder beside results/ with the name of the run is not meant.
    (run.root.parents[1] / "mine").mkdir(exist_ok=True)
    for name in (str(settings), "mine"):
        page.unlink(missing_ok=True)
        assert main(["card", name, "--", "-5"]) == 0
        assert page.is_file()
    settings.write_text("run: other\ndataset: {path: existing}\n")
    assert main(["card", str(settings), "12"]) == 1
    assert f"Run `parcelwise run {settings} predictions` first" in caplog.messages[-1]
    for name, words in (
        ("nothing", "is neither a settings file nor the folder of a run"),
        ("existing", "is not the folder of a run"),
    ):
        assert main(["card", name, "12"]) == 1
        assert words in caplog.messages[-1]


def test_the_series_are_medians_of_clear_pixels_and_the_envelope_their_quantiles(run):
    dataset = opened(run)
    everyone = [read_series(dataset, i) for i in range(len(dataset))]
    own = everyone[8]
    parcel = dataset[8]
    assert own.names == [NDVI, *dataset.bands]
    red, near = (parcel["pixels"][:, dataset.bands.index(b)].astype(float) for b in ("B04", "B08"))
    for t, clear in enumerate(parcel["clear"]):
        ndvi = ((near - red) / (near + red))[t, clear]
        np.testing.assert_allclose(own.values[t, 0], np.median(ndvi))
        bands = np.median(parcel["pixels"][t][:, clear], axis=1) / 10_000
        np.testing.assert_allclose(own.values[t, 1:], bands)
    label = int(dataset.labels[8])
    found = envelope(dataset, label, own.days, 8)
    others = [s for i, s in enumerate(everyone) if dataset.labels[i] == label and i != 8]
    for t, day in enumerate(own.days):
        known = [s for s in others if s.days.min() <= day <= s.days.max()]
        for b in range(len(own.names)):
            values = [np.interp(day, s.days, s.values[:, b]) for s in known]
            expected = np.quantile(values, [0.1, 0.9]) if len(known) >= 5 else [np.nan] * 2
            np.testing.assert_allclose(found[t, b], expected)
    assert envelope(dataset, 99, own.days, 8) is None


def explanation(without, becomes, correlation=0.9):
    return Explanation(
        np.full(len(without), 1 / len(without)), 30, "maize", 0.9, np.array(without), becomes,
        correlation,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("without", "becomes", "words", "agreement"),
    [
        ([0.88, 0.85], ["maize"] * 2, "Whichever 60 days are left out, the class stays maize", ""),
        ([0.5, 0.85], ["maize"] * 2, "within 30 days of 1 March 2018: without them, maize has a "
         "probability of 50.0 % instead of 90.0 %. It stays maize.", "Attention agrees"),
        ([0.9, 0.2], ["maize", "wheat"], "20 March 2018. Without them, maize has a probability of "
         "20.0 % instead of 90.0 %, and the class would be wheat.", "Attention agrees"),
        ([np.nan] * 2, [""] * 2, "too few dates", ""),
    ],
)  # fmt: skip
def test_what_is_said_of_occlusion(without, becomes, words, agreement):
    days = [SEASON[0], SEASON[0].replace(day=20)]
    found = explanation(without, becomes)
    said = say_explanation(days, found).replace("\N{NARROW NO-BREAK SPACE}", " ")
    assert words in said
    assert say_attention(found).startswith(agreement)
    assert bool(say_attention(found)) == bool(agreement)


def test_what_is_said_of_attention():
    for correlation, words in ((0.5, "agrees with this ("), (0.2, "agrees with this in part"),
                               (0.1, "does not agree"), (np.nan, "")):  # fmt: skip
        assert words in say_attention(explanation([0.1], ["maize"], correlation))


@pytest.mark.parametrize(
    ("verdict", "predicted", "words"),
    [
        ("CONFLICT", "2", "0.6 %, is among the lowest 2 % of the parcels declared as wheat"),
        ("DOUBT", "2", "0.6 %, is among the lowest 10 % of the parcels declared as wheat"),
        ("CONFORM", "2", "for a parcel that is declared as wheat this is not unusual"),
        ("CONFORM", "1", "The models predict the declared class. Rank 7 of 1,234"),
    ],
)
def test_a_verdict_has_its_reason(verdict, predicted, words):
    row = {
        "verdict": verdict, "declared_code": "1", "declared_name": "wheat", "pred_code": predicted,
        "pred_name": "maize", "declared_probability": 0.006, "doubt_rank": 7,
    }  # fmt: skip
    said = say_verdict(row, 1234, 0.02, 5).replace("\N{NARROW NO-BREAK SPACE}", " ")
    assert words in said


# Outlines around (500000, 4600000): the distance to the parcel "it's" is known.
X, Y = 500_000.0, 4_600_000.0


@pytest.fixture(scope="module", params=["EPSG:32631", "EPSG:4326", "EPSG:3035"])
def layer(request, tmp_path_factory):
    """A GeoPackage of predictions in some coordinate system."""
    squares = {
        "it's": (0, 0), "10 m": (60, 0), "40 m": (-90, 0), "far": (5000, 0), "rejected": (0, 60),
    }  # fmt: skip
    outlines = [shapely.box(X + x, Y + y, X + x + 50, Y + y + 50) for x, y in squares.values()]
    names = [*squares, "empty", "it's", "point", "none", "line", "flat", "bow tie"]
    outlines += [shapely.Polygon(), outlines[3], shapely.Point(X + 25, Y - 30), None]
    outlines.append(shapely.LineString([(X - 500, Y + 200), (X + 500, Y + 200)]))
    for points in ([(-20, 120), (400, 120), (-20, 120), (-20, 120)],
                   [(-20, 130), (30, 180), (30, 130), (-20, 180), (-20, 130)]):  # fmt: skip
        outlines.append(shapely.Polygon([(X + x, Y + y) for x, y in points]))
    unusable = ("rejected", "empty", "none", "line", "flat", "bow tie")
    rejected = [name in unusable or i == 6 for i, name in enumerate(names)]
    rows = gpd.GeoDataFrame(
        {
            "parcel_id": names,
            "status": np.where(rejected, "rejected", "used"),
            "declared_code": "1", "declared_name": "wheat",
            "pred_code": [None if r else "2" for r in rejected],
            "pred_name": [None if r else "maize" for r in rejected],
            "confidence": np.where(rejected, np.nan, 0.8),
            "verdict": "DOUBT",
            "pred_source": "", "reason": "",
        },
        geometry=outlines, crs="EPSG:32631",
    ).to_crs(request.param)  # fmt: skip
    rows = rows.reindex(columns=[*rows.columns.drop("geometry"), "geometry"])
    return write_predictions(tmp_path_factory.mktemp("layer"), [full(rows)])


def full(rows):
    """Add the other columns of predictions."""
    others = dict.fromkeys(("pred2_code", "pred2_name", "prediction_set", "tile"), None)
    others |= dict.fromkeys(("confidence2", "declared_probability", "margin", "area_ha"), np.nan)
    others |= dict.fromkeys(("set_size", "doubt_rank", "n_pixels", "n_dates", "fold"), 1)
    return rows.assign(**others)


def test_the_place_has_the_neighbours_of_the_used_row(layer):
    place = read_place(layer, "it's", "EPSG:32631", {"2": "#56b4e9"})
    expected = gpd.GeoSeries([shapely.Point(X + 25, Y + 25)], crs=32631).to_crs(4326)[0]
    assert place.longitude == pytest.approx(expected.x, abs=3e-4)
    assert place.latitude == pytest.approx(expected.y, abs=3e-4)
    assert [n.parcel_id for n in place.neighbours] == ["10 m", "point", "40 m"]
    distances = [n.distance_m for n in place.neighbours]
    assert distances == pytest.approx([10, 30, 40], abs=0.1)
    assert place.colours == {"maize": "#56b4e9", "no prediction": "#c3c8cd"}
    # The parcel, three neighbours and rejected ones are drawn, the parcel last.
    assert [fill for _, fill, _ in place.shapes].count("#56b4e9") == 4
    assert len(place.shapes) >= 5
    titles = [title for _, _, title in place.shapes]
    assert titles[-1] == "Parcel it's: declared wheat, predicted maize"
    assert "Parcel rejected: declared wheat, no prediction" in titles
    numbers = [float(n) for n in re.findall(r"[\d.]+", place.shapes[-1][0])]
    assert min(numbers) > 100
    assert max(numbers) < 380


@pytest.mark.parametrize("parcel_id", ["empty", "none", "nobody", "it''s"])
def test_without_an_outline_there_is_no_place(layer, parcel_id):
    assert read_place(layer, parcel_id, "EPSG:32631", {}) is None


@pytest.mark.parametrize("parcel_id", ["line", "flat", "bow tie"])
def test_outlines_that_enclose_no_area_have_a_place(layer, parcel_id):
    place = read_place(layer, parcel_id, "EPSG:32631", {})
    assert place.latitude == pytest.approx(41.5, abs=0.1)
    assert len(place.neighbours) >= 3


def test_a_point_is_drawn_as_a_disc(layer):
    place = read_place(layer, "point", "EPSG:32631", {})
    assert place.shapes[-1][0].count("L") > 10
    assert place.neighbours[0].parcel_id == "it's"


def test_a_run_with_existing_weights_of_other_classes_has_cards(run, tmp_path):
    make(tmp_path / "existing", 30, labelled=0.5)
    save_models(tmp_path / "models")
    for file in (tmp_path / "models").glob("*/model.json"):
        text = file.read_text().replace('"maize"', '"<rye>"')
        file.write_text(text)
    settings = settings_for(tmp_path / "existing", weights=tmp_path / "models")
    paths = ingested(settings, tmp_path / "results" / "mine")
    options = view(settings, "predict")
    predict(paths.dataset.root, tmp_path / "models", paths.ledger, paths.predictions, options)
    write_record(paths.record("predict"), settings, "predict")
    text = page_of(paths, "100").text
    assert "<rye>" in text
    assert "all models together" in text
    assert "What the prediction depends on" in text
    assert "Prediction set" not in text


def test_a_parcel_with_a_single_date_has_charts():
    days = SEASON[:1]
    series = ParcelSeries(days, np.zeros(1, int), np.ones(1), [NDVI], np.full((1, 1), 0.4))
    envelopes = {"declared": np.full((1, 1, 2), 0.5)}
    first, others = series_charts(series, envelopes, {"declared": "#112233"})
    assert others == []
    line, clear, partly = first.axes[0].lines
    assert [len(own.get_xdata()) for own in (line, clear, partly)] == [1, 1, 0]
    assert first.said(clear) == ["1 March 2018: clear, NDVI 0.40"]
    found = explanation([np.nan], [""])
    occlusion, attention = occlusion_chart(days, found), attention_chart(days, found)
    assert [len(line.get_xdata()) for line in occlusion.axes[0].lines] == [2, 0, 0, 0]
    (bar,) = attention.axes[0].patches
    assert bar.get_height() == 1
    assert attention.said(bar).startswith("1 March 2018: 100")
    for chart in (first, occlusion, attention):
        # The axis is not of hours.
        assert not re.search(r">\d\d:\d\d<", chart.page_svg())
