"""What a listing passes over, as phrases for people: files that look like pictures, or are many."""

import re
from collections import Counter

from negbench.runtime.words import count

MANY = 10  # files of a kind that says nothing
_MOST = 5  # kinds that are named
_EXTENSION = re.compile(r"\.(?=[0-9]*[a-z])[a-z0-9]{1,10}")
_PICTURES = re.compile(
    r"\.(heic|heif|hif|jxl|svg|psd|xcf|raw|cr2|cr3|nef|arw|dng|orf|rw2|raf|exr|hdr|pfm|tga|ico|icns|pcx|dds|eps|j2k|jpx|"
    r"dcm|nii|svs|ndpi|mp4|m4v|mov|avi|mkv|webm|mpg|mpeg|wmv|flv|3gp|ogv|mts|zip|tar|tgz|gz|bz2|xz|zst|7z|rar|tfrecord|"
    r"parquet|arrow|h5|hdf5|lmdb)"
)
_TEXTS = re.compile(r"\.(txt|jsonl?|xml|csv|tsv|md|rst|html?|ya?ml|toml|ini|cfg|db|log|lst|py|sh|lock|md5|sha1|sha256)")


def kind_of(name: str) -> str:
    """Return a file name's extension in lower case; "" of one without."""
    extension = f".{name.rpartition('.')[2].lower()}"
    return extension if "." in name and _EXTENSION.fullmatch(extension) else ""


def passed_over(kinds: Counter[str], outside: int) -> tuple[str, ...]:
    """Return phrases for the files of each of the `kinds`, and for the images `outside` of folders of classes.

    Pictures, videos and archives are named however few they are, texts never, and others if they are `MANY`.
    """
    named = [
        count(number, f"{kind} file" if kind else "file") + ("" if kind else " without an extension")
        for kind, number in sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
        if _PICTURES.fullmatch(kind) or (number >= MANY and not _TEXTS.fullmatch(kind))
    ]
    if len(named) > _MOST:
        named[_MOST - 1 :] = [f"files of {len(named) - _MOST + 1} more kinds"]
    return (*([f"{count(outside, 'image')} outside of folders of classes"] if outside else []), *named)
