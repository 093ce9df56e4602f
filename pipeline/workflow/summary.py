"""What a finished run says on the terminal: where the results are, and how good the models were."""

from __future__ import annotations

import json

from pipeline.report.charts import rounded, score
from pipeline.workflow.paths import RunPaths

METHODS = {
    "random_forest": "random forest on means",
    "logistic_regression": "regression on means",
    "majority": "most frequent class",
}
SIMULATED = "The scene is SIMULATED: the scores say that the software works, nothing about crops."


def summary(paths: RunPaths) -> str:
    """Say where the artefacts of a run lie that are there, and its scores."""
    lines = []
    for what, path in (
        ("dataset", paths.dataset.root),
        ("predictions", paths.predictions),
        ("report", paths.report),
    ):
        if path == paths.predictions and not path.exists():
            path = path.with_suffix(".csv")
        if path.exists():
            lines.append(f"{what:12} {path}")
    if paths.overall.is_file() and paths.baselines.is_file():
        overall, baselines = (
            json.loads(path.read_text()) for path in (paths.overall, paths.baselines)
        )
        lines.append("")
        lines.append(f"{'out of fold':24}{'overall accuracy':>18}{'mean IoU':>10}{'macro F1':>10}")
        for method, values in {"model": overall, **baselines}.items():
            name = METHODS.get(method, method)
            accuracy, iou, f1 = (values[k] for k in ("Accuracy", "MACRO_IoU", "MACRO_F1-score"))
            right = f"{rounded(100 * accuracy, 1, 100)}%"
            lines.append(f"{name:24}{right:>18}{score(iou):>10}{score(f1):>10}")
    description = paths.dataset.description
    if description.is_file() and json.loads(description.read_text())["simulated"]:
        lines += ["", SIMULATED]
    return "\n".join(lines)
