"""The paper's own experiment on a tiny model and invented texts in the formats of the data sets."""

import json
import random

import numpy as np
import pytest
import torch
import transformers as tf
from tokenizers import Tokenizer, models, pre_tokenizers

from ntf_utils.data.concept_texts import Example
from ntf_utils.papers.concept_guidance.any_model import (
    AnyModelConfig,
    AnyModelParameters,
    Guides,
    Judge,
    guide_any_model,
)
from ntf_utils.refusal import Refusal
from ntf_utils.runs import curves, sweep
from ntf_utils.show import guidance_figures

WORDS = ["<pad>", "<eos>", "<unk>", "yes", "no", "Prompt", "Reply", ":", "?", "q", "fun", "dull",
         *(f"w{number}" for number in range(40))]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny_llama")
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<eos>", pad_token="<pad>"
    ).save_pretrained(path)
    torch.manual_seed(0)
    config = tf.LlamaConfig(vocab_size=len(WORDS), hidden_size=16, intermediate_size=32, num_hidden_layers=3,
                            num_attention_heads=2, max_position_embeddings=600, initializer_range=0.3, pad_token_id=0,
                            bos_token_id=1, eos_token_id=1)  # fmt: skip
    tf.LlamaForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """OpenAssistant's and ToxicCompletions' formats: funny replies say "fun"."""
    path = tmp_path_factory.mktemp("texts")
    rng = random.Random(0)

    def said(word):
        return " ".join([word, *(f"w{rng.randrange(40)}" for _ in range(4))])

    rows = []
    for n in range(90):
        prompt = {"message_id": f"q{n}", "parent_id": None, "lang": "en", "deleted": False, "labels": None}
        rows.append(prompt | {"text": f"q w{n % 40} w{n // 40} ?"})
        labels = {"name": ["humor", "quality"], "value": [n % 2 + n / 1000, (n // 2) % 2 + n / 1000]}
        reply = {"message_id": f"a{n}", "parent_id": f"q{n}", "labels": labels}
        rows.append(prompt | reply | {"text": said("fun" if n % 2 else "dull")})
    (path / "oasst1.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [
        {"prompt": f"q w{n % 40} w{n // 40} w9", "completion": said("fun" if comply else "dull"), "is_toxic": n % 2,
         "is_compliant": comply, "jailbreaking": 0, "human_annotation": True}
        for n in range(60) for comply in (0, 1)
    ]  # fmt: skip
    (path / "toxic-completions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def tiny(folder, texts, **changes):
    small = {
        "model": str(folder), "judge": str(folder), "concept": "humor", "source": str(texts / "oasst1.jsonl"),
        "replies_source": str(texts / "oasst1.jsonl"), "precision": "float32", "examples": 24, "prompts": 6,
        "replies": 3, "shots": 4, "new_tokens": 4, "tops": (1, 2), "norm_strengths": (0.5, 2.0), "rows": 16,
        "residual_strengths": (0.5,), "probes": ("difference",),
    }  # fmt: skip
    return AnyModelConfig(**(small | changes))


def test_a_run_gives_every_cell_its_null_and_repeats_exactly(folder, texts, tmp_path, monkeypatch):
    monkeypatch.setenv("NTF_STORE", str(tmp_path))
    config = tiny(folder, texts, sites=("norm", "residual"), probes=("logistic", "difference"), tops=(2,))
    table = sweep(guide_any_model, [config], workers=0)
    assert len(table) == 2 * 2 and table["picked"].sum() == 1
    assert {"pnes", "pnes_95", "reach", "reach_95", "reference", "chosen"} <= set(table)
    assert (table.groupby("site")["accuracy"].max() > 0.6).all(), "the first token tells the label"
    assert (table["pnes_95"] > 0).any() and table["judge_accuracy"].between(0, 1).all()
    again = guide_any_model(config)
    assert again.rows == [{name: row[name] for name in again.rows[0]} for row in table.to_dict("records")]
    tradeoff = curves(table, "tradeoff")
    assert len(tradeoff) == 2 * 5 + 2 * 3 and tradeoff["score"].between(0, 1).all()
    layers = curves(table, "layers").assign(concept="humor")
    guidance_figures.detection_by_layer(layers)
    guidance_figures.tradeoff_curves(tradeoff.assign(concept="humor"), curves(table, "band"), "norm", 2, ["humor"])


def test_no_prompt_is_used_for_two_things(texts, folder):
    guides = Guides(tiny(folder, texts))
    split = guides.split
    used = [{e.prompt for e in part} for part in (split.shots, split.train, split.held_out + split.prompts)]
    assert not (used[0] & used[1] or used[0] & used[2] or used[1] & used[2])
    assert (len(split.shots), len(split.train), len(split.prompts)) == (4, 24, 6)
    assert len(guides.replies) == 3 and all(e.completion for e in guides.replies)
    assert not {e.prompt for e in guides.replies} & set().union(*used)


def test_appropriateness_is_compliance_xor_toxic(texts, folder, monkeypatch):
    source = str(texts / "toxic-completions.jsonl")
    scored = {}
    for concept in ("compliance", "appropriateness"):
        guides = Guides(tiny(folder, texts, concept=concept, source=source))
        monkeypatch.setattr(guides.judge, "scores", lambda prompts, replies: np.full(len(replies), 0.9))
        scored[concept] = guides._scores(guides.split.prompts, ["w1"] * 6)
        toxic = [e.toxic for e in guides.split.prompts]
    assert set(toxic) == {True, False}
    assert scored["compliance"].tolist() == [0.9] * 6
    np.testing.assert_allclose(scored["appropriateness"], [0.1 if bad else 0.9 for bad in toxic])


class Copies(torch.nn.Module):
    """A model that answers yes after a text whose last reply begins with "fun"."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.config = tf.LlamaConfig(max_position_embeddings=600)

    def forward(self, input_ids, attention_mask, use_cache):
        fun, dull, yes, no = (WORDS.index(word) for word in ("fun", "dull", "yes", "no"))
        logits = torch.zeros(*input_ids.shape, len(WORDS))
        for row, tokens in enumerate(input_ids.tolist()):
            last = max(place for place, token in enumerate(tokens) if token in (fun, dull))
            logits[row, -1, yes if tokens[last] == fun else no] = 3.0
        return type("Read", (), {"logits": logits})


def test_the_judge_compares_yes_with_no(folder):
    tokenizer = tf.AutoTokenizer.from_pretrained(folder, padding_side="left")
    shots = [Example("q w1", "fun w2", 1), Example("q w3", "dull w4", 0)]
    judge = Judge(Copies(), tokenizer, "humor", shots, rows=2)
    found = judge.scores(["q w5"] * 3, ["fun w6", "dull w7 w8 w9", "fun"])
    np.testing.assert_allclose(found, [1 / (1 + np.exp(-3)), 1 / (1 + np.exp(3)), 1 / (1 + np.exp(-3))], rtol=1e-5)
    assert judge.right([*shots, Example("q", "dull", 1)]) == pytest.approx(2 / 3)
    with pytest.raises(Refusal, match="reads at most 600: ask for fewer shots"):
        Judge(Copies(), tokenizer, "humor", 30 * shots, rows=2).scores(["q"], ["fun"])
    assert judge.lead.count("yes") == judge.lead.count("no") == 1


def test_a_base_model_reads_dialogues_first_and_writes_a_line(folder, texts):
    guides = Guides(tiny(folder, texts, base=True))
    assert len(guides.history) == 4
    tokens, _, answers = guides._encoded(guides.split.train[:2])
    plain, _, same = Guides(tiny(folder, texts))._encoded(guides.split.train[:2])
    assert tokens.shape[1] > plain.shape[1] and answers.sum() == same.sum()
    written = torch.tensor([[12, 13, 1, 1], [14, 15, 16, 17]])
    assert guides._spoken(written, torch.tensor([True, True])) == ["w0 w1", "w2 w3 w4 w5"]
    assert guides._spoken(written, torch.tensor([False, True]))[0] == ""


def test_the_fingerprint_follows_models_and_texts(folder, texts, tmp_path):
    config = tiny(folder, texts)
    copy = tmp_path / "oasst1.jsonl"
    copy.write_bytes((texts / "oasst1.jsonl").read_bytes())
    assert tiny(folder, texts, source=str(copy)).data_fingerprint() == config.data_fingerprint()
    copy.write_bytes(copy.read_bytes() + b"\n")
    assert tiny(folder, texts, source=str(copy)).data_fingerprint() != config.data_fingerprint()
    assert "hub OpenAssistant/oasst1" in tiny(folder, texts, source="").data_fingerprint()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"tops": (4,)}, "tops must be at most 3, the layers of"),
        ({"examples": 82}, "too few for 4 shots, 82 examples and 6 prompts"),
        ({"new_tokens": 700}, "reads at most 600: ask for fewer new_tokens"),
        ({"source": "./nowhere.jsonl"}, "no file or folder of texts"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_sentence(folder, texts, changes, sentence):
    with pytest.raises(Refusal, match=sentence) as refused:
        guide_any_model(tiny(folder, texts, **changes))
    assert "\n" not in str(refused.value)


def test_impossible_configs_are_refused(folder, texts):
    with pytest.raises(Refusal, match=r"no model folder at \./none"):
        guide_any_model(tiny(folder, texts, model="./none"))
    with pytest.raises(Refusal, match="belongs to one site"):
        tiny(folder, texts, path="model.layers[*].input_layernorm", sites=("norm", "residual"))
    with pytest.raises(Refusal, match="tops must be at least 1"):
        tiny(folder, texts, tops=(0,))


def test_parameters_name_runs_only_where_a_model_is_named(texts):
    about = {
        "profile": "paper", "models": [], "base_models": [], "judge": "a/judge", "concepts": ["humor"],
        "source_folder": str(texts), "precision": "float16", "quantize": 4, "data_seeds": 2,
        "pretrained_sites": ["norm"], "pretrained_tops": [16], "pretrained_strengths": [8, 64],
        "pretrained_unit": "absolute", "pretrained_examples": 512, "pretrained_prompts": 64, "pretrained_replies": 128,
        "new_tokens": 196, "at_once": 32,
    }  # fmt: skip
    assert AnyModelParameters(**about).guides() == []
    first, second = AnyModelParameters(**(about | {"models": ["some/model"], "base_models": ["some/model"]})).guides()
    assert (first.seed, second.seed, first.judge, first.quantize, first.base) == (0, 1, "a/judge", 4, True)
    assert first.source == str(texts / "oasst1.jsonl") == first.replies_source
    assert first.strengths("norm") == [-64, -8, 0, 8, 64]
    with pytest.raises(Refusal, match="concept must be 'humor'"):
        AnyModelParameters(**(about | {"models": ["some/model"], "concepts": ["humour"]}))
    with pytest.raises(Refusal, match="'other', which is not in models"):
        AnyModelParameters(**(about | {"base_models": ["other"]}))


def test_strengths_may_be_absolute(folder, texts):
    (rows, _, _), unit = Guides(tiny(folder, texts)).rows_of(Guides(tiny(folder, texts)).split.train, "norm")
    torch.testing.assert_close(unit, rows.norm(dim=-1).median(dim=0).values)
    guides = Guides(tiny(folder, texts, unit="absolute"))
    assert guides.rows_of(guides.split.train, "norm")[1].tolist() == [1, 1, 1]
