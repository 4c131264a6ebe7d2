"""Every kind of image file decodes to the RGB pixels that it shows."""

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from negbench.data.files.decode import BadImageError, decode, decode_bytes
from tests.data.test_folder import RGB, channels


@pytest.mark.parametrize("name", ["a.png", "a.PNG", "a.webp"])
def test_lossless_files_keep_their_pixels(tmp_path: Path, name: str) -> None:
    Image.fromarray(RGB).save(tmp_path / name, lossless=True)
    assert np.array_equal(channels(decode(str(tmp_path / name))), RGB)


JPEGS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("RGB", {}),
    "progressive": ("RGB", {"progressive": True}),
    "unsampled": ("RGB", {"subsampling": 0}),
    "coarse": ("RGB", {"quality": 5}),
    "gray": ("L", {}),
    "cmyk": ("CMYK", {}),
    "not YCbCr": ("RGB", {"keep_rgb": True}),
}


@pytest.mark.parametrize("kind", JPEGS)
def test_jpegs_have_the_pixels_that_pillow_gives_them(tmp_path: Path, kind: str) -> None:
    mode, options = JPEGS[kind]
    Image.fromarray(RGB).resize((211, 133), Image.Resampling.BICUBIC).convert(mode).save(tmp_path / "a.jpg", **options)
    expected = np.asarray(Image.open(tmp_path / "a.jpg").convert("RGB"))
    assert np.array_equal(channels(decode(str(tmp_path / "a.jpg"))), expected)


def test_jpegs_that_end_too_soon_are_bad(tmp_path: Path) -> None:
    Image.fromarray(RGB).resize((211, 133)).save(tmp_path / "a.jpg")
    whole = (tmp_path / "a.jpg").read_bytes()
    for length in (3, len(whole) // 2, len(whole) - 2):
        (tmp_path / "a.jpg").write_bytes(whole[:length])
        with pytest.raises(BadImageError, match=r"cannot decode the image .*a\.jpg: \w+"):
            decode(str(tmp_path / "a.jpg"))


def test_a_jpeg_that_claims_to_be_huge_is_bad(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.jpg")
    data = bytearray((tmp_path / "a.jpg").read_bytes())
    frame = data.index(b"\xff\xc0")  # start of frame: length, precision, height, width
    data[frame + 5 : frame + 9] = b"\xea\x60\xea\x60"  # 60,000 x 60,000
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(
        BadImageError, match=r"60,000 x 60,000 pixels in [\d,]+ bytes are more than the 89,478,485 pixels"
    ):
        decode(str(tmp_path / "a.jpg"))


def test_a_jpeg_by_another_name_is_decoded(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png", format="JPEG")
    assert decode(str(tmp_path / "a.png")).shape == (3, 20, 30)


def test_jpeg_is_close(tmp_path: Path) -> None:
    smooth = np.broadcast_to(np.linspace(0, 255, 30, dtype=np.uint8)[None, :, None], (20, 30, 3))
    Image.fromarray(smooth).save(tmp_path / "a.JPG", quality=95)
    assert np.abs(channels(decode(str(tmp_path / "a.JPG"))).astype(int) - smooth).max() < 8


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_gray_becomes_three_equal_channels(tmp_path: Path, mode: str) -> None:
    gray = Image.fromarray(RGB).convert(mode)
    gray.save(tmp_path / "a.png")
    expected = np.asarray(gray.convert("L"))
    assert np.array_equal(channels(decode(str(tmp_path / "a.png"))), np.stack([expected] * 3, axis=2))


def test_16_bit_gray_is_scaled_and_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert decode(str(tmp_path / "a.png"))[:, 0].tolist() == [[0, 0, 1, 128, 255]] * 3


def test_alpha_is_dropped(tmp_path: Path) -> None:
    alpha = np.zeros((20, 30, 1), dtype=np.uint8)
    Image.fromarray(np.concatenate([RGB, alpha], axis=2)).save(tmp_path / "a.png")
    assert np.array_equal(channels(decode(str(tmp_path / "a.png"))), RGB)


@pytest.mark.parametrize("transparency", [None, 0, b"\x00\x80\xff"])
def test_palette_gives_its_colours(tmp_path: Path, transparency: int | bytes | None) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1])
    if transparency is not None:
        image.info["transparency"] = transparency
    image.save(tmp_path / "a.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert channels(decode(str(tmp_path / "a.png"))).tolist() == [[[10, 20, 30], [40, 50, 60]]]


def test_cmyk_jpeg_has_rgb_colours(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    red, green, blue = decode(str(tmp_path / "a.jpg")).float().mean(dim=(1, 2)).tolist()
    assert red > 240 and green < 15 and blue < 15


def test_exif_orientation_is_ignored(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(RGB).save(tmp_path / "a.jpg", exif=exif)
    assert decode(str(tmp_path / "a.jpg")).shape == (3, 20, 30)


SIDE = 13_000  # pixels of an image of few bytes, which would take gigabytes


def saved(kind: str, side: int = 16) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side)).save(file, kind)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def huge(kind: str) -> bytes:
    """A whole small file whose header claims `SIDE` x `SIDE` pixels."""
    if kind == "PNG":
        rows = zlib.compress(bytes(SIDE * (SIDE // 8 + 1)), 9)
        parts = ((b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 1, 0, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b""))
        return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)
    if kind == "PPM":
        return b"P6 %d %d 255\n" % (SIDE, SIDE) + bytes(90)
    data = saved(kind)
    small, large = (
        {"BMP": struct.pack("<ii", side, side), "GIF": b"GIF87a" + struct.pack("<HH", side, side)}.get(kind, b"")
        for side in (16, SIDE)
    )
    if kind == "JPEG":
        small, large = (b"\xff\xc0\x00\x11\x08" + struct.pack(">HH", side, side) for side in (16, SIDE))
    if kind == "TIFF":
        for tag in (256, 257):
            data = data.replace(struct.pack("<HHIH", tag, 3, 1, 16), struct.pack("<HHIH", tag, 3, 1, SIDE))
            data = data.replace(struct.pack("<HHII", tag, 4, 1, 16), struct.pack("<HHII", tag, 4, 1, SIDE))
        return data
    assert small in data
    return data.replace(small, large, 1)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "TIFF", "PPM"])
def test_one_limit_of_pixels_holds_for_all_formats_without_a_warning(kind: str) -> None:
    with warnings.catch_warnings(), pytest.raises(BadImageError) as error:
        warnings.simplefilter("error")
        decode_bytes(huge(kind), "a")
    assert str(error.value).startswith("cannot decode the image a: 13,000 x 13,000 pixels in ")


def test_the_largest_image_is_decoded() -> None:
    assert decode_bytes(saved("PNG", 2000), "a").shape == (3, 2000, 2000)


NO_IMAGES = {
    "empty": (b"", "it is empty (0 bytes)"),
    "page": (b"<!DOCTYPE html><title>Sign in</title>", "it is an HTML page, as a failed download leaves it"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "it is a Git LFS pointer, whose file"),
    "zip": (b"PK\x03\x04" + bytes(60), "it is a zip archive"),
    "zeros": (bytes(500), "it is zeros at its start"),
    "HEIC": (b"\0\0\0\x18ftypheic" + bytes(60), "cannot identify image file (it begins as a HEIC image)"),
    "PNG": (saved("PNG")[:20], "(it begins as a PNG image)"),
    "noise": (np.random.default_rng(0).bytes(300), "cannot identify image file"),
}


@pytest.mark.parametrize("kind", NO_IMAGES)
def test_a_file_that_is_no_image_is_named_by_what_it_is(kind: str, tmp_path: Path) -> None:
    content, sentence = NO_IMAGES[kind]
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(BadImageError) as error:
        decode(str(tmp_path / "a.jpg"))
    assert str(error.value).startswith(f"cannot decode the image {tmp_path / 'a.jpg'}: ")
    assert sentence in str(error.value) and " object at 0x" not in str(error.value)


@pytest.mark.parametrize("kind", ["GIF", "TIFF"])
def test_of_several_images_in_a_file_the_first_is_taken(kind: str, tmp_path: Path) -> None:
    first, second = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    first.save(tmp_path / "a", kind, save_all=True, append_images=[second])
    assert decode(str(tmp_path / "a"))[:, 3, 3].tolist() == [255, 0, 0]


def test_tiffs_of_16_bits_are_scaled_and_those_of_32_are_refused(tmp_path: Path) -> None:
    values = np.array([[0, 255, 256, 32768, 65535]])
    Image.fromarray(values.astype(np.uint16)).save(tmp_path / "a.tif")
    assert decode(str(tmp_path / "a.tif"))[:, 0].tolist() == [[0, 0, 1, 128, 255]] * 3
    for kind in (np.int32, np.float32):
        Image.fromarray(values.astype(kind)).save(tmp_path / "a.tif")
        with pytest.raises(BadImageError, match="pixels of 32 bits, whose range is unknown"):
            decode(str(tmp_path / "a.tif"))
