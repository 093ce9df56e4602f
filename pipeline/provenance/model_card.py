"""The model card of a run's models, with the headings of Mitchell et al. (2019).

Model Cards for Model Reporting, Proceedings of FAT* 2019, section 4.
"""

from __future__ import annotations

import re
from functools import cache

import jinja2

from pipeline.provenance.stac_item import ARCHITECTURES, FEATURES
from pipeline.provenance.trained_models import TrainedModels
from pipeline.report.scores import METHODS
from pipeline.workflow.rounding import percent, score

# A class of fewer parcels has a score that is too uncertain to rely on.
FEW_PARCELS = 30


def render_card(models: TrainedModels) -> str:
    """Return the model card as Markdown (CommonMark with tables)."""
    about = models.description
    few = [one for one in models.classes if one["support"] < FEW_PARCELS]
    return _template().render(
        models=models,
        about=about,
        architecture=ARCHITECTURES[about.hyperparameters.name],
        features=FEATURES if about.feature_scaling is not None else (),
        train=models.settings["train"],
        methods=METHODS,
        few=few,
        few_parcels=FEW_PARCELS,
        is_spatial=any(one.is_spatial for one in models.scored),
    )


def in_markdown(text: object) -> str:
    """Return a text as one line in which no character has a meaning in Markdown or HTML."""
    line = " ".join(str(text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]#|~$!])", r"\\\1", line)


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline", "provenance"),
        autoescape=False,  # noqa: S701 (the filter `md` escapes for Markdown)
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "md": in_markdown,
        "number": lambda value: f"{value:,}",
        "percent": percent,
        "score": score,
    }
    return environment.get_template("model_card.md.jinja")
