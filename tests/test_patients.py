import math
from pathlib import Path

import numpy as np
import pytest

from cardiac_cine.cine import Cine, Patient
from cardiac_cine.errors import InputError
from cardiac_cine.patients import Known, complete, read_patients_csv


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def cine(phases=4, **fields):
    return Cine("a", Path("a.nii"), np.zeros((2, 2, 2, phases), np.int16), np.diag([1.0, 1, 8, 1]), **fields)


def test_a_table_is_read(tmp_path):
    text = "case,sex,height_cm,weight_kg,heart_rate_bpm\na,f,168,64,60\nb,,,80.5,\n"
    known = read_patients_csv(write(tmp_path / "p.csv", text))
    assert known["a"] == Known("F", 168.0, 64.0, 60.0)
    assert known["b"].weight_kg == 80.5 and known["b"].sex == "" and math.isnan(known["b"].height_cm)
    assert read_patients_csv(write(tmp_path / "q.csv", "case,weight_kg\na,70\n"))["a"].weight_kg == 70


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,height_cm\na,170\n", r"has the columns \['name', 'height_cm'\], expected a CSV with the column case"),
        ("case,height_m\na,1.7\n", "has the columns"),
        ("case,case\na,a\n", "has the columns"),
        ("", r"has the columns \[\]"),
        ("case,height_cm\na,1.70\n", "line 2: height_cm is '1.70', expected 30 to 275 or nothing"),
        ("case,weight_kg\na,heavy\n", "line 2: weight_kg is 'heavy', expected 1 to 650"),
        ("case,heart_rate_bpm\na,nan\n", "line 2: heart_rate_bpm is 'nan'"),
        ("case,sex\na,male\n", "line 2: sex is 'MALE', expected M, F or nothing"),
        ("case,sex\na,M\na,F\n", "line 3: case 'a' comes twice"),
        ("case,sex\na,M,1\n", "line 2: more cells than columns"),
    ],
)
def test_bad_tables_are_refused(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_patients_csv(write(tmp_path / "p.csv", text))


def test_missing_table_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"none\.csv: No such file or directory, expected a CSV"):
        read_patients_csv(tmp_path / "none.csv")


def test_all_problems_are_listed(tmp_path):
    with pytest.raises(InputError) as caught:
        read_patients_csv(write(tmp_path / "p.csv", "case,sex,height_cm\na,x,\nb,M,2\n"))
    assert len(caught.value.problems) == 2


def test_known_facts_take_the_files_place():
    found = complete(cine(patient=Patient("id", "M", 50.0, 180.0, 90.0)), {"a": Known("F", height_cm=170.0)})
    assert found.patient == Patient("id", "F", 50.0, 170.0, 90.0)
    assert found.times_ms is None and math.isnan(found.heart_rate_bpm) and found.remarks == ()


def test_a_heart_rate_gives_times_where_there_are_none():
    found = complete(cine(), {"a": Known(heart_rate_bpm=75.0)})
    assert found.rr_ms == pytest.approx(800) and found.times_ms == pytest.approx((0, 200, 400, 600))
    assert "spread evenly" in found.remarks[0]
    timed = complete(cine(times_ms=(0.0, 30.0, 60.0, 90.0), rr_ms=750.0), {"a": Known(heart_rate_bpm=75.0)})
    assert timed.times_ms == (0.0, 30.0, 60.0, 90.0) and timed.rr_ms == pytest.approx(800) and timed.remarks == ()
    assert complete(cine(phases=1), {"a": Known(heart_rate_bpm=75.0)}).times_ms is None


@pytest.mark.parametrize(
    ("times_ms", "rr_ms", "remarks"),
    [
        (None, 728.0, []),
        ((0.0, 200.0, 400.0, 600.0), 880.0, []),
        ((0.0, 266.0, 532.0, 798.0), math.nan, []),
        (
            (0.0, 180.0, 360.0, 540.0),
            720.0,
            ["makes a cycle of 800 ms, that of the files is 720 ms; the given one is used."],
        ),
        (None, 900.0, ["makes a cycle of 800 ms, that of the files is 900 ms; the given one is used."]),
        ((0.0, 267.0, 534.0, 801.0), math.nan, ["makes a cycle of 800 ms, but the phases span 801 ms."]),
    ],
)
def test_a_heart_rate_that_contradicts_the_files_gets_a_remark(times_ms, rr_ms, remarks):
    found = complete(cine(times_ms=times_ms, rr_ms=rr_ms), {"a": Known(heart_rate_bpm=75.0)})
    assert found.rr_ms == pytest.approx(800)
    said = [remark for remark in found.remarks if "spread evenly" not in remark]
    assert said == [f"The given heart rate of 75 beats a minute {remark}" for remark in remarks]


def test_a_heart_rate_replaces_how_the_files_cycle_came_about():
    about = {"cycle": "4 phases x 200.0 ms", "series": "5"}
    found = complete(cine(about=about, rr_ms=800.0), {"a": Known(heart_rate_bpm=75.0)})
    assert found.about == {"series": "5"}
    assert complete(cine(about=about), {}).about == about


def test_other_cases_stay_as_they_are():
    unknown = complete(cine(), {"b": Known("F", 170.0, 60.0, 75.0)})
    assert unknown.rr_ms is not None and math.isnan(unknown.rr_ms) and unknown.patient.sex == ""
