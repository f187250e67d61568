"""Thickness of the left ventricle's wall in the segments of the American Heart Association. Pure functions on masks.

Segments and their numbers follow Cerqueira et al. (Circulation 105(4), 2002): 1-6 basal, 7-12 mid-cavity, 13-16 apical.
Segment 17, the apical cap, has no cavity beside it and cannot be measured in short-axis slices, so it is left out.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial.distance import cdist
from skimage.measure import find_contours

from cardiac_cine.geometry import spacing_mm
from cardiac_cine.labels import LV, MYO, RV, check_mask
from cardiac_cine.levels import base_is_first

SEGMENTS = 16
# Rays from the cavity's centre, every 3 degrees: about one a pixel on the epicardium.
RAYS = 120
# The septum lies between the insertions of the right ventricle. Of two insertions the anterior one lies further along
# this direction in the patient (right, anterior, superior). A heart's short-axis plane stands nearly upright, so up
# decides; forwards decides where the plane lies flat, as in files that lost their orientation (ACDC's).
ANTERIOR_INSERTION = (0.0, 0.5, 1.0)
# Insertions whose line is closer than this to a right angle with that direction are not told apart.
_MIN_INSERTION_COSINE = math.sin(math.radians(10))
# The heart lies oblique in the body: slices closer than this to a plane of the body's are from no short-axis scan.
_UNTILTED_DEG = 1.0
# A contact of the right ventricle over less than this is the tip of its apex and says little about the septum.
MIN_CONTACT_DEG = 30.0
# Contours half way between pixels: the right ventricle touches where its pixels' centres lie closer than this, in
# diagonals of a pixel. That lets pass a seam of one pixel that neither contour claims.
_CONTACT_DIAGONALS = 1.25
# Harmonics of the wall's midline that tell how far it is inclined to the rays; finer ones are the raster's steps.
_MIDLINE_HARMONICS = 4

# Segment numbers from the anterior insertion through the septum and on around the free wall.
_BASAL_AND_MID = ((2, 3, 4, 5, 6, 1), (8, 9, 10, 11, 12, 7))
_APICAL = (14, 15, 16, 13)


@dataclass(frozen=True, eq=False)
class Ring:
    """The wall in one slice: contours as distances from the cavity's centroid.

    Angles run from the array's x axis towards its y axis, in mm, so that a ray is (cos, sin) in the slice's plane.

    Attributes:
        slice_index: along z, counted from 0.
        endo_mm: radius of the endocardium on every ray, (RAYS,).
        epi_mm: radius of the epicardium on the same rays.
        contact: rays on which the right ventricle touches the epicardium, (RAYS,).
    """

    slice_index: int
    endo_mm: np.ndarray
    epi_mm: np.ndarray
    contact: np.ndarray

    @property
    def thickness_mm(self) -> np.ndarray:
        """Thickness on every ray, square to the wall.

        A ray crosses an oval wall at a slant and would make it too thick. The part of the ray that is square to the
        wall's midline is the thickness, as in the centreline method (Sheehan et al., Circulation 74(2), 1986).
        """
        midline = (self.endo_mm + self.epi_mm) / 2
        waves = np.fft.rfft(midline)
        waves[_MIDLINE_HARMONICS + 1 :] = 0
        smooth = np.fft.irfft(waves, RAYS)
        slope = np.fft.irfft(1j * np.arange(len(waves)) * waves, RAYS)
        return (self.epi_mm - self.endo_mm) * smooth / np.hypot(smooth, slope)


@dataclass(frozen=True)
class Insertions:
    """Where the right ventricle's wall meets the left ventricle, as angles in rad about the cavity's centroid.

    Attributes:
        anterior_rad: the anterior insertion, angles as in :class:`Ring`.
        septum_rad: from there through the septum to the inferior insertion; its sign is the sense of rotation.
    """

    anterior_rad: float
    septum_rad: float


def segment_thickness_mm(mask: np.ndarray, affine: np.ndarray) -> tuple[float, ...]:
    """Measure the mean wall thickness in the 16 segments of one phase.

    Slices count where the myocardium closes a ring around the cavity. The stack of these is cut into thirds, basal,
    mid-cavity and apical, and a slice belongs to the third that its middle lies in. The septum between the insertions
    of the right ventricle (:func:`find_insertions`) is halved into the anteroseptal and the inferoseptal segment and
    the rest of a basal or mid-cavity ring divided into four equal parts: inferior, inferolateral, anterolateral and
    anterior. An apical ring is divided into four quarters, the septal one around the middle of the septum. A segment's
    value is the mean over its slices of the mean over its rays.

    Args:
        mask: integer labels 0-3, (x, y, z), slices along z.
        affine: 4 x 4 voxel to world, mm, NIfTI's axes (right, anterior, superior).

    Returns:
        mm, of segments 1 to 16 in this order. NaN for a segment without a slice, as for a whole third of a stack of one
        or two rings. All NaN where base and apex or the insertions cannot be told: without a closed ring, without a
        right ventricle, in a stack that looks the same from both ends.

    Raises:
        ValueError: ``mask`` is not a 3D integer array of ids 0-3, or ``affine`` is not a finite 4 x 4 matrix with
            three axes.
    """
    rings = find_rings(mask, affine)
    insertions = find_insertions(rings, affine)
    first_is_base = base_is_first(mask)
    if not insertions or first_is_base is None:
        return (math.nan,) * SEGMENTS
    ordered = rings if first_is_base else rings[::-1]
    top = ordered[0].slice_index
    count = abs(ordered[-1].slice_index - top) + 1
    values: list[list[float]] = [[] for _ in range(SEGMENTS)]
    for ring in ordered:
        third = int(3 * (abs(ring.slice_index - top) + 0.5) / count)
        numbers = _segment_of_rays(third, insertions[ring.slice_index])
        thickness = ring.thickness_mm
        for number in np.unique(numbers):
            values[number - 1].append(float(thickness[numbers == number].mean()))
    return tuple(float(np.mean(segment)) if segment else math.nan for segment in values)


def find_rings(mask: np.ndarray, affine: np.ndarray) -> tuple[Ring, ...]:
    """Find the slices where the wall can be measured, and its contours there.

    Contours run half way between pixels of different label (marching squares), and a ray's radius is where it crosses
    the outermost of them, holes filled.

    Args:
        mask: integer labels 0-3, (x, y, z), slices along z.
        affine: 4 x 4 voxel to world, mm.

    Returns:
        One ring per slice, in the order of the slices. Slices without a cavity, with a cavity that reaches past the
        myocardium (an open ring) or does not hold its own centroid, and with a wall cut off by the image's edge
        have none.

    Raises:
        ValueError: as for :func:`segment_thickness_mm`.
    """
    check_mask(mask, 3)
    sx, sy, _ = spacing_mm(affine)
    rings = (_ring(mask[:, :, index], (sx, sy), index) for index in range(mask.shape[2]))
    return tuple(ring for ring in rings if ring is not None)


def orientation_is_known(affine: np.ndarray) -> bool:
    """Tell whether the slices are tilted in the body, as every short-axis scan's are.

    Files that lost their orientation, such as ACDC's, say that their slices lie along the body's axes; so do axial
    cines. Which insertion of the right ventricle is the anterior one is a guess there: anterior and inferior walls may
    be exchanged.

    Args:
        affine: 4 x 4 voxel to world, mm, NIfTI's axes (right, anterior, superior).

    Returns:
        False where the slices lie within 1 degree of an axial, coronal or sagittal plane.

    Raises:
        ValueError: ``affine`` is not a finite 4 x 4 matrix with three axes.
    """
    in_plane = np.asarray(affine, dtype=float)[:3, :2] / spacing_mm(affine)[:2]
    normal = np.cross(in_plane[:, 0], in_plane[:, 1])
    return float(np.abs(normal).max()) < math.cos(math.radians(_UNTILTED_DEG)) * float(np.linalg.norm(normal))


def find_insertions(rings: tuple[Ring, ...], affine: np.ndarray) -> dict[int, Insertions]:
    """Find the insertions of the right ventricle in every ring.

    The widest part of the ring that the right ventricle does not touch is the free wall, and its two ends are the
    insertions. The anterior one lies further up and forwards in the patient (``ANTERIOR_INSERTION``), decided once
    for all rings together. A ring touched over less than 30 degrees takes the angles of the nearest ring that has its
    own, of two equally near the one with the wider contact.

    Args:
        rings: of one stack, see :func:`find_rings`.
        affine: 4 x 4 voxel to world, mm, NIfTI's axes (right, anterior, superior).

    Returns:
        Slice index to insertions, for every ring; empty where no ring has its own, or where the insertions lie as far
        forwards and up as each other to within 10 degrees.

    Raises:
        ValueError: ``affine`` is not a finite 4 x 4 matrix with three axes.
    """
    own = {ring.slice_index: arc for ring in rings if (arc := _contact_arc(ring)) is not None}
    # From the end of every septum, in the sense of rising angles, to its start; long lines say the most.
    line = sum((np.exp(1j * start) - np.exp(1j * (start + width)) for start, width in own.values()), start=0j)
    in_plane = np.asarray(affine, dtype=float)[:3, :2] / spacing_mm(affine)[:2]
    anterior = ANTERIOR_INSERTION @ in_plane
    towards = float(anterior @ [line.real, line.imag])
    if abs(towards) <= _MIN_INSERTION_COSINE * np.linalg.norm(anterior) * abs(line):
        return {}
    found = {}
    for ring in rings:
        _, _, start, width = min((abs(index - ring.slice_index), -arc[1], *arc) for index, arc in own.items())
        found[ring.slice_index] = Insertions(start, width) if towards > 0 else Insertions(start + width, -width)
    return found


def _ring(labels: np.ndarray, spacing: tuple[float, float], index: int) -> Ring | None:
    cavity = _largest(labels == LV)
    if cavity is None:
        return None
    myo = labels == MYO
    enclosed = ndimage.binary_fill_holes(myo)
    wall = _part_around(enclosed, cavity)
    if not enclosed[cavity].all() or _touches_edge(wall):
        return None
    cavity = ndimage.binary_fill_holes(cavity)
    centre = np.argwhere(cavity).mean(axis=0) * spacing
    endo, epi = (_radii(region, spacing, centre) for region in (cavity, wall))
    # A cavity so bent that some ray misses it has no radius there.
    if np.isnan(endo).any() or np.isnan(epi).any():
        return None
    return Ring(index, endo, epi, _contact(_largest(labels == RV), spacing, centre, epi))


def _largest(region: np.ndarray) -> np.ndarray | None:
    """Return the largest component, neighbours sharing an edge, None without any."""
    parts, count = ndimage.label(region)
    return parts == np.bincount(parts.ravel())[1:].argmax() + 1 if count else None


def _part_around(region: np.ndarray, cavity: np.ndarray) -> np.ndarray:
    """Return the components of ``region`` that hold the cavity, neighbours sharing an edge or a corner."""
    parts, _ = ndimage.label(region, np.ones((3, 3)))
    return np.isin(parts, np.setdiff1d(parts[cavity], 0))


def _touches_edge(region: np.ndarray) -> bool:
    return bool(region[[0, -1]].any() or region[:, [0, -1]].any())


def _radii(region: np.ndarray, spacing: tuple[float, float], centre: np.ndarray) -> np.ndarray:
    """Return where every ray crosses the region's outline furthest out, in mm, NaN where it never does."""
    outlines = find_contours(np.pad(region, 1).astype(float), 0.5)
    starts = np.concatenate([outline[:-1] for outline in outlines])
    ends = np.concatenate([outline[1:] for outline in outlines])
    angles = _angles()[:, None]
    across = np.concatenate([-np.sin(angles), np.cos(angles)], axis=1)
    along = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    starts, ends = ((points - 1) * spacing - centre for points in (starts, ends))
    # Signed distances of a piece's ends from every ray's line: where they differ in sign, the piece crosses it.
    first, last = starts @ across.T, ends @ across.T
    crosses = (first < 0) != (last < 0)
    part = first / np.where(crosses, first - last, 1)
    radius = (1 - part) * (starts @ along.T) + part * (ends @ along.T)
    furthest = np.where(crosses & (radius > 0), radius, -np.inf).max(axis=0)
    return np.where(np.isinf(furthest), math.nan, furthest)


def _contact(rv: np.ndarray | None, spacing: tuple[float, float], centre: np.ndarray, epi_mm: np.ndarray) -> np.ndarray:
    """Return on which rays the epicardium touches the right ventricle."""
    if rv is None:
        return np.zeros(RAYS, bool)
    points = centre + epi_mm[:, None] * np.stack([np.cos(_angles()), np.sin(_angles())], axis=1)
    distance = cdist(points, np.argwhere(rv) * spacing).min(axis=1)
    return distance <= _CONTACT_DIAGONALS * math.hypot(*spacing)


def _contact_arc(ring: Ring) -> tuple[float, float] | None:
    """Return the start and the width, in rad and rising angles, of the arc that holds the ring's contact.

    None without a contact of at least ``MIN_CONTACT_DEG``, or with one all around.
    """
    touched = np.flatnonzero(ring.contact)
    if len(touched) == 0:
        return None
    gaps = np.diff(touched, append=touched[0] + RAYS)
    before = int(gaps.argmax())
    # The border lies half way between the last ray that touches and the next.
    step = 2 * math.pi / RAYS
    start = (touched[(before + 1) % len(touched)] - 0.5) * step
    width = (RAYS - gaps[before] + 1) * step
    return (start, width) if math.radians(MIN_CONTACT_DEG) <= width < 2 * math.pi else None


def _segment_of_rays(third: int, insertions: Insertions) -> np.ndarray:
    """Return the segment number of every ray, in a basal (0), mid-cavity (1) or apical (2) ring."""
    septum = abs(insertions.septum_rad)
    # From the anterior insertion, 0, through the septum to the inferior one and on around the free wall, to 2 pi.
    around = np.mod((_angles() - insertions.anterior_rad) * math.copysign(1, insertions.septum_rad), 2 * math.pi)
    if third == 2:
        quarter = np.mod(around - septum / 2 + math.pi / 4, 2 * math.pi) // (math.pi / 2)
        return np.array(_APICAL)[quarter.astype(int) % 4]
    free = (around - septum) / (2 * math.pi - septum)
    part = np.where(around < septum, 2 * around / septum, 2 + 4 * free).astype(int)
    return np.array(_BASAL_AND_MID[third])[np.minimum(part, 5)]


def _angles() -> np.ndarray:
    return np.arange(RAYS) * (2 * math.pi / RAYS)
