"""Keys that an S3 server refuses: one clear line, before any work."""

from __future__ import annotations

from pathlib import Path

import pytest

from medsynth_core.errors import StoreError
from medsynth_core.storage.settings import StoreConfig
from medsynth_core.storage.store import open_store

pytestmark = pytest.mark.integration


def test_wrong_keys_are_refused_in_one_line(
    guarded: tuple[StoreConfig, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, key, secret = guarded
    for wrong_key, wrong_secret, code in ((key, "wrong", "SignatureDoesNotMatch"), ("x", "x", "InvalidAccessKeyId")):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", wrong_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", wrong_secret)
        with pytest.raises(StoreError, match=rf"s3://bucket/data .*credentials refused \({code}\)") as caught:
            open_store(config, Path()).check_writable()
        assert "\n" not in str(caught.value)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    open_store(config, Path()).check_writable()


def test_no_keys_at_all_are_named(guarded: tuple[StoreConfig, str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StoreError, match="AWS_ACCESS_KEY_ID"):
        open_store(guarded[0], Path()).check_writable()
