import math

import numpy as np
import pytest

from cardiac_cine.geometry import MM3_PER_ML, spacing_mm, voxel_volume_ml, with_margin


def an_affine(columns, origin=(-7.0, 40.0, 12.5)):
    affine = np.eye(4)
    affine[:3, :3] = np.transpose(columns)
    affine[:3, 3] = origin
    return affine


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ([(1.25, 0, 0), (0, 2.0, 0), (0, 0, 10.0)], (1.25, 2.0, 10.0)),
        ([(-1.25, 0, 0), (0, -2.0, 0), (0, 0, 10.0)], (1.25, 2.0, 10.0)),  # as DICOM's axes
        ([(0, 1.25, 0), (0, 0, 2.0), (10.0, 0, 0)], (1.25, 2.0, 10.0)),  # axes swapped
        ([(3, 4, 0), (-4, 3, 0), (0, 0, 8)], (5.0, 5.0, 8.0)),  # turned in plane
        ([(1, 2, 2), (-2, -1, 2), (4, -4, 2)], (3.0, 3.0, 6.0)),  # oblique
    ],
)
def test_spacing_is_the_length_of_the_columns(columns, expected):
    found = spacing_mm(an_affine(columns))
    assert found == pytest.approx(expected)
    assert all(type(value) is float for value in found)


@pytest.mark.parametrize(
    ("affine", "message"),
    [
        (np.eye(3), "affine must be a finite 4 x 4 matrix"),
        (np.full((4, 4), math.nan), "affine must be a finite 4 x 4 matrix, got .*nan"),
        (np.diag([1, 1, math.inf, 1]), "affine must be a finite 4 x 4 matrix, got .*inf"),
        (np.diag([1.5, 0, 8, 1]), r"affine has a zero spacing: \(1.5, 0.0, 8.0\) mm"),
    ],
)
def test_spacing_rejects(affine, message):
    with pytest.raises(ValueError, match=message):
        spacing_mm(affine)


@pytest.mark.parametrize(
    ("spacing", "expected"), [((1, 1, 1), 0.001), ((1.25, 2.0, 10.0), 0.025), (np.array([10, 10, 10]), 1.0)]
)
def test_voxel_volume(spacing, expected):
    assert MM3_PER_ML == 1000.0
    assert voxel_volume_ml(spacing) == pytest.approx(expected)


@pytest.mark.parametrize("spacing", [(1, 1), (1, 1, 1, 1), (1, 0, 1), (1, -1, 1), (1, 1, math.nan), (math.inf, 1, 1)])
def test_voxel_volume_rejects(spacing):
    with pytest.raises(ValueError, match="spacing must be three positive numbers in mm, got"):
        voxel_volume_ml(spacing)


@pytest.mark.parametrize(
    ("occupied", "margin", "expected"),
    [
        ([0, 0, 1, 0, 1, 0, 0], 1, slice(1, 6)),
        ([0, 0, 1, 0, 1, 0, 0], 0, slice(2, 5)),
        ([0, 1, 0, 0, 0, 0, 1], 2, slice(0, 7)),  # no further than the axis goes
        ([0, 0, 0], 1, slice(0, 3)),
    ],
)
def test_a_window_has_a_margin_within_its_axis(occupied, margin, expected):
    assert with_margin(np.array(occupied, bool), margin) == expected
