"""A short-axis cine: one heart over its cycle, every phase on one grid. Readers make it, everything else takes it."""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from cardiac_cine import geometry
from cardiac_cine.images import Frame

MS_PER_MINUTE = 60_000.0
# Key of a cine's "about" that says how the length of its cycle came about.
CYCLE = "cycle"


@dataclass(frozen=True)
class Patient:
    """Who was scanned, as far as the files say and a measurement needs.

    Attributes:
        id: as in the files, "" where unknown.
        sex: "M", "F", or "" where neither is given.
        age_years: at the scan, NaN where unknown, as for the others.
        height_cm: body height.
        weight_kg: body weight.
    """

    id: str = ""
    sex: str = ""
    age_years: float = math.nan
    height_cm: float = math.nan
    weight_kg: float = math.nan


@dataclass(frozen=True)
class Instance:
    """The DICOM image that one slice of one phase comes from.

    Attributes:
        path: the file.
        sop_class_uid: its SOP class.
        sop_instance_uid: its SOP instance.
        frame_number: from 1 in a multi-frame file, None in a classic one.
    """

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    frame_number: int | None = None


@dataclass(frozen=True, eq=False)
class Cine:
    """One short-axis cine; a single phase is a cine of one frame.

    Attributes:
        name: the case, the name its results are written under.
        source: the file or folder it comes from.
        array: voxels (x, y, z, t), slices along z, phases along t in the order of the cycle; integer or float32.
        affine: 4 x 4 voxel to world, mm, NIfTI's axes (right, anterior, superior).
        times_ms: of every phase after the R wave; None where the files do not say.
        rr_ms: length of the cycle, NaN where the files do not say.
        patient: who was scanned.
        about: what a reader of the results should see of the scan: "study_date", "manufacturer", "series" ...
        instances: (z, t) source images, for results in DICOM; empty for other formats.
        remarks: choices that reading had to make, one sentence each, for a person to check.
    """

    name: str
    source: Path
    array: np.ndarray
    affine: np.ndarray
    times_ms: tuple[float, ...] | None = None
    rr_ms: float = math.nan
    patient: Patient = field(default_factory=Patient)
    about: dict[str, str] = field(default_factory=dict)
    instances: tuple[tuple[Instance, ...], ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Spacing along x, y and z in mm."""
        return geometry.spacing_mm(self.affine)

    @property
    def phases(self) -> int:
        """Number of phases."""
        return self.array.shape[3]

    @property
    def heart_rate_bpm(self) -> float:
        """Beats a minute, NaN where the length of the cycle is unknown."""
        return MS_PER_MINUTE / self.rr_ms

    @property
    def time_step_ms(self) -> float:
        """Mean time between phases: by their times, else as if they filled the cycle; NaN where both are unknown."""
        if self.times_ms is None or self.phases == 1:
            return self.rr_ms / self.phases
        return (self.times_ms[-1] - self.times_ms[0]) / (self.phases - 1)

    def frame(self, phase: int) -> Frame:
        """Return one phase, counted from 0, as float32."""
        return Frame(self.source, self.array[..., phase].astype(np.float32), self.affine)

    def single_phase(self, phase: int) -> "Cine":
        """Return one phase, counted from 0, as a cine of its own."""
        return replace(self, array=self.array[..., phase : phase + 1], times_ms=None, instances=())
