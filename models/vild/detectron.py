"""detectron2 as another source of proposals and masks, where it is installed.

    source = load_detectron("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml", path, "cpu")
    detector = Detector("vild-detectron2", VildOnDetectron(vild, source), clip, base_names)

What is in a region, ViLD says: it reads its own features at these boxes. detectron2 is on no package
index and is imported when it is asked for, never before. A model that was trained on all of COCO
or LVIS has seen boxes of the novel categories: what it finds is no measure of ViLD on them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from models.errors import InputError, WeightsError
from models.vild.rpn import Proposals
from models.vild.vild import Boxes, Sizes, Vild
from models.weights import read_safetensors

GUIDANCE = (
    "detectron2 is not installed; build it with `pip install 'setuptools<81' wheel && pip install "
    "--no-build-isolation git+https://github.com/facebookresearch/detectron2.git` (about ten "
    "minutes), or use ViLD's own proposals."
)


def is_available() -> bool:
    """Whether detectron2 could be imported; does not import it."""
    return importlib.util.find_spec("detectron2") is not None


class DetectronSource:
    """A Mask R-CNN of detectron2 behind the methods that `Vild` has for proposals and masks.

    Boxes are xyxy in pixels of the pictures given to `encode_image`.
    """

    def __init__(self, model: Any) -> None:
        """
        Args:
            model: detectron2's GeneralizedRCNN with a pyramid and a mask head.

        Raises:
            InputError: it makes no proposals or no masks.
        """
        heads = getattr(model, "roi_heads", None)
        if getattr(model, "proposal_generator", None) is None or not getattr(
            heads, "mask_on", False
        ):
            raise InputError(
                "This model of detectron2 makes no proposals or no masks; use a Mask R-CNN."
            )
        self.model = model.eval().requires_grad_(False)
        self._maps = sorted(model.backbone.output_shape())

    @torch.no_grad()
    def encode_image(self, pictures: Tensor) -> list[Tensor]:
        """Pictures (N, 3, H, W), RGB in [0, 1], not normalised -> its maps, by their names' order."""
        pixels = pictures * 255
        if self.model.input_format == "BGR":
            pixels = pixels.flip(1)
        images = self.model.preprocess_image([{"image": picture} for picture in pixels])
        maps = self.model.backbone(images.tensor)
        return [maps[name] for name in self._maps]

    @torch.no_grad()
    def propose(self, levels: Sequence[Tensor], sizes: Sizes) -> Proposals:
        """Where something may be; `sizes` are N pairs (width, height) at which boxes end."""
        from detectron2.structures import ImageList

        # Its proposal network asks the pictures for their sizes alone.
        images = ImageList(torch.empty(0), [(height, width) for width, height in sizes])
        found, _ = self.model.proposal_generator(images, self._named(levels), None)
        return Proposals(
            pad_sequence([one.proposal_boxes.tensor for one in found], batch_first=True),
            pad_sequence(
                [one.objectness_logits.sigmoid() for one in found],
                batch_first=True,
                padding_value=-1.0,
            ),
        )

    @torch.no_grad()
    def masks(self, levels: Sequence[Tensor], boxes: Boxes) -> Tensor:
        """Logits (K, 28, 28) of what inside each box belongs to its object; `boxes` are (k, 4) per
        picture. Where the model has a mask for every class it knows, the likeliest one's."""
        from detectron2.structures import Boxes

        heads, maps = self.model.roi_heads, self._named(levels)
        lists = [Boxes(rows.to(levels[0])) for rows in boxes]
        features = heads.mask_pooler([maps[name] for name in heads.mask_in_features], lists)
        logits: Tensor = heads.mask_head.layers(features)  # (K, classes or 1, 28, 28)
        if logits.shape[1] == 1:
            return logits[:, 0]
        regions = heads.box_pooler([maps[name] for name in heads.box_in_features], lists)
        scores, _ = heads.box_predictor(heads.box_head(regions))  # (K, classes + 1)
        likeliest = scores[:, :-1].argmax(dim=1)  # the last column is the background
        return logits[torch.arange(len(logits), device=logits.device), likeliest]

    def _named(self, levels: Sequence[Tensor]) -> Mapping[str, Tensor]:
        return dict(zip(self._maps, levels, strict=True))


class VildOnDetectron(Vild):
    """A ViLD that says what is in the regions that detectron2 proposes, and shows its masks.

    Its levels are ViLD's and then detectron2's; both networks read the same pixels.
    """

    def __init__(self, vild: Vild, source: DetectronSource) -> None:
        nn.Module.__init__(self)  # the parts are there
        self.config = replace(vild.config, mask=True)
        for name in ("backbone", "fpn", "rpn", "head", "image_head", "mask_head", "classifier"):
            setattr(self, name, getattr(vild, name))
        self.detectron = source.model
        self._source = source
        self._own = len(vild.config.strides) + len(vild.config.views)

    def encode_image(self, pixels: Tensor) -> list[Tensor]:
        mean, std = (
            pixels.new_tensor(values).view(3, 1, 1)
            for values in (self.config.mean, self.config.std)
        )
        pictures = pixels.float() * std.float() + mean.float()
        return [*super().encode_image(pixels), *self._source.encode_image(pictures)]

    def propose(self, levels: Sequence[Tensor], sizes: Sizes) -> Proposals:
        return self._source.propose(levels[self._own :], sizes)

    def masks(self, levels: Sequence[Tensor], boxes: Boxes) -> Tensor:
        return self._source.masks(levels[self._own :], boxes)

    def region_features(
        self, levels: Sequence[Tensor], boxes: Boxes, size: int | None = None
    ) -> Tensor:
        return super().region_features(levels[: self._own], boxes, size)


def load_detectron(
    config: str | Path, weights: Path, device: torch.device | str = "cpu"
) -> DetectronSource:
    """A model of detectron2 with the weights of a file.

    Args:
        config: a YAML file of detectron2, or the name of one in its model zoo.
        weights: .safetensors, or a .pth as detectron2's training writes it (`model_final.pth`);
            the model zoo's .pkl are pickles, which could run code, and are refused.

    Raises:
        InputError: detectron2 is absent or cannot be imported, or has no such configuration.
        WeightsError: the weights are missing, damaged, a pickle, or of another model.
    """
    if not is_available():
        raise InputError(GUIDANCE)
    try:
        from detectron2 import model_zoo
        from detectron2.config import get_cfg
        from detectron2.modeling import build_model
    except ImportError as error:
        raise InputError(
            f"detectron2 is installed but cannot be imported ({error}); build it again for this "
            "version of torch."
        ) from error
    settings = get_cfg()
    try:
        path = config if Path(config).is_file() else model_zoo.get_config_file(str(config))
        settings.merge_from_file(str(path), allow_unsafe=False)
        settings.MODEL.WEIGHTS = ""  # nothing is downloaded
        settings.MODEL.DEVICE = str(device)
        model = build_model(settings)
    except Exception as error:  # whatever a wrong file makes of a configuration
        raise InputError(
            f"detectron2 cannot use the configuration {config} ({_first_line(error)})."
        ) from error
    try:
        model.load_state_dict(_read_state(weights), strict=True)
    except RuntimeError as error:
        raise WeightsError(
            f"{weights.name} does not hold the weights of {config} ({_first_line(error)})."
        ) from error
    return DetectronSource(model)


def _read_state(path: Path) -> Mapping[str, Any]:
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    if path.suffix != ".pth":
        raise WeightsError(
            f"{path.name} is neither .safetensors nor .pth; save the weights with detectron2's "
            "DetectionCheckpointer first."
        )
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds, for what is no archive and for what holds code
        raise WeightsError(
            f"{path.name} cannot be read as weights alone ({_first_line(error)})."
        ) from error
    state = loaded.get("model", loaded) if isinstance(loaded, dict) else None
    if not isinstance(state, dict):
        raise WeightsError(f"{path.name} holds no weights by name.")
    return state


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
