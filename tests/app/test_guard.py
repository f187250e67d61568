import asyncio
import contextlib
import json
import threading
import time
from types import SimpleNamespace

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from fastapi import FastAPI, Form, HTTPException, Request, UploadFile
from fastapi.responses import StreamingResponse
from monailabel.config import settings
from monailabel.endpoints.user import auth
from monailabel.interfaces.exception import ImageNotFoundException, MONAILabelError, MONAILabelException
from pydantic import TypeAdapter, ValidationError

from cardiac_cine.annotation.jobs import JobCancelledError, Jobs, QueueFullError
from cardiac_cine.errors import InputError
from monailabel_app.lib import guard
from monailabel_app.lib.access import TOKEN_VARIABLE, Access, current_user, login_router
from monailabel_app.lib.guard import Guard

TOKEN = "correct horse battery"
ORIGIN = "https://label.example.org"
TASK = SimpleNamespace(info=lambda: {"config": {"whole_cine": False, "steps": 3, "device": ["cpu", "cuda:0"]}})


class Datastore:
    def resolve(self, name):
        if name != "p1_phase01":
            raise ImageNotFoundException(f"there is no image {name!r}")
        return name


class App:
    def __init__(self):
        self.labels = {"rv": 1, "myo": 2, "lv": 3}
        self._infers = self._trainers = {"cardiac_cine": TASK}
        self._strategies = self._scoring_methods = {"random": SimpleNamespace(info=dict)}
        self.events = []

    def datastore(self):
        return Datastore()

    def audit(self, action, **what):
        self.events.append((current_user.get(), action, what))


def inner(slow_started=None, release=None):
    api = FastAPI()
    api.include_router(guard.status_router())
    for kind in (HTTPException, MONAILabelException, InputError, Exception):
        api.add_exception_handler(kind, guard.answer)

    @api.get("/info/")
    async def info():
        return {"user": current_user.get(), "thread": threading.current_thread().name}

    @api.post("/infer/{model}")
    async def infer(request: Request, params: str = Form("{}")):
        if slow_started:
            slow_started.set()
            release.wait(10)
        return json.loads(params)

    @api.put("/datastore/label")
    async def save(label: UploadFile, params: str = Form("{}")):
        return {"bytes": len(await label.read())}

    @api.get("/datastore/")
    async def stream(output: str = ""):
        return StreamingResponse(iter([b"a" * 70000] * 3))

    @api.get("/datastore/image/info")
    async def image_info(image: str):
        errors = {
            "input": InputError("/srv/studies/p1.nii.gz: 3 slices, expected 4"),
            "invalid": MONAILabelException(MONAILabelError.INVALID_INPUT, "no such thing in /srv/x/y"),
            "full": QueueFullError("32 computations are waiting, try again later"),
            "cancelled": JobCancelledError("the computation was cancelled"),
            "bug": RuntimeError("secret in /srv/studies/p1.nii.gz"),
            "stock": HTTPException(500, "Log File /srv/app.log NOT Found"),
            "teapot": HTTPException(418, "short and stout"),
        }
        raise errors[image]

    @api.post("/cine/key")
    async def key(image: str, key: str):
        return {}

    @api.post("/activelearning/{strategy}")
    async def next_sample(strategy: str):
        guard.noted.get().update(image="p1_phase02", skipped="p1_phase01")
        return {}

    @api.get("/ohif/{path}")
    async def file(path: str):
        return {"thread": threading.current_thread().name}

    @api.post("/train/{model}")
    @api.post("/train/")
    async def train(request: Request):
        return {"body": (await request.body()).decode()}

    return api


@pytest.fixture
def app():
    return App()


@contextlib.contextmanager
def any_image(monkeypatch):
    monkeypatch.setattr(Datastore, "resolve", lambda self, name: name)
    yield


def ask(app, method, path, *, access=None, client="127.0.0.1", api=None, base="http://127.0.0.1:8000", **options):
    access = access or Access()

    async def call():
        served = api or inner()
        served.include_router(login_router(access))
        transport = httpx.ASGITransport(Guard(served, app, access), client=(client, 5), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url=base) as http:
            return await http.request(method, path, **options)

    return asyncio.run(call())


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        (guard.Text, ["", "a b", None], [1, "x" * 257, "a\nb", "\0", ["a"]]),
        (
            guard.Numbers,
            [[], None, 3, 1.5, [1, 2, 3], [[1, 2, 3], [4, 5, 6.5]]],
            ["1", [[[1]]], [True], {}, float("nan"), [[1, float("inf")]]],
        ),
        (guard.Segments, [[], [{"name": "rv", "idx": 1}]], [{}, ["rv"], "rv", None, [{"a": [float("inf")]}]]),
        (guard.INFER["result_extension"], [".nrrd"], ["nrrd", None, ["/x.nrrd"], ".nrrd/../x"]),
        (guard._advertised(TASK)["whole_cine"], [True, False], [0, 1, "true", None]),
        (guard._advertised(TASK)["steps"], [3, -2, 1.5], [True, "3", None, [3], float("inf")]),
        (guard._advertised(TASK)["device"], ["cpu"], ["cuda:7", None, ["cpu"]]),
    ],
)
def test_a_value_has_the_kind_that_is_expected(kind, right, wrong):
    def accepted(value):
        try:
            TypeAdapter(guard._shape({"key": kind})).validate_python({"key": value})
        except ValidationError:
            return False
        return True

    assert [value for value in right if not accepted(value)] == []
    assert [value for value in wrong if accepted(value)] == []
    assert not accepted_object({"other": right[0]}, kind)


def accepted_object(value, kind):
    with contextlib.suppress(ValidationError):
        return bool(TypeAdapter(guard._shape({"key": kind})).validate_python(value))


def test_a_request_runs_in_a_thread_under_its_user(app):
    answered = ask(app, "GET", "/info/").json()
    assert answered["user"] == "anonymous"
    assert answered["thread"].startswith("quick")


def test_answers_are_streamed_whole_and_carry_the_headers(app):
    answered = ask(app, "GET", "/datastore/")
    assert len(answered.content) == 210_000
    assert answered.headers["x-content-type-options"] == "nosniff"
    assert answered.headers["x-frame-options"] == "SAMEORIGIN"
    assert answered.headers["content-security-policy"].startswith("default-src 'self' ")
    assert ask(app, "GET", "/closed").headers["x-content-type-options"] == "nosniff"


def test_a_running_inference_holds_up_nobody(app):
    started, release, access = threading.Event(), threading.Event(), Access()

    async def call():
        transport = httpx.ASGITransport(Guard(inner(started, release), app, access), client=("127.0.0.1", 5))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            many = [http.post("/infer/cardiac_cine?image=p1_phase01") for _ in range(20)]
            running = asyncio.gather(*many)
            await asyncio.to_thread(started.wait, 10)
            begin = time.monotonic()
            assert (await http.get("/info/")).status_code == 200
            assert time.monotonic() - begin < 5  # the inferences wait for 10
            release.set()
            assert [answered.status_code for answered in await running] == [200] * 20

    asyncio.run(call())


@pytest.mark.parametrize(
    ("name", "status", "detail"),
    [
        ("input", 400, "p1.nii.gz: 3 slices, expected 4"),
        ("invalid", 400, "no such thing in y"),
        ("full", 503, "32 computations are waiting, try again later"),
        ("cancelled", 409, "the computation was cancelled"),
        ("teapot", 418, "short and stout"),
    ],
)
def test_errors_are_told_without_paths(app, monkeypatch, name, status, detail):
    with any_image(monkeypatch):
        answered = ask(app, "GET", f"/datastore/image/info?image={name}")
    assert (answered.status_code, answered.json()) == (status, {"detail": detail})


@pytest.mark.parametrize("name", ["bug", "stock"])
def test_what_went_wrong_here_is_only_in_the_log(app, monkeypatch, caplog, name):
    with any_image(monkeypatch):
        answered = ask(app, "GET", f"/datastore/image/info?image={name}")
    assert answered.status_code == 500
    detail = answered.json()["detail"]
    assert detail.startswith("internal error ")
    assert "/srv/" not in detail
    assert detail in caplog.text
    assert "/srv/" in caplog.text


def test_only_this_machine_is_served_without_a_token(app):
    for client in ("10.0.0.9", "::ffff:10.0.0.9"):
        answered = ask(app, "GET", "/info/", client=client)
        assert (answered.status_code, answered.json()["detail"]) == (403, "without a token only this machine is served")
    assert ask(app, "GET", "/info/", client="::1").status_code == 200


def test_hosts_and_origins(app):
    access = Access(TOKEN, frozenset({ORIGIN}))
    bearer = {"Authorization": f"Bearer {TOKEN}"}

    def status(base, **headers):
        return ask(app, "GET", "/info/", access=access, base=base, headers=bearer | headers).status_code

    assert status("http://label.example.org") == 200
    assert status("http://other.example.org") == 403
    assert status("http://127.0.0.1:8000", Origin="http://127.0.0.1:8000") == 200
    assert status("http://127.0.0.1:8000", Origin=ORIGIN) == 200
    assert status("http://127.0.0.1:8000", Origin="http://127.0.0.1:9000") == 403
    assert status("http://127.0.0.1:8000", Origin="null") == 403
    assert status("http://[::1]:8000") == 200


def test_a_session_has_its_users_name_and_ends(app):
    access = Access(TOKEN)
    form = {"username": "Dr Who", "password": TOKEN}
    answered = ask(app, "POST", "/auth/token", access=access, data=form).json()
    assert answered["token_type"] == "Bearer"
    session = {"Authorization": f"Bearer {answered['access_token']}"}
    assert ask(app, "GET", "/auth/token/valid", access=access, headers=session).json() == {"username": "Dr Who"}
    assert ask(app, "GET", "/info/", access=access, headers=session).json()["user"] == "Dr Who"
    assert ask(app, "GET", "/info/", access=Access("another token"), headers=session).status_code == 401
    ended = jwt.encode({"sub": "Dr Who", "exp": 1}, access._key, "HS256")
    assert ask(app, "GET", "/info/", access=access, headers={"Authorization": f"Bearer {ended}"}).status_code == 401


def test_slicer_is_told_whether_to_sign_in(app):
    access = Access(TOKEN)
    assert ask(app, "GET", "/auth/").json() == {"enabled": False}
    assert ask(app, "GET", "/auth/", access=access).json() == {"enabled": True}
    headers = {"Authorization": f"Bearer {access.session('ann')}"}
    server = ask(app, "GET", "/cine/slicer", access=access, headers=headers).json()["server"]
    assert server.startswith("http://127.0.0.1:8000/as/")
    assert ask(app, "GET", f"{server}/auth/", access=access).json() == {"enabled": False}
    assert ask(app, "GET", f"{server}/info/", access=access).json()["user"] == "ann"
    assert ask(app, "GET", "/info/", access=access).status_code == 401


def test_a_browser_signs_in_with_a_cookie_that_scripts_and_other_sites_do_not_get(app):
    access = Access(TOKEN)
    answered = ask(app, "GET", f"/cine/login?user=ann&token={TOKEN}", access=access)
    assert (answered.status_code, answered.headers["location"]) == (303, "/ohif/")
    cookie = answered.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict"} <= set(cookie.split("; "))
    carried = {"Cookie": cookie.partition(";")[0]}
    assert ask(app, "GET", "/info/", access=access, headers=carried).json()["user"] == "ann"
    assert ask(app, "GET", "/cine/login?token=wrong", access=access).status_code == 401
    secure = ask(app, "GET", f"/cine/login?token={TOKEN}", access=access, base="https://localhost")
    assert "Secure" in secure.headers["set-cookie"]


@pytest.mark.parametrize(
    ("referer", "place"),
    [
        ("http://127.0.0.1:8000/ohif/monai-label?StudyInstanceUIDs=1.2", "/ohif/monai-label?StudyInstanceUIDs=1.2"),
        ("http://evil.example/ohif/monai-label", "/ohif/"),
        ("http://127.0.0.1:8000//evil.example/ohif/", "/ohif/"),
        ("http://127.0.0.1:8000/cine/login", "/ohif/"),
        ("http://[", "/ohif/"),
        ("", "/ohif/"),
    ],
)
def test_signing_in_leads_back_to_the_viewers_page(app, referer, place):
    answered = ask(app, "GET", f"/cine/login?token={TOKEN}", access=Access(TOKEN), headers={"Referer": referer})
    assert (answered.status_code, answered.headers["location"]) == (303, place)


def test_a_session_in_an_address_ends_when_the_session_does(app):
    access = Access(TOKEN)
    session = jwt.encode({"sub": "ann", "exp": int(time.time()) + 100}, access._key, "HS256")
    for headers in ({"Authorization": f"Bearer {session}"}, {"Cookie": f"cardiac_label={session}"}):
        told = ask(app, "GET", "/cine/slicer", access=access, headers=headers).json()
        assert told == {"server": f"http://127.0.0.1:8000/as/{session}"}
    told = ask(app, "GET", "/cine/slicer", access=access, headers={"Authorization": f"Bearer {TOKEN}"}).json()
    made = jwt.decode(told["server"].rpartition("/")[2], access._key, ["HS256"])
    assert made["exp"] == pytest.approx(time.time() + 12 * 3600, abs=60)
    assert ask(app, "GET", "/cine/slicer").json() == {"server": "http://127.0.0.1:8000/"}


def test_a_browser_signs_out(app):
    access = Access(TOKEN)
    cookie = {"Cookie": f"cardiac_label={access.session('ann')}"}
    answered = ask(app, "POST", "/cine/logout", access=access, headers=cookie)
    assert answered.status_code == 204
    assert answered.headers["set-cookie"].startswith('cardiac_label=""; ')
    assert "Max-Age=0" in answered.headers["set-cookie"]
    assert ask(app, "POST", "/cine/logout", access=access).status_code == 401
    assert app.events == [("ann", "cine", {"path": "/cine/logout"})]


def test_who_opens_the_page_to_sign_in_has_guessed_nothing(app):
    assert ask(app, "GET", "/cine/login", access=Access(TOKEN)).status_code == 401
    assert app.events == []
    assert ask(app, "GET", "/cine/login?token=guessed", access=Access(TOKEN)).status_code == 401
    assert app.events == [("anonymous", "sign-in refused", {"path": "/cine/login", "client": "127.0.0.1"})]


FORGED = jwt.encode({"sub": "ann", "exp": 1 << 40}, "a key that another server signs its sessions with", "HS256")
UNSIGNED = jwt.encode({"sub": "ann", "exp": 1 << 40}, None, "none")


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/info/", {"Authorization": "Bearer guessed"}),
        ("/info/", {"Authorization": f"Bearer {FORGED}"}),
        ("/info/", {"Authorization": f"Bearer {UNSIGNED}"}),
        ("/info/", {"Cookie": "cardiac_label=guessed"}),
        ("/as/guessed/info/", {}),
        ("/auth/", {"Authorization": "Bearer guessed"}),
        ("/as/guessed/auth/", {}),
    ],
)
def test_a_wrong_token_waits_and_is_noted_wherever_it_is_tried(app, monkeypatch, path, headers):
    monkeypatch.setattr(guard, "REFUSED_SECONDS", 0.5)
    begin = time.monotonic()
    answered = ask(app, "GET", path, access=Access(TOKEN), headers=headers)
    assert time.monotonic() - begin >= 0.5
    assert (answered.status_code, answered.json()) == (401, {"detail": "a valid token is needed"})
    assert app.events == [
        ("anonymous", "sign-in refused", {"path": path.replace("/as/guessed", ""), "client": "127.0.0.1"})
    ]


def test_a_refused_request_adds_little_to_the_audit_log(app, monkeypatch):
    monkeypatch.setattr(guard, "REFUSED_SECONDS", 0)
    headers = {"Authorization": "Bearer guessed"}
    assert ask(app, "GET", "/" + 60_000 * "a", access=Access(TOKEN), headers=headers).status_code == 401
    [(_, _, what)] = app.events
    assert what["path"] == "/" + 199 * "a"


@pytest.fixture(scope="module")
def realm():
    """A Keycloak's key: signs tokens, and its public part as Keycloak tells it."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    return SimpleNamespace(private=private, public=private.public_key().public_bytes(*form).decode())


@pytest.fixture
def keycloak(realm, monkeypatch):
    """The access and the stock dependency of a server behind that Keycloak."""
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    monkeypatch.setattr(settings, "MONAI_LABEL_AUTH_ENABLE", True)
    monkeypatch.setattr(auth, "get_public_key", lambda uri: realm.public)
    monkeypatch.setattr(auth, "jwt", jwt)
    return Access.from_conf({})


def signed(key, algorithm="RS256", **claims):
    known = {"preferred_username": "ann", "email": "a@b", "name": "Ann", "realm_access": {"roles": ["monailabel-user"]}}
    return jwt.encode(known | {"aud": "account", "exp": time.time() + 60, **claims}, key, algorithm)


@pytest.mark.parametrize("place", ["header", "cookie"])
def test_who_keycloak_knows_is_served_under_that_name_and_with_these_roles(app, realm, keycloak, place):
    token = signed(realm.private)
    headers = {"Authorization": f"Bearer {token}"} if place == "header" else {"Cookie": f"cardiac_label={token}"}
    answered = ask(app, "GET", "/info/", access=keycloak, headers=headers)
    assert (answered.status_code, answered.json()["user"]) == (200, "ann")
    request = Request({"type": "http", "headers": [(k.lower().encode(), v.encode()) for k, v in headers.items()]})
    user = asyncio.run(keycloak.stock_user(request))
    assert (user.username, user.roles) == ("ann", ["monailabel-user"])


def test_keycloak_must_have_signed_a_token_and_it_must_not_have_ended(app, realm, keycloak, monkeypatch):
    monkeypatch.setattr(guard, "REFUSED_SECONDS", 0)
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    refused = [signed(other), signed(realm.private, exp=1), signed(realm.private, "RS512"), signed(None, "none")]
    refused += [signed("a secret of more than 32 characters", "HS256"), "guessed"]
    for token in refused:
        headers = {"Authorization": f"Bearer {token}"}
        assert ask(app, "GET", "/info/", access=keycloak, headers=headers).status_code == 401
    assert ask(app, "GET", "/info/", access=keycloak).status_code == 401
    assert len(app.events) == len(refused) - 1


def test_who_has_no_token_or_had_a_session_has_guessed_nothing(app):
    access = Access(TOKEN)
    ended = jwt.encode({"sub": "ann", "exp": 1}, access._key, "HS256")
    for headers in ({}, {"Authorization": f"Bearer {ended}"}, {"Cookie": f"cardiac_label={ended}"}):
        assert ask(app, "GET", "/info/", access=access, headers=headers).status_code == 401
    assert app.events == []


def test_a_client_that_announces_a_body_and_sends_none_is_answered(app):
    # monailabel.client keeps the Content-Length of an upload in the headers of its next GET.
    async def call():
        async def receive():
            await asyncio.sleep(60)

        sent = []

        async def send(message):
            sent.append(message)

        headers = [(b"host", b"localhost"), (b"content-length", b"1000"), (b"content-type", b"multipart/form-data")]
        scope = {"type": "http", "method": "GET", "path": "/info/", "raw_path": b"/info/", "query_string": b""}
        scope |= {"headers": headers, "client": ("127.0.0.1", 5), "server": ("localhost", 80), "scheme": "http"}
        await asyncio.wait_for(Guard(inner(), app, Access())(scope, receive, send), 5)
        assert sent[0]["status"] == 200

    asyncio.run(call())


@pytest.mark.parametrize(
    "params",
    [
        {"client_id": None, "result_extension": ".nrrd", "result_dtype": "uint8"},
        {"result_extension": ".nrrd", "result_compress": False, "restore_label_idx": False, "whole_cine": True},
        {"foreground": [[10, 20, 3]], "background": [], "label": "rv", "device": "cpu", "steps": 5},
        {"rv": [[1, 2, 3]], "myo": [], "lv": [], "background": [[4, 5, 6]], "label": "lv", "roi": [], "slice": None},
        {"label_info": [{"name": "rv", "id": 1}], "selected_label_name": "rv"},
    ],
)
def test_what_slicer_and_ohif_send_passes(app, params):
    query = {"image": "p1_phase01", "output": "image"}
    form = {"params": (None, json.dumps(params))}
    assert ask(app, "POST", "/infer/cardiac_cine", params=query, files=form).json() == params


@pytest.mark.parametrize(
    "params", [{}, {"cardiac_cine": {"steps": 4, "whole_cine": True}}, {"client_id": "slicer", "cardiac_cine": {}}]
)
def test_ohif_trains_all_models_with_an_object_for_each(app, params):
    assert json.loads(ask(app, "POST", "/train/", json=params).json()["body"]) == params
    assert ask(app, "POST", "/train/", json={"cardiac_cine": {"model_filename": "x"}}).status_code == 400


def test_slicer_saves_a_label(app):
    files = {"params": (None, '{"label_info": [{"name": "rv", "idx": 1}]}'), "label": ("/tmp/a.b/x.seg.nrrd", b"12345")}
    answered = ask(app, "PUT", "/datastore/label?image=p1_phase01&tag=final", files=files)
    assert answered.json() == {"bytes": 5}
    what = {"path": "/datastore/label", "image": "p1_phase01", "tag": "final"}
    assert app.events == [("anonymous", "save label", what)]


def test_the_audit_log_has_who_did_what_and_no_attempts(app):
    access = Access(TOKEN)
    headers = {"Authorization": f"Bearer {access.session('ann')}"}
    assert ask(app, "POST", "/train/cardiac_cine", access=access, headers=headers).status_code == 200
    assert (
        ask(app, "DELETE", "/datastore/label?id=p1_phase01&tag=final", access=access, headers=headers).status_code
        == 405
    )
    assert ask(app, "POST", "/train/cardiac_cine", access=access).status_code == 401
    assert app.events == [("ann", "train", {"path": "/train/cardiac_cine"})]


@pytest.mark.parametrize(
    ("method", "path", "event"),
    [
        ("POST", "/cine/key?image=p1_phase01&key=ED", ("key phase", {"image": "p1_phase01", "key": "ED"})),
        ("POST", "/activelearning/random", ("next sample", {"image": "p1_phase02", "skipped": "p1_phase01"})),
        ("POST", "/infer/cardiac_cine?image=p1_phase01", ("propose label", {"image": "p1_phase01"})),
        ("POST", "/infer/cardiac_cine_correct?image=p1_phase01", None),  # keeps no label
        ("DELETE", "/train/", None),  # nothing runs
        ("GET", "/info/", None),
    ],
)
def test_the_audit_log_tells_on_which_image(app, method, path, event):
    app._infers = {"cardiac_cine": TASK, "cardiac_cine_correct": TASK}
    status = ask(app, method, path).status_code
    assert status == (404 if method == "DELETE" else 200)
    expected = [("anonymous", event[0], {"path": path.partition("?")[0], **event[1]})] if event else []
    assert app.events == expected


def test_a_line_is_in_the_audit_log_before_the_answer_goes_out(app):
    sent = []
    app.audit = lambda action, **what: sent.append(action)

    async def call():
        async def receive():
            if sent:
                await asyncio.sleep(60)
            sent.append("body")
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message):
            sent.append(message["type"])

        scope = {"type": "http", "method": "POST", "path": "/train/", "raw_path": b"/train/", "query_string": b""}
        scope |= {"headers": [(b"host", b"localhost")], "client": ("127.0.0.1", 5), "server": ("localhost", 80)}
        await Guard(inner(), app, Access())(scope | {"scheme": "http"}, receive, send)

    asyncio.run(call())
    assert sent == ["body", "train", "http.response.start", "http.response.body"]


def test_what_cannot_be_written_to_the_audit_log_is_an_error(app, caplog):
    def full(action, **what):
        raise OSError(28, "No space left on device", "/srv/state/audit.jsonl")

    app.audit = full
    answered = ask(app, "POST", "/train/")
    assert answered.status_code == 500
    assert answered.json()["detail"].startswith("internal error ")
    assert "No space left on device" in caplog.text


def test_a_wrong_sign_in_waits_is_noted_and_holds_up_nobody(app, monkeypatch, caplog):
    monkeypatch.setattr(guard, "REFUSED_SECONDS", 1.5)
    served, access = inner(), Access(TOKEN)
    served.include_router(login_router(access))

    async def call():
        transport = httpx.ASGITransport(Guard(served, app, access), client=("127.0.0.1", 5))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            guess = {"username": "ann", "password": "guessed"}
            guesses = asyncio.gather(*(http.post("/auth/token", data=guess) for _ in range(20)))
            await asyncio.sleep(0.5)
            begin = time.monotonic()
            right = await http.post("/auth/token", data=guess | {"password": TOKEN})
            assert right.status_code == 200
            assert time.monotonic() - begin < 1
            assert not guesses.done()
            assert [each.status_code for each in await guesses] == [401] * 20

    asyncio.run(call())
    assert app.events == [("anonymous", "sign-in refused", {"path": "/auth/token", "client": "127.0.0.1"})] * 20
    assert caplog.text.count("a sign-in from 127.0.0.1 was refused") == 20
    assert "guessed" not in caplog.text


@pytest.mark.parametrize("busy", [False, True])
def test_a_computation_that_waits_is_dropped_with_its_client(app, busy):
    jobs, begun, release = Jobs(), threading.Event(), threading.Event()
    api = FastAPI()
    api.add_exception_handler(Exception, guard.answer)

    def hold(job):
        begun.set()
        release.wait(10)

    @api.post("/infer/{model}")
    async def infer(model: str, image: str):
        return jobs.run("kind", image, hold)

    async def call():
        parts = iter([{"type": "http.request", "body": b"", "more_body": False}])

        async def receive():
            for part in parts:
                return part
            while not begun.is_set() or len(jobs.list()) < 1 + busy:
                await asyncio.sleep(0.01)
            return {"type": "http.disconnect"}

        async def send(message):
            pass

        scope = {"type": "http", "method": "POST", "path": "/infer/cardiac_cine", "query_string": b"image=p1_phase01"}
        scope |= {"headers": [(b"host", b"localhost")], "client": ("127.0.0.1", 5), "server": ("localhost", 80)}
        scope |= {"raw_path": b"/infer/cardiac_cine", "scheme": "http"}
        served = asyncio.create_task(Guard(api, app, Access())(scope, receive, send))
        await asyncio.wait({served}, timeout=1)
        assert served.done() is busy
        release.set()
        await served

    first = threading.Thread(target=jobs.run, args=("kind", "first", hold))
    if busy:
        first.start()
    asyncio.run(call())
    expected = {("p1_phase01", "cancelled"), ("first", "done")} if busy else {("p1_phase01", "done")}
    if busy:
        first.join()
    assert {(job["image"], job["state"]) for job in jobs.list()} == expected


def test_files_are_served_without_a_thread(app):
    assert ask(app, "GET", "/ohif/app.js").json() == {"thread": threading.current_thread().name}


def test_every_stock_route_is_either_served_or_closed_on_purpose():
    from monailabel.app import app as stock

    closed = {"/reload", "/datastore/updatelabelinfo"}
    prefixes = ("/model/", "/logs/", "/session/", "/infer/wsi", "/proxy/dicom/{path}", "/proxy/dicom/stow")
    missing = []
    for path, operations in _paths(stock):
        for method in operations:
            sample = path.replace("{path:path}", "{path}")
            sample = sample.replace("{model}", "cardiac_cine").replace("{strategy}", "random").replace("{method}", "s")
            asked = Request({"type": "http", "path": sample.replace("{path}", "x"), "method": method, "headers": []})
            if any(rule.names(asked) is not None for rule in guard.RULES):
                continue
            if sample not in closed and not sample.startswith(prefixes):
                missing.append((method, path))
    assert sorted(missing) == [
        ("DELETE", "/datastore/"),
        ("DELETE", "/datastore/image"),
        ("POST", "/proxy/dicom/qido/{path:path}"),
        ("POST", "/proxy/dicom/wado/{path:path}"),
        ("PUT", "/datastore/"),
        ("PUT", "/datastore/image"),
    ]


def _paths(api, prefix=""):
    for route in api.routes:
        included = getattr(route, "original_router", None)
        if included is not None:
            yield from _paths(included, prefix)
        elif getattr(route, "methods", None):
            yield prefix + route.path, route.methods
