"""What is said about rooms: true captions, answerable and balanced questions, and nothing to be guessed from them."""

import re
from collections import Counter, defaultdict

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from ntf_utils.data.room_language import (
    ANSWERS,
    CORNERS,
    PREFIX,
    TEMPLATES,
    UNKNOWN,
    WORDS,
    answer,
    answers_of,
    ask,
    asks_held_out,
    captions,
    corner_phrase,
    describe,
    kind_prompt,
    named,
    possible_questions,
    tokenise,
    words_of,
)
from ntf_utils.data.rooms import COLOURS, HELD_OUT, KINDS, NOUNS, Room, Thing, split
from ntf_utils.data.scenes import Question
from ntf_utils.refusal import Refusal


@pytest.fixture(scope="module")
def worlds():
    """Split -> its rooms by name, and questions about them."""
    made = {}
    for name, count, about in (("train", 320, "all"), ("val_iid", 160, "all"), ("val_comp", 160, "held-out")):
        rooms = split(name, count)
        made[name] = {room.name: room for room in rooms}, ask(rooms, 0, about=about)
    return made


@pytest.fixture
def plain():
    """A room small enough to be read: a bed in the middle, things around it; the door is at y = -2.5."""
    things = (
        Thing("bed", "red", "large", 0.5, 0.6),
        Thing("chair", "blue", "small", -1.5, 0.7),
        Thing("lamp", "green", "small", 0.4, 2.3),
        Thing("chair", "red", "large", 0.6, -1.0),
        Thing("plant", "green", "large", 2.0, -0.3),
    )
    return Room("plain", (0,), "bedroom", (5.0, 5.0), 0.7, "chair", things)


def group(question):
    """What the answers are balanced within, read from the text."""
    words = words_of(question.text)
    nouns = [noun for noun in NOUNS if noun in words or noun + "s" in words]
    return (question.template, *nouns, *[colour for colour in COLOURS if colour in words])


# Questions


@pytest.mark.parametrize("name", ["train", "val_iid", "val_comp"])
def test_the_oracle_answers_every_question(worlds, name):
    rooms, questions = worlds[name]
    assert {question.template for question in questions} == set(TEMPLATES)
    for question in questions:
        assert answer(rooms[question.scene], question) == question.answers
        assert set(question.answers) <= set(ANSWERS)
    for room in list(rooms.values())[:30]:
        for question in possible_questions(room):
            assert answer(room, question.text) == question.answers


def test_questions_name_the_things_that_the_answer_is_about(worlds):
    rooms, questions = worlds["train"]
    for question in questions:
        things = [rooms[question.scene].things[row] for row in question.objects]
        first = question.answers[0]
        if question.template == "count":
            assert len(things) == int(first) and len({thing.noun for thing in things}) <= 1
        elif question.template == "existence":
            assert (len(things) > 0) == (first == "yes")
            assert all(f" {thing.colour} {thing.noun} " in question.text for thing in things)
        elif question.template in ("relation", "comparison", "nearest"):
            assert [thing.noun for thing in things] == [first]
        else:
            assert len(things) == 1 and things[0].noun in question.text
            assert question.template == "place" or first in (things[0].colour, things[0].size)


def test_the_oracle_reads_a_room_as_a_person_would(plain):
    for text, told in {
        "What colour is the bed?": ("red",),
        "is the plant small or large ?": ("large",),
        "how many chairs are there ?": ("2",),
        "how many tables are there ?": ("0",),
        "is there a red chair ?": ("yes",),
        "is there an orange lamp ?": ("no",),
        "what is left of the bed ?": ("chair",),
        "what is right of the bed ?": ("plant",),
        "what is behind the bed ?": ("lamp",),
        "what is in front of the bed ?": ("chair",),
        "where is the plant ?": ("in the front right corner", "front right"),
        "which is nearer to the door the bed or the plant ?": ("plant",),
        "what is nearest to the bed ?": ("chair",),
    }.items():
        assert answer(plain, text) == told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("what colour is the sofa ?", "there is no sofa in plain"),
        ("what is left of the table ?", "there is no table in plain"),
        ("is the chair small or large ?", "there are 2 chairs in plain"),
        ("which is nearer to the door the bed or the bin ?", "there is no bin"),
        ("what is left of the chair ?", "there are 2 chairs"),
        ("what is behind the lamp ?", "nothing stands behind the lamp in plain"),
        ("who sleeps in the bed ?", "not a question about rooms"),
        ("", "not a question about rooms"),
    ],
)
def test_a_question_without_an_answer_is_refused(plain, text, told):
    with pytest.raises(Refusal, match=told):
        answer(plain, text)


def test_doubtful_questions_are_not_asked(plain):
    asked = {question.text for question in possible_questions(plain)}
    assert "what colour is the chair ?" not in asked  # there are two
    assert "what colour is the sofa ?" not in asked and "what is behind the lamp ?" not in asked
    assert "what colour is the bed ?" in asked and "what is left of the bed ?" in asked
    # the plant is moved to the border of two quarters, and the lamp to where it rivals the bed's nearest
    doubtful = list(plain.things)
    doubtful[4] = Thing("plant", "green", "large", 0.5 + 1.4, 0.6 - 1.4)
    doubtful[2] = Thing("lamp", "green", "small", 0.5, 0.6 + 1.65)
    asked = {question.text for question in possible_questions(Room(*_fields(plain), tuple(doubtful)))}
    assert "what is right of the bed ?" not in asked and "what is nearest to the bed ?" not in asked


def _fields(room):
    return room.name, room.seed, room.kind, room.floor, room.shade, room.focus


def test_answers_are_balanced_for_each_template_and_class(worlds):
    for name in ("train", "val_iid"):
        _, questions = worlds[name]
        counts = defaultdict(Counter)
        for question in questions:
            counts[group(question)][question.answers[0]] += 1
        assert all(len(set(answers.values())) == 1 and len(answers) > 1 for answers in counts.values())
        assert all(set(a) == {"yes", "no"} for key, a in counts.items() if key[0] == "existence")
        assert all(set(a) == set("01234") for key, a in counts.items() if key[0] == "count")
    assert sum(key[0] == "existence" for key in counts) == 64 - 12


def test_every_text_is_asked_about_two_rooms_with_different_answers(worlds):
    _, questions = worlds["train"]
    told = defaultdict(set)
    for question in questions:
        told[question.text].add((question.scene, question.answers))
    for text, answers in told.items():
        assert len({scene for scene, _ in answers}) > 1 and len({each for _, each in answers}) > 1, text


def test_an_answer_cannot_be_guessed_from_the_question(worlds):
    """A model of the words alone, and a table of the whole texts, stay within 3 points of guessing."""
    _, known = worlds["train"]
    _, asked = worlds["val_iid"]
    choices = defaultdict(set)
    for question in asked:
        choices[group(question)].add(question.answers)
    guess = np.mean([1 / len(choices[group(question)]) for question in asked])

    words = CountVectorizer(ngram_range=(1, 3), token_pattern=r"\S+").fit([question.text for question in known])
    model = LogisticRegression(max_iter=300).fit(
        words.transform([question.text for question in known]), [question.answers[0] for question in known]
    )
    said = model.predict(words.transform([question.text for question in asked]))
    assert np.mean([a in q.answers for a, q in zip(said, asked, strict=True)]) < guess + 0.03

    table = defaultdict(Counter)
    for question in known:
        table[question.text][question.answers[0]] += 1
    right = [table[q.text].most_common(1)[0][0] in q.answers if table[q.text] else False for q in asked]
    assert np.mean(right) < guess + 0.03


def test_a_swapped_room_gives_chance(worlds):
    rooms, questions = worlds["val_iid"]
    names, rng = list(rooms), np.random.default_rng(0)
    by_chance, agreed = [], []
    choices = defaultdict(set)
    for question in questions:
        choices[group(question)].add(question.answers)
    for question in questions:
        try:
            other = answer(rooms[names[rng.integers(len(names))]], question)
        except Refusal:
            continue
        agreed.append(other == question.answers)
        by_chance.append(1 / len(choices[group(question)]))
    assert len(agreed) > 300 and np.mean(agreed) == pytest.approx(np.mean(by_chance), abs=0.06)


def test_held_out_questions_are_about_held_out_pairs(worlds):
    rooms, questions = worlds["val_comp"]
    for question in questions:
        assert asks_held_out(rooms[question.scene], question)
        if question.template == "colour":
            (row,) = question.objects
            assert rooms[question.scene].things[row].pair in HELD_OUT
    colours = {(group(question)[1], question.answers[0]) for question in questions if question.template == "colour"}
    assert colours == set(HELD_OUT)
    existence = Counter(question.answers[0] for question in questions if question.template == "existence")
    assert existence["yes"] == existence["no"] > 0
    for name in ("train", "val_iid"):
        rooms, questions = worlds[name]
        assert not any(asks_held_out(rooms[question.scene], question) for question in questions)


def test_existence_is_asked_of_what_is_half_there(worlds):
    rooms, questions = worlds["train"]
    for question in questions:
        if question.template == "existence" and question.answers == ("no",):
            _, noun, colour = group(question)
            things = rooms[question.scene].things
            assert any(thing.noun == noun or thing.colour == colour for thing in things)


def test_the_same_seed_asks_the_same_and_kinds_can_be_chosen():
    rooms = split("train", 60)
    assert ask(rooms, 1) == ask(rooms, 1) != ask(rooms, 2)
    few = ask(rooms, 1, templates=("colour", "count"), per_template=40)
    assert {question.template for question in few} == {"colour", "count"}
    assert max(Counter(question.template for question in few).values()) <= 56  # at least one of each of 8 x 7 answers
    for wrong, told in (
        ({"templates": ("colour", "smell")}, "smell"),
        ({"about": "some"}, "held-out"),
    ):
        with pytest.raises(Refusal, match=told):
            ask(rooms, 1, **wrong)
    with pytest.raises(Refusal, match="too few"):
        ask(rooms[:1], 1)


# Captions and words


def test_a_caption_is_true(worlds):
    rooms, _ = worlds["val_comp"]
    for room in list(rooms.values())[:40]:
        for row, said in enumerate(captions(room)):
            thing = room.things[row]
            assert said.object == row and said.text.startswith(("a ", "an "))
            head, word, tail = re.fullmatch("(.*) (left of|right of|in front of|behind) (.*)", said.text).groups()
            assert head.split(" ", 1)[1] == named(thing)
            others = [each for each in room.things if each is not thing]
            near = min(others, key=lambda each: np.hypot(each.x - thing.x, each.y - thing.y))
            across, along = thing.x - near.x, thing.y - near.y
            assert {
                "left of": across < 0 and abs(across) >= abs(along),
                "right of": across > 0 and abs(across) >= abs(along),
                "in front of": along < 0 and abs(along) >= abs(across),
                "behind": along > 0 and abs(along) >= abs(across),
            }[word]
            if tail.startswith("the "):
                assert tail == f"the {near.noun}" and sum(each.noun == near.noun for each in room.things) == 1
            else:
                assert tail.split(" ", 1)[1] == f"{near.colour} {near.noun}"


def test_a_description_tells_things_of_the_room(worlds):
    rooms, _ = worlds["val_comp"]
    rng = np.random.default_rng(0)
    for room in list(rooms.values())[:40]:
        text = describe(room, rng, things=3)
        assert text.startswith(kind_prompt(room.kind) + " with ")
        there = {(thing.colour, thing.noun) for thing in room.things}
        words = text.split()
        told = [(words[row - 1], word) for row, word in enumerate(words) if word in NOUNS and words[row - 1] in COLOURS]
        assert len(told) == 3 and set(told) <= there
        assert describe(room, rng, kind=False).startswith("a room with ")
    assert kind_prompt("office") == "an office"


def test_every_word_is_known(worlds):
    texts = [PREFIX, *map(kind_prompt, KINDS), *ANSWERS]
    for rooms, questions in worlds.values():
        texts += [question.text for question in questions]
        some = list(rooms.values())[:40]
        texts += [said.text for room in some for said in captions(room)]
        texts += [describe(room, np.random.default_rng(0)) for room in some]
    tokens = tokenise(texts)
    assert (tokens != UNKNOWN).all() and tokens.shape == (len(texts), max(len(words_of(text)) for text in texts))
    assert len(set(WORDS)) == len(WORDS)
    back = [" ".join(WORDS[number] for number in row if number) for row in tokens]
    assert back == [" ".join(words_of(text)) for text in texts]
    assert tokenise(["what is a piano", "no"], length=3).tolist() == [
        [WORDS.index("what"), WORDS.index("is"), WORDS.index("a")], [WORDS.index("no"), 0, 0],
    ]  # fmt: skip
    assert tokenise(["piano"]).tolist() == [[UNKNOWN]] and tokenise([]).shape == (0, 0)


def test_answers_come_in_order_of_frequency():
    questions = [Question("a", "?", ("no",)), Question("b", "?", ("yes", "aye")), Question("c", "?", ("yes",))]
    assert answers_of(questions) == ("yes", "aye", "no")
    assert {corner_phrase(corner) for corner in CORNERS} < set(ANSWERS)
