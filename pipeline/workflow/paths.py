"""The path of every artefact of a run. No other module defines one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

# Usual file names of the pickle of (means, stds); the first that exists is read.
NORMALISATIONS = ("normalisation_values.pkl", "S2-2017-T31TFM-meanstd.pkl")

# The tile name under which the parcels of an existing dataset are packed.
INGESTED = "ingested"


def ingested_tiles(n: int) -> list[str]:
    """Return the tile names under which the parcels of n existing datasets are packed."""
    return [INGESTED, *(f"{INGESTED}_{k}" for k in range(2, n + 1))]


# The stage that writes an artefact again, by its path below the folder of a run. The first pattern
# that fits counts. Files that no stage reads are not listed.
_WRITERS = {
    "inputs.json": "inputs",
    "provenance.json": "provenance",
    "models/stac_item.json": "model_card",
    "acquisitions.json": "index",
    "grids.json": "index",
    "acquisitions/*.json": "index",
    "parcels/register.parquet": "clean",
    "parcels/overlaps.parquet": "clean",
    "parcels/tiles/*.parquet": "clean",
    "parcels/pixel_index/*": "rasterise",
    "extracted/*.npy": "extract",
    "pixel_counts/*.json": "extract",
    "dataset/tiles/*/*": "assemble",
    "parcels/ledger.parquet": "label",
    "parcels/classes.json": "label",
    "dataset/META/labels.json": "label",
    "dataset/META/nomenclature.json": "label",
    "dataset/META/classes.json": "label",
    "dataset/META/names.json": "names",
    "dataset/META/geomfeat.json": "features",
    "dataset/META/positions.json": "features",
    "dataset/META/*.json": "export",
    "dataset/*.pkl": "normalise",
    "variogram.json": "variogram",
    "folds*.json": "split",
    "season/models/Fold_*/*": "train_season",
    "season/*": "evaluate_season",
    "models*/Fold_*/calibration.json": "calibrate",
    "models*/out_of_fold.parquet": "calibrate",
    "models*/Fold_*/test_metrics.json": "evaluate",
    "models*/Fold_*/*": "train",
    "models*/*.json": "evaluate",
    "predictions/areas.*": "areas",
    "predictions/to_check.*": "worklist",
    "predictions/quality_sample.*": "worklist",
    "predictions/worklist.json": "worklist",
    "predictions/attention.*": "explain",
    "predictions/sen4cap.*": "sen4cap",
    "predictions/*": "predict",
}
# The stages in whose place an existing dataset is ingested.
_NOT_INGESTED = {
    *("variogram", "split", "train", "calibrate", "evaluate", "predict", "sen4cap"),
    *("train_season", "evaluate_season", "worklist", "explain"),
}


class _Folder(Protocol):
    @property
    def root(self) -> Path: ...


class _Below:
    """An attribute that is a path below the folder `root` of its object."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __get__(self, folder: _Folder, kind: type) -> Path:
        return folder.root / self._path


@dataclass(frozen=True)
class TilePaths:
    """The packed pixels of one tile's parcels, as assemble writes them."""

    root: Path

    pixels = _Below("pixels.npy")
    """uint16 (sum of S, T, C): the time series of a pixel is contiguous, and so are the pixels of a
    parcel.

    Parcels are in the order of the pixel index. Parcels with fewer dates than others of the tile
    are padded with 0 behind their last date.
    """

    clear = _Below("clear.npy")
    """bool (sum of S, T): which of these observations are clear; False for padding."""

    parcels = _Below("parcels.parquet")
    """Parquet table of all parcels of the pixel index: how much of each was observed."""

    description = _Below("tile.json")
    """Dates, bands, acquisitions and cloud treatment of the tile."""

    observations = _Below("observations.parquet")
    """Parquet table with a row for every parcel and date of the tile.

    It includes parcels that are not observed enough to be in the dataset. `clear_fraction` is the
    share of clear pixels in the parcel's outline. `kept` is False where the date is dropped because
    that share is too small.
    """

    @property
    def arrays(self) -> list[Path]:
        """The packed pixels, and which of them are clear."""
        return [self.pixels, self.clear]

    @property
    def packed(self) -> list[Path]:
        """The arrays, and their parcels and dates."""
        return [*self.arrays, self.parcels, self.description]


@dataclass(frozen=True)
class DatasetPaths:
    """The Pixel-Set dataset, in the layout that the reference's `PixelSetData` reads.

    Files that the reference does not read are beside its own: tiles, VALID, and in META
    classes.json, nomenclature.json, names.json, n_dates.json, dataset.json, tiles.json,
    positions.json, groups.json, parcel_dates.json, datasets.json and file_names.json.
    """

    root: Path

    pixels = _Below("DATA")
    """Folder of <id>.npy: uint16 (T, C, S); each of the S pixels was clear at least once."""

    valid = _Below("VALID")
    """Folder of <id>.npy: bool (T, S); True where the observation is clear."""

    labels = _Below("META/labels.json")
    """{nomenclature: {id: class code, or null where none is declared}}."""

    dates = _Below("META/dates.json")
    """{"0": YYYYMMDD, ...}, in order of time."""

    parcel_dates = _Below("META/parcel_dates.json")
    """{id: [YYYYMMDD, ...]}, in order of time; absent where all have those of dates.json."""

    file_names = _Below("META/file_names.json")
    """{id: name of its files} of the parcels whose id is too long for a file name; often absent."""

    sizes = _Below("META/sizes.json")
    """{id: number of pixels}."""

    features = _Below("META/geomfeat.json")
    """{id: [perimeter, pixels, cover ratio, perimeter over surface]} of the outline."""

    n_dates = _Below("META/n_dates.json")
    """{id: number of dates with at least one clear pixel}."""

    tiles = _Below("META/tiles.json")
    """List of the tiles whose parcels the dataset contains, in the order of the dataset."""

    description = _Below("META/dataset.json")
    """Bands, tiles, cloud treatment, and whether the imagery is simulated.

    `crs` is the coordinate system of positions and map: the tiles' system with the most parcels.
    """

    classes = _Below("META/classes.json")
    """List of {code, name}, in order of the class index; the names are those of labelling."""

    positions = _Below("META/positions.json")
    """{id: [x, y]}: a point on every parcel, in metres of one coordinate system for all."""

    datasets = _Below("META/datasets.json")
    """{name: {"years", "parcels"}} of each dataset, if the run started from several.

    `parcels` are its ids. Its season is `years` after that of the earliest dataset.
    """

    groups = _Below("META/groups.json")
    """{column: {id: value}} of an existing dataset: groups of parcels, such as farms; optional."""

    nomenclature = _Below("META/nomenclature.json")
    """The nomenclature of labels.json that is trained on, or null."""

    names = _Below("META/names.json")
    """{code as text: displayed name} of all declared classes. No model depends on it."""

    normalisation = _Below(NORMALISATIONS[0])
    """Pickle of (means, stds)."""

    def tile(self, name: str) -> TilePaths:
        """Return the paths of a tile's packed pixels."""
        return TilePaths(self.root / "tiles" / name)

    @property
    def npy_files(self) -> list[Path]:
        """The folders with one file per parcel."""
        return [self.pixels, self.valid]

    @property
    def metadata(self) -> list[Path]:
        """The files that list the parcels, dates and bands of the dataset."""
        return [self.dates, self.sizes, self.n_dates, self.tiles, self.description]

    @property
    def labelled(self) -> list[Path]:
        """The files under META that label writes."""
        return [self.labels, self.nomenclature, self.classes]

    @property
    def existing_normalisation(self) -> Path | None:
        """The normalisation of an existing dataset, under any usual name; None if it has none."""
        files = [self.root / name for name in NORMALISATIONS]
        return next((file for file in files if file.is_file()), None)


class _OfDivision(_Below):
    """An attribute that is a path of one division of the parcels into folds."""

    def __get__(self, folder: Any, kind: type) -> Path:
        path: Path = folder.root / self._path.format(also=folder.also)
        return path


@dataclass(frozen=True)
class RunPaths:
    """Every artefact of a run, under results/<run>/."""

    root: Path

    also: str = ""
    """The division into folds whose paths these are: "" for split.by, _<way> for split.also.

    It is in the names of the files and folders that exist for each of them.
    """

    config = _Below("config.yaml")
    """Settings of the run, written with the report. They are the input to repeat the run."""

    settings = _Below("settings")
    """Folder of the settings that each stage used; config.yaml is written from them."""

    started = _Below(".started.json")
    """All settings of a run that has started, for its jobs on other machines."""

    cluster_run = _Below(".cluster_run")
    """Name of the jobs of a run on Slurm, until the run has succeeded."""

    checked = _Below(".checked")
    """Digest of the inputs that were checked when a run started: they are not checked again."""

    inputs = _Below("inputs.json")
    """Path, size, time and digest of every input."""

    provenance = _Below("provenance.json")
    """What the run was made from and with, and the digest of each of its files."""

    digests = _Below(".digests.json")
    """The states of the files in provenance.json: Snakemake deletes that file before its job, and
    files that have not changed since are not digested again.
    """

    acquisitions = _Below("acquisitions.json")
    """All acquisitions, used or not, with the reason: the table that later stages read."""

    acquisitions_view = _Below("acquisitions.csv")
    """The same table for people."""

    items = _Below("acquisitions")
    """Folder of the acquisitions, one STAC item each.

    It is not an output of index, because Snakemake would delete it before index runs: an unchanged
    item keeps its file and time, so that its acquisition is not extracted again.
    """

    index_cache = _Below(".index.sqlite")
    """What index read of each acquisition: it reads again only what has changed. May be deleted."""

    grids = _Below("grids.json")
    """{tile: pixel grid of its 10 m bands}; the tile with the most dates comes first."""

    source_items = _Below("items")
    """Folder of the items of the STAC source, one file each."""

    register = _Below("parcels/register.parquet")
    """Parquet: every row of the register with its defects and its declared codes."""

    overlaps = _Below("parcels/overlaps.parquet")
    """Parquet: the pairs of usable parcels that overlap."""

    parcels = _Below("parcels/tiles")
    """Folder of <tile>.parquet: usable parcels, mended, in the tile's coordinate system.

    <tile>.rejected.parquet contains the other parcels on the tile.
    """

    ledger = _Below("parcels/ledger.parquet")
    """Parquet: every input parcel with status, reason, tile and pixel count; .csv for people.

    `n_pixels` is the number of pixels in the dataset. `n_pixels_never_clear` is the number of
    further pixels in the outline, which were clear on no date.
    """

    classes = _Below("parcels/classes.json")
    """Classes of the nomenclature in order of the class index, with counts."""

    class_table = _Below("parcels/classes.csv")
    """The same classes with their displayed names, for people."""

    counts = _Below("pixel_counts")
    extractions = _Below("extracted")
    """Folder of the extracted pixels, by acquisition."""

    variogram = _Below("variogram.json")
    """How far parcels are alike, and the side of blocks that this suggests."""

    folds = _OfDivision("folds{also}.json")
    """Parcel ids of train, validation and test of every fold."""

    models = _OfDivision("models{also}")
    """Folder of Fold_<k>/ and the scores over all folds."""

    out_of_fold = _OfDivision("models{also}/out_of_fold.parquet")
    """Log-probabilities of every labelled parcel, by the model that was not trained on it."""

    overall = _OfDivision("models{also}/overall.json")
    """Scores over all folds, under the reference's keys."""

    baselines = _OfDivision("models{also}/baselines.json")
    """Scores of the baselines on the same folds."""

    per_class = _OfDivision("models{also}/per_class.json")
    """Scores of every class; .csv beside it for people."""

    scores = _OfDivision("models{also}/scores.csv")
    """All scores of every fold, of the model and the baselines: one per row."""

    spread = _OfDivision("models{also}/spread.json")
    """Mean and standard deviation over the folds of the overall scores."""

    calibration_errors = _OfDivision("models{also}/calibration.json")
    """How far confidences are from accuracies, before and after the temperatures."""

    prediction_sets = _OfDivision("models{also}/prediction_sets.json")
    """Coverage and size of the prediction sets, on the out-of-fold parcels."""

    model_card = _Below("models/model_card.md")
    """What the models are for, what they were trained on, and how good they are, for people."""

    model_item = _Below("models/stac_item.json")
    """The same as a STAC item with the extension Machine Learning Model."""

    mlflow = _Below("mlflow.json")
    """Where the run is in MLflow: the database, the experiment, the id of its run."""

    season_accuracy = _Below("season/accuracy.parquet")
    """Parquet: scores by the last date available, of all classes and of each; .csv for people."""

    season_parcels = _Below("season/parcels.parquet")
    """Parquet: from which date on the class of every parcel stays; .csv for people."""

    season_summary = _Below("season/season.json")
    """Dates of the season, and from which of them on shares of the parcels keep their class."""

    predictions = _Below("predictions/parcels.gpkg")
    """GeoPackage of every input parcel; .csv and .parquet beside it.

    A run from an existing dataset, which has no outlines, has only the latter two.
    """

    probabilities = _Below("predictions/probabilities.parquet")
    """Parquet: the probability of every class, for every predicted parcel."""

    mean_probabilities = _Below("predictions/mean_probabilities.parquet")
    """Parquet: the same; for parcels that all models predict, the mean of their probabilities."""

    doubts = _Below("predictions/doubts.json")
    """Verdicts on the declarations of every class, and how many wrong ones would be found."""

    existing_scores = _Below("predictions/scores.json")
    """Scores of existing weights on the parcels that declare one of their classes; also .csv."""

    areas = _Below("predictions/areas.parquet")
    """Area of every class, in total and by region; .csv beside it for people."""

    areas_account = _Below("predictions/areas.json")
    """What the areas are based on: the sample, what speaks against it, and the accuracies."""

    to_check = _Below("predictions/to_check.parquet")
    """The declarations to check, in the order of their doubts; .csv and .gpkg beside it."""

    quality_sample = _Below("predictions/quality_sample.parquet")
    """A random sample of the declarations, to assess the verdicts; .csv beside it to fill in."""

    worklist_account = _Below("predictions/worklist.json")
    """How many wrong declarations the work list is expected to find, and the strata."""

    attention = _Below("predictions/attention.parquet")
    """Parquet: the attention of the models on every date, for every predicted parcel."""

    attention_account = _Below("predictions/attention.json")
    """Attention by class, and whether predictions depend on the dates with much attention."""

    fiboa = _Below("predictions/parcels_fiboa.parquet")
    """GeoParquet of the predicted parcels, following fiboa."""

    sen4cap = _Below("predictions/sen4cap.csv")
    """The predicted parcels in the columns of Sen4CAP; .gpkg beside it, if they have outlines."""

    report = _Below("report/report.html")
    """One self-contained page."""

    figures = _Below("report/figures")
    """Folder of the charts of that page, SVG files of their own."""

    map_tiles = _Below("report/map.pmtiles")
    """Vector tiles of the report's map. The page contains them, too, if they are small."""

    map_ids = _Below("report/map_ids.jsonl")
    """Where on the map every parcel is, by id."""

    cards = _Below("report/cards")
    """Folder of the pages of single parcels, written by `parcelwise card`. No rule reads them."""

    inspection = _Below("inspect")
    """Folder of the picture of `inspect`. No rule reads or writes it."""

    @classmethod
    def of(cls, run: str) -> RunPaths:
        """Return the paths of the run of this name, below the working directory."""
        return cls(Path("results") / run)

    def divided_by(self, way: str) -> RunPaths:
        """Return the paths of the run whose parcels are divided as in split.also."""
        return RunPaths(self.root, f"_{way}")

    @property
    def mlflow_database(self) -> Path:
        """The database of MLflow, for all runs in the same folder."""
        return self.root.parent / "mlflow.db"

    @property
    def dataset(self) -> DatasetPaths:
        """The Pixel-Set dataset of the run."""
        return DatasetPaths(self.root / "dataset")

    @property
    def map_files(self) -> list[Path]:
        """What the map of the report consists of, beside the page."""
        return [self.map_tiles, self.map_ids]

    @property
    def of_extractions(self) -> list[Path]:
        """The folders that have files of every acquisition that was extracted."""
        names = (self.log("extract/name"), self.benchmark("extract/name"))
        return [self.extractions, self.counts, *(path.parent for path in names)]

    @property
    def season(self) -> RunPaths:
        """The models that classify before the end of the season, in the folders of a run."""
        return RunPaths(self.root / "season")

    @property
    def season_files(self) -> list[Path]:
        """What evaluate_season writes."""
        tables = [self.season_accuracy, self.season_parcels]
        return [*tables, *(table.with_suffix(".csv") for table in tables), self.season_summary]

    @property
    def tables(self) -> list[Path]:
        """The tables of acquisitions and parcels."""
        return [
            *(self.acquisitions, self.acquisitions_view, self.grids),
            *(self.ledger, self.parcels, self.class_table),
        ]

    def record(self, job: str) -> Path:
        """Return the file of the settings that a stage, or one job of it, used."""
        return self.settings / f"{job}.json"

    def item(self, acquisition: str) -> Path:
        """Return the file of one acquisition: its bands and masks, where and how they are read."""
        return self.items / f"{acquisition}.json"

    def pixel_index(self, tile: str) -> Path:
        """Return the file of rows and columns of the pixels of a tile's parcels."""
        return self.root / "parcels" / "pixel_index" / f"{tile}.npz"

    def pixel_counts(self, tile: str) -> Path:
        """Return the Parquet file of the number of pixels of every parcel on a tile."""
        return self.root / "parcels" / "pixel_index" / f"{tile}.counts.parquet"

    def label_image(self, tile: str) -> Path:
        """Return the GeoTIFF of a tile's parcels, for people."""
        return self.root / "parcels" / "label_image" / f"{tile}.tif"

    def extracted(self, acquisition: str) -> Path:
        """Return the file of one acquisition's pixels: uint16 (C, pixels of the tile's parcels)."""
        return self.extractions / f"{acquisition}.npy"

    def extracted_valid(self, acquisition: str) -> Path:
        """Return the file of which of these pixels are clear: bool (these pixels,)."""
        return self.extractions / f"{acquisition}.valid.npy"

    def extraction_counts(self, acquisition: str) -> Path:
        """Return the file that counts these pixels, or says why they cannot be read."""
        return self.counts / f"{acquisition}.json"

    def fold(self, fold: int | str) -> Path:
        """Return the folder of one fold's model and scores; folds count from 1."""
        return self.models / f"Fold_{fold}"

    def trained(self, fold: int | str) -> Path:
        """Return the empty file that exists once a fold's training has succeeded."""
        return self.fold(fold) / ".trained"

    def calibration(self, fold: int | str) -> Path:
        """Return the file of the temperature by which a fold's log-probabilities are divided."""
        return self.fold(fold) / "calibration.json"

    def training_state(self, fold: int | str) -> Path:
        """Return the folder from which a killed training continues.

        It is not an output, because Snakemake would delete it before the training continues.
        """
        return self.root / f"training_state{self.also}" / f"Fold_{fold}"

    def tensorboard(self, fold: int | str) -> Path:
        """Return the folder of a fold that TensorBoard reads."""
        return self.root / f"tensorboard{self.also}" / f"Fold_{fold}"

    @property
    def logs(self) -> Path:
        """The folder of the logs."""
        return self.root / "logs"

    def log(self, job: str) -> Path:
        """Return the log of a rule, or of one job of it."""
        return self.logs / f"{job}.log"

    @property
    def benchmarks(self) -> Path:
        """The folder of the benchmarks."""
        return self.root / "benchmarks"

    def benchmark(self, job: str) -> Path:
        """Return the file of time and memory of a rule, or of one job of it."""
        return self.benchmarks / f"{job}.tsv"


def writer_of(path: Path) -> str | None:
    """Return the stage that writes an artefact of a run; None for any other file."""
    for pattern, stage in _WRITERS.items():
        if not path.match(pattern):
            continue
        run = RunPaths(path.parents[pattern.count("/")])
        # A dataset that was made elsewhere has such files, too, but does not lie in a run.
        if pattern.startswith("dataset/") and not run.dataset.tiles.is_file():
            return None
        if stage not in _NOT_INGESTED and run.dataset.tile(INGESTED).root.is_dir():
            normalised = stage == "normalise" and run.record("normalise").is_file()
            return "normalise" if normalised else "ingest"
        return stage
    return None
