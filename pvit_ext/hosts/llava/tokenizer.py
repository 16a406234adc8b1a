"""LLaMA tokenizers whose ids are those of LLaVA's original, which were SentencePiece's, on every transformers.

transformers 5 has no SentencePiece tokenizer for LLaMA any more and rebuilds it, with three differences (5.23, measured
against 4.36 on random text): merges follow the vocabulary's order and not the pieces' scores, so that runs of spaces
differ in Mistral's vocabulary; text that starts with a space gets no second one; a missing ``legacy`` means False.
"""

from __future__ import annotations

import json
import os
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import transformers
from transformers.utils import cached_file

from pvit_ext.files import atomic_write

SPACE = "\u2581"


def load_tokenizer(path: str, use_fast: bool = False, **options: Any) -> Any:
    """``AutoTokenizer.from_pretrained`` with LLaVA's original ids.

    Args:
        path: checkpoint folder or hub id.
        use_fast: LLaVA asks for it with MPT.
        options: for ``from_pretrained``.
    """
    slow = not use_fast and _sentencepiece_of(path) is not None
    kind = transformers.LlamaTokenizer if slow else transformers.AutoTokenizer  # Auto takes Mistral's for another kind
    return with_original_ids(kind.from_pretrained(path, use_fast=use_fast, **options))


def keep_original_files(source: str, folder: str | os.PathLike[str]) -> None:
    """Put LLaVA's own tokenizer files into a written folder, so that it loads to the ids of its source.

    transformers 5 does not write tokenizer.model, from which the original ids come and which older ones need.

    Args:
        source: folder or hub id of the checkpoint under what was written.
        folder: that has a tokenizer.
    """
    for name in ("tokenizer.model", "tokenizer_config.json"):
        path = cached_file(source, name, _raise_exceptions_for_missing_entries=False)
        if path is not None:
            with atomic_write(Path(folder, name)) as temporary:
                shutil.copyfile(path, temporary)


def with_original_ids(tokenizer: Any) -> Any:
    """Change a LLaMA tokenizer that transformers 5 rebuilt, in place; any other is returned as it is."""
    from transformers import PreTrainedTokenizerFast

    found = _sentencepiece_of(tokenizer.name_or_path)
    if found is None or not issubclass(transformers.LlamaTokenizer, PreTrainedTokenizerFast):
        return tokenizer
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    file, legacy = found
    vocab, merges = _pieces(file)
    backend = tokenizer.backend_tokenizer
    backend.model = models.BPE(vocab=vocab, merges=merges, fuse_unk=True, byte_fallback=True)
    ends: list[Any] = [
        decoders.Replace(SPACE, " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ]
    backend.decoder = decoders.Sequence(ends)
    if legacy:  # a space before the text and behind every special token
        backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
        backend.pre_tokenizer = None
    else:
        backend.normalizer = None
        backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="first", split=False)
        tokenizer.__class__ = _spacing_class()
    return tokenizer


@cache
def _spacing_class() -> Any:
    class LlamaTokenizer(transformers.LlamaTokenizer):  # tokenizer_config.json gets this name
        """Puts SentencePiece's space before every text, also before one that starts with a space."""

        def _encode_plus(self, text: Any, *args: Any, **options: Any) -> Any:
            if not options.get("is_split_into_words"):
                text = [_spaced(one) for one in text] if isinstance(text, (list, tuple)) else _spaced(text)
            return super()._encode_plus(text, *args, **options)

        def __reduce_ex__(self, protocol: Any) -> Any:
            made = super().__reduce_ex__(protocol)
            return (_restore, (self.__dict__ if len(made) < 3 else made[2],))

    return LlamaTokenizer


def _restore(state: dict[str, Any]) -> Any:
    tokenizer = object.__new__(_spacing_class())
    tokenizer.__dict__.update(state)
    return tokenizer


def _spaced(text: Any) -> Any:
    return f" {text}" if isinstance(text, str) and text.startswith((" ", SPACE)) else text


def _sentencepiece_of(path: str) -> tuple[str, bool] | None:
    """tokenizer.model of a LLaMA tokenizer's folder, and whether it is a ``legacy`` one, as transformers 4 decides."""
    file, config = (
        cached_file(path, name, _raise_exceptions_for_missing_entries=False)
        for name in ("tokenizer.model", "tokenizer_config.json")
    )
    values = {} if config is None else json.loads(Path(config).read_text())
    if file is None or not str(values.get("tokenizer_class")).startswith("LlamaTokenizer"):
        return None
    return file, values.get("legacy") is not False


@cache
def _pieces(file: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The vocabulary, and the merges in the order in which SentencePiece makes them: by the score of their result."""
    from sentencepiece import SentencePieceProcessor

    model = SentencePieceProcessor(model_file=file)
    vocab = {model.id_to_piece(number): number for number in range(model.get_piece_size())}
    special = (model.is_control, model.is_unknown, model.is_byte, model.is_unused)
    ranked = []
    for piece, number in vocab.items():
        if any(test(number) for test in special):
            continue
        splits = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        known = [(left, right) for left, right in splits if left in vocab and right in vocab]
        ranked += [(-model.get_score(number), vocab[left], vocab[right], left, right) for left, right in known]
    return vocab, [(left, right) for *_, left, right in sorted(ranked)]
