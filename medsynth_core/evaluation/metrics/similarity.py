"""MS-SSIM of pairs of images: how much alike those of one class are, 1 for equal ones.

Z. Wang, E. P. Simoncelli, A. C. Bovik, *Multi-scale structural similarity for image quality assessment*, 2003; as a
measure of diversity: A. Odena, C. Olah, J. Shlens, ICML 2017, section 4.2.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

Images = npt.NDArray[np.uint8]

_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_WINDOW = 11


def similarities(one_u8: Images, other_u8: Images) -> npt.NDArray[np.float32]:
    """Returns the MS-SSIM of each image with its partner, float32 [N], of images uint8 [N, H, W].

    The scales are as many of the paper's five as the images have room for, their weights scaled to sum to one: five
    from 176 pixels on, three at 64, two at 32. Negative structure counts as none.
    """
    scales = sum(min(one_u8.shape[1:]) // max(1, scale) ** 2 >= _WINDOW for scale in range(len(_WEIGHTS)))
    weights = tuple(weight / sum(_WEIGHTS[:scales]) for weight in _WEIGHTS[:scales])
    one, other = (torch.from_numpy(images.astype(np.float32))[:, None] for images in (one_u8, other_u8))
    values = multiscale_structural_similarity_index_measure(
        one, other, reduction="none", data_range=255.0, betas=weights
    )
    result: npt.NDArray[np.float32] = values.numpy()
    return result
