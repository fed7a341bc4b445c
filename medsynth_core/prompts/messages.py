"""What a language model is told and how its answer is read: the same for every server and for a local model.

Only instructions and vocabulary terms are told, never text of a report (contract C8).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import json_repair
from pydantic import BaseModel, ConfigDict

from medsynth_core.errors import ModelOutputError
from medsynth_core.models.condition import RequestedFinding
from medsynth_core.prompts.adherence import MAX_WORDS
from medsynth_core.prompts.records import Assignment, Draft, PromptRequest, Reply, Usage
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
REWORDING = "Chest radiograph reports, each said in other words."
_MAX_TERMS = 60
_MAX_VARIANTS = 40
_THOUGHT = re.compile(
    r"<(think|thinking|thought|reasoning|reflection)>.*?</\1>"
    r"|\A.*</(?:think|thinking|thought|reasoning|reflection)>|\A.*<\|channel\|>final<\|message\|>",
    re.DOTALL | re.IGNORECASE,
)
"""What a model says to itself; some open it in the prompt, so that only its end is in the answer."""
_TEXT_KEYS = ("text", "findings", "report", "content", "prompt")
_CLOSED = re.compile('["\'\u201d\u2019]\\s*,?\\s*[}\\]][^"\u201d]*$')
"""The end of an answer whose last text is whole."""
_STARTS = 20
"""Braces and brackets at most that the JSON of an answer may begin with."""


class _Item(BaseModel):
    model_config = ConfigDict(extra="forbid")
    id: str
    text: str


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    prompts: list[_Item]


ANSWER_SCHEMA: dict[str, Any] = _Answer.model_json_schema()
"""What is asked for. What is read may be less strict: an answer is paid, whatever its form."""


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


def rewording_prompt(examples: Sequence[tuple[str, str]], text: str) -> str:
    """Returns what a model goes on with that is too small to follow instructions: texts said in other words, then one
    that isn't yet. Its line is the answer."""
    said = "".join(f"Report: {before}\nIn other words: {after}\n\n" for before, after in examples)
    return f"{REWORDING}\n\n{said}Report: {text}\nIn other words:"


def read_answer(assignments: Sequence[Assignment], raw: str, usage: Usage, cut_off: str | None = None) -> Reply:
    """Returns the drafts of a call's answer; what can't be used is a draft with a problem.

    Args:
        cut_off: why the answer ends early, if it does: the problem of a text that isn't whole.
    """
    shares = usage.shares(len(assignments))
    try:
        texts = _texts(raw, len(assignments), whole=cut_off is None)
    except ModelOutputError as error:
        return failed_reply(assignments, raw, cut_off or f"answer: {error}", usage)
    missing = cut_off or f"answer: no text for this request (ids in it: {', '.join(texts)[:80] or 'none'})"
    drafts = []
    for number, share in enumerate(shares, start=1):
        text = texts.get(str(number), "")
        drafts.append(Draft(text, None, share) if text else Draft(None, missing, share))
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


def _texts(raw: str, n: int, whole: bool) -> dict[str, str]:
    """Returns the texts by number, "1" to ``n``, of an answer's JSON, which may stand in a fence, in prose or behind a
    thought, and be written as models write it: with commas too many, curly quotes, line breaks in strings.

    Args:
        whole: whether the answer came to its end; the last text of one that didn't is left out.
    """
    said = _THOUGHT.sub("", raw)
    starts = [found.start() for found in re.finditer(r"[\[{]", said)][:_STARTS]
    if not starts:
        raise ModelOutputError("no JSON in it")
    for start in starts:
        try:
            value, _ = json.JSONDecoder(strict=False).raw_decode(said[start:])
        except json.JSONDecodeError:
            continue
        if (items := _items(value)) is not None:
            return _numbered(items, n)
    for start in starts:
        items = _items(json_repair.loads(said[start:]))
        if items is not None:
            whole = whole and _CLOSED.search(said) is not None
            return _numbered(items if whole else items[:-1], n)
    raise ModelOutputError("JSON that can't be read, or of another form than was asked for")


def _items(value: Any) -> list[tuple[str, str]] | None:
    """Returns (id, text) of the items of an answer: a list, alone or under any key, of texts or of what has one; None
    of another form. An id may be a number, and lack."""
    if isinstance(value, dict):
        lists = [each for each in value.values() if isinstance(each, list)]
        value = lists[0] if len(lists) == 1 else [value]
    if not isinstance(value, list) or not value:
        return None
    items = []
    for each in value:
        if isinstance(each, str):
            items.append(("", each))
        elif isinstance(each, dict):
            text = next((each[key] for key in _TEXT_KEYS if isinstance(each.get(key), str)), None)
            if text is None:
                return None
            items.append((str(each.get("id", "")), text))
        else:
            return None
    return [(name, " ".join(text.split())) for name, text in items]


def _numbered(items: list[tuple[str, str]], n: int) -> dict[str, str]:
    """Returns texts by number. Ids may be counted from 0, or be words with a number in them ("request_1"); where none
    says which request it is of, as many texts as requests are in order."""
    numbers = [re.search(r"\d+", name) for name, _ in items]
    if not any(numbers):
        return {str(place): text for place, (_, text) in enumerate(items, start=1)} if len(items) == n else {}
    found = [int(number[0]) if number else -1 for number in numbers]
    from_zero = 0 in found and n not in found
    return {str(number + from_zero): text for number, (_, text) in zip(found, items, strict=True) if number >= 0}
