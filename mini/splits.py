"""Assign problems to splits by identity, the same on every machine."""

from __future__ import annotations

import zlib

SPLITS = ("train", "validation", "test")


def split_of(name: str, identity: str, shares: tuple[int, int, int]) -> str:
    """Return the split of a problem, from a checksum of its identity; `shares` are the splits' per cent."""
    place = zlib.crc32(f"{name}/{identity}".encode()) % 100
    return SPLITS[0] if place < shares[0] else SPLITS[1] if place < shares[0] + shares[1] else SPLITS[2]
