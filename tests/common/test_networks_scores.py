"""Every network that makes scores, found without being told: features, maps, head, norms, sizes; and what pools a bag."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fedrounds_common import bags, rng, scores
from fedrounds_common.errors import UsageError
from fedrounds_common.shelves import NETWORKS as SHELF

NAMES = [name for name in SHELF.names() if SHELF.find(name).makes == "scores"]
# settings that keep a test small; a network without an entry is built as it comes
TINY = {"name": "tiny_cnn", "channels": [8, 16]}
VIT = {"token": [7, 7], "width": 24, "mlp": 32, "heads": 3, "layers": 2}
SMALL: dict[str, dict[str, Any]] = {
    "tiny_cnn": {"channels": [8, 16]},
    "alexnet": {"stem": "small"},
    "vgg": {"depth": 11},
    "mobilenet": {"width": 0.25},
    "resnet": {"depth": 10},
    "densenet": {"growth": 8},
    "vit": {**VIT, "size": [28, 28], "pool": "mean"},
    "series": {"encoder": TINY},
    "tiles": {"encoder": TINY},
}
IN_PLANES = ["tiles"]  # for bags of pictures only
OF_MONAI = {"resnet", "densenet", "efficientnet", "se_resnet", "vit"}  # whose import takes seconds
HEAVY = {"alexnet", "vgg", "mobilenet"}  # in 3D


def build(name: str, dims: int = 2, inputs: int = 2, outputs: int = 3, **fields: Any) -> Any:
    settings = {"name": name, **SMALL.get(name, {}), **fields}
    if name == "vit" and dims == 3:
        settings |= {"size": [28] * 3, "token": [7] * 3}
    with rng.seeded(1):
        return SHELF.load(settings).build(dims, inputs, outputs).eval()


def images(dims: int, size: int = 28, batch: int = 2) -> torch.Tensor:
    return torch.randn((batch, 2, *(size,) * dims), generator=torch.Generator().manual_seed(0))


def bag(pictures: int = 5, size: int = 28) -> torch.Tensor:
    return torch.randn((2, 2, pictures, size, size), generator=torch.Generator().manual_seed(0))


def each(names: Iterable[str] = NAMES) -> list[Any]:
    return [pytest.param(name, marks=[pytest.mark.slow] if name in OF_MONAI else []) for name in names]


def in_each(*dims: int) -> list[Any]:
    return [
        pytest.param(name, axes, marks=[pytest.mark.slow] if name in OF_MONAI or (axes == 3 and name in HEAVY) else [])
        for axes in dims
        for name in NAMES
        if not (axes == 3 and name in IN_PLANES)
    ]


@pytest.mark.parametrize(("name", "dims"), in_each(2, 3))
def test_the_head_judges_by_features_pooled_from_the_last_maps(name: str, dims: int) -> None:
    network, x = build(name, dims), images(dims)
    with torch.no_grad():
        logits, features, maps = network(x), network.features(x), network.last_maps(x)
        assert logits.shape == (2, 3)
        assert features.ndim == 2
        assert maps.ndim == 2 + dims if name not in ("series", "tiles") else 5
        torch.testing.assert_close(network.pooled(maps), features)
        torch.testing.assert_close(network.head(features), logits)
    assert isinstance(network, scores.ScoreModule)
    assert isinstance(network.head, nn.Linear), "what discriminants and linear probes are written into"


@pytest.mark.parametrize("name", each())
def test_a_gradient_reaches_every_weight_past_hooks_on_every_layer(name: str) -> None:
    # a hook's output is a view that nothing may change in place: per-sample gradients hang on such
    network = build(name).train()
    for module in network.modules():
        if list(module.parameters(recurse=False)):
            module.register_full_backward_hook(lambda *_: None)
    network(images(2).requires_grad_()).square().mean().backward()
    assert [key for key, weight in network.named_parameters() if weight.grad is None] == []


@pytest.mark.parametrize("name", each())
def test_no_running_statistics_and_nothing_in_place_unless_asked(name: str) -> None:
    network = build(name)
    assert list(network.buffers()) == []
    assert [key for key, module in network.named_modules() if getattr(module, "inplace", False) is True] == []


@pytest.mark.parametrize(
    "name", each(name for name in NAMES if "running_statistics" in vars(SHELF.load({"name": name})))
)
def test_running_statistics_when_asked(name: str) -> None:
    buffers = dict(build(name, running_statistics=True).named_buffers())
    assert any(key.endswith("running_mean") for key in buffers)


@pytest.mark.parametrize("name", each())
def test_an_example_does_not_see_its_neighbour_in_the_batch(name: str) -> None:
    network, x = build(name).train(), images(2)
    for module in network.modules():  # what is left out by chance would differ between the two calls
        if hasattr(module, "drop_connect_rate"):
            module.drop_connect_rate = 0.0
    y = torch.stack([x[0], 5 * x[1] + 2])
    with torch.no_grad():
        torch.testing.assert_close(network(x)[0], network(y)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", each())
def test_a_head_of_two_layers_has_the_hidden_units_asked_for(name: str) -> None:
    head = build(name, head="mlp", hidden=11, dropout=0.5).head
    assert [(layer.in_features, layer.out_features) for layer in head if isinstance(layer, nn.Linear)][1] == (11, 3)
    assert any(isinstance(layer, nn.Dropout) and layer.p == 0.5 for layer in head)


@pytest.mark.parametrize("name", each())
def test_first_and_last_layers_name_tensors_that_are_there(name: str) -> None:
    from fedrounds_common.freezing import frozen_by

    deep = {"tiny_cnn": {}, "series": {"pooling": "gru"}, "tiles": {}, "vit": {**SMALL["vit"], "layers": 4}}
    network = SHELF.load({"name": name, **deep.get(name, SMALL.get(name, {}))})
    names = [key for key, _ in network.build(2, 2, 3).named_parameters()]
    for pattern in (*network.first_layers(), *network.last_layers()):
        if "cls_token" not in pattern and not re.fullmatch(r"body\.\d+\.", pattern):  # not all layers have weights
            assert frozen_by((pattern,), names), pattern
    first, last = frozen_by(network.first_layers(), names), frozen_by(network.last_layers(), names)
    assert first
    assert last
    assert not first & last
    assert first | last < set(names)


# ---------------------------------------------------------------- sizes

SIZES = [("alexnet", {"stem": "standard"}, 2), ("alexnet", {"stem": "standard"}, 3), ("densenet", {}, 3),
         ("densenet", {"stem": "small"}, 3), ("se_resnet", {}, 2)]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("name", "fields", "dims"), SIZES)
def test_an_image_too_small_is_refused_with_the_least_size_which_is_taken(
    name: str, fields: dict[str, Any], dims: int
) -> None:
    network = build(name, dims, **fields)
    with torch.no_grad():
        assert network(images(dims, network.least)).isfinite().all()
        with pytest.raises(UsageError, match=rf"FR-U47.*for {name}; at least {network.least} along each axis"):
            network(images(dims, network.least - 1))
    network.least = 1
    if name != "densenet":  # of which the least is where all three of its blocks still have two voxels to halve
        with pytest.raises(RuntimeError):
            network(images(dims, {"alexnet": 34, "se_resnet": 2}[name]))


@pytest.mark.parametrize("name", each(sorted(set(NAMES) - {"vit", "alexnet"})))
@pytest.mark.parametrize("size", [28, 33])
def test_a_picture_of_28_and_of_an_odd_size_is_taken(name: str, size: int) -> None:
    with torch.no_grad():
        assert build(name)(images(2, size)).isfinite().all()


@pytest.mark.parametrize("name", each(["resnet", "mobilenet", "densenet", "efficientnet", "se_resnet"]))
def test_a_small_stem_leaves_more_places_in_the_last_maps(name: str) -> None:
    with torch.no_grad():
        standard, small = (build(name, stem=stem).last_maps(images(2)).shape[2] for stem in ("standard", "small"))
    assert standard == 1
    assert small >= 2


@pytest.mark.slow
def test_a_vision_transformer_takes_images_of_its_size_only() -> None:
    with pytest.raises(UsageError, match="FR-U47 an image of 33 x 33 voxels for vit; 28 x 28; set model.size"):
        build("vit")(images(2, 33))
    with pytest.raises(UsageError, match=r"FR-U45 model.size = \[28, 28\]; 3 numbers"):
        SHELF.load({"name": "vit", **SMALL["vit"]}).build(3, 1, 2)


# ---------------------------------------------------------------- the published networks

# parameters with 3 channels and 1000 classes, head included, as published with torchvision's weights and in the papers'
# code; AlexNet and VGG without their wide layers, in whose place stands one linear layer
PUBLISHED = [
    ("resnet", {"depth": 18}, 11_689_512),
    ("resnet", {"depth": 34}, 21_797_672),
    ("resnet", {"depth": 50}, 25_557_032),
    ("resnet", {"depth": 101}, 44_549_160),
    ("resnet", {"depth": 152}, 60_192_808),
    ("mobilenet", {"width": 1.0}, 3_504_872),
    ("densenet", {"depth": 121, "growth": 32}, 7_978_856),
    ("efficientnet", {"size": "b0"}, 5_288_548),
    ("se_resnet", {"depth": 50}, 28_088_024),
    ("vgg", {"depth": 19, "norms": False}, 143_667_240 - 123_642_856 + 513_000),
    ("alexnet", {"stem": "standard", "norms": False}, 61_100_840 - 58_631_144 + 257_000),
    # the class token has no place of its own in MONAI's: one width less
    ("vit", {"size": [224, 224], "token": [16, 16], "width": 768, "mlp": 3072, "heads": 12, "layers": 12, "pool": "class-token"}, 86_567_656 - 768),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("name", "fields", "wanted"), PUBLISHED)
def test_it_has_as_many_parameters_as_published(name: str, fields: dict[str, Any], wanted: int) -> None:
    statistics = {} if name == "vit" else {"running_statistics": True}
    network = build(name, 2, 3, 1000, **fields, **statistics)
    assert sum(weight.numel() for weight in network.parameters()) == wanted


# a few tensors of torchvision's (Cadene's for se_resnet) and their shapes with 3 channels
PUBLIC = [
    ("resnet", {"depth": 50}, {"conv1.weight": (64, 3, 7, 7), "bn1.running_mean": (64,), "layer2.0.downsample.0.weight": (512, 256, 1, 1), "layer4.2.bn3.bias": (2048,)}),
    ("vgg", {"depth": 19, "norms": False}, {"features.0.weight": (64, 3, 3, 3), "features.34.bias": (512,)}),
    ("vgg", {"depth": 19}, {"features.1.weight": (64,), "features.49.weight": (512, 512, 3, 3)}),
    ("alexnet", {"stem": "standard", "norms": False}, {"features.0.weight": (64, 3, 11, 11), "features.10.bias": (256,)}),
    ("mobilenet", {"width": 1.0}, {"features.0.0.weight": (32, 3, 3, 3), "features.1.conv.1.weight": (16, 32, 1, 1), "features.2.conv.1.0.weight": (96, 1, 3, 3), "features.18.1.bias": (1280,)}),
    ("densenet", {"growth": 32}, {"features.conv0.weight": (64, 3, 7, 7), "features.denseblock1.denselayer2.norm1.weight": (96,), "features.denseblock1.denselayer2.conv.2.weight": (32, 128, 3, 3), "features.norm5.bias": (1024,)}),
    ("efficientnet", {}, {"_conv_stem.weight": (32, 3, 3, 3), "_conv_head.weight": (1280, 320, 1, 1), "_blocks.1._depthwise_conv.weight": (96, 1, 3, 3), "_blocks.11._bn2.bias": (192,), "_blocks.0.0._bn1.weight": (32,)}),
    ("se_resnet", {}, {"layer0.conv1.weight": (64, 3, 7, 7), "layer1.0.bn2.weight": (64,), "layer2.0.downsample.0.weight": (512, 256, 1, 1), "layer3.1.se_module.fc1.bias": (64,)}),
    ("series", {"encoder": {"name": "resnet", "depth": 18, "running_statistics": True}, "exam": "each"}, {"layer1.0.conv1.weight": (64, 64, 3, 3)}),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("name", "fields", "tensors"), PUBLIC, ids=[f"{p[0]}-{n}" for n, p in enumerate(PUBLIC)])
def test_the_names_of_public_files_lead_to_tensors_of_their_shapes(
    name: str, fields: dict[str, Any], tensors: dict[str, tuple[int, ...]]
) -> None:
    from fedrounds_common.freezing import fits

    statistics = {} if name == "series" else {"running_statistics": True}
    network = SHELF.load({"name": name, **SMALL.get(name, {}), **fields, **statistics})
    shapes = {key: tuple(tensor.shape) for key, tensor in network.build(2, 3, 2).state_dict().items()}
    for public, shape in tensors.items():
        ours = public
        for pattern, put in network.public_names():
            ours = re.sub(pattern, put, ours)
        found = [key for key in shapes if fits(ours, key)]
        assert found, f"{public} became {ours}"
        assert {shapes[key] for key in found} == {shape}, ours


@pytest.mark.slow
def test_its_own_resnet_block_adds_up_to_what_monais_does() -> None:
    from monai.networks.nets.resnet import ResNet

    ours = build("resnet", 2, 2, 3, depth=50, running_statistics=True)
    theirs = ResNet(
        "bottleneck",
        [3, 4, 6, 3],
        [64, 128, 256, 512],
        2,
        2,
        7,
        2,
        shortcut_type="B",
        bias_downsample=False,
        num_classes=3,
    ).eval()
    renamed = {key.removeprefix("body.").replace("head.", "fc."): value for key, value in ours.state_dict().items()}
    theirs.load_state_dict(renamed)
    with torch.no_grad():
        torch.testing.assert_close(ours(images(2)), theirs(images(2)))


@pytest.mark.slow
def test_its_own_padding_is_monais_where_the_image_has_the_size_that_monai_pads_for() -> None:
    from monai.networks.nets.efficientnet import EfficientNetBN

    ours = build("efficientnet", 2, 2, 3, running_statistics=True)
    theirs = EfficientNetBN("efficientnet-b0", False, False, 2, 2, 3).eval()
    theirs.load_state_dict(
        {re.sub(r"^head\.", "_fc.", key.removeprefix("body.")): value for key, value in ours.state_dict().items()}
    )
    with torch.no_grad():
        torch.testing.assert_close(ours(images(2, 224)), theirs(images(2, 224)))


@pytest.mark.slow
def test_rounding_up_pools_leaves_densenet_as_monai_makes_it_where_every_size_is_even() -> None:
    from monai.networks.nets.densenet import DenseNet

    ours = build("densenet", 2, 2, 3, running_statistics=True)
    theirs = DenseNet(2, 2, 3, init_features=16, growth_rate=8).eval()
    theirs.load_state_dict(
        {
            key.replace("body.", "features.").replace("head.", "class_layers.out."): value
            for key, value in ours.state_dict().items()
        }
    )
    with torch.no_grad():
        torch.testing.assert_close(ours(images(2, 64)), theirs(images(2, 64)))


def test_groups_have_at_least_sixteen_channels_each() -> None:
    assert [scores.groups(channels) for channels in (1, 8, 16, 24, 32, 64, 96, 112, 1280)] == [
        1,
        1,
        1,
        1,
        2,
        4,
        6,
        7,
        80,
    ]


@pytest.mark.slow
def test_no_network_that_makes_scores_imports_torchvision() -> None:
    code = "\n".join(
        [
            "import sys",
            "from fedrounds_common.shelves import NETWORKS",
            f"for name, fields in {[(name, SMALL.get(name, {})) for name in NAMES]!r}:",
            "    NETWORKS.load({'name': name, **fields}).build(2, 1, 2)",
            "print('torchvision' in sys.modules)",
        ]
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# ---------------------------------------------------------------- vision transformer


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["class-token", "mean"])
def test_the_attention_of_each_token_sums_to_one_and_leaves_no_trace(pool: str) -> None:
    network, x = build("vit", pool=pool), images(2)
    before = network(x)
    attention = network.attention(x)
    tokens = 16 + (pool == "class-token")
    assert attention.shape == (2, 2, 3, tokens, tokens)
    torch.testing.assert_close(attention.sum(-1), torch.ones(attention.shape[:-1]))
    torch.testing.assert_close(network(x), before)
    assert all(not block.attn.save_attn and not block.attn.att_mat.numel() for block in network.body.blocks)


@pytest.mark.slow
def test_a_class_token_has_no_maps_and_says_what_to_take() -> None:
    with pytest.raises(UsageError, match=r"FR-U48.*attention\(x\), or pool"):
        build("vit", pool="class-token").last_maps(images(2))


# ---------------------------------------------------------------- series and tiles


def test_max_pooling_takes_of_each_feature_the_largest_over_the_slices() -> None:
    network, x = build("series"), bag()
    with torch.no_grad():
        each = torch.stack([network.encoders[0].features(x[:, :, number]) for number in range(5)])
        torch.testing.assert_close(network.features(x), each.amax(0))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_volume_is_cut_along_the_axis_asked_for(axis: int) -> None:
    volume = torch.randn(2, 2, 20, 24, 28, generator=torch.Generator().manual_seed(0))
    cut, stack = build("series", 3, axis=axis), build("series")
    stack.load_state_dict(cut.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(cut(volume), stack(volume.movedim(2 + axis, 2)))
        assert cut.last_maps(volume).shape[2 + axis] == volume.shape[2 + axis]


@pytest.mark.parametrize(
    ("name", "fields", "minds"),
    [
        ("series", {"pooling": "max"}, False),
        ("series", {"pooling": "attention"}, False),
        ("tiles", {}, False),
        ("series", {"pooling": "lstm"}, True),
        ("series", {"pooling": "gru"}, True),
        ("series", {"pooling": "bigru"}, True),
    ],
)
def test_only_what_is_recurrent_minds_the_order(name: str, fields: dict[str, Any], minds: bool) -> None:
    network, x = build(name, **fields), bag(3)
    with torch.no_grad():
        found = [network(x[:, :, list(order)]) for order in permutations(range(3))]
    assert all(torch.allclose(found[0], each, atol=1e-5) for each in found) is not minds


def test_a_bigru_holds_both_ways() -> None:
    assert build("series", pooling="bigru", width=7).head.in_features == 14
    assert build("series", pooling="gru", width=7).head.in_features == 7


def test_attention_weighs_by_the_equation_of_the_paper() -> None:
    network, x = build("tiles"), bag()
    encoded, pool = network.encoded(x)[0], network.pools[0]
    with torch.no_grad():
        # a = softmax(w (tanh(V h) * sigm(U h)))
        hidden = torch.tanh(encoded @ pool.tanh.weight.T + pool.tanh.bias)
        hidden = hidden * torch.sigmoid(encoded @ pool.gate.weight.T + pool.gate.bias)
        weights = (hidden @ pool.weigh.weight.T + pool.weigh.bias).squeeze(-1).softmax(1)
        torch.testing.assert_close(network.attention(x)[:, 0], weights)
        torch.testing.assert_close(network.features(x), (weights[..., None] * encoded).sum(1))


def test_tiles_of_zeros_that_fill_a_bag_up_count_for_nothing() -> None:
    network, x = build("tiles"), bag(3)
    filled = torch.cat([x, torch.zeros(2, 2, 4, 28, 28)], dim=2)
    with torch.no_grad():
        torch.testing.assert_close(network(filled), network(x))
        assert network.attention(filled)[:, :, 3:].abs().max() == 0
        assert network(torch.zeros(2, 2, 4, 28, 28)).isfinite().all()


def test_tiles_are_for_bags_of_pictures() -> None:
    with pytest.raises(UsageError, match="FR-U46 tiles for cases of 3 dimensions"):
        SHELF.load({"name": "tiles"}).build(3, 1, 2)


@pytest.mark.parametrize(("exam", "encoders"), [("shared", 1), ("each", 2)])
def test_an_exam_is_a_logistic_regression_over_what_each_series_says(exam: str, encoders: int) -> None:
    network, x = build("series", exam=exam), bag()
    assert len(network.encoders) == encoders
    assert isinstance(network.head, bags.ExamHead)
    assert network.head.weights.shape == (3, 2)
    with torch.no_grad():
        network.head.weights.copy_(torch.tensor([[1.0, 2.0], [0.5, -1.0], [0.0, 3.0]]))
        each = [
            torch.sigmoid(
                network.head.heads[number](network.encoders[number % encoders].features(x[:, number, 0, None]))
            )
            for number in range(2)
        ]
        one_slice = x[:, :, :1]
        wanted = -2 + torch.stack(
            [
                1.0 * each[0][:, 0] + 2.0 * each[1][:, 0],
                0.5 * each[0][:, 1] - 1.0 * each[1][:, 1],
                3.0 * each[1][:, 2],
            ],
            dim=1,
        )
        torch.testing.assert_close(network(one_slice), wanted)


def test_a_series_that_is_left_out_of_the_regression_changes_nothing() -> None:
    network, x = build("series", exam="each"), bag()
    with torch.no_grad():
        network.head.weights[:, 1] = 0
        other = x.clone()
        other[:, 1] = 7 * other[:, 1] - 1
        torch.testing.assert_close(network(x), network(other))


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("series", {"encoder": {"name": "unet"}}, "model.encoder: unet: a network that makes scores of one picture"),
        ("series", {"encoder": {"name": "tiles"}}, "model.encoder: tiles: a network that makes scores of one picture"),
        (
            "tiles",
            {"encoder": {"name": "resnet", "depth": 11}},
            "model.encoder: encoder.depth: 11 is not one of 10, 18",
        ),
        ("tiles", {"encoder": {"name": "resent"}}, "did you mean 'resnet'"),
        ("vit", {"size": [28, 28]}, "size = [28, 28]: multiples of token = [16, 16] wanted"),
        ("vit", {"width": 100}, "width = 100: a multiple of heads = 3 wanted"),
        ("vit", {"token": [16, 16, 16]}, "token = [16, 16, 16]: 2 numbers wanted"),
        ("resnet", {"depth": 20}, "20 is not one of 10, 18, 34, 50, 101, 152"),
    ],
)
def test_settings_that_do_not_fit_together_are_faults(name: str, fields: dict[str, Any], message: str) -> None:
    built, faults = SHELF.build({"name": name, **fields}, "model")
    assert built is None
    assert message in str(faults[0])


def test_the_network_of_ones_own_that_the_docs_show_works_as_they_say(repo: Path, tmp_path: Path) -> None:
    page = (repo / "docs" / "networks.md").read_text(encoding="utf-8")
    (tmp_path / "networks").mkdir()
    (tmp_path / "networks" / "mine.py").write_text(page.partition("```python\n")[2].partition("```")[0])
    network = SHELF.load({"name": "mine", "head": "mlp", "hidden": 5}, [tmp_path])
    for dims in (2, 3):
        module = network.build(dims, 2, 3)
        assert module(images(dims, 8)).shape == (2, 3)
        with pytest.raises(UsageError, match="FR-U47 .*for mine; at least 4"):
            module(images(dims, 3))
