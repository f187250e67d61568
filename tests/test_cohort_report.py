import json
import re
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from browser import Page, check_accessible, open_page

from cardiac_cine.cine import Patient
from cardiac_cine.cohort_report import read_reference_csv, write_cohort
from cardiac_cine.errors import InputError
from cardiac_cine.labels import LV, MYO, RV
from cardiac_cine.measurements import measure
from cardiac_cine.quantities import MISSING

NOON = datetime(2024, 3, 11, 12, tzinfo=UTC)
FLAG = {"code": "few_phases", "reason": "The cine has 2 phases."}


def a_study(case: str, edv: int, esv: int, flags=(), **changes) -> dict:
    """A study measured on a row of voxels of 1 mL, 60 of the myocardium and 40 and 20 of the RV."""
    masks = np.zeros((400, 1, 1, 2), np.uint8)
    for phase, (lv, rv) in enumerate(((edv, 40), (esv, 20))):
        masks[: lv + 60 + rv, 0, 0, phase] = [LV] * lv + [MYO] * 60 + [RV] * rv
    found = measure(masks, np.diag([10.0, 10.0, 10.0, 1.0]), patient=changes.pop("patient", Patient()))
    return {
        "case": case,
        **found.to_dict(),
        "quality_flags": list(flags),
        "report": f"{case}/report.html",
        "status": "done",
    } | changes


def failed(case: str, *reasons: str) -> dict:
    return {"case": case, "status": "failed", "reasons": list(reasons)}


STUDIES = [
    a_study("c", 200, 50),
    a_study("a", 100, 50, patient=Patient(height_cm=180.0, weight_kg=80.0)),
    a_study("d", 150, 120, [FLAG]),
    a_study("b", 120, 30, [FLAG, {"code": "sv_mismatch", "reason": "They differ."}]),
    failed("e", "/scans/e: no short-axis stack"),
]
REFERENCE = {
    "a": {"lv_ef_percent": 52.0, "lv_edv_ml": 100.0},
    "b": {"lv_ef_percent": 75.0},
    "c": {"lv_ef_percent": 73.0},
}


def write(tmp_path: Path, studies=STUDIES, **options) -> Path:
    path = tmp_path / "cohort.html"
    write_cohort(studies, path, created=NOON, **options)
    return path


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    """The page of all studies with the reference."""
    return write(tmp_path_factory.mktemp("cohort"), reference=REFERENCE)


def order(html: str) -> list[str]:
    return re.findall(r'<th scope="row" data-value="(\w)"', html)


def test_failed_and_flagged_studies_come_first(cohort):
    html = cohort.read_text()
    text = Page(html).text
    assert "5 studies: 4 measured, 2 of them flagged, 1 failed" in text
    assert "1 failed: there are no numbers from these e : /scans/e: no short-axis stack" in text
    assert text.index("no short-axis stack") < text.index("Studies, flagged ones first")
    assert order(html) == ["b", "d", "a", "c"]
    assert "b 2 flags The cine has 2 phases. few_phases They differ. sv_mismatch 75.0 120 30" in text
    assert "c none 75.0 200 50 \N{EN DASH}" in text
    # 180 cm and 80 kg are 2 m2.
    assert "a none 50.0 100 50 50 63 32 \N{EN DASH} 50.0 40 20 20" in text


def test_page_fetches_nothing_and_links_to_the_reports(cohort):
    html = cohort.read_text()
    page = Page(html)
    links = [attrs["href"] for tag, attrs in page.tags if tag == "a"]
    assert links == [f"{case}/report.html" for case in "bdac"]
    assert all(uri.startswith("data:image/svg+xml;") for uri in page.attributes("src", "srcset"))
    assert "http" not in html.replace("http-equiv", "")


def test_page_is_accessible(cohort, tmp_path):
    check_accessible(Page(cohort.read_text()))
    check_accessible(Page(write(tmp_path, STUDIES[-1:]).read_text()))
    check_accessible(Page(write(tmp_path, []).read_text()))


def test_what_comes_from_files_is_escaped(tmp_path):
    evil = "<img src=x onerror=alert(1)>"
    flag = {"code": "x", "reason": evil}
    studies = [a_study(evil, 100, 50, [flag], report="javascript:alert(1)"), failed(evil, evil)]
    page = Page(write(tmp_path, studies).read_text())
    assert "onerror" not in {name for _, attrs in page.tags for name in attrs}
    assert page.text.count(evil) == 4
    assert [attrs["href"] for tag, attrs in page.tags if tag == "a"] == ["javascript%3Aalert%281%29"]


def test_distributions_with_their_numbers(cohort):
    page = Page(cohort.read_text())
    # Ejection fractions 75, 50, 20 and 75 %.
    assert "LV EF (%) 4 55.0 26.1 20.0 75.0" in page.text
    assert "LV EDVi (mL/m²) 1 50 \N{EN DASH} 50 50" in page.text
    alts = page.attributes("alt")
    assert "LV EF in 4 studies: mean 55.0\N{NO-BREAK SPACE}%, SD 26.1\N{NO-BREAK SPACE}%." in alts
    assert len(alts) == 7


def test_studies_of_a_single_phase_have_a_row_and_no_part_in_distributions(tmp_path):
    single = a_study("f", 300, 300, phases=1, lv_ef_percent=None)
    text = Page(write(tmp_path, [*STUDIES, single]).read_text()).text
    assert "5 measured" in text and f"f none {MISSING} 300" in text
    # End-diastolic volumes 200, 100, 150 and 120 mL.
    assert "LV EDV (mL) 4 142 43 100 200" in text
    assert "studies of a single phase are not" in text
    assert "Distributions" not in Page(write(tmp_path, [single, single]).read_text()).text


def test_a_single_study_has_no_distribution_and_needs_no_reference(tmp_path):
    text = Page(write(tmp_path, STUDIES[:1]).read_text()).text
    assert "1 study: 1 measured" in text
    assert "Distributions" not in text and "Agreement" not in text


def test_agreement_with_reference_values(cohort):
    page = Page(cohort.read_text())
    # Differences -2, 0 and 2: bias 0, limits 1.96 times 2; a single pair has no limits and no figure.
    assert "LV EF (%) 3 0.00 \N{MINUS SIGN}3.92 to 3.92 1.33" in page.text
    assert "LV EDV (mL) 1 0.0 \N{EN DASH} 0.0 \N{EN DASH}" in page.text
    assert len([alt for alt in page.attributes("alt") if "limits of agreement" in alt]) == 1


def test_reference_of_a_failed_study_is_no_pair(tmp_path):
    text = Page(write(tmp_path, reference={"e": {"lv_ef_percent": 60.0}}).read_text()).text
    assert "LV EF (%) 0 \N{EN DASH}" in text


def test_reference_cases_beyond_the_studies_are_left_aside(cohort, tmp_path):
    reference = REFERENCE | {"z": {"lv_ef_percent": 60.0}}
    assert write(tmp_path, reference=reference).read_bytes() == cohort.read_bytes()


def test_rejects_a_reference_of_unknown_quantities(tmp_path):
    with pytest.raises(InputError, match=r"^reference: unknown quantity 'weight', expected one of lv_ef_percent, "):
        write(tmp_path, reference={"a": {"weight": 3.0}})


@pytest.mark.parametrize(
    ("problems", "counted"),
    [
        (["x.dcm: no DICOM file"], "1 failed, 1 problem with files that make no study"),
        (["x.dcm: no DICOM file", "y.dcm: empty"], "1 failed, 2 problems with files that make no study"),
    ],
)
def test_problems_with_files_that_make_no_study_are_told_after_failed_studies(tmp_path, problems, counted):
    html = write(tmp_path, [*(failed("", problem) for problem in problems), *STUDIES]).read_text()
    text = Page(html).text
    assert f"5 studies: 4 measured, 2 of them flagged, {counted}" in text
    listed = " ".join(["e : /scans/e: no short-axis stack", *problems])
    assert f"{counted}: there are no numbers from these {listed}" in text
    assert "<strong></strong>" not in html


def test_equal_cohorts_give_equal_files(cohort, tmp_path):
    assert write(tmp_path, reference=REFERENCE).read_bytes() == cohort.read_bytes()


def test_reads_a_reference(tmp_path):
    path = tmp_path / "reference.csv"
    path.write_text("\ufeffcase,lv_ef_percent,rv_edv_ml\na,52.5,\nb, 60 ,140\n", encoding="utf-8")
    expected = {"a": {"lv_ef_percent": 52.5}, "b": {"lv_ef_percent": 60.0, "rv_edv_ml": 140.0}}
    assert read_reference_csv(path) == expected


@pytest.mark.parametrize(
    ("content", "messages"),
    [
        (
            "patient,lv_ef_percent\n",
            [r"has the columns \['patient', 'lv_ef_percent'\], expected a CSV with the column case"],
        ),
        ("", [r"has the columns \[\]"]),
        ("case,lv_ef\na,1\n", ["unknown column 'lv_ef', expected one of lv_ef_percent, "]),
        ("case,lv_edv_ml,lv_edv_ml\na,1,2\n", ["column 'lv_edv_ml' comes twice"]),
        (
            "case,lv_edv_ml\na,much\na,1\nz,nan\n",
            [
                "line 2: lv_edv_ml is 'much', expected a number or nothing",
                "line 3: case 'a' comes twice",
                "line 4: lv_edv_ml is 'nan', expected a number or nothing",
            ],
        ),
        ("case,lv_edv_ml\na,1,2\n", ["line 2: more cells than columns"]),
        (b"case,lv_edv_ml\n\xff,1\n", [r"no CSV \(.*codec can't decode"]),
    ],
)
def test_rejects_a_reference_file(tmp_path, content, messages):
    path = tmp_path / "reference.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as error:
        read_reference_csv(path)
    assert len(error.value.problems) == len(messages)
    for problem, message in zip(error.value.problems, messages, strict=True):
        assert re.match(f"{re.escape(str(path))}[:,] {message}", problem)


def test_spaces_round_a_case_are_no_part_of_it(tmp_path):
    path = tmp_path / "reference.csv"
    path.write_text("case,lv_ef_percent\na ,55\n a,60\n", encoding="utf-8")
    with pytest.raises(InputError, match="line 3: case 'a' comes twice"):
        read_reference_csv(path)
    path.write_text("case,lv_ef_percent\n a ,55\n", encoding="utf-8")
    assert read_reference_csv(path) == {"a": {"lv_ef_percent": 55.0}}


def test_no_reference_is_none():
    assert read_reference_csv(None) is None


def test_rejects_a_missing_reference_file(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.csv: No such file or directory, expected a CSV"):
        read_reference_csv(tmp_path / "nothing.csv")


def test_script_runs_under_the_pages_own_policy(cohort, tmp_path):
    html, console = open_page(cohort, tmp_path / "profile")
    assert console == []
    assert html.count('<button type="button">') == 13
    assert order(html) == ["b", "d", "a", "c"]


CLICKS = [
    ("lv_edv_ml", "abdc", "ascending"),
    ("lv_edv_ml", "cdba", "descending"),
    ("case", "abcd", "ascending"),
    ("lv_edvi_ml_m2", "abcd", "ascending"),
    ("lv_edvi_ml_m2", "abcd", "descending"),  # what has no value stays at the end
]


def test_a_click_on_a_heading_sorts(cohort, tmp_path):
    # The page's own policy would forbid the script that clicks and writes down what it sees.
    html = re.sub(r'<meta http-equiv="Content-Security-Policy".*', "", cohort.read_text())
    keys = [key for key, _, _ in CLICKS]
    script = f"""
        const seen = {keys}.map((key) => {{
          document.querySelector(`[data-key=${{key}}] button`).click();
          const cases = [...document.querySelectorAll("tbody th[data-value]")].map((cell) => cell.dataset.value);
          const sorted = [...document.querySelectorAll("[aria-sort]")].map((cell) => [cell.dataset.key, cell.ariaSort]);
          return [cases.join(""), ...sorted];
        }});
        document.body.dataset.seen = JSON.stringify(seen);"""
    page = tmp_path / "cohort.html"
    page.write_text(html.replace("</body>", f"<script>{script}</script></body>"))
    (body,) = (attrs for tag, attrs in Page(open_page(page, tmp_path / "profile")[0]).tags if tag == "body")
    assert json.loads(body["data-seen"]) == [[cases, [key, way]] for key, cases, way in CLICKS]
