"""Pretrained causal language models of Hugging Face, by name or local folder, called like our own.

Needs transformers, which the book does without unless such a model is asked for. Weights are read from
safetensors alone, and no code that comes with a model is run. Where torchvision's wheel does not fit torch,
`ntf_utils.data.torchvision_door` has to be imported first, because transformers imports torchvision.
"""

import copy
import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ntf_utils.refusal import Refusal

TOKENIZERS = ("tokenizer.json", "vocab.json", "vocab.txt", "*.model")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


class PretrainedLM(nn.Module):
    """Gives a causal language model of transformers the interface of `Transformer`; turns its dropout off.

    Args:
        network: e.g. GPT2LMHeadModel; its forward must know `logits_to_keep`.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        for module in network.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0  # as in the authors' models

    @property
    def vocabulary(self) -> int:
        return self.network.config.vocab_size

    @property
    def context(self) -> int:
        return self.network.config.max_position_embeddings

    def forward(self, tokens: Tensor, from_position: int = 0) -> Tensor:
        """[batch, time] tokens -> [batch, time - from_position, vocabulary] logits from there on."""
        time = tokens.shape[1]
        if not 0 <= from_position < time <= self.context:
            raise ValueError(f"from_position {from_position} and {time} tokens do not fit a context of {self.context}")
        return self.network(tokens, use_cache=False, logits_to_keep=time - from_position).logits

    def start(self, tokens: Tensor) -> tuple[Tensor, Any]:
        """Reads a prompt: [batch, vocabulary] logits after its last token, and the cache for `step`."""
        read = self.network(tokens, use_cache=True, logits_to_keep=1)
        return read.logits[:, -1], read.past_key_values

    def step(self, token: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """One more token, [batch]: the next logits, [batch, vocabulary], and the longer cache."""
        cache = copy.deepcopy(cache)  # transformers lengthens the cache it is given
        read = self.network(token[:, None], past_key_values=cache, use_cache=True)
        return read.logits[:, -1], read.past_key_values


def load_pretrained(model: str | Path) -> PretrainedLM:
    """Loads a causal language model in fp32, e.g. `load_pretrained("openai-community/gpt2-large")`.

    Args:
        model: a name on the Hugging Face hub, or a folder that holds config.json and *.safetensors.

    Raises:
        Refusal: transformers is missing or does not load; no such folder or name; no safetensors; the model
            would have to run code of its own.
    """
    loader = _from_transformers("AutoModelForCausalLM")
    folder = local_folder(model)
    if folder:
        _check_folder(folder)
    return PretrainedLM(_load(loader, "model", model, use_safetensors=True, dtype=torch.float32))


def load_tokenizer(model: str | Path) -> Any:
    """The tokenizer that comes with a model: transformers' PreTrainedTokenizerBase.

    Raises:
        Refusal: as `load_pretrained`, or no tokenizer.
    """
    loader = _from_transformers("AutoTokenizer")
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
        return loader.from_pretrained(
            str(folder or model), trust_remote_code=False, local_files_only=folder is not None, **options
        )
    except Exception as problem:  # of many kinds: a damaged tokenizer.json raises just this one
        first_line = (str(problem).strip() or type(problem).__name__).splitlines()[0]
        kind = "folder" if folder else "name, which is no local folder either,"
        raise Refusal(f"the {what} {kind} {str(model)!r} cannot be loaded: {first_line}") from None


def _from_transformers(name: str) -> type:
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
