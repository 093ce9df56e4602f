"""Stage report: one self-contained page on the inputs, the scores and the predictions of a run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd

from models.model_files import TRAINED_ON_FILE
from pipeline.classes.reasons import Status
from pipeline.dataset.npy_files import file_name
from pipeline.dataset.passes import NOTE, expected_passes
from pipeline.dataset.pixel_set_dataset import PixelSetDataset
from pipeline.report.areas import read_areas
from pipeline.report.attention import read_attention
from pipeline.report.calibration import has_sets, read_calibration, read_sets
from pipeline.report.class_colours import read_class_colours
from pipeline.report.divisions import read_comparison, read_divisions
from pipeline.report.doubts import read_doubts
from pipeline.report.figures import (
    calibration_chart,
    cloud_chart,
    has_validation,
    training_charts,
)
from pipeline.report.inputs import (
    read_account,
    read_imagery,
    read_shown_classes,
)
from pipeline.report.ndvi import MOST_PARCELS, draw_mistakes, ndvi_by_class, season_charts
from pipeline.report.origin import read_origin
from pipeline.report.scores import (
    METHODS,
    confidence_groups,
    confidence_thresholds,
    doubtful_parcels,
    is_scored,
    predicted_classes,
    read_existing_weights,
    read_predictions,
    read_scores,
    read_trainlogs,
)
from pipeline.report.season import read_season
from pipeline.report.templates import template
from pipeline.report.variogram import read_variogram
from pipeline.report.worklist import read_worklist
from pipeline.workflow.artefacts import read_json
from pipeline.workflow.config import read_record
from pipeline.workflow.paths import RunPaths
from pipeline.workflow.settings import ReportSettings
from pipeline.workflow.writing import replacing_folder, write_text

logger = logging.getLogger(__name__)


def report(run: Path, report: Path, records: list[Path], settings: ReportSettings) -> None:
    """Write the report of a run.

    The page needs no network, and no other file unless its map is too large for it. The same
    artefacts, with the same time of prediction, produce the same bytes.

    Parameters
    ----------
    run
        Folder of the run, results/<run>. Sections are left out if the run lacks their artefacts,
        such as scores if no parcel has a declared class. Also written into the folder: config.yaml,
        the settings that the run was made with.
    report
        Written: the page, HTML. Beside it, the folder of its charts, and where parcels have
        outlines, the files of its map.
    records
        Settings of the stages, which their jobs wrote.
    settings
        report.
    """
    paths = RunPaths(run)
    record = read_record(records)
    used = record.completed()
    write_text(paths.config, record.text)
    dataset = PixelSetDataset.open(paths.dataset.root)
    imagery = read_imagery(paths, dataset)
    table = paths.predictions.with_suffix(".parquet")
    predictions = read_predictions(table) if table.is_file() else None
    predicted = {} if predictions is None else predicted_classes(predictions)
    classes = read_shown_classes(paths, dataset, predicted)
    trained = [c for c in classes if c.class_index is not None]
    by_frequency = sorted(trained, key=lambda c: -c.n_parcels)
    colours = read_class_colours(dataset, predicted)
    existing_weights = used["predict"]["weights"] is not None
    from_dataset = bool(used["dataset"]["path"] or used["dataset"]["paths"])
    scores = weights = drawn = confidence = calibration = sets = areas = None
    if predictions is not None:
        confidence = _confidence(predictions)
        if existing_weights:
            weights = read_existing_weights(paths, predictions)
            scores = weights.scores if weights else None
        else:
            scores = read_scores(paths, predictions, used["train"]["keep"])
            if scores is not None:
                calibration, sets = read_calibration(paths), read_sets(paths)
        # A run from a dataset has no outlines; its folder may have those of an earlier run.
        if not from_dataset and paths.predictions.is_file():
            # Imported here, because a run from an existing dataset works without GDAL.
            from pipeline.report.map import draw_map

            drawn = draw_map(paths, predictions, classes, colours)
            areas = read_areas(paths)
    has_models = scores is not None and not existing_weights
    divisions = read_divisions(paths, used["split"]["also"]) if has_models else None
    leading = scores
    if scores is not None and divisions is not None and divisions.also_leads:
        leading = replace(scores, overall=divisions.overall, divided_by=divisions.also.divided_by)
    variogram = read_variogram(paths, used["split"]) if has_models else None
    ndvi = ndvi_by_class(dataset)
    logs = {} if existing_weights else read_trainlogs(paths)
    shown = dict(
        run=run.name,
        dataset=dataset.description,
        settings=used,
        imagery=imagery,
        tracks=expected_passes(imagery.rows, *_period(used)),
        passes_note=NOTE,
        clouds=cloud_chart(imagery.rows, used["imagery"]["max_cloud_fraction"]),
        ledger=read_account(paths) if paths.ledger.is_file() else None,
        statuses={str(status): status.words for status in Status},
        classes=classes,
        trained=trained,
        colours=colours,
        index={c.code: c.class_index for c in classes},
        n_dataset=len(dataset),
        from_dataset=from_dataset,
        origins=[(name, len(ids)) for name, ids in dataset.datasets.items()],
        predictions=predictions,
        scores=scores,
        leading=leading,
        divisions=divisions,
        variogram=variogram,
        weights=weights,
        calibrated=predictions is not None and has_sets(table),
        comparison=read_comparison(paths, settings.report.compare) if has_models else [],
        methods=METHODS,
        season=None if existing_weights else read_season(paths, by_frequency, colours),
        attention=read_attention(paths, by_frequency, colours)
        if settings.report.attention and predictions is not None
        else None,
        training=training_charts(logs, used["train"]["keep"]),
        validated=has_validation(logs),
        seasons=season_charts(ndvi, dataset.dates, by_frequency, colours),
        mistakes=[] if confidence is None else draw_mistakes(confidence["doubtful"], dataset, ndvi),
        most_parcels=MOST_PARCELS,
        map=drawn,
        areas=areas,
        confidence=confidence,
        **_trained(paths, used, existing_weights=existing_weights),
        calibration=calibration,
        sets=sets,
        doubts=None if existing_weights or predictions is None else read_doubts(paths),
        worklist=None if existing_weights or predictions is None else read_worklist(paths),
        origin=read_origin(paths),
        settings_text=record.text,
    )
    _write_figures(paths.figures, shown)
    files = _files(paths, existing_weights=existing_weights)
    write_text(report, template("report.html.jinja").render(shown, files=files))
    logger.info("%s: %.2f MB", report, report.stat().st_size / 1e6)


def _write_figures(folder: Path, shown: Mapping[str, Any]) -> None:
    """Write the charts of a page as SVG files of their own: <section of the page>/<name>.svg."""
    charts = {
        "imagery": {"clouds": shown["clouds"]},
        "confidence": {"accuracy": shown["confidence"] and shown["confidence"]["chart"]}
        | {f"mistake {mistake.parcel_id}": mistake.chart for mistake in shown["mistakes"]},
        "seasons": {f"NDVI {code}": chart for code, chart in shown["seasons"].items()},
        "training": shown["training"],
    }
    charts |= {
        name: {name: shown[name] and shown[name].chart}
        for name in ("variogram", "calibration", "areas")
    }
    if season := shown["season"]:
        by_class = {f"F1 {code}": chart for code, chart in season.by_class.items()}
        charts["early"] = season.charts | by_class
    if attention := shown["attention"]:
        charts["attention"] = {f"attention {crop.code}": crop.chart for crop in attention.classes}
    note = "SIMULATED imagery and declarations." if shown["dataset"]["simulated"] else ""
    with replacing_folder(folder) as temporary:
        for section, own in charts.items():
            (temporary / section).mkdir()
            for name, chart in own.items():
                if chart is not None:
                    file = temporary / section / file_name(name, ".svg")
                    file.write_text(chart.file_svg(note), encoding="utf-8", newline="")


def _period(used: Mapping[str, Any]) -> tuple[date | None, date | None]:
    """Return the first and the last day that the run asked for; None: no limit."""
    first, last = (
        None if (day := used["imagery"][name]) is None else date.fromisoformat(str(day))
        for name in ("start", "end")
    )
    return first, last


def _confidence(predictions: pd.DataFrame) -> dict[str, Any] | None:
    """Compare confidence with accuracy on the parcels that are scored; None if there are none."""
    parcels = predictions[is_scored(predictions)]
    if parcels.empty:
        return None
    groups = confidence_groups(parcels)
    return {
        "groups": groups,
        "chart": calibration_chart(groups),
        "thresholds": confidence_thresholds(parcels),
        "doubtful": doubtful_parcels(parcels),
    }


def _trained(paths: RunPaths, used: Mapping[str, Any], *, existing_weights: bool) -> dict[str, Any]:
    """Return what the trained models say: their name, packages, and the weights before them."""
    files = [] if existing_weights else sorted(paths.models.glob("Fold_*/model.json"))
    models = [read_json(path, _model) for path in files]
    started_from = dict.fromkeys(model[2] for model in models if model[2] is not None)
    unknown = [file for file in files if not (file.parent / TRAINED_ON_FILE).is_file()]
    return {
        "model_name": models[0][0] if models else used["model"]["name"],
        "versions": sorted(set().union(*(model[1] for model in models))),
        "started_from": list(started_from),
        "origin_unknown": bool(unknown),
    }


def _model(values: Mapping[str, Any]) -> tuple[str, set[str], str | None]:
    """Return name, packages and first weights of the model of model.json."""
    versions = set(map(" ".join, values["versions"].items()))
    return values["hyperparameters"]["name"], versions, values.get("started_from")


def _files(paths: RunPaths, *, existing_weights: bool) -> list[tuple[str, str]]:
    """Return the files of the run, relative to its folder, and what they contain."""
    # The files of an earlier run of this name, trained or not, may be there.
    others = {paths.existing_scores: "scores of the existing weights"}
    if not existing_weights:
        others = {
            paths.doubts: "verdicts on the declarations, by class",
            paths.to_check.with_suffix(".csv"): "the declarations to check, most doubtful first",
            paths.to_check.with_suffix(".gpkg"): "the same with outlines, for a map",
            paths.quality_sample.with_suffix(".csv"): "a random sample to assess the verdicts",
            paths.season.root: "how early the classes are known, and the models for it",
        }
    table = paths.predictions.with_suffix("")
    files = {
        paths.predictions: "predictions with the parcels' outlines",
        table.with_suffix(".csv"): "predictions as a table",
        table.with_suffix(".parquet"): "the same table, with types",
        paths.probabilities: "the calibrated probability of every class",
        **others,
        paths.attention: "attention of the models on every date, of every parcel",
        paths.areas.with_suffix(".csv"): "area of every class, in total and by region",
        paths.areas_account: "what the areas are based on",
        paths.ledger.with_suffix(".csv"): "status of every parcel, and the reason",
        paths.ledger: "the same table, with types",
        paths.acquisitions_view: "every acquisition, used or not, and why",
        paths.class_table: "declared classes",
        paths.dataset.root: "Pixel-Set dataset",
        paths.folds: "parcels of every fold",
        paths.variogram: "how far parcels are alike",
        paths.models: "trained models, training logs and scores",
        paths.figures: "the charts of this page, as SVG files of their own",
        paths.config: "settings of the run",
        paths.root / "logs": "a log for every step",
    }
    return [(p.relative_to(paths.root).as_posix(), text) for p, text in files.items() if p.exists()]
