"""Simulate surveys of crop areas: how often do the intervals contain the true area? SIMULATED.

    python -m benchmarks.accuracy_areas [--surveys 500] [--parcels 12000] [--labelled 1200]

A population of parcels is made once, with classes of unequal shares, areas that differ between and
within classes, four regions, and features by which a linear classifier confuses classes. One class
is rare and is never trained on. In each survey, parcels are drawn at random and labelled. A model a
fold is trained on them, with equal weight for every class, so that it maps rare classes far too
often. All is then as in a run: labelled parcels are predicted by the model that was not trained on
them, the others by all models, and the areas are estimated by pipeline/evaluation/areas.py.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.areas import Estimate, Float, Index
from pipeline.evaluation.population import Population

SHARES = (0.28, 0.22, 0.17, 0.12, 0.09, 0.06, 0.03, 0.015, 0.015)
REGIONS = (0.5, 0.3, 0.15, 0.05)
OTHER = len(SHARES) - 1  # the class that is not trained on
N_FOLDS, N_FEATURES = 5, 5


@dataclass(frozen=True)
class World:
    """All parcels: areas (m2), true classes and regions (N,), and features (N, F)."""

    areas: Float
    classes: Index
    regions: Index
    features: Float

    @classmethod
    def simulate(cls, n: int, spread: float, rng: np.random.Generator) -> World:
        """Simulate n parcels whose logarithm of area has the standard deviation `spread`."""
        n_classes = len(SHARES)
        classes = rng.choice(n_classes, n, p=SHARES)
        regions = rng.choice(len(REGIONS), n, p=REGIONS)
        medians = 10_000 * np.exp(0.3 * np.sin(np.arange(n_classes)))
        centres = np.random.default_rng(7).normal(0, 1.15, (n_classes, N_FEATURES))
        shifts = 0.3 * rng.normal(size=(len(REGIONS), N_FEATURES))
        noise = 0.9 * rng.standard_t(5, (n, N_FEATURES))
        areas = medians[classes] * np.exp(rng.normal(0, spread, n))
        return cls(areas, classes, regions, centres[classes] + noise + shifts[regions])

    def total(self, chosen: NDArray[np.bool_]) -> Float:
        """Return the true area of every class among some parcels, float64 (K,)."""
        areas = np.bincount(self.classes[chosen], self.areas[chosen], len(SHARES))
        return areas.astype(np.float64)

    def survey(self, n: int, rng: np.random.Generator) -> tuple[Population, Population]:
        """Label n parcels and predict all; return the population with probabilities and with votes.

        The votes of parcels that are not labelled are those of all models together.
        """
        drawn = rng.choice(len(self.areas), n, replace=False)
        trained = drawn[self.classes[drawn] != OTHER]
        folds = np.arange(len(trained)) % N_FOLDS
        models = [self._predict(trained[folds != k]) for k in range(N_FOLDS)]
        logarithms = np.log(models)
        joint = _softmax(logarithms.mean(axis=0))
        mapped = joint.argmax(axis=1)
        probabilities = np.mean(models, axis=0)
        own = np.array(models)[folds, trained]
        probabilities[trained], mapped[trained] = own, own.argmax(axis=1)
        labels = np.full(len(self.areas), -1)
        labels[drawn] = self.classes[drawn]
        # The last class is never predicted.
        probabilities = np.column_stack([probabilities, np.zeros(len(self.areas))])
        strata = np.zeros(len(self.areas), np.int64)
        population = Population(self.areas, labels, mapped, probabilities, strata)
        votes = np.eye(len(SHARES))[mapped]
        return population, replace(population, predicted=votes)

    def _predict(self, training: Index) -> Float:
        """Fit linear discriminants with equal priors; return the probabilities (N, K - 1)."""
        x, y = self.features[training], self.classes[training]
        counts = np.bincount(y, minlength=OTHER)
        centres = np.eye(OTHER)[y].T @ x / np.maximum(counts, 1)[:, None]
        residuals = x - centres[y]
        covariance = residuals.T @ residuals / len(x)
        weights = np.linalg.solve(covariance, centres.T)
        offsets = np.where(counts > 0, -0.5 * (centres * weights.T).sum(axis=1), -30)
        return _softmax(self.features @ weights + offsets)


def _softmax(values: Float) -> Float:
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    shares: Float = powers / powers.sum(axis=1, keepdims=True)
    return shares


@dataclass
class Outcome:
    """What an estimator found in every survey, in relation to the true area of each class."""

    errors: list[Float] = field(default_factory=list)
    widths: list[Float] = field(default_factory=list)
    covers: list[Float] = field(default_factory=list)

    def add(self, estimate: Estimate, truth: Float, has_interval: NDArray[np.bool_]) -> None:
        """Add a survey; intervals of classes that have none do not count."""
        covers = (estimate.low <= truth * (1 + 1e-12)) & (truth <= estimate.high * (1 + 1e-12))
        self.errors.append(estimate.area / truth - 1)
        self.covers.append(np.where(has_interval, covers, np.nan))
        self.widths.append(
            np.where(has_interval, (estimate.high - estimate.low) / 2 / truth, np.nan)
        )

    @property
    def coverage(self) -> Float:
        """Share of the surveys with an interval in which it contains the true area, (K,)."""
        shares: Float = np.nanmean(self.covers, axis=0)
        return shares


ESTIMATORS = ("error-adjusted", "difference", "difference of classes")


def simulate(
    world: World,
    n_labelled: int,
    n_surveys: int,
    rng: np.random.Generator,
    region: int | None = None,
) -> tuple[dict[str, Outcome], Float, Float]:
    """Repeat a survey.

    Returns
    -------
    outcomes, mapped, labelled
        Outcome of every estimator; relative error of the mapped area (n_surveys, K); number of
        labelled parcels (n_surveys, K).
    """
    outcomes = {name: Outcome() for name in ESTIMATORS}
    chosen = np.ones(len(world.areas), bool) if region is None else world.regions == region
    truth = world.total(chosen)
    mapped, labelled = [], []
    for _ in range(n_surveys):
        population, votes = (each.part(chosen) for each in world.survey(n_labelled, rng))
        has_interval = population.has_interval() & np.bool_(not population.is_too_small)
        found = population.error_adjusted(), population.difference(), votes.difference()
        for name, estimate in zip(ESTIMATORS, found, strict=True):
            outcomes[name].add(estimate, truth, has_interval)
        mapped.append(population.areas_by(population.mapped) / truth - 1)
        labelled.append(population.counts())
    return outcomes, np.array(mapped), np.array(labelled)


def main() -> None:
    """Print a table of the classes, and one of the regions."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--surveys", type=int, default=500)
    parser.add_argument("--parcels", type=int, default=12_000)
    parser.add_argument("--labelled", type=int, default=1200)
    parser.add_argument("--spread", type=float, default=0.6, help="of the logarithm of area")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    world = World.simulate(options.parcels, options.spread, rng)
    total = world.total(np.ones(len(world.areas), bool))
    outcomes, mapped, labelled = simulate(world, options.labelled, options.surveys, rng)
    print(
        f"SIMULATED: {options.surveys} surveys, {options.labelled:,} of {options.parcels:,} "
        "parcels labelled. Bias, half-widths of intervals: % of the true area. Covers: % of the "
        "surveys.\n"
    )
    titles = [f"{name}: {what}" for name in ESTIMATORS for what in ("bias", "± ", "covers")]
    print(f"| class | share % | labelled | mapped: bias | {' | '.join(titles)} |")
    print("|---|" + "---:|" * (3 + len(titles)))
    for k in range(len(SHARES)):
        cells = [f"{100 * total[k] / total.sum():.1f}", f"{labelled[:, k].mean():.0f}"]
        cells.append(f"{100 * mapped[:, k].mean():+.0f}")
        for outcome in outcomes.values():
            cells.append(f"{100 * np.mean(outcome.errors, axis=0)[k]:+.1f}")
            cells.append(f"{100 * np.nanmean(outcome.widths, axis=0)[k]:.0f}")
            cells.append(f"{100 * outcome.coverage[k]:.1f}")
        print(f"| {'not trained' if k == OTHER else k + 1} | {' | '.join(cells)} |")
    print(f"\n| region | labelled | classes | {': covers | '.join(ESTIMATORS)}: covers |")
    print("|---|---:|---:|---:|---:|---:|")
    for region in range(len(REGIONS)):
        outcomes, _, labelled = simulate(
            world, options.labelled, max(1, options.surveys // 4), rng, region
        )
        with_interval = np.isfinite(outcomes["difference"].covers)
        cells = [f"{labelled.sum(axis=1).mean():.0f}", f"{with_interval.sum(axis=1).mean():.1f}"]
        cells += [f"{100 * np.nanmean(outcome.covers):.1f}" for outcome in outcomes.values()]
        print(f"| {region + 1} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
