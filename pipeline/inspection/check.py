"""Check the inputs of a run before it starts: register, codes, tables, existing dataset, weights.

The Snakefile runs this module in a process of its own when these inputs have changed, so that
Snakemake itself loads no library for them.
"""

from __future__ import annotations

import logging
import sys
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from geo.errors import InputError
from geo.imagery.discovery import detect_format
from models.model_files import check_folds
from pipeline.__main__ import run_function
from pipeline.classes.class_choice import Models
from pipeline.dataset.season import season_of
from pipeline.workflow.sections import is_address
from pipeline.workflow.settings import IndexSettings, IngestSettings, Settings, part_of

logger = logging.getLogger("pipeline.check")

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
    if settings.dataset.path is not None:
        _check_dataset(settings.dataset.path, settings)
    elif settings.parcels.path is not None and settings.simulate is None:
        _check_register(settings.parcels.path, settings)
        imagery = settings.imagery
        if isinstance(imagery.path, Path) and imagery.format == "auto" and not imagery.is_stac:
            detect_format(imagery.path)


def _check_register(register: Path, settings: Settings) -> None:
    """Check the columns of a register and its classes.

    The register can be larger than the imagery. Nearly all errors are also errors for a part of it.
    But a code that a table lacks may be that of parcels outside the imagery: only in this case, the
    metadata of the imagery are read, too.
    """
    if find_spec("pyogrio") is None:
        logger.warning("%s is not checked: pyogrio is not installed here.", register)
        return
    from geo.register.reading import has_only_points
    from pipeline.classes.register import check_register, points_refused, read_declarations

    options = settings.parcels
    models = Models.of(settings.split.folds, settings.predict.weights)
    declared = read_declarations(register, options)
    if options.point_buffer_m is None and has_only_points(register, options.layer):
        raise points_refused(register, "all")
    if models.folds is not None and not declared.labels:
        logger.warning("%s", NO_LABELS.format("parcels.labels is empty"))
    try:
        declared.classes(options, models, options.names)
        return
    except InputError as error:
        lenient = options.model_copy(update={"unknown_codes": "unlabelled"})
        try:
            declared.classes(lenient, models, options.names)
        except InputError:
            raise error from None
    if settings.imagery.path is None or is_address(settings.imagery.path):
        return  # clean will tell
    from pipeline.dataset.acquisition_choice import decide

    with TemporaryDirectory() as scratch:
        items = Path(scratch) / "items" if settings.imagery.is_stac else None
        index = part_of(settings, IndexSettings)
        tiles = decide(settings.imagery.path, index, items, register, read_pixels=False).grids
    checked = check_register(register, tiles, options, options.labels)
    checked.refuse_unusable(tiles)
    checked.classes(options, models, options.names)


def _check_dataset(source: Path, settings: Settings) -> None:
    """Check an existing dataset, and that existing weights fit its bands and dates."""
    from pipeline.stages.ingest import examine

    found = examine(source, part_of(settings, IngestSettings))
    weights = settings.predict.weights
    if weights is None and not found.classes.classes:
        logger.warning("%s", NO_LABELS.format(f"no parcel of {source} has a label"))
    for fold, trained in {} if weights is None else check_folds(weights).items():
        if trained.bands != found.bands:
            raise InputError(
                f"predict.weights: the model of {fold} was trained on the bands "
                f"{', '.join(trained.bands)}, the dataset has {', '.join(found.bands)}. Set "
                "dataset.bands to the names of its bands, or use other weights."
            )
        dates: set[date] = set().union(*(parcel.dates for parcel in found.usable.values()))
        season_of(trained, sorted(dates)).refuse()


if __name__ == "__main__":
    sys.exit(run_function(check, sys.argv[1:], program="check", logger="pipeline.check"))
