"""Prompts with their images and regions as embeddings, for engines that take those, such as vLLM.

vLLM with ``--enable-prompt-embeds`` reads ``prompt_embeds`` of a completion request: the base64 text of what
``torch.save`` writes of a tensor (L, D), in place of a prompt (docs.vllm.ai, "Prompt Embedding Inputs"). It serves a
language model of text alone, so that one is written beside.
"""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pvit_ext.files import atomic_folder, atomic_write, read_json
from pvit_ext.hosts.chat import Chat
from pvit_ext.hosts.image_features import ImageFeatures
from pvit_ext.inference.asking import check_queries
from pvit_ext.inference.bad_questions import BadQuestions, made_or_listed
from pvit_ext.inference.questions import Question
from pvit_ext.inference.session import Session, model_host
from pvit_ext.tokens.processor import RegionPrompt
from pvit_ext.tokens.query import Query

_MADE_OF = "made_of.json"
"""File in a language model's folder that holds the mark of its checkpoint."""


def export_prompt_embeds(
    model: Any,
    tokenizer: Any,
    image_processor: Any,
    queries: Mapping[str, Query],
    out: str | os.PathLike[str],
    name: str,
    max_new_tokens: int = 64,
    batch_size: int = 8,
    conv_version: str | None = None,
    system: str | None = None,
    features: ImageFeatures | None = None,
) -> Path:
    """Write a completion request for each query, ``{"id": ..., "body": {...}}`` on a line, greedy.

    Args:
        model, tokenizer, image_processor, conv_version, system, features: as of :func:`~pvit_ext.ask`.
        queries: by the ids of their answers.
        out: JSON Lines; it appears when it is complete.
        name: of the language model at the server, which :func:`export_language_model` wrote.
        max_new_tokens: of an answer.
        batch_size: queries whose embeddings are made at once.

    Raises:
        RegionError: naming the query.
        ValueError: for a model whose language model needs more than embeddings, with what it is.
    """
    if not isinstance(queries, Mapping):
        raise TypeError(f"queries is a {type(queries).__name__}; give a dict of queries by id")
    ids, given = list(queries), list(queries.values())
    check_queries(given, batch_size)
    session = Session(model, tokenizer, image_processor, conv_version, system, features)
    prompts, options = session.prompts(given), request_options(session, name, max_new_tokens)
    parts = (slice(start, start + batch_size) for start in range(0, len(ids), batch_size))
    batches = (_requests(session, ids[here], given[here], prompts[here], options) for here in parts)
    _write(out, batches, session.chat.language_model)
    return Path(out)


def request_options(session: Session, name: str, max_new_tokens: int = 64) -> dict[str, Any]:
    """What all requests say beside their prompts; arguments as of :func:`export_prompt_embeds`."""
    return {"model": name, "prompt": "", "max_tokens": max_new_tokens, "temperature": 0, **_ends(session.chat)}


def request_file(
    session: Session,
    questions: Sequence[Question],
    out: str | os.PathLike[str],
    options: dict[str, Any],
    listed: BadQuestions,
    batch_size: int = 8,
    language_model: Callable[[], object] | None = None,
) -> int:
    """Write a request for each question that can be asked; the others are listed.

    Args:
        session: of the model.
        questions: each with an id of its own.
        out: JSON Lines; it appears when it is complete.
        options: of :func:`request_options`.
        listed: for questions that cannot be asked.
        batch_size: questions whose embeddings are made at once.
        language_model: writes it, before the requests appear; None where it is written.

    Returns:
        how many were written.

    Raises:
        ValueError: for a model whose language model needs more than embeddings, with what it is.
    """
    from tqdm import tqdm

    def requests(some: Sequence[Question]) -> list[str]:
        queries = [one.query().read_by(session.model) for one in some]
        return _requests(session, [one.id for one in some], queries, session.prompts(queries), options)

    def batches() -> Iterator[list[str]]:
        with tqdm(total=len(questions), desc="writing", unit="request") as bar:
            for start in range(0, len(questions), batch_size):
                batch = questions[start : start + batch_size]
                yield made_or_listed(batch, requests, listed)
                bar.update(len(batch))

    return _write(out, batches(), language_model or session.chat.language_model)


def export_language_model(
    model: Any, tokenizer: Any, image_processor: Any, folder: str | os.PathLike[str], mark: str | None = None
) -> Path:
    """Write the language model of a model and its tokenizer as a checkpoint of text alone.

    Args:
        model, tokenizer, image_processor: from :func:`~pvit_ext.load_pretrained_model`.
        folder: a new one.
        mark: of the checkpoint's files, by which :func:`check_language_model` knows it again.

    Raises:
        ValueError: for a quantised model.
        FileExistsError: when there is something in the folder already.
    """
    chat = model_host(model).chat(model, tokenizer, image_processor, None, None)
    found = chat.language_model()
    size = sum(one.numel() * one.element_size() for one in found.parameters())
    with atomic_folder(folder, size) as path:
        chat.save_tokenizer(path)
        found.save_pretrained(path)
        if mark is not None:
            (path / _MADE_OF).write_text(json.dumps({"checkpoint": mark}) + "\n", encoding="utf-8")
    return Path(folder)


def check_language_model(folder: Path, model: str, mark: str) -> bool:
    """Whether a folder has a model's language model already; False where one can be written.

    Args:
        folder: of :func:`export_language_model`.
        model: folder or hub id of the checkpoint, for messages.
        mark: of its files.

    Raises:
        ValueError: for a folder of something else, whose server would read embeddings that were not made for it.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    made = folder / _MADE_OF
    if not made.is_file():
        raise ValueError(f"--language-model {folder} does not say of which checkpoint it was made; name a new folder")
    if read_json(made).get("checkpoint") != mark:
        raise ValueError(
            f"--language-model {folder} holds the language model of another checkpoint than {model} as it is now; "
            "name a new folder, or remove this one, and serve the new one"
        )
    return True


def encoded(embeds: Tensor) -> str:
    """A tensor (L, D) as a request holds it."""
    buffer = io.BytesIO()
    torch.save(embeds.detach().cpu().clone(), buffer)  # of a view, all of its storage would be written
    return base64.b64encode(buffer.getvalue()).decode()


def _write(out: str | os.PathLike[str], batches: Iterable[Sequence[str]], language_model: Callable[[], object]) -> int:
    """Write the lines of batches; how many.

    Args:
        out: it appears when it is complete.
        batches: made one by one; the first refuses a model whose language model needs more than embeddings.
        language_model: called once behind that; refuses a model that is more than embeddings and a language model.
    """
    count = 0
    with atomic_write(out) as path, path.open("w", encoding="utf-8") as file:
        for number, lines in enumerate(batches):
            file.writelines(lines)
            count += len(lines)
            if not number:
                language_model()
    return count


def _requests(
    session: Session,
    ids: Sequence[str],
    queries: Sequence[Query],
    prompts: Sequence[RegionPrompt],
    options: dict[str, Any],
) -> list[str]:
    """The lines of a batch."""
    found = session.chat.prompt_embeds(session.batch(queries, prompts))
    bodies = [{**options, "prompt_embeds": encoded(embeds)} for embeds in found]
    return [json.dumps({"id": id, "body": body}) + "\n" for id, body in zip(ids, bodies, strict=True)]


def _ends(chat: Chat) -> dict[str, Any]:
    """What ends an answer: ids, and texts that are no token."""
    ends = chat.ends()
    texts = [one.stop for one in ends.criteria if hasattr(one, "stop")]
    return {"stop_token_ids": ends.ids, **({"stop": texts} if texts else {})}
