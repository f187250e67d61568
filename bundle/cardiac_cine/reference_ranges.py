"""Reference ranges of healthy adults, each with its source and its convention for the papillary muscles.

A range holds for one convention only: what counts to the cavity enlarges the volumes and takes from the mass. Masks
here count papillary muscles and trabeculae to the cavity, so only ranges that do the same are held against them. A
quantity without an entry has no range, and a report says so.
"""

from dataclasses import dataclass

CAVITY = "papillary muscles count to the cavity"
MYOCARDIUM = "papillary muscles count to the myocardium"

_UK_BIOBANK = "Petersen et al. 2017, UK Biobank"
_KAWEL_BOEHM = "Kawel-Boehm et al. 2015"

# Normal is what lies within so many standard deviations of the mean, about 95 % of the healthy.
RANGE_SD = 2.0


@dataclass(frozen=True)
class ReferenceRange:
    """How a quantity is distributed in healthy adults of one sex.

    Attributes:
        key: the quantity, a key of the measurements, such as "lv_ef_percent".
        sex: "M" or "F".
        mean: in the unit the key names.
        sd: standard deviation, in the same unit.
        source: the publication.
        convention: where its papillary muscles count to, ``CAVITY`` or ``MYOCARDIUM``.
    """

    key: str
    sex: str
    mean: float
    sd: float
    source: str
    convention: str

    @property
    def low(self) -> float:
        """Lower end, mean - 2 sd."""
        return self.mean - RANGE_SD * self.sd

    @property
    def high(self) -> float:
        """Upper end, mean + 2 sd."""
        return self.mean + RANGE_SD * self.sd


RANGES = (
    ReferenceRange("lv_ef_percent", "M", 58.0, 5.0, _UK_BIOBANK, CAVITY),
    ReferenceRange("lv_ef_percent", "F", 61.0, 5.0, _UK_BIOBANK, CAVITY),
    ReferenceRange("lv_mass_index_g_m2", "M", 53.0, 9.0, _UK_BIOBANK, CAVITY),
    ReferenceRange("lv_mass_index_g_m2", "F", 42.0, 7.0, _UK_BIOBANK, CAVITY),
    ReferenceRange("lv_ef_percent", "M", 67.0, 5.0, _KAWEL_BOEHM, MYOCARDIUM),
    ReferenceRange("lv_ef_percent", "F", 67.0, 5.0, _KAWEL_BOEHM, MYOCARDIUM),
)


def ranges_for(key: str, sex: str, convention: str = CAVITY) -> tuple[ReferenceRange, ...]:
    """Return the ranges that a patient's value can be held against.

    Args:
        key: the quantity, a key of the measurements.
        sex: "M" or "F"; "" where it is unknown.
        convention: that of the masks.

    Returns:
        One range for a known sex, those of both sexes, men first, for an unknown one, and none for a quantity without a
        source in this convention.

    Raises:
        ValueError: ``sex`` or ``convention`` is none of those.
    """
    if sex not in ("M", "F", ""):
        raise ValueError(f"sex must be 'M', 'F' or '' for unknown, got {sex!r}")
    if convention not in (CAVITY, MYOCARDIUM):
        raise ValueError(f"convention must be {CAVITY!r} or {MYOCARDIUM!r}, got {convention!r}")
    return tuple(r for r in RANGES if r.key == key and r.convention == convention and sex in ("", r.sex))
