"""Composing pictures: sprites and backgrounds become whole batches on the training device.

A `Layout` says what is where; `render` draws it. Both are functions of a `torch.Generator`, so the
same seed gives the same bytes on one kind of device.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

# Colours an object may be tinted with: name and RGB in [0, 1].
TINTS: tuple[tuple[str, tuple[float, float, float]], ...] = (
    ("red", (0.86, 0.16, 0.16)),
    ("orange", (0.96, 0.55, 0.13)),
    ("yellow", (0.96, 0.85, 0.18)),
    ("green", (0.20, 0.66, 0.28)),
    ("turquoise", (0.16, 0.72, 0.70)),
    ("blue", (0.17, 0.40, 0.88)),
    ("purple", (0.55, 0.28, 0.78)),
    ("pink", (0.95, 0.50, 0.70)),
    ("brown", (0.52, 0.33, 0.18)),
    ("black", (0.14, 0.14, 0.16)),
    ("white", (0.96, 0.96, 0.96)),
    ("gray", (0.55, 0.56, 0.58)),
)
MIP_LEVELS = 3  # 96, 48, 24 px: a sprite drawn small is sampled from a smaller copy
BACKGROUND_KINDS = ("plain", "gradient", "clouds", "stripes", "noise", "photo")


@dataclass(frozen=True)
class Layout:
    """What is where in N pictures of up to K objects, painted in order (later on top).

    Attributes:
        sprite: (N, K) index into the bank, -1 for an empty place.
        centre: (N, K, 2) x, y in [0, 1] of the picture's side.
        scale: (N, K) side of the sprite's square as a fraction of the picture's side.
        angle: (N, K) radians, counter-clockwise.
        mirror: (N, K) bool.
        tint: (N, K) index into `TINTS`, -1 for natural colours.
    """

    sprite: Tensor
    centre: Tensor
    scale: Tensor
    angle: Tensor
    mirror: Tensor
    tint: Tensor

    def __len__(self) -> int:
        return self.sprite.shape[0]

    def select(self, index: Tensor) -> "Layout":
        """The pictures at `index`."""
        return Layout(**{name: value[index] for name, value in vars(self).items()})


@dataclass(frozen=True)
class Truth:
    """Ground truth of rendered pictures.

    Attributes:
        boxes: (N, K, 4) float32 xyxy in pixels around what is visible; zeros where nothing is.
        visible: (N, K) fraction of the object's own area that later objects leave visible.
        masks: (N, K, H, W) bool, visible pixels.
    """

    boxes: Tensor
    visible: Tensor
    masks: Tensor


def uniform(generator: torch.Generator, shape: tuple[int, ...], low: float, high: float) -> Tensor:
    """Uniform float32 numbers in [low, high) from a CPU generator."""
    return torch.rand(shape, generator=generator) * (high - low) + low


def unit_length(directions: Tensor) -> Tensor:
    """(N, ...) -> the same directions, each picture's scaled to an L2 norm of 1."""
    norm = directions.flatten(1).norm(dim=1).clamp(min=1e-9)
    return directions / norm.view(-1, *[1] * (directions.ndim - 1))


def mipmaps(rgba: Tensor) -> list[Tensor]:
    """(N, 4, 96, 96) uint8 -> the same at 96, 48 and 24 px, uint8."""
    levels = [rgba]
    for _ in range(MIP_LEVELS - 1):
        levels.append(
            torch.cat(
                [F.avg_pool2d(part.float(), 2).round().byte() for part in levels[-1].split(512)]
            )
        )
    return levels


class Composer:
    """Draws layouts from a bank of sprites.

    Args:
        rgba: (S, 4, 96, 96) uint8, premultiplied (`SpriteBank.rgba`).
        photos: (P, 3, h, w) uint8 pictures for photographic backgrounds, or None.
        size: side of the pictures, pixels.
    """

    def __init__(
        self, rgba: Tensor, photos: Tensor | None, size: int, device: torch.device
    ) -> None:
        self.levels = [level.to(device) for level in mipmaps(rgba)]
        self.photos = None if photos is None else photos.to(device)
        self.size = size
        self.device = device
        self.tints = torch.tensor([colour for _, colour in TINTS], device=device)

    def objects(self, layout: Layout) -> tuple[Tensor, Tensor]:
        """Every object on a canvas of its own.

        Returns:
            which: (M, 2) rows and columns of the layout that are not empty.
            canvases: (M, 4, H, W) float32 premultiplied in [0, 1].
        """
        which = (layout.sprite >= 0).nonzero()
        row, column = which.unbind(1)
        sprite = layout.sprite[row, column].to(self.device)
        scale = layout.scale[row, column]
        pixels = scale * self.size
        level = torch.log2(self.levels[0].shape[-1] / pixels).floor().clamp(0, MIP_LEVELS - 1)
        grid_matrix = self._inverse_transform(layout, row, column).to(self.device)
        shape = (len(which), 4, self.size, self.size)
        canvases = torch.empty(shape, device=self.device)
        for depth, sprites in enumerate(self.levels):
            chosen = (level == depth).nonzero().squeeze(1).to(self.device)
            if len(chosen):
                grid = F.affine_grid(
                    grid_matrix[chosen], [len(chosen), *shape[1:]], align_corners=False
                )
                source = sprites[sprite[chosen]].float().div_(255)
                canvases[chosen] = F.grid_sample(source, grid, align_corners=False)
        return which, self._tinted(canvases, layout.tint[row, column].to(self.device))

    @staticmethod
    def _inverse_transform(layout: Layout, row: Tensor, column: Tensor) -> Tensor:
        """(M, 2, 3) output position -> sprite position, both in [-1, 1]."""
        angle, scale = layout.angle[row, column], layout.scale[row, column]
        centre = layout.centre[row, column] * 2 - 1  # (M, 2)
        flip = 1 - 2 * layout.mirror[row, column].float()
        cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
        first = torch.stack([flip * cos, -flip * sin], dim=1)
        second = torch.stack([sin, cos], dim=1)
        rotation = torch.stack([first, second], dim=1)  # (M, 2, 2)
        shift = -(rotation @ centre[:, :, None])
        return torch.cat([rotation, shift], dim=2)

    def _tinted(self, canvases: Tensor, tint: Tensor) -> Tensor:
        """Colourise by brightness: the drawing's light and shade in the named colour."""
        chosen = (tint >= 0).nonzero().squeeze(1)
        if not len(chosen):
            return canvases
        colour, alpha = canvases[chosen, :3], canvases[chosen, 3:]
        grey = colour.mul(colour.new_tensor([0.3, 0.59, 0.11]).view(1, 3, 1, 1)).sum(1, True)
        target = self.tints[tint[chosen]][:, :, None, None]
        shade = 0.55 * alpha + 0.9 * (grey - 0.5 * alpha)
        tinted = (2 * target * shade).minimum(alpha).clamp_(min=0)
        canvases[chosen, :3] = 0.85 * tinted + 0.15 * colour
        return canvases

    def render(
        self, layout: Layout, generator: torch.Generator, backgrounds: Tensor | None = None
    ) -> Tensor:
        """Pictures (N, 3, H, W) float32 in [0, 1], before any disturbance."""
        canvas = (
            backgrounds if backgrounds is not None else self.backgrounds(len(layout), generator)
        )
        which, objects = self.objects(layout)
        for place in range(layout.sprite.shape[1]):
            of_place = (which[:, 1] == place).nonzero().squeeze(1).to(self.device)
            rows = which[of_place.cpu(), 0].to(self.device)
            layer = objects[of_place]
            canvas[rows] = canvas[rows] * (1 - layer[:, 3:]) + layer[:, :3]
        return canvas

    def truth(self, layout: Layout) -> Truth:
        """Boxes, visibility and masks of a layout."""
        which, objects = self.objects(layout)
        count, places = layout.sprite.shape
        alpha = torch.zeros(count, places, self.size, self.size)
        alpha[which[:, 0], which[:, 1]] = objects[:, 3].cpu()
        masks = alpha > 0.5
        own = masks.flatten(2).sum(2)
        covered = torch.zeros(count, self.size, self.size, dtype=torch.bool)
        for place in reversed(range(places)):
            mine = masks[:, place].clone()
            masks[:, place] &= ~covered
            covered |= mine
        visible = masks.flatten(2).sum(2) / own.clamp(min=1)
        return Truth(mask_boxes(masks), visible, masks)

    def backgrounds(self, count: int, generator: torch.Generator) -> Tensor:
        """(N, 3, H, W) float32: plain, gradient, clouds, stripes, noise or photograph."""
        kinds = torch.randint(len(BACKGROUND_KINDS), (count,), generator=generator)
        if self.photos is None:
            kinds[kinds == BACKGROUND_KINDS.index("photo")] = 0
        first = torch.rand(count, 3, 1, 1, generator=generator).to(self.device)
        second = torch.rand(count, 3, 1, 1, generator=generator).to(self.device)
        white = torch.rand(count, 1, 1, 1, generator=generator).to(self.device) < 0.25
        first = torch.where(white, torch.ones_like(first), first)
        canvas = first.expand(-1, -1, self.size, self.size).clone()
        for index, kind in enumerate(BACKGROUND_KINDS[1:], start=1):
            rows = (kinds == index).nonzero().squeeze(1)
            if len(rows):
                there = rows.to(self.device)
                if kind == "photo":
                    canvas[there] = self._photo_crops(len(rows), generator)
                else:
                    mix = self._pattern(kind, len(rows), generator)
                    canvas[there] = first[there] + mix * (second[there] - first[there])
        return canvas

    def _pattern(self, kind: str, count: int, generator: torch.Generator) -> Tensor:
        """(n, 1, H, W) mixing weights in [0, 1]."""
        if kind in ("clouds", "noise"):
            cells = 4 if kind == "clouds" else 24
            coarse = torch.rand(count, 1, cells, cells, generator=generator).to(self.device)
            return F.interpolate(coarse, self.size, mode="bilinear", align_corners=False)
        angle = uniform(generator, (count, 1, 1), 0, 2 * math.pi).to(self.device)
        line = torch.linspace(-1, 1, self.size, device=self.device)
        ramp = torch.cos(angle) * line[None, :, None] + torch.sin(angle) * line[None, None, :]
        if kind == "stripes":
            waves = uniform(generator, (count, 1, 1), 4, 20).to(self.device)
            ramp = torch.sin(ramp * waves)
        return (ramp * 0.5 + 0.5).clamp(0, 1)[:, None]

    def _photo_crops(self, count: int, generator: torch.Generator) -> Tensor:
        assert self.photos is not None
        index = torch.randint(len(self.photos), (count,), generator=generator).to(self.device)
        return random_crops(self.photos[index], self.size, (0.3, 1.0), 1.5, generator)


def random_crops(
    pictures: Tensor, size: int, area: tuple[float, float], stretch: float,
    generator: torch.Generator, mirror: bool = True,
) -> Tensor:  # fmt: skip
    """Random resized crops, one affine sampling for the batch.

    Args:
        pictures: (N, 3, h, w) uint8.
        area: range of the crop's share of the picture's area.
        stretch: largest ratio of width to height of the crop, and of its inverse.
        mirror: turn every other picture left to right.

    Returns:
        (N, 3, size, size) float32 in [0, 1].
    """
    count = len(pictures)
    share = uniform(generator, (count,), *area).sqrt()
    ratio = torch.exp(uniform(generator, (count,), -math.log(stretch), math.log(stretch)) / 2)
    wide, high = (share * ratio).clamp(max=1), (share / ratio).clamp(max=1)
    flip = (torch.rand(count, generator=generator) < 0.5 * mirror).float() * -2 + 1
    shift_x = (1 - wide) * uniform(generator, (count,), -1, 1)
    shift_y = (1 - high) * uniform(generator, (count,), -1, 1)
    zero = torch.zeros(count)
    matrix = torch.stack(
        [torch.stack([flip * wide, zero, shift_x], 1), torch.stack([zero, high, shift_y], 1)], 1
    ).to(pictures.device)
    grid = F.affine_grid(matrix, [count, 3, size, size], align_corners=False)
    source = pictures.float().div_(255)
    return F.grid_sample(source, grid, padding_mode="reflection", align_corners=False)


def mask_boxes(masks: Tensor) -> Tensor:
    """(N, K, H, W) bool -> (N, K, 4) float32 xyxy pixels, zeros for empty masks."""
    columns, rows = masks.any(2), masks.any(3)  # (N, K, W), (N, K, H)
    low_x, low_y = columns.float().argmax(2), rows.float().argmax(2)
    high_x = masks.shape[3] - columns.flip(2).float().argmax(2)
    high_y = masks.shape[2] - rows.flip(2).float().argmax(2)
    boxes = torch.stack([low_x, low_y, high_x, high_y], dim=2).float()
    return boxes * masks.flatten(2).any(2)[..., None]


def disturb(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Light, colour, blur and noise as cameras and screens add them; in place where possible.

    Args:
        pictures: (N, 3, H, W) float32 in [0, 1].
    """
    count, device = len(pictures), pictures.device
    shape = (count, 1, 1, 1)
    gain = 1 + uniform(generator, (count, 3, 1, 1), -0.15, 0.15)
    contrast = 1 + uniform(generator, shape, -0.3, 0.3)
    bright = uniform(generator, shape, -0.12, 0.12)
    pictures = pictures.mul_((gain * contrast).to(device))
    pictures.add_((0.5 * (1 - contrast) + bright).to(device))
    blurred = (torch.rand(count, generator=generator) < 0.25).nonzero().squeeze(1)
    blurred = blurred.to(device)
    if len(blurred):
        soft = F.avg_pool2d(F.pad(pictures[blurred], (1, 1, 1, 1), mode="replicate"), 3, 1)
        pictures[blurred] = soft
    noisy = (torch.rand(count, generator=generator) < 0.25).nonzero().squeeze(1)
    if len(noisy):
        level = uniform(generator, (len(noisy), 1, 1, 1), 0.01, 0.08)
        noise = torch.randn((len(noisy), *pictures.shape[1:]), generator=generator) * level
        pictures[noisy.to(device)] += noise.to(device)
    return pictures.clamp_(0, 1)


def jpeg(pictures: Tensor, generator: torch.Generator, share: float) -> Tensor:
    """Pass a share of the pictures through real JPEG compression of quality 30 to 90."""
    from torchvision.io import decode_jpeg, encode_jpeg

    for index in (torch.rand(len(pictures), generator=generator) < share).nonzero().flatten():
        quality = int(torch.randint(30, 91, (1,), generator=generator))
        data = encode_jpeg(pictures[index].mul(255).round().byte().cpu(), quality)
        pictures[index] = decode_jpeg(data).to(pictures.device).float().div_(255)
    return pictures


def jittered(layout: Layout, generator: torch.Generator, amount: float = 0.03) -> Layout:
    """The same arrangement with places and sizes moved a little: what is said of it stays true."""
    centre = layout.centre + uniform(generator, tuple(layout.centre.shape), -amount, amount)
    scale = layout.scale * uniform(generator, tuple(layout.scale.shape), 0.93, 1.07)
    angle = layout.angle + uniform(generator, tuple(layout.angle.shape), -0.1, 0.1)
    return replace(layout, centre=centre, scale=scale, angle=angle)
