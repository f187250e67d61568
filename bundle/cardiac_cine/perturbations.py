"""What a segmentation should withstand: perturbations of a labelled stack. Pure functions on arrays.

Arrays are (x, y, z), slices along z. Whatever moves voxels moves the labels with them and changes the affine so that
every voxel that is left keeps its place in the world.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.polynomial.polynomial import polygrid3d
from scipy import ndimage

from cardiac_cine.geometry import spacing_mm
from cardiac_cine.levels import base_is_first

# The range that the bundle's preprocessing scales to 0-1; a few bright voxels do not stretch it.
RANGE_PERCENTILES = (0.5, 99.5)
# Cropped, the field of view loses a fifth of its width and of its height.
CROP_SHARE = 0.8
PADDED_SIZE = 512
# Odd along both axes, and neither divisible by what the network pads to.
ODD_SIZE = (187, 201)
# Largest value of each type of storage; scanners deliver 12 bits. Floats stay as they are.
STORED_MAXIMUM = {"float32": None, "int16": 4095, "uint8": 255}


@dataclass(frozen=True, eq=False)
class LabelledStack:
    """An image with its reference mask.

    Attributes:
        array: intensities, (x, y, z), float32; what is stored as another type has that type.
        label: uint8 label ids, (x, y, z).
        affine: 4 x 4 voxel-to-world matrix, mm.

    Raises:
        ValueError: the two arrays are not 3D and of one shape.
    """

    array: np.ndarray
    label: np.ndarray
    affine: np.ndarray

    def __post_init__(self) -> None:
        if self.array.ndim != 3 or self.array.shape != self.label.shape:
            raise ValueError(f"array and label must be 3D and of one shape, got {self.array.shape}, {self.label.shape}")


@dataclass(frozen=True)
class Perturbation:
    """One level of one family of perturbations.

    Attributes:
        name: the family, such as "rotations".
        level: what tells it from the family's others, in words.
        strongest: it is the strongest of a family that has weaker and stronger levels.
        apply: the function; it takes the stack and a random generator, which fixed perturbations leave alone.
        limited: whether a limit holds for it; else it informs only.
        on_disk: whether the image has to go through a file, in its array's own type.
    """

    name: str
    level: str
    strongest: bool
    apply: Callable[[LabelledStack, np.random.Generator], LabelledStack]
    limited: bool = True
    on_disk: bool = False


def flip(stack: LabelledStack, axis: int) -> LabelledStack:
    """Reverse the order in which voxels are stored along one axis: 0 for x, 1 for y, 2 for z."""
    to_old = np.eye(4)
    to_old[axis, [axis, 3]] = -1, stack.array.shape[axis] - 1
    return LabelledStack(np.flip(stack.array, axis), np.flip(stack.label, axis), stack.affine @ to_old)


def rotate(stack: LabelledStack, quarters: int) -> LabelledStack:
    """Rotate the stored slices by quarter turns, from x towards y, as :func:`numpy.rot90` does."""
    for _ in range(quarters % 4):
        swapped = LabelledStack(stack.array.swapaxes(0, 1), stack.label.swapaxes(0, 1), stack.affine[:, [1, 0, 2, 3]])
        stack = flip(swapped, 0)
    return stack


def resample(stack: LabelledStack, factor: float) -> LabelledStack:
    """Change the in-plane spacing: linear for the image, nearest for the labels.

    Args:
        stack: the stack.
        factor: new spacing over old. Above 1, the image is smoothed first, by as much as scikit-image's resize does.

    Returns:
        The same field of view, to half a new pixel.

    Raises:
        ValueError: ``factor`` is not positive.
    """
    if not factor > 0:
        raise ValueError(f"factor must be positive, got {factor}")
    columns, rows, slices = stack.array.shape
    shape = (max(1, round(columns / factor)), max(1, round(rows / factor)), slices)
    # Edges stay where they are, so the first centre moves by half the change in size.
    first = (factor - 1) / 2
    geometry: dict[str, Any] = {
        "matrix": [factor, factor, 1],
        "offset": [first, first, 0],
        "output_shape": shape,
        "mode": "nearest",
    }
    sd = max(0.0, first)
    smooth = ndimage.gaussian_filter(stack.array, (sd, sd, 0), mode="nearest") if sd else stack.array
    to_old = np.diag([factor, factor, 1.0, 1.0])
    to_old[:2, 3] = first
    return LabelledStack(
        ndimage.affine_transform(smooth, order=1, **geometry),
        ndimage.affine_transform(stack.label, order=0, **geometry),
        stack.affine @ to_old,
    )


def crop(stack: LabelledStack, size: tuple[int, int]) -> LabelledStack:
    """Cut the middle out of every slice, moved or widened by as little as the labels need to stay whole.

    Args:
        stack: the stack.
        size: along x and y; an axis that is no longer than this stays whole.
    """
    start, window = [0, 0, 0], [slice(None)] * 3
    for axis in (0, 1):
        total = stack.array.shape[axis]
        labelled = np.flatnonzero(stack.label.any(axis=(1 - axis, 2)))
        low, high = (labelled[0], labelled[-1] + 1) if len(labelled) else (total, 0)
        first = min(max(0, (total - size[axis]) // 2), int(low))
        last = max(min(total, first + size[axis]), int(high))
        first = min(max(0, last - size[axis]), int(low))
        start[axis], window[axis] = first, slice(first, last)
    cut = tuple(window)
    return LabelledStack(stack.array[cut], stack.label[cut], _starting_at(stack.affine, start))


def crop_share(stack: LabelledStack, share: float) -> LabelledStack:
    """Crop as :func:`crop` does, to a share of the width and of the height."""
    return crop(stack, (round(share * stack.array.shape[0]), round(share * stack.array.shape[1])))


def crop_to_odd(stack: LabelledStack, size: tuple[int, int]) -> LabelledStack:
    """Crop as :func:`crop` does, to an odd size, or to the largest odd size that a smaller image holds."""
    columns, rows = (min(wanted, n - 1 + n % 2) for wanted, n in zip(size, stack.array.shape[:2], strict=True))
    return crop(stack, (columns, rows))


def pad(stack: LabelledStack, size: int) -> LabelledStack:
    """Surround every slice with zeros to ``size`` pixels along x and y; a longer axis stays as it is."""
    missing = [max(0, size - n) for n in stack.array.shape[:2]]
    widths = [(gap // 2, gap - gap // 2) for gap in missing] + [(0, 0)]
    start = [-before for before, _ in widths]
    return LabelledStack(np.pad(stack.array, widths), np.pad(stack.label, widths), _starting_at(stack.affine, start))


def drop_middle_slice(stack: LabelledStack) -> LabelledStack:
    """Remove the middle one of the labelled slices; a stack with fewer than two of them stays as it is.

    The slices beyond the gap move up by one: no affine can tell of it.
    """
    labelled = np.flatnonzero(stack.label.any(axis=(0, 1)))
    if len(labelled) < 2:
        return stack
    middle = labelled[len(labelled) // 2]
    return LabelledStack(np.delete(stack.array, middle, 2), np.delete(stack.label, middle, 2), stack.affine)


def drop_basal_slice(stack: LabelledStack) -> LabelledStack:
    """Remove the most basal labelled slice and what lies beyond it, as in a stack that was placed too low.

    Where the labels do not tell base from apex, the first labelled slice counts as the most basal. A stack with fewer
    than two labelled slices stays as it is.
    """
    labelled = np.flatnonzero(stack.label.any(axis=(0, 1))).tolist()
    if len(labelled) < 2:
        return stack
    first, last = labelled[0] + 1, stack.array.shape[2]
    if base_is_first(stack.label) is False:
        first, last = 0, labelled[-1]
    kept = slice(first, last)
    return LabelledStack(stack.array[..., kept], stack.label[..., kept], _starting_at(stack.affine, [0, 0, first]))


def scale(stack: LabelledStack, factor: float) -> LabelledStack:
    """Multiply the intensities."""
    return replace(stack, array=stack.array * factor)


def shift(stack: LabelledStack, share: float) -> LabelledStack:
    """Add a share of the intensities' full range to all of them."""
    return replace(stack, array=stack.array + share * np.ptp(stack.array))


def invert(stack: LabelledStack) -> LabelledStack:
    """Make bright dark and dark bright, within the same range."""
    return replace(stack, array=stack.array.max() - (stack.array - stack.array.min()))


def gamma(stack: LabelledStack, exponent: float) -> LabelledStack:
    """Raise the intensities, scaled to 0-1, to a power, and scale back; a constant image stays as it is."""
    low, reach = stack.array.min(), np.ptp(stack.array) or 1
    return replace(stack, array=((stack.array - low) / reach) ** exponent * reach + low)


def gaussian_noise(stack: LabelledStack, rng: np.random.Generator, sd: float) -> LabelledStack:
    """Add noise to every voxel.

    Args:
        stack: the stack.
        rng: where the noise comes from.
        sd: standard deviation, as a share of the range between ``RANGE_PERCENTILES``.
    """
    return replace(stack, array=stack.array + _noise(stack, rng, sd))


def rician_noise(stack: LabelledStack, rng: np.random.Generator, sd: float) -> LabelledStack:
    """Add noise as a magnitude image has it: to both parts of a complex signal (Gudbjartsson and Patz 1995).

    Args:
        stack: the stack; the signal is what its voxels have above the darkest.
        rng: where the noise comes from.
        sd: standard deviation in either part, as a share of the range between ``RANGE_PERCENTILES``.
    """
    low = stack.array.min()
    real = stack.array - low + _noise(stack, rng, sd)
    return replace(stack, array=np.hypot(real, _noise(stack, rng, sd)) + low)


def blur(stack: LabelledStack, sd_mm: float) -> LabelledStack:
    """Blur every slice by a Gaussian of ``sd_mm``; slices are acquired one by one and do not mix."""
    x_mm, y_mm, _ = spacing_mm(stack.affine)
    return replace(stack, array=ndimage.gaussian_filter(stack.array, (sd_mm / x_mm, sd_mm / y_mm, 0), mode="nearest"))


def bias_field(stack: LabelledStack, rng: np.random.Generator, amplitude: float) -> LabelledStack:
    """Multiply the intensities by a smooth random field between 1 - ``amplitude`` and 1 + ``amplitude``.

    The field is a polynomial, quadratic in plane and linear across slices.
    """
    x, y, z = (np.linspace(-1, 1, size) for size in stack.array.shape)
    field = polygrid3d(x, y, z, rng.standard_normal((3, 3, 2)))
    field = 2 * (field - field.min()) / (np.ptp(field) or 1) - 1
    return replace(stack, array=(stack.array * (1 + amplitude * field)).astype(stack.array.dtype))


def store_as(stack: LabelledStack, dtype: str) -> LabelledStack:
    """Give the image a type of ``STORED_MAXIMUM``: whole numbers from 0 to that maximum, or floats as they are.

    A constant image becomes 0.

    Raises:
        ValueError: ``dtype`` is another type.
    """
    if dtype not in STORED_MAXIMUM:
        raise ValueError(f"dtype must be one of {list(STORED_MAXIMUM)}, got {dtype!r}")
    maximum = STORED_MAXIMUM[dtype]
    array = stack.array
    if maximum is not None:
        array = np.rint((array - array.min()) / (np.ptp(array) or 1) * maximum)
    return replace(stack, array=array.astype(dtype))


def _starting_at(affine: np.ndarray, start: list[int]) -> np.ndarray:
    """Return the affine of an array whose voxel 0 is voxel ``start`` of the one that has ``affine``."""
    to_old = np.eye(4)
    to_old[:3, 3] = start
    return affine @ to_old


def _noise(stack: LabelledStack, rng: np.random.Generator, sd: float) -> np.ndarray:
    low, high = np.percentile(stack.array, RANGE_PERCENTILES)
    return (rng.standard_normal(stack.array.shape) * (sd * (high - low))).astype(stack.array.dtype)


def _fixed(change: Callable[..., LabelledStack], *values: Any) -> Callable[..., LabelledStack]:
    return lambda stack, _: change(stack, *values)


def _random(change: Callable[..., LabelledStack], value: float) -> Callable[..., LabelledStack]:
    return lambda stack, rng: change(stack, rng, value)


PERTURBATIONS = (
    *(Perturbation("rotations", f"{90 * n} degrees", False, _fixed(rotate, n)) for n in (1, 2, 3)),
    *(Perturbation("flips", f"along {axis}", False, _fixed(flip, n)) for n, axis in enumerate("xy")),
    Perturbation("slice_order", "reversed", False, _fixed(flip, 2)),
    *(Perturbation("pixel_size", f"x {f:g}", f == 1.6, _fixed(resample, f)) for f in (0.6, 0.8, 1.25, 1.6)),
    *(Perturbation("intensity", f"x {factor:g}", False, _fixed(scale, factor)) for factor in (0.1, 10)),
    *(Perturbation("intensity", f"{n:+g} x range", False, _fixed(shift, n)) for n in (2, -2)),
    Perturbation("inverted_contrast", "whole range", False, _fixed(invert), limited=False),
    *(Perturbation("gamma", f"{n:g}", n == 1.5, _fixed(gamma, n)) for n in (0.7, 1.5)),
    *(Perturbation("gaussian_noise", f"sd {n:g}", n == 0.1, _random(gaussian_noise, n)) for n in (0.02, 0.05, 0.1)),
    *(Perturbation("rician_noise", f"sd {n:g}", n == 0.1, _random(rician_noise, n)) for n in (0.05, 0.1)),
    *(Perturbation("blur", f"sd {mm:g} mm", mm == 2, _fixed(blur, mm)) for mm in (1, 2)),
    *(Perturbation("bias_field", f"up to {n:.0%}", n == 0.5, _random(bias_field, n)) for n in (0.3, 0.5)),
    Perturbation("field_of_view", f"{1 - CROP_SHARE:.0%} less", False, _fixed(crop_share, CROP_SHARE)),
    Perturbation("missing_slice", "in the middle", False, _fixed(drop_middle_slice)),
    Perturbation("missing_slice", "at the base", False, _fixed(drop_basal_slice)),
    Perturbation("image_size", f"padded to {PADDED_SIZE}", False, _fixed(pad, PADDED_SIZE)),
    Perturbation("image_size", f"cropped to {ODD_SIZE[0]} x {ODD_SIZE[1]}", False, _fixed(crop_to_odd, ODD_SIZE)),
    *(Perturbation("storage", dtype, False, _fixed(store_as, dtype), on_disk=True) for dtype in STORED_MAXIMUM),
)
"""All levels, family by family."""
