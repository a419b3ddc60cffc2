"""The dynamic head against DCNv2, DyHead and DyReLU written out with explicit loops."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from models.glip.deformable import deform_conv2d, gathered, sampled
from models.glip.dyhead import DeformConv, DyConv, DyReLU, Sampling

CHANNELS = 16
SIZES = [(6, 5), (3, 3), (2, 2)]


def rows(tensor: Tensor) -> list:  # type: ignore[type-arg]
    return tensor.tolist()


def bilinear(plane: Sequence[Sequence[float]], y: float, x: float) -> float:
    """The value between the four cells around (y, x); cells outside the plane are zero."""
    total = 0.0
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < len(plane) and 0 <= column < len(plane[0]):
                total += (1 - abs(y - row)) * (1 - abs(x - column)) * plane[row][column]
    return total


def plain_deformable(
    x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor, stride: int
) -> Tensor:
    """One picture: x (C, H, W), offset and mask as flat lists of a buffer of the output's size."""
    channels, height, width = x.shape
    out_height, out_width = (height - 1) // stride + 1, (width - 1) // stride + 1
    cells = out_height * out_width
    offsets, masks, planes = rows(offset.flatten()), rows(mask.flatten()), rows(x)
    result = torch.zeros(len(weight), out_height, out_width, dtype=x.dtype)
    for i in range(out_height):
        for j in range(out_width):
            place = i * out_width + j
            for tap in range(9):
                y = i * stride - 1 + tap // 3 + offsets[(2 * tap) * cells + place]
                z = j * stride - 1 + tap % 3 + offsets[(2 * tap + 1) * cells + place]
                for c in range(channels):
                    value = bilinear(planes[c], y, z) * masks[tap * cells + place]
                    result[:, i, j] += weight[:, c, tap // 3, tap % 3] * value
    return result + bias[:, None, None]


def double(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=random, dtype=torch.float64) * scale


@pytest.mark.parametrize("convolution", [gathered, sampled])
@pytest.mark.parametrize(
    ("size", "stride"), [((5, 4), 1), ((5, 4), 2), ((4, 6), 2), ((1, 3), 1), ((1, 1), 2)]
)
@torch.no_grad()
def test_deformable_convolution(
    convolution: Callable[..., Tensor], size: tuple[int, int], stride: int
) -> None:
    """Offsets up to several cells: taps land inside, outside and on the border."""
    out = [(side - 1) // stride + 1 for side in size]
    x, weight, bias = double(2, 3, *size), double(4, 3, 3, 3, seed=1), double(4, seed=2)
    offset, mask = double(2, 18, *out, seed=3, scale=1.5), double(2, 9, *out, seed=4)
    found = convolution(x, offset, mask, weight, bias, stride)
    for n in range(2):
        expected = plain_deformable(x[n], offset[n], mask[n], weight, bias, stride)
        torch.testing.assert_close(found[n], expected, rtol=0, atol=1e-12)


def test_training_has_torchvisions_gradient() -> None:
    """torchvision's own backward pass against the one through grid_sample."""
    from torchvision.ops import deform_conv2d as compiled

    x, weight, bias = double(2, 3, 5, 4), double(4, 3, 3, 3, seed=1), double(4, seed=2)
    offset, mask = double(2, 18, 5, 4, seed=3, scale=1.5), double(2, 9, 5, 4, seed=4)
    leaves = [tensor.requires_grad_() for tensor in (x, offset, mask, weight, bias)]
    ours = deform_conv2d(*leaves).pow(3).sum()
    theirs = compiled(x, offset, weight, bias, padding=1, mask=mask).pow(3).sum()
    for mine, reference in zip(
        torch.autograd.grad(ours, leaves), torch.autograd.grad(theirs, leaves)
    ):
        torch.testing.assert_close(mine, reference, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("convolution", [gathered, sampled])
@pytest.mark.parametrize(("dtype", "digits"), [(torch.float16, 11), (torch.bfloat16, 8)])
@torch.no_grad()
def test_low_precision_costs_values_not_places(
    convolution: Callable[..., Tensor], dtype: torch.dtype, digits: int
) -> None:
    """On a slope along 300 columns, a tap a cell too far right would be 1 off."""
    x = torch.arange(300.0).remainder(16).repeat(1, 3, 4, 1)  # exact in every dtype
    offset, mask = double(1, 18, 4, 300, seed=3, scale=1.5), double(1, 9, 4, 300, seed=4)
    weight, bias = double(4, 3, 3, 3, seed=1, scale=0.2), double(4, seed=2)
    low = [tensor.to(dtype) for tensor in (x, offset, mask, weight, bias)]
    found = convolution(*low)
    assert found.dtype == dtype
    values, places, *others = (tensor.double() for tensor in low)
    exact = convolution(values, places, *others)
    magnitude = convolution(values, places, *(tensor.abs() for tensor in others))
    assert ((found.double() - exact).abs() <= 4 * magnitude / 2**digits).all()


@pytest.mark.parametrize("convolution", [gathered, sampled])
@torch.no_grad()
def test_autocast_places_taps_as_float32_does(convolution: Callable[..., Tensor]) -> None:
    """Features may be float32 and offsets bfloat16, out of a norm and a convolution."""
    x, weight, bias = (
        tensor.float() for tensor in (double(1, 3, 5, 40), double(4, 3, 3, 3, seed=1), double(4))
    )
    offset = double(1, 18, 5, 40, seed=3, scale=1.5).bfloat16()
    mask = double(1, 9, 5, 40, seed=4).bfloat16()
    exact = convolution(x, offset.float(), mask.float(), weight, bias)
    with torch.autocast("cpu", torch.bfloat16):
        found = convolution(x, offset, mask, weight, bias)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), exact, rtol=0.02, atol=0.1)


@pytest.mark.parametrize("grad", [False, True])
def test_the_head_runs_in_bfloat16(grad: bool) -> None:
    block, maps = dyconv(), levels()
    with torch.set_grad_enabled(grad):
        exact = block(maps)
        found = block.bfloat16()([x.bfloat16() for x in maps])
    for a, b in zip(found, exact):
        assert a.dtype == torch.bfloat16
        cosine = torch.cosine_similarity(a.double().flatten(), b.flatten(), dim=0)
        assert cosine > 0.99
    if grad:
        found[0].sum().backward()
        assert block.offset.weight.grad is not None
        assert block.offset.weight.grad.isfinite().all()


def test_a_smaller_output_reads_the_offsets_as_they_lie_in_memory() -> None:
    offset = torch.arange(2 * 18 * 12.0).view(2, 18, 3, 4)
    mask = torch.arange(2 * 9 * 12.0).view(2, 9, 3, 4)
    read = Sampling(offset, mask).read_flat(2, 2)
    assert read.offset.shape == (2, 18, 2, 2)
    assert read.mask.shape == (2, 9, 2, 2)
    for n in range(2):
        assert rows(read.offset[n].flatten()) == rows(offset[n].flatten()[: 18 * 4])
        assert rows(read.mask[n].flatten()) == rows(mask[n].flatten()[: 9 * 4])
    assert Sampling(offset, mask).read_flat(3, 4).offset is offset


# ------------------------------------------------------------------------------------ the block


def dyconv(seed: int = 0) -> DyConv:
    torch.manual_seed(seed)
    block = DyConv(CHANNELS).double()
    for name, parameter in block.named_parameters():
        torch.nn.init.normal_(parameter, std=0.3 if "conv" in name or "offset" in name else 0.7)
    return block


def levels(seed: int = 5, batch: int = 1) -> list[Tensor]:
    return [double(batch, CHANNELS, *size, seed=seed + i) for i, size in enumerate(SIZES)]


def group_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(C, h, w) with as many groups as channels."""
    mean = x.mean(dim=(1, 2), keepdim=True)
    variance = x.var(dim=(1, 2), keepdim=True, unbiased=False)
    normed = (x - mean) / (variance + 1e-5).sqrt()
    return normed * weight[:, None, None] + bias[:, None, None]


def upsampled(x: Tensor, height: int, width: int) -> Tensor:
    """Corners on corners."""
    planes = rows(x)

    def at(target: int, size: int, source: int) -> float:
        return target * (source - 1) / (size - 1) if size > 1 else 0.0

    return torch.tensor(
        [
            [
                [
                    bilinear(plane, at(i, height, x.shape[1]), at(j, width, x.shape[2]))
                    for j in range(width)
                ]
                for i in range(height)
            ]
            for plane in planes
        ],
        dtype=x.dtype,
    )


def hard_sigmoid(x: Tensor) -> Tensor:
    return ((x + 3) / 6).clamp(0, 1)


def plain_dyrelu(relu: DyReLU, x: Tensor) -> Tensor:
    """(C, h, w)."""
    hidden = (relu.squeeze.weight @ x.mean(dim=(1, 2)) + relu.squeeze.bias).clamp(min=0)
    lines = hard_sigmoid(relu.excite.weight @ hidden + relu.excite.bias)
    result = torch.empty_like(x)
    for c in range(len(x)):
        a1, b1, a2, b2 = (float(lines[k * len(x) + c]) for k in range(4))
        first = (2 * (a1 - 0.5) + 1) * x[c] + b1 - 0.5
        second = 2 * (a2 - 0.5) * x[c] + b2 - 0.5
        result[c] = torch.maximum(first, second)
    return result


def plain_dyconv(block: DyConv, maps: list[Tensor]) -> list[Tensor]:
    """One picture, maps (C, h, w)."""
    results = []
    for i, level in enumerate(maps):
        raw = torch.nn.functional.conv2d(
            level[None], block.offset.weight, block.offset.bias, padding=1
        )[0]
        offset, mask = raw[:18], 1 / (1 + (-raw[18:]).exp())
        terms = [(block.same, level, 1)]
        if i > 0:
            terms.append((block.finer, maps[i - 1], 2))
        if i < len(maps) - 1:
            terms.append((block.coarser, maps[i + 1], 1))
        total = torch.zeros_like(level)
        for part, source, stride in terms:
            convolved = plain_deformable(
                source, offset, mask, part.conv.weight, part.conv.bias, stride
            )
            term = group_norm(convolved, part.norm.weight, part.norm.bias)
            term = upsampled(term, *level.shape[1:])
            gate = (block.gate.weight[0, :, 0, 0] @ term.mean(dim=(1, 2)) + block.gate.bias).clamp(
                min=0
            )
            total += hard_sigmoid(gate) * term
        results.append(plain_dyrelu(block.relu, total / len(terms)))
    return results


@torch.no_grad()
def test_the_whole_block_is_the_written_out_one() -> None:
    block, maps = dyconv(), levels()
    expected = plain_dyconv(block, [x[0] for x in maps])
    for found, reference in zip(block(maps), expected):
        torch.testing.assert_close(found[0], reference, rtol=0, atol=1e-10)


@torch.no_grad()
def test_pictures_of_a_batch_do_not_see_each_other() -> None:
    block, maps = dyconv(), levels(batch=3)
    together = block(maps)
    for n in range(3):
        alone = block([x[n : n + 1] for x in maps])
        for a, b in zip(together, alone):
            torch.testing.assert_close(a[n : n + 1], b, rtol=0, atol=1e-12)


def test_offsets_are_computed_once_per_level() -> None:
    block, calls = dyconv(), []
    block.offset.register_forward_hook(lambda _m, inputs, _o: calls.append(inputs[0].shape[2:]))
    block(levels())
    assert [tuple(shape) for shape in calls] == SIZES


def test_training_starts_as_an_ordinary_convolution() -> None:
    """Offsets zero, every tap half open."""
    torch.manual_seed(0)
    part, block = DeformConv(CHANNELS, stride=1), DyConv(CHANNELS)
    x = torch.randn(1, CHANNELS, 5, 5)
    sampling = block._sampling(x)
    plain = torch.nn.functional.conv2d(x, part.conv.weight / 2, part.conv.bias, padding=1)
    torch.testing.assert_close(part(x, sampling), part.norm(plain), rtol=1e-4, atol=1e-4)
    assert sampling.offset.abs().sum() == 0


@pytest.mark.parametrize("height", [1, 4])
def test_dyrelu_alone(height: int) -> None:
    torch.manual_seed(1)
    relu = DyReLU(8).double()
    x = double(2, 8, height, 3)
    with torch.no_grad():
        for n in range(2):
            torch.testing.assert_close(relu(x)[n], plain_dyrelu(relu, x[n]), rtol=0, atol=1e-12)
