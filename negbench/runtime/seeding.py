"""Random streams named by what they are for: nothing depends on the order of calls or on the number of ranks."""

import hashlib

import torch


def derive_seed(*key: object) -> int:
    """Return a 63-bit seed for the stream named by `key`, e.g. `derive_seed(0, "views", 17)`."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def stream(*key: object) -> torch.Generator:
    """Return a CPU generator for the stream named by `key`; the same key gives the same numbers on every machine."""
    return torch.Generator().manual_seed(derive_seed(*key))
