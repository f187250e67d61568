"""The layer that every request passes: who and what, how large, a thread of its own, and errors that tell no paths."""

import asyncio
import logging
import re
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from monailabel.endpoints import datastore, infer
from monailabel.endpoints.user.auth import get_current_user
from monailabel.interfaces import exception as stock
from monailabel.utils.async_tasks.task import AsyncTask
from pydantic import AfterValidator, FiniteFloat, JsonValue, StringConstraints, TypeAdapter, ValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from typing_extensions import TypedDict

from cardiac_cine.annotation.jobs import QueueError, QueueFullError, when_gone
from cardiac_cine.errors import InputError
from cardiac_cine.files import check_finite
from monailabel_app.lib import dicomweb, routes
from monailabel_app.lib.access import Access, GuessedError, carried_session, current_user, login_router, upload_folder

logger = logging.getLogger(__name__)

MAX_BYTES = {"": 0, "json": 1 << 20, "sign-in": 1 << 20, "form": 64 << 20, "any": 64 << 20}
REFUSED_SECONDS = 1.0  # a wrong token or session is answered after them
HEADERS = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"same-origin")]
HEADERS += [(b"x-frame-options", b"SAMEORIGIN")]
# Pages load nothing from elsewhere; OHIF's style sheet would ask for fonts. It compiles WebAssembly and runs workers.
HEADERS += [(b"content-security-policy", b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:")]
# What the audit log tells of the request that is being served, beside its path.
noted: ContextVar[dict[str, Any]] = ContextVar("noted")
LABEL_FILE = r"[^\x00-\x1f]{1,250}\.(nii|nii\.gz|nrrd)"
FILE, NAME = r"(?!/|.*(\.\.|//))[\w.,:@ %/-]*", r"[A-Za-z0-9][\w.-]*"

# What clients set by themselves, and its type. All else must be advertised by a task in /info.
Text = Annotated[str, StringConstraints(max_length=256, pattern=r"^[^\x00-\x1f\x7f]*$")] | None
Numbers = list[FiniteFloat] | list[list[FiniteFloat]] | FiniteFloat | None
Facts = dict[str, Annotated[JsonValue, AfterValidator(check_finite)]]
Segments = list[Facts]
CLIENT: dict[str, Any] = {"client_id": Text}
BATCH = CLIENT | {"save_label": bool, "label_tag": Literal["original"], "max_batch_size": int}
SAVE = CLIENT | {"label_info": Segments, "slices": Numbers}
INFER = CLIENT | dict.fromkeys(("foreground", "background", "roi", "slice", "label_prompt"), Numbers)
INFER |= dict.fromkeys(("result_compress", "restore_label_idx", "reset_state"), bool)
INFER |= {"result_extension": Literal[".nrrd", ".nii", ".nii.gz"], "result_dtype": Literal["uint8", "uint16"]}
INFER |= {"label_info": Segments}
QUERY = {"tag": Literal["final", "original"], "output": Literal["image", "json", "all", "stats"]}
QUERY |= {"run_sync": Literal["false"]}  # it would compute in the server's own process


@dataclass(frozen=True)
class Rule:
    """Requests that are served. Groups of the path name tasks of the app; image, label and id name images."""

    methods: str
    path: str
    query: str | None = ""  # names; None: the route looks at them
    body: str = ""  # "": ignored, "json", "form"; "sign-in" and "any": the route looks at it
    params: Mapping[str, Any] | None = None
    slow: bool = False  # waits for a computation or for the PACS
    static: bool = False  # a file that is sent as it is
    audit: str = ""

    def names(self, request: Request) -> dict[str, str] | None:
        """Return the groups of a request's path, or None if it is not one of these."""
        match = re.fullmatch(self.path, request.scope["path"], re.ASCII)
        return match.groupdict() if match and request.method in self.methods.split() else None


RULES = (
    Rule("OPTIONS", ".*", None),
    Rule("GET HEAD", rf"/favicon\.ico|/static/{FILE}|/ohif(/{FILE})?|/cine/panel\.(js|css)", None, static=True),
    Rule("GET POST", "/auth/token|/cine/login", None, "sign-in"),
    Rule("GET HEAD", rf"/|/docs|/openapi\.json|/auth/|/auth/token/valid|/cine/{FILE}", None),
    Rule("POST", "/cine/key", "image key", audit="key phase"),
    Rule("POST", "/cine/save", "image tag", "any", slow=True, audit="save label"),
    Rule("POST PUT DELETE", f"/cine/{FILE}", None, "any", slow=True, audit="cine"),
    Rule("GET", rf"/proxy/dicom/(?:qido|wado)/{FILE}", None, slow=True),
    Rule("GET", "/info/?"),
    Rule("GET", "/datastore/?", "output"),
    Rule("GET", "/datastore/dataset", "limit_cases", slow=True),
    Rule("GET HEAD", "/datastore/image", "image", slow=True),
    Rule("GET", "/datastore/image/info", "image"),
    Rule("PUT", "/datastore/image/info", "image", "form", audit="image info"),
    Rule("HEAD", "/datastore/label", "image tag"),
    Rule("GET", "/datastore/label|/datastore/label/info", "label tag"),
    Rule("PUT", "/datastore/label", "image tag", "form", SAVE, slow=True, audit="save label"),
    Rule("PUT", "/datastore/label/info", "label tag", "form", audit="label info"),
    Rule("DELETE", "/datastore/label", "id tag", audit="delete label"),
    Rule("POST", f"/activelearning/(?P<strategies>{NAME})", "", "json", CLIENT, audit="next sample"),
    Rule("POST", f"/infer/(?P<infers>{NAME}_correct)", "image output", "form", INFER, slow=True),  # keeps no label
    Rule("POST", f"/infer/(?P<infers>{NAME})", "image output", "form", INFER, slow=True, audit="propose label"),
    Rule("GET", "/(?:train|scoring)/?|/batch/infer", "all check_if_running"),
    Rule("DELETE", "/(?:train|scoring)/?|/batch/infer", audit="stop"),
    Rule("POST", f"/train/(?P<trainers>{NAME})?", "enqueue run_sync", "json", CLIENT, audit="train"),
    Rule("POST", f"/scoring/(?P<scoring_methods>{NAME})?", "run_sync", "json", CLIENT, audit="score"),
    Rule("POST", f"/batch/infer/(?P<infers>{NAME})", "images run_sync", "json", BATCH, audit="batch infer"),
)


class Guard:
    """ASGI middleware around MONAI Label's endpoints. They block, so all but files have a thread and a loop."""

    def __init__(self, inner: ASGIApp, app: Any, access: Access) -> None:
        self._inner, self._app, self._access = inner, app, access
        # What waits for a computation has threads of its own, so that it never holds up the rest.
        self._quick, self._slow = ThreadPoolExecutor(16, "quick"), ThreadPoolExecutor(48, "slow")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        scope, loop, context, status = carried_session(scope), asyncio.get_running_loop(), copy_context(), 0
        request, kept, gone = Request(scope, receive), list[Message](), list[Callable[[], object]]()

        async def reply(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status, message = message["status"], {**message, "headers": [*message["headers"], *HEADERS]}
            await send(message)

        async def reply_from_thread(message: Message) -> None:
            asyncio.run_coroutine_threadsafe(reply(message), loop).result(timeout=60)

        async def keep(message: Message) -> None:
            kept.append(message)

        try:
            self._access.check_address(request)
            context.run(current_user.set, self._access.user(request))
            rule = next((rule for rule in RULES if rule.names(request) is not None), None)
            if not rule:
                raise HTTPException(404, "there is nothing here, or it is closed")
            body = await _read(request, MAX_BYTES[rule.body])
            if rule.static:  # a slow reader would hold a thread for as long as it reads
                return await self._serve(rule, request, body, reply)
            signing_in = rule.body == "sign-in" and (body or request.url.query)
            serve = self._serve(rule, request, body, keep if signing_in else reply_from_thread)
            context.run(when_gone.set, gone)
            watching = asyncio.create_task(_watch(receive, gone))
            try:
                await loop.run_in_executor(self._slow if rule.slow else self._quick, context.run, asyncio.run, serve)
            finally:
                watching.cancel()
            if kept and kept[0]["status"] == 401:
                await self._refuse(request)
            for message in kept:
                await reply(message)
        except ClientDisconnect:
            logger.info("a client went away: %s %s", request.method, scope["path"])
        except Exception as error:
            if isinstance(error, GuessedError):
                await self._refuse(request)
            if not status:  # otherwise the stock handler has answered, and raised again
                await (await answer(request, error))(scope, receive, reply)

    async def _serve(self, rule: Rule, request: Request, body: bytes, send: Send) -> None:
        about = {} if rule.query is None else await self._check(rule, Request(request.scope, _replay(body)))
        noted.set(about)

        async def note_and_send(message: Message) -> None:  # what is answered is in the log
            if message["type"] == "http.response.start" and rule.audit and message["status"] < 400:
                self._app.audit(rule.audit, path=request.scope["path"], **about)
            await send(message)

        with TemporaryDirectory(prefix="upload-") if rule.body == "form" else nullcontext("") as folder:
            upload_folder.set(folder)
            await self._inner(request.scope, _replay(body), note_and_send)

    async def _refuse(self, request: Request) -> None:
        client = request.client.host if request.client else ""
        logger.warning("a sign-in from %s was refused", client)
        await asyncio.to_thread(self._app.audit, "sign-in refused", path=request.scope["path"][:200], client=client)
        await asyncio.sleep(REFUSED_SECONDS)  # here, where it holds up nobody else

    async def _check(self, rule: Rule, request: Request) -> dict[str, Any]:
        """Check the names in the path, the query and the body against the app; return the query with images' ids."""
        known, allowed = dict(rule.params or {}), (rule.query or "").split()
        for kind, name in (rule.names(request) or {}).items():
            tasks = getattr(self._app, f"_{kind}")
            if name and name not in tasks:
                raise HTTPException(404, f"there is no {name}")
            kinds = {key: known | _advertised(task) for key, task in tasks.items()}
            # Without a name there is an object for each task, as OHIF sends it.
            known = kinds[name] if name else known | {key: _shape(each) for key, each in kinds.items()}
        if rule.params is INFER:
            labels = tuple(self._app.labels)
            known |= dict.fromkeys(labels, Numbers) | dict.fromkeys(("label", "selected_label_name"), Literal[labels])
        query = parse_qsl(request.scope["query_string"].decode("latin-1"), keep_blank_values=True)
        _accept("query", query, {key: QUERY.get(key, str) for key in allowed})
        images = {"image", "label", "id"} & set(allowed)
        resolved = {key: self._app.datastore().resolve(dict(query).get(key, "")) for key in images}
        if rule.body == "json" and (content := await request.body()):
            if not request.headers.get("content-type", "").startswith("application/json"):
                raise HTTPException(415, "application/json is expected")
            TypeAdapter(_shape(known)).validate_json(content)
        elif rule.body == "form":
            async with request.form(max_files=1, max_fields=4) as form:
                fields = [(key, getattr(value, "filename", value)) for key, value in form.multi_items()]
                if not all(isinstance(value, str) is (key != "label") for key, value in form.multi_items()):
                    raise HTTPException(400, "form: the label, and only the label, is a file")
            file = Annotated[str, StringConstraints(pattern=f"(?i)^{LABEL_FILE}$")]
            _accept("form", fields, {"params": str, "label": file} if rule.params else {"info": str})
            text = str(dict(fields).get("params" if rule.params else "info") or "{}")
            TypeAdapter(_shape(known) if rule.params else Facts).validate_json(text)
        return dict(query) | resolved


def install(app: Any) -> None:
    """Put our routes before MONAI Label's and the guard before all of them."""
    from monailabel.app import app as fastapi_app

    access = Access.from_conf(app.conf)
    for router in (routes.router(app), dicomweb.router(app), login_router(access), status_router()):
        fastapi_app.include_router(router)
        fastapi_app.router.routes.insert(0, fastapi_app.router.routes.pop())
    for kind in (HTTPException, RequestValidationError, stock.MONAILabelException, InputError, QueueError, Exception):
        fastapi_app.add_exception_handler(kind, answer)
    fastapi_app.dependency_overrides[get_current_user] = access.stock_user
    # In place of the stock middleware, which lets every origin in.
    methods, headers = ["GET", "HEAD", "PUT", "POST", "DELETE"], ["Authorization", "Content-Type"]
    cors = Middleware(CORSMiddleware, allow_origins=access.origins, allow_methods=methods, allow_headers=headers)
    fastapi_app.user_middleware[:] = [cors]
    fastapi_app.middleware_stack = Guard(fastapi_app.build_middleware_stack(), app, access)
    for endpoint in (datastore, infer):  # which forget an uploaded file when saving it fails
        endpoint.tempfile = SimpleNamespace(NamedTemporaryFile=_upload_file)


async def answer(request: Request, error: Exception) -> Response:
    """Tell what the client did wrong, or the id under which the log tells what went wrong here."""
    status, detail = 500, str(getattr(error, "msg", error))
    if isinstance(error, HTTPException):
        status, detail = error.status_code, str(error.detail)
    elif isinstance(error, QueueError):
        status = 503 if isinstance(error, QueueFullError) else 409
    elif isinstance(error, RequestValidationError | ValidationError):
        status, detail = 400, "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:3])[:400]
    elif isinstance(error, stock.ImageNotFoundException | stock.LabelNotFoundException):
        status = 404
    elif isinstance(error, InputError) or getattr(error, "error", None) is stock.MONAILabelError.INVALID_INPUT:
        status = 400
    if status == 500:
        name = uuid.uuid4().hex[:8]
        logger.error("internal error %s: %s %s", name, request.method, request.scope["path"], exc_info=error)
        detail = f"internal error {name}"
    if status == 401 and "text/html" in request.headers.get("accept", ""):  # a page rather than a script asks
        return FileResponse(routes.STATIC / "login.html", status, headers={"Cache-Control": "no-store"})
    return JSONResponse({"detail": _without_folders(detail)}, status, getattr(error, "headers", None))


def status_router() -> APIRouter:
    """Return MONAI Label's status routes, which repeat what the child process wrote; here its last line alone."""
    router = APIRouter(include_in_schema=False)
    for path, method in (("/train/", "train"), ("/scoring/", "scoring"), ("/batch/infer", "batch_infer")):
        router.add_api_route(path, _status(method), methods=["GET"])
        router.add_api_route(path, _stop(method), methods=["DELETE"])
    return router


def _status(method: str) -> Callable[..., Any]:
    async def status(all: bool = False, check_if_running: bool = False) -> Any:
        found, problem = AsyncTask.status(method, all, check_if_running)
        if found is None:
            raise HTTPException(404, problem)
        return [_told(task) for task in found] if all else _told(found)

    return status


def _stop(method: str) -> Callable[..., Any]:
    async def stop() -> Any:
        found = AsyncTask.stop(method)
        if found is None:
            raise HTTPException(404, f"no {method.replace('_', ' ')} is running")
        return _told(found)

    return stop


def _told(task: Mapping[str, Any]) -> dict[str, Any]:
    lines = list(task.get("details", ()))[-1:] or ["no output yet"]  # Slicer looks at the last
    return {**task, "details": [_without_folders(line) for line in lines]}


def _without_folders(text: str) -> str:
    return re.sub(r"(?:/[^\s/:'\"]+)+/", "", text)  # a file is told by its name alone


def _upload_file(suffix: str) -> SimpleNamespace:
    return SimpleNamespace(name=f"{upload_folder.get()}/upload{suffix}")


async def _read(request: Request, limit: int) -> bytes:
    body = bytearray()
    if limit:  # MONAI Label's client may announce a body where it sends none: only wait where one is due
        async for part in request.stream():
            body += part
            if len(body) > limit:
                raise HTTPException(413, f"more than {limit >> 20} MB")
    return bytes(body)


async def _watch(receive: Receive, gone: list[Callable[[], object]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass  # a body that nobody wants
    for call in gone:
        call()


def _replay(body: bytes) -> Receive:
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if not messages:
            await asyncio.Event().wait()  # until the answer is complete
        return messages.pop()

    return receive


def _advertised(task: Any) -> dict[str, Any]:
    types = {bool: bool, int: FiniteFloat, float: FiniteFloat}
    config = task.info().get("config") or {}
    return {key: Literal[tuple(v)] if isinstance(v, list) else types.get(type(v), Text) for key, v in config.items()}


def _shape(kinds: Mapping[str, Any]) -> Any:
    """Return the type of an object that has some of these keys and no others."""
    typed_dict: Any = TypedDict
    shape = typed_dict("params", dict(kinds), total=False)
    shape.__pydantic_config__ = {"extra": "forbid", "strict": True}
    return shape


def _accept(name: str, items: list[tuple[str, Any]], kinds: Mapping[str, Any]) -> None:
    if len(dict(items)) < len(items):
        raise HTTPException(400, f"{name}: a name is given twice")
    TypeAdapter(_shape(kinds)).validate_python(dict(items))
