"""The projection behind MiniLM: linear to begin with, and where a configuration asks for it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models.catalog import ASSETS
from models.clip.encoder import mini_skeleton
from models.clip.text_head import TextHead
from models.weights import minilm_directory


def test_it_begins_as_its_linear_map() -> None:
    head, sentences = TextHead(6, 4), torch.randn(3, 6)
    assert torch.equal(head(sentences), sentences @ head.linear.weight.T)


def test_what_it_adds_is_two_layers_of_the_normalised_sentence() -> None:
    torch.manual_seed(0)
    head, sentences = TextHead(6, 4), torch.randn(3, 6)
    nn.init.normal_(head.outer.weight)
    centred = sentences - sentences.mean(1, keepdim=True)
    unit = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
    hidden = F.gelu(unit @ head.inner.weight.T + head.inner.bias)
    expected = hidden @ head.outer.weight.T + sentences @ head.linear.weight.T
    torch.testing.assert_close(head(sentences), expected)


@pytest.mark.parametrize(("kind", "found"), [("linear", nn.Linear), ("mlp", TextHead)])
def test_the_configuration_chooses(kind: str, found: type[nn.Module], tmp_path: Path) -> None:
    file = "open_clip_config.json"
    shutil.copy(ASSETS / "clip-mini" / file, tmp_path)
    told = json.loads((tmp_path / file).read_text())
    told["model_cfg"]["text_cfg"]["hf_proj_type"] = kind
    (tmp_path / file).write_text(json.dumps(told))
    model = mini_skeleton(tmp_path, minilm_directory())
    assert isinstance(model.text.proj, found)
