"""The command line: run a verb on matrices from files, and say what it costs and how good the answer is."""

import typer

from thermolinalg.commands import inquiries, verbs
from thermolinalg.commands import options as opt
from thermolinalg.commands.crossovers import crossover
from thermolinalg.commands.training import train

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


def main() -> None:
    """Run the command line."""
    app()


@app.callback()
def _options(version: opt.Version = False) -> None:
    """Thermodynamic linear algebra: what coupled noisy oscillators compute, simulated exactly in law.

    Exit codes: 0; 1 for an answer that is not to be trusted, which is not written; 2 for bad input.
    """


# In the order of the help.
app.command()(verbs.solve)
app.command()(inquiries.plan)
app.command()(inquiries.certify)
for _verb in (verbs.inv, verbs.lyapunov, verbs.expm, verbs.logdet, verbs.sample):
    app.command()(_verb)
app.command(name="device")(inquiries.describe)
app.command()(inquiries.sweep)
app.command()(crossover)
app.command()(train)
