"""The hand-written CPU path: its reductions, layers and threads."""

import threading

import numpy as np
import pytest
import torch

from models.fast_cpu.memory_allocator import keep_freed_memory
from models.fast_cpu.pixel_mlp import _HiddenLayer, _PooledLayer
from models.fast_cpu.reductions import compute_batch_statistics, pool, pool_gradient
from models.fast_cpu.thread_pool import in_parallel, prefetched, thread_pool
from models.hyperparameters import Hyperparameters
from models.inference import batches_of_similar_size
from models.masked_statistics import masked_pooling
from models.pixel_sets import PixelSets
from models.standardisation import Normalisation
from models.training.train_fold import train_fold
from tests.builders.models import describe, random_model, training_settings

CPU = torch.device("cpu")
ALL_POOLINGS = ("mean", "std", "max", "min")


class TestPooling:
    def test_sets_without_a_true_pixel_have_statistics_of_zero(self):
        values = torch.randn(4, 8, 3, 5, dtype=torch.float64)
        mask = torch.zeros(values.shape[:3], dtype=torch.bool)
        found = pool(values, mask, ALL_POOLINGS)
        assert tuple(found) == ALL_POOLINGS
        for statistics in (*found.values(), masked_pooling(values, mask, ALL_POOLINGS)):
            np.testing.assert_allclose(statistics, 0, atol=1e-15)

    def test_the_deviation_of_one_pixel_is_that_of_the_reference(self):
        values = torch.full((1, 4, 1, 2), 7.0)
        mask = torch.tensor([True, False, False, False]).view(1, 4, 1)
        found = pool(values, mask, ("std",))
        np.testing.assert_allclose(found["std"], 3.16e-16, rtol=1e-2)
        gradient = pool_gradient(values, mask, found, {"std": torch.ones(1, 1, 2)})
        assert (gradient == 0).all()
        plain = masked_pooling(values.requires_grad_(), mask, ("std",))
        assert torch.equal(plain, found["std"])
        plain.sum().backward()
        assert (values.grad == 0).all()

    @pytest.mark.parametrize("poolings", [ALL_POOLINGS, ("std",), ("min", "mean")])
    def test_gradients_of_the_pooled_layer(self, poolings):
        generator = torch.Generator().manual_seed(1)
        rows = torch.randn(3 * 5 * 2, 3, generator=generator, dtype=torch.float64)
        mask = torch.rand(3, 5, 2, generator=generator) < 0.6
        mask[:, :2] = True
        weight, bias = (
            torch.randn(2, *n, generator=generator, dtype=torch.float64, requires_grad=True)
            for n in ((3,), ())
        )
        masks = mask.split(2)

        def pooled(rows, weight, bias):
            chunks = rows.split([part.numel() for part in masks])
            return _PooledLayer.apply(weight, bias, masks, poolings, *chunks)

        assert torch.autograd.gradcheck(pooled, (rows.requires_grad_(), weight, bias))


class TestBatchStatistics:
    @pytest.mark.parametrize("which", ["all", "some"])
    def test_gradients_of_the_hidden_layer_and_its_statistics(self, which):
        generator = torch.Generator().manual_seed(1)
        rows, weight, bias = (
            torch.randn(*n, generator=generator, dtype=torch.float64, requires_grad=True)
            for n in ((9, 3), (4, 3), (4,))
        )
        weights = torch.tensor([1, 0, 1, 1, 1, 0, 1, 1, 1], dtype=torch.float64)[:, None]
        included = [None, None] if which == "all" else weights.split((4, 5))

        def hidden(rows, weight, bias):
            mean, covariance, _, *outputs = _HiddenLayer.apply(
                weight, bias, included, *rows.split((4, 5))
            )
            return *outputs, mean, covariance

        assert torch.autograd.gradcheck(hidden, (rows, weight, bias))

    def test_those_of_included_rows_equal_numpy(self):
        rows = torch.randn(50, 3, dtype=torch.float64)
        included = torch.arange(50)[:, None] % 3 != 0
        found = compute_batch_statistics(rows.split(20), included.double().split(20))
        exact = rows.numpy()[included[:, 0]]
        assert found.n_rows == len(exact)
        np.testing.assert_allclose(found.mean, exact.mean(0), atol=1e-14)
        np.testing.assert_allclose(found.covariance, np.cov(exact.T, ddof=0), atol=1e-14)

    @pytest.mark.parametrize("offset", [0.0, 100.0])
    def test_those_of_many_float32_rows_equal_numpy(self, offset):
        rows = torch.randn(150_000, 6, generator=torch.Generator().manual_seed(4)) + offset
        found = compute_batch_statistics(rows.split(7_000), [None] * 22)
        exact = rows.double().numpy()
        assert found.n_rows == len(rows)
        np.testing.assert_allclose(found.mean, exact.mean(0), rtol=0, atol=5e-8)
        np.testing.assert_allclose(found.covariance, np.cov(exact.T, ddof=0), rtol=0, atol=2e-7)

    def test_those_of_no_rows_are_zero(self):
        found = compute_batch_statistics([torch.empty(0, 3)], [None])
        assert found.n_rows == 0
        assert (found.covariance == 0).all()


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_the_pool_has_as_many_threads_as_torch_and_each_uses_one(three_threads):
    everyone = threading.Barrier(3, timeout=30)

    def look(item):
        everyone.wait()  # passes only where three calls run at once
        nested = in_parallel(lambda _: threading.get_ident(), range(2))
        return item, torch.get_num_threads(), torch.is_grad_enabled(), threading.get_ident(), nested

    with thread_pool(CPU):
        found = in_parallel(look, range(6))
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3
    assert [item for item, *_ in found] == list(range(6))
    assert {(n, grad) for _, n, grad, *_ in found} == {(1, False)}
    assert all(nested == [ident] * 2 for *_, ident, nested in found)


def test_without_a_pool_the_caller_makes_all_calls():
    assert set(in_parallel(lambda _: threading.get_ident(), range(3))) == {threading.get_ident()}
    with thread_pool(torch.device("cuda")):
        found = in_parallel(lambda _: torch.is_grad_enabled(), range(3))
    assert found == [True] * 3


def test_errors_reach_the_caller(three_threads):
    def fail(item):
        raise KeyError(item)

    with pytest.raises(KeyError, match="7"), thread_pool(CPU):
        in_parallel(fail, [7])
    assert torch.get_num_threads() == 3

    def items():
        yield 1
        raise KeyError("gone")

    following = prefetched(items())
    assert next(following) == 1
    with pytest.raises(KeyError, match="gone"):
        next(following)


def test_prefetching_yields_every_item_once_in_order():
    assert list(prefetched(range(5))) == [0, 1, 2, 3, 4]
    assert list(prefetched([])) == []


def make_data(n=60):
    rng = np.random.default_rng(1)
    sizes = rng.integers(1, 30, n)
    return PixelSets(
        ids=[str(i) for i in range(n)],
        pixels=rng.integers(0, 4000, (sizes.sum(), 5, 3), dtype=np.uint16),
        offsets=np.concatenate([[0], np.cumsum(sizes)]),
        days=np.tile(np.arange(5) * 20, (n, 1)),
        labels=rng.integers(0, 4, n),
    )


def test_the_number_of_threads_changes_no_bit(three_threads):
    data, normalisation = make_data(), Normalisation([2000.0] * 3, [1000.0] * 3)
    hyperparameters = Hyperparameters.for_data("psetae", n_channels=3, n_classes=4)
    settings = training_settings(epochs=2, batch_size=16, n_pixels=16)
    outcomes = []
    for n_threads in (1, 3):
        torch.set_num_threads(n_threads)
        description = describe(hyperparameters, normalisation)
        parts = np.arange(40), np.arange(40, 60)
        outcomes.append(train_fold(data, *parts, description, settings, CPU))
    assert outcomes[0].trainlog == outcomes[1].trainlog
    for name, values in outcomes[0].state_dict.items():
        assert torch.equal(values, outcomes[1].state_dict[name]), name


def test_batches_of_similar_size_contain_every_parcel_once():
    sizes = np.random.default_rng(2).integers(1, 65, 10_000)
    parts = batches_of_similar_size(sizes, 128)
    assert sorted(np.concatenate(parts).tolist()) == list(range(10_000))
    assert max(map(len, parts)) == 128
    # Neighbours only: no parcel is read far from its place.
    assert max(np.ptp(part) for part in parts) < 4096
    assert np.mean([sizes[part].max() - sizes[part].mean() for part in parts]) < 2
    assert batches_of_similar_size(sizes[:0], 4) == []


def test_predictions_are_in_the_order_of_the_indices(three_threads):
    data, normalisation = make_data(), Normalisation([2000.0] * 3, [1000.0] * 3)
    hyperparameters = Hyperparameters.for_data("psetae", n_channels=3, n_classes=4)
    model = random_model(describe(hyperparameters, normalisation, n_pixels=16))

    def predict(indices, batch_size):
        return model.log_probabilities(data, np.array(indices), batch_size)

    alone = np.concatenate([predict([i], 1) for i in (5, 59, 0, 17)])
    np.testing.assert_allclose(predict([5, 59, 0, 17], 3), alone, rtol=0, atol=1e-5)


def test_raising_malloc_thresholds_is_harmless():
    assert isinstance(keep_freed_memory(), bool)
    assert keep_freed_memory() == keep_freed_memory()


def test_malloc_is_left_alone_elsewhere(monkeypatch):
    import platform

    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert keep_freed_memory() is False
