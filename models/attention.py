"""Attention over the dates of a series, with one query a head for the whole series."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Of both papers' code, whatever their `dropout` says.
_ATTENTION_DROPOUT = 0.1


def attend(scores: Tensor, observed: Tensor | None) -> Tensor:
    """Turn scores (B, n_head, T) into weights that sum to 1 over the observed dates.

    Weights are 0 at dates that are not observed (B, T), also where none is.
    """
    if observed is None:
        return torch.softmax(scores, dim=2)
    hidden = ~observed[:, None]
    lowest = torch.finfo(scores.dtype).min
    weights = torch.softmax(scores.masked_fill(hidden, lowest), dim=2)
    return weights.masked_fill(hidden, 0.0)


class MasterQueryAttention(nn.Module):
    """Attend with one query a head, the mean of the dates' queries, to whole embeddings (TAE)."""

    def __init__(self, n_head: int, d_k: int, d_in: int) -> None:
        super().__init__()
        self.n_head, self.d_k = n_head, d_k
        self.fc1_q = nn.Linear(d_in, n_head * d_k)
        self.fc1_k = nn.Linear(d_in, n_head * d_k)
        self.fc2 = nn.Sequential(
            nn.BatchNorm1d(n_head * d_k), nn.Linear(n_head * d_k, n_head * d_k)
        )
        self.dropout = nn.Dropout(_ATTENTION_DROPOUT)

    def forward(self, x: Tensor, observed: Tensor | None) -> tuple[Tensor, Tensor]:
        """Give the heads' outputs (B, n_head, D) and attention (B, n_head, T) of x (B, T, D)."""
        if observed is None:
            mean = x.mean(1)
        else:
            weights = observed.to(x.dtype)[..., None]
            mean = (x * weights).sum(1) / weights.sum(1).clamp(min=1)
        # fc1_q is linear: the query of the mean is the mean of the queries.
        query = self.fc2(self.fc1_q(mean)).view(-1, self.n_head, self.d_k)
        keys = self.fc1_k(x).view(*x.shape[:2], self.n_head, self.d_k)
        scores = torch.einsum("bhk,bthk->bht", query, keys) / self.d_k**0.5
        attention = self.dropout(attend(scores, observed))
        return attention @ x, attention


class LearntQueryAttention(nn.Module):
    """Attend with one learnt query a head, each head to its share of the channels (L-TAE)."""

    def __init__(self, n_head: int, d_k: int, d_in: int) -> None:
        super().__init__()
        self.n_head, self.d_k = n_head, d_k
        self.Q = nn.Parameter(torch.empty(n_head, d_k))
        nn.init.normal_(self.Q, std=(2.0 / d_k) ** 0.5)
        self.fc1_k = nn.Linear(d_in, n_head * d_k)
        self.dropout = nn.Dropout(_ATTENTION_DROPOUT)

    def forward(self, x: Tensor, observed: Tensor | None) -> tuple[Tensor, Tensor]:
        """Give outputs (B, n_head, D / n_head) and attention (B, n_head, T) of x (B, T, D)."""
        keys = self.fc1_k(x).view(*x.shape[:2], self.n_head, self.d_k)
        scores = torch.einsum("hk,bthk->bht", self.Q, keys) / self.d_k**0.5
        attention = self.dropout(attend(scores, observed))
        values = x.view(*x.shape[:2], self.n_head, -1)
        return torch.einsum("bht,bthd->bhd", attention, values), attention
