"""How the usual folders of NIfTI files name their cases, channels and labels.

Patterns are matched whole, against the file's path below the reader's root, with / between folders.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

_END = r"\.nii(?:\.gz)?"


@final
@dataclass(frozen=True)
class Layout:
    """`channels`: what file names call a channel → the study's name; `labels`: stored value → name."""

    images: str
    labels: str
    channels: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[int, str] = field(default_factory=dict)


LAYOUTS: Mapping[str, Layout] = {
    # images/x.nii.gz and labels/x.nii.gz: what `images` and `labels` are when they are not given
    "pattern": Layout(rf"images/(?P<case>[^/]+?){_END}", rf"labels/(?P<case>[^/]+?){_END}"),
    # Medical Segmentation Decathlon; several channels lie on the fourth axis
    "msd": Layout(rf"images(?:Tr)?/(?P<case>[^/]+?){_END}", rf"labels(?:Tr)?/(?P<case>[^/]+?){_END}"),
    # nnU-Net raw: the channel is its number in [cases] channels
    "nnunet": Layout(rf"imagesTr/(?P<case>[^/]+)_(?P<channel>\d{{4}}){_END}", rf"labelsTr/(?P<case>[^/]+?){_END}"),
    # BraTS 2018-2021, in any depth of folders
    "brats": Layout(
        rf"(?:.*/)?(?P<case>[^/]+)_(?P<channel>flair|t1|t1ce|t2){_END}",
        rf"(?:.*/)?(?P<case>[^/]+)_seg{_END}",
        values={1: "necrosis", 2: "oedema", 4: "enhancing"},
    ),
    # BraTS-GLI since 2023: other names, and enhancing tumour is 3
    "brats-gli": Layout(
        rf"(?:.*/)?(?P<case>[^/]+)-(?P<channel>t1n|t1c|t2w|t2f){_END}",
        rf"(?:.*/)?(?P<case>[^/]+)-seg{_END}",
        channels={"t1n": "t1", "t1c": "t1ce", "t2w": "t2", "t2f": "flair"},
        values={1: "necrosis", 2: "oedema", 3: "enhancing"},
    ),
}
