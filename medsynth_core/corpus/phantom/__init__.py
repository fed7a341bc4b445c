"""Procedural chest radiograph phantoms with reports: the embedded corpus that ships no patient's data."""

from medsynth_core.corpus.phantom.case import PATHOLOGIES, Finding
from medsynth_core.corpus.phantom.study import phantom_studies, phantom_study, render_findings

__all__ = ["PATHOLOGIES", "Finding", "phantom_studies", "phantom_study", "render_findings"]
