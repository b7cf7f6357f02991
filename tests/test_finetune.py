"""Fine-tuning on the authors' text: a tiny GPT-2 with a tokenizer of its own, saved as a folder of transformers."""

import shutil

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn

from ntf_utils.data import torchvision_door
from ntf_utils.data.star_graphs import StarTask, draw_star_graphs, write_lines
from ntf_utils.measures.sequences import exact_match
from ntf_utils.models.causal import fingerprint, load_tokenizer
from ntf_utils.models.decoding import decode_greedily
from ntf_utils.models.pretrained import load_pretrained
from ntf_utils.papers.next_token_pitfalls import finetune
from ntf_utils.papers.next_token_pitfalls.finetune import (
    FinetuneConfig,
    StarText,
    alone,
    examine,
    finetune_path_finder,
    forced,
    lessons,
)
from ntf_utils.refusal import Refusal
from ntf_utils.training.loop import Recipe, train

assert torchvision_door  # opened first: transformers imports torchvision on its own
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast  # noqa: E402

TASK = StarTask(2, 4, 12)
CPU = torch.device("cpu")


def graphs(count, seed=0, task=TASK):
    return draw_star_graphs(task, count, torch.Generator().manual_seed(seed))


def byte_pairs(lines):
    """GPT-2's kind of tokenizer, trained until the labels are single tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(lines, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def words(*known, cut=r"\d+|."):
    """A tokenizer with a fixed list of words; every other word is unknown."""
    vocabulary = {word: number for number, word in enumerate(["<unk>", *known])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(cut), behavior="isolated")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny_gpt2")
    tokenizer = byte_pairs(write_lines(graphs(500)))
    tokenizer.save_pretrained(path)
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=48, n_embd=32, n_layer=2, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def text(folder):
    return StarText(load_tokenizer(folder), TASK, "tiny")


def tiny(folder, **changes):
    small = {
        "path_length": 4, "labels": 12, "model": str(folder), "steps": 4, "batch": 8, "learning_rate": 1e-3,
        "warmup": 1, "precision": "fp32", "train_graphs": 0, "test_graphs": 50, "looks": 2,
    }  # fmt: skip
    return FinetuneConfig(**(small | changes))


def test_tokens_are_those_of_the_tokenizer(folder, text):
    batch = graphs(300, seed=5)
    asked = text.lesson(batch)
    whole = torch.cat([asked.inputs, asked.targets[:, -1:]], dim=1)
    assert whole.tolist() == load_tokenizer(folder)(write_lines(batch))["input_ids"]
    assert load_tokenizer(folder).decode(whole[0]) == write_lines(batch)[0]
    written = [load_tokenizer(folder).decode(line) for line in asked.targets]
    assert written == [line.split("=")[1] for line in write_lines(batch)]
    assert asked.inputs.shape[1] - asked.from_position == 7 == asked.targets.shape[1]


class Reader(nn.Module):
    """Answers token by token from the text alone: plans the path, or takes any arm and follows its edges.

    `errs` makes it say the start instead, once in so many texts, always the same ones.
    """

    def __init__(self, tokenizer, plans, errs=None):
        super().__init__()
        self.tokenizer, self.plans, self.errs = tokenizer, plans, errs

    def forward(self, tokens, from_position=0):
        said = [[self.next_token(row[: end + 1]) for end in range(from_position, len(row))] for row in tokens.tolist()]
        return nn.functional.one_hot(torch.tensor(said), len(self.tokenizer)).float()

    def next_token(self, read):
        shown, rest = self.tokenizer.decode(read).split("/")
        query, answer = rest.split("=")
        start, goal = query.split(",")
        edges = [edge.split(",") for edge in shown.split("|")]
        path = [goal]
        while path[0] != start:
            path.insert(0, next(parent for parent, child in edges if child == path[0]))
        written = [label for label in answer.split(",") if label]
        if answer and not answer.endswith(","):
            word = ","
        elif self.plans:
            word = path[len(written)]
        else:
            follows = [child for parent, child in edges if written and parent == written[-1]]
            word = (follows or [start])[0]
        if self.errs and hash(tuple(read)) % self.errs == 0:
            word = start
        return self.tokenizer.convert_tokens_to_ids(word)

    def start(self, tokens):
        return self.forward(tokens, tokens.shape[1] - 1)[:, 0], tokens

    def step(self, token, tokens):
        return self.start(torch.cat([tokens, token[:, None]], dim=1))


def test_the_cheat_is_told_from_planning(folder, text, monkeypatch):
    monkeypatch.setattr(finetune, "CHUNK", 64)  # the last chunk is smaller
    batch = graphs(150)
    cheat = examine(Reader(load_tokenizer(folder), plans=False), text, batch, "fp32")
    assert 0.35 < cheat["exact"] < 0.65  # a guess between two arms
    assert cheat["hop"] == cheat["own_2"] == cheat["forced_2"] == pytest.approx(cheat["exact"])
    assert cheat["hop_given"] == cheat["wrong_arm"] == cheat["own_1"] == cheat["forced_3"] == 1
    assert cheat["own_4"] == pytest.approx(cheat["exact"])
    plan = examine(Reader(load_tokenizer(folder), plans=True), text, batch, "fp32")
    assert plan["exact"] == plan["hop"] == plan["hop_given"] == 1 and plan["wrong_arm"] == 0


def test_on_three_labels_no_label_can_follow_a_wrong_arm(folder):
    task = StarTask(2, 3, 12)
    tokenizer = load_tokenizer(folder)
    found = examine(Reader(tokenizer, plans=False), StarText(tokenizer, task, "tiny"), graphs(20, task=task), "fp32")
    assert found["wrong_arm"] is None and found["hop_given"] == 1 and "own_4" not in found


def test_one_forced_pass_gives_what_decoding_after_a_given_arm_gives(folder, text):
    """So `examine` needs no decoding for the tests of what follows the hop label."""
    model, batch = Reader(load_tokenizer(folder), plans=False, errs=7), graphs(200)
    found = examine(model, text, batch, "fp32")
    for arm, measure, end in ((0, "hop_given", 7), (1, "wrong_arm", 5)):
        path = text.path(batch, arm)
        own = decode_greedily(model, torch.cat([text.prefix(batch), path[:, :3]], dim=1), end - 3)
        assert 0 < found[measure] < 1  # else the comparison would be empty
        assert found[measure] == exact_match(own, path[:, 3:end])
    said = forced(model, text, batch, "fp32")
    assert found["exact"] == exact_match(said, text.path(batch)) > 0
    assert not torch.equal(said, alone(model, text, batch, "fp32"))


@pytest.mark.parametrize("train_graphs", [0, 20])
def test_a_run_gives_a_full_row_and_repeats_exactly(folder, train_graphs):
    config = tiny(folder, train_graphs=train_graphs, seed=3)
    outcome = finetune_path_finder(config)
    (row,) = outcome.rows
    assert row["parameters"] == sum(p.numel() for p in load_pretrained(folder).parameters())
    assert {"exact", "hop", "hop_given", "wrong_arm", "own_4", "forced_4"} <= row.keys()
    assert outcome.curves["learning"]["step"] == [0, 2, 4] and "label_4" in outcome.curves["learning"]
    assert finetune_path_finder(config) == outcome
    assert finetune_path_finder(config.but(looks=1)).rows == outcome.rows
    assert finetune_path_finder(config.but(seed=4)) != outcome


def test_the_loss_falls(folder):
    config = tiny(folder, steps=120, learning_rate=3e-3, batch=16, looks=4)
    learning = finetune_path_finder(config).curves["learning"]
    assert learning["loss"][-1] < 0.5 * torch.tensor(len(load_tokenizer(folder))).log().item()
    assert learning["label_1"][-1] > learning["label_1"][0]


def test_gpu_code_path_at_toy_size(folder, text):
    """bf16 autocast and a compiled model, here on the CPU; the compiler traces only."""
    model = load_pretrained(folder).train()
    before, losses = model.network.lm_head.weight.detach().clone(), []
    recipe = Recipe(steps=3, learning_rate=1e-3, warmup=1, beta2=0.999, precision="bf16", compiler="eager")

    def look(step, loss):
        losses.append(loss)
        assert forced(model, text, graphs(8), "bf16").shape == (8, 7)
        return False

    train(model, lessons(tiny(folder), text, torch.Generator().manual_seed(0)), recipe, look, 3)
    assert torch.isfinite(torch.tensor(losses[1:])).all()
    assert model.network.lm_head.weight.dtype == torch.float32
    assert not torch.equal(before, model.network.lm_head.weight)


def test_the_fingerprint_is_that_of_the_weights(folder, tmp_path):
    copied = shutil.copytree(folder, tmp_path / "copy")
    assert tiny(folder).data_fingerprint() == fingerprint(copied) != "generated"
    assert FinetuneConfig().data_fingerprint() == "hub openai-community/gpt2-large"
    model = load_pretrained(copied)
    with torch.no_grad():
        model.network.transformer.wte.weight.mul_(1.01)
    model.network.save_pretrained(copied)
    assert fingerprint(copied) != fingerprint(folder)  # same shapes, other values


LABELS, SIGNS = [str(label) for label in range(12)], list("|=/,")


@pytest.mark.parametrize(
    ("tokenizer", "sentence"),
    [
        (words(*LABELS, *SIGNS[1:]), r"lacks '\|', but"),
        (words(*LABELS[:-1], *SIGNS), "lacks '11', but every label below 12"),
        (words(*LABELS[:10], *SIGNS, cut="."), "writes '10' as 2 tokens, .* all lines are equally long"),
        (
            words(*LABELS, *SIGNS, "1,2", cut=r"1,2(?!\d)|\d+|."),
            "as 31 tokens, not as its 35 labels and signs one by one",
        ),
    ],
)
def test_tokenizers_that_cut_otherwise_are_refused(tokenizer, sentence):
    with pytest.raises(Refusal, match=sentence) as refusal:
        StarText(tokenizer, TASK, "tiny")
    assert "\n" not in str(refusal.value)


def test_models_that_do_not_fit_are_refused(folder, tmp_path, text):
    with pytest.raises(Refusal, match="no model folder at /no/such/folder"):
        finetune_path_finder(tiny("/no/such/folder"))
    with pytest.raises(Refusal, match="no model folder at /no/such/folder"):
        tiny("/no/such/folder").data_fingerprint()
    with pytest.raises(Refusal, match=r"a line of G\(2,6\) takes 54 tokens, but '.*' reads at most 48"):
        finetune_path_finder(tiny(folder, path_length=6))
    with pytest.raises(Refusal, match="but the model has 100 only: they do not belong together"):
        text.check_fits(vocabulary=100, context=64)
    bare = shutil.copytree(folder, tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*"))
    with pytest.raises(Refusal, match="bare holds no tokenizer"):
        finetune_path_finder(tiny(bare))


@pytest.mark.parametrize("damaged", ["config.json", "tokenizer.json", "model.safetensors"])
def test_damaged_folders_are_refused_in_one_sentence(folder, tmp_path, damaged):
    copied = shutil.copytree(folder, tmp_path / "copy")
    (copied / damaged).write_bytes((folder / damaged).read_bytes()[:50])
    with pytest.raises(Refusal, match=r"the (tokenizer of the )?model folder '.*' cannot be loaded: .") as refusal:
        finetune_path_finder(tiny(copied))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"degree": 1}, "degree must be at least 2"),
        ({"labels": 4}, "labels must be at least 7"),
        ({"steps": 0}, "steps must be greater than or equal to 1"),
        ({"beta2": 1.0}, "beta2 must be less than 1"),
        ({"precision": "fp16"}, "precision"),
        ({"modell": "gpt2"}, "did you mean 'model'"),
    ],
)
def test_impossible_configs_are_refused_in_one_sentence(folder, changes, sentence):
    with pytest.raises(Refusal, match=sentence) as refusal:
        tiny(folder, **changes)
    assert "\n" not in str(refusal.value)
