"""What the StyleCLIP tab reads, keeps and shows; that it works in a page is in tests/browser."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import gradio as gr
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import app
from demos import styleclip, styleclip_session
from demos import styleclip_views as views
from demos.styleclip_form import MAX_SEED, STRENGTHS, Form, Start, read_form, read_start
from demos.styleclip_kits import Kit, kits
from demos.styleclip_session import (
    MAX_MAPPERS,
    MAX_PLACES,
    Held,
    Outcome,
    OwnMappers,
    Place,
    carry_out,
    open_seed,
    read_mapper,
    save_mapper,
)
from demos.styleclip_work import Library, Line, activity, find_people, invert_photo, render
from demos.ui import downloads
from demos.ui.settings import Settings
from models.errors import AtelierError, InputError
from models.jobs import run_to_end
from models.styleclip.mapper import Mapper, MapperInfo, new_mapper
from models.styleclip.prompt import EditPrompt
from models.stylegan.generator import Generator
from models.stylegan.latent import Latent
from tests.models.styleclip.edit_support import quiet_generator
from tests.styleclip_tab_support import LEARNED, MINI, encoder, furnish, tiny_registry

EVIL = "<script>alert(1)</script>"
ASKED = (MINI, 7, 0.7)
FORM = Form("directions", 7, "a person", "a person with glasses")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def generator() -> Generator:
    return quiet_generator()


@pytest.fixture(scope="module")
def clip() -> Any:
    return encoder()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, generator: Generator) -> Path:
    place = tmp_path_factory.mktemp("generator")
    furnish(place, generator)
    return place


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLIP_ATELIER_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def there(folder: Path) -> dict[str, Kit]:
    return kits(tiny_registry(folder).catalog)


def outcome(form: Form, there: dict[str, Kit], *models: Any, held: Held | None = None) -> Outcome:
    return run_to_end(carry_out(read_form(form, there), ASKED, held, Library(), *models))


# ------------------------------------------------------------------------------ what is read


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"target": "  "}, "Type what the picture should show"),
        ({"target": None}, "Type what the picture should show"),
        ({"target": "x" * 400}, "shorten it to 300"),
        ({"neutral": "x" * 400}, "shorten it to 300"),
        ({"target": "x" * 5000}, "5,000 characters"),
        ({"target": "A Person"}, "say the same"),
        ({"method": "magic"}, "no method “magic”"),
        ({"model": "stylegan9"}, 'no model "stylegan9"'),
        ({"strength": 11}, "strength lies between -10 and 10"),
        ({"strength": float("nan")}, "The strength is a number"),
        ({"method": "mapper", "strength": 4}, "strength lies between -1 and 2"),
        ({"disentanglement": -0.1}, "disentanglement lies between 0 and 1"),
        ({"disentanglement": "much"}, "The disentanglement is a number"),
        ({"steps": 0}, "1 to 1000 steps"),
        ({"steps": 1e9}, "1 to 1000 steps"),
        ({"steps": 2.5}, "whole number"),
        ({"l2": -1}, "L2 weight lies between"),
        ({"identity": float("inf")}, "The identity weight is a number"),
        ({"space": "q"}, "no space “q”"),
        ({"source": "q"}, "no source of directions “q”"),
        ({"psi": 9}, "truncation lies between 0 and 1.5"),
        ({"psi": None}, "truncation is a number"),
        ({"seed_or_latent": -1}, "seed lies between"),
        ({"seed_or_latent": MAX_SEED + 1}, "seed lies between"),
        ({"seed_or_latent": 0.5}, "whole number"),
        ({"seed_or_latent": []}, "whole number"),
        ({"seed_or_latent": "/etc/passwd"}, "upload a latent file"),
        ({"seed_or_latent": "../../etc/passwd"}, "upload a latent file"),
        ({"seed_or_latent": {"path": "/etc/passwd"}}, "upload a latent file"),
        ({"seed_or_latent": {}}, "upload a latent file"),
    ],
)
def test_a_form_that_makes_no_sense_is_refused_in_a_sentence(
    changes: dict[str, Any], sentence: str, there: dict[str, Kit]
) -> None:
    with pytest.raises(InputError, match=sentence):
        read_form(replace(FORM, **changes), there)


def test_what_is_left_open_is_chosen_later(there: dict[str, Kit]) -> None:
    wish = read_form(FORM, there)
    assert (wish.strength, wish.beta) == (None, None)
    assert wish.start == Start(MINI, 7, 0.7)
    assert 0 <= read_start(MINI, None, 0.7).seed <= MAX_SEED  # the dice
    assert read_start(MINI, "12", 0.7).seed == 12


def test_an_upload_is_read_and_nothing_else(tmp_path: Path) -> None:
    mine = downloads.save_file(b"mine", "latent.safetensors")
    assert read_start(MINI, mine, 0.7).data == b"mine"
    link = Path(mine).with_name("link.safetensors")
    secret = tmp_path / "secret"
    secret.write_text("secret")
    link.unlink(missing_ok=True)
    link.symlink_to(secret)
    with pytest.raises(InputError, match="upload a latent file"):
        read_start(MINI, str(link), 0.7)


# ----------------------------------------------------------------------------- what is edited


@pytest.mark.parametrize(
    "form",
    [FORM, replace(FORM, source="gradient"), replace(FORM, source="table"),
     replace(FORM, method="mapper", target=LEARNED.target),
     replace(FORM, method="optimization", steps=4),
     replace(FORM, method="optimization", steps=4, space="style_space", identity=0)],
    ids=lambda form: f"{form.method} {form.source} {form.space}",
)  # fmt: skip
def test_every_method_edits_and_strength_zero_is_the_start_byte_for_byte(
    form: Form, there: dict[str, Kit], generator: Generator, clip: Any
) -> None:
    found = outcome(form, there, generator, clip)
    start = render(generator, Latent.from_seed(generator, 7, 0.7))
    assert found.picture.tobytes() != start.tobytes()
    assert found.strength == STRENGTHS[form.method].first
    assert any(layer.channels for layer in found.layers)
    still = outcome(replace(form, strength=0), there, generator, clip)
    assert still.picture.tobytes() == start.tobytes()
    assert not any(layer.channels for layer in still.layers)


def test_free_generation_begins_with_the_average(
    there: dict[str, Kit], generator: Generator, clip: Any
) -> None:
    form = replace(FORM, method="optimization", steps=3, free=True)
    found = outcome(form, there, generator, clip)
    mean = generator.broadcast(generator.mean_latent[None])[0]
    assert torch.equal(found.held.start.w_plus, mean)
    assert (found.held.place.seed, found.held.place.title) == (None, "the average")


def test_edits_chain_on_what_the_session_stands_at(
    there: dict[str, Kit], generator: Generator, clip: Any
) -> None:
    first = outcome(FORM, there, generator, clip)
    place = styleclip_session.place_of(MINI, first.latent, first.picture, "glasses", 7)
    held = first.held.with_place(place, first.latent)
    second = outcome(
        replace(FORM, method="optimization", steps=2), there, generator, clip, held=held
    )
    assert isinstance(second.held.made.edit, Line)
    assert second.held.made.edit.start is first.latent
    assert [place.title for place in second.held.places] == ["seed 7", "glasses"]


def test_what_leaves_nothing_says_what_would(
    there: dict[str, Kit], generator: Generator, clip: Any
) -> None:
    with pytest.raises(InputError, match=r"leaves nothing to move .* would keep"):
        outcome(replace(FORM, disentanglement=0.99), there, generator, clip)


def test_a_table_of_another_clip_or_generator_is_refused(
    folder: Path, there: dict[str, Kit], generator: Generator, clip: Any, tmp_path: Path
) -> None:
    from models.styleclip.fs3 import Fs3

    table = Fs3.load(folder / "fs3.safetensors")
    kit = replace(there[MINI], folder=tmp_path)
    for about in ({"clip": "clip-vit-l-14"}, {"generator": "0" * 64}):
        (tmp_path / "model.safetensors").write_bytes(b"weights")
        replace(table, about=about).save(tmp_path / "fs3.safetensors")
        with pytest.raises(InputError, match="belongs to other weights"):
            run_to_end(Library().table(kit, generator))
    (tmp_path / "fs3.safetensors").unlink()
    prompt = EditPrompt("a hat", "a person")
    with pytest.raises(InputError, match=r"No table was measured .* choose the gradient"):
        run_to_end(Library().relevance(kit, generator, clip, prompt, "table"))


def test_words_are_read_once(there: dict[str, Kit], generator: Generator, clip: Any) -> None:
    library = Library()
    prompt = EditPrompt("a person with a boat", "a person")
    job = (there[MINI], generator, clip, prompt, "gradient")
    first = run_to_end(library.relevance(*job))
    steps = list(library.relevance(*job))
    assert steps == []  # nothing was left to do
    assert run_to_end(library.relevance(*job)) is first


def test_a_library_forgets_what_was_used_least() -> None:
    library = Library(capacity=2)

    def make(value: int) -> Any:
        return value
        yield

    for key in (1, 2, 1, 3):
        run_to_end(library.keep(key, lambda key=key: make(key)))
    assert run_to_end(library.keep(1, lambda: make(-1))) == 1
    assert run_to_end(library.keep(2, lambda: make(-2))) == -2


def test_a_latent_of_another_generator_is_refused(generator: Generator) -> None:
    start = Latent.from_seed(generator, 0)
    for data, sentence in (
        (start.to_bytes("stylegan2-ffhq"), "belongs to the generator 'stylegan2-ffhq'"),
        (replace(start, w_plus=start.w_plus * float("nan")).to_bytes(MINI), "not finite"),
        (Latent(start.w_plus[:3]).to_bytes(MINI), "choose the generator"),
        (b"no latent", "no latent file"),
    ):
        with pytest.raises(InputError, match=sentence):
            run_to_end(open_seed(Start(MINI, None, 0.7, data), ASKED, None, generator))


def test_a_picture_of_ones_own_is_inverted(generator: Generator, clip: Any) -> None:
    target = Latent.from_seed(generator, 5)
    latent = run_to_end(invert_photo(render(generator, target), 30, generator, clip))
    mean = Latent(generator.broadcast(generator.mean_latent[None])[0])

    def distance(other: Latent) -> float:
        with torch.no_grad():
            a, b = (generator.synthesize(x.styles(generator)) for x in (other, target))
        return float((a - b).square().mean())

    assert distance(latent) < 0.5 * distance(mean)


def test_a_picture_without_a_face_is_refused() -> None:
    with pytest.raises(InputError, match=r"no face|more packages"):
        run_to_end(find_people(Image.new("RGB", (64, 64), "teal")))


# ------------------------------------------------------------------------------ own mappers


def trained(generator: Generator, target: str, model: str = MINI) -> Mapper:
    info = MapperInfo(EditPrompt(target, "a person"), model, generator.rows)
    return new_mapper(generator, "single", info=info)


def upload(source: Path) -> str:
    """The file as if it had been uploaded."""
    return downloads.save_file(source.read_bytes(), source.name)


def loaded(path: str | None, generator: Generator) -> Mapper:
    return run_to_end(read_mapper(path, MINI, generator))


def test_a_trained_mapper_is_offered_in_its_own_session_only(
    there: dict[str, Kit], generator: Generator, clip: Any, cache: Path
) -> None:
    form = replace(FORM, method="mapper", target=EVIL.upper())
    wish, shipped = read_form(form, there), (LEARNED.target, "hat")
    mine = OwnMappers().with_mapper(trained(generator, EVIL), MINI)
    hers = OwnMappers().with_mapper(trained(generator, "a boat"), MINI)
    for own, title in ((mine, EVIL), (hers, "a boat")):
        assert own.kit(wish.kit).mapper_titles() == [shipped, (title, own.kept[0].name)]
    assert mine.kit(replace(wish.kit, row=replace(wish.kit.row, name="other"))).own == {}
    seen = replace(wish, kit=mine.kit(wish.kit))
    found = run_to_end(carry_out(seen, ASKED, None, Library(), generator, clip))
    assert any(layer.channels for layer in found.layers)
    for kit in (hers.kit(wish.kit), there[MINI]):  # another visitor's, and the endpoint's
        assert EVIL not in str(kit.mapper_titles())
        for name, target in (("", EVIL), (mine.kept[0].name, "a boat")):
            with pytest.raises(InputError, match="No mapper was trained for"):
                kit.mapper_for(name, target)
    assert list(cache.rglob("*")) == []


def test_own_mappers_are_bounded_and_words_are_kept_once(generator: Generator) -> None:
    own = OwnMappers()
    for number in range(MAX_MAPPERS + 2):
        own = own.with_mapper(trained(generator, f"number {number}"), MINI)
    assert [m.prompt.target for m in own.kept] == [f"number {n}" for n in range(2, MAX_MAPPERS + 2)]
    again = own.with_mapper(trained(generator, "number 4"), MINI)
    assert len(again.kept) == MAX_MAPPERS
    assert again.kept[-1].prompt.target == "number 4"
    assert again.kept[-1].path != own.kept[2].path


@pytest.mark.parametrize("kind", ["safetensors", "pt"])
def test_a_mapper_is_saved_and_loaded_again(
    kind: str, there: dict[str, Kit], generator: Generator, tmp_path: Path
) -> None:
    mapper = trained(generator, "a boat")
    path = save_mapper(mapper)
    if kind == "pt":  # as the authors save theirs
        state = {f"mapper.{key}": tensor for key, tensor in mapper.state_dict().items()}
        torch.save({"state_dict": state, "opts": {"description": "a boat"}}, tmp_path / "boat.pt")
        path = upload(tmp_path / "boat.pt")
    own = OwnMappers().with_mapper(loaded(path, generator), MINI)
    again = own.kit(there[MINI]).mapper_for("", "A Boat")
    assert again.info == MapperInfo(
        EditPrompt("a boat", "a person" if kind == "safetensors" else ""), MINI, generator.rows
    )
    for key, tensor in mapper.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor.half().float())


def test_a_mapper_without_words_is_called_after_its_file(
    there: dict[str, Kit], generator: Generator
) -> None:
    mapper = new_mapper(generator, "single", info=MapperInfo(None, MINI, generator.rows))
    own = OwnMappers().with_mapper(mapper, MINI, "../Afro <b>")
    name = own.kept[0].name
    assert re.fullmatch(r"afro-b-[0-9a-f]{8}", name)
    assert own.kit(there[MINI]).mapper_titles()[-1] == (name, name)


class Payload:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch /tmp/tab-mapper-payload",)


def other_generator() -> Generator:
    from models.stylegan.generator import GeneratorConfig

    return Generator(GeneratorConfig((8, 8, 8), latent_size=16, noise_size=16, mapping_layers=1))


def test_files_that_are_no_fitting_mapper_are_refused(
    generator: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile, broken, plain = (tmp_path / n for n in ("evil.pt", "b.safetensors", "p.safetensors"))
    torch.save({"state_dict": {}, "opts": Payload()}, hostile)
    broken.write_bytes(b"broken")
    save_file({"a": torch.zeros(3)}, plain)
    for path, sentence in (
        (None, "Upload a mapper"),
        ("/etc/passwd", "Upload a mapper"),
        (upload(hostile), "could run code"),
        (upload(broken), "not a whole safetensors file"),
        (upload(plain), "no mapper of CLIP Atelier"),
        (save_mapper(trained(generator, "a boat", "stylegan2-ffhq")), "choose that generator"),
        (save_mapper(trained(other_generator(), "a boat")), "trained for"),
    ):
        with pytest.raises(AtelierError, match=sentence):
            loaded(path, generator)
    assert not Path("/tmp/tab-mapper-payload").exists()
    monkeypatch.setattr(styleclip_session, "MAX_MAPPER_BYTES", 1000)
    with pytest.raises(InputError, match="more than the 0 MB allowed"):
        loaded(save_mapper(trained(generator, "a boat")), generator)


def test_a_mapper_that_was_cleared_away_or_broken_is_left_out_of_the_list(
    there: dict[str, Kit], generator: Generator
) -> None:
    own = OwnMappers().with_mapper(trained(generator, "a boat"), MINI)
    own.kept[0].path.unlink()
    assert [name for _, name in own.kit(there[MINI]).mapper_titles()] == ["hat"]
    with pytest.raises(InputError, match="choose, load or train one"):
        own.kit(there[MINI]).mapper_for(own.kept[0].name, "")


# --------------------------------------------------------------------------------- the history


@pytest.fixture(scope="module")
def held(generator: Generator) -> Held:
    return run_to_end(open_seed(Start(MINI, 7, 0.7), ASKED, None, generator))


def place(title: str, fresh: bool = False) -> Place:
    return Place(MINI, "", "", "", title, None, fresh)


def test_a_start_that_was_never_edited_gives_its_place_to_the_next(held: Held) -> None:
    later = held.with_place(place("seed 8", fresh=True), held.start)
    assert [p.title for p in later.places] == ["seed 8"]
    edited = later.with_place(place("smile"), held.start)
    other = edited.with_place(place("seed 9", fresh=True), held.start)
    assert [p.title for p in other.places] == ["seed 8", "smile", "seed 9"]


def test_what_was_undone_is_gone_after_the_next_edit(held: Held) -> None:
    edited = held.with_place(place("smile"), held.start).with_place(place("hat"), held.start)
    back = edited.moved_to(1, held.start)
    assert len(back.places) == 3  # redo is still there
    assert [p.title for p in back.with_place(place("beard"), held.start).places] == [
        "seed 7", "smile", "beard",
    ]  # fmt: skip


def test_the_history_is_bounded(held: Held) -> None:
    for number in range(MAX_PLACES + 5):
        held = held.with_place(place(f"edit {number}"), held.start)
    assert len(held.places) == MAX_PLACES
    assert held.place.title == f"edit {MAX_PLACES + 4}"


def test_a_place_is_read_again_unless_it_was_cleared_away(held: Held, generator: Generator) -> None:
    assert torch.equal(held.place.read(generator).w_plus, held.start.w_plus)
    with pytest.raises(InputError, match="cleared away"):
        replace(held.place, latent="/nowhere/latent").read(generator)


def test_a_session_of_an_official_face_holds_little() -> None:
    """300 kB a session are for all tabs: one 1024 px edit with styles, as it is kept."""
    latent = Latent(torch.zeros(18, 512), tuple(torch.zeros(n) for n in (512,) * 15 + (2000,)))
    line = Line(latent, latent)
    tensors = (line.start.w_plus, *line.start.offsets, line.result.w_plus, *line.result.offsets)
    assert sum(t.nbytes for t in tensors) < 160_000


# --------------------------------------------------------------------------- files and answers


def test_the_answer_repeats_the_edit(
    there: dict[str, Kit], generator: Generator, clip: Any
) -> None:
    found = outcome(FORM, there, generator, clip)
    facts = json.loads(json.dumps(styleclip_session.facts(found, 1.0), allow_nan=False))
    assert facts.keys() == {"model", "settings", "seed", "seconds", "latent", "changed_channels"}
    again = replace(FORM, strength=facts["settings"]["strength"],
                    disentanglement=facts["settings"]["disentanglement"])  # fmt: skip
    other = outcome(again, there, generator, clip)
    assert other.picture.tobytes() == found.picture.tobytes()
    assert styleclip_session.facts(other, 1.0)["latent"] == facts["latent"]
    with Image.open(styleclip_session.save_picture(found)) as saved:
        assert json.loads(saved.text["clip-atelier"])["settings"] == facts["settings"]
        assert saved.tobytes() == found.picture.tobytes()


@pytest.mark.parametrize(("kind", "begins"), [("mp4", b"ftyp"), ("gif", b"GIF8"), ("png", b"PNG")])
def test_sweeps(
    kind: str, begins: bytes, there: dict[str, Kit], generator: Generator, clip: Any
) -> None:
    held = outcome(FORM, there, generator, clip).held
    path = run_to_end(styleclip._save_sweep(kind, held, 2.0, 0.1, generator))
    assert begins in Path(path).read_bytes()[:12]


# ----------------------------------------------------------------------------- what is shown


def test_the_strip_has_a_bar_for_every_style_vector(
    there: dict[str, Kit], generator: Generator, clip: Any
) -> None:
    found = outcome(FORM, there, generator, clip)
    html = views.panel(found.layers, [2.0, 1.0])
    root = ElementTree.fromstring(f"<div>{html}</div>")
    bars = root.findall(".//i")
    assert len(bars) == len(generator.layout)
    assert [bar.get("class") == "rgb" for bar in bars] == [s.is_rgb for s in generator.layout]
    heights = [float(bar.get("style").removeprefix("--tall:").rstrip("%")) for bar in bars]
    assert max(heights) == 100
    norms = [layer.norm for layer in found.layers]
    assert heights.index(100) == norms.index(max(norms))
    assert root.find(".//{*}polyline") is not None


def test_layers_are_measured_in_deviations(generator: Generator, there: dict[str, Kit]) -> None:
    statistics = run_to_end(Library().statistics(there[MINI], generator))
    start = Latent.from_seed(generator, 0)
    step = [torch.zeros(slot.size) for slot in generator.layout]
    step[3][0] = 2 * statistics.sigma[3][0]
    layers = activity(generator, start, start.moved(step), statistics)
    assert [layer.channels for layer in layers] == [0, 0, 0, 1, *[0] * (len(layers) - 4)]
    assert layers[3].norm == pytest.approx(2, rel=1e-3)


def test_a_comparison_carries_pictures_in_the_page_and_paths_as_files() -> None:
    with gr.Blocks():
        component = views.comparison("x")
    red = Image.new("RGB", (8, 8), "red")
    before, after = component.postprocess((downloads.save_jpeg(red), red)).root
    assert before.path.endswith(".jpg")
    assert after.url.startswith("data:image/jpeg;base64,")


def test_what_is_typed_is_escaped(held: Held) -> None:
    assert "<script" not in views.running([1.0], Image.new("RGB", (4, 4)))
    shown = styleclip._album(held.with_place(place(EVIL), held.start))
    assert shown["value"][-1][1] == EVIL  # Gradio's captions are text


def test_the_diagram_explains_itself_to_those_who_cannot_see_it() -> None:
    root = ElementTree.fromstring(views.DIAGRAM)
    assert root.findtext("{*}title").startswith("StyleCLIP:")


@pytest.fixture(scope="module")
def linked(folder: Path) -> Iterator[set[str]]:
    atelier = replace(app.open_atelier(Settings(device="cpu")), registry=tiny_registry(folder))
    with gr.Blocks():
        yield {field.name for field in styleclip.build(atelier)}


def test_every_field_of_the_form_travels_in_a_link(linked: set[str]) -> None:
    carried = {field.name for field in fields(Form)}
    assert carried - linked == {"seed_or_latent", "disentanglement"}  # called seed and beta there
    assert {"seed", "beta", "auto"} <= linked


def test_own_generators_are_offered(tmp_path: Path, generator: Generator) -> None:
    from models.stylegan.checkpoints import save_generator

    save_generator(generator, tmp_path / "mine.safetensors")
    atelier = app.open_atelier(Settings(device="cpu", generators=str(tmp_path)))
    kit = kits(atelier.registry.catalog)["own/mine"]
    assert kit.folder == tmp_path / "mine"
    with atelier.registry.lease("own/mine") as loaded:
        assert loaded.size == generator.size
    with pytest.raises(InputError, match="neither a folder nor a generator"):
        app.open_atelier(Settings(device="cpu", generators=str(tmp_path / "nothing")))


def test_an_optimisation_that_finds_nothing_better_says_so(
    there: dict[str, Kit], generator: Generator, clip: Any
) -> None:
    """So heavy a distance term lets nothing but the start be best."""
    form = replace(FORM, method="optimization", steps=3, l2=100, identity=0)
    found = outcome(form, there, generator, clip)
    assert not any(layer.channels for layer in found.layers)
    with gr.Blocks():
        atelier = replace(
            app.open_atelier(Settings(device="cpu")), registry=tiny_registry(there[MINI].folder)
        )
        page = styleclip._Page(atelier, there, _parts(there))
        done = styleclip.Done(found, 1.0)
        (update,) = page._shown(iter([done]), read_form(form, there))
    assert styleclip.NOTHING_BETTER in update[page.status]


def _parts(there: dict[str, Kit]) -> dict[str, Any]:
    """The components that answers go to."""
    parts = styleclip._build_words() | styleclip._build_stage() | styleclip._build_start()
    parts |= styleclip._build_method(there[MINI]) | styleclip._build_photo()
    return {**parts, "model": gr.Dropdown(), "status": gr.HTML()}
