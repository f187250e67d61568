import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name its documentation uses
from dicom_sources import SPEC, phantom
from test_images import heart, write_stack

from cardiac_cine.datasets.phantom_dicom import Series, Study, write_dicom, write_series
from cardiac_cine.errors import InputError
from cardiac_cine.studies import find_studies, unmatched


def only(found):
    [study] = found.studies
    assert found.problems == found.left_out == ()
    return study


def itk_image():
    image = sitk.GetImageFromArray(heart().T.astype(np.int16))
    image.SetSpacing((1.6, 1.3, 8.0))
    return image


def test_a_nifti_file_is_one_study(tmp_path):
    path = write_stack(tmp_path / "a.b.nii.gz")
    study = only(find_studies(str(path)))
    assert (study.name, study.source, study.files) == ("a.b", path, (path,))
    cine = study.read()
    assert (cine.name, cine.source, cine.array.shape) == ("a.b", path, (96, 80, 6, 1))


@pytest.mark.parametrize("name", ["heart.mha", "heart.nrrd", "heart.seq.nrrd"])
def test_a_file_that_simpleitk_reads_is_one_study(tmp_path, name):
    sitk.WriteImage(itk_image(), str(tmp_path / name))
    study = only(find_studies(tmp_path / name))
    assert study.name == "heart"
    assert study.read().spacing_mm == pytest.approx((1.6, 1.3, 8.0))


@pytest.mark.parametrize(("header", "data"), [("a.mhd", "a.raw"), ("a.mhd", "a.zraw"), ("a.nhdr", "a.raw")])
def test_a_header_and_its_voxels_are_one_study(tmp_path, header, data):
    sitk.WriteImage(itk_image(), str(tmp_path / header), useCompression=data == "a.zraw")
    study = only(find_studies(tmp_path / header))
    assert study.files == (tmp_path / header, tmp_path / data)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("NDims = 3\nElementDataFile = LIST\nz1.raw\n sub/z2.raw \ngone.raw\n", ["z1.raw", "sub/z2.raw"]),
        ("NRRD0004\ndata file: z1.raw\n\ncomment a.mhd\na.mhd\n", ["z1.raw"]),
        ("x" * 5000 + "\n\0\n..\n", []),
    ],
)
def test_data_files_are_those_that_a_header_names_and_there_are(tmp_path, text, names):
    (tmp_path / "sub").mkdir()
    for name in ("z1.raw", "sub/z2.raw", "other.raw"):
        (tmp_path / name).write_bytes(b"voxels")
    (tmp_path / "a.mhd").write_text(text)
    study = only(find_studies(tmp_path / "a.mhd"))
    assert study.files == tuple(tmp_path / name for name in ("a.mhd", *names))


def test_a_named_file_is_taken_whatever_its_name_ends_in(tmp_path):
    assert only(find_studies(write_stack(tmp_path / "a_seg.nii.gz"))).name == "a_seg"


def test_one_enhanced_dicom_file_is_one_study(tmp_path):
    [path] = write_dicom(phantom(), tmp_path, layout="enhanced")
    study = only(find_studies(path))
    assert (study.name, study.files) == ("PHANTOM", (path,))
    assert study.read().array.shape[3] == SPEC.phases


def test_one_classic_dicom_file_is_no_cine(tmp_path):
    [path, *_] = write_dicom(phantom(), tmp_path)
    with pytest.raises(InputError, match=r"IM00001.dcm: nothing to segment") as caught:
        find_studies(path)
    assert "no short-axis cine among the 1 series of this study" in str(caught.value)


def test_a_folder_of_all_kinds_at_any_depth(tmp_path):
    write_stack(tmp_path / "frame01.nii.gz")
    write_stack(tmp_path / "deep" / "er" / "frame02.nii")
    write_stack(tmp_path / "cine_4d.nii.gz", np.stack([heart()] * 3, -1))
    for name in ("frame01_gt", "frame01_seg", "frame01_label", ".hidden", ".cache/frame03"):
        write_stack(tmp_path / f"{name}.nii.gz")
    (tmp_path / "notes.txt").write_text("no image")
    enhanced = write_dicom(phantom(), tmp_path / "a" / "b", layout="enhanced", patient_id="E", seed=1)
    classic = write_dicom(phantom(), tmp_path / "c", patient_id="C", seed=2)
    found = find_studies(tmp_path)
    assert [study.name for study in found.studies] == ["C", "E", "cine_4d", "frame01", "frame02"]
    assert found.problems == found.left_out == ()
    by_name = {study.name: study for study in found.studies}
    assert set(by_name["C"].files) == set(classic) and by_name["E"].files == tuple(enhanced)
    assert by_name["C"].source == tmp_path / "c" / "series005"
    assert by_name["frame02"].source == tmp_path / "deep" / "er" / "frame02.nii"
    # Each study reads its own file, not the last one.
    assert {name: study.read().phases for name, study in by_name.items()} == {
        **{"C": 4, "E": 4, "cine_4d": 3},
        **{"frame01": 1, "frame02": 1},
    }


def test_a_hidden_folder_above_hides_nothing(tmp_path):
    write_stack(tmp_path / ".cache" / "data" / "a.nii.gz")
    assert only(find_studies(tmp_path / ".cache" / "data")).name == "a"


def test_studies_behind_links_are_found_once(tmp_path):
    write_stack(tmp_path / "store" / "frame.nii.gz")
    write_dicom(phantom(), tmp_path / "store" / "dicom", layout="enhanced", patient_id="D")
    write_stack(tmp_path / "data" / "a.nii.gz")
    for name in ("link1", "link2"):
        (tmp_path / "data" / name).symlink_to(tmp_path / "store")
    (tmp_path / "store" / "loop").symlink_to(tmp_path / "data")
    found = find_studies(tmp_path / "data")
    assert [study.name for study in found.studies] == ["D", "a", "frame"]
    assert found.problems == ()
    assert found.studies[0].source == tmp_path / "data" / "link1" / "dicom"


def test_folders_that_cannot_be_read_are_problems(tmp_path, monkeypatch):
    write_stack(tmp_path / "data" / "a.nii.gz")
    write_stack(tmp_path / "data" / "secret" / "b.nii.gz")
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "secret":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = find_studies(tmp_path / "data")
    assert [study.name for study in found.studies] == ["a"]
    problem = f"{tmp_path / 'data' / 'secret'}: Permission denied, expected a folder that can be read"
    assert found.problems == (problem,)
    with pytest.raises(InputError, match="secret: Permission denied"):
        find_studies(tmp_path / "data" / "secret")


@pytest.mark.parametrize(
    ("names", "cases"),
    [
        (("p1/a.nii.gz", "p2/a.nii"), ["p1_a", "p2_a"]),
        (("a.nii.gz", "b/a.nii.gz", "c/d/a.nii"), ["a", "b_a", "c_d_a"]),
    ],
)
def test_images_of_one_name_are_named_by_their_path(tmp_path, names, cases):
    for name in (*names, "q/z.nii.gz"):
        write_stack(tmp_path / name)
    found = find_studies(tmp_path)
    assert [study.name for study in found.studies] == [*cases, "z"]
    assert found.problems == ()
    for study, name in zip(found.studies, names, strict=False):
        assert study.source == tmp_path / name
        assert (study.read().name, study.read().source) == (study.name, study.source)


@pytest.mark.parametrize(
    ("names", "shared"),
    [(("a.nii.gz", "a.nii"), "a"), (("p/a.nii.gz", "p/a.nii"), "p_a"), (("p/a.nii", "a.nii", "p_a.nii"), "p_a")],
)
def test_images_that_still_share_a_name_are_a_problem_and_the_others_stay(tmp_path, names, shared):
    for name in (*names, "z.nii.gz"):
        write_stack(tmp_path / name)
    found = find_studies(tmp_path)
    assert [study.name for study in found.studies] == (["a", "z"] if len(names) > 2 else ["z"])
    [problem] = found.problems
    assert problem.endswith(f"the results of both would be named {shared}, expected unique names")
    assert all(str(tmp_path / name) in problem for name in names if len(names) == 2 or name != "a.nii")


def test_a_dicom_study_and_an_image_of_one_name_are_a_problem(tmp_path):
    write_stack(tmp_path / "P1.nii.gz")
    write_stack(tmp_path / "z.nii.gz")
    write_dicom(phantom(), tmp_path / "dicom", layout="enhanced", patient_id="P1")
    found = find_studies(tmp_path)
    assert [study.name for study in found.studies] == ["z"]
    [problem] = found.problems
    assert "P1.nii.gz" in problem and str(tmp_path / "dicom") in problem


def test_two_dicom_studies_of_one_patient_have_names_of_their_own(tmp_path):
    for seed, date in enumerate(["20240102", "20240203"]):
        write_dicom(phantom(), tmp_path / date, layout="enhanced", seed=seed, study_date=date)
    assert [study.name for study in find_studies(tmp_path).studies] == ["PHANTOM_20240102", "PHANTOM_20240203"]


def test_what_is_left_out_and_what_is_wrong_is_passed_on(tmp_path):
    write_dicom(phantom(), tmp_path / "good", patient_id="good", seed=1)
    localiser = Series(number=1, description="localizer")
    study = Study(patient_id="good", seed=1)
    write_series(phantom().image[:, :, :1, 0], phantom().affine, tmp_path / "good", study=study, series=localiser)
    (tmp_path / "broken.dcm").write_bytes(b"no DICOM")
    found = find_studies(tmp_path)
    assert [study.name for study in found.studies] == ["good"]
    [left_out] = found.left_out
    assert left_out.startswith(f"{tmp_path / 'good'}: series 1 'localizer': ")
    assert found.problems == (f"{tmp_path / 'broken.dcm'}: no DICOM file or an empty one, though its name says so",)


def test_nothing_to_segment_says_what_there_was(tmp_path):
    write_stack(tmp_path / "a_gt.nii.gz")
    (tmp_path / "broken.dcm").write_bytes(b"no DICOM")
    with pytest.raises(InputError, match=r"nothing to segment, expected image files \(.nii, ") as caught:
        find_studies(tmp_path)
    assert any("broken.dcm: no DICOM file" in problem for problem in caught.value.problems)
    with pytest.raises(InputError, match=r"nowhere: no such file or folder"):
        find_studies(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("cases", "said"),
    [
        ("dbac", ""),
        ("xay", "t.csv: 2 of 3 cases are no study's: 'x', 'y'; expected "),
        (
            "vwxyz",
            "t.csv: 5 of 5 cases are no study's: 'v', 'w', 'x', ...; expected ",
        ),
        ("", ""),
    ],
)
def test_cases_of_a_table_that_are_no_studys_are_told(tmp_path, cases, said):
    for name in "abcd":
        write_stack(tmp_path / f"{name}.nii.gz")
    expected = f"{said}names of studies such as 'a', 'b', 'c'" if said else ""
    assert unmatched("t.csv", list(cases), find_studies(tmp_path).studies) == expected
