"""How far to go: adapting damping, steps of the quadratic model, limits, grafting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from thermolinalg.optim.trust import (
    KLClip,
    LevenbergMarquardt,
    NormConstraint,
    graft,
    inner,
    minimise_model,
)

KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def model():
    """A curvature of rank 4 in 6 dimensions, a gradient and two directions."""
    root, grad, step, last = (
        jax.random.normal(k, s) for k, s in zip(jax.random.split(KEY, 4), [(4, 6), 6, 6, 6], strict=True)
    )
    return root.T @ root, grad, step, last


def test_the_model_step_is_the_minimum_that_an_optimizer_finds(model):
    curvature, grad, step, last = model
    found = minimise_model(lambda v: curvature @ v, grad, step, last, jnp.asarray(0.1), jnp.asarray(1e6))

    def value(w):
        d = w[0] * step + w[1] * last
        return float(grad @ d + d @ curvature @ d / 2 + 0.1 * d @ d / 2)

    best = minimize(value, np.zeros(2), tol=1e-12)
    np.testing.assert_allclose(found.coefficients, best.x, rtol=1e-5)
    d = found.coefficients[0] * step + found.coefficients[1] * last
    np.testing.assert_allclose(found.predicted, grad @ d + d @ curvature @ d / 2, rtol=1e-10)
    # At the minimum the damped model is half the slope along the step.
    np.testing.assert_allclose(value(np.asarray(found.coefficients)), float(grad @ d) / 2, rtol=1e-10)


def test_a_first_step_has_one_direction(model):
    curvature, grad, step, _ = model
    found = minimise_model(lambda v: curvature @ v, grad, step, jnp.zeros(6), jnp.asarray(0.0), jnp.asarray(1e6))
    assert found.coefficients[1] == 0
    np.testing.assert_allclose(found.coefficients[0], -(grad @ step) / (step @ curvature @ step), rtol=1e-10)


def test_directions_of_very_different_length_do_not_spoil_the_minimum(model):
    curvature, grad, step, last = model
    whole = minimise_model(lambda v: curvature @ v, grad, step, last, jnp.asarray(0.1), jnp.asarray(1e30))
    tiny = minimise_model(lambda v: curvature @ v, grad, step, 1e-9 * last, jnp.asarray(0.1), jnp.asarray(1e30))
    np.testing.assert_allclose(tiny.coefficients, whole.coefficients * jnp.array([1.0, 1e9]), rtol=1e-6)


def test_damping_follows_the_ratio():
    rule = LevenbergMarquardt(1.0, factor=0.5, least=0.3, most=5.0)
    for ratio, expected in [(0.9, 0.5), (0.5, 1.0), (0.1, 2.0), (-3.0, 2.0), (jnp.nan, 2.0), (jnp.inf, 2.0)]:
        assert rule.adapt(jnp.asarray(1.0), jnp.asarray(ratio)) == expected
    assert rule.adapt(jnp.asarray(0.4), jnp.asarray(1.0)) == pytest.approx(0.3)
    assert rule.adapt(jnp.asarray(4.0), jnp.asarray(0.0)) == 5.0


def test_limits_shorten_steps_to_their_bound_and_no_further():
    step, grads = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}, {"a": jnp.array([1.0]), "b": jnp.array([2.0])}
    rate = jnp.asarray(0.1)
    scale = NormConstraint(0.25)(step, grads, rate)
    assert float(scale * rate) * 5 == pytest.approx(0.25)
    assert NormConstraint(0.6)(step, grads, rate) == 1
    scale = KLClip(1e-3)(step, grads, rate)
    assert float((scale * rate) ** 2 * inner(step, grads)) == pytest.approx(1e-3)
    assert KLClip(1.0)(step, grads, rate) == 1
    assert KLClip(1.0)(jax.tree.map(jnp.zeros_like, step), grads, rate) == 1


def test_grafting_keeps_the_direction():
    np.testing.assert_allclose(graft(jnp.array([3.0, 4.0]), jnp.asarray(10.0)), [6.0, 8.0])
    np.testing.assert_array_equal(graft(jnp.zeros(2), jnp.asarray(10.0)), [0, 0])


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: LevenbergMarquardt(0.0), "initial must be positive"),
        (lambda: LevenbergMarquardt(1.0, factor=1.5), "factor must lie between 0 and 1"),
        (lambda: LevenbergMarquardt(1.0, low=0.8), "high must be above low"),
        (lambda: LevenbergMarquardt(1.0, period=0), "period must be a whole number"),
        (lambda: KLClip(0.0), "bound must be positive"),
        (lambda: NormConstraint(-1.0), "bound must be positive"),
    ],
)
def test_numbers_out_of_range_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()
