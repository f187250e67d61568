import numpy as np
import pytest

from cardiac_cine.annotation.active_learning import standardise
from cardiac_cine.annotation.sampling import CRITERIA, Pool, Sample, choose, rank_by_novelty, rank_by_score


def samples(*patients: str, group: str = "") -> list[Sample]:
    return [Sample(f"{patient}_{key}", patient, group, key) for patient in patients for key in ("ED", "ES", "")]


def pool(left, begun=(), records=None) -> Pool:
    return Pool([*left, *begun], left, list(begun), records or {})


def order(left: list[Sample], begun: list[Sample] | None = None, ranks=None, **how) -> list[str]:
    """The ids in the order in which they are chosen, one after the other."""
    left, begun, found = list(left), list(begun or ()), []
    while left:
        best = choose(pool(left, begun), ranks or {}, **how)
        left.remove(best)
        begun.append(best)
        found.append(best.id)
    return found


def test_patients_come_before_more_phases_of_the_same_and_both_key_phases_are_level():
    found = order(samples("a", "b", "c", "d"))
    patients = [name.split("_")[0] for name in found]
    assert [sorted(patients[start : start + 4]) for start in (0, 4, 8)] == [["a", "b", "c", "d"]] * 3
    keys = [name.split("_")[1] for name in found]
    assert keys[:4] == ["ED", "ES", "ED", "ES"]
    assert sorted(keys[4:8]) == ["ED", "ED", "ES", "ES"]
    assert keys[8:] == [""] * 4


def test_of_one_case_end_diastole_comes_first():
    assert order(samples("a")) == ["a_ED", "a_ES", "a_"]


def test_chance_is_the_same_for_a_seed_whatever_the_order_and_whatever_else_there_is():
    left = samples("a", "b", "c", "d", "e")
    found = order(left)
    assert order(left[::-1]) == found
    assert any(order(left, seed=seed)[0] != found[0] for seed in range(1, 5))
    first = [name.split("_")[0] for name in found[:5]]
    fewer = [name.split("_")[0] for name in order([s for s in left if s.patient != first[2]])[:4]]
    assert fewer == [patient for patient in first if patient != first[2]]


def test_groups_are_in_balance():
    left = samples("a", "b", "c", "d", group="DCM") + samples("e", "f", group="NOR")
    found = order(left)[:4]
    assert sorted(name[0] in "ef" for name in found) == [False, False, True, True]


def test_the_rank_comes_before_everything_and_what_has_none_is_not_lost():
    left = samples("a", "b")
    ranks = {"b_ES": (0.3,), "a_": (0.3,), "b_ED": (0.1,), "a_ED": (0.9,)}
    found = order(left, ranks=ranks)
    assert found[:4] == ["a_ED", "b_ES", "a_", "b_ED"]  # of the two at 0.3 the patient with fewer
    assert set(found[4:]) == {"a_ES", "b_"}
    assert order(left[::-1], ranks=ranks) == found
    assert order(left, ranks=ranks, last=["a_ED"])[-1] == "a_ED"


def test_further_values_of_a_rank_decide_between_equals():
    assert order(samples("a"), ranks={"a_ED": (1.0, 0.1), "a_ES": (1.0, 0.2)})[:2] == ["a_ES", "a_ED"]


def test_nothing_left_is_refused():
    with pytest.raises(ValueError, match="nothing is left"):
        choose(pool([], samples("a")), {})


def test_only_whole_scores_rank():
    records = {"a": {"x": 1.0, "y": 2.0}, "b": {"x": 1.0, "y": None}, "c": {"y": 2.0}, "d": {"error": "InputError"}}
    assert rank_by_score(pool([], records=records), "x", "y") == {"a": (1.0, 2.0)}
    assert rank_by_score(pool([], records=records), "y") == {"a": (2.0,), "c": (2.0,)}


def test_novelty_is_of_patients_and_starts_at_those_begun():
    left = samples("a", "b", "c")
    records = {"a_ED": {"f": [0, 0]}, "a_ES": {"f": [2, 0]}, "b_ED": {"f": [4, 4]}, "c_": {"f": None}}
    begun = samples("d")[:1]
    records["d_ED"] = {"f": [1, 1]}
    ranks = rank_by_novelty(pool(left, begun, records), "f")
    assert ranks["a_ED"] == ranks["a_ES"] == ranks["a_"] == (1.0,)  # the patient's mean is [1, 0]
    assert ranks["b_ES"] == pytest.approx((np.sqrt(18),))
    assert "c_ED" not in ranks
    assert rank_by_novelty(pool(left, begun), "f") == {}


def test_core_set_takes_the_typical_patient_and_then_one_of_each_kind():
    rng = np.random.default_rng(1)
    left = samples("a1", "a2", "a3", "b1", "b2", "c1")
    middle = {"a": [0, 0], "b": [9, 0], "c": [0, 9]}
    records = {s.id: {"features": (np.array(middle[s.patient[0]]) + rng.normal(0, 0.1, 2)).tolist()} for s in left}
    begun, chosen = [], []
    for _ in range(3):
        there = pool([s for s in left if s not in begun], begun, records)
        begun.append(choose(there, CRITERIA["diversity"].rank(there)))
        chosen.append(begun[-1].patient[0])
    assert sorted(chosen) == ["a", "b", "c"]


def test_the_cold_start_compares_what_has_different_units_and_works_without_anything_known():
    left = samples("a", "b", "c", "d")
    vectors = {"a": [0.001, 5000.0, None], "b": [0.001, 5001.0, None], "c": [0.002, 5000.0, None]}
    records = {f"{patient}_ED": {"descriptor": vector} for patient, vector in vectors.items()}
    there = pool([s for s in left if s.patient != "a"], [s for s in left if s.patient == "a"], records)
    ranks = CRITERIA["first"].rank(there)
    assert ranks == rank_by_novelty(there, "descriptor", standardise)
    assert ranks["b_ED"] == pytest.approx(ranks["c_ED"])
    nothing = pool(left)
    assert CRITERIA["first"].rank(nothing) == {}
    assert choose(nothing, {}).key == "ED"


@pytest.mark.parametrize("name", CRITERIA)
def test_criteria_tell_what_they_do(name):
    assert CRITERIA[name].about
    if name != "random":
        assert CRITERIA[name].reason(0.25).endswith(".")
