"""Pixel-set encoder: from the pixels of a parcel at a date to one embedding.

Garnot et al., arXiv 1911.07757, section 3.2: an MLP on every pixel, statistics over the pixels of
the parcel, an MLP on these. All but a few percent of a model's time is spent on the pixels, and
most of that is memory traffic, so they are handled in three unusual ways.

- Rows of channels: pixels are kept as (parcel, pixel, date, channel), so that linear layers see
  contiguous rows and poolings reduce over an outer axis.
- Chunks: a few parcels at a time go through layers and pooling, within the processor's cache, each
  chunk by one thread. Backward, what the last layer gave is computed again, not fetched.
- Folded BatchNorm: a linear layer with batch normalisation is again a linear layer, in training
  too, as the batch statistics of W h follow from the mean m and the covariance C of h: W m, and
  the diagonal of W C W'. So no pass over the pixels is spent on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from models.fast_cpu.batch_statistics import BatchStatistics, compute_batch_statistics
from models.fast_cpu.masked_batch_norm import masked_batch_norm, update_running_statistics
from models.fast_cpu.masked_pooling import all_true
from models.fast_cpu.pixel_layers import Affine, hidden_layer, linear_relu, pooled_layer

# Rows (pixels x dates) that a worker takes through the layers at once on a CPU: 64 float32 channels
# of them are 2 MiB, of which two are needed at a time.
_ROWS_PER_CHUNK = 8192


class PixelLayer(nn.Module):
    """Hold a linear layer and the batch normalisation behind it, which are applied as one."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.lin = nn.Linear(n_in, n_out)
        self.bn = nn.BatchNorm1d(n_out)

    def fold(self, statistics: BatchStatistics | None) -> Affine:
        """Merge the two into one linear layer.

        Parameters
        ----------
        statistics
            Statistics of the rows that enter the layer, to normalise with and to update the running
            statistics with; None to normalise with the running statistics.
        """
        weight, bias = self.lin.weight.double(), self.lin.bias.double()
        if statistics is None:
            mean = self.bn.get_buffer("running_mean").double()
            variance = self.bn.get_buffer("running_var").double()
        else:
            mean = weight @ statistics.mean + bias
            variance = ((weight @ statistics.covariance) * weight).sum(1)
            update_running_statistics(self.bn, mean, variance, statistics.n_rows)
        scale = self.bn.weight.double() * torch.rsqrt(variance + self.bn.eps)
        folded_bias = self.bn.bias.double() + (bias - mean) * scale
        dtype = self.lin.weight.dtype
        return (weight * scale[:, None]).to(dtype), folded_bias.to(dtype)


class PixelSetEncoder(nn.Module):
    """Embed sets of pixels, whatever their order and number.

    Parameters
    ----------
    mlp1
        Widths of the MLP on pixels, from the number of channels on.
    pooling
        Poolings joined by underscores: mean, std, max, min.
    mlp2
        Widths of the MLP behind pooling.
    extra_size
        Number of parcel features that join the pooled pixels; 0 for none.
    """

    def __init__(
        self, mlp1: Sequence[int], pooling: str, mlp2: Sequence[int], extra_size: int
    ) -> None:
        super().__init__()
        self.poolings = tuple(pooling.split("_"))
        self.n_channels = mlp1[0]
        self.extra_size = extra_size
        self.mlp1 = nn.Sequential(*(PixelLayer(n_in, n_out) for n_in, n_out in pairwise(mlp1)))
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(mlp2):
            layers += [nn.Linear(n_in, n_out), nn.BatchNorm1d(n_out), nn.ReLU()]
        self.mlp2 = nn.Sequential(*layers[:-1])

    def forward(self, pixels: Tensor, pixel_mask: Tensor, extra: Tensor | None = None) -> Tensor:
        """Embed every pixel set.

        In training, batch statistics are those of all pixels, padding included (as in the
        reference), of the sets that have any true pixel: sets without, such as the dates that pad a
        short series, change neither the statistics nor the output of another set.

        Parameters
        ----------
        pixels
            Float tensor (B, T, C, S), or (B, C, S) without dates. Fastest as a view of contiguous
            (B, S, T, C) memory. Has a gradient in evaluation mode only.
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
        n_channels = pixels.shape[2]
        if n_channels != self.n_channels:
            raise ValueError(f"expected pixels of {self.n_channels} channels, found {n_channels}")
        n_extra = 0 if extra is None else extra.shape[1]
        if n_extra != self.extra_size:
            raise ValueError(f"expected {self.extra_size} parcel features, found {n_extra}")
        if self.training and pixels.requires_grad:
            # That of the batch statistics is not computed for them.
            raise ValueError("pixels have no gradient in training mode: call eval() first")
        pooled = self._pool_pixels(pixels.permute(0, 3, 1, 2), pixel_mask.permute(0, 2, 1))
        if extra is not None:
            by_date = extra.to(pooled.dtype)[:, None].expand(-1, pooled.shape[1], -1)
            pooled = torch.cat([pooled, by_date], dim=2)
        filled = pixel_mask.bool().any(2)
        counted = None if all_true(filled) else filled.flatten()
        rows = pooled.flatten(0, 1)
        for layer in self.mlp2:
            if isinstance(layer, nn.BatchNorm1d):
                rows = masked_batch_norm(layer, rows, counted)
            else:
                rows = layer(rows)
        embeddings = rows.view(*filled.shape, -1)
        return embeddings if counted is None else embeddings * filled[..., None]

    def _pool_pixels(self, pixels: Tensor, mask: Tensor) -> Tensor:
        """Run the MLP on (B, S, T, C) pixels and pool over S, to (B, T, poolings x channels)."""
        n_sets, n_slots, n_dates, _ = pixels.shape
        n_parcels = max(n_sets, 1)
        if pixels.device.type == "cpu":
            n_parcels = max(_ROWS_PER_CHUNK // max(n_slots * n_dates, 1), 1)
        masks = torch.split(mask, n_parcels)
        chunks = [part.reshape(-1, part.shape[-1]) for part in torch.split(pixels, n_parcels)]
        *hidden, last = cast("Sequence[PixelLayer]", list(self.mlp1))
        if not self.training:
            affines = [layer.fold(None) for layer in hidden]
            folded = last.fold(None)
            pooled = []
            for rows, part in zip(chunks, masks, strict=True):
                for affine in affines:
                    rows = linear_relu(rows, *affine)
                pooled.append(pooled_layer([rows], folded, [part], self.poolings))
            return torch.cat(pooled)
        counted = [_of_filled_sets(part, pixels.dtype) for part in masks]
        statistics = compute_batch_statistics(chunks, counted)
        for layer in hidden:
            chunks, statistics = hidden_layer(chunks, layer.fold(statistics), counted)
        return pooled_layer(chunks, last.fold(statistics), masks, self.poolings)


def _of_filled_sets(mask: Tensor, dtype: torch.dtype) -> Tensor | None:
    """Return 1 for the rows (B x S x T, 1) of sets (B, T) that have a true pixel; None for all."""
    filled = mask.bool().any(1, keepdim=True)
    if all_true(filled):
        return None
    return filled.expand(mask.shape).reshape(-1, 1).to(dtype)
