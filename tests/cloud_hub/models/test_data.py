"""Calibration data from folders and npz files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from cloud_hub.models.data import Item, read_items, split, unknown_subfolders


def test_a_folder_gives_pictures_in_the_colours_of_the_model_and_arrays_as_they_are(tmp_path: Path) -> None:
    Image.new("RGB", (4, 2), (200, 10, 20)).save(tmp_path / "a.png")
    Image.new("L", (4, 2), 7).save(tmp_path / "b.png")
    Image.new("RGBA", (4, 2), (1, 2, 3, 0)).save(tmp_path / "c.png")
    np.save(tmp_path / "d.npy", np.zeros((2, 4, 5), np.uint8))
    (tmp_path / "notes.txt").write_text("no picture")
    items = read_items(tmp_path, [])
    assert [item.name for item in items] == ["a.png", "b.png", "c.png", "d.npy"]
    assert [item.load("rgb").shape for item in items] == [(2, 4, 3), (2, 4, 3), (2, 4, 3), (2, 4, 5)]
    assert items[0].load("rgb")[0, 0].tolist() == [200, 10, 20]
    assert items[1].load("gray").shape == (2, 4, 1)


def test_a_picture_that_the_camera_turned_is_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.new("RGB", (4, 2)).save(tmp_path / "a.jpg", exif=exif)
    assert read_items(tmp_path, [])[0].load("rgb").shape == (4, 2, 3)


def test_subfolders_give_the_truth_only_when_all_are_labels(tmp_path: Path) -> None:
    for folder in ("good", "bad"):
        (tmp_path / folder).mkdir()
        Image.new("L", (2, 2)).save(tmp_path / folder / "1.png")
    assert [item.truth for item in read_items(tmp_path, ["good", "bad", "worse"])] == ["bad", "good"]
    items = read_items(tmp_path, ["good"])
    assert [item.truth for item in items] == ["", ""]
    assert unknown_subfolders(tmp_path, items, ["good"]) == ["bad"]
    assert unknown_subfolders(tmp_path, items, ["good", "bad"]) == []


def test_the_halves_share_nothing_hold_each_label_alike_and_are_the_same_each_time() -> None:
    items = [Item(name=str(n), truth="rare" if n % 10 == 0 else "usual") for n in range(100)]
    calibration, evaluation = split(items, "data")
    assert {item.name for item in calibration} & {item.name for item in evaluation} == set()
    assert len(calibration) + len(evaluation) == 100
    assert [sum(item.truth == "rare" for item in half) for half in (calibration, evaluation)] == [5, 5]
    assert split(items, "data") == (calibration, evaluation)
    assert {item.truth for item in evaluation[:30]} == {"rare", "usual"}, "they are shuffled"
