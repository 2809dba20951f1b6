"""Reading matrices and writing results."""

import gzip
import io
import os
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse

from thermolinalg.files import check_target, read_matrix, read_vectors, write_array, write_bytes

DATA = Path(__file__).parent / "data"
MATRIX = np.array([[4.0, 1.0, 0.0], [1.0, 3.0, 0.1], [0.0, 0.1, 2.0]])


def write_market(path, matrix, **options):
    text = io.BytesIO()
    scipy.io.mmwrite(text, matrix, **options)
    path.write_bytes(gzip.compress(text.getvalue()) if path.suffix == ".gz" else text.getvalue())


def write_sparse_archive(path, matrix):
    scipy.sparse.save_npz(path, scipy.sparse.coo_array(matrix))


WRITERS = {
    "dense.npy": np.save,
    "dense.npz": np.savez,
    "dense.mtx": write_market,
    "sparse.npz": write_sparse_archive,
    "sparse.mtx": lambda path, matrix: write_market(path, scipy.sparse.coo_array(matrix)),
    "half.mtx": lambda path, matrix: write_market(path, scipy.sparse.coo_array(matrix), symmetry="symmetric"),
    "sparse.mtx.gz": lambda path, matrix: write_market(path, scipy.sparse.coo_array(matrix)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_matrix(tmp_path, name):
    WRITERS[name](tmp_path / name, MATRIX)
    matrix = read_matrix(tmp_path / name)
    assert scipy.sparse.issparse(matrix) == (not name.startswith("dense"))
    dense = matrix.toarray() if scipy.sparse.issparse(matrix) else matrix
    np.testing.assert_array_equal(dense, MATRIX)


def test_integers_and_complex_numbers_keep_their_kind(tmp_path):
    write_market(tmp_path / "i.mtx", np.array([[2, 1], [1, 2]]))
    write_market(tmp_path / "c.mtx", scipy.sparse.coo_array([[2, 1j], [-1j, 2]]), symmetry="hermitian")
    assert read_matrix(tmp_path / "i.mtx").dtype.kind == "i"
    np.testing.assert_array_equal(read_matrix(tmp_path / "c.mtx").toarray(), [[2, 1j], [-1j, 2]])


@pytest.mark.parametrize("kind", [np.asarray, scipy.sparse.coo_array])
def test_a_single_column_is_a_vector(tmp_path, kind):
    write_market(tmp_path / "b.mtx", kind(np.array([[1.0], [0.0], [3.0]])))
    write_market(tmp_path / "B.mtx", kind(MATRIX))
    np.testing.assert_array_equal(read_vectors(tmp_path / "b.mtx"), [1.0, 0.0, 3.0])
    np.testing.assert_array_equal(read_vectors(tmp_path / "B.mtx"), MATRIX)


@pytest.mark.parametrize("name", ["a.mtx", "a.mtx.gz", "a.npy", "a.npz"])
@pytest.mark.parametrize("content", [b"", b"no matrix at all\n", b"\x1f\x8b\x08 broken"])
def test_garbage_is_refused_by_name(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}: "):
        read_matrix(tmp_path / name)


def test_a_truncated_file_is_refused(tmp_path):
    whole = gzip.decompress((DATA / "airfoil.mtx.gz").read_bytes())
    (tmp_path / "half.mtx").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "half.mtx.gz").write_bytes((DATA / "airfoil.mtx.gz").read_bytes()[:5000])
    for name in ("half.mtx", "half.mtx.gz"):
        with pytest.raises(ValueError, match=rf"{name}: cannot be read"):
            read_matrix(tmp_path / name)


def write_pattern(path):
    write_market(path, scipy.sparse.coo_array(MATRIX), field="pattern")


REFUSED = {
    "gone.mtx": (lambda path: None, "there is no such file"),
    "a.csv": (lambda path: path.write_text("1,2"), r"give a file ending in \.mtx"),
    "p.mtx": (write_pattern, "stores positions and no values"),
    "object.npy": (lambda path: np.save(path, np.array([{}]), allow_pickle=True), "cannot be read"),
    "text.npy": (lambda path: np.save(path, np.array(["one"])), "not numbers"),
    "two.npz": (lambda path: np.savez(path, A=MATRIX, b=MATRIX[0]), "exactly one array.*: A, b"),
    "none.npz": (lambda path: np.savez(path), "exactly one array.*: none"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_refused_with_the_reason(tmp_path, name):
    write, reason = REFUSED[name]
    write(tmp_path / name)
    with pytest.raises(ValueError, match=rf"{name}: .*{reason}"):
        read_matrix(tmp_path / name)


def test_a_written_array_reads_back_and_leaves_nothing_else(tmp_path):
    write_array(tmp_path / "x.npy", MATRIX)
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), MATRIX)
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]


def test_a_failed_write_keeps_the_old_content(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("the disk is full")

    write_bytes(tmp_path / "x.npy", b"old")
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk"):
        write_bytes(tmp_path / "x.npy", b"new")
    assert (tmp_path / "x.npy").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]


def test_targets_are_checked_before_any_work(tmp_path):
    check_target(tmp_path / "x.npy", ".npy")
    (tmp_path / "folder.npy").mkdir()
    for target in ("x.txt", "gone/x.npy", "folder.npy"):
        with pytest.raises(ValueError, match=target):
            check_target(tmp_path / target, ".npy")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.npy"]


@pytest.mark.parametrize(("name", "unknowns", "kappa"), [("airfoil", 260, 74.9), ("bar", 600, 33541.4)])
def test_example_matrices_are_what_their_readme_says(name, unknowns, kappa):
    path = DATA / f"{name}.mtx.gz"
    matrix = read_matrix(path).toarray()
    eigenvalues = np.linalg.eigvalsh(matrix)
    assert matrix.shape == (unknowns, unknowns)
    np.testing.assert_array_equal(matrix, matrix.T)
    assert eigenvalues[-1] / eigenvalues[0] == pytest.approx(kappa, rel=1e-3)
    assert path.stat().st_size < 300_000
