"""Our Transformer against transformers' GPT-2 with the same weights, explicit masking, and itself."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ntf_utils.data import torchvision_door
from ntf_utils.models.transformer import MIMETIC, Block, Transformer, tanh_gelu

assert torchvision_door  # opened first: transformers imports torchvision on its own
from transformers import GPT2Config, GPT2LMHeadModel  # noqa: E402

VOCABULARY, CONTEXT, LAYERS, WIDTH, HEADS = 19, 24, 3, 32, 4


@pytest.fixture
def model() -> Transformer:
    torch.manual_seed(0)
    return Transformer(VOCABULARY, CONTEXT, LAYERS, WIDTH, HEADS)


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(VOCABULARY, (5, CONTEXT), generator=torch.Generator().manual_seed(1))


def gpt2() -> GPT2LMHeadModel:
    """A small GPT-2 without dropout whose every parameter, biases included, is drawn from N(0, 0.2)."""
    sizes = GPT2Config(vocab_size=VOCABULARY, n_positions=CONTEXT, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS)
    sizes.update({"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0})
    torch.manual_seed(2)
    net = GPT2LMHeadModel(sizes)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(std=0.2)
    return net


def from_gpt2(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """GPT-2's tensors under our names; its "Conv1D" matrices are transposed Linear ones."""
    ours = {
        "token_embedding.weight": theirs["transformer.wte.weight"],
        "position_embedding.weight": theirs["transformer.wpe.weight"],
        "norm.weight": theirs["transformer.ln_f.weight"],
        "norm.bias": theirs["transformer.ln_f.bias"],
        "head.weight": theirs["transformer.wte.weight"],
    }
    names = {"attention_norm": "ln_1", "query_key_value": "attn.c_attn", "merge": "attn.c_proj"}
    names |= {"mlp_norm": "ln_2", "up": "mlp.c_fc", "down": "mlp.c_proj"}
    for layer in range(LAYERS):
        for our, their in names.items():
            for kind in ("weight", "bias"):
                tensor = theirs[f"transformer.h.{layer}.{their}.{kind}"]
                ours[f"blocks.{layer}.{our}.{kind}"] = tensor.T if tensor.dim() == 2 else tensor
    return ours


@pytest.mark.parametrize("from_position", [0, 19])
def test_same_logits_and_gradients_as_gpt2(tokens, from_position):
    theirs = gpt2()
    ours = Transformer(VOCABULARY, CONTEXT, LAYERS, WIDTH, HEADS, init="gpt2")
    ours.load_state_dict(from_gpt2(theirs.state_dict()))
    targets = torch.randint(VOCABULARY, (5, CONTEXT - from_position))
    logits = ours(tokens, from_position)
    expected = theirs(tokens).logits[:, from_position:]
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    for prediction in (logits, expected):
        F.cross_entropy(prediction.flatten(0, 1), targets.flatten()).backward()
    gradients = from_gpt2({name: p.grad for name, p in theirs.named_parameters()})
    named = dict(ours.named_parameters())  # the tied head appears once, as the token embedding
    assert set(gradients) - set(named) == {"head.weight"}
    for name, parameter in named.items():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-3, atol=1e-5)


def test_a_later_token_never_changes_earlier_logits(model, tokens):
    changed = tokens.clone()
    changed[:, 12] = (changed[:, 12] + 1) % VOCABULARY
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :12], after[:, :12], rtol=0, atol=1e-6)
    moved = (before[:, 12:] - after[:, 12:]).abs() > 1e-5
    assert moved.any(dim=2).all()  # and it reaches every later position


@pytest.mark.parametrize("from_position", [1, 7, CONTEXT - 1])
def test_from_position_equals_slicing(model, tokens, from_position):
    whole, part = model(tokens)[:, from_position:], model(tokens, from_position)
    torch.testing.assert_close(part, whole, rtol=1e-5, atol=1e-5)
    by_whole = torch.autograd.grad(whole.square().sum(), model.parameters())
    by_part = torch.autograd.grad(part.square().sum(), model.parameters())
    torch.testing.assert_close(by_part, by_whole, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("prompt", [1, 2, 20])
def test_start_and_step_equal_the_full_pass(model, tokens, prompt):
    with torch.no_grad():
        logits, cache = model.start(tokens[:, :prompt])
        steps = [logits]
        for token in tokens[:, prompt:].T:
            logits, cache = model.step(token, cache)
            steps.append(logits)
        expected = model(tokens)[:, prompt - 1 :]
    torch.testing.assert_close(torch.stack(steps, 1), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("from_position", [0, 9])
def test_attention_equals_explicit_masking(from_position):
    """A fused attention once brought every setting of the authors' code below 1 % (their issue #3)."""
    torch.manual_seed(0)
    block = Block(WIDTH, HEADS)
    x = torch.randn(2, 15, WIDTH)
    query, key, value = block.query_key_value(block.attention_norm(x)).view(2, 15, 3, HEADS, -1).unbind(2)
    scores = torch.einsum("bqhd,bkhd->bhqk", query, key) / math.sqrt(WIDTH / HEADS)
    future = torch.arange(15) > torch.arange(15)[:, None]
    weights = scores.masked_fill(future, -math.inf).softmax(3)
    mixed = x + block.merge(torch.einsum("bhqk,bkhd->bqhd", weights, value).flatten(2))
    expected = mixed + block.down(F.gelu(block.up(block.mlp_norm(mixed)), approximate="tanh"))
    torch.testing.assert_close(block(x, from_position), expected[:, from_position:], rtol=1e-4, atol=1e-5)


def test_bfloat16_autocast_is_finite_and_close(model, tokens):
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(tokens, 19)
    logits.float().square().mean().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    torch.testing.assert_close(logits.float(), model(tokens, 19), rtol=0.1, atol=0.05)


@pytest.mark.parametrize(("init", "std"), [("mimetic", 1 / 8), ("fan_in", 1 / 8), ("gpt2", 0.02)])
def test_initialisation(init, std):
    torch.manual_seed(0)
    net = Transformer(VOCABULARY, CONTEXT, 2, 64, 4, init)
    assert (net.head.weight is net.token_embedding.weight) == (init == "gpt2")
    assert net.blocks[0].up.weight.std().item() == pytest.approx(std, rel=0.05)
    residual = std / 2 / (2 if init != "gpt2" else 1)  # 1/sqrt(2 layers); down has four times the fan-in
    assert net.blocks[0].down.weight.std().item() == pytest.approx(residual, rel=0.05)
    assert all((p == 0).all() for name, p in net.named_parameters() if name.endswith("bias"))
    query, key, _ = net.blocks[1].query_key_value.weight.chunk(3)
    assert torch.equal(MIMETIC * query, key) == (init == "mimetic")
    size = net.position_embedding.weight.square().mean().sqrt().item()
    assert size == pytest.approx(0.02 if init == "gpt2" else 0.5, rel=0.1)


def test_bad_arguments_are_named(model, tokens):
    with pytest.raises(ValueError, match="heads must divide width"):
        Transformer(VOCABULARY, CONTEXT, 1, 30, 4)
    with pytest.raises(ValueError, match="unknown init 'zeros'"):
        Transformer(VOCABULARY, CONTEXT, 1, 32, 4, init="zeros")
    with pytest.raises(ValueError, match="25 tokens do not fit a context of 24"):
        model(torch.cat([tokens, tokens[:, :1]], dim=1))


def test_tanh_gelu_is_torchs_own():
    x = torch.linspace(-8, 8, 1001, requires_grad=True)
    weight = torch.linspace(1, 2, 1001)
    ours, theirs = tanh_gelu(x), F.gelu(x, approximate="tanh")
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad((y * weight).sum(), x)[0] for y in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


def test_parameters_match_the_published_size():
    """Authors' README: 6 layers of 384 with 6 heads have 10.69 M parameters (measured; N = 50)."""
    net = Transformer(54, 31, 6, 384, 6, init="gpt2")
    counted = sum(p.numel() for p in net.parameters()) - net.position_embedding.weight.numel()
    assert counted == pytest.approx(10.69e6, rel=0.01)


