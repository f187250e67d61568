import json
import threading
import time
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

pytest.importorskip("monailabel", reason="needs the app's packages: pip install -r requirements-app.txt")

from monailabel.interfaces.exception import ImageNotFoundException

from cardiac_cine.annotation import assignments
from cardiac_cine.annotation.assignments import HOLD_SECONDS
from cardiac_cine.annotation.library import FINAL
from cardiac_cine.annotation.sampling import CRITERIA
from monailabel_app.lib.state import State
from monailabel_app.lib.strategies import all_strategies

MODELS = SimpleNamespace(live=SimpleNamespace(sha256="now"))


@dataclass
class Images:
    """A datastore of cines with two phases each, as far as strategies look at one."""

    cases: tuple[str, ...] = ("a", "b", "c")
    labelled: set[str] = field(default_factory=set)

    def entries(self, all_phases=False):
        return [
            SimpleNamespace(id=f"{case}_{key}", case=case, patient=case[0], group="", key=key)
            for case in self.cases
            for key in ("ED", "ES")
        ]

    @property
    def labels(self):
        return SimpleNamespace(all=lambda tag: dict.fromkeys(self.labelled if tag == FINAL else ()))

    def refresh_when_old(self):
        """There is nothing to look at."""

    def resolve(self, name):
        if name not in {entry.id for entry in self.entries()}:
            raise ImageNotFoundException(f"there is no image {name!r}")
        return name


@pytest.fixture
def state(tmp_path) -> State:
    return State(tmp_path / "state")


@pytest.fixture
def ask(state):
    """Ask a strategy for a client's next sample."""

    def ask(images, client="ann", strategy="random", **params):
        request = {"strategy": strategy, "client_id": client, **params}
        return all_strategies(state, MODELS)[strategy](request, images)

    return ask


def save(state, images, image_id):
    images.labelled.add(image_id)
    state.worklist.release(image_id)


def store(state, **records):
    state.scores.path.write_text(json.dumps({key: {"model": "now", **record} for key, record in records.items()}))


def test_every_strategy_works_without_scores_and_offers_everything_once(state, ask):
    for strategy in CRITERIA:
        images, offered = Images(), []
        while found := ask(images, strategy=strategy):
            assert found.keys() == {"id", "strategy", "reason", "score"}
            assert (found["strategy"], found["score"]) == (strategy, None)
            assert found["reason"].endswith(".")
            offered.append(found["id"])
            save(state, images, found["id"])
        assert sorted(offered) == ["a_ED", "a_ES", "b_ED", "b_ES", "c_ED", "c_ES"]


def test_the_info_is_json_and_names_the_params(state):
    for strategy in all_strategies(state, MODELS).values():
        assert json.loads(json.dumps(strategy.info()))["config"] == {"skip": "", "seed": 0}
    assert next(iter(all_strategies(state, MODELS))) == "random"


def test_a_client_that_asks_again_gets_its_sample_back_until_the_label_is_saved(state, ask):
    images = Images()
    first = ask(images)
    again = ask(images, strategy="uncertainty")
    assert (again["id"], again["reason"]) == (first["id"], "You hold this sample already.")
    save(state, images, first["id"])
    assert ask(images)["id"] != first["id"]
    # A label that came another way, such as from the PACS, ends it as well.
    images.labelled.add(ask(images)["id"])
    assert ask(images)["id"] not in images.labelled


def test_two_clients_never_hold_the_same_case(state, ask):
    images = Images(("a1", "a2", "b"))
    found = [ask(images, client)["id"].split("_")[0] for client in ("ann", "ben", "cyd")]
    assert sorted(found) == ["a1", "a2", "b"]
    assert ask(images, "dot") == {}
    assert {ask(images, client)["id"].split("_")[0] for client in ("ann", "ben", "cyd")} == {"a1", "a2", "b"}


def test_clients_that_ask_at_once_get_different_cases(state):
    images, found = Images(tuple("abcdefgh")), []

    def work(client):
        own = State(state.root)
        found.append(all_strategies(own, MODELS)["random"]({"client_id": client}, images)["id"])

    threads = [threading.Thread(target=work, args=(f"client {number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({image_id.split("_")[0] for image_id in found}) == 8


def test_a_hold_expires(state, ask, monkeypatch):
    images = Images(("a",))
    assert ask(images, "ann")["id"] == "a_ED"
    assert ask(images, "ben") == {}
    now = time.time()
    monkeypatch.setattr(assignments.time, "time", lambda: now + HOLD_SECONDS - 60)
    assert ask(images, "ben") == {}
    assert ask(images, "ann")["id"] == "a_ED"  # and is hers for another hour
    monkeypatch.setattr(assignments.time, "time", lambda: now + 2 * HOLD_SECONDS - 120)
    assert ask(images, "ben") == {}
    monkeypatch.setattr(assignments.time, "time", lambda: now + 2 * HOLD_SECONDS)
    assert ask(images, "ben")["id"] == "a_ED"


def test_a_skipped_sample_is_never_offered_again_and_to_others_last(state, ask):
    images = Images(("a",))
    first = ask(images)["id"]
    second = ask(images, skip=first)["id"]
    assert (first, second) == ("a_ED", "a_ES")
    assert ask(images, skip=second) == {}
    assert ask(images) == {}
    images.cases, offered = ("a", "b"), []
    while found := ask(images, "ben"):
        offered.append(found["id"])
        save(state, images, found["id"])
    assert offered == ["b_ED", "b_ES", "a_ED", "a_ES"]
    assert state.worklist.about("a_ED", "a")["skipped_by"] == ["ann"]


def test_skipping_lets_others_have_the_case_and_only_known_images_are_skipped(state, ask):
    images = Images(("a", "b"))
    first = ask(images)["id"]
    assert ask(images, skip=first)["id"][0] != first[0]
    assert first.split("_")[0] not in json.loads(state.worklist.path.read_text())["held"]
    with pytest.raises(ImageNotFoundException, match=r"no image '\.\./x'"):
        ask(images, skip="../x")
    assert "../x" not in state.worklist.path.read_text()


def test_who_holds_an_image_is_told(state, ask):
    images = Images(("a",))
    assert state.worklist.about("a_ED", "a") == {}
    ask(images)
    told = state.worklist.about("a_ES", "a")
    assert told["locked_by"] == "ann"
    assert time.time() < told["locked_until"] <= time.time() + HOLD_SECONDS
    state.worklist.release("a_ES")  # not the image that is held
    assert state.worklist.about("a_ED", "a")["locked_by"] == "ann"
    state.worklist.release("a_ED")
    assert state.worklist.about("a_ED", "a") == {}


def test_clients_without_a_name_count_as_one(state):
    random = all_strategies(state, MODELS)["random"]
    assert random({}, Images())["id"] == random({"client_id": ""}, Images())["id"]


def test_scores_come_first_and_what_failed_or_is_older_is_not_lost(state, ask):
    store(
        state,
        a_ED={"uncertainty": 0.1, "uncertainty_rv": 0.3},
        a_ES={"uncertainty": 0.2, "uncertainty_rv": 0.2},
        b_ED={"error": "InputError"},
        c_ED={"uncertainty": 0.9, "model": "before"},
    )
    images = Images()
    found = ask(images, strategy="uncertainty")
    assert (found["id"], found["score"]) == ("a_ES", 0.2)
    assert found["reason"] == "The model expects a Dice of 0.80, mean of the structures."
    assert ask(Images(), "ben", "uncertainty_rv")["score"] is None  # its case is held
    save(state, images, "a_ES")
    found = ask(images, "cyd", "uncertainty_rv")
    assert (found["id"], found["score"]) == ("a_ED", 0.3)
    found = ask(images, "dot", "uncertainty")
    assert found["id"][0] in "bc"
    assert found["reason"] == "No score yet; by chance. The patient has 0 phases labelled or in work."


@pytest.mark.parametrize(
    ("strategy", "records", "image_id", "reason"),
    [
        (
            "temporal",
            {
                "a_ED": {"temporal": 0.05, "temporal_phase": 0.02},
                "a_ES": {"temporal": 0.05, "temporal_phase": 0.04},
                "b_ED": {"temporal": 0.01, "temporal_phase": 0.5},
                "c_ED": {"temporal": None, "temporal_phase": None},
            },
            "a_ES",
            "Over the cycle, masks differ from their neighbours by 0.050 (1 - Dice).",
        ),
        (
            "clinical",
            {"a_ED": {"spread_lv_ef_points": 1.0}, "b_ED": {"spread_lv_ef_points": 2.5}, "b_ES": {}},
            "b_ED",
            "The ejection fraction varies by 2.5 points.",
        ),
        (
            "diversity",
            {"a_ED": {"features": [0, 0]}, "b_ED": {"features": [1, 0]}, "c_ED": {"features": [9, 0]}},
            "b_ED",
            "The most typical patient, to begin with.",
        ),
    ],
)
def test_scores_decide(state, ask, strategy, records, image_id, reason):
    store(state, **records)
    found = ask(Images(), strategy=strategy)
    assert (found["id"], found["reason"]) == (image_id, reason)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_case_that_another_holds_counts_as_covered(state, ask):
    features = {"a_ED": [0, 0], "b_ED": [1, 0], "c_ED": [9, 0], "d_ED": [9, 1]}
    store(state, **{key: {"features": vector} for key, vector in features.items()})
    images = Images(("a", "b", "c", "d"), {"a_ED"})
    first = ask(images, "ann", "diversity")
    assert first["id"][0] == "d"
    # From what is labelled, c would be farther than b by much.
    assert ask(images, "ben", "diversity")["score"] == 1.0


def test_the_cold_start_uses_descriptors_of_any_model(state, ask):
    vectors = {"a_ED": [1.0, None], "b_ED": [1.1, None], "c_ED": [2.0, None]}
    state.scores.path.write_text(json.dumps({key: {"descriptor": value} for key, value in vectors.items()}))
    images = Images(labelled={"a_ED"})
    found = ask(images, strategy="first")
    assert found["id"][0] == "c"
    assert found["score"] > 1
    assert found["reason"].endswith("from the nearest patient begun.")
