"""K-FAC with its back-ends: no noise is no change, less noise is less error, and the state is all there is."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from thermolinalg.converters import Converter
from thermolinalg.device import Device
from thermolinalg.optim.analog import ThermodynamicInverse, ThermodynamicSolve
from thermolinalg.optim.factors import factors
from thermolinalg.optim.fisher import exact
from thermolinalg.optim.kfac import kfac
from thermolinalg.optim.kronecker import Factored, Gradient
from thermolinalg.optim.layers import dense
from thermolinalg.optim.losses import CrossEntropy
from thermolinalg.optim.solvers import Cholesky, Solver
from thermolinalg.optim.task import task as make_task
from thermolinalg.plan import Plan
from thermolinalg.simulators import Law

KEY = jax.random.key(3)
INDEPENDENT = Law(long_time=True)
SILENT = {
    "inverse": ThermodynamicInverse(Plan(1e9, 1e9, samples=1e30), device=Device(simulator=INDEPENDENT)),
    "solve": ThermodynamicSolve(Plan(1e9, 1.0), device=Device(beta=1e30)),
}


def network(params, x):
    return dense(x, params["w"], params["b"])


def start(key):
    return {"w": jax.random.normal(key, (6, 3)) / 2, "b": jnp.zeros(3)}


X = jax.random.normal(jax.random.fold_in(KEY, 1), (48, 6))
BATCH = X, jnp.argmax(X[:, :3] + X[:, 3:], 1)
TASK = make_task(network, CrossEntropy(), start(KEY), X)


def optimizer(solver: Solver = Cholesky(), **settings):  # noqa: B008 - a constant
    defaults = {"damping": 0.1, "fisher": exact, "inverse_period": 2, "momentum": 0.8}
    return kfac(TASK, 0.3, blocks=Factored(solver), **defaults | settings)


@functools.lru_cache
def stepper(opt):
    """One compiled step: parameters, state and batch to parameters and state."""

    @jax.jit
    def step(params, state, batch):
        updates, state = opt.update(jax.grad(TASK.value)(params, batch), state, params, batch=batch)
        return optax.apply_updates(params, updates), state

    return step


NOISY = ThermodynamicInverse(Plan(1e3, 1e3, samples=1e3), device=Device(simulator=INDEPENDENT))
RULE, NOISY_RULE = optimizer(), optimizer(NOISY)


def train(opt, steps, params=None, state=None):
    params = start(KEY) if params is None else params
    state = opt.init(params) if state is None else state
    for _ in range(steps):
        params, state = stepper(opt)(params, state, BATCH)
    return params, state


def distance(one, other):
    """Largest difference of two trees."""
    return max(
        float(jnp.max(jnp.abs(x - y))) for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


@pytest.fixture(scope="module")
def reference():
    """Five steps with the direct solver."""
    return train(RULE, 5)[0]


@pytest.mark.parametrize("name", SILENT)
def test_a_device_without_noise_trains_as_a_direct_solver_does(reference, name):
    found, state = train(optimizer(SILENT[name]), 5)
    # Both routes round systems of condition number below 1e3; five steps of size one hand that on without growth.
    assert distance(found, reference) < 1e3 * 100 * np.finfo(float).eps
    assert state.stats.fallbacks == 0


@pytest.fixture(scope="module")
def system():
    """Factors and gradient at the start, and the direction of a direct solver."""

    @jax.jit
    def measure(params):
        columns = exact(TASK.loss, TASK.outputs(params, X), BATCH[1])
        grads = _leaves(jax.grad(TASK.value)(params, BATCH))
        matrices = {site.path: site.matrix(grads) for site in TASK.layout.sites}
        return factors(network, params, X, columns, TASK.layout), matrices

    pairs, matrices = measure(start(KEY))

    def direction(solver, key):
        blocks = Factored(solver)
        state = blocks.prepare(pairs, jnp.asarray(0.1), blocks.init(pairs), jax.random.fold_in(key, 0))
        return blocks.apply(Gradient(matrices, dict), state, jax.random.fold_in(key, 1))[0]

    return direction, jax.jit(lambda: direction(Cholesky(), KEY))()


def _leaves(tree):
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def errors(system, solver, levels, keys=16):
    """Median relative errors of the direction of K-FAC over keys, at each level."""
    direction, right = system

    def distance(level, key):
        found = direction(solver(level), key)
        square = sum(jnp.sum((found[path] - right[path]) ** 2) for path in right)
        return jnp.sqrt(square / sum(jnp.sum(block**2) for block in right.values()))

    one = jax.jit(jax.vmap(distance, (None, 0)))
    return [float(jnp.median(one(level, jax.random.split(KEY, keys)))) for level in jnp.asarray(levels)]


def _sampled(samples):
    return ThermodynamicInverse(Plan(1e6, 1e6, samples=samples), device=Device(simulator=INDEPENDENT))


def _averaged(beta):
    return ThermodynamicSolve(Plan(1e3, 1e3), device=Device(beta=beta, simulator=INDEPENDENT))


@pytest.mark.parametrize("solver", [_sampled, _averaged], ids=["inverse", "solve"])
def test_the_error_of_a_direction_falls_as_the_root_of_noise(system, solver):
    coarse, middle, fine = errors(system, solver, (1e4, 1e6, 1e8))
    # Same keys: only the scale of the noise changes, in the limit of small noise by 10 exactly.
    assert coarse / middle == pytest.approx(10, rel=0.3)
    assert middle / fine == pytest.approx(10, rel=0.05)


def test_the_error_of_a_direction_falls_with_bits(system):
    def solver(bits):
        converter = Converter(bits, stochastic=True)
        silent = Device(beta=1e30, matrix_dac=converter, adc=converter, simulator=INDEPENDENT)
        return ThermodynamicSolve(Plan(1e9, 1.0), device=silent)

    found = errors(system, solver, (6.0, 8.0, 10.0, 12.0))
    # Two bits are a factor of four; roundings of so few numbers scatter by less than two around that.
    for coarse, fine in itertools.pairwise(found):
        assert 2 < coarse / fine < 8
    assert found[0] < 0.5


@jax.jit
def device_losses(bits, samples):
    """Losses along 40 steps whose inverses come from a device with these bits that takes this many samples."""
    converter = Converter(bits)
    device = Device(matrix_dac=converter, adc=converter, simulator=INDEPENDENT)
    return _losses(optimizer(ThermodynamicInverse(Plan(1e6, 1e6, samples=samples), device=device)))


def _losses(opt):
    def advance(carry, _):
        params, state = stepper(opt).__wrapped__(*carry, BATCH)
        return (params, state), TASK.value(params, BATCH)

    params = start(KEY)
    return jax.lax.scan(advance, (params, opt.init(params)), length=40)[1]


def steps_to(loss, losses):
    """The first step below a loss, or one more than there were."""
    below = np.asarray(losses) < loss
    return int(np.argmax(below)) + 1 if below.any() else len(below) + 1


def test_eight_bits_take_hardly_more_steps():
    right = steps_to(0.2, jax.jit(lambda: _losses(RULE))())
    assert 10 < right < 30
    assert steps_to(0.2, device_losses(8.0, 1e4)) <= 1.3 * right
    # With fewer samples than unknowns it is another matter: the count is able to tell.
    assert steps_to(0.2, device_losses(8.0, 2.0)) > 1.3 * right


def test_a_checkpoint_resumes_bit_by_bit(tmp_path):
    opt = NOISY_RULE
    params, state = train(opt, 3)
    leaves, structure = jax.tree.flatten((params, state))
    np.savez(tmp_path / "state.npz", *leaves)
    with np.load(tmp_path / "state.npz") as file:
        loaded = jax.tree.unflatten(structure, [jnp.asarray(file[f"arr_{i}"]) for i in range(len(leaves))])
    whole = train(opt, 3, params, state)
    for x, y in zip(jax.tree.leaves(train(opt, 3, *loaded)), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(x, y)
    # Without the random numbers of the state the path is another.
    fresh = loaded[1]._replace(key=opt.init(params).key)
    assert distance(train(opt, 3, loaded[0], fresh)[0], whole[0]) > 1e-6


@pytest.mark.filterwarnings("ignore:Some donated buffers were not usable")
def test_the_state_may_be_donated(reference):
    opt = RULE
    step = jax.jit(stepper(opt).__wrapped__, donate_argnums=(0, 1))
    params = jax.tree.map(jnp.copy, start(KEY))
    state = opt.init(params)
    for _ in range(5):
        params, state = step(params, state, BATCH)
    assert distance(params, reference) < 1e-12


def test_a_scan_is_a_loop(reference):
    opt = NOISY_RULE
    params, state = train(opt, 5)
    assert distance(params, reference) > 1e-6

    @jax.jit
    def scanned(params):
        step = stepper(opt).__wrapped__
        return jax.lax.scan(lambda carry, _: (step(*carry, BATCH), None), (params, opt.init(params)), length=5)[0]

    found = scanned(start(KEY))
    assert jax.tree.structure(found) == jax.tree.structure((params, state))
    assert distance(found[0], params) < 1e-12
    assert distance(found[1].factors, state.factors) < 1e-12


def test_an_ensemble_is_its_members():
    opt = NOISY_RULE
    keys = jax.random.split(KEY, 3)

    @jax.jit
    @jax.vmap
    def run(key):
        params = start(key)
        step = stepper(opt).__wrapped__
        return jax.lax.scan(lambda carry, _: (step(*carry, BATCH), None), (params, opt.init(params)), length=5)[0][0]

    found = run(keys)
    for i, key in enumerate(keys):
        alone, _ = train(opt, 5, start(key))
        assert distance(jax.tree.map(lambda leaf, i=i: leaf[i], found), alone) < 1e-11
    assert distance(jax.tree.map(lambda leaf: leaf[0], found), alone) > 1e-2
