"""The deep fusion against equations 4-6 of the paper, word by word and cell by cell."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from models.glip.fusion import Fusion

CHANNELS, TEXT, WIDTH, HEADS = 6, 5, 12, 3


@pytest.fixture
def fusion() -> Fusion:
    torch.manual_seed(0)
    made = Fusion(CHANNELS, TEXT, WIDTH, HEADS, layer_scale=0.25).double()
    for parameter in made.parameters():  # biases, norms and gates that matter
        torch.nn.init.normal_(parameter, std=0.5)
    return made


def inputs(seed: int = 1, batch: int = 2, cells: int = 7, words: int = 4) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    vision = torch.randn(batch, cells, CHANNELS, generator=random, dtype=torch.float64)
    return vision, torch.randn(batch, words, TEXT, generator=random, dtype=torch.float64)


def softmax(values: list[float]) -> list[float]:
    exponentials = [math.exp(value - max(values)) for value in values]
    return [value / sum(exponentials) for value in exponentials]


def plain(fusion: Fusion, vision: Tensor, text: Tensor, real: list[int]) -> tuple[Tensor, Tensor]:
    """One picture and one prompt, every projection of every cell written out."""
    size = WIDTH // HEADS
    cells, words = fusion.norm_vision(vision), fusion.norm_text(text)
    heard = torch.zeros(len(cells), WIDTH, dtype=vision.dtype)  # by cells, of words
    seen = torch.zeros(len(words), WIDTH, dtype=vision.dtype)  # by words, of cells
    for head in range(HEADS):
        part = slice(head * size, (head + 1) * size)
        queries = [fusion.query(cell)[part] / math.sqrt(size) for cell in cells]
        keys = [fusion.key(word)[part] for word in words]
        score = [[float(q @ k) for k in keys] for q in queries]
        for m in range(len(cells)):
            weights = softmax([score[m][t] for t in real])
            for t, weight in zip(real, weights):
                heard[m, part] += weight * fusion.value_text(words[t])[part]
        for t in range(len(words)):
            weights = softmax([score[m][t] for m in range(len(cells))])
            for m, weight in enumerate(weights):
                seen[t, part] += weight * fusion.value_vision(cells[m])[part]
    return (
        cells + fusion.gamma_vision * fusion.out_vision(heard),
        words + fusion.gamma_text * fusion.out_text(seen),
    )


@torch.no_grad()
@pytest.mark.parametrize("real", [[0, 1, 2, 3], [0, 1, 2], [2], [0, 3]])
def test_it_is_the_papers_equations(fusion: Fusion, real: list[int]) -> None:
    vision, text = inputs()
    mask = torch.zeros(2, 4, dtype=torch.long)
    mask[:, real] = 1
    new_vision, new_text, attention = fusion(vision, text, mask)
    for n in range(2):
        expected_vision, expected_text = plain(fusion, vision[n], text[n], real)
        torch.testing.assert_close(new_vision[n], expected_vision, rtol=0, atol=1e-12)
        torch.testing.assert_close(new_text[n], expected_text, rtol=0, atol=1e-12)
    assert attention.shape == (2, 7, HEADS, 4)
    torch.testing.assert_close(attention.sum(-1), torch.ones(2, 7, HEADS, dtype=torch.float64))
    assert attention[..., [t for t in range(4) if t not in real]].abs().sum() == 0


def test_nobody_hears_a_padded_word(fusion: Fusion) -> None:
    vision, text = inputs()
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    other = torch.where(mask[..., None] == 0, 100 * torch.ones_like(text), text)
    before, words_before, _ = fusion(vision, text, mask)
    after, words_after, _ = fusion(vision, other, mask)
    assert torch.equal(before, after)
    torch.testing.assert_close(words_before[mask == 1], words_after[mask == 1])


def test_the_gradient_is_that_of_the_written_out_form(fusion: Fusion) -> None:
    """The folded products must not lose a weight's or a bias' share."""
    vision, text = (x[:1].requires_grad_() for x in inputs())
    parameters = [*fusion.parameters(), vision, text]

    def gradients(new_vision: Tensor, new_text: Tensor) -> tuple[Tensor, ...]:
        loss = (new_vision**3).sum() + (new_text**3).sum()
        return torch.autograd.grad(loss, parameters)

    ours = gradients(*(x[0] for x in fusion(vision, text, torch.ones(1, 4))[:2]))
    theirs = gradients(*multi_head(fusion, vision[0], text[0]))
    for mine, reference in zip(ours, theirs):
        torch.testing.assert_close(mine, reference, rtol=1e-9, atol=1e-9)


def multi_head(fusion: Fusion, vision: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """The textbook form in differentiable matrices, all projections of cells materialised."""
    cells, words = fusion.norm_vision(vision), fusion.norm_text(text)

    def heads(x: Tensor) -> Tensor:
        return x.reshape(len(x), HEADS, -1).transpose(0, 1)

    score = heads(fusion.query(cells)) @ heads(fusion.key(words)).transpose(1, 2)
    score = score / math.sqrt(WIDTH // HEADS)
    heard = score.softmax(-1) @ heads(fusion.value_text(words))
    seen = score.transpose(1, 2).softmax(-1) @ heads(fusion.value_vision(cells))
    heard, seen = (x.transpose(0, 1).flatten(1) for x in (heard, seen))
    return (
        cells + fusion.gamma_vision * fusion.out_vision(heard),
        words + fusion.gamma_text * fusion.out_text(seen),
    )


@pytest.mark.parametrize("size", [1e3, 1e6])
def test_wild_features_stay_finite(fusion: Fusion, size: float) -> None:
    torch.nn.init.constant_(fusion.norm_vision.weight, size)
    vision, text = inputs()
    for values in fusion(vision, text, torch.ones(2, 4)):
        assert values.isfinite().all()


def test_it_starts_gently() -> None:
    """Gates of 1 / blocks, centred values: the normed tensors dominate (appendix of the paper)."""
    torch.manual_seed(0)
    fusion = Fusion(CHANNELS, TEXT, WIDTH, HEADS, layer_scale=1 / 6)
    assert fusion.gamma_text.tolist() == pytest.approx([1 / 6] * TEXT)
    assert fusion.gamma_vision.tolist() == pytest.approx([1 / 6] * CHANNELS)
    assert fusion.query.bias.abs().sum() == 0
