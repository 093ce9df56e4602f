"""The simulated raw scene of the demo: Sentinel-2 products and a parcel register.

Nothing in this package was measured. `landscape` draws the parcels, `phenology` the growth of the
crops, `spectra` their reflectance, `clouds` clouds and shadows, and `scene` the images of the
sensor. `products` and `register` write them in the formats of real data. The difficulty of the
classification was chosen, including the spread within parcels. Scores on this scene show that the
software works. They do not rank methods and do not predict the accuracy on real parcels.
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

    The same arguments produce the same bytes. An earlier simulation at `imagery` is replaced; a
    folder with anything else is refused.

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
        Number of parcels without defects that are entirely inside the imagery, at least 50.
        Parcels with defects are added to them.
    year
        Year of the season.

    Raises
    ------
    InputError
        If a number is out of range, if the parcels do not fit into the scene, or if `imagery`
        contains anything but an earlier simulation.
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
    """Refuse a folder with anything but an earlier simulation."""
    if imagery.exists() and any(imagery.iterdir()) and not (imagery / NOTICE).exists():
        raise InputError(
            f"{imagery} is not empty and was not simulated: it contains no {NOTICE}. Name another "
            "folder for the simulated imagery."
        )
