import pytest

pytest.importorskip("monailabel", reason="needs the annotation server's packages (make app)")

from types import SimpleNamespace

from monailabel_app.lib import app
from monailabel_app.lib.app import CardiacCineApp


@pytest.mark.parametrize("broken", ["resolve", "release", "numbers"])
def test_a_label_that_is_saved_is_answered_well_whatever_fails_after_it(monkeypatch, caplog, broken):
    called = []

    def step(name, result):
        def run(*arguments):
            called.append(name)
            if name == broken:
                raise ValueError("broken")
            return result

        return run

    monkeypatch.setattr(app, "numbers", step("numbers", {"volumes_ml": {}}))
    worklist = SimpleNamespace(release=step("release", None))
    datastore = SimpleNamespace(resolve=step("resolve", "a_phase01"))
    server = SimpleNamespace(_datastore=datastore, state=SimpleNamespace(worklist=worklist))
    assert CardiacCineApp.on_save_label(server, "a_phase01", "a_phase01") == {}
    assert called[-1] == broken
    assert "a_phase01: no numbers of the saved label" in caplog.text
