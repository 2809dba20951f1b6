"""Curvature of tasks: products, row space, drawn columns and diagnostics, against dense matrices."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from thermolinalg.optim.diagnostics import (
    SignalToNoise,
    SpectralDensity,
    extremes,
    gradient_noise,
    spectral_density,
    suggested_damping,
    trace,
)
from thermolinalg.optim.fisher import MonteCarlo, Propagation, empirical, exact, monte_carlo, propagation
from thermolinalg.optim.layers import dense
from thermolinalg.optim.losses import CrossEntropy, Custom, Logistic, Poisson, SquaredError
from thermolinalg.optim.products import (
    dense_ggn,
    fisher_product,
    ggn_operator,
    ggn_product,
    hessian_product,
    row_space,
)
from thermolinalg.optim.targets import token_mean
from thermolinalg.optim.task import task
from thermolinalg.testing import assert_slope, assert_within_stderr

N, D, K, R = 5, 3, 3, 2
COSH = Custom(lambda z, t: jnp.sum(jnp.log(jnp.cosh(z - t))), "log cosh")
LOSSES = [CrossEntropy(), SquaredError(), Logistic(), Poisson(), COSH]


def network(params, x):
    return dense(jnp.tanh(dense(x, params["in"], params["shift"])), params["out"])


def line(params, x):
    return dense(x, params["w"], params["b"])


def random(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


PARAMS = {"in": 0.7 * random(0, D, 4), "shift": 0.1 * random(1, 4), "out": 0.7 * random(2, 4, K)}
LINE = {"w": random(3, D, K), "b": random(4, K)}


def targets_of(loss, shape, seed=9):
    rng = np.random.default_rng(seed)
    if loss == CrossEntropy():
        return jnp.asarray(rng.integers(0, shape[-1], shape[:-1]))
    if loss in (Logistic(), Poisson()):
        return jnp.asarray(rng.integers(0, 2, shape).astype(float))
    return jnp.asarray(rng.standard_normal(shape))


def vector_like(params, seed=7):
    flat, unravel = ravel_pytree(params)
    return unravel(random(seed, flat.size))


def close(found, expected, tolerance=1e-12):
    found, expected = (np.asarray(ravel_pytree(x)[0]) for x in (found, expected))
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * max(1.0, np.abs(expected).max()))


def by_hand(model, loss, params, inputs, targets):
    """Gauss-Newton matrix from a dense Jacobian and dense output Hessians of the loss, both by differentiation."""
    flat, unravel = ravel_pytree(params)

    @jax.jit
    def parts(flat, inputs, targets):
        z = model(unravel(flat), inputs)
        J = jax.jacrev(lambda p: model(unravel(p), inputs))(flat).reshape(N, z[0].size, -1)

        def one(z, t):
            return loss.value(z[None], jax.tree.map(lambda leaf: leaf[None], t))[0]

        H = jax.vmap(jax.hessian(one))(z, targets).reshape(N, z[0].size, z[0].size)
        return jnp.einsum("nip,nij,njq->pq", J, H, J) / N

    return np.asarray(parts(flat, inputs, targets))


@pytest.fixture(scope="module", params=LOSSES, ids=lambda loss: type(loss).__name__)
def case(request):
    """A task, its batch, the dense GGN, and everything that products say, from one program."""
    loss = request.param
    batch = random(5, N, D), targets_of(loss, (N, K))
    made = task(network, loss, PARAMS, batch[0])
    v, u = vector_like(PARAMS), random(8, K - 1 if isinstance(loss, CrossEntropy) else K, N)

    @jax.jit
    def parts(params, batch, v, u):
        rows = row_space(made, params, batch)
        return {
            "ggn": ggn_product(made, params, batch, v),
            "dense": dense_ggn(made, params, batch),
            "hessian": hessian_product(made, params, batch, v),
            "down": rows.down(v),
            "up": rows.up(u),
            "twice": rows.up(rows.down(v)),
            "gradient": rows.up(rows.coordinates),
            "backprop": made.value_and_gradient(params, batch)[1],
            "coordinates": rows.coordinates,
        }

    G = by_hand(network, loss, PARAMS, *batch)
    return made, batch, G, parts(PARAMS, batch, v, u), ravel_pytree(v)[0], u


def test_products_with_the_ggn(case):
    _, _, G, parts, v, _ = case
    close(parts["ggn"], G @ v)
    close(parts["dense"], G)
    close(parts["twice"], G @ v)
    with pytest.raises(AssertionError):
        close(parts["ggn"], G @ v / N)  # not summed over examples, but averaged


def test_row_space(case):
    _, _, _, parts, v, u = case
    close(parts["gradient"], parts["backprop"])
    assert parts["down"].shape == parts["coordinates"].shape == u.shape
    # One map is the transpose of the other.
    np.testing.assert_allclose(jnp.vdot(parts["down"], u), jnp.vdot(ravel_pytree(parts["up"])[0], v), rtol=1e-12)


def test_row_space_solves_the_damped_system(case):
    made, batch, G, _, _, _ = case

    @jax.jit
    def step(params, batch):
        rows = row_space(made, params, batch)
        c = rows.coordinates
        kernel = jax.vmap(lambda e: rows.down(rows.up(e)).ravel())(jnp.eye(c.size, dtype=c.dtype))
        u = jnp.linalg.solve(kernel + 1e-3 * jnp.eye(c.size, dtype=c.dtype), c.ravel())
        return rows.up(u), made.value_and_gradient(params, batch)[1]

    x, g = step(PARAMS, batch)
    # Rounding grows with the condition number, about 1e3 here.
    close(x, np.linalg.solve(G + 1e-3 * np.eye(len(G)), ravel_pytree(g)[0]), 1e-10)


def test_the_hessian_product_is_that_of_the_mean_loss(case):
    made, batch, _, parts, v, _ = case
    flat, unravel = ravel_pytree(PARAMS)
    dense_hessian = jax.jit(jax.hessian(lambda p: made.value(unravel(p), batch)))(flat)
    close(parts["hessian"], dense_hessian @ v)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_of_a_linear_model_ggn_and_hessian_are_one(loss):
    batch = random(5, N, D), targets_of(loss, (N, K))
    made, v = task(line, loss, LINE, batch[0]), vector_like(LINE)
    products = jax.jit(lambda p, batch, v: (ggn_product(made, p, batch, v), hessian_product(made, p, batch, v)))
    close(*products(LINE, batch, v))


def outcomes(loss):
    """All targets that matter for one example, and the logarithms of their probabilities, in K outputs."""
    if loss == CrossEntropy():
        return jnp.arange(K), lambda z: jax.nn.log_softmax(z)
    if loss == Logistic():
        t = jnp.asarray([[(i >> j) & 1 for j in range(K)] for i in range(2**K)], float)
        return t, lambda z: jnp.sum(t * jax.nn.log_sigmoid(z)[None] + (1 - t) * jax.nn.log_sigmoid(-z)[None], -1)
    # Poisson and Gauss, output by output: sums and Gauss-Hermite points.
    if loss == Poisson():
        grid = jnp.arange(60.0)
        factorial = jax.scipy.special.gammaln(grid + 1)
        return grid, lambda z: grid * z - jnp.exp(z) - factorial
    nodes, weights = np.polynomial.hermite_e.hermegauss(5)
    return jnp.asarray(nodes), lambda z: jnp.log(jnp.asarray(weights / np.sqrt(2 * np.pi)))


@pytest.mark.parametrize("loss", [CrossEntropy(), Logistic()], ids=["softmax", "Bernoulli"])
def test_the_ggn_is_the_fisher_information_of_many_outcomes(loss):
    z = random(6, K)
    t, log_p = outcomes(loss)

    @jax.jit
    def both(z):
        scores = loss.gradient(jnp.broadcast_to(z, (len(t), K)), t)
        columns = loss.root(z[None], t[:1])[:, 0]
        return columns.T @ columns, jnp.einsum("t,ti,tj->ij", jnp.exp(log_p(z)), scores, scores)

    np.testing.assert_allclose(*both(z), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("loss", [Poisson(), SquaredError()], ids=["Poisson", "Gauss"])
def test_the_ggn_is_the_fisher_information_output_by_output(loss):
    t, log_p = outcomes(loss)
    z = jnp.array(0.7)
    drawn = z + t if loss == SquaredError() else t

    @jax.jit
    def both(z):
        scores = loss.gradient(jnp.broadcast_to(z, (len(t), 1)), drawn[:, None])[:, 0]
        return loss.root(z[None, None], t[:1, None]).ravel()[0] ** 2, jnp.sum(jnp.exp(log_p(z)) * scores**2)

    np.testing.assert_allclose(*both(z), rtol=1e-12)


# Columns.


@partial(jax.jit, static_argnums=0)
def squared(loss, z, t):
    """Output Hessians, from the exact columns."""
    columns = loss.root(z, t)
    columns = columns.reshape(*columns.shape[:2], -1)
    return jnp.einsum("cni,cnj->nij", columns, columns)


@pytest.mark.parametrize("estimator", [MonteCarlo, Propagation])
def test_the_error_of_drawn_columns_falls_as_one_over_the_root_of_the_draws(estimator):
    loss, z = CrossEntropy(), random(11, N, K)
    t = targets_of(loss, (N, K))
    H = np.asarray(squared(loss, z, t))
    draws, repeats = [4, 16, 64], 64

    keys = jax.random.split(jax.random.key(1), repeats)
    runs = [jax.jit(jax.vmap(partial(estimator(m), loss, z, t)))(keys) for m in draws]

    def error(biased):
        found = [np.einsum("rcni,rcnj->rnij", v, v) * biased for v in map(np.asarray, runs)]
        squares = [np.sum((f - H) ** 2, (1, 2, 3)) for f in found]
        mean = np.array([s.mean() for s in squares])
        stderr = np.array([s.std(ddof=1) for s in squares]) / repeats**0.5
        return np.sqrt(mean), stderr / (2 * np.sqrt(mean))

    root, stderr = error(1.0)
    assert_slope(draws, root, -0.5, stderr=stderr)
    biased, stderr = error(1.2)
    with pytest.raises(AssertionError):
        assert_slope(draws, biased, -0.5, stderr=stderr)


@pytest.mark.parametrize("loss", [CrossEntropy(), SquaredError(), Logistic(), Poisson()])
@pytest.mark.parametrize("estimator", [monte_carlo, propagation], ids=["monte carlo", "propagation"])
def test_one_column_is_unbiased_with_positions_and_weights(loss, estimator):
    z = 0.5 * random(12, 2, R, K)
    weighted = token_mean(targets_of(loss, (2, R, K)), jnp.array([[1, 1], [1, 0]]))
    runs = 4000

    @jax.jit
    def squares(key):
        v = jax.vmap(lambda k: estimator(loss, z, weighted, k)[0])(jax.random.split(key, runs)).reshape(runs, 2, -1)
        return jnp.einsum("rni,rnj->rnij", v, v)

    H = squared(loss, z, weighted)
    found = np.asarray(squares(jax.random.key(2)))
    mean, stderr = found.mean(0), found.std(0, ddof=1) / runs**0.5
    column = jax.eval_shape(lambda key: estimator(loss, z, weighted, key), jax.random.key(0))
    assert column.shape == (1, *z.shape)
    # Entries that are zero in every run but for rounding have rounding for an error.
    stderr = np.maximum(stderr, 1e-13)
    assert_within_stderr(mean, stderr, H)
    with pytest.raises(AssertionError):
        assert_within_stderr(1.2 * mean, stderr, H)


def test_one_sign_for_all_positions_would_be_biased():
    loss, z = SquaredError(), random(13, N, R, K)
    t, runs = jnp.zeros_like(z), 500
    H = jnp.broadcast_to(jnp.eye(R * K)[None] / R, (N, R * K, R * K))

    def one_sign(loss, outputs, targets, key):
        signs = jnp.tile(jax.random.rademacher(key, (K, N), z.dtype), (R, 1))
        return loss.root_product(outputs, targets, signs)[None]

    def judge(estimator):
        v = jax.jit(jax.vmap(lambda k: estimator(loss, z, t, k)[0]))(jax.random.split(jax.random.key(3), runs))
        v = np.asarray(v).reshape(runs, N, -1)
        found = np.einsum("rni,rnj->rnij", v, v)
        assert_within_stderr(found.mean(0), np.maximum(found.std(0, ddof=1) / runs**0.5, 1e-13), H)

    judge(propagation)
    with pytest.raises(AssertionError):
        judge(one_sign)


def test_columns_make_fishers(case):
    made, batch, G, _, v, _ = case
    unravel = ravel_pytree(PARAMS)[1]

    @partial(jax.jit, static_argnums=0)
    def product(estimator, params, batch):
        columns = estimator(made.loss, made.outputs(params, batch[0]), batch[1], jax.random.key(0))
        return fisher_product(made, params, batch[0], columns, unravel(v))

    close(product(exact, PARAMS, batch), G @ v)

    def one(x, t):
        return ravel_pytree(jax.grad(made.value)(PARAMS, (x[None], t[None])))[0]

    g = jax.jit(jax.vmap(one))(*batch)
    close(product(empirical, PARAMS, batch), g.T @ (g @ v) / N)


def test_columns_that_are_refused():
    z = jnp.zeros((N, K))
    with pytest.raises(ValueError, match="draws"):
        MonteCarlo(0)
    with pytest.raises(ValueError, match="no likelihood"):
        monte_carlo(COSH, z, z, jax.random.key(0))
    made = task(line, SquaredError(), LINE, random(5, N, D))
    with pytest.raises(ValueError, match="columns must have shape"):
        fisher_product(made, LINE, random(5, N, D), z, LINE)


# Tasks.


def test_what_a_task_says():
    batch = random(5, N, D), targets_of(SquaredError(), (N, K))
    made = task(line, SquaredError(), LINE, batch[0])
    assert hash(made) == hash(task(line, SquaredError(), LINE, batch[0]))
    expected = 0.5 * np.mean(np.sum((batch[0] @ LINE["w"] + LINE["b"][None] - batch[1]) ** 2, 1))
    value, gradient = made.value_and_gradient(LINE, batch)
    np.testing.assert_allclose([value, made.value(LINE, batch)], expected, rtol=1e-14)
    residual = batch[0] @ LINE["w"] + LINE["b"][None] - batch[1]
    close(gradient, {"w": batch[0].T @ residual / N, "b": residual.mean(0)})


def test_tasks_that_are_refused():
    x, loss = random(5, N, D), SquaredError()
    for model, what, params, words in [
        (3, loss, LINE, "model must be callable"),
        (line, lambda z, t: z, LINE, r"Custom\(function\)"),
        (line, CrossEntropy, LINE, "must be a Loss"),
        (line, loss, {**LINE, "b": jnp.zeros(K, int)}, r"int64 at \['b'\]"),
        (lambda p, x: (line(p, x), x), loss, LINE, "one array"),
        (lambda p, x: line(p, x).T, loss, LINE, "along the first axis"),
        (lambda p, x: jnp.sum(line(p, x)), loss, LINE, "along its first axis"),
        (lambda p, x: jnp.argmax(line(p, x), -1), loss, LINE, "floating-point"),
    ]:
        with pytest.raises(ValueError, match=words):
            task(model, what, params, x)
    made = task(line, loss, LINE, x)
    with pytest.raises(ValueError, match="pair"):
        made.value(LINE, x)
    with pytest.raises(ValueError, match="shape of the outputs"):
        made.value(LINE, (x, jnp.zeros(N)))


def test_float32_and_bfloat16():
    batch = random(5, N, D), targets_of(CrossEntropy(), (N, K))
    reference = by_hand(network, CrossEntropy(), PARAMS, *batch)
    v = vector_like(PARAMS)
    for dtype, tolerance in ((jnp.float32, 1e-5), (jnp.bfloat16, 0.1)):
        params, x, w = jax.tree.map(lambda leaf: leaf.astype(dtype), (PARAMS, batch[0], v))  # noqa: B023
        made = task(network, CrossEntropy(), params, x)
        found = jax.jit(lambda p, b, w: ggn_product(made, p, b, w))(params, (x, batch[1]), w)  # noqa: B023
        assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(found))
        close(jax.tree.map(lambda leaf: leaf.astype(float), found), reference @ ravel_pytree(v)[0], tolerance)


# Diagnostics.


SIZE = 30
EIGENVALUES = np.concatenate([np.geomspace(1e-3, 1, SIZE - 5), np.zeros(5)])
BASIS = np.linalg.qr(np.random.default_rng(21).standard_normal((SIZE, SIZE)))[0]
MATRIX = jnp.asarray((BASIS * EIGENVALUES) @ BASIS.T)
LIKE = {"a": jnp.zeros((4, 5)), "b": jnp.zeros(10)}


def matrix_product(v):
    flat, unravel = ravel_pytree(v)
    return unravel(MATRIX @ flat)


@pytest.fixture(scope="module")
def density():
    return spectral_density(matrix_product, LIKE, key=jax.random.key(4), probes=24, steps=SIZE)


def test_trace():
    probes = 200
    found = jax.jit(lambda key: trace(matrix_product, LIKE, key=key, probes=probes))(jax.random.key(5))
    assert_within_stderr(found.value, found.stderr, EIGENVALUES.sum(), degrees=probes - 1)
    off = np.asarray(MATRIX) - np.diag(np.diag(MATRIX))
    # The error is known: twice the squares off the diagonal, for each probe.
    np.testing.assert_allclose(found.stderr, np.sqrt(2 * np.sum(off**2) / probes), rtol=0.3)
    with pytest.raises(AssertionError):
        assert_within_stderr(1.5 * found.value, found.stderr, EIGENVALUES.sum(), degrees=probes - 1)


def test_spectral_density(density):
    assert density.nodes.shape == density.weights.shape == (SIZE, 24)
    np.testing.assert_allclose(density.weights.sum(0), SIZE, rtol=1e-12)
    for damping in (1e-2, 1.0):
        found = density.effective_dimension(damping)
        truth = np.sum(EIGENVALUES / (EIGENVALUES + damping))
        assert_within_stderr(found.value, found.stderr, truth, degrees=23)
        with pytest.raises(AssertionError):
            assert_within_stderr(found.value + 9 * found.stderr, found.stderr, truth, degrees=23)
    squares = density.sum(lambda x: x**2)
    assert_within_stderr(squares.value, squares.stderr, np.sum(EIGENVALUES**2), degrees=23)
    above = density.count(0.05)
    assert_within_stderr(above.value, above.stderr, np.sum(EIGENVALUES > 0.05), degrees=23)
    with pytest.raises(ValueError, match="damping"):
        density.effective_dimension(0.0)


def test_few_steps_serve_smooth_functions():
    short = spectral_density(matrix_product, LIKE, key=jax.random.key(4), probes=24, steps=12)
    found = short.effective_dimension(0.1)
    assert_within_stderr(found.value, found.stderr, np.sum(EIGENVALUES / (EIGENVALUES + 0.1)), degrees=23)


def test_extremes():
    shifted = extremes(lambda v: jax.tree.map(lambda a, b: a + 0.1 * b, matrix_product(v), v), LIKE)
    np.testing.assert_allclose(shifted.kappa, 1.1 / 0.1, rtol=1e-10)
    assert not bool(extremes(matrix_product, LIKE).resolved)


def test_diagnostics_of_a_task(case):
    made, batch, G, _, _, _ = case
    found = jax.jit(lambda p, b, key: trace(ggn_operator(made, p, b), p, key=key, probes=64))(
        PARAMS, batch, jax.random.key(6)
    )
    assert_within_stderr(found.value, found.stderr, np.trace(G), degrees=63)


def test_gradient_noise_against_explicit_gradients():
    batch = random(31, 12, D), random(32, 12, K)
    made = task(line, SquaredError(), LINE, batch[0])
    found = jax.jit(lambda p, b: gradient_noise(made, p, b, together=5))(LINE, batch)
    g = jax.vmap(lambda x, t: jax.grad(made.value)(LINE, (x[None], t[None])))(*batch)
    got_of = {"w": found.leaves["['w']"], "b": found.leaves["['b']"], "wb": found.total}
    for names, got in got_of.items():
        leaves = [g[name] for name in names]
        table = np.concatenate([np.asarray(leaf).reshape(12, -1) for leaf in leaves], 1)

        def estimates(table):
            n = len(table)
            kernel = table @ table.T
            signal = (kernel.sum() - np.trace(kernel)) / (n * (n - 1))
            return signal, np.trace(np.cov(table.T).reshape(table.shape[1], -1))

        signal, noise = estimates(table)
        ratios = np.array([np.divide(*estimates(np.delete(table, i, 0))) for i in range(12)])
        stderr = np.sqrt(11 / 12 * np.sum((ratios - ratios.mean()) ** 2))
        np.testing.assert_allclose(got, [signal, noise, signal / noise, stderr], rtol=1e-10)


def test_gradient_noise_is_unbiased_and_its_error_honest():
    n, runs = 64, 300
    made = task(lambda w, x: dense(x, w), SquaredError(), jnp.zeros((1, 2)), jnp.ones((n, 1)))

    @jax.jit
    @jax.vmap
    def one(key):
        t = jnp.array([[0.5, 0.0]]) + jax.random.normal(key, (n, 2))
        return gradient_noise(made, jnp.zeros((1, 2)), (jnp.ones((n, 1)), t)).total

    found = one(jax.random.split(jax.random.key(8), runs))
    for name, truth in (("signal", 0.25), ("noise", 2.0)):
        values = np.asarray(getattr(found, name))
        stderr = values.std(ddof=1) / runs**0.5
        assert_within_stderr(values.mean(), stderr, truth, degrees=runs - 1)
        with pytest.raises(AssertionError):  # the plain |mean|^2 is too large by noise / n
            assert_within_stderr(values.mean() + (2.0 / n if name == "signal" else 0.1), stderr, truth)
    # A jackknife overestimates a little; the mean square error of 300 runs is known to 12 % at three sigma.
    spread = np.asarray(found.ratio).std(ddof=1)
    assert 0.85 < np.sqrt(np.mean(np.square(found.stderr))) / spread < 1.3


def test_batches_without_enough_examples():
    made = task(line, SquaredError(), LINE, random(5, N, D))
    with pytest.raises(ValueError, match="at least 3"):
        gradient_noise(made, LINE, (random(5, 2, D), random(6, 2, K)))
    with pytest.raises(ValueError, match="same number"):
        gradient_noise(made, LINE, (random(5, N, D), random(6, 4, K)))


def test_the_suggested_damping_has_the_least_mean_square_error():
    F = np.geomspace(1e-3, 1, 40)
    variance, distance, n = 2.0, 0.3, 20  # of one example's gradient noise F, of the optimum
    exact_density = SpectralDensity(jnp.asarray(F)[:, None], jnp.ones((40, 1)))
    signal, noise = distance**2 * np.sum(F**2), variance * np.sum(F)
    found = suggested_damping(exact_density, SignalToNoise(*map(jnp.asarray, (signal, noise, signal / noise, 0.0))), n)

    def risk(damping):
        """E |x - (F + damping)^-1 (F x + noise)|^2."""
        bias = distance**2 * (damping / (F + damping)) ** 2
        return np.sum(bias + variance * F / n / (F + damping) ** 2)

    grid = float(found) * np.geomspace(0.1, 10, 41)
    assert np.argmin([risk(x) for x in grid]) == 20
    np.testing.assert_allclose(found, variance / (n * distance**2), rtol=1e-12)
    none = SignalToNoise(*map(jnp.asarray, (-0.1, noise, -0.1 / noise, 0.0)))
    assert suggested_damping(exact_density, none, n) == np.inf
