from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from checkpoint_factory import loaded, saved, write_checkpoint
from published import frames

from export import cli, gallery
from export.config import LIMITS
from export.frame_io import reference_output
from export.gallery import CELL, GAP, MARGIN, TEXT, Cell, Row, checkpoints_in, make_gallery, name_of, sheet, subject_for
from runtime.errors import UsageError
from runtime.manifest import Limits

pytestmark = pytest.mark.usefixtures("quick")

NOWHERE = Path("no-such-folder")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    write_checkpoint(folder / "tiny-x2.pth")
    (folder / "horse2zebra").mkdir()
    write_checkpoint(folder / "horse2zebra" / "latest_net_G.pth", "cyclegan")
    (folder / "stem.pth").write_bytes(saved({"stem.weight": torch.zeros(2)}))
    (folder / "notes.txt").write_text("no checkpoint")
    return folder


def test_a_sheet_shows_what_pytorch_and_the_runtime_make_of_a_photo(weights: Path, tmp_path: Path) -> None:
    told: list[str] = []
    output = tmp_path / "out"
    made = make_gallery([weights], output, NOWHERE, int8=False, progress=told.append)
    assert [row.name for row in made.rows] == ["horse2zebra", "tiny-x2"]
    assert list(made.skipped) == ["stem.pth"]
    assert "unknown architecture" in made.skipped["stem.pth"]
    assert made.failures == []
    image = cv2.imread(str(output / "gallery.png"))
    assert image is not None
    assert image.shape == (2 * (CELL + TEXT + GAP) + GAP, MARGIN + 4 * (CELL + GAP), 3)
    for number, (id, name) in enumerate((("cyclegan", "horse2zebra"), ("compact-x2", "tiny-x2"))):
        top = number * (CELL + TEXT + GAP) + GAP
        cells = [image[top : top + CELL, MARGIN + column * (CELL + GAP) :][:, :CELL] for column in range(4)]
        generator = loaded(id)
        (frame,) = subject_for(generator, name, NOWHERE).frames
        wanted = reference_output(generator, frame)
        assert wanted.std() > 10
        assert np.array_equal(cells[1], wanted)
        assert np.array_equal(cells[0], frame.repeat(generator.scale, 0).repeat(generator.scale, 1))
        assert np.abs(cells[2].astype(int) - wanted).max() <= 3  # fp16
        assert (cells[3] == 240).mean() > 0.8  # INT8 was not made: grey, with a text
    assert (output / "bundles" / "tiny-x2" / "manifest.json").is_file()
    assert any("3 of 3, tiny-x2.pth: " in text for text in told)


def test_int8_is_made_of_material_that_suits(weights: Path, tmp_path: Path) -> None:
    photos = tmp_path / "assets" / "images" / "cid22"
    photos.mkdir(parents=True)
    for index, frame in enumerate(frames(6, 160, 160, seed=4)):
        cv2.imwrite(str(photos / f"{index}.png"), frame)
    made = make_gallery([weights / "tiny-x2.pth"], tmp_path / "out", tmp_path / "assets")
    (row,) = made.rows
    assert [cell.title.split(",")[0] for cell in row.cells] == ["input", "PyTorch", "fp16", "int8"]
    assert all(cell.image is not None for cell in row.cells)
    assert row.cells[3].psnr_db is not None
    assert row.cells[3].psnr_db > 30
    assert (tmp_path / "out" / "calibration" / "cid22-128x128" / "index.json").is_file()


def test_a_cell_that_misses_its_limit_is_framed_and_ends_with_exit_code_3(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = {**LIMITS, "fp16": Limits(psnr_db=150.0)}  # no variant is as good as that
    monkeypatch.setattr(gallery, "LIMITS", limits)
    output = tmp_path / "out"
    arguments = ["gallery", str(weights / "tiny-x2.pth"), "-o", str(output), "--no-int8"]
    assert cli.run(arguments) == 3
    said = capsys.readouterr()
    assert "tiny-x2: fp16 is " in said.err
    assert "dB from PyTorch, not 150" in said.err
    assert "tiny-x2" in said.out
    record = json.loads((output / "gallery.json").read_text())
    assert "fp16 is " in record["rows"][0]["failures"][0]
    image = cv2.imread(str(output / "gallery.png"))
    assert image is not None
    corner = image[GAP + 1, MARGIN + 2 * (CELL + GAP) + 1]
    assert corner.tolist() == [0, 0, 255]


def test_a_generator_that_cannot_be_built_has_a_row_that_says_why(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise UsageError("no engine today")

    monkeypatch.setattr(gallery, "build", refuse)
    made = make_gallery([weights / "tiny-x2.pth"], tmp_path, NOWHERE, int8=False)
    assert made.failures == ["tiny-x2: no engine today"]


def test_nothing_to_show_is_a_usage_error(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no generator among 1 files: .*unknown architecture"):
        make_gallery([weights / "stem.pth"], tmp_path, NOWHERE)
    with pytest.raises(UsageError, match="no such checkpoint or folder"):
        make_gallery([weights / "absent.pth"], tmp_path, NOWHERE)
    with pytest.raises(UsageError, match="is a file"):
        make_gallery([weights], weights / "tiny-x2.pth", NOWHERE)


def test_names_come_from_the_folder_where_the_file_says_nothing(weights: Path) -> None:
    assert [name_of(path) for path in checkpoints_in([weights])] == ["horse2zebra", "stem", "tiny-x2"]


def test_a_larger_picture_is_cut_and_a_smaller_one_is_not_enlarged() -> None:
    large = np.zeros((300, 400, 3), np.uint8)
    large[22:278, 72:328] = 90
    small = np.full((40, 50, 3), 120, np.uint8)
    image = sheet([Row("row", ("fact",), (Cell("large", large), Cell("small", small)))])
    first, second = (image[GAP : GAP + CELL, MARGIN + column * (CELL + GAP) :][:, :CELL] for column in range(2))
    assert (first == 90).all()
    assert (second[:40, :50] == 120).all()
    assert (second[40:] == 255).all()
