"""Reasons: every code that a stage writes is a member with a wording."""

import re

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely

import pipeline.classes.register as register
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
def test_every_reason_has_its_wording(kind):
    words = [member.words for member in kind]
    assert all(words)
    assert len(set(words)) == len(words)


def test_reasons_of_acquisitions_are_members():
    paths = (
        "geo/imagery/damaged.py",
        "geo/imagery/discovery.py",
        "geo/imagery/duplicates.py",
        "pipeline/dataset/acquisition_choice.py",
    )
    source = "".join((ROOT / path).read_text() for path in paths)
    found = re.findall(r"reasons?(?:\[[\w.]+\])?\s*=\s*\"(\w+)\"", source)
    assert {"superseded", "damaged"} <= set(found) <= {str(reason) for reason in AcquisitionReason}


def test_the_status_follows_from_the_reason():
    reasons = pd.Series(["", "no_label", "too_small", "class_too_rare"])
    assert status_of(reasons).tolist() == ["used", "predict_only", "rejected", "predict_only"]


def test_every_polygon_is_mended_and_rasterised_once(tmp_path, monkeypatch):
    mended, rasterised = [], []

    def counting(function, calls):
        def call(geometries, *arguments, **options):
            calls.extend(geometries)
            return function(geometries, *arguments, **options)

        return call

    monkeypatch.setattr(register, "mend", counting(register.mend, mended))
    monkeypatch.setattr(rasterise, "index_pixels", counting(rasterise.index_pixels, rasterised))
    table = every_reason()
    run = Run(tmp_path)
    run(table, labels={"crop": "CODE"}, classes={"min_parcels": 2})
    assert len(mended) == len(table)
    outlines = shapely.to_wkb(np.array(rasterised, object))
    on_tile = [row for row in run.ledger if row["tile"] != ""]
    assert len(rasterised) == len(on_tile)
    # A parcel that the register repeats is two polygons.
    placed = gpd.read_parquet(run.paths.parcels / "31TFM.parquet").geometry.to_wkb()
    rejected = gpd.read_parquet(run.paths.parcels / "31TFM.rejected.parquet").geometry.to_wkb()
    assert sorted(outlines) == sorted([*placed, *rejected])
