import base64
import io
import math
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from browser import Page, check_accessible, open_page
from PIL import Image

from cardiac_cine import report_figures
from cardiac_cine.cine import Cine, Patient
from cardiac_cine.datasets.phantom import PhantomSpec, render
from cardiac_cine.labels import RV
from cardiac_cine.measurements import measure
from cardiac_cine.quality import Flag
from cardiac_cine.study_report import write_report

RR_MS = 60_000 / 65
NOON = datetime(2024, 3, 11, 12, tzinfo=UTC)
SOFTWARE = {"weights": {"sha256": "ab12" * 16}, "versions": {"torch": "2.13.0", "monai": "1.6.1"}}
PATIENT = Patient("P-17", "F", 54.0, 165.0, 60.0)


@pytest.fixture(scope="module")
def phantom():
    return render(PhantomSpec(phases=8, lv_ef_percent=45.0, shape=(104, 104), spacing_mm=(2.0, 2.0, 12.0)))


@pytest.fixture(scope="module")
def report(phantom, tmp_path_factory):
    """Writes a report of the phantom, with changes to its cine where some are given, and returns its path."""

    def write(
        *, phases: int = 8, empty: bool = False, mask=None, flags=(), uncertainty=None, timed: bool = True, **changes
    ) -> Path:
        times = tuple(RR_MS / 8 * index for index in range(phases)) if timed else None
        fields = {"patient": PATIENT, "rr_ms": RR_MS if timed else math.nan, "times_ms": times} | changes
        fields.setdefault("affine", phantom.affine)
        cine = Cine("study01", Path("/scans/study01"), phantom.image[..., :phases], **fields)
        masks = (phantom.mask if mask is None else mask)[..., :phases] * (not empty)
        found = measure(masks, cine.affine, times_ms=cine.times_ms, rr_ms=cine.rr_ms, patient=cine.patient)
        path = tmp_path_factory.mktemp("report") / "report.html"
        write_report(cine, masks, found, flags, SOFTWARE, path, uncertainty=uncertainty, created=NOON)
        return path

    return write


@pytest.fixture(scope="module")
def plain(report) -> Path:
    """The report of the phantom as it is."""
    return report()


def webps(page: Page) -> list[Image.Image]:
    uris = [uri for uri in page.attributes("src", "srcset") if uri.startswith("data:image/webp")]
    return [Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) for uri in uris]


def test_page_fetches_nothing_and_is_small(plain):
    path = plain
    page = Page(path.read_text())
    assert path.stat().st_size < 3_000_000
    assert all(uri.startswith("data:image/") for uri in page.attributes("src", "srcset", "href", "xlink:href"))
    assert "http" not in path.read_text().replace("http-equiv", "")
    assert "script" not in {tag for tag, _ in page.tags}
    (policy,) = (attrs["content"] for tag, attrs in page.tags if tag == "meta" and "http-equiv" in attrs)
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_page_is_accessible(plain):
    check_accessible(Page(plain.read_text()))


def test_key_result_and_table(plain):
    text = Page(plain.read_text()).text
    assert "Left ventricular ejection fraction 45.0 % Mildly reduced" in text
    # The phantom has 140 mL at 1.66 m2 and 120 g, a woman's ranges are 61 ± 5 % and 42 ± 7 g/m2.
    assert "Ejection fraction 45.0 % 51 to 71 % (women)" in text
    assert "End-diastolic volume 140 mL 84 mL/m² none given 150 mL" in text
    assert "28 to 56 g/m² (women)" in text
    assert "(men)" not in text
    assert "Petersen et al. 2017, UK Biobank: papillary muscles count to the cavity, as they do here" in text
    assert "Kawel" not in text


def test_head_and_foot_say_who_and_how(report):
    about = {"study_date": "2024-03-11", "field_strength_t": "1.5", "study_instance_uid": "1.2.3"}
    text = Page(report(about=about).read_text()).text
    assert "Patient ID P-17 Sex female Age 54 years Height 165 cm Weight 60 kg Body surface area 1.66 m²" in text
    assert "Heart rate 65 bpm Study date 2024-03-11 Field strength (T) 1.5 Images 8 phases, " in text
    assert f"Study instance UID 1.2.3 weights sha256 {'ab12' * 16} versions torch 2.13.0" in text
    assert "report created 2024-03-11 12:00+00:00" in text
    for convention in (
        "Research software, not a medical device",
        "1.05 g/mL",
        "Mosteller",
        "papillary muscles",
        "Slices and phases count from 1; in the measurements' JSON and in the options --ed_frame and --es_frame phases",
    ):
        assert convention in text


def test_a_lost_orientation_is_told_beside_the_wall(report, plain):
    straight = Page(report(affine=np.diag([-2.0, -2.0, 12.0, 1.0])).read_text())
    check_accessible(straight)
    note = "anterior and inferior segments may be exchanged"
    assert straight.text.index("Wall thickness by segment") < straight.text.index(note) < straight.text.index("AHA's")
    assert note not in Page(plain.read_text()).text


def test_flags_come_first_with_their_reasons(report, plain):
    flags = [Flag("structure_missing", "The mask has no RV."), Flag("few_phases", "The cine has 8 phases.")]
    page = Page(report(flags=flags, remarks=("The cine has 8 phases.", "Slices were sorted.")).read_text())
    check_accessible(page)
    text = page.text
    warning = "2 quality flags: look at the masks before using these numbers The mask has no RV. structure_missing"
    assert text.index(warning) < text.index("Patient ID") < text.index("Key result")
    # What reading had to choose is told once, by its flag where it has one.
    assert text.count("The cine has 8 phases.") == 1
    assert "Choices made while reading the images: Slices were sorted." in text
    assert "No quality flags raised" in Page(plain.read_text()).text


def test_what_comes_from_files_is_escaped(report):
    evil = "<script>alert('x')</script>"
    path = report(
        patient=replace(PATIENT, id=evil), about={"series": evil}, flags=[Flag("x", evil)], remarks=("<b>bold</b>",)
    )
    page = Page(path.read_text())
    assert not {"script", "b"} & {tag for tag, attrs in page.tags if "aria-hidden" not in attrs}
    assert page.text.count(evil) == 3
    assert "<b>bold</b>" in page.text


def test_animation_has_a_frame_for_every_phase_and_a_still_beside_it(plain):
    page = Page(plain.read_text())
    still, moving, held = webps(page)
    assert (still.n_frames, moving.n_frames, held.n_frames) == (1, 8, 1)
    moving.load()
    assert moving.info["loop"] == 0
    assert abs(moving.info["duration"] * 8 - RR_MS) < 8
    assert ("source", "(prefers-reduced-motion: reduce)") in [(tag, attrs.get("media")) for tag, attrs in page.tags]
    assert "Shown at the patient's heart rate, 65 beats a minute." in page.text


def test_montage_has_every_slice_at_both_phases(plain, phantom):
    labels = Page(plain.read_text()).attributes("aria-label")
    slices = phantom.mask.shape[2]
    for name in ("End-diastole", "End-systole"):
        assert sum(label.startswith(f"{name}, slice ") for label in labels) == slices


def test_without_times_and_stature(report):
    text = Page(report(timed=False, patient=Patient()).read_text()).text
    assert "Sex unknown Images" in text
    assert "Ejection fraction 45.0 % 48 to 68 % (men) 51 to 71 % (women)" in text
    assert "End-diastolic volume 140 mL \N{EN DASH} no height or weight none given 150 mL" in text
    assert "Cardiac output \N{EN DASH} no heart rate" in text
    assert "sex is unknown, so both are shown" in text
    assert "Shown at 60 beats a minute; the files do not give the heart rate." in text
    assert "End-diastole (phase 1 of 8)" in text


def test_single_phase_has_no_motion_and_no_ejection(report):
    page = Page(report(phases=1, timed=False).read_text())
    check_accessible(page)
    assert webps(page) == []
    assert "Left ventricular ejection fraction \N{EN DASH} Not measured: needs two phases" in page.text
    assert "One phase only" in page.text
    assert "End-diastole (phase 1 of 1)" in page.text and "End-systole (" not in page.text


def test_empty_masks_give_dashes_and_pictures(report):
    page = Page(report(empty=True).read_text())
    check_accessible(page)
    assert "Left ventricular ejection fraction \N{EN DASH} Not measured: no LV cavity" in page.text
    assert "Phase not identified (phase 1 of 8, 0 ms)" in page.text
    assert any(label.endswith("no outline") for label in page.attributes("aria-label"))


def test_phases_without_a_ventricle_are_gaps_in_its_curve(report, phantom, monkeypatch):
    drawn = []
    draw = report_figures.volume_curves
    monkeypatch.setattr(report_figures, "volume_curves", lambda *curves: drawn.append(curves[1:3]) or draw(*curves))
    report(mask=np.where((phantom.mask == RV) & (np.arange(8) == 3), 0, phantom.mask))
    (lv_ml, rv_ml) = drawn[0]
    assert np.flatnonzero(np.isnan(rv_ml)).tolist() == [3] and min(np.delete(rv_ml, 3)) > 0
    assert min(lv_ml) > 0


def test_agreement_of_variants_is_told_where_known(report, plain):
    text = Page(report(uncertainty={"lv": 0.961, "myo": 0.9, "rv": math.nan}).read_text()).text
    assert "mean Dice overlap: LV 0.96, MYO 0.90, RV \N{EN DASH}." in text
    assert "Dice" not in Page(plain.read_text()).text


def test_equal_studies_give_equal_files(report, plain):
    assert report().read_bytes() == plain.read_bytes()


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (np.zeros((4, 4, 4, 4), np.uint8), r"masks must have the cine's shape \(.*, 8\), got \(4, 4, 4, 4\)"),
        (np.zeros((4, 4, 4), np.uint8), "masks must be a non-empty 4D array"),
    ],
)
def test_rejects_masks_of_another_shape(phantom, tmp_path, masks, message):
    cine = Cine("study01", Path("study01"), phantom.image, phantom.affine)
    with pytest.raises(ValueError, match=message):
        write_report(cine, masks, measure(phantom.mask, phantom.affine), (), {}, tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_a_browser_has_nothing_to_complain_about(plain, tmp_path):
    html, console = open_page(plain, tmp_path / "profile")
    assert console == []
    assert "<footer>" in html
