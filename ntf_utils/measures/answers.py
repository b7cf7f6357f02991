"""How well written answers fit their references: exact match, BLEU, ROUGE-L and CIDEr, as ScanQA scores them.

The numbers are those of pycocoevalcap, the scorers of the COCO caption challenge, with which the papers on questions
in 3D scenes are scored; its own conventions are kept and named. Exact match compares whole strings and normalises
nothing. The other three read words: `words` is what the Penn Treebank tokenizer of those scorers makes of plain
English answers. METEOR and SPICE exist only as Java programs; they are asked for where those are installed.

Short answers use these scores in a way they were not made for. CIDEr is ten times the mean over 1- to 4-grams, so a
right answer of one word gets 2.5 of 10, and one of four words 10. BLEU-4 counts only answers of four words and more.
"""

import importlib.util
import math
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path

import numpy as np

from ntf_utils.refusal import Refusal

ORDERS = 4  # of the n-grams: 1 to 4
BETA = 1.2  # of ROUGE-L: how much recall counts beside precision
SIGMA = 6.0  # of CIDEr: how far lengths may lie apart
_TINY, _SMALL = 1e-15, 1e-9  # what the scorers add to BLEU's counts, so that 0 of 0 is 0

References = Sequence[Sequence[str]]


def words(text: str) -> list[str]:
    """Lower-case words without punctuation, as the Penn Treebank tokenizer gives them: "It's red." -> it 's red.

    It differs where that tokenizer was not made for answers: it leaves "-lrb-" and "-rrb-" for brackets, the full
    stop of "T.V.", and cuts "gonna" in two.
    """
    text = re.sub(r"n't\b", " n't", text.lower().replace("’", "'"))
    text = re.sub(r"\bcannot\b", "can not", text)
    return re.findall(r"n't(?!\w)|'(?:s|re|ve|ll|d|m)(?!\w)|\w+(?:[-/.,:]\w+)*|[$%&#@+=*]", text)


@lru_cache(maxsize=2**16)  # a set of questions has few distinct answers
def _read(text: str) -> tuple[tuple[str, ...], tuple[Counter, ...]]:
    """A text's words, and how often each n-gram stands in it, a Counter an order."""
    written = tuple(words(text))
    shifted = [written[start:] for start in range(ORDERS)]
    return written, tuple(Counter(zip(*shifted[:order], strict=False)) for order in range(1, ORDERS + 1))


def _check(answers: Sequence, references: References, ranked: bool = False) -> None:
    if not len(answers):
        raise Refusal("there are no answers to score")
    if len(answers) != len(references):
        raise Refusal(f"{len(answers):,} answers need as many lists of references (got {len(references):,})")
    for place, known in enumerate(references):
        if isinstance(known, str) or not known:
            raise Refusal(f"question {place} has no list of reference answers (got {known!r})")
    for place, said in enumerate(answers):
        if ranked and (isinstance(said, str) or not said):
            raise Refusal(f"question {place} has no list of answers, best first (got {said!r})")
        if not ranked and not isinstance(said, str):
            raise Refusal(f"question {place} has no answer as text (got {said!r})")


def exact_match(ranked: References, references: References, k: int = 1) -> np.ndarray:
    """Which questions have a reference among their k best answers, letter by letter: EM@k of ScanQA.

    Args:
        ranked: [n] lists of answers, best first, each of at least one.
        references: [n] lists of accepted answers.

    Returns:
        [n] of bool.

    Raises:
        Refusal: no answers, unequal numbers, a question without references, k below 1.
    """
    _check(ranked, references, ranked=True)
    if k < 1:
        raise Refusal(f"EM@k needs k of 1 or more (got {k})")
    return np.array([not set(said[:k]).isdisjoint(known) for said, known in zip(ranked, references, strict=True)])


def bleu(answers: Sequence[str], references: References) -> np.ndarray:
    """Corpus BLEU-1 to BLEU-4 (Papineni et al., 2002), the reference of the closest length for the brevity penalty.

    Returns:
        [4] in 0..1. Counts are pooled over all answers, so there is no score of a single question.

    Raises:
        Refusal: as `exact_match`.
    """
    _check(answers, references)
    right, said, long, wanted = np.zeros(ORDERS), np.zeros(ORDERS), 0, 0
    for answer, known in zip(answers, references, strict=True):
        written, grams = _read(answer)
        lengths = [len(_read(reference)[0]) for reference in known]
        for order in range(ORDERS):
            allowed = Counter()
            for reference in known:
                allowed |= _read(reference)[1][order]  # the largest count over the references
            right[order] += (grams[order] & allowed).total()
            said[order] += grams[order].total()
        long += len(written)
        wanted += min(lengths, key=lambda length: (abs(length - len(written)), length))
    precision = np.cumprod((right + _TINY) / (said + _SMALL)) ** (1 / np.arange(1, ORDERS + 1))
    ratio = (long + _TINY) / (wanted + _SMALL)
    return precision * math.exp(min(0.0, 1 - 1 / ratio))


def rouge_l(answers: Sequence[str], references: References) -> np.ndarray:
    """ROUGE-L (Lin, 2004): F-measure of the longest common subsequence, beta 1.2.

    Precision and recall are each the best over the references, as in pycocoevalcap: they may come from two.

    Returns:
        [n] in 0..1.

    Raises:
        Refusal: as `exact_match`.
    """
    _check(answers, references)
    return np.array([_rouge(answer, known) for answer, known in zip(answers, references, strict=True)])


def _rouge(answer: str, known: Sequence[str]) -> float:
    precision = recall = 0.0
    for reference in known:
        common = _common(answer, reference)
        precision = max(precision, common / max(1, len(_read(answer)[0])))
        recall = max(recall, common / max(1, len(_read(reference)[0])))
    if precision == 0 or recall == 0:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


@lru_cache(maxsize=2**16)
def _common(first: str, second: str) -> int:
    """Length in words of the longest common subsequence of two texts."""
    others = _read(second)[0]
    best = [0] * (len(others) + 1)
    for one in _read(first)[0]:
        before, best = best, [0]
        for place, other in enumerate(others):
            best.append(before[place] + 1 if one == other else max(before[place + 1], best[place]))
    return best[-1]


def cider(answers: Sequence[str], references: References) -> np.ndarray:
    """CIDEr-D (Vedantam, Zitnick and Parikh, 2015) without stemming, mean over 1- to 4-grams and references.

    n-grams weigh by how rare they are among the references of *these* questions, so scores of different sets of
    questions are not comparable. The length that is penalised is the number of 2-grams, as in pycocoevalcap.

    Returns:
        [n] in 0..10.

    Raises:
        Refusal: as `exact_match`.
    """
    _check(answers, references)
    found_in = Counter(gram for known in references for gram in set().union(*(g for r in known for g in _read(r)[1])))
    unseen = math.log(len(answers))
    rarity = {gram: unseen - math.log(count) for gram, count in found_in.items()}

    @cache
    def weighed(text: str) -> list[dict[tuple[str, ...], float]]:
        return [{gram: n * rarity.get(gram, unseen) for gram, n in grams.items()} for grams in _read(text)[1]]

    @cache
    def closeness(answer: str, reference: str) -> float:
        apart = _read(answer)[1][1].total() - _read(reference)[1][1].total()
        return math.exp(-(apart**2) / (2 * SIGMA**2)) * _cosines(weighed(answer), weighed(reference))

    pairs = zip(answers, references, strict=True)
    return np.array([10 * np.mean([closeness(answer, reference) for reference in known]) for answer, known in pairs])


def _cosines(said: list[dict], known: list[dict]) -> float:
    """Mean over the orders of the clipped cosine: no n-gram counts for more than the reference holds of it."""
    found = 0.0
    for one, other in zip(said, known, strict=True):
        size = math.hypot(*one.values()) * math.hypot(*other.values())
        if size > 0:
            pairs = [(weight, other[gram]) for gram, weight in one.items() if gram in other]
            found += sum(min(pair) * pair[1] for pair in pairs) / size
    return found / ORDERS


def answer_scores(ranked: References, references: References, ks: Sequence[int] = (1, 3)) -> dict[str, float]:
    """All scores of one set of questions: em_1, em_3, bleu_1 to bleu_4, rouge_l (0..1) and cider (0..10).

    Args:
        ranked: [n] lists of answers, best first; the first is the one that is scored as text.
        references: [n] lists of accepted answers. ks: of exact match.

    Raises:
        Refusal: as `exact_match`.
    """
    _check(ranked, references, ranked=True)
    best = [said[0] for said in ranked]
    found = {f"em_{k}": float(exact_match(ranked, references, k).mean()) for k in ks}
    found |= {f"bleu_{order}": float(score) for order, score in enumerate(bleu(best, references), start=1)}
    return found | {"rouge_l": float(rouge_l(best, references).mean()), "cider": float(cider(best, references).mean())}


# what only Java can score


def java_scores(answers: Sequence[str], references: References) -> dict[str, float]:
    """METEOR and SPICE of pycocoevalcap, those of the two that are installed here; {} where none is.

    Both need Java and `pip install pycocoevalcap`. SPICE needs the Stanford CoreNLP models beside it, which that
    package would fetch from the network: it is left out until they are there.

    Returns:
        "meteor" and "spice" in 0..1, means over the questions.

    Raises:
        Refusal: as `exact_match`.
    """
    _check(answers, references)
    folder = _scorers_folder()
    if folder is None or shutil.which("java") is None:
        return {}
    said = {place: [" ".join(words(answer))] for place, answer in enumerate(answers)}
    known = {place: [" ".join(words(one)) for one in some] for place, some in enumerate(references)}
    found = {}
    if (folder / "meteor" / "meteor-1.5.jar").exists():
        from pycocoevalcap.meteor.meteor import Meteor

        found["meteor"] = float(Meteor().compute_score(known, said)[0])
    if (folder / "spice" / "lib" / "stanford-corenlp-3.6.0-models.jar").exists():
        from pycocoevalcap.spice.spice import Spice

        found["spice"] = float(Spice().compute_score(known, said)[0])
    return found


def _scorers_folder() -> Path | None:
    found = importlib.util.find_spec("pycocoevalcap")
    places = list(found.submodule_search_locations or ()) if found else []
    return Path(places[0]) if places else None
