"""The engine: questions from many threads, answered by one that owns the model, several to a ``generate`` call.

What arrives while a batch runs is the next batch; one that is not full waits a short window for more.

transformers' own continuous batching (``model.generate_batch``, ``ContinuousBatchingManager.add_request``, looked at in
5.23) takes lists of token ids alone: its ``inputs: list[list[int]]`` has no place for ``inputs_embeds`` nor pixel
values, and its modules name neither. LLaVA's images and every host's regions reach the language model as embeddings,
so no question with an image could be asked that way. Joining a running batch by hand would have to pad its caches,
which differ by family (sliding windows, rotary positions of Qwen that are kept on the model); so a batch is run to its
end, while each of its rows ends, stops or is cancelled on its own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple, Protocol

from transformers import LogitsProcessorList

from pvit_ext.hosts.chat import Chat
from pvit_ext.hosts.find import Loaded, host_of
from pvit_ext.hosts.image_names import name_and_file
from pvit_ext.inference import ImageFeatures, check_encoder, generate_options, one_batch, shared_images
from pvit_ext.inference.decoding import stop_criteria
from pvit_ext.regions.region import RegionError
from pvit_ext.serving.answer import Answer, Settings
from pvit_ext.serving.rows import Rows, byte_ids
from pvit_ext.serving.sampling import RowSampling
from pvit_ext.serving.waiting import Waiting
from pvit_ext.tokens.query import Query

logger = logging.getLogger(__name__)
_SYSTEM_PROMPTS = 64
_SEEN = 10_000
"""Names of images that came before."""
_CHARACTERS = 32
"""Of a token, at the very most, in the mean of a text."""
_LAST = "forced_eos_token_id"
"""An option that writes the last token of a batch, which is not the last one of each row."""


class Batching(NamedTuple):
    """How questions are put together.

    Args:
        most: questions of a batch.
        places: questions that wait for the batch after it.
        window: seconds that a batch which is not full waits for one more; see ``serving/waiting.py``.
    """

    most: int = 16
    places: int = 128
    window: float = 0.005


class Observer(Protocol):
    """What measures an engine; called from its thread."""

    def batch(self, answers: Sequence[Answer], seconds: float) -> None:
        """A batch has ended.

        Args:
            answers: of it, all done.
            seconds: that it took.
        """


class Engine:
    """Answers questions about regions with one loaded model; closed by :meth:`close`, or as a context manager.

    An answer is the one that the question gets alone, in whatever batch: rows are padded on the left and masked, and
    each row has its own sampling. (In bfloat16 and float16 sums are rounded by the batch's shape, as with ``ask``.)

    Args:
        loaded: from :func:`~pvit_ext.load_pretrained_model`; nobody else may run the model meanwhile.
        batching: how questions are put together.
        conv_version: name of a conversation template, of LLaVA's models only.
        observer: measures it.
        features: keeps what towers make of images, between the turns of a conversation and questions on the same image.
    """

    def __init__(
        self,
        loaded: Loaded,
        batching: Batching = Batching(),  # noqa: B008 - a NamedTuple does not change
        conv_version: str | None = None,
        observer: Observer | None = None,
        features: ImageFeatures | None = None,
    ) -> None:
        self._tokenizer, self.model, processor, self.context_len = loaded
        host = host_of(self.model)

        @lru_cache(_SYSTEM_PROMPTS)
        def chat(system: str | None) -> Chat:
            return host.chat(self.model, self._tokenizer, processor, conv_version, system)

        self._chat, self._batching, self._observer = chat, batching, observer
        self.features = features
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._byte_ids = byte_ids(self._tokenizer)
        self._own = getattr(self.model, "generation_config", None)
        self._stops = stop_criteria(self._own, self._tokenizer)
        chat(None)  # says now what would fail with each question
        self._waiting = Waiting(batching.places, batching.most, batching.window)
        self._running: list[Answer] = []
        self._seconds = 1.0  # of a batch, a running average
        self._thread = threading.Thread(target=self._run, name="pvit-ext engine", daemon=True)
        self._thread.start()

    def check_system(self, system: str | None) -> None:
        """Say now what would fail with each question that is asked under a system prompt.

        Raises:
            RegionError, ValueError: for one that is too long, or a template without a place for it.
        """
        self._check_length(system or "", "the system prompt")
        self._chat(system)

    def submit(
        self,
        query: Query,
        settings: Settings = Settings(),  # noqa: B008 - frozen
        system: str | None = None,
        pieces: bool = True,
        name: str = "question",
    ) -> Answer:
        """Hand in one question; everything that needs no pixels is checked in the caller's thread.

        Args:
            query: the question; its images are decoded when its batch begins.
            settings: how the answer is generated.
            system: system prompt in place of the template's.
            pieces: whether the answer is read as it comes.
            name: of the question, for messages.

        Raises:
            RegionError, ValueError: saying what is wrong with the question.
            QueueFull: when no place is free.
            Draining: after :meth:`drain`.
        """
        return self.submit_choices(query, [settings], system, pieces, name)[0]

    def submit_choices(
        self, query: Query, settings: Sequence[Settings], system: str | None, pieces: bool, name: str
    ) -> list[Answer]:
        """Hand in one question for several answers, all or none; see :meth:`submit`.

        Args:
            query, system, pieces, name: as in :meth:`submit`.
            settings: how each answer is generated.
        """
        self._check_length(system or "", name)  # before it is kept
        prompt = self._chat(system).prompt(query, name)
        self._check_length(prompt.texts[0], name)
        check_encoder(self.model, [prompt])
        answers = [Answer(query, prompt, one, pieces, self._waiting.drop) for one in settings]
        self._waiting.put(answers, self.patience)
        return answers

    def _check_length(self, text: str, name: str) -> None:
        """Said before a tokenizer works on it for minutes."""
        if len(text) > (most := _CHARACTERS * self.context_len):
            raise RegionError(
                f"{name}: the text has {len(text):,} characters; the model's context takes fewer than {most:,}"
            )

    @property
    def state(self) -> Literal["ok", "draining", "failed"]:
        """Whether questions are taken."""
        if self._waiting.closed:
            return "draining"
        return "ok" if self._thread.is_alive() else "failed"

    @property
    def waiting(self) -> int:
        """Questions that wait."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Questions of the running batch that are not answered yet."""
        return sum(not answer.done for answer in self._running)

    @property
    def patience(self) -> float:
        """Seconds until a new question is likely to be taken, from the time that batches took lately."""
        return max(1.0, self._seconds * (1 + self.waiting / self._batching.most))

    def drain(self) -> None:
        """Take no more questions; those that were taken are answered."""
        self._waiting.close()

    def close(self) -> None:
        """Take no more questions, answer those that were taken, and end the thread."""
        self.drain()
        self._thread.join()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        while self.waiting or not self._waiting.closed:
            if not (answers := self._waiting.take()):
                continue
            self._running = answers
            started = time.monotonic()
            self._answer(answers)
            taken = time.monotonic() - started
            self._seconds += 0.2 * (taken - self._seconds)
            self._running = []
            if self._observer is not None:
                self._observer.batch(answers, taken)
            del answers  # with their images, which else are held until the next batch

    def _answer(self, answers: Sequence[Answer]) -> None:
        """Answer a batch; one that fails before its first token is asked again one by one, so that others go on."""
        answers = [answer for answer in answers if not answer.done]
        rows: Rows | None = None
        try:
            if answers:
                rows = self._rows(answers)
                if later := rows.beyond(self.context_len):
                    self._answer([answer for answer in answers if answer not in later])
                    self._answer(later)
                    return
                self._generate(rows)
        except Exception as error:  # of one question, or of the device: the engine goes on with the next batch
            if len(answers) > 1 and (rows is None or not rows.step):
                for answer in answers:
                    self._answer([answer])
                return
            if not isinstance(error, RegionError):
                logger.exception("a batch of %d failed", len(answers))
            for answer in answers:
                answer.fail(error)
        for answer in answers:  # none is kept waiting, whatever ended the batch
            answer.fail(RuntimeError("the model ended before the answer was complete"))

    def _rows(self, answers: Sequence[Answer]) -> Rows:
        chat = self._chat(None)
        queries, prompts = [answer.query for answer in answers], [answer.prompt for answer in answers]
        features = self.features if self._come_again(queries) else None
        batch = one_batch(chat, queries, prompts, shared_images(chat, self.model, features))
        limits = [answer.settings.max_tokens for answer in answers]
        rows = Rows(chat, batch, answers, limits, chat.ends(), self._byte_ids, self._stops)
        for number, (answer, taken) in enumerate(zip(answers, rows.prompt_tokens, strict=True)):
            if self.context_len <= taken:
                raise RegionError(
                    f"{answer.prompt.name}: its prompt takes {taken} positions, with its images and regions; the model "
                    f"has {self.context_len}, none is free for an answer"
                )
            rows.limits[number] = min(answer.settings.max_tokens, self.context_len - taken)
        return rows

    def _come_again(self, queries: Sequence[Query]) -> bool:
        """Whether an image of a batch is not new, or it is of one alone.

        Towers see several new ones all at once, but those to be kept one by one.
        """
        digests = [name_and_file(source)[0] for query in queries for source in query.sources()]
        again = len(digests) == 1 or len(set(digests)) < len(digests) or any(digest in self._seen for digest in digests)
        for digest in digests:
            self._seen[digest] = None
            self._seen.move_to_end(digest)
        while len(self._seen) > _SEEN:
            self._seen.popitem(last=False)
        return again

    def _generate(self, rows: Rows) -> None:
        sampling = RowSampling([answer.settings for answer in rows.answers])
        given: dict[str, Any] = {"stopping_criteria": [rows], "logits_processor": LogitsProcessorList([sampling])}
        if getattr(self._own, _LAST, None) is not None:
            given[_LAST] = None
        options = generate_options(self._tokenizer, rows.ends, max(rows.limits), given, self._own)
        self.model.generate(**rows.batch, **options)
