"""The phantom's moving surfaces: circles in every short-axis plane, so their areas are closed forms.

Lengths are mm; z runs along the long axis, from 0 at the end-diastolic base towards the apex.

- The left ventricle's cavity and its epicardium are truncated ellipsoids on one axis: cut off flat at the base, ``e``
  above the equator, with the apex ``L`` below it. With the equatorial radius ``a`` the volume is
  ``pi a^2 (2 L / 3 + e - e^3 / (3 L^2))``, so ``a`` follows from the volume.
- The right ventricle is a disc less the epicardial disc in every plane. The part of the septum that it covers and its
  depth fall smoothly towards its apex. Its volume is integrated by Gauss-Legendre quadrature (relative error below
  1e-9) and its depth at the base solved for the volume.
- The wall's volume is constant, the epicardial apex stands still and the base moves.

A slice shows the mean area over its thickness, as partial volume does, so that areas times the slice spacing sum up to
the true volume at any spacing. What is too small for a reader to draw counts to the neighbouring slice.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.optimize import brentq

from cardiac_cine.datasets.phantom_spec import PhantomSpec, activation
from cardiac_cine.errors import InputError
from cardiac_cine.geometry import MM3_PER_ML

# The widest part of the ventricle lies below the base by this part of the length.
EQUATOR_FRACTION = 0.21
# The wall is thinner at the apex than at the sides, and thickens as the heart contracts.
APEX_WALL_MM = 6.0
APEX_THICKENING = 0.4
# Longitudinal shortening: 12 mm at an ejection fraction of 60 %.
BASE_MOTION_MM_PER_EF_PERCENT = 0.2
# The right ventricle ends before the left one and covers about a third of its circumference at the base: more of both
# the larger it is, here by the ratio of the end-diastolic volumes, which counts up to 2.
RV_LENGTH_FRACTION = (0.79, 0.05)
RV_HALF_ANGLE_DEG = (62.0, 14.0)
RV_ANGLE_TAPER = 0.4
RV_DEPTH_TAPER = (0.2, 0.8)
# Not drawn: a basal slice filled by less than this part of its thickness, a structure smaller than these areas.
MIN_BASE_FRACTION = 0.3
MIN_AREA_MM2 = 45.0
MIN_AREA_PIXELS = 20
# Thinnest wall that the raster keeps closed, in diagonals of a pixel.
WALL_DIAGONALS = 1.25
# Shifts are cut off here, so that no slice leaves the heart.
MAX_SHIFT_SD = 2.0


@dataclass(frozen=True)
class Contours:
    """Circles to draw, arrays of shape (slices, phases), mm, 0 where a structure is absent.

    Attributes:
        lv_mm: radius of the endocardium.
        epi_mm: radius of the epicardium around it.
        rv_mm: radius of the disc whose part outside the epicardium is the right ventricle.
        rv_offset_mm: from the left ventricle's centre to that disc's.
        rv_direction: unit vector (x, y) from the left ventricle to the right one.
        centre_mm: (slices, 2), the left ventricle's centre from the image's, along x and y.
        base_fraction: part of the slice's thickness that lies below the base.
        depth: the slice's position from the base, 0, to the cavity's apex, 1; beyond these outside.
        softness_mm: half the change of the endocardial radius within the slice.
    """

    lv_mm: np.ndarray
    epi_mm: np.ndarray
    rv_mm: np.ndarray
    rv_offset_mm: np.ndarray
    rv_direction: np.ndarray
    centre_mm: np.ndarray
    base_fraction: np.ndarray
    depth: np.ndarray
    softness_mm: np.ndarray


class Heart:
    """The moving surfaces of one phantom.

    Args:
        spec: what to build.
    """

    def __init__(self, spec: PhantomSpec) -> None:
        truth = spec.truth()
        effort = activation(spec.phases, spec.es_frame)
        lv_mm3 = np.asarray(truth.lv_volume_ml) * MM3_PER_ML
        length = spec.lv_length_mm - BASE_MOTION_MM_PER_EF_PERCENT * spec.lv_ef_percent * effort
        self.spec = spec
        self.rv_mm3 = np.asarray(truth.rv_volume_ml) * MM3_PER_ML
        self.base = spec.lv_length_mm - length
        self.above = EQUATOR_FRACTION * length
        self.epi_below = length - self.above
        self.lv_below = self.epi_below - APEX_WALL_MM * (1 + APEX_THICKENING * effort)
        self.lv_radius = self._equatorial_radius(lv_mm3, self.lv_below)
        self.epi_radius = self._equatorial_radius(lv_mm3 + truth.myo_volume_ml * MM3_PER_ML, self.epi_below)
        ratio = min(spec.rv_edv_ml / spec.lv_edv_ml, 2.0)
        self.rv_length = (RV_LENGTH_FRACTION[0] + RV_LENGTH_FRACTION[1] * ratio) * length
        self.rv_half_angle = np.deg2rad(RV_HALF_ANGLE_DEG[0] + RV_HALF_ANGLE_DEG[1] * ratio)

    def lv_area_mm2(self, z: np.ndarray) -> np.ndarray:
        """Return the left ventricle's cavity area at ``z`` (broadcast against phases), 0 outside it."""
        return self._ellipse_area(z, self.lv_radius, self.lv_below)

    def epi_area_mm2(self, z: np.ndarray) -> np.ndarray:
        """Return the area within the epicardium at ``z`` (broadcast against phases), 0 outside it."""
        return self._ellipse_area(z, self.epi_radius, self.epi_below)

    def rv_area_mm2(self, z: np.ndarray) -> np.ndarray:
        """Return the right ventricle's cavity area at ``z`` (broadcast against phases), 0 outside it."""
        return self._rv_area(z, self.rv_depth_mm)

    @cached_property
    def rv_depth_mm(self) -> np.ndarray:
        """Septum to free wall at the base in each phase, solved for the volume."""
        nodes, weights = np.polynomial.legendre.leggauss(64)
        z = self.base + (1 + nodes[:, None]) / 2 * self.rv_length

        def excess(depth: float, phase: int) -> float:
            volume = weights @ self._rv_area(z, depth)[:, phase] * self.rv_length[phase] / 2
            return float(volume - self.rv_mm3[phase])

        return np.array([brentq(excess, 1e-3, 1e3, args=(phase,)) for phase in range(self.spec.phases)])

    def contours(self) -> Contours:
        """Return the circles to draw in every slice and phase.

        Raises:
            InputError: (a ValueError) the pixels are too coarse for the wall or the cavity, or the field of view is
                too small for the heart; all of these at once.
        """
        spec = self.spec
        thickness = spec.spacing_mm[2]
        # As planned on a scanner: one slice above the end-diastolic base where there is room, the rest below the apex.
        above = min(thickness, spec.slice_count * thickness - spec.lv_length_mm)
        edges = (np.arange(spec.slice_count + 1) * thickness - above)[:, None]
        middle = (edges[1:] + edges[:-1]) / 2
        below_base = np.clip((edges[1:] - self.base) / thickness, 0, 1)
        lv = np.diff(self._ellipse_volume(edges, self.lv_radius, self.lv_below), axis=0) / thickness
        epi = np.diff(self._ellipse_volume(edges, self.epi_radius, self.epi_below), axis=0) / thickness
        rv = self._rv_slab_volume(edges) / thickness
        lv, myo, rv = (self._without_slivers(area, below_base) for area in (lv, epi - lv, rv))
        epi_mm = np.sqrt((lv + myo) / np.pi)
        angle = self._rv_angle(middle)
        rv_offset, rv_radius = crescent_disc(_crescent_depth(rv, epi_mm, angle), epi_mm, angle)
        edge_radius = np.sqrt(self.lv_area_mm2(np.maximum(edges, self.base)) / np.pi)
        shifts = np.random.default_rng([spec.seed, 0]).standard_normal((spec.slice_count, 2))
        rotation = np.deg2rad(spec.rotation_deg)
        contours = Contours(
            lv_mm=np.sqrt(lv / np.pi),
            epi_mm=epi_mm,
            rv_mm=np.where(rv > 0, rv_radius, 0),
            rv_offset_mm=np.where(rv > 0, rv_offset, 0),
            rv_direction=np.array([-np.cos(rotation), np.sin(rotation)]),
            centre_mm=spec.centre_mm + np.clip(shifts, -MAX_SHIFT_SD, MAX_SHIFT_SD) * spec.respiratory_shift_mm,
            base_fraction=below_base,
            depth=(middle - self.base) / (self.above + self.lv_below),
            softness_mm=np.abs(np.diff(edge_radius, axis=0)) / 2,
        )
        self._check_fit(contours)
        return contours

    def _check_fit(self, contours: Contours) -> None:
        spec = self.spec
        problems = []
        smallest = float(np.pi * contours.lv_mm.max(axis=0).min() ** 2)
        if smallest < 2 * self._min_area_mm2:
            problems.append(
                f"lv_edv_ml={spec.lv_edv_ml:g} and lv_ef_percent={spec.lv_ef_percent:g} make a cavity of "
                f"{smallest:.0f} mm2 at spacing_mm={spec.spacing_mm!r}, expected {2 * self._min_area_mm2:.0f} or more"
            )
        wall = float((contours.epi_mm - contours.lv_mm)[contours.lv_mm > 0].min())
        # Wider than a pixel's diagonal, the wall keeps all of a cavity pixel's neighbours out of the background.
        thinnest = WALL_DIAGONALS * float(np.hypot(*spec.spacing_mm[:2]))
        if wall < thinnest:
            problems.append(
                f"lv_mass_g={spec.lv_mass_g:g} makes a wall of {wall:.1f} mm at spacing_mm={spec.spacing_mm!r}, "
                f"expected {thinnest:.1f} or more"
            )
        for axis, name in enumerate("xy"):
            limit = (spec.shape[axis] - 1) * spec.spacing_mm[axis] / 2
            centre = contours.centre_mm[:, axis, None]
            rv_centre = centre + contours.rv_offset_mm * contours.rv_direction[axis]
            reach = float(max((np.abs(centre) + contours.epi_mm).max(), (np.abs(rv_centre) + contours.rv_mm).max()))
            if reach > limit:
                problems.append(
                    f"shape={spec.shape!r} at spacing_mm={spec.spacing_mm!r} reaches {limit:.0f} mm from its centre "
                    f"along {name}, the heart at centre_mm={spec.centre_mm!r} needs {reach:.0f}"
                )
        if problems:
            raise InputError(problems)

    @property
    def _min_area_mm2(self) -> float:
        return max(MIN_AREA_MM2, MIN_AREA_PIXELS * self.spec.spacing_mm[0] * self.spec.spacing_mm[1])

    def _without_slivers(self, area: np.ndarray, below_base: np.ndarray) -> np.ndarray:
        """Count what is too small to draw, above the base and at the apex, to the neighbouring slice."""
        area = area.copy()
        undrawn = below_base < MIN_BASE_FRACTION
        for index in range(len(area) - 1):
            _move(area, index, index + 1, undrawn[index])
        for index in range(len(area) - 1, 0, -1):
            _move(area, index, index - 1, (area[index] < self._min_area_mm2) & ~undrawn[index - 1])
        return area

    def _equatorial_radius(self, volume_mm3: np.ndarray, below: np.ndarray) -> np.ndarray:
        return np.sqrt(volume_mm3 / (np.pi * (2 * below / 3 + self.above - self.above**3 / (3 * below**2))))

    def _ellipse_area(self, z: np.ndarray, radius: np.ndarray, below: np.ndarray) -> np.ndarray:
        part = (z - self.base - self.above) / below
        return np.where(z >= self.base, np.pi * radius**2 * np.maximum(1 - part**2, 0), 0)

    def _ellipse_volume(self, z: np.ndarray, radius: np.ndarray, below: np.ndarray) -> np.ndarray:
        """Return the volume on the base's side of ``z``, but for a constant: the area's antiderivative."""
        x = np.clip(z - self.base - self.above, -self.above, below)
        return np.pi * radius**2 * (x - x**3 / (3 * below**2))

    def _rv_angle(self, z: np.ndarray) -> np.ndarray:
        part = np.clip((z - self.base) / self.rv_length, 0, 1)
        return self.rv_half_angle * (1 - RV_ANGLE_TAPER * part**2)

    def _rv_area(self, z: np.ndarray, depth: np.ndarray | float) -> np.ndarray:
        part = (z - self.base) / self.rv_length
        inside = (part >= 0) & (part <= 1)
        local = np.where(inside, depth * (1 - RV_DEPTH_TAPER[0] * part - RV_DEPTH_TAPER[1] * part**2), 0)
        return crescent_area(local, np.sqrt(self.epi_area_mm2(z) / np.pi), self._rv_angle(z))

    def _rv_slab_volume(self, edges: np.ndarray) -> np.ndarray:
        nodes, weights = np.polynomial.legendre.leggauss(24)
        limits = np.clip(edges, self.base, self.base + self.rv_length)
        half = np.diff(limits, axis=0) / 2
        z = limits[:-1] + half * (1 + nodes[:, None, None])
        return np.tensordot(weights, self.rv_area_mm2(z), axes=1) * half


def lens_area(first: np.ndarray | float, second: np.ndarray | float, distance: np.ndarray | float) -> np.ndarray:
    """Return the area that two discs share.

    Args:
        first: one disc's radius, of any shape.
        second: the other's radius.
        distance: between their centres.

    Returns:
        Area in the unit squared: 0 for discs apart, the smaller disc's area where it lies within the other.
    """
    one, two, between = np.broadcast_arrays(*(np.asarray(v, float) for v in (first, second, distance)))
    nested = between <= np.abs(one - two)
    crossing = ~nested & (between < one + two)
    area = np.where(nested, np.pi * np.minimum(one, two) ** 2, 0.0)
    one, two, between = (values[crossing] for values in (one, two, between))
    for radius, other in ((one, two), (two, one)):
        cosine = np.clip((between**2 + radius**2 - other**2) / (2 * between * radius), -1, 1)
        area[crossing] += radius**2 * (np.arccos(cosine) - cosine * np.sqrt(1 - cosine**2))
    return area


def crescent_disc(depth: np.ndarray, radius: np.ndarray, angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the disc that crosses a circle at plus and minus ``angle`` and reaches ``depth`` beyond it.

    Args:
        depth: mm beyond the circle on the axis, 0 for none.
        radius: of the circle, around the origin, mm.
        angle: from the axis, rad, above 0 and below pi.

    Returns:
        The disc's centre on the axis and its radius, mm.
    """
    reach = radius + depth
    gap = reach - radius * np.cos(angle)
    centre = depth * (radius + reach) / (2 * np.where(gap > 0, gap, 1))
    return centre, reach - centre


def crescent_area(depth: np.ndarray, radius: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Return the area in mm2 of the part outside the circle of the disc of :func:`crescent_disc`."""
    centre, disc = crescent_disc(depth, radius, angle)
    return np.pi * disc**2 - lens_area(disc, radius, centre)


def _crescent_depth(area: np.ndarray, radius: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Return the depths that give these areas, which grow with the depth, by bisection."""
    low = np.zeros(area.shape)
    high = np.where(area > 0, 2 * (np.sqrt(area) + radius), 0)
    for _ in range(50):
        middle = (low + high) / 2
        small = crescent_area(middle, radius, angle) < area
        low, high = np.where(small, middle, low), np.where(small, high, middle)
    return high


def _move(area: np.ndarray, source: int, target: int, where: np.ndarray) -> None:
    moved = np.where(where, area[source], 0)
    area[source] -= moved
    area[target] += moved
