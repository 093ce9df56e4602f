"""Stage simulate: the raw scene of the demo. It is simulated, and says so everywhere."""

from __future__ import annotations

from pathlib import Path

from demo import simulate as simulate_scene
from geo.errors import InputError
from pipeline.workflow.settings import Settings


def simulate(imagery: Path, register: Path, settings: Settings) -> None:
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
    simulate_scene(
        imagery,
        register,
        seed=scene.seed,
        size_m=scene.size_m,
        acquisitions=scene.acquisitions,
        parcels=scene.parcels,
    )
