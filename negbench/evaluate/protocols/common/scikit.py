"""Helpers of the protocols that fit scikit-learn's models.

Shape suffixes: N images, F features.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy.typing as npt

from negbench.evaluate.subject import Features

Array = npt.NDArray[Any]


def arrays(features: Features) -> tuple[Array, Array]:
    """Return features [N, F] in float64 and labels [N], on the host."""
    return features.features_NF.double().cpu().numpy(), features.labels_N.cpu().numpy()


@contextmanager
def without_convergence_warnings() -> Iterator[None]:
    """Ignore warnings of fits that have not converged; a record says so of those that are tested."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield
