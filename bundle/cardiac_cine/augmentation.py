"""Random transforms of a whole batch of slices at once, on the device that trains.

MONAI's random transforms work sample by sample, each with its own interpolation, which takes longer than a training
step of a small 2D network. Here one resampling does rotation, scaling, flips, shift, elastic deformation and the crop,
and every further step is a few tensor operations for the whole batch. All draws come from torch's global generator of
the batch's device, so a seed fixes them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Strength:
    """How often and how far each transform goes. Lengths are pixels of the batch, intensities are parts of 0 to 1.

    Attributes:
        rotate_prob: share of slices rotated by up to ``rotate_degrees`` either way.
        scale_prob: share scaled by a factor within ``scale_range``, each axis by up to ``stretch`` more or less.
        symmetry_prob: share put through a random quarter turn or flip, the stored orientations that scanners and
            converters differ by.
        shift: largest shift of the crop from the image's centre along each axis.
        elastic_prob: share deformed by a smooth random field of ``elastic_sd`` on a grid of ``elastic_nodes``.
        bias_prob: share multiplied by a smooth random field, its logarithm of ``bias_sd`` on four by four nodes.
        blur_prob: share blurred by a Gaussian of standard deviation within ``blur_range``.
        low_resolution_prob: share sampled down and up again by a factor within ``low_resolution_range``.
        contrast_prob: share whose contrast about the mean is multiplied within ``contrast_range``.
        brightness_prob: share shifted by a normal draw of ``brightness_sd``.
        gamma_prob: share raised to a power within ``gamma_range``.
        invert_prob: share with dark and bright swapped, as in sequences of another contrast.
        noise_prob: share with Gaussian noise of a standard deviation up to ``noise_sd``.
        lost_prob: share of neighbours that are taken away, as where a slice was not acquired.
    """

    rotate_prob: float = 0.6
    rotate_degrees: float = 30.0
    scale_prob: float = 0.6
    scale_range: tuple[float, float] = (0.8, 1.3)
    stretch: float = 0.1
    symmetry_prob: float = 0.15
    shift: float = 24.0
    elastic_prob: float = 0.3
    elastic_sd: float = 4.0
    elastic_nodes: int = 6
    bias_prob: float = 0.2
    bias_sd: float = 0.25
    blur_prob: float = 0.05
    blur_range: tuple[float, float] = (0.4, 1.5)
    low_resolution_prob: float = 0.05
    low_resolution_range: tuple[float, float] = (1.2, 2.5)
    contrast_prob: float = 0.2
    contrast_range: tuple[float, float] = (0.6, 1.5)
    brightness_prob: float = 0.2
    brightness_sd: float = 0.1
    gamma_prob: float = 0.2
    gamma_range: tuple[float, float] = (0.6, 1.7)
    invert_prob: float = 0.02
    noise_prob: float = 0.3
    noise_sd: float = 0.08
    lost_prob: float = 0.02

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name.endswith("_prob") and not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}, expected a probability from 0 to 1")


class BatchAugmentation:
    """A trainer's ``prepare_batch``: move a batch to the device, then augment and crop it there.

    Args:
        size: in-plane size of the crop that the network gets.
        strength: fields of :class:`Strength` to change, by name.

    Raises:
        TypeError: ``strength`` names a field that there is not.
        ValueError: a probability outside 0 to 1.
    """

    def __init__(self, size: Sequence[int], strength: Mapping[str, Any] | None = None) -> None:
        self.size = (int(size[0]), int(size[1]))
        self.strength = Strength(**(strength or {}))

    def __call__(
        self,
        batch: Mapping[str, Tensor],
        device: torch.device | str | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """Return ``image`` (b, c, *size) float32 and ``label`` (b, 1, *size) uint8 on ``device``.

        Args:
            batch: ``image`` (b, c, x, y) float, the slice in the middle of its neighbours, ``label`` (b, 1, x, y) ids.
            device: where to compute.
            non_blocking: as for :meth:`torch.Tensor.to`.
            kwargs: further arguments for :meth:`torch.Tensor.to`.
        """
        image = batch["image"].to(device, non_blocking=non_blocking, **kwargs)
        label = batch["label"].to(device, non_blocking=non_blocking, **kwargs)
        image = lose_neighbours(image, self.strength)
        # A neighbour that there is not stays 0 whatever happens to the others.
        present = image.flatten(2).any(-1)[..., None, None]
        image, label = warp(image, label, self.size, self.strength)
        return change_intensities(image, self.strength) * present, label


def lose_neighbours(image: Tensor, strength: Strength) -> Tensor:
    """Take some neighbours away.

    Args:
        image: (b, c, x, y), the slice in the middle of its neighbours.
        strength: see :class:`Strength`.

    Returns:
        The changed image, of the same shape; an image of one channel as it is.
    """
    count, channels = image.shape[:2]
    if channels == 1:
        return image
    lost = _chosen(strength.lost_prob, count * channels, image.device).view(count, channels, 1, 1)
    lost[:, channels // 2] = 0
    return image * (1 - lost)


def warp(image: Tensor, label: Tensor, size: tuple[int, int], strength: Strength) -> tuple[Tensor, Tensor]:
    """Rotate, scale, flip, shift, deform and crop in one resampling: linear for images, nearest for labels.

    Args:
        image: (b, c, x, y) float.
        label: (b, 1, x, y) ids.
        size: in-plane output size.
        strength: see :class:`Strength`.

    Returns:
        Image and label of ``size``; what lies outside the input is 0.
    """
    count, device = len(image), image.device
    angle = (
        math.radians(strength.rotate_degrees) * _symmetric(count, device) * _chosen(strength.rotate_prob, count, device)
    )
    zoom = _log_uniform(strength.scale_range, strength.scale_prob, count, device)
    stretch = (strength.stretch * _symmetric(count, device) * _chosen(strength.scale_prob, count, device)).exp()
    cos, sin = angle.cos(), angle.sin()
    turn = torch.stack([cos, -sin, sin, cos], 1).view(-1, 2, 2)
    scale = torch.diag_embed(1 / torch.stack([zoom * stretch, zoom / stretch], 1))
    matrix = _symmetries(strength.symmetry_prob, count, device) @ turn @ scale

    axes = [torch.arange(n, device=device, dtype=torch.float32) - (n - 1) / 2 for n in size]
    pixels = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    points = torch.einsum("bij,xyj->bxyi", matrix, pixels)
    points = points + (strength.shift * (2 * torch.rand(count, 1, 1, 2, device=device) - 1))
    nodes = torch.randn(count, 2, strength.elastic_nodes, strength.elastic_nodes, device=device) * strength.elastic_sd
    nodes = nodes * _chosen(strength.elastic_prob, count, device).view(-1, 1, 1, 1)
    points = points + F.interpolate(nodes, size, mode="bicubic", align_corners=True).movedim(1, -1)
    # grid_sample wants the last axis first and the image's edges at -1 and 1.
    half = torch.tensor(image.shape[2:], device=device) / 2
    grid = (points / half).flip(-1)
    warped = F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    ids = F.grid_sample(label.float(), grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return warped, ids.to(torch.uint8)


def change_intensities(image: Tensor, strength: Strength) -> Tensor:
    """Change bias field, sharpness, resolution, contrast, brightness, gamma, polarity and noise.

    Args:
        image: (b, c, x, y), about 0 to 1; all channels of a slice change alike but for noise.
        strength: see :class:`Strength`.

    Returns:
        The changed image, of the same shape.
    """
    count, device = len(image), image.device
    nodes = torch.randn(count, 1, 4, 4, device=device) * strength.bias_sd
    nodes = nodes * _chosen(strength.bias_prob, count, device).view(-1, 1, 1, 1)
    image = image * F.interpolate(nodes, image.shape[2:], mode="bicubic", align_corners=True).exp()

    blurred = _chosen(strength.blur_prob, count, device).nonzero().flatten()
    if len(blurred):
        image = image.index_copy(0, blurred, _blur(image[blurred], strength.blur_range))
    coarse = _chosen(strength.low_resolution_prob, count, device).nonzero().flatten()
    if len(coarse):
        image = image.index_copy(0, coarse, _lower_resolution(image[coarse], strength.low_resolution_range))

    mean = image.mean((1, 2, 3), keepdim=True)
    contrast = _log_uniform(strength.contrast_range, strength.contrast_prob, count, device).view(-1, 1, 1, 1)
    brightness = (
        strength.brightness_sd * torch.randn(count, device=device) * _chosen(strength.brightness_prob, count, device)
    )
    image = (image - mean) * contrast + mean + brightness.view(-1, 1, 1, 1)

    gamma = _log_uniform(strength.gamma_range, strength.gamma_prob, count, device).view(-1, 1, 1, 1)
    low, high = image.amin((1, 2, 3), keepdim=True), image.amax((1, 2, 3), keepdim=True)
    reach = (high - low).clamp_min(1e-6)
    image = ((image - low) / reach).pow(gamma)
    inverted = _chosen(strength.invert_prob, count, device).view(-1, 1, 1, 1)
    image = torch.where(inverted.bool(), 1 - image, image) * reach + low

    sd = strength.noise_sd * torch.rand(count, device=device) * _chosen(strength.noise_prob, count, device)
    return image + torch.randn_like(image) * sd.view(-1, 1, 1, 1)


def _chosen(probability: float, count: int, device: torch.device) -> Tensor:
    """Return 1 for a random share of ``count`` slices and 0 for the others."""
    return (torch.rand(count, device=device) < probability).float()


def _symmetric(count: int, device: torch.device) -> Tensor:
    return 2 * torch.rand(count, device=device) - 1


def _log_uniform(limits: tuple[float, float], probability: float, count: int, device: torch.device) -> Tensor:
    """Return factors within ``limits`` for a random share of ``count`` slices and 1 for the others."""
    low, high = (math.log(limit) for limit in limits)
    draw = low + (high - low) * torch.rand(count, device=device)
    return (draw * _chosen(probability, count, device)).exp()


def _symmetries(probability: float, count: int, device: torch.device) -> Tensor:
    """Return the identity, or for a random share one of the eight symmetries of the square, as (b, 2, 2)."""
    chosen = _chosen(probability, count, device)
    signs = 1 - 2 * chosen[:, None] * torch.randint(0, 2, (count, 2), device=device)
    swap = (chosen * torch.randint(0, 2, (count,), device=device)).bool()
    plain = torch.diag_embed(signs)
    return torch.where(swap[:, None, None], plain.flip(-1), plain)


def _blur(image: Tensor, limits: tuple[float, float]) -> Tensor:
    """Blur each slice by its own Gaussian, rows then columns, as one grouped convolution each."""
    count, device = len(image), image.device
    sd = limits[0] + (limits[1] - limits[0]) * torch.rand(count, 1, device=device)
    reach = math.ceil(3 * limits[1])
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=device) / sd) ** 2)
    taps = taps / taps.sum(1, keepdim=True)
    stacked = image.movedim(1, 0)
    for kernel, pad in (
        (taps.view(count, 1, -1, 1), (0, 0, reach, reach)),
        (taps.view(count, 1, 1, -1), (reach, reach, 0, 0)),
    ):
        stacked = F.conv2d(F.pad(stacked, pad, mode="replicate"), kernel, groups=count)
    return stacked.movedim(0, 1)


def _lower_resolution(image: Tensor, limits: tuple[float, float]) -> Tensor:
    """Sample down and up again, by one random factor for all slices given."""
    factor = limits[0] + (limits[1] - limits[0]) * torch.rand(1, device=image.device).item()
    size = [max(8, round(n / factor)) for n in image.shape[2:]]
    coarse = F.interpolate(image, size, mode="nearest-exact")
    return F.interpolate(coarse, image.shape[2:], mode="bicubic", align_corners=False)
