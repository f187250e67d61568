import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from dicom_sources import write_cine

from cardiac_cine.annotation.listing import list_cines


def write(path, phases=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(0).integers(0, 99, (64, 64, 3, phases)).astype(np.int16)
    affine = np.diag([1.5, 1.5, 8, 1])
    nib.save(nib.Nifti1Image(array if phases > 1 else array[..., 0], affine), path)


def listed(path):
    cines, problems = list_cines(path)
    assert problems == []
    return {cine.name: cine for cine in cines}


@pytest.mark.parametrize(
    ("files", "patients"),
    [
        # ACDC: a folder is a patient.
        (
            ["p1/p1_frame01", "p1/p1_frame12", "p1/p1_4d", "p2/p2_frame01"],
            {"p1_frame01": "p1", "p1_frame12": "p1", "p1_4d": "p1", "p2_frame01": "p2"},
        ),
        # A folder is one patient's though the files are called otherwise, if they are called alike.
        (["x/a_ed", "x/a_ES", "y/b_phase03"], {"a_ed": "x", "a_ES": "x", "b_phase03": "y"}),
        # All in one folder: what the names begin with.
        (["a_ed", "a_es", "b_4d", "c_1"], {"a_ed": "a", "a_es": "a", "b_4d": "b", "c_1": "c_1"}),
        # Files of one name are told apart by their folders, and these by theirs.
        (["s1/sa", "s2/sa", "s2/sa_es"], {"s1_sa": "s1", "s2_sa": "s2", "sa_es": "s2"}),
        (["s1/cine/sa", "s2/cine/sa"], {"s1_cine_sa": "s1_cine", "s2_cine_sa": "s2_cine"}),
        # A folder of many patients is none itself.
        (["imagesTr/a_ed", "imagesTr/b_ed"], {"a_ed": "a", "b_ed": "b"}),
    ],
)
def test_patients_of_files(files, patients, tmp_path):
    for name in files:
        write(tmp_path / f"{name}.nii.gz")
    assert {name: cine.patient for name, cine in listed(tmp_path).items()} == patients


def test_a_single_file_is_its_own_patient(tmp_path):
    write(tmp_path / "downloads" / "a_4d.nii.gz", 3)
    [cine] = listed(tmp_path / "downloads" / "a_4d.nii.gz").values()
    assert (cine.identity, cine.patient, cine.phases) == ("a_4d.nii.gz", "a", 3)


def test_phases_are_counted_from_headers(tmp_path):
    write(tmp_path / "one.nii.gz")
    write(tmp_path / "five.nii.gz", 5)
    array = np.random.default_rng(0).integers(0, 99, (3, 64, 64)).astype(np.int16)
    flat = sitk.GetImageFromArray(array)
    sequence = sitk.GetImageFromArray(np.stack([array] * 4, -1), isVector=True)
    for image, name in ((flat, "flat.mha"), (sequence, "four.seq.nrrd")):
        image.SetSpacing((1.5, 1.5, 8))
        sitk.WriteImage(image, str(tmp_path / name))
    assert {name: cine.phases for name, cine in listed(tmp_path).items()} == {"one": 1, "five": 5, "flat": 1, "four": 4}
    assert all(cine.read().phases == cine.phases for cine in listed(tmp_path).values())


def test_groups_come_from_acdc(tmp_path):
    write(tmp_path / "p1" / "p1_ed.nii.gz")
    (tmp_path / "p1" / "Info.cfg").write_text("ED: 1\nGroup: DCM\nHeight: 180\n")
    write(tmp_path / "p2" / "p2_ed.nii.gz")
    assert {name: cine.group for name, cine in listed(tmp_path).items()} == {"p1_ed": "DCM", "p2_ed": ""}


def test_identity_and_version_of_files(tmp_path):
    write(tmp_path / "p" / "a.nii.gz")
    [first] = listed(tmp_path).values()
    assert first.identity == "p/a.nii.gz"
    assert listed(tmp_path)["a"].version == first.version
    write(tmp_path / "p" / "a.nii.gz", 2)
    assert listed(tmp_path)["a"].version != first.version


def test_a_dicom_study(tmp_path):
    cine = write_cine(tmp_path / "dicom")
    [found] = listed(tmp_path).values()
    assert found.identity == cine.about["study_instance_uid"]
    assert (found.name, found.patient, found.phases) == ("PHANTOM", "PHANTOM", 4)
    np.testing.assert_array_equal(found.read().array, cine.array)
    [again] = listed(tmp_path).values()
    assert found.version == again.version


def test_what_cannot_be_used_is_told(tmp_path):
    write(tmp_path / "good.nii.gz")
    (tmp_path / "bad.nii.gz").write_bytes(b"no image")
    cines, problems = list_cines(tmp_path)
    assert [cine.name for cine in cines] == ["good"]
    assert len(problems) == 1 and "bad.nii.gz: header not readable" in problems[0]
    cines, problems = list_cines(tmp_path / "nowhere")
    assert cines == [] and problems == [f"{tmp_path / 'nowhere'}: no such file or folder"]
