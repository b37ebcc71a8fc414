"""A version rebuilt from the registry predicts what the original predicted, to the bit."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client_sdk import photo, wire
from client_sdk.architecture import ArchitectureRefused
from models_app import blobs, open_package, registry, selectors, trying
from models_app.errors import FedserverError, InvalidModel, NonFinite, PackageRefused
from models_app.evaluation import Evaluation
from models_app.models import Model, ModelVersion
from models_app.packages import Package, _read
from models_app.trying import Question
from tests.client_sdk.test_photo import file_of, halves
from tests.models_app.conftest import layer, two_layers

pytestmark = pytest.mark.keras


keras: Any
layers: Any
keras_bridge: Any


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """When a test of this file runs; merely to collect all tests, nobody should wait for Keras."""
    global keras, keras_bridge, layers
    import keras
    from keras import layers

    from models_app import keras_bridge


Opener = Callable[..., Package]


@pytest.fixture
def opened(tmp_path: Path) -> Opener:
    """Opens a model as the process apart does, but in this one, where Keras is imported already."""

    def open_it(model: Any, examples: tuple[Any, Any] | None = None, **job: Any) -> Package:
        out = tmp_path / f"out-{time.monotonic_ns()}"
        out.mkdir()
        model.save(out / "model.keras")
        document: dict[str, Any] = {
            "package": str(out / "model.keras"),
            "evaluation": "",
            "max_bytes": 2**30,
            "loss": "",
            "scale": 1.0,
            "offset": 0.0,
        }
        if examples:
            np.savez(out / "held_out.npz", x=examples[0], y=examples[1])
            document["evaluation"] = str(out / "held_out.npz")
        open_package.open_keras(document | job, out)
        return _read(out)

    return open_it


def served(package: Package, **options: Any) -> ModelVersion:
    return registry.served(registry.create_model("digits", package, **options).pk)


# --- Every kind of model survives ---------------------------------------------------------------


def small_cnn() -> Any:
    return keras.Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.Flatten(),
            layers.Dense(3, activation="softmax"),
        ]
    )


def branches() -> Any:
    inputs = keras.Input((8, 8, 1))
    shared = layers.Dense(4, activation="relu", name="shared")
    left = shared(layers.Flatten()(inputs))
    right = shared(layers.Flatten()(inputs * 2.0))
    both = layers.Concatenate()([left, right, left + right])
    return keras.Model(inputs, layers.Dense(3, activation="softmax")(keras.ops.relu(both)))


def nested() -> Any:
    encoder = keras.Sequential(
        [layers.Input((64,)), layers.Dense(6), layers.BatchNormalization(), layers.Dropout(0.1)],
        name="encoder",
    )
    inputs = keras.Input((8, 8, 1))
    flat = layers.Flatten()(inputs)
    twice = layers.Add()([encoder(flat), encoder(-flat)])
    return keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(twice))


def embedded() -> Any:
    return keras.Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Reshape((64,)),
            layers.Embedding(10, 5),
            layers.Bidirectional(layers.LSTM(4, dropout=0.2)),
            layers.Dense(3, activation="softmax"),
        ]
    )


def attentive() -> Any:
    inputs = keras.Input((8, 8, 1))
    rows = layers.Reshape((8, 8))(inputs)
    seen = rows + layers.MultiHeadAttention(2, 4, dropout=0.1)(rows, rows)
    flat = layers.Flatten()(layers.LayerNormalization()(seen))
    return keras.Model(inputs, layers.Dense(3, activation="softmax")(flat))


IMAGES = np.random.default_rng(0).integers(0, 9, (12, 8, 8, 1)).astype(np.float32)
ANSWERS = np.arange(12) % 3


def trained(model: Any) -> Any:
    """A model whose weights, statistics and seeds are no longer what they were at the start."""
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(IMAGES, ANSWERS, epochs=1, batch_size=4, verbose=0)
    return model


def test_what_could_not_be_measured_is_forgotten_and_never_filled() -> None:
    """Keras fills what a scope has left when the next one ends: here it would be terabytes."""
    broken = two_layers(hidden=10**12)
    broken["config"]["layers"].append(layer("Conv2D", name="flat", filters=1, kernel_size=3))
    with pytest.raises(ValueError, match="flat"):
        keras_bridge.state_bytes(broken)
    with keras.StatelessScope():
        pass


KINDS = [small_cnn, branches, nested, embedded, attentive]


@pytest.mark.parametrize("make", KINDS)
def test_how_large_a_model_is_is_known_before_it_is_built(make: Callable[[], Any]) -> None:
    model = make()
    expected = sum(np.asarray(variable).nbytes for variable in model.variables)
    assert keras_bridge.state_bytes(json.loads(model.to_json())) == expected


@pytest.mark.django_db
@pytest.mark.parametrize("make", KINDS)
def test_a_rebuilt_version_predicts_the_same_bits(opened: Opener, make: Callable[[], Any]) -> None:
    original = trained(make())
    version = served(opened(original))
    rebuilt = keras_bridge.build_version(version)
    np.testing.assert_array_equal(rebuilt(IMAGES).numpy(), original(IMAGES).numpy())
    for ours, theirs in zip(rebuilt.weights, original.weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    # A .keras file holds no seeds: from the registry on they are kept like all other state.
    state = keras_bridge.read_state(keras_bridge.build_version(version))
    for ours, kept in zip(state.values(), selectors.tensors(version).values(), strict=True):
        np.testing.assert_array_equal(ours, kept)


def test_the_manifest_names_each_weight_by_its_place(opened: Opener) -> None:
    keras.utils.clear_session()  # Keras counts the layers of a whole process
    names = {weight.name: weight.role for weight in opened(nested()).weights}
    assert names == {
        "0000.encoder.dense.kernel": "federated",
        "0001.encoder.dense.bias": "federated",
        "0002.encoder.batch_normalization.gamma": "federated",
        "0003.encoder.batch_normalization.beta": "federated",
        "0004.encoder.batch_normalization.moving_mean": "federated",
        "0005.encoder.batch_normalization.moving_variance": "federated",
        "0006.encoder.dropout.seed_generator_state": "frozen",
        "0007.head.kernel": "federated",
        "0008.head.bias": "federated",
    }


def test_layers_that_their_author_froze_stay_frozen(opened: Opener) -> None:
    model = nested()
    model.get_layer("encoder").trainable = False
    roles = {weight.layer.split(".")[0]: weight.role for weight in opened(model).weights}
    assert roles == {"encoder": "frozen", "head": "federated"}


@pytest.mark.django_db
def test_local_weights_travel_once_in_the_fixed_blob(opened: Opener) -> None:
    version = served(opened(trained(nested())), local=["head"])
    names = [spec.name for spec in version.model.fixed]
    assert [name.split(".", 1)[1] for name in names[1:]] == ["head.kernel", "head.bias"]
    assert names[0].endswith("seed_generator_state")


def test_an_architecture_is_the_same_after_another_round_trip(opened: Opener) -> None:
    once = opened(trained(small_cnn()))
    again = opened(keras_bridge.build(once.architecture))
    assert again.architecture == once.architecture


@pytest.mark.django_db
def test_parts_of_layers_may_be_called_otherwise_in_another_process(
    opened: Opener, tmp_path: Path
) -> None:
    keras.utils.clear_session()
    version = served(opened(trained(attentive())))
    path = registry.export(version, "safetensors")
    further = keras_bridge.build_version(version)  # its inner layers are counted on
    assert keras_bridge.manifest(further)[6] != version.model.weights[6]
    open_package._load_safetensors(further, path)
    imported = registry.import_version(version.model_id, opened(further))
    assert imported.weights == version.weights


@pytest.mark.django_db
def test_weights_trained_elsewhere_come_back_into_the_same_model(opened: Opener) -> None:
    version = served(opened(small_cnn()))
    further = trained(keras_bridge.build_version(version))
    imported = registry.import_version(version.model_id, opened(further))
    np.testing.assert_array_equal(
        keras_bridge.build_version(imported)(IMAGES).numpy(), further(IMAGES).numpy()
    )


# --- What cannot come in ------------------------------------------------------------------------


def custom_model() -> Any:
    @keras.saving.register_keras_serializable("alice")
    class Doubled(keras.layers.Layer):
        def call(self, inputs: Any) -> Any:
            return inputs * 2

    return keras.Sequential([layers.Input((4,)), Doubled(), layers.Dense(1)])


def code() -> Any:
    return keras.Sequential([layers.Input((4,)), layers.Lambda(lambda x: x * 2), layers.Dense(1)])


def two_inputs() -> Any:
    first, second = keras.Input((2,)), keras.Input((2,))
    return keras.Model([first, second], layers.Dense(1)(first + second))


@pytest.mark.parametrize(
    ("make", "reason"),
    [(custom_model, "Doubled"), (code, "Lambda"), (two_inputs, "2 inputs")],
)
def test_models_that_keras_itself_wrote_are_refused_too(
    opened: Opener, make: Callable[[], Any], reason: str
) -> None:
    with pytest.raises((ArchitectureRefused, PackageRefused), match=reason):
        opened(make())


def test_a_model_without_an_input_shape_is_refused() -> None:
    unbuilt = json.loads(keras.Sequential([layers.Dense(1)]).to_json())
    with pytest.raises(PackageRefused, match="input shape"):
        open_package._build(unbuilt)


def test_weights_by_ordinals_may_leave_out_seeds(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    model, other = small_cnn(), small_cnn()
    weights = {str(i): v.numpy() for i, v in enumerate(model.variables) if v.dtype == "float32"}
    save_file(weights, tmp_path / "w.safetensors")
    open_package._load_safetensors(other, tmp_path / "w.safetensors")
    np.testing.assert_array_equal(other(IMAGES).numpy(), model(IMAGES).numpy())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"1": np.zeros(5, np.float32)}, r"Expected shape \[4\]"),
        ({"alice": np.zeros(3, np.float32)}, "alice"),
        ({"0001": np.zeros(4, np.float32)}, "Expected names"),
        ({"0099.dense.kernel": np.zeros(4, np.float32)}, "0099.dense.kernel"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    from safetensors.numpy import save_file

    model = small_cnn()
    weights = {str(i): v.numpy() for i, v in enumerate(model.variables)}
    save_file(weights | change, tmp_path / "w.safetensors")
    with pytest.raises(PackageRefused, match=reason):
        open_package._load_safetensors(model, tmp_path / "w.safetensors")


# --- What a model is trained for ----------------------------------------------------------------


def ends_in(units: int, activation: str, loss: Any = None) -> Any:
    model = keras.Sequential([layers.Input((4,)), layers.Dense(units, activation=activation)])
    if loss:
        model.compile("sgd", loss)
    return model


CROSS = "sparse_categorical_crossentropy"


@pytest.mark.parametrize(
    ("model", "asked", "loss", "from_logits"),
    [
        (lambda: ends_in(3, "softmax"), "", CROSS, False),
        (lambda: ends_in(3, "linear"), "", CROSS, True),
        (lambda: ends_in(1, "sigmoid"), "", "binary_crossentropy", False),
        (lambda: ends_in(1, "linear"), "", "mean_squared_error", False),
        (lambda: ends_in(3, "linear"), "mean_absolute_error", "mean_absolute_error", False),
        (
            lambda: ends_in(3, "softmax", "categorical_crossentropy"),
            "",
            "categorical_crossentropy",
            False,
        ),
        (
            lambda: ends_in(3, "linear", keras.losses.SparseCategoricalCrossentropy(True)),
            "",
            CROSS,
            True,
        ),
        (
            lambda: ends_in(3, "linear", keras.losses.SparseCategoricalCrossentropy(True)),
            "mean_squared_error",
            "mean_squared_error",
            False,
        ),
    ],
)
def test_the_loss_is_what_its_author_said_or_what_the_last_activation_tells(
    opened: Opener, model: Callable[[], Any], asked: str, loss: str, from_logits: bool
) -> None:
    assert opened(model(), loss=asked).objective == {"loss": loss, "from_logits": from_logits}


@pytest.mark.parametrize(
    ("model", "asked"),
    [
        (lambda: ends_in(3, "tanh"), ""),
        (lambda: ends_in(3, "softmax", "poisson"), ""),
        (lambda: ends_in(3, "softmax"), "hinge"),
    ],
)
def test_a_loss_that_nothing_tells_must_be_given(
    opened: Opener, model: Callable[[], Any], asked: str
) -> None:
    with pytest.raises(InvalidModel) as refused:
        opened(model(), loss=asked)
    assert refused.value.field == "loss"


# --- Evaluation -----------------------------------------------------------------------------------


@pytest.mark.django_db
def test_a_version_is_evaluated_as_keras_would(opened: Opener) -> None:
    model = trained(small_cnn())
    x = np.random.default_rng(3).integers(0, 255, (600, 8, 8), dtype=np.uint8)
    y = np.arange(600) % 3
    package = opened(model, (x, y), scale=1 / 255, offset=-0.5)
    model.compile("sgd", CROSS, metrics=["accuracy"])
    inputs = x[..., None].astype(np.float32) / 255 - 0.5
    loss, accuracy = model.evaluate(inputs, y, verbose=0)
    version = served(package)
    found = keras_bridge.evaluate(version)
    assert found == Evaluation(version.metrics, version.confusion)
    assert found.metrics["loss"] == pytest.approx(loss, rel=1e-5)
    assert found.metrics["accuracy"] == pytest.approx(accuracy)
    given = model.predict(inputs, verbose=0).argmax(-1)
    expected = np.zeros((3, 3), int)
    np.add.at(expected, (y, given), 1)
    assert found.confusion == expected.tolist()


@pytest.mark.parametrize(
    ("units", "activation", "loss", "y", "expected"),
    [
        (3, "softmax", CROSS, [0, 2], {"loss": np.log(3), "accuracy": 0.5}),
        (3, "softmax", CROSS, [[0], [2]], {"loss": np.log(3), "accuracy": 0.5}),
        (
            3,
            "linear",
            "categorical_crossentropy",
            [[1, 0, 0], [0, 0, 1]],
            {"loss": np.log(3), "accuracy": 0.5},
        ),
        (1, "sigmoid", "binary_crossentropy", [0, 1], {"loss": np.log(2), "accuracy": 0.5}),
        (1, "linear", "mean_squared_error", [1, 3], {"loss": 5.0, "mean_absolute_error": 2.0}),
        (
            2,
            "linear",
            "mean_absolute_error",
            [[1, 3], [0, 0]],
            {"loss": 1.0, "mean_absolute_error": 1.0},
        ),
    ],
)
def test_means_computed_by_hand_for_a_model_that_knows_nothing(
    opened: Opener,
    units: int,
    activation: str,
    loss: str,
    y: list[Any],
    expected: dict[str, float],
) -> None:
    model = ends_in(units, activation)
    for variable in model.variables:
        variable.assign(np.zeros(variable.shape))
    package = opened(model, (np.ones((2, 4)), np.array(y)), loss=loss)
    assert package.evaluated.metrics == pytest.approx(expected)


SCORES = [[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.6, 0.3, 0.1], [0.1, 0.2, 0.7], [0.1, 0.8, 0.1]]


@pytest.mark.parametrize(
    ("units", "activation", "loss", "x", "y", "expected"),
    [
        # True classes 0 1 1 2 2; the scores say 0 1 0 2 1.
        (3, "linear", CROSS, SCORES, [0, 1, 1, 2, 2], [[1, 0, 0], [1, 1, 0], [0, 1, 1]]),
        (
            3,
            "linear",
            "categorical_crossentropy",
            SCORES,
            np.eye(3)[[0, 1, 1, 2, 2]],
            [[1, 0, 0], [1, 1, 0], [0, 1, 1]],
        ),
        (1, "sigmoid", "binary_crossentropy", [[2], [-1], [1]], [1, 1, 0], [[0, 1], [1, 1]]),
        (1, "linear", "binary_crossentropy", [[0.4], [-1], [1]], [1, 0, 0], [[1, 1], [0, 1]]),
        (3, "sigmoid", "binary_crossentropy", SCORES, np.ones((5, 3)), None),
        (1, "linear", "mean_squared_error", [[2], [-1]], [1, 3], None),
        (101, "linear", CROSS, np.eye(101), np.arange(101), None),
    ],
)
def test_who_is_taken_for_whom_counted_by_hand(
    opened: Opener, units: int, activation: str, loss: str, x: Any, y: Any, expected: Any
) -> None:
    layer = layers.Dense(units, activation=activation, kernel_initializer="identity")
    package = opened(
        keras.Sequential([layers.Input((units,)), layer]), (np.array(x), np.array(y)), loss=loss
    )
    assert package.evaluated.confusion == expected


def test_all_batches_are_counted_once(opened: Opener) -> None:
    y = np.arange(600) % 3
    layer = layers.Dense(3, kernel_initializer="identity")
    package = opened(keras.Sequential([layers.Input((3,)), layer]), (np.eye(3)[y], y), loss=CROSS)
    assert package.evaluated.confusion == [[200, 0, 0], [0, 200, 0], [0, 0, 200]]


@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        (np.ones((3, 5)), np.zeros(3), "Expected shape"),
        (np.ones((3, 4)), np.full(3, 3), "classes from 0 to 2"),
        (np.ones((3, 4)), np.full(3, 0.5), "whole class numbers"),
        (np.ones((3, 4)), np.zeros((3, 3)), "class numbers"),
    ],
)
def test_an_evaluation_set_that_does_not_fit_is_refused(
    opened: Opener, x: Any, y: Any, reason: str
) -> None:
    with pytest.raises(InvalidModel, match=reason) as refused:
        opened(ends_in(3, "softmax"), (x, y))
    assert refused.value.field == "evaluation"


@pytest.fixture
def warm(opened: Opener, db: None) -> Model:
    """A model that was evaluated once in this process."""
    x = np.random.default_rng(4).normal(size=(300, 8, 8, 1)).astype(np.float32)
    version = served(opened(small_cnn(), (x, np.arange(300) % 3)))
    keras_bridge.evaluate(version)
    return version.model


def candidate(model: Model, value: float) -> ModelVersion:
    values = {spec.name: np.full(spec.shape, value, np.float32) for spec in model.federated}
    return registry.add_candidate(
        model.pk, parent=registry.served(model.pk), weights=blobs.put(wire.dumps(values))
    )


def test_a_kept_model_evaluates_each_version_with_its_own_weights(warm: Model) -> None:
    first, other = registry.served(warm.pk), candidate(warm, 0.0)
    before = keras_bridge.evaluate(first)
    assert keras_bridge.evaluate(other).metrics["loss"] == pytest.approx(np.log(3))
    assert keras_bridge.evaluate(first) == before


def test_a_prediction_has_the_versions_own_weights_whatever_is_evaluated(warm: Model) -> None:
    first, other = registry.served(warm.pk), candidate(warm, 0.0)
    expected = keras_bridge.build_version(first)(IMAGES).numpy()
    for _ in range(2):
        np.testing.assert_array_equal(keras_bridge.predict(first, IMAGES), expected)
        np.testing.assert_allclose(keras_bridge.predict(other, IMAGES), 1 / 3)
        keras_bridge.evaluate(other)


@pytest.mark.django_db
def test_a_photo_is_answered_with_the_numbers_that_a_participant_would_have(opened: Opener) -> None:
    x = np.random.default_rng(5).integers(0, 17, (12, 8, 8), dtype=np.uint8)
    x[0, 0, 0] = 16
    model = trained(small_cnn())
    package = opened(model, (x, ANSWERS), scale=1 / 16)
    assert package.input_spec.white == 16.0
    version = served(package, labels=["a", "b", "c"])
    content = file_of(halves())
    told = trying._answer(version.model_id, Question(content, invert=True))
    example = photo.as_example(content, package.input_spec, invert=True)
    expected = model(package.input_spec.prepare(example[None])).numpy()[0]
    assert (told["version"], told["kind"]) == (1, "classes")
    assert [one["label"] for one in told["scores"]] == ["a", "b", "c"]
    np.testing.assert_allclose([one["score"] for one in told["scores"]], expected, rtol=1e-5)
    assert told["seen"].startswith("data:image/png;base64,")
    assert 0 < told["seconds"] < 5


@pytest.mark.django_db
def test_a_row_is_answered_too(opened: Opener) -> None:
    model = ends_in(1, "linear", "mean_squared_error")
    version = served(opened(model))
    told = trying._answer(version.model_id, Question(b"[1, 2, 3, 4]", is_photo=False))
    expected = float(model(np.array([[1.0, 2, 3, 4]], np.float32))[0, 0])
    assert (told["kind"], told["seen"]) == ("values", None)
    assert told["scores"] == [{"label": "0", "score": pytest.approx(expected, rel=1e-5)}]


@pytest.mark.parametrize(
    ("brightest", "scale", "white"),
    [(1.0, 1.0, 1.0), (255, 1 / 255, 255.0), (4000, 1.0, 65_535.0), (None, 1 / 16, 16.0)],
)
def test_what_white_is_follows_from_the_examples_or_else_from_the_scale(
    opened: Opener, brightest: float | None, scale: float, white: float
) -> None:
    x = None if brightest is None else (np.full((12, 8, 8), brightest), ANSWERS)
    assert opened(small_cnn(), x, scale=scale).input_spec.white == white


def test_a_model_that_was_evaluated_once_is_warm(warm: Model) -> None:
    assert keras_bridge.is_warm(warm)
    other = Model(architecture_digest="0" * 64)
    assert not keras_bridge.is_warm(other)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(warm: Model, value: float) -> None:
    with pytest.raises(NonFinite, match="finite"):
        keras_bridge.evaluate(candidate(warm, value))


def test_a_loss_that_is_not_finite_is_refused(warm: Model) -> None:
    with pytest.raises(NonFinite, match="finite loss"):
        keras_bridge.evaluate(candidate(warm, 3e38))


@pytest.mark.django_db
def test_a_model_without_an_evaluation_set_has_no_metrics(opened: Opener) -> None:
    assert keras_bridge.evaluate(served(opened(small_cnn()))) == Evaluation()


def test_all_refusals_are_errors_of_the_house() -> None:
    assert issubclass(PackageRefused, FedserverError)
