"""True images above what was rebuilt of them, one attempt beside the other, as one picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from fedrounds_client.attacks.rebuilding import Attempt
from fedrounds_common.case import F32, U8

SIDE, GAP, LINE = 132, 6, 14  # pixels of an image, between two, and of a line of text
WHITE = 255


def sheet(made: Sequence[Attempt]) -> U8:
    """(H, W, 3): a column for each attempt's first image, captions below."""
    columns = [_column(each) for each in made]
    gap = np.full((columns[0].shape[0], GAP, 3), WHITE, np.uint8)
    return np.concatenate([part for column in columns for part in (column, gap)][:-1], axis=1)


def _column(attempt: Attempt) -> U8:
    truth, rebuilt = attempt.truth[0], attempt.rebuilt[0]
    low, high = float(truth.min()), float(truth.max())
    pixels = [_pixels(image, low, high) for image in (truth, rebuilt)]
    words = [*_wrapped(attempt.name), f"PSNR {attempt.psnr:.1f}, SSIM {attempt.ssim:.2f}"]
    page = Image.new("RGB", (SIDE, 2 * SIDE + GAP + LINE * 4), (WHITE,) * 3)
    for row, image in enumerate(pixels):
        page.paste(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.NEAREST), (0, row * (SIDE + GAP)))
    pen = ImageDraw.Draw(page)
    for line, text in enumerate(words):
        pen.text((0, 2 * SIDE + GAP + 2 + line * LINE), text, fill=(0, 0, 0), font_size=10)
    return np.asarray(page, np.uint8)


def _pixels(image: F32, low: float, high: float) -> U8:
    """The first channel in grey; of a volume its middle plane."""
    plane = image[0] if image.ndim == 3 else image[0, image.shape[1] // 2]
    return np.asarray(np.clip((plane - low) / max(high - low, 1e-6), 0, 1) * 255, np.uint8)


def _wrapped(text: str, width: int = 24) -> list[str]:
    lines = [""]
    for word in text.split():
        lines = [*lines, word] if len(lines[-1]) + len(word) > width else [*lines[:-1], f"{lines[-1]} {word}".strip()]
    return lines
