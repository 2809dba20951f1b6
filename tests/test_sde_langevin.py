"""Langevin splittings: their laws on linear problems to rounding, their order, and what they refuse."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.linalg import expm, solve_discrete_lyapunov

from thermolinalg.process import OrnsteinUhlenbeck
from thermolinalg.sde.brownian import brownian_path
from thermolinalg.sde.engine import accumulate, integrate
from thermolinalg.sde.equations import Equation
from thermolinalg.sde.langevin import LangevinEquation, PhaseState
from thermolinalg.sde.splittings import BAOAB, OBABO, UBU
from thermolinalg.streaming import BatchMeans
from thermolinalg.testing import assert_within_stderr

D, H, T = 3, 0.4, 0.7
SCHEMES = [BAOAB(), OBABO(), UBU()]
NAMES = ["BAOAB", "OBABO", "UBU"]
K = np.array([[2.0, 0.5, 0.3], [0.5, 1.5, -0.4], [0.3, -0.4, 3.0]])
MASSES = {
    "number": 1.7,
    "diagonal": np.array([1.0, 2.0, 0.8]),
    "matrix": np.array([[1.0, 0.2, 0.1], [0.2, 2.0, -0.3], [0.1, -0.3, 1.5]]),
}
FRICTIONS = {
    "number": 0.7,
    "diagonal": np.array([0.5, 0.0, 2.0]),
    "matrix": np.array([[1.0, 0.3, 0.0], [0.3, 0.8, 0.2], [0.0, 0.2, 2.0]]),
    "not symmetric": np.array([[1.0, 0.9, 0.0], [-0.5, 0.8, 0.2], [0.4, 0.0, 2.0]]),
    "singular": np.outer([1.0, 0.5, -0.7], [1.0, 0.5, -0.7]),
}


def spring(t, x, stiffness):
    return -stiffness @ x


def quartic(t, x, args):
    return -x - x**3


def matrix(value):
    value = np.asarray(value, float)
    return value * np.eye(D) if value.ndim < 2 else value


def langevin(mass="matrix", friction="matrix", temperature=T):
    return LangevinEquation(spring, jnp.asarray(K), MASSES[mass], FRICTIONS[friction], temperature)


@partial(jax.jit, static_argnums=0)
def affine(scheme, equation, h):
    """Propagator (2d, 2d) of a step and its response (2d, m) to standard normals, by forward derivatives at zero."""
    count = scheme.normals * D

    def step(both):
        z, normals = both[: 2 * D], both[2 * D :]
        prepared = scheme.prepare(equation, h)
        state = PhaseState(z[:D], z[D:])
        after = scheme.step(equation, prepared, jnp.zeros_like(h), state, h, jnp.sqrt(h) * normals, None)
        return jnp.concatenate([after.position, after.momentum])

    full = jax.jacfwd(step)(jnp.zeros(2 * D + count, h.dtype))
    return full[:, : 2 * D], full[:, 2 * D :]


def stationary(scheme, equation, h=H):
    """Propagator and stationary covariance, by SciPy."""
    F, G = (np.asarray(x) for x in affine(scheme, equation, jnp.asarray(h)))
    assert np.abs(np.linalg.eigvals(F)).max() < 1
    return F, solve_discrete_lyapunov(F, G @ G.T)


def phase_space(mass, friction, temperature=T, stiffness=K):
    """Drift and diffusion of position and momentum, in NumPy."""
    M, G, zero = matrix(mass), matrix(friction), np.zeros((D, D))
    inverse = np.linalg.inv(M)
    drift = np.block([[zero, -inverse], [stiffness, G @ inverse]])
    return drift, np.block([[zero, zero], [zero, temperature * (G + G.T)]])


def table(scheme, M, h=H):
    """Stationary covariances of position and momentum that the docstrings state."""
    position, momentum = np.linalg.inv(K), M
    if isinstance(scheme, BAOAB):
        momentum = M - h**2 * K / 4
    else:
        position = np.linalg.inv(K - h**2 * K @ np.linalg.inv(M) @ K / 4)
    return T * position, T * momentum


class TestStationaryLaw:
    @pytest.mark.parametrize("friction", FRICTIONS)
    @pytest.mark.parametrize("mass", MASSES)
    @pytest.mark.parametrize("scheme", SCHEMES[:2], ids=NAMES[:2])
    def test_it_is_the_table(self, scheme, mass, friction):
        _, S = stationary(scheme, langevin(mass, friction))
        position, momentum = table(scheme, matrix(MASSES[mass]))
        np.testing.assert_allclose(S[:D, :D], position, rtol=0, atol=1e-10)
        np.testing.assert_allclose(S[D:, D:], momentum, rtol=0, atol=1e-10)
        np.testing.assert_allclose(S[:D, D:], 0, atol=1e-10)

    def test_the_other_scheme_does_not_fit_it(self):
        _, S = stationary(BAOAB(), langevin())
        assert np.abs(S[:D, :D] - table(OBABO(), MASSES["matrix"])[0]).max() > 1e-3

    @pytest.mark.parametrize("friction", FRICTIONS)
    @pytest.mark.parametrize("mass", MASSES)
    def test_the_error_of_ubu_falls_with_the_square_of_the_step(self, mass, friction):
        exact = T * np.block([[np.linalg.inv(K), np.zeros((D, D))], [np.zeros((D, D)), matrix(MASSES[mass])]])
        coarse, fine = (
            np.linalg.norm(stationary(UBU(), langevin(mass, friction), h)[1] - exact) for h in (0.05, 0.025)
        )
        assert 3.95 < coarse / fine < 4.05
        assert coarse < 0.05**2

    @pytest.mark.parametrize("scheme", SCHEMES, ids=NAMES)
    def test_it_is_stable_up_to_the_limit(self, scheme):
        fastest = np.sqrt(np.linalg.eigvals(np.linalg.solve(MASSES["matrix"], K)).real.max())
        for part, grows in ((0.999, False), (1.001, True)):
            undamped = replace(langevin(), friction=0.0)
            F, _ = affine(scheme, undamped, jnp.asarray(part * scheme.limit / fastest))
            assert (np.abs(np.linalg.eigvals(np.asarray(F))).max() > 1 + 1e-6) == grows

    @pytest.mark.parametrize("scheme", SCHEMES, ids=NAMES)
    def test_equipartition(self, scheme):
        """Every degree of freedom holds T/2 where the scheme promises it: x'Kx of BAOAB, p'p/m of OBABO."""
        _, S = stationary(scheme, langevin())
        potential = np.trace(K @ S[:D, :D]) / D
        kinetic = np.trace(np.linalg.solve(MASSES["matrix"], S[D:, D:])) / D
        exact = {"BAOAB": [True, False], "OBABO": [False, True], "UBU": [False, False]}[type(scheme).__name__]
        for found, holds in zip((potential, kinetic), exact, strict=True):
            assert (abs(found - T) < 1e-12) == holds
            assert abs(found - T) < 0.1 * T


class TestFriction:
    @pytest.mark.parametrize("scheme", SCHEMES, ids=NAMES)
    def test_a_number_is_a_diagonal_is_a_matrix(self, scheme):
        number = langevin("number", "number")
        same = [
            replace(number, friction=np.full(D, 0.7)),
            replace(number, mass=np.full(D, 1.7)),
            replace(number, friction=0.7 * np.eye(D)),
            replace(number, mass=1.7 * np.eye(D)),
        ]
        F, G = affine(scheme, number, jnp.asarray(H))
        for equation in same:
            other, noise = affine(scheme, equation, jnp.asarray(H))
            np.testing.assert_allclose(other, F, rtol=1e-14, atol=1e-15)
            np.testing.assert_allclose(noise @ noise.T, G @ G.T, rtol=1e-13, atol=1e-15)

    @pytest.mark.parametrize("friction", [0.0, 1e-9, 1e-3, 1.0, 5.0, 50.0])
    def test_the_noise_of_a_glide_is_that_of_the_matrices(self, friction):
        """Closed form of independent components against the transition of the joint linear system; no force."""
        F, G = affine(UBU(), LangevinEquation(spring, 0 * K, 1.7, friction, T), jnp.asarray(H))
        drift, diffusion = phase_space(1.7, friction, stiffness=0 * K)
        law = OrnsteinUhlenbeck(drift, diffusion=diffusion).transition(H)
        np.testing.assert_allclose(F, law.propagator, rtol=1e-13, atol=1e-15)
        scale = np.sqrt(np.outer(*(2 * [np.maximum(np.diagonal(law.covariance), 1e-300)])))
        np.testing.assert_allclose((G @ G.T) / scale, law.covariance / scale, rtol=0, atol=1e-12)

    @pytest.mark.parametrize("friction", FRICTIONS)
    @pytest.mark.parametrize("mass", MASSES)
    def test_without_force_ubu_is_exact(self, mass, friction):
        free = replace(langevin(mass, friction), args=jnp.zeros((D, D)))
        F, G = affine(UBU(), free, jnp.asarray(H))
        drift, _ = phase_space(MASSES[mass], FRICTIONS[friction], stiffness=0 * K)
        law = OrnsteinUhlenbeck(drift, diffusion=phase_space(MASSES[mass], FRICTIONS[friction])[1]).transition(H)
        np.testing.assert_allclose(F, expm(-H * drift), rtol=0, atol=1e-13)
        np.testing.assert_allclose(G @ G.T, law.covariance, rtol=0, atol=1e-13)


class TestTime:
    """What holds between times: reversal, response, the flow at no temperature."""

    REVERSAL = np.diag([1.0] * D + [-1.0] * D)

    def asymmetry(self, scheme, equation):
        """(z_n, z_n+1) has the law of (R z_n+1, R z_n) where F S R is symmetric and R S R = S."""
        F, S = stationary(scheme, equation)
        lagged = F @ S @ self.REVERSAL
        return np.abs(lagged - lagged.T).max() + np.abs(self.REVERSAL @ S @ self.REVERSAL - S).max()

    @pytest.mark.parametrize("friction", ["number", "diagonal", "matrix", "singular"])
    @pytest.mark.parametrize("scheme", SCHEMES[:2], ids=NAMES[:2])
    def test_detailed_balance_up_to_the_momenta(self, scheme, friction):
        assert self.asymmetry(scheme, langevin("matrix", friction)) < 1e-12

    def test_friction_that_is_not_symmetric_breaks_it(self):
        assert self.asymmetry(BAOAB(), langevin("matrix", "not symmetric")) > 1e-3

    def test_a_step_that_is_not_a_palindrome_breaks_it(self):
        F = np.asarray(affine(OBABO(), langevin(), jnp.asarray(H))[0])
        # Friction of a whole step before the Verlet step: OO BAB.
        drift, _ = phase_space(MASSES["matrix"], FRICTIONS["matrix"])
        E = expm(-H / 2 * drift[D:, D:])
        inner = np.block([[np.eye(D), np.zeros((D, D))], [np.zeros((D, D)), E]])
        verlet = np.linalg.solve(inner, F) @ np.linalg.inv(inner)
        M = MASSES["matrix"]
        noise = np.zeros((2 * D, 2 * D))
        noise[D:, D:] = T * (M - E @ E @ M @ E.T @ E.T)
        F = verlet @ inner @ inner
        S = solve_discrete_lyapunov(F, verlet @ noise @ verlet.T)
        lagged = F @ S @ self.REVERSAL
        assert np.abs(lagged - lagged.T).max() > 1e-3

    @pytest.mark.parametrize(
        ("scheme", "kick", "holds"),
        [(OBABO(), "momentum", True), (BAOAB(), "position", True), (BAOAB(), "momentum", False)],
        ids=["OBABO", "BAOAB", "BAOAB, kick of what it has not exact"],
    )
    @pytest.mark.parametrize("friction", ["number", "not symmetric"])
    def test_the_response_to_a_kick_is_the_correlation_over_the_temperature(self, scheme, kick, holds, friction):
        """d<z_n>/d kick, through the integrator, against <z_n g(z_0)>/T, g the gradient of the energy."""
        equation = langevin("matrix", friction)
        F, S = stationary(scheme, equation)
        path = brownian_path(jax.random.key(0), 6, scheme.normals * D, H)
        start = PhaseState(jnp.zeros(D))

        def end(by):
            kicked = replace(start, **{kick: by})
            last = jax.tree.map(lambda x: x[-1], integrate(equation, scheme, kicked, path))
            return jnp.concatenate([last.position, last.momentum])

        response = jax.jacfwd(end)(jnp.zeros(D))
        part, slope = (slice(D), K) if kick == "position" else (slice(D, None), np.linalg.inv(MASSES["matrix"]))
        correlation = np.linalg.matrix_power(F, 6) @ S[:, part] @ slope / T
        assert (np.abs(response - correlation).max() < 1e-12) == holds

    @pytest.mark.parametrize("scheme", SCHEMES, ids=NAMES)
    def test_without_temperature_the_noise_is_not_read_and_the_flow_is_met(self, scheme):
        equation = LangevinEquation(quartic, None, MASSES["matrix"], FRICTIONS["not symmetric"], 0.0)
        start = PhaseState(jnp.array([1.0, -0.5, 0.2]), jnp.array([0.3, 0.0, -1.0]))
        drift, _ = phase_space(equation.mass, equation.friction, stiffness=0 * K)

        def flow(t, z):
            return -drift @ z + np.concatenate([np.zeros(D), -z[:D] - z[:D] ** 3])

        begin = np.concatenate([start.position, start.momentum])
        exact = solve_ivp(flow, (0, 2), begin, rtol=1e-11, atol=1e-12).y[:, -1]
        errors = []
        for steps in (40, 80):
            ends = []
            for seed in (0, 1):
                path = brownian_path(jax.random.key(seed), steps, scheme.normals * D, 2 / steps)
                last = jax.tree.map(lambda x: x[-1], integrate(equation, scheme, start, path))
                ends.append(np.concatenate([last.position, last.momentum]))
            np.testing.assert_array_equal(*ends)
            errors.append(np.abs(ends[0] - exact).max())
        assert errors[0] < 5e-3
        assert abs(np.log2(errors[0] / errors[1]) - 2) < 0.15


class TestWeakOrder:
    @pytest.mark.parametrize("friction", ["number", "not symmetric", "singular"])
    @pytest.mark.parametrize("scheme", SCHEMES, ids=NAMES)
    def test_mean_and_covariance_of_a_linear_problem(self, scheme, friction):
        equation = langevin("matrix", friction)
        drift, diffusion = phase_space(MASSES["matrix"], FRICTIONS[friction])
        exact = OrnsteinUhlenbeck(drift, diffusion=diffusion).transition(2.0)
        errors = []
        for steps in (16, 32, 64, 128):
            F, G = (np.asarray(x) for x in affine(scheme, equation, jnp.asarray(2.0 / steps)))
            mean, covariance = np.eye(2 * D), np.zeros((2 * D, 2 * D))
            for _ in range(steps):
                mean, covariance = F @ mean, F @ covariance @ F.T + G @ G.T
            errors.append([np.abs(mean - exact.propagator).max(), np.abs(covariance - exact.covariance).max()])
        slopes = -np.polyfit(np.log2([16, 32, 64, 128]), np.log2(errors), 1)[0]
        np.testing.assert_allclose(slopes, 2, atol=0.15)

    GAMMA, MASS = 0.8, 1.3

    def series(self, power, point, order=14):
        """Terms of E phi(z_h) = sum h^k L^k phi(z_0) / k! for phi = x^a p^b and the force -x - x^3: polynomials."""
        gamma, mass = self.GAMMA, self.MASS
        terms, poly, scale = [], {power: 1.0}, 1.0
        for k in range(order):
            terms.append(sum(c * point[0] ** a * point[1] ** b for (a, b), c in poly.items()) / scale)
            after = {}

            def put(at, c, after=after):
                after[at] = after.get(at, 0.0) + c

            for (a, b), c in poly.items():
                if a:
                    put((a - 1, b + 1), c * a / mass)
                if b:
                    put((a + 1, b - 1), -c * b)
                    put((a + 3, b - 1), -c * b)
                    put((a, b), -gamma / mass * c * b)
                if b > 1:
                    put((a, b - 2), gamma * T * c * b * (b - 1))
            poly, scale = after, scale * (k + 1)
        return np.array(terms)

    def one_step(self, step, normals, power, h):
        """E phi after one step, by Gauss-Hermite quadrature over its normals."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(6)
        grid = np.stack(np.meshgrid(*normals * [nodes], indexing="ij"), -1).reshape(-1, normals)
        mass = np.prod(np.stack(np.meshgrid(*normals * [weights], indexing="ij"), -1).reshape(-1, normals), 1)
        x, p = step(h, grid)
        return (x ** power[0] * p ** power[1]) @ mass / mass.sum()

    def local_order(self, step, normals):
        """Slope of the error of one step in six moments: one more than the weak order."""
        steps, point = np.array([0.01, 0.005, 0.0025]), (0.6, -0.4)
        slopes = []
        for power in [(1, 0), (0, 1), (2, 0), (1, 1), (0, 2), (2, 2)]:
            terms = self.series(power, point)
            errors = [abs(self.one_step(step, normals, power, h) - np.polyval(terms[::-1], h)) for h in steps]
            slopes.append(np.polyfit(np.log(steps), np.log(errors), 1)[0])
        return min(slopes)

    @pytest.mark.parametrize("scheme", SCHEMES, ids=NAMES)
    def test_moments_in_a_quartic_well(self, scheme):
        equation = LangevinEquation(quartic, None, self.MASS, self.GAMMA, T)

        @jax.jit
        def step(h, grid):
            prepared = scheme.prepare(equation, h)
            start = PhaseState(jnp.array([0.6]), jnp.array([-0.4]))
            move = lambda z: scheme.step(equation, prepared, 0.0, start, h, jnp.sqrt(h) * z, None)  # noqa: E731
            after = jax.vmap(move)(grid)
            return after.position[:, 0], after.momentum[:, 0]

        order = self.local_order(lambda h, grid: [np.asarray(x) for x in step(jnp.asarray(h), grid)], scheme.normals)
        assert order - 1 > 2 - 0.15

    def test_a_step_that_is_not_a_palindrome_has_order_one(self):
        def step(h, grid):
            p = -0.4 + h * (-0.6 - 0.6**3)
            x = 0.6 + h * p / self.MASS
            decay = np.exp(-self.GAMMA / self.MASS * h)
            return x, decay * p + np.sqrt(T * self.MASS * (1 - decay**2)) * grid[:, 0]

        assert abs(self.local_order(step, 1) - 1 - 1) < 0.15


def energies(carry, t, state):
    position, momentum = carry
    return position.add(state.position**2), momentum.add(state.momentum**2)


@jax.jit
def many(equation, keys, steps):
    """End states of BAOAB runs from one point in time 2, one for each key."""
    start = PhaseState(jnp.array([1.0, 0.0, -1.0]), jnp.array([0.0, 0.5, 0.0]))

    def run(key):
        end, _ = accumulate(
            equation, BAOAB(), start, key, step=2.0 / steps, steps=steps, observe=lambda c, t, z: c, carry=()
        )
        return jnp.concatenate([end.position, end.momentum])

    return jax.vmap(run)(keys)


class TestSimulation:
    @pytest.mark.parametrize("scheme", SCHEMES, ids=NAMES)
    def test_variances_of_a_run_are_right_not_only_its_shape(self, scheme):
        equation = langevin("matrix", "not symmetric")
        carry = BatchMeans.empty(D), BatchMeans.empty(D)
        _, found = accumulate(
            equation, scheme, PhaseState(jnp.zeros(D)), jax.random.key(1), step=H, steps=60_000, observe=energies,
            carry=carry,
        )  # fmt: skip
        S = np.diagonal(stationary(scheme, equation)[1])
        for state, exact in zip(found, (S[:D], S[D:]), strict=True):
            assert int(state.status) == 0
            assert float(jnp.max(state.stderr / state.mean)) < 0.03
            assert_within_stderr(state.mean, state.stderr, exact, degrees=int(state.degrees))
            with pytest.raises(AssertionError):
                assert_within_stderr(state.mean, state.stderr, 1.2 * exact, degrees=int(state.degrees))

    def test_it_is_the_exact_process_at_a_small_step(self):
        equation = langevin("matrix", "not symmetric")
        drift, diffusion = phase_space(MASSES["matrix"], FRICTIONS["not symmetric"])
        process = OrnsteinUhlenbeck(drift, diffusion=diffusion)
        runs = 4000
        z = np.asarray(many(equation, jax.random.split(jax.random.key(2), runs), 50))
        mean = np.asarray(process.mean(2.0, np.array([1.0, 0.0, -1.0, 0.0, 0.5, 0.0])))
        S = np.asarray(process.covariance(2.0))
        sure = np.sqrt(np.diagonal(S) / runs)
        variances = np.sqrt((S**2 + np.outer(np.diagonal(S), np.diagonal(S))) / runs)

        def check(z):
            assert_within_stderr(z.mean(0), sure, mean)
            assert_within_stderr((z - mean).T @ (z - mean) / runs, variances, S)

        check(z)
        hot = np.asarray(many(replace(equation, temperature=1.3 * T), jax.random.split(jax.random.key(2), runs), 50))
        with pytest.raises(AssertionError):
            check(hot)

    @pytest.mark.parametrize("scheme", SCHEMES, ids=NAMES)
    def test_a_run_is_its_path(self, scheme):
        equation, start, key = langevin(), PhaseState(jnp.ones(D)), jax.random.key(3)
        end, _ = accumulate(equation, scheme, start, key, step=H, steps=300, observe=lambda c, t, z: c, carry=())
        states = integrate(equation, scheme, start, brownian_path(key, 300, scheme.normals * D, H), every=100)
        assert states.position.shape == (4, D)
        np.testing.assert_allclose(end.position, states.position[-1], rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(end.momentum, states.momentum[-1], rtol=1e-11, atol=1e-12)

    @pytest.mark.parametrize("scheme", SCHEMES, ids=NAMES)
    def test_single_precision_stays_single(self, scheme):
        key, wide = jax.random.key(4), langevin()
        narrow = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), wide)
        path = brownian_path(key, 20, scheme.normals * D, H)
        rounded = jax.tree.map(lambda x: x.astype(jnp.float32), path)
        states = integrate(narrow, scheme, PhaseState(jnp.ones(D, jnp.float32)), rounded)
        exact = integrate(wide, scheme, PhaseState(jnp.ones(D)), path)
        assert states.position.dtype == states.momentum.dtype == jnp.float32
        np.testing.assert_allclose(states.position, exact.position, rtol=0, atol=2e-5)

    @pytest.mark.parametrize(
        ("scheme", "kind"), [(BAOAB(), "matrix"), (OBABO(), "diagonal"), (UBU(), "diagonal"), (UBU(), "matrix")]
    )
    def test_derivatives_with_respect_to_mass_friction_and_temperature(self, scheme, kind):
        equation = langevin(kind, "matrix" if kind == "matrix" else "number")
        path = brownian_path(jax.random.key(5), 5, scheme.normals * D, H)

        @jax.jit
        def end(by):
            moved = replace(
                equation,
                mass=equation.mass * (1 + by[0]),
                friction=equation.friction * (1 + by[1]),
                temperature=equation.temperature * (1 + by[2]),
                args=equation.args * (1 + by[3]),
            )
            states = integrate(moved, scheme, PhaseState(jnp.ones(D)), path)
            return jnp.sum(states.position[-1] + states.momentum[-1] ** 2)

        slope = jax.jit(jax.grad(end))(jnp.zeros(4))
        eps = 1e-5  # truncation eps^2, rounding 1e-16 / eps
        for i in range(4):
            by = eps * jnp.eye(4)[i]
            np.testing.assert_allclose(slope[i], (end(by) - end(-by)) / (2 * eps), rtol=1e-6, atol=1e-8)

    @pytest.mark.parametrize("scheme", SCHEMES, ids=NAMES)
    def test_a_force_that_moves_in_time_is_taken_at_its_times(self, scheme):
        """dp = cos(t) dt of a free particle: x(2) = 1 - cos 2, to h^2/12 or so; a force taken late is off by h/2."""
        equation = LangevinEquation(lambda t, x, _: jnp.cos(t) * jnp.ones_like(x), friction=0.0, temperature=0.0)
        path = brownian_path(jax.random.key(0), 32, scheme.normals, 1 / 16)
        states = integrate(equation, scheme, PhaseState(jnp.zeros(1)), path)
        assert abs(float(states.position[-1, 0]) - (1 - np.cos(2))) < 1e-3


class TestRefusals:
    @pytest.mark.parametrize(
        ("given", "name"),
        [
            ({"mass": 0.0}, "mass must be positive"),
            ({"mass": np.array([1.0, -1.0])}, "mass must be positive"),
            ({"mass": np.array([[1.0, 0.5], [0.0, 1.0]])}, "mass must be symmetric"),
            ({"mass": np.diag([1.0, 0.0])}, "mass must be positive definite"),
            ({"mass": np.ones((2, 3))}, "mass must be a number"),
            ({"friction": -1.0}, "friction must be not negative"),
            ({"friction": [1.0, -1.0]}, "friction must be not negative"),
            ({"friction": np.diag([1.0, -0.1])}, "friction must have a positive"),
            ({"friction": np.array([[0.0, 1.0], [1.0, 0.0]])}, "friction must have a positive"),
            ({"friction": np.nan}, "friction must be real and finite"),
            ({"friction": np.ones((2, 2, 2))}, "friction must be a number"),
            ({"temperature": -1.0}, "temperature must be not negative"),
            ({"temperature": np.ones(2)}, "temperature must be a single number"),
        ],
    )
    def test_bad_numbers_are_named(self, given, name):
        with pytest.raises(ValueError, match=name):
            LangevinEquation(quartic, **given)

    def test_friction_that_only_turns_is_fine(self):
        LangevinEquation(quartic, friction=np.array([[0.0, 1.0], [-1.0, 0.0]]))

    @pytest.mark.parametrize(
        ("equation", "start", "name"),
        [
            (LangevinEquation(quartic), jnp.zeros(D), "start must be a PhaseState"),
            (LangevinEquation(quartic), PhaseState(jnp.zeros(D), jnp.zeros(2)), "start must hold two vectors"),
            (LangevinEquation(quartic), PhaseState(jnp.zeros((2, D))), "start must hold two vectors"),
            (LangevinEquation(quartic, mass=np.ones(2)), PhaseState(jnp.zeros(D)), "mass must be a number or"),
            (LangevinEquation(quartic, friction=np.eye(2)), PhaseState(jnp.zeros(D)), "friction must be a number or"),
            (LangevinEquation(lambda t, x, _: x[:1]), PhaseState(jnp.zeros(D)), "force must return"),
            (Equation(quartic, quartic), PhaseState(jnp.zeros(D)), "LangevinEquation"),
        ],
    )
    def test_what_does_not_fit_is_named(self, equation, start, name):
        with pytest.raises(ValueError, match=name):
            integrate(equation, BAOAB(), start, brownian_path(jax.random.key(0), 2, D, H))

    def test_a_path_for_another_scheme_is_refused(self):
        with pytest.raises(ValueError, match="path"):
            integrate(langevin(), OBABO(), PhaseState(jnp.zeros(D)), brownian_path(jax.random.key(0), 2, D, H))

    @pytest.mark.parametrize("scheme", SCHEMES, ids=NAMES)
    def test_under_jit_bad_values_give_nan(self, scheme):
        @jax.jit
        def noise(mass, friction, temperature):
            return affine(scheme, LangevinEquation(spring, jnp.asarray(K), mass, friction, temperature), jnp.asarray(H))

        eye = np.eye(D)
        for bad in [
            (-eye, eye, 1.0),
            (eye, -eye, 1.0),
            (eye, eye, -1.0),
            (1.0, -1.0, 1.0),
            (-1.0, 1.0, 1.0),
            (1.0, 1.0, -1.0),
        ]:
            assert any(np.isnan(x).any() for x in noise(*map(jnp.asarray, bad)))
        assert all(np.isfinite(x).all() for x in noise(jnp.asarray(eye), jnp.asarray(eye), jnp.asarray(0.0)))
