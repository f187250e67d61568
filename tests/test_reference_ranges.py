import pytest

from cardiac_cine.quantities import QUANTITIES
from cardiac_cine.reference_ranges import CAVITY, MYOCARDIUM, RANGES, ReferenceRange, ranges_for


@pytest.mark.parametrize(
    ("key", "sex", "expected"),
    [
        ("lv_ef_percent", "M", [(58, 5, 48, 68)]),
        ("lv_ef_percent", "F", [(61, 5, 51, 71)]),
        ("lv_ef_percent", "", [(58, 5, 48, 68), (61, 5, 51, 71)]),
        ("lv_mass_index_g_m2", "M", [(53, 9, 35, 71)]),
        ("lv_mass_index_g_m2", "F", [(42, 7, 28, 56)]),
        ("rv_ef_percent", "M", []),
        ("lv_edv_ml", "", []),
    ],
)
def test_ranges_of_the_masks_convention(key, sex, expected):
    found = ranges_for(key, sex)
    assert [(r.mean, r.sd, r.low, r.high) for r in found] == expected
    assert all(r.source == "Petersen et al. 2017, UK Biobank" and r.convention == CAVITY for r in found)


def test_the_other_convention_is_kept_apart():
    assert [(r.sex, r.mean, r.sd) for r in ranges_for("lv_ef_percent", "", MYOCARDIUM)] == [
        ("M", 67.0, 5.0),
        ("F", 67.0, 5.0),
    ]
    assert ranges_for("lv_mass_index_g_m2", "M", MYOCARDIUM) == ()


def test_every_range_is_of_a_known_quantity_and_told_once():
    assert {r.key for r in RANGES} <= QUANTITIES.keys()
    assert len({(r.key, r.sex, r.convention) for r in RANGES}) == len(RANGES)
    assert all(isinstance(r, ReferenceRange) and r.sd > 0 and r.source for r in RANGES)


@pytest.mark.parametrize(
    ("sex", "convention", "message"),
    [
        ("O", CAVITY, "sex must be 'M', 'F' or '' for unknown, got 'O'"),
        ("M", "either", "convention must be 'papillary muscles count to the cavity' or .* got 'either'"),
    ],
)
def test_rejects(sex, convention, message):
    with pytest.raises(ValueError, match=message):
        ranges_for("lv_ef_percent", sex, convention)
