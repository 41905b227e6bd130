"""How far a translated image is from the true one: mean absolute error, PSNR, SSIM."""

from __future__ import annotations

from math import log10

import numpy as np

from fedrounds_common.case import F32

SIDE = 7  # voxels of SSIM's window
K1, K2 = 0.01, 0.03


def absolute_error(made: F32, true: F32) -> float:
    """In the target's own units, e.g. HU."""
    return float(np.abs(made.astype(np.float64) - true).mean())


def signal_to_noise(made: F32, true: F32, span: float) -> float:
    """PSNR in dB, of a range of `span` units; 120 at the most, of equal images."""
    error = float(np.square(made.astype(np.float64) - true).mean())
    return 10 * log10(span * span / max(error, 1e-12 * span * span))


def similarity(made: F32, true: F32, span: float) -> float:
    """SSIM, the mean over channels and voxels; windows of 7 voxels, or of the grid's shortest side.

    Source: Wang et al. 2004 (doi:10.1109/TIP.2003.819861), with a uniform window.
    """
    from scipy.ndimage import uniform_filter

    side = min(SIDE, *true.shape[1:])
    size = (1, *(side,) * (true.ndim - 1))
    x, y = made.astype(np.float64), true.astype(np.float64)
    mean_x, mean_y = uniform_filter(x, size), uniform_filter(y, size)
    var_x = np.maximum(uniform_filter(x * x, size) - mean_x**2, 0)
    var_y = np.maximum(uniform_filter(y * y, size) - mean_y**2, 0)
    both = uniform_filter(x * y, size) - mean_x * mean_y
    c1, c2 = (K1 * span) ** 2, (K2 * span) ** 2
    found = (2 * mean_x * mean_y + c1) * (2 * both + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return float(found.mean())


def judged(made: F32, true: F32, span: float) -> dict[str, float]:
    """Over the whole grid, background too."""
    return {
        "mae": absolute_error(made, true),
        "psnr": signal_to_noise(made, true, span),
        "ssim": similarity(made, true, span),
    }
