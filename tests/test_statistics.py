import math

import pytest

from cardiac_cine.statistics import LIMITS_SD, method_agreement, summarise

NAN = math.nan


def fields(found):
    return pytest.approx(tuple(vars(found).values()), nan_ok=True)


def test_bland_altman_of_four_pairs_by_hand():
    # Differences 2, -1, 3, 0: their mean is 1, their squared deviations 1 + 4 + 4 + 1 = 10, over 3.
    values, references = [52.0, 59.0, 43.0, 70.0], [50.0, 60.0, 40.0, 70.0]
    found = method_agreement(values, references)
    sd = math.sqrt(10 / 3)
    # Deviations from the means 56 and 55: (-4, 3, -13, 14) and (-5, 5, -15, 15).
    r = (20 + 15 + 195 + 210) / math.sqrt((16 + 9 + 169 + 196) * (25 + 25 + 225 + 225))
    assert LIMITS_SD == 1.96
    assert fields(found) == (4, r, 1.0, sd, 1 - 1.96 * sd, 1 + 1.96 * sd, 1.5)
    assert (found.lower, found.upper, found.r) == pytest.approx((-2.5785, 4.5785, 0.99640), abs=1e-4)


def test_the_other_way_round_the_bias_changes_sign():
    there, back = method_agreement([1, 5, 9], [2, 3, 4]), method_agreement([2, 3, 4], [1, 5, 9])
    assert there.bias == -back.bias == 2.0
    assert (there.lower, there.r) == pytest.approx((-back.upper, back.r))


@pytest.mark.parametrize(
    ("values", "references", "expected"),
    [
        ([], [], (0, NAN, NAN, NAN, NAN, NAN, NAN)),
        ([NAN, 60], [50, NAN], (0, NAN, NAN, NAN, NAN, NAN, NAN)),
        ([55], [50], (1, NAN, 5, NAN, NAN, NAN, 5)),
        ([55, NAN, 40], [50, 50, NAN], (1, NAN, 5, NAN, NAN, NAN, 5)),
        # Three pairs are left. Times 3, the deviations from the means are (-4, -1, 5) and (-1, -1, 2).
        ([1, NAN, 2, 4, 7], [2, 3, 2, 3, NAN], (3, 15 / math.sqrt(42 * 6), 0, 1, -1.96, 1.96, 2 / 3)),
        ([50, 60], [60, 50], (2, -1, 0, math.sqrt(200), -1.96 * math.sqrt(200), 1.96 * math.sqrt(200), 10)),
        ([50, 60], [55, 55], (2, NAN, 0, math.sqrt(50), -1.96 * math.sqrt(50), 1.96 * math.sqrt(50), 5)),
        # The mean of three times 0.1 is not 0.1 in floating point.
        ([0.1, 0.1, 0.1], [0.1, 0.2, 0.3], (3, NAN, -0.1, 0.1, -0.296, 0.096, 0.1)),
        # The same value from two files, equal but for rounding.
        ([50, 50 + 1e-13], [40, 60], (2, NAN, 0, math.sqrt(200), -1.96 * math.sqrt(200), 1.96 * math.sqrt(200), 10)),
        ([5, 6], [5, 6], (2, 1, 0, 0, 0, 0, 0)),
    ],
)
def test_agreement_of_few_undefined_and_constant_values(values, references, expected):
    assert fields(method_agreement(values, references)) == expected


def test_agreement_rejects_lists_that_do_not_pair_up():
    with pytest.raises(ValueError, match="values and references must pair up, got 2 and 3"):
        method_agreement([1, 2], [1, 2, 3])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([2.0, 4.0, 9.0], (5.0, math.sqrt(13), 3, 0)),  # squared deviations 9 + 1 + 16, over 2
        ([2.0, NAN, 4.0, NAN], (3.0, math.sqrt(2), 2, 2)),
        ([0.9], (0.9, NAN, 1, 0)),
        ([NAN], (NAN, NAN, 0, 1)),
        ([], (NAN, NAN, 0, 0)),
    ],
)
def test_summary(values, expected):
    assert fields(summarise(values)) == expected
