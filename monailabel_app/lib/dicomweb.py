"""DICOMweb for OHIF, read only: what the PACS has, with each phase of a cine as a series of its own.

OHIF shows one volume a series and MONAI Label's panel asks for a segmentation by series, so what is displayed, what is
segmented and what is saved are one and the same. Enhanced (multi-frame) cines pass as they are: there a phase has no
images of its own.
"""

import json
import re
from typing import Any

import requests
from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from monailabel.config import settings
from monailabel.interfaces.exception import ImageNotFoundException

from cardiac_cine.annotation.phase_series import SERIES_UID, Item, PhaseImage, shown_images, shown_series, value
from monailabel_app.lib.datastore import CineDatastore

_UID = r"[0-9.]{1,64}"
_PART = r"metadata|rendered|thumbnail|frames/[0-9,]{1,64}(/rendered|/thumbnail)?|bulk(data)?/[0-9A-Za-z/]{1,200}"
_PATH = re.compile(
    rf"studies(/(?P<study>{_UID})/(series|metadata|instances|"
    rf"series/(?P<series>{_UID})/(metadata|instances|thumbnail|rendered|instances/(?P<image>{_UID})(/({_PART}))?)))?"
)
_ROOT, _JSON = "/proxy/dicom/wado", "application/dicom+json"
_TIMEOUT_SECONDS = (5, 60)  # to connect; between two parts of an answer


def phase_images(datastore: CineDatastore, study: str) -> dict[str, PhaseImage]:
    """Return where the images of a study's cines are shown, by SOP instance UID: ED, ES, then the other phases."""
    entries = [e for e in datastore.entries(all_phases=True) if e.study_uid == study and e.phases > 1]
    shown = {}
    for rank, entry in enumerate(entries):
        images = datastore.instances(entry.id)
        name = f"{entry.key}, phase {entry.phase + 1} of {entry.phases}".removeprefix(", ")
        for z, (uid, source, frame) in enumerate(images):
            if frame is None:
                shown[uid] = PhaseImage(entry.series_uid, source, name, rank - len(entries), z, len(images))
    return shown


def router(app: Any) -> APIRouter:
    """Return ``/proxy/dicom``. The guard gives each request a thread of its own, so these routes may block."""
    routes = APIRouter(prefix="/proxy/dicom", include_in_schema=False)
    session = requests.Session()

    def fetch(kind: str, path: str, accept: str, query: list[tuple[str, str]]) -> requests.Response:
        prefix = settings.MONAI_LABEL_QIDO_PREFIX if kind == "qido" else settings.MONAI_LABEL_WADO_PREFIX
        user, password = settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD
        session.auth = (user, password) if user and password else None
        url = "/".join(part.strip("/") for part in (app.studies, prefix or "", path) if part)
        wanted = {"Accept": accept}
        try:
            answer = session.get(url, params=query, headers=wanted, timeout=_TIMEOUT_SECONDS, allow_redirects=False)
        except requests.RequestException as error:
            raise HTTPException(502, "the PACS does not answer") from error
        if answer.status_code >= 300:
            raise HTTPException(404 if answer.status_code == 404 else 502, f"the PACS answers {answer.status_code}")
        return answer

    @routes.get("/{kind}/{path:path}")
    async def get(kind: str, path: str, request: Request) -> Response:
        match = _PATH.fullmatch(path)
        if not match or kind not in ("qido", "wado") or not app.studies.startswith(("http://", "https://")):
            raise HTTPException(404, "DICOMweb has no such path, or there is no PACS")
        study, series, query = match["study"], match["series"], request.query_params.multi_items()
        sources = _sources(app.datastore(), series)
        if not study or not path.endswith(("/series", "/instances", "/metadata")):
            path = path.replace(f"/series/{series}/", f"/series/{sources.get(match['image'], series)}/")
            answer = fetch(kind, path, request.headers.get("accept", "*/*"), query)
            return Response(answer.content, media_type=answer.headers.get("Content-Type"))
        wanted = dict(query).get("SeriesInstanceUID", series)
        query = [(key, text) for key, text in query if key != "SeriesInstanceUID"]
        items: list[Item] = []
        for source in sorted(set(sources.values())) or [series]:
            each = path.replace(f"/series/{series}/", f"/series/{source}/")
            answer = fetch("wado" if each.endswith("/metadata") else kind, each, _JSON, query)
            items += json.loads(answer.text.replace(app.studies.rstrip("/"), _ROOT) or "[]")
        show = shown_series if path.endswith("/series") else shown_images
        items = show(items, phase_images(app.datastore(), study))
        return JSONResponse([i for i in items if wanted in (None, value(i, SERIES_UID))], media_type=_JSON)

    return routes


def _sources(datastore: CineDatastore, series: str | None) -> dict[str, str]:
    """Return the images of a phase's series and the series that each is in; {} for any other series."""
    try:
        entry = datastore.entry(series or "")
    except ImageNotFoundException:
        return {}
    return {uid: source for uid, source, _ in datastore.instances(entry.id)} if entry.series_uid == series else {}
