"""Existing weights are scored on declared classes, and their classes and season are compared."""

import json
import logging
import re
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score

from geo.errors import InputError
from models.model_files import first_description, read_description
from pipeline.classes.crop_class import CropClass
from pipeline.dataset.season import season_of
from pipeline.evaluation.scores import write_existing_scores
from pipeline.stages.predict import predict
from pipeline.stages.report import report
from pipeline.workflow.config import view
from tests.builders.models import FOLDS, save_models
from tests.builders.pixel_sets import CLASSES, SEASON, ingested, make, settings_for, write
from tests.builders.registers import Run, simple
from tests.builders.runs import opened, recorded

CODES = {
    "as trained": {name: name for name in CLASSES},
    "numbers": {name: i for i, name in enumerate(CLASSES, 1)},
}


def describe_folds(folder, **changes):
    for fold in range(1, FOLDS + 1):
        path = folder / f"Fold_{fold}" / "model.json"
        write(path, json.loads(path.read_text()) | changes)


class Case:
    """A dataset of barley, maize, rye, oats and unlabelled parcels; weights that know CLASSES."""

    def __init__(self, folder, codes="as trained", **dates):
        self.folder = folder
        make(folder / "given", n=40)
        save_models(folder / "weights", members=1)
        describe_folds(folder / "weights", class_codes=[*map(str, CODES[codes].values())], **dates)
        path = folder / "given" / "META" / "labels.json"
        labels = json.loads(path.read_text())["crop"]
        # No parcel declares wheat.
        self.unknown = "rye" if codes == "as trained" else 17
        own = CODES[codes] | {"wheat": self.unknown}
        labels = {i: own[name] for i, name in labels.items()}
        for parcel_id in list(labels)[:4]:
            del labels[parcel_id]
        write(path, {"crop": labels})
        self.settings = settings_for(folder / "given", folder / "weights")

    def predict(self):
        self.run = ingested(self.settings, self.folder / "run")
        options = view(self.settings, "predict")
        predict(
            self.run.dataset.root, self.folder / "weights", self.run.ledger, self.run.predictions,
            options, scores=self.run.existing_scores,
        )  # fmt: skip
        self.table = pd.read_csv(self.run.predictions.with_suffix(".csv"), keep_default_na=False)
        return json.loads(self.run.existing_scores.read_text())

    def page(self):
        paths = self.run
        report(
            paths.root, paths.report, recorded(self.settings, paths), view(self.settings, "report")
        )
        page = re.sub(r"<style>.*?</style>", "", paths.report.read_text(), flags=re.S)
        return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


@pytest.mark.parametrize("codes", CODES)
def test_existing_weights_are_scored_on_the_classes_that_they_know(tmp_path, codes):
    case = Case(tmp_path, codes)
    found = case.predict()
    table, known = case.table, [str(case_code) for case_code in CODES[codes].values()]
    table["declared_code"], table["pred_code"] = (
        table[column].astype(str) for column in ("declared_code", "pred_code")
    )
    scored = table[table["declared_code"].isin(known)]
    assert 20 < len(scored) < 30
    declared, predicted = scored["declared_code"], scored["pred_code"]
    assert found["n_parcels"] == len(scored)
    assert found["overall"]["Accuracy"] == pytest.approx(accuracy_score(declared, predicted))
    for metric, function in (
        ("precision", precision_score),
        ("recall", recall_score),
        ("f1", f1_score),
    ):
        expected = function(declared, predicted, labels=known, average=None, zero_division=0)
        assert [row[metric] for row in found["per_class"]] == pytest.approx(expected)
    assert [row["support"] for row in found["per_class"]] == [
        (declared == code).sum() for code in known
    ]
    n_unknown = int((table["declared_code"] == str(case.unknown)).sum())
    assert found["unknown"] == [
        {"code": case.unknown, "name": str(case.unknown), "n_parcels": n_unknown}
    ]
    assert found["season"] is None
    refit = found["refit"]
    assert refit["n_parcels"] == len(scored)
    assert refit["as_given"]["accuracy"] == pytest.approx(found["overall"]["Accuracy"])
    assert refit["refitted"]["accuracy"] == refit["as_given"]["accuracy"]
    assert set(zip(table["status"], table["reason"], strict=True)) == {
        ("predict_only", "given_weights"),
        ("predict_only", "class_unknown_to_weights"),
        ("predict_only", "no_label"),
    }
    is_unknown = table["reason"] == "class_unknown_to_weights"
    assert is_unknown.tolist() == (table["declared_code"] == str(case.unknown)).tolist()
    classes = pd.read_csv(case.run.class_table, dtype=str, keep_default_na=False)
    assert classes["code"].tolist() == [*known, str(case.unknown)]
    assert classes["class_index"].tolist() == ["0", "1", "2", ""]
    assert classes["reason"].tolist() == ["", "", "", "unknown_to_weights"]

    page = case.page()
    share = f"{100 * found['overall']['Accuracy']:.1f} %"
    assert f"{share} right on the {len(scored)} parcels with a declared class that the" in page
    assert "It is not known on which parcels these were trained" in page
    assert "There is no work list, because no declaration is judged: it is not known" in page
    assert f"{n_unknown} parcels declare classes that the weights do not know: " in page
    assert "no: unknown to the existing weights" in page
    assert "The confidences are not calibrated, and there are no prediction sets" in page
    assert "The dates of the training are not known." in page
    assert f"Each half of the {len(scored)} parcels was scored with the temperature" in page
    assert f"temperature refitted {share[:-2]}" in page
    assert "were not used to train it" not in page
    assert "best baseline" not in page


def test_without_labels_nothing_is_scored(tmp_path):
    case = Case(tmp_path)
    (tmp_path / "given" / "META" / "labels.json").unlink()
    found = case.predict()
    assert (found["n_parcels"], found["overall"], found["unknown"]) == (0, None, [])
    assert found["refit"] is None
    page = case.page()
    assert "No parcel declares one of their classes, so the run has no scores." in page
    assert "There is no work list, because no parcel declares a class that the existing" in page
    assert "Overall accuracy" not in page


def test_codes_unknown_to_the_weights_are_merged_if_these_know_the_other_class(tmp_path):
    save_models(tmp_path / "weights", members=1)
    describe_folds(tmp_path / "weights", class_codes=["A", "B", "other"])
    options = {"weights": tmp_path / "weights", "labels": {"crop": "CODE"}, "other_class": "other"}
    run = Run(tmp_path)(simple(["A", "A", "C", "Z", None]), **options)
    assert list(run.labels["crop"].values()) == ["A", "A", "other", "other", None]
    assert run.column("reason") == ["given_weights"] * 4 + ["no_label"]
    assert [row["n_parcels"] for row in run.classes] == ["2", "0", "2"]


def test_classes_of_a_register_are_those_of_the_weights(tmp_path):
    """The example of a register with A, C and Z for weights that know A and B."""
    save_models(tmp_path / "weights", members=1)
    describe_folds(tmp_path / "weights", class_codes=["A", "B", "D"])
    run = Run(tmp_path)(
        simple(["A", "A", "C", "Z"]), weights=tmp_path / "weights", labels={"crop": "CODE"}
    )
    assert [(row["code"], row["n_parcels"], row["reason"]) for row in run.classes] == [
        ("A", "2", ""),
        ("B", "0", ""),
        ("D", "0", ""),
        ("C", "1", "unknown_to_weights"),
        ("Z", "1", "unknown_to_weights"),
    ]
    assert run.column("reason") == ["given_weights"] * 2 + ["class_unknown_to_weights"] * 2


# Seasons


def days_of(first, step, n):
    return [first + timedelta(step * i) for i in range(n)]


TRAINED = days_of(date(2018, 3, 1), 20, 12)  # 1 March to 7 October 2018
OTHER_YEAR = [day.replace(year=2021) for day in TRAINED]
SEASONS = {
    "the same dates": (TRAINED, "2018-03-01", 0, 0),
    "another year": (OTHER_YEAR, "2021-03-01", 0, 0),
    "30 days earlier": (days_of(date(2019, 1, 30), 20, 12), "2019-03-01", 0, 0),
    "60 days earlier": (days_of(date(2018, 12, 31), 20, 12), "2019-03-01", 2, 2),
    "a gap in summer": ([*OTHER_YEAR[:4], *OTHER_YEAR[8:]], "2021-03-01", 0, 2),
    "the first half": (OTHER_YEAR[:6], "2021-03-01", 0, 5),
    "the second half": (OTHER_YEAR[6:], "2021-03-01", 0, 5),
    "winter": (days_of(date(2021, 11, 20), 10, 7), "2022-03-01", 7, 12),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    save_models(folder, members=1)
    describe_folds(folder, first_date="2018-03-01", dates=[day.isoformat() for day in TRAINED])
    return folder


@pytest.mark.parametrize("case", SEASONS)
def test_the_dates_of_a_season_are_compared(trained, case):
    dates, day_0, n_unknown, n_missing = SEASONS[case]
    season = season_of(first_description(trained), dates)
    assert season.day_0.isoformat() == day_0
    # Brute force over day numbers.
    of_training = [(day - date(2018, 3, 1)).days for day in TRAINED]
    own = [(day - season.day_0).days for day in dates]
    far = [min(abs(day - other) for other in of_training) > 30 for day in own]
    unknown = [day for day, is_far in zip(dates, far, strict=True) if is_far]
    missing = [t for t in of_training if min(abs(n - t) for n in own) > 30]
    assert season.unknown == unknown
    assert [(day - season.day_0).days for day in season.missing] == missing
    assert (len(unknown), len(missing)) == (n_unknown, n_missing)
    assert bool(season.explain()) == (n_unknown + n_missing > 0)
    if n_unknown > len(dates) / 2:
        with pytest.raises(InputError, match=r"7 of the 7 dates of the imagery .*2021-11-20"):
            season.refuse()
    else:
        season.refuse()


def test_the_season_of_a_training_of_more_than_a_year_is_found(trained):
    """Day 0 is in August: the dates of a spring are those after the new year, not before day 0."""
    about = read_description(trained / "Fold_1")
    days = days_of(date(2017, 8, 4), 10, 48)
    long = about.__class__(
        **{name: getattr(about, name) for name in about.__dataclass_fields__}
        | {"first_date": "2017-08-04", "dates": [day.isoformat() for day in days]}
    )
    season = season_of(long, days_of(date(2020, 4, 1), 10, 10))
    assert season.day_0 == date(2019, 8, 4)
    assert season.unknown == []


def test_a_model_of_an_earlier_version_does_not_know_its_dates(trained, tmp_path):
    values = json.loads((trained / "Fold_1" / "model.json").read_text())
    del values["dates"]
    write(tmp_path / "model.json", values)
    about = read_description(tmp_path)
    assert about.dates is None
    season = season_of(about, SEASONS["winter"][0])
    assert (season.unknown, season.missing, season.explain()) == ([], [], "")
    season.refuse()


def test_weights_of_another_season_are_refused_before_anything_is_predicted(tmp_path):
    winter = [day.isoformat() for day in days_of(date(2017, 11, 1), 10, 5)]
    case = Case(tmp_path, dates=winter, first_date="2017-11-01")
    with pytest.raises(InputError, match=r"(?s)predict\.weights: .*2018-03-01.* Use imagery of"):
        case.predict()
    assert not list((tmp_path / "run").glob("predictions/*"))


def test_a_part_of_the_season_is_warned_of_and_reported(tmp_path, caplog):
    dates = [*SEASON, SEASON[-1] + timedelta(40), SEASON[-1] + timedelta(60)]
    case = Case(tmp_path, dates=[day.isoformat() for day in dates])
    with caplog.at_level(logging.WARNING):
        found = case.predict()
    assert "2 dates of the training are more than 30 days from all dates of the" in found["season"]
    assert found["season"] in caplog.text
    assert found["season"] in case.page()


def test_the_dates_of_a_training_are_saved_with_the_model(tmp_path):
    from models.model_description import DataDescription, ModelDescription
    from models.standardisation import Normalisation

    save_models(tmp_path, members=1)
    about = read_description(tmp_path / "Fold_1")
    data = DataDescription(
        about.bands, about.class_codes, about.class_names, SEASON[0],
        Normalisation(np.zeros(4), np.ones(4)), SEASON,
    )  # fmt: skip
    described = ModelDescription.of(
        data, about.hyperparameters, about.feature_scaling, n_pixels=8, seed=1, members=1,
        versions={},
    )  # fmt: skip
    again = ModelDescription.from_json(json.loads(json.dumps(described.to_json())))
    assert again.dates == [day.isoformat() for day in SEASON]


def test_a_dataset_that_was_labelled_for_other_models_is_refused(tmp_path):
    case = Case(tmp_path)
    case.predict()
    write(case.run.dataset.classes, [{"code": c, "name": c} for c in ("maize", "barley", "wheat")])
    with pytest.raises(InputError, match=r"classes\.json has the classes maize, barley, .*-R"):
        write_existing_scores(
            case.run.existing_scores, opened(case.run), [CropClass(c, c) for c in CLASSES],
            np.zeros(40, int), np.ones((40, 3)) / 3,
            season_of(read_description(tmp_path / "weights/Fold_1"), SEASON),
        )  # fmt: skip
