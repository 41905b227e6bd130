"""Weights to start from that another network or another program left: read, matched by name, shapes checked, and said.

A file of ours that fits is read as it is. Of any other, each tensor goes where its name says, the last layers are made
anew where the classes are others, and what came from where is written down.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

import numpy as np
from safetensors import SafetensorError, safe_open

from fedrounds_common.arrays import Array, Arrays, is_float, manifest
from fedrounds_common.errors import RunFileError
from fedrounds_common.freezing import frozen_by
from fedrounds_common.network import Network
from fedrounds_server.checkpoint import KEY, load_arrays

if TYPE_CHECKING:
    from torch import Tensor

Adapt = Literal["no", "mean"]
SHOWN = 4


@final
@dataclass(frozen=True)
class Origin:
    """Where the weights of round 1 came from: names of this network's tensors, but `unused`, which are the file's.

    `taken` from the file as they are; `fresh`: drawn from the study's seed, either because the file has none of that
    name or because its shape there is that of other classes; `adapted`: the mean over the file's input channels.
    """

    file: str
    sha256: str
    taken: tuple[str, ...]
    fresh: tuple[str, ...]
    adapted: tuple[str, ...]
    unused: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return {name: list(each) if isinstance(each, tuple) else each for name, each in asdict(self).items()}

    def __str__(self) -> str:
        """One line for whoever starts the run."""
        whole = len(self.taken) + len(self.fresh) + len(self.adapted)
        parts = [f"{len(self.taken)} of {whole} tensors from {self.file}"]
        parts += [f"drawn anew: {_some(self.fresh)}"] if self.fresh else []
        parts += [f"the mean over its input channels: {_some(self.adapted)}"] if self.adapted else []
        parts += [f"in the file and not used: {_some(self.unused)}"] if self.unused else []
        return "round 1 starts from " + "; ".join(parts)


def weights_from(
    file: Path, like: Arrays, network: Network, names: Mapping[str, str] | None = None, adapt: Adapt = "no"
) -> tuple[Arrays, Origin | None]:
    """The weights in that file, for a network whose state dict is `like`, drawn from the study's seed.

    Args:
        names: what the file's names begin with → what ours do; the first that fits is taken.
        adapt: "mean": a first convolution made for other channels gives each of ours the mean over its own.

    Returns:
        The weights, and where each came from; None of a file of ours that fits whole.

    Raises:
        RunFileError: FR-F01 missing; FR-F11 damaged; FR-F41 of another network (tensors are named);
            FR-F42 a pickle that holds anything but a plain state dict; FR-F43 values that are not finite.
    """
    if not file.is_file():
        raise RunFileError("FR-F01", f"{file.name} is missing", do="is its path right, from the study file's folder?")
    if _is_ours(file):
        arrays: Arrays = load_arrays(file)[0]
        if sorted(manifest(arrays)) == sorted(manifest(like)):
            return {name: arrays[name] for name in like}, None
    else:
        arrays = read_foreign(file)
    sources = _matched(file.name, arrays, tuple(like), network, names or {})
    return _fitted(file, arrays, like, sources, frozen_by(network.last_layers(), like), adapt)


def _is_ours(file: Path) -> bool:
    try:
        with safe_open(file, framework="numpy") as stream:
            return KEY in (stream.metadata() or {})
    except (SafetensorError, OSError, ValueError):
        return False


def read_foreign(file: Path) -> dict[str, Array]:
    """The tensors of a safetensors file, or of a state dict that torch saved; no code of the file is run."""
    with file.open("rb") as stream:
        start = stream.read(9)
    tensors = _of_safetensors(file) if file.suffix == ".safetensors" or start[8:] == b"{" else _of_pickle(file)
    return {name: _as_array(file.name, name, tensor) for name, tensor in tensors.items()}


def _of_safetensors(file: Path) -> Mapping[str, Tensor]:
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise RunFileError(
            "FR-F11",
            f"{file.name} is damaged or not safetensors ({type(error).__name__})",
            wanted="it as it was written",
        ) from error


def _of_pickle(file: Path) -> Mapping[str, Tensor]:
    import torch

    def refused(found: str, do: str = "save `model.state_dict()` by itself, as safetensors") -> RunFileError:
        wanted = "a plain state dict: names, and a tensor each"
        return RunFileError("FR-F42", f"{file.name} {found}", wanted=wanted, do=do)

    try:
        # tensors and plain containers only: whatever else a pickle asks for is refused before it runs
        found = torch.load(file, map_location="cpu", weights_only=True)  # noqa: TID251
    except Exception as error:  # noqa: BLE001  (a damaged file breaks torch's readers in any way there is)
        # not torch's own words, which advise to run the code in the file
        more = type(error).__name__ == "UnpicklingError"
        raise refused("holds more than tensors, or is no pickle" if more else "cannot be read") from None
    if not isinstance(found, Mapping):
        raise refused(f"holds a {type(found).__name__}")
    for name, value in found.items():
        if not isinstance(value, torch.Tensor) or not isinstance(name, str):
            inner = [key for key, each in found.items() if isinstance(each, Mapping)]
            do = f"save its entry {inner[0]!r} by itself" if inner else "save `model.state_dict()` by itself"
            raise refused(f"holds a {type(value).__name__} under {name!r}", do)
    return found


def _as_array(file: str, name: str, tensor: Tensor) -> Array:
    import torch

    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex():
        raise RunFileError("FR-F42", f"{file}: {name} is no plain tensor ({tensor.dtype}, {tensor.layout})",
                           wanted="dense numbers", do="save it as float32")  # fmt: skip
    plain = tensor.detach()
    array: Array = (plain.float() if plain.is_floating_point() else plain).numpy()
    return array


def _matched(
    file: str, arrays: Arrays, ours: Sequence[str], network: Network, names: Mapping[str, str]
) -> dict[str, str]:
    """Our name → the file's, for every tensor that it has; a name of the file's may stand for several of ours."""
    pairs = [(re.escape(start), put.replace("\\", r"\\")) for start, put in names.items()]
    found: dict[str, str] = {}
    for theirs in arrays:
        wanted = next((re.sub(f"^{a}", b, theirs) for a, b in pairs if re.match(a, theirs)), theirs)
        if wanted not in ours:
            for pattern, put in network.public_names():
                wanted = re.sub(pattern, put, wanted)
        form = re.compile(".*".join(map(re.escape, wanted.split("*"))))
        for name in (name for name in ours if form.fullmatch(name)):
            if name in found:
                raise RunFileError(
                    "FR-F41", f"{file}: {found[name]} and {theirs} both are {name}", wanted="one of them",
                    do="mend simulation.initial_names",
                )  # fmt: skip
            found[name] = theirs
    return found


def _fitted(
    file: Path, arrays: Arrays, like: Arrays, sources: Mapping[str, str], last: set[str], adapt: Adapt
) -> tuple[Arrays, Origin]:
    """Each tensor from the file, adapted, or drawn anew. Raises FR-F41 with all that have another shape."""
    result, kinds = dict(like), dict[str, Literal["taken", "fresh", "adapted"]]()
    odd: list[str] = []
    first = _first_kernel(like, sources)
    for name, wanted in like.items():
        theirs = arrays[sources[name]] if name in sources else None
        fits = None if theirs is None else _fit(theirs, wanted, mean=adapt == "mean" and sources[name] == first)
        kinds[name] = "fresh"
        if fits is not None:
            result[name], kinds[name] = fits
        elif theirs is not None and name not in last:
            odd.append(f"{sources[name]} {theirs.shape} for {name} {wanted.shape}")
    if odd:
        raise RunFileError("FR-F41", f"{file.name} is of other shapes: {_some(odd)}", wanted="those of this network",
                           do=_advice(arrays, like, sources, adapt))  # fmt: skip
    if not any(kind != "fresh" and name not in last for name, kind in kinds.items()):
        raise RunFileError(
            "FR-F41", f"{file.name} holds no tensor of this network's names: {_some(tuple(arrays))}",
            wanted=f"names such as {_some([name for name in like if name not in last])}",
            do="say in simulation.initial_names what stands for what, e.g. { \"encoder.\" = \"body.\" }",
        )  # fmt: skip
    for name, array in result.items():
        if is_float(array) and not np.isfinite(array).all():
            raise RunFileError("FR-F43", f"{file.name}: {sources[name]} is not finite", wanted="finite numbers")
    count = Counter(sources[name] for name, kind in kinds.items() if kind != "fresh")

    def of(kind: str) -> tuple[str, ...]:
        return tuple(name for name, each in kinds.items() if each == kind)

    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    unused = tuple(name for name in arrays if not count[name])
    return result, Origin(file.name, digest, of("taken"), of("fresh"), of("adapted"), unused)


def _first_kernel(like: Arrays, sources: Mapping[str, str]) -> str | None:
    """The file's name of the first convolution, the only one whose input channels are the image's."""
    return next((sources.get(name) for name, array in like.items() if array.ndim in (4, 5)), None)


def _fit(theirs: Array, wanted: Array, *, mean: bool) -> tuple[Array, Literal["taken", "adapted"]] | None:
    """As our tensor wants it, or None. Axes of length 1 at the end are no difference: a 1 x 1 convolution is linear."""
    if is_float(theirs) != is_float(wanted):
        return None
    if _bare(theirs.shape) == _bare(wanted.shape):
        return theirs.reshape(wanted.shape).astype(wanted.dtype), "taken"
    if mean and _is_channels_only(theirs, wanted):
        one = theirs.mean(axis=1, keepdims=True, dtype=np.float64)
        return np.repeat(one, wanted.shape[1], axis=1).astype(wanted.dtype), "adapted"
    return None


def _bare(shape: tuple[int, ...]) -> tuple[int, ...]:
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _is_channels_only(theirs: Array, wanted: Array) -> bool:
    """Kernels of one size and number, for other input channels."""
    same = theirs.shape[:1] == wanted.shape[:1] and theirs.shape[2:] == wanted.shape[2:]
    return theirs.ndim == wanted.ndim and theirs.ndim in (4, 5) and same


def _advice(arrays: Arrays, like: Arrays, sources: Mapping[str, str], adapt: Adapt) -> str:
    first = _first_kernel(like, sources)
    pairs = [(arrays[source], like[name]) for name, source in sources.items() if source == first]
    if adapt == "no" and any(a.shape != b.shape and _is_channels_only(a, b) for a, b in pairs):
        return 'if only the channels of the images differ: initial_adapt = "mean" gives each the mean over the file\'s'
    return "set [model] to what the file was made with, or take a file of this network"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
