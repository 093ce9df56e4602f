import dataclasses
import json

import numpy as np
import pytest
import torch

from models.checkpoints import load_checkpoint
from models.crop_model import CropModel, ensemble
from models.errors import InputError
from models.hyperparameters import Hyperparameters
from models.metrics import confusion_matrix, mean_iou
from models.model_description import ModelDescription
from models.model_files import (
    fold_folders,
    read_description,
    write_description,
)
from models.pixel_sets import PixelSets
from models.standardisation import FeatureScaling, Normalisation
from models.training.batches import Batches
from models.training.learner import focal_loss
from models.training.train_fold import train_fold
from tests.builders.models import describe, small_model, training_settings

CPU = torch.device("cpu")
NORMALISATION = Normalisation(2000.0, 1000.0)
PARTS = np.arange(20), np.arange(20, 30)


@pytest.fixture(scope="module")
def data():
    """Thirty parcels of three classes, whose first channel peaks on different dates."""
    rng = np.random.default_rng(1)
    sizes = rng.integers(1, 12, 30)
    labels = np.arange(30) % 3
    days = np.tile(np.arange(6) * 20, (30, 1))
    curves = 2000 + 1500 * np.exp(-(((days[0] - 20 - 40 * np.arange(3)[:, None]) / 20) ** 2))
    pixels = np.repeat(curves[labels], sizes, axis=0)[..., None] * [1.0, 0.5]
    pixels += rng.normal(0, 200, pixels.shape)
    return PixelSets(
        ids=[str(i) for i in range(30)],
        pixels=pixels.astype(np.uint16),
        offsets=np.cumsum([0, *sizes]),
        days=days,
        labels=labels,
        features=rng.normal(size=(30, 2)),
    )


def train(data, hyperparameters=None, on_epoch=None, parts=PARTS, **settings):
    description = describe_for(data, hyperparameters or small_model(n_extra=2), parts[0])
    own = training_settings(**{"batch_size": 7, **settings})
    return train_fold(data, *parts, description, own, CPU, on_epoch=on_epoch)


def describe_for(data, hyperparameters, train=PARTS[0]):
    return describe(hyperparameters, NORMALISATION, FeatureScaling.fit(data.features[train]))


def crop_model(data, result, hyperparameters=None):
    description = describe_for(data, hyperparameters or small_model(n_extra=2))
    return CropModel.of_results(description, [result], data.days[0], CPU)


def predict(model, data, indices, batch_size=8):
    return model.log_probabilities(data, np.asarray(indices), batch_size)


def same_weights(one, other):
    return all(torch.equal(one.state_dict[key], other.state_dict[key]) for key in one.state_dict)


class TestTraining:
    @pytest.mark.parametrize("name", ["psetae", "pseltae"])
    def test_the_seed_repeats_a_run_bit_for_bit(self, data, name):
        hyperparameters = small_model(name, n_extra=2)
        torch.manual_seed(1)
        first = train(data, hyperparameters, seed=5)
        torch.manual_seed(2)
        again = train(data, hyperparameters, seed=5)
        other = train(data, hyperparameters, seed=6)
        assert same_weights(first, again)
        assert first.trainlog == again.trainlog
        assert not same_weights(first, other)

    def test_does_not_change_the_global_generator(self, data):
        state = torch.get_rng_state()
        train(data)
        assert torch.equal(torch.get_rng_state(), state)

    @pytest.mark.parametrize("name", ["psetae", "pseltae"])
    @pytest.mark.slow
    def test_overfits_twenty_parcels(self, data, name):
        hyperparameters = small_model(name, n_extra=2, dropout=0.0)
        result = train(data, hyperparameters, epochs=60, learning_rate=0.01)
        model = crop_model(data, result, hyperparameters)
        predicted = predict(model, data, PARTS[0]).argmax(1)
        assert (predicted == data.labels[:20]).all()

    def test_learning_rate_is_that_of_the_settings(self, data):
        # Adam's first step is as long as the learning rate wherever there is a gradient. So the
        # results of the rates r and 2 r, from the same initial weights, differ by r.
        key = "decoder.3.weight"
        for rate in (1e-3, 3e-2):
            results = [
                train(data, epochs=1, batch_size=20, learning_rate=r) for r in (rate, 2 * rate)
            ]
            step = (results[1].state_dict[key] - results[0].state_dict[key]).abs().median().item()
            assert step == pytest.approx(rate, rel=0.05)
            assert results[0].optimizer_state["param_groups"][0]["lr"] == rate

    def test_onecycle_ends_near_zero(self, data):
        result = train(data, epochs=1, schedule="onecycle", learning_rate=0.01)
        group = result.optimizer_state["param_groups"][0]
        assert group["lr"] < 1e-5
        assert group["max_lr"] == 0.01

    def test_adamw_decays_weights(self, data):
        plain = train(data, epochs=1, optimizer="adamw")
        decayed = train(data, epochs=1, optimizer="adamw", weight_decay=5.0)
        key = "temporal_encoder.mlp.0.weight"
        assert decayed.state_dict[key].norm() < plain.state_dict[key].norm()

    def test_balanced_weighting_changes_the_weights(self, data):
        uneven = PARTS[0][[0, 1, 2, 3, 6, 9, 12, 15, 18]], PARTS[1]
        plain = train(data, parts=uneven)
        balanced = train(data, parts=uneven, class_weighting="balanced")
        assert not same_weights(plain, balanced)

    def test_returns_the_latest_of_the_best_epochs(self, data):
        seen = []
        result = train(data, on_epoch=seen.append, epochs=6, learning_rate=0.01)
        scores = {epoch: log["val_IoU"] for epoch, log in result.trainlog.items()}
        assert result.epoch == max(e for e in scores if scores[e] == max(scores.values()))
        assert [log.pop("epoch") for log in seen] == [1, 2, 3, 4, 5, 6]
        assert seen == list(result.trainlog.values())
        assert set(seen[0]) == {
            f"{part}_{name}" for part in ("train", "val") for name in ("loss", "accuracy", "IoU")
        }

        scores = predict(crop_model(data, result), data, PARTS[1])
        best = result.trainlog[result.epoch]
        labels = data.labels[20:]
        matrix = confusion_matrix(labels, scores.argmax(1), 3)
        assert best["val_IoU"] == mean_iou(matrix)
        assert best["val_accuracy"] == pytest.approx(100 * np.mean(scores.argmax(1) == labels))
        loss = focal_loss(torch.from_numpy(scores), torch.from_numpy(labels), gamma=1.0)
        assert best["val_loss"] == pytest.approx(loss.item(), rel=1e-5)

    def test_the_best_epoch_equals_a_training_that_ends_there(self, data):
        # One parcel to validate is right or wrong: mIoU 1 or 0, and several best epochs. A seed is
        # looked for with which the last of them is not the end of the training.
        settings = {"parts": (PARTS[0], np.array([25])), "learning_rate": 0.05}
        for seed in range(5, 60):
            result = train(data, epochs=9, seed=seed, **settings)
            scores = [log["val_IoU"] for log in result.trainlog.values()]
            if scores[-1] == 0.0 and scores.count(1.0) > 1:
                break
        assert result.epoch == 9 - scores[::-1].index(1.0) < 9
        ended = train(data, epochs=result.epoch, seed=seed, **settings)
        assert same_weights(result, ended)

    @pytest.mark.parametrize("n", [2, 8, 9, 15, 16])
    def test_last_batches_can_have_any_size(self, data, n):
        assert train(data, parts=(np.arange(n), PARTS[1]), epochs=1).epoch == 1

    def test_the_last_epoch_needs_no_validation_part_and_does_not_depend_on_it(self, data):
        with_part = train(data, epochs=2, keep="last")
        without = train(data, parts=(PARTS[0], PARTS[1][:0]), epochs=2, keep="last")
        assert without.epoch == 2
        assert same_weights(without, with_part)
        for epoch, log in without.trainlog.items():
            assert set(log) == {"train_loss", "train_accuracy", "train_IoU"}
            assert log.items() <= with_part.trainlog[epoch].items()

    def test_refuses_invalid_training_and_validation_parts(self, data):
        with pytest.raises(InputError, match="training: expected at least 2 parcels, found 1"):
            train(data, parts=(np.array([1]), PARTS[1]))
        with pytest.raises(InputError, match="validation: expected at least 1 parcels, found 0"):
            train(data, parts=(PARTS[0], np.array([], dtype=np.int64)))
        with pytest.raises(InputError, match="2 parcels are in training and validation, such as 2"):
            train(data, parts=(PARTS[0], np.array([2, 3, 25])))
        labels = data.labels.copy()
        labels[[4, 5]] = [-1, 3]
        unlabelled = dataclasses.replace(data, labels=labels)
        with pytest.raises(
            InputError, match=r"training: 2 parcels have no label .*4 \(-1\), 5 \(3\)"
        ):
            train(unlabelled)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"optimizer": "sgd"}, "optimizer: expected one of"),
            ({"schedule": "linear"}, "schedule: expected one of"),
            ({"class_weighting": "sqrt"}, "class_weighting: expected one of"),
            ({"batch_size": 1}, "batch_size: expected 2 or more, found 1"),
            ({"epochs": 0}, "epochs: expected 1 or more"),
            ({"learning_rate": 0.0}, "learning_rate: expected above 0"),
            ({"gamma": -1.0}, "gamma: expected 0 or more"),
            ({"initialisation": "zeros"}, "initialisation: expected one of"),
            ({"date_dropping": 1.0}, "date_dropping: expected 0 to below 1, found 1.0"),
            ({"patience": 0}, "patience: expected 1 or more, found 0"),
        ],
    )
    def test_refuses_settings(self, changes, message):
        with pytest.raises(InputError, match=message):
            training_settings(**changes)


class TestInference:
    @pytest.fixture
    def model(self, data):
        return crop_model(data, train(data))

    def test_predicts_in_evaluation_mode_and_restores_the_mode(self, model, data):
        [member] = model.members
        assert not member.training
        expected = predict(model, data, range(30))
        before = {key: value.clone() for key, value in member.state_dict().items()}
        member.train()
        found = predict(model, data, range(30))
        np.testing.assert_array_equal(found, expected)
        assert member.training
        assert all(torch.equal(before[key], value) for key, value in member.state_dict().items())

    def test_a_prediction_depends_only_on_the_parcel(self, model, data):
        expected = predict(model, data, range(30), batch_size=30)
        for batch_size in (1, 7):
            found = predict(model, data, range(30), batch_size)
            np.testing.assert_allclose(found, expected, rtol=0, atol=5e-6)
        order = np.random.default_rng(2).permutation(30)[:11]
        np.testing.assert_allclose(predict(model, data, order), expected[order], rtol=0, atol=5e-6)

    def test_needs_no_labels(self, model, data):
        unlabelled = dataclasses.replace(data, labels=np.full(30, -1))
        np.testing.assert_array_equal(
            predict(model, unlabelled, range(30)), predict(model, data, range(30))
        )

    def test_predicts_other_and_more_dates(self, model, data):
        twice = dataclasses.replace(
            data,
            pixels=np.repeat(data.pixels, 2, axis=1),
            days=np.repeat(data.days, 2, axis=1) + 400,
        )
        assert np.isfinite(predict(model, twice, range(30))).all()

    def test_returns_log_probabilities(self, model, data):
        found = predict(model, data, range(30))
        assert found.dtype == np.float32
        np.testing.assert_allclose(np.exp(found).sum(1), 1, rtol=1e-5)
        assert predict(model, data, np.array([], dtype=np.int64)).shape == (0, 3)

    def test_ensemble_is_the_mean(self):
        one, other = np.log([[0.5, 0.5]]), np.log([[0.1, 0.9]])
        found = ensemble([one.astype(np.float32), other.astype(np.float32)])
        np.testing.assert_allclose(found, (one + other) / 2, rtol=1e-6)
        with pytest.raises(ValueError, match="at least one model"):
            ensemble([])

    def test_refuses_data_of_other_bands(self, model, data):
        other = dataclasses.replace(data, pixels=np.repeat(data.pixels, 2, axis=2))
        with pytest.raises(InputError, match="takes 2 channels, the dataset has 4"):
            predict(model, other, range(3))

    def test_refuses_data_without_the_features_or_with_other_dates(self, model, data):
        with pytest.raises(InputError, match=r"trained with 2 geometric features .*dataset has 0"):
            predict(model, dataclasses.replace(data, features=None), range(3))
        by_date = Normalisation(np.full((5, 2), 2000.0), np.full((5, 2), 1000.0))
        description = dataclasses.replace(model.description, normalisation=by_date)
        other = dataclasses.replace(model, description=description)
        with pytest.raises(InputError, match=r"does not fit the dataset: .*\(5, 2\).*6 dates"):
            predict(other, data, range(3))


class TestCheckpoints:
    def save(self, folder, result, hyperparameters, data):
        crop_model(data, result, hyperparameters).save(folder)
        return folder / "model.pth.tar"

    @pytest.mark.parametrize("name", ["psetae", "pseltae"])
    def test_round_trip(self, data, tmp_path, name):
        hyperparameters = small_model(name, n_extra=2)
        result = train(data, hyperparameters)
        path = self.save(tmp_path / "Fold_1", result, hyperparameters, data)
        assert {p.name for p in path.parent.iterdir()} == {
            "model.json", "model.pth.tar", "model.safetensors", "trainlog.json"
        }  # fmt: skip
        assert [p.name for p in tmp_path.iterdir()] == ["Fold_1"]
        saved = torch.load(path, weights_only=True)
        assert set(saved) == {"epoch", "state_dict", "optimizer"}
        assert saved["state_dict"]["temporal_encoder.position_enc.weight"].shape == (6, 16)

        model = CropModel.load(path.parent, CPU)
        [member] = model.members
        assert not member.training
        assert all(torch.equal(member.state_dict()[k], v) for k, v in result.state_dict.items())
        fitted = crop_model(data, result, hyperparameters)
        assert model.description.to_json() == fitted.description.to_json()
        np.testing.assert_array_equal(predict(model, data, [3]), predict(fitted, data, [3]))
        with pytest.raises(ValueError, match="only a model that was fitted"):
            model.save(tmp_path / "Fold_2")

    def test_the_position_table_by_order_has_one_more_row(self, data, tmp_path):
        hyperparameters = small_model(n_extra=2, positions="order")
        path = self.save(tmp_path, train(data, hyperparameters), hyperparameters, data)
        table = torch.load(path, weights_only=True)["state_dict"][
            "temporal_encoder.position_enc.weight"
        ]
        assert table.shape == (7, 16)
        torch.testing.assert_close(table[3, 0], torch.tensor(3.0).sin())

    def test_bytes_do_not_depend_on_the_file_name(self, data, tmp_path):
        hyperparameters = small_model(n_extra=2)
        one, other = (
            self.save(tmp_path / name, train(data), hyperparameters, data).read_bytes()
            for name in ("Fold_1", "elsewhere")
        )
        assert one == other

    def test_description_round_trip(self, tmp_path):
        description = describe(
            small_model(n_extra=2),
            NORMALISATION,
            FeatureScaling(np.array([1.0, 0.1]), np.array([2.0, 1 / 3])),
            class_codes=["01", "B", "c"],
            class_names=["blé", "maïs", "other"],
            versions={"torch": "2"},
        )
        write_description(tmp_path / "Fold_1", description)
        found = read_description(tmp_path / "Fold_1")
        assert found.to_json() == description.to_json()
        assert found.hyperparameters == description.hyperparameters
        h = description.hyperparameters
        own = dataclasses.replace(h, extra_size=0, mlp2=(h.mlp2[0] - 2, *h.mlp2[1:]))
        without = dataclasses.replace(description, hyperparameters=own, feature_scaling=None)
        assert ModelDescription.from_json(without.to_json()).feature_scaling is None

    def test_refuses_a_missing_or_incomplete_description(self, tmp_path):
        with pytest.raises(InputError, match=r"model.json is not there"):
            read_description(tmp_path)
        (tmp_path / "model.json").write_text(json.dumps({"bands": []}))
        with pytest.raises(InputError, match=r"expected the keys .*found bands"):
            read_description(tmp_path)

    def test_refuses_weights_of_another_model(self, data, tmp_path):
        hyperparameters = small_model(n_extra=2)
        self.save(tmp_path, train(data), hyperparameters, data)
        other = small_model(n_extra=2, dropout=0.1)
        load_checkpoint(tmp_path / "model.pth.tar", other, CPU)
        wider = Hyperparameters.for_data("psetae", n_channels=2, n_classes=3, n_extra=2)
        with pytest.raises(InputError, match=r"weights are not those .*expected \(64, 128\)"):
            load_checkpoint(tmp_path / "model.pth.tar", wider, CPU)

    def test_refuses_files_that_are_not_checkpoints(self, tmp_path):
        with pytest.raises(InputError, match=r"model.pth.tar is not there"):
            load_checkpoint(tmp_path / "model.pth.tar", small_model(n_extra=2), CPU)
        (tmp_path / "model.pth.tar").write_bytes(b"half a file")
        with pytest.raises(InputError, match=r"not a file that torch.save wrote"):
            load_checkpoint(tmp_path / "model.pth.tar", small_model(n_extra=2), CPU)
        torch.save([1, 2], tmp_path / "model.pth.tar")
        with pytest.raises(InputError, match="expected 'epoch', 'state_dict'"):
            load_checkpoint(tmp_path / "model.pth.tar", small_model(n_extra=2), CPU)

    def test_folds_are_in_numeric_order_without_other_folders(self, tmp_path):
        for name in ("Fold_10", "Fold_2", "Fold_1", "Fold_old", "notes", "Fold_3b"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "model.pth.tar").touch()
        (tmp_path / "Fold_4").touch()
        assert list(fold_folders(tmp_path)) == [1, 2, 10]
        (tmp_path / "Fold_2" / "model.pth.tar").unlink()
        with pytest.raises(InputError, match=r"no model.pth.tar in Fold_2"):
            fold_folders(tmp_path)
        with pytest.raises(InputError, match="expected folders Fold_1"):
            fold_folders(tmp_path / "notes")


def test_refuses_no_pixels(data):
    with pytest.raises(InputError, match="n_pixels: expected 1 or more, found 0"):
        Batches(data, NORMALISATION, None, 0, CPU)
