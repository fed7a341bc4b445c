"""Settings of the store."""

from __future__ import annotations

from medsynth_core.config.section import Section


class StoreConfig(Section):
    """Where shards and releases go (contract C9)."""

    url: str = "store"
    """A local path (relative to the workspace) or s3://bucket/prefix."""
    endpoint_url: str | None = None
    """Address of an S3-compatible server; null is AWS."""
    region: str | None = None
