"""Where every artefact of a run lies: the one place that knows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

# Under which names the pickle of (means, stds) is met, the first before the second.
NORMALISATIONS = ("normalisation_values.pkl", "S2-2017-T31TFM-meanstd.pkl")

# The tile that the parcels of an existing dataset are packed as.
INGESTED = "ingested"


@dataclass(frozen=True)
class TilePaths:
    """The packed pixels of one tile's parcels, as assemble writes them."""

    root: Path

    @property
    def pixels(self) -> Path:
        """uint16 (sum of S, T, C): a pixel's series is contiguous, a parcel's pixels lie together.

        The parcels lie in the order of the pixel index; a parcel with fewer dates than another one
        of the tile is padded behind by 0.
        """
        return self.root / "pixels.npy"

    @property
    def clear(self) -> Path:
        """Which of these observations are clear, bool (sum of S, T); False for padding."""
        return self.root / "clear.npy"

    @property
    def parcels(self) -> Path:
        """Parquet table of all parcels of the pixel index: how much of each was observed."""
        return self.root / "parcels.parquet"

    @property
    def description(self) -> Path:
        """Dates, bands, acquisitions and cloud treatment of the tile."""
        return self.root / "tile.json"

    @property
    def observations(self) -> Path:
        """Parquet table with a row for every parcel and date of the tile.

        Parcels that are not observed enough to be in the dataset are there, too. `clear_fraction`
        is the share of the pixels of the parcel's outline that are clear; `kept` is False where
        the date is dropped because that share is too small.
        """
        return self.root / "observations.parquet"

    @property
    def arrays(self) -> list[Path]:
        """The packed pixels and which of them are clear."""
        return [self.pixels, self.clear]

    @property
    def packed(self) -> list[Path]:
        """The packed pixels, and what says which parcels and dates they are of."""
        return [*self.arrays, self.parcels, self.description]


@dataclass(frozen=True)
class DatasetPaths:
    """The Pixel-Set dataset, in the layout that the reference's `PixelSetData` reads.

    What the reference does not know lies in files of its own beside it: tiles, VALID, and in META
    classes.json, nomenclature.json, names.json, n_dates.json, dataset.json, tiles.json,
    positions.json and parcel_dates.json.
    """

    root: Path

    @property
    def pixels(self) -> Path:
        """Folder of <id>.npy: uint16 (T, C, S); each of the S pixels was clear at least once."""
        return self.root / "DATA"

    @property
    def valid(self) -> Path:
        """Folder of <id>.npy: bool (T, S), False where the observation was cloudy or missing."""
        return self.root / "VALID"

    def tile(self, name: str) -> TilePaths:
        """Return where the packed pixels of a tile lie."""
        return TilePaths(self.root / "tiles" / name)

    @property
    def tiles(self) -> Path:
        """List of the tiles whose parcels the dataset holds, in its order."""
        return self.root / "META" / "tiles.json"

    @property
    def labels(self) -> Path:
        """{nomenclature: {id: class code, or null where none is declared}}."""
        return self.root / "META" / "labels.json"

    @property
    def dates(self) -> Path:
        """{"0": YYYYMMDD, ...}, in order of time."""
        return self.root / "META" / "dates.json"

    @property
    def parcel_dates(self) -> Path:
        """{id: [YYYYMMDD, ...]}, in order of time; absent where all have those of dates.json."""
        return self.root / "META" / "parcel_dates.json"

    @property
    def sizes(self) -> Path:
        """{id: number of pixels}."""
        return self.root / "META" / "sizes.json"

    @property
    def features(self) -> Path:
        """{id: [perimeter, pixels, cover ratio, perimeter over surface]} of the outline."""
        return self.root / "META" / "geomfeat.json"

    @property
    def n_dates(self) -> Path:
        """{id: number of dates with at least one valid pixel}."""
        return self.root / "META" / "n_dates.json"

    @property
    def description(self) -> Path:
        """Bands, tiles, cloud treatment, and whether the imagery is simulated.

        `crs` is the coordinate system of positions and map: of the tiles', that of most parcels.
        """
        return self.root / "META" / "dataset.json"

    @property
    def classes(self) -> Path:
        """List of {code, name}, in order of the class index; the names are those of labelling."""
        return self.root / "META" / "classes.json"

    @property
    def positions(self) -> Path:
        """{id: [x, y]}: a point on every parcel, in metres of one coordinate system for all."""
        return self.root / "META" / "positions.json"

    @property
    def npy_files(self) -> list[Path]:
        """The folders of a file a parcel."""
        return [self.pixels, self.valid]

    @property
    def nomenclature(self) -> Path:
        """The nomenclature of labels.json that is trained on, or null."""
        return self.root / "META" / "nomenclature.json"

    @property
    def names(self) -> Path:
        """{code as text: name to show} of all declared classes: no model depends on it."""
        return self.root / "META" / "names.json"

    @property
    def metadata(self) -> list[Path]:
        """What says which parcels, dates and bands the dataset has."""
        return [self.dates, self.sizes, self.n_dates, self.tiles, self.description]

    @property
    def labelled(self) -> list[Path]:
        """What label writes under META."""
        return [self.labels, self.nomenclature, self.classes]

    @property
    def normalisation(self) -> Path:
        """Pickle of (means, stds)."""
        return self.root / NORMALISATIONS[0]

    @property
    def existing_normalisation(self) -> Path | None:
        """That of a dataset made elsewhere, under any of its names; None where it has none."""
        files = [self.root / name for name in NORMALISATIONS]
        return next((file for file in files if file.is_file()), None)


@dataclass(frozen=True)
class RunPaths:
    """Every artefact of a run, under results/<run>/."""

    root: Path

    @classmethod
    def of(cls, run: str) -> RunPaths:
        """Return the paths of the run of this name, below the working directory."""
        return cls(Path("results") / run)

    @property
    def config(self) -> Path:
        """Settings that the run was made with, written with the report; a run takes them again."""
        return self.root / "config.yaml"

    @property
    def settings(self) -> Path:
        """Folder of the settings that every stage used; config.yaml is written from them."""
        return self.root / "settings"

    @property
    def started(self) -> Path:
        """All settings of a run that has started, for its jobs on other machines."""
        return self.root / ".started.json"

    def record(self, job: str) -> Path:
        """Name the file of the settings that a stage, or one job of it, used."""
        return self.settings / f"{job}.json"

    @property
    def acquisitions(self) -> Path:
        """Every acquisition found, used or not, and why not: what the later stages read."""
        return self.root / "acquisitions.json"

    @property
    def acquisitions_view(self) -> Path:
        """The same for people, as CSV."""
        return self.root / "acquisitions.csv"

    @property
    def items(self) -> Path:
        """Folder of the acquisitions that were found, one STAC item each.

        No output of the index, of which Snakemake would remove it first: an item that stays the
        same keeps its file and its time, and its acquisition is not extracted again.
        """
        return self.root / "acquisitions"

    def item(self, acquisition: str) -> Path:
        """File of one acquisition: its bands and masks, where they lie, how they are read."""
        return self.items / f"{acquisition}.json"

    @property
    def grids(self) -> Path:
        """{tile: pixel grid of its 10 m bands}, the most often seen tile first."""
        return self.root / "grids.json"

    @property
    def source_items(self) -> Path:
        """Folder of the items of the STAC source that the imagery comes from, one file each."""
        return self.root / "items"

    @property
    def register(self) -> Path:
        """Parquet: every row of the register, what is wrong with it, and its declared codes."""
        return self.root / "parcels" / "register.parquet"

    @property
    def overlaps(self) -> Path:
        """Parquet: the pairs of usable parcels that share area."""
        return self.root / "parcels" / "overlaps.parquet"

    @property
    def parcels(self) -> Path:
        """Folder of <tile>.parquet: usable parcels, mended, in the tile's coordinate system.

        <tile>.rejected.parquet holds others that lie on the tile.
        """
        return self.root / "parcels" / "tiles"

    def pixel_counts(self, tile: str) -> Path:
        """Parquet: number of pixels of every parcel that lies on a tile."""
        return self.root / "parcels" / "pixel_index" / f"{tile}.counts.parquet"

    @property
    def ledger(self) -> Path:
        """Parquet: every input parcel: status, reason, tile, pixel count; .csv for people.

        `n_pixels` is what the dataset holds of the parcel; `n_pixels_never_clear` is how many more
        its outline has, which were clear on no date.
        """
        return self.root / "parcels" / "ledger.parquet"

    @property
    def classes(self) -> Path:
        """Classes of the nomenclature in order of the class index, with counts; .csv for people."""
        return self.root / "parcels" / "classes.json"

    @property
    def class_table(self) -> Path:
        """The same classes with the names that are shown."""
        return self.classes.with_suffix(".csv")

    @property
    def tables(self) -> list[Path]:
        """What says which acquisitions and parcels there are."""
        return [
            *(self.acquisitions, self.acquisitions_view, self.grids),
            *(self.ledger, self.parcels, self.class_table),
        ]

    def pixel_index(self, tile: str) -> Path:
        """Rows and columns of the pixels of a tile's parcels."""
        return self.root / "parcels" / "pixel_index" / f"{tile}.npz"

    def label_image(self, tile: str) -> Path:
        """GeoTIFF of a tile's parcels, to look at."""
        return self.root / "parcels" / "label_image" / f"{tile}.tif"

    @property
    def extractions(self) -> Path:
        """Folder of the pixels of each acquisition."""
        return self.root / "extracted"

    def extracted(self, acquisition: str) -> Path:
        """Pixels of one acquisition: uint16 (C, pixels of all parcels of its tile)."""
        return self.extractions / f"{acquisition}.npy"

    def extracted_valid(self, acquisition: str) -> Path:
        """Which of these pixels were observed clearly: bool (pixels of all these parcels,)."""
        return self.extractions / f"{acquisition}.valid.npy"

    @property
    def dataset(self) -> DatasetPaths:
        """The Pixel-Set dataset of the run."""
        return DatasetPaths(self.root / "dataset")

    @property
    def folds(self) -> Path:
        """Parcel ids of train, validation and test of every fold."""
        return self.root / "folds.json"

    @property
    def models(self) -> Path:
        """Folder of Fold_<k>/ and the scores over all folds."""
        return self.root / "models"

    def fold(self, fold: int | str) -> Path:
        """Folder of one fold's model and scores; folds count from 1."""
        return self.models / f"Fold_{fold}"

    def trained(self, fold: int | str) -> Path:
        """Empty file that says that a fold's training has ended well."""
        return self.fold(fold) / ".trained"

    def training_state(self, fold: int | str) -> Path:
        """Folder from which a killed training goes on: no output, which would be removed."""
        return self.root / "training_state" / f"Fold_{fold}"

    def tensorboard(self, fold: int | str) -> Path:
        """Folder of a fold that TensorBoard reads."""
        return self.root / "tensorboard" / f"Fold_{fold}"

    @property
    def overall(self) -> Path:
        """Scores over all folds, under the reference's keys."""
        return self.models / "overall.json"

    @property
    def baselines(self) -> Path:
        """Scores of the baselines on the same folds."""
        return self.models / "baselines.json"

    @property
    def per_class(self) -> Path:
        """Scores of every class; .csv beside it for people."""
        return self.models / "per_class.json"

    @property
    def scores(self) -> Path:
        """Every score of every fold, of the model and the baselines: one a row."""
        return self.models / "scores.csv"

    @property
    def spread(self) -> Path:
        """Mean and standard deviation over the folds of the overall scores."""
        return self.models / "spread.json"

    @property
    def predictions(self) -> Path:
        """GeoPackage of every input parcel; .csv and .parquet lie beside it.

        A run from an existing dataset, which has no outlines, has these two only.
        """
        return self.root / "predictions" / "parcels.gpkg"

    @property
    def fiboa(self) -> Path:
        """GeoParquet of the predicted parcels as fiboa has them."""
        return self.predictions.with_name("parcels_fiboa.parquet")

    @property
    def report(self) -> Path:
        """One self-contained page."""
        return self.root / "report" / "report.html"

    @property
    def inspection(self) -> Path:
        """Folder of what `inspect` shows: no artefact, no rule reads or writes it."""
        return self.root / "inspect"

    def log(self, job: str) -> Path:
        """Log of a rule, or of one job of it."""
        return self.root / "logs" / f"{job}.log"

    def benchmark(self, job: str) -> Path:
        """Time and memory of a rule, or of one job of it."""
        return self.root / "benchmarks" / f"{job}.tsv"
