"""Compare recipes of training, many models at once on a GPU, to choose the recipe `default`.

    python -m benchmarks.recipe_search DATA WORK [--only canada] [--recipes date_dropping=0.4 ...]

All folds, seeds and members of a recipe are trained together, with batched weights: the 90 models
of the points of Canada took 15 to 35 s on an H100 that was shared with three other searches. For
that, PSE+L-TAE is written here a second time, with a leading axis of models. Scores are printed per
task and recipe: of three averaged members on the validation parts, by which a recipe is chosen, and
on the test parts, mean ± standard deviation over the seeds. The model of the last step is taken.
DATA and WORK are those of `model_choice`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from benchmarks.model_choice import Task, tasks
from models.metrics import confusion_matrix, overall_metrics
from pipeline.stages.evaluate import add_up

SEEDS = 3
MEMBERS = 3
PERIOD = 1000.0  # T of the positional encoding
D_K = 8
# Pixels of a parcel that are used, because those of all parcels are in memory as float32.
MOST_PIXELS = 40
# Parcels that are predicted at once, of one pixel each.
PREDICTED = 512


@dataclass(frozen=True)
class Recipe:
    """What is varied; the defaults are those of the recipe `default` before it was chosen.

    Attributes
    ----------
    haze, haze_by_band, gain
        Standard deviation, in normalised reflectance, of what is added to a parcel's date in all
        bands, to each band of a date, and to each band on all dates.
    logit_adjustment
        Factor tau of the classes' log-frequencies, added to the logits in training (Menon et al.,
        arXiv 2007.07314).
    balance
        Exponent of the inverse class frequencies as weights of the loss.
    mixup
        Parameter of the beta distribution (Zhang et al., arXiv 1710.09412); 0: off.
    shared_encoder
        Whether the members of a fold share their pixel-set encoder.
    same_batches
        Whether the members of a fold see the same batches.
    features
        Whether to use the geometric features, where there are any.
    """

    epochs: int = 100
    min_steps: int = 0
    batch_size: int = 64
    pixels: int = 32
    learning_rate: float = 0.002
    weight_decay: float = 0.05
    dropout: float = 0.2
    gamma: float = 1.0
    label_smoothing: float = 0.0
    jitter: float = 0.01
    date_dropping: float = 0.0
    shift_days: int = 0
    haze: float = 0.0
    haze_by_band: float = 0.0
    gain: float = 0.0
    logit_adjustment: float = 0.0
    balance: float = 0.0
    mixup: float = 0.0
    d_model: int = 256
    n_head: int = 16
    hidden_layers: int = 2
    shared_encoder: bool = False
    same_batches: bool = False
    features: bool = True


ONE_AT_A_TIME = [
    *("epochs=40", "epochs=200", "label_smoothing=0.1", "gamma=0", "dropout=0.5"),
    *("date_dropping=0.2", "date_dropping=0.4", "shift_days=10", "shift_days=30", "haze=0.2"),
    *("haze_by_band=0.2", "gain=0.2", "weight_decay=0.3", "weight_decay=0.01"),
    *("learning_rate=0.005", "logit_adjustment=1", "balance=0.5", "batch_size=32"),
    *("batch_size=128", "hidden_layers=0", "d_model=128,n_head=8,hidden_layers=0"),
    *("same_batches=1", "shared_encoder=1", "mixup=0.4"),
]


class Models:
    """M models of PSE+L-TAE, G pixel-set encoders; every weight has a leading axis M or G."""

    def __init__(
        self,
        n_models: int,
        n_encoders: int,
        sizes: tuple[int, int, int],
        recipe: Recipe,
        device: torch.device,
    ) -> None:
        n_channels, n_features, n_classes = sizes
        self.n, self.recipe, self.device = n_models, recipe, device
        self.generator = torch.Generator().manual_seed(1)
        self.weights: dict[str, Tensor] = {}
        self.statistics: dict[str, Tensor] = {}
        for name, g, n_in, n_out in (
            ("pixel1", n_encoders, n_channels, 32),
            ("pixel2", n_encoders, 32, 64),
            ("set", n_encoders, 128 + n_features, 128),
            ("project", n_models, 128, recipe.d_model),
            ("keys", n_models, recipe.d_model, recipe.n_head * D_K),
            ("series", n_models, recipe.d_model, 128),
        ):
            self._linear(name, g, n_in, n_out, normalised=name not in ("project", "keys"))
        for name, width in (("norm_in", 128), ("norm_project", recipe.d_model), ("norm_out", 128)):
            self._norm(name, n_models, width)
        queries = torch.randn(n_models, recipe.n_head, D_K, generator=self.generator)
        self.weights["queries"] = queries * (2 / D_K) ** 0.5
        widths = [128, *(64, 32)[: recipe.hidden_layers], n_classes]
        for layer in range(len(widths) - 1):
            last = layer == len(widths) - 2
            name = f"decode{layer}"
            self._linear(name, n_models, widths[layer], widths[layer + 1], normalised=not last)
        self.n_decoding = len(widths) - 1
        self.weights = {k: v.to(device).requires_grad_() for k, v in self.weights.items()}
        self.statistics = {k: v.to(device) for k, v in self.statistics.items()}

    def _linear(self, name: str, g: int, n_in: int, n_out: int, *, normalised: bool) -> None:
        for part, shape in (("weight", (g, n_in, n_out)), ("bias", (g, 1, n_out))):
            uniform = torch.rand(shape, generator=self.generator) * 2 - 1
            self.weights[f"{name}.{part}"] = uniform * n_in**-0.5
        if normalised:
            self._norm(f"{name}.norm", g, n_out)
            self.statistics[f"{name}.mean"] = torch.zeros(g, 1, n_out)
            self.statistics[f"{name}.variance"] = torch.ones(g, 1, n_out)

    def _norm(self, name: str, g: int, width: int) -> None:
        self.weights[f"{name}.weight"] = torch.ones(g, 1, width)
        self.weights[f"{name}.bias"] = torch.zeros(g, 1, width)

    def _apply(self, name: str, x: Tensor, *, training: bool = False) -> Tensor:
        """Apply a linear layer to x (G, N, n_in), and its batch normalisation and ReLU if any."""
        w = self.weights
        x = torch.baddbmm(w[f"{name}.bias"], x, w[f"{name}.weight"])
        if f"{name}.mean" not in self.statistics:
            return x
        mean, variance = self.statistics[f"{name}.mean"], self.statistics[f"{name}.variance"]
        if training:
            own_mean, own_variance = x.mean(1, keepdim=True), x.var(1, keepdim=True, correction=0)
            with torch.no_grad():
                mean.lerp_(own_mean, 0.1)
                variance.lerp_(own_variance * x.shape[1] / max(x.shape[1] - 1, 1), 0.1)
            mean, variance = own_mean, own_variance
        x = (x - mean) * torch.rsqrt(variance + 1e-5)
        x = x * w[f"{name}.norm.weight"] + w[f"{name}.norm.bias"]
        return x if name == "set" else functional.relu(x)

    def _layer_norm(self, name: str, x: Tensor) -> Tensor:
        x = functional.layer_norm(x, x.shape[-1:])
        return x * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def __call__(
        self,
        pixels: Tensor,
        mask: Tensor,
        days: Tensor,
        features: Tensor | None = None,
        observed: Tensor | None = None,
        *,
        training: bool = False,
    ) -> Tensor:
        """Compute logits (M, B, K).

        Parameters
        ----------
        pixels, mask, features
            (G, B, S, T, C), bool (G, B, S), (G, B, F).
        days, observed
            (M, B, T), bool (M, B, T).
        """
        (g, b, s, t, _), r = pixels.shape, self.recipe
        x = self._apply("pixel1", pixels.reshape(g, b * s * t, -1), training=training)
        x = self._apply("pixel2", x, training=training).view(g, b, s, t, 64)
        weights = mask[..., None, None].float()
        n = weights.sum(2)
        mean = (x * weights).sum(2) / n
        variance = ((x - mean[:, :, None]) * weights).square().sum(2) / (n - 1).clamp(min=1)
        x = torch.cat([mean, torch.sqrt(variance + 1e-31)], -1)
        if features is not None:
            x = torch.cat([x, features[:, :, None].expand(-1, -1, t, -1)], -1)
        x = self._apply("set", x.reshape(g, b * t, -1), training=training)
        x = x.repeat_interleave(self.n // g, 0)
        x = self._layer_norm("norm_in", x)
        x = self._layer_norm("norm_project", self._apply("project", x))
        width = r.d_model // r.n_head
        index = torch.arange(width, device=self.device)
        angles = days.float()[..., None] / PERIOD ** ((2 * (index // 2)).float() / width)
        encoding = torch.where(index % 2 == 0, angles.sin(), angles.cos())
        x = x + encoding.repeat(1, 1, 1, r.n_head).view(self.n, b * t, -1)
        keys = self._apply("keys", x).view(self.n, b, t, r.n_head, D_K)
        scores = torch.einsum("mhk,mbthk->mbht", self.weights["queries"], keys) / D_K**0.5
        if observed is not None:
            scores = scores.masked_fill(~observed[:, :, None], -1e30)
        attention = functional.dropout(scores.softmax(-1), 0.1, training)
        values = x.view(self.n, b, t, r.n_head, width)
        x = torch.einsum("mbht,mbthd->mbhd", attention, values).reshape(self.n, b, -1)
        x = functional.dropout(self._apply("series", x, training=training), r.dropout, training)
        x = self._layer_norm("norm_out", x)
        for layer in range(self.n_decoding):
            x = self._apply(f"decode{layer}", x, training=training)
        return x


class Search:
    """A task in the memory of a device, on which recipes are tried."""

    def __init__(self, task: Task, device: torch.device) -> None:
        self.task, self.device = task, device
        data = task.data
        sizes = np.minimum(data.sizes, MOST_PIXELS)
        slots = np.arange(max(int(sizes.max()), 1))
        chosen = np.where(slots < sizes[:, None], slots, 0) + data.offsets[:-1, None]
        pixels = data.pixels[chosen].astype(np.float32)
        normalisation = task.about.normalisation
        normalised = (pixels - normalisation.means) * normalisation.scale()
        self.pixels = torch.from_numpy(normalised.astype(np.float32)).to(device)  # (N, S, T, C)
        self.mask = torch.from_numpy(slots < sizes[:, None]).to(device)
        self.days = torch.from_numpy(np.ascontiguousarray(data.days)).to(device)
        self.labels = torch.from_numpy(data.labels).to(device)
        self.features = None
        if data.features is not None:
            labelled = data.features[data.labels >= 0]
            scaled = (data.features - labelled.mean(0)) / labelled.std(0, ddof=1)
            self.features = torch.from_numpy(scaled.astype(np.float32)).to(device)

    def score(self, recipe: Recipe) -> dict[str, list[dict[str, float]]]:
        """Train all models of a recipe; return the overall metrics of each seed, by part."""
        folds, k = self.task.folds, self.task.n_classes
        torch.manual_seed(1)
        n_models = len(folds) * SEEDS * MEMBERS  # fold by fold, in it seed by seed
        n_encoders = n_models // MEMBERS if recipe.shared_encoder else n_models
        features = self.features if recipe.features else None
        n_features = 0 if features is None else features.shape[1]
        models = Models(
            *(n_models, n_encoders, (self.pixels.shape[-1], n_features, k), recipe, self.device)
        )
        repeated = SEEDS * MEMBERS
        self._train(models, [fold.train for fold in folds for _ in range(repeated)], features)
        scores = {}
        for part in ("validation", "test"):
            parts = [getattr(fold, part) for fold in folds]
            predicted = self._predict(models, [p for p in parts for _ in range(repeated)], features)
            by_fold = predicted.reshape(len(folds), SEEDS, MEMBERS, *predicted.shape[1:]).mean(2)
            scores[part] = [
                overall_metrics(
                    add_up(
                        [
                            confusion_matrix(self.task.data.labels[p], own[: len(p)].argmax(-1), k)
                            for p, own in zip(parts, by_fold[:, seed], strict=True)
                        ]
                    )
                )
                for seed in range(SEEDS)
            ]
        return scores

    def _train(
        self, models: Models, parts: list[NDArray[np.int64]], features: Tensor | None
    ) -> None:
        r, k = models.recipe, self.task.n_classes
        size = min(r.batch_size, *map(len, parts))
        per_epoch = min(map(len, parts)) // size
        n_steps = max(r.epochs * per_epoch, r.min_steps)
        counts = np.stack([np.bincount(self.task.data.labels[p], minlength=k) for p in parts])
        shares = torch.from_numpy(counts / counts.sum(1, keepdims=True)).float().to(self.device)
        shares = shares.clamp(min=1e-6)
        class_weights = (1 / (k * shares)) ** r.balance
        class_weights = class_weights / (class_weights * shares).sum(1, keepdim=True)
        weights = list(models.weights.values())
        optimizer = torch.optim.AdamW(
            weights, lr=r.learning_rate, weight_decay=r.weight_decay, fused=True
        )
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=r.learning_rate, total_steps=n_steps + 1
        )
        rng = np.random.default_rng(1)
        drawn = self._batches(parts, size, per_epoch, rng, r)
        every = MEMBERS if r.shared_encoder else 1
        for _ in range(n_steps):
            chosen = next(drawn)
            pixels, mask = self._pixels(chosen[::every], r)
            own = None if features is None else features[chosen[::every]]
            labels = self.labels[chosen]
            if r.mixup:
                kept = float(rng.beta(r.mixup, r.mixup))
                other = torch.randperm(size, device=self.device)
                pixels = kept * pixels + (1 - kept) * pixels[:, other]
                own = None if own is None else kept * own + (1 - kept) * own[:, other]
            logits = models(
                *(pixels, mask, self._shifted(chosen, r), own, self._kept_dates(chosen, r)),
                training=True,
            )
            adjusted = logits + r.logit_adjustment * shares.log()[:, None]
            loss = _loss(adjusted, labels, class_weights, r)
            if r.mixup:
                mixed = _loss(adjusted, labels[:, other], class_weights, r)
                loss = kept * loss + (1 - kept) * mixed
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()

    def _batches(
        self,
        parts: list[NDArray[np.int64]],
        size: int,
        per_epoch: int,
        rng: np.random.Generator,
        recipe: Recipe,
    ) -> Iterator[Tensor]:
        """Yield the parcels of a step, (M, B)."""
        together = MEMBERS if recipe.same_batches or recipe.shared_encoder else 1
        while True:
            orders = [rng.permutation(part)[: size * per_epoch] for part in parts[::together]]
            order = torch.from_numpy(np.repeat(np.stack(orders), together, 0)).to(self.device)
            yield from order.split(size, 1)

    def _pixels(self, chosen: Tensor, recipe: Recipe) -> tuple[Tensor, Tensor]:
        """Draw the pixels of parcels (G, B) and change them at random."""
        pixels, mask = self.pixels[chosen], self.mask[chosen]
        if recipe.pixels < pixels.shape[2]:
            draws = torch.rand(mask.shape, device=self.device).masked_fill(~mask, 2.0)
            places = draws.argsort(-1)[..., : recipe.pixels]
            pixels, mask = self.pixels[chosen[..., None], places], mask.gather(2, places)
        (g, b, _, t, c), device = pixels.shape, self.device
        jitter = torch.randn(pixels.shape, device=device) * recipe.jitter
        pixels = pixels + jitter.clamp(-0.05, 0.05)
        for sigma, shape in (
            (recipe.haze, (g, b, 1, t, 1)),
            (recipe.haze_by_band, (g, b, 1, t, c)),
            (recipe.gain, (g, b, 1, 1, c)),
        ):
            if sigma:
                pixels = pixels + torch.randn(shape, device=device) * sigma
        return pixels, mask

    def _shifted(self, chosen: Tensor, recipe: Recipe) -> Tensor:
        days = self.days[chosen]
        most = recipe.shift_days
        return days + torch.randint(-most, most + 1, (*chosen.shape, 1), device=self.device)

    def _kept_dates(self, chosen: Tensor, recipe: Recipe) -> Tensor | None:
        if not recipe.date_dropping:
            return None
        draws = torch.rand(self.days[chosen].shape, device=self.device)
        second = draws.topk(2, -1).values[..., -1:]
        return draws >= second.clamp(max=recipe.date_dropping)

    @torch.no_grad()
    def _predict(
        self, models: Models, parts: list[NDArray[np.int64]], features: Tensor | None
    ) -> NDArray[np.float32]:
        """Return log-probabilities (M, the most parcels of a part, K)."""
        most = max(map(len, parts))
        chosen = torch.from_numpy(np.stack([np.resize(p, most) for p in parts])).to(self.device)
        every = MEMBERS if models.recipe.shared_encoder else 1
        found = []
        for own in chosen.split(max(PREDICTED // self.pixels.shape[1], 1), 1):
            first, s = own[::every], models.recipe.pixels
            pixels, mask = self.pixels[first][:, :, :s], self.mask[first][:, :, :s]
            extra = None if features is None else features[first]
            found.append(models(pixels, mask, self.days[own], extra).log_softmax(-1))
        return np.asarray(torch.cat(found, 1).cpu().numpy(), np.float32)


def _loss(logits: Tensor, labels: Tensor, class_weights: Tensor, recipe: Recipe) -> Tensor:
    """Return the sum over the models of the mean focal loss of a batch."""
    log_p = logits.log_softmax(-1)
    of_label = log_p.gather(-1, labels[..., None])[..., 0]
    smooth = recipe.label_smoothing
    cross_entropy = -(1 - smooth) * of_label - smooth * log_p.mean(-1)
    focus = (1 - of_label.detach().exp()) ** recipe.gamma
    return (focus * cross_entropy * class_weights.gather(1, labels)).mean(1).sum()


def parse(text: str) -> Recipe:
    """Read changes of the recipe, such as "epochs=40,date_dropping=0.4"."""
    changes = dict(change.split("=") for change in text.split(",")) if text else {}
    kinds = {name: type(getattr(Recipe(), name)) for name in changes}
    # Any: the values have the types of the fields that they replace.
    values: dict[str, Any] = {name: kinds[name](float(v)) for name, v in changes.items()}
    return replace(Recipe(), **values)


def main() -> None:
    """Try the recipes on the tasks and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--only", default="", help="tasks whose name contains this")
    parser.add_argument("--recipes", nargs="*", default=["", *ONE_AT_A_TIME])
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print("| task | recipe | validation: accuracy, macro F1 | test: accuracy, macro F1 |")
    print("|---|---|---|---|")
    for task in tasks(options.data, options.work):
        if options.only.lower() not in task.name.lower():
            continue
        search = Search(task, device)
        for text in options.recipes:
            scores = search.score(parse(text))
            shown = [
                ", ".join(
                    _spread([100 * own[metric] for own in scores[part]])
                    for metric in ("Accuracy", "MACRO_F1-score")
                )
                for part in ("validation", "test")
            ]
            print(f"| {task.name} | {text or 'as it was'} | {' | '.join(shown)} |", flush=True)


def _spread(values: list[float]) -> str:
    return f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}"


if __name__ == "__main__":
    main()
