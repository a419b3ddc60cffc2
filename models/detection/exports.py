"""Detections of many pictures as the files other tools read: COCO JSON, CSV, YOLO.

Each takes [(file name, its detections), ...]. Categories are the labels that occur, sorted.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import yaml
from pycocotools import mask as coco_mask

from models.detection.detections import Detections, Rle

Results = Sequence[tuple[str, Detections]]

CSV_COLUMNS = (
    "file", "width", "height", "label", "score", "x1", "y1", "x2", "y2", "phrase", "begin", "end"
)  # fmt: skip


def coco_json(results: Results) -> str:
    """COCO's object format with a `score` in each annotation.

    Its `annotations` alone are what `COCO.loadRes` takes. Boxes are x, y, width, height; masks
    are RLEs, and no mask is an empty `segmentation`.
    """
    category = {name: place for place, name in enumerate(_categories(results), start=1)}
    annotations = [
        {"image_id": image_id, **annotation}
        for image_id, (_, detections) in enumerate(results, start=1)
        for annotation in _annotations(detections, category)
    ]
    whole = {
        "info": {"description": "Detections of CLIP Atelier"},
        "images": [
            {"id": place, "file_name": name, "width": found.width, "height": found.height}
            for place, (name, found) in enumerate(results, start=1)
        ],
        "annotations": [{"id": i, **row} for i, row in enumerate(annotations, start=1)],
        "categories": [{"id": place, "name": name} for name, place in category.items()],
    }
    return json.dumps(whole)


def csv_table(results: Results) -> str:
    """One row per detection (`CSV_COLUMNS`); phrase, begin and end are empty where unknown."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(CSV_COLUMNS)
    for name, found in results:
        for i, row in enumerate(found.to_json()["detections"]):
            phrase = found.phrases[i] if found.phrases[i] >= 0 else ""
            begin, end = row["span"] or ("", "")
            picture = (_inert(name), found.width, found.height)
            words = (phrase, begin, end)
            writer.writerow((*picture, _inert(row["label"]), row["score"], *row["box"], *words))
    return text.getvalue()


def yolo_files(results: Results) -> dict[str, str]:
    """Path -> text of a YOLO data set: `labels/NAME.txt` per picture, and `data.yaml`.

    A line is `class cx cy width height` in fractions of the picture. NAME is the picture's file
    name without folder and ending, which is how YOLO finds it; pictures that would share one
    (`a.jpg`, `a.png`) get `a`, `a-2`.
    """
    names = _categories(results)
    place = {name: i for i, name in enumerate(names)}
    stems = _stems([name for name, _ in results])
    header = {"path": ".", "train": "images", "val": "images", "names": dict(enumerate(names))}
    files = {"data.yaml": yaml.safe_dump(header, allow_unicode=True, sort_keys=False)}
    for stem, (_, found) in zip(stems, results):
        files[f"labels/{stem}.txt"] = "".join(_yolo_lines(found, place))
    return files


def _categories(results: Results) -> list[str]:
    return sorted({label for _, found in results for label in found.labels})


def _annotations(found: Detections, category: dict[str, int]) -> Iterable[dict[str, Any]]:
    masks = found.masks or (None,) * len(found)
    for row, mask in zip(found.to_json()["detections"], masks):
        x1, y1, x2, y2 = row["box"]
        width, height = round(x2 - x1, 3), round(y2 - y1, 3)
        yield {
            "category_id": category[row["label"]],
            "bbox": [x1, y1, width, height],
            "area": round(width * height, 3) if mask is None else _area(mask),
            "segmentation": [] if mask is None else dict(mask),
            "iscrowd": 0,
            "score": row["score"],
        }


def _area(mask: Rle) -> int:
    return int(coco_mask.area(mask))


def _yolo_lines(found: Detections, place: dict[str, int]) -> Iterable[str]:
    corners = found.boxes.astype(np.float64).reshape(-1, 2, 2) / (found.width, found.height)
    centres, sizes = corners.mean(axis=1), corners[:, 1] - corners[:, 0]
    for label, centre, size in zip(found.labels, centres, sizes):
        yield " ".join([str(place[label]), *(f"{value:.6f}" for value in (*centre, *size))]) + "\n"


def _inert(text: str) -> str:
    """Text that no spreadsheet takes for a formula (OWASP, "CSV Injection")."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else text


def _stems(names: Sequence[str]) -> list[str]:
    """A file name for each picture: no folder, nothing that a zip or a file system refuses."""
    taken: set[str] = set()
    stems = []
    for name in names:
        stem = PurePosixPath(name.replace("\\", "/")).stem
        stem = re.sub(r'[\x00-\x1f<>:"|?*]', "_", stem).strip(" .")
        stem = unique = stem or "picture"
        count = 1
        while unique.casefold() in taken:  # most file systems ignore case
            count += 1
            unique = f"{stem}-{count}"
        taken.add(unique.casefold())
        stems.append(unique)
    return stems
