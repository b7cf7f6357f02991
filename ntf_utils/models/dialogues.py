"""Prompts and answers as a model reads them: its chat template, batches padded on the left, where an answer begins."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ntf_utils.refusal import Refusal


def dialogue(
    tokenizer: Any, prompt: str, answer: str | None = None, history: Sequence[tuple[str, str]] = ()
) -> str:
    """A prompt, or a prompt and its answer, by the tokenizer's chat template.

    Without a template: `Question: ...` and `Answer: ...` lines, as in the authors' code of concept guidance.

    Args:
        history: (prompt, answer) turns before, e.g. the few shots of a base model.

    Raises:
        Refusal: an empty prompt.
    """
    if not prompt.strip():
        raise Refusal("the prompt is empty")
    turns = [*history, (prompt, answer)]
    if tokenizer.chat_template:
        messages = []
        for asked, said in turns:
            messages.append({"role": "user", "content": asked})
            if said is not None:
                messages.append({"role": "assistant", "content": said})
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer is None)
    text = tokenizer.bos_token or ""
    for asked, said in turns:
        text += f"Question: {asked.strip()}\nAnswer:" + ("" if said is None else f" {said.strip()}\n")
    return text


def encode(tokenizer: Any, texts: Sequence[str], longest: int | None = None) -> tuple[Tensor, Tensor]:
    """Token numbers and mask, [n, length], padded on the left; special tokens are those that stand in the texts.

    Args:
        longest: texts longer than that lose their beginning.

    Raises:
        Refusal: a text without a token.
    """
    rows = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    return _padded([row[-longest:] if longest else row for row in rows], tokenizer.pad_token_id)


def encode_answers(
    tokenizer: Any, prompts: Sequence[str], whole: Sequence[str], longest: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Token numbers, mask and the mask of the answers' tokens, each [n, length], padded on the left.

    An answer begins where the tokens of prompt and answer differ from those of the prompt alone. (The authors' code
    counts an empty answer's tokens less two, which holds for some tokenizers only.)

    Args:
        prompts: the texts up to the answers, see `dialogue`.
        whole: the texts with their answers.
        longest: as `encode`.

    Raises:
        Refusal: a text whose answer has no token.
    """
    rows, begins = [], []
    for prompt, text in zip(prompts, whole, strict=True):
        row = tokenizer(text, add_special_tokens=False)["input_ids"]
        alone = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        common = 0
        while common < min(len(row), len(alone)) and row[common] == alone[common]:
            common += 1
        if common >= len(row):
            raise Refusal(f"the answer in {text!r} has no token")
        cut = max(0, len(row) - longest) if longest else 0
        rows.append(row[cut:])
        begins.append(max(0, common - cut))
    tokens, mask = _padded(rows, tokenizer.pad_token_id)
    answers = torch.zeros_like(mask)
    for number, (row, begin) in enumerate(zip(rows, begins, strict=True)):
        answers[number, tokens.shape[1] - len(row) + begin :] = 1
    return tokens, mask, answers


def _padded(rows: list[list[int]], padding: int) -> tuple[Tensor, Tensor]:
    if not rows or not all(rows):
        raise Refusal("a text is empty: it has no token")
    length = max(map(len, rows))
    tokens = torch.tensor([[padding] * (length - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    return tokens, mask
