"""Ours against diffrax: on the same noise path by path, and in law on its own."""

from typing import ClassVar

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thermolinalg.sde import (
    AdditiveRungeKutta,
    Calculus,
    Equation,
    EulerMaruyama,
    Heun,
    Milstein,
    Noise,
    StratonovichMilstein,
    brownian_path,
    integrate,
    to_ito,
    to_stratonovich,
)
from thermolinalg.sde.second_opinion import diffrax_solve
from thermolinalg.testing import assert_within_stderr

KEY = jax.random.key(2)
STEPS, STEP = 16, 0.0625
START = jnp.array([0.4, -1.1])


class Replay(diffrax.AbstractBrownianPath):
    """A stored path, for steps on its grid."""

    t0: ClassVar[float] = 0.0
    t1: ClassVar[float] = 1.0
    levy_area: ClassVar[type] = diffrax.SpaceTimeLevyArea
    increments: jax.Array
    areas: jax.Array

    def evaluate(self, t0, t1=None, left=True, use_levy=False):
        index = jnp.round(t0 / STEP).astype(jnp.int32)
        W, H = self.increments[index], self.areas[index]
        return diffrax.SpaceTimeLevyArea(jnp.asarray(STEP), W, H) if use_levy else W


def drift(t, x, args):
    return jnp.sin(x) - args * x[::-1] + t


def diagonal(t, x, args):
    return 0.5 + 0.2 * jnp.sin(x) + 0.1 * t


def matrix(t, x, args):
    return jnp.stack([jnp.sin(x[::-1]), x * x[0], jnp.cos(x)], 1)


def steady(t, x, args):
    return jnp.array([[0.5, 0.1, 0.0], [0.0, 0.3, 0.4]]) * (1 + t)


RATE = jnp.asarray(0.3)
DIAGONAL = Equation(drift, diagonal, RATE, Noise.COMMUTATIVE)
MATRIX = Equation(drift, matrix, RATE, Noise.GENERAL)
ADDITIVE = Equation(drift, steady, RATE, Noise.ADDITIVE)


@pytest.mark.parametrize(
    ("equation", "scheme", "solver"),
    [
        (DIAGONAL, EulerMaruyama(), diffrax.Euler()),
        (MATRIX, EulerMaruyama(), diffrax.Euler()),
        (to_stratonovich(DIAGONAL), Heun(), diffrax.Heun()),
        (to_stratonovich(MATRIX), Heun(), diffrax.Heun()),
        (DIAGONAL, Milstein(), diffrax.ItoMilstein()),
        (to_stratonovich(DIAGONAL), StratonovichMilstein(), diffrax.StratonovichMilstein()),
        (ADDITIVE, AdditiveRungeKutta(), diffrax.SRA1()),
    ],
    ids=["Euler", "Euler matrix", "Heun", "Heun matrix", "ItoMilstein", "StratonovichMilstein", "SRA1"],
)
def test_the_same_noise_gives_the_same_path(equation, scheme, solver):
    columns = equation.diffusion(0.0, START, RATE).shape[-1]
    path = brownian_path(KEY, STEPS, columns, STEP, areas=True)
    ours = integrate(equation, scheme, START, path)

    def spread(t, x, args):
        g = equation.diffusion(t, x, args)
        return jnp.diag(g) if g.ndim == 1 else g

    terms = diffrax.MultiTerm(
        diffrax.ODETerm(equation.drift), diffrax.ControlTerm(spread, Replay(path.increments, path.areas))
    )
    saveat = diffrax.SaveAt(steps=True, t0=True)
    theirs = diffrax.diffeqsolve(terms, solver, 0.0, 1.0, STEP, START, equation.args, saveat=saveat, max_steps=STEPS)
    if isinstance(scheme, AdditiveRungeKutta):
        # Theirs takes the noise of a stage at another time of the step; the difference is of higher order.
        np.testing.assert_allclose(ours, theirs.ys, atol=STEP**2)
    else:
        np.testing.assert_allclose(ours, theirs.ys, atol=1e-12)


GROWTH = Equation(lambda t, x, a: a[0] * x, lambda t, x, a: a[1] * x, (0.5, 0.8), Noise.COMMUTATIVE)


@pytest.mark.parametrize(
    ("equation", "solver", "controller"),
    [
        (GROWTH, diffrax.ItoMilstein(), None),
        (to_stratonovich(GROWTH), diffrax.Heun(), None),
        (to_stratonovich(GROWTH), diffrax.SPaRK(), diffrax.PIDController(rtol=1e-2, atol=1e-3, dtmin=2**-7)),
    ],
    ids=["Milstein", "Heun", "adaptive"],
)
def test_the_moments_of_growth_come_out(equation, solver, controller):
    @jax.jit
    @jax.vmap
    def end(key):
        found = diffrax_solve(equation, solver, jnp.ones(1), t1=0.5, key=key, dt0=1 / 32, controller=controller)
        return found.ys[-1, 0]

    logs = jnp.log(end(jax.random.split(KEY, 500)))
    assert float(logs.std()) == pytest.approx(0.8 * 0.5**0.5, rel=0.15)
    # Schemes of strong order 1 at h = 1/32: a bias below h / 2 on top of the standard error.
    assert_within_stderr(logs.mean(), logs.std() / np.sqrt(500), 0.5 * (0.5 - 0.32))
    with pytest.raises(AssertionError):
        assert_within_stderr(logs.mean(), logs.std() / np.sqrt(500), 0.5 * (0.5 + 0.32))  # the other calculus


def test_times_and_shapes_of_a_solution():
    found = diffrax_solve(ADDITIVE, diffrax.ShARK(), START, t0=1.0, t1=2.0, key=KEY, dt0=0.1, ts=[1.25, 1.5, 2.0])
    assert found.ys.shape == (3, 2)
    single = jax.tree.map(lambda x: x.astype(jnp.float32), DIAGONAL)
    assert (
        diffrax_solve(single, diffrax.Euler(), START.astype(jnp.float32), t1=1.0, key=KEY, dt0=0.1).ys.dtype
        == jnp.float32
    )


@pytest.mark.parametrize(
    ("equation", "solver", "options", "message"),
    [
        (DIAGONAL, diffrax.Heun(), {}, r"Heun reads Stratonovich equations, got a Ito one; .* to_stratonovich"),
        (to_stratonovich(DIAGONAL), diffrax.Euler(), {}, r"Euler reads Ito equations, .* to_ito\(equation\)"),
        (to_stratonovich(DIAGONAL), diffrax.HalfSolver(diffrax.Euler()), {}, "Euler reads Ito equations"),
        (to_stratonovich(DIAGONAL), diffrax.SRA1(), {}, "SRA1 needs additive noise, got .* commutative"),
        (DIAGONAL, diffrax.Dopri5(), {}, "Dopri5 reads Stratonovich|Dopri5 is no solver of stochastic"),
        (DIAGONAL, diffrax.Euler(), {"t0": 2.0}, "t0 must be less than t1, got 2.0 and 1.0"),
        (DIAGONAL, diffrax.Euler(), {"dt0": -0.1}, "dt0 must be positive"),
        (DIAGONAL, diffrax.Euler(), {"tolerance": 0.0}, "tolerance must be positive"),
    ],
)
def test_solvers_that_do_not_fit_are_refused(equation, solver, options, message):
    with pytest.raises(ValueError, match=message):
        diffrax_solve(equation, solver, START, t1=1.0, key=KEY, **({"dt0": 0.1} | options))


def test_a_conversion_makes_the_two_agree_in_law():
    # Stratonovich dx = x dW read by an Ito solver after conversion: the mean of log x is 0, not -t/2.
    flow = Equation(lambda t, x, _: 0 * x, lambda t, x, _: x, None, Noise.COMMUTATIVE, Calculus.STRATONOVICH)
    run = jax.jit(
        jax.vmap(
            lambda key: diffrax_solve(to_ito(flow), diffrax.ItoMilstein(), jnp.ones(1), t1=1.0, key=key, dt0=1 / 64).ys[
                -1, 0
            ]
        )
    )
    logs = jnp.log(run(jax.random.split(KEY, 500)))
    assert_within_stderr(logs.mean(), logs.std() / np.sqrt(500), 0.0)
    with pytest.raises(AssertionError):
        assert_within_stderr(logs.mean(), logs.std() / np.sqrt(500), -0.5)
