import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from filelock import FileLock

from cardiac_cine.annotation.records import Records, clean, durable

BUNDLE = Path(__file__).resolve().parents[1] / "bundle"


@pytest.fixture
def records(tmp_path):
    return Records(tmp_path / "records", FileLock(tmp_path / ".lock"))


def test_records_are_put_updated_and_removed(records):
    assert records.all() == {} and records.get("a") == {}
    records.put("a", {"x": 1, "path": Path("p"), "nan": float("nan")})
    records.update("a", y=[2])
    records.update("b", z=3)
    assert records.all() == {"a": {"x": 1, "path": "p", "nan": None, "y": [2]}, "b": {"z": 3}}
    records.remove("a")
    records.remove("never there")
    assert records.all() == {"b": {"z": 3}}


def test_a_record_that_is_got_is_a_copy(records):
    records.put("a", {"list": [1]})
    records.get("a")["list"].append(2)
    assert records.get("a") == {"list": [1]}


def test_every_change_is_seen_however_close_it_follows(records, tmp_path):
    other = Records(tmp_path / "records", FileLock(tmp_path / ".lock"))
    for number in range(50):
        records.put("a", {"n": number})
        assert other.get("a") == {"n": number}


def test_what_another_process_writes_is_seen(records, tmp_path):
    records.put("a", {"x": 1})
    assert records.get("a") == {"x": 1}
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from cardiac_cine.annotation.records import Records;"
        "from filelock import FileLock; Records(__import__('pathlib').Path(sys.argv[2]) / 'records',"
        "FileLock(sys.argv[2] + '/.lock')).update('a', y=2)"
    )
    subprocess.run([sys.executable, "-c", code, BUNDLE, tmp_path], check=True)
    assert records.get("a") == {"x": 1, "y": 2}


def test_writers_do_not_lose_each_others_values(records, tmp_path):
    def write(key):
        own = Records(tmp_path / "records", FileLock(tmp_path / ".lock"))
        for number in range(5):
            own.update("a", **{f"{key}{number}": number})

    threads = [threading.Thread(target=write, args=(key,)) for key in "pqr"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(records.get("a")) == 15


def test_what_is_no_json_is_left_out_and_logged(records, tmp_path, caplog):
    records.put("good", {"x": 1})
    (tmp_path / "records" / "half.json").write_text('{"x": ')
    assert records.all() == {"good": {"x": 1}}
    assert "half.json: not readable as JSON" in caplog.text


def test_clean_removes_what_was_never_finished(tmp_path):
    left = tmp_path / "deep" / ".staged-killed"
    left.mkdir(parents=True)
    (left / "a.json").write_text("{")
    clean(tmp_path)
    assert list((tmp_path / "deep").iterdir()) == []


def test_durable_replaces_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.json"
    with durable(path) as target:
        target.write_text(json.dumps(1))
    with pytest.raises(RuntimeError), durable(path) as target:
        target.write_text("half")
        raise RuntimeError
    assert path.read_text() == "1"
    assert [item.name for item in tmp_path.iterdir()] == ["a.json"]
