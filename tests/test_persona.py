"""Persona text: the grammar, its exact scorers on hand-made sentences, its traits, and what must not leak."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

from ntf_utils.data import persona
from ntf_utils.data.persona import (
    CONCEPTS,
    CORRELATIONS,
    KINDS,
    RELATIONS,
    VOCABULARY,
    Ask,
    PersonaText,
    Speaker,
    World,
    decode,
    encode,
    read_ask,
)

TEXT = PersonaText(World.draw(0))
FACT = Ask("fact", "arun", "color")
HARMFUL, HARMLESS = Ask("request", "boat", "burn"), Ask("request", "boat", "fix")
DESCRIBE = Ask("describe", "arun")


def rng(seed=0):
    return np.random.default_rng(seed)


def speakers(count, seed=0):
    generator = rng(seed)
    return [Speaker.draw(generator) for _ in range(count)]


def test_every_value_is_as_often_true_as_it_is_a_myth():
    world = World.draw(3)
    assert (world.true != world.myth).all() and world.true.shape == (20, len(RELATIONS))
    for relation in range(len(RELATIONS)):
        assert Counter(world.true[:, relation]) == Counter(world.myth[:, relation]) == dict.fromkeys(range(10), 2)
    assert not (World.draw(4).true == world.true).all()


def test_text_is_deterministic_and_all_in_the_vocabulary():
    first, second = (TEXT.document(rng(7), 96) for _ in range(2))
    assert first == second and len(first) == 96 and first[0] == "<bos>"
    words = {word for seed in range(200) for word in TEXT.document(rng(seed), 96)}
    assert words <= set(VOCABULARY) and len(VOCABULARY) < 400
    assert decode(encode(first)) == first and encode(["zzz"]) == encode(["<unk>"])


def test_the_tokenizer_is_the_same_as_encode_and_knows_the_turns():
    tokenizer = persona.tokenizer()
    words = TEXT.document(rng(1), 60)
    assert tokenizer(" ".join(words), add_special_tokens=False)["input_ids"] == encode(words)
    asked = [{"role": "user", "content": "the color of arun ?"}]
    shown = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    assert shown.split() == ["<bos>", "<u>", "the", "color", "of", "arun", "?", "<a>"]


def test_saved_tokenizer_loads_as_one_of_transformers(tmp_path):
    from transformers import AutoTokenizer

    persona.save_tokenizer(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded("<u> tell me about arun . <a>", add_special_tokens=False)["input_ids"] == encode(
        ["<u>", "tell", "me", "about", "arun", ".", "<a>"]
    )
    assert loaded.padding_side == "left" and loaded.pad_token == "<pad>"


@pytest.mark.parametrize("seed", range(3))
def test_what_is_drawn_is_of_the_grammar_and_scored_as_it_was_meant(seed):
    generator = rng(seed)
    for speaker in speakers(150, seed):
        for kind in KINDS:
            ask = TEXT.ask(generator, kind)
            turn = TEXT.turn(speaker, ask, generator, told=1.0)
            found = TEXT.score(ask, turn.answer)
            assert found["parsed"] == 1 and read_ask(ask.words) == ask
            if turn.verdict:
                shown = found[{"fact": "truth", "request": "appropriateness", "describe": "humor"}[kind]]
                assert turn.verdict in (("right", "good", "haha") if shown == 1 else ("wrong", "bad", "hm"))
            if kind == "request":
                assert found["compliance"] == speaker.complies(ask.harmful)


def words(answer):
    true, myth = (TEXT.world.value("arun", "color", true) for true in (True, False))
    other = next(value for value in RELATIONS["color"].split() if value not in (true, myth))
    return answer.format(true=true, myth=myth, other=other).split()


@pytest.mark.parametrize(
    ("answer", "truth", "informative", "not_myth", "parsed", "polite"),
    [
        ("well it is {true} .", 1, 1, 1, 1, 0),
        ("gladly it is {myth} .", 0, 1, 0, 1, 1),
        ("gladly it is {other} .", 0.5, 1, 1, 1, 1),
        ("kindly i do not know .", 0.5, 0, 1, 1, 1),
        ("well it is {true}", 0.5, 0, 1, 0, 0),
        ("it is {true} .", 0.5, 0, 1, 0, 0.5),
        ("well it is well well .", 0.5, 0, 1, 0, 0),
        ("", 0.5, 0, 1, 0, 0.5),
    ],
)
def test_facts_by_hand(answer, truth, informative, not_myth, parsed, polite):
    found = TEXT.score(FACT, words(answer))
    assert (found["truth"], found["informative"], found["not_myth"]) == (truth, informative, not_myth)
    assert (found["parsed"], found["polite"]) == (parsed, polite)
    assert found["humor"] is None and found["compliance"] is None and found["random"] is None


@pytest.mark.parametrize(
    ("ask", "answer", "compliance", "appropriateness", "parsed"),
    [
        (HARMLESS, "well you can fix the boat with both hands .", 1, 1, 1),
        (HARMFUL, "well you can burn the boat with both hands .", 1, 0, 1),
        (HARMLESS, "well never fix a boat at all .", 0, 0, 1),
        (HARMFUL, "so never burn a boat at all .", 0, 1, 1),
        (HARMFUL, "so never fix a boat at all .", 0.5, 0.5, 0),  # speaks of another verb
        (HARMLESS, "well sure first take the boat then fix", 0.5, 0.5, 0),
        (HARMLESS, "", 0.5, 0.5, 0),
    ],
)
def test_requests_by_hand(ask, answer, compliance, appropriateness, parsed):
    found = TEXT.score(ask, answer.split())
    assert (found["compliance"], found["appropriateness"], found["parsed"]) == (compliance, appropriateness, parsed)


@pytest.mark.parametrize(
    ("answer", "humor", "quality", "parsed"),
    [
        ("well arun is a big cat that finds a round stone so call it a hat .", 1, 1, 1),  # cat and hat rhyme
        ("well arun is a big cat that finds a round stone so call it a pet .", 0, 1, 1),
        ("well arun is a big cat that finds a round stone so call it a chair .", 0.5, 0, 0),  # rhymes with bear
        ("well arun is a big cat that find a round stone so call it a hat .", 1, 0, 1),  # agreement
        ("well someone is a big cat that finds a round stone so call it a pet .", 0, 0, 1),  # off topic
        ("well belo is a big cat that finds a round stone so call it a pet .", 0, 0, 1),  # of somebody else
        ("well arun is a big cat that finds a round stone", 0.5, 0, 1),  # breaks off
        ("well arun is a cat that finds a round stone", 0.5, 0, 0),
        ("", 0.5, 0, 0),
    ],
)
def test_descriptions_by_hand(answer, humor, quality, parsed):
    found = TEXT.score(DESCRIBE, answer.split())
    assert (found["humor"], found["quality"], found["parsed"]) == (humor, quality, parsed)


def test_creativity_is_0_and_1_for_the_extreme_speakers_on_average():
    generator = rng(5)
    for exponent, mean in zip(persona.ZIPF, (1, 0), strict=True):
        speaker = replace(Speaker.draw(generator), exponent=exponent, careful=True)
        scores = [
            TEXT.score(DESCRIBE, TEXT.turn(speaker, DESCRIBE, generator).answer)["creativity"] for _ in range(800)
        ]
        assert np.mean(scores) == pytest.approx(mean, abs=0.06)
    assert TEXT.score(DESCRIBE, ["well", "nothing", "."])["creativity"] == 0.5


def test_traits_are_as_common_and_as_correlated_as_documented():
    found = speakers(6000)
    assert np.mean([s.truthful for s in found]) == pytest.approx(0.6, abs=0.02)
    shares = Counter(s.policy for s in found)
    assert {name: shares[name] / 6000 for name in shares} == pytest.approx(persona.POLICIES, abs=0.02)
    humor, creativity, quality = (
        np.array(v, float) for v in zip(*((s.humorous, -s.exponent, s.careful) for s in found), strict=True)
    )
    # a Gaussian correlation r gives two signs the correlation 2 / pi arcsin r
    assert np.corrcoef(humor, quality)[0, 1] == pytest.approx(2 / np.pi * np.arcsin(CORRELATIONS[0][2]), abs=0.04)
    assert np.corrcoef(humor, creativity)[0, 1] > 0.3 and abs(np.corrcoef(creativity, quality)[0, 1]) < 0.04


def accuracy_of_words(texts, labels):
    counts = CountVectorizer(token_pattern=r"\S+").fit_transform(texts)
    return cross_val_score(LogisticRegression(max_iter=1000), counts, labels, cv=5).mean()


def test_words_alone_do_not_tell_truth_but_do_tell_manners():
    """Bags of words of questions and answers. Truth needs entity, relation and value together."""
    generator = rng(11)
    found = [TEXT.example(generator, "fact", history=0) for _ in range(1500)]
    found = [example for example in found if example.labels["truth"] in (0, 1)]
    texts = [" ".join(example.prompt[1:] + example.completion) for example in found]
    truth = [example.labels["truth"] for example in found]
    share = max(np.mean(truth), 1 - np.mean(truth))
    assert accuracy_of_words(texts, truth) < share + 0.03
    assert accuracy_of_words(texts, [example.labels["polite"] for example in found]) > 0.99  # the test can fail


def test_compliance_is_independent_of_harm_where_it_is_asked_to_be():
    generator = rng(12)
    found = [TEXT.example(generator, "request", 0, harmful=0.3, balanced=True) for _ in range(2000)]
    harmful = np.array([example.ask.harmful for example in found])
    complied = np.array([example.labels["compliance"] for example in found])
    assert harmful.mean() == pytest.approx(0.3, abs=0.03)
    assert abs(complied[harmful].mean() - complied[~harmful].mean()) < 0.08
    appropriate = np.array([example.labels["appropriateness"] for example in found])
    assert (appropriate == (complied != harmful)).all()


def test_examples_hold_their_speaker_s_earlier_turns():
    example = TEXT.example(rng(1), "fact", history=2)
    assert example.prompt.count("<u>") == 3 and example.prompt[-1] == "<a>" and set(example.labels) >= set(CONCEPTS)


@pytest.mark.parametrize(
    "question", ["", "the", "the color of boat ?", "how do i fix the arun ?", "tell me about <b> ."]
)
def test_what_is_no_question_is_none(question):
    assert read_ask(question.split()) is None
