"""The command that trains mappers: which words go where, and a file the app can load."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models.catalog import ASSETS
from models.styleclip.mapper import load_mapper, mapper_info
from models.styleclip.mapper_training import MapperSettings
from models.styleclip.prompt import EditPrompt
from tests.critic_support import tiny_encoder
from tests.models.styleclip.edit_support import quiet_generator
from training.mapper import NAMED, SHIPPED, Order, orders, train

GENERATOR = ASSETS / "stylegan2-mini" / "model.safetensors"


@pytest.mark.parametrize(
    ("target", "prompt", "name"),
    [
        ("glasses", NAMED["glasses"], "glasses"),
        ("A  smiling person!", EditPrompt("A smiling person!", "a person"), "a-smiling-person"),
        ("?!", EditPrompt("?!", "a person"), "mapper"),
    ],
)
def test_a_mapper_is_called_after_its_words(target: str, prompt: EditPrompt, name: str) -> None:
    (order,) = orders(target, "a person", None, GENERATOR)
    assert order == Order(prompt, GENERATOR.parent / "mappers" / f"{name}.safetensors")
    (told,) = orders(target, "a person", Path("x.safetensors"), GENERATOR)
    assert told.out == Path("x.safetensors")


def test_the_shipped_mappers_are_those_in_the_repository() -> None:
    found = {order.out: order.prompt for order in orders(None, "", None, GENERATOR)}
    assert len(SHIPPED) >= 6
    assert set(found) == set((GENERATOR.parent / "mappers").glob("*.safetensors"))
    for path, prompt in found.items():
        assert path.stat().st_size < 500_000
        assert mapper_info(path).prompt == prompt
        assert mapper_info(path).generator == "stylegan2-mini"


def test_what_is_trained_can_be_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], one_thread: None
) -> None:
    order = Order(EditPrompt("a hat", "a person"), tmp_path / "mappers" / "hat.safetensors")
    settings = MapperSettings("single", steps=2, batch=2, identity=0.0, objective="directional")
    train(order, quiet_generator(), "tiny", tiny_encoder(), settings)
    loaded = load_mapper(order.out)
    assert loaded.info.prompt == order.prompt
    assert all(bool(torch.isfinite(p).all()) for p in loaded.parameters())
    assert "“a hat”" in capsys.readouterr().out
