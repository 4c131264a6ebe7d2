"""Images in memory or in files, and the parts of a data set.

Shape legend: N images of a set, M images chosen, H x W pixels.
"""

from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from negbench.settings.schema import DataConfig


@dataclass(frozen=True)
class ResidentSet:
    """Images of one size that are held in memory (host or device) as a whole: uint8 [N, 3, H, W] and int64 [N]."""

    images_NCHW: Tensor
    labels_N: Tensor

    def __len__(self) -> int:
        return len(self.labels_N)

    def subset(self, index_M: Tensor) -> "ResidentSet":
        """Return the images at the positions `index_M` (int64 [M]), in that order."""
        return ResidentSet(
            self.images_NCHW[index_M.to(self.images_NCHW.device)], self.labels_N[index_M.to(self.labels_N.device)]
        )

    def joined(self, other: "ResidentSet") -> "ResidentSet":
        """Return these images and then those of `other`."""
        images_NCHW = torch.cat([self.images_NCHW, other.images_NCHW])
        return ResidentSet(images_NCHW, torch.cat([self.labels_N, other.labels_N]))

    def to(self, device: torch.device | str) -> "ResidentSet":
        return ResidentSet(self.images_NCHW.to(device), self.labels_N.to(device))


class Files(Protocol):
    """N encoded images in order, wherever their bytes lie."""

    @property
    def root(self) -> str: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def class_N(self) -> Tensor: ...
    def __len__(self) -> int: ...
    def path(self, position: int, /) -> str: ...
    def num_bytes(self, position: int, /) -> int: ...
    def read(self, position: int, /) -> bytes: ...
    def decode(self, position: int, /) -> Tensor: ...
    def names_in_bytes(self) -> tuple[bytes, ...]: ...
    @property
    def left_out(self) -> tuple[str, ...] | None: ...


@dataclass(frozen=True)
class FolderSet:
    """Some of the images of `files` (`index_N`, int64 [N]) and their labels (int64 [N]), decoded when needed.

    `whole`: the evaluation view is the whole image, squeezed to a square, and not its centre.
    """

    files: Files
    index_N: Tensor
    labels_N: Tensor
    image_size: int
    on_bad_image: str = "error"
    workers: int = 0
    whole: bool = False

    @classmethod
    def all_of(cls, files: Files, labels_N: Tensor, config: DataConfig) -> "FolderSet":
        index_N = torch.arange(len(files))
        return cls(files, index_N, labels_N, config.image_size, config.on_bad_image, config.workers)

    def __len__(self) -> int:
        return len(self.index_N)

    def path(self, position: int) -> str:
        return self.files.path(int(self.index_N[position]))

    def num_bytes(self, position: int) -> int:
        return self.files.num_bytes(int(self.index_N[position]))

    def decode(self, position: int) -> Tensor:
        """Return the image at `position`, uint8 [3, H, W]. Raises BadImageError."""
        return self.files.decode(int(self.index_N[position]))

    def subset(self, index_M: Tensor) -> "FolderSet":
        """Return the images at the positions `index_M` (int64 [M]), in that order."""
        return replace(self, index_N=self.index_N[index_M], labels_N=self.labels_N[index_M])

    def joined(self, other: "FolderSet") -> "FolderSet":
        """Return these images and then those of `other`, which are of the same files."""
        assert self.files is other.files
        index_N, labels_N = torch.cat([self.index_N, other.index_N]), torch.cat([self.labels_N, other.labels_N])
        return replace(self, index_N=index_N, labels_N=labels_N)


@dataclass(frozen=True)
class Splits:
    """The three parts of a data set. `validation` is None where `data.validation` is 0.

    `skipped` counts files that were left out while loading; image folders are decoded later and start at 0.
    """

    train: "ResidentSet | FolderSet"
    validation: "ResidentSet | FolderSet | None"
    test: "ResidentSet | FolderSet"
    classes: tuple[str, ...]
    skipped: int = 0

    @property
    def all_training(self) -> "ResidentSet | FolderSet":
        """Return all training images, and those held out after them."""
        train: Any = self.train
        joined: ResidentSet | FolderSet = train if self.validation is None else train.joined(self.validation)
        return joined

    def to(self, device: torch.device) -> "Splits":
        """Return the parts with resident sets on `device`; folders are decoded on the host."""

        def moved(part: Any) -> Any:
            return part.to(device) if isinstance(part, ResidentSet) else part

        return replace(self, train=moved(self.train), validation=moved(self.validation), test=moved(self.test))


Loaded = tuple["ResidentSet | FolderSet", "ResidentSet | FolderSet", tuple[str, ...], int]
