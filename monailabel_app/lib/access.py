"""Who may talk to the server: from where, under which name, and with which proof."""

import hashlib
import hmac
import ipaddress
import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Annotated, Any
from urllib.parse import urlsplit

import jwt
from fastapi import APIRouter, Form, HTTPException, Request, Response
from fastapi.responses import RedirectResponse
from starlette.types import Scope

from cardiac_cine.errors import InputError

SESSION_SECONDS = 12 * 3600
# Fewer can be guessed.
TOKEN_CHARACTERS = 16
COOKIE, TOKEN_VARIABLE = "cardiac_label", "CARDIAC_LABEL_TOKEN"
OPEN_PATHS = ("/auth/token", "/cine/login", "/favicon.ico")

# Who makes the request that is being served, also in the thread that serves it.
current_user: ContextVar[str] = ContextVar("current_user", default="anonymous")
# What the request uploads lies there, and goes with it.
upload_folder: ContextVar[str] = ContextVar("upload_folder")


def is_loopback(host: str) -> bool:
    """Tell whether a name or an address means this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def parse_origins(text: str) -> frozenset[str]:
    """Return the origins of a comma-separated list; InputError names those that are none."""
    origins = frozenset(part.strip().rstrip("/") for part in text.split(",") if part.strip())
    wrong = [each for each in sorted(origins) if not _is_origin(each)]
    if wrong:
        raise InputError([f"origin {each!r}: expected http(s)://HOST[:PORT], as a browser sends it" for each in wrong])
    return origins


def _is_origin(text: str) -> bool:
    with suppress(ValueError):  # an address in brackets that is none
        return re.fullmatch(r"https?://([\w.-]+|\[[\da-f:]+\])(:\d+)?", text) is not None and bool(urlsplit(text))
    return False


def chosen_token(places: Mapping[str, str | None]) -> str:
    """Return the first token that stands in a place, "" where none does; InputError names places of too short ones."""
    given = {place: token.strip() for place, token in places.items() if token is not None}
    short = [place for place, token in given.items() if len(token) < TOKEN_CHARACTERS]
    if short:
        expected = f"a token of at least {TOKEN_CHARACTERS} characters is expected"
        raise InputError([f"{place}: {expected}, found {len(given[place])}" for place in short])
    return next(iter(given.values()), "")


class GuessedError(HTTPException):
    """A token or a session that was never valid here."""


@dataclass(frozen=True)
class Access:
    """The rules of one server: its token, the origins that may use it, and whether Keycloak decides instead.

    Raises InputError for origins of other machines where there is neither.
    """

    token: str = ""
    origins: frozenset[str] = frozenset()
    keycloak: bool = False

    def __post_init__(self) -> None:
        others = [origin for origin in sorted(self.origins) if not is_loopback(urlsplit(origin).hostname or "")]
        if others and not (self.token or self.keycloak):
            raise InputError(f"--origins {', '.join(others)}: other machines are served only with a token, found none")

    @classmethod
    def from_conf(cls, conf: Mapping[str, Any]) -> "Access":
        """Read MONAI Label's --conf, which it writes into its log: the token comes from the environment alone."""
        from monailabel.config import settings  # here: the environment must be complete when it is imported
        from monailabel.endpoints.user import auth

        if "token" in conf:
            raise InputError(f"--conf token: it is in MONAI Label's log by now; set {TOKEN_VARIABLE} to another one")
        # Which leaves the algorithm out, so that PyJWT takes no token at all; Keycloak signs with RS256.
        auth.jwt = SimpleNamespace(decode=lambda token, key, options: jwt.decode(token, key, ["RS256"], options))
        token = chosen_token({TOKEN_VARIABLE: os.environ.get(TOKEN_VARIABLE)})
        return cls(token, parse_origins(str(conf.get("origins") or "")), settings.MONAI_LABEL_AUTH_ENABLE)

    def check_address(self, request: Request) -> None:
        """Refuse names that are not ours (DNS rebinding), other sites' pages, and without a token other machines."""
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        name = re.sub(r":\d*$", "", host).strip("[]").lower()
        if not is_loopback(name) and name not in {urlsplit(known).hostname for known in self.origins}:
            raise HTTPException(403, "this server is not known under that host name; list it in --origins")
        if not (self.token or self.keycloak or (request.client and is_loopback(request.client.host))):
            raise HTTPException(403, "without a token only this machine is served")
        if origin and origin not in {*self.origins, f"http://{host}", f"https://{host}"}:
            raise HTTPException(403, "requests from that origin are not accepted")

    def user(self, request: Request) -> str:
        """Return the name behind a request's token or cookie, "" where none is needed; 401 where it is not proven."""
        given, path = _proof(request), request.scope["path"]
        if request.method == "OPTIONS" or path in OPEN_PATHS or (path == "/auth/" and not given):
            return ""
        try:
            if self.keycloak:
                from monailabel.endpoints.user.auth import from_token

                return from_token(given).username
            if not self.token or self._is_token(given):
                return "token" if self.token else "anonymous"
            return jwt.decode(given, self._key, algorithms=["HS256"], options={"require": ["exp", "sub"]})["sub"]
        except jwt.InvalidTokenError as error:
            kind = HTTPException if not given or isinstance(error, jwt.ExpiredSignatureError) else GuessedError
            raise kind(401, "a valid token is needed", {"WWW-Authenticate": "Bearer"}) from error

    async def stock_user(self, request: Request) -> Any:
        """Return who makes a request in MONAI Label's terms, by Keycloak's cookie too."""
        from monailabel.endpoints.user.auth import User, from_token

        return from_token(_proof(request)) if self.keycloak else User(username=current_user.get())

    def session(self, user: str, token: str | None = None) -> str:
        """Return a signed session of a user, who is known already or proves it by the token."""
        if token is not None and not self._is_token(token):
            raise HTTPException(401, "a valid token is needed", {"WWW-Authenticate": "Bearer"})
        if not re.fullmatch(r"[\w.@ -]{1,64}", user):
            raise HTTPException(400, "a user name has 1 to 64 letters, digits, blanks or any of _ . @ -")
        return jwt.encode({"sub": user, "exp": int(time.time()) + SESSION_SECONDS}, self._key, "HS256")

    def _is_token(self, given: str) -> bool:
        return bool(self.token) and hmac.compare_digest(given.encode(), self.token.encode())

    @property
    def _key(self) -> bytes:
        return hashlib.sha256(b"cardiac_label session " + self.token.encode()).digest()


def _proof(request: Request) -> str:
    bearer = re.fullmatch("bearer (.+)", request.headers.get("authorization", ""), re.IGNORECASE)
    return bearer[1] if bearer else request.cookies.get(COOKIE, "")


def carried_session(scope: Scope) -> Scope:
    """Take the session out of /as/SESSION/...: Slicer's module downloads images without its Authorization header."""
    match = re.fullmatch(r"/as/([\w.-]+)(/.*)", scope["path"], re.ASCII)
    if not match:
        return scope
    headers = [(b"authorization", f"Bearer {match[1]}".encode()), *scope["headers"]]
    return {**scope, "path": match[2], "raw_path": match[2].encode(), "headers": headers}


def login_router(access: Access) -> APIRouter:
    """Return the routes by which Slicer (/auth) and browsers (/cine/login) sign in with the token."""
    router = APIRouter(include_in_schema=False)

    def entered(request: Request, token: str, user: str) -> Response:
        page = re.fullmatch(r"https?://([^/]+)(/ohif/.*)", request.headers.get("referer", ""))  # where the form stood
        response = RedirectResponse(page[2] if page and page[1] == request.headers.get("host") else "/ohif/", 303)
        if access.token or access.keycloak:
            given = token if access.keycloak else access.session(user, token)
            secure = request.url.scheme == "https"
            response.set_cookie(COOKIE, given, SESSION_SECONDS, secure=secure, httponly=True, samesite="strict")
        return response

    @router.get("/cine/login")
    async def login(request: Request, token: str = "", user: str = "browser") -> Response:
        return entered(request, token, user)

    @router.post("/cine/login")
    async def sign_in(request: Request, token: Annotated[str, Form()], user: Annotated[str, Form()]) -> Response:
        return entered(request, token, user)

    @router.get("/cine/slicer")
    async def slicer(request: Request) -> dict:
        given = _proof(request)  # a session is carried as it is, so that it ends when it should
        session = access.session(current_user.get()) if access._is_token(given) else given
        return {"server": f"{request.base_url}as/{session}" if access.token else str(request.base_url)}

    @router.post("/cine/logout")
    async def sign_out() -> Response:
        response = Response(status_code=204)
        response.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return response

    if access.keycloak:
        return router  # MONAI Label's own /auth asks Keycloak

    @router.get("/auth/")
    async def enabled(request: Request) -> dict:
        return {"enabled": bool(access.token) and not _proof(request)}  # the guard has looked at what there is

    @router.post("/auth/token")
    async def token(username: Annotated[str, Form()], password: Annotated[str, Form()]) -> dict:
        return {"access_token": access.session(username, password), "token_type": "Bearer"}

    @router.get("/auth/token/valid")
    async def valid() -> dict:
        return {"username": current_user.get()}

    return router
