"""The command `card`: a page on single parcels of a finished run."""

from __future__ import annotations

import bisect
import difflib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from geo.errors import InputError, first_five
from geo.register.columns import as_text
from models.training.distributed import choose_device
from models.whole_files import flush, temporary_folder
from pipeline.classes.reasons import Reason, Status
from pipeline.dataset.npy_files import file_name
from pipeline.dataset.pixel_set_dataset import PixelSetDataset
from pipeline.evaluation.doubts import DOUBT_FACTOR
from pipeline.evaluation.occlusion import (
    WINDOW_DAYS,
    Explainer,
    Occlusion,
    occlude,
    rank_correlations,
)
from pipeline.predictions.columns import SEPARATOR
from pipeline.report.class_colours import UNPREDICTED, read_class_colours
from pipeline.report.parcel_card import (
    Explanation,
    attention_chart,
    occlusion_chart,
    say_attention,
    say_explanation,
    say_verdict,
    series_charts,
)
from pipeline.report.parcel_series import ENVELOPE, envelope, read_series
from pipeline.report.templates import template
from pipeline.workflow.artefacts import artefact
from pipeline.workflow.config import read
from pipeline.workflow.paths import RunPaths
from pipeline.workflow.settings import PredictSettings, from_json

logger = logging.getLogger(__name__)

# Columns of the predictions that the card shows.
_TEXTS = [
    *("parcel_id", "status", "reason", "declared_code", "declared_name", "pred_code", "pred_name"),
    *("prediction_set", "verdict", "pred_source"),
]
_NUMBERS = ["confidence", "declared_probability", "doubt_rank", "set_size", "n_pixels", "area_ha"]
# Ids that are suggested for an unknown one, and those among which they are looked for.
_SUGGESTED, _COMPARED = 3, 200
# An id of which less is alike is not suggested (difflib's usual cutoff).
_ALIKE = 0.6
# Predictions on a GPU differ from those on a CPU by less.
_SAME = 0.02
# Classes whose probabilities are shown without being asked for.
_SHOWN_CLASSES = 10


def card(run: Path, ids: list[str]) -> None:
    """Write a page on single parcels of a finished run: results/<run>/report/cards/<id>.html.

    The page shows where a parcel lies, its observations beside those of its class, what the models
    predict, on which dates they look and depend, and what is to be said of its declaration.

    Parameters
    ----------
    run
        Settings file of the run, or its folder, results/<run>.
    ids
        Ids of the parcels.

    Raises
    ------
    InputError
        If the run has no predictions yet, or no parcel of such an id.
    """
    finished = FinishedRun.open(run)
    known = finished.ids
    if unknown := [parcel_id for parcel_id in ids if parcel_id not in known]:
        raise InputError(
            "\n".join(
                f"{finished.paths.root} has no parcel {parcel_id!r}.{suggest(parcel_id, known)}"
                for parcel_id in unknown[:5]
            )
        )
    parcels = {parcel_id: finished.row(parcel_id) for parcel_id in dict.fromkeys(ids)}
    index = {parcel_id: i for i, parcel_id in enumerate(finished.dataset.ids)}
    explained = [parcel_id for parcel_id, row in parcels.items() if row["pred_source"]]
    if lacking := [parcel_id for parcel_id in explained if parcel_id not in index]:
        raise InputError(
            f"{finished.dataset.paths.root} lacks parcels that were predicted: "
            f"{first_five(lacking)}. Predict again: snakemake -R predict."
        )
    explanations = finished.explain({i: index[i] for i in explained}, parcels)
    for parcel_id, row in parcels.items():
        page = finished.page(row, index.get(parcel_id), explanations.get(parcel_id))
        path = finished.paths.cards / file_name(parcel_id, ".html")
        # Not a temporary name beside the page: with the name of the page, it could be too long.
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(path.parent / "new") as folder:
            (folder / path.name).write_text(page, encoding="utf-8", newline="")
            flush(folder / path.name)
            (folder / path.name).replace(path)
        logger.info("%s", path)


def suggest(parcel_id: str, known: Iterable[str]) -> str:
    """Return " Did you mean ...?" with the known ids that are most like an id."""
    # Comparing it with all of a million ids would take a minute: those beside it in order, and
    # those that contain it, are enough.
    ordered = sorted(known)
    place = bisect.bisect(ordered, parcel_id)
    near = ordered[max(place - _COMPARED // 2, 0) : place + _COMPARED // 2]
    containing = [i for i in ordered if parcel_id and parcel_id in i][:_COMPARED]
    likeness = {}
    for other in dict.fromkeys([*near, *containing]):
        share = difflib.SequenceMatcher(None, other.lower(), parcel_id.lower()).ratio()
        # Of equal ones, that which begins alike: numbers near each other do.
        begin = takewhile(lambda pair: pair[0] == pair[1], zip(other, parcel_id, strict=False))
        likeness[other] = round(share, 3), len(list(begin))
    close = [i for i in sorted(likeness, key=likeness.__getitem__) if likeness[i][0] >= _ALIKE]
    names = ", ".join(map(repr, close[: -_SUGGESTED - 1 : -1]))
    return f" Did you mean {names}?" if close else ""


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """A run with predictions.

    Attributes
    ----------
    paths
        Its files.
    settings
        The settings of its stage predict.
    dataset
        Its dataset.
    ids
        Ids of the rows of the predictions that have one.
    n_judged
        Number of declarations with a rank.
    colours
        {code: colour} of the classes.
    """

    paths: RunPaths
    settings: PredictSettings
    dataset: PixelSetDataset
    ids: set[str]
    n_judged: int
    colours: dict[str, str]

    @classmethod
    def open(cls, run: Path) -> FinishedRun:
        """Open a run, by its folder, name or settings file; refuse one without predictions."""
        # The checkout has a folder demo, too: the one with predictions is meant.
        named = (RunPaths(run), RunPaths.of(str(run)))
        paths = next((p for p in named if p.probabilities.is_file()), None)
        paths = paths or (RunPaths(run) if run.is_dir() else RunPaths.of(_name(run)))
        table, record = paths.predictions.with_suffix(".parquet"), paths.record("predict")
        lacking = [path for path in (table, record, paths.probabilities) if not path.is_file()]
        if lacking:
            if run.is_dir() and not (paths.dataset.root.is_dir() or paths.settings.is_dir()):
                raise InputError(
                    f"{run} is not the folder of a run: expected results/<run>, or the settings "
                    "file of a run."
                )
            command = f"parcelwise run {run if run.is_file() else 'FILE'} predictions"
            raise InputError(
                f"The run in {paths.root} is not finished: it has no {lacking[0]}. Run `{command}` "
                "first."
            )
        with artefact(record, "the settings of predict"):
            settings = from_json(record.read_text(encoding="utf-8"), PredictSettings)
        with artefact(table, "a table of predictions"):
            rows = pd.read_parquet(table, columns=["parcel_id", "doubt_rank", "pred_code"])
        dataset = PixelSetDataset.open(paths.dataset.root)
        predicted = sorted(set(as_text(pd.Series(rows["pred_code"].dropna().unique()))))
        return cls(
            *(paths, settings, dataset, {*as_text(rows["parcel_id"])} - {""}),
            int(rows["doubt_rank"].notna().sum()),
            read_class_colours(dataset, predicted),
        )

    @property
    def has_outlines(self) -> bool:
        """Whether the run started from a register, and not from an existing dataset."""
        return self.settings.parcels.path is not None and self.paths.predictions.is_file()

    @cached_property
    def explainer(self) -> Explainer:
        """The models as they predicted the parcels, on the CPU."""
        weights = self.settings.predict.weights
        return Explainer.load(
            self.dataset,
            self.paths.models if weights is None else weights,
            self.paths.folds if weights is None else None,
            self.settings,
            choose_device("cpu", 1),
        )

    def row(self, parcel_id: str) -> dict[str, Any]:
        """Read the predictions of a parcel; texts are "" and numbers None where missing.

        Of several rows with the id, the one that was not rejected is read, or the first.
        """
        table = self.paths.predictions.with_suffix(".parquet")
        with artefact(table, "a table of predictions"):
            found = _rows_with(table, parcel_id, [*_TEXTS, *_NUMBERS])
        order = np.argsort((found["status"] == Status.REJECTED).to_numpy(), kind="stable")
        row = found.iloc[int(order[0])]
        return {
            **{name: as_text(pd.Series([row[name]]))[0] for name in _TEXTS},
            **{name: None if pd.isna(row[name]) else row[name].item() for name in _NUMBERS},
            "n_rows": len(found),
        }

    def explain(
        self, indices: Mapping[str, int], parcels: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, Explanation]:
        """Measure attention and occlusion of parcels, {id: explanation}.

        Parameters
        ----------
        indices
            {id: position in the dataset}.
        parcels
            {id: row of the predictions}.
        """
        if not indices:
            return {}
        found = occlude(self.explainer, np.array(list(indices.values()), np.int64))
        names = [crop.name for crop in self.explainer.classes]
        explained = {}
        for n, (parcel_id, i) in enumerate(indices.items()):
            row = parcels[parcel_id]
            if abs(found.probability[n] - row["confidence"]) > _SAME:
                raise InputError(
                    f"The models give parcel {parcel_id} a confidence of "
                    f"{found.probability[n]:.2f}, the predictions {row['confidence']:.2f}: they "
                    "were made by other models. Make them again: snakemake -R predict."
                )
            explained[parcel_id] = _explanation(found, n, int(self.dataset.lengths[i]), names)
        return explained

    def page(self, row: Mapping[str, Any], i: int | None, found: Explanation | None) -> str:
        """Return the page of a parcel, HTML.

        Parameters
        ----------
        row
            Its row of the predictions.
        i
            Its position in the dataset; None if it is not there.
        found
            Its explanation; None if it was not predicted.
        """
        dataset, codes = self.dataset, [str(c.code) for c in self.dataset.classes]
        series = None if i is None else read_series(dataset, i)
        envelopes: dict[str, NDArray[np.float64]] = {}
        if i is not None and series is not None:
            kinds = {"declared": row["declared_code"], "predicted": row["pred_code"]}
            if kinds["declared"] == kinds["predicted"]:
                del kinds["declared"]
            for kind, code in kinds.items():
                if code in codes:
                    own = envelope(dataset, codes.index(code), series.days, i)
                    envelopes |= {} if own is None else {kind: own}
        colour_of = {
            kind: self.colours.get(row[f"{column}_code"], UNPREDICTED)
            for kind, column in (("declared", "declared"), ("predicted", "pred"))
        }
        ndvi, bands = (None, []) if series is None else series_charts(series, envelopes, colour_of)
        place = None
        if self.has_outlines:
            # GDAL is imported only here: a run from a dataset works without it.
            from pipeline.report.parcel_place import read_place

            crs = dataset.description["crs"]
            place = read_place(self.paths.predictions, row["parcel_id"], crs, self.colours)
        probabilities = self._probabilities(row["parcel_id"]) if row["pred_source"] else []
        verdict = (
            say_verdict(row, self.n_judged, self.settings.predict.false_alarms, DOUBT_FACTOR)
            if row["verdict"]
            else ""
        )
        fractions = None if series is None else series.clear_fraction
        return template("card.html.jinja").render(
            run=self.settings.run,
            simulated=dataset.description["simulated"],
            fill=dataset.description["fill"],
            row=row,
            reason=Reason(row["reason"]).words if row["reason"] else "",
            place=place,
            series=series,
            n_clear=0 if fractions is None else int((fractions == 1).sum()),
            n_cloudy=0 if fractions is None else int((fractions == 0).sum()),
            ndvi=ndvi,
            bands=bands,
            envelopes=envelopes,
            quantiles=ENVELOPE,
            probabilities=probabilities,
            shown_classes=_SHOWN_CLASSES,
            set_names=[
                name
                for code, name, _ in probabilities
                if code in row["prediction_set"].split(SEPARATOR)
            ],
            verdict=verdict,
            explanation=found,
            said=None if found is None or series is None else say_explanation(series.dates, found),
            said_of_attention="" if found is None else say_attention(found),
            occlusion=None
            if found is None or series is None
            else occlusion_chart(series.dates, found),
            attention=None
            if found is None or series is None
            else attention_chart(series.dates, found),
            colours=self.colours,
            colour_of=colour_of,
        )

    def _probabilities(self, parcel_id: str) -> list[tuple[str, str, float]]:
        """Return (code, name, probability) of every class, the most probable first."""
        with artefact(self.paths.probabilities, "a table of probabilities"):
            found = _rows_with(self.paths.probabilities, parcel_id).iloc[0]
        own = found.drop("parcel_id").astype(float).sort_values(ascending=False)
        names = {str(crop.code): crop.name for crop in self.explainer.classes}
        return [(str(code), names[str(code)], float(value)) for code, value in own.items()]


def _name(file: Path) -> str:
    """Return the name of the run of a settings file."""
    if not file.is_file():
        folder = RunPaths.of(str(file)).root
        hint = f" Did you mean {folder}?" if folder.is_dir() else ""
        raise InputError(
            f"{file} is neither a settings file nor the folder of a run, such as results/mine."
            f"{hint}"
        )
    return read(file).run


def _rows_with(table: Path, parcel_id: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read the rows of a Parquet file with an id; other row groups are not kept in memory."""
    is_own = [("parcel_id", "==", parcel_id)]
    names = None if columns is None else list(columns)
    rows: pd.DataFrame = pq.read_table(table, columns=names, filters=is_own).to_pandas()
    return rows


def _explanation(found: Occlusion, n: int, length: int, names: Sequence[str]) -> Explanation:
    """Return the explanation of the n-th parcel of an occlusion, on its own dates."""
    correlation = rank_correlations(found.window_attention[n : n + 1], found.window_fall[n : n + 1])
    classes = found.window_class[n, :length].tolist()
    return Explanation(
        attention=found.attention[n, :length],
        window_days=WINDOW_DAYS,
        predicted=names[int(found.chosen[n])],
        probability=float(found.probability[n]),
        without=found.window_probability[n, :length],
        becomes=["" if index < 0 else names[index] for index in classes],
        correlation=float(correlation[0]),
    )
