"""The phantom's picture: bSSFP-like contrast of a heart in a thorax, all invented, nothing measured from a patient.

Blood and fat are bright, muscle dark grey, liver between, lung nearly black. Lengths are mm from the left ventricle's
centre, x towards the patient's left and back, y downwards. Signals are parts of the left ventricle's blood.
"""

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import gaussian_filter, zoom

from cardiac_cine.datasets.phantom_heart import MIN_BASE_FRACTION, Contours
from cardiac_cine.datasets.phantom_spec import PhantomSpec

# Stored value of the left ventricle's blood before the bias field.
BLOOD_VALUE = 260.0
BLOOD = 1.0
RV_BLOOD = 0.86
MYOCARDIUM = 0.30
PAPILLARY = 0.36
FAT = 1.05
MUSCLE = 0.25
LIVER = 0.42
LUNG = 0.05
AIR = 0.01
# Width over which an edge fades: the point spread of an acquisition at about 2 mm.
EDGE_MM = 2.2
RV_WALL_MM = 2.5
EPICARDIAL_FAT_MM = 3.0
# Above the base: centre (towards the right ventricle, and upwards across) and radius relative to the epicardium's
# largest radius, and signal, of the left and right atrium, the outflow tract and the aortic root.
GREAT_VESSELS = (
    ((-0.15, -0.35), 0.72, 0.95),
    ((1.0, -0.45), 0.72, 0.85),
    ((1.0, 0.6), 0.62, 0.85),
    ((0.2, 0.3), 0.43, 1.0),
)
# Independent streams of random numbers below the phantom's seed.
_PATIENT, _SLICE, _NOISE, _BIAS = 2, 3, 4, 5


def draw(spec: PhantomSpec, contours: Contours, frames: Sequence[int]) -> np.ndarray:
    """Draw frames of the cine.

    Args:
        spec: size, noise, bias and seed.
        contours: the heart's circles.
        frames: which to draw, counted from 0. A frame's voxels do not depend on which others are drawn.

    Returns:
        int16 array (x, y, z, t).
    """
    gain = BLOOD_VALUE * _bias_field(spec)[..., None]
    image = np.empty((*spec.shape, spec.slice_count, len(frames)), np.int16)
    for index in range(spec.slice_count):
        signal = np.repeat(_scenery(spec, contours, index)[..., None], len(frames), axis=2)
        _paint_heart(signal, spec, contours, index, frames)
        noise = np.stack([_noise(spec, index, frame) for frame in frames], axis=-1)
        image[:, :, index] = np.rint(np.hypot(signal + noise[0], noise[1]) * gain)
    return image


def pixel_centres_mm(spec: PhantomSpec) -> tuple[np.ndarray, np.ndarray]:
    """Return where the pixels lie, from the image's centre: x of shape (x, 1), y of shape (1, y)."""
    x, y = (
        (np.arange(size, dtype=np.float32) - (size - 1) / 2) * step
        for size, step in zip(spec.shape, spec.spacing_mm[:2], strict=True)
    )
    return x[:, None], y[None]


def _bias_field(spec: PhantomSpec) -> np.ndarray:
    """Return the gain (x, y): higher towards the front of the chest, where the coil lies."""
    x, _ = pixel_centres_mm(spec)
    uneven = _texture(spec, 90.0, np.random.default_rng([spec.seed, _BIAS]))
    return np.exp(spec.bias * (0.5 * uneven - x / 200)).astype(np.float32)


def _scenery(spec: PhantomSpec, contours: Contours, index: int) -> np.ndarray:
    """Return the signal (x, y) of all that does not beat in one slice."""
    x, y = (position - offset for position, offset in zip(pixel_centres_mm(spec), spec.centre_mm, strict=True))
    # The same numbers in every slice make one patient.
    patient = np.random.default_rng([spec.seed, _PATIENT])
    rng = np.random.default_rng([spec.seed, _SLICE, index])
    broad, fine = _texture(spec, 45.0, patient), _texture(spec, 12.0, rng)
    to_apex = float(np.clip(contours.depth[index, 0], -0.3, 1.3))
    # From outside: air, fat under the skin, two layers of muscle. The chest wall comes closer towards the apex.
    body = _ellipse(x - 24 - 34 * to_apex - patient.uniform(-6, 6), y - 40, 138 + patient.uniform(-8, 8), 240, 2.5)
    flesh = body + 16 + patient.uniform(-5, 5) + 8 * max(to_apex, 0) + 3 * broad
    inner = flesh + 13
    plane = np.full(spec.shape, AIR, np.float32)
    _blend(plane, FAT * (1 + 0.05 * fine), body)
    _blend(plane, MUSCLE + 0.03 * fine, flesh)
    _blend(plane, 0.8, np.abs(flesh + 8 + broad) - 0.9 - 0.8 * fine)
    # The diaphragm carries the heart and moves with the breath.
    carried = max(float(contours.epi_mm[index].max()), 0.5 * float(contours.epi_mm.max()))
    breath = contours.centre_mm[index, 1] - spec.centre_mm[1]
    diaphragm = carried + 4 + patient.uniform(-3, 3) + breath + 12 * ((x - 30) / 85) ** 2 - 3 * broad
    # Below it fat and bowel, stomach, spleen, and the liver with its vessels.
    abdomen = np.maximum(inner, diaphragm - y)
    _blend(plane, FAT * (0.75 + 0.1 * fine), abdomen)
    for _ in range(16):
        loop_x, loop_y = rng.uniform((-80, 85), (150, 220))
        loop = _ellipse(x - loop_x, y - loop_y, rng.uniform(10, 28), rng.uniform(10, 28), 2.2) + 3 * fine
        _blend(plane, 0.35, np.maximum(loop, abdomen))
        _blend(plane, rng.choice([0.1, 0.4, 0.5, 0.6]) + 0.08 * fine, np.maximum(loop + 2, abdomen))
    stomach = 3 * broad + _ellipse(
        x - patient.uniform(50, 74), y - 82, patient.uniform(32, 44), patient.uniform(22, 32), 2.2
    )
    _blend(plane, 0.33, np.maximum(stomach, abdomen + 2))
    _blend(plane, patient.uniform(0.15, 0.75) + 0.1 * fine, np.maximum(stomach + 4, abdomen + 5))
    spleen = _ellipse(x - patient.uniform(110, 126), y - 80, 24, 38, 2.0) + 3 * broad
    _blend(plane, 0.38 + 0.02 * fine, np.maximum(spleen, abdomen + 2))
    liver = 5 * broad + _ellipse(x + patient.uniform(40, 60), y - patient.uniform(80, 96), 88 - 20 * to_apex, 55, 2.4)
    vessels = np.clip(_texture(spec, 3.0, rng) - 1.9, 0, 1)
    _blend(plane, LIVER * (1 + 0.06 * fine + vessels), np.maximum(liver, abdomen + 2))
    # Above it ribs, and between them the lung with its vessels.
    lung_x = 34 + 12 * to_apex
    first_rib = patient.uniform(-1, 1) + 0.5 * to_apex
    for rib in range(18):
        turn = np.pi * (0.75 + (rib + first_rib) / 12)
        bone = np.hypot((x - lung_x - 118 * np.cos(turn)) / 1.2, y - 10 - 140 * np.sin(turn)) - 4.5
        _blend(plane, 0.12, np.maximum(bone, flesh + 5))
        _blend(plane, 0.6, np.maximum(bone + 1.6, flesh + 5))
    lung = _ellipse(x - lung_x, y - 10, 112 - 6 * to_apex, 135 - 18 * to_apex, 2.2) + 4 * broad
    lung = np.maximum(np.maximum(inner, y - diaphragm), lung)
    _blend(plane, LUNG, lung)
    for _ in range(60):
        vessel_x, vessel_y = rng.normal((45, -35), (40, 40))
        vessel = _ellipse(x - vessel_x, y - vessel_y, rng.gamma(3, 0.7) + 0.6, rng.gamma(3, 0.7) + 0.6, 2.0)
        _blend(plane, rng.uniform(0.1, 0.5), np.maximum(vessel, lung + 4))
    return gaussian_filter(plane, [0.7 / step for step in spec.spacing_mm[:2]])


def _noise(spec: PhantomSpec, index: int, frame: int) -> np.ndarray:
    """Return the noise of both channels of one slice in one frame, (2, x, y)."""
    rng = np.random.default_rng([spec.seed, _NOISE, index, frame])
    return spec.noise_sd * rng.standard_normal((2, *spec.shape), dtype=np.float32)


def _paint_heart(signal: np.ndarray, spec: PhantomSpec, contours: Contours, index: int, frames: Sequence[int]) -> None:
    """Paint one slice's heart in the given frames over ``signal`` (x, y, t), in place."""
    patient = np.random.default_rng([spec.seed, _PATIENT])
    rng = np.random.default_rng([spec.seed, _SLICE, index])
    scale = float(contours.epi_mm.max())
    centre = contours.centre_mm[index]
    x, y = (position - offset for position, offset in zip(pixel_centres_mm(spec), centre, strict=True))
    reach = max(2.6 * scale, float((contours.rv_mm + contours.rv_offset_mm).max()) + 15)
    window = np.ix_(np.abs(x[:, 0]) < reach, np.abs(y[0]) < reach)
    x, y = x[window[0][:, 0]][..., None], y[:, window[1][0]][..., None]
    fleck, grain, cloud, drift = (_texture(spec, sigma, rng)[window][..., None] for sigma in (2.0, 3.0, 6.0, 18.0))
    target = signal[window]
    # Coordinates towards the right ventricle and upwards across.
    e_x, e_y = contours.rv_direction
    along, across = x * e_x + y * e_y, y * e_x - x * e_y
    from_centre = np.hypot(x, y)
    cavity = _from_disc(from_centre, contours.lv_mm[index, frames])
    wall = _from_disc(from_centre, contours.epi_mm[index, frames])
    rv = _from_disc(np.hypot(along - contours.rv_offset_mm[index, frames], across), contours.rv_mm[index, frames])
    depth = contours.depth[index, frames]

    below_base = contours.base_fraction[index, frames]
    above_base = np.where(below_base < MIN_BASE_FRACTION, 1, 1 - below_base)
    around_vessels = np.hypot(along - 0.45 * scale, across) - 1.25 * scale
    _blend(target, FAT * (0.7 + 0.15 * cloud), around_vessels, above_base)
    for (vessel_along, vessel_across), radius, value in GREAT_VESSELS:
        vessel = np.hypot(along - vessel_along * scale, across - vessel_across * scale)
        vessel = vessel - radius * patient.uniform(0.9, 1.1) * scale
        _blend(target, 0.35, vessel - 1.8, above_base)
        _blend(target, value * (1 + 0.05 * cloud), vessel, above_base)
    pad = from_centre - patient.uniform(0.35, 0.55) * scale
    _blend(target, FAT * (0.7 + 0.15 * cloud), pad, np.clip(depth - 1, 0, 0.8))

    turn = np.arctan2(across, along)
    groove = 0.3 * np.cos(turn) + 0.7 * np.cos(2 * turn + patient.uniform(-3, 3))
    fat = np.maximum(EPICARDIAL_FAT_MM * (groove + 0.8 * drift), 0)
    fat = fat * np.minimum(contours.epi_mm[index, frames] / (0.6 * scale), 1)
    _blend(target, FAT * (0.85 + 0.1 * cloud), np.minimum(wall, rv - RV_WALL_MM) - fat)
    _blend(target, MYOCARDIUM, rv - RV_WALL_MM)
    trabeculae = 0.4 * np.clip(fleck - 0.4, 0, 1) * np.clip(1 + rv / 14, 0, 1)
    _blend(target, RV_BLOOD * (1 - trabeculae + 0.05 * cloud), rv)
    # Walls that slant through the slice fade.
    width = EDGE_MM + np.minimum(contours.softness_mm[index, frames], 4)
    _blend(target, MYOCARDIUM * (1 + 0.07 * grain), wall, width=width)
    trabeculae = 0.35 * np.clip(fleck, 0, 1.5) * np.clip(1 + cavity / 5, 0, 1)
    _blend(target, BLOOD * (1 - trabeculae + 0.04 * cloud), cavity, width=width)
    # The papillary muscles keep their size and come together as the cavity shrinks around them.
    visible = np.clip(6 * (depth - 0.12), 0, 1) * np.clip(5 * (0.85 - depth), 0, 1)
    radius = 0.155 * float(contours.lv_mm.max())
    off_centre = np.maximum(contours.lv_mm[index, frames] - 1.15 * radius, 0)
    for side in (1, -1):
        place = np.pi + side * patient.uniform(0.7, 1.0)
        muscle = np.hypot(along - off_centre * np.cos(place), across - off_centre * np.sin(place)) - radius
        _blend(target, PAPILLARY, np.maximum(muscle + grain, cavity), visible)
    signal[window] = target


def _from_disc(from_centre: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Return the signed distance to a disc, far away where its radius is 0."""
    return np.where(radius > 0, from_centre - radius, 1e3)


def _ellipse(x: np.ndarray, y: np.ndarray, half_x: float, half_y: float, power: float) -> np.ndarray:
    """Return about the signed distance to a superellipse around the origin, negative inside."""
    level = (np.abs(x / half_x) ** power + np.abs(y / half_y) ** power) ** (1 / power)
    return (level - 1) * min(half_x, half_y)


def _blend(
    target: np.ndarray,
    value: np.ndarray | float,
    distance: np.ndarray,
    opacity: np.ndarray | float = 1.0,
    width: np.ndarray | float = EDGE_MM,
) -> None:
    """Paint ``value`` in place where the signed distance in mm is negative, fading over ``width`` mm."""
    share = np.clip(0.5 - distance / width, 0, 1) * opacity
    target += share * (value - target)


def _texture(spec: PhantomSpec, feature_mm: float, rng: np.random.Generator) -> np.ndarray:
    """Return smooth noise (x, y) with a standard deviation of 1 and features of about ``feature_mm``."""
    cells = [int(size * step / feature_mm) + 4 for size, step in zip(spec.shape, spec.spacing_mm[:2], strict=True)]
    factors = [size / (count - 3) for size, count in zip(spec.shape, cells, strict=True)]
    smooth = zoom(rng.standard_normal(cells, dtype=np.float32), factors, order=3)
    smooth = smooth[: spec.shape[0], : spec.shape[1]]
    return smooth / smooth.std()
