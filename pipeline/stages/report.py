"""Stage report: one self-contained page that says what was found, dropped, learnt and predicted."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import pandas as pd

from pipeline.classes.crop_class import CropClass
from pipeline.classes.reasons import AcquisitionReason, ClassReason, Status
from pipeline.dataset.pixel_set_dataset import PixelSetDataset
from pipeline.report.class_colours import read_class_colours
from pipeline.report.figures import (
    MOST_PARCELS,
    Chart,
    calibration_chart,
    cloud_chart,
    ndvi_by_class,
    say_day,
    season_charts,
    training_charts,
)
from pipeline.report.inputs import (
    read_account,
    read_class_lines,
    read_imagery,
)
from pipeline.report.scores import (
    METHODS,
    confidence_groups,
    confidence_thresholds,
    doubtful_parcels,
    out_of_fold,
    predicted_classes,
    read_comparison,
    read_predictions,
    read_scores,
    read_trainlogs,
)
from pipeline.workflow.config import read_record
from pipeline.workflow.paths import RunPaths
from pipeline.workflow.rounding import percent, rounded, score
from pipeline.workflow.settings import ReportSettings
from pipeline.workflow.writing import write_text

if TYPE_CHECKING:
    from pipeline.report.map import Map

logger = logging.getLogger(__name__)


def report(run: Path, report: Path, records: list[Path], settings: ReportSettings) -> None:
    """Write the report of a run.

    The page needs no other file and no network, and the same artefacts give the same bytes.

    Parameters
    ----------
    run
        Folder of the run, results/<run>. What it lacks, such as scores where no parcel has a
        declared class, the page says or leaves out.
    report
        Written: the page, HTML. Beside the run's other artefacts config.yaml is written, too: the
        settings that the run was made with.
    records
        Settings that the stages used, each as its job left them.
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
    classes = read_class_lines(paths, dataset, predicted)
    colours = read_class_colours(dataset, predicted)
    trained = used["predict"]["weights"] is None
    scores = None if predictions is None or not trained else read_scores(paths, predictions)
    page = _template().render(
        run=run.name,
        dataset=dataset.description,
        settings=used,
        imagery=imagery,
        clouds=cloud_chart(imagery.rows, used["imagery"]["max_cloud_fraction"]),
        ledger=read_account(paths, trained=trained) if paths.ledger.is_file() else None,
        statuses={str(status): status.words for status in Status},
        classes=classes,
        learnt=[c for c in classes if c.class_index is not None],
        colours=colours,
        index={c.code: c.class_index for c in classes},
        n_dataset=len(dataset),
        predictions=predictions,
        scores=scores,
        comparison=read_comparison(paths, settings.report.compare) if scores else [],
        methods=METHODS,
        training=training_charts(read_trainlogs(paths) if trained else {}),
        seasons=_seasons(dataset, classes, colours),
        most_parcels=MOST_PARCELS,
        map=(
            None
            # A run from a dataset has no outlines; its folder may hold those of an earlier run.
            if predictions is None or used["dataset"]["path"] or not paths.predictions.is_file()
            else _map(paths, dataset, predictions, colours)
        ),
        confidence=None if predictions is None else _confidence(predictions),
        versions=_versions(paths) if trained else [],
        files=_files(paths),
        settings_text=record.text,
    )
    write_text(report, page)
    logger.info("%s: %.2f MB", report, report.stat().st_size / 1e6)


def _confidence(predictions: pd.DataFrame) -> dict[str, Any] | None:
    """Compare confidence with accuracy on the out-of-fold parcels; None where there are none."""
    parcels = out_of_fold(predictions)
    if parcels.empty:
        return None
    groups = confidence_groups(parcels)
    return {
        "groups": groups,
        "chart": calibration_chart(groups),
        "thresholds": confidence_thresholds(parcels),
        "doubtful": doubtful_parcels(parcels).to_dict("records"),
    }


def _seasons(
    dataset: PixelSetDataset, classes: list[CropClass], colours: Mapping[str, str]
) -> list[Chart]:
    """Draw NDVI over time of the classes that are learnt, the most frequent first."""
    learnt = sorted((c for c in classes if c.class_index is not None), key=lambda c: -c.n_parcels)
    return season_charts(ndvi_by_class(dataset), dataset.dates, learnt, colours)


def _map(
    paths: RunPaths,
    dataset: PixelSetDataset,
    predictions: pd.DataFrame,
    colours: Mapping[str, str],
) -> Map | None:
    """Draw the map of the parcels' outlines."""
    # Imported late: a run from a finished dataset needs no GDAL.
    from pipeline.report.map import draw_map

    return draw_map(paths.predictions, predictions, dataset.description["crs"], colours)


def _versions(paths: RunPaths) -> list[str]:
    """List the versions that the models were trained with, as their own descriptions tell."""
    told = [json.loads(path.read_text()) for path in paths.models.glob("Fold_*/model.json")]
    return sorted({f"{name} {number}" for t in told for name, number in t["versions"].items()})


def _files(paths: RunPaths) -> list[tuple[str, str]]:
    """List the files that the run has, relative to its folder, with what they hold."""
    table = paths.predictions.with_suffix("")
    files = {
        paths.predictions: "predictions with the parcels' outlines",
        table.with_suffix(".csv"): "predictions as a table",
        table.with_suffix(".parquet"): "the same table, with types",
        paths.ledger.with_suffix(".csv"): "what became of every parcel",
        paths.ledger: "the same table, with types",
        paths.acquisitions_view: "every acquisition found, used or not, and why",
        paths.class_table: "declared classes",
        paths.dataset.root: "Pixel-Set dataset",
        paths.folds: "parcels of every fold",
        paths.models: "trained models, training logs and scores",
        paths.config: "settings that the run was made with",
        paths.root / "logs": "one log a step",
    }
    return [(p.relative_to(paths.root).as_posix(), what) for p, what in files.items() if p.exists()]


def _template() -> jinja2.Template:
    """Load the page's template with its filters."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline", "report"),
        autoescape=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "number": lambda value: f"{value:,}",
        "percent": percent,
        "score": score,
        "deviation": lambda value: rounded(100 * value, 1),
        "loss": lambda value: rounded(value, 3),
        "day": say_day,
        "plain": lambda value: f"{value:g}",
        "in_words": lambda reason: AcquisitionReason(reason).words,
        "class_in_words": lambda reason: ClassReason(reason).words,
    }
    return environment.get_template("report.html.jinja")
