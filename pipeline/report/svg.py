"""A matplotlib figure as SVG: in a page, whose font and colours it has, or as a file of its own."""

from __future__ import annotations

import copy
import io
import re
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree as ET

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# The colours of the light page, in which charts are drawn, and their variables in report.css.
INK, SOFT, LINE, PAPER = "#1c2126", "#5a646e", "#dfe3e0", "#ffffff"
ACCENT, BLUE, WARM, ASIDE = "#17694a", "#2b78b5", "#c2410c", "#9aa3ab"
VARIABLES = {
    **{INK: "--ink", SOFT: "--soft", LINE: "--line", PAPER: "--paper"},
    **{ACCENT: "--accent", BLUE: "--blue", WARM: "--warm", ASIDE: "--aside"},
}
FONT_SIZE = 11
# Smaller charts are enlarged to this width in a file of their own, in pixels.
SMALLEST_FILE = 600
# What all elements of a chart inherit.
_INHERITED = {
    **{"fill": SOFT, "stroke-linejoin": "round"},
    **{"font-size": f"{FONT_SIZE}px", "text-anchor": "middle"},
}
_TITLE_LINE = 16
# A circle as matplotlib writes it: from its lowest point, in eight curves.
_CIRCLE = re.compile(r"M 0 ([\d.]+) (?:\s*C [^CMLz]+){8}z\s*")
_SVG, _HREF = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"

Titles = Mapping[str, str | Sequence[str]]


def draw_svg(figure: Figure, salt: str, titles: Titles) -> ET.Element:
    """Draw a figure, without what matplotlib repeats or a page does not need.

    Parameters
    ----------
    figure
        The figure, with text in `FONT_SIZE`.
    salt
        Text that differs between the figures of a page: their ids follow from it.
    titles
        {gid of an artist: its hover title, or one for each of its markers}.
    """
    file = io.StringIO()
    with (
        mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}),
        warnings.catch_warnings(),
    ):
        # matplotlib measures text in a font that lacks, for example, Chinese; the page has others.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        # Figure.savefig would draw twice: first for the layout, which drawing does, too.
        FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None})
    svg = ET.fromstring(_valid(file.getvalue()))  # noqa: S314  matplotlib wrote it
    view_box = svg.attrib["viewBox"]
    _draw_circles(svg)
    _shorten(svg, _INHERITED, titles)
    svg.attrib = {"viewBox": view_box, "style": _css(_INHERITED)}
    return svg


def page_svg(drawn: ET.Element, label: str) -> Markup:
    """Return a chart for a page: its colours are variables of report.css.

    The colours of classes are mixed with black or white, to contrast with the page.
    """
    svg = copy.deepcopy(drawn)
    of_classes: dict[str, str] = {}

    def variable(colour: re.Match[str]) -> str:
        named = VARIABLES.get(colour[0])
        return f"var({named or of_classes.setdefault(colour[0], f'--c{len(of_classes)}')})"

    for element in svg.iter():
        if style := element.get("style"):
            element.set("style", re.sub("#[0-9a-f]{6}", variable, style))
    mixed = {name: f"color-mix(in oklab,{c},var(--lift))" for c, name in of_classes.items()}
    own = _css({"--width": svg.attrib["viewBox"].split()[2], **mixed})
    svg.attrib |= {"class": "chart", "role": "img", "aria-label": label}
    svg.set("style", f"{own};{svg.attrib['style']}")
    return Markup(_text(svg))  # noqa: S704  ElementTree escapes what the chart says


def file_svg(drawn: ET.Element, title: str) -> str:
    """Return a chart for a file of its own: its colours are those of the light page."""
    *_, width, height = map(float, drawn.attrib["viewBox"].split())
    lines = textwrap.wrap(title, int(1.7 * width / FONT_SIZE))
    head = _TITLE_LINE * len(lines) + 8
    view = {"width": f"{width:g}", "height": f"{height + head:g}"}
    scale = max(1, SMALLEST_FILE / width)
    svg = ET.Element("svg", {"xmlns": _SVG[1:-1], "font-family": "system-ui, sans-serif"})
    svg.attrib |= {"width": f"{scale * width:.0f}", "height": f"{scale * (height + head):.0f}"}
    svg.attrib |= {"viewBox": f"0 {-head} {view['width']} {view['height']}"}
    svg.set("style", drawn.attrib["style"])
    ET.SubElement(svg, "rect", {**view, "y": f"{-head}", "style": f"fill:{PAPER}"})
    for n, line in enumerate(lines, 1):
        text = ET.SubElement(svg, "text", x="8", y=f"{_TITLE_LINE * n - head}")
        text.set("style", "text-anchor:start")
        text.text = line
    svg.extend(drawn)
    return _text(svg) + "\n"


def _text(svg: ET.Element) -> str:
    return _valid(ET.tostring(svg, encoding="unicode").replace(" />", "/>"))


def _valid(xml: str) -> str:
    """Replace the characters that XML cannot contain: names may contain any."""
    return re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]", "\N{REPLACEMENT CHARACTER}", xml)


def _draw_circles(svg: ET.Element) -> None:
    """Replace the round markers, which matplotlib defines as paths and uses, by circles."""
    radius = {}
    for definitions in svg.iter(f"{_SVG}defs"):
        for path in list(definitions):
            if found := _CIRCLE.fullmatch(path.get("d", "")):
                radius[f"#{path.get('id')}"] = found[1]
                definitions.remove(path)
    for marker in svg.iter(f"{_SVG}use"):
        if marker.attrib[_HREF] in radius:
            marker.tag = "circle"
            marker.attrib = {
                **{"cx": marker.attrib["x"], "cy": marker.attrib["y"]},
                **{"r": radius[marker.attrib[_HREF]], "style": marker.attrib["style"]},
            }


def _shorten(element: ET.Element, inherited: Mapping[str, str], titles: Titles) -> None:
    """Shorten an element and all below it, and add the titles of the groups that have some."""
    element.tag = element.tag.removeprefix(_SVG)
    element.tail = None
    if element.tag != "text":
        element.text = None
    said = titles.get(element.get("id", ""), ())
    style = _shorten_attributes(element, inherited)
    children: list[ET.Element] = []
    for child in element:
        _shorten(child, {**inherited, **style}, titles)
        if child.tag == "g" and not child.attrib:
            children += child
        elif len(child) or child.tag in ("circle", "path", "text", "use"):
            children.append(child)
    element[:] = children
    # Markers of a line have the same style.
    styles = [child.get("style") for child in children]
    if element.tag == "g" and len(styles) > 1 and styles[0] and len(set(styles)) == 1:
        element.set("style", styles[0])
        for child in children:
            del child.attrib["style"]
    if isinstance(said, str):
        _add_title(children[0] if len(children) == 1 else element, said)
    elif said:
        # Without markers, the paths of a collection.
        marks = [m for m in element.iter() if m.tag in ("circle", "use")] or element.iter("path")
        for mark, title in zip(marks, said, strict=True):
            _add_title(mark, title)


def _add_title(element: ET.Element, text: str) -> None:
    title = ET.Element("title")
    title.text = text
    element.insert(0, title)


def _shorten_attributes(element: ET.Element, inherited: Mapping[str, str]) -> dict[str, str]:
    """Remove what a page does not need, and return the style that is not inherited."""
    own = element.attrib
    if element.tag != "path":
        own.pop("id", None)  # Only paths are referred to.
    own.pop("clip-path", None)
    if own.get("transform", "").startswith("rotate(-0 "):
        del own["transform"]
    if _HREF in own:
        own["href"] = own.pop(_HREF)
    for key in own.keys() & {"d", "x", "y", "cx", "cy", "transform"}:
        own[key] = _shorten_numbers(own[key])
    parts = dict(part.split(": ", 1) for part in own.pop("style", "").split("; ") if part)
    if element.tag == "text":
        parts.setdefault("text-anchor", "start")
    style = {k: v for k, v in parts.items() if k != "font-family" and inherited.get(k) != v}
    if element.tag == "use":
        # The path that is used has the stroke.
        style = {k: v for k, v in style.items() if not k.startswith("stroke")}
    if style:
        own["style"] = _css(style)
    return style


def _shorten_numbers(text: str) -> str:
    """Round the numbers of an attribute to tenths, and shorten the path that they are."""
    text = re.sub(r"-?\d+\.\d+", lambda found: f"{round(float(found[0]), 1):g}", text)
    # Pairs of numbers behind those of M are lines.
    return (
        re.sub(r"\s*([A-Z])\s*|\s+", lambda found: found[1] or " ", text).replace("L", " ").strip()
    )


def _css(style: Mapping[str, str]) -> str:
    return ";".join(f"{key}:{value}" for key, value in style.items())
