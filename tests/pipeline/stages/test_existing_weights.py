"""Existing weights: damaged, not finite, or different between folds, they are refused by name."""

import json
import shutil
import zipfile
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from geo.errors import InputError
from models.checkpoints import load_safetensors, load_state_dict, save_safetensors
from models.errors import InputError as ModelError
from models.hyperparameters import Hyperparameters
from models.model_files import member_file, read_description, write_description
from models.standardisation import FeatureScaling, Normalisation
from pipeline.dataset.model_inputs import load_existing, read_inputs
from pipeline.stages.calibrate import calibrate
from pipeline.stages.predict import predict
from pipeline.stages.split import split
from pipeline.workflow.config import load, view
from pipeline.workflow.inputs import check_inputs
from pipeline.workflow.paths import RunPaths
from tests.builders.models import FOLDS, random_model, random_weights, save_models
from tests.builders.paths import PARITY
from tests.builders.pixel_sets import BANDS, CLASSES, ingest_dataset, make, write
from tests.builders.runs import opened

CODES = [1, 3, 4, 5, 6, 8, 9, 12, 13, 14, 16, 18, 19, 23, 28, 31, 33, 34, 36, 39]
CPU = torch.device("cpu")
POSITIONS = ["first", "middle", "last"]


def settings_of(source, weights=None):
    return load(
        {
            "dataset": {"path": source, "bands": BANDS, "classes": {"min_parcels": 5}},
            "train": {"device": "cpu"},
            "split": {"folds": FOLDS},
            "predict": {"weights": weights},
        }
    )


class Case:
    """Models of three folds, their dataset, and the stage predict on both."""

    def __init__(self, folder, source, run, settings):
        self.folder, self.source, self.run, self.settings = folder, source, run, settings

    def fold(self, position):
        return self.folder / f"Fold_{POSITIONS.index(position) + 1}"

    def predict(self):
        predictions = self.folder.parent / "predictions" / "parcels.gpkg"
        options = view(self.settings, "predict")
        predict(self.run.dataset.root, self.folder, self.run.ledger, predictions, options)
        return pd.read_parquet(predictions.with_suffix(".parquet"))

    def refused(self, error, *words):
        """Check the refusal, and that nothing was written; return the message."""
        with pytest.raises(error) as refusal:
            self.predict()
        for word in words:
            assert word in str(refusal.value)
        assert not list(self.folder.parent.glob("predictions/*"))
        return str(refusal.value)

    def refused_at_once(self, *words):
        """Check that the workflow refuses to start."""
        with pytest.raises(InputError) as refusal:
            check_inputs(self.settings)
        for word in ("predict.weights: ", *words):
            assert word in str(refusal.value)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Ingest a dataset, and save models of this project for it."""
    folder = tmp_path_factory.mktemp("prepared")
    make(folder / "given", n=30)
    run = RunPaths(folder / "run")
    ingest_dataset(settings_of(folder / "given"), run)
    save_models(folder / "ours")
    return folder, run


@pytest.fixture
def ours(prepared, tmp_path):
    folder, run = prepared
    shutil.copytree(folder / "ours", tmp_path / "weights")
    settings = settings_of(folder / "given", tmp_path / "weights")
    return Case(tmp_path / "weights", folder / "given", run, settings)


@pytest.fixture(scope="module")
def ingested_reference(tmp_path_factory):
    if not PARITY.is_dir():
        pytest.skip(f"{PARITY} is not there")
    root = tmp_path_factory.mktemp("reference")
    settings = reference_settings(PARITY / "weights")
    run = RunPaths(root / "run")
    ingest_dataset(settings, run)
    return run


def reference_settings(weights):
    dataset = {"nomenclature": "label_44class", "classes": CODES}
    return load(
        {
            "dataset": {"path": PARITY / "pixelset_small", **dataset},
            "predict": {"weights": weights},
            "train": {"device": "cpu"},
        }
    )


@pytest.fixture
def references(ingested_reference, tmp_path):
    folder = tmp_path / "weights"
    for fold, original in ((1, 1), (2, 2), (3, 1)):
        (folder / f"Fold_{fold}").mkdir(parents=True)
        source = PARITY / "weights" / f"Fold_{original}" / "model.pth.tar"
        (folder / f"Fold_{fold}" / "model.pth.tar").write_bytes(source.read_bytes())
    settings = reference_settings(folder)
    return Case(folder, PARITY / "pixelset_small", ingested_reference, settings)


@pytest.fixture(params=["ours", "references"])
def case(request):
    return request.getfixturevalue(request.param)


def change(file, name, value):
    """Set the first number of a weight in a checkpoint."""
    checkpoint = torch.load(file, weights_only=True)
    checkpoint["state_dict"][name].view(-1)[0] = value
    torch.save(checkpoint, file)


def flip(file, at):
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


def middles(file, n):
    """Return the offsets of the middle of n entries of an archive, from the first to the last."""
    content = file.read_bytes()
    with zipfile.ZipFile(file) as archive:
        entries = [e for e in archive.infolist() if e.file_size]
    offsets = []
    for entry in entries:
        head = content[entry.header_offset : entry.header_offset + 30]
        lengths = int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
        offsets.append(entry.header_offset + 30 + lengths + entry.file_size // 2)
    return [offsets[i] for i in np.linspace(0, len(offsets) - 1, n).astype(int)]


def test_undamaged_models_predict(case):
    table = case.predict()
    check_inputs(case.settings)
    assert table["confidence"].notna().all()
    assert (table["pred_source"] == "ensemble").all()


@pytest.mark.parametrize("position", POSITIONS)
def test_a_flipped_byte_is_refused(case, position):
    file = case.fold(position) / "model.pth.tar"
    whole = file.read_bytes()
    for at in middles(file, 4):
        file.write_bytes(whole)
        flip(file, at)
        case.refused(ModelError, f"{file} is damaged", "Copy it again")
        case.refused_at_once(f"{file} is damaged")


def test_the_second_member_is_checked_too(ours):
    file = ours.fold("last") / "model_2.pth.tar"
    flip(file, middles(file, 8)[4])
    ours.refused(ModelError, f"{file} is damaged")
    ours.refused_at_once(f"{file} is damaged")


def test_any_flipped_byte_is_refused_or_changes_nothing(ours):
    """Padding and dates of the archive's entries have no checksum, but they change nothing."""
    file = ours.fold("first") / "model.pth.tar"
    whole, before = file.read_bytes(), load_state_dict(file)
    rng = np.random.default_rng(3)
    refused = 0
    for at in rng.integers(0, len(whole), 100):
        file.write_bytes(whole)
        flip(file, at)
        try:
            after = load_state_dict(file)
        except ModelError as error:
            assert str(file) in str(error)
            refused += 1
            continue
        assert all(torch.equal(after[name], value) for name, value in before.items())
    assert refused > 30


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.3, 0.99, 0.9999])
def test_a_truncated_checkpoint_is_refused(case, share):
    file = case.fold("middle") / "model.pth.tar"
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    case.refused(ModelError, str(file))
    case.refused_at_once(str(file))


@pytest.mark.parametrize(
    ("position", "name", "value"),
    [
        ("first", "decoder.0.weight", np.nan),
        ("middle", "decoder.0.bias", np.inf),
        ("last", "temporal_encoder.attention_heads.fc1_k.weight", -np.inf),
        ("first", "decoder.1.running_mean", np.nan),
        ("middle", "decoder.1.running_var", np.inf),
        ("last", "spatial_encoder.mlp1.0.bn.running_var", -1.0),
    ],
)
def test_weights_that_are_not_finite_are_refused(case, position, name, value):
    file = case.fold(position) / "model.pth.tar"
    change(file, name, value)
    case.refused(ModelError, f"{file}: ", name)


def test_weights_that_are_finite_in_float64_only_are_refused(ours):
    file = ours.fold("last") / "model_2.pth.tar"
    checkpoint = torch.load(file, weights_only=True)
    weight = checkpoint["state_dict"]["decoder.0.weight"].double()
    weight[0, 0] = 1e60
    checkpoint["state_dict"]["decoder.0.weight"] = weight
    torch.save(checkpoint, file)
    ours.refused(ModelError, f"{file}: 1 of the 128 numbers of decoder.0.weight")


def test_a_safetensors_file_with_nan_is_refused(ours, tmp_path):
    folder = ours.fold("first")
    state, description = load_state_dict(folder / "model.pth.tar"), read_description(folder)
    state["decoder.1.running_mean"][0] = np.nan
    save_safetensors(tmp_path / "model.safetensors", state, description)
    with pytest.raises(ModelError, match=r"model\.safetensors: 1 of the 8 numbers of decod"):
        load_safetensors(tmp_path / "model.safetensors", CPU)


@pytest.mark.parametrize("position", POSITIONS)
def test_outputs_that_are_not_finite_stop_the_prediction(case, position):
    file = case.fold(position) / "model.pth.tar"
    checkpoint = torch.load(file, weights_only=True)
    for name, value in checkpoint["state_dict"].items():
        if name.startswith("decoder") and name.endswith("weight"):
            value[:] = value * 1e20
    torch.save(checkpoint, file)
    message = case.refused(ModelError, str(file), "not finite")
    ids = [path.stem for path in (case.source / "DATA").iterdir()]
    assert message.split("such as ")[1].split(". ")[0].split(", ")[0] in ids


def test_calibrate_refuses_weights_that_are_not_finite(ours):
    run, settings = ours.run, ours.settings
    folds = ours.folder.parent / "folds.json"
    split(run.dataset.root, folds, view(settings, "split"))
    change(ours.fold("middle") / "model.pth.tar", "decoder.1.running_mean", np.nan)
    with pytest.raises(ModelError, match=r"Fold_2/model\.pth\.tar: 1 of the 8 numbers of"):
        calibrate(run.dataset.root, folds, ours.folder, view(settings, "calibrate"))
    assert not (ours.folder / "out_of_fold.parquet").exists()


def test_models_of_other_classes_are_refused_by_calibrate(ours):
    run, settings = ours.run, ours.settings
    folds = ours.folder.parent / "folds.json"
    split(run.dataset.root, folds, view(settings, "split"))
    for position in POSITIONS:
        described(ours.fold(position), class_codes=[*reversed(CLASSES)])
    with pytest.raises(InputError, match=r"classes wheat, maize, barley; the dataset has"):
        calibrate(run.dataset.root, folds, ours.folder, view(settings, "calibrate"))


def described(folder, **changes):
    path = folder / "model.json"
    write(path, json.loads(path.read_text()) | changes)


OTHERS = {
    "bands": {"bands": ["B02", "B03", "B08", "B04"]},
    "classes": {"class_codes": ["barley", "maize", "rye"]},
    "day 0": {"first_date": "2018-02-01"},
}


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("what", OTHERS)
def test_folds_of_different_trainings_are_refused(ours, what, position):
    described(ours.fold(position), **OTHERS[what])
    odd = ours.fold("middle" if position == "first" else position)
    words = f"{odd} was trained with other {what} than {ours.fold('first')}"
    ours.refused(ModelError, words)
    ours.refused_at_once(words)


@pytest.mark.parametrize("position", POSITIONS)
def test_features_of_every_fold_are_compared_with_the_dataset(ours, position):
    folder = ours.fold(position)
    description = read_description(folder)
    h = replace(description.hyperparameters, mlp2=(21, 16), extra_size=5)
    scaling = FeatureScaling(np.zeros(5), np.ones(5))
    other = replace(description, hyperparameters=h, feature_scaling=scaling)
    random_model(other).save(folder)
    ours.refused(ModelError, f"{folder} was trained with 5 geometric features", "has 4")
    # The refusal comes before any fold predicts.
    models = load_existing(ours.folder, ours.run.dataset, ours.settings, CPU)
    with pytest.raises(ModelError, match="was trained with 5 geometric features"):
        read_inputs(opened(ours.run), models, opened(ours.run).classes)


@pytest.mark.parametrize("position", POSITIONS)
def test_dates_of_every_fold_are_compared_with_the_dataset(ours, position):
    means, stds = np.full((5, 4), 3000.0), np.full((5, 4), 1500.0)
    folder = ours.fold(position)
    description = read_description(folder)
    write_description(folder, replace(description, normalisation=Normalisation(means, stds)))
    ours.refused(ModelError, f"{folder} does not fit the dataset", "(5, 4)", "7 dates")


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("what", ["channels", "classes", "features"])
def test_every_fold_of_the_reference_is_compared_with_the_dataset(references, position, what):
    channels, classes, features = (
        11 if what == "channels" else 10, 19 if what == "classes" else 20,
        5 if what == "features" else 4,
    )  # fmt: skip
    h = Hyperparameters.for_data("psetae", n_channels=channels, n_classes=classes, n_extra=features)
    state = random_weights(h)
    file = references.fold(position) / "model.pth.tar"
    torch.save({"epoch": 1, "state_dict": state, "optimizer": {}}, file)
    number = {"channels": 11, "classes": 19, "features": 5}[what]
    references.refused(ModelError, f"{file}: ", f" {number} ", what)


def metadata_with(**changes):
    return lambda values: json.dumps(values | changes)


def deep(values):
    return "[" * 100_000 + "]" * 100_000


def hyper(**changes):
    return lambda values: json.dumps(
        values | {"hyperparameters": values["hyperparameters"] | changes}
    )


def scaled(**changes):
    return lambda values: json.dumps(
        values | {"feature_scaling": values["feature_scaling"] | changes}
    )


def normal(**changes):
    return lambda values: json.dumps(values | {"normalisation": values["normalisation"] | changes})


NAN = [1.0, float("nan"), 1.0, 1.0]
HUGE = 10**400
HOSTILE = {
    "nothing": (lambda _: "", "Expecting value"),
    "not JSON": (lambda _: "bands: [B02]", "Expecting value"),
    "cut": (lambda v: json.dumps(v)[:200], "delimiter|Unterminated|Expecting"),
    "not text": (lambda _: b"\xff\xfe\xff", "decode"),
    "a list": (lambda _: "[1]", r"expected the keys .* found \[1\]"),
    "null": (lambda _: "null", "expected the keys .* found None"),
    "deep": (deep, "recursion"),
    "a digit too many": (lambda _: '{"seed": ' + "9" * 5000 + "}", "digits"),
    "a key missing": (
        lambda v: json.dumps({k: x for k, x in v.items() if k != "bands"}),
        "expected the keys",
    ),
    "a key more": (metadata_with(weights="x"), "expected the keys"),
    "bands as text": (metadata_with(bands="B02"), "bands: expected a list of texts"),
    "bands as numbers": (metadata_with(bands=[1, 2, 3, 4]), "bands: expected a list of texts"),
    "too few bands": (metadata_with(bands=["B02"]), "bands: expected 4, found 1"),
    "too few classes": (metadata_with(class_codes=["a"]), "class_codes: expected 3, found 1"),
    "too few names": (metadata_with(class_names=["a"]), "class_names: expected 3, found 1"),
    "members as text": (metadata_with(members="2"), "members: expected a positive whole"),
    "no members": (metadata_with(members=0), "members: expected a positive whole"),
    "true members": (metadata_with(members=True), "members: expected a positive whole"),
    "huge members": (metadata_with(members=10**30), "members: expected a positive whole"),
    "members as fraction": (metadata_with(members=1.5), "members: expected a positive whole"),
    "huge pixels": (metadata_with(n_pixels=10**30), "n_pixels: expected a positive whole"),
    "negative pixels": (metadata_with(n_pixels=-1), "n_pixels: expected a positive whole"),
    "no day": (metadata_with(first_date="May"), "first_date: expected YYYY-MM-DD, found 'May'"),
    "day as number": (metadata_with(first_date=20180301), "first_date: expected YYYY-MM-DD"),
    "hyper-parameters as list": (metadata_with(hyperparameters=[1]), "names and values"),
    "unknown hyper-parameter": (hyper(colour=1), "unknown hyper-parameters: colour"),
    "unknown model": (hyper(name="gru"), "name: expected one of"),
    "name as list": (hyper(name=["psetae"]), "name: expected one of"),
    "widths as number": (hyper(mlp1=4), "mlp1: expected a list of widths; found 4"),
    "widths as text": (hyper(mlp1="48"), "mlp1: expected a list of widths"),
    "widths of text": (hyper(mlp1=[4, "8"]), "mlp1: expected 2 to 100 positive widths"),
    "100,000 layers": (hyper(mlp4=[16] * 100_000), "mlp4: expected 2 to 100 positive widths"),
    "huge width": (hyper(mlp4=[16, HUGE, 3]), "mlp4: expected 2 to 100 positive widths"),
    "width of 40 GB": (hyper(mlp4=[16, 10**9, 3]), "weights are not those of the hyper-parameters"),
    "widths beyond memory": (
        hyper(mlp4=[16, 2**31 - 1, 2**31 - 1, 2**31 - 1, 3]),
        "weights are not those of the hyper-parameters|such a model cannot be built",
    ),
    "heads as text": (hyper(n_head="2"), "n_head: expected a positive whole number"),
    "huge keys": (
        hyper(d_k=10**9),
        "such a model cannot be built|weights are not those of the hyper-parameters",
    ),
    "period of NaN": (hyper(T=float("nan")), "T: expected a positive whole number"),
    "huge period": (hyper(T=HUGE), "T: expected a positive whole number"),
    "NaN dropout": (hyper(dropout=float("nan")), "dropout: expected a rate"),
    "dropout as text": (hyper(dropout="0.2"), "dropout: expected a rate"),
    "pooling as number": (hyper(pooling=3), "pooling: expected different ones"),
    "features as text": (hyper(extra_size="4"), "extra_size: expected zero or more"),
    "means NaN": (normal(means=NAN), "normalisation: 1 of 4 means are not finite"),
    "means infinite": (normal(means=[1e999] * 4), "normalisation: 4 of 4 means are not finite"),
    "means beyond float32": (normal(means=[1e300] * 4), "normalisation: 4 of 4 means are not fin"),
    "stds NaN": (normal(stds=NAN), "normalisation: 1 of 4 stds are not finite"),
    "stds negative": (normal(stds=[-1.0] * 4), "normalisation: 4 of 4 stds are negative"),
    "stds tiny": (normal(stds=[1e-300] * 4), "normalisation: 4 of 4 stds are negative or smaller"),
    "stds as text": (normal(stds=["1"] * 4), "normalisation: stds are not all numbers"),
    "huge means": (normal(means=[HUGE] * 4), "normalisation: means are not all numbers"),
    "ragged means": (normal(means=[[1], [1, 2]]), "normalisation: means are not all numbers"),
    "other shape": (normal(means=[1.0], stds=[1.0]), "normalisation: expected values of 4 chan"),
    "different shapes": (normal(means=[1.0]), "expected means and stds of one shape"),
    "no stds": (metadata_with(normalisation={"means": [1]}), "expected means and stds, found"),
    "normalisation null": (metadata_with(normalisation=None), "expected means and stds, found"),
    "scaling NaN": (scaled(means=NAN), "feature scaling: 1 of 4 means are not finite"),
    "scaling infinite": (scaled(stds=[1e999] * 4), "feature scaling: 4 of 4 stds are not finite"),
    "scaling negative": (scaled(stds=[-1.0] * 4), "feature scaling: 4 of 4 stds are negative"),
    "scaling of fewer": (scaled(means=[1], stds=[1]), "feature_scaling: expected 4 features"),
    "no scaling": (metadata_with(feature_scaling=None), "expected 4 features, found 0"),
    "scaling a number": (metadata_with(feature_scaling=3), "expected means and stds, found 3"),
}  # fmt: skip
LATER = {"width of 40 GB", "widths beyond memory", "huge keys"}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_damaged_description_is_refused(ours, what):
    spoil, words = HOSTILE[what]
    folder = ours.fold(POSITIONS[len(what) % FOLDS])
    path = folder / "model.json"
    text = spoil(json.loads(path.read_text()))
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ModelError, match=words) as refusal:
        load_existing(ours.folder, opened(ours.run), ours.settings, CPU)
    assert str(folder) in str(refusal.value)
    assert len(str(refusal.value)) < len(str(folder)) + 1500
    if what in LATER:
        return
    assert f"{path} does not describe a model: " in str(refusal.value)
    ours.refused_at_once(f"{path} does not describe a model: ")


def test_a_missing_member_is_named(ours):
    (ours.fold("middle") / "model_2.pth.tar").unlink()
    ours.refused(ModelError, f"{ours.fold('middle') / 'model_2.pth.tar'} is not there")


def test_a_fold_without_weights_is_refused_at_once(ours):
    (ours.fold("middle") / "model.pth.tar").unlink()
    ours.refused_at_once(f"{ours.fold('middle') / 'model.pth.tar'} is not there")


def saved(file, checkpoint):
    torch.save(checkpoint, file)


def compressed(file, state):
    saved(file, {"state_dict": state})
    with zipfile.ZipFile(file) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, part in content.items():
            archive.writestr(name, part)


def with_weight(weight):
    return lambda file, state: saved(file, {"state_dict": state | {"decoder.0.weight": weight}})


ODD = {
    "a tensor": (lambda f, _: saved(f, torch.zeros(2)), "expected 'epoch', 'state_dict'"),
    "no state": (lambda f, s: saved(f, {"model": s}), "expected 'epoch', 'state_dict'"),
    "state as list": (lambda f, _: saved(f, {"state_dict": [1]}), "expected 'epoch', 'state_dict'"),
    "numbers": (with_weight(3.0), "not weights: decoder.0.weight"),
    "names as numbers": (lambda f, s: saved(f, {"state_dict": {1: s}}), "not weights: 1"),
    "sparse": (with_weight(torch.eye(8, 16).to_sparse()), "not weights: decoder.0.weight"),
    "without memory": (with_weight(torch.empty(8, 16, device="meta")), "not weights: decoder.0"),
    "complex": (with_weight(torch.zeros(8, 16, dtype=torch.cfloat)), "not weights: decoder.0"),
    "other shape": (with_weight(torch.zeros(8, 17)), r"expected \(8, 16\), found \(8, 17\)"),
    "a repeated number": (with_weight(torch.zeros(1).expand(1 << 35)), "larger than the file"),
    "compressed": (compressed, "is damaged: its content is compressed"),
    "text": (lambda f, _: f.write_text("weights"), "is not a file that torch.save wrote"),
    "another archive": (
        lambda f, _: zipfile.ZipFile(f, "w").close(),
        "is not a file that torch.save wrote",
    ),
    "archive of text": (
        lambda f, _: shutil.make_archive(str(f.with_name("a")), "zip", f.parent) and (
            f.with_name("a.zip").replace(f)
        ),
        "is damaged|is not a file that torch.save wrote",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", ODD)
def test_a_checkpoint_of_something_else_is_refused(ours, what):
    spoil, words = ODD[what]
    folder = ours.fold("middle")
    spoil(folder / "model.pth.tar", load_state_dict(folder / "model.pth.tar"))
    ours.refused(ModelError, str(folder / "model.pth.tar"))
    with pytest.raises(ModelError, match=words):
        load_existing(ours.folder, opened(ours.run), ours.settings, CPU)


def test_checkpoints_of_torch_before_1_6_are_read(ours):
    """These files are not archives, and have no checksums."""
    expected = ours.predict()["confidence"]
    for file in ours.folder.glob("Fold_*/model*.pth.tar"):
        checkpoint = torch.load(file, weights_only=True)
        torch.save(checkpoint, file, _use_new_zipfile_serialization=False)
    check_inputs(ours.settings)
    assert (ours.predict()["confidence"] == expected).all()
    file = ours.fold("last") / member_file("model.pth.tar", 2)
    content = file.read_bytes()
    for n in (20, 300, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:n])
        with pytest.raises(ModelError, match=f"{file} is not a file that torch.save wrote"):
            ours.predict()
