"""Negation and uncertainty with scope, in the manner of NegEx (Chapman et al. 2001), for radiology prose.

Triggers are sequences of folded words; adverbs between them don't matter ("is not definitely seen"). A
pre-trigger rules from its end to the next terminator, or to the clause that has a verb of its own ("no effusion,
the heart is enlarged"); a post-trigger rules back to where its clause begins. Pseudo-triggers ("no change") rule
nothing, and a negation inside an uncertain phrase ("cannot exclude") is part of that phrase.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from medsynth_core.vocabulary.ontology import fold

_CHANGES = (
    "change", "increase", "decrease", "progression", "worsening", "improvement", "deterioration",
    "enlargement of the known", "alteration", "growth", "reduction", "resolution", "clearing",
)  # fmt: skip
_OF_CHANGE = frozenset(
    [
        "evidence", "of", "any", "a", "an", "interval", "significant", "relevant", "appreciable", "substantial",
        "definite", "further", "new", "marked", "major", "gross", "great", "considerable", "clear", "obvious",
        "important", "convincing", "overall", "other", "real", "discernible", "detectable", "noticeable",
        "measurable", "apparent", "short", "term", "dramatic", "material", "clinically", "radiographically",
        "radiographic",
    ]
)  # fmt: skip
"""What may stand between "no" and the change that is denied, not the finding ("no significant interval change in")."""
_PSEUDO = "|".join(f"{no} {change}" for no in ("no", "without", "not") for change in _CHANGES) + (
    "|not changed|not only|not increased|not certain|gram negative|not excluded|not sure|not clear if|"
    "not clear whether|no cause|no explanation|no reason for|no etiology|no doubt|no question|without doubt|"
    "without question|not ruled out|not resolved|not yet resolved|not cleared|not yet cleared|not cleared of|"
    "not yet cleared of|not free of|not clear of|no longer free of|no longer clear of|no longer clear|not without|"
    "not absent|incomplete clearing|incomplete clearing of|incomplete resolution|incomplete resolution of|"
    "partial clearing of|partial clearing|partial resolution of|partial resolution|partially resolved|"
    "incompletely resolved|nearly resolved|almost resolved|almost completely resolved|nearly completely resolved|"
    "near completely resolved|near complete resolution of|near complete clearing of|nearly complete resolution of|"
    "near resolution of|almost complete resolution of|almost complete clearing of|near total resolution of|"
    "substantial resolution of|some resolution of|partial interval resolution of|interval partial resolution of|"
    "some clearing of|further clearing of|improved clearing of|gradual resolution of|gradual clearing of|resolving|"
    "largely resolved|mostly resolved|not entirely clear|previously absent|that was absent|which was absent|"
    "that was not present|which was not present|that was not seen|which was not seen|not previously seen|"
    "not previously present|not previously identified|not seen previously|not seen before|not present previously|"
    "not present before|not seen on the prior|not seen on the previous|not present on the prior|"
    "not present on the previous|not diagnostic|not improved|not worsened|not progressed|not enlarged since|"
    "not grown|if not|not to exclude|not significantly changed|not appreciably changed|no different|not different|"
    "not gone|not worse|not better|not smaller|not larger|little change|little if any change|little interval change|"
    "to document resolution of|to ensure resolution of|to confirm resolution of|ensure resolution of|"
    "document clearing of|ensure clearing of|until resolution of|until clearing of|to resolution|no fewer|"
    "nearly gone|almost gone|not entirely gone|not quite gone|gone down|gone up|were it not for|if it were not for|"
    "by no means unlikely|not unlikely|not improbable|not implausible|no longer as|not as|no less|no more|"
    "without a doubt|without any doubt|not a doubt|no reason to doubt|no reason to question|no room for doubt|"
    "not in doubt|not in question|beyond doubt|beyond question|not returned to|partially drained|partly drained|"
    "incompletely drained|not drained|not fully drained"
)
_NEGATING_BEFORE = (
    "no|not|without|negative for|free of|free from|clear of|absence of|absent|ruled out|no evidence of|never|neither|"
    "nor|none|no longer|fail to show|fail to demonstrate|fail to reveal|fail to identify|fail to disclose|"
    "fail to visualize|fail to depict|lack of|lack|lacking|mimic|mimicking|simulating|simulate|resolution of|"
    "resolved|interval clearing of|denies|unremarkable for|clearing of|nothing|argue against|rather than|instead of|"
    "unlikely to represent|unlikely represent|cleared of|devoid of|nil|excluding|exclude the presence of|"
    "disappearance of|removal of|as opposed to|interval resolution of|complete resolution of|void of|zero|resolved :|"
    "absent :|negative :|excluded :|no :|none :|nor is there|nor are there"
)
_NEGATING_AFTER = (
    "is not seen|are not seen|not seen|not identified|not present|not visualized|not evident|not appreciated|"
    "not demonstrated|not detected|not noted|not shown|is absent|are absent|absent|unlikely|ruled out|has resolved|"
    "have resolved|resolved|has cleared|have cleared|is excluded|are excluded|not apparent|is negative|are negative|"
    "is no longer|are no longer|not observed|has been removed|have been removed|no longer seen|no longer identified|"
    "no longer present|no longer visible|no longer evident|not found|not visible|not suspected|is gone|are gone|"
    ": none|: no|: absent|: negative|: nil|: not seen|: 0|: n|: false|: not present|: not identified|: not detected|"
    ", resolved .|, absent .|, not seen .|, not present .|, none .|: never|: not any more|: no longer|: nothing|"
    ": nad|: clear|: resolved|: ruled out|: excluded|: unlikely|negative|within normal limit|within limit of normal|"
    "no longer visualized|no longer demonstrated|no longer appreciated|no longer apparent|no longer detected|"
    "no longer there|no longer noted|no longer discernible|no longer depicted|no longer appreciable|seem unlikely|"
    "appear unlikely|is improbable|not supported|seem improbable|not favored|has been evacuated|have been evacuated|"
    "has been drained|has gone|have gone|gone|not reproduced|not borne out|not substantiated|is artifactual|"
    "is projectional|disappeared|re expanded|reexpanded|not recognized|not discernible|not discerned|not encountered|"
    "not confirmed|not convincing|is not .|are not .|is not ,|are not ,|was not .|were not .|is none|are none|"
    "not depicted|no longer exist|given way to|gave way to|give way to|replaced by|superseded by|not recurred|"
    "not recur|not reoccurred|not returned|not reaccumulated|not re accumulated|not reappeared|not reformed|"
    "not re formed|not come back|not developed|not materialized|has settled .|have settled .|was drained|were drained|"
    "drained last|drained yesterday|drained previously|drained earlier|was tapped"
)
_UNCERTAIN_BEFORE = (
    "assess for|assessment for|check for|not ruled out|may|might|possible|possibly|cannot exclude|can not exclude|"
    "cannot be excluded|questionable|question of|question|suspected|suspicious for|suspicion for|suspicion of|"
    "concern for|concerning for|could|cannot rule out|can not rule out|rule out|equivocal|perhaps|differential|"
    "potentially|potential|if|evaluate for|evaluation for|exclude|to identify|to assess for|to detect|detecting|"
    "less likely|history of|not excluded|worrisome for|?|could be due to|may be due to|might be due to|"
    "could be secondary to|may be secondary to|could be related to|may be related to|may be because of|whether|"
    "not certain|not sure|not clear|not clear if|not clear whether|uncertain|unclear|either|possibility of|"
    "possible due to|possibly due to|suggestion of|raise concern for|indeterminate for|raise the possibility of|"
    "raise suspicion of|raise suspicion for|raise the question of|correlate for|correlate clinically for|"
    "correlation for|clinical correlation for|correlation with|favored over|favor over|preferred over|less likely ,|"
    "more likely than|to confirm|needed to confirm|required to confirm|to rule out|to look for|doubtful|doubt|"
    "unlikely to be|unlikely|not likely|improbable|dubious|suggest the possibility of|cannot be distinguished from|"
    "indistinguishable from|could reflect|may reflect|might reflect|could represent|may represent|might represent|"
    "probability of|risk of|at risk of|at risk for|risk for|treated for|therapy for|surgery for|resection for|"
    "lobectomy for|pneumonectomy for|resection of|excision of|previous history of|past history of|known history of|"
    "record describe|record mention|reportedly|per the note|per note|per record|until proven|question a|"
    "questionable for|to evaluate|to evaluate for|follow up for|screening for|concerning|in case of|"
    "should be considered for|compatible with either|as to whether|nonspecific for|not specific for|"
    "not diagnostic of|not pathognomonic for|vs|if there is|if clinical concern for|if concern for|"
    "possibly represent|possibly reflect|approaching|atypical for|would suggest|working diagnosis of|"
    "patient with known|patient with a known|patient with a history of|mother had|father had|family history of|"
    "whether there is|whether there are|if there are|wonder whether there is|wonder about|possible :|probable :|"
    "suspected :|ddx|differential include|dd|queried|query :|presumptive|presumably|impression of|suspicious|"
    "suggestive of possible|not exclude|not rule out|can not be excluded|query|versus|look for|looking for|"
    "with or without|plus or minus|if this is not|if it is not|if these are not|if they are not|if this was not|"
    "if it was not|search for|to exclude|no way to exclude|presumed|conceivably|maybe|sensitivity for|not to exclude|"
    "hint of|suspect|unusual for|uncommon for|odd for|not typical for|not typical of|inconclusive for|"
    "not possible to exclude|not possible to rule out|not able to exclude|not able to rule out|"
    "not easy to exclude|not easy to rule out|no way to rule out|no way of ruling out|no way of excluding|should the|"
    "should a|should an|should this|should these|should there be|should any|should new|in the event of|"
    "in the event that|unless|"
) + "|".join(
    f"{too_little} {evidence}"
    for too_little in ("insufficient", "inadequate", "not enough", "not sufficient", "too little", "inconclusive")
    for evidence in (
        "evidence of", "evidence for", "evidence to diagnose", "evidence to suggest", "evidence to support",
        "evidence to call", "to diagnose", "to establish", "to call", "for a diagnosis of",
    )
)  # fmt: skip
_UNCERTAIN_AFTER = (
    "difficult to exclude|hard to exclude|not ruled out|cannot be excluded|can not be excluded|not excluded|"
    "not be excluded|cannot be ruled out|can not be ruled out|is possible|are possible|is suspected|are suspected|"
    "is questioned|are questioned|be considered|is considered|is questionable|are questionable|"
    "cannot be entirely excluded|less likely|?|versus|could be present|may be present|might be present|"
    "could be obscured|may be obscured|might be obscured|could be hidden|may be hidden|indeterminate|is uncertain|"
    "are uncertain|remain uncertain|not certain|be determined|is equivocal|are equivocal|not be assessed|"
    "not be evaluated|could be missed|may be missed|could be masked|may be masked|is conceivable|is a possibility|"
    "is a consideration|is a concern|remain possible|remain a possibility|remain a consideration|: not excluded|"
    ": possible|: ?|in the differential|in the differential diagnosis|remain in the differential|"
    "is in the differential|on the differential|is doubtful|are doubtful|seem doubtful|remain suspected|"
    "is not entirely excluded|cannot be confirmed|cannot be confidently excluded|could also be considered|"
    "should be considered|can be considered|is to be considered|could have this appearance|may have this appearance|"
    "can have this appearance|could have a similar appearance|may have a similar appearance|could look like this|"
    "could appear similar|could give this appearance|may account for this|could account for this|if present|if any|"
    "if real|if clinically indicated|cannot be assessed|cannot be evaluated|cannot be judged|cannot be commented on|"
    "not assessable|is not assessed|are not assessed|limited assessment|cannot be determined|difficult to assess|"
    "difficult to evaluate|difficult to rule out|hard to rule out|not entirely excluded|not completely excluded|"
    "is difficult to exclude|until proven otherwise|: probable|: possibly|: questionable|: suspected|: uncertain|"
    ": equivocal|: cannot be excluded|: indeterminate|: likely|: maybe|not be confirmed|be a possibility|"
    "is also possible|would be possible|is another possibility|is another consideration|is a differential|"
    "is less favored|is the main differential|is a main differential|need to be excluded|to be excluded|"
    "to be ruled out|must be excluded|should be excluded|cannot be ruled in or out|can not be ruled in or out|"
    ": not assessed|: cannot exclude|: cannot confirm|: prob|: limited|: not evaluated|is debatable|is unclear|"
    "are unclear|is unproven|suspected .|suspected ,|would not be visible|would not be seen|may not be visible|"
    "may not be seen|is often occult|are often occult|may be occult|can be occult|is a leading consideration|"
    "is the leading consideration|are the leading consideration|are leading consideration|would be an alternative|"
    "is an alternative|cannot be guaranteed|impossible to exclude|impossible to rule out|not possible to exclude|"
    "not possible to rule out|not easy to exclude|not easy to rule out|would be unusual|would be atypical|"
    "would be uncommon|would be rare|would be unexpected|would be surprising|would not be typical|"
    "would not be expected|would be out of keeping|would be odd|would be an unusual"
)
_SETTLED = (
    "little if any|few if any|indeterminate age|indeterminate in age|age indeterminate|uncertain age|unknown age|"
    "indeterminate chronicity|uncertain chronicity|unclear chronicity|uncertain etiology|unclear etiology|"
    "indeterminate etiology|uncertain significance|unclear significance|indeterminate significance|uncertain cause|"
    "unclear cause|uncertain origin|unclear origin|indeterminate nodule|indeterminate lung nodule|"
    "indeterminate pulmonary nodule|indeterminate opacity|indeterminate lesion|questionable significance|"
    "doubtful significance|possibly chronic|possibly old|probably old|may be chronic|may be old|may be positional|"
    "may be projectional"
)
"""What is open is the age or the cause of a finding, not the finding."""
_EXCLUDED = "can be excluded|can be ruled out|is excluded|are excluded|can be entirely excluded"
_TERMINATORS = (
    "but|however|although|though|whereas|while|except|except for|aside from|other than|apart from|which|there is|"
    "there are|yet|otherwise|:|secondary to|due to|because|status post|nevertheless|still|with stable|with unchanged|"
    ", stable|, unchanged|, mild|, small|, minimal|, moderate|, with|with small|with mild|with minimal|with moderate|"
    "with large|with left|with right|with bilateral|with residual|with subsequent|with resultant|leaving|and a|"
    "and an|and the|and there|background of|despite|in the presence of|and stable|and unchanged|in the setting of|"
    "and definite|in addition to|superimposed on"
)
_PLACES = "adjacent to|next to|beside|beneath|underneath|superimposed on"
"""Where a negation ends that comes before; one behind rules across ("air beneath the diaphragm is absent")."""
_ADVERBS = frozenset(
    [
        "absolutely", "been", "certainly", "clearly", "completely", "confidently", "convincingly", "currently",
        "definitely", "definitively", "entirely", "frankly", "fully", "grossly", "largely", "longer", "now",
        "otherwise", "readily", "reliably", "significantly", "well",
    ]
)  # fmt: skip
_VERBS = frozenset(
    [
        "is", "are", "was", "were", "has", "have", "remain", "appear", "show", "demonstrate", "project", "persist",
        "overlie", "measure", "contain",
    ]
)  # fmt: skip
_PLACING = frozenset(
    [
        "in", "within", "around", "adjacent", "beside", "near", "under", "beneath", "behind", "along", "over", "at",
        "alongside",
    ]
)  # fmt: skip
_SEEING = frozenset(
    [
        "apparent", "appreciated", "demonstrated", "detected", "evident", "found", "identified", "noted", "observed",
        "present", "recognised", "recognized", "seen", "shown", "suggested", "suspected", "visible", "visualized",
    ]
)  # fmt: skip
_INVERTED = frozenset(["should", "were"])
"""What begins a condition when it is the first word ("should the effusion recur"), unless "be" follows."""
_TRIGGERS = {
    "pseudo": _PSEUDO,
    "settled": _SETTLED,
    "terminator": _TERMINATORS,
    "place": _PLACES,
    "negating before": _NEGATING_BEFORE,
    "negating after": _NEGATING_AFTER,
    "uncertain before": _UNCERTAIN_BEFORE,
    "uncertain after": _UNCERTAIN_AFTER,
    "excluded": _EXCLUDED,
}
_Spans = list[tuple[int, int]]


def _index() -> dict[str, list[tuple[str, list[tuple[str, ...]]]]]:
    """Returns, by their first word, the folded phrases of each kind of trigger, the longest first."""
    index: dict[str, dict[str, list[tuple[str, ...]]]] = {}
    for kind, text in _TRIGGERS.items():
        for phrase in text.split("|"):
            words = tuple(fold(word) for word in phrase.split())
            index.setdefault(words[0], {}).setdefault(kind, []).append(words)
    return {
        first: [(kind, sorted(phrases, key=len, reverse=True)) for kind, phrases in kinds.items()]
        for first, kinds in index.items()
    }


_INDEX = _index()
_SKIPPED = _ADVERBS | _OF_CHANGE
"""Between the words of a pseudo-trigger."""


def scopes(
    words: Sequence[str], anew: Iterable[int] = (), denying: Iterable[tuple[int, int]] = ()
) -> tuple[list[str], list[str]]:
    """Returns (negated, uncertain), for each word the trigger that rules it, "" where none does.

    Args:
        words: folded words of one sentence.
        anew: where a statement begins without a word that says so.
        denying: where words stand that deny what is before them, beside the triggers.
    """
    closed = [*words, "."]
    n = len(words)
    found = _triggers(closed)
    found["terminator"] += ((start, start) for start in anew)
    found["negating after"] += denying
    if words[0] in _INVERTED and words[1:2] != ["be"]:
        found["uncertain before"].append((0, 1))
    blocked, no_doubt = [False] * (n + 1), [False] * (n + 1)
    hedges = (span for kind in ("uncertain before", "uncertain after") for span in found[kind])
    for start, end in (*found["pseudo"], *(span for span in hedges if span[1] - span[0] > 1)):
        blocked[start:end] = [True] * (end - start)
    for start, end in (
        *(span for span in found["pseudo"] if closed[span[1] - 1] in {"question", "doubt"}),
        *found["settled"],
    ):
        no_doubt[start:end] = [True] * (end - start)
    negated = _flags(closed, found, "negating", blocked, "")
    uncertain = _flags(closed, found, "uncertain", no_doubt, "no")
    if "neither" in words:  # "neither effusion nor pneumonia can be excluded"
        for start, _ in found["excluded"]:
            negated[:start], uncertain[:start] = [""] * start, ["neither can be excluded"] * start
    return negated[:n], uncertain[:n]


def _flags(words: Sequence[str], found: dict[str, _Spans], kind: str, blocked: list[bool], barrier: str) -> list[str]:
    """Returns which trigger of a kind rules each word; nothing reaches past the word ``barrier`` or "without"."""
    flags = [""] * len(words)
    stops = [start for start, _ in found["terminator"]]
    for start, end in found[f"{kind} after"]:
        if not any(blocked[start:end]):
            within = start - (words[start] == "if" and words[start - 1] == ",")  # "pneumothorax, if present, is tiny"
            low = clause_start(words, max((stop + 1 for stop in stops if stop < start), default=0), within)
            if barrier:  # nor past the hedge before it: "opacity, concerning for atelectasis versus pneumonia"
                low = max((i + 1 for i in range(low, start) if words[i] in {barrier, "without"}), default=low)
                low = max((e for _, e in found[f"{kind} before"] if low < e < start), default=low)
            flags[low:start] = [" ".join(words[start:end])] * (start - low)
    ends = [*stops, *(start for start, _ in found["place"])]
    if not barrier:  # "the lack of a line does not exclude a pneumothorax"
        ends += [start for start, end in found["uncertain before"] if words[end - 1] == "exclude" and end - start > 1]
    answered = [span for span in found[f"{kind} after"] if barrier and _has_a_subject(words, span[0])]
    for start, end in found[f"{kind} before"]:
        if answered and any(low <= start and end <= high for low, high in answered):
            continue  # "an effusion is hard to rule out behind the consolidation"
        trigger = " ".join(words[start:end])
        end += kind == "negating" and words[end] == ":"  # "negative for: effusion, edema"
        if not any(blocked[start:end]) and words[end : end + 1] not in ([","], ["."], [")"], ["and"]):
            high = _clause_end(words, end, min((stop for stop in ends if stop >= end), default=len(words)))
            if barrier:
                high = next((i for i in range(end, high) if words[i] in {barrier, "without"}), high)
            flags[end:high] = [trigger] * (high - end)
    return flags


def _has_a_subject(words: Sequence[str], start: int) -> bool:
    """Returns whether a predicate at ``start`` is said of what stands before it: not of an "it" that stands for what
    follows ("it is hard to rule out an effusion")."""
    return start > 1 and words[start - 1] in _VERBS | {"be"} and "it" not in words[max(0, start - 3) : start]


def _clause_end(words: Sequence[str], low: int, high: int) -> int:
    """Returns where a clause of its own begins in ``words[low:high]``, or ``high``.

    It begins with the joint before a verb of its own ("no effusion, the heart is large", "no effusion (atelectasis is
    seen)"), or with the place that follows a verb of seeing ("no mass is seen beside the fracture").
    """
    joint = None
    for position in range(low, high):
        word = words[position]
        if word in {",", "and", "("} and not (joint is not None and words[joint] == "("):
            joint = position
        elif word == ")" or word in {"or", "nor"}:
            joint = None
        elif word in _VERBS and joint is not None:
            following = (w for w in words[position + 1 :] if w not in _ADVERBS and w != "not")
            if words[joint] == "(" or next(following, "") not in _SEEING:
                return joint
            joint = None
        elif word in _SEEING and position > low and words[position + 1] in _PLACING:
            before = next((w for w in reversed(words[low:position]) if w not in _ADVERBS), "")
            if before in _VERBS:
                return position
    return high


def clause_start(words: Sequence[str], low: int, start: int) -> int:
    """Returns where the clause that ends at ``start`` begins, not before ``low``.

    A list ("effusion, edema and pneumothorax are not seen") is one clause; "the heart is large and no ..." is two;
    without "or" and plural, only what follows the last comma belongs ("cardiomegaly, effusion is not seen").
    """
    verb = None
    for position in range(low, start - 1):
        if words[position] in _VERBS:
            verb = position
    if verb is not None:
        joints = [i for i in range(verb, start) if words[i] in {",", "and"}]
        if joints and not {"looked", "searched", "sought"} & set(words[verb:start]):
            return joints[0] + 1
    plural = {"are", "have", "were"} & set(words[start - 1 : start + 1])
    if not plural and "or" not in words[low:start]:
        return max((i + 1 for i in range(low, start) if words[i] == ","), default=low)
    return low


def _triggers(words: Sequence[str]) -> dict[str, _Spans]:
    """Returns where the triggers of each kind stand: at each word the longest that begins there."""
    found: dict[str, _Spans] = {kind: [] for kind in _TRIGGERS}
    for start, word in enumerate(words):
        kinds = _INDEX.get(word)
        if kinds is None:
            continue
        following = _next_words(words, start)
        for kind, phrases in kinds:
            for phrase in phrases:
                if len(phrase) > 1 and phrase[1] not in following:
                    continue
                end = _phrase_end(words, start, phrase, _SKIPPED if kind == "pseudo" else _ADVERBS)
                if end is not None:
                    found[kind].append((start, end))
                    break
    return found


def _next_words(words: Sequence[str], start: int) -> set[str]:
    """Returns what may be the second word of a phrase that begins at ``start``."""
    following = set()
    for position in range(start + 1, len(words)):
        following.add(words[position])
        if words[position] not in _SKIPPED:
            break
    return following


def _phrase_end(words: Sequence[str], start: int, phrase: tuple[str, ...], skipped: frozenset[str]) -> int | None:
    """Returns the end of ``phrase`` at ``start``, words that don't matter between its own skipped, or None."""
    position = start
    for index, expected in enumerate(phrase):
        while index and position < len(words) and words[position] in skipped and words[position] != expected:
            position += 1
        if position >= len(words) or words[position] != expected:
            return None
        position += 1
    return position
