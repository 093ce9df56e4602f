"""Training that starts from the weights of another run: what is kept, and what is refused."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch

from geo.errors import InputError
from models.checkpoints import load_state_dict
from models.crop_model import CropModel
from models.training.resume import TrainingState
from models.training.start import shared_rows
from pipeline.dataset.trained_on import digests_of
from pipeline.stages import train as stage
from pipeline.stages.split import split
from pipeline.stages.train import train
from pipeline.workflow.config import load, view
from pipeline.workflow.inputs import check_inputs
from tests.builders.paths import PARITY
from tests.builders.pixel_sets import BANDS, CLASSES, ingested, make, write
from tests.builders.runs import opened

CPU = torch.device("cpu")
WIDTHS = {"mlp1": [4, 8], "mlp2": [20, 8], "mlp3": [8, 8], "mlp4": [8, 6, 3], "n_head": 2, "d_k": 4}
MODEL = {**WIDTHS, "d_model": 8, "T": 500}
LAST = "decoder.3."


def settings_of(source, *, start=None, model=None, **changes):
    values = {"epochs": 1, "batch_size": 16, "pixels": 4, "members": 1, "device": "cpu"}
    return load(
        {
            "dataset": {"path": source, "bands": BANDS, "classes": {"min_parcels": 5}},
            "split": {"folds": 3, **changes.pop("split", {})},
            "model": model or {},
            "train": {**values, "from": start, **changes},
        }
    )


def prepared(folder, settings):
    run = ingested(settings, folder)
    split(run.dataset.root, run.folds, view(settings, "split"))
    return run


def train_fold(run, settings, folder=None, fold=1, **others):
    torch.set_num_threads(1)
    target = (folder or run.models) / f"Fold_{fold}"
    train(run.dataset.root, run.folds, fold, target, view(settings, "train"), **others)
    return CropModel.load(target, CPU)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A run with two folds that are trained: two members, classes barley, maize and wheat."""
    folder = tmp_path_factory.mktemp("first")
    make(folder / "existing")
    settings = settings_of(folder / "existing", model=MODEL, members=2)
    run = prepared(folder / "run", settings)
    for fold in (1, 2):
        train_fold(run, settings, fold=fold)
    return run


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    """A dataset of other parcels, a year later: classes maize, rye and wheat."""
    folder = tmp_path_factory.mktemp("second")
    make(folder / "existing", n=63)
    labels = folder / "existing" / "META" / "labels.json"
    renamed = {
        i: {"barley": "rye"}.get(c, c) for i, c in json.loads(labels.read_text())["crop"].items()
    }
    write(labels, {"crop": renamed})
    dates = folder / "existing" / "META" / "dates.json"
    later = {i: day + 10_000 for i, day in json.loads(dates.read_text()).items()}
    write(dates, later)
    return prepared(folder / "run", settings_of(folder / "existing"))


def source_of(run):
    return run.root.parent / "existing"


def tuned(first, second, folder, fold=1, **changes):
    """Train a fold of the second dataset from the first run; nearly without a step by default."""
    still = {"learning_rate": 1e-12, "weight_decay": 0.0, **changes}
    return train_fold(
        second, settings_of(source_of(second), start=first.models, **still), folder, fold
    )


def test_weights_are_kept_but_for_new_classes(first, second, tmp_path):
    before = CropModel.load(first.fold(1), CPU)
    after = tuned(first, second, tmp_path)
    about = after.description
    assert about.class_codes == ["maize", "rye", "wheat"]
    assert before.description.class_codes == CLASSES == ["barley", "maize", "wheat"]
    assert about.started_from == str(first.fold(1))
    assert about.hyperparameters == before.description.hyperparameters
    assert about.hyperparameters.T == 500
    for name in ("normalisation", "feature_scaling"):
        own, other = (getattr(m.description, name).to_json() for m in (after, before))
        assert own == other, name
    assert (before.description.first_date, about.first_date) == ("2018-03-01", "2019-03-01")
    old, new = (m.members[0].state_dict() for m in (before, after))
    for name, weight in new.items():
        if name.startswith(LAST):
            kept, of_first = weight[[0, 2]], old[name][[1, 2]]
            assert torch.allclose(kept, of_first, atol=1e-6)
            assert not torch.allclose(weight[1], old[name][0], atol=1e-3)
        elif "running" not in name and "tracked" not in name:
            assert torch.allclose(weight, old[name], atol=1e-6), name


def test_models_from_random_weights_do_not_say_that_they_started_from_others(first):
    assert "started_from" not in json.loads((first.fold(1) / "model.json").read_text())


@pytest.mark.parametrize(("fold", "expected"), [(1, 1), (2, 2), (3, 1)])
def test_a_fold_starts_from_the_fold_of_its_number(first, second, tmp_path, fold, expected):
    found = tuned(first, second, tmp_path, fold)
    assert found.description.started_from == str(first.fold(expected))


def test_a_member_starts_from_the_member_of_its_number(first, second, tmp_path):
    before = CropModel.load(first.fold(1), CPU).members
    after = tuned(first, second, tmp_path, members=3).members
    first_weight = "spatial_encoder.mlp1.0.lin.weight"
    found = [m.state_dict()[first_weight] for m in after]
    one, two = (m.state_dict()[first_weight] for m in before)
    assert not torch.allclose(one, two, atol=1e-3)
    for own, expected in zip(found, (one, two, one), strict=True):
        assert torch.allclose(own, expected, atol=1e-6)
    # The new class of the third member is not that of the first.
    new = [m.state_dict()[f"{LAST}weight"][1] for m in after]
    assert not torch.allclose(new[0], new[2], atol=1e-3)


def test_a_code_is_not_that_of_another_type():
    assert shared_rows([12, "a", 3], ["12", "a", 3, 4]).tolist() == [-1, 1, 2]


def interrupt_after(monkeypatch, epoch):
    original = stage.show_progress

    def show_progress(fold, member, epochs):
        log = original(fold, member, epochs)

        def killing(metrics):
            log(metrics)
            if metrics["epoch"] == epoch:
                raise KeyboardInterrupt

        return killing

    monkeypatch.setattr(stage, "show_progress", show_progress)


def test_an_interrupted_training_continues_only_from_the_same_weights(
    first, second, tmp_path, monkeypatch
):
    monkeypatch.setattr(TrainingState, "every", 1)
    settings = settings_of(source_of(second), start=first.models, epochs=3)
    other = settings_of(source_of(second), start=tmp_path / "copy", epochs=3)
    shutil.copytree(first.models, tmp_path / "copy")
    shutil.copytree(first.fold(2), tmp_path / "copy" / "Fold_1", dirs_exist_ok=True)
    train_fold(second, settings, tmp_path / "unbroken")
    with monkeypatch.context() as context:
        interrupt_after(context, 2)
        with pytest.raises(KeyboardInterrupt):
            train_fold(second, settings, tmp_path / "resumed", state=tmp_path / "state")
    shutil.copytree(tmp_path / "state", tmp_path / "state_of_another")
    train_fold(second, settings, tmp_path / "resumed", state=tmp_path / "state")
    train_fold(second, other, tmp_path / "other", state=tmp_path / "state_of_another")
    train_fold(second, other, tmp_path / "anew")
    models = {
        name: (tmp_path / name / "Fold_1" / "model.pth.tar").read_bytes()
        for name in ("unbroken", "resumed", "other", "anew")
    }
    assert models["unbroken"] == models["resumed"]
    assert models["other"] == models["anew"] != models["unbroken"]


def test_weights_trained_on_the_test_parcels_are_refused(first, tmp_path):
    """The same folds are no leak; of others, test parcels were trained on, also by way of a run."""
    settings = settings_of(source_of(first), start=first.models)
    same = tmp_path / "same"
    train_fold(first, settings, same)
    other = dataclasses.replace(first, root=tmp_path / "run")
    shutil.copytree(first.dataset.root, other.dataset.root, symlinks=True)
    mixed = settings_of(source_of(first), start=first.models, split={"seed": 5})
    split(other.dataset.root, other.folds, view(mixed, "split"))
    data = opened(first).fold(first.folds, 1)
    ids = np.array(opened(first).ids)
    used = set(ids[data.train]) | set(ids[data.validation])
    test = [opened(first).ids[i] for i in opened(other).fold(other.folds, 1).test]
    n = len(used & set(test))
    with pytest.raises(InputError, match=f"Fold_1 was trained on {n} of the 20 test parcels"):
        train_fold(other, mixed, tmp_path / "leak")
    again = settings_of(source_of(first), start=same, split={"seed": 5})
    with pytest.raises(InputError, match=f"trained on {n} of the 20 test parcels"):
        train_fold(other, again, tmp_path / "leak")
    assert not (tmp_path / "leak").exists()


def test_a_digest_depends_on_the_observations_alone(first, second):
    one, two = (opened(run).pixel_sets(with_features=False) for run in (first, second))
    every = np.arange(len(one))
    digests = digests_of(one, every)
    assert len(set(digests.tolist())) == len(one)
    assert not set(digests.tolist()) & set(digests_of(two, np.arange(len(two))).tolist())
    shape = (*one.pixels.shape[:1], 3, one.pixels.shape[2])
    padded = dataclasses.replace(
        one,
        ids=[f"other {i}" for i in one.ids],
        pixels=np.concatenate([one.pixels, np.zeros(shape, np.uint16)], axis=1),
        days=np.pad(one.days, [(0, 0), (0, 3)]),
        clear=None,
    )
    assert np.array_equal(digests_of(padded, every), digests)
    assert np.array_equal(digests_of(one, every[[7, 3]]), digests[[7, 3]])


def test_weights_of_an_earlier_version_are_used_with_a_warning(first, second, tmp_path, caplog):
    shutil.copytree(first.models, tmp_path / "models")
    for path in (tmp_path / "models").glob("*/trained_on.npy"):
        path.unlink()
    settings = settings_of(source_of(second), start=tmp_path / "models")
    train_fold(second, settings, tmp_path / "tuned")
    assert "it is not known which parcels" in caplog.text
    # It is not known of the new models, either.
    caplog.clear()
    train_fold(second, settings_of(source_of(second), start=tmp_path / "tuned"), tmp_path / "two")
    assert "it is not known which parcels" in caplog.text


REFUSED = {
    "another model": ({"model": {"name": "psetae"}}, "model.name is psetae, that of the weights"),
    "several settings": (
        {"model": {"mlp1": [4, 16, 16], "dropout": 0.4, "T": 800}},
        r"model.mlp1 is \[4, 16, 16\].*model.dropout is 0.4, that of the weights 0.2; model.T is",
    ),
    "no features": (
        {"model": {"geometric_features": False}},
        "model.geometric_features is False, that of the weights True",
    ),
    "another day 0": (
        {"model": {"season_start": "04-01"}},
        "model.season_start is 04-01, that of the weights 03-01",
    ),
    "weights that are applied": (
        {"predict": {"weights": "models"}},
        "train.from is without effect if predict.weights is set",
    ),
    "no folder": ({"train": {"from": "/nowhere"}}, "train.from: there is no /nowhere"),
    "no weights": ({"train": {"from": "."}}, "train.from: .* has no Fold_1/model.pth.tar"),
    "its own models": ({"run": "own"}, "train.from: .* is the folder of the models of this run"),
}


@pytest.mark.parametrize(("changes", "words"), REFUSED.values(), ids=REFUSED)
def test_what_contradicts_the_weights_is_refused_before_a_run(
    first, second, tmp_path, monkeypatch, changes, words
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(first.models, tmp_path / "results" / "own" / "models")
    base = {
        "dataset": {"path": source_of(second)},
        "train": {"from": tmp_path / "results" / "own" / "models"},
    }
    check_inputs(load(base))
    same = {"name": "pseltae", "mlp1": [10, 8], "mlp4": [8, 6, 99], "season_start": "03-01"}
    check_inputs(load({**base, "model": same}))
    with pytest.raises(InputError, match=f"(?s){words}"):
        check_inputs(load({**base, **changes}))


def test_other_bands_are_refused(first, second, tmp_path):
    other = dataclasses.replace(second, root=tmp_path)
    shutil.copytree(second.dataset.root, other.dataset.root, symlinks=True)
    shutil.copy(second.folds, other.folds)
    description = json.loads(other.dataset.description.read_text())
    write(other.dataset.description, {**description, "bands": BANDS[::-1]})
    words = "trained on the bands B02, B03, B04, B08, the dataset has B08, B04, B03, B02"
    with pytest.raises(InputError, match=words):
        tuned(first, other, tmp_path / "tuned")


@pytest.mark.slow
def test_weights_of_the_reference_keep_all_but_the_last_layer(tmp_path):
    if not PARITY.is_dir():
        pytest.skip(f"{PARITY} is not there")
    settings = load(
        {
            "dataset": {
                "path": PARITY / "pixelset_small",
                "nomenclature": "label_44class",
                "classes": {"min_parcels": 10},
            },
            "split": {"folds": 2},
            "train": {
                "from": PARITY / "weights", "recipe": "paper", "epochs": 1, "device": "cpu",
                "learning_rate": 1e-12,
            },
        }
    )  # fmt: skip
    run = prepared(tmp_path, settings)
    found = train_fold(run, settings)
    source = PARITY / "weights" / "Fold_1"
    weights = load_state_dict(source / "model.pth.tar")
    new = found.members[0].state_dict()
    assert found.description.started_from == str(source)
    assert found.description.hyperparameters.n_classes == len(opened(run).classes)
    name = "temporal_encoder.mlp.0.weight"
    assert torch.allclose(new[name], weights[name], atol=1e-6)
    last = max(key for key in weights if key.startswith("decoder."))
    assert len(new[last]) == len(opened(run).classes) != len(weights[last])
