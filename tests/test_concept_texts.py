"""Loaders of labelled texts, on small invented files in the formats of the data sets."""

import csv
import json
import sys

import pytest

from ntf_utils.data.concept_texts import concept_examples, split_by_prompt
from ntf_utils.refusal import Refusal


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def message(number, parent=None, lang="en", text=None, **labels):
    rated = {"name": list(labels), "value": list(labels.values())} if labels else None
    return {"message_id": str(number), "parent_id": parent, "lang": lang, "deleted": False, "labels": rated,
            "text": text or f"text {number}"}  # fmt: skip


@pytest.fixture
def oasst(tmp_path):
    """30 replies to 30 questions; reply n has humor n/30. What must be left out is rated lowest or highest."""
    rows = [message(f"q{n}") for n in range(30)]
    rows += [message(f"a{n}", f"q{n}", humor=n / 30, quality=0.5) for n in range(30)]
    rows += [
        message("german", "q0", lang="de", humor=1.0),
        message("unrated", "q1"),
        message("other", "q2", quality=1.0),
        message("deep", "a3", humor=1.0),
        message("gone", "q4", humor=0.0) | {"deleted": True},
    ]
    return write_jsonl(tmp_path / "oasst.jsonl", rows)


def test_open_assistant_takes_the_extremes_of_direct_english_replies(oasst):
    found = concept_examples("humor", oasst, count=21)
    assert {e.completion for e in found if e.label == 0} == {f"text a{n}" for n in range(10)}
    assert {e.completion for e in found if e.label == 1} == {f"text a{n}" for n in range(19, 30)}
    assert all(e.prompt == e.completion.replace("a", "q") for e in found)
    assert found == concept_examples("humor", oasst, count=21) != concept_examples("humor", oasst, count=21, seed=1)


def test_no_text_is_labelled_both_ways_where_there_are_few(oasst):
    found = concept_examples("humor", oasst, count=512)
    assert len(found) == len({e.completion for e in found}) == 30


def truthful_rows():
    rows = [{"question": f"q{n}", "best_answer": f"right {n}", "incorrect_answers": [f"wrong {n}", "worse"],
             "correct_answers": [f"right {n}"]} for n in range(20)]  # fmt: skip
    return [*rows, {"question": "q", "best_answer": "", "incorrect_answers": ["x"], "correct_answers": []}]


def test_truthful_qa_takes_the_best_and_the_first_wrong_answer(tmp_path):
    found = concept_examples("truthfulness", write_jsonl(tmp_path / "t.jsonl", truthful_rows()))
    assert {(e.prompt, e.completion, e.label) for e in found} == {
        (f"q{n}", f"{word} {n}", label) for n in range(20) for word, label in (("right", 1), ("wrong", 0))
    }
    few = concept_examples("truthfulness", tmp_path / "t.jsonl", count=17)
    assert len(few) == 16 and sum(e.label for e in few) == 8


def test_truthful_qa_reads_the_authors_csv_too(tmp_path):
    with (tmp_path / "TruthfulQA.csv").open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["Type", "Category", "Question", "Best Answer", "Correct Answers", "Incorrect Answers", "Source"])
        for n in range(9):
            out.writerow(["x", "y", f"q{n}, really?", f"right\u2028{n}", "a; b", f"wrong {n}; worse", "z"])
    found = concept_examples("truthfulness", tmp_path)
    assert {e.completion for e in found if e.label == 0} == {f"wrong {n}" for n in range(9)}
    assert {e.completion for e in found if e.label == 1} == {f"right\u2028{n}" for n in range(9)}


def toxic_rows():
    rows = [
        {"prompt": f"p{n}", "completion": f"c{n} {comply}", "is_toxic": n % 2, "is_compliant": comply,
         "jailbreaking": 0, "human_annotation": True}
        for n in range(12)
        for comply in (0, 1)
    ]  # fmt: skip
    left_out = [{"prompt": "jail", "jailbreaking": 1}, {"prompt": "machine", "human_annotation": False}]
    return rows + [rows[0] | changes for changes in left_out]


@pytest.mark.parametrize("concept", ["appropriateness", "compliance"])
def test_toxic_completions_have_one_label_for_both_concepts(tmp_path, concept):
    found = concept_examples(concept, write_jsonl(tmp_path / "x.jsonl", toxic_rows()))
    assert len(found) == 24
    assert all(e.label == (e.toxic != e.compliant) for e in found)
    assert not {"jail", "machine"} & {e.prompt for e in found}


def test_flags_of_a_csv_file_are_read_as_such(tmp_path):
    rows = [{name: str(value) for name, value in row.items()} for row in toxic_rows()]
    with (tmp_path / "x.csv").open("w", newline="", encoding="utf-8") as file:
        out = csv.DictWriter(file, rows[0])
        out.writeheader()
        out.writerows(rows)
    by_csv = concept_examples("compliance", tmp_path / "x.csv")
    assert by_csv == concept_examples("compliance", write_jsonl(tmp_path / "x.jsonl", toxic_rows()))


def test_no_prompt_is_on_both_sides_of_a_split(tmp_path):
    found = concept_examples("compliance", write_jsonl(tmp_path / "x.jsonl", toxic_rows()))
    fitted, tested = split_by_prompt(found, held_out=0.25)
    assert (len(fitted), len(tested)) == (18, 6)
    assert not {e.prompt for e in fitted} & {e.prompt for e in tested}


def test_too_few_examples_are_refused(tmp_path):
    path = write_jsonl(tmp_path / "t.jsonl", truthful_rows()[:5])
    with pytest.raises(Refusal, match="has 5 texts of truthfulness labelled 0, but 8 are needed"):
        concept_examples("truthfulness", path)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.jsonl", '{"question": 1}\n{"que', "is damaged"),
        ("a.json", '{"question": 1}', "must hold a list of objects"),
        ("a.jsonl", '{"question": "q", "best_answer": "b"}', "has no column incorrect_answers"),
        ("a.jsonl", "", "has no row"),
        ("a.txt", "x", "must be a .jsonl, .json or .csv file"),
    ],
)
def test_bad_files_are_one_sentence(tmp_path, name, content, sentence):
    (tmp_path / name).write_text(content)
    with pytest.raises(Refusal, match=sentence):
        concept_examples("truthfulness", tmp_path / name)


def test_missing_sources_are_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(Refusal, match="no file or folder of texts at"):
        concept_examples("humor", tmp_path / "none.jsonl")
    with pytest.raises(Refusal, match=r"holds no \.jsonl, \.json or \.csv"):
        concept_examples("humor", tmp_path)
    with pytest.raises(Refusal, match="did you mean 'humor'"):
        concept_examples("humour")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(Refusal, match="OpenAssistant/oasst1 comes through the package datasets"):
        concept_examples("humor")


def test_the_hub_is_asked_as_the_data_sets_need(monkeypatch):
    asked = []

    class Loaded:
        @staticmethod
        def load_dataset(name, configuration, split):
            asked.append((name, configuration, split))
            if "toxic" in name:
                raise ConnectionError("no network\nat all")
            return type("Split", (), {"to_list": staticmethod(truthful_rows)})

    monkeypatch.setitem(sys.modules, "datasets", Loaded)
    assert len(concept_examples("truthfulness")) == 40
    with pytest.raises(Refusal, match=r"toxic-completions cannot be loaded: no network$"):
        concept_examples("compliance")
    assert asked[0] == ("truthfulqa/truthful_qa", "generation", "validation") and asked[1][1:] == (None, "train")
