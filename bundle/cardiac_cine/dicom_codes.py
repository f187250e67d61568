"""What the numbers of a structured report are called: codes, units and the anatomy that they are of.

Codes, first choice first:

- CID 3833 and CID 3835, which the standard has for cardiac MR and CT: ejection fractions, volumes, stroke volume;
- other codes of the standard that mean the very quantity, such as DCM's peak ejection rate, or SNOMED CT's mass of
  what the group's finding site says (the standard lists LOINC's left-ventricular mass, 18087-7, for ultrasound alone);
- :data:`SCHEME`, a private scheme, where there is none: volumes and mass by body surface area, wall thickening, and
  the codes of quality flags. The code is then the name that the number has in this package's other results.
"""

from dataclasses import dataclass

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

SCHEME = "99CARDIACCINE"
SCHEME_NAME = "Names of the cardiac_cine package"
# What DICOM allows a code's meaning.
MAX_MEANING = 64

_ML = Code("ml", "UCUM", "ml")
_ML_M2 = Code("ml/m2", "UCUM", "ml/m2")
_PERCENT = Code("%", "UCUM", "%")
_G = Code("g", "UCUM", "g")
_G_M2 = Code("g/m2", "UCUM", "g/m2")
_MM = Code("mm", "UCUM", "mm")
_ML_S = Code("ml/s", "UCUM", "ml/s")
_L_MIN = Code("l/min", "UCUM", "l/min")
_L_MIN_M2 = Code("l/min/m2", "UCUM", "l/min/m2")
_BPM = Code("/min", "UCUM", "/min")
_M2 = Code("m2", "UCUM", "m2")

# AHA's segments 1 to 16, in the order of the wall's measurements: CID 3717 without the apex.
AHA_SEGMENTS = (
    codes.SCT.LeftVentricleBasalAnteriorSegment,
    codes.SCT.LeftVentricleBasalAnteroseptalSegment,
    codes.SCT.LeftVentricleBasalInferoseptalSegment,
    codes.SCT.LeftVentricleBasalInferiorSegment,
    codes.SCT.LeftVentricleBasalInferolateralSegment,
    codes.SCT.LeftVentricleBasalAnterolateralSegment,
    codes.SCT.LeftVentricleMidAnteriorSegment,
    codes.SCT.LeftVentricleMidAnteroseptalSegment,
    codes.SCT.LeftVentricleMidInferoseptalSegment,
    codes.SCT.LeftVentricleMidInferiorSegment,
    codes.SCT.LeftVentricleMidInferolateralSegment,
    codes.SCT.LeftVentricleMidAnterolateralSegment,
    codes.SCT.LeftVentricleApicalAnteriorSegment,
    codes.SCT.LeftVentricleApicalSeptalSegment,
    codes.SCT.LeftVentricleApicalInferiorSegment,
    codes.SCT.LeftVentricleApicalLateralSegment,
)


@dataclass(frozen=True)
class Group:
    """Measurements of one anatomical structure.

    Attributes:
        name: of the group.
        site: the structure; None for the whole patient.
        quantities: a measurement's attribute, what it is called and its unit. Tuples are by AHA segment.
        phases: attributes of the measurements that say which phases' images are the source; None for all phases.
        evaluations: what else is to be known, as question and answer.
    """

    name: str
    site: Code | None
    quantities: tuple[tuple[str, Code, Code], ...]
    phases: tuple[str, ...] | None = ("ed_frame", "es_frame")
    evaluations: tuple[tuple[Code, Code], ...] = ()


def private(code: str, meaning: str) -> Code:
    """Return a code of the private scheme."""
    return Code(code, SCHEME, meaning)


_CYCLE_PHASE = Code("246092007", "SCT", "Cardiac cycle phase")
# Papillary muscles count to the cavity, so what is measured of the myocardium is without them.
_PAPILLARY = (codes.DCM.PapillaryMuscleIncludedExcluded, codes.DCM.PapillaryMuscleIncluded)
_NO_PAPILLARY = (codes.DCM.PapillaryMuscleIncludedExcluded, codes.DCM.PapillaryMuscleExcluded)

GROUPS = (
    Group(
        "Patient",
        None,
        (
            ("bsa_m2", Code("8277-6", "LN", "Body surface area"), _M2),
            ("heart_rate_bpm", codes.LN.HeartRate, _BPM),
        ),
        phases=(),
    ),
    Group(
        "Left ventricle",
        codes.SCT.LeftVentricle,
        (
            ("lv_edv_ml", codes.LN.LeftVentricularEDVolume, _ML),
            ("lv_esv_ml", codes.LN.LeftVentricularESVolume, _ML),
            ("lv_sv_ml", codes.SCT.StrokeVolume, _ML),
            ("lv_ef_percent", codes.LN.LeftVentricularEjectionFractionByMR, _PERCENT),
            ("cardiac_output_l_min", codes.SCT.CardiacOutput, _L_MIN),
            ("cardiac_index_l_min_m2", codes.SCT.CardiacIndex, _L_MIN_M2),
            ("lv_edvi_ml_m2", private("lv_edvi_ml_m2", "Left ventricular ED volume by body surface area"), _ML_M2),
            ("lv_esvi_ml_m2", private("lv_esvi_ml_m2", "Left ventricular ES volume by body surface area"), _ML_M2),
            ("lv_svi_ml_m2", codes.SCT.StrokeIndex, _ML_M2),
        ),
        evaluations=(_PAPILLARY,),
    ),
    Group(
        "Left ventricle, whole cycle",
        codes.SCT.LeftVentricle,
        (
            ("lv_peak_ejection_rate_ml_s", codes.DCM.PeakEjectionRate, _ML_S),
            ("lv_peak_filling_rate_ml_s", codes.DCM.PeakFillingRate, _ML_S),
        ),
        phases=None,
        evaluations=((_CYCLE_PHASE, codes.DCM.FullCardiacCycle), _PAPILLARY),
    ),
    Group(
        "Right ventricle",
        codes.SCT.RightVentricle,
        (
            ("rv_edv_ml", codes.LN.RightVentricularEDVolume, _ML),
            ("rv_esv_ml", codes.LN.RightVentricularESVolume, _ML),
            ("rv_sv_ml", codes.SCT.RVStrokeVolume, _ML),
            ("rv_ef_percent", codes.LN.RightVentricularEjectionFractionByMR, _PERCENT),
            ("rv_edvi_ml_m2", private("rv_edvi_ml_m2", "Right ventricular ED volume by body surface area"), _ML_M2),
            ("rv_esvi_ml_m2", private("rv_esvi_ml_m2", "Right ventricular ES volume by body surface area"), _ML_M2),
            ("rv_svi_ml_m2", codes.SCT.RVStrokeIndex, _ML_M2),
        ),
        evaluations=(_PAPILLARY,),
    ),
    Group(
        "Right ventricle, whole cycle",
        codes.SCT.RightVentricle,
        (
            ("rv_peak_ejection_rate_ml_s", codes.DCM.PeakEjectionRate, _ML_S),
            ("rv_peak_filling_rate_ml_s", codes.DCM.PeakFillingRate, _ML_S),
        ),
        phases=None,
        evaluations=((_CYCLE_PHASE, codes.DCM.FullCardiacCycle), _PAPILLARY),
    ),
    Group(
        "Left ventricular myocardium, end-diastole",
        codes.SCT.LeftVentricleMyocardium,
        (
            ("lv_mass_g", codes.SCT.MassQuantity, _G),
            ("lv_mass_index_g_m2", private("lv_mass_index_g_m2", "Left ventricular mass by body surface area"), _G_M2),
            ("wall_thickness_ed_mm", codes.DCM.WallThickness, _MM),
        ),
        phases=("ed_frame",),
        evaluations=((_CYCLE_PHASE, codes.SCT.EndDiastole), _NO_PAPILLARY),
    ),
    Group(
        "Left ventricular myocardium, end-systole",
        codes.SCT.LeftVentricleMyocardium,
        (
            ("lv_mass_es_g", codes.SCT.MassQuantity, _G),
            ("wall_thickness_es_mm", codes.DCM.WallThickness, _MM),
        ),
        phases=("es_frame",),
        evaluations=((_CYCLE_PHASE, codes.SCT.EndSystole), _NO_PAPILLARY),
    ),
    Group(
        "Left ventricular myocardium, thickening",
        codes.SCT.LeftVentricleMyocardium,
        (("wall_thickening_percent", private("wall_thickening_percent", "Wall thickening"), _PERCENT),),
    ),
)
