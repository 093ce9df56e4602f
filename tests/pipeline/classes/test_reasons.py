"""Reasons are one enumeration: every code that a stage writes is one, and has words."""

import re

import geopandas as gpd
import numpy as np
import pytest
import shapely

import pipeline.stages.rasterise as rasterise
from geo.register.polygons import GEOMETRY_REASONS
from pipeline.classes.ledger import status_of
from pipeline.classes.reasons import (
    WITHOUT_POLYGON,
    AcquisitionReason,
    ClassReason,
    Reason,
    Status,
)
from tests.builders.paths import ROOT
from tests.builders.registers import Run, every_reason


def test_geometry_reasons_are_those_of_geo():
    assert [str(reason) for reason in WITHOUT_POLYGON] == list(GEOMETRY_REASONS)


@pytest.mark.parametrize("kind", [Status, Reason, ClassReason, AcquisitionReason])
def test_every_reason_has_words_of_its_own(kind):
    words = [member.words for member in kind]
    assert all(words)
    assert len(set(words)) == len(words)


def test_reasons_of_acquisitions_are_members():
    source = "".join(
        path.read_text()
        for path in [
            *(ROOT / "pipeline" / "acquisitions").glob("*.py"),
            ROOT / "pipeline" / "stages" / "index.py",
        ]
    )
    written = set(re.findall(r"reason(?:s\[[\w.]+\])?\s*=\s*\"(\w+)\"", source))
    assert written
    assert written <= {str(reason) for reason in AcquisitionReason}


def test_the_status_follows_from_the_reason():
    import pandas as pd

    reasons = pd.Series(["", "no_label", "too_small", "class_too_rare"])
    assert status_of(reasons).tolist() == ["used", "predict_only", "rejected", "predict_only"]


def test_each_polygon_is_mended_once_and_rasterised_once(tmp_path, monkeypatch):
    mended, burnt = [], []

    def counting(function, calls):
        def call(geometries, *arguments, **options):
            calls.extend(geometries)
            return function(geometries, *arguments, **options)

        return call

    import pipeline.classes.register as register

    monkeypatch.setattr(register, "mend", counting(register.mend, mended))
    monkeypatch.setattr(rasterise, "index_pixels", counting(rasterise.index_pixels, burnt))
    given = every_reason()
    run = Run(tmp_path)
    run(given, labels={"crop": "CODE"}, classes={"min_parcels": 2})
    assert len(mended) == len(given)
    outlines = shapely.to_wkb(np.array(burnt, object))
    on_tile = run.ledger and [row for row in run.ledger if row["tile"] != ""]
    assert len(burnt) == len(on_tile)
    # Rows that stand twice in the register are two polygons.
    placed = gpd.read_parquet(run.paths.parcels / "31TFM.parquet").geometry.to_wkb()
    rejected = gpd.read_parquet(run.paths.parcels / "31TFM.rejected.parquet").geometry.to_wkb()
    assert sorted(outlines) == sorted([*placed, *rejected])
