"""Average precision as PASCAL VOC defines it, over images ranked by score.

Shape suffixes: N images.
"""

import numpy as np

from negbench.evaluate.protocols.common.scikit import Array
from negbench.runtime.errors import UserError


def average_precisions(scores_N: Array, shown_N: Array) -> tuple[float, float]:
    """Return the average precision of one class by VOC2007's and by VOC2010's definition. UserError without positives.

    `shown_N` is 1, -1, or 0 for difficult images, which are left out. Images are ranked by score, of equals the earlier
    first. VOC2007's (VOCevalcls.m of the devkit) is the mean over the recalls 0, 0.1 ... 1 of the highest precision at
    that recall or more. VOC2010's, which VISSL reports for VOC2007 too, is the area under this interpolated precision.
    """
    known_N = shown_N != 0
    scores_N, shown_N = scores_N[known_N], shown_N[known_N]
    num_positive = int((shown_N > 0).sum())
    if not num_positive:
        raise UserError("average precision needs at least one positive image")
    found_N = np.cumsum(shown_N[np.argsort(-scores_N, kind="stable")] > 0)
    precision_N = found_N / np.arange(1, len(found_N) + 1)
    highest_N = np.maximum.accumulate(precision_N[::-1])[::-1]  # at this rank or a later one
    # Recall r is reached first at the rank where ceil(r * positives) are found; integers make it exact.
    ranks = [np.searchsorted(found_N, -(-tenth * num_positive // 10)) for tenth in range(11)]
    eleven_points = float(np.mean([highest_N[rank] for rank in ranks]))
    area = float(highest_N[np.searchsorted(found_N, np.arange(1, num_positive + 1))].mean())
    return eleven_points, area
