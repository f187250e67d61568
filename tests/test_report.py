import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.image import imread
from test_evaluation import a_result, three_patients, two_frames, with_volumes

from cardiac_cine import plots, report
from cardiac_cine.errors import InputError
from cardiac_cine.evaluation import SliceFinding, summary_cells
from cardiac_cine.report import overlay_name, read_about, read_evaluation, summary_table, write_evaluation

NAN = math.nan
ABOUT = {"weights": "model.pt", "split": "tutorial"}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def whole_evaluation():
    """Three patients, the first without an RV and with an LV elsewhere at ES, the second without an RV at ED, the third
    without an ES; slices fail in two frames.
    """
    hole = SliceFinding(1, 0.5, ("hole in the LV cavity", "LV cavity not round"), reference_too=True)
    beyond = SliceFinding(3, NAN, ("LV cavity touching the background",), reference_too=False)
    results = three_patients()
    results[0] = replace(results[0], degenerated=(hole, beyond), degenerated_naive=3, reference_degenerated=1)
    rv, myo, lv = two_frames()[1].agreements
    elsewhere = (rv, myo, replace(lv, volume_ml=12.0))
    results[3] = replace(results[3], agreements=elsewhere, degenerated=(hole,), degenerated_naive=1)
    return results


def test_files(tmp_path):
    write_evaluation(whole_evaluation(), tmp_path / "new" / "out", ABOUT)
    assert names(tmp_path / "new" / "out") == [
        "degenerated_slices.png",
        "evaluation.json",
        "evaluation.md",
        "frames.csv",
        "lv_ef.png",
        "patients.csv",
        "slices.csv",
    ]
    # The RV has an ejection fraction in no patient, and no limits of agreement to draw.
    assert imread(tmp_path / "new" / "out" / "lv_ef.png").shape[:2] == (462, 1100)


def test_json_is_strict_and_holds_everything(tmp_path):
    content = write_evaluation(whole_evaluation(), tmp_path, ABOUT)
    text = (tmp_path / "evaluation.json").read_text()
    found = json.loads(text, parse_constant=pytest.fail)  # called for NaN and Infinity, which are no JSON
    assert found["about"] == ABOUT
    assert found.keys() == content.keys()
    assert [(cell["phase"], cell["structure"]) for cell in found["summary"]] == [
        (phase, structure) for phase in ("ED", "ES") for structure in ("lv", "rv", "myo")
    ]
    # At ES Dice is 0.9 and 0 for the LV, 0.9 and undefined for the RV, 0.9 and 0.75 for the myocardium.
    assert [cell["dice"]["mean"] for cell in found["summary"]] == pytest.approx([0.9, 0.9, 0.9, 0.45, 0.9, 0.825])
    assert found["summary"][4]["dice"] == {"mean": 0.9, "sd": None, "n": 1, "undefined": 1}
    assert found["mean_dice"] == content["mean_dice"] == pytest.approx((4 * 0.9 + 0.45 + 0.825) / 6)
    assert found["frames"][0]["case"] == "p1_ES"
    assert found["frames"][0]["agreements"][0]["dice"] is None
    assert math.isnan(content["frames"][0]["agreements"][0]["dice"])
    assert found["degenerated_slices"]["beyond"] == 1
    assert found["agreement"]["rv"]["ef_percent"]["r"] is None
    assert len(found["patients"]) == 4
    assert found["patients"][1]["patient"] == "p1" and found["patients"][1]["ef_percent"] is None


def test_frames_csv_has_a_row_per_frame_and_structure_worst_first(tmp_path):
    write_evaluation(whole_evaluation(), tmp_path, ABOUT)
    found = rows(tmp_path / "frames.csv")
    assert list(found[0]) == [
        "case",
        "patient",
        "group",
        "phase",
        "structure",
        "dice",
        "hausdorff_mm",
        "hd95_mm",
        "assd_mm",
        "volume_ml",
        "reference_volume_ml",
    ]
    assert [row["structure"] for row in found] == ["rv", "myo", "lv"] * 5
    assert [row["case"] for row in found[::3]] == ["p1_ES", "p1_ED", "p2_ES", "p3_ED", "p2_ED"]
    myo = {key: found[1][key] for key in ("group", "phase", "dice", "hausdorff_mm", "volume_ml")}
    assert myo == {"group": "DCM", "phase": "ES", "dice": "0.75", "hausdorff_mm": "9.0", "volume_ml": "50.0"}
    assert (found[0]["dice"], found[0]["volume_ml"], found[2]["hausdorff_mm"]) == ("", "0.0", "")


def test_patients_csv_has_a_row_per_patient_and_cavity(tmp_path):
    write_evaluation(three_patients(), tmp_path, ABOUT)
    found = rows(tmp_path / "patients.csv")
    assert [(row["patient"], row["cavity"], row["ef_percent"]) for row in found] == [
        ("p1", "lv", "60.0"),
        ("p1", "rv", "50.0"),
        ("p2", "lv", "60.0"),
        ("p2", "rv", ""),
    ]
    assert list(found[0].values()) == ["p1", "DCM", "lv", "120.0", "48.0", "60.0", "100.0", "50.0", "50.0"]


def test_slices_csv_has_a_row_per_degenerated_slice(tmp_path):
    write_evaluation(whole_evaluation(), tmp_path, ABOUT)
    assert [list(row.values()) for row in rows(tmp_path / "slices.csv")] == [
        ["p1_ES", "1", "0.5", "hole in the LV cavity; LV cavity not round", "True"],
        ["p1_ED", "1", "0.5", "hole in the LV cavity; LV cavity not round", "True"],
        ["p1_ED", "3", "", "LV cavity touching the background", "False"],
    ]


def test_tables_without_rows_keep_their_header(tmp_path):
    write_evaluation([a_result("p1_ED")], tmp_path, ABOUT)
    assert (tmp_path / "slices.csv").read_text() == "case,slice,level,reasons,reference_too\n"
    assert (tmp_path / "patients.csv").read_text().startswith("patient,group,cavity,edv_ml,esv_ml,ef_percent,")
    assert rows(tmp_path / "patients.csv") == []
    assert len(rows(tmp_path / "frames.csv")) == 3


def test_summary_table_of_two_tiny_frames():
    # The numbers are those of test_evaluation's summary; a standard deviation of one value is left out.
    assert summary_table(summary_cells(two_frames())).splitlines() == [
        "| Phase | Structure | Dice | d_H (mm) | HD95 (mm) | ASSD (mm) | frames | empty |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| ED | LV | 0.450 ± 0.636 | 6.0 | 3.0 | 0.50 | 2 | 1 |",
        "| ED | RV | 0.800 | 12.0 | 8.0 | 2.00 | 1 | 0 |",
        "| ED | MYO | 0.800 ± 0.071 | 8.0 ± 1.4 | 4.0 ± 0.0 | 1.50 ± 0.71 | 2 | 0 |",
    ]
    unknown = summary_table(summary_cells([a_result("p1", (NAN, NAN, 0.5))])).splitlines()[2:]
    assert unknown == [
        "| unknown | LV | 0.500 | undefined | undefined | undefined | 1 | 0 |",
        "| unknown | RV | undefined | undefined | undefined | undefined | 0 | 0 |",
        "| unknown | MYO | undefined | undefined | undefined | undefined | 0 | 0 |",
    ]


def test_markdown(tmp_path):
    results = whole_evaluation()
    write_evaluation(results, tmp_path, ABOUT)
    text = (tmp_path / "evaluation.md").read_text()
    lines = text.splitlines()
    assert lines[:4] == ["# Evaluation", "", "- weights: model.pt", "- split: tutorial"]
    assert "Mean Dice over the table's cells: **0.8125**" in lines
    assert summary_table(summary_cells(results)) in text
    # The LV of p1 has 12 mL at ES: the ejection fractions 90 and 60 stand against 50 and 60, differences 40 and 0;
    # those of EDV are 20 and -10, of ESV -38 and -4. Two differences have a standard deviation of their gap / sqrt(2).
    start = lines.index("| Cavity | Quantity | patients | r | bias | limits of agreement | mean absolute difference |")
    ef, edv, esv = lines[start + 2 : start + 5]
    assert ef == "| LV | EF (%) | 2 | -1.000 | +20.00 | -35.4 to +75.4 | 20.00 |"
    assert edv == "| LV | EDV (mL) | 2 | -1.000 | +5.00 | -36.6 to +46.6 | 15.00 |"
    assert esv == "| LV | ESV (mL) | 2 | -1.000 | -21.00 | -68.1 to +26.1 | 21.00 |"
    assert lines[start + 5] == "| RV | EF (%) | 0 | undefined | undefined | undefined to undefined | undefined |"
    assert "![LV EF](lv_ef.png)" in lines and "![RV EF](rv_ef.png)" not in lines
    assert (
        "3 slices in 2 of 5 frames fail the calibrated criteria, 1 of them beyond the reference's base or apex; "
        "1 where the expert's own slice passes. 1 of the experts' slices fail them. By the criteria as printed in the "
        "paper 4 slices fail."
    ) in lines
    start = lines.index("| Case | Group | Phase | Dice RV | Dice MYO | Dice LV | degenerated slices |")
    assert lines[start + 2 : start + 4] == [
        "| p1_ES | DCM | ES | undefined | 0.750 | 0.000 | 1 |",
        "| p1_ED | DCM | ED | 0.900 | 0.900 | 0.900 | 2 |",
    ]


def test_no_more_than_the_worst_frames_are_listed(tmp_path):
    write_evaluation([a_result(f"p{index}_ED", (index / 10,) * 3) for index in range(9)], tmp_path, ABOUT)
    text = (tmp_path / "evaluation.md").read_text()
    assert [index for index in range(9) if f"| p{index}_ED |" in text] == [0, 1, 2, 3, 4]


def test_an_evaluation_of_nothing_defined(tmp_path):
    content = write_evaluation([a_result("p1", (NAN, NAN, NAN), levels=(NAN,) * 3)], tmp_path, {})
    assert math.isnan(content["mean_dice"])
    assert json.loads((tmp_path / "evaluation.json").read_text(), parse_constant=pytest.fail)["mean_dice"] is None
    assert "Mean Dice over the table's cells: **undefined**" in (tmp_path / "evaluation.md").read_text()


def test_an_evaluation_replaces_an_earlier_one(tmp_path):
    write_evaluation(whole_evaluation(), tmp_path, ABOUT)
    write_evaluation([with_volumes("p9_ED", lv=(1, 1), rv=(1, 1))], tmp_path, {"split": "fold0"})
    assert {row["case"] for row in rows(tmp_path / "frames.csv")} == {"p9_ED"}
    assert json.loads((tmp_path / "evaluation.json").read_text())["about"] == {"split": "fold0"}


def test_overlay_names_sort_worst_first():
    assert overlay_name(1, a_result("p1_ED", (NAN, NAN, NAN))) == "001_p1_ED_dicenan.png"
    assert overlay_name(12, a_result("p2_ES", (0.9, 0.8, 0.75))) == "012_p2_ES_dice0.817.png"


class Fails:
    """A value whose writing fails."""

    def __str__(self):
        raise OSError("disk full")


@pytest.mark.parametrize("what", ["evaluation.json", "frames.csv", "evaluation.md", "degenerated_slices.png"])
def test_a_file_that_fails_midway_leaves_the_earlier_one(tmp_path, monkeypatch, what):
    write_evaluation(whole_evaluation(), tmp_path, ABOUT)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write_text, savefig = Path.write_text, plots.Figure.savefig

    def fail_to_write(self, text, **kwargs):
        if what not in self.name:
            return write_text(self, text, **kwargs)
        write_text(self, text[:50], **kwargs)
        raise OSError("disk full")

    def fail_to_draw(self, target, **kwargs):
        if what not in Path(target).name:
            return savefig(self, target, **kwargs)
        Path(target).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_text", fail_to_write)
    monkeypatch.setattr(plots.Figure, "savefig", fail_to_draw)
    if what == "frames.csv":
        broken = [{"case": "p1"}, {"case": Fails()}]
        monkeypatch.setattr(report, "_frame_rows", lambda results: broken)
    with pytest.raises(OSError, match="disk full"):
        write_evaluation(three_patients()[:1], tmp_path, ABOUT)
    assert names(tmp_path) == sorted(before)
    assert (tmp_path / what).read_bytes() == before[what]


def test_an_evaluation_is_read_back_as_it_was(tmp_path):
    results = whole_evaluation()
    write_evaluation(results, tmp_path, ABOUT)
    found = read_evaluation(tmp_path / "evaluation.json")
    assert sorted(map(repr, found)) == sorted(map(repr, results))  # NaN equals NaN as text
    assert read_about(tmp_path / "evaluation.json") == ABOUT


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (read_evaluation, None, "FileNotFoundError.*expected the evaluation.json"),
        (read_evaluation, '{"frames": [{"case": "p1"}]}', "KeyError"),
        (read_about, None, "FileNotFoundError.*expected the evaluation.json"),
        (read_about, '{"about": ["split"]}', "AttributeError"),
    ],
)
def test_what_is_no_evaluation_is_refused(tmp_path, read, text, message):
    if text is not None:
        (tmp_path / "other.json").write_text(text)
    with pytest.raises(InputError, match=rf"other\.json: {message}"):
        read(tmp_path / "other.json")


def test_tables_by_pathology_and_level(tmp_path):
    write_evaluation(whole_evaluation(), tmp_path, ABOUT)
    text = (tmp_path / "evaluation.md").read_text()
    assert "| Group | frames | Dice RV | Dice MYO | Dice LV | d_H (mm) RV |" in text
    assert "| base | 0.800 | 0.800 | 0.800 |" in text
