"""Exports, read again by the tools that they are for."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from models.detection.detections import Detections, encode_mask
from models.detection.exports import CSV_COLUMNS, Results, coco_json, csv_table, yolo_files

AWKWARD = 'a "quoted", <b>kite</b>\n: #é 犬 \u2028'


@pytest.fixture(scope="module")
def results() -> Results:
    mask = np.zeros((50, 100), bool)
    mask[10:30, 20:60] = True
    park = Detections(
        boxes=np.array([[20, 10, 60, 30], [0, 0, 100, 50]]),
        scores=np.array([0.9, 0.5]),
        labels=("dog", AWKWARD),
        phrases=(0, -1),
        spans=((0, 3), None),
        width=100,
        height=50,
        masks=(encode_mask(mask), None),
    )
    beach = Detections(
        boxes=np.array([[1.25, 2, 3, 4.5]]),
        scores=np.array([0.25]),
        labels=("dog",),
        phrases=(0,),
        spans=((0, 3),),
        width=10,
        height=20,
    )
    return [("park.jpg", park), ("empty.png", Detections.none(7, 8)), ("=beach,1.jpg", beach)]


def read_coco(text: str, path: Path) -> COCO:
    path.write_text(text, encoding="utf-8")
    return COCO(str(path))


def test_coco_is_read_by_pycocotools(results: Results, tmp_path: Path) -> None:
    coco = read_coco(coco_json(results), tmp_path / "coco.json")
    assert [(i["file_name"], i["width"], i["height"]) for i in coco.loadImgs(coco.getImgIds())] == [
        ("park.jpg", 100, 50), ("empty.png", 7, 8), ("=beach,1.jpg", 10, 20)
    ]  # fmt: skip
    assert {c["name"] for c in coco.loadCats(coco.getCatIds())} == {"dog", AWKWARD}
    dogs = coco.loadAnns(coco.getAnnIds(catIds=coco.getCatIds(catNms=["dog"])))
    assert [(a["image_id"], a["bbox"], a["score"]) for a in dogs] == [
        (1, [20, 10, 40, 20], 0.9), (3, [1.25, 2, 1.75, 2.5], 0.25)
    ]  # fmt: skip
    mask = coco.annToMask(dogs[0])
    assert (mask.shape, mask.sum()) == ((50, 100), 800)
    assert mask[10:30, 20:60].all()
    assert [a["area"] for a in dogs] == [800, pytest.approx(1.75 * 2.5)]


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_coco_evaluates_itself_as_perfect(results: Results, kind: str, tmp_path: Path) -> None:
    if kind == "segm":
        results = [(name, found.select(slice(1))) for name, found in results[:1]]
    coco = read_coco(coco_json(results), tmp_path / "coco.json")
    evaluation = COCOeval(coco, coco.loadRes(json.loads(coco_json(results))["annotations"]), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


def test_csv_is_read_back(results: Results) -> None:
    rows = list(csv.DictReader(io.StringIO(csv_table(results), newline="")))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert [row["label"] for row in rows] == ["dog", AWKWARD, "dog"]
    assert [float(rows[2][c]) for c in ("x1", "y1", "x2", "y2")] == [1.25, 2, 3, 4.5]
    assert [(row["phrase"], row["begin"], row["end"]) for row in rows] == [
        ("0", "0", "3"), ("", "", ""), ("0", "0", "3")
    ]  # fmt: skip


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_csv_holds_no_formula(results: Results, start: str) -> None:
    name = f"{start}cmd|' /C calc'!A0"
    (row,) = csv.DictReader(io.StringIO(csv_table([(name, results[2][1])]), newline=""))
    assert row["file"] == f"'{name}"


def test_yolo_gives_the_boxes_back(results: Results) -> None:
    files = yolo_files(results)
    assert set(files) == {
        "data.yaml", "labels/park.txt", "labels/empty.txt", "labels/=beach,1.txt"
    }  # fmt: skip
    names = yaml.safe_load(files["data.yaml"])["names"]
    lines = [line.split() for line in files["labels/park.txt"].splitlines()]
    for (label, *numbers), box, name in zip(lines, results[0][1].boxes, results[0][1].labels):
        cx, cy, width, height = np.array(numbers, float) * (100, 50, 100, 50)
        edges = (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)
        assert edges == pytest.approx(box.tolist(), abs=1e-3)
        assert names[int(label)] == name
    assert files["labels/empty.txt"] == ""


@pytest.mark.parametrize(
    ("names", "stems"),
    [
        (["a.jpg", "a.png", "A.gif"], ["a", "a-2", "A-3"]),
        (["../../etc/passwd", "..\\up.jpg"], ["passwd", "up"]),
        (["", "..", ".", "/"], ["picture", "picture-2", "picture-3", "picture-4"]),
        (['a:b*"c".jpg', "nul\x00.jpg"], ["a_b__c_", "nul_"]),
        (["two.dots.jpg", "café 犬.webp"], ["two.dots", "café 犬"]),
    ],
)
def test_yolo_names_are_safe_and_distinct(names: list[str], stems: list[str]) -> None:
    files = yolo_files([(name, Detections.none(4, 4)) for name in names])
    assert list(files)[1:] == [f"labels/{stem}.txt" for stem in stems]


def test_no_pictures() -> None:
    assert json.loads(coco_json([]))["annotations"] == []
    assert csv_table([]) == ",".join(CSV_COLUMNS) + "\r\n"
    assert list(yolo_files([])) == ["data.yaml"]
