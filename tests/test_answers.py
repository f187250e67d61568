import numpy as np
import pytest
from cli import BUNDLE
from filelock import FileLock

from cardiac_cine.annotation.answers import answer, measure_key_phases, numbers
from cardiac_cine.annotation.library import Library
from cardiac_cine.annotation.probabilities import segment_with_probabilities
from cardiac_cine.annotation.sources import LocalSource
from cardiac_cine.cine import Cine
from cardiac_cine.datasets.phantom import PhantomSpec, render, write_cine
from cardiac_cine.labels import LV, RV
from cardiac_cine.measurements import measure
from cardiac_cine.segmenter import Segmenter


@pytest.fixture(scope="module")
def phantom():
    spec = PhantomSpec(shape=(112, 128), spacing_mm=(2.0, 2.0, 12.0), phases=4, centre_mm=(0.0, 0.0))
    return render(spec)


@pytest.fixture(scope="module")
def cine(phantom, tmp_path_factory):
    return Cine(
        "phantom", tmp_path_factory.mktemp("phantom"), phantom.image, phantom.affine, (0.0, 200.0, 400.0, 600.0)
    )


@pytest.fixture(scope="module")
def segmenter():
    return Segmenter.from_bundle(BUNDLE, device="cpu")


def test_a_phase_is_measured_and_checked_by_its_standing_label(phantom, cine, tmp_path):
    folder = tmp_path / "studies"
    write_cine(phantom, folder / "heart_4d.nii.gz")
    library = Library(LocalSource(folder), tmp_path / "state", FileLock(tmp_path / "lock"))
    [ed, es, *_] = library.entries()
    assert numbers(library, ed.id) == {}
    mask = phantom.mask[..., ed.phase].copy()
    library.propose(ed.id, mask, source="model")
    alone = numbers(library, ed.id)
    volume = np.count_nonzero(mask == LV) * np.prod(cine.spacing_mm) / 1000
    assert alone["volumes_ml"]["lv_ml"] == pytest.approx(volume) and alone["measurements"] == {}
    # That a phase is one of several is no flag.
    assert not {"single_phase", "few_phases"} & {flag["code"] for flag in alone["quality_flags"]}
    library.propose(es.id, phantom.mask[..., es.phase], source="model")
    assert numbers(library, ed.id)["measurements"]["lv_ef_percent"] > 20
    mask[mask == RV] = 0
    found = numbers(library, ed.id, mask)
    assert found["quality_flags"][0] == {"code": "structure_missing", "reason": "The mask has no RV cavity."}


def test_a_cine_is_answered_as_a_whole(segmenter, cine, monkeypatch):
    monkeypatch.setattr(Segmenter, "agreement", lambda *_: {"rv": 0.9, "myo": 0.5, "lv": 0.99})
    given = answer(segmenter, cine)
    assert given.masks.shape == cine.array.shape and given.measured.lv_ef_percent > 20
    assert given.agreement["myo"] == 0.5 and {"few_phases", "low_confidence"} <= {flag.code for flag in given.flags}


def test_two_phases_are_measured_as_the_cine_is(phantom, cine):
    ed, es = phantom.truth.ed_frame, phantom.truth.es_frame
    whole = measure(phantom.mask, phantom.affine, ed_frame=ed, es_frame=es).to_dict()
    pair = measure_key_phases(cine, (ed, phantom.mask[..., ed]), (es, phantom.mask[..., es]))
    assert {**whole, **pair} == {**whole, "phases": 4} and "lv_volume_ml" not in pair
    assert pair["lv_ef_percent"] == pytest.approx(phantom.truth.lv_ef_percent, abs=3)


def test_probabilities_lie_on_the_frame_and_make_its_mask(segmenter, cine):
    mask, probabilities = segment_with_probabilities(segmenter, cine.frame(0))
    np.testing.assert_array_equal(mask, segmenter.segment_cine(cine.single_phase(0))[..., 0])
    assert probabilities.shape == (4, *mask.shape) and probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(0), 1, atol=1e-5)
    assert (probabilities.argmax(0) != mask).mean() < 0.001 and (mask == LV).any()
