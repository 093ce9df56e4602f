"""Training a fold from a dataset on disk: resumed, by several processes, with several members."""

import dataclasses
import io
import json
import math
import re
import shutil
import subprocess
import sys
from datetime import date, timedelta

import numpy as np
import pytest
import torch
import yaml

from geo.errors import InputError
from models import crop_model
from models.checkpoints import load_safetensors
from models.classifier import ParcelClassifier
from models.crop_model import CropModel, ensemble, member_seed
from models.hyperparameters import Hyperparameters
from models.training import train_fold as training
from models.training.batches import Batches
from models.training.divergence import DivergedError
from models.training.resume import TrainingState
from pipeline.classes.crop_class import Classes, CropClass
from pipeline.dataset.metadata import write_labels, write_metadata, write_names
from pipeline.dataset.normalisation_pickle import write_normalisation
from pipeline.dataset.pixel_set_dataset import PixelSetDataset
from pipeline.dataset.trained_on import digests_of, read_trained_on
from pipeline.stages import train as stage
from pipeline.stages.train import (
    architecture,
    train,
    training_settings,
)
from pipeline.workflow.config import load, read, view
from pipeline.workflow.paths import INGESTED, DatasetPaths
from pipeline.workflow.progress import show_progress
from pipeline.workflow.sections.models import read_recipe
from pipeline.workflow.writing import write_json, write_text
from tests.builders.models import describe
from tests.builders.paths import ROOT
from tests.builders.pixel_sets import pack_files, write_arrays

CPU = torch.device("cpu")
N_DATES = 6
MODEL = {
    "mlp1": [3, 8, 16], "mlp2": [32, 16], "mlp3": [32, 16], "mlp4": [16, 8, 3],
    "n_head": 2, "d_k": 4,
}  # fmt: skip
FILES = {"model.json", "model.pth.tar", "model.safetensors", "trained_on.npy", "trainlog.json"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A dataset of 48 parcels of three classes that peak in different months, and one fold."""
    folder = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(1)
    ids = [f"{i:03}" for i in range(48)]
    sizes = rng.integers(1, 9, len(ids))
    peaks = np.exp(-((np.arange(N_DATES) - 1 - 2 * np.arange(3)[:, None]) ** 2))
    dataset = DatasetPaths(folder / "dataset")
    curves = 2000 + 2000 * peaks[np.arange(len(ids)) % 3][:, :, None, None]
    write_arrays(
        dataset.pixels,
        {
            i: (curve + rng.normal(0, 300, (N_DATES, 2, size))).astype(np.uint16)
            for i, curve, size in zip(ids, curves, sizes, strict=True)
        },
    )
    write_metadata(
        dataset,
        tiles=[INGESTED],
        dates=[date(2018, 3, 10) + timedelta(30 * t) for t in range(N_DATES)],
        sizes={i: int(size) for i, size in zip(ids, sizes, strict=True)},
        n_dates=dict.fromkeys(ids, N_DATES),
        description={"bands": ["B04", "B08"], "fill": "linear", "crs": None, "simulated": False},
    )
    classes = [CropClass(k, f"class {k}", class_index=k) for k in range(3)]
    labels = {i: k % 3 for k, i in enumerate(ids)}
    write_labels(dataset, {"crop": labels}, Classes("crop", classes))
    write_names(dataset, Classes("crop", classes))
    pack_files(dataset)
    write_json(dataset.features, {i: rng.normal(size=4).tolist() for i in ids})
    write_normalisation(dataset.normalisation, np.array([2500.0] * 2), np.array([900.0] * 2))
    fold = {"train": ids[:32], "validation": ids[32:40], "test": ids[40:]}
    write_json(folder / "folds.json", {"folds": [fold]})
    return folder


def settings_of(**changes):
    values = {"epochs": 4, "batch_size": 8, "pixels": 6, "members": 1, "device": "cpu"}
    model = {**MODEL, **changes.pop("model", {})}
    return load({"model": model, "train": {**values, **changes}})


def train_in(run, folder, settings, **others):
    torch.set_num_threads(1)
    train(
        run / "dataset", run / "folds.json", 1, folder / "Fold_1", view(settings, "train"), **others
    )
    return contents(folder / "Fold_1")


class KilledError(RuntimeError):
    pass


def kill_after(monkeypatch, epoch, member=1):
    """Interrupt the training after an epoch of a member."""
    original = stage.show_progress

    def show_progress(fold, number, epochs):
        log = original(fold, number, epochs)

        def killing(metrics):
            log(metrics)
            if (number, metrics["epoch"]) == (member, epoch):
                raise KilledError

        return killing

    monkeypatch.setattr(stage, "show_progress", show_progress)


@pytest.mark.slow
class TestResume:
    @pytest.fixture(autouse=True)
    def every_epoch(self, monkeypatch):
        """Write the state after every epoch."""
        monkeypatch.setattr(TrainingState, "every", 1)

    @pytest.mark.parametrize(
        "changes",
        [
            {"recipe": "paper"},
            {"schedule": "onecycle", "date_dropping": 0.3, "shift_days": 5, "ema_decay": 0.8},
            {"schedule": "cosine", "model": {"name": "pseltae", "d_model": 16, "mlp3": [16, 16]}},
        ],
        ids=["paper", "onecycle", "cosine"],
    )
    def test_writes_the_bytes_of_an_uninterrupted_run(self, run, tmp_path, monkeypatch, changes):
        settings, state = settings_of(**changes), tmp_path / "state"
        unbroken = train_in(run, tmp_path / "unbroken", settings)
        with monkeypatch.context() as context:
            kill_after(context, 2)
            with pytest.raises(KilledError):
                train_in(run, tmp_path / "resumed", settings, state=state)
        assert [p.name for p in state.iterdir()] == ["member_1.pt"]
        assert not (tmp_path / "resumed").exists()
        epochs = count_epochs(monkeypatch)
        resumed = train_in(run, tmp_path / "resumed", settings, state=state)
        assert epochs == [3, 4]
        assert resumed == unbroken
        assert set(resumed) == FILES
        assert list(state.iterdir()) == []

    def test_finished_members_are_not_trained_again(self, run, tmp_path, monkeypatch):
        settings, state = settings_of(members=2), tmp_path / "state"
        unbroken = train_in(run, tmp_path / "unbroken", settings)
        with monkeypatch.context() as context:
            kill_after(context, 1, member=2)
            with pytest.raises(KilledError):
                train_in(run, tmp_path / "resumed", settings, state=state)
        epochs = count_epochs(monkeypatch)
        assert train_in(run, tmp_path / "resumed", settings, state=state) == unbroken
        assert epochs == [2, 3, 4]

    @pytest.mark.parametrize("other", [{"learning_rate": 0.01}, {"seed": 2}])
    def test_a_state_of_other_settings_is_ignored(self, run, tmp_path, monkeypatch, other):
        state = tmp_path / "state"
        with monkeypatch.context() as context:
            kill_after(context, 2)
            with pytest.raises(KilledError):
                train_in(run, tmp_path / "killed", settings_of(), state=state)
        epochs = count_epochs(monkeypatch)
        found = train_in(run, tmp_path / "one", settings_of(**other), state=state)
        assert epochs == [1, 2, 3, 4]
        assert found == train_in(run, tmp_path / "other", settings_of(**other))

    def test_a_broken_state_is_ignored(self, run, tmp_path):
        state = tmp_path / "state"
        state.mkdir()
        (state / "member_1.pt").write_bytes(b"half a file")
        found = train_in(run, tmp_path / "one", settings_of(), state=state)
        assert found == train_in(run, tmp_path / "other", settings_of())


def count_epochs(monkeypatch):
    """List the epochs that are trained from now on."""
    epochs = []
    original = stage.show_progress

    def show_progress(fold, member, total):
        log = original(fold, member, total)
        return lambda metrics: (epochs.append(metrics["epoch"]), log(metrics))

    monkeypatch.setattr(stage, "show_progress", show_progress)
    return epochs


def test_a_state_of_other_data_has_another_digest(run):
    from models.standardisation import Normalisation
    from models.training.resume import training_digest

    data = PixelSetDataset.open(run / "dataset").pixel_sets(with_features=True)
    hyperparameters = Hyperparameters(extra_size=0, mlp2=(128, 128))
    others = (
        *(np.arange(9), np.arange(9, 12), describe(hyperparameters, Normalisation(1.0, 2.0))),
        *(training_settings(settings_of()), CPU),
    )
    digest = training_digest(data, *others)
    assert digest == training_digest(data, *others)
    for name in ("pixels", "days", "labels"):
        changed = getattr(data, name).copy()
        changed.flat[3] += 1
        assert training_digest(dataclasses.replace(data, **{name: changed}), *others) != digest
    observed = np.ones(data.days.shape, bool)
    assert training_digest(dataclasses.replace(data, observed=observed), *others) != digest
    parts, description, settings, device = others[:2], *others[2:]
    for changes in (
        {"hyperparameters": dataclasses.replace(hyperparameters, dropout=0.5)},
        {"normalisation": Normalisation(1.0, 3.0)},
    ):
        other = dataclasses.replace(description, **changes)
        assert training_digest(data, *parts, other, settings, device) != digest
    # Names do not change a training.
    renamed = dataclasses.replace(description, class_names=["x"] * len(description.class_names))
    assert training_digest(data, *parts, renamed, settings, device) == digest
    slower = dataclasses.replace(settings, learning_rate=1e-5)
    assert training_digest(data, *parts, description, slower, device) != digest


@pytest.mark.parametrize("keep", ["last", "best"])
def test_the_validation_part_is_trained_on_unless_it_chooses_the_epoch(
    run, tmp_path, monkeypatch, keep
):
    """Test parcels are never trained on."""
    trained = []
    original = Batches.training

    def training(batches, parcels, *others):
        trained.append(parcels)
        return original(batches, parcels, *others)

    monkeypatch.setattr(Batches, "training", training)
    files = train_in(run, tmp_path, settings_of(epochs=2, keep=keep))
    fold = PixelSetDataset.open(run / "dataset").fold(run / "folds.json", 1)
    learnt = [fold.train] if keep == "best" else [fold.train, fold.validation]
    expected = np.sort(np.concatenate(learnt)).tolist()
    assert [own.tolist() for own in trained] == [expected, expected]
    part = ["val"] if keep == "best" else []
    names = {f"{p}_{of}" for p in ["train", *part] for of in ("loss", "accuracy", "IoU")}
    assert [set(epoch) for epoch in json.loads(files["trainlog.json"]).values()] == [names, names]
    data = PixelSetDataset.open(run / "dataset").pixel_sets(with_features=True)
    known = np.concatenate([fold.train, fold.validation])
    found = read_trained_on(tmp_path / "Fold_1")
    assert set(found.tolist()) == set(digests_of(data, known).tolist())


class TestMembers:
    def test_a_fold_predicts_the_mean_of_its_members(self, run, tmp_path):
        train_in(run, tmp_path, settings_of(members=3))
        folder = tmp_path / "Fold_1"
        trained = CropModel.load(folder, CPU)
        data = PixelSetDataset.open(run / "dataset").pixel_sets(with_features=True)
        chosen = np.arange(40, 48)
        scores = []
        for name in ("model", "model_2", "model_3"):
            model, description = load_safetensors(folder / f"{name}.safetensors", CPU)
            alone = CropModel(description, (model,), CPU)
            scores.append(alone.log_probabilities(data, chosen, 3))
        assert not np.allclose(scores[0], scores[1], atol=1e-3)
        found = trained.log_probabilities(data, chosen, 3)
        np.testing.assert_array_equal(found, ensemble(scores))

    def test_the_first_member_is_the_model_of_a_fold_of_one(self, run, tmp_path):
        several = train_in(run, tmp_path / "several", settings_of(members=2))
        assert set(several) == FILES | {
            "model_2.pth.tar", "model_2.safetensors", "trainlog_2.json"
        }  # fmt: skip
        one = train_in(run, tmp_path / "one", settings_of())
        assert one["model.pth.tar"] == several["model.pth.tar"]
        assert member_seed(5, 1) == 5
        seeds = [member_seed(seed, member) for seed in (1, 2, 3) for member in (1, 2, 3)]
        assert len(set(seeds)) == 9

    def test_members_of_an_earlier_training_are_removed(self, run, tmp_path):
        train_in(run, tmp_path, settings_of(members=2))
        assert set(train_in(run, tmp_path, settings_of())) == FILES
        assert len(CropModel.load(tmp_path / "Fold_1", CPU).members) == 1


class TestRecipes:
    def test_paper_is_the_protocol_of_the_paper(self):
        training = training_settings(load({"train": {"recipe": "paper"}}))
        found = dataclasses.asdict(training)
        assert {key: found[key] for key in ("epochs", "batch_size", "n_pixels")} == {
            "epochs": 100, "batch_size": 128, "n_pixels": 64
        }  # fmt: skip
        assert (training.optimizer, training.learning_rate, training.gamma) == ("adam", 1e-3, 1.0)
        assert (training.schedule, training.weight_decay) == ("constant", 0.0)
        assert (training.jitter_sigma, training.jitter_clip) == (0.01, 0.05)
        assert (training.initialisation, training.date_dropping) == ("paper", 0.0)
        assert training.always_pad
        assert not training_settings(load({})).always_pad
        assert load({"train": {"recipe": "paper"}}).train.members == 1

    def test_settings_override_the_recipe_unless_they_are_null(self):
        found = load({"train": {"recipe": "paper", "learning_rate": 0.01, "optimizer": None}}).train
        assert (found.learning_rate, found.optimizer) == (0.01, "adam")
        assert load({}).train.optimizer == "adamw"
        assert load({"train": {"epochs": 7}}).train.epochs == 7

    def test_the_least_number_of_steps_never_adds_to_epochs_that_are_set(self):
        def steps(**train):
            return load({"train": train}).train.min_steps

        assert (steps(), steps(recipe="paper"), steps(epochs=None)) == (1000, 0, 1000)
        assert (steps(epochs=100), steps(epochs=100, min_steps=50)) == (0, 50)

    def test_the_last_epoch_is_kept_unless_a_training_may_stop_early(self):
        kept = [
            load({"train": train}).train.keep
            for train in ({}, {"recipe": "paper"}, {"patience": 5}, {"keep": "best"})
        ]
        assert kept == ["last", "best", "best", "best"]
        with pytest.raises(InputError, match=r"train: .*patience: without effect if keep is last"):
            load({"train": {"patience": 5, "keep": "last"}})

    @pytest.mark.parametrize(
        ("values", "name"),
        [
            ({}, "pseltae"),
            ({"train": {"recipe": "default"}}, "pseltae"),
            ({"train": {"recipe": None}, "model": {"name": None}}, "pseltae"),
            ({"train": {"recipe": "paper"}}, "psetae"),
            ({"train": {"recipe": "paper"}, "model": {"name": None, "T": 500}}, "psetae"),
            ({"train": {"recipe": "paper"}, "model": {"name": "pseltae"}}, "pseltae"),
            ({"model": {"name": "psetae"}}, "psetae"),
        ],
    )
    def test_the_model_is_that_of_the_recipe_unless_it_is_set(self, tmp_path, values, name):
        mine = tmp_path / "mine.yaml"
        mine.write_text(yaml.safe_dump(values))
        # As in Snakemake, the settings of a run override the defaults.
        for settings in (load(values), read(ROOT / "configs" / "default.yaml", mine)):
            assert settings.model.name == name
            assert values.get("model", {}).get("T", 1000) == settings.model.T
            assert load(settings.model_dump(mode="json")) == settings

    @pytest.mark.parametrize(("recipe", "name"), [("default", "pseltae"), ("paper", "psetae")])
    def test_the_model_has_the_widths_of_its_paper(self, recipe, name):
        settings = load({"train": {"recipe": recipe}})
        data = {"n_channels": 2, "n_classes": 3, "n_extra": 4}
        found = Hyperparameters.for_data(**architecture(settings), **data)
        expected = Hyperparameters.for_data(name, **data)
        assert found == expected

    def test_resolved_settings_contain_every_value_of_the_recipe(self):
        settings = load({"train": {"recipe": "paper"}})
        dumped = settings.model_dump(mode="json")
        paper = read_recipe("paper")["train"]
        assert {key: dumped["train"][key] for key in paper} == paper
        assert load(dumped) == settings

    def test_unknown_recipes_and_days_are_refused(self):
        with pytest.raises(InputError, match=r"train\.recipe: .*found 'mine'"):
            load({"train": {"recipe": "mine"}})
        for day in ("02-30", "13-01", "0901"):
            with pytest.raises(InputError, match=r"season_start|model: "):
                load({"model": {"season_start": day}})


def strict_json(path):
    """Read JSON without NaN and infinity, which are not JSON."""

    def refuse(name):
        raise ValueError(name)

    return json.loads(path.read_text(), parse_constant=refuse)


class TestDivergence:
    """With this learning rate, the weights overflow float32 after the first step."""

    TOO_HIGH = 1e30

    def test_the_message_contains_the_place_and_the_remedy(self, run, tmp_path):
        with pytest.raises(DivergedError) as error:
            train_in(run, tmp_path, settings_of(learning_rate=self.TOO_HIGH, epochs=100))
        parts = json.loads((run / "folds.json").read_text())["folds"][0]
        found = re.fullmatch(
            r"The training diverged\. Fold 1, member 1, epoch 1, batch \d of 5: the \w+ is not "
            r"finite\. The batch holds 8 parcels: (.*), \.\.\.\. Lower train\.learning_rate "
            r"\(1e\+30\).* is unchanged\.",
            str(error.value),
        )
        named = found[1].split(", ")
        assert len(set(named)) == 5
        assert set(named) <= {*parts["train"], *parts["validation"]}

    def test_an_earlier_model_is_unchanged_and_a_lower_rate_starts_anew(self, run, tmp_path):
        state = tmp_path / "state"
        before = train_in(run, tmp_path, settings_of(members=2), state=state)
        for _ in range(2):
            with pytest.raises(DivergedError, match="epoch 1, batch"):
                train_in(run, tmp_path, settings_of(learning_rate=self.TOO_HIGH), state=state)
            assert contents(tmp_path / "Fold_1") == before
        after = train_in(run, tmp_path, settings_of(learning_rate=1e-3), state=state)
        assert set(after) == FILES
        assert after == train_in(run, tmp_path / "other", settings_of(learning_rate=1e-3))

    def test_the_message_contains_the_member(self, run, tmp_path, monkeypatch):
        spoil_loss(monkeypatch, [member_seed(1, 2)])
        with pytest.raises(DivergedError, match="Fold 1, member 2, epoch 1, batch 1 of 5"):
            train_in(run, tmp_path, settings_of(members=3))
        assert not (tmp_path / "Fold_1").exists()

    def test_a_validation_loss_that_is_not_finite_is_null_in_the_log(
        self, run, tmp_path, monkeypatch
    ):
        original = training.EpochMetrics.metrics

        def metrics(sums, processes):
            found = original(sums, processes)
            calls.append(found)
            return {**found, "val_loss": math.inf} if len(calls) == 4 else found

        calls = []
        monkeypatch.setattr(training.EpochMetrics, "metrics", metrics)
        train_in(run, tmp_path, settings_of(keep="best"))
        log = strict_json(tmp_path / "Fold_1" / "trainlog.json")
        assert [epoch for epoch, values in log.items() if values["val_loss"] is None] == ["2"]
        assert all(math.isfinite(values["train_loss"]) for values in log.values())

    def test_if_a_model_cannot_be_written_the_earlier_files_are_unchanged(
        self, run, tmp_path, monkeypatch
    ):
        before = train_in(run, tmp_path, settings_of())
        original = crop_model.save_checkpoint

        def save(path, **others):
            if path.name == "model_2.pth.tar":
                raise OSError("no space left on device")
            return original(path, **others)

        monkeypatch.setattr(crop_model, "save_checkpoint", save)
        with pytest.raises(OSError, match="no space"):
            train_in(run, tmp_path, settings_of(members=2, seed=2))
        assert contents(tmp_path / "Fold_1") == before
        assert [path.name for path in tmp_path.iterdir()] == ["Fold_1"]

    @pytest.mark.slow
    def test_every_process_stops_where_one_diverges(self, run, tmp_path):
        """The loss of process 2 is infinite, but not its gradient, so process 1 is not affected."""
        config = tmp_path / "config.yaml"
        config.write_text(yaml.safe_dump(settings_of(batch_size=16).model_dump(mode="json")))
        script = tmp_path / "spoilt.py"
        script.write_text(
            "import os, sys\n"
            "from models.training import train_fold as training\n"
            "from pipeline.command_line import main\n"
            "plain = training.focal_loss\n"
            "def spoilt(logits, labels, **others):\n"
            "    loss = plain(logits, labels, **others)\n"
            "    infinite = os.environ['RANK'] == '1' and logits.requires_grad\n"
            "    return loss + float('inf') if infinite else loss\n"
            "training.focal_loss = spoilt\n"
            "sys.exit(main())\n"
        )
        result = subprocess.run(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
                *("--nproc-per-node", "2", str(script), "train", "--config", str(config)),
                *("--dataset", str(run / "dataset"), "--folds", str(run / "folds.json")),
                *("--fold", "1", "--model", str(tmp_path / "Fold_1")),
                *("--state", str(tmp_path / "state")),
            ],
            cwd=ROOT, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert result.returncode != 0
        message = "Fold 1, member 1, epoch 1, batch 1 of 3: the loss is not finite"
        assert result.stderr.count(message) == 2
        assert "batch holds 16 parcels" in result.stderr
        assert not (tmp_path / "Fold_1").exists()


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def spoil_loss(monkeypatch, seeds):
    """Make every training loss NaN in the trainings with some seeds."""
    original = training._loss

    def loss(settings, *others):
        plain = original(settings, *others)
        factor = math.nan if settings.seed in seeds else 1.0
        return lambda logits, labels: factor * plain(logits, labels)

    monkeypatch.setattr(training, "_loss", loss)


def test_the_description_contains_the_date_of_day_0(run, tmp_path):
    settings = settings_of(epochs=1, model={"season_start": "01-01"})
    train_in(run, tmp_path, settings)
    metadata = CropModel.load(tmp_path / "Fold_1", CPU).description
    assert metadata.first_date == "2018-01-01"
    other = settings_of(epochs=1)
    train_in(run, tmp_path, other)
    assert CropModel.load(tmp_path / "Fold_1", CPU).description.first_date == "2018-03-10"


def test_random_ends_make_another_training_on_clear_observations_only(run, tmp_path, monkeypatch):
    settings, fits = settings_of(epochs=1), []
    fit = CropModel.fit
    monkeypatch.setattr(
        stage.CropModel, "fit", lambda data, *a, **k: fits.append((data, k)) or fit(data, *a, **k)
    )
    last = train_in(run, tmp_path / "last", settings)
    random = train_in(run, tmp_path / "random", settings, ends="random")
    assert last["model.pth.tar"] != random["model.pth.tar"]
    assert [options["training"].random_end for _, options in fits] == [False, True]
    # The dataset is interpolated.
    assert fits[0][0].clear is None
    assert fits[1][0].clear.all()
    with pytest.raises(InputError, match=r"--ends: expected last or random, found 'first'"):
        train_in(run, tmp_path / "first", settings, ends="first")


def test_tensorboard_shows_every_epoch_of_the_last_training(run, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):
        settings = settings_of(tensorboard=True, keep="best")
        train_in(run, tmp_path, settings, tensorboard=tmp_path / "logs")
    events = EventAccumulator(str(tmp_path / "logs" / "member_1")).Reload()
    assert events.Tags()["scalars"] == [
        f"{name}/{part}" for part in ("train", "val") for name in ("loss", "accuracy", "IoU")
    ]
    shown = [(event.step, event.value) for event in events.Scalars("loss/val")]
    log = json.loads((tmp_path / "Fold_1" / "trainlog.json").read_text())
    assert shown == [(int(e), pytest.approx(m["val_loss"])) for e, m in log.items()]
    train_in(run, tmp_path, settings_of(), tensorboard=tmp_path / "none")
    assert not (tmp_path / "none").exists()


# Parameters on which no loss depends: a normalisation or a softmax that follows removes constants.
# Their gradients are only rounding, which Adam scales to steps of the learning rate. The running
# means follow these biases, but late, which predictions show.
WITHOUT_GRADIENT = re.compile(
    r"(mlp2\.\d+|mlp\.\d+|decoder\.[036]|fc1_[qk]|inconv\.\d|outlayernorm)\.bias|running_mean$"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        # 31 parcels in batches of 29 and 2: shares of 15 and 14, and of one parcel each.
        {"recipe": "paper", "batch_size": 29, "keep": "best"},
        {
            "batch_size": 8, "keep": "best", "date_dropping": 0.3, "shift_days": 5,
            "model": {"name": "pseltae", "d_model": 16, "mlp3": [16, 16]},
        },
    ],
    ids=["psetae", "pseltae"],
)  # fmt: skip
def test_two_processes_train_the_model_of_one_and_one_of_them_writes(run, tmp_path, changes):
    settings = settings_of(epochs=1, **changes)
    (fold,) = json.loads((run / "folds.json").read_text())["folds"]
    fold = {"train": fold["train"][:31], "validation": fold["validation"][:7], "test": fold["test"]}
    write_json(tmp_path / "folds.json", {"folds": [fold]})
    write_text(tmp_path / "config.yaml", yaml.safe_dump(settings.model_dump(mode="json")))
    inputs = (run / "dataset", tmp_path / "folds.json", 1)
    train(*inputs, tmp_path / "alone" / "Fold_1", view(settings, "train"))
    result = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", "-m", "pipeline", "train"),
            *("--config", str(tmp_path / "config.yaml")),
            *("--dataset", str(inputs[0]), "--folds", str(inputs[1]), "--fold", "1"),
            *("--model", str(tmp_path / "two" / "Fold_1"), "--state", str(tmp_path / "state")),
        ],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("epoch   1 of 1") == 1
    folders = [tmp_path / name / "Fold_1" for name in ("alone", "two")]
    assert set(contents(folders[1])) == set(contents(folders[0])) == FILES
    logs = [json.loads((folder / "trainlog.json").read_text())["1"] for folder in folders]
    for name, value in logs[0].items():
        tolerance = 1e-5 if name.startswith("train") else 3e-3  # see WITHOUT_GRADIENT
        assert logs[1][name] == pytest.approx(value, abs=tolerance), name
    alone, two = (CropModel.load(folder, CPU) for folder in folders)
    for name, value in alone.members[0].state_dict().items():
        tolerance = 3e-3 if WITHOUT_GRADIENT.search(name) else 1e-5
        found = two.members[0].state_dict()[name]
        assert (found - value).abs().max() <= tolerance, name
    data = PixelSetDataset.open(inputs[0])
    codes, probabilities = zip(*(model.predict(data) for model in (alone, two)), strict=True)
    assert codes[0].tolist() == codes[1].tolist()
    np.testing.assert_allclose(*probabilities, atol=5e-3)


class Terminal(io.StringIO):
    def isatty(self):
        return True


METRICS = {"train_loss": 0.5, "val_accuracy": 87.5, "val_IoU": 0.625}
UNVALIDATED = {"train_loss": 0.5, "train_accuracy": 62.5}


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        (METRICS, "loss 0.500, validation accuracy 87.5 %, mIoU 0.625"),
        (UNVALIDATED, "loss 0.500, accuracy on the training part 62.5 %"),
    ],
)
def test_a_terminal_shows_a_progress_bar(monkeypatch, metrics, words):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    show = show_progress(2, 1, epochs=3)
    for epoch in (1, 2, 3):
        show({"epoch": epoch, **metrics})
    text = terminal.getvalue()
    assert "fold 2, model 1: 100%" in text
    assert "3/3 [00:00<00:00" in text
    assert words in text


def test_a_log_file_contains_lines_instead_of_a_bar(monkeypatch, caplog):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    caplog.set_level("INFO", logger="pipeline")
    show = show_progress(2, 1, epochs=40)
    for epoch in range(1, 41):
        show({"epoch": epoch, **METRICS})
    assert stream.getvalue() == ""
    assert len(caplog.messages) == 21  # the first, and every second
    assert caplog.messages[-1].endswith("mIoU 0.625, 0 min 00 s left")


def test_the_model_uses_all_features_of_the_dataset(run, tmp_path):
    run = shutil.copytree(run, tmp_path / "run")
    features = DatasetPaths(run / "dataset").features
    values = json.loads(features.read_text())
    write_json(features, {i: own[:3] for i, own in values.items()})
    train_in(run, tmp_path / "three", settings_of(epochs=1))
    metadata = json.loads((tmp_path / "three" / "Fold_1" / "model.json").read_text())
    assert metadata["hyperparameters"]["extra_size"] == 3


def cut_to_one_pixel(run, folder):
    """Copy the run with only the first pixel of every parcel."""
    run = shutil.copytree(run, folder)
    dataset = DatasetPaths(run / "dataset")
    for path in dataset.pixels.glob("*.npy"):
        np.save(path, np.load(path)[:, :, :1])
    write_json(dataset.sizes, dict.fromkeys(json.loads(dataset.sizes.read_text()), 1))
    pack_files(dataset)
    return run


class TestPadding:
    """If no parcel has train.pixels, the default recipe pads only to the largest parcel."""

    @pytest.fixture
    def drawn(self, monkeypatch):
        """Collect the shapes (B, T, C, S) of the training batches."""
        shapes = []
        original = ParcelClassifier.forward

        def forward(model, pixels, *others):
            if model.training:
                shapes.append(tuple(pixels.shape))
            return original(model, pixels, *others)

        monkeypatch.setattr(ParcelClassifier, "forward", forward)
        return shapes

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [({}, 5), ({"pixels": 3}, 3), ({"recipe": "paper"}, 64), ({"members": 2}, 5)],
    )
    def test_pads_to_the_largest_training_parcel(self, run, tmp_path, drawn, changes, expected):
        # The other parcels are larger: the training must not depend on them.
        run = shutil.copytree(run, tmp_path / "run")
        sizes = json.loads(DatasetPaths(run / "dataset").sizes.read_text())
        small = [i for i, size in sizes.items() if size <= 5]
        large = [i for i, size in sizes.items() if size > 5]
        assert max(sizes[i] for i in small) == 5
        fold = {"train": small, "validation": large[::2], "test": large[1::2]}
        write_json(run / "folds.json", {"folds": [fold]})
        settings = settings_of(**{"epochs": 1, "pixels": 64, "keep": "best", **changes})
        train_in(run, tmp_path, settings)
        assert {shape[3] for shape in drawn} == {expected}

    def test_padding_keeps_the_loss_of_one_pixel_parcels(self, run, tmp_path, drawn, monkeypatch):
        # Copies of the only pixel do not change the mean and variance of a batch, so that the loss
        # is the same for one and for many of them.
        one = cut_to_one_pixel(run, tmp_path / "run")
        # Dropout draws the same for any number of pixels; jitter does not.
        quiet = {"epochs": 3, "pixels": 16, "jitter_sigma": 0.0, "keep": "best"}
        clamped = train_in(one, tmp_path / "clamped", settings_of(**quiet))
        assert {shape[3] for shape in drawn} == {1}
        drawn.clear()
        monkeypatch.setattr(training, "pixels_to_draw", lambda *_: 16)
        padded = train_in(one, tmp_path / "padded", settings_of(**quiet))
        assert {shape[3] for shape in drawn} == {16}
        found, expected = (json.loads(run["trainlog.json"]) for run in (clamped, padded))
        for epoch, metrics in expected.items():
            assert found[epoch]["train_loss"] == pytest.approx(metrics["train_loss"], rel=1e-3)
            # Running variances have one degree of freedom less, of more rows.
            assert found[epoch]["val_loss"] == pytest.approx(metrics["val_loss"], rel=2e-2)

    def test_larger_parcels_are_predicted_with_more_pixels(self, run, tmp_path, monkeypatch):
        one = cut_to_one_pixel(run, tmp_path / "run")
        train_in(one, tmp_path, settings_of(epochs=1, pixels=6))
        trained = CropModel.load(tmp_path / "Fold_1", CPU)
        assert trained.description.n_pixels == 6
        data = PixelSetDataset.open(run / "dataset").pixel_sets(with_features=True)
        numbers = []
        original = ParcelClassifier.forward

        def forward(model, pixels, mask, *others):
            numbers.append(mask.sum(2).max(1).values)
            return original(model, pixels, mask, *others)

        monkeypatch.setattr(ParcelClassifier, "forward", forward)
        scores = trained.log_probabilities(data, np.arange(len(data)), 1)
        assert np.isfinite(scores).all()
        assert torch.cat(numbers).tolist() == np.minimum(np.sort(data.sizes), 6).tolist()
