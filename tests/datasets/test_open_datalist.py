import json

import numpy as np
import pytest
from test_cases import SHAPE, a_label, an_image, save, save_patient

from cardiac_cine import cases
from cardiac_cine.datasets import acdc, open_datalist, sections
from cardiac_cine.errors import InputError


@pytest.fixture
def root(tmp_path):
    """An ACDC root of six patients, of whom the fifth validates in the tutorial."""
    for number in range(1, 7):
        save_patient(tmp_path / "acdc" / "training", number, group=acdc.GROUPS[number % 5])
    return tmp_path / "acdc"


def test_a_raw_acdc_root_is_opened(root):
    assert open_datalist(root) == acdc.scan(root)[0]
    assert open_datalist(str(root / "training")) == acdc.scan(root)[0]


def test_a_datalist_is_opened_in_place_of_the_raw_data(root):
    whole = open_datalist(root)
    part = cases.Datalist("part", whole.cases[:4], {"mine": ("patient001",)})
    cases.write(part, root, root)
    assert open_datalist(root) == part


def test_an_incomplete_copy_is_refused_with_all_that_is_missing(root):
    (root / "training" / "patient002" / "Info.cfg").write_text("ED: 1")
    (root / "training" / "patient004" / "patient004_frame08_gt.nii.gz").unlink()
    with pytest.raises(
        InputError, match=r"the ACDC copy is incomplete; prepare_dataset.py can go on without"
    ) as caught:
        open_datalist(root)
    assert caught.value.problems == (
        f"{root}/training/patient002/Info.cfg: no line 'ES', expected the frame's number counted from 1",
        f"{root}/training/patient004/patient004_frame08_gt.nii.gz: no such file, named by Info.cfg",
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "nowhere: no such folder; expected a folder written by prepare_dataset.py or an ACDC root"),
        ("", "neither dataset.json nor patientXXX/Info.cfg in it; expected a folder written by prepare_dataset.py or"),
        ("file", "file: no such folder; expected"),
    ],
)
def test_what_is_no_dataset_is_refused(tmp_path, name, message):
    (tmp_path / "file").touch()
    with pytest.raises(InputError) as caught:
        open_datalist(tmp_path / name)
    assert message in str(caught.value)


def test_sections_are_flat_dictionaries_of_one_section(root):
    training, validation = sections(root, "tutorial", cases.SECTIONS).values()
    assert [item["patient"] for item in validation] == ["patient005"] * 2
    assert len(training) == 10
    folder = root / "training" / "patient005"
    assert validation[1]["image"] == str(folder / "patient005_frame08.nii.gz")
    assert validation[1]["label"] == str(folder / "patient005_frame08_gt.nii.gz")
    assert (validation[1]["phase"], validation[1]["weight_kg"]) == ("ES", 64.0)


def test_sections_come_from_a_datalist_that_lies_elsewhere(root, tmp_path):
    cases.write(open_datalist(root), tmp_path / "lists", root)
    assert sections(tmp_path / "lists", "fold1", ["validation"]) == sections(root, "fold1", ["validation"])


def test_sections_of_moved_data_need_one_edit(root, tmp_path):
    path = cases.write(open_datalist(root), tmp_path / "lists", root)
    root.rename(tmp_path / "moved")
    with pytest.raises(InputError, match="4 problems in the datalist's files") as caught:
        sections(tmp_path / "lists", "tutorial", ["validation"])
    assert str(caught.value).count("no such file") == 4
    path.write_text(json.dumps(json.loads(path.read_text()) | {"source": "../moved"}))
    assert len(sections(tmp_path / "lists", "tutorial", ["validation"])["validation"]) == 2


def test_sections_list_all_problems_of_both_sections_in_one_message(root):
    def file(number, frame, ending=""):
        patient = f"patient{number:03d}"
        return root / "training" / patient / f"{patient}_frame{frame:02d}{ending}.nii.gz"

    image = an_image()
    image[0, 0, 0] = np.nan
    save(file(1, 1), image)
    save(file(1, 8, "_gt"), np.full(SHAPE, 7, np.uint8))
    save(file(2, 1, "_gt"), a_label()[:-1])
    file(2, 8).write_bytes(file(2, 8).read_bytes()[:-300])
    save(file(3, 1), np.zeros(SHAPE, np.uint8))
    file(4, 8, "_gt").write_bytes(b"")
    file(5, 8).write_bytes(b"")
    with pytest.raises(InputError, match="1 problem in the datalist's files:"):
        sections(root, "tutorial", ["validation"])
    with pytest.raises(InputError, match="7 problems in the datalist's files:") as caught:
        sections(root, "tutorial", cases.SECTIONS)
    expected = (
        f"{file(1, 1)}: 1 voxels are NaN or infinite",
        f"{file(1, 8, '_gt')}: holds label values 7",
        f"{file(2, 1, '_gt')}: shape (15, 15, 3), expected (16, 15, 3)",
        f"{file(2, 8)}: truncated or corrupted",
        f"{file(3, 1)}: all voxels are 0",
        f"{file(4, 8, '_gt')}: the file is empty",
        f"{file(5, 8)}: the file is empty",
    )
    assert len(caught.value.problems) == len(expected)
    for problem, start in zip(caught.value.problems, expected, strict=True):
        assert problem.startswith(start)


def test_sections_reject_an_unknown_split(root):
    with pytest.raises(InputError, match=r"ACDC: no split 'mine', expected one of \['tutorial', 'fold0'"):
        sections(root, "mine", ["training"])
