"""Places205: negbench's own linear probe on frozen features of its images."""

from dataclasses import replace
from typing import Any

from negbench.data.splits import balanced_subset, split_validation
from negbench.evaluate.protocols.common.datasets import check_classes, digest_of, places205_folder
from negbench.evaluate.protocols.linear import linear_on
from negbench.evaluate.request import Request
from negbench.evaluate.subject import Subject
from negbench.runtime.errors import UserError
from negbench.settings.plugins.facts import Protocol

PROTOCOL = Protocol(
    place=12,
    figure="places205_top1",
    title="linear on Places205",
    settings="negbench.settings.protocol_settings:Places205",
    data="trainvalsplit_places205/ and data/vision/torralba/deeplearning/images256/",
    untrained=False,
)

_HOLDOUT = 0.1  # of the training images, to choose the learning rate by


def evaluate(subject: Subject, request: Request) -> dict[str, Any]:
    """Return the record of a linear probe, trained on all but a held-out tenth, tested on the validation images."""
    assert request.data is not None
    settings = request.settings
    splits = places205_folder(request.data, subject.config)
    check_classes(splits, request.data)
    train, num_images, num_classes = splits.train, settings.num_images, len(splits.classes)
    if num_images is not None:
        if not num_classes <= num_images <= len(train):
            raise UserError(
                f"num_images (--set) must be from {num_classes:,}, one a class, to {len(train):,}, not {num_images}"
            )
        train = train.subset(balanced_subset(train.labels_N, num_images, "places205"))
    try:
        kept_N, held_out_N = split_validation(train.labels_N, _HOLDOUT, "places205")
    except UserError:
        raise UserError(f"{len(train)} training images are too few to hold a tenth of each class out") from None
    moved = subject.on(replace(splits, train=train.subset(kept_N), validation=train.subset(held_out_N)))
    return linear_on(moved, settings.epochs, settings.batch_size) | {
        "num_classes": num_classes,
        "held_out_share": _HOLDOUT,
        "test_images": "Places205's validation images, as in published figures",
        "data_digest": digest_of(splits),
    }
