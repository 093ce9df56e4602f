"""Check the inputs of a run before it starts: register, codes, tables, existing dataset, weights.

The Snakefile runs this module in a process of its own when these inputs have changed, so that
Snakemake itself loads no library for them.
"""

from __future__ import annotations

import logging
import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from geo.errors import InputError, first_five
from geo.formats.archives import own_convention
from geo.imagery.discovery import detect_format, find_acquisitions
from geo.imagery.imagery_files import one_product
from geo.register.columns import as_text
from models.errors import InputError as ModelInputError
from models.hyperparameters import Hyperparameters
from models.model_description import check_reference
from models.model_files import DESCRIPTION_FILE, WEIGHTS_FILE, check_folds, fold_folders
from pipeline.classes.class_choice import Models
from pipeline.classes.crop_class import Classes
from pipeline.classes.reasons import Status
from pipeline.dataset.groups import check_number
from pipeline.dataset.season import season_of
from pipeline.run_function import run_function
from pipeline.workflow.inputs import used_weights
from pipeline.workflow.sections.parcels import Parcels
from pipeline.workflow.sections.values import is_address
from pipeline.workflow.settings import IndexSettings, IngestSettings, Settings, part_of

if TYPE_CHECKING:
    from geo.register.reading import Bounds

logger = logging.getLogger("pipeline.check")

# Geometries that contain no pixel.
POINTS = {"Point", "MultiPoint"}
LINES = {"LineString", "MultiLineString", "CompoundCurve"}

NO_LABELS = (
    "Nothing can be trained, as {}: only the dataset can be made (target dataset), or existing "
    "weights be used (predict.weights)."
)


def check(settings: Settings) -> None:
    """Refuse inputs that a stage would refuse later, as far as no imagery must be read for that.

    Parameters
    ----------
    settings
        All settings of the run.

    Raises
    ------
    InputError
        If the register, its codes, a table of codes or names, the existing dataset, or the existing
        weights cannot be used, or if there is no imagery.
    """
    if settings.dataset.sources:
        _check_datasets(settings)
    elif settings.parcels.path is not None and settings.simulate is None:
        _check_register(settings.parcels.path, settings)
        imagery = settings.imagery
        if isinstance(imagery.path, Path) and imagery.format == "auto" and not imagery.is_stac:
            detect_format(imagery.path)
    if settings.predict.weights is not None:
        _check_calibration(settings.predict.weights)


def _check_calibration(weights: Path) -> None:
    """Check that the out-of-fold predictions beside existing weights are those of the weights."""
    described = check_folds(weights)
    if not described:
        return
    from pipeline.evaluation.out_of_fold import read_existing

    n_classes = next(iter(described.values())).hyperparameters.n_classes
    try:
        read_existing(weights, len(fold_folders(weights)), n_classes)
    except InputError as error:
        raise InputError(f"predict.weights: {error}") from None


def _check_register(register: Path, settings: Settings) -> None:
    """Check the columns of a register and its classes.

    The register can be larger than the imagery. Nearly all errors are also errors for a part of it.
    But a code that a table lacks may be that of parcels outside the imagery: in this case, the
    metadata of the imagery are read, too, and if its first product is not where the parcels are.
    If the imagery is on a server, all codes must be in the table.
    """
    if find_spec("pyogrio") is None:
        logger.warning("%s is not checked: pyogrio is not installed here.", register)
        return
    from geo.register.reading import read_extent
    from pipeline.classes.register import check_register, read_declarations

    options = settings.parcels
    models = Models.of(settings.split.folds, settings.predict.weights)
    column = settings.split.column if settings.predict.weights is None else None
    grouped = {} if column is None else {"split.column": column}
    declared = read_declarations(register, options, grouped | settings.areas.columns)
    bounds, types = read_extent(register, options.layer)
    _check_geometries(register, types, options)
    if models.folds is not None and not declared.labels:
        logger.warning("%s", NO_LABELS.format("parcels.labels is empty"))
    if column is not None:
        check_number(as_text(declared.table[column]), column, settings.split.folds)
    try:
        classes = declared.classes(options, models, options.names)
        if settings.predict.weights is not None:
            _check_reference(settings.predict.weights, settings, classes)
        if bounds is None or _may_overlap(bounds, settings):
            return
    except InputError as error:
        if _is_remote(settings):
            raise
        lenient = options.model_copy(update={"unknown_codes": "unlabelled"})
        try:
            declared.classes(lenient, models, options.names)
        except InputError:
            raise error from None
    from pipeline.dataset.acquisition_choice import decide

    with TemporaryDirectory() as scratch:
        items = Path(scratch) / "items" if settings.imagery.is_stac else None
        index = part_of(settings, IndexSettings)
        imagery = settings.imagery.path or Path()
        tiles = decide(imagery, index, items, register, read_pixels=False).grids
    checked = check_register(register, tiles, options, options.labels)
    checked.refuse_unusable(tiles)
    checked.classes(options, models, options.names)


def _is_remote(settings: Settings) -> bool:
    """Return whether the footprints of the imagery are not on this machine."""
    return settings.imagery.path is None or is_address(settings.imagery.path)


def _check_geometries(register: Path, types: set[str], options: Parcels) -> None:
    """Refuse a register whose layer states that it contains only lines, or points unasked."""
    from pipeline.classes.register import points_refused

    if not types:
        return
    if types <= POINTS:
        if options.point_buffer_m is None:
            raise points_refused(register, "all")
    elif types <= POINTS | LINES:
        raise InputError(
            f"{register} contains no polygons, but {first_five(sorted(types))}. Set parcels.path "
            "(and parcels.layer, if it has several layers) to the outlines of the parcels."
        )


def _may_overlap(bounds: Bounds, settings: Settings) -> bool:
    """Return whether a register may lie on the imagery, as far as one product of it tells."""
    from geo.register.placement import lon_lat_bounds

    imagery = settings.imagery
    if not isinstance(imagery.path, Path):
        return True
    product = one_product(imagery.path, imagery.format)
    if product is None:
        return True
    own = imagery.convention
    try:
        found = find_acquisitions(
            product,
            imagery.format,
            file_bands=imagery.file_bands,
            reflectance_scale=imagery.reflectance_scale,
            convention=None if own is None else own_convention(own.model_dump()),
        )
    except InputError:
        return True  # index will tell
    boxes = [(bounds, lon_lat_bounds(item.grid.bounds, item.grid.crs)) for item in found]
    # Across the antimeridian, west is greater than east.
    return any(
        (a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3])
        or a[0] > a[2]
        or b[0] > b[2]
        for a, b in boxes
    )


def _check_reference(weights: Path, settings: Settings, classes: Classes) -> None:
    """Check the number of classes and channels of weights of the reference."""
    listed = isinstance(settings.parcels.classes, list) or bool(settings.dataset.sources)
    folds = [fold for fold in weights.glob("Fold_*") if not (fold / DESCRIPTION_FILE).is_file()]
    if not folds or find_spec("torch") is None:
        return
    from models.checkpoints import load_state_dict

    model, bands = settings.model, settings.dataset.bands or settings.imagery.bands
    for fold in folds:
        path = fold / WEIGHTS_FILE
        shapes = {name: tuple(value.shape) for name, value in load_state_dict(path).items()}
        try:
            h = Hyperparameters.of_weights(
                shapes, pooling=model.pooling, T=model.T, positions=model.positions
            )
            # Fewer classes may be frequent enough among the parcels on the imagery.
            if listed or len(classes.trained) < h.n_classes:
                check_reference(h, len(classes.trained), bands)
        except ModelInputError as error:
            raise InputError(f"predict.weights: {path}: {error}") from None


def _check_datasets(settings: Settings) -> None:
    """Check existing datasets, and that existing weights fit their bands and dates."""
    from pipeline.stages.ingest import examine

    sources = settings.dataset.sources
    found = examine(sources, part_of(settings, IngestSettings))
    key, weights = used_weights(settings)
    if settings.predict.weights is not None:
        _check_reference(settings.predict.weights, settings, found.classes)
    elif not found.classes.classes:
        logger.warning("%s", NO_LABELS.format(f"no parcel of {first_five(sources)} has a label"))
    elif "dataset" in settings.split.ways and found.datasets is not None:
        from pipeline.stages.split import refuse_left_out

        used = set(found.rows.loc[found.rows["status"] == Status.USED, "parcel_id"])
        labelled = {name: used.intersection(o["parcels"]) for name, o in found.datasets.items()}
        refuse_left_out({name: len(parcels) for name, parcels in labelled.items()})
    if settings.predict.weights is None and settings.split.column is not None:
        groups = found.groups_of(settings.split.column)
        values = [groups.get(parcel_id, "") for parcel_id in found.usable]
        check_number(values, settings.split.column, settings.split.folds)
    for fold, trained in {} if weights is None else check_folds(weights).items():
        if trained.bands != found.bands:
            raise InputError(
                f"{key}: the model of {fold} was trained on the bands "
                f"{', '.join(trained.bands)}, the dataset has {', '.join(found.bands)}. Set "
                "dataset.bands to the names of its bands, or use other weights."
            )
        if key == "predict.weights":  # a training adapts the weights to other dates
            season_of(trained, found.season_dates).refuse()


if __name__ == "__main__":
    sys.exit(run_function(check, sys.argv[1:], program="check", logger="pipeline.check"))
