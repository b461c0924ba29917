from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calib.truth import LARGEST_GAIN, contrast_of, hardened, reduced
from recipes.evaluation import bicubic
from runtime.frames import Frame


def cut(photo: Frame, multiple: int) -> Frame:
    height, width = (side - side % multiple for side in photo.shape[:2])
    return np.ascontiguousarray(photo[:height, :width])


# --- reduced ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_reduction_is_that_of_the_benchmarks(scale: int, photos: tuple[Frame, ...]) -> None:
    """Torch's antialiased bicubic has the same kernel (a = -0.5, stretched by the scale, renormalised at the border),
    so the two differ by summation order only: where a sum lies half-way between two steps, by one step."""
    for photo in photos:
        frame = cut(photo, scale)
        wanted = bicubic(frame, frame.shape[0] // scale, frame.shape[1] // scale)
        difference = np.abs(reduced(frame, scale).astype(int) - wanted)
        assert difference.max() <= 1
        assert np.count_nonzero(difference) <= 1e-4 * difference.size


def test_another_sharpness_would_show(photos: tuple[Frame, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenCV's and torch's plain bicubic have a = -0.75, which a careless change would bring in."""
    frame = cut(photos[0], 4)
    wanted = bicubic(frame, frame.shape[0] // 4, frame.shape[1] // 4)
    monkeypatch.setattr("calib.truth.SHARPNESS", -0.75)
    assert np.abs(reduced(frame, 4).astype(int) - wanted).max() > 1


@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 5), st.integers(0, 255))
def test_a_flat_frame_stays_what_it_is(scale: int, height: int, width: int, value: int) -> None:
    frame = np.full((height * scale, width * scale, 3), value, np.uint8)
    assert np.array_equal(reduced(frame, scale), np.full((height, width, 3), value, np.uint8))


def test_scale_one_changes_nothing(photos: tuple[Frame, ...]) -> None:
    assert np.array_equal(reduced(photos[0], 1), photos[0])


def test_overshoot_is_clipped_not_wrapped() -> None:
    frame = np.zeros((32, 32, 3), np.uint8)
    frame[:, 16:] = 255
    small = reduced(frame, 2)
    assert small[:, :7].max() <= 12
    assert small[:, 9:].min() >= 243


@pytest.mark.parametrize("size", [(31, 32), (32, 33), (1, 2)])
def test_sides_that_do_not_divide_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"{size[1]}x{size[0]} pixels cannot be reduced by 2 evenly"):
        reduced(np.zeros((*size, 3), np.uint8), 2)


# --- hardened ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_hardened_frames_have_full_contrast(factor: int, photos: tuple[Frame, ...]) -> None:
    for photo in photos:
        dim = (60 + photo.astype(np.float32) * 0.4).astype(np.uint8)  # 60..162
        hard = hardened(dim, factor)
        assert hard.shape == (dim.shape[0] // factor, dim.shape[1] // factor, 3)
        assert hard.dtype == np.uint8
        assert (hard.min(), hard.max()) == (0, 255)
        assert hard.std() > 1.3 * dim.std()


def test_sides_are_cut_to_the_factor(photos: tuple[Frame, ...]) -> None:
    assert hardened(photos[0][:101, :75], 4).shape == (25, 18, 3)


def test_a_run_is_hardened_alike(photos: tuple[Frame, ...]) -> None:
    """With the first frame's contrast, a frame that gets darker stays darker."""
    first, darker = photos[0], (photos[0] * 0.5).astype(np.uint8)
    contrast = contrast_of(first)
    assert hardened(darker, 1, contrast).mean() < 0.7 * hardened(first, 1, contrast).mean()
    assert hardened(darker, 1).mean() > 0.9 * hardened(first, 1).mean()


@given(st.integers(0, 255), st.sampled_from([1, 2]))
def test_a_flat_frame_stays_flat(value: int, factor: int) -> None:
    hard = hardened(np.full((8, 8, 3), value, np.uint8), factor)
    assert hard.shape == (8 // factor, 8 // factor, 3)
    assert np.ptp(hard) == 0


def test_noise_of_a_dark_frame_is_not_made_a_picture(photos: tuple[Frame, ...]) -> None:
    """The first frame of a run may be black, as videos fade in: its contrast is no measure for what follows."""
    noise = np.random.default_rng(0).integers(0, 3, (64, 64, 3), dtype=np.uint8)
    assert hardened(noise, 1).max() <= 2 * LARGEST_GAIN
    after_black = hardened(photos[0], 1, contrast_of(np.zeros_like(photos[0])))
    middle = (after_black > 0) & (after_black < 255)
    assert np.count_nonzero(middle) > 0.01 * middle.size


def test_contrast_is_where_a_hundredth_lies_outside(photos: tuple[Frame, ...]) -> None:
    low, high = contrast_of(photos[1])
    assert np.mean(photos[1] < low) <= 0.01 <= np.mean(photos[1] <= low)
    assert np.mean(photos[1] > high) <= 0.01 <= np.mean(photos[1] >= high)
