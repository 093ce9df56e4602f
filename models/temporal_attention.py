"""Temporal attention encoders: from the embeddings of a series of dates to one embedding.

TAE: Garnot et al., arXiv 1911.07757, section 3.3. L-TAE: Garnot and Landrieu, arXiv 2007.00586.
Both accept any dates: the positional encoding is computed from the days, and dates that a parcel
does not have are left out of every sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.masked_statistics import BatchNorm
from models.shared_batches import Dropout

# In both papers' code, the attention's dropout rate is fixed and independent of `dropout`.
_ATTENTION_DROPOUT = 0.1


def sinusoid_encoding(positions: Tensor, dim: int, period: float) -> Tensor:
    """Encode positions in time as sines and cosines (Vaswani et al., arXiv 1706.03762, 3.5).

    Parameters
    ----------
    positions
        Tensor of any shape, in days or ranks.
    dim
        Width of the encoding.
    period
        T, the longest wavelength over 2 pi.

    Returns
    -------
    Tensor
        float64 (*positions.shape, dim): the sine and the cosine of positions / T^(2i / dim) at
        2i and 2i + 1.
    """
    if positions.device.type == "cpu":
        # Sines are slow on a CPU, and parcels share most dates: each date is computed once.
        distinct, where = torch.unique(positions, return_inverse=True)
        return _encode(distinct, dim, period)[where]
    return _encode(positions, dim, period)


def _encode(positions: Tensor, dim: int, period: float) -> Tensor:
    index = torch.arange(dim, device=positions.device)
    wavelength = period ** ((2 * (index // 2)).double() / dim)
    angles = positions.double()[..., None] / wavelength
    return torch.where(index % 2 == 0, angles.sin(), angles.cos())


def attend(scores: Tensor, observed: Tensor | None) -> Tensor:
    """Convert scores (B, n_head, T) to weights that sum to 1 over the observed dates.

    At dates that are not observed, bool (B, T), the weights are 0, even if no date is observed.
    """
    if observed is None:
        return torch.softmax(scores, dim=2)
    left_out = ~observed[:, None]  # (B, 1, T)
    lowest = torch.finfo(scores.dtype).min
    weights = torch.softmax(scores.masked_fill(left_out, lowest), dim=2)
    return weights.masked_fill(left_out, 0.0)


def _by_head(layer: nn.Linear, n_head: int) -> tuple[Tensor, Tensor]:
    """Return weight (n_head, d_k, D) and bias (n_head, d_k) of a layer that computes all heads."""
    return layer.weight.view(n_head, -1, layer.in_features), layer.bias.view(n_head, -1)


class MasterQueryAttention(nn.Module):
    """Attention of the TAE: the query of each head is the mean of the dates' queries."""

    def __init__(self, n_head: int, d_k: int, d_in: int) -> None:
        super().__init__()
        self.n_head, self.d_k = n_head, d_k
        self.fc1_q = nn.Linear(d_in, n_head * d_k)
        self.fc1_k = nn.Linear(d_in, n_head * d_k)
        self.fc2 = nn.Sequential(BatchNorm(n_head * d_k), nn.Linear(n_head * d_k, n_head * d_k))
        self.dropout = Dropout(_ATTENTION_DROPOUT)

    def forward(self, x: Tensor, observed: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the heads' outputs (B, n_head, D) and attention (B, n_head, T) of x (B, T, D)."""
        if observed is None:
            mean = x.mean(1)
        else:
            weights = observed.to(x.dtype)[..., None]
            mean = (x * weights).sum(1) / weights.sum(1).clamp(min=1)
        # fc1_q is linear: the query of the mean is the mean of the queries.
        query = self.fc2(self.fc1_q(mean)).view(-1, self.n_head, self.d_k)
        # The score of a date is linear in its embedding: query . (W x + b) = (W' query) . x + query
        # . b. This order needs d_k times fewer multiplications than the keys of all dates.
        weight, bias = _by_head(self.fc1_k, self.n_head)
        folded = torch.einsum("bhk,hkd->bhd", query, weight)
        constant = torch.einsum("bhk,hk->bh", query, bias)
        scores = (folded @ x.transpose(1, 2) + constant[..., None]) / self.d_k**0.5
        attention = self.dropout(attend(scores, observed))
        return attention @ x, attention


class LearntQueryAttention(nn.Module):
    """Attention of the L-TAE: each head has a learnt query and a share of the channels."""

    def __init__(self, n_head: int, d_k: int, d_in: int) -> None:
        super().__init__()
        self.n_head, self.d_k = n_head, d_k
        self.Q = nn.Parameter(torch.empty(n_head, d_k))
        # To draw without memory, torch imports its compiler: a second whenever a model is loaded.
        if not self.Q.is_meta:
            nn.init.normal_(self.Q, std=(2.0 / d_k) ** 0.5)
        self.fc1_k = nn.Linear(d_in, n_head * d_k)
        self.dropout = Dropout(_ATTENTION_DROPOUT)

    def forward(self, x: Tensor, observed: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return outputs (B, n_head, D / n_head) and attention (B, n_head, T) of x (B, T, D)."""
        # As in `MasterQueryAttention`: one vector a head, instead of keys for all dates.
        weight, bias = _by_head(self.fc1_k, self.n_head)
        folded = torch.einsum("hk,hkd->hd", self.Q, weight)
        scores = functional.linear(x, folded, (self.Q * bias).sum(1)).transpose(1, 2)
        scores = scores / self.d_k**0.5
        attention = self.dropout(attend(scores, observed))
        values = x.view(*x.shape[:2], self.n_head, -1)
        return torch.einsum("bht,bthd->bhd", attention, values), attention


class DateNorm(nn.LayerNorm):
    """Normalise (B, T, D) embeddings over channels and dates together.

    The reference's L-TAE does this after its projection, with a weight for every channel and date,
    which fixes the number of dates. Dates that are not observed are left out.
    """

    def __init__(self, d_model: int, n_dates: int) -> None:
        super().__init__((d_model, n_dates))
        self.n_dates = n_dates

    def forward(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """Normalise x (B, T, D)."""
        if x.shape[1] != self.n_dates:
            raise ValueError(
                f"this L-TAE was built for {self.n_dates} dates, found {x.shape[1]}: "
                "train one without n_dates for other dates"
            )
        if observed is None:
            observed = x.new_ones(x.shape[:2], dtype=torch.bool)
        weights = observed.to(x.dtype)[..., None]
        n = (weights.sum((1, 2), keepdim=True) * x.shape[2]).clamp(min=1)
        mean = (x * weights).sum((1, 2), keepdim=True) / n
        deviations = (x - mean) * weights
        variance = deviations.square().sum((1, 2), keepdim=True) / n
        return deviations * torch.rsqrt(variance + self.eps) * self.weight.T + self.bias.T


class TemporalAttentionEncoder(nn.Module):
    """Embed a series of embeddings with the attention of the TAE.

    Parameters
    ----------
    in_channels
        Width of the embedding of a date.
    n_head, d_k
        Number of heads, and width of keys and queries.
    d_model
        Width to project embeddings to; None for no projection.
    mlp3
        Widths of the MLP after the attention, beginning with n_head x width.
    dropout
        Dropout rate after the MLP.
    T
        Longest period of the positional encoding.
    """

    def __init__(
        self,
        in_channels: int,
        n_head: int,
        d_k: int,
        d_model: int | None,
        mlp3: Sequence[int],
        dropout: float,
        T: float,  # noqa: N803 - the papers' name
    ) -> None:
        super().__init__()
        self.period = T
        width = in_channels if d_model is None else d_model
        self.inlayernorm = nn.LayerNorm(in_channels)
        self.inconv = _projection(in_channels, d_model, None)
        self.outlayernorm = nn.LayerNorm(mlp3[-1])
        self.attention_heads = MasterQueryAttention(n_head, d_k, width)
        self.mlp = _mlp(mlp3)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, positions: Tensor, observed: Tensor | None = None) -> Tensor:
        """Embed every series.

        Parameters
        ----------
        x
            Float tensor (B, T, in_channels).
        positions
            Tensor (B, T): days since a start, or ranks.
        observed
            bool tensor (B, T), False for a date that the parcel does not have, whose values never
            change the output; None for all True.

        Returns
        -------
        Tensor
            Float (B, mlp3[-1]).
        """
        return self.forward_with_attention(x, positions, observed)[0]

    def forward_with_attention(
        self, x: Tensor, positions: Tensor, observed: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the embedding and the attention (B, n_head, T)."""
        x = self.inlayernorm(_zero_unobserved(x, observed))
        x = x + sinusoid_encoding(positions, x.shape[2], self.period).to(x.dtype)
        if self.inconv is not None:
            x = _project(x, self.inconv, observed)
        heads, attention = self.attention_heads(x, observed)
        return self.outlayernorm(self.dropout(self.mlp(heads.flatten(1)))), attention


class LightweightTemporalAttentionEncoder(nn.Module):
    """Embed a series of embeddings with the attention of the L-TAE.

    Parameters
    ----------
    in_channels, n_head, d_k, d_model, dropout, T
        As for the TAE.
    mlp3
        Widths of the MLP behind attention, from the width that the heads share on.
    n_dates
        Number of dates of a reference checkpoint, see `DateNorm`; None for any number.
    """

    def __init__(
        self,
        in_channels: int,
        n_head: int,
        d_k: int,
        d_model: int | None,
        mlp3: Sequence[int],
        dropout: float,
        T: float,  # noqa: N803 - the papers' name
        n_dates: int | None = None,
    ) -> None:
        super().__init__()
        self.period = T
        width = in_channels if d_model is None else d_model
        self.inlayernorm = nn.LayerNorm(in_channels)
        self.inconv = _projection(in_channels, d_model, n_dates)
        self.outlayernorm = nn.LayerNorm(mlp3[-1])
        self.attention_heads = LearntQueryAttention(n_head, d_k, width)
        self.mlp = _mlp(mlp3)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, positions: Tensor, observed: Tensor | None = None) -> Tensor:
        """Embed every series, as `TemporalAttentionEncoder.forward` does."""
        return self.forward_with_attention(x, positions, observed)[0]

    def forward_with_attention(
        self, x: Tensor, positions: Tensor, observed: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the embedding and the attention (B, n_head, T)."""
        x = self.inlayernorm(_zero_unobserved(x, observed))
        if self.inconv is not None:
            x = _project(x, self.inconv, observed)
        n_head = self.attention_heads.n_head
        encoding = sinusoid_encoding(positions, x.shape[2] // n_head, self.period)
        x = x + encoding.to(x.dtype).repeat(1, 1, n_head)
        heads, attention = self.attention_heads(x, observed)
        return self.outlayernorm(self.dropout(self.mlp(heads.flatten(1)))), attention


def _zero_unobserved(x: Tensor, observed: Tensor | None) -> Tensor:
    """Set x (B, T, D) to 0 at dates that are not observed, even if it is NaN."""
    return x if observed is None else x.masked_fill(~observed[..., None], 0.0)


def _projection(in_channels: int, d_model: int | None, n_dates: int | None) -> nn.Sequential | None:
    if d_model is None:
        return None
    norm = nn.LayerNorm(d_model) if n_dates is None else DateNorm(d_model, n_dates)
    return nn.Sequential(nn.Conv1d(in_channels, d_model, 1), norm)


def _project(x: Tensor, inconv: nn.Sequential, observed: Tensor | None) -> Tensor:
    # (B, T, D) -> (B, T, d_model): a convolution with a kernel of one date is a linear layer.
    weight, bias = inconv.get_parameter("0.weight"), inconv.get_parameter("0.bias")
    x = functional.linear(x, weight.squeeze(2), bias)
    norm = inconv[1]
    projected: Tensor = norm(x, observed) if isinstance(norm, DateNorm) else norm(x)
    return projected


def _mlp(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layers += [nn.Linear(n_in, n_out), BatchNorm(n_out), nn.ReLU()]
    return nn.Sequential(*layers)
