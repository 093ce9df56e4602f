"""Pixel-set encoder: one embedding for the pixels of a parcel at a date.

Garnot et al., arXiv 1911.07757, section 3.2: an MLP on every pixel (mlp1), statistics of the pixels
of the parcel, concatenation of the features of the parcel, and an MLP on the result (mlp2).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.fast_cpu.pixel_mlp import can_pool, pool_pixels
from models.masked_statistics import (
    BatchNorm,
    masked_batch_norm,
    masked_pooling,
    none_if_all_true,
)


class PixelLayer(nn.Module):
    """Apply a linear layer, batch normalisation and a ReLU to every pixel."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.lin = nn.Linear(n_in, n_out)
        self.bn = BatchNorm(n_out)

    def forward(self, rows: Tensor, included: Tensor | None) -> Tensor:
        """Map rows (N, n_in) to (N, n_out); `included` (N,) as in `masked_batch_norm`."""
        return functional.relu(masked_batch_norm(self.bn, self.lin(rows), included))


class PixelSetEncoder(nn.Module):
    """Embed sets of pixels, independently of their order and number.

    Parameters
    ----------
    mlp1
        Widths of the MLP on pixels, beginning with the number of channels.
    pooling
        Poolings joined by underscores: mean, std, max, min.
    mlp2
        Widths of the MLP after pooling.
    extra_size
        Number of parcel features that are concatenated to the pooled pixels; 0 for none.

    Attributes
    ----------
    fast
        Whether to compute mlp1 and the pooling by `models.fast_cpu` where it can: the results are
        the same within rounding.
    """

    fast: bool = True

    def __init__(
        self, mlp1: Sequence[int], pooling: str, mlp2: Sequence[int], extra_size: int
    ) -> None:
        super().__init__()
        self.poolings = tuple(pooling.split("_"))
        self.n_channels = mlp1[0]
        self.extra_size = extra_size
        self.mlp1 = nn.ModuleList(PixelLayer(n_in, n_out) for n_in, n_out in pairwise(mlp1))
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(mlp2):
            layers += [nn.Linear(n_in, n_out), BatchNorm(n_out), nn.ReLU()]
        self.mlp2 = nn.Sequential(*layers[:-1])

    def forward(self, pixels: Tensor, pixel_mask: Tensor, extra: Tensor | None = None) -> Tensor:
        """Embed every pixel set.

        In training, batch statistics include all pixels of the sets with at least one true pixel,
        padding too (as in the reference). Sets without a true pixel, such as the dates that pad a
        short series, change neither the statistics nor the embedding of another set.

        Parameters
        ----------
        pixels
            Float tensor (B, T, C, S), or (B, C, S) without dates. Fastest as a view of contiguous
            (B, S, T, C) memory.
        pixel_mask
            Tensor (B, T, S) or (B, S), 1 or True for a true pixel.
        extra
            Float tensor (B, F) of features that are constant in time.

        Returns
        -------
        Tensor
            Float (B, T, mlp2[-1]), or (B, mlp2[-1]) without dates; zeros where a set is empty.
        """
        if pixels.ndim == 3:
            return self.forward(pixels[:, None], pixel_mask[:, None], extra)[:, 0]
        self._check_shapes(pixels, extra)
        pixels = pixels.permute(0, 3, 1, 2)  # (B, S, T, C)
        mask = pixel_mask.bool().permute(0, 2, 1)  # (B, S, T)
        observed = mask.any(1)  # (B, T), True for a set with a true pixel

        # MLP1 and pooling: (B, S, T, C) -> (B, T, mlp1[-1] x number of poolings)
        if self.fast and can_pool(pixels, self.training):
            layers = [(layer.lin, layer.bn) for layer in cast("list[PixelLayer]", [*self.mlp1])]
            pooled = pool_pixels(layers, pixels, mask, self.poolings, self.training)
        else:
            pooled = self._pool_pixels(pixels, mask, observed)

        # Concatenation of the parcel's features: (B, T, mlp2[0])
        if extra is not None:
            by_date = extra.to(pooled.dtype)[:, None].expand(-1, pooled.shape[1], -1)
            pooled = torch.cat([pooled, by_date], dim=2)

        # MLP2: (B x T, mlp2[0]) -> (B x T, mlp2[-1])
        rows = pooled.flatten(0, 1)
        included = none_if_all_true(observed.flatten())
        for layer in self.mlp2:
            if isinstance(layer, nn.BatchNorm1d):
                rows = masked_batch_norm(layer, rows, included)
            else:
                rows = layer(rows)
        embeddings = rows.view(*observed.shape, -1)
        return embeddings if included is None else embeddings * observed[..., None]

    def _pool_pixels(self, pixels: Tensor, mask: Tensor, observed: Tensor) -> Tensor:
        rows = pixels.flatten(0, 2)  # (B x S x T, C)
        # The mask is passed even if it is all True: nn.BatchNorm1d sums rows one by one on a CPU,
        # which loses digits (1e-3 of a gradient, measured on 9,000 float32 rows).
        included = observed[:, None].expand(mask.shape).flatten()
        for layer in self.mlp1:
            rows = layer(rows, included)
        return masked_pooling(rows.view(*mask.shape, -1), mask, self.poolings)

    def _check_shapes(self, pixels: Tensor, extra: Tensor | None) -> None:
        if pixels.shape[2] != self.n_channels:
            raise ValueError(
                f"expected pixels of {self.n_channels} channels, found {pixels.shape[2]}"
            )
        n_features = 0 if extra is None else extra.shape[1]
        if n_features != self.extra_size:
            raise ValueError(f"expected {self.extra_size} parcel features, found {n_features}")
