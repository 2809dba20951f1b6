"""Certificates of answers from files, and what they say."""

from pathlib import Path
from typing import Any

import numpy as np

import thermolinalg as tla
from thermolinalg.commands.session import Session
from thermolinalg.files import read_vectors
from thermolinalg.operators import as_block
from thermolinalg.report import attributes, plain


def certify_solution(session: Session, a: Path, b: Path | None, x: Path, noise: float | None) -> dict[str, Any]:
    """Residual, backward error and error bound of a solution, and the test where the noise is known."""
    operand = session.read(a)
    operator = tla.as_operator(operand.matrix)
    force, answer = session.read_force(b, operator.dim), session.dtype.cast(read_vectors(x))
    for block, name in ((force, "b"), (answer, "x")):
        as_block(block, operator, name)
    with session.phase("certify", "Bounding the smallest eigenvalue"):
        certificate = tla.certify(operator, force, answer, noise=noise)
        bound = tla.forward_bound(operator, force, answer)
        report = plain(
            {
                "problem": operand.facts
                | {"right_hand_side": None if b is None else b.name, "columns": force[0].size, "answer": x.name},
                "certificate": attributes(certificate) | {"noise": noise},
                "bound": attributes(bound) | {"lowest": attributes(bound.lowest)},
            }
        )
    return report | {"seconds": session.seconds}


def certify_inverse(session: Session, a: Path, c: Path, samples: float | None) -> dict[str, Any]:
    """Residual of an inverse, and the tests where the number of samples is known."""
    operand, inverse = session.read(a), session.read(c)
    operator = tla.as_operator(operand.matrix)
    with session.phase("certify", "Multiplying"):
        found = tla.certify_inv(operator, inverse.dense, samples=samples)
        parts = {
            name: None if check is None else attributes(check, "passed")
            for name, check in (("trace", found.trace), ("spread", found.spread))
        }
        residual = {"relative_residual": found.relative_residual, "samples": samples, "passed": found.passed}
        report = plain({"problem": operand.facts | {"answer": c.name}, "certificate": residual | parts})
    return report | {"seconds": session.seconds}


def noise_of(noise: float | None, beta: float | None, duration: float | None) -> float | None:
    """Variance of one component of the residual, as it is given or as it follows from temperature and time."""
    if noise is not None and (beta is not None or duration is not None):
        raise ValueError("give --noise, or --beta and --duration, which it follows from; not both")
    if beta is not None and duration is None:
        raise ValueError("--beta tells the noise only together with --duration")
    for name, value in (("noise", noise), ("beta", beta), ("duration", duration)):
        if value is not None and not 0 < value < np.inf:
            raise ValueError(f"{name} must be a positive number, got {value}")
    if duration is None:
        return noise
    return 2 / ((1.0 if beta is None else beta) * duration)
