"""A training stops where it diverges and names the place; a validation loss does not stop it."""

import math

import numpy as np
import pytest
import torch

from models.classifier import ParcelClassifier
from models.hyperparameters import Hyperparameters
from models.pixel_sets import PixelSets
from models.standardisation import FeatureScaling, Normalisation
from models.training.distributed import Processes
from models.training.divergence import DivergedError, StepWatch, all_finite
from models.training.resume import TrainingState
from models.training.train_fold import train_fold
from tests.builders.models import describe, training_settings

CPU = torch.device("cpu")
N = 30
TRAIN, VALIDATION = np.arange(20), np.arange(20, N)


@pytest.fixture(scope="module")
def data():
    """Thirty parcels named p0 .. p29, whose only feature is their number."""
    rng = np.random.default_rng(1)
    return PixelSets(
        ids=[f"p{i}" for i in range(N)],
        pixels=rng.integers(0, 4000, (2 * N, 5, 3), dtype=np.uint16),
        offsets=np.arange(N + 1) * 2,
        days=np.tile(np.arange(5) * 20, (N, 1)),
        labels=np.arange(N) % 3,
        features=np.arange(N, dtype=np.float64)[:, None],
    )


class Training:
    """Train with an injected error, and record the epochs and batches."""

    def __init__(self, data, state=None, **settings):
        self.data, self.state = data, state
        values = {"epochs": 4, "batch_size": 4, "n_pixels": 2}
        self.settings = training_settings(**values | settings)
        self.epoch, self.batches = 1, []

    def run(self):
        hyperparameters = Hyperparameters.for_data(
            "psetae", n_channels=3, n_classes=3, n_extra=1, mlp1=(0, 8), mlp2=(0, 8),
            mlp3=(0, 8), mlp4=(0, 8, 0), n_head=2, d_k=4,
        )  # fmt: skip
        scaling = FeatureScaling(np.zeros(1), np.ones(1))
        description = describe(hyperparameters, Normalisation(2000.0, 1000.0), scaling)
        return train_fold(
            self.data, TRAIN, VALIDATION, description, self.settings, CPU,
            on_epoch=self.log, state=self.state,
        )  # fmt: skip

    def log(self, metrics):
        self.epoch = metrics["epoch"] + 1

    def spoil(self, monkeypatch, parcel, epochs, change):
        """Change the logits of every batch that contains a parcel, in some epochs."""
        forward = ParcelClassifier.forward

        def spoilt(model, pixels, pixel_mask, positions, extra=None, observed=None):
            logits = forward(model, pixels, pixel_mask, positions, extra, observed)
            numbers = extra[:, 0].int().tolist()
            if model.training:
                self.batches.append((self.epoch, [f"p{n}" for n in numbers]))
            if parcel in numbers and self.epoch in epochs:
                logits = change(model, logits, numbers.index(parcel))
            return logits

        monkeypatch.setattr(ParcelClassifier, "forward", spoilt)
        return self


def no_logits(model, logits, row):
    return logits.index_fill(0, torch.tensor([row]), math.nan)


def infinite_logit(model, logits, row):
    spoilt = logits.clone()
    spoilt[row, 0] = math.inf
    return spoilt


def no_gradient(model, logits, row):
    # sqrt has an infinite slope at 0: 0 times that is NaN, in the gradient alone.
    return logits + 0 * torch.sqrt(0 * logits.sum())


def broken_statistics(model, logits, row):
    # Used in evaluation only: neither loss nor gradient show it.
    norm = model.decoder[1]
    norm.running_var = torch.full_like(norm.running_var, math.inf)
    return logits


@pytest.fixture(params=["at once", "at the end of the epoch"])
def at_once(request, monkeypatch):
    """When steps are checked: as on a CPU, or as on a GPU and with several processes."""
    if request.param != "at once":
        original = StepWatch.__init__

        def init(watch, *arguments):
            original(watch, *arguments)
            watch._at_once = False

        monkeypatch.setattr(StepWatch, "__init__", init)
    return request.param == "at once"


@pytest.mark.parametrize(
    ("change", "what"),
    [(no_logits, "loss is"), (infinite_logit, "loss is"), (no_gradient, "gradient is")],
)
@pytest.mark.parametrize("parcel", [3, 11])
def test_stops_where_a_loss_or_gradient_is_not_finite(
    data, monkeypatch, at_once, parcel, change, what
):
    trained = Training(data).spoil(monkeypatch, parcel, {2, 3, 4}, change)
    with pytest.raises(DivergedError) as error:
        trained.run()
    second = [ids for epoch, ids in trained.batches if epoch == 2]
    number = next(i for i, ids in enumerate(second) if f"p{parcel}" in ids)
    assert str(error.value) == (
        f"epoch 2, batch {number + 1} of 5: the {what} not finite. The batch holds 4 parcels: "
        + ", ".join(second[number])
    )
    assert len(second) == (number + 1 if at_once else 5)
    assert all(epoch <= 2 for epoch, _ in trained.batches)


def test_stops_where_the_state_is_not_finite(data, monkeypatch, at_once):
    trained = Training(data).spoil(monkeypatch, 3, {2}, broken_statistics)
    with pytest.raises(DivergedError, match=r"epoch 2, batch 5 of 5: the weights or the optimizer"):
        trained.run()


def test_the_message_contains_five_parcels_and_their_number():
    watch = StepWatch([f"p{i}" for i in range(9)], 1, 2, CPU)
    watch.add(torch.tensor(1.0), torch.tensor(0.0), np.arange(2))
    with pytest.raises(DivergedError, match=r"batch 2 of 2.* 7 parcels: p8, p7, p6, p5, p4, ...$"):
        watch.add(torch.tensor(math.inf), torch.tensor(1.0), np.arange(8, 1, -1))


def test_a_learning_rate_far_too_high_diverges(data):
    with pytest.raises(DivergedError, match=r"^epoch 1, batch \d of 5: the (loss|gradient) is"):
        Training(data, learning_rate=1e30).run()


def test_processes_stop_together_where_one_of_them_diverges(monkeypatch):
    """The sum over the processes is the same in all of them, so all stop at the same step."""
    theirs = torch.tensor([[0, 0], [1, 0], [1, 1]], dtype=torch.int32)
    monkeypatch.setattr(Processes, "add_up", lambda _, tensor: tensor.add_(theirs))
    watch = StepWatch(["a", "b", "c"], 4, 3, CPU, Processes(0, 2))
    for loss in (1.0, 2.0, math.nan):
        watch.add(torch.tensor(loss), torch.tensor(1.0), np.arange(3))
    with pytest.raises(DivergedError, match="epoch 4, batch 2 of 3: the loss is not finite"):
        watch.end({})


class TestState:
    @pytest.fixture
    def state(self, tmp_path, monkeypatch):
        monkeypatch.setattr(TrainingState, "every", 1)
        return TrainingState(tmp_path / "member_1.pt", "digest")

    def test_the_saved_state_is_finite_and_the_training_continues_from_it(self, data, state):
        unbroken = Training(data).run()
        with pytest.MonkeyPatch.context() as context:
            trained = Training(data, state).spoil(context, 3, {3}, no_logits)
            for _ in range(2):  # A restart stops at the same place.
                with pytest.raises(DivergedError, match="epoch 3"):
                    trained.run()
            kept = state.read()
            assert kept["epoch"] == 2
            assert all_finite(kept)
        # Nothing spoils it any more.
        resumed = Training(data, state).run()
        assert resumed.trainlog == unbroken.trainlog
        for name, value in unbroken.state_dict.items():
            assert torch.equal(resumed.state_dict[name], value)

    def test_a_state_that_is_not_finite_is_ignored(self, data, state, caplog):
        Training(data, state, epochs=2).run()
        kept = state.read()
        kept["learner"]["model"]["decoder.0.weight"][0, 0] = math.nan
        kept.pop("digest")
        state.write(**kept)
        assert state.read() is None
        assert "diverged: it is ignored" in caplog.text


class TestValidation:
    def test_an_epoch_without_a_finite_validation_loss_is_skipped(self, data, monkeypatch, caplog):
        expected = Training(data).run()
        # torch takes NaN for the largest logit: for a parcel of class 0 the epoch scores no less.
        assert data.labels[21] == 0
        spoilt = Training(data).spoil(monkeypatch, 21, {expected.epoch}, no_logits)
        found = spoilt.run()
        assert set(found.trainlog) == {1, 2, 3, 4}
        losses = {e: log["val_loss"] for e, log in found.trainlog.items()}
        assert [e for e, loss in losses.items() if math.isnan(loss)] == [expected.epoch]
        scores = {e: log["val_IoU"] for e, log in found.trainlog.items()}
        del scores[expected.epoch]
        assert found.epoch == max(scores, key=lambda e: (scores[e], e))
        assert f"epoch {expected.epoch}: the validation loss is not finite" in caplog.text

    def test_patience_counts_from_the_first_usable_epoch(self, data, monkeypatch):
        trained = Training(data, patience=1, epochs=9).spoil(monkeypatch, 21, {1, 2}, no_logits)
        result = trained.run()
        assert result.epoch >= 3

    def test_without_any_usable_epoch_the_training_diverged(self, data, monkeypatch, tmp_path):
        state = TrainingState(tmp_path / "member_1.pt", "digest")
        trained = Training(data, state).spoil(monkeypatch, 21, {1, 2, 3, 4}, no_logits)
        message = "the validation loss is not finite in any of 4 epochs"
        with pytest.raises(DivergedError, match=message):
            trained.run()
        assert not state.path.exists()


def test_all_finite_checks_nested_values():
    good, bad = torch.ones(2, 3), torch.tensor([1.0, math.inf])
    counts = torch.tensor([1, 2])
    assert all_finite({"a": [good, (counts, 1, None, "x")], "b": {"c": good, 3: math.nan}})
    for broken in (bad, -bad, bad * 0):
        assert not all_finite({"a": [good, (good, {"b": broken})]})


def test_losses_are_not_read_within_an_epoch_on_a_gpu():
    # A tensor on "meta" has no values to be asked for.
    meta = torch.device("meta")
    watch = StepWatch(["a", "b"], 1, 2, meta)
    for _ in range(2):
        watch.add(torch.empty((), device=meta), torch.empty((), device=meta), np.arange(2))
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        watch.end({})
