"""ViLD (Gu et al. 2022, arXiv 2104.13921): the whole network.

vild = Vild(VildConfig.mini())
levels = vild.encode_image(pixels)                       # once per picture
proposals = vild.propose(levels, [(width, height)])
regions = vild.regions(levels, proposals.boxes)          # names come after this
logits = vild.classifier(regions.embeddings, text)
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import cast

from torch import Tensor, nn

from models.clip.frozen import NAMED_SIDE, stages_of
from models.vild.backbone import make_backbone
from models.vild.config import VildConfig
from models.vild.fpn import Fpn
from models.vild.head import SHORTCUT, BoxHead, MaskHead, RegionHead, Regions
from models.vild.roi import nearest_scale, read_regions, region_features
from models.vild.rpn import Proposals, Rpn, RpnOutput, anchor_boxes, select_proposals
from models.vild.text import TextClassifier

Sizes = Sequence[tuple[int, int]]
Boxes = Sequence[Tensor] | Tensor


class Vild(nn.Module):
    """Pictures in; proposals, vectors in CLIP's space, boxes and masks of regions out.

    Wherever it takes `boxes`, they are (K, 4) xyxy per picture, in pixels of the network's input,
    as a list or stacked (N, K, 4); results are rows, the pictures' one after another.
    """

    def __init__(self, config: VildConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = make_backbone(config)
        self.fpn = Fpn(config)
        self.rpn = Rpn(config)
        self.head = BoxHead(config)
        self.image_head = RegionHead(config) if config.ensemble else None
        self.mask_head = MaskHead(config) if config.mask else None
        self.classifier = TextClassifier(config)

    def pyramid(self, stages: Sequence[Tensor]) -> list[Tensor]:
        """What `stages` gives -> levels (N, channels, h, w), the finest first, and behind them, for
        shortcuts, the backbone's last map of every view as it is."""
        own = len(self.config.backbone.channels)
        levels = cast("list[Tensor]", self.fpn(stages[:own]))
        return [*levels, *stages[own - 1 :]] if self.config.views else levels

    def encode_image(self, pixels: Tensor) -> list[Tensor]:
        """Prepared pictures (N, 3, H, W), sides multiples of the coarsest stride -> levels."""
        return self.pyramid(self.stages(pixels))

    def stages(self, pixels: Tensor) -> list[Tensor]:
        """Maps of the backbone (N, C, h, w), the finest first, then the last one of further views."""
        return stages_of(self.backbone, pixels, self.config.views)

    def anchors(self, output: RpnOutput) -> Tensor:
        """(M, 4) float32 xyxy in pixels of the network's input, in the order of `RpnOutput`."""
        return anchor_boxes(self.config, output.level_shapes, output.objectness.device)

    def propose(self, levels: Sequence[Tensor], sizes: Sizes) -> Proposals:
        """Where something may be; `sizes` are N pairs (width, height) at which boxes end."""
        return self.proposals(self.rpn(levels), sizes)

    def proposals(self, output: RpnOutput, sizes: Sizes) -> Proposals:
        """The best boxes of what the proposal network said."""
        chosen = self.config.proposals
        pre_nms = chosen.pre_nms_training if self.training else chosen.pre_nms
        return select_proposals(
            output, self.anchors(output), sizes, pre_nms, chosen.nms, chosen.post_nms
        )

    def regions(self, levels: Sequence[Tensor], boxes: Boxes, *, imitate: bool = True) -> Regions:
        """What regions are, and their corrected boxes as deltas.

        `imitate=False` leaves out an ensemble's second head, as training does for the regions
        that have a name.
        """
        features, cells = self.region_features(levels, boxes), self.cells(levels, boxes)
        embeddings, deltas = self.head.regions(features, cells)
        image = None
        if imitate and self.image_head is not None:
            image = self.image_head(features, cells)
        return Regions(embeddings, image, deltas)

    def imitations(self, levels: Sequence[Tensor], boxes: Boxes) -> Tensor:
        """Unit vectors (N, D) that ViLD-image pulls towards the teacher's: of the second head in
        an ensemble, else of the one that names are compared with."""
        head = self.head if self.image_head is None else self.image_head
        return cast(Tensor, head(self.region_features(levels, boxes), self.cells(levels, boxes)))

    def masks(self, levels: Sequence[Tensor], boxes: Boxes) -> Tensor:
        """Logits (N, 28, 28) of what inside each box belongs to its object.

        Raises:
            ValueError: the configuration has no masks.
        """
        if self.mask_head is None:
            raise ValueError(f"{self.config.name} has no mask head.")
        features = self.region_features(levels, boxes, self.config.mask_roi)
        return cast(Tensor, self.mask_head(features))

    def cells(self, levels: Sequence[Tensor], boxes: Boxes) -> Tensor | None:
        """(N, C', 3, 3) of the backbone's last map, where the heads have shortcuts."""
        if not self.config.views:
            return None
        views = levels[len(self.config.strides) :]
        stride = 2 ** (self.config.min_level + len(self.config.backbone.channels) - 1)
        choose = partial(nearest_scale, scales=self.config.views, side=NAMED_SIDE)
        factors = [scale / stride for scale in self.config.views]
        return read_regions(views, factors, boxes, SHORTCUT, choose)

    def region_features(
        self, levels: Sequence[Tensor], boxes: Boxes, size: int | None = None
    ) -> Tensor:
        """(N, channels, size, size); `size` is that of the region heads unless given."""
        return region_features(
            levels[: len(self.config.strides)],
            boxes,
            size or self.config.roi,
            self.config.min_level,
            self.config.canonical_size,
        )

    def learnt(self) -> dict[str, Tensor]:
        """The state that training makes: all but a frozen backbone's."""
        frozen = not any(parameter.requires_grad for parameter in self.backbone.parameters())
        return {
            key: value
            for key, value in self.state_dict().items()
            if not (frozen and key.startswith("backbone."))
        }

    def forward(self, pixels: Tensor, sizes: Sizes) -> tuple[Proposals, Regions]:
        """Prepared pictures (N, 3, H, W) and where boxes end -> proposals and what they are."""
        levels = self.encode_image(pixels)
        proposals = self.propose(levels, sizes)
        return proposals, self.regions(levels, proposals.boxes)
