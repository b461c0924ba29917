"""The manifest's contract. The examples in tests/data/manifests are read by the C++ tests as well."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.cli import run
from runtime.codes import Code
from runtime.errors import EXIT_FAILED, EXIT_USAGE, ManifestError, UsageError
from runtime.frames import SizeRule
from runtime.manifest import MAX_BYTES, Artifact, Limits, Manifest, Port, free_sizes, parse_manifest, safe_member

EXAMPLES = Path(__file__).parents[1] / "data" / "manifests"
VALID = sorted((EXAMPLES / "valid").glob("*.json"))
EXPECTED: dict[str, str] = json.loads((EXAMPLES / "invalid" / "EXPECTED.json").read_text(encoding="utf-8"))
SR = EXAMPLES / "valid" / "super-resolution-any-size.json"


def example(name: str) -> Manifest:
    return parse_manifest((EXAMPLES / "valid" / f"{name}.json").read_bytes())


# --- golden examples --------------------------------------------------------------------------------------------------


def test_every_field_of_a_manifest_arrives() -> None:
    manifest = example("super-resolution-any-size")
    assert (manifest.name, manifest.task, manifest.generator) == ("sr-x2", "super-resolution", "srvgg")
    assert manifest.weights.licence == "Apache-2.0"
    assert manifest.weights.trained_on == "public-domain photos"
    assert re.fullmatch("[0-9a-f]{64}", manifest.weights.sha256)
    assert manifest.inputs == (Port("frame", "frame", "uint8", ("n", "h", "w", 3)),)
    assert manifest.outputs == (Port("image", "image", "uint8", ("n", "sh", "sw", 3)),)
    geometry = manifest.geometry
    assert (geometry.scale, geometry.halo, geometry.tileable, geometry.fixed_size) == (2, 18, True, None)
    assert geometry.size_rule == SizeRule(minimum=1, multiple=1)
    assert list(manifest.artifacts) == ["fp32", "fp16", "int8", "int8-strong", "int8-ort"]
    assert manifest.artifacts["fp16"].file == "model.fp16.onnx"
    assert manifest.artifacts["fp16"].float_layers == ("/body/Resize",)
    assert manifest.artifacts["fp32"].parity["openvino-bf16"]["psnr_db"] == 50.3
    assert manifest.limits["fp32"] == Limits(max_abs=1, changed=0.002)
    assert manifest.limits["bf16"] == Limits(psnr_db=40.0, delta_e=1.0)
    assert [pair.output.file for pair in manifest.golden] == ["golden/0.output.png", "golden/1.output.png"]
    assert manifest.face is None


def test_a_graph_of_one_size_says_which() -> None:
    manifest = example("super-resolution-fixed-size")
    assert manifest.geometry.fixed_size == (720, 1280)
    assert manifest.inputs[0].shape == (1, 720, 1280, 3)
    assert manifest.artifacts["fp32"].file == "models/fp32/model.onnx"


def test_a_graph_of_one_size_says_how_other_frames_are_brought_there() -> None:
    assert example("super-resolution-fixed-size").geometry.fit == "pad"  # as before there was a choice
    manifest = example("resized-with-two-images")
    assert (manifest.geometry.fixed_size, manifest.geometry.fit) == ((256, 256), "resize")
    for name in ("super-resolution-fixed-size", "super-resolution-any-size"):
        assert "fit" not in json.loads(example(name).to_json())["geometry"]


def test_of_several_images_the_first_is_the_main_one() -> None:
    manifest = example("resized-with-two-images")
    shape = (1, 256, 256, 3)
    assert manifest.images == (Port("image", "image", "uint8", shape), Port("attention", "image", "uint8", shape))
    assert manifest.image == manifest.images[0]
    assert example("translation").images == (example("translation").image,)


def test_keys_that_may_be_left_out() -> None:
    manifest = example("translation")  # has neither face, nor float_layers, nor parity
    assert manifest.face is None
    assert manifest.artifacts["fp32"] == Artifact("model.fp32.onnx", manifest.artifacts["fp32"].sha256, (), {})
    assert (manifest.limits, manifest.golden) == ({}, ())


def test_face_deidentification_takes_a_code_and_describes_the_face() -> None:
    manifest = example("face-deid-with-code")
    assert manifest.inputs[1] == Port("code", "code", "float32", ("n", 16))
    assert manifest.face is not None
    assert manifest.face["size"] == 128
    assert len(manifest.face["template"]) == 5


def test_a_recurrent_generator_has_states_on_both_sides() -> None:
    manifest = example("recurrent-with-state")
    assert [port.name for port in manifest.inputs if port.role == "state"] == ["hidden", "count"]
    assert [port.name for port in manifest.outputs if port.role == "state"] == ["next_hidden", "next_count"]
    assert [port.name for port in manifest.states] == ["hidden", "count"]
    assert {(port.source, port.initial) for port in manifest.states} == {(None, None)}  # as it was written before


def test_a_state_says_what_feeds_it_and_how_it_begins() -> None:
    manifest = example("recurrent-with-sources")
    frame, hidden = ("n", "h", "w", 3), ("n", 64, "h", "w")
    assert manifest.frame == Port("frame", "frame", "uint8", frame)
    assert manifest.states == (
        Port("previous", "state", "uint8", frame, source="frame", initial="frame"),
        Port("hidden", "state", "float32", hidden, source="next_hidden", initial="zeros"),
    )
    assert manifest.outputs == (manifest.image, Port("next_hidden", "state", "float32", hidden))


def test_a_code_says_what_it_takes() -> None:
    style, attributes, strength = example("conditional").codes
    assert style == Port(
        "style",
        "code",
        "float32",
        ("n", 4),
        code=Code("one-hot", 4, (1, 0, 0, 0), 0, 1, ("monet", "van_gogh", "ukiyoe", "cezanne")),
    )
    assert attributes.code == Code("bits", 3, (-1, 1, -1), -1, 1, ("Black_Hair", "Young", "Glasses, round"))
    assert strength.code == Code("vector", 2, (0.1, 0.7), 0.1, 0.7)
    assert [port.is_map for port in example("conditional").inputs] == [False] * 4
    first, second = example("conditional").golden
    assert first.codes == {}
    assert second.codes == {"style": (0, 0, 1, 0), "strength": (0.25, 0.7)}


def test_a_code_may_be_a_map_and_stand_beside_states() -> None:
    [labels] = example("conditional-map-fixed-size").codes
    assert (labels.is_map, labels.shape) == (True, (1, 3, 720, 1280))
    [noise] = example("recurrent-with-code-map").codes
    assert (noise.is_map, noise.shape) == (True, ("n", 1, "h", "w"))
    assert len(example("recurrent-with-code-map").states) == 2


def test_a_state_may_have_the_size_of_the_image_and_a_frame_begin_black() -> None:
    manifest = example("recurrent-with-image-sized-state")
    frame, picture = ("n", "h", "w", 3), ("n", 3, "sh", "sw")
    assert manifest.states == (
        Port("previous", "state", "uint8", frame, source="frame", initial="zeros"),
        Port("previous_output", "state", "float32", picture, source="next_output", initial="zeros"),
    )
    assert manifest.outputs == (manifest.image, Port("next_output", "state", "float32", picture))


def test_a_face_detector_has_heads_instead_of_an_image() -> None:
    manifest = example("face-detection")
    assert (manifest.images, manifest.states, manifest.codes) == ((), (), ())
    assert {port.role for port in manifest.outputs} == {"head"}
    assert manifest.outputs[9] == Port("kps_8", "head", "float32", ("n", "a8", 10))
    for ask in (lambda: manifest.image, manifest.check_gives_images, lambda: manifest.image_called("cls_8")):
        with pytest.raises(UsageError, match=r"^face-detector is a face detector: use it with `python -m runtime deid"):
            ask()


def test_the_order_of_heads_is_free() -> None:
    content = json.loads((EXAMPLES / "valid" / "face-detection.json").read_text(encoding="utf-8"))
    content["outputs"].reverse()
    assert len(parse_manifest(json.dumps(content)).outputs) == 12


def test_no_command_runs_a_face_detector_as_a_generator(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "manifest.json").write_bytes((EXAMPLES / "valid" / "face-detection.json").read_bytes())
    bundle, video = str(tmp_path), str(tmp_path / "absent.mp4")
    for command in (
        ["run", "-i", video, "-o", str(tmp_path / "out.mp4"), "-b", bundle],
        ["bench", bundle],
        ["bench", bundle, "--backend", "onnxruntime"],
        ["verify", bundle],
    ):
        assert run(command) == EXIT_USAGE
        said = "error: face-detector is a face detector: use it with `python -m runtime deid --detector`\n"
        assert capsys.readouterr() == ("", said)


IMAGE_SHAPES = [
    (("n", "sh", "sw", 3), {"n": 2, "h": 5, "w": 7, "sh": 20, "sw": 28}),
    (("n", "h", "w", 3), {"n": 2, "h": 5, "w": 7}),  # the frame's name, whatever the image calls so
    (("n", "w", "b", 3), {"n": 2, "h": 5, "w": 7, "b": 28}),
    (("n", "s", "s", 3), {"n": 2, "h": 5, "w": 7}),
    (("n", 20, "sw", 3), {"n": 2, "h": 5, "w": 7, "sw": 28}),
    (("m", 256, 256, 3), {"n": 2, "h": 5, "w": 7}),
]


@pytest.mark.parametrize(("shape", "sizes"), IMAGE_SHAPES)
def test_free_sizes_come_from_the_frame_and_the_scale(shape: tuple[int | str, ...], sizes: dict[str, int]) -> None:
    frame, image = Port("frame", "frame", "uint8", ("n", "h", "w", 3)), Port("image", "image", "uint8", shape)
    assert free_sizes(frame, image, (2, 5, 7, 3), 4) == sizes


def test_ports_without_memory_are_written_as_before() -> None:
    ports = json.loads(example("super-resolution-any-size").to_json())["inputs"]
    assert ports == [{"name": "frame", "role": "frame", "dtype": "uint8", "shape": ["n", "h", "w", 3]}]


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_writing_and_reading_again_gives_the_same_manifest(path: Path) -> None:
    manifest = parse_manifest(path.read_bytes())
    assert parse_manifest(manifest.to_json()) == manifest
    assert parse_manifest(manifest.to_json().encode()) == manifest


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_the_writer_loses_nothing_that_the_contract_knows(path: Path) -> None:
    """Compared with the file itself: a field that both the reader and the writer forget would go unnoticed above."""
    original = json.loads(path.read_text(encoding="utf-8"))
    original.pop("made_by", None)  # a key that this version does not know
    original.setdefault("face", None)
    for artifact in original["artifacts"].values():
        artifact.setdefault("float_layers", [])
        artifact.setdefault("parity", {})
    assert json.loads(parse_manifest(path.read_bytes()).to_json()) == original


# --- hostile examples -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_hostile_manifests_are_refused_with_the_place_of_the_mistake(name: str) -> None:
    with pytest.raises(ManifestError) as caught:
        parse_manifest((EXAMPLES / "invalid" / name).read_bytes())
    assert EXPECTED[name] in str(caught.value)
    assert caught.value.exit_code == EXIT_FAILED


def test_every_hostile_example_is_listed() -> None:
    assert {path.name for path in (EXAMPLES / "invalid").glob("*.json")} == {*EXPECTED, "EXPECTED.json"}


def test_hostile_examples_would_be_fine_without_their_one_mistake() -> None:
    """Mended, some of them parse: so it is the mistake that they are refused for."""
    for name, mistake, right in (
        ("dotdot-path.json", "../other/model.onnx", "other/model.onnx"),
        ("negative-halo.json", '"halo": -1', '"halo": 1'),
        ("code-of-another-size.json", '["n", 3]', '["n", 2]'),
        ("golden-code-outside.json", "[2.0, 0.0]", "[1.0, 0.0]"),
        ("head-of-another-size.json", '["n", "a8", 15]', '["n", "a8", 10]'),
        ("head-of-unknown-name.json", "cls_64", "cls_8"),
    ):
        text = (EXAMPLES / "invalid" / name).read_text(encoding="utf-8")
        assert mistake in text
        parse_manifest(text.replace(mistake, right))


def test_a_manifest_of_more_than_a_mebibyte_is_refused_unread() -> None:
    text = SR.read_text(encoding="utf-8")
    room = MAX_BYTES - len(text)
    assert parse_manifest(text + room * " ") == parse_manifest(text)
    with pytest.raises(ManifestError, match=f"{MAX_BYTES + 1} bytes, more than the {MAX_BYTES}"):
        parse_manifest(text + (room + 1) * " ")


def test_a_long_hostile_value_does_not_flood_the_terminal() -> None:
    content = json.loads(SR.read_text(encoding="utf-8"))
    for key, value in (("task", "x" * 9_000), ("inputs", [{**content["inputs"][0], "shape": [["y" * 90_000]]}])):
        with pytest.raises(ManifestError) as caught:
            parse_manifest(json.dumps({**content, key: value}))
        assert len(str(caught.value)) < 300


# --- properties -------------------------------------------------------------------------------------------------------

CONTENTS = [json.loads(path.read_text(encoding="utf-8")) for path in VALID]
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["..", "/", "fp32", "frame", "state", "\ud800", "\x1b[2J", "a" * 200])
    | st.sampled_from([0, 1, 65536, 10**400, 1e308])
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value inside a JSON document."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, child in children for place in places(child, (*path, key)))]


def at(content: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        content = content[step]
    return content


SCALARS = [
    value
    for content in CONTENTS
    for path in places(content)
    if not isinstance(value := at(content, path), (dict, list))
]


@st.composite
def mutated_manifests(draw: st.DrawFn) -> str:
    """A valid manifest with one to three values replaced, removed, added or repeated."""
    content = copy.deepcopy(draw(st.sampled_from(CONTENTS)))
    for _ in range(draw(st.integers(1, 3))):
        *path, key = draw(st.sampled_from(places(content)[1:]))
        target = at(content, tuple(path))
        how = draw(st.sampled_from(["replace", "borrow", "remove", "add"]))
        if how == "replace":
            target[key] = draw(values)
        elif how == "borrow":  # of the same kind, so that it often stays valid
            same = [value for value in SCALARS if type(value) is type(target[key])]
            target[key] = draw(st.sampled_from(same)) if same else []
        elif how == "remove":
            del target[key]
        elif isinstance(target, dict):
            target[draw(st.text(max_size=8))] = draw(values)
        else:
            target.append(copy.deepcopy(target[key]) if draw(st.booleans()) else draw(values))
    return json.dumps(content)


def parse_or_complain(text: str | bytes) -> Manifest | None:
    """Whatever the text: a manifest that can be written again, or one short printable sentence."""
    try:
        manifest = parse_manifest(text)
    except ManifestError as error:
        message = str(error)
    else:
        assert parse_manifest(manifest.to_json()) == manifest
        return manifest
    assert message.startswith("manifest")
    assert message.isprintable()
    assert len(message) < 500
    return None


@settings(max_examples=400, deadline=None)
@given(mutated_manifests())
def test_a_changed_manifest_parses_or_raises_manifest_error(text: str) -> None:
    manifest = parse_or_complain(text)
    if manifest is None:
        return
    assert sum(port.role == "frame" for port in manifest.inputs) == 1
    images = {port.shape for port in manifest.outputs if port.role == "image"}
    assert len(images) == (0 if manifest.task == "face-detection" else 1)
    assert images or sorted(port.role for port in manifest.outputs) == ["head"] * 12
    assert manifest.geometry.fit == "pad" or manifest.geometry.fixed_size is not None
    if any(port.source for port in manifest.states):
        assert all(port.initial for port in manifest.states)
        assert {port.source for port in manifest.states} <= {manifest.frame.name} | {o.name for o in manifest.outputs}
        sizes = free_sizes(manifest.frame, manifest.image, (1, 8, 8, 3), 2)
        assert {side for port in manifest.states for side in port.shape if isinstance(side, str)} <= {*sizes}
        assert not manifest.geometry.tileable
    for port in (*manifest.inputs, *manifest.outputs):
        if port.code is not None:
            assert (port.role, port.dtype, port.shape[1]) == ("code", "float32", port.code.size)
            assert port.shape[2:] in ((), manifest.frame.shape[1:3])
    for pair in manifest.golden:
        for name, numbers in pair.codes.items():
            [rule] = [port.code for port in manifest.codes if port.name == name]
            assert rule is not None
            rule.check(numbers)
    files = [artifact.file for artifact in manifest.artifacts.values()]
    files += [reference.file for pair in manifest.golden for reference in (pair.input, pair.output)]
    for file in files:
        assert safe_member(Path("/nowhere/bundle"), file).is_relative_to("/nowhere/bundle")
        assert ".." not in Path(file).parts


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_changed_bytes_parse_or_raise_manifest_error(data: st.DataObject) -> None:
    original = SR.read_bytes()
    begin = data.draw(st.integers(0, len(original)))
    end = data.draw(st.integers(begin, min(len(original), begin + 40)))
    parse_or_complain(original[:begin] + data.draw(st.binary(max_size=40)) + original[end:])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | values.map(json.dumps) | st.text(max_size=200))
def test_arbitrary_content_is_no_manifest(text: str | bytes) -> None:
    assert parse_or_complain(text) is None


# --- paths ------------------------------------------------------------------------------------------------------------


def test_safe_member_finds_files_inside_the_bundle(tmp_path: Path) -> None:
    assert safe_member(tmp_path, "model.onnx") == tmp_path / "model.onnx"
    assert safe_member(tmp_path, "golden/0.input.png") == tmp_path / "golden" / "0.input.png"
    assert safe_member(tmp_path, "_private/x") == tmp_path / "_private" / "x"


NO_PLAIN_PATHS = (
    *("", ".", "..", "/", "/etc/passwd", "a/../b", "a//b", "a/", "./a", ".hidden", "-rf", "~/a", "$HOME/a"),
    *("a\\b", "C:a", "a\x00b", "a b", "a\n", "ä", "a" * 101),
)


@pytest.mark.parametrize("name", NO_PLAIN_PATHS)
def test_safe_member_refuses_anything_but_plain_paths(tmp_path: Path, name: str) -> None:
    with pytest.raises(ManifestError, match="not a plain path"):
        safe_member(tmp_path, name)


def test_a_link_out_of_the_bundle_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("not yours")
    bundle = tmp_path / "bundle"
    (bundle / "golden").mkdir(parents=True)
    (bundle / "file").symlink_to(secret)
    (bundle / "folder").symlink_to(tmp_path)
    (bundle / "golden" / "relative").symlink_to("../../secret")
    (bundle / "dangling").symlink_to("/nowhere/at/all")
    for name in ("file", "folder/secret", "golden/relative", "dangling"):
        with pytest.raises(ManifestError, match="leads out of the bundle"):
            safe_member(bundle, name)


def test_a_folder_whose_name_begins_like_the_bundles_is_outside(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle-other").mkdir()
    (tmp_path / "bundle" / "file").symlink_to(tmp_path / "bundle-other" / "file")
    with pytest.raises(ManifestError, match="leads out"):
        safe_member(tmp_path / "bundle", "file")


def test_links_inside_the_bundle_and_to_the_bundle_are_fine(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "model.onnx").write_text("x")
    (bundle / "same.onnx").symlink_to("model.onnx")
    (tmp_path / "alias").symlink_to(bundle)
    assert safe_member(bundle, "same.onnx").read_text() == "x"
    assert safe_member(tmp_path / "alias", "model.onnx").read_text() == "x"
