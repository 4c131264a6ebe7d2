"""The fixed images of a run's diagnostics, and the method's embeddings of them some steps ago.

Every rank computes all of it: the images are few, and so the figures do not depend on the number of ranks.

Shape suffixes: P probe images, N training images, M columns, K vectors of a source, D embedding, F features.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from negbench.contrast.losses import Columns
from negbench.contrast.method import Method, Probe
from negbench.contrast.source import NegativeSource
from negbench.data.batches import training_batches
from negbench.data.sets import FolderSet, ResidentSet
from negbench.evaluate.diagnostics.figures import (
    Figures,
    duplicates,
    mean_angle,
    mean_cosine,
    nearest_labels,
    of_columns,
    of_representation,
    over_ages,
    sampled,
    tracking,
)
from negbench.evaluate.subject import check_finite
from negbench.runtime.seeding import stream
from negbench.settings.schema import SharedConfig

NUM_IMAGES = 512  # at least, in whole batches, if the training set has them
_CHUNK = 512  # images at a time through the encoder


class Prober:
    """Diagnostics of one run. The probe images are training images, in batches as large as those of training.

    The images and their views are the same for every method and seed.
    """

    def __init__(
        self, config: SharedConfig, method: Method, train_set: ResidentSet | FolderSet, device: torch.device
    ) -> None:
        batch = config.batch_size
        self.method, self.device = method, device
        two_views = config.views.model_copy(update={"crops": ()})
        self.config = config.model_copy(update={"seed": 0, "views": two_views})
        self.num_batches = min(math.ceil(NUM_IMAGES / batch), len(train_set) // batch)
        order_N = torch.randperm(len(train_set), generator=stream("probe"))
        position_P = order_N[: self.num_batches * batch].sort().values
        self.images, self.position_P = train_set.subset(position_P), position_P
        if isinstance(self.images, ResidentSet):
            self.images = self.images.to("cpu")  # so they take no memory that training needs
        self.labels_N = train_set.labels_N
        keys_per_step = len(method.key_views) * batch
        self.oldest = {source: source.oldest_age(keys_per_step) for source in method.all_sources}
        self.learned = any(source.learned for source in method.all_sources)
        self.remembered: dict[int, dict[str, Any]] = {}  # by step

    def looks_back_at(self, step: int, evaluated: Collection[int]) -> bool:
        """Return whether an evaluation after one of the steps `evaluated` needs the embeddings of this step."""
        reach = max([*self.oldest.values(), int(self.learned)], default=0)
        if step == 0:  # the oldest there is, if the source keeps keys for longer
            return any(0 < later <= reach for later in evaluated)
        return any(step + age in evaluated for age in _ages(reach))

    def remember(self, step: int) -> None:
        """Keep the method's keys and learned vectors after `step`, on the CPU."""
        kept: dict[str, Any] = {}
        if any(self.oldest.values()):
            kept["keys"] = torch.cat([self.method.probe_keys(chunks) for chunks in self._batches()]).cpu()
        if self.learned:
            probe = self.method.probe(next(self._batches()))
            kept["vectors"] = {
                name: sampled(torch.cat(vectors)).cpu()
                for name, (source, vectors) in _vectors(probe).items()
                if source.learned
            }
        self.remembered[step] = kept

    def forget(self, evaluated: Collection[int]) -> None:
        """Drop the steps that no evaluation after one of the steps `evaluated` looks back at."""
        self.remembered = {step: kept for step, kept in self.remembered.items() if self.looks_back_at(step, evaluated)}

    def figures(self, step: int, features_NF: Tensor, labels_N: Tensor) -> Figures:
        """Return all figures after `step`: of the representation, and in `sources` of each source and of `all`.

        `features_NF` are the backbone's of training images with `labels_N`: learned vectors get their nearest's label.
        """
        probes = [self.method.probe(chunks) for chunks in self._batches()]
        first_PD, second_PD = (torch.cat([probe.embeddings[i] for probe in probes]) for i in (0, 1))
        for embeddings_PD in (first_PD, second_PD):
            check_finite("embeddings", embeddings_PD)
        found: Figures = of_representation(first_PD, second_PD)
        names = _names(probes[0])
        if not names:
            return found
        groups = {name: [i for i, other in enumerate(names) if other == name] for name in names}
        groups |= {"all": list(range(len(names)))} if len(groups) > 1 else {}
        looked_up = self._looked_up(probes[0], features_NF, labels_N) if self.learned else {}
        all_labels_N = self.labels_N.to(self.device)
        of_batches = []
        for probe in probes:
            labels_M = [
                looked_up[number] if number in looked_up else _labels(columns, all_labels_N)
                for number, (_, columns) in enumerate(probe.columns)
            ]
            of_batches.append(of_columns(probe, groups, labels_M, all_labels_N[probe.index_N]))
        sources = {name: _averaged([figures[name] for figures in of_batches]) for name in groups}
        keys_PD = torch.cat([probe.key_ND for probe in probes])
        for name, (source, vectors) in _vectors(probes[0]).items():
            sources[name] |= self._of_vectors(step, name, source, torch.cat(vectors), keys_PD)
        for name, (source, _) in zip(names, probes[0].columns, strict=True):
            sources[name] |= self._staleness(step, source, keys_PD)
        return found | {"sources": sources}

    def _batches(self) -> Iterator[Iterator[tuple[list[Tensor], Tensor]]]:
        """Yield the parts of each probe batch, with positions in the training set."""
        for views, index_N in training_batches(self.images, self.config, self.device, 0, self.num_batches):
            index_N = self.position_P.to(self.device)[index_N]
            parts = zip(*(view.split(_CHUNK) for view in views), index_N.split(_CHUNK), strict=True)
            yield ((list(part[:-1]), part[-1]) for part in parts)

    def _looked_up(self, probe: Probe, features_NF: Tensor, labels_N: Tensor) -> dict[int, Tensor]:
        """Return the labels of learned columns, which are the same in all batches, by number of the columns."""
        bank_ND = self.method.embed_features(features_NF)
        return {
            number: nearest_labels(columns.vectors_MD, bank_ND, labels_N)
            for number, (source, columns) in enumerate(probe.columns)
            if source.learned and columns.vectors_MD is not None
        }

    def _of_vectors(self, step: int, name: str, source: NegativeSource, vectors_KD: Tensor, keys_PD: Tensor) -> Figures:
        figures: Figures = {"tracking": tracking(vectors_KD, keys_PD)}
        if source.learned:
            figures["duplicates"] = duplicates(vectors_KD)
            before_KD = self.remembered.get(step - 1, {}).get("vectors", {}).get(name)
            if before_KD is not None:
                figures["angle_degrees"] = mean_angle(before_KD, sampled(vectors_KD).cpu())
        return figures

    def _staleness(self, step: int, source: NegativeSource, keys_PD: Tensor) -> Figures:
        """Return nothing if a step that it looks back at is unknown, as after diagnostics were switched on."""
        ages = _ages(min(step, self.oldest[source]))
        before = {age: self.remembered[step - age] for age in ages if "keys" in self.remembered.get(step - age, {})}
        if not ages or len(before) < len(ages):
            return {}
        by_age = {age: mean_cosine(keys_PD.cpu(), then["keys"]) for age, then in before.items()}
        by_name = {str(age): cosine for age, cosine in by_age.items()}
        return {"oldest_age": ages[-1], "staleness": over_ages(by_age), "staleness_by_age": by_name}


def _ages(oldest: int) -> list[int]:
    """Return 1, 2, 4 ... and `oldest`, steps; none for 0."""
    return sorted({oldest, *(1 << power for power in range(oldest.bit_length()))} - {0})


def _labels(columns: Columns, labels_N: Tensor) -> Tensor:
    """Return the labels [M] behind columns, -1 for none."""
    if columns.index_M is None:
        return labels_N.new_full((columns.num_columns,), -1)
    return torch.where(columns.index_M >= 0, labels_N[columns.index_M], -1)


def _names(probe: Probe) -> list[str]:
    """Return the source's name of each of the probe's columns: its class, numbered if several sources share it."""
    sources = list(dict.fromkeys(source for source, _ in probe.columns))
    kinds = [type(source).__name__ for source in sources]
    names = [f"{k} {kinds[: i + 1].count(k)}" if kinds.count(k) > 1 else k for i, k in enumerate(kinds)]
    return [names[sources.index(source)] for source, _ in probe.columns]


def _vectors(probe: Probe) -> dict[str, tuple[NegativeSource, list[Tensor]]]:
    """Return the vectors behind each source's columns, if they are the same for all queries."""
    found: dict[str, tuple[NegativeSource, list[Tensor]]] = {}
    for name, (source, columns) in zip(_names(probe), probe.columns, strict=True):
        if columns.vectors_MD is not None:
            found.setdefault(name, (source, []))[1].append(columns.vectors_MD)
    return found


def _averaged(figures: Sequence[Figures]) -> Figures:
    """Return the means over batches of the known values."""
    known = {name: [f[name] for f in figures if f[name] is not None] for name in figures[0]}
    return {name: sum(values) / len(values) if values else None for name, values in known.items()}
