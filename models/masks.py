"""Object masks as attention needs them: from pixels to tokens, and grown."""

import torch.nn.functional as F
from torch import Tensor


def token_masks(masks_bhw: Tensor, height: int, width: int, dilation: int) -> Tensor:
    """Pixel masks (B, H, W) bool to token masks (B, height * width) bool.

    Area-averaged; a token that holds any of the object counts, and `dilation` (odd, the side of the window in tokens)
    grows the result by `dilation // 2` tokens on every side.
    """
    coverage = F.interpolate(masks_bhw[:, None].float(), size=(height, width), mode="area")
    return dilate((coverage > 0).flatten(1), height, width, dilation)


def dilate(masks_bn: Tensor, height: int, width: int, dilation: int) -> Tensor:
    """Token masks (B, height * width) bool, grown by `dilation // 2` tokens on every side."""
    grid = masks_bn.unflatten(1, (1, height, width)).float()
    return F.max_pool2d(grid, kernel_size=dilation, stride=1, padding=dilation // 2).bool().flatten(1)
