"""CLIP (Radford et al., 2021) as a frozen teacher, from a local folder in transformers' or in OpenCLIP's format.

Needs transformers; see `ntf_utils.models.causal` on torchvision. OpenCLIP itself is not needed: its weights are read
into transformers' network by name, `from_open_clip`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ntf_utils.models.causal import fingerprint, from_transformers, load_pretrained_as, load_tokenizer, local_folder
from ntf_utils.models.dual_encoder import as_pixels, in_chunks
from ntf_utils.refusal import Refusal

OPENAI_MEAN, OPENAI_SPREAD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"


class CLIPTeacher:
    """CLIP, frozen; see `dual_encoder.Teacher`.

    Args:
        network: transformers' CLIPModel. tokenizer: its own; texts are cut at the network's longest, 77 words.
        mean, spread: of the colours it was trained on. name: what a record says of it.
    """

    def __init__(self, network: Any, tokenizer: Any, mean: Sequence[float], spread: Sequence[float], name: str):
        self.network, self.tokenizer, self.name = network.eval().requires_grad_(False), tokenizer, name
        self.mean, self.spread = torch.tensor(mean)[:, None, None], torch.tensor(spread)[:, None, None]
        self.side = network.config.vision_config.image_size
        self.dimension = network.config.projection_dim
        self.word_width = network.config.text_config.hidden_size

    def encode_images(self, images: np.ndarray | Tensor) -> Tensor:
        return in_chunks(self._see, images)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        return in_chunks(self._read, self._tokens(texts))

    def encode_words(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        tokens = self._tokens(texts)
        read = in_chunks(lambda part: self.network.text_model(*part.unbind(2)).last_hidden_state, tokens)
        return read, tokens[..., 1].bool()

    def _tokens(self, texts: Sequence[str]) -> Tensor:
        """[n, w, 2] tokens and which of them are real."""
        longest = self.network.config.text_config.max_position_embeddings
        read = self.tokenizer(list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt")
        return torch.stack([read["input_ids"], read["attention_mask"]], dim=2).to(self.network.device)

    def _read(self, tokens: Tensor) -> Tensor:
        return F.normalize(self.network.get_text_features(*tokens.unbind(2)).pooler_output, dim=1)

    def _see(self, images: np.ndarray | Tensor) -> Tensor:
        """CLIP's own preparation: the shorter side to the network's size, bicubic, the middle cut out, colours
        standardised."""
        pixels = as_pixels(images, torch.device("cpu"))
        ratio = self.side / min(pixels.shape[-2:])
        size = [max(self.side, int(ratio * length)) for length in pixels.shape[-2:]]
        pixels = F.interpolate(pixels, size=size, mode="bicubic", antialias=True).clamp(0, 1)
        top, left = ((length - self.side) // 2 for length in size)
        pixels = pixels[..., top : top + self.side, left : left + self.side]
        shown = ((pixels - self.mean) / self.spread).to(self.network.device)
        return F.normalize(self.network.get_image_features(pixel_values=shown).pooler_output, dim=1)


def load_teacher(folder: str | Path, dimension: int | None = None, device: str | torch.device = "cpu") -> CLIPTeacher:
    """CLIP from a local folder, or a name on the Hugging Face hub.

    Args:
        folder: in transformers' format (config.json, *.safetensors, a tokenizer, preprocessor_config.json), or in
            OpenCLIP's (open_clip_config.json, open_clip_model.safetensors, a tokenizer).
        dimension: that its vectors must have; 512 for ViT-B/32.

    Raises:
        Refusal: as `causal.load_network`; another dimension; OpenCLIP weights that are no plain CLIP.
    """
    path = local_folder(folder)
    if path and (path / CONFIG).is_file() and not (path / "config.json").is_file():
        told = _read_json(path / CONFIG)
        network, colours = from_open_clip(path), told.get("preprocess_cfg", {})
        mean, spread = colours.get("mean", OPENAI_MEAN), colours.get("std", OPENAI_SPREAD)
    else:
        network = load_pretrained_as("CLIPModel", folder)
        known = path / "preprocessor_config.json" if path else None
        colours = _read_json(known) if known and known.is_file() else {}
        mean, spread = colours.get("image_mean", OPENAI_MEAN), colours.get("image_std", OPENAI_SPREAD)
    found = network.config.projection_dim
    if dimension is not None and found != dimension:
        raise Refusal(
            f"the teacher in {folder} has vectors of {found}, the scene encoder of {dimension}: "
            "choose another teacher, or give the encoder the teacher's embedding"
        )
    return CLIPTeacher(network.to(device), load_tokenizer(folder), mean, spread, fingerprint(folder))


def from_open_clip(folder: Path) -> nn.Module:
    """transformers' CLIPModel with the weights of an OpenCLIP folder, in evaluation mode.

    Raises:
        Refusal: no safetensors; a model that is no plain CLIP, e.g. with a text tower of another library.
    """
    told = _read_json(folder / CONFIG).get("model_cfg", {})
    vision, text = told.get("vision_cfg", {}), told.get("text_cfg", {})
    try:
        config = from_transformers("CLIPConfig")(
            projection_dim=told["embed_dim"],
            vision_config=_tower(vision, vision["width"] // vision.get("head_width", 64), told)
            | {"image_size": vision["image_size"], "patch_size": vision["patch_size"]},
            text_config=_tower(text, text["heads"], told)
            | {"vocab_size": text["vocab_size"], "max_position_embeddings": text["context_length"]}
            # OpenCLIP reads a text at its largest token, which transformers does for this old value
            | {"eos_token_id": 2, "bos_token_id": None, "pad_token_id": None},
        )
    except (KeyError, TypeError) as problem:
        raise Refusal(f"{folder / CONFIG} describes no plain CLIP: {problem} is missing or of another kind") from None
    if not (folder / WEIGHTS).is_file():
        raise Refusal(f"the model folder {folder} holds no {WEIGHTS}")
    from safetensors.torch import load_file

    state = open_clip_names(load_file(folder / WEIGHTS))
    network = from_transformers("CLIPModel")(config).eval()
    missing, unknown = network.load_state_dict(state, strict=False)
    left = sorted({*missing, *unknown})
    if left:
        raise Refusal(f"the weights in {folder} are no plain CLIP's: {left[0]} and {len(left) - 1} more do not fit")
    return network


def _tower(told: Mapping[str, Any], heads: int, whole: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "hidden_size": told["width"], "num_hidden_layers": told["layers"], "num_attention_heads": heads,
        "intermediate_size": int(told["width"] * told.get("mlp_ratio", 4)), "projection_dim": whole["embed_dim"],
        "hidden_act": "quick_gelu" if whole.get("quick_gelu") else "gelu",
    }  # fmt: skip


# how OpenCLIP (and OpenAI's own code) names the parts of a tower, and how transformers does
_PARTS = {
    "resblocks": "layers", "ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn": "self_attn", "c_fc": "fc1",
    "c_proj": "fc2", "ln_final": "final_layer_norm", "ln_pre": "pre_layrnorm", "ln_post": "post_layernorm",
    "transformer": "encoder",
}  # fmt: skip
_WHOLE = {
    "logit_scale": "logit_scale",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
}


def open_clip_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """OpenCLIP's tensors under transformers' names: query, key and value apart, projections transposed."""
    state = {}
    for name, value in weights.items():
        if name in _WHOLE:
            state[_WHOLE[name]] = value
        elif name in ("visual.proj", "text_projection"):  # [width, dimension] there, a Linear's weight here
            state["visual_projection.weight" if "." in name else "text_projection.weight"] = value.T.contiguous()
        elif name != "attn_mask":
            tower = "vision_model" if name.startswith("visual.") else "text_model"
            parts = [_PARTS.get(part, part) for part in name.removeprefix("visual.").split(".")]
            joined = ".".join([tower, *parts])
            if ".in_proj_" in joined:
                stem, kind = joined.split("in_proj_")
                state |= {f"{stem}{one}_proj.{kind}": part for one, part in zip("qkv", value.chunk(3), strict=True)}
            else:
                state[joined] = value
    return state


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as problem:
        raise Refusal(f"cannot read {path}: {problem}") from None
