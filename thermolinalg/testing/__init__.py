r"""Property-based accuracy tests: awkward problems, and assertions in units of standard error.

A typed tolerance either hides a bias or fails at random. Each assertion here is a hypothesis test instead: it knows the
law of its statistic when the code under test is right, and fails beyond the quantile of a stated probability of a false
alarm. Put a mutation beside each, a biased copy that must fail: a test that cannot fail is not one.

The strategies need ``hypothesis`` (``pip install thermolinalg[test]``).
"""

from thermolinalg.testing.adversarial import ADVERSARIAL as ADVERSARIAL
from thermolinalg.testing.adversarial import PLANETS as PLANETS
from thermolinalg.testing.adversarial import covariance as covariance
from thermolinalg.testing.adversarial import laplacian as laplacian
from thermolinalg.testing.assertions import FALSE_ALARM as FALSE_ALARM
from thermolinalg.testing.assertions import assert_coverage as assert_coverage
from thermolinalg.testing.assertions import assert_unit_variance as assert_unit_variance
from thermolinalg.testing.assertions import assert_within_stderr as assert_within_stderr
from thermolinalg.testing.slopes import ConvergenceSlope as ConvergenceSlope
from thermolinalg.testing.slopes import assert_slope as assert_slope
from thermolinalg.testing.slopes import fit_slope as fit_slope
from thermolinalg.testing.strategies import COUPLINGS as COUPLINGS
from thermolinalg.testing.strategies import DIMS as DIMS
from thermolinalg.testing.strategies import DRIFTS as DRIFTS
from thermolinalg.testing.strategies import KAPPAS as KAPPAS
from thermolinalg.testing.strategies import KAPPAS_WIDE as KAPPAS_WIDE
from thermolinalg.testing.strategies import SEEDS as SEEDS
from thermolinalg.testing.strategies import SPECTRA as SPECTRA
from thermolinalg.testing.strategies import adversarial_matrices as adversarial_matrices
from thermolinalg.testing.strategies import right_hand_sides as right_hand_sides
from thermolinalg.testing.strategies import spd_matrices as spd_matrices
from thermolinalg.testing.strategies import spectra as spectra
from thermolinalg.testing.strategies import stable_drifts as stable_drifts
