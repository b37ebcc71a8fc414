"""What a model is trained for: its loss, the labels that this takes, and what its outputs mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from client_sdk.data import TrainingDataRefused

# The objective's name -> Keras' loss, and Keras' metric where "accuracy" means something.
_LOSSES = {
    "sparse_categorical_crossentropy": (
        "SparseCategoricalCrossentropy",
        "SparseCategoricalAccuracy",
    ),
    "categorical_crossentropy": ("CategoricalCrossentropy", "CategoricalAccuracy"),
    "binary_crossentropy": ("BinaryCrossentropy", "BinaryAccuracy"),
    "mean_squared_error": ("MeanSquaredError", ""),
    "mean_absolute_error": ("MeanAbsoluteError", ""),
}


@dataclass(frozen=True, slots=True)
class Objective:
    """What a model is trained for.

    Args:
        loss: name of the loss.
        from_logits: whether the model's outputs are still to be made probabilities.

    Raises:
        ValueError: for an unknown loss.
    """

    loss: str
    from_logits: bool = False

    def __post_init__(self) -> None:
        if self.loss not in _LOSSES:
            raise ValueError(f"Expected a loss of {', '.join(_LOSSES)}. Received: {self.loss!r}")

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Objective:
        """Read what a model document says."""
        return cls(document["loss"], bool(document.get("from_logits", False)))

    @property
    def sparse(self) -> bool:
        """Whether labels are class numbers."""
        return self.loss == "sparse_categorical_crossentropy"

    @property
    def exclusive(self) -> bool:
        """Whether an example is of one class alone."""
        return self.loss.endswith("categorical_crossentropy")

    @property
    def has_classes(self) -> bool:
        """Whether outputs say of which class an example is, and are no values of their own."""
        return bool(_LOSSES[self.loss][1])

    def compiled(self) -> tuple[Any, list[Any]]:
        """Keras' loss and metrics; the metric is named, because Keras guesses it from shapes."""
        import keras

        loss_name, accuracy_name = _LOSSES[self.loss]
        if not accuracy_name:
            return getattr(keras.losses, loss_name)(), []
        # Even odds are 0.5 as a probability and 0 as a logit.
        binary = accuracy_name == "BinaryAccuracy"
        options = {"threshold": 0.0 if self.from_logits else 0.5} if binary else {}
        accuracy = getattr(keras.metrics, accuracy_name)(name="accuracy", **options)
        return getattr(keras.losses, loss_name)(from_logits=self.from_logits), [accuracy]

    def targets(self, y: np.ndarray, output: tuple[int | None, ...]) -> np.ndarray:
        """Labels as the loss takes them: int32 class numbers or float32 values.

        Args:
            y: class numbers (n, …) or values (n, …); an axis of length 1 at the end may be
                there too much or too little.
            output: shape of the model's output, the batch as None.

        Raises:
            TrainingDataRefused: for another shape, and for values out of range.
        """
        expected = output[:-1] if self.sparse else output
        if y.ndim == len(expected) + 1 and y.shape[-1] == 1:
            y = y[..., 0]
        elif y.ndim == len(expected) - 1 and expected[-1] == 1:
            y = y[..., np.newaxis]
        fits = y.ndim == len(expected) and all(
            want in (None, have) for have, want in zip(y.shape, expected, strict=True)
        )
        if not fits or y.dtype.kind not in ("iub" if self.sparse else "fiub"):
            kind = "class numbers (integers)" if self.sparse else "numbers"
            raise TrainingDataRefused(
                f"Expected labels of shape {('n', *expected[1:])}, {kind}. "
                f"Received: shape {y.shape}, dtype {y.dtype}"
            )
        low, high = self._range(output)
        if y.size and not (y.min() >= low and y.max() <= high):  # false for NaN as well
            raise TrainingDataRefused(
                f"Expected labels from {low} to {high}. Received: {y.min()} to {y.max()}"
            )
        return y.astype(np.int32 if self.sparse else np.float32)

    def _range(self, output: tuple[int | None, ...]) -> tuple[float, float]:
        if self.sparse:
            return 0, (output[-1] or 1) - 1
        largest = float(np.finfo(np.float32).max)
        return (0, 1) if self.has_classes else (-largest, largest)

    def probabilities(self, outputs: np.ndarray) -> np.ndarray:
        """A model's outputs as float32 probabilities; values stay values."""
        if not self.from_logits:
            return np.asarray(outputs, np.float32)
        logits = np.asarray(outputs, np.float64)
        if self.exclusive:
            powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
            logits = powers / powers.sum(axis=-1, keepdims=True)
        elif self.loss == "binary_crossentropy":
            logits = 0.5 + 0.5 * np.tanh(logits / 2)
        return logits.astype(np.float32)

    def scores(self, outputs: np.ndarray, labels: Sequence[str]) -> dict[str, float]:
        """One example's probabilities, or values, by label.

        Args:
            outputs: one row of what `probabilities` gives.
            labels: the model's labels; classes without one are called by their number.
        """
        row = np.asarray(outputs, np.float64).ravel()
        if self.loss == "binary_crossentropy" and len(row) == 1:
            row = np.array([1 - row[0], row[0]])
            labels = [f"not {labels[0]}", labels[0]] if len(labels) == 1 else labels
        fits = len(labels) == len(row)
        names = [str(name) for name in labels] if fits else [str(n) for n in range(len(row))]
        return dict(zip(names, row.tolist(), strict=True))
