"""The settings of a run: typed, frozen, each with its unit and source.

A method's own settings are in its file as `Config(MethodConfig)`. Layers, `--set` and run ids are in `resolve.py`.
"""

from typing import Any, Generic, Literal, TypeVar

from pydantic import field_validator, model_validator

from negbench.runtime.errors import UserError
from negbench.settings.group import Range, SettingsGroup, setting
from negbench.settings.plugins.facts import STANDARD
from negbench.settings.plugins.find import BACKBONE, DATASET, find_plugin, list_plugins
from negbench.settings.plugins.protocols import NAMED, PROTOCOLS, check_track, find_protocol
from negbench.settings.views import ViewsConfig


class DataConfig(SettingsGroup):
    name: str = setting("patterns", f"data set: {', '.join(list_plugins(DATASET))}")
    root: str | None = setting(None, "folder of the data set; patterns needs none", scientific=False)
    version: str | None = setting(None, "a name for this version of the data, where there is more than one")
    image_size: int = setting(32, "height and width of a view, pixels", ge=8, le=1024)
    num_images: int | None = setting(None, "use only this many training images, class-balanced (default: all)", ge=2)
    validation: float = setting(0.1, "share of the training set held out for curves and tuning", ge=0, lt=1)
    on_bad_image: Literal["error", "skip"] = setting("error", "what an undecodable file does")
    fingerprint: Literal["sample", "full"] = setting(
        "sample", "what data.json compares of image folders: 256 files a part, or all of them too", scientific=False
    )
    download: bool = setting(True, "fetch CIFAR-10 when it is not in data.root", scientific=False)
    workers: int = setting(
        4, "decoding processes a rank, at most one a core, image folders only", scientific=False, ge=0
    )

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        return find_plugin(DATASET, name).name


class ModelConfig(SettingsGroup):
    name: str = setting("resnet18", f"backbone: {', '.join(list_plugins(BACKBONE))}")
    stem: Literal["cifar", "imagenet"] = setting(
        "cifar", "first layers: 3x3 convolution without pooling, or 7x7 stride 2 with pooling; resnet8 has the former"
    )

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        return find_plugin(BACKBONE, name).name


class ProjectorConfig(SettingsGroup):
    """The head behind the backbone. The hidden BatchNorm is on for all methods, since BYOL depends on it."""

    layers: int = setting(2, "linear layers; 1 is a linear head", ge=1, le=4)
    hidden: int = setting(512, "width of the hidden layers", ge=1)
    dim: int = setting(128, "width of the embedding", ge=2)
    batch_norm: bool = setting(True, "BatchNorm in the hidden layers")
    output_batch_norm: bool = setting(False, "BatchNorm on the embedding too, as in SimCLR's code")


class OptimizerConfig(SettingsGroup):
    name: Literal["sgd", "lars", "adamw"] = setting("sgd", "optimizer of the encoder")
    lr: float = setting(0.06, "peak learning rate, never rescaled", gt=0)
    momentum: float = setting(0.9, "momentum (SGD, LARS)", ge=0, lt=1)
    weight_decay: float = setting(5e-4, "weight decay", ge=0)
    exclude: Literal["none", "norm-and-bias"] = setting(
        "none", "parameters without weight decay (LARS always leaves normalisation and biases out, of its scaling too)"
    )
    trust_coefficient: float = setting(1e-3, "LARS: layer step over weight norm (arXiv:1708.03888)", gt=0)
    clip: bool = setting(
        False, "LARS: a layer's rate is the smaller of lr and trust, not their product (LARC, as in solo-learn's code)"
    )
    betas: Range = setting((0.9, 0.999), "AdamW's averages")


class ScheduleConfig(SettingsGroup):
    """Linear warm-up, then half a cosine from the peak to `final_lr`."""

    warmup_epochs: float = setting(0.0, "length of the warm-up, epochs", ge=0)
    final_lr: float = setting(0.0, "learning rate at the end, in the optimizer's unit", ge=0)
    per_epoch: bool = setting(False, "constant within an epoch, as MoCo's and AdCo's code, instead of per step")


class EvaluationConfig(SettingsGroup):
    """Protocols of the end of a run (`evaluations/NAME.json`). kNN and linear probe use the backbone's features."""

    knn_temperature: float = setting(0.07, "kNN votes weigh exp(cosine / temperature)", gt=0)
    test: bool = setting(True, "evaluate on the test set at the end; off while settings are chosen")
    linear: bool = setting(True, "train the linear probes at the end")
    linear_epochs: int = setting(100, "epochs of the linear probes over the stored features", ge=1)
    linear_batch_size: int = setting(256, "batch of the linear probes", ge=1)
    untrained: bool = setting(True, "evaluate the untrained encoder beside the trained one")
    protocols: tuple[str, ...] = setting(
        (), f"further protocols, as published figures need them: {', '.join(NAMED)} (docs/recipes.md)"
    )

    @field_validator("protocols", mode="before")
    @classmethod
    def _one_or_more(cls, raw: Any) -> Any:
        return (raw,) if isinstance(raw, str) else raw

    @field_validator("protocols")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in STANDARD:
            find_protocol(name)
            if name in names:
                raise UserError(f"{name} is no further protocol: evaluation.test and evaluation.linear ask for it")
        for name in names:
            if name in PROTOCOLS and not PROTOCOLS[name].at_end:
                raise UserError(
                    f"{name} is not made at the end of a run; `negbench evaluate RUN --protocol {name}` makes it after"
                )
        found = {find_protocol(name, NAMED).name for name in names}
        return tuple(name for name in NAMED if name in found)  # in one order, for the run id


class CheckpointsConfig(SettingsGroup):
    keep: int = setting(
        2, "newest checkpoints kept; at least 2, so that a damaged one has a predecessor", scientific=False, ge=2
    )


class MethodConfig(SettingsGroup):
    """The settings of every method. A method file subclasses this as `Config`."""

    name: str = setting(..., "a name from `negbench methods`, or the name of the user's file")


class SharedConfig(SettingsGroup):
    """The settings that every run has, whatever its method. An evaluation depends on nothing else."""

    study: str = setting("custom", "name of the study, part of the run id", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    note: str = setting("", "what a reader of the study's results must know", scientific=False)
    track: Literal["controlled", "recipe"] = setting(
        "controlled", "controlled: only the method differs; recipe: as published"
    )
    seed: int = setting(0, "seed of weights, order and views", ge=0)
    epochs: int = setting(200, "passes over the training images, floor(num_images / batch_size) steps each", ge=1)
    batch_size: int = setting(512, "images a step over all ranks, before views", ge=2)
    data: DataConfig = DataConfig()
    views: ViewsConfig = ViewsConfig()
    model: ModelConfig = ModelConfig()
    projector: ProjectorConfig = ProjectorConfig()
    batch_norm: Literal["process", "sync", "shuffled", "split"] = setting(
        "process",
        "statistics over this process's images; over all ranks' (on GPUs torch's, which waits for the device); this "
        "process's, keys shuffled among ranks (MoCo); or over batch_norm_splits groups, keys shuffled (MoCo on one "
        "device). Only a momentum encoder's keys are shuffled",
    )
    batch_norm_splits: int = setting(8, "groups of batch_norm: split", ge=2)
    precision: Literal["auto", "bf16", "fp16", "fp32", "tf32"] = setting(
        "auto",
        "arithmetic of the encoders (tf32: of their convolutions); auto: bf16 where the hardware has it, else fp32. "
        "The contrast is fp32. fp16 scales the loss, and so waits for the device each step",
    )
    channels_last: bool = setting(True, "memory format of images and convolutions", scientific=False)
    execution: Literal["eager", "compiled", "graphs"] = setting(
        "eager",
        "compiled: views (on GPUs) and encoders by torch.compile, minutes at the start; graphs: CUDA graphs too",
        scientific=False,
    )
    deterministic: bool = setting(False, "refuse nondeterministic kernels (slower on GPUs)", scientific=False)
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint_every_min: float = setting(10.0, "minutes between checkpoints", scientific=False, gt=0)
    evaluate_every_epochs: int = setting(
        10, "epochs between kNN evaluations on the held-out images; 0: never", scientific=False, ge=0
    )
    diagnostics: bool = setting(
        True, "describe negatives and representation at these evaluations (docs/diagnostics.md)", scientific=False
    )
    log_every_steps: int = setting(50, "steps between records of loss and speed", scientific=False, ge=1)
    loggers: tuple[str, ...] = setting(
        (), "loggers beside the console and metrics.jsonl, by name (negbench/train/loggers/base.py)", scientific=False
    )
    checkpoints: CheckpointsConfig = CheckpointsConfig()

    @field_validator("loggers", mode="before")
    @classmethod
    def _one_or_more(cls, raw: Any) -> Any:
        return (raw,) if isinstance(raw, str) else raw

    @model_validator(mode="after")
    def _selects_in_recipes_alone(self) -> "SharedConfig":
        check_track(self.evaluation.protocols, self.track)
        return self


M = TypeVar("M", bound=MethodConfig)


class RunConfig(SharedConfig, Generic[M]):
    """Everything that defines a run."""

    method: M
