import csv

from cardiac_cine.tables import COLUMNS, NUMBERS, write_table


def test_rows_come_back(tmp_path):
    rows = [
        {
            "case": "a",
            "status": "done",
            "lv_ef_percent": 61.25,
            "rv_ef_percent": None,
            "lv_volume_ml": [1.0, 2.0],
            "quality_flags": [{"code": "few_phases", "reason": "Few."}, {"code": "few_slices", "reason": "Two."}],
        },
        {"case": "=cmd()", "status": "failed", "reasons": ["a.nii: broken, really"], "quality_flags": []},
    ]
    write_table(rows, tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(newline="") as stream:
        first, second = csv.DictReader(stream)
    assert tuple(first) == COLUMNS
    assert first["lv_ef_percent"] == "61.25" and first["rv_ef_percent"] == "" and "lv_volume_ml" not in first
    assert first["flags"] == "few_phases; few_slices" and first["reasons"] == "Few. Two."
    assert second["case"] == "'=cmd()" and second["reasons"] == "a.nii: broken, really"


def test_numbers_are_the_measurements_that_are_one_number():
    assert {"lv_ef_percent", "rv_esv_ml", "es_frame", "bsa_m2"} <= set(NUMBERS)
    assert not {"lv_volume_ml", "times_ms", "wall_thickness_ed_mm"} & set(NUMBERS)
