"""What the measured quantities are called in reports, and how their values are written."""

import math
from dataclasses import dataclass

MISSING = "\N{EN DASH}"
_MINUS = "\N{MINUS SIGN}"


def number(value: float | None, digits: int) -> str:
    """Return a number as a report writes it: with a true minus, no minus before 0, a dash for NaN and None."""
    if value is None or math.isnan(value):
        return MISSING
    text = f"{value:.{digits}f}"
    return text.replace("-", _MINUS) if float(text) else text.lstrip("-")


@dataclass(frozen=True)
class Quantity:
    """One scalar of the measurements.

    Attributes:
        key: in the measurements, such as "lv_edv_ml".
        name: what a report calls it, without the ventricle.
        short: the usual abbreviation, with the ventricle.
        unit: of the value.
        digits: decimals that a report shows.
    """

    key: str
    name: str
    short: str
    unit: str
    digits: int

    @property
    def heading(self) -> str:
        """Abbreviation and unit, for a column or an axis."""
        return f"{self.short} ({self.unit})"

    def number(self, value: float | None) -> str:
        """Return the value as a report writes it, without its unit; a dash for NaN and None."""
        return number(value, self.digits)

    def text(self, value: float | None) -> str:
        """Return the value with its unit; a dash for NaN and None."""
        text = self.number(value)
        return text if text == MISSING else f"{text}\N{NO-BREAK SPACE}{self.unit}"


def _ventricle(key: str) -> tuple[Quantity, ...]:
    side = key.upper()
    return (
        Quantity(f"{key}_ef_percent", "Ejection fraction", f"{side} EF", "%", 1),
        Quantity(f"{key}_edv_ml", "End-diastolic volume", f"{side} EDV", "mL", 0),
        Quantity(f"{key}_esv_ml", "End-systolic volume", f"{side} ESV", "mL", 0),
        Quantity(f"{key}_sv_ml", "Stroke volume", f"{side} SV", "mL", 0),
        Quantity(f"{key}_edvi_ml_m2", "End-diastolic volume index", f"{side} EDVi", "mL/m²", 0),
        Quantity(f"{key}_esvi_ml_m2", "End-systolic volume index", f"{side} ESVi", "mL/m²", 0),
        Quantity(f"{key}_svi_ml_m2", "Stroke volume index", f"{side} SVi", "mL/m²", 0),
        Quantity(f"{key}_peak_ejection_rate_ml_s", "Peak ejection rate", f"{side} PER", "mL/s", 0),
        Quantity(f"{key}_peak_filling_rate_ml_s", "Peak filling rate", f"{side} PFR", "mL/s", 0),
    )


QUANTITIES = {
    quantity.key: quantity
    for quantity in (
        *_ventricle("lv"),
        Quantity("lv_mass_g", "Mass at end-diastole", "LV mass", "g", 0),
        Quantity("lv_mass_es_g", "Mass at end-systole", "LV mass ES", "g", 0),
        Quantity("lv_mass_index_g_m2", "Mass index", "LV mass index", "g/m²", 0),
        Quantity("cardiac_output_l_min", "Cardiac output", "CO", "L/min", 1),
        Quantity("cardiac_index_l_min_m2", "Cardiac index", "CI", "L/min/m²", 1),
        *_ventricle("rv"),
        Quantity("heart_rate_bpm", "Heart rate", "Heart rate", "bpm", 0),
        Quantity("bsa_m2", "Body surface area", "BSA", "m²", 2),
    )
}
