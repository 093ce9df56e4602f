"""The simulated raw scene of the demo: Sentinel-2 products and a parcel register.

Nothing here was measured. `landscape` draws the parcels, `phenology` and `spectra` what grows and
how it reflects, `clouds` what hides it, `scene` what the sensor records; `products` and
`register` write that down in the formats in which real data arrive. How hard the crops are to tell
apart was chosen, the spread inside parcels included: scores on this scene show that the software
works, they neither rank methods nor forecast accuracy on real parcels.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np

from demo.products import write_product
from demo.register import DAMAGED_PARCELS, write_register
from demo.scene import draw_scene, observe, plan_acquisitions
from geo.errors import InputError

__all__ = ["simulate"]

logger = logging.getLogger(__name__)

NOTICE = "README.txt"
NOTICE_TEXT = """\
SIMULATED DATA

Everything in this folder is simulated: no satellite took these images. They were computed by
Parcelwise (demo) with seed {seed}, in the format of Sentinel-2 Level-2A products, so that
the demo runs on raw products without a download. The parcel register that goes with them is
simulated too. Metadata say so in SPACECRAFT_NAME. Draw no conclusion about any real place.
"""


def simulate(
    imagery: Path,
    register: Path,
    *,
    seed: int,
    size_m: int = 5120,
    acquisitions: int = 24,
    parcels: int = 1000,
    year: int = 2021,
) -> None:
    """Write a simulated season: a folder of SAFE products and a register of parcels.

    Equal arguments give equal bytes. An earlier simulation at `imagery` is replaced, anything
    else there is refused.

    Parameters
    ----------
    imagery
        Folder to write the products to.
    register
        GeoPackage to write the parcels to.
    seed
        Seed of every random draw.
    size_m
        Side of the square scene in metres, a multiple of 20.
    acquisitions
        Number of dates between March and October, 3 to 49.
    parcels
        Number of sound parcels entirely inside the imagery, at least 50; defective ones come on
        top.
    year
        Year of the season.

    Raises
    ------
    ValueError
        If a number is out of range, if the parcels do not fit into the scene, or if `imagery`
        holds anything but an earlier simulation.
    """
    if size_m < 1280 or size_m % 20 or not 3 <= acquisitions <= 49 or parcels < 50:
        raise InputError(
            "A simulated scene needs a side of at least 1280 m that is a multiple of 20, 3 to 49 "
            f"acquisitions and at least 50 parcels; found size_m = {size_m}, acquisitions = "
            f"{acquisitions}, parcels = {parcels}."
        )
    _refuse_foreign(imagery)
    ground, plan, records, papers = np.random.default_rng(seed).spawn(4)
    scene = draw_scene(size_m, parcels + DAMAGED_PARCELS, ground)
    partial = imagery.with_name(f".{imagery.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    (partial / NOTICE).write_text(NOTICE_TEXT.format(seed=seed))
    planned = plan_acquisitions(acquisitions, year, plan)
    for acquisition, draws in zip(planned, records.spawn(len(planned)), strict=True):
        observation = observe(scene, acquisition, draws)
        product = write_product(partial, acquisition, observation, scene.grid)
        logger.info("simulated %s", product.name)
    write_register(register, scene, parcels, papers)
    if imagery.exists():
        shutil.rmtree(imagery)
    partial.rename(imagery)


def _refuse_foreign(imagery: Path) -> None:
    """Refuse to write where there is anything but an earlier simulation."""
    if imagery.exists() and any(imagery.iterdir()) and not (imagery / NOTICE).exists():
        raise InputError(
            f"{imagery} is not empty and was not simulated: it holds no {NOTICE}. Name another "
            "folder for the simulated imagery."
        )
