"""Segment one frame after the other with a bundle's own inference.json, outside of MONAI's engine."""

import logging
from pathlib import Path

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImaged, SaveImaged

from cardiac_cine.errors import InputError
from cardiac_cine.images import Frame, read_frame, write_mask
from cardiac_cine.weights import load_weights

logger = logging.getLogger(__name__)

CONFIG = Path("configs") / "inference.json"


class Segmenter:
    """A bundle's network with its preprocessing and postprocessing, all taken from its inference.json.

    The stages ``preprocess``, ``predict`` and ``postprocess`` may be called one by one; ``segment`` runs them all.

    Args:
        bundle_root: the folder that holds configs/inference.json.
        ckpt_path: weights to use instead of the bundle's models/model.pt.
        device: such as "cpu" or "cuda:0"; by default the first GPU, and the CPU where there is none.

    Raises:
        InputError: no such bundle, an unusable device, or weights as :func:`cardiac_cine.weights.load_weights` refuses.
    """

    def __init__(self, bundle_root: Path, *, ckpt_path: Path | None = None, device: str | None = None) -> None:
        config = bundle_root / CONFIG
        if not config.is_file():
            raise InputError(f"{config}: no such file, expected the root folder of a bundle, got {bundle_root}")
        parser = ConfigParser()
        parser.read_config(str(config))
        parser["bundle_root"] = str(bundle_root)
        if device is not None:
            parser["device"] = _usable_device(device)
        self.ckpt_path = ckpt_path or Path(parser.get_parsed_content("ckpt_path"))
        self.device = torch.device(parser.get_parsed_content("device"))
        self.network = parser.get_parsed_content("network_def")
        load_weights(self.network, self.ckpt_path)
        self.network.to(self.device).eval()
        self._inferer = parser.get_parsed_content("inferer")
        self._amp = parser.get_parsed_content("amp")
        # Frames come in checked and masks go out whole, so the config's own file access is left out.
        self._preprocessing = _without(LoadImaged, parser.get_parsed_content("preprocessing"))
        self._postprocessing = _without(SaveImaged, parser.get_parsed_content("postprocessing"))
        logger.info("weights from %s on %s", self.ckpt_path, self.device)

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
        with torch.no_grad(), torch.autocast("cuda", enabled=self._amp):
            pred = self._inferer(data["image"][None].to(self.device), self.network)
        return {**data, "pred": pred[0]}

    def postprocess(self, data: dict[str, MetaTensor]) -> np.ndarray:
        """Return the mask on the frame's own grid, uint8 label ids, (x, y, z)."""
        return self._postprocessing(data)["pred"][0].cpu().numpy().astype(np.uint8)

    def segment(self, frame: Frame) -> np.ndarray:
        """Return a frame's mask: uint8 label ids, (x, y, z), the largest component of each structure."""
        return self.postprocess(self.predict(self.preprocess(frame)))

    def segment_file(self, path: Path, output_dir: Path) -> Path:
        """Segment a NIfTI frame into ``output_dir/CASE/CASE_seg.nii.gz``, whole or not at all.

        Returns:
            The file written. CASE is the input's name without its extension.

        Raises:
            InputError: the file is no usable frame, see :func:`cardiac_cine.images.read_frame`.
        """
        frame = read_frame(path)
        return write_mask(self.segment(frame), frame.affine, output_dir, frame.name)


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
