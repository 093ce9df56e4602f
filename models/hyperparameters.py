"""The hyper-parameters of a parcel classifier, checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from models.errors import InputError

MODEL_NAMES = ("psetae", "pseltae")
POOLINGS = ("mean", "std", "max", "min")
POSITIONS = ("days", "order")
MLPS = ("mlp1", "mlp2", "mlp3", "mlp4")


@dataclass(frozen=True)
class Hyperparameters:
    """Hyper-parameters of a pixel-set encoder, a temporal attention encoder and a decoder.

    The names are those of the PSE+TAE and L-TAE papers (arXiv 1911.07757 and 2007.00586), and the
    defaults those of PSE+TAE. `for_data` derives the widths that depend on the data.

    Attributes
    ----------
    name
        "psetae" (temporal attention encoder) or "pseltae" (its lightweight successor).
    input_dim
        Number of channels C of a pixel.
    mlp1
        Widths of the pixel MLP, beginning with input_dim.
    pooling
        Poolings over the pixels of a parcel, joined by underscores: mean, std, max, min.
    mlp2
        Widths of the MLP after pooling, beginning with mlp1[-1] x number of poolings + extra_size.
    extra_size
        Number of parcel features that are concatenated to the pooled pixels; 0 for none.
    n_head, d_k
        Number of attention heads, and width of their keys and queries.
    d_model
        Width to which embeddings are projected before the attention; None for no projection.
    mlp3
        Widths of the MLP after the attention: from n_head x width to width for the TAE, beginning
        with width for the L-TAE. The width is d_model, or mlp2[-1] without a projection.
    dropout
        Dropout rate after mlp3 (that of the attention is 0.1, as in both papers' code).
    T
        Longest period of the sinusoid positional encoding, in the unit of the positions.
    mlp4
        Widths of the decoder, from mlp3[-1] to the number of classes.
    positions
        "days" since a start that all parcels share, or "order" of the dates (1, 2, ...).
    n_dates
        Only for L-TAE checkpoints of the reference, which normalise the projected embeddings over
        channels and dates together and therefore have a fixed number of dates. None normalises each
        date separately, for any number of dates.
    """

    name: str = "psetae"
    input_dim: int = 10
    mlp1: tuple[int, ...] = (10, 32, 64)
    pooling: str = "mean_std"
    mlp2: tuple[int, ...] = (132, 128)
    extra_size: int = 4
    n_head: int = 4
    d_k: int = 32
    d_model: int | None = None
    mlp3: tuple[int, ...] = (512, 128, 128)
    dropout: float = 0.2
    T: int = 1000
    mlp4: tuple[int, ...] = (128, 64, 32, 20)
    positions: str = "days"
    n_dates: int | None = None

    def __post_init__(self) -> None:
        for mlp in MLPS:
            widths = getattr(self, mlp)
            _expect(isinstance(widths, list | tuple), mlp, "a list of widths", widths)
            object.__setattr__(self, mlp, tuple(widths))
        for names, expected, holds in _EXPECTED:
            for name in names:
                _expect(holds(value := getattr(self, name)), name, expected, value)
        self._check_widths()

    @property
    def n_classes(self) -> int:
        """Number of classes, the last width of mlp4."""
        return self.mlp4[-1]

    @property
    def width(self) -> int:
        """Width of the embeddings that the attention reads."""
        return self.mlp2[-1] if self.d_model is None else self.d_model

    def with_classes(self, n_classes: int) -> Hyperparameters:
        """Return the same hyper-parameters for another number of classes."""
        return replace(self, mlp4=(*self.mlp4[:-1], n_classes))

    @classmethod
    def for_data(
        cls, name: str, *, n_channels: int, n_classes: int, n_extra: int = 0, **others: Any
    ) -> Hyperparameters:
        """Derive the widths that follow from the data and from the other hyper-parameters.

        The first width of every MLP and the last of mlp4 are always derived, so that the papers'
        lists can be passed as they are printed.

        Parameters
        ----------
        name
            "psetae" or "pseltae"; the defaults are those of its paper.
        n_channels, n_classes, n_extra
            Numbers of channels, classes and parcel features (0 for none).
        **others
            Other attributes, instead of their defaults.

        Raises
        ------
        InputError
            If the hyper-parameters are inconsistent, or a name in `others` is unknown.
        """
        known = {field.name for field in fields(cls)} - {"name", "input_dim", "extra_size"}
        if unknown := sorted(set(others) - known):
            raise InputError(
                f"unknown hyper-parameters: {', '.join(unknown[:5])}; known are: "
                f"{', '.join(sorted(known))}"
            )
        papers = _PAPER_DEFAULTS.get(name)
        if papers is None:
            raise InputError(f"name: expected one of {MODEL_NAMES}, found {name!r}")
        defaults = {field.name: field.default for field in fields(cls)}
        values: dict[str, Any] = {**defaults, **papers, **others}
        for mlp in MLPS:
            values[mlp] = tuple(values[mlp])
            if not values[mlp]:
                raise InputError(f"{mlp}: expected at least one width, found none")
        values |= {"name": name, "input_dim": n_channels, "extra_size": n_extra}
        first = _first_widths(values)
        values |= {
            **{mlp: (first[mlp], *values[mlp][1:]) for mlp in MLPS},
            "mlp4": (first["mlp4"], *values["mlp4"][1:-1], n_classes),
        }
        return cls(**values)

    @classmethod
    def of_weights(
        cls,
        shapes: Mapping[str, tuple[int, ...]],
        *,
        pooling: str,
        T: int,  # noqa: N803 - the papers' name
        positions: str,
    ) -> Hyperparameters:
        """Derive the widths from the shapes of a checkpoint's weights.

        Parameters
        ----------
        shapes
            {name of a weight in the reference's state dict: its shape}.
        pooling, T, positions
            Hyper-parameters that do not follow from the shapes.

        Raises
        ------
        InputError
            If these are not weights of a PSE+TAE or PSE+L-TAE, or the pooling does not fit them.
        """
        mlp1 = _widths(shapes, "spatial_encoder.mlp1.{}.lin.weight", step=1)
        mlp2 = _widths(shapes, "spatial_encoder.mlp2.{}.weight", step=3)
        mlp3 = _widths(shapes, "temporal_encoder.mlp.{}.weight", step=3)
        mlp4 = _widths(shapes, "decoder.{}.weight", step=3)
        extra_size = mlp2[0] - mlp1[-1] * len(pooling.split("_"))
        if extra_size < 0:
            raise InputError(
                f"The second MLP of the weights has {mlp2[0]} inputs, fewer than the pooling "
                f"{pooling} of {mlp1[-1]} has outputs. Set model.pooling to that of the training."
            )
        query = shapes.get("temporal_encoder.attention_heads.Q")
        keys = shapes.get("temporal_encoder.attention_heads.fc1_k.weight")
        projection = shapes.get("temporal_encoder.inconv.0.weight")
        if keys is None or len(keys) != 2 or () in (query, projection):
            raise InputError("The weights have no attention heads of a PSE+TAE or PSE+L-TAE.")
        norm = shapes.get("temporal_encoder.inconv.1.weight")
        # Each head of the TAE returns the whole width, each head of the L-TAE its share.
        n_head = mlp3[0] // max(keys[1], 1) if query is None else query[0]
        return cls(
            name="psetae" if query is None else "pseltae",
            input_dim=mlp1[0],
            mlp1=mlp1,
            pooling=pooling,
            mlp2=mlp2,
            extra_size=extra_size,
            n_head=n_head,
            d_k=keys[0] // max(n_head, 1),
            d_model=None if projection is None else projection[0],
            mlp3=mlp3,
            T=T,
            mlp4=mlp4,
            positions=positions,
            # After its projection, the reference's L-TAE normalises channels and dates together.
            n_dates=norm[1] if norm is not None and len(norm) == 2 else None,
        )

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Hyperparameters:
        """Read back the result of `to_json`."""
        _expect(isinstance(values, dict), "hyperparameters", "names and values", values)
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise InputError(f"unknown hyper-parameters: {', '.join(unknown[:5])}")
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """Return the attributes as JSON values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def _check_widths(self) -> None:
        for mlp, width in _first_widths(vars(self)).items():
            widths = getattr(self, mlp)
            _expect(widths[0] == width, f"{mlp}[0]", _FIRST_WIDTHS[mlp].format(width), widths)
        if self.name == "psetae":
            _expect(self.mlp3[-1] == self.width, "mlp3[-1]", f"{self.width}", self.mlp3)
            _expect(self.n_dates is None, "n_dates", "null (it is for pseltae only)", self.n_dates)
        else:
            _expect(
                self.width % self.n_head == 0,
                "n_head",
                f"a divisor of the width {self.width} that the heads share",
                self.n_head,
            )
            _expect(
                self.n_dates is None or self.d_model is not None,
                "n_dates",
                "null if d_model is null (without a projection there is no normalisation)",
                self.n_dates,
            )


_PAPER_DEFAULTS: dict[str, dict[str, Any]] = {
    "psetae": {},
    "pseltae": {"n_head": 16, "d_k": 8, "d_model": 256, "mlp3": (256, 128)},
}


def _widths(shapes: Mapping[str, tuple[int, ...]], name: str, step: int) -> tuple[int, ...]:
    """Return the widths of an MLP whose linear layers are `step` modules apart."""
    widths: list[int] = []
    while (shape := shapes.get(name.format(len(widths[1:]) * step))) is not None:
        if len(shape) != 2:
            break
        widths = [*(widths or [shape[1]]), shape[0]]
    if not widths:
        raise InputError(
            f"The weights have no {name.format(0)}: they are not those of a PSE+TAE or PSE+L-TAE "
            "as the reference saves them."
        )
    return tuple(widths)


def is_size(value: object) -> bool:
    """Return whether a value, which may be from a file, is a positive integer below 2^31."""
    return type(value) is int and 0 < value < 2**31


def _are_poolings(value: object) -> bool:
    names = str(value).split("_")
    return len(set(names)) == len(names) and set(names) <= set(POOLINGS)


# Attributes, what is expected of each of them alone, and whether a value is that.
_EXPECTED: list[tuple[tuple[str, ...], str, Callable[[Any], bool]]] = [
    (("name",), f"one of {MODEL_NAMES}", lambda name: name in MODEL_NAMES),
    (("positions",), f"one of {POSITIONS}", lambda name: name in POSITIONS),
    (("pooling",), f"different ones of {POOLINGS}, joined by underscores", _are_poolings),
    (MLPS, "2 to 100 positive widths", lambda v: 2 <= len(v) <= 100 and all(map(is_size, v))),
    (("n_head", "d_k", "T"), "a positive whole number", is_size),
    (
        ("d_model", "n_dates"),
        "a positive whole number or null",
        lambda value: value is None or is_size(value),
    ),
    (("extra_size",), "zero or more", lambda size: size == 0 or is_size(size)),
    (
        ("dropout",),
        "a rate from 0 to below 1",
        lambda rate: isinstance(rate, int | float) and 0 <= rate < 1,
    ),
]

# Words for the first width of every MLP, which follows from other attributes.
_FIRST_WIDTHS = {
    "mlp1": "input_dim, {}",
    "mlp2": "{} = mlp1[-1] x number of poolings + extra_size",
    "mlp3": "the width after the attention, {}",
    "mlp4": "mlp3[-1], {}",
}


def _first_widths(attributes: Mapping[str, Any]) -> dict[str, int]:
    """Compute the first width of every MLP from the other attributes."""
    h = attributes
    width = h["mlp2"][-1] if h["d_model"] is None else h["d_model"]
    return {
        "mlp1": h["input_dim"],
        "mlp2": h["mlp1"][-1] * len(h["pooling"].split("_")) + h["extra_size"],
        # Each head of the TAE returns the whole width, each head of the L-TAE its share.
        "mlp3": h["n_head"] * width if h["name"] == "psetae" else width,
        "mlp4": h["mlp3"][-1],
    }


def _expect(holds: bool, name: str, expected: str, found: object) -> None:
    if not holds:
        raise InputError(f"{name}: expected {expected}; found {repr(found)[:100]}")
