"""A model in one file: round trip, refusals, and reading executes no code."""

import json
import pickle
import struct

import pytest
import torch

from models.checkpoints import load_checkpoint, load_safetensors, save_safetensors
from models.classifier import ParcelClassifier
from models.crop_model import CropModel, member_seed
from models.errors import InputError
from models.hyperparameters import Hyperparameters
from models.model_files import member_file
from models.standardisation import FeatureScaling, Normalisation
from tests.builders.models import describe, random_model

CPU = torch.device("cpu")


@pytest.fixture
def description():
    return describe(
        Hyperparameters.for_data("pseltae", n_channels=2, n_classes=3, n_extra=2),
        Normalisation([1000.0, 1 / 3], [2.0, 0.1]),
        FeatureScaling([1.0, 0.1], [2.0, 1 / 3]),
        bands=["B02", "B03"],
        class_codes=["01", "B", "c"],
        class_names=["blé", "maïs", "other"],
        first_date="2017-01-10",
        seed=3,
        members=2,
    )


def test_round_trip(description, tmp_path):
    model = ParcelClassifier(description.hyperparameters, torch.Generator().manual_seed(1))
    path = tmp_path / "Fold_1" / "model.safetensors"
    save_safetensors(path, model.state_dict(), description)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    found, read = load_safetensors(path, CPU)
    assert not found.training
    expected = model.state_dict()
    assert found.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in found.state_dict().items())
    assert read.to_json() == description.to_json()


def test_the_header_is_plain_json(description, tmp_path):
    model = ParcelClassifier(description.hyperparameters)
    path = tmp_path / "model.safetensors"
    save_safetensors(path, model.state_dict(), description)
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    said = json.loads(header["__metadata__"]["parcelwise"])
    assert said["class_names"] == ["blé", "maïs", "other"]
    assert said["normalisation"]["means"] == [1000.0, 1 / 3]
    assert {"bands", "hyperparameters", "feature_scaling", "first_date", "versions", "seed"} <= (
        said.keys()
    )


def test_refuses_other_files(description, tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(InputError, match="is not there"):
        load_safetensors(path, CPU)
    path.write_bytes(b"half a file")
    with pytest.raises(InputError, match="not a safetensors file"):
        load_safetensors(path, CPU)
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="expected the key 'parcelwise'"):
        load_safetensors(path, CPU)
    save_safetensors(path, {"a": torch.zeros(1)}, description)
    with pytest.raises(InputError, match="weights are not those of the hyper-parameters"):
        load_safetensors(path, CPU)


class Malicious:
    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


def test_reading_a_checkpoint_executes_no_code(description, tmp_path):
    torch.save({"epoch": 1, "state_dict": Malicious()}, tmp_path / "model.pth.tar")
    with pytest.raises(SystemExit):
        torch.load(tmp_path / "model.pth.tar", weights_only=False)
    with pytest.raises(InputError, match=r"not a file that torch.save wrote"):
        load_checkpoint(tmp_path / "model.pth.tar", description.hyperparameters, CPU)
    (tmp_path / "model.safetensors").write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(InputError, match="not a safetensors file"):
        load_safetensors(tmp_path / "model.safetensors", CPU)


def test_each_member_has_its_files(description, tmp_path):
    fitted = random_model(description)
    fitted.save(tmp_path / "Fold_1")
    assert {p.name for p in (tmp_path / "Fold_1").iterdir()} == {
        "model.json",
        *("model.pth.tar", "model.safetensors", "trainlog.json"),
        *("model_2.pth.tar", "model_2.safetensors", "trainlog_2.json"),
    }
    assert member_file("trainlog.json", 10) == "trainlog_10.json"
    found = CropModel.load(tmp_path / "Fold_1", CPU)
    weights = [[m.decoder[0].weight for m in model.members] for model in (fitted, found)]
    assert not torch.equal(*weights[0])
    for number, (one, other) in enumerate(zip(*weights, strict=True), 1):
        assert torch.equal(one, other)
        file = tmp_path / "Fold_1" / member_file("model.safetensors", number)
        portable, own = load_safetensors(file, CPU)
        assert torch.equal(portable.decoder[0].weight, one)
        # Each file says the seed of its own member.
        assert own.seed == member_seed(description.seed, number)
