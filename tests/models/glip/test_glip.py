"""The whole network: its presets, its shapes, what may influence what, and that it can learn."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.swin_transformer import SwinTransformer

from models.glip import Glip, GlipConfig
from models.glip.config import SwinConfig
from models.glip.head import Shortcut, anchor_boxes, flatten_levels, split_levels
from models.glip.names import is_ignored, official_names
from models.glip.swin import Swin
from tests.glip_support import seeded_glip, small_config

pytestmark = pytest.mark.usefixtures("one_thread")

MILLION = 1_000_000


@pytest.fixture(scope="module")
def glip() -> Glip:
    return seeded_glip(small_config(), dtype=torch.float64)


@pytest.fixture(scope="module")
def variant_a() -> Glip:
    return seeded_glip(small_config(fusion=False), dtype=torch.float64)


def pictures(count: int = 2, height: int = 64, width: int = 96, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, height, width, generator=random, dtype=torch.float64)


def prompts(lengths: tuple[int, ...] = (6, 4), padded: int = 6) -> tuple[Tensor, Tensor]:
    """Token ids (N, T) of different prompts and which are real."""
    ids = torch.arange(1, 1 + len(lengths) * padded).view(len(lengths), padded)
    mask = (torch.arange(padded) < torch.tensor(lengths)[:, None]).long()
    return ids * mask, mask


# -------------------------------------------------------------------------------------- presets


@pytest.mark.parametrize(
    ("config", "millions", "keys"),
    [
        (GlipConfig.a(), {"": 151.4}, 541),
        (
            GlipConfig.tiny(),
            {"": 231.8, "backbone": 27.5, "fpn": 3.3, "language": 108.9, "head": 92.1},
            745,
        ),
        (
            GlipConfig.large(),
            {"": 430.4, "backbone": 195.2, "fpn": 3.6, "language": 108.9, "head": 122.7},
            1021,
        ),
    ],
    ids=lambda value: value.name if isinstance(value, GlipConfig) else "",
)
def test_official_presets_have_the_papers_sizes(
    config: GlipConfig, millions: dict[str, float], keys: int
) -> None:
    with torch.device("meta"):
        glip = Glip(config)
    for part, expected in millions.items():
        found = sum(p.numel() for p in glip.get_submodule(part).parameters())
        assert found / MILLION == pytest.approx(expected, abs=0.06), part
    names = official_names(config)
    assert set(names) == set(glip.state_dict())
    assert len(set(names.values())) == len(names)
    assert not any(is_ignored(name) for name in names.values())
    # The files also hold an index per Swin block, five anchors, and `cls_logits`.
    assert len(names) + sum(config.backbone.depths) + 5 + 2 == keys


@pytest.mark.parametrize(
    ("preset", "words"),
    [(GlipConfig.mini, 20), (GlipConfig.mini_without_fusion, 20)],
)
def test_mini_presets_run_and_are_small(preset: Callable[[], GlipConfig], words: int) -> None:
    glip = Glip(preset()).eval()
    own = [
        p for part in (glip.fpn, glip.resizer, glip.head, glip.shortcut) for p in part.parameters()
    ]
    assert sum(p.numel() for p in own) * 2 < 8e6  # bytes of the file in half precision
    with torch.no_grad():
        levels = glip.encode_image(torch.zeros(1, 3, 192, 224))
        output = glip.predict(levels, torch.zeros(1, words, 384), torch.ones(1, words))
    assert [tuple(level.shape[1:]) for level in levels] == [
        (64, 24, 28),
        (64, 12, 14),
        (64, 6, 7),
        (64, 3, 4),
        (64, 2, 2),
        (256, 6, 7),  # C5 of every view as it is
        (256, 9, 11),
        (256, 3, 4),
        (256, 2, 2),
    ]
    assert output.logits.shape == (1, len(glip.anchors(output.level_shapes)), words)


def test_only_the_references_variants_have_official_names() -> None:
    with pytest.raises(ValueError, match="glip-mini"):
        official_names(GlipConfig.mini())


@pytest.mark.parametrize(
    ("key", "ignored"),
    [
        ("module.rpn.head.cls_logits.weight", True),
        ("rpn.anchor_generator.cell_anchors.3", True),
        ("backbone.body.layers.0.blocks.1.attn.relative_position_index", True),
        ("language_backbone.body.model.embeddings.position_ids", True),
        ("language_backbone.body.model.pooler.dense.bias", True),
        ("rpn.resizer.fc.weight", True),
        ("rpn.head.mlm_head.bias", True),
        ("rpn.tunable_linear.weight", True),
        ("rpn.head.bbox_pred.weight", False),
        ("backbone.body.layers.0.blocks.1.attn.relative_position_bias_table", False),
        ("rpn.head.cls_logits_of_mine", False),
    ],
)
def test_keys_to_leave_out_are_named(key: str, ignored: bool) -> None:
    assert is_ignored(key) is ignored


# --------------------------------------------------------------------------- what comes out of it


@torch.no_grad()
def test_shapes_and_order_of_the_output(glip: Glip) -> None:
    ids, mask = prompts()
    text = glip.encode_text(ids, mask)
    output = glip.predict(glip.encode_image(pictures()), text, mask, keep_attention=True)
    assert output.level_shapes == [(8, 12), (4, 6), (2, 3), (1, 2), (1, 1)]
    cells = 96 + 24 + 6 + 2 + 1
    assert text.shape == (2, 6, 24)
    assert output.logits.shape == (2, cells, 6)
    assert output.box_regression.shape == (2, cells, 4)
    assert output.centerness.shape == (2, cells)
    assert output.attention is not None
    assert output.attention.shape == (2, cells, 6)
    sums = output.attention.sum(dim=-1)
    torch.testing.assert_close(sums, torch.ones_like(sums))
    assert output.attention[1, :, 4:].abs().sum() == 0
    together = glip(pictures(), ids, mask)
    assert torch.equal(together.logits, output.logits)
    assert together.attention is None


@torch.no_grad()
def test_scales_belong_to_levels(glip: Glip) -> None:
    """Each level's regression is multiplied with its own scale."""
    ids, mask = prompts((6,))
    levels, text = glip.encode_image(pictures(1)), glip.encode_text(ids, mask)
    before = glip.predict(levels, text, mask)
    glip.head.scales[1] *= 2
    after = glip.predict(levels, text, mask)
    glip.head.scales[1] /= 2
    ratio = after.box_regression / before.box_regression
    expected = torch.ones(129, 1, dtype=torch.float64)
    expected[96:120] = 2
    torch.testing.assert_close(ratio[0], expected.expand(-1, 4))


@torch.no_grad()
@pytest.mark.parametrize("which", ["glip", "variant_a"])
def test_pictures_prompts_and_pads_do_not_leak(which: str, request: pytest.FixtureRequest) -> None:
    """Row n of a batch is what picture n and prompt n give alone, without the padding."""
    network: Glip = request.getfixturevalue(which)
    ids, mask = prompts()
    together = network(pictures(), ids, mask)
    assert network.config.fusion or together.attention is None
    for n, length in enumerate((6, 4)):
        alone = network(pictures()[n : n + 1], ids[n : n + 1, :length], mask[n : n + 1, :length])
        for name in ("logits", "box_regression", "centerness"):
            a, b = getattr(together, name)[n], getattr(alone, name)[0]
            a = a[:, :length] if name == "logits" else a
            torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


@torch.no_grad()
def test_only_fusion_lets_words_move_boxes(glip: Glip, variant_a: Glip) -> None:
    ids, mask = prompts((6,))
    for network, moves in ((glip, True), (variant_a, False)):
        a = network(pictures(1), ids, mask).box_regression
        b = network(pictures(1), ids + 7, mask).box_regression
        assert torch.equal(a, b) != moves


@torch.no_grad()
def test_logits_are_the_papers_dot_products(variant_a: Glip) -> None:
    """Without fusion the head's last product can be written out for one cell and one word."""
    ids, mask = prompts((6,))
    levels, text = variant_a.encode_image(pictures(1)), variant_a.encode_text(ids, mask)
    output, head = variant_a.predict(levels, text, mask), variant_a.head
    for block in head.blocks:
        levels = block.dyconv(levels)
    word = text[0, 3] / text[0, 3].norm()
    token = head.text_projection.weight @ word / 2 + head.text_projection.bias
    for cell, x in ((0, levels[0][0, :, 0, 0]), (13, levels[0][0, :, 1, 1])):
        logit = x @ token / head.log_scale.exp() + word @ head.bias_text + head.bias0
        assert float(output.logits[0, cell, 3]) == pytest.approx(float(logit), abs=1e-10)


@torch.no_grad()
def test_a_shortcut_is_the_cosine_of_each_cell_of_a_view_with_each_words_phrase() -> None:
    torch.manual_seed(0)
    shortcut = Shortcut(5, 7, 3, views=(1.0, 0.5), anchor_scale=4).double()
    assert shortcut.views == [0, 0, 1, 1, 1]  # anchors of 32 to 512 pixels
    maps = [torch.randn(2, 5, 2, 3).double(), torch.randn(2, 5, 1, 2).double()]
    text = torch.randn(2, 4, 7).double()
    shortcut.scale.fill_(3.0)
    found = shortcut(maps, text, [(4, 6), (2, 3), (1, 2)])
    assert found.shape == (2, 24 + 6 + 2, 4)
    for place, view, n, y, x, t in (
        (24, 0, 0, 0, 0, 0),
        (29, 0, 1, 1, 2, 3),
        (31, 1, 1, 0, 1, 2),
    ):
        cell = shortcut.cell.weight[:, :, 0, 0] @ maps[view][n, :, y, x]
        cosine = F.cosine_similarity(cell, shortcut.phrase(text[n, t]), dim=0)
        assert float(found[n, place, t]) == pytest.approx(3 * float(cosine), abs=1e-12)


@torch.no_grad()
def test_a_shortcut_stands_beside_the_head() -> None:
    torch.manual_seed(0)
    glip = Glip(GlipConfig.mini()).eval()
    levels = glip.encode_image(torch.randn(1, 3, 96, 64))
    text, mask, phrases = torch.randn(1, 5, 384), torch.ones(1, 5), torch.randn(1, 5, 384)
    phrases[0, 2] = 0  # a word of no phrase
    without = glip.predict(levels, text, mask)
    with_it = glip.predict(levels, text, mask, phrases=phrases)
    beside = glip.shortcut(levels[5:], phrases, with_it.level_shapes)
    torch.testing.assert_close(with_it.logits, without.logits + beside)
    assert beside.abs().max() > 0.1
    assert not beside[..., 2].any()
    torch.testing.assert_close(with_it.box_regression, without.box_regression)


@torch.no_grad()
def test_a_phrase_is_read_on_its_own() -> None:
    """[CLS], its tokens and [SEP], whatever stands around it; the mean of their states."""
    torch.manual_seed(0)
    glip = Glip(GlipConfig.mini()).eval()
    ids = torch.tensor([101, 2312, 4937, 1012, 3899, 102])
    phrases = torch.tensor([[0, 0.5, 0.5, 0, 0, 0], [0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0]])
    (found,) = glip.encode_phrases(ids, phrases)
    alone = torch.tensor([[101, 2312, 4937, 102]])
    expected = glip.encode_text(alone, torch.ones(1, 4))[0].mean(0)
    torch.testing.assert_close(found[1], expected, rtol=0, atol=1e-5)
    assert torch.equal(found[1], found[2])
    expected = glip.encode_text(torch.tensor([[101, 3899, 102]]), torch.ones(1, 3))[0].mean(0)
    torch.testing.assert_close(found[4], expected, rtol=0, atol=1e-5)
    assert not found[[0, 3, 5]].any()
    assert not glip.encode_phrases(ids, phrases[:0]).any()


def test_without_a_shortcut_no_phrase_is_read(glip: Glip) -> None:
    assert glip.encode_phrases(torch.tensor([101, 3899, 102]), torch.ones(1, 3)) is None


def test_levels_flatten_row_by_row_and_back() -> None:
    levels = [torch.arange(float(h * w)).view(1, 1, h, w) + 100 * h for h, w in ((2, 3), (1, 2))]
    cells = flatten_levels(levels)
    assert cells.flatten().tolist() == [200, 201, 202, 203, 204, 205, 100, 101]
    for level, again in zip(levels, split_levels(cells, [(2, 3), (1, 2)])):
        assert torch.equal(level, again)


@pytest.mark.parametrize(
    ("scale", "cell", "box"),
    [
        (8, 0, [-28, -28, 35, 35]),  # 64 pixels, last pixel inside, around 3.5
        (8, 1, [-20, -28, 43, 35]),
        (8, 2, [-28, -20, 35, 43]),
        (4, 4, [-24, -24, 39, 39]),  # the second level's first cell, around 7.5
    ],
)
def test_anchors(scale: int, cell: int, box: list[float]) -> None:
    boxes = anchor_boxes([(2, 2), (1, 1)], scale)
    assert boxes.shape == (5, 4)
    assert boxes[cell].tolist() == box


# -------------------------------------------------------------------------------------- learning


@pytest.mark.parametrize("preset", [GlipConfig.mini, GlipConfig.mini_without_fusion])
def test_gradients_reach_everything_but_the_frozen_tower(
    preset: Callable[[], GlipConfig],
) -> None:
    glip = Glip(preset()).train()
    assert not any(module.training for module in glip.backbone.modules())
    ids, mask = prompts()
    text = glip.encode_text(ids, mask)
    levels = glip.encode_image(torch.randn(2, 3, 64, 64))
    output = glip.predict(levels, text, mask, phrases=text)
    loss = output.logits.mean() + output.box_regression.mean() + output.centerness.mean()
    loss.backward()
    without = {name for name, p in glip.named_parameters() if p.grad is None}
    assert without == {name for name, _ in glip.named_parameters() if name.startswith("backbone.")}


def test_a_swin_learns_too() -> None:
    glip = seeded_glip(small_config()).train()
    output = glip(pictures().float(), *prompts())
    (output.logits.mean() + output.box_regression.mean() + output.centerness.mean()).backward()
    assert [name for name, p in glip.named_parameters() if p.grad is None] == []


def test_training_starts_at_the_focal_prior() -> None:
    """RetinaNet's 0.01: no flood of false alarms in the first steps."""
    torch.manual_seed(0)
    glip = Glip(GlipConfig.mini())
    with torch.no_grad():
        levels = glip.encode_image(torch.randn(1, 3, 96, 96))
        output = glip.predict(
            levels, torch.randn(1, 8, 384), torch.ones(1, 8), phrases=torch.randn(1, 8, 384)
        )
    assert 0.003 < float(output.logits.sigmoid().mean()) < 0.03
    assert float(output.box_regression.abs().mean()) < 0.5


def test_training_and_inference_compute_the_same() -> None:
    """No dropout, no statistics of batches: only this makes remembered features valid."""
    torch.manual_seed(0)
    glip = Glip(GlipConfig.mini())
    ids, mask = prompts()
    with torch.no_grad():
        outputs = [glip.train(mode)(torch.ones(2, 3, 64, 64), ids, mask) for mode in (True, False)]
    assert torch.equal(outputs[0].logits, outputs[1].logits)


# ------------------------------------------------------------------------------------------ Swin


@torch.no_grad()
def test_swin_is_torchvisions_where_windows_fit() -> None:
    """Maps larger than a window and free of padding: there the two agree (see swin.py)."""
    config = SwinConfig(dim=8, depths=(2, 2, 2, 2), heads=(1, 2, 2, 4), window=2)
    torch.manual_seed(0)
    theirs = SwinTransformer(
        patch_size=[4, 4],
        embed_dim=8,
        depths=list(config.depths),
        num_heads=list(config.heads),
        window_size=[2, 2],
        stochastic_depth_prob=0.0,
    ).double()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    ours = Swin(config).double()
    ours.load_state_dict(from_torchvision(theirs, ours))
    x = theirs.features[0](pictures(2, 128, 192))
    stages = ours.all_stages(pictures(2, 128, 192))
    for i, found in enumerate(stages):
        x = (
            theirs.features[1](x)
            if i == 0
            else theirs.features[2 * i + 1](theirs.features[2 * i](x))
        )
        expected = x if i == 0 else ours.norms[i - 1](x)
        torch.testing.assert_close(found, expected.permute(0, 3, 1, 2), rtol=0, atol=1e-9)


def from_torchvision(theirs: SwinTransformer, ours: Swin) -> dict[str, Tensor]:
    """Our keys with the other's weights; norms of the outputs, which it lacks, as they are."""
    state = ours.state_dict()
    their_state = theirs.state_dict()
    renames = {
        "patch_embed.proj": "features.0.0",
        "patch_embed.norm": "features.0.2",
        "bias_table": "relative_position_bias_table",
        "fc1": "mlp.0",
        "fc2": "mlp.3",
    }
    for key in state:
        if key.startswith("norms"):
            continue
        name = key
        for mine, other in renames.items():
            name = name.replace(mine, other)
        if name.startswith("stages."):
            _, stage, *rest = name.split(".")
            if rest[0] == "merge":
                name = ".".join(["features", str(2 * int(stage)), *rest[1:]])
            else:
                name = ".".join(["features", str(2 * int(stage) + 1), *rest[1:]])
        state[key] = their_state[name]
    return state


@torch.no_grad()
@pytest.mark.parametrize("size", [(32, 32), (37, 61), (5, 200), (1, 1)])
def test_swin_takes_any_size(size: tuple[int, int]) -> None:
    swin = Swin(SwinConfig(dim=8, depths=(2, 2, 2, 2), heads=(1, 1, 2, 2), window=3)).eval()
    height, width = (-(-side // 4) for side in size)
    for i, stage in enumerate(swin.all_stages(torch.randn(1, 3, *size))):
        assert tuple(stage.shape) == (1, 8 * 2**i, height, width)
        assert stage.isfinite().all()
        height, width = (height + 1) // 2, (width + 1) // 2
