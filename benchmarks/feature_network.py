"""Make the feature network that judges made images: `python benchmarks/feature_network.py MEDNIST.tar.gz OUT`.

It learns what kind of image it sees (six kinds of MedNIST's thumbnails, four channels of simulated heads), how much it
was blurred and how noisy it was made, from pictures blurred, shaded and made noisy at random. Ten minutes on one core.
MedNIST: thumbnails of The Cancer Imaging Archive, RSNA and NIH, gathered by B. J. Erickson, CC BY-SA 4.0.
"""

from __future__ import annotations

import argparse
import io
import sys
import tarfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from scipy.ndimage import gaussian_filter
from torch import nn
from torch.nn import functional

from fedrounds_common.generative.features import FEATURES, SIDE, Eyes, scaled
from fedrounds_common.rng import generator, seeded
from fedrounds_common.study.tables import CaseForm
from fedrounds_sites.prepare import prepare
from fedrounds_sites.simulation import READERS

Pictures = NDArray[np.float32]
A_KIND, HEADS, STEPS, BATCH, SEED = 300, 24, 4000, 64, 1
MOST_BLUR, MOST_NOISE = 2.5, 0.25
CHANNELS = ("t1", "t1ce", "t2", "flair")


def thumbnails(archive: Path) -> dict[str, Pictures]:
    """Kind → its first 300 pictures (N, 32, 32): the rest are seen by nobody here."""
    found: dict[str, list[Pictures]] = {}
    with tarfile.open(archive) as files:
        for name in sorted(files.getnames()):
            kind = Path(name).parent.name
            stream = files.extractfile(name) if name.endswith((".jpeg", ".jpg")) else None
            if stream is None or len(found.get(kind, ())) >= A_KIND:
                continue
            picture = np.asarray(Image.open(io.BytesIO(stream.read())).convert("L"), np.float32)
            found.setdefault(kind, []).append(sized(picture))
    return {kind: np.stack(pictures) for kind, pictures in found.items()}


def heads() -> dict[str, Pictures]:
    """Channel → axial slices (N, 32, 32) of simulated heads."""
    form = CaseForm(channels=CHANNELS, labels={"necrosis": 1, "oedema": 2, "enhancing": 4})
    reader = READERS.load({"name": "phantom_glioma", "profile": "eight", "spacing_mm": 4.0, "scale": 0.2})
    found: dict[str, list[Pictures]] = {channel: [] for channel in CHANNELS}
    for ref in reader.cases(form)[:HEADS]:
        case = prepare(reader.load(ref, form), form)
        for height in np.linspace(0.35, 0.75, 9):
            for channel, volume in zip(CHANNELS, case.image, strict=True):
                found[channel].append(sized(np.rot90(volume[:, :, int(height * volume.shape[2])])))
    return {channel: np.stack(pictures) for channel, pictures in found.items()}


def sized(picture: Pictures) -> Pictures:
    """(H, W) → (32, 32) in [0, 1]."""
    tensor = torch.from_numpy(scaled(np.ascontiguousarray(picture)[None]))[None]
    small = functional.interpolate(tensor, (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True)
    found: Pictures = small[0, 0].numpy()
    return found


def changed(picture: Pictures, rng: np.random.Generator) -> tuple[Pictures, float, float]:
    """A mirrored, shaded, blurred and noisy version, and how much of the last two, in [0, 1]."""
    blur, noise = (float(x) if rng.random() < 0.7 else 0.0 for x in rng.random(2))
    if rng.random() < 0.5:
        picture = picture[:, ::-1]
    picture = np.roll(picture, rng.integers(-2, 3, 2), (0, 1)) ** np.float32(rng.uniform(0.7, 1.4))
    picture = gaussian_filter(picture, MOST_BLUR * blur) if blur else picture
    picture = picture + np.float32(MOST_NOISE * noise) * rng.standard_normal(picture.shape, np.float32)
    return np.clip(picture, 0, 1).astype(np.float32), blur, noise


def trained(pictures: Pictures, kinds: NDArray[np.int64]) -> Eyes:
    rng = generator(SEED, "feature network")
    with seeded(SEED):
        eyes, heads_ = Eyes(), nn.Linear(FEATURES, int(kinds.max()) + 3)
    both = nn.ModuleList([eyes, heads_])
    optimiser = torch.optim.AdamW(both.parameters(), 2e-3, weight_decay=0.01)
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    for step in range(STEPS):
        chosen = rng.integers(len(pictures), size=BATCH)
        made = [changed(pictures[place], rng) for place in chosen]
        logits = heads_(eyes(torch.from_numpy(np.stack([picture for picture, _, _ in made]))[:, None]))
        degrees = torch.tensor([degree for _, *degree in made])
        loss = functional.cross_entropy(logits[:, :-2], torch.from_numpy(kinds[chosen]))
        worse = functional.mse_loss(logits[:, -2:], degrees)
        optimiser.zero_grad()
        (loss + 10 * worse).backward()
        optimiser.step()
        rates.step()
        if step % 500 == 0 or step == STEPS - 1:
            print(
                f"step {step}: kind {float(loss.detach()):.3f}, blur and noise {float(worse.detach()):.4f}", flush=True
            )
    return eyes.eval()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archive", type=Path)
    parser.add_argument("out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found = {**thumbnails(asked.archive), **heads()}
    print({kind: len(pictures) for kind, pictures in found.items()}, flush=True)
    pictures = np.concatenate(list(found.values()))
    kinds = np.concatenate([np.full(len(each), place) for place, each in enumerate(found.values())])
    eyes = trained(pictures, kinds)
    with torch.no_grad():
        seen = eyes(torch.from_numpy(pictures)[:, None])
    # features of unit spread, so that one kernel width and one table serve all data
    eyes.last.weight.data /= seen.std(0)[:, None]
    eyes.last.bias.data = (eyes.last.bias.data - seen.mean(0)) / seen.std(0)
    save_file(eyes.state_dict(), str(asked.out))
    print(f"{asked.out}: {asked.out.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
