"""Orders measured on paths, strong and weak, each with its standard error."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thermolinalg.sde import (
    AdditiveRungeKutta,
    Calculus,
    Equation,
    EulerMaruyama,
    ExponentialEuler,
    Heun,
    Milstein,
    Noise,
    StratonovichMilstein,
    WeakSecondOrder,
    brownian_path,
    convergence_order,
    integrate,
    to_stratonovich,
)
from thermolinalg.testing import assert_within_stderr

KEY = jax.random.key(1)
RATE = jnp.array([[0.5]])
TURN, STRETCH = jnp.array([[0.0, -0.6], [0.6, 0.0]]), jnp.array([[0.5, 0.2], [0.0, -0.4]])


def arc(x):
    return jnp.sqrt(x**2 + 1)


SINH = Equation(lambda t, x, _: x / 2 + arc(x), lambda t, x, _: arc(x), None, Noise.COMMUTATIVE)
STRATONOVICH = Equation(lambda t, x, _: arc(x), lambda t, x, _: arc(x), None, Noise.COMMUTATIVE, Calculus.STRATONOVICH)
GROWTH = Equation(lambda t, x, _: 0.5 * x, lambda t, x, _: 0.8 * x, None, Noise.COMMUTATIVE)
WAVE = Equation(
    lambda t, x, _: 1.5 * jnp.sin(4 * x),
    lambda t, x, _: (1 + 0.3 * jnp.sin(t)) * jnp.ones_like(x),
    None,
    Noise.ADDITIVE,
)
STEADY = Equation(lambda t, x, _: 1.5 * jnp.sin(4 * x), lambda t, x, _: jnp.ones_like(x), None, Noise.ADDITIVE)
GENERAL = Equation(
    lambda t, x, _: -x,
    lambda t, x, _: jnp.stack([jnp.sin(TURN @ x), STRETCH @ x], 1),
)


def exp(t, w):
    return jnp.exp(0.18 * t + 0.8 * w)  # 0.5 - 0.8^2 / 2


def sinh(t, w):
    return jnp.sinh(t + w)


FINE = AdditiveRungeKutta()
ZERO, ONE, TWO = jnp.zeros(1), jnp.ones(1), jnp.array([1.0, -0.5])
CASES = {
    "Euler, additive": (WAVE, EulerMaruyama(), ONE, None),
    "Euler, commutative": (GROWTH, EulerMaruyama(), ONE, exp),
    "Euler, general": (GENERAL, EulerMaruyama(), TWO, None),
    "Heun, additive": (WAVE, Heun(), ONE, None),
    "Heun, commutative": (STRATONOVICH, Heun(), ZERO, sinh),
    "Heun, general": (to_stratonovich(GENERAL), Heun(), TWO, None),
    "Milstein, additive": (WAVE, Milstein(), ONE, None),
    "Milstein, commutative": (SINH, Milstein(), ZERO, sinh),
    "Stratonovich Milstein": (STRATONOVICH, StratonovichMilstein(), ZERO, sinh),
    "Runge-Kutta, additive": (WAVE, FINE, ONE, None),
    "weak second order, additive": (WAVE, WeakSecondOrder(), ONE, None),
    "weak second order, commutative": (SINH, WeakSecondOrder(), ZERO, sinh),
    "weak second order, general": (GENERAL, WeakSecondOrder(), TWO, None),
    "exponential, additive": (STEADY, ExponentialEuler(RATE), ONE, None),
}


@pytest.mark.parametrize("case", CASES)
def test_strong_order(case):
    equation, scheme, start, exact = CASES[case]
    # Where noise is additive the reference is another scheme, so that the limit is tested too.
    reference = FINE if equation.noise is Noise.ADDITIVE else None
    found = convergence_order(
        equation,
        scheme,
        start,
        exact,
        duration=0.5,
        key=KEY,
        steps=(16, 32, 64),
        paths=2500,
        reference=reference,
        finer=8 if scheme is reference else 4,  # its own reference makes a slope too large, more so a steep one
    )
    assert found.strong.stderr < 0.05
    assert found.strong.slope == pytest.approx(scheme.orders[equation.noise].strong, abs=0.15)


def test_measured_orders_come_with_honest_errors():
    measure = partial(convergence_order, SINH, Milstein(), ZERO, sinh, duration=0.5, steps=(8, 16, 32))
    runs = [measure(key=key, paths=400, functions=jnp.arcsinh) for key in jax.random.split(KEY, 24)]
    best = measure(key=KEY, paths=40_000, functions=jnp.arcsinh)
    assert best.weak.slope == pytest.approx(1.0, abs=0.15)
    for law, name in ((best.strong, "strong"), (best.weak, "weak")):
        found = [getattr(run, name) for run in runs]
        scores = np.array([(one.slope - law.slope) / np.hypot(one.stderr, law.stderr) for one in found])
        # To first order, from 400 paths with long tails: what the standard errors say holds to a factor of two.
        assert 0.25 < np.mean(scores**2) < 4
        errors = np.array([one.errors for one in found])
        np.testing.assert_allclose(errors.std(0), np.mean([one.stderrs for one in found], 0), rtol=0.5)
        assert_within_stderr(errors.mean(0), errors.std(0) / np.sqrt(24), law.errors, degrees=23)
    lines = best.explain().splitlines()
    assert lines[0] == "Milstein, 40000 paths"
    assert lines[1].startswith("strong order ")
    assert len(lines) == 9
    assert jax.tree.map(lambda x: x, best).scheme == "Milstein"


def test_errors_of_known_size_are_measured():
    # Euler on growth: E (x_h - x)^2 after one step, by hand, and the weak error of mean and square.
    found = convergence_order(
        GROWTH, EulerMaruyama(), ONE, exp, duration=0.5, key=KEY, steps=(1, 2, 4), paths=40_000, functions=lambda x: x
    )
    mean = np.exp(0.25) - 1.25
    assert_within_stderr(found.weak.errors[0], found.weak.stderrs[0], mean)
    # E x^2 - 2 E x y + E y^2 with y = 1.25 + 0.8 W: E x W = 0.8 t E x.
    square = np.exp((2 * 0.5 + 0.64) * 0.5)
    error = square - 2 * np.exp(0.25) * (1.25 + 0.8 * 0.8 * 0.5) + 1.25**2 + 0.64 * 0.5
    assert_within_stderr(found.strong.errors[0], found.strong.stderrs[0], np.sqrt(error))


def test_unusable_measurements_are_refused():
    measure = partial(convergence_order, GROWTH, EulerMaruyama(), ONE, exp, key=KEY)
    with pytest.raises(ValueError, match="at least three numbers"):
        measure(duration=1.0, steps=(8, 16))
    with pytest.raises(ValueError, match="each of which divides the largest"):
        measure(duration=1.0, steps=(8, 16, 24))
    with pytest.raises(ValueError, match="duration must be positive"):
        measure(duration=0.0)
    with pytest.raises(ValueError, match="paths must be a whole number"):
        measure(duration=1.0, paths=1)
    with pytest.raises(ValueError, match="to_stratonovich"):
        convergence_order(GROWTH, Heun(), ONE, exp, key=KEY, duration=1.0)


def test_an_exact_scheme_has_no_measurable_order():
    drift = Equation(lambda t, x, _: 0 * x, lambda t, x, _: jnp.ones_like(x), None, Noise.ADDITIVE)
    found = convergence_order(drift, EulerMaruyama(), ONE, lambda t, w: 1 + w, duration=1.0, key=KEY, paths=10)
    assert found.strong.errors.max() < 1e-14


def test_a_solution_in_closed_form_is_met():
    # The limit, not only the slope: the mean of y^3 - 6 y^2 + 8 y at t is t (t - 1) (t - 2) for y = t + W.
    path = jax.vmap(lambda key: brownian_path(key, 64, 1, 0.5 / 64, areas=True))(jax.random.split(KEY, 20_000))
    ends = jax.vmap(lambda path: integrate(SINH, WeakSecondOrder(), ZERO, path, every=64)[-1, 0])(path)
    y, w = jnp.arcsinh(ends), 0.5 + path.increments.sum((1, 2))
    values = y**3 - 6 * y**2 + 8 * y
    # The same function of the solution itself, whose mean is known, as a control variate.
    values = values - (w**3 - 6 * w**2 + 8 * w) + 0.375
    assert float(values.std()) / np.sqrt(20_000) < 1e-3
    # Its own error, of second order in h = 1/128, is less than a standard error.
    assert_within_stderr(values.mean(), values.std() / np.sqrt(20_000), 0.375)
