"""Randomness by name: a generator is a function of a seed, the name of its purpose and ids, and of nothing else."""

from __future__ import annotations

import json
from hashlib import sha256

import numpy as np


def stream(seed: int, name: str, *ids: int | str) -> np.random.Generator:
    """Returns the generator of (seed, name, ids): equal arguments draw the same, in every process.

    The key is a hash of all of them, so other values, kinds or numbers of ids draw independently.

    Args:
        name: what is drawn, as a rule the module and the thing: ``phantom.patient``.
        ids: what it is drawn for: a case, a step, a sample's place.

    Raises:
        TypeError: an id is neither int nor str; NumPy's integers must be converted.
    """
    return np.random.default_rng(int.from_bytes(_digest(seed, name, *ids)))


def seed_of(seed: int, name: str, *ids: int | str) -> int:
    """Returns a seed in [0, 2**63) for a library that draws by itself, independent of every other name's and id's."""
    return int.from_bytes(_digest(seed, name, *ids)[:8]) >> 1


def _digest(seed: int, name: str, *ids: int | str) -> bytes:
    return sha256(json.dumps([seed, name, *ids]).encode()).digest()
