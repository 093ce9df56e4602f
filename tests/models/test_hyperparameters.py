import json

import pytest

from models.classifier import ParcelClassifier
from models.errors import InputError
from models.hyperparameters import Hyperparameters


def test_defaults_are_the_papers():
    tae = Hyperparameters.for_data("psetae", n_channels=10, n_classes=20, n_extra=4)
    assert tae == Hyperparameters()
    ltae = Hyperparameters.for_data("pseltae", n_channels=10, n_classes=20, n_extra=4)
    assert (ltae.n_head, ltae.d_k, ltae.d_model, ltae.mlp3) == (16, 8, 256, (256, 128))


@pytest.mark.parametrize("name", ["psetae", "pseltae"])
def test_widths_follow_from_the_data(name):
    found = (
        Hyperparameters.for_data(
            name,
            n_channels=13,
            n_classes=7,
            n_extra=0,
            pooling="mean_std_max",
            n_head=8,
            d_model=64,
        )
        if name == "pseltae"
        else Hyperparameters.for_data(
            name, n_channels=13, n_classes=7, pooling="mean_std_max", n_head=2
        )
    )
    assert found.mlp1 == (13, 32, 64)
    assert found.mlp2 == (192, 128)
    assert found.mlp4 == (128, 64, 32, 7)
    assert found.n_classes == 7
    assert found.mlp3[0] == (256 if name == "psetae" else 64)
    ParcelClassifier(found)


def test_first_and_last_widths_of_the_papers_lists_are_replaced():
    found = Hyperparameters.for_data("psetae", n_channels=4, n_classes=3, mlp1=[10, 16, 24])
    assert found.mlp1 == (4, 16, 24)
    assert found.mlp2[0] == 48


def test_round_trip_through_json():
    for name in ("psetae", "pseltae"):
        first = Hyperparameters.for_data(name, n_channels=3, n_classes=5, positions="order")
        assert Hyperparameters.from_json(json.loads(json.dumps(first.to_json()))) == first


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "lstm"}, "name: expected one of .*psetae.*found 'lstm'"),
        ({"pooling": "mean_median"}, "pooling: expected different ones .*found 'mean_median'"),
        ({"pooling": "mean_mean"}, "pooling: expected different ones"),
        ({"positions": "weeks"}, "positions: expected one of"),
        ({"mlp1": (12, 32, 64)}, r"mlp1\[0\]: expected input_dim, 10"),
        ({"mlp2": (128, 128)}, r"mlp2\[0\]: expected 132"),
        ({"mlp2": (132,)}, "mlp2: expected 2 to 100 positive widths"),
        ({"mlp3": (128, 128)}, r"mlp3\[0\]: expected the width after the attention, 512"),
        ({"mlp3": (512, 64), "mlp4": (64, 20)}, r"mlp3\[-1\]: expected 128"),
        ({"mlp4": (64, 20)}, r"mlp4\[0\]: expected mlp3\[-1\], 128"),
        ({"dropout": 1.0}, "dropout: expected a rate"),
        ({"d_k": 0}, "d_k: expected a positive whole number"),
        ({"d_model": 0}, "d_model: expected a positive whole number or null"),
        ({"n_dates": 24}, "n_dates: expected null"),
        (
            {"name": "pseltae", "n_head": 7, "mlp3": (128, 128)},
            "n_head: expected a divisor of the width 128",
        ),
    ],
)
def test_refuses(changes, message):
    with pytest.raises(InputError, match=message):
        Hyperparameters(**changes)


def test_refuses_unknown_names():
    with pytest.raises(InputError, match="unknown hyper-parameters: heads"):
        Hyperparameters.for_data("psetae", n_channels=3, n_classes=3, heads=4)
    with pytest.raises(InputError, match=r"expected one of .*found 'tae'"):
        Hyperparameters.for_data("tae", n_channels=3, n_classes=3)
    with pytest.raises(InputError, match="unknown hyper-parameters: colour"):
        Hyperparameters.from_json({"colour": 1})
