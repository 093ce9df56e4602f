"""Charts as SVG: what a page and a file contain, compared with what matplotlib drew."""

import re
from datetime import date, timedelta
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd
import pytest

from pipeline.report.areas import ESTIMATES, area_chart
from pipeline.report.chart import Chart, band, show_dates, show_percent
from pipeline.report.class_colours import COLOURS
from pipeline.report.svg import VARIABLES
from tests.builders.paths import ROOT

DAYS = [date(2018, 3, 1) + timedelta(12 * t) for t in range(20)]
VALUES = np.sin(np.arange(20) / 3) / 2 + 0.5
NAME = "wheat <&> $x_1$ 水稻 \x01"


def parsed(text):
    return ET.fromstring(text)  # noqa: S314  our own


def make_chart(label="NDVI of wheat.", colour="#e69f00"):
    chart = Chart(label, 250, 130)
    (axes,) = chart.axes
    band(axes, DAYS, np.column_stack([VALUES - 0.1, VALUES + 0.1]), colour)
    values = dict(zip(DAYS, VALUES.tolist(), strict=True))
    values[DAYS[3]], values[DAYS[4]] = np.nan, None
    line = chart.plot(axes, values, "o-", lambda day, value: f"{day}: {value:.2f}", color=colour)
    show_percent(axes)
    show_dates(axes, DAYS, 6)
    return chart, line


def test_every_mark_lies_where_matplotlib_puts_it_and_says_its_title():
    chart, line = make_chart()
    svg = parsed(chart.page_svg())
    marks = [(m, m.find("title")) for m in svg.iter() if m.find("title") is not None]
    known = [t for t in range(20) if t not in (3, 4)]
    assert [title.text for _, title in marks] == [f"{DAYS[t]}: {VALUES[t]:.2f}" for t in known]
    x, y = line.axes.transData.transform(line.get_xydata()).T
    for (mark, _), *place in zip(marks, x, 130 - y, strict=True):
        assert [float(mark.get(key)) for key in ("cx", "cy")] == pytest.approx(place, abs=0.051)
        assert mark.get("r") == "3"
    drawn = {tuple(re.findall(r"[-\d.]+", path.get("d", ""))) for path in svg.iter("path")}
    points = np.column_stack([x, 130 - y]).ravel().tolist()
    assert tuple(f"{round(number, 1):g}" for number in points) in drawn


def test_marks_beyond_the_limits_widen_them():
    chart = Chart("NDVI of water.", 250, 130)
    (axes,) = chart.axes
    values = {DAYS[0]: 0.2, DAYS[1]: -0.9, DAYS[2]: 1.7, date(6022, 6, 13): 0.3}
    chart.plot(axes, values, "o-", lambda day, value: f"{day}: {value}")
    axes.axhline(0.5)
    axes.set_ylim(0, 1)
    show_dates(axes, DAYS, 6)
    titles = [title.text for title in parsed(chart.page_svg()).iter("title")]
    assert titles == [f"{day}: {value}" for day, value in values.items()]
    assert axes.get_ylim() == (-0.9, 1.7)


def test_a_page_has_its_own_font_and_colours():
    page = make_chart()[0].page_svg()
    assert re.findall(r"#[0-9a-f]{6}", page) == ["#e69f00"]
    assert "--c0:color-mix(in oklab,#e69f00,var(--lift))" in page
    assert "font-family" not in page
    assert {"0\N{NARROW NO-BREAK SPACE}%", "Mar", "2018"} <= set(
        re.findall(r"<text[^>]*>([^<]*)", page)
    )
    # The colours are those of the light page, and no class has one of them.
    css = (ROOT / "pipeline" / "report" / "report.css").read_text()
    light = dict(re.findall(r"(--\w+): (#\w{6})", css[: css.index("@media")]))
    assert {variable: light[variable] for variable in VARIABLES.values()} == {
        variable: colour for colour, variable in VARIABLES.items()
    }
    assert not VARIABLES.keys() & set(COLOURS)


def test_a_file_stands_alone():
    words = ", ".join(8 * ["many words"])
    text = make_chart(f"NDVI of {NAME}, {words}.")[0].file_svg("SIMULATED imagery.")
    svg = parsed(text)
    space = "{http://www.w3.org/2000/svg}"
    assert svg.tag == f"{space}svg"
    assert "var(" not in text
    assert text.count("#e69f00") == 4  # band, line, and fill and edge of its markers
    # The title lies above the chart, in lines that fit into its width.
    _, y, width, height = map(float, svg.get("viewBox").split())
    title = [t for t in svg.iter(f"{space}text") if float(t.get("y")) < 0]
    name = NAME.replace("\x01", "\N{REPLACEMENT CHARACTER}")
    shown = " ".join(line.text for line in title)
    assert shown == f"NDVI of {name}, {words}. SIMULATED imagery."
    assert max(len(line.text) for line in title) * 5.5 < width == 250
    assert min(float(line.get("y")) for line in title) - 11 >= y
    assert height + y == 130
    # Small charts are enlarged.
    assert float(svg.get("width")) == 600
    assert float(svg.get("height")) == pytest.approx(600 * height / width, abs=1)


def test_a_chart_has_the_same_bytes_and_ids_of_its_own():
    first, again, other = (make_chart(label)[0].page_svg() for label in ("a", "a", "b"))
    assert first == again
    ids, others = (set(re.findall(r'id="(\w+)"', page)) for page in (first, other))
    assert ids
    assert not ids & others


def test_names_are_text_whatever_they_contain():
    estimates = [f"{name}{end}_ha" for name in ESTIMATES for end in ("", "_low", "_high")]
    areas = {estimate: [1.5, np.nan] for estimate in estimates}
    rows = pd.DataFrame({"name": [NAME, "x" * 40], "mapped_ha": [1.0, 2.0], **areas})
    svg = parsed(area_chart(rows).page_svg())
    shown = [text.text for text in svg.iter("text")]
    name = NAME.replace("\x01", "\N{REPLACEMENT CHARACTER}")
    assert name in shown
    assert "x" * 27 + "…" in shown
    titles = [title.text for title in svg.iter("title")]
    assert titles == [
        f"{name}: 1.5 ha, error-adjusted (95 % interval: 1.5 to 1.5)",
        f"{name}: 1.5 ha, difference estimator (95 % interval: 1.5 to 1.5)",
        f"{name}: 1.0 ha, mapped",
        f"{'x' * 40}: 2.0 ha, mapped",
    ]


@pytest.mark.parametrize(
    ("days", "low", "high", "shown"),
    [
        ([date(2018, 3, 1)], 0, 1, {"0 %", "50 %", "100 %"}),
        ([date(2016, 1, 1), date(2020, 12, 31)], 0.63, 1, {"2017", "60 %", "70 %", "100 %"}),
        ([date(2018, 3, 1), date(2018, 3, 6)], 0, 0.004, {"2018-Mar", "0.0 %", "0.2 %", "0.4 %"}),
    ],
)
def test_axes_show_days_and_shares(days, low, high, shown):
    chart = Chart("", 400, 200)
    show_percent(chart.axes[0], low, high, 4)
    show_dates(chart.axes[0], days, 6)
    texts = set(re.findall(r"<text[^>]*>([^<]*)", chart.page_svg()))
    assert {text.replace(" %", "\N{NARROW NO-BREAK SPACE}%") for text in shown} <= texts
    assert not [text for text in texts if ":" in text]  # no hours
