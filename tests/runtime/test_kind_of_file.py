"""What a file is said to be by its first bytes."""

import gzip
import io
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from negbench.runtime.kind_of_file import HEAD_BYTES, looks_like


def archive(kind: str) -> bytes:
    file = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(file, "w") as zipped:
            zipped.writestr("a.txt", "a")
    else:
        with tarfile.open(fileobj=file, mode="w") as tar:
            tar.addfile(tarfile.TarInfo("a.txt"))
    return file.getvalue()


def image(kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file, kind)
    return file.getvalue()


KINDS = [
    (b"", "empty (0 bytes)"),
    (bytes(900), "zeros at its start"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "a Git LFS pointer"),
    (b"<!DOCTYPE html>\n<html><head>", "an HTML page"),
    (b"\xef\xbb\xbf\r\n  <HTML>", "an HTML page"),
    (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code>', "an XML document"),
    (b'{"message": "not found"}', 'a text that begins \'{"message": "not found"}\''),
    (b"404: Not Found\nno such file", "a text that begins '404: Not Found'"),
    (b" \n\t", "white space alone"),
    (gzip.compress(b"a", mtime=0), "compressed by gzip"),
    (archive("zip"), "a zip archive"),
    (archive("tar"), "a tar archive"),
    (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", "a HEIC image"),
    (b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00", "an MP4 or QuickTime video"),
    *((image(kind), f"a {kind} image") for kind in ("JPEG", "PNG", "GIF", "TIFF")),
    (image("WEBP"), "a WebP image"),
]


@pytest.mark.parametrize(("content", "kind"), KINDS, ids=range(len(KINDS)))
def test_the_first_bytes_say_what_a_file_is(content: bytes, kind: str) -> None:
    assert (looks_like(content[:HEAD_BYTES]) or "").startswith(kind)


def test_bytes_of_no_known_kind_are_not_guessed_at() -> None:
    assert looks_like(np.random.default_rng(0).bytes(HEAD_BYTES)) is None
    assert looks_like(b"\x80\x04\x95") is None
