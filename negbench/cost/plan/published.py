"""Published costs of runs, as their sources say; nothing here was measured by negbench. Imports no torch."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class PublishedCost:
    """The cost of training by one study of configs/paper/."""

    studies: tuple[str, ...]  # of the same encoder, batch, images and length of an epoch
    method: str
    hours: float  # of all `devices` side by side
    epochs: int  # that took them
    devices: int
    device: str
    includes: str
    source: str
    same_steps: bool = True  # False: of another variant of the method

    @property
    def device_hours_per_epoch(self) -> float:
        return self.hours * self.devices / self.epochs


_VARIANTS_OF_ADCO = (
    "adco-imagenet-200-symmetric",
    "adco-imagenet-200-multi-crop",
    "adco-imagenet-200-multi-crop-symmetric",
    "adco-imagenet-800-multi-crop",
    "adco-imagenet-200-16384",
    "adco-imagenet-200-symmetric-16384",
    "adco-imagenet-200-8192",
    "adco-imagenet-200-symmetric-8192",
)
_IMAGENET = ("adco-imagenet-200", "adco-imagenet-800", "moco-v2-imagenet-200", "moco-v2-imagenet-800")
_LIGHTLY = "lightly's documentation, benchmarks on CIFAR-10, one run"
_WITH_KNN = "training and a kNN evaluation each epoch"

_ADCO = PublishedCost(
    studies=_IMAGENET,
    method="adco",
    hours=2.26 / 8,
    epochs=1,
    devices=8,
    device="V100",
    includes="the paper's figure, a sum over the GPUs; what it leaves out is not stated",
    source="github.com/maple-research-lab/AdCo, issue 7, and its README for the GPUs",
)
PUBLISHED = (
    _ADCO,
    replace(
        _ADCO,
        studies=_VARIANTS_OF_ADCO,
        includes="the paper's figure for one-way training with one crop and K = 65,536, a sum over the GPUs",
        same_steps=False,
    ),
    PublishedCost(
        studies=_IMAGENET,
        method="moco",
        hours=53,
        epochs=200,
        devices=8,
        device="V100",
        includes="pre-training, stated as 53 h for 200 epochs",
        source="github.com/facebookresearch/moco, README",
    ),
    PublishedCost(
        studies=("simclr-imagenet-100",),
        method="simclr",
        hours=6,
        epochs=100,
        devices=32,
        device="TPU v3",
        includes="pre-training, stated as about 6 h for 100 epochs",
        source="github.com/google-research/simclr, README",
    ),
    PublishedCost(
        studies=("moco-demo-cifar10",),
        method="moco",
        hours=20 / 3600,
        epochs=1,
        devices=1,
        device="V100",
        includes="stated as about 20 s an epoch",
        source="github.com/facebookresearch/moco, branch colab-notebook, moco_cifar10_demo.ipynb",
    ),
    *(
        PublishedCost((study,), method, minutes / 60, 200, 1, "A6000", _WITH_KNN, _LIGHTLY)
        for study, method, minutes in (
            ("lightly-cifar10-128", "moco", 128.8),
            ("lightly-cifar10-128", "simclr", 97.7),
            ("lightly-cifar10-128", "byol", 121.9),
            ("lightly-cifar10-512", "moco", 112.2),
            ("lightly-cifar10-512", "simclr", 87.1),
            ("lightly-cifar10-512", "byol", 108.3),
        )
    ),
)


def published_costs(study: str, method: str) -> list[PublishedCost]:
    """Return the published costs of a study, the method's own first."""
    return sorted((cost for cost in PUBLISHED if study in cost.studies), key=lambda cost: cost.method != method)
