"""Our Mamba against mambapy (an independent implementation) with the same weights, and against itself."""

import importlib.util
import sys
import types

import pytest
import torch
from mambapy.mamba import Mamba as MambapyMamba
from mambapy.mamba import MambaConfig
from torch import nn

from ntf_utils.models import mamba
from ntf_utils.models.mamba import MambaLM, SelectiveScan, selective_scan

VOCABULARY, LAYERS, WIDTH, STATE = 17, 3, 32, 8


@pytest.fixture
def model() -> MambaLM:
    torch.manual_seed(0)
    return MambaLM(VOCABULARY, LAYERS, WIDTH, STATE)


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(VOCABULARY, (5, 23), generator=torch.Generator().manual_seed(1))


class Reference(nn.Module):
    """mambapy's blocks between an embedding, a norm and a head of torch's own."""

    def __init__(self, pscan: bool):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.mamba = MambapyMamba(MambaConfig(d_model=WIDTH, n_layers=LAYERS, d_state=STATE, pscan=pscan))
        self.norm = nn.RMSNorm(WIDTH, eps=1e-5)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, tokens):
        return self.head(self.norm(self.mamba(self.embedding(tokens))))


def pairs(ours: MambaLM, theirs: Reference):
    """(our parameter, how to find it in their tensor, their parameter) for every parameter of ours."""
    yield ours.token_embedding.weight, lambda w: w, theirs.embedding.weight
    yield ours.norm.weight, lambda w: w, theirs.norm.weight
    yield ours.head.weight, lambda w: w, theirs.head.weight
    for block, layer in zip(ours.blocks, theirs.mamba.layers, strict=True):
        mixer = layer.mixer
        yield block.norm.weight, lambda w: w, layer.norm.weight
        yield block.signal.weight, lambda w: w.chunk(2)[0], mixer.in_proj.weight
        yield block.gate.weight, lambda w: w.chunk(2)[1], mixer.in_proj.weight
        yield block.conv_weight, lambda w: w[:, 0].T, mixer.conv1d.weight
        yield block.conv_bias, lambda w: w, mixer.conv1d.bias
        yield block.select.weight, lambda w: w, mixer.x_proj.weight
        yield block.dt.weight, lambda w: w, mixer.dt_proj.weight
        yield block.dt.bias, lambda w: w, mixer.dt_proj.bias
        yield block.A_log, lambda w: w, mixer.A_log
        yield block.D, lambda w: w, mixer.D
        yield block.out.weight, lambda w: w, mixer.out_proj.weight


@pytest.mark.parametrize("pscan", [True, False])
def test_same_logits_and_gradients_as_mambapy(model, tokens, pscan):
    theirs = Reference(pscan)
    with torch.no_grad():
        for ours, view, parameter in pairs(model, theirs):
            view(parameter).copy_(ours + 0.1 * torch.rand_like(ours))  # away from ones and zeros
            ours.copy_(view(parameter))
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in theirs.parameters())
    targets = torch.randint(VOCABULARY, (5 * 23,))
    for net in (model, theirs):
        nn.functional.cross_entropy(net(tokens).flatten(0, 1), targets).backward()
    torch.testing.assert_close(model(tokens), theirs(tokens), rtol=1e-4, atol=1e-5)
    for ours, view, parameter in pairs(model, theirs):
        torch.testing.assert_close(ours.grad, view(parameter.grad), rtol=1e-3, atol=1e-6)


def scan_inputs(time=5, skipped=2, batch=2, channels=3, size=4):
    """Double-precision arguments of SelectiveScan, C for the last `time - skipped` positions."""
    torch.manual_seed(0)
    shapes = [(time, batch, channels)] * 2 + [(channels, size), (time, batch, size)]
    shapes += [(time - skipped, batch, size), (size, batch, channels)]
    u, dt, A, B, C, state = (torch.randn(*shape, dtype=torch.double) for shape in shapes)
    return [x.requires_grad_() for x in (u, dt.abs(), -A.abs(), B, C, state)]


@pytest.mark.parametrize("skipped", [0, 2])
def test_backward_of_the_scan_is_its_gradient(skipped):
    assert torch.autograd.gradcheck(SelectiveScan.apply, scan_inputs(skipped=skipped))


def test_a_later_token_never_changes_earlier_logits(model, tokens):
    changed = tokens.clone()
    changed[:, 12] = (changed[:, 12] + 1) % VOCABULARY
    before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :12], after[:, :12])
    assert (before[:, 12:] != after[:, 12:]).any(dim=2).all()  # and it reaches every later position


@pytest.mark.parametrize("from_position", [1, 7, 22])
def test_from_position_equals_slicing(model, tokens, from_position):
    whole, part = model(tokens)[:, from_position:], model(tokens, from_position)
    torch.testing.assert_close(part, whole, rtol=1e-5, atol=1e-6)
    by_whole = torch.autograd.grad(whole.square().sum(), model.parameters())
    by_part = torch.autograd.grad(part.square().sum(), model.parameters())
    torch.testing.assert_close(by_part, by_whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prompt", [1, 2, 20])  # also shorter than the convolution
def test_start_and_step_equal_the_full_pass(model, tokens, prompt):
    with torch.no_grad():
        logits, state = model.start(tokens[:, :prompt])
        steps = [logits]
        for token in tokens[:, prompt:].T:
            logits, state = model.step(token, state)
            steps.append(logits)
        expected = model(tokens)[:, prompt - 1 :]
    torch.testing.assert_close(torch.stack(steps, 1), expected, rtol=1e-5, atol=1e-6)


def test_a_step_leaves_the_state_it_was_given_untouched(model, tokens):
    with torch.no_grad():
        _, state = model.start(tokens)
        first, _ = model.step(tokens[:, 0], state)
        again, _ = model.step(tokens[:, 0], state)
    assert torch.equal(first, again)


def fake_kernel(u, delta, A, B, C, return_last_state):
    """mamba_ssm's selective_scan_fn on its own layout, [batch, features, time], by the plainest loop."""
    state, ys = torch.zeros(u.shape[0], *A.shape), []
    for t in range(u.shape[2]):
        state = (delta[:, :, t, None] * A).exp() * state + (delta * u)[:, :, t, None] * B[:, None, :, t]
        ys.append((state * C[:, None, :, t]).sum(2))
    return torch.stack(ys, 2), state


def test_the_kernel_path_agrees_with_the_loop(monkeypatch):
    u, dt, A, B, C, _ = (x.detach().float() for x in scan_inputs(skipped=0))
    monkeypatch.setattr(mamba, "fused_scan", fake_kernel)
    torch.testing.assert_close(mamba.scan_by_kernel(u, dt, A, B, C), selective_scan(u, dt, A, B, C))


@pytest.mark.parametrize("installed", [True, False])
def test_mamba_ssm_is_used_when_it_can_be_imported(monkeypatch, installed):
    name = "mamba_ssm.ops.selective_scan_interface"
    fake = types.ModuleType(name)
    fake.selective_scan_fn = fake_kernel
    for parent in ("mamba_ssm", "mamba_ssm.ops"):
        monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
    monkeypatch.setitem(sys.modules, name, fake if installed else None)
    spec = importlib.util.spec_from_file_location("mamba_again", mamba.__file__)
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    assert module.fused_scan is (fake_kernel if installed else None)


def test_bfloat16_autocast_keeps_the_recurrence_in_full_precision(model, tokens):
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(tokens)
    logits.float().square().mean().backward()
    assert logits.isfinite().all() and all(p.grad.isfinite().all() for p in model.parameters())
    torch.testing.assert_close(logits.float(), model(tokens), rtol=0.1, atol=0.02)


@pytest.mark.parametrize("init", ["fan_in", "mamba"])
def test_initialisation(init):
    torch.manual_seed(0)
    net = MambaLM(VOCABULARY, 2, 64, init=init)
    assert (net.head.weight is net.token_embedding.weight) == (init == "mamba")
    dt = nn.functional.softplus(net.blocks[0].dt.bias)
    assert 0.001 <= dt.min() < 0.003 and 0.03 < dt.max() <= 0.1
    assert torch.allclose(net.blocks[0].A_log.exp()[5], torch.arange(1.0, 17.0))
    fan_in_std = 1 / 64**0.5
    std = {"fan_in": fan_in_std, "mamba": fan_in_std / 3**0.5}[init]  # uniform in +-b has std b / sqrt(3)
    assert net.blocks[0].signal.weight.std().item() == pytest.approx(std, rel=0.05)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"layers": 0}, "layers must be a whole number of at least 1"),
        ({"width": -4}, "width must be"),
        ({"state": 0}, "state must be"),
        ({"dt_rank": "big"}, "dt_rank must be"),
        ({"init": "zeros"}, "unknown init 'zeros'"),
    ],
)
def test_bad_arguments_are_named(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        MambaLM(**({"vocabulary": 5, "layers": 1, "width": 16} | arguments))


@pytest.mark.parametrize("from_position", [-1, 23])
def test_from_position_outside_the_sequence_is_refused(model, tokens, from_position):
    with pytest.raises(ValueError, match="from_position must be one of the 23 positions"):
        model(tokens, from_position)


def test_a_compiled_model_gives_the_same_numbers(model, tokens):
    targets = torch.randint(VOCABULARY, (5 * 3,))
    gradients = []
    for net in (model, torch.compile(model, backend="aot_eager")):
        loss = nn.functional.cross_entropy(net(tokens, 20).flatten(0, 1), targets)
        gradients.append(torch.autograd.grad(loss, model.parameters()))
    torch.testing.assert_close(*gradients)
