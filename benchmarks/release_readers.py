"""Readers of the same shards that give the same batches: ``images`` (uint8 [B, 1, H, W]) and ``labels``.

Every one decodes in two DataLoader workers, and where it shuffles, through a buffer of 1,000 images.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import boto3
import numpy as np
import torch
import webdataset
from botocore.config import Config as BotoConfig
from datasets import Features, Image, Value, load_dataset
from fsspec.implementations.http import HTTPFileSystem
from PIL import Image as PILImage
from torch.utils.data import DataLoader, Dataset

from medsynth_core.release import collate, open_release

BATCH = 64
BUFFER = 1000
WORKERS = 2
AT_ONCE = 8
"""Requests of a batch that are under way together, for both sides of random access."""

Batches = Iterable[Mapping[str, Any]]


def medsynth_stream(url: str, endpoint: str) -> Batches:
    """Opens a release and yields an epoch of its stream."""
    stream = open_release(url, endpoint_url=endpoint).stream(shuffle=BUFFER)
    return DataLoader(stream, batch_size=BATCH, num_workers=WORKERS, collate_fn=collate)  # type: ignore[arg-type]


def webdataset_stream(urls: Sequence[str]) -> Batches:
    """Yields an epoch of webdataset over tars at http URLs, or ``pipe:`` commands."""
    shards = webdataset.WebDataset(list(urls), shardshuffle=len(urls), empty_check=False)
    items = shards.shuffle(BUFFER, initial=BUFFER).map(_of_tar).batched(BATCH, collation_fn=_stacked)
    return webdataset.WebLoader(items, batch_size=None, num_workers=WORKERS)


def datasets_stream(urls: Sequence[str]) -> Batches:
    """Yields an epoch of Hugging Face's datasets over tars at http URLs, its types named as in our dataset card.

    PNG bytes are left to the same decoder as everyone's, which is faster than its own.
    """
    HTTPFileSystem.clear_instance_cache()  # connections that an earlier epoch's workers inherited hang
    text = Value("string")
    finding = {"pathology": text, "anatomy": text, "side": text, "severity": text}
    label = {"prompt": text, "labels": [finding], "synthetic": Value("bool")}
    rows = load_dataset(
        "webdataset",
        data_files={"train": list(urls)},
        features=Features({"__key__": text, "__url__": text, "png": Image(decode=False), "json": label}),
        split="train",
        streaming=True,
    ).shuffle(seed=0, buffer_size=BUFFER)
    return DataLoader(rows, batch_size=BATCH, num_workers=WORKERS, collate_fn=_of_rows)  # type: ignore[arg-type]


def medsynth_dataset(url: str, endpoint: str) -> Batches:
    """Opens a release and yields an epoch of its images in random order."""
    items = open_release(url, endpoint_url=endpoint).dataset()
    return DataLoader(items, batch_size=BATCH, shuffle=True, num_workers=WORKERS, collate_fn=collate)  # type: ignore[arg-type]


def objects_dataset(bucket: str, keys: Sequence[str], labels: Sequence[Any], endpoint: str) -> Batches:
    """Yields an epoch, in random order, of images that are an object each; their labels are at hand."""
    items = _Objects(bucket, keys, labels, endpoint)
    return DataLoader(items, batch_size=BATCH, shuffle=True, num_workers=WORKERS, collate_fn=_stacked)


class _Objects(Dataset[tuple[torch.Tensor, Any]]):
    def __init__(self, bucket: str, keys: Sequence[str], labels: Sequence[Any], endpoint: str) -> None:
        self._bucket, self._keys, self._labels, self._endpoint = bucket, keys, labels, endpoint

    def __len__(self) -> int:
        return len(self._keys)

    def __getitems__(self, places: Sequence[int]) -> list[tuple[torch.Tensor, Any]]:
        client, pool = _client(self._endpoint), _pool()

        def read(place: int) -> bytes:
            data: bytes = client.get_object(Bucket=self._bucket, Key=self._keys[place])["Body"].read()
            return data

        return [(_pixels(png), self._labels[place]) for place, png in zip(places, pool.map(read, places), strict=True)]


@lru_cache
def _client(endpoint: str) -> Any:
    """The client of a worker; none is made before the fork."""
    return boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", config=BotoConfig(max_pool_connections=32)
    )


@lru_cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(AT_ONCE)


def _pixels(png: bytes) -> torch.Tensor:
    return torch.from_numpy(np.array(PILImage.open(io.BytesIO(png), formats=["PNG"]).convert("L")))[None]


def _of_tar(sample: Mapping[str, bytes]) -> tuple[torch.Tensor, Any]:
    return _pixels(sample["png"]), json.loads(sample["json"])["labels"]


def _of_rows(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return _stacked([(_pixels(row["png"]["bytes"]), row["json"]["labels"]) for row in rows])


def _stacked(items: Sequence[tuple[torch.Tensor, Any]]) -> dict[str, Any]:
    return {"image": torch.stack([image for image, _ in items]), "labels": [labels for _, labels in items]}
