"""Matrices and vectors from files, and results to files that are never half-written."""

import os
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np

FORMATS = ".mtx, .mtx.gz, .npy, .npz"


def read_matrix(path: Path) -> Any:
    """Read a matrix.

    Parameters
    ----------
    path : Path
        Matrix Market (``.mtx``, ``.mtx.gz``), ``.npy``, or ``.npz``: a SciPy sparse matrix or exactly one array.

    Returns
    -------
    numpy array, or SciPy sparse array in CSR format
        Dense or sparse as the file stores it.

    Raises
    ------
    ValueError
        If the file is missing, unreadable, of another format, or holds no numbers; the message names the file.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_array(Path(folder, "A.npy"), np.eye(2))
    ...     read_matrix(Path(folder, "A.npy")).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    reader = next((reader for suffix, reader in _READERS.items() if path.name.lower().endswith(suffix)), None)
    if reader is None:
        raise ValueError(f"{path}: the format is not known by its name; give a file ending in {FORMATS}")
    try:
        matrix = reader(path)
    except _RefusedError as refusal:
        raise ValueError(f"{path}: {refusal}") from None
    except Exception as error:  # the parsers raise whatever they trip over
        reason = str(error) or type(error).__name__
        raise ValueError(f"{path}: cannot be read, the file is damaged or not what its name says ({reason})") from error
    if matrix.dtype.kind not in "biufc":
        raise ValueError(f"{path}: holds entries of type {matrix.dtype}, not numbers")
    return matrix


def read_vectors(path: Path) -> np.ndarray:
    """Read right-hand sides: shape (d,) for a single column, else (d, k); see :func:`read_matrix`."""
    block = read_matrix(path)
    block = block if isinstance(block, np.ndarray) else block.toarray()
    return block[:, 0] if block.ndim == 2 and block.shape[1] == 1 else block


def check_target(path: Path, suffix: str) -> None:
    """Check, before any work is done, that a result can be written.

    Raises
    ------
    ValueError
        If the name does not end in `suffix`, or the folder does not exist or is not writable.
    """
    if path.suffix.lower() != suffix:
        raise ValueError(f"{path}: the name of this file must end in {suffix}")
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise ValueError(f"{path}: cannot be written; the folder must exist and be writable")


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an array as ``.npy``, atomically."""
    buffer = BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_bytes(path, buffer.getvalue())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that its name never shows a part of the content: beside it first, then moved into place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class _RefusedError(Exception):
    """What is wrong with the content of a file that can be read."""


def _read_market(path: Path) -> Any:
    import scipy.io
    import scipy.sparse

    if scipy.io.mminfo(path)[4] == "pattern":
        raise _RefusedError(
            "a Matrix Market file of the field 'pattern' stores positions and no values; export it as real"
        )
    matrix = scipy.io.mmread(path)
    return matrix if isinstance(matrix, np.ndarray) else scipy.sparse.csr_array(matrix)


def _read_npy(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _read_npz(path: Path) -> Any:
    if not is_zipfile(path):
        raise _RefusedError("not an .npz archive")
    with np.load(path, allow_pickle=False) as archive:
        if {"format", "shape"} <= set(archive.files):
            import scipy.sparse

            return scipy.sparse.csr_array(scipy.sparse.load_npz(path))
        if len(archive.files) != 1:
            names = ", ".join(archive.files) or "none"
            raise _RefusedError(
                f"must hold exactly one array or one SciPy sparse matrix; the arrays in it are: {names}"
            )
        return archive[archive.files[0]]


_READERS = {".mtx": _read_market, ".mtx.gz": _read_market, ".npy": _read_npy, ".npz": _read_npz}
