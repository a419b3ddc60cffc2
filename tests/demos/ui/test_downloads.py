"""Files to take away carry their settings and lie where they are cleared away."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gradio as gr
import pytest
from gradio.processing_utils import move_files_to_cache
from PIL import Image

from demos.ui.downloads import SETTINGS_KEY, save_file, save_jpeg, save_json, save_png

SETTINGS = {"labels": ["ein Hündchen", "🐱", "قطة"], "temperature": 0.07, "seed": 7}


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_png_carries_its_settings(mode: str) -> None:
    path = save_png(Image.new(mode, (8, 6)), SETTINGS, "map")
    with Image.open(path) as image:
        assert image.size == (8, 6)
        assert json.loads(image.text[SETTINGS_KEY]) == SETTINGS
    assert Path(path).name == "map.png"


def test_json_is_readable() -> None:
    path = save_json({"model": "mini", "settings": SETTINGS}, "result")
    assert json.loads(Path(path).read_text("utf-8"))["settings"] == SETTINGS


def test_json_refuses_what_is_no_json() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_json({"score": float("nan")}, "result")


def test_gradio_serves_the_file_where_it_lies_and_clears_it_away() -> None:
    path = save_json({"a": 1}, "result")
    button = gr.DownloadButton()
    served = move_files_to_cache(button.postprocess(path).model_dump(), button, postprocess=True)
    assert served["path"] == path  # no second copy that nobody deletes
    assert path in button.temp_files


def test_jpeg_is_shown_as_it_is() -> None:
    path = save_jpeg(Image.new("RGBA", (8, 6)))
    shown = gr.Image().postprocess(path)
    assert shown.path == path


def test_what_is_transparent_lies_on_white_in_a_jpeg() -> None:
    hidden = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    with Image.open(save_jpeg(hidden)) as shown:
        assert shown.getpixel((8, 8)) == (255, 255, 255)


def test_the_same_result_is_never_written_twice_under_a_reader() -> None:
    path = save_file(b"same", "a.bin")
    with open(path, "rb") as reader:
        assert save_file(b"same", "a.bin") == path
        assert os.fstat(reader.fileno()).st_ino == os.stat(path).st_ino
        assert reader.read() == b"same"


def test_many_writers_of_one_result_leave_one_whole_file() -> None:
    data = os.urandom(300_000)
    with ThreadPoolExecutor(8) as pool:
        (path,) = set(pool.map(lambda _: save_file(data, "a.bin"), range(40)))
    assert Path(path).read_bytes() == data
    assert [file.name for file in Path(path).parent.iterdir()] == ["a.bin"]
