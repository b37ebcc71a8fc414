"""The models that simulations train. Imports Keras: import this where a model is built.

`2nn` and `cnn` are those of McMahan et al. 2017 (arXiv 1602.05629). All give logits.
"""

from itertools import count
from typing import Any

import keras

OBJECTIVE = {"loss": "sparse_categorical_crossentropy", "from_logits": True}


def build(name: str, shape: tuple[int, ...], classes: int, seed: int) -> Any:
    """A network with its initial weights.

    Args:
        name: "2nn" (two hidden layers of 200), "cnn" (two convolutions 5x5 of 32 and 64 channels,
            each pooled by 2, then 512), "small" (two convolutions 3x3 of 16 and 32, then 64) or
            "bn" (as small, each layer batch-normalized, for FedBN).
        shape: of one image (height, width, channels).
        classes: how many there are.
        seed: decides the initial weights.

    Returns:
        A built `keras.Model`.
    """
    draws = (keras.initializers.GlorotUniform(seed + number) for number in count())
    stack = {"2nn": _two_hidden, "cnn": _paper, "small": _small, "bn": _normalized}[name]
    layers = [
        *stack(draws),
        keras.layers.Dense(classes, kernel_initializer=next(draws), name="output"),
    ]
    return keras.Sequential([keras.Input(shape, name="image"), *layers], name=f"network_{name}")


def _two_hidden(draws: Any) -> list[Any]:
    return [
        keras.layers.Flatten(name="flatten"),
        _dense(200, "hidden1", draws),
        _dense(200, "hidden2", draws),
    ]


def _paper(draws: Any) -> list[Any]:
    return [*_convolutions(5, (32, 64), draws), _dense(512, "hidden", draws)]


def _small(draws: Any) -> list[Any]:
    return [*_convolutions(3, (16, 32), draws), _dense(64, "hidden", draws)]


def _convolutions(width: int, channels: tuple[int, int], draws: Any) -> list[Any]:
    layers: list[Any] = []
    for number, filters in enumerate(channels, 1):
        options = {"padding": "same", "activation": "relu", "kernel_initializer": next(draws)}
        layers += [
            keras.layers.Conv2D(filters, width, name=f"convolution{number}", **options),
            keras.layers.MaxPooling2D(2, name=f"pool{number}"),
        ]
    return [*layers, keras.layers.Flatten(name="flatten")]


def _normalized(draws: Any) -> list[Any]:
    layers: list[Any] = []
    for number, filters in enumerate((16, 32), 1):
        plain = {"padding": "same", "use_bias": False, "kernel_initializer": next(draws)}
        layers += [
            keras.layers.Conv2D(filters, 3, name=f"convolution{number}", **plain),
            keras.layers.BatchNormalization(momentum=0.9, name=f"norm{number}"),
            keras.layers.ReLU(name=f"relu{number}"),
            keras.layers.MaxPooling2D(2, name=f"pool{number}"),
        ]
    return [*layers, keras.layers.Flatten(name="flatten"), _dense(64, "hidden", draws)]


def _dense(units: int, name: str, draws: Any) -> Any:
    return keras.layers.Dense(units, activation="relu", kernel_initializer=next(draws), name=name)
