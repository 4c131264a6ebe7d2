"""Small data sets in the layouts of public ones: images of 10 to 13 pixels."""

from pathlib import Path

import numpy as np
from PIL import Image

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


def draw(path: Path, number: int, tint: int = 0) -> None:
    """Noise drawn by `number`, brighter with `tint`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(number).integers(0, 120, (10 + number % 3, 12, 3))
    Image.fromarray((noise + 40 * tint).astype(np.uint8)).save(path)


def image_folder(root: Path, classes: int = 3, train: int = 10, test: int = 4, tint: int = 1) -> Path:
    """Classes that differ in brightness by `tint`."""
    for part, count in (("train", train), ("val", test)):
        for label in range(classes):
            for number in range(count):
                name = f"n{label:08d}_{number}.JPEG"
                draw(root / part / f"n{label:08d}" / name, 100 * label + number + 1000 * (part == "val"), tint * label)
    return root


def voc07(root: Path, train: int = 30, test: int = 15) -> Path:
    """VOCdevkit/VOC2007; each image shows about a third of the classes, some of them only as difficult objects."""
    base, drawn = root / "VOCdevkit" / "VOC2007", np.random.default_rng(7)
    (base / "ImageSets" / "Main").mkdir(parents=True)
    for part, first, count in (("trainval", 1, train), ("test", 1001, test)):
        images = [f"{first + number:06d}" for number in range(count)]
        for number, image in enumerate(images):
            draw(base / "JPEGImages" / f"{image}.jpg", first + number)
        (base / "ImageSets" / "Main" / f"{part}.txt").write_text("\n".join(images) + "\n")
        for name in VOC_CLASSES:
            shown = drawn.choice([1, 0, -1], count, p=[0.4, 0.1, 0.5])
            lines = [f"{image} {flag:2d}" for image, flag in zip(images, shown, strict=True)]
            (base / "ImageSets" / "Main" / f"{name}_{part}.txt").write_text("\n".join(lines) + "\n")
    return root


def places205(root: Path, train: int = 40, val: int = 12, classes: int = 4) -> Path:
    lists, images = root / "trainvalsplit_places205", root / "data/vision/torralba/deeplearning/images256"
    lists.mkdir(parents=True)
    for part, count in (("train", train), ("val", val)):
        lines = []
        for number in range(count):
            label = number % classes
            name = f"{'abcd'[label]}/{'abcd'[label]}bbey/gsun_{part}_{number:04d}.jpg"
            draw(images / name, number, label)
            lines.append(f"{name} {label}")
        (lists / f"{part}_places205.csv").write_text("\n".join(lines) + "\n")
    return root
