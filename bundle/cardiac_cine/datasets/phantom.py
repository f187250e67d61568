"""A beating short-axis heart whose volumes and ejection fractions are known analytically.

Source: computed here, nothing is measured from a patient; see :mod:`~cardiac_cine.datasets.phantom_heart` for the
geometry and :mod:`~cardiac_cine.datasets.phantom_image` for the picture. Spacing, slices and phases are free as far as
the heart fits; every voxel follows from the seed.

- Labels: 0 background, 1 RV cavity, 2 LV myocardium, 3 LV cavity, the ids used here. Papillary muscles count to the
  cavity, as in ACDC.
- Arrays are (x, y, z, t), slices from base to apex, end-diastole first. Frame numbers in file names and in
  ``Info.cfg`` count from 1 as in ACDC, frame indices in :class:`PhantomTruth` from 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy.ndimage import label
from tqdm import tqdm

from cardiac_cine import files
from cardiac_cine.datasets.phantom_heart import Contours, Heart, lens_area
from cardiac_cine.datasets.phantom_image import draw, pixel_centres_mm
from cardiac_cine.datasets.phantom_spec import GROUPS, PhantomSpec, PhantomTruth, random_spec
from cardiac_cine.errors import InputError
from cardiac_cine.labels import BACKGROUND, LV, MYO, RV

__all__ = [
    "GROUPS",
    "PhantomCine",
    "PhantomSpec",
    "PhantomTruth",
    "random_spec",
    "render",
    "training_items",
    "write_acdc",
    "write_cine",
    "write_frame",
]

# From base to apex in the NIfTI world (right, anterior, superior): a usual heart points left, forwards and down.
_BASE_TO_APEX = (-0.65, 0.60, -0.46)
# ACDC's axes, and DICOM's for an axial stack: left, posterior, superior.
_UNTILTED = np.diag([-1.0, -1.0, 1.0])
# A stream of random numbers below the seed that no voxel uses.
_STATURE = 6


@dataclass(frozen=True)
class PhantomCine:
    """A rendered phantom.

    Attributes:
        image: int16 (x, y, z, t).
        mask: uint8 labels 0-3 (x, y, z, t).
        frames: the frames of the cycle along t, counted from 0.
        affine: 4 x 4 voxel to world, mm, NIfTI's axes.
        spec: what it was rendered from.
        truth: what is true of it.
    """

    image: np.ndarray
    mask: np.ndarray
    frames: tuple[int, ...]
    affine: np.ndarray
    spec: PhantomSpec
    truth: PhantomTruth


def render(spec: PhantomSpec, frames: Sequence[int] | None = None) -> PhantomCine:
    """Render a phantom.

    Args:
        spec: the phantom.
        frames: which frames of the cycle, counted from 0; None renders all. A frame's voxels are the same either way.

    Raises:
        InputError: (a ValueError) the pixels are too coarse for the wall or the cavity, the field of view is too
            small for the heart, or there is no such frame.
    """
    chosen = tuple(range(spec.phases) if frames is None else frames)
    if not chosen or not set(chosen) <= set(range(spec.phases)):
        raise InputError(f"frames must be from 0 to {spec.phases - 1}, got {frames!r}")
    contours = Heart(spec).contours()
    return PhantomCine(
        image=draw(spec, contours, chosen),
        mask=_label(spec, contours, chosen),
        frames=chosen,
        affine=_affine(spec),
        spec=spec,
        truth=spec.truth(),
    )


def write_frame(cine: PhantomCine, frame: int, image_path: str | Path, mask_path: str | Path) -> None:
    """Write one frame and its mask as 3D NIfTI files, each whole or not at all.

    Args:
        cine: the rendered phantom.
        frame: of the cycle, counted from 0.
        image_path: ``.nii`` or ``.nii.gz``; its folder is made where missing.
        mask_path: the same for the mask.

    Raises:
        InputError: (a ValueError) the frame was not rendered, or a path has another extension.
    """
    if frame not in cine.frames:
        raise InputError(f"frame must be one of {cine.frames}, got {frame!r}")
    position = cine.frames.index(frame)
    _write_nifti(cine.image[..., position], cine, Path(image_path))
    _write_nifti(cine.mask[..., position], cine, Path(mask_path))


def write_cine(cine: PhantomCine, image_path: str | Path, mask_path: str | Path | None = None) -> None:
    """Write the whole cycle as one 4D NIfTI file, each file whole or not at all.

    Args:
        cine: the rendered phantom.
        image_path: ``.nii`` or ``.nii.gz``; its folder is made where missing. The fourth zoom is the time between
            frames in seconds.
        mask_path: the same for the masks; None writes none.

    Raises:
        InputError: (a ValueError) a path has another extension, or only some frames were rendered.
    """
    if cine.frames != tuple(range(cine.spec.phases)):
        raise InputError(f"cine holds the frames {cine.frames}, expected all of 0 to {cine.spec.phases - 1}")
    _write_nifti(cine.image, cine, Path(image_path))
    if mask_path is not None:
        _write_nifti(cine.mask, cine, Path(mask_path))


def write_acdc(
    out_dir: str | Path, patients: int, seed: int = 0, *, cines: bool = False, **fields: Any
) -> dict[str, PhantomTruth]:
    """Write a folder of phantoms laid out as ACDC's training split.

    Args:
        out_dir: gets ``patientXXX/`` with ``Info.cfg``, the frames at end-diastole and end-systole and their
            references, numbered from 001; made where missing.
        patients: how many, 1 to 999; the five pathology groups take turns.
        seed: of the first patient; the others count up from it.
        cines: write ``patientXXX_4d.nii.gz`` too.
        fields: fields of :class:`PhantomSpec` to set for all patients instead of drawing them.

    Returns:
        Patient to truth.

    Raises:
        InputError: (a ValueError) ``patients`` or ``seed`` is out of range, or a field makes no phantom.
        TypeError: there is no such field.
    """
    if not (isinstance(patients, int) and 1 <= patients <= 999):
        raise InputError(f"patients must be an integer from 1 to 999, got {patients!r}")
    if not (isinstance(seed, int) and seed >= 0):
        raise InputError(f"seed must be an integer of at least 0, got {seed!r}")
    truths = {}
    for index in tqdm(range(patients), "phantoms", disable=None):
        group = GROUPS[index % len(GROUPS)]
        spec = random_spec(seed + index, group, **fields)
        cine = render(spec, None if cines else (0, spec.es_frame))
        name = f"patient{index + 1:03d}"
        folder = Path(out_dir) / name
        for frame in (cine.truth.ed_frame, cine.truth.es_frame):
            stem = f"{name}_frame{frame + 1:02d}"
            write_frame(cine, frame, folder / f"{stem}.nii.gz", folder / f"{stem}_gt.nii.gz")
        if cines:
            write_cine(cine, folder / f"{name}_4d.nii.gz")
        # Last, so that a folder with an Info.cfg is complete.
        with files.staged(folder / "Info.cfg") as target:
            target.write_text(_info(cine, group))
        truths[name] = cine.truth
    return truths


def training_items(out_dir: str | Path, patients: int, seed: int = 1000) -> list[dict[str, Any]]:
    """Write phantoms as :func:`write_acdc` does and return their frames as the dictionaries MONAI's datasets take.

    Mixed into the training data, they teach the network the phantom's looks, so that the phantoms of the demo, which
    have other seeds, say how well the pipeline measures rather than how odd a phantom looks.

    Args:
        out_dir: folder for the phantoms.
        patients: how many; with 0 nothing is written.
        seed: of the first one.

    Raises:
        InputError: as for :func:`write_acdc`.
    """
    if patients == 0:
        return []
    from cardiac_cine.datasets import acdc

    write_acdc(out_dir, patients, seed)
    datalist, _ = acdc.scan(Path(out_dir))
    return [case.item() for case in datalist.cases[: 2 * patients]]


def _label(spec: PhantomSpec, contours: Contours, frames: Sequence[int]) -> np.ndarray:
    """Return the mask (x, y, z, t): every structure gets the pixels that its area amounts to, nearest first."""
    columns, rows = pixel_centres_mm(spec)
    pixel_mm2 = spec.spacing_mm[0] * spec.spacing_mm[1]
    mask = np.zeros((*spec.shape, spec.slice_count, len(frames)), np.uint8)
    for index, (centre_x, centre_y) in enumerate(contours.centre_mm):
        x, y = columns - centre_x, rows - centre_y
        nearest = np.argsort(np.hypot(x, y), axis=None, kind="stable")
        for position, frame in enumerate(frames):
            lv, epi, rv = (c[index, frame] for c in (contours.lv_mm, contours.epi_mm, contours.rv_mm))
            labels = np.zeros(spec.shape, np.uint8)
            labels.flat[nearest[: round(np.pi * epi**2 / pixel_mm2)]] = MYO
            labels.flat[nearest[: round(np.pi * lv**2 / pixel_mm2)]] = LV
            if rv > 0:
                offset = contours.rv_offset_mm[index, frame]
                rv_x, rv_y = offset * contours.rv_direction
                from_rv = np.where(labels == BACKGROUND, np.hypot(x - rv_x, y - rv_y), np.inf)
                count = round(float(np.pi * rv**2 - lens_area(rv, epi, offset)) / pixel_mm2)
                labels.flat[np.argpartition(from_rv, count, axis=None)[:count]] = RV
                _drop_loose_pixels(labels)
            mask[:, :, index, position] = labels
    return mask


def _drop_loose_pixels(labels: np.ndarray) -> None:
    """Clear in place what the raster cuts off the tips of the right ventricle's crescent."""
    parts, count = label(labels == RV)
    if count > 1:
        largest = np.bincount(parts.ravel())[1:].argmax() + 1
        labels[(parts > 0) & (parts != largest)] = BACKGROUND


def _affine(spec: PhantomSpec) -> np.ndarray:
    """Return the affine with the world's origin in the middle of the stack."""
    affine = np.eye(4)
    affine[:3, :3] = (_short_axis() if spec.oblique else _UNTILTED) * spec.spacing_mm
    middle = (np.array([*spec.shape, spec.slice_count]) - 1) / 2
    affine[:3, 3] = -affine[:3, :3] @ middle
    return affine


def _short_axis() -> np.ndarray:
    """Return unit columns: x to the patient's left and back, y as far down as the plane allows, z to the apex."""
    z = np.array(_BASE_TO_APEX) / np.linalg.norm(_BASE_TO_APEX)
    y = np.array([0.0, 0.0, -1.0])
    y = y - (y @ z) * z
    y /= np.linalg.norm(y)
    return np.stack([np.cross(z, y), y, z], axis=1)


def _write_nifti(array: np.ndarray, cine: PhantomCine, path: Path) -> None:
    if not path.name.endswith((".nii", ".nii.gz")):
        raise InputError(f"{path}: expected a name that ends in .nii or .nii.gz")
    nifti = nib.Nifti1Image(array, cine.affine)
    nifti.set_qform(cine.affine, code=1)
    nifti.set_sform(cine.affine, code=1)
    times = (cine.spec.frame_time_s,) if array.ndim == 4 else ()
    nifti.header.set_zooms((*cine.spec.spacing_mm, *times))
    nifti.header.set_xyzt_units("mm", "sec")
    with files.staged(path) as target:
        nib.save(nifti, target)


def _info(cine: PhantomCine, group: str) -> str:
    rng = np.random.default_rng([cine.spec.seed, _STATURE])
    height = rng.uniform(155, 190)
    weight = rng.uniform(20, 30) * (height / 100) ** 2
    lines = {
        "ED": cine.truth.ed_frame + 1,
        "ES": cine.truth.es_frame + 1,
        "Group": group,
        "Height": f"{height:.1f}",
        "NbFrame": cine.spec.phases,
        "Weight": f"{weight:.1f}",
    }
    return "".join(f"{key}: {value}\n" for key, value in lines.items())
