"""Weak order of the schemes, and their laws at finite step: nearly all of it without sampling noise."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

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
    accumulate,
    linear_step,
    to_stratonovich,
)
from thermolinalg.testing import assert_unit_variance
from thermolinalg.transition import power, transition

KEY = jax.random.key(1)
RATE = jnp.array([[0.5]])

# Linear equations: the law of a step, exactly.

A = np.array([[1.0, 5.0], [0.0, 2.0]])
R = np.array([[1.0, 0.5], [0.3, 0.8]])
FORCE = np.array([1.0, -2.0])
LINEAR = Equation(
    lambda t, x, args: args[1] - args[0] @ x,
    lambda t, x, args: args[2],
    tuple(jnp.asarray(x) for x in (A, FORCE, R)),
    Noise.ADDITIVE,
)
ADDITIVE = [EulerMaruyama(), Heun(), Milstein(), StratonovichMilstein(), AdditiveRungeKutta(), WeakSecondOrder()]


def by_hand(scheme, h):
    """Propagator, shift and covariance of a step, from the formulas of the schemes."""
    D, eye = R @ R.T, np.eye(2)
    if isinstance(scheme, EulerMaruyama | Milstein | StratonovichMilstein):
        return eye - h * A, h * FORCE, h * D
    F, half = eye - h * A + h**2 * A @ A / 2, eye - h * A / 2
    covariance = h * half @ D @ half.T
    if isinstance(scheme, AdditiveRungeKutta):
        covariance += h**3 / 12 * A @ D @ A.T
    return F, h * half @ FORCE, covariance


@pytest.mark.parametrize("scheme", ADDITIVE)
def test_the_map_of_a_step_is_the_formula_of_the_scheme(scheme):
    step = linear_step(scheme, LINEAR, 0.2, 2)
    for found, exact in zip((step.propagator, step.shift, step.covariance), by_hand(scheme, 0.2), strict=True):
        np.testing.assert_allclose(found, exact, atol=2e-16 * 40)
    np.testing.assert_allclose(1 + step.excess, np.diagonal(step.propagator), atol=1e-15)


@pytest.mark.parametrize("h", [1e-3, 0.2, 5.0])
def test_the_exponential_scheme_is_exact_where_the_linear_part_is_all(h):
    exact = transition(*(jnp.asarray(x) for x in (A, FORCE, R @ R.T)), h)
    step = linear_step(ExponentialEuler(jnp.asarray(A)), LINEAR, h, 2)
    for name in ("propagator", "shift", "covariance"):
        np.testing.assert_allclose(getattr(step, name), getattr(exact, name), atol=1e-14, rtol=1e-12)
    # And the increment is that of the path: its covariance with the noise of the step is the integrated propagator.
    phi = np.linalg.solve(A, np.eye(2) - scipy.linalg.expm(-h * A))
    told = ExponentialEuler(jnp.asarray(A)).prepare(LINEAR, jnp.asarray(h))[1]
    np.testing.assert_allclose(h * told, phi @ R, rtol=1e-12, atol=1e-15)


def test_fewer_noises_than_unknowns_leave_the_exponential_scheme_exact():
    oscillator = jnp.array([[0.0, -1.0], [4.0, 0.5]])
    column = jnp.array([[0.0], [1.0]])
    equation = Equation(lambda t, x, a: -a @ x, lambda t, x, a: column, oscillator, Noise.ADDITIVE)
    step = linear_step(ExponentialEuler(oscillator), equation, 0.7, 2)
    exact = transition(oscillator, jnp.zeros(2), column @ column.T, 0.7)
    np.testing.assert_allclose(step.covariance, exact.covariance, rtol=1e-12)


def stationary(step):
    return scipy.linalg.solve_discrete_lyapunov(np.asarray(step.propagator), np.asarray(step.covariance))


def test_euler_widens_the_stationary_law_as_it_must():
    rates = np.array([0.5, 1.0, 3.0])
    Q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))
    S = jnp.asarray(Q @ np.diag(rates) @ Q.T)
    equation = Equation(lambda t, x, a: -a @ x, lambda t, x, a: 2**0.5 * jnp.ones_like(x), S, Noise.ADDITIVE)
    h = 0.3
    exact = Q @ np.diag(2 / (2 - h * rates) / rates) @ Q.T
    np.testing.assert_allclose(stationary(linear_step(EulerMaruyama(), equation, h, 3)), exact, rtol=1e-12, atol=1e-14)
    unbiased = stationary(linear_step(ExponentialEuler(S), equation, h, 3))
    np.testing.assert_allclose(unbiased, np.linalg.inv(S), rtol=1e-12, atol=1e-14)


def keep(carry, t, state):
    return carry


def test_the_simulated_stationary_law_is_the_wide_one():
    rates = jnp.array([0.5, 1.0, 3.0])
    equation = Equation(lambda t, x, a: -a * x, lambda t, x, a: 2**0.5 * jnp.ones_like(x), rates, Noise.ADDITIVE)
    run = partial(accumulate, equation, EulerMaruyama(), jnp.zeros(3), step=0.5, steps=100, observe=keep, carry=0)
    ends = jax.jit(jax.vmap(lambda key: run(key)[0]))(jax.random.split(KEY, 8000))
    # What is left of the start after 100 steps: 0.75^200 = 1e-25.
    assert_unit_variance(ends * jnp.sqrt(rates * (2 - 0.5 * rates) / 2)[None])
    with pytest.raises(AssertionError):
        assert_unit_variance(ends * jnp.sqrt(rates)[None])


@pytest.mark.parametrize("scheme", ADDITIVE)
def test_weak_order_on_a_linear_equation(scheme):
    counts = np.array([16, 32, 64, 128, 256])
    exact = transition(*(jnp.asarray(x) for x in (A, FORCE, R @ R.T)), 1.0)
    start = jnp.array([1.0, -1.0])
    errors = []
    for n in counts:
        run = power(linear_step(scheme, LINEAR, 1.0 / n, 2), jnp.asarray(n))
        mean = run.propagator @ start + run.shift - exact.propagator @ start - exact.shift
        errors.append([np.linalg.norm(mean), np.linalg.norm(run.covariance - exact.covariance)])
    slopes = np.log2(np.divide(errors[-2], errors[-1]))
    np.testing.assert_allclose(slopes, scheme.orders[Noise.ADDITIVE].weak, atol=0.1)


# Nonlinear equations. On a circle the mean of a function after n steps is n products of a matrix: interpolate by
# Fourier modes, integrate the noise by Gauss-Hermite quadrature. The truth is the exponential of the generator.

GRID = 2 * np.pi * np.arange(33) / 33
MODES = np.arange(-16, 17)
FOURIER = np.exp(1j * np.outer(GRID, MODES))
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(20)


def pull(t, x, _):
    return 0.7 * jnp.sin(x) + 0.3


def even(t, x, _):
    return 0.6 * jnp.ones_like(x)


def wavy(t, x, _):
    return 0.6 + 0.3 * jnp.cos(x)


def backward(equation, scheme, h):
    """The matrix that takes values of a function on the grid to its means a step earlier."""
    increments, areas = np.meshgrid(NODES * np.sqrt(h), NODES * np.sqrt(h / 12), indexing="ij")
    prepared = scheme.prepare(equation, jnp.asarray(h))

    def one(x, increment, area):
        return scheme.step(equation, prepared, jnp.zeros(()), x[None], jnp.asarray(h), increment[None], area[None])[0]

    every = jax.vmap(jax.vmap(one, (None, 0, 0)), (0, None, None))
    ends = np.asarray(every(jnp.asarray(GRID), jnp.asarray(increments.ravel()), jnp.asarray(areas.ravel())))
    means = np.einsum("q,iqk->ik", np.outer(WEIGHTS, WEIGHTS).ravel(), np.exp(1j * ends[..., None] * MODES))
    return (means @ np.linalg.inv(FOURIER)).real / WEIGHTS.sum() ** 2


def weak_errors(equation, scheme, counts=(16, 32)):
    derive = [(FOURIER @ np.diag((1j * MODES) ** k) @ np.linalg.inv(FOURIER)).real for k in (1, 2)]
    ito = 0.7 * np.sin(GRID) + 0.3
    spread = np.asarray(equation.diffusion(0.0, jnp.asarray(GRID), None))
    function = np.cos(GRID) + np.sin(2 * GRID)
    exact = scipy.linalg.expm(np.diag(ito) @ derive[0] + np.diag(spread**2 / 2) @ derive[1]) @ function
    ends = [np.linalg.matrix_power(backward(equation, scheme, 1 / n), n) @ function for n in counts]
    return np.array([np.abs(end - exact).max() for end in ends])


CIRCLES = [(scheme, Equation(pull, even, None, Noise.ADDITIVE)) for scheme in (*ADDITIVE, ExponentialEuler(RATE))]
CIRCLES += [
    (s, Equation(pull, wavy, None, Noise.COMMUTATIVE)) for s in (EulerMaruyama(), Milstein(), WeakSecondOrder())
]
CIRCLES += [(s, Equation(pull, wavy, None, Noise.GENERAL)) for s in (EulerMaruyama(), WeakSecondOrder())]
CIRCLES += [
    (scheme, to_stratonovich(Equation(pull, wavy, None, kind)))
    for scheme, kind in [
        (Heun(), Noise.COMMUTATIVE),
        (Heun(), Noise.GENERAL),
        (StratonovichMilstein(), Noise.COMMUTATIVE),
    ]
]


@pytest.mark.parametrize(
    ("scheme", "equation"), CIRCLES, ids=lambda x: x.noise.value if isinstance(x, Equation) else type(x).__name__
)
def test_weak_order_on_a_circle(scheme, equation):
    errors = weak_errors(equation, scheme)
    slope = np.log2(errors[0] / errors[1])
    assert slope == pytest.approx(scheme.orders[equation.noise].weak, abs=0.1)
    assert errors[1] > 1e-6  # far above what interpolation and quadrature lose


def test_a_drift_that_was_not_converted_has_no_weak_order():
    wrong = Equation(pull, wavy, None, Noise.COMMUTATIVE, Calculus.STRATONOVICH)
    errors = weak_errors(wrong, Heun())
    assert abs(np.log2(errors[0] / errors[1])) < 0.1


# Two noises that do not commute: the means and second moments of a linear equation, again without sampling noise.

TURN, STRETCH = np.array([[0.0, -0.6], [0.6, 0.0]]), np.array([[0.5, 0.2], [0.0, -0.4]])


class FixedSigns(WeakSecondOrder):
    """The mutation: signs that are not random."""

    def step(self, equation, prepared, t, state, step, increment, area):
        return super().step(equation, prepared, t, state, step, increment, jnp.ones_like(area))


def growth(scheme, equation, h):
    """What a step does to second moments, shape (4, 4): quadrature over the increments, a sum over the signs."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(6)
    total = np.zeros((4, 4))
    points = [(a, b, p * q) for a, p in zip(nodes, weights, strict=True) for b, q in zip(nodes, weights, strict=True)]
    signs = [(1.0, 1.0), (1.0, -1.0), (-1.0, 1.0), (-1.0, -1.0)]
    cases = [(a, b, r, s, w / 4) for a, b, w in points for r, s in signs]
    columns = jnp.asarray(cases)

    @jax.vmap
    def matrix(case):
        noise = (jnp.sqrt(h) * case[:2], case[2:4])
        return jax.jacfwd(lambda x: scheme.step(equation, None, jnp.zeros(()), x, jnp.asarray(h), *noise))(jnp.zeros(2))

    for step, case in zip(np.asarray(matrix(columns)), cases, strict=True):
        total += case[4] * np.kron(step, step)
    return total / weights.sum() ** 2


def general(t, x, _):
    return jnp.stack([jnp.asarray(TURN) @ x, jnp.asarray(STRETCH) @ x], 1)


def decay(t, x, _):
    return -jnp.asarray([[1.0, 0.4], [-0.2, 0.7]]) @ x


@pytest.mark.parametrize("scheme", [EulerMaruyama(), WeakSecondOrder(), Heun()])
def test_weak_order_for_noises_that_do_not_commute(scheme):
    def errors(scheme):
        equation = Equation(decay, general)
        drift, eye = -np.array([[1.0, 0.4], [-0.2, 0.7]]), np.eye(2)
        generator = np.kron(drift, eye) + np.kron(eye, drift) + np.kron(TURN, TURN) + np.kron(STRETCH, STRETCH)
        equation = to_stratonovich(equation) if isinstance(scheme, Heun) else equation
        exact = scipy.linalg.expm(generator)
        ends = [np.linalg.matrix_power(growth(scheme, equation, 1 / n), n) for n in (16, 32)]
        return [np.abs(end - exact).max() for end in ends]

    coarse, fine = errors(scheme)
    assert np.log2(coarse / fine) == pytest.approx(scheme.orders[Noise.GENERAL].weak, abs=0.1)
    if isinstance(scheme, WeakSecondOrder):
        coarse, fine = errors(FixedSigns())
        assert np.log2(coarse / fine) < 0.5
