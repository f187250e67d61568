import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from filelock import FileLock

from cardiac_cine.annotation.label_store import LabelStore, coverage, write_volume
from cardiac_cine.errors import InputError

BUNDLE = Path(__file__).resolve().parents[1] / "bundle"
AFFINE = np.array([[-1.5, 0, 0, 10], [0, 0, -8, 20], [0, 1.5, 0, 30], [0, 0, 0, 1.0]])
MASK = np.arange(24, dtype=np.uint8).reshape(2, 3, 4) % 4


def open_store(folder):
    return LabelStore(folder / "labels", FileLock(folder / ".lock"), ("final", "original"))


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path)


def test_a_label_comes_back_with_grid_and_facts(store):
    store.save("a", MASK, AFFINE, "final", {"who": "me"})
    np.testing.assert_array_equal(store.array("a", "final"), MASK)
    np.testing.assert_allclose(nib.load(store.path("a", "final")).affine, AFFINE)
    assert store.info("a", "final")["who"] == "me"
    assert list(store.all("final")) == ["a"] and store.all("original") == {}
    assert store.path("a", "original") is None and store.array("b", "final") is None


def test_unknown_tags_and_no_masks_are_refused(store):
    with pytest.raises(ValueError, match="tag must be one of"):
        store.save("a", MASK, AFFINE, "../final", {})
    with pytest.raises(ValueError, match="3D"):
        store.save("a", MASK[0], AFFINE, "final", {})
    assert store.all("../final") == {} and store.info("a", "..") == {}


def test_every_version_stays_also_when_a_label_is_removed(store, tmp_path):
    for number in range(3):
        store.save("a", np.full((2, 2, 2), number), AFFINE, "final", {})
    assert store.array("a", "final").max() == 2
    store.remove("a", "final")
    assert store.array("a", "final") is None
    versions = sorted((tmp_path / "labels" / "versions" / "a").glob("final.*.nii.gz"))
    assert [int(nib.load(path).get_fdata().max()) for path in versions] == [0, 1, 2]
    assert all(path.with_name(path.name.replace(".nii.gz", ".json")).exists() for path in versions)


def test_a_label_of_an_earlier_time_does_not_replace_a_later_one(store):
    store.save("a", MASK, AFFINE, "final", {"utc": "2024-01-02T00:00:00+00:00"})
    store.save("a", 0 * MASK, AFFINE, "final", {"utc": "2024-01-01T00:00:00+00:00"})
    np.testing.assert_array_equal(store.array("a", "final"), MASK)
    store.save("a", 0 * MASK, AFFINE, "final", {"utc": "2024-01-03T00:00:00+00:00"})
    assert store.array("a", "final").max() == 0
    store.save("a", MASK, AFFINE, "final", {})
    np.testing.assert_array_equal(store.array("a", "final"), MASK)


def test_facts_are_added_to_the_version_they_are_about(store):
    store.save("a", MASK, AFFINE, "final", {"covers": {"slices": [0]}})
    first = store.info("a", "final")
    own = {"name": "../../x", "covers": {}, "utc": "", "ts": 0, "of": "", "source": "drawn", "model": "m"}
    store.update("a", "final", own | {"SeriesInstanceUID": "1.2", "SOPInstanceUID": "1.3", "more": 1})
    assert store.info("a", "final") == first | {"more": 1}
    store.note_stored("a", "final", {"SeriesInstanceUID": "1.4"}, first["name"])
    assert store.info("a", "final") == first | {"more": 1, "SeriesInstanceUID": "1.4"}
    store.save("a", MASK, AFFINE, "final", {})
    store.note_stored("a", "final", {"SeriesInstanceUID": "1.5"}, first["name"])
    assert "SeriesInstanceUID" not in store.info("a", "final")
    store.update("b", "final", {"x": 1})
    store.note_stored("b", "final", {"x": 1}, "")
    assert store.info("b", "final") == {}


def drawn(*slices, ids=(1, 2, 3), depth=6):
    mask = np.zeros((3, 2, depth), np.uint8)
    for z in slices:
        mask[: len(ids), 0, z] = ids
    return mask


@pytest.mark.parametrize(
    ("mask", "named", "slices", "expected"),
    [
        (drawn(1, 2, 3), (), None, {"structures": [1, 2, 3], "slices": [0, 1, 2, 3, 4, 5]}),
        (drawn(4), (), None, {"structures": [1, 2, 3], "slices": [0, 1, 2, 3, 4, 5]}),
        (drawn(1, 3), (), None, {"structures": [1, 2, 3], "slices": [1, 3]}),
        (drawn(1, 2, ids=(3,)), (1, 2, 3), None, {"structures": [3], "slices": [0, 1, 2, 3, 4, 5]}),
        (drawn(1, 2), (3,), None, {"structures": [3], "slices": [0, 1, 2, 3, 4, 5]}),
        (drawn(1, 2), (), [2, 0, 2], {"structures": [1, 2, 3], "slices": [0, 2]}),
        (drawn(), (), None, {"structures": [], "slices": []}),
    ],
)
def test_coverage(mask, named, slices, expected):
    assert coverage(mask, named, slices) == expected


@pytest.mark.parametrize("slices", ["1", [6], [-1], [1.0], [True], {"0": 1}])
def test_slices_that_are_none_are_refused(slices):
    with pytest.raises(InputError, match="slices must be a list of whole numbers of 0 to 5"):
        coverage(drawn(1), (), slices)


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.float32, np.uint8])
def test_volumes_keep_type_values_and_affine(dtype, tmp_path):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    write_volume(array, AFFINE, tmp_path / "a.nii.gz")
    image = nib.load(tmp_path / "a.nii.gz")
    assert image.get_data_dtype() == dtype
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), array)
    np.testing.assert_allclose(image.get_sform(), AFFINE)
    np.testing.assert_allclose(image.get_qform(), AFFINE, atol=1e-5)


SAVE_FOR_EVER = """
import sys
sys.path[:0] = sys.argv[1:3]
from pathlib import Path
import numpy as np
from test_label_store import AFFINE, open_store
store, number = open_store(Path(sys.argv[3])), int(sys.argv[4])
print("ready", flush=True)
while True:
    number += 1
    digits = np.array(list(np.base_repr(number, 4).zfill(64)), np.uint8).reshape(4, 4, 4)
    store.save("a", digits, AFFINE, "final", {"number": number})
    print(number, flush=True)
"""


def test_sigkill_at_any_moment_loses_no_saved_label(tmp_path):
    number, rng = 0, random.Random(0)
    for _ in range(5):
        arguments = [BUNDLE, Path(__file__).parent, tmp_path, str(number)]
        child = subprocess.Popen([sys.executable, "-c", SAVE_FOR_EVER, *arguments], stdout=subprocess.PIPE, text=True)
        assert child.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0.05, 0.4))
        child.send_signal(signal.SIGKILL)
        acknowledged = [int(line) for line in child.stdout.read().split()]
        child.wait()
        store = open_store(tmp_path)
        assert not list(tmp_path.rglob(".staged-*"))
        mask, info = store.array("a", "final"), store.info("a", "final")
        number = max(acknowledged, default=number)
        saved = int("".join(map(str, mask.ravel())), 4) if mask is not None else 0
        # At most one save was under way that was not told of yet.
        assert saved in (number, number + 1)
        assert info.get("number", 0) == saved
        number = saved
    assert number > 0
