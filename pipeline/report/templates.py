"""The templates of the pages, and their filters."""

from __future__ import annotations

from functools import cache
from importlib import resources

import jinja2
from markupsafe import Markup

from pipeline.classes.reasons import AcquisitionReason, ClassReason
from pipeline.evaluation.scores import wilson_interval
from pipeline.report.chart import say_day
from pipeline.report.divisions import DIVIDED_BY
from pipeline.workflow.rounding import percent, rounded, score


@cache
def template(name: str) -> jinja2.Template:
    """Return a template of this folder, with the filters of all pages."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline", "report"),
        autoescape=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "number": lambda value: f"{value:,}",
        "percent": percent,
        "score": score,
        "interval": lambda count, n: " to ".join(map(score, wilson_interval(count / n, n))),
        "deviation": lambda value: rounded(100 * value, 1),
        "loss": lambda value: rounded(value, 3),
        "day": say_day,
        "division": DIVIDED_BY.__getitem__,
        "plain": lambda value: f"{value:g}",
        "in_words": lambda reason: AcquisitionReason(reason).words,
        "class_in_words": lambda reason: ClassReason(reason).words,
    }
    environment.globals["map_source"] = _map_source
    return environment.get_template(name)


def _map_source(name: str) -> Markup:
    """Return a script of the map, or its licence, as it is: a template would change its braces."""
    return Markup(resources.files("pipeline.report").joinpath(name).read_text("utf-8"))  # noqa: S704
