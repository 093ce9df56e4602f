"""Styles in which QGIS draws the predictions, as QML."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import pairwise
from types import MappingProxyType
from xml.etree import ElementTree

from geo.register.geopackage_contents import Field, Style
from pipeline.classes.reasons import Reason
from pipeline.predictions.columns import FIELDS, SIMULATED
from pipeline.report.class_colours import UNPREDICTED, class_colours
from pipeline.report.scores import THRESHOLDS
from pipeline.workflow.rounding import percent

DOCTYPE = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
NO_PREDICTION = "no prediction"
# {verdict: (label, colour)}; red and orange stand out from grey, also for the colour-blind.
VERDICT_COLOURS = {
    "CONFLICT": ("CONFLICT", "#b2182b"),
    "DOUBT": ("DOUBT", "#fdae61"),
    "CONFORM": ("CONFORM", "#d9e2ea"),
    "": ("no verdict", UNPREDICTED),
}
# Viridis (Smith and van der Walt 2015): equal steps look equal, and low confidence is dark.
VIRIDIS = ("#440154", "#443983", "#31688e", "#21918c", "#35b779", "#90d743", "#fde725")
# Size of a prediction set. One class, the most frequent size, is light; no class, in orange, is an
# exception, and no step of the scale.
SET_COLOURS = {
    "1": ("1 class", "#e6eff6"),
    "2": ("2 classes", "#74a9cf"),
    "3": ("3 classes", "#8856a7"),
    "4": ("4 or more classes", "#4d004b"),
    "0": ("no class fits", "#e66101"),
    "": ("no set", UNPREDICTED),
}
# Characters that XML 1.0 cannot contain, not even escaped.
UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
REPLACEMENT = "\ufffd"


def prediction_styles(
    classes: Mapping[str, tuple[str, str]],
    symbol: str,
    *,
    simulated: bool,
    with_verdicts: bool,
    with_sets: bool,
) -> list[Style]:
    """Return the styles of a layer of predictions; QGIS applies the first.

    Parameters
    ----------
    classes
        {code: (name, colour #rrggbb)}, in the order of the legend.
    symbol
        fill (polygons) or marker (points).
    simulated
        Whether the imagery is simulated: names and descriptions say so.
    with_verdicts, with_sets
        Whether declarations were judged, and whether there are prediction sets.
    """
    of_class, of_confidence = style_by_class(classes, symbol), style_by_confidence(symbol)
    styles = [
        _style("Predicted class", "The most probable class of every parcel.", of_class, simulated),
        _style("Confidence", "Confidence of the predicted class.", of_confidence, simulated),
    ]
    if with_verdicts:
        of_verdict = style_by_value("verdict", VERDICT_COLOURS, symbol)
        styles.append(_style("Verdict", "Verdict on the declared class.", of_verdict, simulated))
    if with_sets:
        about = "Number of classes that cannot be excluded."
        styles.append(_style("Set size", about, style_by_set_size(symbol), simulated))
    return styles


def rejection_style(reasons: Iterable[str], symbol: str, *, simulated: bool) -> Style:
    """Return the style of the layer of rejected parcels, see `style_by_reason`."""
    about = "Why parcels are not predicted."
    return _style("Reason", about, style_by_reason(reasons, symbol), simulated)


def _style(name: str, description: str, qml: str, simulated: bool) -> Style:
    note, mark = (f"{SIMULATED} ", ", SIMULATED") if simulated else ("", "")
    return Style(f"{name}{mark}", f"{note}{description}", qml)


def style_by_class(classes: Mapping[str, tuple[str, str]], symbol: str = "fill") -> str:
    """Return a QML style that colours parcels by predicted class.

    Parameters
    ----------
    classes
        {code: (name, colour #rrggbb)}, in the order of the legend.
    symbol
        fill (polygons) or marker (points).
    """
    column = "pred_code"
    if any(UNWRITABLE.search(code) for code in classes):
        # The style has these characters replaced: QGIS must compare it with replaced codes.
        pattern = r"[\\x01-\\x08\\x0b\\x0c\\x0e-\\x1f\\x{fffe}\\x{ffff}]"
        column = f"regexp_replace(\"pred_code\", '{pattern}', '{REPLACEMENT}')"
    return style_by_value(column, {**classes, "": (NO_PREDICTION, UNPREDICTED)}, symbol)


def style_by_value(column: str, values: Mapping[str, tuple[str, str]], symbol: str) -> str:
    """Return a QML style that colours parcels by a column of text.

    Parameters
    ----------
    column
        Column or expression of QGIS.
    values
        {value: (label, colour #rrggbb)}, in the order of the legend; "" for all other rows.
    symbol
        A key of `SYMBOLS`.
    """
    root, renderer = _renderer("categorizedSymbol", column)
    categories = ElementTree.SubElement(renderer, "categories")
    colours: list[str] = []
    # QGIS applies the category "" to all rows without a category.
    for value, (label, colour) in values.items():
        _add(categories, "category", value=value, label=label, symbol=len(colours), render="true")
        colours.append(colour)
    _add_symbols(renderer, colours, symbol)
    return _text(root)


def style_by_set_size(symbol: str = "fill") -> str:
    """Return a QML style that colours parcels by the number of classes in their prediction set."""
    # min ignores missing values.
    size = 'CASE WHEN "set_size" IS NOT NULL THEN to_string(min("set_size", 4)) END'
    return style_by_value(size, SET_COLOURS, symbol)


def style_by_reason(reasons: Iterable[str], symbol: str = "fill") -> str:
    """Return a QML style that hatches rejected parcels by their reason, in its words.

    Solid colours would look like those of the classes.

    Parameters
    ----------
    reasons
        Reasons of `pipeline.classes.reasons`, in the order of the legend.
    symbol
        fill (polygons) or marker (points).
    """
    colours = class_colours(dict.fromkeys(map(str, reasons), 1))
    values = {reason: (Reason(reason).words, colour) for reason, colour in colours.items()}
    return style_by_value("reason", values, {"fill": "hatched", "marker": "cross"}[symbol])


def style_of_extents(fields: Mapping[str, Field]) -> str:
    """Return a QML style that draws polygons as lines, so that what lies below is seen."""
    root, renderer = _renderer("singleSymbol", "", fields)
    _add_symbols(renderer, ["#333333"], "extent")
    return _text(root)


def style_of_table(fields: Mapping[str, Field]) -> str:
    """Return a QML style that only has the titles of columns, for a table without outlines."""
    return _text(_root(fields))


def style_by_confidence(symbol: str = "fill") -> str:
    """Return a QML style that colours parcels by confidence, in the steps of the report's table."""
    # QGIS does not draw rows whose value is missing.
    root, renderer = _renderer("graduatedSymbol", 'coalesce("confidence", -1)')
    renderer.set("graduatedMethod", "GraduatedColor")
    ranges = ElementTree.SubElement(renderer, "ranges")
    steps = [(-1.0, -1.0), *pairwise([*THRESHOLDS, 1.0])]
    for i, (low, high) in enumerate(steps):
        label = f"{percent(low, 0)} to {percent(high, 0)}" if low >= 0 else NO_PREDICTION
        _add(ranges, "range", lower=low, upper=high, label=label, symbol=i, render="true")
    _add_symbols(renderer, [UNPREDICTED, *VIRIDIS], symbol)
    return _text(root)


def _root(fields: Mapping[str, Field]) -> ElementTree.Element:
    root = ElementTree.Element("qgis", version="3.22", styleCategories="Symbology|Fields")
    # QGIS takes titles from the style: old versions ignore those of a GeoPackage.
    aliases = ElementTree.SubElement(root, "aliases")
    for name, field in fields.items():
        _add(aliases, "alias", field=name, name=field.title, index="")
    return root


def _renderer(
    kind: str, column: str, fields: Mapping[str, Field] = MappingProxyType(FIELDS)
) -> tuple[ElementTree.Element, ElementTree.Element]:
    root = _root(fields)
    return root, _add(root, "renderer-v2", type=kind, attr=column, symbollevels="0")


# The class of a symbol's layer in QGIS, and its properties beside those that all have.
SYMBOLS = {
    "fill": ("SimpleFill", {"style": "solid"}),
    "marker": ("SimpleMarker", {"name": "circle", "size": "2", "size_unit": "MM"}),
    "hatched": (
        "SimpleFill",
        {"style": "b_diagonal", "outline_color": "50,50,50,255", "outline_width": "0.2"},
    ),
    "cross": ("SimpleMarker", {"name": "cross_fill", "size": "3", "size_unit": "MM"}),
    "extent": (
        "SimpleFill",
        {"style": "no", "outline_color": "50,50,50,255", "outline_width": "0.5"},
    ),
}


def _add_symbols(renderer: ElementTree.Element, colours: list[str], kind: str) -> None:
    """Add a symbol for every colour, numbered from 0."""
    symbols = ElementTree.SubElement(renderer, "symbols")
    name, shape = SYMBOLS[kind]
    for i, colour in enumerate(colours):
        of = "marker" if name == "SimpleMarker" else "fill"
        symbol = _add(symbols, "symbol", type=of, name=i, alpha="1", clip_to_extent="1")
        layer = _add(symbol, "layer", **{"class": name, "enabled": "1", "pass": "0"})
        red, green, blue = bytes.fromhex(colour[1:])
        for key, value in {
            "color": f"{red},{green},{blue},255",
            # Thin and transparent, so that parcels of a few pixels still show their colour.
            "outline_color": "0,0,0,70",
            "outline_style": "solid",
            "outline_width": "0.05",
            "outline_width_unit": "MM",
            "joinstyle": "bevel",
            **shape,
        }.items():
            _add(layer, "prop", k=key, v=value)


def _add(parent: ElementTree.Element, tag: str, **attributes: object) -> ElementTree.Element:
    texts = {k: UNWRITABLE.sub(REPLACEMENT, str(v)) for k, v in attributes.items()}
    return ElementTree.SubElement(parent, tag, texts)


def _text(root: ElementTree.Element) -> str:
    return DOCTYPE + ElementTree.tostring(root, encoding="unicode")
