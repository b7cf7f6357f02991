"""Scores of written answers against pycocoevalcap; boxes, retrieval and purity against scikit-learn and by hand."""

import shutil
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
from sklearn.metrics import precision_recall_curve, top_k_accuracy_score
from sklearn.neighbors import NearestNeighbors

from ntf_utils.measures import answers, boxes, retrieval
from ntf_utils.measures.answers import answer_scores, bleu, cider, exact_match, rouge_l
from ntf_utils.refusal import Refusal

VOCABULARY = ["red", "blue", "chair", "table", "left", "of", "the", "door", "two", "on", "big"]


def written(questions=200, seed=0, longest=6):
    """Answers and one to three references each, of a few words; a third of the answers are right."""
    rng = np.random.default_rng(seed)

    def text():
        return " ".join(rng.choice(VOCABULARY, rng.integers(1, longest + 1)))

    references = [[text() for _ in range(rng.integers(1, 4))] for _ in range(questions)]
    return [known[0] if rng.random() < 0.3 else text() for known in references], references


def as_theirs(said, references):
    return dict(enumerate(references)), {place: [answer] for place, answer in enumerate(said)}


@pytest.mark.parametrize(("questions", "seed", "longest"), [(200, 0, 6), (40, 1, 1), (2, 2, 5), (1, 3, 6)])
def test_scores_are_those_of_the_coco_scorers(questions, seed, longest):
    said, references = written(questions, seed, longest)
    theirs = as_theirs(said, references)
    np.testing.assert_allclose(bleu(said, references), Bleu().compute_score(*theirs, verbose=0)[0], atol=1e-12)
    np.testing.assert_allclose(rouge_l(said, references), Rouge().compute_score(*theirs)[1], atol=1e-12)
    np.testing.assert_allclose(cider(said, references), Cider().compute_score(*theirs)[1], atol=1e-12)


@pytest.mark.skipif(shutil.which("java") is None, reason="the COCO scorers' tokenizer is a Java program")
def test_words_are_those_of_their_tokenizer():
    texts = [
        "It's red.", "2 chairs", "brown, and white", "don't know", "black & white", 'the "big" one', "yes!",
        "next to it; behind", "and/or", "5.5 feet", "10:30", "chairs' legs", "I cannot tell", "can't", "2nd from left",
        "l-shaped", "$5", "café", "what's this?", "trash cans...", "the one -- on the left", "he'll", "50%",
    ]  # fmt: skip
    theirs = PTBTokenizer().tokenize({place: [{"caption": text}] for place, text in enumerate(texts)})
    assert [" ".join(answers.words(text)) for text in texts] == [theirs[place][0] for place in range(len(texts))]


def test_a_right_answer_of_one_word_is_worth_a_quarter_of_one_of_four_words():
    references = [["red"], ["left of the door"], ["blue"], ["two"]]
    right = [known[0] for known in references]
    np.testing.assert_allclose(cider(right, references), [2.5, 10, 2.5, 2.5])
    assert bleu(right, references) == pytest.approx([1, 1, 1, 1])
    assert rouge_l(right, references).tolist() == [1, 1, 1, 1]
    # a wrong answer of one word leaves BLEU-4 as it is: no 4-gram of it is counted
    assert bleu(["red", "left of the door", "blue", "no"], references)[3] == pytest.approx(0.857**0.25, abs=1e-3)


def test_exact_match_takes_strings_as_they_are():
    ranked = [["red", "blue"], ["a chair", "two"], ["Yes", "no"]]
    references = [("blue", "navy"), ("chair",), ("yes",)]
    assert exact_match(ranked, references).tolist() == [False, False, False]
    assert exact_match(ranked, references, k=2).tolist() == [True, False, False]
    found = answer_scores(ranked, references, ks=(1, 2))
    assert list(found) == ["em_1", "em_2", "bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider"]
    assert (found["em_1"], found["em_2"]) == (0, pytest.approx(1 / 3))
    assert found["rouge_l"] == pytest.approx(rouge_l(["red", "a chair", "Yes"], references).mean())


@pytest.mark.parametrize(
    ("said", "references", "words"),
    [
        ([], [], "no answers to score"),
        (["red"], [["red"], ["blue"]], "1 answers need as many lists of references"),
        (["red", "blue"], [["red"], []], "question 1 has no list of reference answers"),
        (["red"], ["red"], "question 0 has no list of reference answers"),
    ],
)
def test_answers_that_cannot_be_scored_are_refused(said, references, words):
    for score in (bleu, rouge_l, cider, answers.java_scores):
        with pytest.raises(Refusal, match=words):
            score(said, references)
    with pytest.raises(Refusal, match=words):
        answer_scores([[answer] for answer in said], references)


def test_answers_without_ranks_are_refused():
    with pytest.raises(Refusal, match="question 1 has no list of answers, best first"):
        exact_match([["red"], []], [["red"], ["red"]])
    with pytest.raises(Refusal, match="question 0 has no answer as text"):
        bleu([["red"]], [["red"]])
    with pytest.raises(Refusal, match="k of 1 or more"):
        exact_match([["red"]], [["red"]], k=0)


def test_java_scores_are_left_out_where_they_are_not_installed(monkeypatch, tmp_path):
    """The real METEOR takes ten seconds to start, so its place is taken by one that says what it was given."""
    said, references = ["It's red."], [["red", "a red one"]]
    monkeypatch.setattr(answers, "_scorers_folder", lambda: None)
    assert answers.java_scores(said, references) == {}
    monkeypatch.setattr(answers, "_scorers_folder", lambda: tmp_path)
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    assert answers.java_scores(said, references) == {}
    (tmp_path / "meteor").mkdir()
    (tmp_path / "meteor" / "meteor-1.5.jar").touch()
    module = ModuleType("pycocoevalcap.meteor.meteor")

    class Meteor:
        def compute_score(self, known, answered):
            assert (known, answered) == ({0: ["red", "a red one"]}, {0: ["it 's red"]})
            return 0.25, [0.25]

    module.Meteor = Meteor
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert answers.java_scores(said, references) == {"meteor": 0.25}
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert answers.java_scores(said, references) == {}


# boxes


def test_overlap_counts_little_cubes():
    generator = torch.Generator().manual_seed(0)
    low = torch.randint(0, 6, (12, 3), generator=generator)
    size = torch.randint(1, 5, (12, 3), generator=generator)
    cubes = torch.stack(torch.meshgrid(*[torch.arange(12)] * 3, indexing="ij"), -1).reshape(-1, 1, 3)
    inside = ((cubes >= low) & (cubes < low + size)).all(-1).float()  # [cubes, boxes]
    shared = inside.T @ inside
    expected = shared / (inside.sum(0)[:, None] + inside.sum(0) - shared)
    some = torch.cat([low + size / 2, size.float()], dim=1)
    torch.testing.assert_close(boxes.iou(some, some), expected)
    assert float(expected.max()) == 1 and 0 < float((expected == 0).float().mean()) < 1
    torch.testing.assert_close(boxes.iou(some.view(3, 4, 6), some.view(3, 4, 6))[1], expected[4:8, 4:8])


def test_localisation_takes_the_best_of_the_objects_asked_about():
    unit = torch.tensor([0.0, 0, 0, 1, 1, 1])
    half = torch.tensor([0.5, 0, 0, 1, 1, 1])  # overlaps the unit box by a third
    far = torch.tensor([9.0, 0, 0, 1, 1, 1])
    truth = torch.stack([torch.stack([far, half]), torch.stack([far, unit]), torch.stack([far, unit])])
    there = torch.tensor([[True, True], [True, True], [True, False]])
    found = boxes.best_iou(unit.expand(3, 6), truth, there)
    torch.testing.assert_close(found, torch.tensor([1 / 3, 1, 0]))
    assert boxes.localised(unit.expand(3, 6), truth, there).tolist() == [True, True, False]
    assert boxes.localised(unit.expand(3, 6), truth, there, 0.5).tolist() == [False, True, False]
    assert boxes.localised(unit.expand(3, 6), truth).tolist() == [True, True, True]


def test_boxes_that_are_none_are_refused():
    flat = torch.tensor([[0.0, 0, 0, 1, 0, 1]])
    assert boxes.iou(flat, flat).tolist() == [[0]]  # no volume, no overlap
    with pytest.raises(Refusal, match=r"6 numbers \(got 7\)"):
        boxes.iou(torch.zeros(1, 7), flat)
    with pytest.raises(Refusal, match="negative"):
        boxes.iou(flat, -flat)


def test_average_precision_punishes_second_claims_and_misses():
    truth = torch.tensor([[0.0, 0, 0, 1, 1, 1], [3, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1]])
    truth_rooms = torch.tensor([0, 0, 1])
    found = truth[[0, 0, 1]]
    scores = torch.tensor([0.9, 0.8, 0.7])
    rooms = torch.tensor([0, 0, 0])
    # right, wrong (claimed before), right, and one object never found: precision 1 up to 1/3, then 2/3 up to 2/3
    assert boxes.average_precision(scores, found, rooms, truth, truth_rooms) == pytest.approx(1 / 3 + 2 / 9)
    assert boxes.average_precision(scores, found, rooms + 1, truth, truth_rooms) == pytest.approx(1 / 3)
    assert boxes.average_precision(scores[:0], found[:0], rooms[:0], truth, truth_rooms) == 0
    with pytest.raises(Refusal, match="at least one true object"):
        boxes.average_precision(scores, found, rooms, truth[:0], truth_rooms[:0])


def test_average_precision_is_the_area_under_the_envelope_of_scikit_learns_curve():
    generator = torch.Generator().manual_seed(1)
    truth = torch.cat([torch.arange(30.0)[:, None] * 5, torch.zeros(30, 2), torch.ones(30, 3)], dim=1)
    found = torch.cat([truth, truth + torch.tensor([2.5, 0, 0, 0, 0, 0])])  # the second half hits nothing
    right = (torch.arange(60) < 30).numpy()
    rooms = torch.zeros(60)
    for scores in (torch.rand(60, generator=generator), torch.arange(60, 0, -1.0)):
        ours = boxes.average_precision(scores, found, rooms, truth, rooms[:30])
        precision, recall, _ = precision_recall_curve(right, scores.numpy())  # recall falls from 1 to 0
        best = np.maximum.accumulate(precision)  # at this recall or a higher one
        assert ours == pytest.approx(float((best[:-1] * -np.diff(recall)).sum()))
    assert ours == pytest.approx(1)


# retrieval


def test_recall_is_scikit_learns_top_k_accuracy():
    generator = torch.Generator().manual_seed(0)
    queries, items = torch.randn(64, 8, generator=generator), torch.randn(20, 8, generator=generator)
    truth = torch.arange(64) % 20
    close = retrieval.similarity(queries + items[truth], items)
    for k in (1, 5, 19):
        theirs = top_k_accuracy_score(truth.numpy(), close.numpy(), k=k, labels=np.arange(20))
        assert retrieval.recall_at(close, truth, k) == pytest.approx(theirs)
    assert retrieval.recall_at(close, truth, 1) == pytest.approx(
        retrieval.zero_shot(queries + items[truth], 3 * items, truth)
    )


def test_one_vector_for_every_scene_retrieves_by_chance():
    scenes, captions = torch.ones(50, 4), torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    truth = torch.arange(50)
    for close in (retrieval.similarity(scenes, captions), retrieval.similarity(captions, scenes)):
        assert retrieval.recall_at(close, truth, 1) == pytest.approx(1 / 50)
        assert retrieval.recall_at(close, truth, 5) == pytest.approx(5 / 50)
    with pytest.raises(Refusal, match="R@51 needs at least 51 items"):
        retrieval.recall_at(close, truth, 51)
    with pytest.raises(Refusal, match="number of its item, below 50"):
        retrieval.recall_at(close, truth + 1)
    with pytest.raises(Refusal, match="3 dimensions cannot meet items of 4"):
        retrieval.similarity(scenes[:, :3], captions)


def test_purity_is_that_of_scikit_learns_neighbours():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 4
    features = torch.randn(120, 6, generator=generator)
    features[:, :4] += 1.5 * torch.nn.functional.one_hot(labels)
    found = retrieval.purity(features, labels, permutations=300)
    rows = NearestNeighbors(n_neighbors=5, metric="cosine").fit(features.numpy()).kneighbors(return_distance=False)
    assert found.value == pytest.approx((labels[rows] == labels[:, None]).double().mean().item())
    assert found.chance == pytest.approx(29 / 119, abs=0.005)  # of an item's 119 others 29 share its label
    assert found.chance < found.chance_95 < found.value
    told_nothing = retrieval.purity(torch.randn(120, 6, generator=generator), labels, permutations=300)
    assert abs(told_nothing.value - told_nothing.chance) < 0.06
    collapsed = retrieval.purity(torch.ones(120, 6), labels, permutations=300)
    assert collapsed.value <= collapsed.chance_95 + 0.01
    with pytest.raises(Refusal):
        retrieval.purity(features[:5], labels[:5])


def test_a_constant_prediction_has_a_high_cosine_and_a_centred_one_of_nothing():
    generator = torch.Generator().manual_seed(0)
    targets = torch.randn(100, 16, generator=generator) + 4 * torch.randn(16, generator=generator)
    floor = retrieval.constant_cosine(targets)
    mean = torch.nn.functional.normalize(targets, dim=1).mean(dim=0)
    assert floor == pytest.approx(float(mean.norm()), abs=1e-6) and floor > 0.9
    others = mean + 0.02 * torch.randn(50, 16, generator=generator)
    assert all(retrieval.mean_cosine(vector.expand(100, 16), targets) <= floor + 1e-6 for vector in others)
    assert retrieval.constant_cosine(targets, targets[:3]) < floor
    constant = (7 * mean).expand(100, 16)
    assert retrieval.centred_cosine(constant, targets) == 0
    assert retrieval.centred_cosine(3 * targets, targets) == pytest.approx(1)
    assert abs(retrieval.centred_cosine(targets.roll(1, 0), targets)) < 0.1
    assert retrieval.mean_cosine(targets.roll(1, 0), targets) > 0.85
    assert retrieval.spread(constant) < 1e-6 < 0.1 < retrieval.spread(targets) < 1


def test_a_map_keeps_groups_together_and_draws_equal_features_as_one_point():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    features = torch.randn(60, 12, generator=generator) + 6 * torch.nn.functional.one_hot(labels, 12)
    drawn = retrieval.flat_map(features)
    assert drawn.shape == (60, 2) and float(drawn.abs().max()) == 1
    rows = NearestNeighbors(n_neighbors=5).fit(drawn.numpy()).kneighbors(return_distance=False)
    assert (labels[rows] == labels[:, None]).double().mean() > 0.95
    assert torch.equal(drawn, retrieval.flat_map(features))
    assert not retrieval.flat_map(torch.ones(10, 3)).any()
    with pytest.raises(Refusal, match="four features or more"):
        retrieval.flat_map(features[:3])
