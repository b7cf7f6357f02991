"""Models of transformers behind our interface: a tiny GPT-2 saved to a folder."""

import json
import sys

import pytest
import torch

from ntf_utils.data import torchvision_door
from ntf_utils.models.decoding import decode_greedily
from ntf_utils.models.pretrained import load_pretrained
from ntf_utils.refusal import Refusal

assert torchvision_door  # opened first: transformers imports torchvision on its own
from transformers import GPT2Config, GPT2LMHeadModel  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    net = GPT2LMHeadModel(GPT2Config(vocab_size=23, n_positions=20, n_embd=16, n_layer=2, n_head=2))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(std=0.3)
    net.save_pretrained(path := tmp_path_factory.mktemp("tiny_gpt2"))
    return path


@pytest.fixture
def tokens():
    return torch.randint(23, (3, 12), generator=torch.Generator().manual_seed(1))


def test_from_position_equals_slicing_also_in_training_mode(folder, tokens):
    model = load_pretrained(folder).train()
    assert (model.vocabulary, model.context) == (23, 20)
    whole = model(tokens)
    assert whole.shape == (3, 12, 23) and torch.equal(whole, model(tokens))  # no dropout
    torch.testing.assert_close(model(tokens, 7), whole[:, 7:])
    model(tokens, 7).square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_start_and_step_equal_the_full_pass(folder, tokens):
    model = load_pretrained(str(folder))
    with torch.no_grad():
        logits, cache = model.start(tokens[:, :5])
        steps = [logits]
        for token in tokens[:, 5:].T:
            again, _ = model.step(token, cache)
            logits, cache = model.step(token, cache)  # the cache given before is untouched
            assert torch.equal(again, logits)
            steps.append(logits)
        torch.testing.assert_close(torch.stack(steps, 1), model(tokens)[:, 4:], rtol=1e-4, atol=1e-4)
        written = decode_greedily(model, tokens, 4)
        assert torch.equal(written[:, 1], model(torch.cat([tokens, written[:, :1]], 1), 12)[:, 0].argmax(1))


@pytest.mark.parametrize("from_position", [-1, 12])
def test_from_position_outside_the_sequence_is_refused(folder, tokens, from_position):
    with pytest.raises(ValueError, match=f"from_position {from_position} and 12 tokens do not fit"):
        load_pretrained(folder)(tokens, from_position)


def copy_without_weights(folder, tmp_path):
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    return tmp_path


def test_folders_without_safetensors_are_refused(folder, tmp_path):
    with pytest.raises(Refusal, match=r"holds no config\.json"):
        load_pretrained(tmp_path)
    copy_without_weights(folder, tmp_path)
    with pytest.raises(Refusal, match="holds no weights"):
        load_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(Refusal, match=r"only pickled weights \(pytorch_model.bin\), which can run code"):
        load_pretrained(tmp_path)


def test_code_that_comes_with_a_model_is_not_run(folder, tmp_path):
    copy_without_weights(folder, tmp_path)
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.M"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "mine.py").write_text("raise SystemExit('this code has been run')")
    with pytest.raises(Refusal, match="cannot be loaded"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize("missing", ["/no/such/folder", "./no_such_folder", "~/no_such_folder"])
def test_a_folder_that_is_not_there_is_refused(missing):
    with pytest.raises(Refusal, match="no model folder at"):
        load_pretrained(missing)


def test_an_unknown_name_is_one_sentence(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(Refusal, match="nobody/no-such-model' cannot be loaded: ") as refused:
        load_pretrained("nobody/no-such-model")
    assert "\n" not in str(refused.value)


def test_without_transformers_the_way_out_is_named(monkeypatch, folder):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(Refusal, match="pip install 'transformers>=5'"):
        load_pretrained(folder)
