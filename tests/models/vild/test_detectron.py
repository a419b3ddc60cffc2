"""detectron2 behind ViLD's own methods: the tests with it run where it can be imported."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from models.catalog import TEACHER
from models.errors import InputError, WeightsError
from models.jobs import run_to_end
from models.vild import Proposals, Vild, VildConfig, detectron
from models.vild.detector import Detector
from models.vild.detectron import GUIDANCE, DetectronSource, VildOnDetectron, load_detectron
from models.vild.preprocess import prepare
from models.vild.regions import RegionThresholds


def test_absence_is_one_sentence_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detectron.importlib.util, "find_spec", lambda name: None)
    assert not detectron.is_available()
    with pytest.raises(InputError) as caught:
        load_detectron("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml", Path("x.pth"))
    assert str(caught.value) == GUIDANCE
    assert "pip install --no-build-isolation git+https://github.com/facebookresearch" in GUIDANCE


def test_a_build_that_does_not_import_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detectron, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "detectron2", None)  # importing it raises ImportError
    with pytest.raises(InputError, match="installed but cannot be imported"):
        load_detectron("x.yaml", Path("x.pth"))


def test_importing_ours_does_not_import_theirs() -> None:
    code = "import sys, models.vild.detectron; print('detectron2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_models_without_proposals_or_masks_are_refused() -> None:
    for model in (
        SimpleNamespace(proposal_generator=None, roi_heads=SimpleNamespace(mask_on=True)),
        SimpleNamespace(proposal_generator=object(), roi_heads=SimpleNamespace(mask_on=False)),
        SimpleNamespace(backbone=object()),
    ):
        with pytest.raises(InputError, match="use a Mask R-CNN"):
            DetectronSource(model)


# ------------------------------------------------------------------------------ with detectron2

SMALL = """
MODEL:
  META_ARCHITECTURE: GeneralizedRCNN
  MASK_ON: true
  BACKBONE: {NAME: build_resnet_fpn_backbone}
  RESNETS: {DEPTH: 18, RES2_OUT_CHANNELS: 64, OUT_FEATURES: [res2, res3, res4, res5]}
  FPN: {IN_FEATURES: [res2, res3, res4, res5], OUT_CHANNELS: 16}
  ANCHOR_GENERATOR: {SIZES: [[32], [64], [128], [256], [512]]}
  RPN: {IN_FEATURES: [p2, p3, p4, p5, p6], POST_NMS_TOPK_TEST: 40}
  ROI_HEADS: {NAME: StandardROIHeads, NUM_CLASSES: 3, IN_FEATURES: [p2, p3, p4, p5]}
  ROI_BOX_HEAD: {NAME: FastRCNNConvFCHead, NUM_FC: 1, FC_DIM: 16, POOLER_RESOLUTION: 7}
  ROI_MASK_HEAD: {NAME: MaskRCNNConvUpsampleHead, NUM_CONV: 1, CONV_DIM: 8, POOLER_RESOLUTION: 14}
"""
SIZES = [(96, 64), (80, 60)]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small Mask R-CNN: its configuration and random weights."""
    pytest.importorskip("detectron2", reason=GUIDANCE)
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    folder = tmp_path_factory.mktemp("detectron2")
    config, weights = folder / "small.yaml", folder / "model_final.pth"
    config.write_text(SMALL)
    settings = get_cfg()
    settings.merge_from_file(str(config))
    settings.MODEL.DEVICE = "cpu"
    torch.manual_seed(5)
    model = build_model(settings)
    for name, parameter in model.named_parameters():
        if "objectness" in name or "anchor_deltas" in name or "predictor" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    torch.save({"model": model.state_dict(), "iteration": 7}, weights)
    return config, weights


@pytest.fixture(scope="module")
def source(files: tuple[Path, Path]) -> DetectronSource:
    return load_detectron(*files)


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def _own_inputs(pictures: torch.Tensor) -> list[dict[str, Any]]:
    return [{"image": picture.flip(0) * 255} for picture in pictures]  # BGR


def test_proposals_are_detectron2_s(source: DetectronSource, pictures: torch.Tensor) -> None:
    proposals = source.propose(source.encode_image(pictures), [(96, 64), (96, 64)])
    assert isinstance(proposals, Proposals)
    with torch.no_grad():
        images = source.model.preprocess_image(_own_inputs(pictures))
        expected, _ = source.model.proposal_generator(
            images, source.model.backbone(images.tensor), None
        )
    for picture, one in enumerate(expected):
        boxes, objectness = proposals.of(picture)
        assert torch.allclose(boxes, one.proposal_boxes.tensor, atol=1e-4)
        assert torch.allclose(objectness, one.objectness_logits.sigmoid(), atol=1e-6)
        assert (objectness.diff() <= 0).all()


def test_proposals_end_where_each_picture_does(
    source: DetectronSource, pictures: torch.Tensor
) -> None:
    proposals = source.propose(source.encode_image(pictures), SIZES)
    for picture, (width, height) in enumerate(SIZES):
        boxes, _ = proposals.of(picture)
        assert len(boxes) > 5
        assert (boxes >= 0).all()
        assert (boxes <= torch.tensor([width, height, width, height])).all()


def test_masks_are_those_of_the_likeliest_class(
    source: DetectronSource, pictures: torch.Tensor
) -> None:
    """Against detectron2's own way for boxes that are given with their classes."""
    from detectron2.structures import Boxes, Instances

    levels = source.encode_image(pictures)
    boxes = source.propose(levels, [(96, 64), (96, 64)]).boxes[:, :9]
    heads = source.model.roi_heads

    def class_scores(picture: int) -> torch.Tensor:
        named = source._named(levels)
        maps = [named[name][picture : picture + 1] for name in heads.box_in_features]
        features = heads.box_head(heads.box_pooler(maps, [Boxes(boxes[picture])]))
        return heads.box_predictor(features)[0][:, :3]

    with torch.no_grad():
        # Random weights favour one class; these leave every class to some boxes.
        average = torch.cat([class_scores(0), class_scores(1)]).mean(dim=0)
        heads.box_predictor.cls_score.bias[:3] -= average
        logits = source.masks(levels, boxes)
        assert logits.shape == (18, 28, 28)
        classes = [class_scores(picture).argmax(dim=1) for picture in (0, 1)]
        assert len(set(torch.cat(classes).tolist())) > 1
        given = [
            Instances((64, 96), pred_boxes=Boxes(rows), pred_classes=labels)
            for rows, labels in zip(boxes, classes)
        ]
        found = source.model.inference(_own_inputs(pictures), given, do_postprocess=False)
    expected = torch.cat([one.pred_masks[:, 0] for one in found])
    assert torch.allclose(logits.sigmoid(), expected, atol=1e-5)


class Words:
    """Stands for the teacher: a vector for every text."""

    name, embed_dim = TEACHER, 256

    def encode_text(self, texts: Sequence[str]) -> torch.Tensor:
        seeds = [torch.Generator().manual_seed(len(text)) for text in texts]
        rows = [torch.randn(256, generator=seed) for seed in seeds]
        return torch.nn.functional.normalize(torch.stack(rows), dim=-1)


def test_vild_names_what_detectron2_proposes(source: DetectronSource, tmp_path: Path) -> None:
    torch.manual_seed(3)
    vild = Vild(VildConfig.mini()).eval()
    model = VildOnDetectron(vild, source)
    detector = Detector("both", model, Words(), ["dog"], folder=tmp_path)  # type: ignore[arg-type]
    noise = np.random.default_rng(2).integers(0, 256, (150, 200, 3), dtype=np.uint8)
    raw = run_to_end(detector.detect(Image.fromarray(noise)))

    seen = prepare(Image.fromarray(noise), vild.config)
    with torch.no_grad():
        pictures = seen.pixels * 0.5 + 0.5
        levels = source.encode_image(pictures)
        boxes, objectness = source.propose(levels, [seen.padded]).of(0)
        regions = vild.regions(vild.encode_image(seen.pixels), [boxes])
    assert np.allclose(raw.objectness, objectness.numpy(), atol=1e-5)
    assert np.allclose(raw.embeddings, regions.embeddings.numpy(), atol=1e-4)
    found = detector.select(
        raw, ["wolf", "red apple"], RegionThresholds(min_objectness=0, min_area=0), masks=True
    )
    assert len(found) > 0
    assert found.masks is not None
    own = {id(parameter) for parameter in source.model.parameters()}
    assert own < {id(parameter) for parameter in model.parameters()}  # counted by the registry


def test_files_that_cannot_be_used(files: tuple[Path, Path], tmp_path: Path) -> None:
    config, weights = files
    with pytest.raises(InputError, match=r"cannot use the configuration nothing\.yaml"):
        load_detectron("nothing.yaml", weights)
    code = tmp_path / "code.yaml"
    code.write_text("MODEL: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(InputError, match=r"cannot use the configuration .*code\.yaml"):
        load_detectron(code, weights)
    with pytest.raises(WeightsError, match=r"model\.pkl is neither"):
        load_detectron(config, tmp_path / "model.pkl")
    with pytest.raises(WeightsError, match=r"model\.pth cannot be read as weights alone"):
        load_detectron(config, tmp_path / "model.pth")
    torch.save({"model": {"x": torch.zeros(1)}}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"other\.pth does not hold the weights of"):
        load_detectron(config, tmp_path / "other.pth")
    torch.save([1], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match=r"list\.pth holds no weights by name"):
        load_detectron(config, tmp_path / "list.pth")


def test_a_safetensors_file_serves_as_well(files: tuple[Path, Path], tmp_path: Path) -> None:
    from safetensors.torch import save_file

    config, weights = files
    path = tmp_path / "model.safetensors"
    save_file(torch.load(weights, weights_only=True)["model"], path)
    state = load_detectron(config, path).model.state_dict()
    expected = load_detectron(config, weights).model.state_dict()
    assert all(torch.equal(state[key], expected[key]) for key in expected)
