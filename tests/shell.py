"""The command line, run in this process."""

import json

import numpy as np
from typer.testing import CliRunner

from thermolinalg.cli import app

SMALL = np.diag([1.0, 2.0, 4.0]) + 0.1


def run(*arguments):
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(argument) for argument in arguments])


def run_json(*arguments):
    outcome = run(*arguments, "--json")
    assert outcome.exit_code == 0, outcome.stderr
    assert outcome.stderr == ""
    return json.loads(outcome.stdout)
