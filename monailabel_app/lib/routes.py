"""What a browser needs beside MONAI Label's own endpoints: OHIF's files with our bar, and ``/cine``, which it calls."""

import json
import tempfile
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import monailabel
from fastapi import APIRouter, File, Form, HTTPException, Request, Response
from fastapi.responses import FileResponse, HTMLResponse

from cardiac_cine.annotation.answers import numbers
from cardiac_cine.annotation.labelmaps import mask_from_planes
from cardiac_cine.annotation.mask_files import write_for_viewer
from cardiac_cine.files import plain
from cardiac_cine.labels import STRUCTURES
from monailabel_app.lib.access import current_user
from monailabel_app.lib.datastore import DRAWN, FINAL, ORIGINAL, CineDatastore

OHIF = Path(monailabel.__file__).resolve().parent / "endpoints" / "static" / "ohif"
STATIC = Path(__file__).resolve().parents[1] / "static"
_BAR = '<script src="/cine/panel.js"></script></head>'
_FRESH = {"Cache-Control": "no-cache"}


def ohif_file(path: str) -> Response:
    """Return a file of the viewer; for its addresses, which are no files, its page with our bar."""
    file = (OHIF / path).resolve()
    if file.is_file() and file.is_relative_to(OHIF) and file.name != "index.html":
        return FileResponse(file)
    if not file.is_relative_to(OHIF) or file.suffix not in ("", ".html"):
        raise HTTPException(404, "the viewer has no such file")
    page = (OHIF / "index.html").read_text(encoding="utf-8")
    return HTMLResponse(page.replace("</head>", _BAR, 1), headers=_FRESH)


def router(app: Any) -> APIRouter:
    """Return the routes. The guard has checked who asks and gives each request a thread, so they may block."""
    routes = APIRouter(include_in_schema=False)
    datastore: CineDatastore = app.datastore()

    @routes.get("/ohif")
    @routes.get("/ohif/{path:path}")
    async def ohif(path: str = "") -> Response:
        return ohif_file(path)

    @routes.get("/cine/panel.js")
    @routes.get("/cine/panel.css")
    async def panel(request: Request) -> Response:
        return FileResponse(STATIC / Path(request.url.path).name, headers=_FRESH)

    @routes.get("/cine/summary")
    async def summary(image: str) -> dict[str, Any]:
        """Tell what the bar shows of the phase that is displayed."""
        entry, tag = datastore.entry(image), datastore.standing(image)
        labelled, label = datastore.labels.all(FINAL), datastore.labels.info(entry.id, tag)
        # Flags may be those of a whole cine, until the mask is changed; numbers are of now: other phases change them.
        result, now = datastore.get_image_info(entry.id).get("result") or {}, numbers(datastore, entry.id)
        if label.get("source") == "model" and label.get("model") == result.get("model"):
            now.pop("quality_flags")
        return {
            "id": entry.id,
            "user": current_user.get(),
            "phase": entry.phase,
            "phases": [
                {"series": e.series_uid, "key": e.key, "labelled": e.id in labelled}
                for e in datastore.phases_of(entry.case)
            ],
            "slices": [uid for uid, _, _ in datastore.instances(entry.id)],
            "structures": [asdict(structure) for structure in STRUCTURES],
            "result": result | now if label else {},  # without one, the result is of a label that is gone
            "label": {"tag": tag, "utc": label["utc"], "source": label.get("source")} if label else None,
        }

    @routes.post("/cine/key")
    async def key(image: str, key: Literal["ED", "ES"]) -> dict[str, int]:
        """Make a phase end-diastole or end-systole; where it was the other, the two change places."""
        return {name: phase + 1 for name, phase in datastore.choose_key_phase(image, key).items()}

    @routes.get("/cine/label")
    async def label(image: str, tag: str = FINAL) -> Response:
        """Return a label's voxels as label ids, x fastest, then y, then z."""
        mask = datastore.label_array(datastore.resolve(image), tag) if tag in (FINAL, ORIGINAL) else None
        if mask is None:
            raise HTTPException(404, f"there is no {tag[:16]} label of this phase")
        return Response(mask.astype("uint8").tobytes(order="F"), media_type="application/octet-stream")

    @routes.post("/cine/save")
    async def save(
        image: str, about: Annotated[str, Form()], voxels: Annotated[bytes, File()], tag: str = FINAL
    ) -> dict[str, Any]:
        """Take what is drawn as the phase's label.

        ``about``: SOP instance UIDs ``planes``, ``names`` by value, and whether the voxels are compressed, ``gzip``.
        """
        entry = datastore.entry(image)
        cine = datastore.cine(entry.case)
        try:
            told = json.loads(about)
            planes, names = [str(uid) for uid in told["planes"]], {str(k): str(v) for k, v in told["names"].items()}
            if told.get("gzip"):  # one voxel too many is enough to refuse
                voxels = zlib.decompressobj(31).decompress(voxels, cine.array[..., 0].size + 1)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, zlib.error) as error:
            raise HTTPException(400, "about: planes and names expected, and voxels as they say") from error
        images = [uid for uid, _, _ in datastore.instances(entry.id)]
        mask = mask_from_planes(voxels, planes, names, images=images, shape=cine.array.shape[:3])
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "label.nrrd"
            write_for_viewer(mask, cine.affine, file)
            datastore.save_label(entry.id, str(file), tag, {"client": "OHIF", "source": DRAWN})
        if tag == FINAL:
            app.on_save_label(entry.id, entry.id)
        return {"id": entry.id, "saved": datastore.get_label_info(entry.id, tag).get("utc")}

    @routes.get("/cine/jobs")
    async def jobs() -> list[dict[str, Any]]:
        return app.jobs.list()

    @routes.delete("/cine/jobs/{job}")
    async def cancel(job: str) -> dict[str, bool]:
        if not app.jobs.cancel(job):
            raise HTTPException(404, "there is no such job any more")
        return {"cancelled": True}

    @routes.get("/cine/models")
    async def models() -> dict[str, Any]:
        return plain({"live": asdict(app.models.live), "history": [asdict(each) for each in app.models.history()]})

    @routes.post("/cine/models/rollback")
    async def rollback() -> dict[str, Any]:
        return plain(asdict(app.models.rollback()))

    @routes.get("/cine/scores")
    async def scores() -> dict[str, Any]:
        return app.state.scores.all()

    return routes
