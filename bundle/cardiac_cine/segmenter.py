"""Segment frames and cines with a bundle's own inference.json, outside of MONAI's engine."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.transforms import Compose, LoadImaged, SaveImaged
from tqdm import tqdm

from cardiac_cine.cine import Cine
from cardiac_cine.errors import InputError
from cardiac_cine.images import Frame
from cardiac_cine.inferers import HeartWindowInferer, Window
from cardiac_cine.labels import NUM_CLASSES, STRUCTURE_IDS, STRUCTURES
from cardiac_cine.weights import load_weights

logger = logging.getLogger(__name__)

CONFIG = Path("configs") / "inference.json"
# Slices that go through the network in one call; bounds the memory of a long cine.
_SLICES_AT_ONCE = 64
# NIfTI keeps a spacing as float32, DICOM as decimals: to 0.1 micrometres both say the same.
_SPACING_DECIMALS = 4
# What a segmentation should not depend on: orientation as stored, and contrast. Images are scaled to 0-1.
VARIANTS: Mapping[str, tuple[Callable, Callable]] = {
    "mirrored along x": (lambda image: image.flip(1), lambda logits: logits.flip(1)),
    "mirrored along y": (lambda image: image.flip(2), lambda logits: logits.flip(2)),
    "darker": (lambda image: image**1.4, lambda logits: logits),
    "brighter": (lambda image: image**0.7, lambda logits: logits),
}


class Segmenter:
    """A network with its preprocessing, inferer and postprocessing.

    The stages ``preprocess``, ``predict`` and ``postprocess`` may be called one by one; ``segment`` runs them all.

    Args:
        network: takes the weights.
        preprocessing: from ``{"image": (1, x, y, z)}`` to the network's input; a step that loads files is left out.
        inferer: runs the network over a batch of one.
        postprocessing: from ``{"image", "pred"}`` to the mask under "pred"; a step that saves files is left out.
        ckpt_path: the weights.
        device: where the network runs.

    Raises:
        InputError: weights as :func:`cardiac_cine.weights.load_weights` refuses.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        preprocessing: Compose,
        inferer: Inferer,
        postprocessing: Compose,
        *,
        ckpt_path: Path | str,
        device: torch.device | str,
    ) -> None:
        self.ckpt_path = Path(ckpt_path)
        self.device = torch.device(device)
        self.network = network
        load_weights(network, self.ckpt_path)
        self.network.to(self.device).eval()
        self._inferer = inferer
        # Frames come in checked and masks go out whole, so the config's own file access is left out.
        self._preprocessing = _without(LoadImaged, preprocessing)
        self._postprocessing = _without(SaveImaged, postprocessing)
        logger.info("weights from %s on %s", self.ckpt_path, self.device)

    @classmethod
    def from_bundle(
        cls, bundle_root: Path | str, *, ckpt_path: Path | str | None = None, device: str | None = None
    ) -> "Segmenter":
        """Take everything from a bundle's inference.json.

        Args:
            bundle_root: the folder that holds configs/inference.json.
            ckpt_path: weights to use instead of the bundle's models/model.pt.
            device: such as "cpu" or "cuda:0"; by default the first GPU, and the CPU where there is none.

        Raises:
            InputError: no such bundle, an unusable device, or unusable weights.
        """
        config = Path(bundle_root) / CONFIG
        if not config.is_file():
            raise InputError(f"{config}: no such file, expected the root folder of a bundle, got {bundle_root}")
        parser = ConfigParser()
        parser.read_config(str(config))
        parser["bundle_root"] = str(bundle_root)
        if device is not None:
            parser["device"] = _usable_device(device)
        return cls(
            parser.get_parsed_content("network_def"),
            parser.get_parsed_content("preprocessing"),
            parser.get_parsed_content("inferer"),
            parser.get_parsed_content("postprocessing"),
            ckpt_path=ckpt_path or parser.get_parsed_content("ckpt_path"),
            device=parser.get_parsed_content("device"),
        )

    def preprocess(self, frame: Frame) -> dict[str, MetaTensor]:
        """Return ``{"image": ...}``, the network's input, (1, x, y, z), which remembers the way back to the frame."""
        image = MetaTensor(
            torch.from_numpy(frame.array),
            affine=torch.from_numpy(frame.affine),
            meta={"original_channel_dim": "no_channel", "filename_or_obj": str(frame.path)},
        )
        return self._preprocessing({"image": image})

    def predict(self, data: dict[str, MetaTensor]) -> dict[str, MetaTensor]:
        """Return ``data`` with the network's logits, (4, x, y, z), added under "pred"."""
        return {**data, "pred": self._logits(data["image"][None])[0]}

    def postprocess(self, data: dict[str, MetaTensor]) -> np.ndarray:
        """Return the mask on the frame's own grid, uint8 label ids, (x, y, z)."""
        return self._postprocessing(data)["pred"][0].cpu().numpy().astype(np.uint8)

    def segment(self, frame: Frame) -> np.ndarray:
        """Return a frame's mask: uint8 label ids, (x, y, z), one component of each structure."""
        return self.postprocess(self.predict(self.preprocess(frame)))

    def segment_cine(self, cine: Cine) -> np.ndarray:
        """Return the masks of all phases, uint8 label ids, (x, y, z, t), each made as in :meth:`segment`.

        They depend on voxels and spacing alone; in :meth:`segment`, the direction of an oblique frame's axes may move
        the sampling by half a pixel, as in MONAI's own pipeline. Several phases go through the network as one stack of
        slices, as many as fit a bounded memory, on the window found in the first phase.

        Args:
            cine: the cine.
        """
        masks = np.zeros(cine.array.shape, np.uint8)
        window: Window | None = None
        at_once = max(1, _SLICES_AT_ONCE // cine.array.shape[2])
        waiting: list[tuple[int, dict[str, MetaTensor]]] = []
        for phase in tqdm(range(cine.phases), cine.name, unit="phase", leave=False, disable=_quiet(cine)):
            waiting.append((phase, self.preprocess(upright(cine.frame(phase)))))
            if len(waiting) == at_once or phase == cine.phases - 1:
                images = [data["image"].as_tensor() for _, data in waiting]
                if window is None and isinstance(self._inferer, HeartWindowInferer):
                    with torch.no_grad():
                        window = self._inferer.find(images[0].to(self.device), self.network)
                for (index, data), pred in zip(waiting, self._logits(torch.stack(images), window), strict=True):
                    masks[..., index] = self.postprocess({**data, "pred": MetaTensor(pred)})
                waiting = []
        return masks

    def agreement(self, cine: Cine, phases: Iterable[int]) -> dict[str, float]:
        """Return how far the network agrees with itself when it sees the same phases mirrored or in another contrast.

        Args:
            cine: the cine.
            phases: which phases, counted from 0, such as those at end-diastole and end-systole.

        Returns:
            Structure key to the mean Dice between the plain answer and each of ``VARIANTS``, before postprocessing and
            on one window; NaN where no answer has the structure.
        """
        overlaps = np.zeros((len(VARIANTS), NUM_CLASSES))
        sizes = np.zeros_like(overlaps)
        for phase in sorted(set(phases)):
            image = self.around_heart(self.preprocess(upright(cine.frame(phase)))["image"].as_tensor())
            plain = self._logits(image[None], Window())[0].argmax(0)
            for row, logits in enumerate(self.variants(image)):
                other = logits.argmax(0)
                for structure in STRUCTURE_IDS:
                    overlaps[row, structure] += 2 * ((plain == structure) & (other == structure)).sum().item()
                    sizes[row, structure] += ((plain == structure).sum() + (other == structure).sum()).item()
        with np.errstate(invalid="ignore"):  # a structure that no answer has is undefined
            dice = (overlaps / sizes).mean(0)
        return {structure.key: float(dice[structure.id]) for structure in STRUCTURES}

    def around_heart(self, image: torch.Tensor) -> torch.Tensor:
        """Return what the network looks at of a preprocessed image, (1, x, y, z): the whole where it has no window."""
        if not isinstance(self._inferer, HeartWindowInferer):
            return image
        with torch.no_grad():
            return self._inferer.around_heart(image.to(self.device), self.network)

    def variants(self, image: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield the logits, (4, x, y, z), of what :meth:`around_heart` returned, seen in each way of ``VARIANTS``."""
        for change, back in VARIANTS.values():
            yield back(self._logits(change(image)[None], Window())[0])

    def _logits(self, images: torch.Tensor, window: Window | None = None) -> torch.Tensor:
        chosen = {"window": window} if isinstance(self._inferer, HeartWindowInferer) else {}
        with torch.no_grad():
            return self._inferer(images.to(self.device), self.network, **chosen)


def upright(frame: Frame) -> Frame:
    """Return a frame on axes of its own, at its spacing.

    ``Spacingd`` lays its grid from a corner where a corner of the image is one of the grid to 1e-8 mm, and from the
    middle otherwise. For an oblique scan that is a matter of how its affine was rounded: without this, the same cine
    is sampled up to half a pixel elsewhere as NIfTI than as DICOM.
    """
    affine = np.diag([*np.round(frame.spacing_mm, _SPACING_DECIMALS), 1.0])
    affine[2, 2] *= np.sign(np.linalg.det(frame.affine[:3, :3]))  # which of the slices come first
    return replace(frame, affine=affine)


def _quiet(cine: Cine) -> bool | None:
    """Return tqdm's ``disable``: a frame needs no bar, and a cine one only in front of a person."""
    return True if cine.phases == 1 else None


def _usable_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device {name!r} cannot be used ({reason}), expected one such as 'cpu' or 'cuda:0'") from None
    return device


def _without(kind: type, transform: Compose) -> Compose:
    return Compose([step for step in transform.transforms if not isinstance(step, kind)])
