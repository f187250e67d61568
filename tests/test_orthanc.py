"""What is written as DICOM goes into a real archive and comes back: needs Orthanc with its DICOMweb plugin."""

import numpy as np
import pytest
from dicom_sources import random_masks, write_cine
from orthanc import run_orthanc
from pydicom import dcmread

from cardiac_cine.dicom_seg import read_seg, write_seg
from cardiac_cine.dicom_sr import write_sr
from cardiac_cine.measurements import measure
from cardiac_cine.quality import Flag


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory):
    with run_orthanc(tmp_path_factory.mktemp("orthanc")) as server:
        yield server


@pytest.mark.parametrize(("layout", "seed"), [("phase_major", 1), ("enhanced", 2)])
def test_images_segmentations_and_report_survive_an_archive(orthanc, layout, seed, tmp_path):
    cine = write_cine(tmp_path / "cine", layout, seed)
    masks = random_masks(cine)
    segmentations = write_seg(cine, masks, tmp_path / "seg", phases={0: "end-diastole", 2: "end-systole"})
    report = tmp_path / "sr.dcm"
    measurements = measure(masks, cine.affine, ed_frame=0, es_frame=2)
    write_sr(cine, measurements, [Flag("missing_base", "The base is cut off.")], report, seg=segmentations)

    images = sorted({instance.path for row in cine.instances for instance in row})
    stored = {}
    for path in (*images, *segmentations.values(), report):
        answer = orthanc.store(path)
        assert answer["Status"] in ("Success", "AlreadyStored")
        stored[path] = answer
    assert len({answer["ParentStudy"] for answer in stored.values()}) == 1

    # As OHIF asks: which series has the study, and what is in them.
    study = dcmread(report, stop_before_pixels=True).StudyInstanceUID
    series = orthanc.json(f"/dicom-web/studies/{study}/series")
    modalities = sorted(item["00080060"]["Value"][0] for item in series)
    assert modalities == ["MR", "SEG", "SEG", "SR"]
    [metadata] = orthanc.json(f"/dicom-web/studies/{study}/series/{dcmread(report).SeriesInstanceUID}/metadata")
    assert metadata["00080016"]["Value"] == ["1.2.840.10008.5.1.4.1.1.88.34"]

    for phase, path in segmentations.items():
        returned = tmp_path / f"returned{phase}.dcm"
        returned.write_bytes(orthanc.get(f"/instances/{stored[path]['ID']}/file"))
        np.testing.assert_array_equal(read_seg(returned, cine)[phase], masks[..., phase])
    returned = tmp_path / "returned.dcm"
    returned.write_bytes(orthanc.get(f"/instances/{stored[report]['ID']}/file"))
    assert dcmread(returned).ContentSequence == dcmread(report).ContentSequence
