"""Facts about protocols, data sets, backbones and figures that are known before their files are imported.

A file of these kinds begins with its facts, a call whose keywords are plain values: `DATASET = DataSet(train=100)`.
"""

from dataclasses import dataclass

from negbench.runtime.errors import UserError

STANDARD = ("knn", "linear")  # protocols of every run; the others are asked for by name


@dataclass(frozen=True, kw_only=True)
class PluginFacts:
    name: str = ""  # the file's or the entry point's; filled in when the facts are read


@dataclass(frozen=True, kw_only=True)
class Protocol(PluginFacts):
    """Makes `evaluations/NAME.json`. Its file defines `evaluate(subject)`, with settings `evaluate(subject, request)`.

    A protocol of `every_epoch` is called at the end of each epoch, and the run's figure is the highest: it selects on
    the test set, which only recipes may do.
    """

    figure: str = ""  # name of the figure in summary.json and on the screen
    title: str = ""  # of that figure, for a reader
    projector: bool = False  # whether it reads the projector's output
    every_epoch: bool = False
    key: str = "top1"  # of the figure in the record
    settings: str = ""  # module:name of the model of its own settings
    data: str = ""  # what `--data DIR` must hold; empty: it evaluates on the run's own data
    takes_labels: bool = False  # whether it trains on the labels that `--labels-file` lists
    untrained: bool = True  # whether the untrained encoder is evaluated too
    place: int = 100  # in lists, and so in run ids

    def __post_init__(self) -> None:
        if self.name not in ("", *STANDARD) and not (self.figure and self.title):
            raise UserError("its facts lack figure or title")

    @property
    def at_end(self) -> bool:
        """Return whether the end of a run can evaluate it, on all ranks."""
        return not self.settings


@dataclass(frozen=True, kw_only=True)
class DataSet(PluginFacts):
    """Images with labels. Its file defines `load(config)`: training set, test set, classes, and files left out.

    A plan takes the sizes from here, or else loads the data set to count them.
    """

    title: str = ""  # for a reader; default: the name
    root: str = ""  # what the folder data.root must hold; empty: it may be unset
    train: int = 0  # images of a set that is held in memory, before `data.validation` and `data.num_images`
    test: int = 0
    num_classes: int = 0
    num_bytes: int = 0  # on disk, of a set of known size


@dataclass(frozen=True, kw_only=True)
class Backbone(PluginFacts):
    """Its file defines `build(config)`: a module from images [N, 3, H, W] to features [N, feature_dim]."""

    feature_dim: int
    stems: tuple[str, ...] = ("imagenet", "cifar")  # the values of model.stem that it can be built with
    torchvision: bool = False  # whether torchvision and timm have it by its name
    bottleneck: bool = False  # whether a ResNet's blocks are bottlenecks


FIGURE_SECTIONS = ("comparison", "hardware", "diagnostics", "ablation", "tuning", "bench")


@dataclass(frozen=True, kw_only=True)
class Figure(PluginFacts):
    """A figure of a report. Its file defines `drawing(data, style)`: a `Drawing`, or None if there is nothing to draw.

    The section says where the page shows it and what `data` is: "comparison" and "diagnostics" give a `Comparison`,
    "hardware" one of the runs on one kind of hardware, "ablation" the `Ablation`s of one title, "tuning" a `Tuning`
    and "bench" a `Bench`.
    """

    section: str
    title: str  # on the page the title of the comparison, tuning or bench follows it
    place: int = 100  # among the figures of its section

    def __post_init__(self) -> None:
        if self.section not in FIGURE_SECTIONS:
            raise UserError(f"its section {self.section!r} is none of {', '.join(FIGURE_SECTIONS)}")
