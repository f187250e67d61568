import base64
import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from cardiac_cine.labels import LV, MYO, RV
from cardiac_cine.montage import base_is_known, base_to_apex, legend_line, montage, representative_slices
from cardiac_cine.views import OUTLINES, View

VIEW = View(slice(0, 12), slice(0, 8), 0.0, 255.0, (2.0, 1.0))


def a_heart(slices: int = 7, phases: int = 2) -> np.ndarray:
    """A heart that gets smaller from its base, slice 0, to the apex."""
    masks = np.zeros((12, 8, slices, phases), np.uint8)
    for z in range(slices):
        masks[: 12 - z, :7, z] = MYO
        masks[1 : 11 - z, 1:6, z] = LV
        masks[0, : 7 - z, z] = RV
    return masks


def test_slices_run_from_base_to_apex():
    masks = a_heart()
    assert base_to_apex(masks) == [0, 1, 2, 3, 4, 5, 6]
    assert base_to_apex(masks[:, :, ::-1]) == [6, 5, 4, 3, 2, 1, 0]
    assert base_to_apex(masks * 0) == [0, 1, 2, 3, 4, 5, 6]
    assert base_is_known(masks) and not base_is_known(masks * 0)


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        (range(7), {"basal": 1, "mid-ventricular": 3, "apical": 5}),
        (range(2, 5), {"basal": 2, "mid-ventricular": 3, "apical": 4}),
        (range(2, 4), {"mid-ventricular": 2, "apical": 3}),
        (range(3, 4), {"middle of the stack": 3}),  # one slice has no level
        (range(0), {"middle of the stack": 3}),
    ],
)
def test_representative_slices(keep, expected):
    masks = a_heart()
    masks[:, :, [z for z in range(7) if z not in keep]] = 0
    assert representative_slices(masks, [0, 1]) == expected


def test_representative_slices_hold_the_cavity_in_both_phases():
    masks = a_heart()
    masks[:, :, :2, 1] = 0
    assert representative_slices(masks, [0, 1]) == {"basal": 3, "mid-ventricular": 4, "apical": 5}
    assert representative_slices(masks[:, :, ::-1], [0]) == {"basal": 5, "mid-ventricular": 3, "apical": 1}


def test_tile_is_the_image_with_its_outlines():
    image = np.random.default_rng(0).integers(0, 256, (12, 8, 7, 2)).astype(np.int16)
    tiles = montage(image, a_heart(), VIEW, 1, "End-systole")
    assert [tile.number for tile in tiles] == [1, 2, 3, 4, 5, 6, 7]
    svg = ElementTree.fromstring(tiles[2].svg)
    assert svg.get("viewBox") == "0 0 24.00 8.00"
    assert svg.get("aria-label") == "End-systole, slice 3: RV endocardium, LV endocardium, LV epicardium"
    picture = svg.find("image")
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture.get("href").partition(",")[2]))))
    assert (pixels == image[:, :, 2, 1].T).all()
    assert [path.get("stroke") for path in svg.findall("path")] == [outline.on_image for outline in OUTLINES]
    # The cavity fills pixels 1 to 8 of 2 mm along x and 1 to 5 of 1 mm along y.
    points = np.array(re.findall(r"([\d.]+) ([\d.]+)", svg.findall("path")[1].get("d")), float)
    assert points.min(axis=0).tolist() == [2.0, 1.0]
    assert points.max(axis=0).tolist() == [18.0, 6.0]


def test_tile_without_a_mask_has_no_outline():
    (tile,) = montage(np.zeros((12, 8, 1, 1)), np.zeros((12, 8, 1, 1), np.uint8), VIEW, 0, "End-diastole")
    assert "<path" not in tile.svg
    assert 'aria-label="End-diastole, slice 1: no outline"' in tile.svg


@pytest.mark.parametrize("outline", OUTLINES, ids=lambda outline: outline.key)
def test_legend_shows_the_stroke(outline):
    path = ElementTree.fromstring(legend_line(outline)).find("path")
    assert path.get("stroke") == outline.on_image
    assert ("stroke-dasharray" in path.attrib) == bool(outline.dashes)
