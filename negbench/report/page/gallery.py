"""The figures of a page, found as plugins: files of report/figures, and modules of other packages."""

import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from matplotlib.figure import Figure as Canvas

from negbench.report.figures.common.style import Style, write
from negbench.report.read.comparisons import Comparison
from negbench.runtime.errors import UserError
from negbench.settings.plugins.find import FIGURE, PluginFile, import_plugin, list_plugins, problems_of

LARGEST_SVG = 400_000  # bytes; beyond that the page holds the PNG


@dataclass
class Picture:
    """A figure of the page. `source` is the drawn figure as a data URL, empty before `Gallery.draw`."""

    file: PluginFile
    slug: str
    title: str
    caption: str
    draw: Callable[[], Canvas]
    source: str = ""


class Gallery:
    """The figures of one page: planned section by section, then drawn.

    A figure of another package that fails is left out, and `problems` names it. One of negbench's own raises.
    """

    def __init__(self, style: Style) -> None:
        self.style = style
        self.pictures: list[Picture] = []
        self.problems = problems_of(FIGURE)
        self._modules: dict[PluginFile, ModuleType] = {}  # by place
        for file in sorted(list_plugins(FIGURE).values(), key=lambda file: file.facts.place):
            try:
                self._modules[file] = import_plugin(file)
            except UserError as error:
                self.problems.append(str(error))

    def plan(self, section: str, data: Any, slug: str, title: str) -> list[Picture]:
        """Return the figures of a section in the order of their places. The `*` of `slug` becomes the figure's name."""
        planned = []
        for file, module in self._modules.items():
            if file.facts.section != section:
                continue
            with self._naming(file):
                if (drawing := module.drawing(data, self.style)) is not None:
                    name, heading = slug.replace("*", file.name), f"{file.facts.title}: {title}"
                    planned.append(Picture(file, name, heading, drawing.caption, drawing.draw))
        self.pictures += planned
        return planned

    def plan_comparison(self, comparison: Comparison) -> list[Picture]:
        """Return the figures of a comparison, then those of its runs on each kind of hardware."""
        planned = self.plan("comparison", comparison, f"*-{comparison.slug}", comparison.title)
        for part in comparison.by_hardware():
            planned += self.plan("hardware", part, f"*-{part.slug}", part.title)
        return planned

    def draw(self, folder: Path, tell: Callable[[str], None]) -> None:
        """Draw all planned figures into `folder`."""
        for number, picture in enumerate(self.pictures, 1):
            tell(f"figure {number} of {len(self.pictures)}")
            with self._naming(picture.file):
                picture.source = _embedded(write(picture.draw, picture.slug, folder))

    @contextmanager
    def _naming(self, file: PluginFile) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if file.giver == "negbench":
                raise
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            problem = f"figure {file.name!r} of the package {file.giver} cannot be drawn: {reason}"
            self.problems += [problem] if problem not in self.problems else []  # once for all comparisons


def _embedded(paths: dict[str, Path]) -> str:
    kind, path = ("svg+xml", paths["svg"]) if paths["svg"].stat().st_size <= LARGEST_SVG else ("png", paths["png"])
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
