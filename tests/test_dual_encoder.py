"""The image-text dual encoder and its loss, and CLIP from a folder behind the same interface."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from ntf_utils.data import torchvision_door
from ntf_utils.models.clip import load_teacher
from ntf_utils.models.dual_encoder import DualEncoder, RoomTeacher, info_nce
from ntf_utils.refusal import Refusal

assert torchvision_door  # opened first: transformers imports torchvision on its own

WORDS = ("", "a", "red", "blue", "box", "ball")


def tokenise(texts):
    rows = [[WORDS.index(word) for word in text.split()] for text in texts]
    longest = max(map(len, rows))
    return np.array([row + [0] * (longest - len(row)) for row in rows])


def small(**changes):
    torch.manual_seed(0)
    return DualEncoder(len(WORDS), **{"width": 4, "text_width": 16, "dimension": 8, "size": 32} | changes)


def pictures(colours, size=32):
    """Plain pictures, uint8 [n, size, size, 3]."""
    return np.repeat(np.repeat(np.array(colours, dtype=np.uint8)[:, None, None], size, 1), size, 2)


# the loss


def test_the_loss_is_cross_entropy_from_pictures_to_texts_and_back():
    images, texts = (F.normalize(torch.randn(5, 7), dim=1) for _ in range(2))
    rows = [0.0, 0.0]
    for i in range(5):
        for side, (a, b) in enumerate(((images, texts), (texts, images))):
            scores = torch.stack([3 * (a[i] * b[j]).sum() for j in range(5)])
            rows[side] -= (scores[i] - scores.exp().sum().log()) / 5
    torch.testing.assert_close(info_nce(images, texts, torch.tensor(3.0)), sum(rows) / 2)


def test_pairs_that_belong_together_are_no_negatives():
    images = F.normalize(torch.randn(4, 7), dim=1)
    texts = F.normalize(torch.randn(4, 7), dim=1)
    texts[1] = texts[0]  # one caption, true of two pictures
    same = torch.eye(4, dtype=torch.bool)
    same[:2, :2] = True
    scores = 3 * images @ texts.T
    by_hand = 0
    for table in (scores, scores.T):
        for i in range(4):
            others = [j for j in range(4) if j == i or not same[i, j]]
            by_hand -= (
                table[i].log_softmax(0)[i] if len(others) == 4 else table[i, others].log_softmax(0)[others.index(i)]
            )
    torch.testing.assert_close(info_nce(images, texts, torch.tensor(3.0), same), by_hand / 8)


# the networks


def test_it_learns_which_word_names_which_colour():
    net = small()
    teacher_pictures = pictures([[220, 20, 20], [20, 20, 220]])
    pixels = torch.as_tensor(teacher_pictures).permute(0, 3, 1, 2) / 255
    tokens = torch.as_tensor(tokenise(["a red box", "a blue box"]))
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(30):
        optimiser.zero_grad()
        info_nce(net.images(pixels), net.texts(tokens), net.scale).backward()
        optimiser.step()
    teacher = RoomTeacher(net, tokenise)
    close = teacher.encode_images(teacher_pictures) @ teacher.encode_texts(["a red ball", "a blue ball"]).T
    assert close.argmax(dim=1).tolist() == [0, 1]


def test_padding_changes_nothing_and_vectors_have_length_one():
    teacher = RoomTeacher(small(), tokenise)
    alone = teacher.encode_texts(["a red box"])
    beside = teacher.encode_texts(["a red box", "a red box a blue ball"])
    torch.testing.assert_close(alone[0], beside[0])
    assert beside.norm(dim=1).tolist() == pytest.approx([1, 1])
    words, mask = teacher.encode_words(["a red", "a red box"])
    assert words.shape == (2, 3, teacher.word_width) and mask.tolist() == [[True, True, False], [True] * 3]
    seen = teacher.encode_images(pictures([[1, 2, 3]] * 3))
    assert seen.shape == (3, teacher.dimension) and not seen.requires_grad


def test_a_grid_sees_where_a_thing_stands_and_a_mean_does_not():
    picture = pictures([[0, 0, 0]], 96)
    picture[:, 40:48, 36:44] = 255
    moved = np.roll(picture, 16, axis=2)  # by whole steps of the convolutions, and nowhere near a border
    for grid, sees in ((1, False), (3, True)):
        teacher = RoomTeacher(small(size=96, grid=grid), tokenise)
        one, other = teacher.encode_images(np.concatenate([picture, moved]))
        assert torch.allclose(one, other, atol=1e-5) != sees


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda t: t.encode_images(np.zeros((2, 32, 32, 3))), "whole numbers 0 to 255"),
        (lambda t: t.encode_images(np.zeros((2, 3, 32, 32), np.uint8)), "height, width, 3"),
        (lambda t: t.encode_images(pictures([[0, 0, 0]], 48)), "must be 3 x 32 x 32"),
        (lambda t: t.encode_texts([" ".join(["red"] * 30)]), "30 words"),
        (lambda t: small(size=42), "4 divides"),
        (lambda t: small(size=40, grid=3), "12 divides"),
    ],
)
def test_bad_input_gets_a_sentence(call, sentence):
    with pytest.raises(Refusal, match=sentence):
        call(RoomTeacher(small(), tokenise))


# CLIP from a folder

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
SPECIAL = {"bos_token_id": 6, "eos_token_id": 7, "pad_token_id": 7}


def save_tokenizer(folder):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = {word or "<unk>": number for number, word in enumerate(WORDS)} | {"<s>": 6, "</s>": 7}
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 6), ("</s>", 7)])
    PreTrainedTokenizerFast(tokenizer_object=made, pad_token="</s>", eos_token="</s>").save_pretrained(folder)


@pytest.fixture
def clip(tmp_path):
    """A random CLIP in a folder, and its network."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    network = CLIPModel(
        CLIPConfig(
            text_config=SIZES | SPECIAL | {"vocab_size": 8, "max_position_embeddings": 6},
            vision_config=SIZES | {"image_size": 32, "patch_size": 16},
            projection_dim=8,
        )
    ).eval()
    with torch.no_grad():  # fresh ones are so small that everything looks alike
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    network.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    return tmp_path, network


def test_clip_is_read_as_transformers_reads_it(clip):
    from PIL import Image
    from transformers import AutoTokenizer
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    folder, network = clip
    teacher = load_teacher(folder, dimension=8)
    picture = np.random.default_rng(0).integers(0, 256, (3, 50, 64, 3), dtype=np.uint8)
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    prepared = CLIPImageProcessorPil(**size)([Image.fromarray(one) for one in picture], return_tensors="pt")
    expected = F.normalize(network.get_image_features(**prepared).pooler_output, dim=1)
    # PIL rounds to whole colours between its two passes
    torch.testing.assert_close(teacher.encode_images(picture), expected, atol=0.02, rtol=0)

    texts = ["a red box", "a blue ball a red box a red ball"]
    cut = AutoTokenizer.from_pretrained(folder)(texts, padding=True, truncation=True, max_length=6, return_tensors="pt")
    read = network.get_text_features(input_ids=cut["input_ids"], attention_mask=cut["attention_mask"])
    torch.testing.assert_close(teacher.encode_texts(texts), F.normalize(read.pooler_output, dim=1))
    words, mask = teacher.encode_words(texts)
    assert words.shape == (2, 6, teacher.word_width) and mask.sum(dim=1).tolist() == [5, 6]
    # the network is causal: the first word has seen no other, so it is the same in every sentence
    torch.testing.assert_close(words[0, 0], words[1, 0])
    assert not torch.allclose(words[0, 1:4], words[1, 1:4], atol=1e-3)


def test_the_colours_are_standardised_as_the_folder_says(clip):
    folder, _ = clip
    before = load_teacher(folder).encode_images(pictures([[200, 10, 10]]))
    told = {"image_mean": [0.1, 0.1, 0.1], "image_std": [1, 1, 1]}
    (folder / "preprocessor_config.json").write_text(json.dumps(told), encoding="utf-8")
    assert not torch.allclose(before, load_teacher(folder).encode_images(pictures([[200, 10, 10]])))


def test_a_teacher_of_another_size_is_refused(clip):
    with pytest.raises(Refusal, match="has vectors of 8, the scene encoder of 512"):
        load_teacher(clip[0], dimension=512)
    (clip[0] / "model.safetensors").unlink()
    with pytest.raises(Refusal, match="no weights"):
        load_teacher(clip[0])
    with pytest.raises(Refusal, match="no model folder"):
        load_teacher(clip[0] / "elsewhere")


class OpenBlock(nn.Module):
    """A residual block with the names and the layout of OpenCLIP's."""

    def __init__(self, width):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, 2)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
        self.mlp.add_module("gelu", nn.GELU())
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width))

    def forward(self, x, mask=None):
        h = self.ln_1(x)
        x = x + self.attn(h, h, h, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class OpenCLIP(nn.Module):
    """OpenCLIP's ViT, small: written here from its published layout, as a check on the names."""

    def __init__(self, width=16, dimension=8):
        super().__init__()

        def draw(*shape):
            return nn.Parameter(0.3 * torch.randn(shape))

        def tower():
            part = nn.Module()
            part.resblocks = nn.ModuleList(OpenBlock(width) for _ in range(2))
            return part

        self.positional_embedding, self.text_projection = draw(6, width), draw(width, dimension)
        self.logit_scale = nn.Parameter(torch.tensor(1.0))
        self.token_embedding, self.ln_final = nn.Embedding(8, width), nn.LayerNorm(width)
        self.transformer = tower()
        self.visual = nn.Module()
        self.visual.class_embedding, self.visual.positional_embedding = draw(width), draw(5, width)
        self.visual.proj, self.visual.transformer = draw(width, dimension), tower()
        self.visual.conv1 = nn.Conv2d(3, width, 16, 16, bias=False)
        self.visual.ln_pre, self.visual.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)

    def encode_image(self, x):
        visual = self.visual
        x = visual.conv1(x).flatten(2).transpose(1, 2)
        x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], dim=1) + visual.positional_embedding
        x = visual.ln_pre(x).transpose(0, 1)
        for block in visual.transformer.resblocks:
            x = block(x)
        return visual.ln_post(x[0]) @ visual.proj

    def encode_text(self, tokens):
        length = tokens.shape[1]
        mask = torch.full((length, length), -torch.inf).triu(1)
        x = (self.token_embedding(tokens) + self.positional_embedding[:length]).transpose(0, 1)
        for block in self.transformer.resblocks:
            x = block(x, mask)
        last = tokens.argmax(dim=-1)
        return self.ln_final(x.transpose(0, 1))[torch.arange(len(tokens)), last] @ self.text_projection


def test_open_clip_weights_give_open_clip_vectors(tmp_path):
    torch.manual_seed(0)
    net = OpenCLIP().eval()
    save_file(
        {name: value.contiguous() for name, value in net.state_dict().items()}, tmp_path / "open_clip_model.safetensors"
    )
    told = {
        "model_cfg": {
            "embed_dim": 8,
            "vision_cfg": {"image_size": 32, "layers": 2, "width": 16, "patch_size": 16, "head_width": 8},
            "text_cfg": {"context_length": 6, "vocab_size": 8, "width": 16, "heads": 2, "layers": 2},
        },
        "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
    }
    (tmp_path / "open_clip_config.json").write_text(json.dumps(told), encoding="utf-8")
    save_tokenizer(tmp_path)
    teacher = load_teacher(tmp_path, dimension=8)
    seen = pictures([[250, 0, 0], [0, 0, 250]])
    pixels = torch.as_tensor(seen).permute(0, 3, 1, 2) / 255 * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(teacher.encode_images(seen), F.normalize(net.encode_image(pixels), dim=1))
        tokens = torch.tensor([[6, 1, 2, 4, 7], [6, 1, 3, 7, 7]])
        torch.testing.assert_close(
            teacher.encode_texts(["a red box", "a blue"]), F.normalize(net.encode_text(tokens), dim=1)
        )
    del told["model_cfg"]["text_cfg"]["heads"]
    (tmp_path / "open_clip_config.json").write_text(json.dumps(told), encoding="utf-8")
    with pytest.raises(Refusal, match="no plain CLIP: 'heads'"):
        load_teacher(tmp_path)
