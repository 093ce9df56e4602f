"""The classes that parcels declare, and those that are trained on."""

from __future__ import annotations

import geopandas as gpd
import pandas as pd

from pipeline.classes.class_mapping import read_declared
from pipeline.classes.ids_as_text import as_text
from pipeline.classes.ledger import class_reasons, set_aside
from pipeline.classes.nomenclature import CropClass, choose_classes, read_names, with_other
from pipeline.workflow.sections import ParcelClasses


def classify(
    rows: pd.DataFrame, table: gpd.GeoDataFrame, options: ParcelClasses, folds: int | None
) -> tuple[pd.DataFrame, list[CropClass]]:
    """Choose the classes, and set parcels of other classes and of none aside for prediction.

    Parameters
    ----------
    rows
        Rows of the ledger, completed: code, declared and reason.
    table
        The register.
    folds
        Number of folds; None where nothing is trained.

    Returns
    -------
    labels
        Class codes of the parcels, a column a nomenclature.
    chosen
        Classes of the nomenclature to train on.
    """
    usable = rows["reason"] == ""
    strange = options.unknown_codes, options.other_class
    declared = {
        name: read_declared(table, label, name, usable, *strange)
        for name, label in options.labels.items()
    }
    labels = pd.DataFrame({name: d.codes for name, d in declared.items()}, index=rows.index)
    trained = options.trained_nomenclature
    if trained is None:
        rows["code"] = ""
        set_aside(rows, rows.index >= 0, "no_label")
        return labels, []
    classes = options.classes
    if options.other_class is not None:
        labels[trained], classes = with_other(labels[trained], usable, classes, options.other_class)
    rows["code"] = labels[trained]
    rows["declared"] = as_text(table[options.labels[trained].column])
    names = declared[trained].names | (read_names(options.names) if options.names else {})
    chosen = choose_classes(rows["code"].where(usable), classes, names, folds)
    rows["reason"] = rows["reason"].where(~usable, class_reasons(rows["code"], chosen))
    return labels, chosen
