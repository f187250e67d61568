import re
from dataclasses import replace

import highdicom as hd
import numpy as np
import pytest
from dicom_sources import SPEC, conformance_problems, phantom, random_masks, write_cine
from pydicom import dcmread

from cardiac_cine.cine import Cine, Instance
from cardiac_cine.datasets.phantom_dicom import LAYOUTS, Series, Study, write_series
from cardiac_cine.dicom_output import Software
from cardiac_cine.dicom_seg import read_seg, write_seg
from cardiac_cine.errors import InputError
from cardiac_cine.labels import LV, MYO, RV, STRUCTURES

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
PHASE = 2


@pytest.fixture(scope="module")
def cine(tmp_path_factory):
    return write_cine(tmp_path_factory.mktemp("cine"))


@pytest.fixture(scope="module")
def enhanced(tmp_path_factory):
    return write_cine(tmp_path_factory.mktemp("enhanced"), "enhanced")


@pytest.fixture(scope="module")
def seg_path(cine, tmp_path_factory):
    folder = tmp_path_factory.mktemp("seg")
    return write_seg(cine, random_masks(cine), folder, phases=[PHASE])[PHASE]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_masks_come_back_voxel_by_voxel(layout, tmp_path):
    cine = write_cine(tmp_path / "cine", layout)
    masks = random_masks(cine)
    written = write_seg(cine, masks, tmp_path / "seg")
    assert [path.name for path in written.values()] == [f"phase{n:02d}_seg.dcm" for n in (1, 2, 3, 4)]
    for phase, path in written.items():
        read = read_seg(path, cine)
        assert list(read) == [phase]
        assert read[phase].dtype == np.uint8
        np.testing.assert_array_equal(read[phase], masks[..., phase])


def test_slices_may_come_in_a_multi_frame_file_each(tmp_path):
    image, affine = phantom().image, phantom().affine
    slices, phases = image.shape[2:]
    instances = []
    for z in range(slices):
        at_slice = affine.copy()
        at_slice[:3, 3] = (affine @ [0, 0, z, 1])[:3]
        series = Series(number=z + 1, times_ms=np.arange(phases) * 200.0, rr_ms=800.0)
        [path] = write_series(
            image[:, :, z : z + 1], at_slice, tmp_path, study=Study(), series=series, layout="enhanced"
        )
        header = dcmread(path, stop_before_pixels=True)
        instances.append(tuple(Instance(path, header.SOPClassUID, header.SOPInstanceUID, t + 1) for t in range(phases)))
    cine = Cine("slices", tmp_path, image, affine, instances=tuple(instances))
    masks = random_masks(cine)
    [path] = write_seg(cine, masks, tmp_path / "seg", phases=[PHASE]).values()
    np.testing.assert_array_equal(read_seg(path, cine)[PHASE], masks[..., PHASE])
    referenced = dcmread(path).ReferencedSeriesSequence
    assert len(referenced) == slices
    assert all(len(series.ReferencedInstanceSequence) == 1 for series in referenced)


def test_frames_refer_to_the_image_of_their_place_and_time(cine, seg_path):
    images = {}
    for row in cine.instances:
        for instance in row:
            images[instance.sop_instance_uid] = dcmread(instance.path, stop_before_pixels=True)
    frames = dcmread(seg_path).PerFrameFunctionalGroupsSequence
    assert len(frames) == len(STRUCTURES) * cine.array.shape[2]
    for frame in frames:
        [reference] = frame.DerivationImageSequence[0].SourceImageSequence
        image = images[reference.ReferencedSOPInstanceUID]
        assert reference.ReferencedSOPClassUID == image.SOPClassUID
        assert "ReferencedFrameNumber" not in reference
        assert image.TriggerTime == pytest.approx(1000 * SPEC.frame_time_s * PHASE)
        assert frame.PlanePositionSequence[0].ImagePositionPatient == image.ImagePositionPatient


def test_frames_refer_to_the_frame_of_their_place_and_time(enhanced, tmp_path):
    [path] = write_seg(enhanced, random_masks(enhanced), tmp_path, phases=[PHASE]).values()
    image = dcmread(enhanced.instances[0][0].path, stop_before_pixels=True)
    segmentation = dcmread(path)
    for frame in segmentation.PerFrameFunctionalGroupsSequence:
        [reference] = frame.DerivationImageSequence[0].SourceImageSequence
        assert reference.ReferencedSOPInstanceUID == image.SOPInstanceUID
        assert reference.ReferencedSOPClassUID == image.SOPClassUID
        source = image.PerFrameFunctionalGroupsSequence[reference.ReferencedFrameNumber - 1]
        delay = source.CardiacSynchronizationSequence[0].NominalCardiacTriggerDelayTime
        assert delay == pytest.approx(1000 * SPEC.frame_time_s * PHASE)
        assert frame.PlanePositionSequence == source.PlanePositionSequence
    [series] = segmentation.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == image.SeriesInstanceUID
    assert [item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence] == [image.SOPInstanceUID]
    assert [item.ReferencedSOPInstanceUID for item in segmentation.SourceImageSequence] == [image.SOPInstanceUID]


@pytest.mark.parametrize("source", ["cine", "enhanced"])
def test_a_reader_that_goes_by_geometry_finds_the_masks_in_place(source, request, tmp_path):
    cine = request.getfixturevalue(source)
    masks = random_masks(cine)
    masks[:, :, 0] = 0  # an empty slice must not make the stack smaller
    [path] = write_seg(cine, masks, tmp_path, phases=[PHASE]).values()
    volume = hd.seg.segread(path).get_volume(combine_segments=True)  # (slices, rows, columns)
    to_world = LPS @ volume.affine
    for z, y, x in [(0, 0, 0), (1, 5, 70), (volume.shape[0] - 1, 95, 0)]:
        voxel = np.linalg.solve(cine.affine, to_world @ [z, y, x, 1])
        np.testing.assert_allclose(voxel, np.rint(voxel), atol=1e-3)
        i, j, k = np.rint(voxel[:3]).astype(int)
        assert volume.array[z, y, x] == masks[i, j, k, PHASE]
    assert volume.shape == masks.shape[2::-1]
    np.testing.assert_allclose(sorted(volume.spacing), sorted(cine.spacing_mm), rtol=1e-5)


def test_segments_are_coded_named_and_coloured(cine, tmp_path):
    software = Software(name="Net", version="1.2", model="c0ffee", manufacturer="Lab")
    [path] = write_seg(cine, random_masks(cine), tmp_path, phases=[0], software=software).values()
    segmentation = hd.seg.segread(path)
    expected = {  # CID 7152 and CID 12305
        RV: ("53085002", "right ventricular cavity"),
        MYO: ("49848007", "left ventricular myocardium"),
        LV: ("87878005", "left ventricular cavity"),
    }
    assert list(segmentation.segment_numbers) == sorted(expected)
    for structure in STRUCTURES:
        segment = segmentation.get_segment_description(structure.id)
        code, label = expected[structure.id]
        assert (segment.segmented_property_type.scheme_designator, segment.segmented_property_type.value) == (
            "SCT",
            code,
        )
        assert segment.segmented_property_category.value == "91723000"  # CID 7150, anatomical structure
        assert segment.segment_label == label
        colour = hd.color.CIELabColor.from_dicom_value(segment.RecommendedDisplayCIELabValue)
        np.testing.assert_allclose(colour.to_rgb(clip=True), structure.colour, atol=1)
        assert segment.SegmentAlgorithmType == "AUTOMATIC"
        algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("Net", "1.2")
        assert "c0ffee" in algorithm.AlgorithmParameters
    assert (segmentation.Manufacturer, segmentation.DeviceSerialNumber) == ("Lab", "c0ffee")


def test_every_phase_is_a_series_with_its_name(cine, tmp_path):
    masks = random_masks(cine)
    names = {0: "end-diastole", 2: "end-systole"}
    written = [dcmread(path) for path in write_seg(cine, masks, tmp_path, phases=names).values()]
    assert [item.SeriesDescription for item in written] == [
        "Cine segmentation, end-diastole, phase 1 of 4",
        "Cine segmentation, end-systole, phase 3 of 4",
    ]
    assert len({item.SeriesInstanceUID for item in written}) == 2
    assert len({item.SeriesNumber for item in written}) == 2
    source = dcmread(cine.instances[0][0].path)
    for item in written:
        assert item.StudyInstanceUID == source.StudyInstanceUID
        assert item.PatientID == source.PatientID
        assert item.FrameOfReferenceUID == source.FrameOfReferenceUID
    # A structure is the same one in every phase.
    tracking = [[segment.TrackingUID for segment in item.SegmentSequence] for item in written]
    assert tracking[0] == tracking[1]
    assert len(set(tracking[0])) == 3


def test_an_empty_mask_is_written_and_read_as_empty(cine, tmp_path):
    masks = np.zeros(cine.array.shape, np.uint8)
    [path] = write_seg(cine, masks, tmp_path, phases=[1]).values()
    assert dcmread(path).NumberOfFrames == 3 * cine.array.shape[2]
    np.testing.assert_array_equal(read_seg(path, cine)[1], masks[..., 1])


def test_what_anonymisers_leave_is_enough(cine, tmp_path):
    keep = {"SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"}
    keep |= {"Modality", "Rows", "Columns", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient"}
    instances = []
    for z, row in enumerate(cine.instances):
        image = dcmread(row[0].path, stop_before_pixels=True)
        for element in list(image):
            if element.keyword not in keep:
                del image[element.tag]
        image.save_as(tmp_path / f"{z}.dcm")
        instances.append((replace(row[0], path=tmp_path / f"{z}.dcm"),))
    bare = replace(cine, array=cine.array[..., :1], instances=tuple(instances))
    masks = random_masks(bare)
    [path] = write_seg(bare, masks, tmp_path / "seg").values()
    np.testing.assert_array_equal(read_seg(path, bare)[0], masks[..., 0])
    assert dcmread(path).SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness == pytest.approx(15)


def test_names_keep_their_letters(cine, tmp_path):
    instances = []
    for z, row in enumerate(cine.instances):
        image = dcmread(row[0].path, stop_before_pixels=True)
        image.SpecificCharacterSet = "ISO_IR 100"
        image.PatientName = "Müller^Jürgen"
        image.save_as(tmp_path / f"{z}.dcm")
        instances.append((replace(row[0], path=tmp_path / f"{z}.dcm"),))
    one = replace(cine, array=cine.array[..., :1], instances=tuple(instances))
    [path] = write_seg(one, random_masks(one), tmp_path / "seg", phases={0: "Enddiastole (größte)"}).values()
    assert dcmread(path).PatientName == "Müller^Jürgen"
    assert "größte" in dcmread(path).SeriesDescription


@pytest.mark.parametrize("source", ["cine", "enhanced"])
def test_files_conform_to_the_standard(source, request, tmp_path):
    cine = request.getfixturevalue(source)
    [path] = write_seg(cine, random_masks(cine), tmp_path, phases=[0]).values()
    assert conformance_problems(path) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda masks: masks[:-1], r"masks must have the cine's shape \(80, 96, 8, 4\), got \(79, 96, 8, 4\)"),
        (lambda masks: masks[..., 0], "masks must be a non-empty 4D array"),
        (lambda masks: masks + np.uint8(3), r"expected only \[0, 1, 2, 3\]"),
    ],
)
def test_other_masks_are_refused(cine, change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        write_seg(cine, change(random_masks(cine)), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("phases", [[], [4], [-1]])
def test_phases_that_are_not_there_are_refused(cine, phases, tmp_path):
    with pytest.raises(ValueError, match=re.escape(f"phases must be from 0 to 3, got {phases}")):
        write_seg(cine, random_masks(cine), tmp_path, phases=phases)


def test_a_cine_from_elsewhere_is_refused(cine, tmp_path):
    with pytest.raises(InputError, match="expected DICOM files"):
        write_seg(replace(cine, instances=()), random_masks(cine), tmp_path)


@pytest.mark.parametrize("order", [lambda rows: rows[::-1], lambda rows: (*rows[1:], rows[0])])
def test_slices_in_another_order_than_the_affine_are_refused(cine, order, tmp_path):
    with pytest.raises(InputError, match=r"mm off slice 1 of the cine's affine"):
        write_seg(replace(cine, instances=order(cine.instances)), random_masks(cine), tmp_path)


@pytest.mark.parametrize(
    ("keyword", "value", "message"),
    [
        ("FrameOfReferenceUID", "", r"a\.dcm: FrameOfReferenceUID is missing, expected one for all slices"),
        ("FrameOfReferenceUID", "1.2.3", r"FrameOfReferenceUID is .*, expected one for all slices"),
        ("Columns", 81, r"a\.dcm: 81 x 96 pixels, expected 80 x 96"),
    ],
)
def test_unfit_images_are_named(cine, keyword, value, message, tmp_path):
    first = cine.instances[0][0]
    image = dcmread(first.path, stop_before_pixels=True)
    setattr(image, keyword, value)
    image.save_as(tmp_path / "a.dcm")
    row = (replace(first, path=tmp_path / "a.dcm"), *cine.instances[0][1:])
    with pytest.raises(InputError, match=message):
        write_seg(replace(cine, instances=(row, *cine.instances[1:])), random_masks(cine), tmp_path, phases=[0])


def test_segments_of_other_software_are_told_by_their_codes(cine, seg_path, tmp_path):
    segmentation = dcmread(seg_path)
    codes = [segment.SegmentedPropertyTypeCodeSequence for segment in segmentation.SegmentSequence]
    for segment, code in zip(segmentation.SegmentSequence, reversed(codes), strict=True):
        segment.SegmentedPropertyTypeCodeSequence = code
    segmentation.save_as(tmp_path / "a.dcm")
    swapped = np.array([0, LV, MYO, RV])[random_masks(cine)[..., PHASE]]
    np.testing.assert_array_equal(read_seg(tmp_path / "a.dcm", cine)[PHASE], swapped)


def unknown_code(segmentation):
    segmentation.SegmentSequence[1].SegmentedPropertyTypeCodeSequence[0].CodeValue = "80891009"


def other_image(segmentation):
    for frame in segmentation.PerFrameFunctionalGroupsSequence:
        frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID = "1.2.3"


def no_reference(segmentation):
    for frame in segmentation.PerFrameFunctionalGroupsSequence:
        frame.DerivationImageSequence = []


def overlap(segmentation):
    segmentation.PixelData = b"\xff" * len(segmentation.PixelData)


def fractional(segmentation):
    segmentation.SegmentationType = "FRACTIONAL"
    segmentation.SegmentationFractionalType = "PROBABILITY"
    segmentation.MaximumFractionalValue = 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (unknown_code, r"a\.dcm: segment 2 is coded 80891009 SCT .*, expected one of 53085002 \(Right ventricle\)"),
        (other_image, r"a\.dcm: a frame refers to 0 images of the cine .*, expected one"),
        (no_reference, r"a\.dcm: a frame refers to 0 images of the cine \(\[\]\), expected one"),
        (overlap, r"a\.dcm: segments overlap in slice \d of phase 3"),
        (fractional, r"a\.dcm: a FRACTIONAL segmentation, expected BINARY"),
    ],
)
def test_segmentations_that_say_something_else_are_refused(cine, seg_path, change, message, tmp_path):
    segmentation = dcmread(seg_path)
    change(segmentation)
    segmentation.save_as(tmp_path / "a.dcm")
    with pytest.raises(InputError, match=message):
        read_seg(tmp_path / "a.dcm", cine)


def test_files_that_are_no_segmentation_are_refused(cine, tmp_path):
    with pytest.raises(InputError, match="not readable as a DICOM segmentation"):
        read_seg(cine.instances[0][0].path, cine)
    (tmp_path / "a.dcm").write_bytes(b"no DICOM")
    with pytest.raises(InputError, match="not readable as a DICOM segmentation"):
        read_seg(tmp_path / "a.dcm", cine)


def test_a_segmentation_of_other_pixels_is_refused(cine, seg_path):
    with pytest.raises(InputError, match=r"80 x 96 pixels, expected 40 x 96"):
        read_seg(seg_path, replace(cine, array=cine.array[::2]))
