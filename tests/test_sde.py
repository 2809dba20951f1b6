"""Brownian paths, equations and the engine: what holds for every scheme, to rounding wherever it can."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thermolinalg.sde import (
    AdditiveRungeKutta,
    BrownianPath,
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
    brownian_path,
    check_step,
    integrate,
    to_ito,
    to_stratonovich,
)
from thermolinalg.testing import assert_unit_variance, assert_within_stderr

KEY = jax.random.key(0)
A = jnp.array([[1.0, 5.0], [0.0, 2.0]])


def linear_drift(t, x, args):
    return args[1] - args[0] @ x


def constant(t, x, args):
    return args[2]


def quiet(t, x, args):
    return jnp.zeros_like(x)


LINEAR = Equation(
    linear_drift, constant, (A, jnp.array([1.0, -2.0]), jnp.array([[1.0, 0.5], [0.3, 0.8]])), Noise.ADDITIVE
)


def bend(t, x, args):
    return jnp.sin(x) - 0.3 * x[::-1] + t


def diagonal(t, x, args):
    return 0.5 + 0.2 * jnp.sin(x) + 0.1 * t


def as_matrix(t, x, args):
    return jnp.diag(diagonal(t, x, args))


def mixed(t, x, args):
    """Columns that do not commute."""
    return jnp.stack([jnp.sin(x[::-1]), x * x[0], jnp.cos(x)], 1)


def crossed(t, x, args):
    """A diagonal whose entries depend on each other."""
    return jnp.sin(x[::-1]) + x**2


# Noise.


@pytest.fixture(scope="module")
def paths():
    return jax.vmap(lambda key: brownian_path(key, 12, 2, 0.25, areas=True))(jax.random.split(KEY, 4000))


def drawn_out(path, points):
    """The values of W on a grid, from a path whose areas are those of straight lines: an independent reading."""
    return np.concatenate([np.zeros((1, path.increments.shape[1])), np.cumsum(np.asarray(path.increments), 0)])[
        ::points
    ]


def test_noise_has_the_law_it_should(paths):
    assert_unit_variance(paths.increments.reshape(-1) / 0.5)
    assert_unit_variance(paths.areas.reshape(-1) / np.sqrt(0.25 / 12))
    products = (paths.increments * paths.areas).reshape(-1)
    assert_within_stderr(products.mean(), products.std() / np.sqrt(products.size), 0.0)


@pytest.mark.parametrize("factor", [2, 3, 12])
def test_coarse_noise_has_the_law_it_should(paths, factor):
    coarse = jax.vmap(lambda path: path.coarsen(factor))(paths)
    h = 0.25 * factor
    assert_unit_variance(coarse.increments.reshape(-1) / np.sqrt(h))
    assert_unit_variance(coarse.areas.reshape(-1) / np.sqrt(h / 12))
    products = (coarse.increments * coarse.areas).reshape(-1)
    assert_within_stderr(products.mean(), products.std() / np.sqrt(products.size), 0.0)
    # The mutation: areas averaged without what the increments add to them.
    averaged = paths.areas.reshape(4000, 12 // factor, factor, 2).mean(2)
    with pytest.raises(AssertionError):
        assert_unit_variance(averaged.reshape(-1) / np.sqrt(h / 12))


def test_coarse_areas_are_integrals_of_the_path():
    # Straight lines between the points of a path: no areas of their own, and integrals by the trapezoid rule.
    fine = brownian_path(KEY, 24, 3, 0.5)
    coarse = BrownianPath(fine.increments, jnp.zeros_like(fine.increments), fine.step).coarsen(8)
    W = drawn_out(fine, 1)
    for k in range(3):
        own = W[8 * k : 8 * k + 9] - W[8 * k]
        bridge = own - np.linspace(0, 1, 9)[:, None] * own[-1]
        np.testing.assert_allclose(coarse.areas[k], np.trapezoid(bridge, dx=1 / 8, axis=0), atol=1e-14)
    np.testing.assert_allclose(drawn_out(coarse, 1), W[::8], atol=1e-14)


def test_nested_grids_agree():
    path = brownian_path(KEY, 64, 2, 0.1, areas=True)
    for twice, once in [(path.coarsen(2).coarsen(4), path.coarsen(8)), (path.coarsen(8).coarsen(8), path.coarsen(64))]:
        np.testing.assert_allclose(twice.increments, once.increments, atol=1e-14)
        np.testing.assert_allclose(twice.areas, once.areas, atol=1e-14)
        assert float(twice.step) == pytest.approx(float(once.step), rel=1e-14)
    two = path.coarsen(2)
    W, H = (x.reshape(32, 2, 2) for x in (path.increments, path.areas))
    np.testing.assert_allclose(two.areas, (H[:, 0] + H[:, 1]) / 2 + (W[:, 0] - W[:, 1]) / 4, atol=1e-15)
    assert float(path.duration) == pytest.approx(float(two.duration), rel=1e-14)
    assert path.without_areas().coarsen(2).areas is None


def test_a_shorter_path_is_the_beginning_of_a_longer_one():
    long = brownian_path(KEY, 300, 2, 0.1, areas=True)
    for steps in (1, 127, 128, 129):
        short = brownian_path(KEY, steps, 2, 0.1)
        np.testing.assert_array_equal(short.increments, long.increments[:steps])
    same = jax.jit(lambda key: brownian_path(key, 300, 2, 0.1, areas=True))(KEY)
    np.testing.assert_allclose(same.areas, long.areas, rtol=1e-14)
    assert brownian_path(KEY, 4, 1, 0.1, dtype=jnp.float32).increments.dtype == jnp.float32
    assert brownian_path(KEY, 4, 1, jnp.float32(0.1)).step.dtype == jnp.float32


def test_unusable_paths_are_refused():
    with pytest.raises(ValueError, match=r"factor must divide the number of steps, 12, got 5"):
        brownian_path(KEY, 12, 1, 0.1).coarsen(5)
    with pytest.raises(ValueError, match="factor must be a whole number"):
        brownian_path(KEY, 12, 1, 0.1).coarsen(0)
    with pytest.raises(ValueError, match="steps must be a whole number"):
        brownian_path(KEY, 2.5, 1, 0.1)
    with pytest.raises(ValueError, match="noises must be a whole number"):
        brownian_path(KEY, 2, 0, 0.1)
    with pytest.raises(ValueError, match="step must be positive"):
        brownian_path(KEY, 2, 1, -0.1)


# Conversion.


@pytest.mark.parametrize(
    ("diffusion", "noise"),
    [(diagonal, Noise.COMMUTATIVE), (as_matrix, Noise.COMMUTATIVE), (mixed, Noise.GENERAL), (crossed, Noise.GENERAL)],
)
def test_conversion_adds_the_correction_and_back(diffusion, noise):
    x, t = jnp.array([0.4, -1.1]), jnp.asarray(0.3)
    ito = Equation(bend, diffusion, None, noise)
    converted = to_stratonovich(ito)
    columns = diffusion(t, x, None)
    as_columns = (lambda y: diffusion(t, y, None)) if columns.ndim == 2 else (lambda y: jnp.diag(diffusion(t, y, None)))
    extra = np.einsum("ijk,kj->i", jax.jacfwd(as_columns)(x), as_columns(x))  # all derivatives, no shortcut
    np.testing.assert_allclose(converted.drift(t, x, None), bend(t, x, None) - extra / 2, rtol=1e-14)
    assert np.abs(extra).max() > 1e-2
    assert converted.calculus is Calculus.STRATONOVICH
    assert to_ito(converted).drift is bend
    assert to_ito(ito) is ito
    assert to_stratonovich(converted) is converted
    # Converting anew gives an equal function, so that nothing compiles twice.
    assert to_stratonovich(ito).drift == converted.drift
    back = to_ito(Equation(bend, diffusion, None, noise, Calculus.STRATONOVICH))
    np.testing.assert_allclose(back.drift(t, x, None), bend(t, x, None) + extra / 2, rtol=1e-14)


def test_additive_noise_has_one_drift():
    converted = to_stratonovich(LINEAR)
    assert converted.drift is LINEAR.drift
    assert converted.calculus is Calculus.STRATONOVICH


# One step.


def one_step(scheme, equation, x, path):
    return integrate(equation, scheme, x, path)[1]


@pytest.mark.parametrize("scheme", [EulerMaruyama(), Milstein(), WeakSecondOrder(), Heun(), StratonovichMilstein()])
def test_diagonal_noise_takes_the_same_step_in_every_form(scheme):
    path, x = brownian_path(KEY, 1, 2, 0.2, areas=True), jnp.array([0.4, -1.1])
    forms = [(diagonal, Noise.COMMUTATIVE), (as_matrix, Noise.COMMUTATIVE)]
    forms += [(diagonal, Noise.GENERAL), (as_matrix, Noise.GENERAL)] if Noise.GENERAL in scheme.orders else []
    found = [one_step(scheme, Equation(bend, g, None, noise, scheme.calculus), x, path) for g, noise in forms]
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], atol=2e-15)


def turned(t, x, args):
    """Two commuting fields: a stretch and a turn of the plane."""
    return jnp.stack([0.4 * x, 0.3 * jnp.stack([-x[1], x[0]])], 1)


@pytest.mark.parametrize("diffusion", [diagonal, turned])
def test_ito_on_an_equation_is_stratonovich_on_the_converted_one(diffusion):
    path, x = brownian_path(KEY, 20, 2, 0.2), jnp.array([0.4, -1.1])
    ito = Equation(bend, diffusion, None, Noise.COMMUTATIVE)
    one = integrate(ito, Milstein(), x, path)
    two = integrate(to_stratonovich(ito), StratonovichMilstein(), x, path)
    np.testing.assert_allclose(one, two, atol=1e-12)
    # The mutation: the drift not converted.
    three = integrate(
        Equation(bend, diffusion, None, Noise.COMMUTATIVE, Calculus.STRATONOVICH), StratonovichMilstein(), x, path
    )
    assert np.abs(one - three).max() > 1e-2


def test_milstein_is_exact_where_it_is_written_out():
    path, x = brownian_path(KEY, 1, 2, 0.2), jnp.array([0.4, -1.1])
    dw = np.asarray(path.increments[0])
    g, slope = np.asarray(diagonal(0.0, x, None)), 0.2 * np.cos(np.asarray(x))
    by_hand = np.asarray(x) + 0.2 * np.asarray(bend(0.0, x, None)) + g * dw + g * slope * (dw**2 - 0.2) / 2
    found = one_step(Milstein(), Equation(bend, diagonal, None, Noise.COMMUTATIVE), x, path)
    np.testing.assert_allclose(found, by_hand, rtol=1e-14)


def test_euler_keeps_the_identity_of_time_averages():
    # A mean(x) T = b T + R W_T - (x_T - x_0), path by path.
    path = brownian_path(KEY, 50, 2, 0.1)
    states = integrate(LINEAR, EulerMaruyama(), jnp.array([3.0, -1.0]), path)
    drift, force, R = LINEAR.args
    T = 5.0
    right = force + (R @ path.increments.sum(0) - (states[-1] - states[0])) / T
    np.testing.assert_allclose(drift @ states[:-1].mean(0), right, atol=2e-14)
    assert np.abs(drift @ states[1:].mean(0) - right).max() > 1e-3


# The engine.


def add(carry, t, state):
    return carry[0] + 1, carry[1] + t, carry[2] + state


NOTHING = (0, 0.0, jnp.zeros(2))


@pytest.mark.parametrize("scheme", [EulerMaruyama(), AdditiveRungeKutta(), ExponentialEuler(A)])
def test_drawing_on_the_way_gives_the_stored_path(scheme):
    x0 = jnp.array([3.0, -1.0])
    stored = integrate(LINEAR, scheme, x0, brownian_path(KEY, 300, 2, 0.05, areas=scheme.areas), t0=2.0)
    run = partial(accumulate, LINEAR, scheme, x0, step=0.05, observe=add, carry=NOTHING, t0=2.0)
    for steps in (0, 1, 127, 128, 129, 300):
        state, (count, times, total) = run(KEY, steps=steps)
        np.testing.assert_allclose(state, stored[steps], atol=1e-13)
        assert int(count) == steps
        np.testing.assert_allclose(times, 2.0 * steps + 0.05 * steps * (steps + 1) / 2, rtol=1e-12)
        np.testing.assert_allclose(total, stored[1 : steps + 1].sum(0), atol=1e-10)
    traced = jax.jit(lambda key, steps: run(key, steps=steps))(KEY, 129)
    np.testing.assert_allclose(traced[0], stored[129], atol=1e-13)
    several = jax.vmap(lambda key: run(key, steps=129)[0])(jax.random.split(KEY, 3))
    alone = run(jax.random.split(KEY, 3)[1], steps=129)[0]
    np.testing.assert_allclose(several[1], alone, atol=1e-13)
    assert np.abs(several[0] - several[1]).max() > 1e-3


def test_states_between_those_kept_are_run_through():
    path = brownian_path(KEY, 20, 2, 0.05)
    every = {k: integrate(LINEAR, EulerMaruyama(), jnp.ones(2), path, every=k) for k in (1, 3, 20)}
    np.testing.assert_allclose(every[3], every[1][::3], atol=1e-14)
    np.testing.assert_allclose(every[20], every[1][::20], atol=1e-14)


def test_several_runs_map_over_starts_and_paths():
    keys = jax.random.split(KEY, 3)
    paths = jax.vmap(lambda key: brownian_path(key, 20, 2, 0.05))(keys)
    starts = jnp.arange(6.0).reshape(3, 2)
    states = jax.vmap(lambda x, path: integrate(LINEAR, EulerMaruyama(), x, path))(starts, paths)
    alone = integrate(LINEAR, EulerMaruyama(), starts[2], brownian_path(keys[2], 20, 2, 0.05))
    np.testing.assert_allclose(states[2], alone, atol=1e-13)


def test_times_of_late_steps_are_right_in_single_precision():
    # dx = (t - t0) dt from t0 = 1e6: a clock that adds up steps of 1e-3 there would stand still.
    clock = Equation(lambda t, x, _: jnp.full_like(x, 1.0), quiet, None, Noise.ADDITIVE)
    path = brownian_path(KEY, 1024, 1, jnp.float32(1 / 1024))
    state = integrate(clock, EulerMaruyama(), jnp.zeros(1, jnp.float32), path, t0=1e6)[-1]
    assert float(state[0]) == pytest.approx(1.0, abs=1e-6)
    times = accumulate(
        clock, EulerMaruyama(), jnp.zeros(1, jnp.float32), KEY, step=0.25, steps=200, observe=latest, carry=0.0, t0=1e6
    )[1]
    assert float(times) == 1e6 + 50


def latest(carry, t, state):
    return t.astype(carry.dtype)


@pytest.mark.parametrize(
    "scheme", [EulerMaruyama(), Heun(), AdditiveRungeKutta(), WeakSecondOrder(), Milstein(), ExponentialEuler(A)]
)
def test_single_precision_stays_single(scheme):
    single = jax.tree.map(lambda x: x.astype(jnp.float32), (LINEAR, scheme))
    path = brownian_path(KEY, 10, 2, jnp.float32(0.05), areas=True)
    found = integrate(single[0], single[1], jnp.ones(2, jnp.float32), path)
    assert found.dtype == jnp.float32
    wide = jax.tree.map(lambda x: x.astype(jnp.float64), path)
    np.testing.assert_allclose(found, integrate(LINEAR, scheme, jnp.ones(2), wide), rtol=3e-5, atol=3e-6)


def test_derivatives_of_a_path():
    path = brownian_path(KEY, 20, 2, 0.05)
    ito = Equation(
        lambda t, x, a: a * bend(t, x, None),
        lambda t, x, a: a * diagonal(t, x, None),
        jnp.asarray(0.7),
        Noise.COMMUTATIVE,
    )

    def end(args, x):
        return integrate(Equation(ito.drift, ito.diffusion, args, ito.noise), Milstein(), x, path, every=5)[-1]

    x = jnp.array([0.4, -1.1])
    reverse, forward = jax.jacrev(end, (0, 1))(ito.args, x), jax.jacfwd(end, (0, 1))(ito.args, x)
    for one, two in zip(reverse, forward, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-12)
    eps = 1e-6
    numerical = (end(ito.args + eps, x) - end(ito.args - eps, x)) / (2 * eps)
    np.testing.assert_allclose(reverse[0], numerical, rtol=1e-8)
    propagated = np.linalg.matrix_power(np.eye(2) - 0.05 * np.asarray(A), 20)
    np.testing.assert_allclose(
        jax.jacrev(lambda x: integrate(LINEAR, EulerMaruyama(), x, path)[-1])(x), propagated, atol=1e-13
    )
    ahead = jax.jacfwd(
        lambda x: accumulate(LINEAR, EulerMaruyama(), x, KEY, step=0.05, steps=20, observe=add, carry=NOTHING)[0]
    )(x)
    np.testing.assert_allclose(ahead, propagated, atol=1e-13)


# Refusals.


@pytest.mark.parametrize(
    ("scheme", "equation", "message"),
    [
        (
            EulerMaruyama(),
            Equation(bend, diagonal, None, Noise.COMMUTATIVE, Calculus.STRATONOVICH),
            r"to_ito\(equation\)",
        ),
        (WeakSecondOrder(), Equation(bend, mixed, None, Noise.GENERAL, Calculus.STRATONOVICH), r"to_ito\(equation\)"),
        (Heun(), Equation(bend, diagonal, None, Noise.COMMUTATIVE), r"to_stratonovich\(equation\)"),
        (StratonovichMilstein(), Equation(bend, diagonal, None, Noise.COMMUTATIVE), r"to_stratonovich\(equation\)"),
        (Milstein(), Equation(bend, mixed), "Milstein needs additive or commutative noise, got .* general"),
        (
            AdditiveRungeKutta(),
            Equation(bend, diagonal, None, Noise.COMMUTATIVE),
            "needs additive noise, got .* commut",
        ),
        (ExponentialEuler(A), Equation(bend, diagonal, None, Noise.COMMUTATIVE), "needs additive noise, got .* commut"),
    ],
)
def test_schemes_refuse_what_they_are_not_made_for(scheme, equation, message):
    with pytest.raises(ValueError, match=message):
        integrate(equation, scheme, jnp.ones(2), brownian_path(KEY, 2, 2, 0.1, areas=True))


def test_additive_noise_fits_either_calculus():
    path = brownian_path(KEY, 2, 2, 0.1)
    for calculus in Calculus:
        again = Equation(LINEAR.drift, LINEAR.diffusion, LINEAR.args, Noise.ADDITIVE, calculus)
        for scheme in (EulerMaruyama(), Heun(), Milstein(), StratonovichMilstein()):
            assert integrate(again, scheme, jnp.ones(2), path).shape == (3, 2)


def euler(start, path=None, drift=bend, diffusion=diagonal, **options):
    path = brownian_path(KEY, 4, 2, 0.1) if path is None else path
    return integrate(Equation(drift, diffusion), EulerMaruyama(), start, path, **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: euler(jnp.ones((2, 1))), r"start must be one vector of shape \(d,\), got shapes \[\(2, 1\)\]"),
        (lambda: euler((jnp.ones(2), jnp.ones(2))), "start must be one vector"),
        (lambda: euler(jnp.ones(2, int)), "real floating-point"),
        (lambda: euler(jnp.ones(2, complex)), "real floating-point"),
        (lambda: euler(jnp.ones(2), drift=lambda t, x, a: x[:1]), r"drift .* expected \(2,\), received \(1,\)"),
        (lambda: euler(jnp.ones(2), drift=lambda t, x, a: (x, x)), "drift must return one array, received tuple"),
        (lambda: euler(jnp.ones(2), diffusion=lambda t, x, a: x[:1]), r"\(2,\) or \(2, m\), received \(1,\)"),
        (
            lambda: euler(jnp.ones(2), diffusion=lambda t, x, a: x.astype(jnp.float32)),
            "expected float64, received float32",
        ),
        (
            lambda: euler(jnp.ones(2), brownian_path(KEY, 4, 3, 0.1)),
            r"shape \(n, 2\) for this equation, received \(4, 3\)",
        ),
        (
            lambda: euler(jnp.ones(2), brownian_path(KEY, 4, 2, 0.1, dtype=jnp.float32)),
            "one type, got float32 and float64",
        ),
        (lambda: euler(jnp.ones(2), every=0), "every must be a whole number"),
        (
            lambda: integrate(LINEAR, AdditiveRungeKutta(), jnp.ones(2), brownian_path(KEY, 4, 2, 0.1)),
            "AdditiveRungeKutta reads areas.*areas=True",
        ),
        (
            lambda: integrate(LINEAR, ExponentialEuler(jnp.eye(3)), jnp.ones(2), brownian_path(KEY, 4, 2, 0.1)),
            r"A must have shape \(2, 2\)",
        ),
        (
            lambda: integrate(
                Equation(bend, lambda t, x, a: jnp.ones_like(x) * t, None, Noise.ADDITIVE),
                ExponentialEuler(A),
                jnp.ones(2),
                brownian_path(KEY, 4, 2, 0.1, areas=True),
            ),
            "does not depend on time",
        ),
        (
            lambda: accumulate(
                LINEAR, EulerMaruyama(), jnp.ones(2), KEY, step=0.0, steps=3, observe=add, carry=NOTHING
            ),
            "step must be positive",
        ),
        (
            lambda: accumulate(
                LINEAR, EulerMaruyama(), jnp.ones(2), KEY, step=0.1, steps=2.5, observe=add, carry=NOTHING
            ),
            "steps must be a whole number of at least 0, got 2.5",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_steps_beyond_stability_are_refused():
    for scheme in (EulerMaruyama(), Heun(), AdditiveRungeKutta(), WeakSecondOrder(), Milstein()):
        check_step(scheme, LINEAR, 0.999, jnp.zeros(2))  # the fastest rate is 2, the limit 2 / 2
        with pytest.raises(
            ValueError, match=rf"step 1.001 is too long for {type(scheme).__name__}.* take less than 1$"
        ):
            check_step(scheme, LINEAR, 1.001, jnp.zeros(2))
        assert scheme.limit == 2
    check_step(ExponentialEuler(A), LINEAR, 1e3, jnp.zeros(2))
    assert ExponentialEuler(A).limit == np.inf
    # A turn takes shorter steps: rates 1 +- 3i allow Euler 2 / 10.
    swirl = Equation(
        linear_drift, constant, (jnp.array([[1.0, 3.0], [-3.0, 1.0]]), jnp.zeros(2), jnp.eye(2)), Noise.ADDITIVE
    )
    check_step(EulerMaruyama(), swirl, 0.199, jnp.zeros(2))
    with pytest.raises(ValueError, match=r"take less than 0.2$"):
        check_step(EulerMaruyama(), swirl, 0.201, jnp.zeros(2))
    # An equation that grows by itself is no fault of the step.
    check_step(EulerMaruyama(), Equation(lambda t, x, _: x, quiet, None, Noise.ADDITIVE), 0.1, jnp.zeros(2))
