"""One Enhanced MR image for :mod:`~cardiac_cine.datasets.phantom_dicom`: all slices and phases in one file.

Attributes follow PS3.3 A.36.2. Frames go slice by slice; the dimension indices are the position in the stack and the
position in time.
"""

import math

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.tag import BaseTag, Tag
from pydicom.uid import EnhancedMRImageStorage

from cardiac_cine.datasets.phantom_study import Series, Study, pixel_module, plane, series_module

_STACK_ID = "1"


def enhanced_image(voxels: np.ndarray, affine: np.ndarray, study: Study, series: Series) -> Dataset:
    """Return the dataset of an Enhanced MR image.

    Args:
        voxels: (x, y, z, t), integers from 0.
        affine: 4 x 4 voxel to world, mm, NIfTI's axes.
        study: patient, study and scanner.
        series: the series; its times have the shape (z, t), None leaves out time.
    """
    slices, phases = voxels.shape[2:]
    ds = study.patient_module()
    ds.update(study.equipment_module())
    ds.SOPClassUID = EnhancedMRImageStorage
    ds.SOPInstanceUID = study.uid("image", series.number, series.description)
    series_module(ds, study, series)
    ds.InstanceNumber = 1
    ds.AcquisitionDateTime = ds.AcquisitionDate + ds.AcquisitionTime
    del ds.AcquisitionDate, ds.AcquisitionTime
    ds.AcquisitionDuration = 10_000.0
    _image_attributes(ds)
    cyclic = series.times_ms is not None
    if cyclic:
        _cardiac_synchronization(ds, series.rr_ms)
    pixel_module(ds, voxels.reshape(*voxels.shape[:2], -1))
    ds.NumberOfFrames = slices * phases
    ds.SharedFunctionalGroupsSequence = [_shared_groups(affine, series)]
    ds.PerFrameFunctionalGroupsSequence = [
        _frame_groups(ds, affine, z, t, series) for z, t in np.ndindex(slices, phases)
    ]
    _dimensions(ds, study, cyclic)
    return ds


def _image_attributes(ds: Dataset) -> None:
    ds.ContentQualification = "RESEARCH"
    ds.BurnedInAnnotation = "NO"
    ds.LossyImageCompression = "00"
    ds.PresentationLUTShape = "IDENTITY"
    ds.AcquisitionContextSequence = []
    ds.VolumetricProperties = "VOLUME"
    ds.VolumeBasedCalculationTechnique = "NONE"
    ds.ComplexImageComponent = "MAGNITUDE"
    ds.AcquisitionContrast = "UNKNOWN"
    ds.PixelPresentation = "MONOCHROME"
    ds.ResonantNucleus = "1H"
    ds.KSpaceFiltering = "NONE"
    ds.MagneticFieldStrength = 1.5
    ds.ApplicableSafetyStandardAgency = "IEC"
    ds.PulseSequenceName = "bSSFP"
    ds.MRAcquisitionType = "2D"
    ds.EchoPulseSequence = "GRADIENT"
    ds.MultiPlanarExcitation = "NO"
    ds.PhaseContrast = "NO"
    ds.TimeOfFlightContrast = "NO"
    ds.SteadyStatePulseSequence = "FREE_PRECESSION"
    ds.EchoPlanarPulseSequence = "NO"
    ds.SpectrallySelectedSuppression = "NONE"
    ds.SaturationRecovery = "NO"
    ds.GeometryOfKSpaceTraversal = "RECTILINEAR"
    ds.RectilinearPhaseEncodeReordering = "LINEAR"
    ds.SegmentedKSpaceTraversal = "PARTIAL"
    ds.NumberOfKSpaceTrajectories = 1
    ds.OversamplingPhase = "NONE"
    ds.IsocenterPosition = [0.0, 0.0, 0.0]
    ds.B1rms = 1.0


def _cardiac_synchronization(ds: Dataset, rr_ms: float) -> None:
    ds.CardiacSynchronizationTechnique = "RETROSPECTIVE"
    ds.CardiacSignalSource = "ECG"
    ds.CardiacBeatRejectionTechnique = "NONE"
    if math.isfinite(rr_ms):
        ds.CardiacRRIntervalSpecified = float(rr_ms)
        ds.LowRRValue = round(rr_ms * 0.9)
        ds.HighRRValue = round(rr_ms * 1.1)
        ds.IntervalsAcquired = 10
        ds.IntervalsRejected = 0


def _shared_groups(affine: np.ndarray, series: Series) -> Dataset:
    _, orientation, spacing, distance = plane(affine)
    groups = Dataset()
    groups.PixelMeasuresSequence = [_item(PixelSpacing=spacing, SliceThickness=distance, SpacingBetweenSlices=distance)]
    groups.PlaneOrientationSequence = [_item(ImageOrientationPatient=orientation)]
    groups.PixelValueTransformationSequence = [_item(RescaleIntercept="0", RescaleSlope="1", RescaleType="US")]
    anatomy = _item(
        FrameLaterality="U",
        AnatomicRegionSequence=[_code(codes.SCT.Heart)],
    )
    groups.FrameAnatomySequence = [anatomy]
    groups.MRImageFrameTypeSequence = [
        _item(
            FrameType=list(series.image_type),
            PixelPresentation="MONOCHROME",
            VolumetricProperties="VOLUME",
            VolumeBasedCalculationTechnique="NONE",
            ComplexImageComponent="MAGNITUDE",
            AcquisitionContrast="UNKNOWN",
        )
    ]
    groups.FrameVOILUTSequence = [_item(WindowCenter="200", WindowWidth="400")]
    _sequence_groups(groups)
    return groups


def _sequence_groups(groups: Dataset) -> None:
    """Set what the standard asks of an original image: a plain balanced steady-state free precession."""
    groups.MRTimingAndRelatedParametersSequence = [
        _item(
            RepetitionTime="3.2",
            FlipAngle="60",
            EchoTrainLength=1,
            RFEchoTrainLength=0,
            GradientEchoTrainLength=1,
            SpecificAbsorptionRateSequence=[
                _item(SpecificAbsorptionRateDefinition="IEC_WHOLE_BODY", SpecificAbsorptionRateValue=1.0)
            ],
            GradientOutputType="DB_DT",
            GradientOutput=0.0,
            OperatingModeSequence=[
                _item(OperatingModeType="STATIC FIELD", OperatingMode="IEC_NORMAL"),
                _item(OperatingModeType="RF", OperatingMode="IEC_NORMAL"),
                _item(OperatingModeType="GRADIENT", OperatingMode="IEC_NORMAL"),
            ],
        )
    ]
    groups.MRFOVGeometrySequence = [
        _item(
            InPlanePhaseEncodingDirection="ROW",
            MRAcquisitionFrequencyEncodingSteps=128,
            MRAcquisitionPhaseEncodingStepsInPlane=128,
            PercentSampling="100",
            PercentPhaseFieldOfView="100",
        )
    ]
    groups.MREchoSequence = [_item(EffectiveEchoTime=1.6)]
    groups.MRModifierSequence = [
        _item(
            InversionRecovery="NO",
            FlowCompensation="NONE",
            Spoiling="NONE",
            T2Preparation="NO",
            SpectrallySelectedExcitation="NONE",
            SpatialPresaturation="NONE",
            PartialFourier="NO",
            ParallelAcquisition="NO",
        )
    ]
    groups.MRImagingModifierSequence = [
        _item(
            MagnetizationTransfer="NONE",
            BloodSignalNulling="NO",
            Tagging="NONE",
            TransmitterFrequency=63.87,
            PixelBandwidth="1000",
        )
    ]
    groups.MRReceiveCoilSequence = [
        _item(
            ReceiveCoilName="BODY",
            ReceiveCoilManufacturerName="",
            ReceiveCoilType="BODY",
            QuadratureReceiveCoil="NO",
        )
    ]
    groups.MRTransmitCoilSequence = [
        _item(TransmitCoilName="BODY", TransmitCoilManufacturerName="", TransmitCoilType="BODY")
    ]
    groups.MRAveragesSequence = [_item(NumberOfAverages="1")]


def _frame_groups(ds: Dataset, affine: np.ndarray, z: int, t: int, series: Series) -> Dataset:
    groups = Dataset()
    content = _item(
        FrameAcquisitionNumber=1,
        FrameReferenceDateTime=ds.AcquisitionDateTime,
        FrameAcquisitionDateTime=ds.AcquisitionDateTime,
        FrameAcquisitionDuration=10_000.0,
        StackID=_STACK_ID,
        InStackPositionNumber=z + 1,
        DimensionIndexValues=[1, z + 1],
    )
    groups.PlanePositionSequence = [_item(ImagePositionPatient=plane(affine, z)[0])]
    if series.times_ms is not None:
        content.TemporalPositionIndex = t + 1
        content.DimensionIndexValues = [1, z + 1, t + 1]
        cycle = _item(NominalCardiacTriggerDelayTime=float(series.times_ms[z, t]))
        if math.isfinite(series.rr_ms):
            cycle.RRIntervalTimeNominal = float(series.rr_ms)
        groups.CardiacSynchronizationSequence = [cycle]
    groups.FrameContentSequence = [content]
    return groups


def _dimensions(ds: Dataset, study: Study, cyclic: bool) -> None:
    uid = study.uid("dimensions")
    ds.DimensionOrganizationSequence = [_item(DimensionOrganizationUID=uid)]
    names = [
        ("StackID", "FrameContentSequence"),
        ("InStackPositionNumber", "FrameContentSequence"),
        ("NominalCardiacTriggerDelayTime", "CardiacSynchronizationSequence"),
    ]
    ds.DimensionIndexSequence = [
        _item(DimensionOrganizationUID=uid, DimensionIndexPointer=_tag(keyword), FunctionalGroupPointer=_tag(group))
        for keyword, group in names[: 3 if cyclic else 2]
    ]


def _tag(keyword: str) -> BaseTag:
    return Tag(keyword)


def _code(code: Code) -> Dataset:
    return _item(CodeValue=code.value, CodingSchemeDesignator=code.scheme_designator, CodeMeaning=code.meaning)


def _item(**attributes: object) -> Dataset:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item
