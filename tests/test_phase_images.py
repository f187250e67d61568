import re

import pytest

from cardiac_cine.annotation.listing import Listed
from cardiac_cine.annotation.phase_images import ID_PATTERN, entries_of, name_cases, phase_series_uid


def listed(identity="i", name="a", phases=4):
    return Listed(identity, name, "patient", "NOR", phases, "v", lambda: None, lambda: "v", lambda: "d")


@pytest.mark.parametrize(
    ("phases", "keys", "expected"),
    [
        (1, {}, [("a", "")]),
        (2, {}, [("a_phase01", "ED"), ("a_phase02", "ES")]),
        (4, {}, [("a_phase01", "ED"), ("a_phase02", "ES"), ("a_phase03", ""), ("a_phase04", "")]),
        (4, {"ed": 3, "es": 1}, [("a_phase01", ""), ("a_phase02", "ES"), ("a_phase03", ""), ("a_phase04", "ED")]),
        # Impossible, as the cine has changed: guessed again.
        (2, {"ed": 0, "es": 9}, [("a_phase01", "ED"), ("a_phase02", "ES")]),
    ],
)
def test_ids_and_key_phases(phases, keys, expected):
    assert [(entry.id, entry.key) for entry in entries_of("a", listed(phases=phases), **keys)] == expected


@pytest.mark.parametrize(("phases", "es"), [(20, 7), (25, 9), (30, 10), (3, 1)])
def test_end_systole_is_guessed_near_a_third_of_the_cycle(phases, es):
    assert [entry.phase for entry in entries_of("a", listed(phases=phases)) if entry.key == "ES"] == [es]


def test_many_phases_take_three_digits():
    assert entries_of("a", listed(phases=100))[0].id == "a_phase001"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a", "b"], ["a", "b"]),
        (["../a", "x y/z", "ä.b"], ["a", "b", "x_y_z"]),
        (["", "...", "-"], ["study", "study_2", "study_3"]),
        (["Case", "case"], ["Case", "case_2"]),
        # Neither may take the ids of the other's phases.
        (["a", "a_phase01"], ["a", "a_phase01_2"]),
        (["a_phase01", "a"], ["a_2", "a_phase01"]),
    ],
)
def test_names_are_safe_and_unique(names, expected):
    cases = name_cases([listed(str(number), name) for number, name in enumerate(names)], {})
    assert sorted(cases) == sorted(expected)
    assert all(re.fullmatch(ID_PATTERN, case) for case in cases)


def test_long_names_leave_room_for_the_phase():
    [case] = name_cases([listed(name="x" * 500)], {})
    assert all(re.fullmatch(ID_PATTERN, entry.id) for entry in entries_of(case, listed(phases=150)))


def test_names_once_given_stay():
    first, second = listed("1", "PATIENT"), listed("2", "PATIENT")
    known = {cine.identity: case for case, cine in name_cases([second], {}).items()}
    assert known == {"2": "PATIENT"}
    assert {case: cine.identity for case, cine in name_cases([first, second], known).items()} == {
        "PATIENT": "2",
        "PATIENT_2": "1",
    }
    # Also while the cine is away.
    assert list(name_cases([first], known)) == ["PATIENT_2"]


def test_a_phase_has_a_series_of_its_own_always_the_same():
    uids = [phase_series_uid("1.2.3", phase) for phase in range(30)] + [phase_series_uid("1.2.4", 0)]
    assert len(set(uids)) == 31
    assert all(re.fullmatch(r"2\.25\.[1-9]\d*", uid) and len(uid) <= 64 for uid in uids)
    assert phase_series_uid("1.2.3", 0) == "2.25.312104855286875052281089538009550541772"
