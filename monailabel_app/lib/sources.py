"""Where the studies come from: a folder, or a PACS behind DICOMweb with the settings that MONAI Label has for it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dicomweb_client import DICOMwebClient
from dicomweb_client.session_utils import create_session_from_user_pass
from monailabel.config import settings

from cardiac_cine.annotation.dicom_archive import Archive
from cardiac_cine.annotation.sources import LocalSource, Source
from cardiac_cine.dicom_output import Software
from cardiac_cine.errors import InputError

_CONNECT_SECONDS, _READ_SECONDS = 5, 60
_SOFTWARE = Software(name="Cardiac cine annotation")


def open_source(studies: str, cache: Path, search_filter: Mapping[str, Any] | str | None = None) -> Source:
    """Return the source that ``--studies`` names; a PACS is searched for series by the filter, JSON or read from it."""
    if not studies.startswith(("http://", "https://")):
        return LocalSource(studies)
    try:
        chosen = json.loads(search_filter) if isinstance(search_filter, str) and search_filter else search_filter
    except ValueError:
        chosen = search_filter
    if not isinstance(chosen or {}, Mapping):
        raise InputError(f'dicomweb_filter must be JSON such as {{"Modality": "MR"}}, got {search_filter!r}')
    user, password = settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD
    client = DICOMwebClient(
        studies.rstrip("/"),
        session=create_session_from_user_pass(user, password) if user and password else None,
        qido_url_prefix=settings.MONAI_LABEL_QIDO_PREFIX,
        wado_url_prefix=settings.MONAI_LABEL_WADO_PREFIX,
        stow_url_prefix=settings.MONAI_LABEL_STOW_PREFIX,
        timeout=(_CONNECT_SECONDS, _READ_SECONDS),
    )
    client.set_http_retry_params(retry=False)
    return Archive(client, cache, chosen or {"Modality": "MR"}, _SOFTWARE)
