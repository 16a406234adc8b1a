"""The quickstart's language model: a SentencePiece tokenizer and a tiny LLaMA, pre-trained on text alone.

Its text has the questions of :mod:`examples.quickstart.world` with words where the region will stand ("What digit is in
redseven?"). So it can read an attribute off that position before it ever sees a region, as a pre-trained language model
can, and stage 1 has only to align region features with its embedding space, which is the paper's logic.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, LlamaTokenizer

from examples.quickstart.world import ANSWERS_LARGER, ASK_COLOUR, ASK_DIGIT, ASK_LARGER, COLOURS, DIGITS
from pvit_ext.files import atomic_write

IMAGE_TOKEN, IMAGE_ID, IGNORE = "<image>", -200, -100
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
"""LLaVA's own ``v1`` prompt, which its training code puts before every conversation."""
_ANSWER = re.compile(r"ASSISTANT:( .*?</s>)")
_MENTIONS = ("{}", "the {}", "this {} here", " {} there", "the  one {} here", "that  one {} over there")
"""One to seven tokens each: a region takes several positions, and no answer may hang on a question's length."""
Turn = tuple[str, str]


def text_turn(rng: random.Random) -> Turn:
    """A question about words, and its answer."""
    (colour, value), (other_colour, other) = ((rng.choice(list(COLOURS)), rng.randrange(10)) for _ in range(2))
    if other == value:
        other = (value + rng.randrange(1, 10)) % 10
    words = [thing(colour, value), thing(other_colour, other)]
    kind = rng.choice(("digit", "colour", "larger", "larger", "number", "number"))
    if kind == "number":
        words = [DIGITS[value], DIGITS[other]]
    first, second = (mention(word, rng) for word in words)
    if kind == "digit":
        return ASK_DIGIT.replace("<region>", first), DIGITS[value]
    if kind == "colour":
        return ASK_COLOUR.replace("<region>", first), colour
    question = ASK_LARGER.replace("<region>", first, 1).replace("<region>", second, 1)
    return question, ANSWERS_LARGER[value < other]


def thing(colour: str, value: int) -> str:
    """One word for a digit in a colour, as ordinary nouns carry several attributes in one word."""
    return colour + DIGITS[value]


def mention(word: str, rng: random.Random) -> str:
    """The word, or words around it, as a region may stand in a question."""
    return rng.choice(_MENTIONS).format(word)


def render(turns: list[Turn]) -> str:
    """A conversation as LLaVA's ``v1`` template writes it."""
    return SYSTEM + " " + "".join(f"USER: {question} ASSISTANT: {answer}</s>" for question, answer in turns)


def train_tokenizer(folder: Path, turns: Sequence[Turn], symbols: Sequence[str] = ()) -> None:
    """Train SentencePiece on turns and write a LLaMA tokenizer folder in the original (``legacy: false``) layout.

    ``symbols`` become pieces of their own.

    The role name must be one piece at the start of a turn and two after a space, as it is in LLaMA's own vocabulary:
    LLaVA's label arithmetic counts on it. Hence ``USER`` is never shown after a space here.
    """
    import sentencepiece

    folder.mkdir(parents=True, exist_ok=True)
    sentences = [f"</s>USER: {question} ASSISTANT: {answer}</s>" for question, answer in turns]
    words = [f"{c} {d} {thing(c, v)} {thing(c, v)}" for c in COLOURS for v, d in enumerate(DIGITS)] * 10
    with atomic_write(folder / "tokenizer.model") as path, path.open("wb") as stream:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([SYSTEM] * 100 + words + sentences),
            model_writer=stream,
            model_type="bpe",
            vocab_size=800,
            hard_vocab_limit=False,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            split_digits=True,
            user_defined_symbols=list(symbols),
            character_coverage=1.0,
            minloglevel=2,
        )
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
    config = special | {"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_bos_token": True}
    config |= {"add_eos_token": False, "model_max_length": 2048, "clean_up_tokenization_spaces": False}
    for name, content in (("tokenizer_config.json", config), ("special_tokens_map.json", special)):
        with atomic_write(folder / name) as path:
            path.write_text(json.dumps(content, indent=2), encoding="utf-8")


def encode(tokenizer: Any, turns: list[Turn]) -> tuple[list[int], list[int]]:
    """Ids and labels of a conversation; labels keep answers only, ``<image>`` becomes LLaVA's IMAGE_TOKEN_INDEX."""
    ids: list[int] = []
    labels: list[int] = []
    for number, chunk in enumerate(render(turns).split(IMAGE_TOKEN)):
        if number:
            ids.append(IMAGE_ID)
            labels.append(IGNORE)
        coded = tokenizer(chunk, return_offsets_mapping=True, add_special_tokens=number == 0)
        spans = [match.span(1) for match in _ANSWER.finditer(chunk)]
        for token, (start, end) in zip(coded["input_ids"], coded["offset_mapping"], strict=True):
            ids.append(token)
            labels.append(token if end > start and any(a <= start and end <= b for a, b in spans) else IGNORE)
    return ids, labels


def collate(samples: list[tuple[list[int], list[int]]]) -> dict[str, Tensor]:
    """Right-padded ids, labels and mask (B, L)."""
    length = max(len(ids) for ids, _ in samples)
    ids = torch.tensor([row + [0] * (length - len(row)) for row, _ in samples])
    labels = torch.tensor([row + [IGNORE] * (length - len(row)) for _, row in samples])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row, _ in samples])
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}  # (B, L) each


def schedule(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """A short warm-up, then a cosine to zero."""
    from transformers import get_cosine_schedule_with_warmup

    return get_cosine_schedule_with_warmup(optimizer, max(steps // 20, 1), steps)


def fit(model: Any, batches: Iterator[dict[str, Any]], steps: int, learning_rate: float, title: str) -> float:
    """Train a Hugging Face model on its own loss with AdamW and return the mean loss of the last tenth."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=learning_rate, weight_decay=0.01, betas=(0.9, 0.98))
    plan, losses = schedule(optimizer, steps), []
    for _ in (bar := tqdm(range(steps), desc=title, mininterval=1.0)):
        loss = model(**next(batches)).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        plan.step()
        losses.append(loss.item())
        bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
    last = losses[-max(steps // 10, 1) :]
    return sum(last) / len(last)


def text_batches(tokenizer: Any, size: int, turns: int, seed: int) -> Iterator[dict[str, Tensor]]:
    """Endless batches of conversations about words."""
    rng = random.Random(seed)
    while True:
        yield collate([encode(tokenizer, [text_turn(rng) for _ in range(turns)]) for _ in range(size)])


def _compose_embeddings(model: Any, tokenizer: Any) -> None:
    """Start a thing's embedding as colour plus digit: large models learn such directions, a tiny one learns by rote."""
    rows = model.get_input_embeddings().weight.data

    def row(word: str) -> int:
        number: int = tokenizer.convert_tokens_to_ids("\u2581" + word)
        return number

    for colour in COLOURS:
        for value, digit in enumerate(DIGITS):
            rows[row(thing(colour, value))] = rows[row(colour)] + rows[row(digit)]


def new_language_model(tokenizer: Any, layers: int = 3) -> LlamaForCausalLM:
    """A tiny LLaMA with random weights, but for the embeddings of things."""
    model = tiny_llama(tokenizer, layers)
    _compose_embeddings(model, tokenizer)
    return model


def tiny_llama(tokenizer: Any, layers: int = 3) -> LlamaForCausalLM:
    """A tiny LLaMA with random weights."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=288,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        pad_token_id=0,
        tie_word_embeddings=False,
        initializer_range=0.06,  # 0.02 is LLaMA's for widths in the thousands; here it doubles the steps needed
    )
    return LlamaForCausalLM(config)


def train_language_model(folder: Path, steps: int, batch: int = 32, turns: int = 3) -> None:
    """Pre-train a tiny LLaMA on text and save it beside its tokenizer."""
    tokenizer = LlamaTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    model = new_language_model(tokenizer)
    loss = fit(model, text_batches(tokenizer, batch, turns, 0), steps, 3e-3, "language model")
    tqdm.write(f"language model: {model.num_parameters() / 1e6:.2f} M parameters, loss {loss:.3f}")
    model.save_pretrained(folder)
