"""Keras' optimizers, with each gradient corrected before it is taken: `client_sdk.drift` says how.

What the correction needs are variables of the optimizer. So it works wherever Keras takes a step:
in our graph, in a compiled step of JAX, batch by batch and in a training loop of the user's own;
and the next round fills them anew, without another graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def corrected(kind: Any, variables: Sequence[Any], *, pulls: bool, shifts: bool) -> Any:
    """A class of optimizers that correct the gradients of some variables.

    Args:
        kind: a class of Keras optimizers.
        variables: of the model, those whose gradients are corrected.
        pulls, shifts: what the correction may do; what it never does costs nothing.

    Returns:
        A subclass of `kind`, with `steer` to say what the correction is.
    """
    import keras

    class Corrected(kind):
        def build(self, trainable: Sequence[Any]) -> None:
            super().build(trainable)
            self._pull = self.add_variable((), name="pull")
            self._starts = self._beside("start") if pulls else []
            self._shifts = self._beside("shift") if shifts else []
            self._places = {self._get_variable_index(one): at for at, one in enumerate(variables)}

        def _beside(self, name: str) -> list[Any]:
            return [self.add_variable_from_reference(variable, name) for variable in variables]

        def steer(
            self, pull: float, starts: Sequence[np.ndarray], shifts: Sequence[np.ndarray]
        ) -> None:
            """Correct gradients so from now on.

            Args:
                pull: towards `starts`.
                starts: for each of `variables` its value at the start of the round; none where
                    there is no pull.
                shifts: for each what to add; none where there is nothing.
            """
            self._pull.assign(pull)
            kept = zip([*self._starts, *self._shifts], [*starts, *shifts], strict=True)
            for variable, value in kept:
                variable.assign(np.array(value))  # copied, for JAX would share the memory

        def apply(self, grads: Sequence[Any], trainable_variables: Any = None) -> None:
            mine = self._trainable_variables if trainable_variables is None else trainable_variables
            pairs = zip(grads, mine, strict=True)
            super().apply([self._corrected(*pair) for pair in pairs], trainable_variables)

        def _corrected(self, gradient: Any, variable: Any) -> Any:
            place = self._places.get(self._get_variable_index(variable))
            if gradient is None or place is None:
                return gradient
            if pulls:
                away = keras.ops.subtract(variable, self._starts[place])
                gradient = keras.ops.multiply(self._pull, away) + gradient
            if shifts:
                gradient = keras.ops.convert_to_tensor(self._shifts[place]) + gradient
            return gradient

    return Corrected
