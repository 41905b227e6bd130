"""Pixels of one PNG, TIFF or JPEG file, exactly as stored; whatever would change them unseen is refused.

Pillow mends much in silence: it cuts 16-bit colour to 8 bit, turns a picture by its EXIF tag, reads
the first page of many. An intensity or a mask that was changed on the way is a fault nobody sees.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any, BinaryIO, Literal, final

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from fedrounds_common.case import F32
from fedrounds_common.errors import CaseError
from fedrounds_common.study.tables import CaseForm
from fedrounds_sites.files import open_regular

SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg")
FORMATS = ("PNG", "TIFF", "JPEG")
MODES = ("1", "L", "LA", "P", "I;16", "I;16B", "I;16L", "I", "F", "RGB", "RGBA")
MAX_PIXELS = Image.MAX_IMAGE_PIXELS or 89_478_485  # 89 megapixels: above it Pillow warns of a decompression bomb

Pixels = NDArray[Any]  # (H, W, C) with C = 1 or 3; uint8, uint16, int32 or float32

ORIENTATION = 0x0112  # EXIF and TIFF: how the stored rows are to be turned for show
BITS_PER_SAMPLE, PHOTOMETRIC = 258, 262
WHITE_IS_ZERO = 0
# seen from Pillow and tifffile on damaged files; a test flips and cuts bytes to keep the list whole
_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    RuntimeError,
    AssertionError,
    EOFError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


@final
class _Refused(Exception):
    """Readable, but not a picture whose pixels can be taken as they stand."""

    def __init__(self, found: str, do: str) -> None:
        self.found, self.do = found, do
        super().__init__(found)


def read_pixels(file: Path, case: str, *, mask: bool = False, follow_links: bool = False) -> Pixels:
    """All samples of a one-page picture, unscaled.

    An alpha channel that is opaque everywhere holds nothing and is dropped. A palette is taken in a
    mask only, where the index is the value, and only if index 0 is black, as background should be.

    Returns:
        (H, W, 1) or (H, W, 3): bool and 8-bit files as uint8, 16-bit as uint16; TIFF also signed
        16 bits (int32) and float32.

    Raises:
        CaseError: FR-D12 or FR-D13 it cannot be opened, FR-D30 cannot be decoded, FR-D31 is of a
            kind whose pixels would have to be guessed.
    """
    with open_regular(file, case=case, follow_links=follow_links) as stream:
        return pixels_of(stream, case, str(file), mask=mask)


def pixels_of(stream: BinaryIO, case: str, where: str, *, mask: bool = False) -> Pixels:
    """As `read_pixels`, of a file that is open; `where` names it in messages."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about EXIF and other entries that are not read
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return _decoded(stream, mask)
    except _Refused as error:
        raise CaseError("FR-D31", error.found, case=case, do=error.do, where=where) from None
    except UnidentifiedImageError:
        found = "is no PNG, TIFF or JPEG"
        raise CaseError("FR-D30", found, case=case, do="export it again", where=where) from None
    except _DAMAGED as error:
        found = f"cannot be read ({type(error).__name__}: {str(error)[:200]})"
        raise CaseError("FR-D30", found, case=case, do="export it again", where=where) from error


def _decoded(stream: BinaryIO, mask: bool) -> Pixels:
    if stream.read(4) == b"GIF8":
        raise _Refused("a GIF: a palette, and perhaps several frames", "save each picture as grey or RGB in a PNG")
    stream.seek(0)
    with Image.open(stream, formats=FORMATS) as picture:
        if picture.width * picture.height > MAX_PIXELS:
            raise _Refused(
                f"{picture.width} x {picture.height} pixels", f"cut it into tiles: at most {MAX_PIXELS} are read"
            )
        bits = _bits(picture, stream)
        _refuse_what_would_be_guessed(picture, bits, mask)
        if picture.mode == "P":
            samples = _indices(picture)
        elif bits == 16 and picture.mode in ("RGB", "RGBA"):
            samples = _deep_colour(stream, picture)
        else:
            samples = np.asarray(picture)
        if picture.format == "PNG":
            _refuse_flipped_bits(stream)
    native = np.uint8 if samples.dtype == np.bool_ else samples.dtype.newbyteorder("=")
    samples = samples.astype(native, copy=False)
    return _without_alpha(samples if samples.ndim == 3 else samples[..., None])


def _refuse_what_would_be_guessed(picture: Image.Image, bits: int, mask: bool) -> None:
    pages = getattr(picture, "n_frames", 1)
    if pages > 1:
        raise _Refused(f"{pages} pages or frames in one file", "save each as a file of its own")
    turned = picture.getexif().get(ORIENTATION, 1)
    if turned != 1:
        raise _Refused(f"EXIF orientation {turned}", "turn picture and mask for good, and store orientation 1")
    if picture.mode not in MODES:
        raise _Refused(f"colours of kind {picture.mode}", "save it as grey or RGB")
    if picture.mode == "P" and not mask:
        raise _Refused("a palette picture", "save it as grey or RGB: a palette's index is no intensity")
    if picture.mode != "P" and "transparency" in picture.info:
        raise _Refused("a transparent colour", "save it without transparency")
    if picture.mode == "L" and mask and bits in (2, 4):
        raise _Refused(f"a mask of {bits} bits", "save it with 8 bits: fewer are stretched to 0..255 on reading")
    if picture.mode == "I" and bits == 32:
        raise _Refused("integers of 32 bits", "save it with 8 or 16 bits")
    tags = picture.tag_v2 if isinstance(picture, TiffImagePlugin.TiffImageFile) else {}
    if bits > 8 and tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        raise _Refused("a deep TIFF in which 0 is white", "save it with 0 as black")


def _refuse_flipped_bits(stream: BinaryIO) -> None:
    # decoding skips the checksums of the pixel chunks; without this a flipped bit becomes a pixel
    stream.seek(0)
    with Image.open(stream, formats=("PNG",)) as picture:
        picture.verify()


def _bits(picture: Image.Image, stream: BinaryIO) -> int:
    """Bits a sample as stored, which Pillow's mode does not tell for colour."""
    if isinstance(picture, TiffImagePlugin.TiffImageFile):
        return int(max(picture.tag_v2.get(BITS_PER_SAMPLE, (1,))))
    if picture.format != "PNG":
        return 8
    here = stream.tell()
    stream.seek(24)  # signature 8, length and name of the header 8, width and height 8, then the depth
    depth = stream.read(1)[0]
    stream.seek(here)
    return depth


def _deep_colour(stream: BinaryIO, picture: Image.Image) -> Pixels:
    """Colour of 16 bits a sample, for which Pillow has no mode."""
    if picture.mode == "RGBA":
        raise _Refused("16-bit colour with alpha", "save it as 16-bit RGB")
    if picture.format == "TIFF":
        stream.seek(0)
        samples = np.asarray(tifffile.imread(io.BytesIO(stream.read())))
        planes = samples.shape[:2] != (picture.height, picture.width)
        return np.moveaxis(samples, 0, -1) if planes else samples
    # Pillow keeps one byte of two; which one, the decoder's name says: big-endian the high, little-endian the low
    high = np.asarray(picture, np.uint16)
    stream.seek(0)
    with Image.open(stream, formats=("PNG",)) as again:
        again.tile = [tile._replace(args="RGB;16L") for tile in again.tile]
        low = np.asarray(again, np.uint16)
    both: Pixels = (high << 8) | low
    return both


def _indices(picture: Image.Image) -> Pixels:
    palette = (picture.getpalette("RGB") or [])[:3]
    if palette != [0, 0, 0]:
        raise _Refused(f"a palette whose index 0 is {palette}, not black", "save the mask as grey values")
    return np.asarray(picture)[..., None]


def _without_alpha(samples: Pixels) -> Pixels:
    if samples.shape[-1] not in (2, 4):
        return samples
    opaque = np.iinfo(samples.dtype).max
    if (samples[..., -1] != opaque).any():
        raise _Refused("an alpha channel that is not opaque everywhere", "save it without alpha")
    return samples[..., :-1]


def grey_of(pixels: Pixels) -> Pixels | None:
    """(H, W, 1) of a picture whose colours are equal everywhere; None if it is truly in colour."""
    if pixels.shape[-1] == 1:
        return pixels
    grey = pixels[..., :1]
    return grey if (pixels == grey).all() else None


def as_wanted(
    pixels: Pixels, form: CaseForm, case: str, where: str, grey_from_rgb: Literal["refuse", "luminance"]
) -> Pixels:
    """(H, W, C) for the study's number of channels.

    Raises:
        CaseError: FR-D14 values that are not finite; FR-D32 grey where colour is wanted, or the other way round.
    """
    if pixels.dtype == np.float32 and not np.isfinite(pixels).all():
        raise CaseError("FR-D14", "holds values that are not finite", case=case, where=where)
    if pixels.shape[-1] == len(form.channels):
        return pixels
    grey = grey_of(pixels) if len(form.channels) == 1 else None
    if grey is not None:
        return grey
    if len(form.channels) == 1 and grey_from_rgb == "luminance":
        return luminance(pixels)
    raise CaseError(
        "FR-D32",
        "in colour" if len(form.channels) == 1 else "grey",
        case=case,
        wanted=f"{len(form.channels)} channels ({', '.join(form.channels)})",
        do='save it so, or change [cases] channels; grey_from_rgb = "luminance" takes brightness',
        where=where,
    )


def luminance(pixels: Pixels) -> F32:
    """Rec. 601 brightness of red, green, blue: (H, W, 3) → (H, W, 1)."""
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    return (pixels.astype(np.float32) @ weights)[..., None].astype(np.float32)
