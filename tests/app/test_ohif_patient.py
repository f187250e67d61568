"""A real cine through OHIF and the archive: what is drawn over a phase is that phase's, there and back."""

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("monailabel", reason="needs the annotation server's packages (make app)")

from app.viewer import Viewer, chromium, read_study, ward
from cardiac_cine.cine_files import read_cine
from cardiac_cine.datasets.phantom_dicom import Series, Study, write_series
from cardiac_cine.dicom_seg import read_seg
from cardiac_cine.labels import STRUCTURES
from monailabel_app.lib.datastore import CineDatastore
from monailabel_app.lib.sources import open_source
from monailabel_app.lib.state import State

pytestmark = pytest.mark.acdc
LAYOUTS = ("phase_major", "slice_major")
ED, ES = 4, 11  # Info.cfg, from 1


@pytest.fixture(scope="module")
def patient(acdc_dir):
    return acdc_dir / "training" / "patient090"


@pytest.fixture(scope="module")
def folder(patient, tmp_path_factory):
    """patient090 as two DICOM studies that number their images differently."""
    root, real = tmp_path_factory.mktemp("ohif_patient"), read_cine(patient / "patient090_4d.nii.gz")
    array, times = real.array.astype(np.int16), 1000 * np.arange(real.phases) / real.phases
    np.testing.assert_array_equal(array, real.array)
    for seed, layout in enumerate(LAYOUTS):
        study, series = Study(patient_id=layout, seed=seed), Series(times_ms=times, rr_ms=1000)
        write_series(array, real.affine, root / "studies" / layout, study=study, series=series, layout=layout)
    return root


@pytest.fixture(scope="module")
def site(folder):
    with ward(folder) as opened:
        yield opened


@pytest.fixture(scope="module")
def viewer(site):
    with chromium() as browser, Viewer(browser, site, "patient090") as opened:
        yield opened


@pytest.fixture(params=LAYOUTS)
def case(request, folder):
    return read_study(folder, request.param)


def _dice(a, b, label):
    return 2 * ((a == label) & (b == label)).sum() / ((a == label).sum() + (b == label).sum())


def test_a_real_cine_is_segmented_saved_and_comes_back_phase_by_phase(site, viewer, case, patient, tmp_path):
    phases, saved = case.phases, {}
    viewer.open(case.name)
    viewer.wait_for(1, "no label yet", phases)
    # Backwards past the first phase, and forwards from the one that is taken for end-systole until a model has looked.
    for way, phase in ((None, 1), ("◀", 12), ("◀", ES), ("ES", 5), ("◀", ED)):
        if way:
            viewer.press(way)
        viewer.wait_for(phase, "no label yet", phases)
        if phase in (12, 5):
            continue
        viewer.press("Segment")
        viewer.wait_for(phase, " mL", phases)
        shown = viewer.displayed()
        np.testing.assert_array_equal(shown.image(case, phase), case.array[..., phase - 1])
        saved[phase] = shown.mask(case, phase)
        np.testing.assert_array_equal(saved[phase], site.infer(f"{case.name}_phase{phase:02d}"))
        viewer.picture(f"{case.name}_phase{phase:02d}")
        viewer.press("Save")
        viewer.wait_for(phase, "saved at", phases)
    viewer.picture(f"{case.name}_saved")
    assert len({mask.tobytes() for mask in saved.values()}) == len(saved) == 3
    # Over the heart, as the reference has it: no flip and no other phase would be.
    for phase in (ED, ES):
        reference = np.asanyarray(nib.load(patient / f"patient090_frame{phase:02d}_gt.nii.gz").dataobj)
        assert min(_dice(saved[phase], reference, structure.id) for structure in STRUCTURES) > 0.7

    # The archive has one segmentation for each, and gives it back to whoever asks.
    returned = {}
    for path in site.segmentations(shown.study, tmp_path / "seg"):
        returned |= read_seg(path, case)
    assert sorted(returned) == sorted(phase - 1 for phase in saved)
    state = State(tmp_path / "state")
    elsewhere = CineDatastore(open_source(site.orthanc.dicomweb_url, state.cache, None), state)
    assert elsewhere.problems == []
    for phase, mask in saved.items():
        label = elsewhere.label_array(f"{case.name}_phase{phase:02d}", "final")
        assert [_dice(label, mask, structure.id) for structure in STRUCTURES] == [1, 1, 1]
        for back in (label, returned[phase - 1], site.label(f"{case.name}_phase{phase:02d}", "final")):
            np.testing.assert_array_equal(back, mask)
