"""What an image is asked to be, from the plan of prompts to the manifest (contract C12)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class RequestedFinding:
    """A finding that a prompt must name: vocabulary terms, the patient's side (left, right, bilateral or none), a
    severity (mild, moderate, severe or None)."""

    pathology: str
    anatomy: str | None
    side: str
    severity: str | None


@dataclass(frozen=True)
class Condition:
    """What an image is asked to be, or what a report says that it is.

    Attributes:
        findings: the positive ones, each with pathology, anatomy, side and severity.
        view: frontal or lateral, None where it is unknown.
    """

    findings: tuple[Mapping[str, Any], ...]
    view: str | None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Condition:
        """Returns the condition of a row: of the prompt table, which has ``findings``, or of the manifest, which has
        ``labels``."""
        return cls(tuple(row["findings"] if "findings" in row else row["labels"]), row["view"])

    @property
    def query(self) -> str:
        """The findings in words, which choose the keypatches and which the image must agree with; ``normal chest``
        without any."""
        return ", ".join(finding_phrase(finding) for finding in self.findings) or "normal chest"

    @property
    def pathology(self) -> list[str]:
        """Of each finding."""
        return [finding["pathology"] for finding in self.findings]

    @property
    def anatomy(self) -> list[str]:
        """The places of the findings, sorted."""
        return sorted({finding["anatomy"] for finding in self.findings if finding["anatomy"]})

    def text(self, form: str, report: str) -> str:
        """Returns what the language model reads: the text of a study or a prompt, or the pathologies' names alone.

        Args:
            form: report or labels, as ``models.llm.condition``.
        """
        return report if form == "report" else ", ".join(sorted(set(self.pathology))) or "normal"

    def markers(self) -> tuple[str, ...]:
        """Returns the names of the language model's markers for what is known beside the findings."""
        return () if self.view is None else (self.view,)

    def unconditional(self) -> Condition:
        """Returns what guidance contrasts with: the rest without the findings. It can be hashed."""
        return replace(self, findings=())

    def columns(self) -> dict[str, Any]:
        """Returns the manifest's columns."""
        return {
            "anatomy": self.anatomy,
            "pathology": self.pathology,
            "labels": list(self.findings),
            "view": self.view,
        }

    def identity(self) -> dict[str, object]:
        """Returns what determines an image (contract C2)."""
        return {"query": self.query, "view": self.view}


def finding_phrase(finding: Mapping[str, str | None]) -> str:
    """Returns a finding in words, e.g. ``moderate left pleural effusion``.

    Args:
        finding: keys pathology, anatomy, side, severity; None, "" and "none" say nothing.
    """
    said = [finding.get("severity"), finding.get("side"), finding.get("pathology")]
    words = [word for word in said if word and word != "none"]
    anatomy = finding.get("anatomy")
    if anatomy:
        words += ["in", anatomy]
    return " ".join(words)


def phrases_of(query: str) -> list[str]:
    """Returns the phrase of each finding in a ``Condition.query``."""
    return query.split(", ")
