"""OpenAI's ``/v1/files``: upload an image, look at what is uploaded, delete it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import anyio
from fastapi import FastAPI, Request
from starlette.responses import Response

from pvit_ext.serving.api_error import ApiError, wrong
from pvit_ext.serving.body import FormFile, read_form
from pvit_ext.serving.image_loader import ImageLoader
from pvit_ext.serving.limits import Place
from pvit_ext.serving.uploads import Upload, not_found

PURPOSES = ("vision", "user_data")
_FIELDS = ("file", "purpose", "expires_after[anchor]", "expires_after[seconds]")
_LISTED = 10_000
_NAME = 255
"""Characters of a file's name, as file systems have them."""


class Files:
    """The paths under ``/v1/files``.

    Args:
        loader: whose uploads they are.
        check_key: raises for a request without the server's key.
        enter: takes a place for a request, or raises.
    """

    def __init__(self, loader: ImageLoader, check_key: Callable[[Request], None], enter: Callable[[], Place]) -> None:
        self._loader, self._uploads = loader, loader.uploads
        self._check_key, self._enter = check_key, enter

    def add_to(self, app: FastAPI) -> None:
        """Answer the paths."""
        app.add_api_route("/v1/files", self.create, methods=["POST"])
        app.add_api_route("/v1/files", self.list, methods=["GET"])
        app.add_api_route("/v1/files/{file_id}", self.retrieve, methods=["GET"])
        app.add_api_route("/v1/files/{file_id}", self.delete, methods=["DELETE"])
        app.add_api_route("/v1/files/{file_id}/content", self.content, methods=["GET"], response_model=None)

    async def create(self, request: Request) -> dict[str, Any]:
        """Keep an image."""
        self._check_key(request)
        _check_origin(request)
        place = self._enter()
        try:
            form = await read_form(request, self._loader.limits, _FIELDS)
            made = await anyio.to_thread.run_sync(self._keep, form, place)
            return made.shown()
        finally:
            place.leave()

    def _keep(self, form: dict[str, str | FormFile], place: Place) -> Upload:
        given, purpose = form.get("file"), _text(form, "purpose")
        if not isinstance(given, FormFile):
            raise wrong("file", "it is missing; send the image as a file of the form")
        if purpose not in PURPOSES:
            raise wrong("purpose", f"it is one of {', '.join(PURPOSES)}, got {purpose!r:.60}")
        if len(given.name) > _NAME:
            raise wrong("file", f"its name has {len(given.name)} characters; at most {_NAME} are kept")
        seconds = self._seconds(form)
        with place.decoding("file"):
            self._loader.check(given.data, "file")
        return self._uploads.add(given.name, purpose, given.data, seconds)

    def _seconds(self, form: dict[str, str | FormFile]) -> float | None:
        """For how long its client wants a file to be kept."""
        anchor, seconds = _text(form, "expires_after[anchor]"), _text(form, "expires_after[seconds]")
        if anchor is None and seconds is None:
            return None
        if anchor != "created_at":
            raise wrong("expires_after[anchor]", "it is created_at")
        most = self._uploads.limits.seconds
        if seconds is None or not seconds.isdecimal() or not 1 <= float(seconds) <= most:
            raise wrong(
                "expires_after[seconds]", f"it is a whole number from 1 to {most:.0f}, for which files are kept here"
            )
        return float(seconds)

    async def list(self, request: Request) -> dict[str, Any]:
        """The files, the newest first."""
        self._check_key(request)
        query = _query(request, ("purpose", "limit", "order", "after"))
        found = self._uploads.all()
        order, limit, after = query.get("order", "desc"), _limit(query), query.get("after")
        if order not in ("asc", "desc"):
            raise wrong("order", f"it is asc or desc, got {order!r:.60}")
        found = found[::-1] if order == "desc" else found
        if after is not None:
            ids = [one.id for one in found]
            if after not in ids:
                raise not_found(after, "after")
            found = found[ids.index(after) + 1 :]
        found = [one for one in found if query.get("purpose", one.purpose) == one.purpose]
        shown = [one.shown() for one in found[:limit]]
        ends = {"first_id": shown[0]["id"], "last_id": shown[-1]["id"]} if shown else {}
        return {"object": "list", "data": shown, "has_more": len(found) > len(shown), **ends}

    async def retrieve(self, request: Request, file_id: str) -> dict[str, Any]:
        """What is known of one file."""
        self._check_key(request)
        return self._uploads.get(file_id, "file_id", 404).shown()

    async def content(self, request: Request, file_id: str) -> Response:
        """Its bytes."""
        self._check_key(request)
        headers = {"Content-Disposition": "attachment", "X-Content-Type-Options": "nosniff"}
        data = self._uploads.get(file_id, "file_id", 404).data
        return Response(data, headers=headers, media_type="application/octet-stream")

    async def delete(self, request: Request, file_id: str) -> dict[str, Any]:
        """Forget it."""
        self._check_key(request)
        self._uploads.delete(file_id, "file_id", 404)
        return {"id": file_id, "object": "file", "deleted": True}


def _text(form: dict[str, str | FormFile], name: str) -> str | None:
    """A field that is no file; None where it is missing."""
    if isinstance(given := form.get(name), FormFile):
        raise wrong(name, "it is sent as a file; send it as a text of the form, without a file name")
    return given


def _limit(query: dict[str, str]) -> int:
    """How many files are listed."""
    text = query.get("limit", str(_LISTED))
    if not text.isdecimal() or len(text) > len(str(_LISTED)) or not 1 <= int(text) <= _LISTED:
        raise wrong("limit", f"it is a whole number from 1 to {_LISTED}, got {text!r:.60}")
    return int(text)


def _query(request: Request, known: tuple[str, ...]) -> dict[str, str]:
    for name in request.query_params:
        if name not in known:
            raise ApiError(400, f"{name}: there is no such parameter here; leave it out", name, "unknown_field")
    return dict(request.query_params)


def _check_origin(request: Request) -> None:
    """A page in a browser may post a form to another server unasked, with its own origin as a header."""
    origin = request.headers.get("origin")
    if origin is not None and _host(origin) != request.headers.get("host", ""):
        raise ApiError(403, f"Origin: a page of {origin[:60]!r} may not upload files here", "Origin")


def _host(origin: str) -> str | None:
    """Name and port of an origin; None for what is no address."""
    try:
        return urlsplit(origin).netloc or None
    except ValueError:
        return None
