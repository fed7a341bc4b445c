"""A spaCy pipeline as a worker for benchmarks.vocabulary: run by an interpreter that has spaCy, and no medsynth.

    python spacy_pipeline.py context|negex

context is medspaCy's ConText, negex negspaCy's NegEx. Reads JSON lines: first the terms as [name, wording] pairs, then
lists of texts. Answers each list with the seconds it took and, a text, what was found as [name, negated, uncertain].
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

Terms = list[tuple[str, str]]


def main() -> None:
    """Serves until its input ends."""
    terms = json.loads(sys.stdin.readline())
    nlp = {"context": context, "negex": negex}[sys.argv[1]](terms)
    print(json.dumps({"pipes": nlp.pipe_names}), flush=True)
    for line in sys.stdin:
        texts = json.loads(line)
        start = time.perf_counter()
        found = [[(entity.label_, *said(entity)) for entity in doc.ents] for doc in nlp.pipe(texts)]
        print(json.dumps({"seconds": time.perf_counter() - start, "found": found}), flush=True)


def context(terms: Terms) -> Any:
    """Returns medspaCy's pipeline: its sentences, its matcher of terms, ConText."""
    import medspacy
    from loguru import logger
    from medspacy.target_matcher import TargetRule

    logger.remove()  # its sentence splitter logs every token, which would be timed
    nlp: Any = medspacy.load(medspacy_enable=["medspacy_pyrush", "medspacy_target_matcher", "medspacy_context"])
    nlp.get_pipe("medspacy_target_matcher").add([TargetRule(wording, name) for name, wording in terms])
    return nlp


def negex(terms: Terms) -> Any:
    """Returns spaCy's sentences and matcher of terms with negspaCy's NegEx, clinical termset."""
    import spacy
    from negspacy.negation import Negex  # noqa: F401 - adds the component
    from negspacy.termsets import termset

    nlp: Any = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    ruler = nlp.add_pipe("entity_ruler", config={"phrase_matcher_attr": "LOWER"})
    ruler.add_patterns([{"label": name, "pattern": wording} for name, wording in terms])
    nlp.add_pipe("negex", config={"neg_termset": termset("en_clinical").get_patterns()})
    return nlp


def said(entity: Any) -> tuple[bool, bool]:
    """Returns whether an entity is denied and whether it is hedged, as its pipeline has it."""
    if entity._.has("negex"):
        return bool(entity._.negex), False
    return bool(entity._.is_negated), bool(entity._.is_uncertain or entity._.is_hypothetical)


if __name__ == "__main__":
    main()
