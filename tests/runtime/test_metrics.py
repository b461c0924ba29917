"""The figures, against published values and scikit-image."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from bundle_factory import random_frames
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.color import deltaE_ciede2000, rgb2lab
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from runtime.frames import Frame
from runtime.manifest import Limits
from runtime.metrics import MAX_PSNR_DB, ParityReport, compare, delta_e_2000, judge, lab, luma_bt601, psnr, ssim

# L1 a1 b1 L2 a2 b2 and the colour difference. Sharma, Wu, Dalal, The CIEDE2000 Color-Difference Formula:
# Implementation Notes, Supplementary Test Data, and Mathematical Observations, 2005, table 1.
SHARMA = """
50.0000 2.6772 -79.7751 50.0000 0.0000 -82.7485 2.0425
50.0000 3.1571 -77.2803 50.0000 0.0000 -82.7485 2.8615
50.0000 2.8361 -74.0200 50.0000 0.0000 -82.7485 3.4412
50.0000 -1.3802 -84.2814 50.0000 0.0000 -82.7485 1.0000
50.0000 -1.1848 -84.8006 50.0000 0.0000 -82.7485 1.0000
50.0000 -0.9009 -85.5211 50.0000 0.0000 -82.7485 1.0000
50.0000 0.0000 0.0000 50.0000 -1.0000 2.0000 2.3669
50.0000 -1.0000 2.0000 50.0000 0.0000 0.0000 2.3669
50.0000 2.4900 -0.0010 50.0000 -2.4900 0.0009 7.1792
50.0000 2.4900 -0.0010 50.0000 -2.4900 0.0010 7.1792
50.0000 2.4900 -0.0010 50.0000 -2.4900 0.0011 7.2195
50.0000 2.4900 -0.0010 50.0000 -2.4900 0.0012 7.2195
50.0000 -0.0010 2.4900 50.0000 0.0009 -2.4900 4.8045
50.0000 -0.0010 2.4900 50.0000 0.0010 -2.4900 4.8045
50.0000 -0.0010 2.4900 50.0000 0.0011 -2.4900 4.7461
50.0000 2.5000 0.0000 50.0000 0.0000 -2.5000 4.3065
50.0000 2.5000 0.0000 73.0000 25.0000 -18.0000 27.1492
50.0000 2.5000 0.0000 61.0000 -5.0000 29.0000 22.8977
50.0000 2.5000 0.0000 56.0000 -27.0000 -3.0000 31.9030
50.0000 2.5000 0.0000 58.0000 24.0000 15.0000 19.4535
50.0000 2.5000 0.0000 50.0000 3.1736 0.5854 1.0000
50.0000 2.5000 0.0000 50.0000 3.2972 0.0000 1.0000
50.0000 2.5000 0.0000 50.0000 1.8634 0.5757 1.0000
50.0000 2.5000 0.0000 50.0000 3.2592 0.3350 1.0000
60.2574 -34.0099 36.2677 60.4626 -34.1751 39.4387 1.2644
63.0109 -31.0961 -5.8663 62.8187 -29.7946 -4.0864 1.2630
61.2901 3.7196 -5.3901 61.4292 2.2480 -4.9620 1.8731
35.0831 -44.1164 3.7933 35.0232 -40.0716 1.5901 1.8645
22.7233 20.0904 -46.6940 23.0331 14.9730 -42.5619 2.0373
36.4612 47.8580 18.3852 36.2715 50.5065 21.2231 1.4146
90.8027 -2.0831 1.4410 91.1528 -1.6435 0.0447 1.4441
90.9257 -0.5406 -0.9208 88.6381 -0.8985 -0.7239 1.5381
6.7747 -0.2908 -2.4247 5.8714 -0.0985 -2.2286 0.6377
2.0776 0.0795 -1.1350 0.9033 -0.0636 -0.5514 0.9082
"""
PAIRS = np.array([[float(number) for number in line.split()] for line in SHARMA.split("\n") if line])


def noisy(frame: Frame, amplitude: int, seed: int = 1) -> Frame:
    noise = np.random.default_rng(seed).integers(-amplitude, amplitude + 1, frame.shape)
    return np.clip(frame.astype(int) + noise, 0, 255).astype(np.uint8)


def smooth_frame(height: int = 48, width: int = 64) -> Frame:
    """A frame with large areas, as photos have them."""
    y, x = np.mgrid[:height, :width]
    planes = [128 + 100 * np.sin(x / 9 + y / 17), 4 * y, 255 - 3 * x]
    return np.clip(np.stack(planes, axis=-1), 0, 255).astype(np.uint8)


# --- colour -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", range(len(PAIRS)))
def test_colour_difference_of_the_published_pairs(index: int) -> None:
    first, second, expected = PAIRS[index, :3], PAIRS[index, 3:6], PAIRS[index, 6]
    assert delta_e_2000(first, second) == pytest.approx(expected, abs=1e-4)
    assert delta_e_2000(second, first) == pytest.approx(expected, abs=1e-4)


def test_all_published_pairs_are_here() -> None:
    assert PAIRS.shape == (34, 7)


def test_colour_difference_keeps_the_shape_of_the_picture() -> None:
    frame, other = random_frames(6, 5, 3), random_frames(6, 5, 3, seed=1)
    difference = delta_e_2000(lab(frame), lab(other))
    assert difference.shape == (6, 5)
    assert difference[2, 3] == delta_e_2000(lab(frame)[2, 3], lab(other)[2, 3])


@settings(max_examples=200, deadline=None)
@given(*2 * [st.tuples(st.floats(0, 100), st.floats(-128, 128), st.floats(-128, 128))])
def test_colour_difference_is_a_symmetric_distance(
    first: tuple[float, float, float], second: tuple[float, float, float]
) -> None:
    one, two = np.array(first), np.array(second)
    there, back = delta_e_2000(one, two), delta_e_2000(two, one)
    assert np.isfinite(there)
    assert there == pytest.approx(back, abs=1e-9)
    assert delta_e_2000(one, one) == 0


def test_colours_of_a_frame_are_bgr() -> None:
    blue_green_red = 255 * np.eye(3, dtype=np.uint8)[None]  # one row of three pixels
    expected = [[32.3, 79.2, -107.9], [87.7, -86.2, 83.2], [53.2, 80.1, 67.2]]
    np.testing.assert_allclose(lab(blue_green_red)[0], expected, atol=0.1)


def test_colour_differences_of_frames_agree_with_scikit_image() -> None:
    """OpenCV approximates the conversion to Lab: a pixel can be off by half a unit, the mean by a percent."""
    for frame in (random_frames(100, 150, 3), smooth_frame(), random_frames(100, 150, 3) // 16):
        other = noisy(frame, 3)
        ours = compare([(frame, other)]).delta_e
        theirs = deltaE_ciede2000(rgb2lab(frame[..., ::-1]), rgb2lab(other[..., ::-1])).mean()
        assert ours == pytest.approx(theirs, rel=0.02)


def test_pixels_that_are_equal_count_as_well() -> None:
    frame = random_frames(30, 40, 3)
    other = frame.copy()
    other[3:5, 7:9], other[20, 30, 1] = noisy(frame[3:5, 7:9], 20), 255 - frame[20, 30, 1]
    whole = delta_e_2000(lab(frame), lab(other))
    assert np.count_nonzero(whole) <= 5
    assert compare([(frame, other)]).delta_e == pytest.approx(whole.mean(), rel=1e-6)


# --- PSNR and SSIM ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("amplitude", [1, 5, 60])
def test_psnr_agrees_with_scikit_image(amplitude: int) -> None:
    frame = random_frames(40, 30, 3)
    other = noisy(frame, amplitude)
    expected = peak_signal_noise_ratio(frame, other)
    assert psnr(frame, other) == pytest.approx(expected, abs=1e-9)
    assert compare([(frame, other)]).psnr_db == pytest.approx(expected, abs=1e-9)


def test_psnr_of_extremes() -> None:
    black, white = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)
    assert psnr(black, white) == pytest.approx(0)
    assert psnr(black, black) == MAX_PSNR_DB
    one_step = np.full((4, 4, 3), 1, np.uint8)
    assert psnr(black, one_step) == psnr(one_step, black) == pytest.approx(20 * math.log10(255))  # no wrap-around


@pytest.mark.parametrize("shape", [(40, 60), (11, 11), (11, 200)])
@pytest.mark.parametrize("amplitude", [2, 40])
def test_ssim_agrees_with_scikit_image(shape: tuple[int, int], amplitude: int) -> None:
    frame = smooth_frame(*shape)
    other = noisy(frame, amplitude)
    expected = structural_similarity(
        luma_bt601(frame),
        luma_bt601(other),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
    )
    assert ssim(frame, other) == pytest.approx(expected, abs=1e-9)


def test_ssim_of_frames_smaller_than_its_window() -> None:
    frame = smooth_frame(10, 30)
    assert ssim(frame, frame) == pytest.approx(1)
    assert 0 < ssim(frame, noisy(frame, 60)) < ssim(frame, noisy(frame, 10)) < 1


def test_luma_is_that_of_bt601() -> None:
    white, black, red = np.array([[[255] * 3, [0] * 3, [0, 0, 255]]], np.uint8)[0]
    assert luma_bt601(white) == pytest.approx(235)
    assert luma_bt601(black) == pytest.approx(16)
    assert luma_bt601(red) == pytest.approx(16 + 65.481)


# --- compare ----------------------------------------------------------------------------------------------------------


def test_identical_frames() -> None:
    frame = random_frames(20, 20, 3)
    report = compare([(frame, frame.copy())] * 3)
    assert report == ParityReport(3, MAX_PSNR_DB, pytest.approx(1), 0.0, 0, 0, 0.0, 0)
    assert report


def test_figures_that_can_be_counted_by_hand() -> None:
    """4x5 pixels are 60 values; three differ: by 1, 2 and 10 steps."""
    frame = np.full((4, 5, 3), 100, np.uint8)
    other = frame.copy()
    other[0, 0], other[1, 1, 0] = (101, 98, 100), 110
    report = compare([(frame, other)])
    assert (report.frames, report.max_abs, report.worst_frame) == (1, 10, 0)
    assert report.changed == pytest.approx(3 / 60)
    assert report.psnr_db == pytest.approx(10 * math.log10(255**2 / ((1 + 4 + 100) / 60)))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 255), min_size=1, max_size=3_000))
def test_the_percentile_is_exact(steps: list[int]) -> None:
    steps += [0] * (-len(steps) % 3)
    difference = np.array(steps, np.uint8).reshape(1, -1, 3)
    report = compare([(np.zeros_like(difference), difference)])
    assert report.p999_abs == np.percentile(difference, 99.9, method="inverted_cdf")
    assert report.max_abs == max(steps)
    assert report.changed == pytest.approx(np.count_nonzero(steps) / len(steps))


def test_the_percentile_just_at_the_edge() -> None:
    """One value in a thousand may differ without being seen in the 99.9th percentile, two may not."""
    frame = np.zeros((1, 1000, 3), np.uint8)
    for count, expected in ((3, 0), (4, 7)):
        other = frame.copy()
        other.ravel()[:count] = 7
        assert compare([(frame, other)]).p999_abs == expected


def test_figures_over_several_frames() -> None:
    """PSNR and shares over all values together, SSIM and colour as the mean, and the worst frame by its index."""
    frames = [random_frames(20 + 4 * index, 30, 3, seed=index) for index in range(3)]  # of different sizes
    others = [noisy(frame, amplitude) for frame, amplitude in zip(frames, (1, 30, 4), strict=True)]
    pairs = list(zip(frames, others, strict=True))
    report = compare(iter(pairs))  # a generator will do: frames are looked at once
    single = [compare([pair]) for pair in pairs]
    errors = np.concatenate([(a.astype(float) - b).ravel() for a, b in pairs])
    assert report.frames == 3
    assert report.psnr_db == pytest.approx(10 * math.log10(255**2 / np.mean(errors**2)))
    assert report.ssim == pytest.approx(np.mean([one.ssim for one in single]))
    assert report.delta_e == pytest.approx(np.mean([one.delta_e for one in single]))
    assert report.max_abs == max(one.max_abs for one in single) == 30
    assert report.changed == pytest.approx(np.count_nonzero(errors) / errors.size)
    assert report.worst_frame == 1


def test_frames_that_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match=r"\(4, 5, 3\) and \(5, 4, 3\) cannot be compared"):
        compare([(random_frames(4, 5, 3), random_frames(5, 4, 3))])
    with pytest.raises(ValueError, match="no frame to compare"):
        compare([])


# --- judging ----------------------------------------------------------------------------------------------------------

REPORT = ParityReport(
    frames=2, psnr_db=45.0, ssim=0.99, delta_e=0.25, max_abs=3, p999_abs=2, changed=0.01, worst_frame=1
)


@pytest.mark.parametrize(
    ("met", "missed", "sentence"),
    [
        (Limits(max_abs=3), Limits(max_abs=2), "largest difference 3 8-bit steps, allowed 2"),
        (Limits(psnr_db=45.0), Limits(psnr_db=45.01), "PSNR 45.00 dB, needed 45.01"),
        (Limits(delta_e=0.25), Limits(delta_e=0.249), "mean colour difference 0.250 ΔE2000, allowed 0.249"),
        (Limits(changed=0.01), Limits(changed=0.0099), "1.0000% of the values differ, allowed 0.9900%"),
    ],
    ids=["max_abs", "psnr_db", "delta_e", "changed"],
)
def test_each_limit_by_itself(met: Limits, missed: Limits, sentence: str) -> None:
    assert judge(REPORT, met).passed
    failed = judge(REPORT, missed)
    assert failed.failures == (sentence,)
    assert not failed
    assert failed.figures() == REPORT.figures()


def test_a_limit_of_zero_is_a_limit() -> None:
    exact = Limits(max_abs=0, changed=0.0)
    assert len(judge(REPORT, exact).failures) == 2
    assert judge(replace(REPORT, max_abs=0, changed=0.0), exact)


def test_every_missed_limit_is_named() -> None:
    assert len(judge(REPORT, Limits(max_abs=0, psnr_db=99, delta_e=0, changed=0)).failures) == 4
    assert judge(REPORT, Limits()).passed


def test_compare_judges_where_limits_are_given() -> None:
    frame = smooth_frame()
    assert compare([(frame, noisy(frame, 9))])
    assert not compare([(frame, noisy(frame, 9))], Limits(max_abs=8))
    assert compare([(frame, noisy(frame, 9))], Limits(max_abs=9))


def test_a_report_for_json() -> None:
    report = judge(REPORT, Limits(max_abs=2))
    content = report.to_dict()
    assert content.pop("passed") is False
    assert content.pop("failures") == report.failures
    assert content == REPORT.figures()
