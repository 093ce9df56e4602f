import numpy as np
import pytest
import torch

from models.errors import InputError
from models.standardisation import FeatureScaling, Normalisation
from models.training import batches, sampling
from models.training.augmentation import Augmentation, Augmenter, drop_dates, end_early
from models.training.batches import Batches, divide
from models.training.distributed import Processes
from models.training.sampling import PixelRows, draw_pixels, parcel_seeds
from tests.builders.models import make_batches, make_data

CPU = torch.device("cpu")
UNCHANGED = Augmentation()


def draw(sizes, n_pixels, seeds):
    """Draw with numpy arrays instead of tensors."""
    drawn, mask = draw_pixels(
        torch.from_numpy(np.array(sizes)), n_pixels, torch.from_numpy(np.array(seeds))
    )
    return drawn.numpy(), mask.numpy()


def splitmix64(state, n):
    """The generator as its authors define it, with Python's unbounded integers."""
    wrap = (1 << 64) - 1
    for _ in range(n):
        state = (state + 0x9E3779B97F4A7C15) & wrap
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & wrap
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & wrap
        yield z ^ (z >> 31)


class TestDraws:
    def test_draws_different_pixels_of_the_parcel(self):
        sizes = np.array([64, 65, 66, 100, 1_000_000] * 20)
        drawn, mask = draw(sizes, 64, np.arange(100))
        assert mask.all()
        assert (drawn >= 0).all()
        assert (drawn < sizes[:, None]).all()
        assert all(len(set(row)) == 64 for row in drawn.tolist())

    def test_equals_floyds_algorithm_for_one_parcel_at_a_time(self):
        sizes, seeds = [12, 9, 300, 10], [5, -7, 2**62, -(2**63)]
        drawn, _ = draw(sizes, 8, seeds)
        for size, seed, row in zip(sizes, seeds, drawn.tolist(), strict=True):
            chosen = []
            for last, number in enumerate(splitmix64(seed % 2**64, 8), size - 8):
                candidate = (number >> 1) % (last + 1)
                chosen.append(last if candidate in chosen else candidate)
            assert row == chosen

    def test_small_parcels_return_all_pixels_then_the_first_as_padding(self):
        drawn, mask = draw([0, 1, 3], 3, [0, 0, 0])
        np.testing.assert_array_equal(drawn, [[0, 0, 0], [0, 0, 0], [0, 1, 2]])
        np.testing.assert_array_equal(mask.sum(1), [0, 1, 3])

    def test_every_subset_is_equally_likely(self):
        n = 60_000
        drawn, _ = draw(np.full(n, 5), 2, np.arange(n))
        drawn.sort(axis=1)
        _, counts = np.unique(drawn, axis=0, return_counts=True)
        assert len(counts) == 10
        # Chi-square with 9 degrees of freedom: 27.9 is passed once in a thousand.
        assert ((counts - n / 10) ** 2 / (n / 10)).sum() < 27.9

    def test_the_draw_depends_only_on_the_parcel(self):
        sizes = np.array([80, 90, 30, 100])
        seeds = parcel_seeds(["a", "b", "c", "d"])
        drawn, _ = draw(sizes, 16, seeds)
        for subset in ([3, 1], [2], [0, 1, 2]):
            np.testing.assert_array_equal(draw(sizes[subset], 16, seeds[subset])[0], drawn[subset])

    def test_seeds_of_ids_never_change(self):
        # blake2b, 8 bytes, little-endian: another value would change published predictions.
        import hashlib

        digest = hashlib.blake2b(b"0123", digest_size=8).digest()
        assert parcel_seeds(["0123"])[0] == int.from_bytes(digest, "little", signed=True)
        assert parcel_seeds(["123"])[0] != parcel_seeds(["0123"])[0]


class TestEvaluation:
    def test_equals_one_parcel_at_a_time(self):
        data = make_data()
        indices = np.array([4, 0, 3, 2, 5, 1])
        batch = make_batches(data).of(indices)
        scaled = FeatureScaling.fit(data.features).apply(data.features)
        assert batch.pixels.shape == (6, 4, 2, 5)
        for row, i in enumerate(indices):
            size = data.sizes[i]
            own = data.pixels[data.offsets[i] : data.offsets[i + 1]].astype(float)
            clear = data.clear[data.offsets[i] : data.offsets[i + 1]]
            drawn, mask = draw([size], 5, parcel_seeds([data.ids[i]]))
            drawn, mask = drawn[0], mask[0]
            if size:
                expected = (own[drawn] - [100, 200]) / [50, 25]
                np.testing.assert_allclose(
                    batch.pixels[row].permute(2, 0, 1), expected, rtol=1e-5, atol=1e-5
                )
                np.testing.assert_array_equal(batch.pixel_mask[row].T, clear[drawn] & mask[:, None])
            else:
                assert not batch.pixel_mask[row].any()
            np.testing.assert_array_equal(batch.positions[row], data.days[i])
            np.testing.assert_array_equal(batch.observed[row], data.observed[i])
            np.testing.assert_array_equal(batch.extra[row], scaled[i])
            assert batch.labels[row] == data.labels[i]

    def test_batch_size_and_order_change_no_parcel(self):
        batches = make_batches(make_data())
        whole = batches.of(np.arange(6))
        for i in range(5, -1, -1):
            batch = batches.of(np.array([i]))
            # Alone, a small parcel is not padded to the size of the others.
            n_pixels = batch.pixels.shape[3]
            assert torch.equal(batch.pixels[0], whole.pixels[i, ..., :n_pixels])
            assert torch.equal(batch.pixel_mask[0], whole.pixel_mask[i, :, :n_pixels])
            assert not whole.pixel_mask[i, :, n_pixels:].any()

    def test_a_batch_is_divided_in_order(self):
        # As a GPU does, which reads many batches at once.
        whole = make_batches(make_data()).of(np.arange(6))
        groups = [np.array([0, 1]), np.array([2, 3, 4]), np.array([5])]
        parts = list(whole.split([2, 3, 1], groups))
        for part, parcels in zip(parts, groups, strict=True):
            assert part.parcels is parcels
            for found, expected in zip(part.inputs, whole.inputs, strict=True):
                assert torch.equal(found, expected[parcels])
            assert torch.equal(part.labels, whole.labels[parcels])
            assert part.pixels.permute(0, 3, 1, 2).is_contiguous()

    def test_pixels_are_pixel_major_memory(self):
        batch = make_batches(make_data()).of(np.arange(6))
        assert batch.pixels.permute(0, 3, 1, 2).is_contiguous()

    def test_empty_parcels_at_any_position(self):
        data = make_data(sizes=(0, 3, 0))
        batch = make_batches(data).of(np.arange(3))
        assert batch.pixel_mask.any(2).any(1).tolist() == [False, True, False]

    def test_without_masks_and_features(self):
        data = make_data(clear=None, observed=None, features=None)
        batch = make_batches(data).of(np.arange(6))
        assert batch.observed is None
        assert batch.extra is None
        assert batch.pixel_mask.sum().item() == 4 * (3 + 5 + 1 + 0 + 5 + 5)

    def test_reads_memory_mapped_pixels(self, tmp_path):
        data = make_data()
        np.save(tmp_path / "pixels.npy", data.pixels)
        mapped = make_data(pixels=np.load(tmp_path / "pixels.npy", mmap_mode="r"))
        batch = make_batches(mapped).of(np.arange(6))
        expected = make_batches(data).of(np.arange(6))
        assert torch.equal(batch.pixels, expected.pixels)


class TestPixelRows:
    def test_rows_in_device_memory_equal_those_in_the_file(self, monkeypatch):
        # The copy of a GPU, made on the CPU. Values above 32,767 are negative as int16.
        data = make_data(sizes=(3, 70, 1))
        data.pixels[:3] = [[65_535, 32_768]]
        monkeypatch.setattr(sampling, "_COPIED_TOGETHER", 10)
        resident = PixelRows(data, CPU, keep=True)
        resident._resident = (
            sampling._copied(data.pixels, CPU, torch.int16),
            sampling._copied(data.clear, CPU, torch.bool),
        )
        chosen = torch.tensor([[0, 73, 2], [5, 5, 1]])
        pixels, clear = resident.gather(chosen)
        assert pixels.dtype == torch.uint16
        assert pixels.is_contiguous()
        np.testing.assert_array_equal(pixels.numpy(), data.pixels[chosen.numpy()])
        np.testing.assert_array_equal(clear.numpy(), data.clear[chosen.numpy()])

    def test_pixels_stay_in_the_file_if_a_device_has_no_room(self, monkeypatch):
        data = make_data()
        needed = data.pixels.nbytes + data.clear.nbytes
        free = [needed / 0.59, 100]
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free.pop(), 0))
        assert not sampling._fits(data, torch.device("cuda"))
        assert sampling._fits(data, torch.device("cuda"))


class TestTraining:
    def train(self, batches, seed=1, augmentation=UNCHANGED, batch_size=2):
        augment = Augmenter(augmentation, torch.Generator().manual_seed(seed))
        drawn = batches.training(np.arange(6), batch_size, np.random.default_rng(seed))
        return list(map(augment, drawn))

    def test_every_parcel_once_in_a_new_order_with_new_pixels(self):
        data = make_data(labels=np.arange(6))
        batches = make_batches(data)
        first, second = self.train(batches, 1), self.train(batches, 2)
        orders = [[label for b in run for label in b.labels.tolist()] for run in (first, second)]
        assert sorted(orders[0]) == sorted(orders[1]) == list(range(6))
        assert orders[0] != orders[1]
        largest = [
            next(b.pixels[b.labels == 4] for b in run if 4 in b.labels) for run in (first, second)
        ]
        assert not torch.equal(*largest)

    def test_the_same_seed_draws_the_same(self):
        batches = make_batches(make_data())
        for one, other in zip(
            self.train(batches, 7, Augmentation(0.1, 0.2)),
            self.train(batches, 7, Augmentation(0.1, 0.2)),
            strict=True,
        ):
            assert torch.equal(one.pixels, other.pixels)

    def test_jitter_is_clipped_noise(self):
        data = make_data(sizes=(50,) * 6, n_dates=30)
        batches = make_batches(data, n_pixels=50)
        clean = self.train(batches)
        noisy = self.train(batches, augmentation=Augmentation(0.01, 0.015))
        for one, other in zip(clean, noisy, strict=True):
            noise = (other.pixels - one.pixels).double()
            assert noise.abs().max() <= 0.015 + 1e-4  # rounding of pixels up to 400
            assert abs(noise.mean().item()) < 5e-4
            # A normal deviate clipped at 1.5 deviations has 0.882 of its deviation.
            assert noise.std().item() == pytest.approx(0.00882, rel=0.03)

    @pytest.mark.parametrize(("n", "sizes"), [(6, [2, 2, 2]), (7, [2, 2, 3]), (2, [2]), (3, [3])])
    def test_no_batch_of_one(self, n, sizes):
        batches = divide(np.arange(n), 2)
        assert [len(batch) for batch in batches] == sizes
        assert np.concatenate(batches).tolist() == list(range(n))

    def test_date_dropping_keeps_two_observed_dates_of_every_parcel(self):
        draws = torch.Generator().manual_seed(1)
        observed = torch.rand(4000, 12, generator=draws) < 0.7
        observed[0], observed[1] = False, torch.arange(12) == 3
        remaining = drop_dates(observed, 0.4, draws)
        assert not (remaining & ~observed).any()
        assert (remaining.sum(1) >= observed.sum(1).clamp(max=2)).all()
        assert (remaining.sum() / observed.sum()).item() == pytest.approx(0.6, abs=0.01)
        few = drop_dates(observed, 0.999, draws).sum(1) == observed.sum(1).clamp(max=2)
        assert few.double().mean() > 0.98

    def test_dropped_dates_are_not_observed_and_differ_by_parcel_and_draw(self):
        data = make_data(sizes=(3,) * 6, n_dates=30, clear=None, observed=None)
        batches = make_batches(data)
        dropping = Augmentation(date_dropping=0.5)
        first, again, other = (
            np.concatenate([b.observed for b in self.train(batches, seed, dropping)])
            for seed in (1, 1, 2)
        )
        np.testing.assert_array_equal(first, again)
        assert (first != other).any()
        assert (first != first[0]).any()
        assert 0.3 < first.mean() < 0.7
        evaluated = batches.of(np.arange(6))
        assert evaluated.observed is None

    def test_dates_that_a_parcel_does_not_have_stay_out_when_others_are_dropped(self):
        data = make_data(sizes=(3,) * 6, n_dates=30, clear=None, labels=np.arange(6))
        for batch in self.train(make_batches(data), 1, Augmentation(date_dropping=0.3)):
            own = torch.from_numpy(data.observed[batch.labels])
            assert not (batch.observed & ~own).any()
            assert (batch.observed.sum(1) < own.sum(1)).all()

    def test_a_random_end_leaves_out_the_last_dates_and_keeps_each_number_of_them_equally(self):
        draws = torch.Generator().manual_seed(1)
        observed = torch.rand(4000, 12, generator=draws) < 0.7
        observed[0], observed[1] = False, torch.arange(12) == 3
        observed[2000:] = torch.arange(12) % 2 == 0  # six dates
        remaining = end_early(observed, draws)
        n = remaining.sum(1)
        for row, kept, own in zip(remaining.numpy(), n.tolist(), observed.numpy(), strict=True):
            assert np.flatnonzero(row).tolist() == np.flatnonzero(own)[:kept].tolist()
        assert (n >= observed.sum(1).clamp(max=2)).all()
        counts = np.bincount(n[2000:], minlength=7)
        assert counts[2:] == pytest.approx([400] * 5, abs=80)  # four standard deviations
        assert counts[:2].tolist() == [0, 0]

    def test_random_ends_follow_dropped_dates_and_only_occur_in_training(self):
        data = make_data(sizes=(3,) * 6, n_dates=30, clear=None, labels=np.arange(6))
        batches, both = make_batches(data), Augmentation(date_dropping=0.3, random_end=True)
        for batch in self.train(batches, 1, both):
            own = torch.from_numpy(data.observed[batch.labels])
            assert not (batch.observed & ~own).any()
            assert (batch.observed.sum(1) >= 2).all()
            last = (batch.observed * torch.arange(30)).argmax(1)
            assert (last < 25).any()
        np.testing.assert_array_equal(batches.of(np.arange(6)).observed, data.observed)

    def test_all_dates_of_a_parcel_are_shifted_together(self):
        data = make_data(labels=np.arange(6))
        batches = make_batches(data)
        shifts = []
        for seed in range(200):
            for batch in self.train(batches, seed, Augmentation(shift_days=3)):
                moved = batch.positions.numpy() - data.days[batch.labels]
                assert (moved == moved[:, :1]).all()
                shifts += moved[:, 0].tolist()
        assert np.unique(shifts).tolist() == [-3, -2, -1, 0, 1, 2, 3]
        evaluated = batches.of(np.arange(6))
        np.testing.assert_array_equal(evaluated.positions, data.days)

    @pytest.mark.parametrize("together", [1, 4, 5, 100])
    def test_parcels_drawn_together_change_no_batch(self, monkeypatch, together):
        made = make_batches(make_data())
        expected = self.train(made, batch_size=2)
        monkeypatch.setattr(batches, "_DRAWN_TOGETHER", together)
        for one, other in zip(self.train(made, batch_size=2), expected, strict=True):
            assert one.parcels.tolist() == other.parcels.tolist()
            assert torch.equal(one.pixels, other.pixels)
            assert torch.equal(one.pixel_mask, other.pixel_mask)

    def test_processes_share_every_batch(self):
        batches = make_batches(make_data(labels=np.arange(6)))
        alone = self.train(batches, batch_size=4)
        shares = [
            list(batches.training(np.arange(6), 4, np.random.default_rng(1), Processes(rank, 2)))
            for rank in (0, 1)
        ]
        # The batches are those of one process, and each share knows the parcels of its batch.
        assert [[len(b.labels) for b in share] for share in shares] == [[2, 1], [2, 1]]
        for share in shares:
            assert [b.parcels.tolist() for b in share] == [b.labels.tolist() for b in alone]
        for batch, *parts in zip(alone, *shares, strict=True):
            for rank, part in enumerate(parts):
                assert torch.equal(part.pixels, batch.pixels[rank::2])

    @pytest.mark.parametrize("rank", [0, 1, 2])
    def test_random_changes_do_not_depend_on_the_number_of_processes(self, rank):
        changes = Augmentation(0.5, 1.0, 0.5, 9, random_end=True)
        data, processes = make_data(labels=np.arange(6)), Processes(rank, 3)
        batches = make_batches(data)
        alone, share = (
            list(
                batches.training(
                    *(np.arange(6), 5, np.random.default_rng(1), some),
                    Augmenter(changes, torch.Generator().manual_seed(1)),
                )
            )
            for some in (Processes(), processes)
        )
        assert len(alone) == 1  # a last batch of one joined it
        for name in ("pixels", "observed", "positions"):
            assert torch.equal(getattr(share[0], name), getattr(alone[0], name)[rank::3])

    def test_refuses_too_few_parcels(self):
        rng = np.random.default_rng(1)
        with pytest.raises(InputError, match=r"two or more parcels, .*found 1 parcels"):
            next(make_batches(make_data()).training(np.array([0]), 8, rng))


class TestStandardisation:
    @pytest.mark.parametrize("shape", [(), (2,), (4, 2)])
    def test_shapes_of_the_normalisation(self, shape):
        rng = np.random.default_rng(2)
        normalisation = Normalisation(rng.uniform(1e3, 3e3, shape), rng.uniform(500, 900, shape))
        data = make_data(sizes=(5, 5), clear=None, observed=None)
        batch = make_batches(data, normalisation=normalisation).of(np.arange(2))
        pixels = data.pixels.reshape(2, 5, 4, 2).astype(float)
        expected = (pixels - normalisation.means) / normalisation.stds
        np.testing.assert_allclose(batch.pixels.permute(0, 3, 1, 2), expected, atol=1e-5)

    def test_a_deviation_of_zero_returns_finite_pixels(self):
        data = make_data(sizes=(5, 5))
        normalisation = Normalisation([100.0, 200.0], [0.0, 10.0])
        batch = make_batches(data, normalisation=normalisation).of(np.arange(2))
        assert torch.isfinite(batch.pixels).all()

    def test_refuses_other_shapes(self):
        with pytest.raises(
            InputError, match=r"values of shape \(3,\) do not fit pixels of 4 dates"
        ):
            make_batches(make_data(), normalisation=Normalisation([1.0] * 3, [1.0] * 3))
        with pytest.raises(InputError, match=r"one shape, .* found \(2,\) and \(\)"):
            Normalisation([1.0, 2.0], 3.0)
        with pytest.raises(InputError, match="1 of 1 stds are negative or smaller than 1e-38"):
            Normalisation(1.0, -3.0)
        with pytest.raises(InputError, match="1 of 2 stds are negative or smaller than 1e-38"):
            Normalisation([1.0, 1.0], [1.0, 1e-60])
        with pytest.raises(InputError, match="2 of 3 means are not finite numbers"):
            Normalisation([1.0, 1e60, np.nan], [1.0, 1.0, 1.0])

    def test_feature_scaling_equals_pandas_and_keeps_constants_finite(self):
        import pandas as pd

        features = np.random.default_rng(3).normal(5, 3, (30, 3))
        features[:, 1] = 0.1
        scaled = FeatureScaling.fit(features).apply(features)
        frame = pd.DataFrame(features)
        expected = (frame - frame.mean()) / frame.std()
        np.testing.assert_allclose(scaled[:, [0, 2]], expected[[0, 2]], rtol=1e-6)
        assert (scaled[:, 1] == 0).all()
        one = FeatureScaling.fit(features[:1])
        assert (one.apply(features) == 0).all()

    def test_feature_scaling_refuses(self):
        with pytest.raises(InputError, match="no parcel to compute it from"):
            FeatureScaling.fit(np.empty((0, 3)))
        with pytest.raises(InputError, match="expected 3 features, found 2"):
            FeatureScaling.fit(np.ones((4, 3))).apply(np.ones((4, 2)))
        with pytest.raises(InputError, match="the data have none"):
            Batches(
                make_data(features=None),
                Normalisation(0.0, 1.0),
                FeatureScaling.fit(np.ones((2, 3))),
                5,
                CPU,
            )


class TestPixelSets:
    def test_sizes(self):
        data = make_data()
        assert len(data) == 6
        assert data.sizes.tolist() == [3, 9, 1, 0, 20, 5]
        assert (data.n_dates, data.n_channels, data.n_features) == (4, 2, 3)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"pixels": np.zeros((38, 4, 2))}, "pixels: expected uint16 .* found float64"),
            ({"pixels": np.zeros((38, 4), np.uint16)}, r"pixels: expected shape \(pixels, T, C\)"),
            ({"days": np.zeros((6, 3), np.int64)}, r"days: expected int64 of shape \(6, 4\)"),
            ({"labels": np.zeros(5, np.int64)}, r"labels: expected int64 of shape \(6,\)"),
            ({"clear": np.ones((38, 3), bool)}, r"clear: expected bool of shape \(38, 4\)"),
            ({"ids": ["a", "b", "c", "b", "a", "d"]}, "ids: found more than once: a, b"),
            ({"offsets": np.arange(7)}, "offsets: expected to increase from 0 .* 38; found 0 to 6"),
            (
                {"offsets": np.array([0, 9, 3, 4, 5, 6, 38])},
                "offsets: expected to increase",
            ),
            (
                {"labels": np.array([0, -2, 0, 0, 0, -3])},
                "labels: expected class indices, .* found others in 2 parcels, such as 01, 05",
            ),
            (
                {"features": np.full((6, 3), np.nan)},
                "features: expected finite numbers; found others in 6 parcels, such as 00, 01",
            ),
        ],
    )
    def test_refuses(self, changes, message):
        with pytest.raises(InputError, match=message):
            make_data(**changes)
