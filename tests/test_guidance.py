"""Guidance of causal language models: tiny models of five families, against plain re-implementations."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import curve_fit
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn

from ntf_utils.data import torchvision_door
from ntf_utils.measures.concept_probes import accuracy, fit_probe, random_directions, token_rows
from ntf_utils.measures.guidance import cross_effects, fit_guidance, null_band
from ntf_utils.models.causal import fingerprint, load_causal
from ntf_utils.models.dialogues import dialogue, encode, encode_answers
from ntf_utils.models.guidance import (
    FAMILIES,
    Directions,
    activations,
    generate,
    guided,
    median_norm,
    perplexity,
    row_draws,
    site_modules,
)
from ntf_utils.refusal import Refusal

assert torchvision_door  # opened first: transformers imports torchvision on its own
import transformers as tf  # noqa: E402

WORDS = ["<pad>", "<eos>", "<unk>", *(f"w{number}" for number in range(37))]
LAYERS, WIDTH, PROMPTS = 3, 16, 5
SMALL = {
    "vocab_size": len(WORDS), "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 2,
    "intermediate_size": 32, "max_position_embeddings": 64, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1,
}  # fmt: skip
GPT2 = {
    "vocab_size": len(WORDS), "n_embd": WIDTH, "n_layer": LAYERS, "n_head": 2, "n_positions": 64, "pad_token_id": 0,
    "eos_token_id": 1, "bos_token_id": 1,
}  # fmt: skip
OPT = SMALL | {"ffn_dim": 32, "word_embed_proj_dim": WIDTH}
CONFIGS = {
    "llama": lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**SMALL)),
    "mistral": lambda: tf.MistralForCausalLM(tf.MistralConfig(**SMALL, num_key_value_heads=1, sliding_window=6)),
    "qwen2": lambda: tf.Qwen2ForCausalLM(tf.Qwen2Config(**SMALL, num_key_value_heads=1)),
    "gpt2": lambda: tf.GPT2LMHeadModel(tf.GPT2Config(**GPT2)),
    "gpt_neox": lambda: tf.GPTNeoXForCausalLM(tf.GPTNeoXConfig(**SMALL)),
    "opt": lambda: tf.OPTForCausalLM(tf.OPTConfig(**{k: v for k, v in OPT.items() if k != "intermediate_size"})),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Models this small only lose by more threads, and much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """family -> a folder as transformers writes it, with a tokenizer."""
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = tf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<eos>")
    made = {}
    for family, build in CONFIGS.items():
        torch.manual_seed(0)
        model = build()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim > 1 and "norm" not in name:
                    parameter.normal_(std=0.35)  # else a random model says one token whatever it reads
        made[family] = tmp_path_factory.mktemp(family)
        model.save_pretrained(made[family])
        fast.save_pretrained(made[family])
    return made


@pytest.fixture(scope="module")
def loaded(folders):
    return {family: load_causal(folder)[0] for family, folder in folders.items()}


@pytest.fixture
def prompts():
    """[5, 9] tokens and mask, padded on the left by 0 to 4."""
    tokens = torch.randint(3, len(WORDS), (PROMPTS, 9), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(tokens)
    for row in range(PROMPTS):
        tokens[row, :row], mask[row, :row] = 0, 0
    return tokens, mask


def directions(site="norm", seed=0):
    vectors = 3 * random_directions(1, LAYERS, WIDTH, seed)[0]  # lengths do not matter
    return Directions(vectors, "humor", "random", site, "a model", torch.tensor([0.6, 0.9, 0.6]))


def bare(tokens, mask, row):
    return tokens[row : row + 1, mask[row].bool()]


class Turned(nn.Module):
    """A norm and the guide behind it: the plain way to guide one layer with one strength."""

    def __init__(self, norm, vector, strength):
        super().__init__()
        self.norm, self.vector, self.strength = norm, vector, strength

    def forward(self, x):
        x = self.norm(x)
        moved = x + self.strength * self.vector / self.vector.norm()
        return moved * x.norm(dim=-1, keepdim=True) / moved.norm(dim=-1, keepdim=True)


def plainly(model, family, vectors, layers, strength, tokens, new):
    """Greedy text of one prompt, norms exchanged for guided ones, no cache."""
    stem, norm = FAMILIES[family][0].split("[*].")
    blocks = model.get_submodule(stem)
    old = {layer: getattr(blocks[layer], norm) for layer in layers}
    try:
        for layer in layers:
            setattr(blocks[layer], norm, Turned(old[layer], vectors[layer], strength))
        with torch.no_grad():
            for _ in range(new):
                logits = model(tokens, use_cache=False).logits[:, -1]
                tokens = torch.cat([tokens, logits.argmax(1, keepdim=True)], dim=1)
    finally:
        for layer in layers:
            setattr(blocks[layer], norm, old[layer])
    return tokens[0, -new:]


@pytest.mark.parametrize("family", CONFIGS)
class TestFamilies:
    def test_a_batch_of_strengths_equals_the_plain_way(self, loaded, prompts, family):
        model, (tokens, mask), guide = loaded[family], prompts, directions()
        strengths = torch.tensor([0.0, 2.0, -5.0, 9.0, 1.0])
        with guided(model, guide, (0, 2), strengths):
            written = generate(model, tokens, mask, 8)
        plain = [
            plainly(model, family, guide.vectors, (0, 2), float(strengths[row]), bare(tokens, mask, row), 8)
            for row in range(PROMPTS)
        ]
        assert torch.equal(written.tokens, torch.stack(plain)) and written.finite.all()
        assert not torch.equal(written.tokens, generate(model, tokens, mask, 8).tokens)

    @pytest.mark.parametrize("site", ["norm", "residual"])
    @pytest.mark.parametrize("since", [0, 8])
    def test_cache_on_and_off_say_the_same(self, loaded, prompts, family, site, since):
        model, (tokens, mask) = loaded[family], prompts
        with guided(model, directions(site), (1, 2), torch.linspace(-6, 6, PROMPTS), since=since):
            on, off = (generate(model, tokens, mask, 8, cache=cache) for cache in (True, False))
        assert torch.equal(on.tokens, off.tokens)

    def test_activations_are_the_models_own_and_zero_at_padding(self, loaded, prompts, family):
        model, (tokens, mask) = loaded[family], prompts
        residual, norm = (activations(model, tokens, mask, site, batch=2) for site in ("residual", "norm"))
        assert residual.shape == norm.shape == (PROMPTS, 9, LAYERS, WIDTH)
        assert not residual[3, :3].any() and residual[3, 3:].any()
        with torch.no_grad():
            hidden = model(bare(tokens, mask, 3), output_hidden_states=True).hidden_states
        for layer in range(LAYERS - 1):  # transformers puts the final norm on the last
            torch.testing.assert_close(residual[3, 3:, layer], hidden[layer + 1][0], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(
                site_modules(model, "norm")[layer + 1](residual[:1, :, layer]), norm[:1, :, layer + 1],
                rtol=1e-4, atol=1e-5,
            )  # fmt: skip

    def test_the_residual_is_turned_and_keeps_its_length(self, loaded, prompts, family):
        model, (tokens, mask), guide = loaded[family], prompts, directions("residual")
        before = activations(model, tokens[:1], mask[:1], "residual")
        unit = guide.vectors[1] / guide.vectors[1].norm()
        hooked = []
        with guided(model, guide, (1,), torch.tensor([4.0])):
            handle = site_modules(model, "residual")[1].register_forward_hook(lambda m, i, made: hooked.append(made))
            model(tokens[:1])
            handle.remove()
        after = hooked[0][0] if isinstance(hooked[0], tuple) else hooked[0]
        moved = before[0, :, 1] + 4 * unit
        right = moved * (before[0, :, 1].norm(dim=-1) / moved.norm(dim=-1))[:, None]
        torch.testing.assert_close(after[0], right, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(after[0].norm(dim=-1), before[0, :, 1].norm(dim=-1), rtol=1e-4, atol=1e-4)


def hooks_of(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


class TestGuided:
    def test_hooks_are_removed_also_after_an_error(self, loaded, prompts):
        model, (tokens, mask) = loaded["llama"], prompts
        before, own = generate(model, tokens, mask, 6).tokens, hooks_of(model)  # transformers leaves some of its own
        with pytest.raises(ZeroDivisionError), guided(model, directions(), (0, 1), torch.full((PROMPTS,), 9.0)):
            assert hooks_of(model) > own
            raise ZeroDivisionError
        too_few = pytest.raises(Refusal, match="5 strengths were given, but the batch has 2 rows")
        with too_few, guided(model, directions(), (0,), torch.ones(5)):
            activations(model, tokens[:2], mask[:2], "norm")
        with pytest.raises(Refusal), guided(model, directions(), (7,), torch.ones(PROMPTS)):
            pass
        assert hooks_of(model) == own
        assert torch.equal(generate(model, tokens, mask, 6).tokens, before)

    def test_rows_may_have_directions_of_their_own(self, loaded, prompts):
        model, (tokens, mask), guide = loaded["gpt2"], prompts, directions()
        vectors = random_directions(PROMPTS, LAYERS, WIDTH, seed=4)
        vectors[1, 0] = 0  # this row leaves layer 0 alone
        with guided(model, guide, (0, 1), torch.full((PROMPTS,), 5.0), vectors=vectors):
            together = generate(model, tokens, mask, 6).tokens
        for row in range(PROMPTS):
            alone = Directions(vectors[row], "x", "x", "norm", "x", torch.ones(LAYERS))
            with guided(model, alone, (1,) if row == 1 else (0, 1), torch.tensor([5.0])):
                said = generate(model, bare(tokens, mask, row), mask[row : row + 1, mask[row].bool()], 6).tokens
            assert torch.equal(said[0], together[row])

    def test_strength_0_changes_nothing_at_all(self, loaded, prompts):
        model, (tokens, mask) = loaded["llama"], prompts
        with guided(model, directions(), (0, 1, 2), torch.zeros(PROMPTS)):
            assert torch.equal(activations(model, tokens, mask, "norm"), activations(model, tokens, mask, "norm"))
            inside = model(tokens).logits
        assert torch.equal(inside, model(tokens).logits)

    def test_only_what_comes_after_is_guided(self, loaded, prompts):
        model, (tokens, mask) = loaded["llama"], prompts
        plain = activations(model, tokens, mask, "residual")
        with guided(model, directions("residual"), (0,), torch.full((PROMPTS,), 3.0), since=6):
            late = activations(model, tokens, mask, "residual")
        assert torch.equal(late[:, :6], plain[:, :6])
        assert (late[:, 6:, 0] != plain[:, 6:, 0]).any()

    def test_a_cache_of_another_strength_is_refused(self, loaded, prompts):
        model, tokens = loaded["llama"], prompts[0]
        old = model(tokens[:1], use_cache=True).past_key_values
        with guided(model, directions(), (0,), torch.ones(1)):
            with pytest.raises(Refusal, match="start a new one when the guide changes"):
                model(tokens[:1, -1:], past_key_values=old)
            own = model(tokens[:1], use_cache=True).past_key_values
            model(tokens[:1, -1:], past_key_values=own)

    def test_transformers_own_generation_is_guided_too(self, loaded, prompts):
        model, tokens = loaded["llama"], prompts[0]
        with guided(model, directions(), (0, 2), torch.tensor([6.0])):
            ours = generate(model, tokens[:1], torch.ones_like(tokens[:1]), 6).tokens
            theirs = model.generate(
                tokens[:1], attention_mask=torch.ones_like(tokens[:1]), max_new_tokens=6, do_sample=False,
                eos_token_id=None,
            )  # fmt: skip
        assert torch.equal(ours[0], theirs[0, 9:])

    @pytest.mark.parametrize("precision", ["bfloat16", "float16"])
    @pytest.mark.parametrize("keep_norm", [True, False])
    def test_a_strength_that_overflows_is_reported_row_by_row(self, folders, prompts, precision, keep_norm):
        model, (tokens, mask) = load_causal(folders["llama"], precision)[0], prompts
        strengths = torch.tensor([1.0, 3e38, 2.0, -3e38, 0.0])
        if keep_norm:
            assert activations(model, tokens, mask, "norm").dtype == torch.float32
        with guided(model, directions("residual"), (0, 1, 2), strengths, keep_norm=keep_norm):
            written = generate(model, tokens, mask, 4)
            loss = perplexity(model, tokens, mask, mask * (torch.arange(9) > 5))
        assert written.finite.tolist() == [True, False, True, False, True]
        assert loss.isfinite().tolist() == [True, False, True, False, True]
        assert written.tokens.min() >= 0 and written.tokens.max() < len(WORDS)

    @pytest.mark.parametrize(
        ("layers", "strengths", "sentence"),
        [
            ((3,), torch.ones(5), "layer 3 is out of range: the model has layers 0 to 2"),
            ((-1,), torch.ones(5), "layer -1 is out of range"),
            ((0,), torch.tensor([float("nan")]), "a strength is not finite"),
            ((0,), torch.ones(5, 2), r"strengths must be \[rows\]"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, loaded, layers, strengths, sentence):
        with pytest.raises(Refusal, match=sentence), guided(loaded["llama"], directions(), layers, strengths):
            pass

    def test_directions_of_another_model_are_refused(self, loaded):
        other = Directions(torch.ones(5, WIDTH), "humor", "x", "norm", "x", torch.ones(5))
        refused = pytest.raises(Refusal, match="for 5 layers, but the model has 3")
        with refused, guided(loaded["llama"], other, (0,), torch.ones(1)):
            pass


class TestSites:
    def test_an_explicit_path_serves_unknown_families(self, loaded, prompts, monkeypatch):
        model, (tokens, mask) = loaded["llama"], prompts
        usual = activations(model, tokens, mask, "norm")
        monkeypatch.setattr(model.config, "model_type", "mine")
        with pytest.raises(Refusal, match=r"layers of a 'mine' model lie is not known .* give the path"):
            site_modules(model, "norm")
        path = "model.layers[*].input_layernorm"
        assert torch.equal(activations(model, tokens, mask, "norm", path), usual)
        for wrong in ("model.layers[*].ln_9", "nowhere[*]", "lm_head[*].x"):
            with pytest.raises(Refusal, match="no modules at"):
                site_modules(model, "norm", wrong)
        with pytest.raises(Refusal, match=r"needs \[\*\]"):
            site_modules(model, "norm", "model.layers")
        with pytest.raises(Refusal, match="site must be one of"):
            site_modules(model, "heads")

    def test_median_norm_counts_kept_tokens_only(self):
        acts = torch.zeros(1, 4, 2, 3)
        acts[0, :, 0, 0] = torch.tensor([1.0, 2.0, 9.0, 50.0])
        acts[0, :, 1, 0] = torch.tensor([5.0, 5.0, 5.0, 50.0])
        assert median_norm(acts, torch.tensor([[1, 1, 1, 0]])).tolist() == [2, 5]


class TestDirections:
    def test_are_saved_with_what_they_are(self, tmp_path):
        made = directions()
        made.save(tmp_path / "humor.safetensors")
        read = Directions.load(tmp_path / "humor.safetensors")
        assert torch.equal(read.vectors, made.vectors) and torch.equal(read.accuracy, made.accuracy)
        assert (read.concept, read.probe, read.site, read.model) == ("humor", "random", "norm", "a model")

    def test_other_files_are_refused(self, tmp_path, folders):
        with pytest.raises(Refusal, match="no directions can be read"):
            Directions.load(tmp_path / "none.safetensors")
        with pytest.raises(Refusal, match="no metadata of a guide"):
            Directions.load(folders["llama"] / "model.safetensors")
        (tmp_path / "cut.safetensors").write_bytes(b"\0" * 20)
        with pytest.raises(Refusal, match="no directions can be read"):
            Directions.load(tmp_path / "cut.safetensors")

    def test_top_takes_exactly_k_and_the_earlier_of_equals(self):
        made = directions()  # accuracies .6 .9 .6
        assert made.top(1) == (1,) and made.top(2) == (0, 1) and made.top(3) == (0, 1, 2)
        with pytest.raises(Refusal, match="top_k must be from 1 to 3"):
            made.top(4)


class TestGenerate:
    def test_a_text_ends_at_a_stop_token(self, loaded, prompts):
        model, (tokens, mask) = loaded["llama"], prompts
        free = generate(model, tokens, mask, 8).tokens
        stop = int(free[0, 3])
        held = generate(model, tokens, mask, 8, stop=[stop]).tokens
        for freely, halted in zip(free.tolist(), held.tolist(), strict=True):
            end = freely.index(stop) if stop in freely else 8
            assert halted == freely[:end] + [stop] * (8 - end)

    def test_sampling_with_common_random_numbers(self, loaded, prompts):
        model, (tokens, mask) = loaded["llama"], prompts
        twice, both = tokens[:1].repeat(400, 1), mask[:1].repeat(400, 1)
        draws = row_draws(range(400), 2)
        said = generate(model, twice, both, 2, draws=draws).tokens
        assert torch.equal(said, generate(model, twice, both, 2, draws=draws, cache=False).tokens)
        with torch.no_grad():
            expected = model(tokens[:1]).logits[0, -1].softmax(0)
        seen = torch.bincount(said[:, 0], minlength=len(WORDS)) / 400
        assert (seen - expected).abs().max() < 0.1 and len(said[:, 0].unique()) > 5
        same = generate(model, twice[:2], both[:2], 2, draws=draws[:1].expand(2, -1)).tokens
        assert torch.equal(same[0], same[1])

    def test_bad_prompts_are_refused(self, loaded, prompts):
        model, (tokens, mask) = loaded["llama"], prompts
        with pytest.raises(Refusal, match="the prompt is empty"):
            generate(model, tokens, mask * 0, 3)
        with pytest.raises(Refusal, match="the prompt is empty"):
            generate(model, tokens[:, :0], mask[:, :0], 3)
        with pytest.raises(Refusal, match="padded on the left"):
            generate(model, tokens.flip(1), mask.flip(1), 3)
        with pytest.raises(Refusal, match="new_tokens must be at least 1"):
            generate(model, tokens, mask, 0)


class TestPerplexity:
    @pytest.mark.parametrize("family", ["llama", "gpt2"])
    def test_is_that_of_the_texts_one_by_one_whichever_side_is_padded(self, loaded, prompts, family):
        model, (tokens, mask) = loaded[family], prompts
        scored = mask * (torch.arange(9) >= 6)
        found = perplexity(model, tokens, mask, scored)
        for row in range(PROMPTS):
            text = bare(tokens, mask, row)
            with torch.no_grad():
                losses = nn.functional.cross_entropy(model(text).logits[0, :-1], text[0, 1:], reduction="none")
            torch.testing.assert_close(found[row], losses[-3:].mean().exp(), rtol=1e-3, atol=1e-3)
        right = [torch.stack([m[row].roll(-row) for row in range(PROMPTS)]) for m in (tokens, mask, scored)]
        torch.testing.assert_close(perplexity(model, *right), found, rtol=1e-3, atol=1e-3)

    def test_it_follows_the_guide(self, loaded, prompts):
        model, (tokens, mask) = loaded["llama"], prompts
        scored = mask * (torch.arange(9) >= 6)
        with guided(model, directions(), (0, 1, 2), torch.full((PROMPTS,), 6.0)):
            inside = perplexity(model, tokens, mask, scored)
        assert not torch.allclose(inside, perplexity(model, tokens, mask, scored), rtol=0.01)

    def test_texts_without_anything_to_score_are_refused(self, loaded, prompts):
        model, (tokens, mask) = loaded["llama"], prompts
        with pytest.raises(Refusal, match="no completion token"):
            perplexity(model, tokens, mask, mask * 0)
        with pytest.raises(Refusal, match="nothing stands before it"):
            perplexity(model, tokens, mask, mask)


class TestLoading:
    def test_is_silent(self, folders, capfd):
        load_causal(folders["llama"])
        assert capfd.readouterr() == ("", ""), "a notebook would print a bar that is never twice the same"

    def test_a_tokenizer_pads_on_the_left_and_a_fingerprint_names_the_folder(self, folders):
        _, tokenizer = load_causal(folders["llama"])
        _, mask = encode(tokenizer, ["w1 w2 w3", "w4"])
        assert mask.tolist() == [[1, 1, 1], [0, 0, 1]] and tokenizer.padding_side == "left"
        assert fingerprint(folders["llama"]).startswith("folder ")

    def test_bad_requests_are_one_sentence(self, folders, tmp_path):
        with pytest.raises(Refusal, match="no model folder at"):
            load_causal("./not/there")
        with pytest.raises(Refusal, match="precision must be one of"):
            load_causal(folders["llama"], "int3")
        with pytest.raises(Refusal, match="quantize must be 4, 8 or None"):
            load_causal(folders["llama"], quantize=3)
        for file in folders["llama"].iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        config = json.loads((tmp_path / "config.json").read_text()) | {"model_type": "unheard_of"}
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(Refusal, match="unheard_of") as refused:
            load_causal(tmp_path)
        assert "\n" not in str(refused.value)
        (tmp_path / "model.safetensors").unlink()
        with pytest.raises(Refusal, match="holds no weights"):
            load_causal(tmp_path)
        (tmp_path / "tokenizer.json").unlink()
        with pytest.raises(Refusal, match="holds no tokenizer"):
            load_causal(tmp_path)

    def test_bits_without_bitsandbytes(self, folders, monkeypatch):
        monkeypatch.setattr("ntf_utils.models.causal.find_spec", lambda name: None)
        with pytest.raises(Refusal, match="4-bit weights need bitsandbytes"):
            load_causal(folders["llama"], quantize=4)

    def test_a_tokenizer_that_cannot_pad_is_refused(self, folders, tmp_path):
        for file in folders["llama"].iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        bare = tf.AutoTokenizer.from_pretrained(tmp_path)
        bare.eos_token = None
        bare.save_pretrained(tmp_path)
        with pytest.raises(Refusal, match="neither a padding nor an end token"):
            load_causal(tmp_path)


class TestDialogues:
    def test_answers_begin_where_the_prompt_ends(self, folders):
        _, tokenizer = load_causal(folders["llama"])
        prompts, whole = ["w1 w2", "w3"], ["w1 w2 w5 w6 w7", "w3 w8"]
        tokens, _, answers = encode_answers(tokenizer, prompts, whole)
        assert answers.tolist() == [[0, 0, 1, 1, 1], [0, 0, 0, 0, 1]]
        assert tokenizer.decode(tokens[0, answers[0].bool()]) == "w5 w6 w7"
        tokens, _, answers = encode_answers(tokenizer, prompts, whole, longest=4)
        assert tokens.shape == (2, 4) and answers.tolist() == [[0, 1, 1, 1], [0, 0, 0, 1]]
        with pytest.raises(Refusal, match="has no token"):
            encode_answers(tokenizer, ["w1"], ["w1"])
        with pytest.raises(Refusal, match="a text is empty"):
            encode(tokenizer, ["w1", ""])

    def test_the_chat_template_or_questions_and_answers(self, folders):
        _, tokenizer = load_causal(folders["llama"])
        shots = [("w1", "w2")]
        assert dialogue(tokenizer, "w3", history=shots) == "Question: w1\nAnswer: w2\nQuestion: w3\nAnswer:"
        tokenizer.chat_template = (
            "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
            "{% if add_generation_prompt %}<assistant>{% endif %}"
        )
        assert dialogue(tokenizer, "w3", history=shots) == "<user>w1<assistant>w2<user>w3<assistant>"
        assert dialogue(tokenizer, "w3", "w4") == "<user>w3<assistant>w4"
        with pytest.raises(Refusal, match="prompt is empty"):
            dialogue(tokenizer, "  ")


# --- probes


@pytest.fixture(scope="module")
def labelled():
    """60 texts of 4 to 6 tokens in 2 layers; only layer 1 knows the label, along its third axis."""
    torch.manual_seed(0)
    labels = torch.arange(60) % 2
    acts = torch.randn(60, 6, 2, 8) + 2.0
    acts[:, :, 1, 2] += 3.0 * (2 * labels - 1)[:, None]
    mask = torch.ones(60, 6)
    mask[::3, :2] = 0
    return (*token_rows(acts, mask, labels), acts, mask, labels)


class TestProbes:
    def test_rows_are_the_first_tokens_without_the_last(self, labelled):
        rows, row_labels, texts, acts, mask, labels = labelled
        assert torch.bincount(texts).tolist() == [3 if n % 3 == 0 else 5 for n in range(60)]
        assert torch.equal(rows[0], acts[0, 2]) and torch.equal(row_labels, labels[texts])
        few, _, numbers = token_rows(acts, mask, labels, tokens=2)
        assert torch.bincount(numbers).unique().tolist() == [2] and torch.equal(few[0], acts[0, 2])

    def test_logistic_is_scikit_learns(self, labelled):
        rows, labels, groups = labelled[:3]
        probe = fit_probe("logistic", rows, labels, groups)
        x = torch.nn.functional.normalize(rows[:, 1], dim=-1).numpy()
        fit = LogisticRegression(fit_intercept=False, solver="liblinear", max_iter=300, tol=1e-3).fit(x, labels)
        np.testing.assert_allclose(probe.vectors[1], fit.coef_[0], rtol=1e-5)
        np.testing.assert_allclose(probe.predict(rows)[:, 1], fit.predict_proba(x)[:, 1], rtol=1e-4)

    def test_difference_in_means(self, labelled):
        rows, labels, groups = labelled[:3]
        probe = fit_probe("difference", rows, labels, groups)
        x = (rows[:, 1] - rows[:, 1].mean(0)).numpy()
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        y = 2 * labels.numpy() - 1
        w = (x * y[:, None]).mean(0)
        np.testing.assert_allclose(probe.vectors[1], w / np.linalg.norm(w), rtol=1e-4, atol=1e-6)
        read = LogisticRegression(C=np.inf, max_iter=500, tol=1e-3).fit((x @ probe.vectors[1].numpy())[:, None], y)
        assert probe.slope[1] == pytest.approx(read.coef_[0, 0], rel=1e-2) and probe.slope[1] > 0

    def test_principal_is_scikit_learns_and_its_sign_can_be_left_as_published(self, labelled):
        rows, labels, groups = labelled[:3]
        fixed, raw = (fit_probe("principal", rows, labels, groups, sign_fixed=sign) for sign in (True, False))
        assert torch.equal(fixed.vectors.abs(), raw.vectors.abs()) and (fixed.slope >= 0).all()
        torch.testing.assert_close(fixed.predict(rows), raw.predict(rows))
        whole = PCA(1).fit(rows[:, 1].numpy()).components_[0]
        assert abs(whole @ raw.vectors[1].numpy()) > 0.98
        turned, unmoved = (fit_probe("principal", rows, 1 - labels, groups, sign_fixed=sign) for sign in (True, False))
        assert torch.equal(unmoved.vectors, raw.vectors), "the published direction does not look at the labels"
        assert torch.equal(turned.vectors, -fixed.vectors) and fixed.vectors[1, 2] > 0.9

    @pytest.mark.parametrize("kind", ["logistic", "difference", "principal"])
    def test_accuracy_is_the_mean_over_tokens_then_texts(self, labelled, kind):
        rows, labels, groups = labelled[:3]
        probe = fit_probe(kind, rows, labels, groups)
        found = accuracy(probe, rows, labels, groups)
        right = ((probe.predict(rows) > 0.5).long() == labels[:, None]).float().numpy()
        table = pd.DataFrame(right).groupby(groups.numpy()).mean().mean()
        np.testing.assert_allclose(found, table, rtol=1e-6)
        assert found[1] > 0.9 and found[0] < 0.75

    def test_too_few_texts_are_refused_however_many_tokens(self):
        rows, groups = torch.randn(200, 1, 4), torch.arange(200) // 20
        with pytest.raises(Refusal, match="at least 8 texts labelled 0; there are 5"):
            fit_probe("difference", rows, groups % 2, groups)
        with pytest.raises(Refusal, match="probe must be one of"):
            fit_probe("svm", rows, groups % 2, groups)

    def test_random_directions_are_unit_vectors_of_their_seed(self):
        drawn = random_directions(4, 3, 50, seed=7)
        torch.testing.assert_close(drawn.norm(dim=-1), torch.ones(4, 3))
        assert torch.equal(drawn, random_directions(4, 3, 50, seed=7))
        assert (drawn[0] @ drawn[1].T).abs().max() < 0.6


# --- measures


def published(xs, effects, ppls):
    """PNES as scipy alone gives it, in the steps of the authors' description: both fits by curve_fit."""
    base = np.argmin(np.abs(xs))
    ys = (effects - effects[base]) / (ppls / ppls[base])
    kept = ppls < 2e3
    (b,), _ = curve_fit(lambda x, b: b * x**2, xs[kept], np.log(ppls[kept] / ppls[base]), p0=[0.05], maxfev=20000)
    (a, c), _ = curve_fit(
        lambda x, a, c: (np.tanh(a * x) + c) / np.exp(b * x**2), xs, ys, p0=[0, 0], maxfev=20000
    )
    grid = np.linspace(xs.min(), xs.max(), 200)
    fitted = (np.tanh(a * grid) + c) / np.exp(b * grid**2)
    return fitted.max() - fitted.min(), a, b, c


ALPHAS = np.array([-4.0, -2, -1, -0.5, -0.25, -0.125, 0, 0.125, 0.25, 0.5, 1, 2, 4])


def curve(effect, seed=0, wall=0.4):
    noise = np.random.default_rng(seed)
    scores = 0.5 + effect * np.tanh(ALPHAS) + 0.02 * noise.standard_normal(len(ALPHAS))
    return ALPHAS, scores, 5 * np.exp(wall * ALPHAS**2 + 0.05 * noise.standard_normal(len(ALPHAS)))


class TestGuidanceMeasure:
    @pytest.mark.parametrize("effect", [0.4, 0.1, -0.3, 0.0])
    @pytest.mark.parametrize("scale", [1.0, 64.0])
    def test_pnes_is_the_published_one(self, effect, scale):
        x, s, p = curve(effect)
        found = fit_guidance(scale * x, s, p)
        pnes, a, b, c = published(scale * x, s, p)
        assert found.pnes == pytest.approx(pnes, rel=1e-3)
        assert (found.a, found.b, found.c) == pytest.approx((a, b, c), rel=1e-3)
        np.testing.assert_allclose(found.curve([0.0]), [c], rtol=1e-3)
        assert found.perplexity_r_squared > 0.98

    def test_a_guide_the_wrong_way_round_scores_too_so_its_sign_is_told(self):
        right, wrong = (fit_guidance(*curve(effect)) for effect in (0.4, -0.4))
        assert wrong.pnes == pytest.approx(right.pnes, rel=0.2)
        assert (right.sign, wrong.sign) == (1, -1)
        assert right.signed_effect > 0 > wrong.signed_effect

    def test_a_flat_curve_has_no_effect_and_no_fit_to_speak_of(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            flat = fit_guidance(ALPHAS, np.full(13, 0.3), np.full(13, 4.0))
        assert (flat.pnes, flat.raw_effect, flat.sign, flat.r_squared) == (0, 0, 0, None)
        assert flat.perplexity_r_squared is None

    def test_raw_effects_are_those_of_fluent_text(self):
        x, s, p = curve(0.4)
        s[0], p[0] = 1.5, 1e9  # gibberish that the scorer likes
        found = fit_guidance(x, s, p)
        assert found.raw_range > 1 > found.raw_effect
        assert (found.lowest, found.highest) == (-1, 1)  # exp(.4 * 2 ** 2) is above 2
        inside = np.abs(x) <= 1
        assert found.raw_effect == pytest.approx(np.ptp(s[inside]))
        assert found.signed_effect == pytest.approx(s[10] - s[2])

    def test_infinite_perplexity_and_any_order_of_strengths(self):
        x, s, p = curve(0.4)
        p[-1] = np.inf
        turned = np.random.default_rng(1).permutation(13)
        assert fit_guidance(x, s, p) == fit_guidance(x[turned], s[turned], p[turned])
        assert fit_guidance(x, s, p).pnes > 0.3

    def test_where_no_perplexity_is_below_10_nothing_breaks(self):
        x, s, p = curve(0.4)  # the published code takes the minimum of an empty list here
        assert fit_guidance(x, s, 40 * p).pnes > 0.3

    @pytest.mark.parametrize(
        ("strengths", "scores", "perplexities", "sentence"),
        [
            ([0, 1], [0, 1], [1, 1], "3 strengths or more"),
            ([0, 1, 2], [0, 1], [1, 1, 1], "3 strengths or more"),
            ([0, 1, 2], [0, np.nan, 1], [1, 1, 1], "not finite"),
            ([0, 1, 2], [0, 1, 1], [3000, 1, 1], "unguided perplexity must be finite and below 2000"),
        ],
    )
    def test_curves_that_cannot_be_fitted_are_refused(self, strengths, scores, perplexities, sentence):
        with pytest.raises(Refusal, match=sentence):
            fit_guidance(strengths, scores, perplexities)

    def test_the_null_is_a_band_over_at_least_8_directions(self):
        curves = np.arange(21)[:, None] * np.array([0.0, 1.0])
        low, high = null_band(curves)
        np.testing.assert_allclose([low, high], [[0, 1], [0, 19]])
        with pytest.raises(Refusal, match="at least 8"):
            null_band(curves[:7])

    def test_every_guide_is_scored_on_every_concept(self):
        x, humor, p = curve(0.4)
        table = pd.DataFrame({"strength": x, "humor": humor, "truth": 1 - humor, "perplexity": p})
        still = table.assign(humor=0.5, truth=0.5)
        found = cross_effects({"humor": table, "truth": still}, ["humor", "truth"])
        assert found.loc["humor", "humor"] == pytest.approx(-found.loc["humor", "truth"]) and found.iloc[0, 0] > 0.4
        assert (found.loc["truth"] == 0).all()
