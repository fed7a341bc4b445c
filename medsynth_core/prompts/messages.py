"""What a language model is told and how its answer is read: the same for every server and for a local model.

Only instructions and vocabulary terms are told, never text of a report (contract C8).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from medsynth_core.errors import ModelOutputError
from medsynth_core.prompts.adherence import MAX_WORDS
from medsynth_core.prompts.records import Assignment, Draft, PromptRequest, Reply, RequestedFinding, Usage
from medsynth_core.vocabulary.vocabulary import Vocabulary

Message = dict[str, str]

_TASK = (
    "You write the findings section of chest radiograph reports for synthetic images. For each request write two to "
    f"four sentences, at most {MAX_WORDS - 30} words, in the prose of a radiologist. Assert each requested finding "
    "with exactly the side, place and severity that the request gives, using its name or one of its wordings; where "
    "the request gives no side or severity, say none. Assert no other abnormality and no device. You may deny other "
    "pathologies of the vocabulary, but none that a requested finding appears as, or call anatomy normal that no "
    "requested finding lies in or changes (no clear lungs beside pulmonary congestion). No names, dates, "
    "numbers, measurements, comparisons with earlier studies, recommendations, headings or lists."
)
INSTRUCTION = (
    f"{_TASK} Vary wording and order from one text to the next. Answer with JSON: "
    '{"prompts": [{"id": "...", "text": "..."}]}, one item a request.'
)
PLAIN_INSTRUCTION = f"{_TASK} Answer with the text alone."
_MAX_TERMS = 60
_MAX_VARIANTS = 40
_THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL)


class _Item(BaseModel):
    model_config = ConfigDict(extra="forbid")
    id: str
    text: str


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    prompts: list[_Item]


ANSWER_SCHEMA: dict[str, Any] = _Answer.model_json_schema()


def told_vocabulary(vocabulary: Vocabulary) -> dict[str, Any]:
    """Returns the terms that a model is told: anatomy, pathologies with their wordings, and kinds of them."""
    return {
        "anatomy": vocabulary.terms("anatomy")[:_MAX_TERMS],
        "pathology": {count.term: list(count.wordings) for count in vocabulary.pathology[:_MAX_TERMS]},
        "kinds_that_may_only_be_denied": [variant.term for variant in vocabulary.variants[:_MAX_VARIANTS]],
    }


def messages_for(assignments: Sequence[Assignment], told: dict[str, Any]) -> list[Message]:
    """Returns the messages of a call that asks for several texts as JSON."""
    body = {
        "vocabulary": told,
        "requests": [{"id": str(number), **_asked(a)} for number, a in enumerate(assignments, start=1)],
    }
    return [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": json.dumps(body)}]


def plain_messages_for(assignment: Assignment, told: dict[str, Any]) -> list[Message]:
    """Returns the messages that ask for one text as it is."""
    body = {"vocabulary": told, "request": _asked(assignment)}
    return [{"role": "system", "content": PLAIN_INSTRUCTION}, {"role": "user", "content": json.dumps(body)}]


def read_answer(assignments: Sequence[Assignment], raw: str, usage: Usage) -> Reply:
    """Returns the drafts of a call's answer; what can't be used is a draft with a problem."""
    shares = usage.shares(len(assignments))
    try:
        texts = _texts(raw)
    except ModelOutputError as error:
        return failed_reply(assignments, raw, f"answer: {error}", usage)
    drafts = []
    for number, share in enumerate(shares, start=1):
        text = texts.get(str(number), "")
        drafts.append(Draft(text, None, share) if text else Draft(None, "answer: no text for this request", share))
    return Reply(tuple(assignments), tuple(drafts), raw)


def read_plain(assignment: Assignment, raw: str, usage: Usage) -> Reply:
    """Returns the draft of an answer that is the text itself."""
    text = " ".join(_THOUGHT.sub(" ", raw).split()).strip('"')
    draft = Draft(text, None, usage) if text else Draft(None, "answer: empty", usage)
    return Reply((assignment,), (draft,), raw)


def failed_reply(assignments: Sequence[Assignment], raw: str, problem: str, usage: Usage) -> Reply:
    """Returns drafts that all have one problem; the answer was paid and is not asked for again as it was."""
    drafts = tuple(Draft(None, problem, share) for share in usage.shares(len(assignments)))
    return Reply(tuple(assignments), drafts, raw)


def _asked(assignment: Assignment) -> dict[str, Any]:
    request: PromptRequest = assignment.request
    asked: dict[str, Any] = {
        "view": request.view,
        "findings": [_finding(finding) for finding in request.findings] or "none: a normal chest",
    }
    if assignment.complaint is not None:
        asked["last_answer_was_rejected_because"] = assignment.complaint
    return asked


def _finding(finding: RequestedFinding) -> dict[str, str]:
    side = None if finding.side == "none" else finding.side
    said = {"name": finding.pathology, "place": finding.anatomy, "side": side, "severity": finding.severity}
    return {key: value for key, value in said.items() if value is not None}


def _texts(raw: str) -> dict[str, str]:
    """Returns the texts by id of an answer's JSON, which may stand in a fence, in prose or behind a thought."""
    said = _THOUGHT.sub("", raw)
    start = said.find("{")
    if start < 0:
        raise ModelOutputError("no JSON in it")
    try:
        value, _ = json.JSONDecoder().raw_decode(said[start:])
        answer = _Answer.model_validate(value)
    except json.JSONDecodeError as error:
        raise ModelOutputError("JSON that can't be read") from error
    except ValidationError as error:
        raise ModelOutputError("JSON of another form than was asked for") from error
    return {item.id: item.text.strip() for item in answer.prompts}
