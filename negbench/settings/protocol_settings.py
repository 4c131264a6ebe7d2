"""Settings of protocols that have their own. Published values are the defaults, each with its source."""

from typing import ClassVar, Literal

from pydantic import model_validator

from negbench.runtime.errors import UserError
from negbench.settings.group import SettingsGroup, ShareRange, setting


class ProtocolSettings(SettingsGroup):
    """`source` says where the defaults come from, and `published` whether there are published figures with them."""

    source: ClassVar[str]
    published: ClassVar[bool] = True


class ClassifierSettings(ProtocolSettings):
    """SGD of a linear classifier on random crops. The rate is constant within an epoch."""

    epochs: int = setting(100, "passes over the training images", ge=1)
    batch_size: int = setting(256, "images a step; all images where there are fewer", ge=2)
    lr: float = setting(30.0, "first learning rate of the classifier", gt=0)
    schedule: Literal["steps", "cosine"] = setting("steps", "how the learning rate falls from epoch to epoch")
    steps: tuple[int, ...] = setting((60, 80), "steps: epochs, from 0, from which on it is multiplied by gamma again")
    gamma: float = setting(0.1, "steps: the factor", gt=0, le=1)
    final_lr: float = setting(0.0, "cosine: what it would reach after the last epoch", ge=0)
    momentum: float = setting(0.9, "momentum", ge=0, lt=1)
    weight_decay: float = setting(0.0, "weight decay", ge=0)
    crop_scale: ShareRange = setting((0.08, 1.0), "area of the training crops, share of the image's area")

    @model_validator(mode="after")
    def _ordered(self) -> "ClassifierSettings":
        if self.final_lr > self.lr:
            raise UserError(f"final_lr {self.final_lr} exceeds lr {self.lr}")
        return self


class LinearMoco(ClassifierSettings):
    source: ClassVar[str] = "facebookresearch/moco main_lincls.py, whose defaults they are"


class LinearAdco(ClassifierSettings):
    source: ClassVar[str] = "maple-research-lab/AdCo lincls.py, whose defaults they are"

    lr: float = setting(10.0, "first learning rate of the classifier", gt=0)
    schedule: Literal["steps", "cosine"] = setting("cosine", "how the learning rate falls from epoch to epoch")
    final_lr: float = setting(0.01, "cosine: what it would reach after the last epoch", ge=0)


class Finetune(ClassifierSettings):
    source: ClassVar[str] = "facebookresearch/swav eval_semisup.py's for 10% of the labels; none was published for all"
    published: ClassVar[bool] = False

    epochs: int = setting(20, "passes over the labelled images", ge=1)
    lr: float = setting(0.2, "first learning rate of the classifier", gt=0)
    backbone_lr: float = setting(0.01, "first learning rate of the backbone, falling with the classifier's", gt=0)
    steps: tuple[int, ...] = setting((12, 16), "steps: epochs, from 0, from which on it is multiplied by gamma again")
    gamma: float = setting(0.2, "steps: the factor", gt=0, le=1)
    share: float = setting(1.0, "share of the training images whose labels are used, class-balanced", gt=0, le=1)


class Semi10(Finetune):
    source: ClassVar[str] = "facebookresearch/swav README.md and eval_semisup.py, 10% of the labels on 8 GPUs"
    published: ClassVar[bool] = True

    share: float = setting(0.1, "share of the training images whose labels are used, class-balanced", gt=0, le=1)


class Semi1(Semi10):
    source: ClassVar[str] = "facebookresearch/swav README.md and eval_semisup.py, 1% of the labels on 8 GPUs"

    lr: float = setting(5.0, "first learning rate of the classifier", gt=0)
    backbone_lr: float = setting(0.02, "first learning rate of the backbone, falling with the classifier's", gt=0)
    share: float = setting(0.01, "share of the training images whose labels are used, class-balanced", gt=0, le=1)


class Transfer(ProtocolSettings):
    source: ClassVar[str] = "linusericsson/ssl-transfer linear.py (Kornblith et al., arXiv:1805.08974, appendix A.4)"

    lowest: float = setting(1e-6, "weakest L2 strength", gt=0)
    highest: float = setting(1e5, "strongest L2 strength", gt=0)
    num_strengths: int = setting(45, "L2 strengths from the weakest to the strongest, equal ratios between", ge=1)
    holdout: float = setting(0.2, "share of each class of the training images that chooses among them", gt=0, lt=1)
    choose_by: Literal["top1", "mean_per_class"] = setting("top1", "accuracy on these that is chosen by")
    max_iterations: int = setting(100, "iterations of L-BFGS at most, for each strength", ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> "Transfer":
        if self.lowest > self.highest:
            raise UserError(f"lowest {self.lowest} exceeds highest {self.highest}")
        return self


class Voc07(ProtocolSettings):
    source: ClassVar[str] = (
        "facebookresearch/vissl svm_trainer.py and eval_resnet_8gpu_transfer_voc07_svm.yaml (arXiv:1905.01235)"
    )

    costs: tuple[float, ...] = setting(
        (0.01, 0.1, 1, 2, 5, 10, 15, 20, 50, 100, 1000), "costs C to choose from, for each class"
    )
    folds: int = setting(3, "folds of the cross-validation", ge=2)
    positive_weight: float = setting(2.0, "weight of positive images, negative ones having 1", gt=0)
    max_iterations: int = setting(2000, "iterations of the solver at most", ge=1)

    @model_validator(mode="after")
    def _positive(self) -> "Voc07":
        if not self.costs or min(self.costs) <= 0:
            raise UserError(f"costs must be one or more positive numbers, not {list(self.costs)}")
        return self


class Places205(ProtocolSettings):
    source: ClassVar[str] = "negbench's own linear probe; published ones train on crops with one learning rate"
    published: ClassVar[bool] = False

    epochs: int = setting(100, "passes of the probes over the stored features", ge=1)
    batch_size: int = setting(256, "batch of the probes", ge=1)
    num_images: int | None = setting(None, "use only this many training images, class-balanced (default: all)", ge=2)
