"""Decoding of an image file."""

import io
import re
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import simplejpeg
import torch
from PIL import Image
from torch import Tensor

from negbench.runtime.errors import UserError
from negbench.runtime.kind_of_file import HEAD_BYTES, looks_like

LARGEST = 89_478_485  # pixels of an image that is decoded, of any format; Pillow warns of larger ones
_JPEG = b"\xff\xd8\xff"
_OBJECT = re.compile(r" ?<[^<>]* object at 0x[0-9a-fA-F]+>")  # how Python writes a file in memory
_WIDE = ("I", "F")  # Pillow's modes of 32 bits a pixel
Image_HWC = npt.NDArray[np.uint8]

Image.MAX_IMAGE_PIXELS = None  # `LARGEST` is compared instead, before pixels are read
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # of odd metadata, in every worker


class BadImageError(UserError):
    """A file that cannot be decoded; the message names its path and the reason."""


def decode(path: str) -> Tensor:
    """Return the image in `path` as uint8 RGB [3, H, W], of several its first.

    As torchvision's ImageFolder: gray becomes three equal channels, alpha is dropped (not composited), EXIF orientation
    is not applied. Unlike it, 16-bit gray is divided by 256, not clipped. Raises BadImageError.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise BadImageError(f"cannot decode the image {path}: {error.strerror or error}") from error
    return decode_bytes(data, path)


def decode_bytes(data: bytes, path: str) -> Tensor:
    """Return the image in the bytes of a file as `decode` does; `path` is in the error."""
    try:
        image_HWC = _decode_jpeg(data) if data.startswith(_JPEG) else None
        return torch.from_numpy(_decode_any(data) if image_HWC is None else image_HWC).permute(2, 0, 1)
    except MemoryError:
        raise
    except Exception as error:  # on damaged files Pillow raises OSError, SyntaxError, struct.error and more
        raise BadImageError(f"cannot decode the image {path}: {_reason(error, data)}") from error


def _reason(error: Exception, data: bytes) -> str:
    """Return what the file is, or else the decoder's words."""
    said = " ".join(_OBJECT.sub("", str(error)).split()) or type(error).__name__
    kind = looks_like(data[:HEAD_BYTES])
    if kind is None or isinstance(error, BadImageError):
        return said
    return f"{said} (it begins as {kind})" if kind.endswith("image") else f"it is {kind}"


def _decode_jpeg(data: bytes) -> Image_HWC | None:
    """Return Pillow's pixels in about half its time; None if only Pillow can decode the image."""
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        plain = colorspace in ("YCbCr", "RGB", "Gray") and height * width <= LARGEST
        return simplejpeg.decode_jpeg(data) if plain else None
    except ValueError:
        return None


def _decode_any(data: bytes) -> Image_HWC:
    with Image.open(io.BytesIO(data)) as image:
        if image.width * image.height > LARGEST:
            size = f"{image.width:,} x {image.height:,} pixels in {len(data):,} bytes"
            raise BadImageError(f"{size} are more than the {LARGEST:,} pixels that are decoded; make it smaller")
        if image.format == "TIFF" and image.mode in _WIDE:
            raise BadImageError("pixels of 32 bits, whose range is unknown; write it with 8 or 16 bits a channel")
        image.load()
        if image.mode.startswith("I"):  # 16-bit gray, which Pillow's own conversion clips
            image_HW = np.asarray(image).astype(np.int64) >> 8
            rgb = Image.fromarray(image_HW.clip(0, 255).astype(np.uint8)).convert("RGB")
        elif "transparency" in image.info and image.mode == "P":
            rgb = image.convert("RGBA").convert("RGB")  # the same pixels, without Pillow's warning
        else:
            rgb = image.convert("RGB")
    return np.array(rgb)
