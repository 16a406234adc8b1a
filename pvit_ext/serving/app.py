"""The HTTP interface: OpenAI's models, files and chat completions under ``/v1``, ``/health`` and ``/metrics``."""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import time
from collections.abc import Awaitable, Collection
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeVar

import anyio
from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pvit_ext.regions.region import RegionError
from pvit_ext.serving.answer import Answer, all_of, as_they_come
from pvit_ext.serving.api_error import ApiError
from pvit_ext.serving.body import read_body
from pvit_ext.serving.chat_request import ChatRequest, read_request
from pvit_ext.serving.conversation import read_query
from pvit_ext.serving.disconnected import disconnected
from pvit_ext.serving.engine import Engine
from pvit_ext.serving.files import Files
from pvit_ext.serving.image_loader import ImageLoader
from pvit_ext.serving.known_hosts import KnownHosts
from pvit_ext.serving.limits import Place, Places
from pvit_ext.serving.lion_fields import check_lion_fields
from pvit_ext.serving.metrics import Metrics
from pvit_ext.serving.replies import Reply, Streamed
from pvit_ext.serving.waiting import Draining, QueueFull

logger = logging.getLogger(__name__)
_NOBODY = 499
"""nginx's status for a client that has ended; for the metrics."""
T = TypeVar("T")


@dataclass
class Service:
    """One model behind HTTP.

    Args:
        engine: that answers.
        name: of the model.
        loader: reads images and masks, and knows the limits.
        metrics: of the engine and of requests.
        key: that clients send as a bearer token; None for any client.
        hosts: names that it answers to without a key, beside those of this machine for itself; None for any name.
    """

    engine: Engine
    name: str
    loader: ImageLoader
    metrics: Metrics
    key: str | None = None
    hosts: Collection[str] | None = ()
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self.limits = self.loader.limits
        self.places = Places(self.limits)
        self.threads = anyio.CapacityLimiter(self.limits.requests)
        self.metrics.watch(self.engine, self.places, self.loader.uploads)
        self._draining = False

    @property
    def state(self) -> Literal["ok", "draining", "failed"]:
        """Whether requests are taken."""
        return "draining" if self._draining else self.engine.state

    def drain(self) -> None:
        """Take no more requests; those that hold a place, also while their body comes, are answered."""
        self._draining = True

    def app(self) -> FastAPI:
        """The application."""
        app = FastAPI(title="pvit-ext", docs_url=None, redoc_url=None, openapi_url=None)
        app.add_api_route("/health", self.health, methods=["GET"])
        app.add_api_route("/metrics", self.show_metrics, methods=["GET"])
        app.add_api_route("/v1/models", self.models, methods=["GET"])
        app.add_api_route("/v1/models/{name:path}", self.model, methods=["GET"])
        app.add_api_route("/v1/chat/completions", self.complete, methods=["POST"], response_model=None)
        Files(self.loader, self._check_key, self._enter).add_to(app)
        app.add_exception_handler(ApiError, _show)
        app.add_exception_handler(ClientDisconnect, _show_nobody)
        app.add_exception_handler(HTTPException, _show_http)
        app.add_exception_handler(Exception, _show_fault)
        if self.key is None and self.hosts is not None:
            app.add_middleware(KnownHosts, names=self.hosts)
        app.add_middleware(Counted, metrics=self.metrics)
        return app

    async def health(self) -> Response:
        """Whether questions are taken."""
        state = self.state
        return JSONResponse({"status": state}, 200 if state == "ok" else 503)

    async def show_metrics(self) -> Response:
        """See :mod:`~pvit_ext.serving.metrics`."""
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def models(self, request: Request) -> dict[str, Any]:
        """The one model."""
        self._check_key(request)
        return {"object": "list", "data": [self._model()]}

    async def model(self, request: Request, name: str) -> dict[str, Any]:
        """The one model by its name."""
        self._check_key(request)
        self._check_model(name)
        return self._model()

    async def complete(self, request: Request) -> Response:
        """One answer, whole or as a stream of events."""
        self._check_key(request)
        with ExitStack() as held:  # the place, and the question's in the engine
            place = self._enter()
            held.callback(place.leave)
            return await self._answer(request, place, held)

    def _enter(self) -> Place:
        """Take a place, unless no more requests are."""
        if self.state != "ok":
            raise ApiError(503, "the server is shutting down and takes no more requests", None, self.state)
        return self.places.enter(self.engine.patience)

    async def _answer(self, request: Request, place: Place, held: ExitStack) -> Response:
        stream, usage, answers = await self._take(request, place, held)
        for answer in answers:
            held.callback(answer.cancel)
        reply, until = Reply(self.name), place.until
        if not stream:
            return JSONResponse(reply.completion(await self._while_connected(request, all_of(answers), until)))
        pieces = as_they_come(answers)
        first = await self._while_connected(request, anext(pieces), until)  # before it an error has a status
        return Streamed(reply.events(len(answers), first, pieces, usage, until), held.pop_all().close, until)

    async def _take(self, request: Request, place: Place, held: ExitStack) -> tuple[bool, bool, list[Answer]]:
        """Whether answers are streamed, whether with their usage, and they; images as text are held no longer."""
        body = await read_body(request, self.limits)
        submitting = asyncio.ensure_future(anyio.to_thread.run_sync(self._submit, body, place, limiter=self.threads))
        del body
        try:
            asked, answers = await _unless_over(
                request, asyncio.shield(submitting), place.until, place.late("messages")
            )
        except BaseException:
            if not _failed(submitting):  # a thread cannot be ended: what it holds is given back when it ends itself
                place.give_up()
                submitting.add_done_callback(partial(_cancel, held.pop_all()))
            raise
        return asked.stream, asked.stream_options is not None and asked.stream_options.include_usage, answers

    def _submit(self, body: bytes, place: Place) -> tuple[ChatRequest, list[Answer]]:
        """Decode and check a body and hand its question to the engine; one answer for each choice."""
        with place.decoding("messages"):
            asked = read_request(body)
            self._check_model(asked.model)
            settings = asked.settings(self.limits)
            check_lion_fields(asked, getattr(self.engine.model, "region_config", None))
            query, system = read_query(asked, self.loader, place)
            try:
                answers = self.engine.submit_choices(query, settings, system, asked.stream, "messages")
            except QueueFull as error:
                raise ApiError(429, str(error), None, "queue_full", error.seconds) from error
            except Draining as error:
                raise ApiError(503, str(error), None, "draining") from error
            except ValueError as error:  # RegionError is one
                raise _of_question(error) from error
        return asked, answers if len(answers) == asked.n else answers * asked.n

    async def _while_connected(self, request: Request, coming: Awaitable[T], until: float) -> T:
        """What comes of the engine, unless the client ends or the time does first."""
        try:
            return await _unless_over(request, coming, until, late(self.limits.seconds))
        except RegionError as error:
            raise _of_question(error) from error
        except (ApiError, ClientDisconnect):
            raise
        except Exception as error:  # the model's: the engine has logged it
            raise ApiError(500, "the model failed on this question; the server's log says why") from error

    def _check_key(self, request: Request) -> None:
        if self.key is None:
            return
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self.key.encode()):
            message = "Authorization: Bearer KEY is missing or wrong; the key is that of the server's environment"
            raise ApiError(401, message, "Authorization", "invalid_api_key")

    def _check_model(self, name: str) -> None:
        if name != self.name:
            message = f"model: there is no model {name[:80]!r} here; {self.name!r} is"
            raise ApiError(404, message, "model", "model_not_found")

    def _model(self) -> dict[str, Any]:
        return {"id": self.name, "object": "model", "created": self.created, "owned_by": "pvit-ext"}


class Counted:
    """Counts requests by path and status; a plain ASGI layer, which stands between no stream and its client.

    Args:
        app: that it lies on.
        metrics: that count.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.monotonic(), _NOBODY

        async def counting(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, counting)
        finally:
            path = next((one for one in _COUNTED if f"{scope['path']}/".startswith(f"{one}/")), "other")
            self._metrics.requests.labels(path, str(status)).inc()
            if path == _COUNTED[0]:
                self._metrics.seconds.observe(time.monotonic() - started)


_COUNTED = ("/v1/chat/completions", "/v1/models", "/v1/files", "/health", "/metrics")


async def _unless_over(request: Request, coming: Awaitable[T], until: float, too_late: ApiError) -> T:
    """What comes, unless the client ends or the time does first."""
    task, client_ended = asyncio.ensure_future(coming), asyncio.ensure_future(disconnected(request.receive))
    try:
        await asyncio.wait((task, client_ended), timeout=until - time.monotonic(), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect if client_ended.done() else too_late
    finally:
        for one in (task, client_ended):
            one.cancel()
        await asyncio.gather(task, client_ended, return_exceptions=True)


def _failed(task: asyncio.Future[Any]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)


def _cancel(held: ExitStack, submitting: asyncio.Future[tuple[ChatRequest, list[Answer]]]) -> None:
    """Give back what a request held that is over before its question was handed in."""
    if not _failed(submitting):
        for answer in submitting.result()[1]:
            answer.cancel()
    held.close()


def late(seconds: float) -> ApiError:
    """The answer took too long."""
    return ApiError(408, f"no complete answer within {seconds:g} s; ask for fewer max_tokens", "max_tokens", "timeout")


def _of_question(error: Exception) -> ApiError:
    """What is wrong with a question, whose message begins with the field where one alone is wrong."""
    field_of = re.match(r"(?:regions|messages)[\w\[\].]*", str(error))
    return ApiError(400, str(error), field_of[0] if field_of else "messages")


async def _show(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body, error.status, error.headers)


async def _show_nobody(_: Request, error: Exception) -> Response:
    return Response(status_code=_NOBODY)


async def _show_http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse(ApiError(error.status_code, str(error.detail)).body, error.status_code, error.headers)


async def _show_fault(_: Request, error: Exception) -> Response:
    logger.error("a request failed", exc_info=error)
    return JSONResponse(ApiError(500, "the server failed on this request; its log says why").body, 500)
