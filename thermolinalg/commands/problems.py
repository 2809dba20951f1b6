"""Problems to train, by the name of their data."""

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

import jax

from thermolinalg.experiments import datasets, models
from thermolinalg.experiments.problem import Problem, accuracy, pixel_error
from thermolinalg.optim.losses import CrossEntropy, Logistic


class DataName(StrEnum):
    """Sets of data by name."""

    mnist = "mnist"
    fashion = "fashion"
    digits = "digits"
    squad = "squad"


class ModelName(StrEnum):
    """Models of images by name."""

    mlp = "mlp"
    cnn = "cnn"
    autoencoder = "autoencoder"


def image_problem(data: DataName, model: ModelName, folder: Path | None, smoke: bool, key: jax.Array) -> Problem:
    """A problem of images: labels to find, or pixels to find again."""
    found = _READERS[data](folder)
    side = found.train.inputs.shape[1]
    if model is ModelName.autoencoder:
        widths = (8,) if smoke else ((48, 24, 12) if side == 8 else (256, 64, 16))
        sizes = models.autoencoder_sizes(side * side, widths)
        start = models.init_mlp(key, sizes)
        return Problem(models.mlp, Logistic(), start, datasets.autoencoding(found), pixel_error, "pixel error")
    if model is ModelName.cnn:
        channels, width = (2, 8) if smoke else (8, 64)
        params = models.init_cnn(key, side, channels=channels, hidden=width)
        return Problem(models.cnn, CrossEntropy(), params, found, accuracy)
    hidden = () if smoke else ((256, 256) if side == 8 else (128, 64))
    return Problem(models.mlp, CrossEntropy(), models.init_mlp(key, (side * side, *hidden, 10)), found, accuracy)


def _no_folder(reader: Callable[[], datasets.Dataset]) -> Callable[[Path | None], datasets.Dataset]:
    """A reader of data that come with a package."""

    def read(folder: Path | None) -> datasets.Dataset:
        if folder is not None:
            raise ValueError("--data is where the files of fashion or squad lie; other data come with a package")
        return reader()

    return read


_READERS: dict[DataName, Callable[[Path | None], datasets.Dataset]] = {
    DataName.mnist: _no_folder(datasets.mnist),
    DataName.digits: _no_folder(datasets.digits),
    DataName.fashion: lambda folder: datasets.fashion(folder or datasets.FASHION_FOLDER),
}
