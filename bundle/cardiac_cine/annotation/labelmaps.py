"""A viewer's labelmap, plane after plane, as a mask: its planes go by the images they lie on, its values by name."""

from collections.abc import Mapping, Sequence

import numpy as np

from cardiac_cine.annotation.mask_files import structure_id
from cardiac_cine.errors import InputError
from cardiac_cine.labels import STRUCTURE_KEYS


def mask_from_planes(
    voxels: bytes,
    planes: Sequence[str],
    names: Mapping[str, str],
    *,
    images: Sequence[str],
    shape: tuple[int, int, int],
) -> np.ndarray:
    """Return what was drawn as label ids.

    Args:
        voxels: one byte each, x fastest, then y, then the planes in the order of ``planes``.
        planes: SOP instance UIDs of the images that the planes lie on.
        names: value, as text, to what was drawn with it: a structure's key or name.
        images: SOP instance UIDs of the slices that there are, in the order of z.
        shape: of the result.

    Returns:
        uint8 label ids 0-3, (x, y, z); z in the order of ``images``, whichever that of ``planes`` is.

    Raises:
        InputError: planes that are not the images, another number of voxels, or a value without a structure's name.
    """
    problems = []
    if sorted(planes) != sorted(images) or len(images) != shape[2]:
        problems.append(f"planes: {len(planes)} UIDs, expected those of the {len(images)} images, each once")
    if len(voxels) != np.prod(shape):
        problems.append(f"voxels: {len(voxels)} bytes, expected {' x '.join(map(str, shape))}")
    drawn = np.frombuffer(voxels, np.uint8)
    ids = {number: structure_id(names.get(str(number), "")) for number in np.unique(drawn).tolist() if number}
    problems += [
        f"value {number}: drawn as {names.get(str(number), '')[:64]!r}, expected one of {', '.join(STRUCTURE_KEYS)}"
        for number, label in ids.items()
        if label is None
    ]
    if problems:
        raise InputError(problems)
    table = np.zeros(256, np.uint8)
    for number, label in ids.items():
        table[number] = label or 0
    mask = np.empty(shape, np.uint8)
    mask[:, :, [images.index(uid) for uid in planes]] = table[drawn].reshape(shape[::-1]).T
    return mask
