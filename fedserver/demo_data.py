"""What the demo trains on its images: which network, and how.

Keras is imported only to build it.
"""

from itertools import count
from typing import Any

from simulation.datasets import Dataset

OBJECTIVE = {"loss": "sparse_categorical_crossentropy", "from_logits": False}


def hyperparameters(dataset: Dataset) -> dict[str, Any]:
    """How the demo's participants train this data set's network."""
    if dataset.name == "digits":
        own = {"epochs": 5, "batch_size": 16, "learning_rate": 0.03, "optimizer": "sgd"}
    else:
        own = {"epochs": 2, "batch_size": 32, "learning_rate": 0.001, "optimizer": "adam"}
    return {**own, "momentum": 0.9, "max_steps": None}


def network(dataset: Dataset, seed: int = 0) -> Any:
    """The network that the demo trains on a data set, with its initial weights.

    Args:
        dataset: decides the architecture and the shapes.
        seed: decides the initial weights.

    Returns:
        A `keras.Model` that gives class probabilities, compiled with `OBJECTIVE`.
    """
    import keras

    initializers = (keras.initializers.GlorotUniform(seed + number) for number in count())
    stack = _small_stack if dataset.name == "digits" else _photo_labeller_stack
    layers = stack(keras.layers, initializers)
    output = keras.layers.Dense(
        len(dataset.labels),
        activation="softmax",
        kernel_initializer=next(initializers),
        name="output",
    )
    shape = dataset.x_train.shape[1:]
    model = keras.Sequential([keras.Input(shape, name="image"), *layers, output], name="network")
    model.compile(optimizer="sgd", loss=OBJECTIVE["loss"], metrics=["accuracy"])
    return model


# --- Networks -----------------------------------------------------------------------------------


def _small_stack(layers: Any, initializers: Any) -> list[Any]:
    """Enough for 8x8 pixels, and a round of it takes a fraction of a second."""
    options = [{"activation": "relu", "kernel_initializer": next(initializers)} for _ in range(3)]
    return [
        layers.Conv2D(16, 3, padding="same", name="conv1", **options[0]),
        layers.MaxPooling2D(2, name="pool1"),
        layers.Conv2D(32, 3, padding="same", name="conv2", **options[1]),
        layers.MaxPooling2D(2, name="pool2"),
        layers.Flatten(name="flatten"),
        layers.Dense(64, name="dense", **options[2]),
    ]


def _photo_labeller_stack(layers: Any, initializers: Any) -> list[Any]:
    """The network of the PhotoLabeller app, the ancestor of this project.

    Its shape: convolution 4x4x64, pool 3, convolution 5x5x32, pool 3, dense 250 with dropout.
    Mended: its second half had the sigmoids of its library's default, through which little was
    learned; its inputs were raw bytes; its local response normalisation divided by a near
    constant 3^0.75 and is gone; its learning rate is left to the run.
    """
    options = [{"activation": "relu", "kernel_initializer": next(initializers)} for _ in range(3)]
    return [
        layers.Conv2D(64, 4, padding="same", name="cnn1", **options[0]),
        layers.MaxPooling2D(3, strides=2, padding="same", name="pool1"),
        layers.Conv2D(32, 5, padding="same", name="cnn2", **options[1]),
        layers.MaxPooling2D(3, strides=2, padding="same", name="pool2"),
        layers.Flatten(name="flatten"),
        layers.Dropout(0.5, seed=0, name="dropout"),
        layers.Dense(250, name="ffn1", **options[2]),
    ]
