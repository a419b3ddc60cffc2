"""Training further on COCO files: what is refused, how batches are tied, that a tiny run learns."""

import copy
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file

from models.errors import InputError, WeightsError
from models.glip.config import GlipConfig
from models.glip.glip import Glip
from models.glip.prompt_tuning import load_prompt, save_prompt, tune
from models.glip.prompts import evaluation_prompt, list_prompt, tokenize, wordpiece
from training import glip, glip_coco
from training.glip_coco import CocoTraining, Example, Prompts, Tuning, make_batch, read_coco

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
COLOURS = {"red square": "#d02020", "blue_square": "#2040d0"}
COUNT = 8


def draw(folder: Path) -> dict[str, Any]:
    """Eight pictures of a red and a blue square, one picture with one of a crowd."""
    chance = random.Random(1)
    data: dict[str, Any] = {"images": [], "annotations": [], "categories": [
        {"id": 10 * (place + 1), "name": name} for place, name in enumerate(COLOURS)
    ]}  # fmt: skip
    for number in range(COUNT):
        width, height = (96, 64) if number % 2 else (64, 64)
        picture = Image.new("RGB", (width, height), "#cccccc")
        pen = ImageDraw.Draw(picture)
        for place, colour in enumerate(COLOURS.values()):
            left, top = place * 32 + chance.randrange(8), chance.randrange(36)
            pen.rectangle((left, top, left + 19, top + 19), fill=colour)
            data["annotations"].append(
                {
                    "id": len(data["annotations"]), "image_id": number + 100,
                    "category_id": 10 * (place + 1), "bbox": [left, top, 20, 20],
                    "area": 400, "iscrowd": 0,
                }
            )  # fmt: skip
        name = f"{number}.png"
        picture.save(folder / name)
        row = {"id": number + 100, "file_name": name, "width": width, "height": height}
        data["images"].append(row)
    return data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "coco.json").write_text(json.dumps(draw(tmp_path / "pictures")))
    return tmp_path


def read(folder: Path) -> glip_coco.CocoData:
    return read_coco(folder / "coco.json", folder / "pictures")


@pytest.fixture(scope="module")
def small() -> Glip:
    """glip-mini's architecture with random weights, one block, a tiny language model."""
    torch.manual_seed(0)
    mini = GlipConfig.mini()
    text = type(mini.text)(width=32, layers=1, heads=2, intermediate=32)
    config = copy.deepcopy(mini)
    for name, value in {
        "text": text, "blocks": 1, "channels": 32, "fusion_width": 32, "fusion_heads": 2,
        "head_text_width": 16, "head_text_heads": 2, "head_text_intermediate": 16,
        "min_size": 64, "max_size": 96,
    }.items():  # fmt: skip
        object.__setattr__(config, name, value)
    return Glip(config).eval()


@pytest.fixture
def base(folder: Path, small: Glip, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the small model's weights, read as `load_glip_mini` reads glip-mini's."""
    path = folder / "base"
    path.mkdir()
    state = {k: v.half().contiguous() for k, v in glip.learnt(small).state_dict().items()}
    save_file(state, str(path / "model.safetensors"))
    (path / "plan.json").write_text('{"model": "mini"}')

    def load(directory: Path, device: torch.device) -> Glip:
        loaded = copy.deepcopy(small)
        held = load_file(str(directory / "model.safetensors"))
        glip.learnt(loaded).load_state_dict({k: v.float() for k, v in held.items()})
        return loaded.to(device).eval()

    monkeypatch.setattr(glip_coco, "load_base", load)
    return path


# ------------------------------------------------------------------------------------ reading files


def test_a_good_file_is_read(folder: Path) -> None:
    data = read(folder)
    assert data.names == ["red square", "blue_square"]
    assert [len(one.boxes) for one in data.examples] == [2] * COUNT
    first = json.loads((folder / "coco.json").read_text())["annotations"][0]["bbox"]
    left, top, width, height = first
    assert data.examples[0].boxes[0].tolist() == [left, top, left + width, top + height]
    assert data.examples[0].categories.tolist() == [0, 1]


def drop(data: dict[str, Any], key: str) -> None:
    del data[key]


def change(data: dict[str, Any], key: str, name: str, value: object, row: int = 0) -> None:
    data[key][row][name] = value


BROKEN = {
    "no images": (lambda d: drop(d, "images"), "no images"),
    "no categories": (lambda d: d.update(categories=[]), "no categories"),
    "no annotations": (lambda d: d.update(annotations=[]), "no annotations"),
    "annotations no list": (lambda d: d.update(annotations="x"), "no annotations"),
    "no file name": (lambda d: d["images"][0].pop("file_name"), "no file_name"),
    "no box": (lambda d: d["annotations"][0].pop("bbox"), "no bbox"),
    "missing picture": (lambda d: change(d, "images", "file_name", "gone.png"), "gone.png is not in"),
    "no picture": (lambda d: change(d, "images", "file_name", "../coco.json"), "no picture"),
    "other size": (lambda d: change(d, "images", "width", 65), "64 x 64 pixels, the file says 65"),
    "same image twice": (lambda d: change(d, "images", "id", 101), "same id"),
    "same category twice": (lambda d: change(d, "categories", "id", 20), "same id"),
    "same name twice": (lambda d: change(d, "categories", "name", "Blue_square"), "same name"),
    "empty name": (lambda d: change(d, "categories", "name", " (it) "), "no name"),
    "unknown image": (lambda d: change(d, "annotations", "image_id", 7), "does not list"),
    "unknown category": (lambda d: change(d, "annotations", "category_id", 7), "category 7"),
    "three numbers": (lambda d: change(d, "annotations", "bbox", [1, 2, 3]), "no box"),
    "words": (lambda d: change(d, "annotations", "bbox", ["a", 2, 3, 4]), "no box"),
    "no number": (lambda d: change(d, "annotations", "bbox", [1, 2, math.nan, 4]), "empty box"),
    "no width": (lambda d: change(d, "annotations", "bbox", [1, 2, 0, 4]), "empty box"),
    "left outside": (lambda d: change(d, "annotations", "bbox", [-9, 2, 20, 4]), "outside"),
    "below outside": (lambda d: change(d, "annotations", "bbox", [1, 60, 4, 9]), "outside"),
    "fractions": (lambda d: change(d, "annotations", "bbox", [60, 0.1, 9, 0.2]), "outside"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_told_in_a_sentence(folder: Path, case: str) -> None:
    spoil, says = BROKEN[case]
    data = json.loads((folder / "coco.json").read_text())
    spoil(data)
    (folder / "coco.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match=says) as caught:
        read(folder)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize(
    ("text", "says"), [("{", "no JSON"), ("[]", "is a list"), (None, "no readable")]
)
def test_a_file_that_is_none(folder: Path, text: str | None, says: str) -> None:
    path = folder / "coco.json"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(InputError, match=says):
        read(folder)


def test_boxes_rounded_beyond_the_border_end_there(folder: Path) -> None:
    data = json.loads((folder / "coco.json").read_text())
    change(data, "annotations", "bbox", [-0.6, 10, 65, 54.9])
    (folder / "coco.json").write_text(json.dumps(data))
    assert read(folder).examples[0].boxes[0].tolist() == [0, 10, 64, 64]


def test_crowds_are_not_learnt(folder: Path) -> None:
    data = json.loads((folder / "coco.json").read_text())
    change(data, "annotations", "iscrowd", 1)
    (folder / "coco.json").write_text(json.dumps(data))
    found = read(folder)
    assert found.examples[0].categories.tolist() == [1]
    assert len(found.rows) == 2 * COUNT  # the measure ignores what they hold


# --------------------------------------------------------------------------------------------- split


def test_an_id_decides_who_is_held_out(folder: Path) -> None:
    data = read(folder)
    learning, held_out = data.split(0.25)
    assert (len(learning), len(held_out)) == (6, 2)
    assert not {one.id for one in learning} & {one.id for one in held_out}
    turned = glip_coco.CocoData(data.examples[::-1], data.categories, data.images, data.rows)
    assert [one.id for one in turned.split(0.25)[1]] == [one.id for one in held_out]


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_pictures_with_boxes(folder: Path, count: int) -> None:
    data = read(folder)
    empty = Example(7, data.examples[1].path, torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
    few = (data.examples[0], empty)[:count]
    with pytest.raises(InputError, match="no box"):
        glip_coco.CocoData(few, data.categories, data.images, data.rows).split(0.2)


# ------------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize("mirror", [False, True])
def test_boxes_are_tied_to_the_tokens_of_their_names(
    folder: Path, small: Glip, mirror: bool
) -> None:
    """Two pictures of different widths; where a target is, its colour is."""
    examples = read(folder).examples[:2]
    tokens = tokenize(evaluation_prompt(list(COLOURS)), wordpiece())
    batch = make_batch(examples, {0: 0, 1: 1}, tokens, small, [mirror] * 2)
    assert batch.pixels.shape == (2, 3, 64, 96)
    assert not batch.pixels[0, :, :, 64:].any()
    assert batch.targets.real.all()
    ids = tokens.input_ids
    decode = wordpiece().decode
    for picture in range(2):
        for place, name in enumerate(("red square", "blue square")):
            assert decode(ids[batch.targets.tokens[picture, place]].tolist()) == name
            left, top, right, bottom = batch.targets.boxes[picture, place].round().int().tolist()
            inside = batch.pixels[picture, :, top + 2 : bottom - 2, left + 2 : right - 2]
            red, _, blue = inside.mean((1, 2))
            assert (red > blue) == (place == 0)
            assert inside.std((1, 2)).max() < 0.05


def test_a_category_that_is_not_asked_for_is_background(folder: Path, small: Glip) -> None:
    tokens = tokenize(evaluation_prompt(["blue square"]), wordpiece())
    batch = make_batch(read(folder).examples[:1], {1: 0}, tokens, small, [False])
    assert batch.targets.boxes.shape == (1, 1, 4)
    assert batch.targets.tokens.any()


def test_many_names_are_drawn_with_those_of_the_batch_first(small: Glip) -> None:
    names = [f"thing number {number} of a long list" for number in range(120)]
    prompts = Prompts(names, small, wordpiece())
    one = Example(1, Path(), torch.zeros(2, 4), torch.tensor([3, 117]))
    chance = random.Random(0)
    drawn = []
    for _ in range(4):
        named, prompt = prompts.draw([one], chance)
        assert {3, 117} <= named.keys()
        assert len(tokenize(prompt, wordpiece()).input_ids) <= 256
        assert all(prompt.names[phrase] == names[kind] for kind, phrase in named.items())
        drawn.append(prompt.caption)
    assert len(set(drawn)) == 4
    assert not prompts.at_once


# ---------------------------------------------------------------------------------------- tiny runs


def parts(glip_model: Glip) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in glip_model.state_dict().items()}


@pytest.mark.parametrize(
    ("part", "moves"),
    [("full", ("fpn.", "resizer.", "head.", "shortcut.")), ("head", ("head.",)), ("prompt", ("language.offset",))],
)  # fmt: skip
def test_a_tiny_run_learns_its_part_only_and_is_read_back(
    folder: Path, base: Path, part: glip_coco.Part, moves: tuple[str, ...]
) -> None:
    plan = CocoTraining(part, steps=12, batch=2, rate=3e-3 if part != "prompt" else 0.1)
    tuning = Tuning(plan, read(folder), base, CPU)
    before = parts(tuning.glip)
    losses = [float(loss.total.detach()) for loss in tuning.train()]
    moved = {name for name, value in parts(tuning.glip).items() if not value.equal(before[name])}
    assert all(math.isfinite(loss) for loss in losses)
    assert sum(losses[-4:]) < sum(losses[:4])
    for start in moves:
        assert any(name.startswith(start) for name in moved), start
    assert all(name.startswith(moves) for name in moved), moved
    path = tuning.save(folder / "out")
    loaded, prompt = tuning.saved(folder / "out")
    assert prompt.names == ("red square", "blue square")
    tokens = tokenize(prompt, wordpiece())
    pixels = torch.zeros(1, 3, 64, 64)
    ids, mask = tokens.input_ids[None], tokens.attention_mask[None]
    with torch.inference_mode():
        found, wanted = (m(pixels, ids, mask).logits for m in (loaded, tuning.glip.eval()))
    assert torch.allclose(found, wanted, atol=0.05)  # half precision on disk
    assert path.is_file()
    assert (folder / "out" / "plan.json").is_file() == (part != "prompt")


def test_the_same_seed_learns_the_same(folder: Path, base: Path) -> None:
    plan = CocoTraining("head", steps=3, batch=2)
    runs = [[float(loss.total.detach()) for loss in Tuning(p, read(folder), base, CPU).train()]
            for p in (plan, plan, CocoTraining("head", steps=3, batch=2, seed=1))]  # fmt: skip
    assert runs[0] == runs[1] != runs[2]


def test_the_command_tells_precision_before_and_after(
    folder: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    glip.main(["--coco", str(folder / "coco.json"), "--images", str(folder / "pictures"),
               "--base", str(base), "--only-prompt", "--steps", "2", "--batch", "2",
               "--out", str(folder / "out"), "--device", "cpu"])  # fmt: skip
    told = capsys.readouterr().out
    assert "6 pictures to learn from, 2 laid aside" in told
    assert "before: AP " in told
    assert "after: AP " in told
    assert "load_prompt" in told
    assert (folder / "out" / "prompt.safetensors").is_file()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"--images": None}, "--images"),
        ({"--coco": "gone.json"}, "gone.json"),
        ({"--out": "base"}, "--out"),
        ({"--only-head": "", "--only-prompt": ""}, "not allowed"),
    ],
)
def test_the_command_refuses_in_a_sentence(
    folder: Path, base: Path, change: dict[str, str | None], says: str,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(folder)
    given: dict[str, str | None] = {
        "--coco": "coco.json", "--images": "pictures", "--base": "base", "--out": "out", **change,
    }  # fmt: skip
    with pytest.raises(SystemExit) as stopped:
        glip.main([word for pair in given.items() if pair[1] is not None for word in pair if word])
    assert stopped.value.code == 2
    assert says in capsys.readouterr().err


# ----------------------------------------------------------------------------------- tuned prompts


def test_an_offset_moves_its_own_prompt_only(small: Glip, tmp_path: Path) -> None:
    model = copy.deepcopy(small)
    prompt = list_prompt(["red square", "dog"])
    tokens = tokenize(prompt, wordpiece())
    tuned = tune(model, tokens.input_ids)
    torch.nn.init.normal_(tuned.offset, generator=torch.Generator().manual_seed(0))
    ids = torch.zeros(3, 12, dtype=torch.long)
    mask = torch.zeros(3, 12, dtype=torch.long)
    for row, names in enumerate(
        (["red square", "dog"], ["red square", "cat"], ["red square", "dog", "cat"])
    ):
        other = tokenize(list_prompt(names), wordpiece())
        ids[row, : len(other.input_ids)] = other.input_ids
        mask[row, : len(other.input_ids)] = 1
    with torch.inference_mode():
        moved = model.encode_text(ids, mask) - small.encode_text(ids, mask)
        short = model.encode_text(ids[:, :3], mask[:, :3]) - small.encode_text(
            ids[:, :3], mask[:, :3]
        )
    length = len(tokens.input_ids)
    assert torch.allclose(moved[0, :length], tuned.offset, atol=1e-5)
    assert not moved[0, length:].any()
    assert not moved[1:].any()
    assert not short.any()
    save_prompt(tuned, prompt, tmp_path / "prompt.safetensors")
    again = copy.deepcopy(small)
    assert load_prompt(again, tmp_path / "prompt.safetensors") == prompt
    with torch.inference_mode():
        assert torch.equal(again.encode_text(ids, mask), model.encode_text(ids, mask))


def test_an_offset_of_another_model_or_no_file_is_refused(small: Glip, tmp_path: Path) -> None:
    path = tmp_path / "prompt.safetensors"
    with pytest.raises(WeightsError, match="no tuned prompt"):
        load_prompt(small, path)
    path.write_bytes(b"nonsense")
    with pytest.raises(WeightsError, match="no tuned prompt"):
        load_prompt(small, path)
    save_file(
        {"offset": torch.zeros(2, 8), "input_ids": torch.zeros(2, dtype=torch.long)}, str(path)
    )
    with pytest.raises(WeightsError, match="no tuned prompt"):
        load_prompt(small, path)
    told = json.dumps({"caption": "dog", "kind": "list", "spans": [[0, 3]]})
    save_file({"offset": torch.zeros(2, 8), "input_ids": torch.zeros(2, dtype=torch.long)},
              str(path), metadata={"prompt": told})  # fmt: skip
    with pytest.raises(WeightsError, match="words of 8 numbers"):
        load_prompt(small, path)
