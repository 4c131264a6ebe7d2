"""The data of a run, by the name of its data set.

Shape legend: N images of a set, M images chosen.
"""

from dataclasses import dataclass, field

import torch

from negbench.data.evaluable import check_evaluable, notes_of
from negbench.data.fingerprint import describe
from negbench.data.sets import Loaded, Splits
from negbench.data.splits import balanced_subset, split_for_probe, split_validation
from negbench.records.run.data import DataRecord
from negbench.runtime.compiling import check_compiler
from negbench.runtime.device import autocast_dtype, set_backends
from negbench.runtime.distributed import rank
from negbench.runtime.errors import UserError
from negbench.settings.plugins.find import DATASET, find_plugin, import_plugin
from negbench.settings.schema import DataConfig, SharedConfig


@dataclass
class RunData:
    """Settings and their data on the device."""

    config: SharedConfig
    device: torch.device
    dtype: torch.dtype | None
    splits: Splits
    skipped: set[str] = field(default_factory=set)  # undecodable files met so far
    record: DataRecord | None = None  # of rank 0
    notes: list[str] = field(default_factory=list)  # what the user should know of the data, on rank 0


def load_data(config: SharedConfig, device: torch.device, trains: bool = False) -> RunData:
    """Return the data of a run on `device`, whose arithmetic is set up for it.

    `trains`: the run's evaluations must be possible. Every mistake of the user is a UserError.
    """
    dtype = autocast_dtype(config.precision, device)
    set_backends(config.precision, config.deterministic, device)
    check_compiler(config.execution, device)
    loaded = load_whole(config.data)
    if trains:
        check_evaluable(loaded, config)
    record = describe(loaded, config.data.fingerprint == "full") if rank() == 0 else None
    splits = divide(loaded, config.data)
    if splits.validation is None and config.evaluation.test and config.evaluation.linear:
        split_for_probe(splits.train.labels_N)
    notes = notes_of(loaded, config) if rank() == 0 else []
    return RunData(config, device, dtype, splits.to(device), record=record, notes=notes)


def load_for_run(config: SharedConfig) -> Splits:
    """Return the parts of a run's data as `load_splits` does. UserError if it cannot be evaluated as it asks for."""
    loaded = load_whole(config.data)
    check_evaluable(loaded, config)
    return divide(loaded, config.data)


def load_splits(config: DataConfig) -> Splits:
    """Return the parts of the data set `config.name`, on the host.

    `validation` holds out that share of each class of the training set. `num_images` then takes that many of the
    remaining training images, as evenly over the classes as their sizes permit; a smaller choice is contained in a
    larger one. Neither depends on the seed of a run, so all runs see the same images.

    UserError if the data is absent or malformed, or cannot be divided as asked.
    """
    return divide(load_whole(config), config)


def load_whole(config: DataConfig) -> Loaded:
    """Return training and test images, the classes and how many files were left out. UserError as `load_splits`."""
    file = find_plugin(DATASET, config.name)
    if file.facts.root and config.root is None:
        raise UserError(f"data.root is not set; for {config.name} it is the folder that holds {file.facts.root}")
    try:
        loaded: Loaded = import_plugin(file).load(config)
    except OSError as error:
        raise UserError(f"cannot read {error.filename or config.root}: {error.strerror or error}") from None
    return loaded


def divide(loaded: Loaded, config: DataConfig) -> Splits:
    """Return the parts of a data set as `load_splits` does."""
    train, test, classes, skipped = loaded
    kept_N, held_out_M = split_validation(train.labels_N, config.validation, config.name)
    if config.num_images is not None:
        kept_N = kept_N[balanced_subset(train.labels_N[kept_N], config.num_images, config.name)]
    validation = train.subset(held_out_M) if len(held_out_M) else None
    return Splits(train.subset(kept_N), validation, test, classes, skipped)
