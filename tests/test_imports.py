"""The layout: imports run one way, the package loads fast, and nothing touches the configuration of JAX."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import thermolinalg as tla

PACKAGE = Path(tla.__file__).parent

STORY = [
    *("relaxation", "solution"),
    *("operators.base", "operators.lanczos", "operators.modal", "operators.sparse", "operators.matrix_free"),
    *("operators.convert", "operators", "spectrum", "definiteness", "laws", "ranges"),
    *("transition", "paths", "conditioning"),
    *("streaming.twofold", "streaming.moments", "streaming.lagged", "streaming.batches", "streaming"),
    *("process", "drifts"),
    *("sde.brownian", "sde.equations", "sde.scheme", "sde.engine", "sde.explicit", "sde.higher", "sde.exponential"),
    *("sde.orders", "sde.second_opinion", "sde.langevin", "sde.splittings", "sde"),
    *("capacitances", "dynamics", "circuits", "covariances", "draws", "simulators"),
    *("cells", "integrator", "chips", "converters", "readout"),
    *("device", "power", "presets", "encodings"),
    *("acceptance", "free_energy"),
    *("convergence.squared_error", "convergence.inversion", "convergence.knowledge", "convergence.search"),
    *("convergence.estimates", "convergence.machines", "convergence.linear", "convergence.moments"),
    *("convergence.samples", "convergence.determinants", "convergence.mixing", "convergence.scaling", "convergence"),
    *("plan.times", "plan.budget", "plan.linear", "plan.inverse", "plan.samples", "plan", "second_moments"),
    *(
        "primitives.checks",
        "primitives.methods",
        "primitives.overlap",
        "primitives.general",
        "primitives.solve",
        "primitives.inverse",
        "primitives.gaussian",
        "primitives.extremes",
        "primitives.lyapunov",
        "primitives.expm",
        "primitives.logdet",
    ),
    *("primitives", "certify.statistics", "certify.answers", "certify.bounds", "certify.residual", "certify.health"),
    *("certify.moments", "certify.determinants", "certify"),
    *("ledger", "cost", "bill", "timeline", "hybrid", "complexity.ledger"),
    *("complexity.symbols", "complexity.dimensions", "complexity.asymptotics", "complexity.model"),
    *("complexity.models.direct", "complexity.models.iterative", "complexity.models.thermodynamic"),
    *("complexity.models.traffic", "complexity.models.descent", "complexity.models.optimizers"),
    *("complexity.models.kronecker", "complexity.models.quantum", "complexity.models.modes"),
    *("complexity.models.simulation", "complexity.models"),
    *("complexity.rules_base", "complexity.rules_elementwise", "complexity.rules_arrays", "complexity.rules_linalg"),
    *("complexity.rules_loops", "complexity.rules_programs", "complexity.memory", "complexity.trace", "complexity.xla"),
    *("complexity.constants", "complexity.hardware", "complexity.probe", "complexity.roofline"),
    *("complexity.uncertainty", "complexity.crossover", "complexity.sensitivity"),
    *("complexity.budget", "complexity.merit", "complexity.report", "complexity"),
    *("reduction", "refine.rates", "refine.updates", "refine.implicit", "refine.preconditioned"),
    *("refine.systems", "refine.inverse", "refine.scaling", "refine", "mitigation"),
    *("interop.host", "interop.lineax_solver", "interop.terms", "interop"),
    *("optim.taps", "optim.operations", "optim.layers", "optim.sites", "optim.capture", "optim.factors", "optim.rows"),
    *("optim.gram", "optim.adapters.linen", "optim.adapters.nnx", "optim.adapters.equinox", "optim.adapters"),
    *("optim.targets", "optim.loss_base", "optim.trees", "optim.softmax", "optim.losses", "optim.fisher", "optim.task"),
    *("optim.products", "optim.diagnostics"),
    *("optim.inverse_factor", "optim.solvers", "optim.scales", "optim.conjugate", "optim.iterative", "optim.runs"),
    *("optim.analog", "optim.fallback", "optim.kronecker", "optim.eigenbases", "optim.row_solves", "optim.distributed"),
    *("optim.blocks", "optim.trust", "optim.books", "optim.diagonal_ngd"),
    *("optim.kfac_state", "optim.kfac_step", "optim.kfac"),
    *("optim.lanes", "optim.dual", "optim.matrix_free", "optim.choice", "optim.ngd_step", "optim.ngd"),
    *("optim.gram_functions", "optim.spectral_filters", "optim.relaxation", "optim.loading", "optim.thermodynamic"),
    *("optim.filtered", "optim.asynchronous", "optim"),
    *("experiments.datasets", "experiments.problem", "experiments.models", "experiments.telemetry"),
    *("experiments.history", "experiments.training", "experiments.minilm", "experiments.lora", "experiments.squad"),
    "experiments",
    *("testing.adversarial", "testing.assertions", "testing.slopes", "testing.strategies", "testing"),
    *("__init__", "files", "figures.axes", "figures.averages", "figures.refinements", "figures.repeated"),
    *("figures.energies", "figures.gantt", "figures.sweeps", "figures.training", "figures", "report"),
    *("commands.devices", "commands.session", "commands.job", "commands.linear", "commands.refinement"),
    *("commands.planning", "commands.certificates", "commands.matrices", "commands.ensembles", "commands.sweeps"),
    *("commands.options", "commands.running", "commands.verbs", "commands.inquiries"),
    *("commands.methods", "commands.contests", "commands.crossovers"),
    *("commands.problems", "commands.recipes", "commands.training", "commands", "cli", "__main__"),
]
"""Every module, from floor to roof; each may import only what stands before it."""


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
        yield ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts), path


def imported(path):
    """Modules of the package that a file imports, wherever the import stands."""
    known = {name for name, _ in modules()}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            if name == "thermolinalg":
                continue
            if name.startswith("thermolinalg."):
                inner = name.removeprefix("thermolinalg.")
                if inner in known:
                    yield inner
                elif "." not in inner:
                    yield "__init__"


def violations(story, edges):
    return [(name, other) for name, other in edges if story.index(other) >= story.index(name)]


def edges():
    return [(name, other) for name, path in modules() for other in imported(path) if name != other]


def test_every_module_has_its_place_in_the_story():
    assert sorted(name for name, _ in modules()) == sorted(STORY)


def test_imports_run_one_way():
    assert violations(STORY, edges()) == []


def test_the_check_sees_an_import_that_runs_the_wrong_way():
    assert violations(STORY, [*edges(), ("laws", "plan")]) == [("laws", "plan")]


def test_only_tests_import_the_testing_module():
    assert [name for name, other in edges() if other.startswith("testing") and not name.startswith("testing")] == []


def test_no_file_holds_two_ideas():
    assert {path.name: n for _, path in modules() if (n := len(path.read_text().splitlines())) > 400} == {}


@pytest.fixture(scope="module")
def fresh_import():
    """What a fresh interpreter says about importing the package after JAX."""
    code = (
        "import sys, time, jax, jax.numpy\n"
        "before = jax.config.values.copy()\n"
        "start = time.perf_counter(); import thermolinalg; took = time.perf_counter() - start\n"
        "late = 'sympy diffrax matplotlib typer rich hypothesis lineax equinox scipy.sparse'.split()\n"
        "print(took, before == jax.config.values, *[name for name in late if name in sys.modules])"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_importing_leaves_the_configuration_alone(fresh_import):
    assert fresh_import[1] == "True"


def test_heavy_packages_load_only_where_they_are_used(fresh_import):
    assert fresh_import[2:] == []


def test_public_names_are_all_there():
    simulators, dynamics = ["Law", "Trajectory"], ["Overdamped", "Underdamped"]
    for name in ["solve", "plan", "Plan", "Device", "Program", *simulators, *dynamics, "certify", "cost", "Spectrum"]:
        assert hasattr(tla, name), name
