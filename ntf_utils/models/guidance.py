"""Guidance of causal language models: a direction added to the activations of chosen layers while the model writes.

von Rütte et al. (2024), "A Language Model's Guide Through Latent Space". The guide at one layer is

    x' = (x + a w) |x| / |x + a w|

with the unit vector w of a concept and the strength a: x turns towards w and keeps its length. Works on any causal
language model of transformers through forward hooks, which are removed in any case. What the authors' code does one
strength and one prompt at a time is one batch here: every row has a strength, and may have a direction, of its own.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ntf_utils.refusal import Refusal

SITES = ("norm", "residual")
LLAMA_LIKE = ("model.layers[*].input_layernorm", "model.layers[*]")
# transformers' model_type -> where its sites lie. `norm` is the output of the norm in front of the attention, the
# authors' "pre-attn": it reaches queries, keys and values (in the parallel blocks of Phi also the MLP), the residual
# stream only through them. `residual` is what the block hands to the next.
FAMILIES = {
    **dict.fromkeys(
        ("llama", "mistral", "mixtral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi", "phi3", "stablelm"),
        LLAMA_LIKE,
    ),
    "gpt2": ("transformer.h[*].ln_1", "transformer.h[*]"),
    "gpt_neo": ("transformer.h[*].ln_1", "transformer.h[*]"),
    "gpt_neox": ("gpt_neox.layers[*].input_layernorm", "gpt_neox.layers[*]"),
    "opt": ("model.decoder.layers[*].self_attn_layer_norm", "model.decoder.layers[*]"),
}


def site_modules(model: nn.Module, site: str, path: str | None = None) -> list[nn.Module]:
    """The module of each layer whose output is read and guided.

    Args:
        site: "norm" or "residual", see `FAMILIES`.
        path: where the modules lie, for a model of another family: `model.layers[*].input_layernorm`, with [*] for
            the number of the layer. It replaces the family's path of this site.

    Raises:
        Refusal: an unknown site, an architecture without a known path, or a path that leads nowhere.
    """
    if site not in SITES:
        raise Refusal(f"site must be one of {', '.join(SITES)} (got {site!r})")
    if path is None:
        kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
        if kind not in FAMILIES:
            known = ", ".join(sorted(FAMILIES))
            raise Refusal(
                f"where the layers of a {kind!r} model lie is not known (known are {known}): give the path of the "
                f"modules to guide, such as {LLAMA_LIKE[SITES.index(site)]!r}"
            )
        if kind == "opt" and site == "norm" and not model.config.do_layer_norm_before:
            raise Refusal("this OPT model puts its norms after the attention: guide the residual site")
        path = FAMILIES[kind][SITES.index(site)]
    stem, star, rest = path.partition("[*]")
    if not star:
        raise Refusal(f"a path of modules needs [*] for the layer's number, as in {LLAMA_LIKE[0]!r} (got {path!r})")
    try:
        layers = model.get_submodule(stem)
        return [layer.get_submodule(rest.removeprefix(".")) for layer in layers]
    except (AttributeError, TypeError):
        raise Refusal(f"no modules at {path!r} in a {type(model).__name__}") from None


@torch.no_grad()
def activations(
    model: nn.Module, tokens: Tensor, mask: Tensor, site: str, path: str | None = None, batch: int = 256
) -> Tensor:
    """What the site's modules put out for every token, in fp32; under `guided`, what the guide made of it.

    Args:
        tokens, mask: [n, length] token numbers, padded on either side, and 1 where a token is none of the padding.
        site, path: as `site_modules`.
        batch: texts read at once.

    Returns:
        [n, length, layers, d]; zero at padding.
    """
    modules = site_modules(model, site, path)
    found: list[Tensor] = []
    body = getattr(model, "base_model", model)  # the logits are not needed
    for rows in torch.arange(len(tokens)).split(batch):
        seen: dict[int, Tensor] = {}
        with ExitStack() as hooks:
            for layer, module in enumerate(modules):
                hooks.enter_context(_Removed(module.register_forward_hook(_reader(seen, layer))))
            device = _device(model)
            _read(body, tokens[rows].to(device), mask[rows].to(device))
        read = torch.stack([seen[layer] for layer in range(len(modules))], dim=2)  # [rows, length, layers, d]
        found.append(read * mask[rows].to(read.device)[:, :, None, None])
    return torch.cat(found)


def median_norm(activations: Tensor, mask: Tensor) -> Tensor:
    """[layers] the median length of an activation, over the tokens that the mask keeps: the unit of strengths.

    Args:
        activations: [n, length, layers, d].
        mask: [n, length].
    """
    return activations[mask.bool()].norm(dim=-1).median(dim=0).values


@dataclass(frozen=True)
class Directions:
    """One concept's direction in each layer, with what is needed to know where it belongs.

    Attributes:
        vectors: [layers, d], of any length but 0; `guided` makes them unit vectors.
        concept, probe, site: what it is a direction of, how it was fitted, on which activations.
        model: `causal.fingerprint` of the model it was fitted on.
        accuracy: [layers] of the probe on its training examples.
    """

    vectors: Tensor
    concept: str
    probe: str
    site: str
    model: str
    accuracy: Tensor

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or self.accuracy.shape != self.vectors.shape[:1]:
            raise Refusal(
                f"directions need vectors [layers, d] and accuracies [layers]; got {list(self.vectors.shape)} "
                f"and {list(self.accuracy.shape)}"
            )

    def top(self, k: int) -> tuple[int, ...]:
        """The k layers of the highest training accuracy, in order; of equal ones the earlier.

        The authors' code takes every layer at or above the k-th accuracy, so ties make more than k.

        Raises:
            Refusal: there are no k layers.
        """
        if not 1 <= k <= len(self.accuracy):
            raise Refusal(f"top_k must be from 1 to {len(self.accuracy)}, the layers of the model (got {k})")
        best = torch.sort(self.accuracy, descending=True, stable=True).indices[:k]
        return tuple(sorted(best.tolist()))

    def save(self, path: str | Path) -> None:
        """Writes safetensors, the metadata in the file's own header."""
        about = {"concept": self.concept, "probe": self.probe, "site": self.site, "model": self.model}
        tensors = {"vectors": self.vectors.float().cpu().contiguous(), "accuracy": self.accuracy.float().cpu()}
        save_file(tensors, path, metadata={"guidance": json.dumps(about)})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads what `save` wrote.

        Raises:
            Refusal: no such file, a damaged one, or one of another kind.
        """
        try:
            with safe_open(path, framework="pt") as file:
                about = json.loads((file.metadata() or {})["guidance"])
                return cls(file.get_tensor("vectors"), accuracy=file.get_tensor("accuracy"), **about)
        except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as problem:
            reason = "it has no metadata of a guide" if isinstance(problem, KeyError) else str(problem).splitlines()[0]
            raise Refusal(f"no directions can be read from {path}: {reason}") from None


@dataclass
class _Reading:
    """Where in the text a guided pass stands, and the cache that was filled under this guide."""

    offset: int = 0
    cache: Any = None

    def begin(self, module: nn.Module, arguments: tuple, named: dict) -> None:
        """Before each pass.

        Raises:
            Refusal: it was not: keys and values of another strength would be mixed with those of this one.
        """
        cache = named.get("past_key_values")
        self.offset = int(cache.get_seq_length()) if cache is not None else 0
        if self.offset and cache is not self.cache:
            raise Refusal("a key-value cache holds guided keys and values: start a new one when the guide changes")
        self.cache = cache

    def end(self, module: nn.Module, arguments: tuple, made: Any) -> None:
        """After each pass: it may have made the cache."""
        self.cache = getattr(made, "past_key_values", None)


@contextmanager
def guided(
    model: nn.Module,
    directions: Directions,
    layers: Sequence[int],
    strengths: Tensor,
    vectors: Tensor | None = None,
    since: int | Tensor = 0,
    keep_norm: bool = True,
    path: str | None = None,
) -> Iterator[None]:
    """Inside the `with`, the model is guided; each row of a batch with its own strength.

    Args:
        directions: what to add, and at which site.
        layers: numbers of the layers to guide, from 0.
        strengths: [rows] or [rows, layers of the model] lengths to add, in the units of the activations. 0 changes
            nothing.
        vectors: [rows, layers of the model, d] directions row by row instead of those of `directions`, so that several
            of them are one batch. A zero vector leaves its layer as it is.
        since: the first column of the text that is guided, for all rows or [rows]; 0 guides the prompt too, as the
            paper does. The prompt's length - 1 guides what writes the new tokens. With a cache and without, the same.
        keep_norm: turn the activation, as the paper does; False only adds.
        path: as `site_modules`.

    A strength so large that |x + a w| overflows makes NaN, which `generate` and `perplexity` report row by row.

    Raises:
        Refusal: a layer out of range; vectors or strengths that do not fit the model; a strength that is not finite.
    """
    modules = site_modules(model, directions.site, path)
    device = _device(model)
    shared = vectors is None
    held = (directions.vectors[None] if shared else vectors).to(device, torch.float32)  # [1 or rows, layers, d]
    strengths = strengths.to(device, torch.float32)
    if strengths.ndim == 1:
        strengths = strengths[:, None].expand(-1, len(modules))
    _check(modules, held, layers, strengths, directions)
    lengths = held.norm(dim=-1, keepdim=True)
    units = held / lengths.where(lengths > 0, torch.ones_like(lengths))
    start = torch.as_tensor(since, device=device).reshape(-1, 1)  # [1 or rows, 1]

    reading = _Reading()

    def turn(layer: int, x: Tensor) -> Tensor:
        """x: [rows, length, d]."""
        if len(x) != len(strengths):
            raise Refusal(f"{len(strengths)} strengths were given, but the batch has {len(x)} rows")
        moved = x.float() + (strengths[:, layer, None] * units[:, layer])[:, None]
        if keep_norm:
            length = moved.norm(dim=-1, keepdim=True)
            ratio = x.float().norm(dim=-1, keepdim=True) / length.clamp_min(torch.finfo(torch.float32).tiny)
            moved = moved * ratio.where(length.isfinite(), torch.nan)  # x / inf would be a silent 0
        place = reading.offset + torch.arange(x.shape[1], device=device)
        touched = (place >= start) & (strengths[:, layer] != 0)[:, None]  # [rows, length]
        return torch.where(touched[:, :, None], moved.to(x.dtype), x)

    with ExitStack() as hooks:
        for module in dict.fromkeys((model, model.base_model)):
            hooks.enter_context(_Removed(module.register_forward_pre_hook(reading.begin, with_kwargs=True)))
            hooks.enter_context(_Removed(module.register_forward_hook(reading.end)))
        for layer in sorted(set(layers)):
            hooks.enter_context(_Removed(modules[layer].register_forward_hook(_turner(turn, layer))))
        yield


@torch.no_grad()
def next_logits(model: nn.Module, tokens: Tensor, mask: Tensor) -> Tensor:
    """[n, vocabulary] fp32 logits of what follows each text, padded on the left; under `guided` if inside it."""
    device = _device(model)
    return _read(model, tokens.to(device), mask.to(device), last=True).logits[:, -1].float()


@dataclass(frozen=True)
class Written:
    """What a model wrote.

    Attributes:
        tokens: [n, new_tokens]; after a stop token, that token again.
        finite: [n] False where activations or logits over- or underflowed: what stands there means nothing.
    """

    tokens: Tensor
    finite: Tensor


@torch.no_grad()
def generate(
    model: nn.Module,
    tokens: Tensor,
    mask: Tensor,
    new_tokens: int,
    stop: int | Sequence[int] | None = None,
    draws: Tensor | None = None,
    temperature: float = 1.0,
    cache: bool = True,
) -> Written:
    """Continues a batch of prompts, under `guided` if inside it. Greedy, unless there are draws.

    Args:
        tokens, mask: [n, length] prompts, padded on the left.
        stop: the token or tokens that end a text.
        draws: [n, new_tokens] numbers in [0, 1), see `row_draws`; each picks its token by the inverse distribution
            function, so rows of equal draws differ only by what the model says: common random numbers.
        temperature: of the sampling.
        cache: keep keys and values; False reads the whole text again for every token. A cache lives as long as this
            call, so no strength ever meets the keys of another.

    Raises:
        Refusal: an empty prompt, or prompts padded on the right.
    """
    device = _device(model)
    tokens, mask = tokens.to(device), mask.to(device)
    _check_prompts(tokens, mask, new_tokens)
    ends = torch.tensor([] if stop is None else [stop] if isinstance(stop, int) else list(stop), device=device).long()
    written = torch.zeros(len(tokens), new_tokens, dtype=torch.long, device=device)
    finite = torch.ones(len(tokens), dtype=torch.bool, device=device)
    done = torch.zeros_like(finite)
    kept = _new_cache(model) if cache else None
    text, unread = tokens, tokens
    for column in range(new_tokens):
        logits = _read(model, unread, mask, kept, last=True).logits[:, -1].float()
        finite &= logits.isfinite().all(dim=1)
        logits = logits.nan_to_num()
        chosen = logits.argmax(dim=1) if draws is None else _pick(logits / temperature, draws[:, column].to(device))
        if len(ends):
            chosen = torch.where(done, written[:, column - 1], chosen)
            done |= torch.isin(chosen, ends)
        written[:, column] = chosen
        if done.all():
            written[:, column:] = chosen[:, None]
            break
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        text = torch.cat([text, chosen[:, None]], dim=1)
        unread = chosen[:, None] if cache else text
    return Written(written.cpu(), finite.cpu())


def row_draws(seeds: Sequence[int], new_tokens: int) -> Tensor:
    """[rows, new_tokens] uniform numbers, each row by a generator of its own seed."""
    return torch.stack([torch.rand(new_tokens, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


@torch.no_grad()
def perplexity(model: nn.Module, tokens: Tensor, mask: Tensor, completion_mask: Tensor) -> Tensor:
    """exp of the mean cross-entropy of the marked tokens, in nats and fp32; under `guided` if inside it.

    Args:
        tokens, mask: [n, length], padded on either side.
        completion_mask: [n, length] the tokens to score. The authors' code leaves out each completion's first.

    Returns:
        [n]; inf where activations or logits are not finite.

    Raises:
        Refusal: a text without a marked token, or a marked token that nothing stands before.
    """
    device = _device(model)
    tokens, mask = tokens.to(device), mask.to(device)
    scored = completion_mask.to(device).bool() & mask.bool()
    if not scored.any(dim=1).all():
        raise Refusal("perplexity: a text has no completion token to score")
    before = F.pad(mask[:, :-1], (1, 0)).bool()
    if (scored & ~before).any():
        raise Refusal("perplexity: a text's first token cannot be scored, because nothing stands before it")
    row, column = scored.nonzero(as_tuple=True)
    logits = _read(model, tokens, mask).logits[row, column - 1].float()  # [scored, vocabulary]
    losses = F.cross_entropy(logits, tokens[row, column], reduction="none")
    total = torch.zeros(len(tokens), device=device).index_add_(0, row, losses)
    return (total / scored.sum(dim=1)).exp().nan_to_num(nan=torch.inf).cpu()


def _check(
    modules: list[nn.Module], vectors: Tensor, layers: Sequence[int], strengths: Tensor, directions: Directions
) -> None:
    outside = [layer for layer in layers if not 0 <= layer < len(modules)]
    if outside:
        raise Refusal(f"layer {outside[0]} is out of range: the model has layers 0 to {len(modules) - 1}")
    if vectors.shape[1] != len(modules):
        raise Refusal(
            f"directions of {directions.concept!r} are for {vectors.shape[1]} layers, but the model has {len(modules)}"
        )
    if len(vectors) not in (1, len(strengths)) or strengths.shape[1] != len(modules):
        raise Refusal("strengths must be [rows] or [rows, layers of the model]; directions one for all or one a row")
    if not strengths.isfinite().all():
        raise Refusal("a strength is not finite")


def _check_prompts(tokens: Tensor, mask: Tensor, new_tokens: int) -> None:
    if tokens.shape[1] == 0 or not mask.bool().any(dim=1).all():
        raise Refusal("the prompt is empty: the model needs at least one token to continue")
    if not mask[:, -1].bool().all():
        raise Refusal("prompts must be padded on the left, so that all end in the last column")
    if new_tokens < 1:
        raise Refusal(f"new_tokens must be at least 1 (got {new_tokens})")


class _Removed:
    """A hook's handle as a context: removed at its end, whatever happens."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle

    def __enter__(self) -> None:
        return None

    def __exit__(self, *error: object) -> None:
        self.handle.remove()


def _reader(seen: dict[int, Tensor], layer: int) -> Any:
    def read(module: nn.Module, given: Any, made: Any) -> None:
        seen[layer] = _first(made).float()

    return read


def _turner(turn: Any, layer: int) -> Any:
    def replace(module: nn.Module, given: Any, made: Any) -> Any:
        moved = turn(layer, _first(made))
        return (moved, *made[1:]) if isinstance(made, tuple) else moved

    return replace


def _first(made: Any) -> Tensor:
    """Norms put out a tensor; blocks a tensor or, in older versions of transformers, a tuple that begins with it."""
    return made[0] if isinstance(made, tuple) else made


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _new_cache(model: nn.Module) -> Any:
    from transformers import DynamicCache

    return DynamicCache(config=model.config)


def _read(model: nn.Module, tokens: Tensor, mask: Tensor, cache: Any = None, last: bool = False) -> Any:
    """A pass; positions count the tokens that are none of the padding, so padding moves nothing.

    Args:
        tokens: [n, new] those that are not in the cache.
        mask: [n, cached + new].
        last: only the last token's logits are needed.
    """
    known = signature(model.forward).parameters
    options: dict[str, Any] = {"use_cache": cache is not None}
    if cache is not None:
        options["past_key_values"] = cache
    if "position_ids" in known:
        options["position_ids"] = (mask.long().cumsum(dim=1) - 1).clamp_min(0)[:, -tokens.shape[1] :]
    if last and "logits_to_keep" in known:
        options["logits_to_keep"] = 1
    return model(input_ids=tokens, attention_mask=mask, **options)


def _pick(logits: Tensor, draws: Tensor) -> Tensor:
    """[n] tokens by the inverse distribution function."""
    reached = logits.softmax(dim=1).cumsum(dim=1)
    return (reached < draws[:, None] * reached[:, -1:]).sum(dim=1).clamp_max(logits.shape[1] - 1)
