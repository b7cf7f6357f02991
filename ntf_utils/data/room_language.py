"""What is said about rooms: captions, questions with their answers, and the words of both.

Everything is seen from the door: left is where x is smaller, behind is where y is larger. There are eight kinds of
question, each about things that the text names without doubt:

    colour      what colour is the NOUN ?                                        8 colours
    size        is the NOUN small or large ?                                     small, large
    count       how many NOUNS are there ?                                       0 to 4
    existence   is there a COLOUR NOUN ?                                         yes, no
    relation    what is left of | right of | in front of | behind the NOUN ?     a class: the nearest there
    place       where is the NOUN ?                                              one of four corners
    comparison  which is nearer to the door the NOUN or the NOUN ?               one of the two
    nearest     what is nearest to the NOUN ?                                    a class

So that an answer must be looked for in the room, `ask` draws as many questions with one answer as with any other,
for each kind and each class that is asked about (and for each pair, where it is yes or no). `answer` reads the
text alone and looks at the things' attributes: it shares nothing with the code that writes the questions but the
meaning of the words.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ntf_utils.data.rooms import COLOURS, HELD_OUT, KINDS, MOST, NOUNS, SIZES, Room, Thing
from ntf_utils.data.scenes import Caption, Question
from ntf_utils.refusal import Refusal

TEMPLATES = ("colour", "size", "count", "existence", "relation", "place", "comparison", "nearest")
PLURALS = {noun: noun + "s" for noun in NOUNS}
DIRECTIONS = {  # word -> towards, seen from the door
    "left of": (-1.0, 0.0), "right of": (1.0, 0.0), "in front of": (0.0, -1.0), "behind": (0.0, 1.0),
}  # fmt: skip
CORNERS = tuple(f"{depth} {side}" for depth in ("back", "front") for side in ("left", "right"))
PREFIX = "point cloud of a scene where"  # of the paper's captions

# How far from doubtful a question has to be
FARTHER = 0.2  # metres, that the second nearest is farther off than the nearest
CLEARER = 10.0  # degrees, from the border of a direction's quarter
ASIDE = 0.3  # metres, from the middle of the room, of what stands in a corner of it


def corner_phrase(corner: str) -> str:
    """`back left` -> `in the back left corner`."""
    return f"in the {corner} corner"


ANSWERS = (
    *COLOURS, *SIZES, *map(str, range(MOST + 1)), "yes", "no", *NOUNS,
    *(form for corner in CORNERS for form in (corner_phrase(corner), corner)),
)  # fmt: skip


# Captions


def named(thing: Thing, size: bool = True, colour: bool = True) -> str:
    """`large red chair`."""
    return " ".join([*([thing.size] if size else []), *([thing.colour] if colour else []), thing.noun])


def _a(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def caption(room: Room, row: int) -> Caption:
    """One thing, and where it stands seen from what is nearest to it: `a large red chair left of the table`."""
    here, thing = _places(room), room.things[row]
    distance = np.hypot(*(here - here[row]).T)
    distance[row] = np.inf
    near = int(distance.argmin())
    across, along = here[row] - here[near]
    if abs(across) > abs(along):
        word = "left of" if across < 0 else "right of"
    else:
        word = "in front of" if along < 0 else "behind"
    other = room.things[near]
    alone = sum(each.noun == other.noun for each in room.things) == 1
    return Caption(f"{_a(named(thing))} {word} {f'the {other.noun}' if alone else _a(named(other, size=False))}", row)


def captions(room: Room) -> tuple[Caption, ...]:
    """A caption of each thing, in their order."""
    return tuple(caption(room, row) for row in range(len(room.things)))


def describe(room: Room, rng: np.random.Generator, things: int = 3, kind: bool = True) -> str:
    """A text about the room as a whole: `a bedroom with a large red bed a blue lamp and a small green chair`.

    Args:
        things: how many are told, drawn without return.
        kind: whether the type of the room is told; else it is `a room`.
    """
    chosen = rng.permutation(len(room.things))[:things]
    told = [_a(named(room.things[row], size=rng.random() < 0.5)) for row in chosen]
    listed = " ".join(told[:-1]) + (" and " if len(told) > 1 else "") + told[-1]
    return f"{kind_prompt(room.kind) if kind else 'a room'} with {listed}"


def kind_prompt(kind: str) -> str:
    """`bedroom` -> `a bedroom`."""
    return _a(kind)


# Questions


@dataclass(frozen=True)
class _Ask:
    """A question that could be asked, and what it has to be balanced within."""

    question: Question
    group: tuple[str, ...]
    pairs: frozenset[tuple[str, str]]  # of class and colour that it is about

    @property
    def held_out(self) -> bool:
        return not self.pairs.isdisjoint(HELD_OUT)


def possible_questions(room: Room) -> list[Question]:
    """Every question about a room whose answer is beyond doubt, however often each answer comes."""
    return [ask.question for ask in _asks(room)]


def asks_held_out(room: Room, question: Question) -> bool:
    """Whether a question is about a pair of class and colour in HELD_OUT: of its answer's things, or one it names."""
    asked = set(re.findall(rf"({'|'.join(COLOURS)}) ({'|'.join(NOUNS)})", question.text))
    pairs = {room.things[row].pair for row in question.objects} | {(noun, colour) for colour, noun in asked}
    return not pairs.isdisjoint(HELD_OUT)


def ask(
    rooms: Sequence[Room],
    seed: int,
    *,
    templates: Sequence[str] = TEMPLATES,
    per_template: int = 320,
    about: str = "all",
) -> list[Question]:
    """Questions about rooms, with every answer as often as every other, and the kinds about as often.

    Each kind of question is balanced for each class that is asked about. Where one answer is rarer than
    `per_template` allows, all answers are drawn as seldom.

    Args:
        per_template: about so many of each kind at most; an answer that can be had comes at least once.
        about: "all", or "held-out" for questions about the pairs of HELD_OUT alone; those are balanced as far as
            that leaves a choice (a chair's colour is then one of two).

    Returns:
        in random order; a kind for which no answer has a rival is missing.

    Raises:
        Refusal: an unknown kind of question, or rooms that answer none of them.
    """
    unknown = [name for name in templates if name not in TEMPLATES]
    if unknown:
        raise Refusal(f"no such kind of question: {', '.join(unknown)} (known are {', '.join(TEMPLATES)})")
    if about not in ("all", "held-out"):
        raise Refusal(f"questions are about all pairs or about held-out ones (got {about!r})")
    rng = np.random.default_rng((seed, 3))
    pool: dict[str, dict[tuple, dict[str, list[Question]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    for room in rooms:
        for each in _asks(room):
            template = each.question.template
            if template in templates and (about == "all" or each.held_out):
                pool[template][each.group][each.question.answers[0]].append(each.question)
    chosen = []
    for template in templates:
        chosen += _balanced(pool[template], per_template, rng, strict=about == "all")
    if not chosen:
        raise Refusal(f"{len(rooms)} rooms are too few: no question about them has two answers that come equally often")
    return [chosen[row] for row in rng.permutation(len(chosen))]


def _balanced(
    groups: dict[tuple, dict[str, list[Question]]], most: int, rng: np.random.Generator, strict: bool
) -> list[Question]:
    """From each group equally many questions of each answer."""
    chosen = []
    each = most / max(1, len(groups))  # of a group
    for group in sorted(groups):
        answers = groups[group]
        if strict and len(answers) < 2:
            continue
        take = min(min(map(len, answers.values())), max(1, round(each / len(answers))))
        for answer in sorted(answers):
            rows = rng.permutation(len(answers[answer]))[:take]
            chosen += [answers[answer][row] for row in rows]
    return chosen


def _asks(room: Room) -> list[_Ask]:
    alone = {noun: rows[0] for noun, rows in _rows_of(room).items() if len(rows) == 1}
    found: list[_Ask] = []

    def add(template: str, text: str, answers: tuple[str, ...], rows: Iterable[int], group: tuple, *pairs) -> None:
        rows = tuple(rows)
        about = frozenset(room.things[row].pair for row in rows) | frozenset(pairs)
        found.append(_Ask(Question(room.name, text, answers, rows, template), group, about))

    here = _places(room)
    for noun, row in alone.items():
        thing = room.things[row]
        add("colour", f"what colour is the {noun} ?", (thing.colour,), [row], (noun,))
        add("size", f"is the {noun} small or large ?", (thing.size,), [row], (noun,))
        if (np.abs(here[row]) > ASIDE).all():
            corner = f"{'back' if here[row, 1] > 0 else 'front'} {'left' if here[row, 0] < 0 else 'right'}"
            add("place", f"where is the {noun} ?", (corner_phrase(corner), corner), [row], (noun,))
        for word, towards in DIRECTIONS.items():
            other = _nearest_towards(here, row, towards)
            if other is not None:
                text = f"what is {word} the {noun} ?"
                add("relation", text, (room.things[other].noun,), [other], (noun,))
        other = _nearest(here, row)
        if other is not None:
            add("nearest", f"what is nearest to the {noun} ?", (room.things[other].noun,), [other], (noun,))
    rows = _rows_of(room).get(room.focus, [])
    add("count", f"how many {PLURALS[room.focus]} are there ?", (str(len(rows)),), rows, (room.focus,))
    _existence(room, add)
    _comparisons(room, alone, here, add)
    return found


def _existence(room: Room, add: Callable[..., None]) -> None:
    """Pairs of the room, and pairs of which one half is there, so that finding a half does not tell."""
    there = defaultdict(list)
    for row, thing in enumerate(room.things):
        there[thing.pair].append(row)
    nouns, colours = {noun for noun, _ in there}, {colour for _, colour in there}
    held_out = any(pair in HELD_OUT for pair in there)
    for noun in NOUNS:
        for colour in COLOURS:
            pair = noun, colour
            if pair not in there and (
                (noun in nouns) + (colour in colours) == 0 or (pair in HELD_OUT and not held_out)
            ):
                continue  # a room without held-out pairs is not asked for one: it would always be no
            text = f"is there {_a(f'{colour} {noun}')} ?"
            add("existence", text, ("yes" if pair in there else "no",), there.get(pair, []), pair, pair)


def _comparisons(room: Room, alone: dict[str, int], here: np.ndarray, add: Callable[..., None]) -> None:
    distance = np.hypot(*(here - room.door).T)
    for one, other in combinations([noun for noun in NOUNS if noun in alone], 2):
        near, far = sorted((alone[one], alone[other]), key=lambda row: distance[row])
        if distance[near] + FARTHER < distance[far]:
            # always in one order, so that each question is asked with both answers
            text = f"which is nearer to the door the {one} or the {other} ?"
            add("comparison", text, (room.things[near].noun,), [near], (one, other))


def _places(room: Room) -> np.ndarray:
    """[k, 2] metres."""
    return np.array([(thing.x, thing.y) for thing in room.things])


def _rows_of(room: Room) -> dict[str, list[int]]:
    rows = defaultdict(list)
    for row, thing in enumerate(room.things):
        rows[thing.noun].append(row)
    return dict(rows)


def _nearest(here: np.ndarray, row: int) -> int | None:
    """The thing nearest to one, None where another is nearly as near."""
    distance = np.hypot(*(here - here[row]).T)
    distance[row] = np.inf
    first, second = np.argsort(distance)[:2]
    return int(first) if distance[first] + FARTHER < distance[second] else None


def _nearest_towards(here: np.ndarray, row: int, towards: tuple[float, float]) -> int | None:
    """The nearest thing in the quarter around a direction, None where there is none or where it is doubtful."""
    step = here - here[row]
    distance = np.hypot(*step.T)
    distance[row] = np.inf
    angle = np.degrees(np.arccos((step @ towards / distance.clip(min=1e-9)).clip(-1, 1)))
    angle[row] = 180.0
    clear, maybe = angle < 45 - CLEARER, angle < 45 + CLEARER
    if not clear.any():
        return None
    first = int(np.where(clear, distance, np.inf).argmin())
    rivals = maybe & (np.arange(len(here)) != first)
    return first if (distance[rivals] > distance[first] + FARTHER).all() else None


# The oracle


def answer(room: Room, question: Question | str) -> tuple[str, ...]:
    """The right answers to a question, read from its text and from the attributes of the things.

    Raises:
        Refusal: it is not a question of this grammar, or it is about a thing that is not there or not the only one.
    """
    text = question if isinstance(question, str) else question.text
    nouns = "|".join(NOUNS)
    readings: list[tuple[str, Callable[..., tuple[str, ...]]]] = [
        (rf"what colour is the ({nouns})", lambda noun: (_only(room, noun, text).colour,)),
        (rf"is the ({nouns}) small or large", lambda noun: (_only(room, noun, text).size,)),
        (rf"how many ({'|'.join(PLURALS.values())}) are there", lambda many: (str(_count(room, many[:-1])),)),
        (
            rf"is there an? ({'|'.join(COLOURS)}) ({nouns})",
            lambda colour, noun: ("yes" if _count(room, noun, colour) else "no",),
        ),
        (rf"what is ({'|'.join(DIRECTIONS)}) the ({nouns})", lambda word, noun: _towards(room, word, noun, text)),
        (rf"where is the ({nouns})", lambda noun: _corner(_only(room, noun, text))),
        (
            rf"which is nearer to the door the ({nouns}) or the ({nouns})",
            lambda one, other: (min((one, other), key=lambda noun: _far(_only(room, noun, text), room.door)),),
        ),
        (rf"what is nearest to the ({nouns})", lambda noun: _beside(room, noun, text)),
    ]
    plain = " ".join(words_of(text))
    for pattern, reading in readings:
        found = re.fullmatch(pattern, plain)
        if found:
            return reading(*found.groups())
    raise Refusal(f"not a question about rooms: {text!r}; it may ask for {', '.join(TEMPLATES)} in the book's words")


def _only(room: Room, noun: str, text: str) -> Thing:
    things = [thing for thing in room.things if thing.noun == noun]
    if len(things) == 1:
        return things[0]
    there = f"there are {len(things)} {PLURALS[noun]}" if things else f"there is no {noun}"
    raise Refusal(f"{text!r} has no answer: {there} in {room.name}")


def _count(room: Room, noun: str, colour: str | None = None) -> int:
    return sum(thing.noun == noun and colour in (None, thing.colour) for thing in room.things)


def _far(thing: Thing, place: tuple[float, float]) -> float:
    return float(np.hypot(thing.x - place[0], thing.y - place[1]))


def _corner(thing: Thing) -> tuple[str, ...]:
    corner = ("front " if thing.y < 0 else "back ") + ("right" if thing.x > 0 else "left")
    return corner_phrase(corner), corner


def _beside(room: Room, noun: str, text: str) -> tuple[str, ...]:
    anchor = _only(room, noun, text)
    return (
        min((thing for thing in room.things if thing is not anchor), key=lambda thing: _far(thing, _at(anchor))).noun,
    )


def _towards(room: Room, word: str, noun: str, text: str) -> tuple[str, ...]:
    anchor = _only(room, noun, text)
    inside = {
        "left of": lambda right, back: -right > abs(back), "right of": lambda right, back: right > abs(back),
        "in front of": lambda right, back: -back > abs(right), "behind": lambda right, back: back > abs(right),
    }[word]  # fmt: skip
    there = [thing for thing in room.things if thing is not anchor and inside(thing.x - anchor.x, thing.y - anchor.y)]
    if not there:
        raise Refusal(f"{text!r} has no answer: nothing stands {word} the {noun} in {room.name}")
    return (min(there, key=lambda thing: _far(thing, _at(anchor))).noun,)


def _at(thing: Thing) -> tuple[float, float]:
    return thing.x, thing.y


# Words


def words_of(text: str) -> list[str]:
    """Lower-case words and numbers, without punctuation."""
    return re.findall(r"[a-z]+|\d+", text.lower())


def _vocabulary() -> tuple[str, ...]:
    texts = [
        PREFIX, "there is a an the and with room what colour small or large how many are which nearer to door nearest "
        "where in of corner yes no", *COLOURS, *NOUNS, *PLURALS.values(), *KINDS, *DIRECTIONS, *CORNERS,
        *map(str, range(MOST + 1)),
    ]  # fmt: skip
    return ("<pad>", "<unk>", *dict.fromkeys(word for text in texts for word in words_of(text)))


WORDS = _vocabulary()
_NUMBER = {word: number for number, word in enumerate(WORDS)}
PADDING, UNKNOWN = 0, 1


def tokenise(texts: Sequence[str], length: int | None = None) -> np.ndarray:
    """[n, length] int64 numbers of words, 0 after a text's end and 1 for a word that rooms do without.

    Args:
        length: that of the longest text where not given; longer texts are cut.
    """
    rows = [[_NUMBER.get(word, UNKNOWN) for word in words_of(text)] for text in texts]
    length = max(map(len, rows), default=0) if length is None else length
    tokens = np.full((len(rows), length), PADDING, dtype=np.int64)
    for row, numbers in zip(tokens, rows, strict=True):
        row[: len(numbers)] = numbers[:length]
    return tokens


def answers_of(questions: Iterable[Question]) -> tuple[str, ...]:
    """Every answer to some questions, the most frequent first: the answers that a model is trained to choose from."""
    counts = Counter(form for question in questions for form in question.answers)
    return tuple(sorted(counts, key=lambda form: (-counts[form], form)))
