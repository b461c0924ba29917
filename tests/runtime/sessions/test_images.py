"""Generators that give several images: the session gives the one that is asked for, on every engine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from bundle_factory import (
    add_negative,
    random_frames,
    recurrent,
    upscale,
    upscale_model,
    with_negative,
    write_recurrent_bundle,
    write_small_bundle,
)

from runtime.bench import bench
from runtime.bundle import Bundle, open_bundle
from runtime.errors import GenedgeError, UsageError
from runtime.sessions import Choice, open_session, session_for
from runtime.stages import open_stage
from runtime.verify import verify

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return open_bundle(add_negative(write_small_bundle(tmp_path_factory.mktemp("two") / "plain")))


@pytest.fixture(scope="module")
def with_state(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return open_bundle(add_negative(write_recurrent_bundle(tmp_path_factory.mktemp("two") / "recurrent")))


@pytest.fixture(params=["openvino", "onnxruntime"])
def choice(request: pytest.FixtureRequest) -> Choice:
    pytest.importorskip(request.param)
    return Choice(request.param, "fp32", "fp32", "test")


def test_a_session_gives_the_image_that_is_asked_for(plain: Bundle, choice: Choice) -> None:
    frames = random_frames(2, 6, 10, 3)
    for image, wanted in ((None, upscale(frames)), ("image", upscale(frames)), ("negative", 255 - upscale(frames))):
        with open_session(plain, choice, image=image) as session:
            out = np.empty_like(wanted)
            assert session.infer(frames, out) is out
            np.testing.assert_array_equal(out, wanted)
            pending = [session.submit(frames) for _ in range(2)]
            for each in pending:
                np.testing.assert_array_equal(each.result(), wanted)


def test_a_session_with_a_state_does_too(with_state: Bundle, choice: Choice) -> None:
    """Also where the frames' size changes, and with N > 1: the image that nobody sees needs memory of that size."""
    for image, sign in ((None, False), ("image", False), ("negative", True)):
        with open_session(with_state, choice, image=image) as session:
            for shape in ((4, 1, 6, 10, 3), (3, 2, 5, 4, 3)):
                frames = random_frames(*shape)
                found = np.stack([session.infer(frame) for frame in frames])
                wanted = recurrent(frames)
                np.testing.assert_array_equal(found, 255 - wanted if sign else wanted)


def test_a_stage_is_fitted_around_the_image_that_is_asked_for(plain: Bundle, choice: Choice) -> None:
    frames = random_frames(1, 40, 50, 3)
    with open_stage(plain, choice, 40, 50, tile=16, image="negative") as stage:
        np.testing.assert_array_equal(stage.infer(frames), 255 - upscale(frames))


def test_an_unknown_image_names_those_that_there_are(plain: Bundle, with_state: Bundle, choice: Choice) -> None:
    for bundle in (plain, with_state):
        for wrong in ("mask", "frame", "next_hidden", ""):
            with pytest.raises(UsageError, match=rf"gives no image '{wrong}': choose among image, negative"):
                open_session(bundle, choice, image=wrong)


def test_a_model_without_the_image_of_its_manifest(plain: Bundle, choice: Choice) -> None:
    with pytest.raises(GenedgeError, match="has the outputs image, but the manifest describes negative: build"):
        session_for(upscale_model(), plain.manifest, choice, image="negative")
    first, second = plain.manifest.outputs
    renamed = replace(plain.manifest, outputs=(replace(first, name="picture"), second))
    with pytest.raises(GenedgeError, match="has the outputs image, negative, but the manifest describes picture"):
        session_for(with_negative(upscale_model()), renamed, choice)


def test_verify_and_bench_look_at_the_main_image(plain: Bundle, with_state: Bundle, choice: Choice) -> None:
    for bundle in (plain, with_state):
        assert [verdict.failures for verdict in verify(bundle, [choice])] == [()]
        assert len(bench(bundle, [choice], 12, 16, rounds=1)[0].milliseconds) == 1
