import math
from dataclasses import fields

import pytest

from cardiac_cine.measurements import Measurements
from cardiac_cine.quantities import QUANTITIES

NO_BREAK = "\N{NO-BREAK SPACE}"
MINUS = "\N{MINUS SIGN}"


@pytest.mark.parametrize(
    ("key", "value", "number", "text"),
    [
        ("lv_ef_percent", 58.649, "58.6", f"58.6{NO_BREAK}%"),
        ("lv_edv_ml", 140.5001, "141", f"141{NO_BREAK}mL"),
        ("bsa_m2", 1.984, "1.98", f"1.98{NO_BREAK}m²"),
        ("lv_sv_ml", -12.3, f"{MINUS}12", f"{MINUS}12{NO_BREAK}mL"),
        ("lv_sv_ml", -0.3, "0", f"0{NO_BREAK}mL"),
        ("lv_ef_percent", math.nan, "\N{EN DASH}", "\N{EN DASH}"),
        ("lv_ef_percent", None, "\N{EN DASH}", "\N{EN DASH}"),
    ],
)
def test_values_as_a_report_writes_them(key, value, number, text):
    assert QUANTITIES[key].number(value) == number
    assert QUANTITIES[key].text(value) == text


def test_every_scalar_measurement_has_a_name():
    scalars = {field.name for field in fields(Measurements) if field.type in (float, "float")}
    assert QUANTITIES.keys() == scalars
    assert len({quantity.short for quantity in QUANTITIES.values()}) == len(QUANTITIES)
    assert QUANTITIES["rv_edvi_ml_m2"].heading == "RV EDVi (mL/m²)"
