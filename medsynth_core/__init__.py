"""Chest radiograph synthesis from anatomy-pathology prompts: the library, free of any orchestrator."""

__version__ = "0.1.0"
