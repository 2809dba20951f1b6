"""The assertions pass on unbiased data, fail on biased data, and keep to the false alarms they state."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thermolinalg import testing as tt

EPS = np.finfo(np.float64).eps


def normals(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


class TestStrategies:
    @given(st.data())
    def test_spectra_have_the_size_and_condition_number_asked_for(self, data):
        d, kappa = data.draw(st.integers(2, 8)), data.draw(tt.KAPPAS)
        values = data.draw(tt.spectra(st.just(d), st.just(kappa)))
        assert values.shape == (d,)
        assert values.dtype == np.float64
        assert np.all(np.diff(values) >= 0)
        np.testing.assert_allclose(values[[0, -1]], [1 / kappa, 1.0], rtol=4 * EPS)

    @given(tt.spectra(st.just(1)))
    def test_a_single_eigenvalue_is_one(self, values):
        assert values.tolist() == [1.0]

    @pytest.mark.parametrize("kind", tt.SPECTRA)
    def test_shapes_of_spectra(self, kind):
        values = tt.SPECTRA[kind](6, 100.0)
        counts = {
            "linear": np.ptp(np.diff(values)) < 4 * EPS,
            "geometric": np.ptp(values[1:] / values[:-1]) < 16 * EPS,
            "clustered": np.allclose(values, [0.01, 0.01, 0.1, 0.1, 1.0, 1.0], rtol=4 * EPS),
            "one small": np.sum(values < 0.5) == 1,
            "one large": np.sum(values > 0.5) == 1,
        }
        assert counts[kind]

    @given(st.data())
    def test_spd_matrices_have_the_spectrum_they_promise(self, data):
        kind = data.draw(st.sampled_from(list(tt.SPECTRA)))
        d, kappa = data.draw(st.integers(2, 8)), data.draw(tt.KAPPAS)
        matrix = data.draw(tt.spd_matrices(st.just(d), st.just(kappa), {kind: tt.SPECTRA[kind]}))
        assert matrix.dtype == np.float64
        assert np.array_equal(matrix, matrix.T)
        # Forming U L U^T and diagonalising it each move an eigenvalue by at most d roundings of the largest, 1.
        assert np.abs(np.linalg.eigvalsh(matrix) - tt.SPECTRA[kind](d, kappa)).max() <= 4 * d * EPS

    def test_spd_matrices_come_with_and_without_rotation(self):
        diagonal = []
        given(tt.spd_matrices(st.just(3), st.just(10.0), {"geometric": tt.SPECTRA["geometric"]}))(
            lambda A: diagonal.append(not np.any(A - np.diag(np.diag(A))))
        )()
        assert True in diagonal
        assert False in diagonal

    @given(st.data())
    def test_drifts_are_stable(self, data):
        kappa = data.draw(tt.KAPPAS)
        kind = data.draw(st.sampled_from(list(tt.DRIFTS)))
        drift = data.draw(tt.stable_drifts(kappas=st.just(kappa), kinds={kind: tt.DRIFTS[kind]}))
        d = len(drift)
        assert drift.shape == (d, d)
        if kind == "normal":
            commutator = drift @ drift.T - drift.T @ drift
            size = 1 + np.linalg.norm(drift, 2)
            assert np.abs(commutator).max() <= 16 * d * EPS * size**2
            rates = np.linalg.eigvals(drift).real
            assert rates.min() >= 1 / kappa - 16 * d * EPS * size
            assert rates.max() <= 1 + 16 * d * EPS * size
        else:
            # A triangular matrix in some order of the coordinates: its eigenvalues are its diagonal, exactly.
            assert triangular_in_some_order(drift)
            assert np.diag(drift).min() >= (1 / kappa if d > 1 else 1) * (1 - 4 * EPS)

    def test_couplings_make_drifts_non_normal(self):
        for kind in ("non-normal", "jordan"):
            strong = tt.DRIFTS[kind](np.random.default_rng(0), np.array([0.1, 1.0, 1.0]), 10.0)
            assert np.abs(strong @ strong.T - strong.T @ strong).max() > 10
            weak = tt.DRIFTS[kind](np.random.default_rng(0), np.array([0.1, 1.0, 1.0]), 0.0)
            assert not np.any(weak - np.diag(np.diag(weak)))

    @given(st.data())
    def test_right_hand_sides_have_unit_length(self, data):
        matrix = data.draw(tt.spd_matrices())
        force = data.draw(tt.right_hand_sides(matrix))
        np.testing.assert_allclose(np.linalg.norm(force), 1.0, rtol=8 * EPS)

    def test_right_hand_sides_point_along_easy_hard_and_mixed_modes(self):
        seen = []
        given(tt.right_hand_sides(np.diag([1.0, 2.0, 3.0])))(lambda b: seen.append(tuple(np.abs(b).round(12))))()
        assert (0.0, 0.0, 1.0) in seen
        assert (1.0, 0.0, 0.0) in seen
        assert any(min(b) > 0 for b in seen)


class TestAdversarial:
    @pytest.mark.parametrize("d", [1, 2, 8])
    @pytest.mark.parametrize("name", tt.ADVERSARIAL)
    def test_matrices_are_symmetric_positive_definite_and_repeat(self, name, d):
        matrix = tt.ADVERSARIAL[name](d)
        assert matrix.shape == (d, d)
        assert matrix.dtype == np.float64
        assert np.array_equal(matrix, matrix.T)
        np.linalg.cholesky(matrix)
        assert np.array_equal(matrix, tt.ADVERSARIAL[name](d))

    def test_condition_numbers_are_those_documented(self):
        found = {name: np.linalg.cond(build(8)) for name, build in tt.ADVERSARIAL.items()}
        stated = {"hilbert": 1.5e10, "gaussian kernel": 1.4e5, "pascal": 2e7, "moler": 1.4e5, "prolate": 6e4}
        for name, kappa in stated.items():
            assert found[name] == pytest.approx(kappa, rel=0.06), name
        bounds = {"path": 4.01e3, "star": 8.01e3, "random graph": 8.01e3, "planets": 8.01e6, "lehmer": 256.0}
        for name, kappa in bounds.items():
            assert 0.1 * kappa < found[name] <= kappa, name
        assert 8 < found["wilkinson"] < 32

    def test_shapes_of_their_spectra(self):
        pairs = np.linalg.eigvalsh(tt.ADVERSARIAL["wilkinson"](21))
        assert 0 < pairs[-1] - pairs[-2] < 1e-12
        star = np.linalg.eigvalsh(tt.ADVERSARIAL["star"](8))
        assert np.ptp(star[1:-1]) < 64 * EPS
        # The law of Kepler ties distance and period, the density mass and diameter: the data has few directions.
        planets = np.linalg.eigvalsh(tt.ADVERSARIAL["planets"](8))
        assert np.sum(planets > 1e-2) <= 4
        assert np.linalg.eigvalsh(tt.ADVERSARIAL["planets"](12))[4] == pytest.approx(1e-6, rel=0.5)

    def test_hilbert_by_its_inverse_in_whole_numbers(self):
        from scipy.linalg import invhilbert

        np.testing.assert_allclose(
            tt.ADVERSARIAL["hilbert"](5) @ invhilbert(5, exact=True).astype(float), np.eye(5), atol=1e-9
        )

    @given(tt.adversarial_matrices(worst=100.0))
    def test_the_worst_is_a_limit(self, matrix):
        assert np.linalg.cond(matrix) <= 100.0

    def test_all_kinds_are_drawn_and_yours_among_them(self):
        seen = set()
        kinds = tt.ADVERSARIAL | {"mine": lambda d: 7.0 * np.eye(d)}
        given(tt.adversarial_matrices(kinds={"mine": kinds["mine"]}))(lambda A: seen.add(A[0, 0]))()
        assert seen == {7.0}

    def test_covariances_refuse_what_has_none(self):
        with pytest.raises(ValueError, match="two rows"):
            tt.covariance(np.ones((1, 3)))
        with pytest.raises(ValueError, match=r"columns \[1\]"):
            tt.covariance([[1.0, 2.0], [3.0, 2.0]])
        with pytest.raises(ValueError, match="finite"):
            tt.covariance([[1.0, np.nan], [3.0, 2.0]])


def triangular_in_some_order(matrix):
    """Whether the graph of the off-diagonal entries has no cycle: then it has a topological order."""
    links = (matrix != 0) & ~np.eye(len(matrix), dtype=bool)
    reach = links.astype(float)
    for _ in range(len(matrix)):
        reach = np.minimum(reach + reach @ links, 1.0)
    return not np.any(np.diag(reach))


class TestWithinStderr:
    n = 10_000
    truth = np.array([1.0, -2.0, 0.5, 0.0])

    def sample(self, bias):
        draws = self.truth * (1 + bias) + normals(self.n, 4)
        return draws.mean(0), draws.std(0, ddof=1) / np.sqrt(self.n)

    def test_unbiased_mean_passes(self):
        tt.assert_within_stderr(*self.sample(0.0), self.truth, degrees=self.n - 1)

    def test_bias_of_five_per_cent_fails(self):
        # 5 % of 2 is 10 standard errors of 0.01; the limit is 5.2 for 4 entries.
        with pytest.raises(
            AssertionError, match=r"entry \(1,\) is 10\.\d standard errors off \(limit 5\.2 for 4 entries"
        ):
            tt.assert_within_stderr(*self.sample(0.05), self.truth, degrees=self.n - 1)

    def test_the_false_alarm_is_the_one_stated(self):
        # 4000 families of 5 entries at 10 %: the union bound gives at most 10 % and, entries being independent,
        # 1 - (1 - 0.1/5)^5 = 9.6 %.
        failed = []
        for z in normals(4000, 5):
            try:
                tt.assert_within_stderr(z, 1.0, 0.0, false_alarm=0.1)
            except AssertionError:
                failed.append(True)
        tt.assert_coverage(np.arange(4000) >= len(failed), confidence=(1 - 0.02) ** 5, at_most=(1 - 0.02) ** 5)

    def test_estimated_errors_widen_the_limit(self):
        # Two runs: P(|t_1| > 31.8) = 2 %.
        tt.assert_within_stderr(31.0, 1.0, 0.0, degrees=1, false_alarm=0.02)
        with pytest.raises(AssertionError):
            tt.assert_within_stderr(31.0, 1.0, 0.0, false_alarm=0.02)

    @pytest.mark.parametrize(
        ("value", "stderr"),
        [(np.nan, 1.0), (1.0, np.nan), (1.0, np.inf), (1.0, -1.0), (1.1, 0.0), (np.inf, 1.0), (np.nan, 0.0)],
    )
    def test_what_is_not_an_error_bar_fails(self, value, stderr):
        with pytest.raises(AssertionError):
            tt.assert_within_stderr([1.0, value], [1.0, stderr], 1.0)

    def test_exact_entries_without_error_pass(self):
        tt.assert_within_stderr([0.0, 1.0], [0.0, 1.0], [0.0, 1.5])

    def test_complex_entries(self):
        tt.assert_within_stderr(np.array([1.0 + 3.0j]), 1.0, 1.0)
        with pytest.raises(AssertionError):
            tt.assert_within_stderr(np.array([1.0 + 6.0j]), 1.0, 1.0)

    def test_nothing_to_compare_is_an_error(self):
        with pytest.raises(ValueError, match="no entries"):
            tt.assert_within_stderr(np.zeros(0), 1.0, 0.0)


class TestUnitVariance:
    z = normals(2000, 3)

    def test_unit_variance_passes(self):
        tt.assert_unit_variance(self.z)
        tt.assert_unit_variance(self.z.ravel())

    @pytest.mark.parametrize("factor", [0.8, 1.2])
    def test_variance_off_by_twenty_per_cent_fails(self, factor):
        with pytest.raises(AssertionError, match="has mean square"):
            tt.assert_unit_variance(np.sqrt(factor) * self.z)

    def test_one_wrong_entry_among_right_ones_fails(self):
        with pytest.raises(AssertionError, match=r"entry \(2,\)"):
            tt.assert_unit_variance(self.z * np.array([1.0, 1.0, np.sqrt(1.2)]))

    def test_a_low_entry_does_not_hide_a_high_one(self):
        # The lower limit is the wider one in logarithms: 0.85 passes at this n and 1.17 does not.
        rest = self.z[:, :2] / np.sqrt(np.mean(self.z[:, :2] ** 2, 0))
        tt.assert_unit_variance(rest * np.sqrt([0.86, 1.0]))
        with pytest.raises(AssertionError, match=r"entry \(1,\)"):
            tt.assert_unit_variance(rest * np.sqrt([0.86, 1.18]))

    def test_bias_counts(self):
        with pytest.raises(AssertionError):
            tt.assert_unit_variance(self.z + 0.5)

    def test_nan_fails(self):
        with pytest.raises(AssertionError):
            tt.assert_unit_variance(np.where(np.arange(3) == 1, np.nan, self.z))

    def test_complex_scores(self):
        z = (self.z + 1j * normals(2000, 3, seed=1)) / np.sqrt(2)
        tt.assert_unit_variance(z, kurtosis=2.0)
        with pytest.raises(AssertionError):
            tt.assert_unit_variance(np.sqrt(1.15) * z, kurtosis=2.0)

    def test_the_false_alarm_is_the_one_stated(self):
        # The chi-square law is exact: 2000 repetitions at 10 %, 20 runs each.
        failed = []
        for z in normals(2000, 20):
            try:
                tt.assert_unit_variance(z, false_alarm=0.1)
            except AssertionError:
                failed.append(True)
        tt.assert_coverage(np.arange(2000) >= len(failed), confidence=0.9, at_most=0.9)

    def test_no_runs_is_an_error(self):
        with pytest.raises(ValueError, match="at least one run"):
            tt.assert_unit_variance(1.0)


class TestCoverage:
    def hits(self, fraction, n=2000):
        return np.random.default_rng(1).random(n) < fraction

    def test_promised_coverage_passes(self):
        tt.assert_coverage(self.hits(0.95), 0.95)
        tt.assert_coverage(self.hits(0.95), 0.95, at_most=0.96)

    def test_perfect_coverage_passes_unless_called_wasteful(self):
        tt.assert_coverage(np.ones(2000, bool), 0.95)
        with pytest.raises(AssertionError, match=r"significantly above 0\.96"):
            tt.assert_coverage(np.ones(2000, bool), 0.95, at_most=0.96)

    def test_coverage_of_ninety_against_ninety_five_fails(self):
        with pytest.raises(AssertionError, match=r"significantly below 0\.95"):
            tt.assert_coverage(self.hits(0.90), 0.95)

    def test_a_test_that_cannot_fail_is_refused(self):
        # Five misses in a row have probability 3e-7, four 6e-6.
        with pytest.raises(ValueError, match="too few"):
            tt.assert_coverage(np.ones(4, bool), 0.95)
        with pytest.raises(AssertionError):
            tt.assert_coverage(np.zeros(5, bool), 0.95)
        with pytest.raises(ValueError, match=r"against 0\.99"):
            tt.assert_coverage(np.ones(100, bool), 0.5, at_most=0.99)

    def test_hits_must_be_boolean(self):
        with pytest.raises(ValueError, match="boolean"):
            tt.assert_coverage(np.full(100, np.nan), 0.95)


class TestSlope:
    x = np.geomspace(1.0, 1000.0, 12)

    def noisy(self, slope, noise=0.02):
        return self.x**slope * (1 + noise * normals(12))

    def test_fit_recovers_a_power_law_exactly(self):
        fit = tt.fit_slope(self.x, 7 * self.x**-1.5)
        assert abs(fit.slope + 1.5) < 12 * EPS
        assert fit.degrees == 10

    def test_standard_error_of_the_fit(self):
        # 4000 fits of noise: (fitted - true) / stderr has unit variance when the noise is known.
        noise = 0.01
        y = self.x**-0.5 * (1 + noise * normals(4000, 12))
        fits = [tt.fit_slope(self.x, row, noise * self.x**-0.5) for row in y]
        z = np.array([(fit.slope + 0.5) / fit.stderr for fit in fits])
        tt.assert_unit_variance(z)
        # ... and is Student's t with n - 2 = 10 degrees when it is not: variance 10/8, fourth moment 3 (10/8)^2 8/6.
        fits = [tt.fit_slope(self.x, row) for row in y]
        z = np.array([(fit.slope + 0.5) / fit.stderr for fit in fits])
        tt.assert_unit_variance(z / np.sqrt(10 / 8), kurtosis=4.0)
        with pytest.raises(AssertionError):
            tt.assert_unit_variance(z, kurtosis=4.0)

    def test_right_slope_passes(self):
        tt.assert_slope(self.x, self.noisy(-0.5), -0.5)
        tt.assert_slope(self.x, self.noisy(-0.5), -0.5, stderr=0.02 * self.x**-0.5)

    @pytest.mark.parametrize("slope", [-0.45, -0.6, -1.0, 0.0])
    def test_wrong_slope_fails(self, slope):
        with pytest.raises(AssertionError, match=r"instead of -0\.5"):
            tt.assert_slope(self.x, self.noisy(slope), -0.5, stderr=0.02 * self.x**slope)

    def test_weights_follow_the_standard_errors(self):
        y = self.x**-0.5 * np.where(np.arange(12) == 11, 3.0, 1.0)
        tt.assert_slope(self.x, y, -0.5, stderr=y * np.where(np.arange(12) == 11, 10.0, 0.01))
        with pytest.raises(AssertionError):
            tt.assert_slope(self.x, y, -0.5, stderr=0.01 * y)

    def test_a_slope_that_is_not_known_fails(self):
        with pytest.raises(AssertionError, match="tells nothing"):
            tt.assert_slope(self.x, self.noisy(-0.5, noise=0.3), -0.5)

    @pytest.mark.parametrize(
        ("x", "y"),
        [([1.0, 2.0], [1.0, 2.0]), ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]), ([1.0, 2.0, 3.0], [1.0, -2.0, 3.0]), (1.0, 1.0)],
    )
    def test_what_is_no_power_law_is_refused(self, x, y):
        with pytest.raises(ValueError, match="positive vectors"):
            tt.fit_slope(x, y)
