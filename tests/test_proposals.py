from types import SimpleNamespace

import numpy as np
import pytest
from filelock import FileLock

from cardiac_cine.annotation.library import ORIGINAL, Library
from cardiac_cine.annotation.proposals import propose_neighbours
from cardiac_cine.annotation.sources import LocalSource
from cardiac_cine.datasets.phantom import PhantomSpec, render, write_cine
from cardiac_cine.errors import InputError
from cardiac_cine.labels import LV

IDS = [f"heart_phase{number:02d}" for number in range(1, 5)]


@pytest.fixture
def library(tmp_path):
    spec = PhantomSpec(shape=(64, 64), spacing_mm=(3.0, 3.0, 12.0), phases=4, centre_mm=(0.0, 0.0))
    write_cine(render(spec), tmp_path / "studies" / "heart.nii.gz")
    return Library(LocalSource(tmp_path / "studies"), tmp_path, FileLock(tmp_path / ".lock"))


def propose(library, image_id, reach=1):
    """With a network that sees nothing."""
    entry = library.entry(image_id)
    cine = library.cine(entry.case)
    blind = SimpleNamespace(segment_cine=lambda one: np.zeros(one.array.shape, np.uint8))
    return propose_neighbours(library, entry, cine, blind, reach=reach, model="abc")


def test_the_phases_beside_get_the_label(library):
    mask = np.zeros(library.cine("heart").array.shape[:3], np.uint8)
    mask[28:36, 28:36] = LV
    library.propose(IDS[1], mask)
    label, to = propose(library, IDS[1])
    np.testing.assert_array_equal(label, mask)
    assert to == [IDS[2], IDS[0]]
    for image_id in to:
        assert (library.label_array(image_id, ORIGINAL) == LV).any()
        info = library.labels.info(image_id, ORIGINAL)
        assert (info["source"], info["carried_from"], info["model"]) == ("carried", IDS[1], "abc")
    assert library.label_array(IDS[3], ORIGINAL) is None


def test_what_cannot_be_carried_on(library):
    with pytest.raises(InputError, match="heart_phase02: there is no label to carry on, save one first"):
        propose(library, IDS[1])
    library.propose(IDS[1], np.zeros(library.cine("heart").array.shape[:3], np.uint8))
    for reach in (0, 4, "1", 1.5, None):
        with pytest.raises(InputError, match="reach must be a number of phases from 1 to 3"):
            propose(library, IDS[1], reach)
