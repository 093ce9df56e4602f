"""How QGIS draws the predictions: QML, by class in the report's colours, and by confidence.

Only the symbology is set. Properties of symbols are written as <prop>, which every QGIS 3 reads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from xml.etree import ElementTree

from pipeline.report.charts import percent
from pipeline.report.class_colours import UNPREDICTED
from pipeline.report.confidence import THRESHOLDS

DOCTYPE = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
NO_PREDICTION = "no prediction"
# Viridis (Smith and van der Walt 2015), equal steps of which look equal: the doubtful are dark.
VIRIDIS = ("#440154", "#443983", "#31688e", "#21918c", "#35b779", "#90d743", "#fde725")
# XML 1.0 has no way to write these.
UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
REPLACEMENT = "\ufffd"


def style_by_class(classes: Mapping[str, tuple[str, str]]) -> str:
    """Colour parcels by predicted class.

    Parameters
    ----------
    classes
        {code: (name, colour #rrggbb)}, in the order of the legend.

    Returns
    -------
    QML.
    """
    column = "pred_code"
    if any(UNWRITABLE.search(code) for code in classes):
        # The categories have the codes as XML can write them.
        pattern = r"[\\x01-\\x08\\x0b\\x0c\\x0e-\\x1f\\x{fffe}\\x{ffff}]"
        column = f"regexp_replace(\"pred_code\", '{pattern}', '{REPLACEMENT}')"
    root, renderer = _renderer("categorizedSymbol", column)
    categories = ElementTree.SubElement(renderer, "categories")
    colours: list[str] = []
    # QGIS takes the category "" for all that no other is for: of these rows, those without a code.
    for code, (name, colour) in {**classes, "": (NO_PREDICTION, UNPREDICTED)}.items():
        _add(categories, "category", value=code, label=name, symbol=len(colours), render="true")
        colours.append(colour)
    _add_symbols(renderer, colours)
    return _text(root)


def style_by_confidence() -> str:
    """Colour parcels by confidence, in the steps of the report's table: QML."""
    # A row without confidence would not be drawn.
    root, renderer = _renderer("graduatedSymbol", 'coalesce("confidence", -1)')
    renderer.set("graduatedMethod", "GraduatedColor")
    ranges = ElementTree.SubElement(renderer, "ranges")
    steps = [(-1.0, -1.0), *pairwise([*THRESHOLDS, 1.0])]
    for i, (low, high) in enumerate(steps):
        label = f"{percent(low, 0)} to {percent(high, 0)}" if low >= 0 else NO_PREDICTION
        _add(ranges, "range", lower=low, upper=high, label=label, symbol=i, render="true")
    _add_symbols(renderer, [UNPREDICTED, *VIRIDIS])
    return _text(root)


def _renderer(kind: str, column: str) -> tuple[ElementTree.Element, ElementTree.Element]:
    root = ElementTree.Element("qgis", version="3.22", styleCategories="Symbology")
    return root, _add(root, "renderer-v2", type=kind, attr=column, symbollevels="0")


def _add_symbols(renderer: ElementTree.Element, colours: list[str]) -> None:
    """Add a fill for every colour, numbered from 0."""
    symbols = ElementTree.SubElement(renderer, "symbols")
    for i, colour in enumerate(colours):
        symbol = _add(symbols, "symbol", type="fill", name=i, alpha="1", clip_to_extent="1")
        layer = _add(symbol, "layer", **{"class": "SimpleFill", "enabled": "1", "pass": "0"})
        red, green, blue = bytes.fromhex(colour[1:])
        for key, value in {
            "color": f"{red},{green},{blue},255",
            "style": "solid",
            # Thin and see-through: parcels keep their colour also where they are a few pixels.
            "outline_color": "0,0,0,70",
            "outline_style": "solid",
            "outline_width": "0.05",
            "outline_width_unit": "MM",
            "joinstyle": "bevel",
        }.items():
            _add(layer, "prop", k=key, v=value)


def _add(parent: ElementTree.Element, tag: str, **attributes: object) -> ElementTree.Element:
    texts = {k: UNWRITABLE.sub(REPLACEMENT, str(v)) for k, v in attributes.items()}
    return ElementTree.SubElement(parent, tag, texts)


def _text(root: ElementTree.Element) -> str:
    return DOCTYPE + ElementTree.tostring(root, encoding="unicode")
