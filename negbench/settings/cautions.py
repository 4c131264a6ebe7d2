"""What is odd about a run's settings though it is allowed. Imports no torch."""

from collections.abc import Collection

from negbench.runtime.words import count, listed
from negbench.settings.keys import Flat


def cautions_of(settings: Flat, num_images: int, steps_per_epoch: Collection[float] = ()) -> list[str]:
    """Return a clause for each odd thing about a run that trains on `num_images`.

    `steps_per_epoch` holds every number of steps that an epoch of the run had, by its records.
    """
    epochs, warmup = _number(settings, "epochs"), _number(settings, "schedule.warmup_epochs")
    negatives = _number(settings, "method.num_negatives")
    steps = 1 if settings.get("schedule.per_epoch") else max(1, num_images // max(1, _number(settings, "batch_size")))
    found = []
    if warmup and warmup * steps > epochs * steps - 1:  # as in train.optim.learning_rate
        found.append(
            f"the warm-up of {warmup:g} epochs (schedule.warmup_epochs) does not end within the run of "
            f"{count(int(epochs), 'epoch')}, so the peak learning rate is never reached"
        )
    if negatives >= num_images:
        found.append(
            f"method.num_negatives is {negatives:,}, not less than the {num_images:,} training images, so negatives "
            "are not all of different images, and a queue holds old keys of the query's own"
        )
    if len(paces := sorted({*steps_per_epoch})) > 1:
        found.append(
            f"epochs had {listed([f'{pace:g}' for pace in paces])} steps, since the run was resumed with another "
            "number of images, which stretched or cut the schedule of its learning rate"
        )
    return found


def num_training_images(settings: Flat, num_images: int, num_classes: int) -> int:
    """Return how many images are trained on, of `num_images` in classes of equal size, those held out included."""
    held_out = num_classes * round(_number(settings, "data.validation") * num_images / max(1, num_classes))
    return int(_number(settings, "data.num_images") or num_images - held_out)


def _number(settings: Flat, key: str) -> float:
    value = settings.get(key)
    return value if isinstance(value, int | float) else 0
