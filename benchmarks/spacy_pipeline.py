"""A medspaCy pipeline as a worker for benchmarks.vocabulary: run by an interpreter that has medspacy, and no medsynth.

Reads JSON lines: first the terms as [name, wording] pairs, then lists of texts. Answers each list with the seconds it
took and, a text, what was found as [name, negated, uncertain].
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any


def main() -> None:
    """Serves until its input ends."""
    import medspacy
    from loguru import logger
    from medspacy.target_matcher import TargetRule

    logger.remove()  # its sentence splitter logs every token, which would be timed
    nlp: Any = medspacy.load(medspacy_enable=["medspacy_pyrush", "medspacy_target_matcher", "medspacy_context"])
    matcher = nlp.get_pipe("medspacy_target_matcher")
    matcher.add([TargetRule(wording, name) for name, wording in json.loads(sys.stdin.readline())])
    print(json.dumps({"pipes": nlp.pipe_names}), flush=True)
    for line in sys.stdin:
        texts = json.loads(line)
        start = time.perf_counter()
        found = [
            [
                (entity.label_, bool(entity._.is_negated), bool(entity._.is_uncertain or entity._.is_hypothetical))
                for entity in doc.ents
            ]
            for doc in nlp.pipe(texts)
        ]
        print(json.dumps({"seconds": time.perf_counter() - start, "found": found}), flush=True)


if __name__ == "__main__":
    main()
