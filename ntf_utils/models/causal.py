"""Causal language models of Hugging Face, by name or local folder.

Needs transformers. Weights are read from safetensors alone, and no code that comes with a model is run. Where
torchvision's wheel does not fit torch, `ntf_utils.data.torchvision_door` has to be imported first, because
transformers imports torchvision.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from ntf_utils.refusal import Refusal

TOKENIZERS = ("tokenizer.json", "vocab.json", "vocab.txt", "*.model")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_causal(
    model: str | Path,
    precision: Literal["float32", "bfloat16", "float16"] = "float32",
    quantize: Literal[4, 8] | None = None,
    device: str | torch.device = "cpu",
) -> tuple[nn.Module, Any]:
    """Loads a causal language model, ready to be read and guided, and its tokenizer, which pads on the left.

    Args:
        model: a name on the Hugging Face hub, or a folder that holds config.json, *.safetensors and a tokenizer.
        precision: of the weights; of the parts that stay unquantised, where the others are.
        quantize: 4 or 8 bits a weight, through bitsandbytes. Norms stay as they are.

    Raises:
        Refusal: as `load_network` and `load_tokenizer`, or bitsandbytes is asked for and missing.
    """
    tokenizer = load_tokenizer(model)
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise Refusal(f"the tokenizer of {str(model)!r} has neither a padding nor an end token, so nothing can pad")
        tokenizer.pad_token = tokenizer.eos_token  # always masked, so which token pads is of no account
    tokenizer.padding_side = "left"
    return load_network(model, precision, quantize, device), tokenizer


def load_network(
    model: str | Path,
    precision: Literal["float32", "bfloat16", "float16"] = "float32",
    quantize: Literal[4, 8] | None = None,
    device: str | torch.device = "cpu",
) -> nn.Module:
    """Loads a causal language model in evaluation mode, e.g. `load_network("openai-community/gpt2-large")`.

    Args:
        model: a name on the Hugging Face hub, or a folder that holds config.json and *.safetensors.
        precision, quantize, device: as `load_causal`.

    Raises:
        Refusal: transformers is missing or does not load; no such folder or name; no safetensors; an architecture
            that transformers does not know; the model would have to run code of its own; an unknown precision.
    """
    options: dict[str, Any] = {}
    if quantize is not None:
        options = {"quantization_config": _bits(quantize, _dtype(precision)), "device_map": {"": device}}
    network = load_pretrained_as("AutoModelForCausalLM", model, precision, **options)
    return network if quantize else network.to(device)


def load_pretrained_as(
    kind: str, model: str | Path, precision: Literal["float32", "bfloat16", "float16"] = "float32", **options: Any
) -> nn.Module:
    """Loads a network of one of transformers' kinds in evaluation mode, e.g. `load_pretrained_as("CLIPModel", folder)`.

    Args:
        model, precision: as `load_causal`. options: for transformers' `from_pretrained`.

    Raises:
        Refusal: as `load_network`.
    """
    dtype = _dtype(precision)
    loader = from_transformers(kind)
    folder = local_folder(model)
    if folder:
        _check_folder(folder)
    return _load(loader, "model", model, use_safetensors=True, dtype=dtype, **options).eval()


def _dtype(precision: str) -> torch.dtype:
    if precision not in PRECISIONS:
        raise Refusal(f"precision must be one of {', '.join(PRECISIONS)} (got {precision!r})")
    return PRECISIONS[precision]


def _bits(quantize: int, dtype: torch.dtype) -> Any:
    """transformers' description of a model in 4 or 8 bits."""
    if quantize not in (4, 8):
        raise Refusal(f"quantize must be 4, 8 or None (got {quantize!r})")
    if find_spec("bitsandbytes") is None:
        way_out = "pip install bitsandbytes accelerate"
        raise Refusal(f"{quantize}-bit weights need bitsandbytes, which is not installed: {way_out}")
    config = from_transformers("BitsAndBytesConfig")
    return config(load_in_4bit=True, bnb_4bit_compute_dtype=dtype) if quantize == 4 else config(load_in_8bit=True)


def load_tokenizer(model: str | Path) -> Any:
    """The tokenizer that comes with a model: transformers' PreTrainedTokenizerBase.

    Raises:
        Refusal: as `load_pretrained`, or no tokenizer.
    """
    loader = from_transformers("AutoTokenizer")
    folder = local_folder(model)
    if folder and not any(path for pattern in TOKENIZERS for path in folder.glob(pattern)):
        # transformers would hand over an empty tokenizer without a word
        raise Refusal(f"the model folder {folder} holds no tokenizer ({', '.join(TOKENIZERS)})")
    return _load(loader, "tokenizer of the model", model)


def local_folder(model: str | Path) -> Path | None:
    """The folder that a model is read from; None for a name on the hub.

    Raises:
        Refusal: `model` is written like a path, but there is no such folder.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if isinstance(model, Path) or model.startswith(("/", "./", "../", "~")):
        raise Refusal(f"no model folder at {model}: give a folder that exists, or a name on the Hugging Face hub")
    return None


def fingerprint(model: str | Path) -> str:
    """What identifies a model in a record: "hub NAME", or "folder" and 16 hex digits.

    The digits hash the folder's config and tokenizer (*.json, *.txt, *.model), and of each *.safetensors file
    the size, the first and the last MiB: the names and shapes of the tensors and some of their values, which
    any training changes. So gigabytes need not be read to look a record up.

    Raises:
        Refusal: no such folder.
    """
    folder = local_folder(model)
    if folder is None:
        return f"hub {model}"
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".txt", ".model", ".safetensors"):
            digest.update(f"{path.name} {path.stat().st_size}\n".encode())
            digest.update(_ends(path) if path.suffix == ".safetensors" else path.read_bytes())
    return f"folder {digest.hexdigest()[:16]}"


def _ends(path: Path, length: int = 2**20) -> bytes:
    """The first and the last MiB of a file; the whole of a smaller one."""
    with path.open("rb") as file:
        first = file.read(length)
        file.seek(max(length, path.stat().st_size - length))
        return first + file.read()


def _load(loader: type, what: str, model: str | Path, **options: Any) -> Any:
    """`loader.from_pretrained` without the model's own code, its errors in one sentence."""
    folder = local_folder(model)
    try:
        with _no_progress_bar():
            return loader.from_pretrained(
                str(folder or model), trust_remote_code=False, local_files_only=folder is not None, **options
            )
    except Exception as problem:  # of many kinds: a damaged tokenizer.json raises just this one
        first_line = (str(problem).strip() or type(problem).__name__).splitlines()[0]
        kind = "folder" if folder else "name, which is no local folder either,"
        raise Refusal(f"the {what} {kind} {str(model)!r} cannot be loaded: {first_line}") from None


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Loading prints a bar with the seconds it took, which no notebook prints twice alike."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def from_transformers(name: str) -> type:
    """One of transformers' loaders."""
    try:
        import transformers
    except ImportError:
        raise Refusal(
            "pretrained models need transformers, which is not installed: pip install 'transformers>=5'"
        ) from None
    try:
        return getattr(transformers, name)
    except (ImportError, RuntimeError) as problem:
        raise Refusal(
            f"transformers is installed but does not load ({problem.__cause__ or problem}): "
            "import ntf_utils.data.torchvision_door before, or install a torchvision that fits torch"
        ) from None


def _check_folder(folder: Path) -> None:
    """Refuses a folder without a config or without safetensors."""
    if not (folder / "config.json").is_file():
        raise Refusal(f"the model folder {folder} holds no config.json")
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        raise Refusal(
            f"the model folder {folder} holds only pickled weights ({', '.join(pickles)}), which can run "
            "code when they are read: save the model again with save_pretrained(), which writes safetensors"
        )
    raise Refusal(f"the model folder {folder} holds no weights (*.safetensors)")
