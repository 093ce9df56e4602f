"""Command line of the simulated scene: `python -m demo --settings … --imagery … --register …`."""

from __future__ import annotations

import sys
from pathlib import Path

from demo import simulate
from geo.errors import InputError
from pipeline.run_function import run_function
from pipeline.workflow.settings import SimulateSettings


def write_scene(imagery: Path, register: Path, settings: SimulateSettings) -> None:
    """Write a simulated season of Sentinel-2 products and a register of parcels.

    Parameters
    ----------
    imagery
        Written: folder of Level-2A SAFE products.
    register
        Written: GeoPackage of parcels.
    settings
        simulate.
    """
    scene = settings.simulate
    if scene is None:
        raise InputError("The settings have no section simulate: see configs/demo.yaml.")
    simulate(
        imagery,
        register,
        seed=scene.seed,
        size_m=scene.size_m,
        acquisitions=scene.acquisitions,
        parcels=scene.parcels,
    )


if __name__ == "__main__":
    sys.exit(run_function(write_scene, sys.argv[1:], program="python -m demo", logger="demo"))
