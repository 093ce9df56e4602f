"""The inputs of a run on disk: checks before any work, and the files that trigger reruns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

from geo.errors import InputError, did_you_mean
from geo.imagery.imagery_files import IMAGE_ENDINGS, digest_of, files_ending, watched_files
from pipeline.workflow.artefacts import read_json
from pipeline.workflow.paths import DatasetPaths, RunPaths
from pipeline.workflow.sections.models import Normalise
from pipeline.workflow.settings import Settings
from pipeline.workflow.software import SOURCE

# The modules of the optional group mlflow of pyproject.toml.
MLFLOW = ("mlflow", "sqlalchemy", "alembic")

_SHAPEFILE = (".shp", ".shx", ".dbf", ".prj", ".cpg")


def check_inputs(settings: Settings) -> None:
    """Check that the paths of the inputs are set and exist, unless the run simulates them.

    Raises
    ------
    InputError
        If a path is not set, does not exist, or is an empty folder.
    """
    inputs: dict[str, tuple[Path | str | None, str]] = {}
    if settings.dataset.path is not None:
        inputs["dataset.path"] = settings.dataset.path, "a Pixel-Set dataset: a folder with DATA"
    elif settings.dataset.paths is not None:
        for number, source in enumerate(settings.dataset.paths):
            inputs[f"dataset.paths[{number}]"] = source, "a Pixel-Set dataset: a folder with DATA"
    elif settings.simulate is None:
        imagery = "a folder of products, GeoTIFFs or stacks, or STAC (file or address)"
        if settings.imagery.path is None and settings.parcels.path is None:
            imagery += "; or set dataset.path, to start from a Pixel-Set dataset"
        inputs["imagery.path"] = settings.imagery.path, imagery
        inputs["parcels.path"] = settings.parcels.path, "the parcel register"
    if settings.predict.weights is not None:
        weights = "the folder of Fold_1/model.pth.tar, Fold_2/model.pth.tar, ..."
        inputs["predict.weights"] = settings.predict.weights, weights
    if settings.train.start is not None:
        start = "the folder of Fold_1/model.pth.tar, ... of another run"
        inputs["train.from"] = settings.train.start, start
    if settings.clouds.files is not None:
        inputs["clouds.files"] = settings.clouds.files, "the folder of your cloud masks"
    for key, table in settings.parcels.tables.items():
        inputs[key] = table, "a CSV of codes"
    for key, (path, what) in inputs.items():
        if path is None:
            raise InputError(f"{key} is not set: set it to the path of {what}.")
        if isinstance(path, str):  # an address, which index reads first
            continue
        if not path.exists():
            raise InputError(
                f"{key}: there is no {path}.{_hint(path)} Set it to the path of {what}."
            )
        if path.is_dir() and not any(path.iterdir()):
            raise InputError(f"{key}: the folder {path} is empty. Set it to the path of {what}.")
    if settings.simulate is not None:
        for key in ("imagery", "parcels"):
            path = getattr(settings, key).path
            if "{" in str(path):
                raise InputError(
                    f"{key}.path: {path} contains braces. The simulated scene is an output of "
                    "Snakemake, which reads braces as wildcards. Set another path."
                )
    if settings.report.mlflow and (lacking := [n for n in MLFLOW if find_spec(n) is None]):
        raise InputError(
            f"report.mlflow: {', '.join(lacking)} is not installed. In {SOURCE}, run `python -m "
            "pip install --editable .[mlflow]`, or remove the setting."
        )
    _check_datasets(settings)
    _check_weights(settings)
    _check_compared(settings.report.compare)


def _hint(path: Path) -> str:
    """Say why a path may not exist, or what is there instead; "" if nothing is known."""
    text = str(path)
    if "$" in text:
        return (
            " Variables are not replaced in settings files: write the path, or set it on the "
            "command line."
        )
    if re.match(r"[A-Za-z]:|\\\\", text):
        return " This is a path of Windows. In WSL, C:\\data is /mnt/c/data."
    if text != text.strip():
        return " It begins or ends with a blank."
    there = path.absolute()
    while not there.exists():
        there, lacking = there.parent, there.name
    if there.is_file():
        return f" {there} is a file, not a folder."
    hint = did_you_mean(lacking, (entry.name for entry in there.iterdir()))
    return f"{hint} {there} has no {lacking}." if hint or not path.is_absolute() else ""


def check_cluster_paths(paths: Iterable[Path | str]) -> None:
    """Check the paths that a cluster's executor passes to a shell without quotes.

    Raises
    ------
    InputError
        If a path contains a character with a meaning for the shell.
    """
    for path in paths:
        if found := set(str(path)) & set("$`\\\"'{}!\n"):
            raise InputError(
                f"{str(path)!r} contains {' '.join(sorted(found))}: on a cluster, Snakemake passes "
                "this path to a shell without quotes. Use letters, digits, blanks, '_', '-', '.'."
            )


def _check_datasets(settings: Settings) -> None:
    """Check that existing datasets have the files that the settings need."""
    sources = settings.dataset.sources
    for path in sources:
        _check_dataset(path, settings)
    resolved = [path.resolve() for path in sources]
    if twice := [path for path in resolved if resolved.count(path) > 1]:
        raise InputError(f"dataset.paths lists {twice[0]} twice. List a dataset once.")
    blocks = "block" in settings.split.ways and settings.predict.weights is None
    if len(sources) > 1 and blocks and "positions" not in shared_files(sources):
        raise InputError(
            "split: the folds are blocks, but the datasets of dataset.paths do not state the same "
            "coordinate system (crs in META/dataset.json), so that their positions cannot be "
            "compared. Choose dataset, random or stratified."
        )


def shared_files(sources: Sequence[Path]) -> list[str]:
    """Return the optional files that a run has, if it starts from these datasets.

    Returns
    -------
    list
        Names of `DatasetPaths`: features, positions, groups, parcel_dates, datasets.
    """
    found = [DatasetPaths(source) for source in sources]
    several = len(found) > 1
    names = [
        name
        for name in ("features", "positions", "groups")
        if all(getattr(dataset, name).is_file() for dataset in found)
    ]
    if several and "positions" in names:
        files = [dataset.description for dataset in found]
        systems = {read_json(f, dict).get("crs") if f.is_file() else None for f in files}
        if len(systems) > 1 or None in systems:
            names.remove("positions")
    if several:
        return [*names, "parcel_dates", "datasets"]
    return [*names, *(["parcel_dates"] if found[0].parcel_dates.is_file() else [])]


def _check_dataset(path: Path, settings: Settings) -> None:
    """Check that an existing dataset has the files that the settings need."""
    dataset = DatasetPaths(path)
    setting = "dataset.path" if settings.dataset.paths is None else "dataset.paths"
    if not dataset.pixels.is_dir():
        raise InputError(
            f"{setting}: {path} has no folder DATA. Set it to the folder of a Pixel-Set "
            "dataset, which contains DATA and META."
        )
    for setting in ("by", "also"):
        way = getattr(settings.split, setting)
        needed = {
            "block": (dataset.positions, "{id: [x, y]} in metres, the positions of the parcels"),
            "group": (dataset.groups, "{column: {id: value}}, the groups of the parcels"),
        }
        file, what = needed.get(way, (None, ""))
        if file is not None and settings.predict.weights is None and not file.is_file():
            raise InputError(
                f"split.{setting} is {way}, but {path} has no META/{file.name}, {what}. Add it, or "
                f"set split.{setting} to random or stratified."
            )
    features, normalisation = dataset.features, dataset.existing_normalisation
    # Existing weights state whether they need features, see `_check_weights`.
    has_weights = used_weights(settings)[1] is not None
    with_features = settings.model.geometric_features and not has_weights
    if with_features and not features.is_file():
        raise InputError(
            f"model.geometric_features is true, but there is no {features}, the geometric features "
            "of the parcels. Add it, or set model.geometric_features to false."
        )
    is_used = normalisation is not None and settings.dataset.paths is None
    if settings.normalise != Normalise() and is_used:
        raise InputError(
            f"normalise.by: without effect, because the dataset has {normalisation}. Remove the "
            "setting, or that file."
        )


def used_weights(settings: Settings) -> tuple[str, Path | None]:
    """Return the setting of existing weights, which are applied or trained on, and their folder."""
    if settings.train.start is not None:
        return "train.from", settings.train.start
    return "predict.weights", settings.predict.weights


def _check_weights(settings: Settings) -> None:
    """Check that existing weights are complete, and fit the bands and the model of the run."""
    key, folder = used_weights(settings)
    if folder is None:
        return
    if not any(folder.glob("Fold_*/model*")):
        raise InputError(
            f"{key}: {folder} has no Fold_1/model.pth.tar. Set it to the folder of "
            "Fold_1/model.pth.tar, Fold_2/model.pth.tar, ..."
        )
    if key == "train.from" and folder.resolve() == RunPaths.of(settings.run).models.resolve():
        raise InputError(
            f"train.from: {folder} is the folder of the models of this run, which the training "
            "replaces. Choose another name for the run."
        )
    # Imported here, because they need numpy and most runs have no existing weights.
    from models.errors import InputError as ModelError
    from models.model_files import check_folds
    from pipeline.workflow.starting_weights import refuse_other_model

    try:
        described = check_folds(folder)
    except ModelError as error:
        raise InputError(f"{key}: {error}") from None
    for fold, trained in described.items():
        if not settings.dataset.sources and trained.bands != settings.imagery.bands:
            raise InputError(
                f"{key}: the model of {fold} was trained on the bands "
                f"{', '.join(trained.bands)}, imagery.bands are "
                f"{', '.join(settings.imagery.bands)}. Set imagery.bands to those of the model."
            )
        needed = [DatasetPaths(path).features for path in settings.dataset.sources]
        lacking = [path for path in needed if not path.is_file()]
        if trained.feature_scaling is not None and lacking:
            raise InputError(
                f"{key}: the model of {fold} was trained with geometric features, and "
                f"there is no {lacking[0]}. Add it, or use weights of a training without them "
                "(model.geometric_features: false)."
            )
        if key == "train.from":
            refuse_other_model(fold, trained, settings.model, settings.train)


def _check_compared(runs: Iterable[str]) -> None:
    """Check that the runs to compare with exist: the report is the last stage."""
    for name in runs:
        root = RunPaths.of(name).root
        if not root.is_dir():
            others = [path.name for path in root.parent.glob("*")]
            raise InputError(
                f"report.compare: there is no run {name!r} in {root.parent}."
                f"{did_you_mean(name, others)} Run it first, or leave it out."
            )


def imagery_state(settings: Settings) -> str:
    """Compute a digest of the files that index would read, at any depth: its rerun trigger.

    A replaced product changes the digest, even if its files have an older time. A thumbnail does
    not. Addresses have no state: `snakemake -R index` reads them again.
    """
    imagery, masks = settings.imagery.path, settings.clouds.files
    files: list[Path | str] = []
    if masks is not None:
        files += files_ending(masks, IMAGE_ENDINGS)
    # Snakemake watches a simulated scene itself, as the output of a rule.
    if isinstance(imagery, Path) and settings.simulate is None:
        files += watched_files(imagery, settings.imagery.format)
    return digest_of(files)


def contents_state(settings: Settings) -> str:
    """Compute a digest of the inputs that are checked before a run, and of the settings for them.

    These are the register, the tables of codes and names, an existing dataset, and existing
    weights.
    """
    files: list[Path] = list(settings.parcels.tables.values())
    if settings.parcels.path is not None:
        files += _register_files(settings.parcels.path)
    for source in settings.dataset.sources:
        files += watched_dataset(source)
    if (folder := used_weights(settings)[1]) is not None:
        files += weights(folder)
    used = {"imagery", "clouds", "parcels", "dataset", "split", "predict", "areas"}
    start = str(settings.train.start)
    return settings.model_dump_json(include=used) + start + "\n" + digest_of(files)


def named_inputs(settings: Settings) -> dict[str, list[Path]]:
    """Return the files and folders that the settings name, by option of the stage inputs.

    The imagery is not among them: its files are in the items of the acquisitions.
    """
    parcels, dataset = settings.parcels, settings.dataset
    register, names = parcels.path, dataset.names
    files = [] if register is None else [register]
    if register is not None and not register.is_dir():
        # A simulated register does not exist yet.
        files += [path for path in _register_files(register) if path != register and path.exists()]
    return {
        "register": files,
        "tables": [*parcels.tables.values(), *([] if names is None else [names])],
        "masks": [] if settings.clouds.files is None else [settings.clouds.files],
        "dataset": [file for source in dataset.sources for file in watched_dataset(source)],
        "weights": [] if (folder := used_weights(settings)[1]) is None else weights(folder),
    }


def _register_files(path: Path) -> list[Path]:
    """List the files of a register: those of a folder, and the parts of a shapefile."""
    if path.is_dir():
        return sorted(path.iterdir())
    suffixes = _SHAPEFILE if path.suffix.lower() == ".shp" else (path.suffix,)
    return [path.with_suffix(suffix) for suffix in suffixes]


def watched_dataset(path: Path) -> list[Path]:
    """List the files and folders of an existing dataset whose change triggers a rerun."""
    meta = sorted((path / "META").glob("*.json"))
    return [path / "DATA", *path.glob("VALID"), *meta, *sorted(path.glob("*.pkl"))]


def weights(folder: Path) -> list[Path]:
    """List the files of existing weights, and of their calibration."""
    patterns = ("Fold_*/model*", "Fold_*/calibration.json", "out_of_fold.parquet")
    return sorted(p for pattern in patterns for p in folder.glob(pattern) if p.is_file())


def has_gpu() -> bool:
    """Return whether the machine has an NVIDIA GPU, without importing torch."""
    return Path("/dev/nvidia0").exists()
