"""Configuration: the pydantic tree that is params.yaml, and the places in a workspace."""

from medsynth_core.config.load import config_digest, dump_config, load_config
from medsynth_core.config.paths import Paths
from medsynth_core.config.tree import Config

__all__ = ["Config", "Paths", "config_digest", "dump_config", "load_config"]
