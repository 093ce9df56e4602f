"""The parcel classifier: pixel-set encoder, temporal attention encoder, decoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor, nn

from models.hyperparameters import Hyperparameters
from models.masked_statistics import BatchNorm, none_if_all_true
from models.pixel_set_encoder import PixelSetEncoder
from models.temporal_attention import (
    LearntQueryAttention,
    LightweightTemporalAttentionEncoder,
    TemporalAttentionEncoder,
)


class ParcelClassifier(nn.Module):
    """Classify parcels by the time series of their pixels.

    The names and shapes of the weights are those of the reference implementation.

    Parameters
    ----------
    hyperparameters
        Hyper-parameters of the three parts.
    generator
        Draws the initial weights; None if weights will be loaded.
    initialisation
        "paper" or "torch", see `initialise_weights`.
    """

    def __init__(
        self,
        hyperparameters: Hyperparameters,
        generator: torch.Generator | None = None,
        initialisation: str = "paper",
    ) -> None:
        super().__init__()
        h = self.hyperparameters = hyperparameters
        self.spatial_encoder = PixelSetEncoder(h.mlp1, h.pooling, h.mlp2, h.extra_size)
        self.temporal_encoder: TemporalAttentionEncoder | LightweightTemporalAttentionEncoder
        settings = (h.mlp2[-1], h.n_head, h.d_k, h.d_model, h.mlp3, h.dropout, h.T)
        if h.name == "psetae":
            self.temporal_encoder = TemporalAttentionEncoder(*settings)
        else:
            self.temporal_encoder = LightweightTemporalAttentionEncoder(*settings, h.n_dates)
        self.decoder = _decoder(h.mlp4)
        if generator is not None:
            initialise_weights(self, generator, initialisation)

    def forward(
        self,
        pixels: Tensor,
        pixel_mask: Tensor,
        positions: Tensor,
        extra: Tensor | None = None,
        observed: Tensor | None = None,
    ) -> Tensor:
        """Compute the logits of the classes.

        Parameters
        ----------
        pixels
            Float tensor (B, T, C, S), normalised. Fastest as a view of contiguous (B, S, T, C)
            memory.
        pixel_mask
            Tensor (B, T, S), 1 or True for a true pixel.
        positions
            Tensor (B, T), days since a start that all parcels share.
        extra
            Float tensor (B, F) of standardised parcel features, if the model uses any.
        observed
            bool tensor (B, T), False for a date that the parcel does not have; None for all True. A
            date without a true pixel is not observed either.

        Returns
        -------
        Tensor
            Float (B, n_classes).
        """
        embeddings, observed = self.embed_dates(pixels, pixel_mask, extra, observed)
        return self.classify_series(embeddings, positions, observed)

    def embed_dates(
        self,
        pixels: Tensor,
        pixel_mask: Tensor,
        extra: Tensor | None = None,
        observed: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Embed the pixels of every date; in evaluation mode, independently of other dates.

        Parameters are those of `forward`.

        Returns
        -------
        embeddings
            Float (B, T, mlp2[-1]).
        observed
            bool (B, T), False for a date that the parcel does not have, or without a true pixel.
        """
        pixel_mask = pixel_mask.bool()
        if observed is not None:
            pixel_mask = pixel_mask & observed[..., None]
        return self.spatial_encoder(pixels, pixel_mask, extra), pixel_mask.any(2)

    def classify_series(self, embeddings: Tensor, positions: Tensor, observed: Tensor) -> Tensor:
        """Compute the logits (B, n_classes) from the embeddings of the observed dates.

        `embeddings` and `observed` are those of `embed_dates`. If dates of `observed` are set to
        False, the result is that of `forward` without these dates.
        """
        positions = self._positions(positions, observed)
        series = self.temporal_encoder(embeddings, positions, none_if_all_true(observed))
        # (B, mlp3[-1]) -> (B, n_classes)
        return self.decoder(series)  # type: ignore[no-any-return]

    def attention(self, embeddings: Tensor, positions: Tensor, observed: Tensor) -> Tensor:
        """Compute the attention of every head on every date, float (B, n_head, T).

        Parameters are those of `classify_series`. In evaluation mode, the attention of a head adds
        up to 1 over the observed dates; it is 0 on the others, and if no date is observed.
        """
        positions = self._positions(positions, observed)
        return self.temporal_encoder.forward_with_attention(
            embeddings, positions, none_if_all_true(observed)
        )[1]

    def _positions(self, positions: Tensor, observed: Tensor) -> Tensor:
        """Return what the temporal encoder takes: days, or ranks among the observed dates."""
        return observed.cumsum(1) if self.hyperparameters.positions == "order" else positions


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Switch a model to evaluation mode within the context."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _decoder(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layers += [nn.Linear(n_in, n_out), BatchNorm(n_out), nn.ReLU()]
    return nn.Sequential(*layers[:-2])


Layer = nn.Linear | nn.Conv1d | nn.BatchNorm1d


def initialise_weights(model: nn.Module, generator: torch.Generator, kind: str = "paper") -> None:
    """Draw initial weights.

    Parameters
    ----------
    model
        Its weights are overwritten.
    generator
        Draws the weights.
    kind
        "paper": the distributions of the reference. Linear layers have xavier-normal weights and
        N(0, 1) biases, convolutions N(0, 1), and BatchNorm N(0, 1) weights and zero biases.
        "torch": the defaults of PyTorch. Linear layers and convolutions are uniform within
        1 / sqrt(number of inputs), and BatchNorm has weights of 1 and zero biases.
        In both, the queries of the L-TAE are N(0, 2 / d_k).
    """
    draw = {"paper": _as_in_the_paper, "torch": _as_torch_does}[kind]
    for module in model.modules():
        if isinstance(module, LearntQueryAttention):
            nn.init.normal_(module.Q, std=(2.0 / module.d_k) ** 0.5, generator=generator)
        elif isinstance(module, Layer):
            draw(module, generator)


def _as_in_the_paper(module: Layer, generator: torch.Generator) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_normal_(module.weight, generator=generator)
    else:
        nn.init.normal_(module.weight, generator=generator)
    if isinstance(module, nn.BatchNorm1d):
        nn.init.zeros_(module.bias)
    elif module.bias is not None:
        nn.init.normal_(module.bias, generator=generator)


def _as_torch_does(module: Layer, generator: torch.Generator) -> None:
    if isinstance(module, nn.BatchNorm1d):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
        return
    bound = module.weight[0].numel() ** -0.5
    for values in (module.weight, module.bias):
        if values is not None:
            nn.init.uniform_(values, -bound, bound, generator=generator)
