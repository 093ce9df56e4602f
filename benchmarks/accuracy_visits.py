"""Say what visits of the work list and of the sample find, where the truth is known.

    python -m benchmarks.accuracy_visits RUN

RUN is the folder of a finished run of configs/demo.yaml, results/demo. Its scene is SIMULATED, and
some of its parcels are declared wrongly on purpose.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from geo.register.columns import as_text
from pipeline.evaluation.quality_sample import draw_sample, estimate_share, strata_of
from pipeline.workflow.artefacts import read_json
from pipeline.workflow.paths import RunPaths

MARGINS = (0.2, 0.1, 0.05)
DRAWS = 1000
# Shares of the declarations that are flipped at random, beside those that are wrong already.
FLIPPED = (0.0, 0.03)


def read_judged(paths: RunPaths) -> pd.DataFrame:
    """Read the judged declarations: parcel_id, verdict, declared_code, doubt_rank, true_code."""
    columns = ["parcel_id", "verdict", "declared_code", "doubt_rank"]
    rows = pd.read_parquet(paths.predictions.with_suffix(".parquet"), columns=columns)
    rows = rows[rows["verdict"].notna()].reset_index(drop=True)
    truth = pd.read_csv(paths.root / "raw" / "register.truth.csv", dtype=str)
    truth = truth.drop_duplicates("ID_PARCEL").set_index("ID_PARCEL")
    rows["declared_code"] = as_text(rows["declared_code"])
    return rows.assign(true_code=truth.loc[rows["parcel_id"], "true_code"].to_numpy())


def print_list(paths: RunPaths, rows: pd.DataFrame) -> None:
    """Compare the first visits of the work list with as many of parcels at random."""
    is_wrong = (rows["declared_code"] != rows["true_code"]).set_axis(rows["parcel_id"])
    listed = is_wrong[pd.read_parquet(paths.to_check)["parcel_id"]].to_numpy()
    account: dict[str, Any] = read_json(paths.worklist_account)
    n, wrong = len(rows), int(is_wrong.sum())
    print(f"{wrong} of {n} declarations are wrong (SIMULATED).\n")
    print("| visits | found | per 100 visits | at random | estimated share | found share |")
    print("|---:|---:|---:|---:|---:|---:|")
    for line in account["visits"]:
        visits = line["n"]
        found = int(listed[:visits].sum())
        print(
            f"| {visits} | {found} | {100 * found / visits:.0f} | {100 * wrong / n:.1f} "
            f"| {100 * line['found']:.0f} % | {100 * found / wrong:.0f} % |"
        )


def coverage(rows: pd.DataFrame, is_wrong: NDArray[np.bool_], margin: float) -> list[float]:
    """Return what samples say about the share of wrong declarations.

    Returns
    -------
    Parcels in a sample; mean estimate; share of the intervals that contain the truth; and their
    mean width.
    """
    wrong = pd.Series(is_wrong, index=rows["parcel_id"])
    ids, verdicts, codes = (rows[c].tolist() for c in ("parcel_id", "verdict", "declared_code"))
    found = []
    for seed in range(DRAWS):
        sample = draw_sample(ids, verdicts, codes, margin, seed)
        hits = wrong[sample["parcel_id"]].to_numpy()
        one = estimate_share(strata_of(sample, np.ones(len(sample), bool), hits))
        is_covered = one.low <= is_wrong.mean() <= one.high
        found.append([len(sample), one.share, is_covered, one.high - one.low])
    return [float(mean) for mean in np.mean(np.array(found, np.float64), axis=0)]


def print_samples(rows: pd.DataFrame) -> None:
    """Say how often the interval of a sample contains the truth."""
    print(f"\n{DRAWS} samples of each kind (SIMULATED).\n")
    print("| wrong | margin | parcels in the sample | mean estimate | covered | mean width |")
    print("|---:|---:|---:|---:|---:|---:|")
    planted = (rows["declared_code"] != rows["true_code"]).to_numpy()
    for share in FLIPPED:
        is_wrong = planted ^ (np.random.default_rng(1).random(len(rows)) < share)
        for margin in MARGINS:
            n, mean, covered, width = coverage(rows, is_wrong, margin)
            print(
                f"| {100 * is_wrong.mean():.1f} % | {100 * margin:.0f} | {n:.0f} "
                f"| {100 * mean:.1f} % | {100 * covered:.1f} % | {100 * width:.1f} points |",
                flush=True,
            )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path, help="results/demo")
    paths = RunPaths(parser.parse_args().run)
    rows = read_judged(paths)
    print_list(paths, rows)
    print_samples(rows)


if __name__ == "__main__":
    main()
