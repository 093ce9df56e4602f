"""Learning rates over time, early stopping, initial weights, bfloat16."""

import contextlib
import gc
import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from models.classifier import ParcelClassifier
from models.errors import InputError
from models.hyperparameters import Hyperparameters
from models.pixel_sets import PixelSets
from models.standardisation import Normalisation
from models.training import learner as learner_module
from models.training.distributed import Processes
from models.training.divergence import StepWatch
from models.training.learner import Learner, can_compile, computes_in_bfloat16, focal_loss
from models.training.train_fold import EpochMetrics, train_fold
from tests.builders.models import describe, training_settings

CPU = torch.device("cpu")


def make_model(name="psetae", **others):
    hyperparameters = Hyperparameters.for_data(
        name, n_channels=3, n_classes=4, mlp1=(0, 8, 16), mlp2=(0, 16), mlp3=(0, 16),
        mlp4=(0, 8, 0), n_head=2, d_k=4, d_model=None if name == "psetae" else 16,
    )  # fmt: skip
    return ParcelClassifier(hyperparameters, torch.Generator().manual_seed(1), **others)


def a_batch(seed=1):
    """Return inputs and labels of six parcels."""
    pixels = torch.rand(6, 5, 3, 7, generator=torch.Generator().manual_seed(seed))
    mask = torch.ones(6, 5, 7, dtype=torch.bool)
    return (pixels, mask, torch.arange(5).expand(6, 5)), torch.tensor([0, 1, 2, 3, 0, 1])


def make_learner(model, n_steps=1, **settings):
    return Learner(model, training_settings(**settings), partial(focal_loss, gamma=1.0), n_steps)


def rates(schedule, n_steps):
    """Learning rates that the optimizer uses at every step."""
    model = make_model()
    learner = make_learner(model, n_steps, schedule=schedule, learning_rate=0.1)
    found = []
    for _ in range(n_steps):
        found.append(learner.optimizer.param_groups[0]["lr"])
        learner.learn(*a_batch())
    return [*found, learner.optimizer.param_groups[0]["lr"]]


@pytest.mark.parametrize("name", ["psetae", "pseltae"])
def test_a_step_keeps_no_tensor(name):
    learner = make_learner(make_model(name), n_steps=6)
    pixels, mask, positions = a_batch()[0]
    for mask[:3, :2] in (True, False):  # sets without a pixel take another path
        counts = []
        for _ in range(3):
            learner.learn((pixels, mask, positions), a_batch()[1])
            gc.collect()
            counts.append(sum(type(found) is torch.Tensor for found in gc.get_objects()))
        assert counts[1] == counts[2]


def test_schedules_of_the_learning_rate():
    assert rates("constant", 9) == [0.1] * 10
    expected = [0.05 * (1 + math.cos(math.pi * step / 9)) for step in range(10)]
    assert rates("cosine", 9) == pytest.approx(expected, abs=1e-12)
    onecycle = rates("onecycle", 100)
    assert onecycle[0] == pytest.approx(0.1 / 25)
    assert max(onecycle) == pytest.approx(0.1, rel=1e-3)
    assert onecycle.index(max(onecycle)) in (29, 30)
    assert onecycle[-1] < 1e-5


@pytest.fixture(scope="module")
def noise():
    """Parcels with random labels: the validation score soon stops improving."""
    rng = np.random.default_rng(1)
    return PixelSets(
        ids=[str(i) for i in range(40)],
        pixels=rng.integers(0, 4000, (80, 5, 3), dtype=np.uint16),
        offsets=np.arange(41) * 2,
        days=np.tile(np.arange(5) * 20, (40, 1)),
        labels=rng.integers(0, 4, 40),
    )


def test_patience_stops_after_the_best_epoch(noise):
    def train(patience):
        settings = training_settings(
            epochs=30, batch_size=16, n_pixels=2, patience=patience, learning_rate=0.01
        )
        description = describe(make_model().hyperparameters, Normalisation(2000.0, 1000.0))
        return train_fold(noise, np.arange(24), np.arange(24, 40), description, settings, CPU)

    endless, stopped = train(None), train(3)
    scores = [log["val_IoU"] for log in endless.trainlog.values()]
    best = next(
        i for i in range(30) if scores[i] == max(scores[: i + 1]) > max(scores[i + 1 : i + 4])
    )
    assert len(endless.trainlog) == 30
    assert len(stopped.trainlog) == stopped.epoch + 3 < 30
    assert list(stopped.trainlog.values()) == list(endless.trainlog.values())[: stopped.epoch + 3]
    assert stopped.epoch == best + 1


def test_few_parcels_get_more_epochs_until_there_are_enough_steps(noise):
    # 24 parcels in batches of 16: the last 8 are a batch, too.
    settings = training_settings(epochs=3, min_steps=9, batch_size=16, n_pixels=2)
    description = describe(make_model().hyperparameters, Normalisation(2000.0, 1000.0))
    result = train_fold(noise, np.arange(24), np.arange(24, 40), description, settings, CPU)
    assert sorted(result.trainlog) == [1, 2, 3, 4, 5]
    assert [settings.epochs_of(n_batches) for n_batches in (1, 3, 4, 100)] == [9, 3, 3, 3]


def test_the_last_epoch_is_kept_if_that_is_set(noise):
    description = describe(make_model().hyperparameters, Normalisation(2000.0, 1000.0))

    def train(**changes):
        settings = training_settings(batch_size=16, n_pixels=2, learning_rate=0.01, **changes)
        return train_fold(noise, np.arange(24), np.arange(24, 40), description, settings, CPU)

    # Rounding differs between processors, and with it which epoch is the best.
    scores = [epoch["val_IoU"] for epoch in train(epochs=20, keep="best").trainlog.values()]
    worse = next(n for n in range(1, 20) if scores[n] < max(scores[:n]))
    best, last = (train(epochs=worse + 1, keep=kept) for kept in ("best", "last"))
    assert best.trainlog == last.trainlog
    assert best.epoch < last.epoch == worse + 1
    ends_there = train(epochs=best.epoch, keep="last")  # the learning rate is constant
    for name, weight in best.state_dict.items():
        assert torch.equal(weight, ends_there.state_dict[name])
    with pytest.raises(InputError, match="patience: expected null if the last epoch is kept"):
        training_settings(keep="last", patience=3)


@pytest.mark.parametrize("name", ["psetae", "pseltae"])
def test_initial_weights(name):
    paper, torch_s = (make_model(name, initialisation=kind) for kind in ("paper", "torch"))
    for model in (paper, torch_s):
        again = make_model(name, initialisation="paper" if model is paper else "torch")
        for one, other in zip(model.parameters(), again.parameters(), strict=True):
            assert torch.equal(one, other)
    norms = [m for m in torch_s.modules() if isinstance(m, nn.BatchNorm1d)]
    assert all((norm.weight == 1).all() and (norm.bias == 0).all() for norm in norms)
    assert not all((m.weight == 1).all() for m in paper.modules() if isinstance(m, nn.BatchNorm1d))
    scaled = torch.cat(
        [
            values.flatten() * layer.weight[0].numel() ** 0.5
            for layer in torch_s.modules()
            if isinstance(layer, nn.Linear | nn.Conv1d)
            for values in (layer.weight, layer.bias)
        ]
    )
    assert scaled.abs().max() <= 1
    assert scaled.std().item() == pytest.approx(1 / math.sqrt(3), rel=0.03)


def test_a_cpu_computes_in_float32_whatever_the_setting():
    for precision in ("auto", "float32", "bfloat16"):
        assert not computes_in_bfloat16(precision, CPU)


@pytest.mark.parametrize("name", ["psetae", "pseltae"])
def test_loss_and_gradient_of_bfloat16_are_near_those_of_float32(name):
    """As on a GPU, but with the autocast of a CPU."""
    generator = torch.Generator().manual_seed(2)
    # In a batch of 8 the statistics of the batch are so rough that the cosine is 0.84 to 1.00 over
    # twelve seeds; of 64, 0.97 to 1.00.
    pixels = torch.randn(64, 5, 3, 30, generator=generator) + 3
    mask = torch.rand(64, 5, 30, generator=generator) < 0.7
    positions = torch.arange(5).expand(64, 5) * 20
    labels = torch.arange(64) % 4
    found = {}
    for bfloat16 in (False, True):
        model = make_model(name, initialisation="torch").train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
            logits = model(pixels, mask, positions)
            assert logits.dtype == (torch.bfloat16 if bfloat16 else torch.float32)
            loss = focal_loss(logits, labels, gamma=1.0)
        loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
        moments = torch.cat([b.flatten() for n, b in model.named_buffers() if "mlp1.0" in n])
        found[bfloat16] = loss.detach().double(), gradient, moments
    (loss, gradient, moments), (rough_loss, rough_gradient, rough_moments) = found.values()
    assert rough_loss.item() == pytest.approx(loss.item(), rel=0.03)
    assert torch.cosine_similarity(rough_gradient, gradient, dim=0) > 0.9
    # Sums over the pixels are float32: only the linear layer in front of them is rounded.
    torch.testing.assert_close(rough_moments, moments, rtol=1e-2, atol=1e-3)


def test_the_average_follows_weights_and_batch_statistics():
    model = make_model()
    learner = make_learner(model, 4, ema_decay=0.75, learning_rate=0.1)
    expected = None
    for step in range(4):
        learner.learn(*a_batch(step))
        state = {name: value.clone() for name, value in model.state_dict().items()}
        if expected is not None:
            state = {name: 0.75 * expected[name] + 0.25 * state[name] for name in state}
        expected = state
    average = learner.averaged_model.state_dict()
    assert average.keys() == model.state_dict().keys()
    for name, value in expected.items():
        if average[name].is_floating_point():
            torch.testing.assert_close(average[name], value)
    for moved in ("decoder.0.weight", "spatial_encoder.mlp1.0.bn.running_mean"):
        assert not torch.allclose(average[moved], model.state_dict()[moved])


def test_without_an_average_the_model_itself_is_returned():
    model = make_model()
    assert make_learner(model).averaged_model is model


@pytest.mark.parametrize(
    ("device", "triton", "compiler", "count", "expected"),
    [
        ("cuda", True, "gcc", 1, True),
        ("cpu", True, "gcc", 1, False),
        ("cuda", False, "gcc", 1, False),
        ("cuda", True, None, 1, False),
        ("cuda", True, "gcc", 2, False),
    ],
)
def test_a_model_is_compiled_where_torch_finds_what_it_needs(
    device, triton, compiler, count, expected, monkeypatch
):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(learner_module, "find_spec", lambda _: object() if triton else None)
    monkeypatch.setattr(
        learner_module.shutil, "which", lambda name: name if name == compiler else None
    )
    assert can_compile(torch.device(device), Processes(0, count)) is expected


@pytest.mark.parametrize("name", ["psetae", "pseltae"])
def test_a_step_does_not_wait_for_the_device(name, monkeypatch):
    # Tensors on "meta" have no values: whatever asked for one, as bool(), item() or a boolean index
    # do, would fail. A GPU would have to be waited for there.
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    meta = torch.device("meta")
    model = make_model(name).to(meta).train()
    learner = make_learner(model, 10, ema_decay=0.9)
    totals, watch = EpochMetrics("train", 4, meta), StepWatch([], 1, 2, meta)
    pixels = torch.empty(6, 5, 3, 8, device=meta)
    mask = torch.empty(6, 5, 8, dtype=torch.bool, device=meta)
    days = torch.empty(6, 5, dtype=torch.int64, device=meta)
    for _ in range(2):
        loss, logits, norm = learner.learn((pixels, mask, days, None, mask.any(2)), days[:, 0])
        watch.add(loss, norm, np.arange(6))
        totals.add(loss, logits, days[:, 0])
    assert learner.model.decoder[0].weight.grad.is_meta
    with pytest.raises(RuntimeError, match=r"item\(\)"):
        bool(mask.all())
