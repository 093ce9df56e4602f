"""Stage names: set the names under which classes are shown; no model depends on them."""

from __future__ import annotations

import logging
from pathlib import Path

from pipeline.classes.crop_class import read_classes, with_names, write_classes_csv
from pipeline.dataset.metadata import write_names
from pipeline.workflow.paths import DatasetPaths
from pipeline.workflow.settings import NamesSettings

logger = logging.getLogger(__name__)


def names(classes: Path, dataset: Path, table: Path, settings: NamesSettings) -> None:
    """Set the names under which the classes are shown.

    Parameters
    ----------
    classes
        The declared classes, written by label.
    dataset
        Pixel-Set dataset. Written into it: the names of all declared classes.
    table
        Written: CSV of the declared classes, for people.
    settings
        parcels.names: a table of names, which take precedence over the names in the register and in
        the tables of codes; parcels.encoding.

    Raises
    ------
    InputError
        If the table of names is missing, lacks a column, or has none of the classes.
    """
    options = settings.parcels
    named = with_names(read_classes(classes), options.names, options.encoding)
    write_names(DatasetPaths(dataset), named)
    write_classes_csv(table, named.classes)
    logger.info("%d classes named", len(named.classes))
