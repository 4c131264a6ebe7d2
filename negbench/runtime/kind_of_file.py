"""What a file is, by its first bytes: for errors that say more than that it cannot be read."""

from pathlib import Path

HEAD_BYTES = 512  # of a file are enough for `looks_like`
_SHOWN = 40  # characters of a text
_AT = (  # offset, bytes there, kind; an image's ends in "image"
    (0, b"version https://git-lfs.github.com/", "a Git LFS pointer, whose file `git lfs pull` fetches"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (0, b"GIF8", "a GIF image"),
    (0, b"II*\x00", "a TIFF image"),
    (0, b"MM\x00*", "a TIFF image"),
    (0, b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 image"),
    (0, b"\x00\x00\x00\x0cJXL ", "a JPEG XL image"),
    (0, b"\xff\x0a", "a JPEG XL image"),
    (0, b"8BPS", "a Photoshop image"),
    (0, b"%PDF", "a PDF document"),
    (0, b"\x1f\x8b", "compressed by gzip"),
    (0, b"BZh", "compressed by bzip2"),
    (0, b"\xfd7zXZ\x00", "compressed by xz"),
    (0, b"\x28\xb5\x2f\xfd", "compressed by zstd"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"PK\x05\x06", "an empty zip archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (0, b"Rar!\x1a\x07", "a RAR archive"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (0, b"\x93NUMPY", "an array of NumPy"),
    (0, b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
    (0, b"\x00\x05\x16\x07", "an AppleDouble file, which macOS leaves beside a copy"),
    (0, b"\x7fELF", "a program"),
    (257, b"ustar", "a tar archive"),
    (8, b"WEBP", "a WebP image"),
    (8, b"AVI ", "an AVI video"),
    (4, b"ftypheic", "a HEIC image"),
    (4, b"ftypheix", "a HEIC image"),
    (4, b"ftypmif1", "a HEIF image"),
    (4, b"ftypavif", "an AVIF image"),
    (4, b"ftyp", "an MP4 or QuickTime video"),
)
_MARKUP = (  # of lower case, after white space and a byte order mark
    (b"<!doctype html", "an HTML page, as a failed download leaves it"),
    (b"<html", "an HTML page, as a failed download leaves it"),
    (b"<head", "an HTML page, as a failed download leaves it"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "an XML document"),
)


def looks_like(head: bytes) -> str | None:
    """Return what a file is that begins with `head`, as the end of "it is ..."; None if the first bytes do not say.

    `head` is the first `HEAD_BYTES` bytes, or all of a shorter file.
    """
    if not head:
        return "empty (0 bytes)"
    if not any(head):
        return "zeros at its start, as an interrupted copy leaves it"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    found = [kind for offset, part, kind in _AT if head.startswith(part, offset)]
    found += [kind for start, kind in _MARKUP if text.lower().startswith(start)]
    return found[0] if found else _text(text)


def what_is(path: Path) -> str | None:
    """Return what the file is, as `looks_like` does. OSError if it cannot be read."""
    with open(path, "rb") as file:
        return looks_like(file.read(HEAD_BYTES))


def _text(head: bytes) -> str | None:
    """Return that it is a text, and how it begins, if all of `head` is printable ASCII."""
    if not all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head):
        return None
    first = head.decode().partition("\n")[0].strip()
    return f"a text that begins {first[:_SHOWN]!r}" if first else "white space alone"
