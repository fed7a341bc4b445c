"""What a server will be asked for, before any call is paid."""

from __future__ import annotations

import math
from collections.abc import Sequence

from medsynth_core.prompts.messages import messages_for, told_vocabulary
from medsynth_core.prompts.records import Assignment, PromptRequest, Usage
from medsynth_core.prompts.server.completion import call_bound
from medsynth_core.prompts.server.settings import OpenAIConfig
from medsynth_core.vocabulary.vocabulary import Vocabulary

_BYTES_A_TOKEN = 4.0
_TOKENS_A_TEXT = 60
_ASKED_AGAIN = 1.2
"""Calls for each that would do if every answer were accepted: an assumption, said to be one."""


def expected_usage(
    config: OpenAIConfig, requests: Sequence[PromptRequest], vocabulary: Vocabulary
) -> tuple[int, Usage]:
    """Returns the calls and tokens that the requests will take, about."""
    size = config.prompts_per_call
    first = [Assignment("", request) for request in requests[:size]]
    bound = call_bound(config, messages_for(first, told_vocabulary(vocabulary)), len(first))
    calls = math.ceil(len(requests) / size * _ASKED_AGAIN)
    output = math.ceil(len(requests) * _TOKENS_A_TEXT * _ASKED_AGAIN)
    return calls, Usage(math.ceil(calls * bound.input_tokens / _BYTES_A_TOKEN), output)
