"""What the candidates of extraction read, and where it lies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
TILE = "31TFM"
# In a SAFE product; GeoTIFFs contain all bands at 10 m.
RESOLUTION_M = {band: 10 if band in ("B02", "B03", "B04", "B08") else 20 for band in BANDS}


@dataclass(frozen=True)
class Scene:
    """The input of the candidates.

    Attributes
    ----------
    folder
        Contains all of it.
    """

    folder: Path

    @property
    def products(self) -> list[Path]:
        """One per date: a GeoTIFF of all bands, or a SAFE folder."""
        return sorted([*self.folder.glob("*.tif"), *self.folder.glob("*.SAFE")])

    @property
    def parcels(self) -> Path:
        """GeoParquet: parcel_id and geometry."""
        return self.folder / "parcels.parquet"

    @property
    def pixel_index(self) -> Path:
        """Index of the parcels' pixels."""
        return self.folder / "pixel_index.npz"

    def item(self, product: Path) -> Path:
        """Return the STAC item that stage index would write for a product."""
        return self.folder / "items" / f"{product.stem}.json"

    @property
    def settings(self) -> Path:
        """YAML file with the settings of the stages."""
        return self.folder / "settings.yaml"


def image_files(product: Path) -> list[Path]:
    """Return the raster files of a product: itself, or those of a SAFE folder."""
    return sorted(product.rglob("*.jp2")) if product.is_dir() else [product]


def band_layers(product: Path) -> dict[str, tuple[Path, int]]:
    """Return file and layer of every band of a product, in order of the channels."""
    if not product.is_dir():
        return {band: (product, layer) for layer, band in enumerate(BANDS, 1)}
    return {band: (next(product.rglob(f"*_{band}_*.jp2")), 1) for band in BANDS}
