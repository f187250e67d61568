import math
from dataclasses import fields, replace

import numpy as np
import pytest
from dicom_sources import conformance_problems, random_masks, write_cine
from highdicom.sr import srread
from pydicom import dcmread

from cardiac_cine.dicom_codes import AHA_SEGMENTS, GROUPS, MAX_MEANING, SCHEME
from cardiac_cine.dicom_output import Software
from cardiac_cine.dicom_seg import write_seg
from cardiac_cine.dicom_sr import write_sr
from cardiac_cine.errors import InputError
from cardiac_cine.measurements import Measurements
from cardiac_cine.quality import Flag

LV, RV, MYO = "87878005", "53085002", "49848007"
# Attribute, value, finding site, scheme, code, unit: by hand from PS3.16, CIDs 3833, 3835, 3455 and 12200.
SCALARS = [
    ("lv_edv_ml", 150.25, LV, "LN", "8821-1", "ml"),
    ("lv_esv_ml", 60.5, LV, "LN", "8823-7", "ml"),
    ("lv_sv_ml", 89.75, LV, "SCT", "90096001", "ml"),
    ("lv_ef_percent", 59.733777037, LV, "LN", "8811-2", "%"),
    ("cardiac_output_l_min", 5.5, LV, "SCT", "82799009", "l/min"),
    ("cardiac_index_l_min_m2", 2.9, LV, "SCT", "54993008", "l/min/m2"),
    ("lv_edvi_ml_m2", 79.0, LV, SCHEME, "lv_edvi_ml_m2", "ml/m2"),
    ("lv_esvi_ml_m2", 32.0, LV, SCHEME, "lv_esvi_ml_m2", "ml/m2"),
    ("lv_svi_ml_m2", 47.0, LV, "SCT", "277381004", "ml/m2"),
    ("lv_peak_ejection_rate_ml_s", 420.0, LV, "DCM", "122616", "ml/s"),
    ("lv_peak_filling_rate_ml_s", 380.0, LV, "DCM", "122618", "ml/s"),
    ("rv_edv_ml", 165.0, RV, "LN", "8822-9", "ml"),
    ("rv_esv_ml", 76.0, RV, "LN", "8824-5", "ml"),
    ("rv_sv_ml", 89.0, RV, "SCT", "429483009", "ml"),
    ("rv_ef_percent", 53.9, RV, "LN", "8818-7", "%"),
    ("rv_edvi_ml_m2", 86.8, RV, SCHEME, "rv_edvi_ml_m2", "ml/m2"),
    ("rv_esvi_ml_m2", 40.0, RV, SCHEME, "rv_esvi_ml_m2", "ml/m2"),
    ("rv_svi_ml_m2", 46.8, RV, "SCT", "429619008", "ml/m2"),
    ("rv_peak_ejection_rate_ml_s", 400.0, RV, "DCM", "122616", "ml/s"),
    ("rv_peak_filling_rate_ml_s", 300.0, RV, "DCM", "122618", "ml/s"),
    ("lv_mass_g", 110.0, MYO, "SCT", "118538004", "g"),
    ("lv_mass_es_g", 112.0, MYO, "SCT", "118538004", "g"),
    ("lv_mass_index_g_m2", 57.9, MYO, SCHEME, "lv_mass_index_g_m2", "g/m2"),
    ("bsa_m2", 1.9, None, "LN", "8277-6", "m2"),
    ("heart_rate_bpm", 61.0, None, "LN", "8867-4", "/min"),
]
# AHA's statement (Cerqueira et al., Circulation 105:539, 2002), segments 1 to 16; CID 3717.
SEGMENT_MEANINGS = (
    *("basal anterior", "basal anteroseptal", "basal inferoseptal"),
    *("basal inferior", "basal inferolateral", "basal anterolateral"),
    *("mid anterior", "mid anteroseptal", "mid inferoseptal", "mid inferior", "mid inferolateral", "mid anterolateral"),
    *("apical anterior", "apical septal", "apical inferior", "apical lateral"),
)
ED_MM = tuple(8.0 + 0.25 * segment for segment in range(16))
ES_MM = tuple(12.0 + 0.25 * segment for segment in range(16))
THICKENING = tuple(50.0 - segment for segment in range(16))
NOT_REPORTED = {"phases", "lv_volume_ml", "rv_volume_ml", "myo_volume_ml", "times_ms", "ed_frame", "es_frame"}
FULL = Measurements(
    ed_frame=0,
    es_frame=2,
    phases=4,
    lv_volume_ml=(150.25, 100.0, 60.5, 120.0),
    rv_volume_ml=(165.0, 120.0, 76.0, 140.0),
    myo_volume_ml=(105.0, 105.0, 106.0, 105.0),
    times_ms=None,
    wall_thickness_ed_mm=ED_MM,
    wall_thickness_es_mm=ES_MM,
    wall_thickening_percent=THICKENING,
    **{attribute: value for attribute, value, *_ in SCALARS},
)
NOTHING = replace(
    FULL,
    es_frame=0,
    wall_thickness_ed_mm=(math.nan,) * 16,
    wall_thickness_es_mm=(math.nan,) * 16,
    wall_thickening_percent=(math.nan,) * 16,
    **{attribute: math.nan for attribute, *_ in SCALARS},
)


@pytest.fixture(scope="module")
def cine(tmp_path_factory):
    return write_cine(tmp_path_factory.mktemp("cine"))


@pytest.fixture(scope="module")
def enhanced(tmp_path_factory):
    return write_cine(tmp_path_factory.mktemp("enhanced"), "enhanced")


@pytest.fixture(scope="module")
def report_path(cine, tmp_path_factory):
    path = tmp_path_factory.mktemp("sr") / "sr.dcm"
    write_sr(cine, FULL, [], path, software=Software(name="Net", version="1.2", model="c0ffee", manufacturer="Lab"))
    return path


def groups_of(path):
    """Return the measurement groups by name."""
    groups = srread(path).content.get_image_measurement_groups()
    return {group.tracking_identifier: group for group in groups}


def items(group, value_type):
    return [item for item in group[0].ContentSequence if item.ValueType == value_type]


def code_of(item):
    code = item.ConceptNameCodeSequence[0]
    return code.CodingSchemeDesignator, code.get("CodeValue", code.get("LongCodeValue"))


def sites_of(item):
    found = [child for child in item.get("ContentSequence", []) if code_of(child) == ("SCT", "363698007")]
    return [site.ConceptCodeSequence[0] for site in found]


def value_of(number):
    measured = number.MeasuredValueSequence[0]
    return float(measured.get("FloatingPointValue", measured.NumericValue))


def numbers(path):
    """Return (group's site, scheme, code, unit, segment's meaning or None) to values, all groups."""
    found = {}
    for group in groups_of(path).values():
        sites = group.finding_sites
        site = sites[0].value.value if sites else None
        for number in items(group, "NUM"):
            unit = number.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0]
            assert unit.CodingSchemeDesignator == "UCUM"
            segment = [code.CodeMeaning for code in sites_of(number)]
            key = (site, *code_of(number), unit.CodeValue, *segment)
            found.setdefault(key, []).append(value_of(number))
    return found


@pytest.fixture(scope="module")
def full_numbers(report_path):
    return numbers(report_path)


def test_every_measurement_is_reported_or_left_out_on_purpose():
    reported = {quantity[0] for group in GROUPS for quantity in group.quantities}
    assert reported == {field.name for field in fields(Measurements)} - NOT_REPORTED


@pytest.mark.parametrize(("attribute", "value", "site", "scheme", "code", "unit"), SCALARS)
def test_numbers_have_their_code_unit_and_site(full_numbers, attribute, value, site, scheme, code, unit):
    assert value in full_numbers[site, scheme, code, unit]


def test_masses_are_told_apart_by_the_phase(report_path):
    groups = groups_of(report_path)
    for phase, mass, code in (("end-diastole", 110.0, "416190007"), ("end-systole", 112.0, "416430001")):
        group = groups[f"Left ventricular myocardium, {phase}"]
        [number] = [item for item in items(group, "NUM") if code_of(item)[1] == "118538004"]
        assert value_of(number) == mass
        answers = {code_of(item)[1]: item.ConceptCodeSequence[0].CodeValue for item in items(group, "CODE")}
        assert answers["246092007"] == code


@pytest.mark.parametrize(
    ("names", "code"),
    [
        (
            ["Left ventricle", "Right ventricle", "Left ventricle, whole cycle", "Right ventricle, whole cycle"],
            "122621",
        ),
        ([f"Left ventricular myocardium, {phase}" for phase in ("end-diastole", "end-systole")], "122620"),
    ],
)
def test_papillary_muscles_are_in_the_cavities_and_not_in_the_wall(report_path, names, code):
    groups = groups_of(report_path)
    for name in names:
        answers = {code_of(item)[1]: item.ConceptCodeSequence[0].CodeValue for item in items(groups[name], "CODE")}
        assert answers["122670"] == code


def test_wall_measurements_are_by_aha_segment(report_path):
    groups = groups_of(report_path)
    for phase, expected in (("end-diastole", ED_MM), ("end-systole", ES_MM)):
        group = groups[f"Left ventricular myocardium, {phase}"]
        walls = [item for item in items(group, "NUM") if code_of(item) == ("DCM", "122445")]
        by_segment = {sites_of(item)[0].CodeMeaning: value_of(item) for item in walls}
        names = [f"left ventricle {meaning} segment" for meaning in SEGMENT_MEANINGS]
        assert by_segment == dict(zip(names, expected, strict=True))
    assert len({segment.value for segment in AHA_SEGMENTS}) == 16


def test_what_is_unknown_is_left_out(cine, full_numbers, tmp_path):
    some = replace(FULL, lv_esv_ml=math.nan, wall_thickness_ed_mm=(math.nan, *ED_MM[1:]))
    write_sr(cine, some, [], tmp_path / "a.dcm")
    found = numbers(tmp_path / "a.dcm")
    assert (LV, "LN", "8823-7", "ml") not in found
    assert len(found) == len(full_numbers) - 1
    segments = [key[-1] for key in found if key[2] == "122445"]
    assert "left ventricle basal anterior segment" in segments  # at end-systole
    assert [value for values in found.values() for value in values if math.isnan(value)] == []
    assert sum(map(len, found.values())) == len(SCALARS) + 3 * 16 - 2


def test_nothing_known_is_a_report_without_numbers(cine, tmp_path):
    write_sr(cine, NOTHING, [], tmp_path / "a.dcm")
    assert list(groups_of(tmp_path / "a.dcm")) == ["Quality"]


def test_flags_are_findings_with_their_reason(cine, tmp_path):
    reason = "The wall's volume changes by ≥ 20 % over the cycle, " * 3 + "which no heart's does."
    flags = [Flag("missing_base", "The base is cut off."), Flag("myocardial_volume_change", reason)]
    write_sr(cine, FULL, flags, tmp_path / "a.dcm")
    findings = items(groups_of(tmp_path / "a.dcm")["Quality"], "CODE")
    assert [code_of(finding) for finding in findings] == [("DCM", "111052")] * 2
    values = [finding.ConceptCodeSequence[0] for finding in findings]
    assert values[0].CodeValue == "missing_base"
    assert values[1].LongCodeValue == "myocardial_volume_change"
    assert [value.CodeMeaning for value in values] == ["missing base", "myocardial volume change"]
    assert [finding.ContentSequence[0].TextValue for finding in findings] == [flag.reason for flag in flags]


def test_a_report_without_flags_says_so(report_path):
    [finding] = items(groups_of(report_path)["Quality"], "CODE")
    assert finding.ConceptCodeSequence[0].CodeValue == "no_flag"


@pytest.mark.parametrize(
    ("group", "phases"),
    [
        ("Left ventricle", (0, 2)),
        ("Right ventricle", (0, 2)),
        ("Left ventricle, whole cycle", (0, 1, 2, 3)),
        ("Left ventricular myocardium, end-diastole", (0,)),
        ("Left ventricular myocardium, end-systole", (2,)),
        ("Patient", ()),
        ("Quality", ()),
    ],
)
def test_groups_name_the_images_they_come_from(cine, report_path, group, phases):
    images = items(groups_of(report_path)[group], "IMAGE")
    expected = {row[phase].sop_instance_uid for row in cine.instances for phase in phases}
    assert {image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for image in images} == expected
    assert len(images) == len(expected)


def test_groups_name_the_frames_of_a_multi_frame_image(enhanced, tmp_path):
    write_sr(enhanced, FULL, [], tmp_path / "a.dcm")
    [image] = items(groups_of(tmp_path / "a.dcm")["Left ventricular myocardium, end-systole"], "IMAGE")
    expected = {row[2].frame_number for row in enhanced.instances}
    found = [int(number) for number in image.ReferencedSOPSequence[0].ReferencedFrameNumber]
    assert len(found) == len(expected) == len(enhanced.instances)
    assert set(found) == expected


def test_groups_name_the_segmentations_they_come_from(cine, tmp_path):
    written = write_seg(cine, random_masks(cine), tmp_path, phases=[0, 2])
    write_sr(cine, FULL, [], tmp_path / "a.dcm", seg=written)
    uids = {phase: dcmread(path).SOPInstanceUID for phase, path in written.items()}
    groups = groups_of(tmp_path / "a.dcm")
    for name, phases in (("Left ventricle", (0, 2)), ("Left ventricular myocardium, end-systole", (2,))):
        references = [image.ReferencedSOPSequence[0] for image in items(groups[name], "IMAGE")]
        found = {
            item.ReferencedSOPInstanceUID
            for item in references
            if item.ReferencedSOPClassUID == "1.2.840.10008.5.1.4.1.1.66.4"
        }
        assert found == {uids[phase] for phase in phases}


def test_all_images_are_evidence(cine, report_path):
    report = dcmread(report_path)
    [study] = report.CurrentRequestedProcedureEvidenceSequence
    listed = [
        item.ReferencedSOPInstanceUID
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    ]
    assert sorted(listed) == sorted(instance.sop_instance_uid for row in cine.instances for instance in row)
    assert report.StudyInstanceUID == study.StudyInstanceUID == dcmread(cine.instances[0][0].path).StudyInstanceUID


def test_the_software_is_the_observer(report_path):
    report = dcmread(report_path)
    texts = [item.TextValue for item in report.ContentSequence if item.ValueType == "TEXT"]
    assert texts == ["Net", "Lab", "Net 1.2", "c0ffee"]
    assert report.VerificationFlag == "UNVERIFIED"
    assert report.PreliminaryFlag == "PRELIMINARY"


def test_private_codes_are_declared_and_short_enough(report_path):
    [scheme] = dcmread(report_path).CodingSchemeIdentificationSequence
    assert scheme.CodingSchemeDesignator == SCHEME
    private = [code for group in GROUPS for _, code, _ in group.quantities if code.scheme_designator == SCHEME]
    assert len({code.value for code in private}) == len(private) == 6
    assert max(len(code.meaning) for code in private) <= MAX_MEANING


@pytest.mark.parametrize("source", ["cine", "enhanced"])
def test_files_conform_to_the_standard(source, request, tmp_path):
    cine = request.getfixturevalue(source)
    written = write_seg(cine, random_masks(cine), tmp_path, phases=[0, 2])
    write_sr(cine, FULL, [Flag("missing_base", "The base is cut off.")], tmp_path / "a.dcm", seg=written)
    assert conformance_problems(tmp_path / "a.dcm") == []


def test_a_cine_from_elsewhere_is_refused(cine, tmp_path):
    with pytest.raises(InputError, match="expected DICOM files"):
        write_sr(replace(cine, instances=()), FULL, [], tmp_path / "a.dcm")


def test_segmentations_of_another_study_are_refused(cine, tmp_path):
    [path] = write_seg(cine, np.zeros(cine.array.shape, np.uint8), tmp_path, phases=[0]).values()
    segmentation = dcmread(path)
    segmentation.StudyInstanceUID = "1.2.3"
    segmentation.save_as(path)
    with pytest.raises(ValueError, match=r"seg\[0\] must be of study"):
        write_sr(cine, FULL, [], tmp_path / "a.dcm", seg={0: path})
