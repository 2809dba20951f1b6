"""Every example runs: docstrings, README, and the pages of the documentation."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import thermolinalg as tla
from thermolinalg import complexity, optim, sde
from thermolinalg.circuits import LC, RC, couplings_of, maxwell_matrix
from thermolinalg.hybrid import pipeline
from thermolinalg.power import best_case_joules
from thermolinalg.sde.langevin import LangevinEquation
from thermolinalg.sde.splittings import BAOAB, OBABO, UBU
from thermolinalg.streaming import BatchMeans, LaggedMoments, Moments
from thermolinalg.timeline import schedule

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MODULES = sorted(
    module.name for module in pkgutil.walk_packages(tla.__path__, "thermolinalg.") if "__main__" not in module.name
)


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


def test_public_functions_have_an_example():
    verbs = [tla.solve, tla.inv, tla.lyapunov, tla.expm, tla.logdet, tla.gaussian, tla.extremes, tla.certify, tla.cost]
    verbs += [tla.cost_moments, tla.cost_of, best_case_joules, complexity.linear, complexity.moments]
    verbs += [complexity.leading_terms, complexity.growth, complexity.dominates, complexity.unit_of]
    verbs += [complexity.CostModel, complexity.symbols.check_values, complexity.models.traffic.cells]
    verbs += [complexity.symbols.canonical]
    verbs += [complexity.run_time, complexity.run_energy, complexity.binding, complexity.joules_per_flop]
    verbs += [complexity.probe_cpu, complexity.interval, complexity.product_quantiles, complexity.sampled_quantiles]
    verbs += [complexity.crossover, complexity.precision_limit, complexity.storage_limit, complexity.array_limit]
    verbs += [complexity.elasticity, complexity.crossover_elasticity, complexity.closed_form]
    verbs += [complexity.crossover_quantiles, complexity.largest_feasible, complexity.amdahl, complexity.gustafson]
    verbs += [complexity.figure_of_merit, complexity.ratio, complexity.pareto_front, complexity.in_bits]
    verbs += [complexity.trace, complexity.compiler_count, complexity.Table]
    plans = [tla.plan.solve, tla.plan.inv, tla.plan.lyapunov, tla.plan.expm]
    refined = [tla.refine.solve, tla.refine.inv, tla.refine.pcg, tla.refine.plan, tla.refine.contraction]
    refined += [tla.refine.conjugate_gradients, tla.refine.unit_diagonal]
    judges = [tla.certify_inv, tla.certify_lyapunov, tla.certify_logdet, tla.health]
    judges += [tla.forward_bound, tla.lowest_eigenvalue]
    tools = [schedule, pipeline, RC, LC, maxwell_matrix, couplings_of]
    nouns = [tla.Device, tla.Spectrum, tla.General, tla.OrnsteinUhlenbeck]
    tools += [Moments, LaggedMoments, BatchMeans, LangevinEquation, BAOAB, OBABO, UBU]
    tools += [sde.Equation, sde.to_ito, sde.to_stratonovich, sde.brownian_path, sde.integrate, sde.accumulate]
    tools += [sde.linear_step, sde.check_step, sde.convergence_order, sde.ExponentialEuler, sde.diffrax_solve]
    tools += [optim.task, optim.example_mean, optim.token_mean, optim.exact, optim.empirical, optim.row_space]
    tools += [optim.ggn_product, optim.ggn_operator, optim.fisher_product, optim.hessian_product, optim.dense_ggn]
    tools += [optim.trace, optim.spectral_density, optim.extremes, optim.gradient_noise, optim.suggested_damping]
    tools += [optim.value, optim.cast, optim.dense, optim.einsum, optim.conv, optim.embed, optim.bias, optim.scale]
    tools += [optim.discover, optim.factors, optim.inactive, optim.rows, optim.gradient_rows, optim.gram]
    nouns += [optim.CrossEntropy, optim.SquaredError, optim.Logistic, optim.Poisson, optim.Custom, optim.Weighted]
    nouns += [optim.Cholesky, optim.CholeskyInverse, optim.Eigh, optim.FromCallable, optim.CG, optim.NewtonSchulz]
    nouns += [optim.ThermodynamicInverse, optim.ThermodynamicSolve, optim.Guarded]
    tools += [optim.cg, optim.kfac, optim.diagonal_ngd, optim.factored_damping]
    tools += [optim.relax, optim.relaxation_cost, optim.filtered_natural_gradient, optim.spring_twin]
    tools += [optim.overlap, optim.descend]
    nouns += [optim.Thermodynamic]
    tools += [optim.ngd, optim.scale_by_ngd, optim.choose, optim.diagonal]
    nouns += [optim.Primal, optim.Dual, optim.Iterative, optim.Kronecker]
    for verb in (*verbs, *plans, *judges, *refined, *tools, *nouns):
        assert ">>>" in verb.__doc__, verb


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.stem)
def test_page_examples(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    names = {"__name__": "page"}
    for number, code in enumerate(blocks(page, "python"), 1):
        exec(compile(code, f"{page.name}, block {number}", "exec"), names)


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", prose):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_set_up_is_two_lines():
    (lines,) = blocks(ROOT / "README.md", "sh")
    assert len(lines.splitlines()) == 2
