"""What the network thought of a frame before its answer became a mask: probabilities on the frame's own grid."""

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import ResampleToMatch

from cardiac_cine.images import Frame
from cardiac_cine.segmenter import Segmenter, upright


def segment_with_probabilities(segmenter: Segmenter, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """Segment a frame and keep the probabilities.

    Args:
        segmenter: makes the mask.
        frame: of any orientation; as in :meth:`Segmenter.segment_cine`, only its voxels and spacing count.

    Returns:
        The mask, uint8 label ids (x, y, z), as ``segment_cine`` makes of a cine of this frame alone; and probabilities
        (4, x, y, z), float32, background first. Their largest is the mask but for what postprocessing mends.
    """
    frame = upright(frame)
    data = segmenter.predict(segmenter.preprocess(frame))
    found = MetaTensor(data["pred"].softmax(0).cpu(), affine=data["image"].affine)
    grid = MetaTensor(torch.from_numpy(frame.array)[None], affine=torch.from_numpy(frame.affine))
    probabilities = ResampleToMatch(mode="bilinear", padding_mode="border")(found, grid)
    return segmenter.postprocess(data), probabilities.numpy().astype(np.float32)
