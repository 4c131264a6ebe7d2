"""The groups: what is compared with what on a CPU and on a GPU, and which ratios are aimed at."""

from collections.abc import Callable

from benchmarks.peers.pictures import NUM_IMAGES
from benchmarks.peers.plan import IMAGES, Comparison, Goal, Group, Side, at_least, at_most

CPU_BATCH, GPU_BATCH, RESNET50_BATCH = 128, 512, 256
SMALL_K, LARGE_K = 4096, 65_536


class Maker:
    """Makes groups for a device, a batch size and a number of data workers."""

    def __init__(self, device: str, batch: int | None, workers: int) -> None:
        self.device, self.workers = device, workers
        self.on_gpu = device == "cuda"
        self.batch = batch or (GPU_BATCH if self.on_gpu else CPU_BATCH)
        self.resnet50_batch = batch or RESNET50_BATCH
        self.steps = 10 if self.on_gpu else 1

    def names(self) -> dict[str, Callable[[], Group]]:
        """All groups by name, in the order in which they run."""
        found = {
            "moco": lambda: self.beside_lightly("moco", "MoCo", at_least(0.95)),
            "simclr": lambda: self.beside_lightly("simclr", "SimCLR", None),
            "adco": lambda: self.adco("adco", SMALL_K, at_most(1.05)),
            "adco-large": lambda: self.adco("adco-large", LARGE_K, at_most(1.10)),
        }
        if self.on_gpu:
            return found | {"resnet50": self.resnet50}
        return found | {"views": self.views, "folder": self.folder, "memory": self.memory}

    def beside_lightly(self, method: str, title: str, goal_of_bare: Goal | None) -> Group:
        """A method in two precisions, its bare step, and the same loop from lightly's parts.

        lightly's has PyTorch's default precision, which on a GPU is TF32 in convolutions.
        """
        precision = "tf32" if self.on_gpu else "fp32"
        ours, full, bare = f"{title}, negbench", f"{title}, negbench {precision}", f"{title}, bare step"
        loop, views = f"{title}, lightly {precision}", "views, all threads"
        sides = [
            self._ours(ours, "method", method),
            self._ours(bare, "bare", method),
            self._ours(full, "method", method, f"precision={precision}"),
            self._lightly(loop, method, "loop", self.steps),
        ]
        comparisons = [
            Comparison(f"bare step / {title}", bare, ours, goal_of_bare),
            Comparison(f"lightly's loop / {title}", loop, ours, at_least(2.2)),
            Comparison(f"lightly's loop / {title} {precision}", loop, full, at_least(1.15)),
        ]
        if method == "moco":
            sides.append(self._ours(views, "views", method, steps=200 if self.on_gpu else 30))
            comparisons.append(Comparison("MoCo / its views", ours, views, at_least(33)))
            if self.on_gpu:
                compiled, compiled_bare = f"{ours}, graphs", f"{bare}, graphs"
                sides += [
                    self._ours(compiled, "method", method, "execution=graphs"),
                    self._ours(compiled_bare, "bare", method, "execution=graphs"),
                    self._lightly("ceiling: lightly's loader alone", method, "loader", self.steps),
                    self._lightly("ceiling: lightly's model alone", method, "model", self.steps),
                ]
                comparisons += [
                    Comparison("bare step / MoCo, both graphs", compiled_bare, compiled),
                    Comparison("lightly's loop / MoCo, graphs", loop, compiled),
                ]
        size = f", K = {SMALL_K:,}, one-way" if method == "moco" else ""
        return Group(method, f"{title}, ResNet-18, batch {self.batch}{size}", tuple(sides), tuple(comparisons))

    def adco(self, name: str, num_negatives: int, goal: Goal) -> Group:
        size = f"method.num_negatives={num_negatives}"
        sides = [self._ours(title, "method", title.lower(), size) for title in ("AdCo", "MoCo")]
        label = f"AdCo / MoCo, K = {num_negatives:,}"
        title = f"{label}, ResNet-18, batch {self.batch}, one-way"
        return Group(name, title, tuple(sides), (Comparison(label, "AdCo", "MoCo", goal),))

    def resnet50(self) -> Group:
        batch = self.resnet50_batch
        settings = (
            *("model.name=resnet50", "model.stem=imagenet", "data.image_size=224"),
            *(f"batch_size={batch}", f"method.num_negatives={LARGE_K}", "method.symmetric=false"),
        )
        sides = tuple(
            Side(name, "ours", (kind, method, "imagefolder", self.device, *settings), batch, self.steps)
            for name, kind, method in (
                ("AdCo", "method", "adco"),
                ("MoCo", "method", "moco"),
                ("bare step", "bare", "moco"),
            )
        )
        title = f"ResNet-50 at 224 pixels, K = {LARGE_K:,}, batch {batch}, one-way"
        comparisons = (
            Comparison("bare step / MoCo, ResNet-50", "bare step", "MoCo"),
            Comparison("AdCo / MoCo, ResNet-50", "AdCo", "MoCo"),
        )
        return Group("resnet50", title, sides, comparisons)

    def views(self) -> Group:
        own, kornia, lightly = "negbench", "kornia", "lightly"
        ours = ("views", "moco", "cifar10", "cpu", f"batch_size={self.batch}")
        loader = ("moco", "loader", "cpu", str(self.batch), "0")
        sides = (
            Side(own, "ours", ours, self.batch, 40, one_thread=True),
            Side(kornia, "kornia_views", (str(self.batch),), self.batch, 10, peer=True, one_thread=True),
            Side(lightly, "lightly_loop", loader, self.batch, 3, peer=True, one_thread=True),
        )
        comparisons = (
            Comparison("kornia / negbench", kornia, own, at_least(3.5)),
            Comparison("lightly / negbench", lightly, own, at_least(5)),
        )
        title = f"two views of 32-pixel images, batches of {self.batch}, one thread"
        return Group("views", title, sides, comparisons)

    def folder(self) -> Group:
        sides = (
            Side("negbench", "ours", ("folder", "moco", "imagefolder", "cpu", IMAGES), NUM_IMAGES, 2, one_thread=True),
            Side("Pillow, torchvision", "pillow_folder", (IMAGES,), NUM_IMAGES, 2, one_thread=True),
        )
        comparison = Comparison("Pillow and torchvision / negbench", sides[1].name, sides[0].name, at_least(1.5))
        title = "decoding, two crops of 128 pixels, one thread"
        return Group("folder", title, sides, (comparison,))

    def memory(self) -> Group:
        few, many = (f"AdCo, K = {count:,}" for count in (SMALL_K, 2**20))
        settings = ("model.name=resnet8", "projector.dim=128", "batch_size=256", "precision=fp32")
        sides = tuple(
            Side(name, "ours", ("memory", "adco", "quickstart", "cpu", *settings, f"method.num_negatives={count}"), 256)
            for name, count in ((few, SMALL_K), (many, 2**20))
        )
        label = f"GiB more with K = {2**20:,} than {SMALL_K:,}"
        title = "AdCo, ResNet-8, D = 128, batch 256, fp32: peak memory of the process"
        return Group("memory", title, sides, (Comparison(label, many, few, at_most(2.5)),), unit="bytes")

    def _ours(self, name: str, kind: str, method: str, *settings: str, steps: int | None = None) -> Side:
        """One-way and with the smaller K, unless `settings` say otherwise."""
        own = () if method == "simclr" else ("method.symmetric=false", f"method.num_negatives={SMALL_K}")
        arguments = (kind, method, "cifar10", self.device, f"batch_size={self.batch}", *own, *settings)
        return Side(name, "ours", arguments, self.batch, steps or self.steps)

    def _lightly(self, name: str, method: str, kind: str, steps: int) -> Side:
        arguments = (method, kind, self.device, str(self.batch), str(self.workers))
        return Side(name, "lightly_loop", arguments, self.batch, steps, peer=True)


def choose(names: str | None, device: str, batch: int | None, workers: int) -> list[Group]:
    """The groups named, with commas, in their own order; all without names. ValueError if one is unknown."""
    known = Maker(device, batch, workers).names()
    wanted = known.keys() if names is None else names.split(",")
    for name in wanted:
        if name not in known:
            raise ValueError(f"--groups: {name!r} is no group on {device}; there are {', '.join(known)}")
    return [make() for name, make in known.items() if name in wanted]
