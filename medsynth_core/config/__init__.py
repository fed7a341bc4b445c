"""Configuration: what sections are made of and read by, what a stage is given of them, and where stages write."""

from medsynth_core.config.load import config_digest
from medsynth_core.config.parameters import Param, Params
from medsynth_core.config.paths import Paths
from medsynth_core.config.section import Device, Precision, Section, View

__all__ = ["Device", "Param", "Params", "Paths", "Precision", "Section", "View", "config_digest"]
