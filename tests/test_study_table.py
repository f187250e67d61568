import math
from dataclasses import replace

import numpy as np
import pytest

from cardiac_cine.cine import Patient
from cardiac_cine.labels import LV, MYO, RV
from cardiac_cine.measurements import measure
from cardiac_cine.study_table import cell, range_texts, rows

AFFINE = np.diag([2.0, 2.0, 10.0, 1.0])
DASH = "\N{EN DASH}"
PATIENT = Patient(height_cm=180.0, weight_kg=80.0)  # 2 m2


def masks(lv: list[int], *, rv: int = 50, myo: int = 100) -> np.ndarray:
    """A row of voxels of 0.04 mL, so many of each structure; a count of the LV for every phase."""
    found = np.zeros((1000, 1, 1, len(lv)), np.uint8)
    for phase, count in enumerate(lv):
        found[: count + myo + rv, 0, 0, phase] = [LV] * count + [MYO] * myo + [RV] * rv
    return found


def measured(lv=(500, 250), **counts):
    return measure(masks(list(lv), **counts), AFFINE, patient=PATIENT)


def test_rows_pair_values_with_their_indices_and_ranges():
    table = {row["name"]: row for row in rows(measured(), "M")}
    assert list(table) == [
        "Ejection fraction",
        "End-diastolic volume",
        "End-systolic volume",
        "Stroke volume",
        "Mass at end-diastole",
        "Mass at end-systole",
        "Cardiac output",
        "Peak ejection rate",
        "Peak filling rate",
    ]
    # 500 and 250 voxels of 0.04 mL are 20 and 10 mL; 100 voxels of myocardium are 4.2 g.
    assert table["Ejection fraction"]["lv"]["text"] == "50.0\N{NO-BREAK SPACE}%"
    assert table["Ejection fraction"]["lv_index"] is None
    assert table["End-diastolic volume"]["lv_index"]["text"] == "10\N{NO-BREAK SPACE}mL/m²"
    assert table["End-diastolic volume"]["rv"]["text"] == "2\N{NO-BREAK SPACE}mL"
    assert table["Ejection fraction"]["ranges"] == ["48 to 68 % (men)"]
    assert table["Mass at end-diastole"]["ranges"] == ["35 to 71 g/m² (men)"]
    assert table["Mass at end-diastole"]["rv"] is None
    assert table["End-diastolic volume"]["ranges"] == []


def test_ranges_of_an_unknown_sex_are_both():
    assert range_texts("lv_ef_percent", "") == ["48 to 68 % (men)", "51 to 71 % (women)"]
    assert range_texts("rv_ef_percent", "") == []


@pytest.mark.parametrize(
    ("key", "changes", "why"),
    [
        ("lv_edv_ml", {"lv": [0, 0]}, "no LV cavity"),
        ("rv_edv_ml", {"rv": 0}, "no RV cavity"),
        ("lv_mass_index_g_m2", {"myo": 0}, "no myocardium"),
        ("lv_ef_percent", {"lv": [500]}, "needs two phases"),
        ("lv_mass_es_g", {"lv": [500]}, "needs two phases"),
        ("cardiac_output_l_min", {}, "no heart rate"),
        ("lv_peak_filling_rate_ml_s", {}, "no times of phases"),
    ],
)
def test_a_dash_comes_with_its_reason(key, changes, why):
    assert cell(key, measured(**changes)) == {"text": DASH, "why": why}


@pytest.mark.parametrize(
    ("key", "changes", "why"),
    [
        ("lv_edvi_ml_m2", {"lv_edvi_ml_m2": math.nan, "bsa_m2": math.nan}, "no height or weight"),
        ("rv_ef_percent", {"rv_ef_percent": math.nan, "rv_esv_ml": math.nan}, "no RV cavity at ES"),
        ("lv_mass_es_g", {"lv_mass_es_g": math.nan}, "no myocardium at ES"),
        ("lv_sv_ml", {"lv_sv_ml": math.nan, "es_frame": 0}, "no end-systole"),
        ("rv_peak_ejection_rate_ml_s", {"times_ms": (0.0, 400.0)}, "too few phases, or gaps"),
    ],
)
def test_the_reason_is_the_first_thing_that_lacks(key, changes, why):
    assert cell(key, replace(measured(), **changes)) == {"text": DASH, "why": why}


def test_a_value_needs_no_reason():
    assert cell("lv_edv_ml", measured()) == {"text": "20\N{NO-BREAK SPACE}mL", "why": ""}
    assert cell("lv_edv_ml", measured([500])) == {"text": "20\N{NO-BREAK SPACE}mL", "why": ""}
