from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bundle_factory import CODE_MAP, CODES, add_file, png, random_frames, write_conditional_bundle, write_small_bundle
from checkpoint_factory import exported, published, saved, write_checkpoint

import export.build
import export.generators
from export.cli import run
from export.generators import GENERATORS
from export.generators.base import Generator, Option
from export.shipped import shipped_weights
from runtime.bundle import open_bundle
from runtime.codes import Code
from runtime.errors import NotMetError
from runtime.manifest import Golden

ROOT = Path(__file__).resolve().parents[2]


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter, in the repository's root."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


def failure(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and the one line with which a command fails."""
    code = run(arguments)
    errors = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("[")]  # progress
    assert len(errors) == 1, errors
    assert errors[0].startswith("error: ")
    return code, errors[0].removeprefix("error: ")


# --- what is imported -------------------------------------------------------------------------------------------------

HEAVY = ("torch", "onnx", "onnxruntime", "onnxscript", "openvino", "cv2", "numpy", "safetensors", "skimage")


@pytest.mark.parametrize("arguments", [["--help"], ["build", "--help"], ["nonsense"]])
def test_help_answers_without_heavy_imports(arguments: list[str]) -> None:
    code = f"""
import sys
from export.cli import run
try:
    run(sys.argv[1:])
except SystemExit:
    pass
print("HEAVY", sorted(set(sys.modules) & set({HEAVY!r})))
"""
    outcome = python(code, *arguments)
    assert outcome.returncode == 0
    assert outcome.stdout.splitlines()[-1] == "HEAVY []"
    assert "usage: python -m export" in outcome.stdout + outcome.stderr


def test_the_runtime_imports_neither_torch_nor_onnx_nor_the_exporter() -> None:
    code = """
import importlib, pkgutil, sys
import runtime
for module in pkgutil.walk_packages(runtime.__path__, "runtime."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print(sorted(set(sys.modules) & {"torch", "onnx", "export", "calib"}), "runtime.sessions.openvino" in sys.modules)
"""
    outcome = python(code)
    assert (outcome.returncode, outcome.stdout.strip()) == (0, "[] True"), outcome.stderr


@pytest.mark.parametrize(
    ("package", "command", "sentence"),
    [
        ("torch", "list", 'torch is not installed: pip install "genedge[export]"'),
        ("onnx", "build", 'onnx is not installed: pip install "genedge[export]"'),
    ],
)
def test_a_missing_package_names_its_extra(package: str, command: str, sentence: str) -> None:
    code = "import sys; sys.modules[sys.argv[1]] = None; from export.cli import run; sys.exit(run(sys.argv[2:]))"
    outcome = python(code, package, command)
    assert (outcome.returncode, outcome.stderr) == (1, f"error: {sentence}\n")


def test_module_can_be_run_and_exits_with_its_code(tmp_path: Path) -> None:
    outcome = subprocess.run(
        [sys.executable, "-m", "export", "inspect", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (outcome.returncode, outcome.stdout) == (1, "")
    assert outcome.stderr == f"error: {tmp_path}: holds no manifest.json, so it is no bundle\n"


# --- verbs ------------------------------------------------------------------------------------------------------------


def test_list_names_families_and_shipped_weights(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 100
    unwrapped = " ".join(text.split())
    for generator in GENERATORS:
        assert f"  {generator.id} " in text
        assert generator.title in unwrapped
        assert generator.purpose
        assert generator.purpose in unwrapped
        assert generator.example in unwrapped
    for shipped in shipped_weights():
        assert f"  {shipped.name} " in text


def test_list_shows_options_in_two_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    option = Option("statistics", ("frames", "stored"), "which statistics a batch norm uses " + 5 * "and why ")
    family = replace(published_family("compact"), options=(option, Option("layers", (), "a list")))
    monkeypatch.setattr(export.generators, "GENERATORS", (family,))
    assert run(["list", "--json", str(tmp_path / "list.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    column = lines[1].index(family.title)
    assert lines[3][column:].startswith("--option statistics=frames|stored: which statistics")
    assert lines[4].startswith(" " * (column + 2))
    assert "(default: frames)" in lines[4]
    assert lines[5] == " " * column + "--option layers=TEXT: a list"
    content = json.loads((tmp_path / "list.json").read_text())
    assert [entry["id"] for entry in content["families"]] == ["compact"]
    assert content["families"][0]["options"][0] == {
        "name": "statistics", "values": ["frames", "stored"], "default": "frames", "help": option.help
    }  # fmt: skip
    assert [entry["name"] for entry in content["weights"]] == [shipped.name for shipped in shipped_weights()]


def published_family(id: str) -> Generator:
    return next(generator for generator in GENERATORS if generator.id == id)


def test_build_writes_a_bundle_prints_the_figures_and_a_json(
    tmp_path: Path, pictures_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export.build, "graph_from_generator", lambda *arguments: exported("compact-x2"))
    weights, output, report = write_checkpoint(tmp_path / "net.pth"), tmp_path / "out", tmp_path / "result.json"
    arguments = ["build", str(weights), "-o", str(output), "--name", "sr", "--precision", "fp32"]
    assert run([*arguments, "--frames", str(pictures_folder), "--licence", "MIT", "--json", str(report)]) == 0
    captured = capsys.readouterr()
    head, *rows, last = captured.out.splitlines()
    assert head.split()[:4] == ["variant", "engine", "precision", "PSNR"]
    assert rows
    assert all(row.split()[0] == "fp32" for row in rows)
    assert last == f"wrote {output / 'sr'}  (report: {output / 'sr' / 'parity.html'})"
    assert "loading net.pth" in captured.err  # progress
    assert open_bundle(output / "sr").manifest.weights.licence == "MIT"
    (result,) = json.loads(report.read_text())
    assert (result["bundle"], result["halo"]) == (str(output / "sr"), 3)
    assert len(result["results"]) == len(rows)
    assert all(entry["passed"] for entry in result["results"])


def test_build_writes_a_model_repository_as_well(
    tmp_path: Path, pictures_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export.build, "graph_from_generator", lambda *arguments: exported("compact-x2"))
    weights, output, models = write_checkpoint(tmp_path / "net.pth"), tmp_path / "out", tmp_path / "models"
    arguments = ["build", str(weights), "-o", str(output), "--precision", "fp32", "--frames", str(pictures_folder)]
    arguments += ["--triton", str(models), "--triton-batch", "2", "--triton-size", "16x24"]
    assert run(arguments) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"wrote {models / 'net'}  (how to serve it: docs/triton.md)"
    assert "max_batch_size: 2" in (models / "net" / "config.pbtxt").read_text()
    assert "dims: [16, 24, 3]" in (models / "net" / "config.pbtxt").read_text()
    assert (models / "net" / "1" / "model.onnx").is_file()
    shutil.rmtree(output)
    code, text = failure(capsys, *arguments)  # and before anything is measured
    assert (code, text) == (2, f"{models / 'net'} exists: add --force to replace it")
    assert not output.exists()


def test_check_of_a_good_bundle(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", str(tiny_bundle)]) == 0
    text = capsys.readouterr().out
    assert "model.fp32.onnx: opset 17, IR 8" in text
    assert "model.fp16.onnx: opset 17, IR 8" in text


def test_inspect_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "net.pth"
    path.write_bytes(saved({"params": published("srvgg-x4").state()}))
    assert run(["inspect", str(path)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("net.pth: 11 tensors, 3,486 values\nsha256 ")
    assert "found under: params" in text
    assert "body.0.weight  [6, 3, 3, 3]" in text
    assert "family: srvgg " in text
    assert "scale 4, width 6, depth 2" in text
    assert "reach: 4 pixels, measured" in text


def test_inspect_writes_what_it_shows_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "net.pth"
    state = {f"netG.{name}": tensor for name, tensor in published("mobile-rrn").state().items()}
    path.write_bytes(saved({"state_dict": state | {"netD.x": torch.ones(2)}}))
    assert run(["inspect", str(path), "--no-measure", "--json", "-"]) == 0
    captured = capsys.readouterr()
    content = json.loads(captured.out)
    assert (content["family"], content["scale"], content["halo"]) == ("mobile-rrn", 4, None)
    assert (content["wrapper"], content["prefix"], content["left_out"]) == ("state_dict", "netG", ["netD"])
    assert content["tensors"]["netG.conv_first.weight"] == [6, 12, 3, 3]
    assert [state["name"] for state in content["states"]] == ["previous", "hidden"]
    assert "names begin with: netG" in captured.err
    assert "note: taken from the tensors under netG; left out: netD" in captured.err


def test_inspect_says_what_half_a_checkpoint_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, report = tmp_path / "half.pth", tmp_path / "report.json"
    state = published("srgan-lornatang-x4").state()
    half = {name: tensor for name, tensor in state.items() if not name.startswith("trunk.1")}
    missing = [f"trunk.0.rcb.{place}.{kind}" for place, kind in ((1, "bias"), (3, "weight"))]
    for name in missing:
        del half[name]
    path.write_bytes(saved({**half, "conv2.0.weight": torch.ones(3), "extra": torch.ones(2)}))
    assert run(["inspect", str(path), "--json", str(report)]) == 1
    captured = capsys.readouterr()
    assert "\nnearest family: srgan (" in captured.out
    assert f"\nmissing (2): {', '.join(missing)}\n" in captured.out
    assert "\nextra (1): extra\n" in captured.out
    assert "\nanother shape (1): conv2.0.weight is [3] instead of [4, 4, 3, 3]\n" in captured.out
    assert captured.err.startswith(f"error: {path}: the checkpoint looks like srgan ")
    assert f"it lacks {', '.join(missing)}; it has extra, which" in captured.err
    content = json.loads(report.read_text())
    assert (content["nearest"], content["missing"], content["extra"]) == ("srgan", missing, ["extra"])
    assert "it lacks" in content["error"]


def test_inspect_names_what_is_missing_where_the_family_is_not_sure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "half.pth"
    state = {name: tensor for name, tensor in published("cyclegan").state().items() if name != "model.1.weight"}
    path.write_bytes(saved(state))
    assert run(["inspect", str(path)]) == 1
    captured = capsys.readouterr()
    assert "nearest family: cyclegan (" in captured.out
    assert captured.err.startswith(f"error: {path}: unknown architecture")


def test_inspect_of_what_is_no_generator_names_no_family(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "latest_net_D.pth"
    path.write_bytes(saved({"model.0.weight": torch.ones(4, 3, 4, 4), "model.2.weight": torch.ones(1, 4, 4, 4)}))
    assert run(["inspect", str(path)]) == 1
    captured = capsys.readouterr()
    assert "nearest" not in captured.out
    assert captured.err.startswith(f"error: {path}: this is a discriminator (the PatchGAN")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("vgg19_normalised/vgg_normalised_conv3_1.pth", "a VGG net"),
        ("mobilefacenet/mobilefacenet.pt", "MobileFaceNet"),
        ("yunet/yunet_n.pth", "a detector"),
    ],
)
def test_build_of_real_weights_that_are_no_generator(
    name: str, sentence: str, assets: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = assets(f"weights/{name}")
    code, text = failure(capsys, "build", str(path), "-o", str(tmp_path / "bundles"))
    assert code == 1
    assert text.startswith(f"{path}: this is {sentence}")
    assert not (tmp_path / "bundles").exists()


def test_inspect_shortens_long_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(write_checkpoint(tmp_path / "net.pth", "srgan-lornatang-x4"))]) == 0
    text = capsys.readouterr().out
    assert " more\n" in text
    assert len([line for line in text.splitlines() if line.startswith("  ")]) == 13
    assert "layout Lornatang, width 4, depth 2" in text


def test_inspect_bundle(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(tiny_bundle)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("tiny: super-resolution, generator compact, scale 2\n")
    assert "licence MIT" in text
    assert "frame size: any, halo 3, tileable yes" in text
    assert "frame: frame uint8 ['n', 'h', 'w', 3]" in text
    assert "fp16: model.fp16.onnx, " in text
    assert run(["inspect", str(tiny_bundle), "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((tiny_bundle / "manifest.json").read_text())
    assert re.search(r"\n  onnxruntime-fp32: \d+\.\d\d dB, ΔE 0\.\d{4}, max [01] steps\n", text)


def test_inspect_shows_what_a_code_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = replace(CODES[1], name="bits", shape=("n", 200), code=Code("bits", 200, (1,) * 200))
    many = Code("one-hot", 20, (1, *(0,) * 19), labels=tuple(f"class{place}" for place in range(20)))
    folder = tmp_path / "b"
    write_conditional_bundle(folder, ports=CODES)
    manifest = open_bundle(folder).manifest
    ports = (*manifest.inputs, CODE_MAP, long, replace(CODES[0], name="many", shape=("n", 20), code=many))
    (folder / "manifest.json").write_text(replace(manifest, inputs=ports).to_json())
    assert run(["inspect", str(folder)]) == 0
    text = capsys.readouterr().out
    assert "code: style float32 ['n', 4]\n  one-hot, 4 numbers from 0 to 1, default b, labels a, b, c, d\n" in text
    assert "code: passcode float32 ['n', 3]\n  bits, 3 numbers from -1 to 1, default 001\n" in text
    assert "  vector, 2 numbers from 0 to 100, default 5,6, labels red, blue\n" in text
    assert "code: labels float32 ['n', 3, 'h', 'w']\n  one-hot, 3 numbers from 0 to 1, default 2\n" in text
    assert f"default {'1' * 60}…\n" in text
    assert "class7" in text
    assert "class19" not in text


def test_inspect_shows_the_figures_that_there_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A bundle of another tool may hold other figures."""
    parity = {"fp32": {"openvino-fp32": {"psnr_db": 51.234, "lpips": 0.1}}}
    assert run(["inspect", str(write_small_bundle(tmp_path / "b", parity=parity))]) == 0
    assert "  openvino-fp32: 51.23 dB\n" in capsys.readouterr().out


def test_inspect_counts_and_names_layers_in_float(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_small_bundle(tmp_path / "b")
    content = json.loads((folder / "manifest.json").read_text())
    artifact = content["artifacts"]["fp32"]
    names = [f"node{index}" for index in range(20)]
    content["artifacts"]["int8"] = {**artifact, "float_layers": []}
    content["artifacts"]["int8-ort"] = {**artifact, "float_layers": names}
    content["artifacts"]["int8-strong"] = {**artifact, "float_layers": ["red\x1b[31m"]}
    (folder / "manifest.json").write_text(json.dumps(content))
    assert run(["inspect", str(folder)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "layers in float" in line]
    assert lines == [
        "  layers in float: 0",
        "  layers in float: 1 (red\\x1b[31m)",
        f"  layers in float: 20 ({', '.join(names[:8])} and 12 more)",
    ]


# --- exit codes and messages ------------------------------------------------------------------------------------------


def test_missing_parity_is_exit_code_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missed(*arguments: object) -> None:
        raise NotMetError("net: fp16 on openvino in fp16 misses parity with PyTorch (…); no bundle was written")

    monkeypatch.setattr(export.build, "build", missed)
    code, text = failure(capsys, "build", "net.pth", "-o", str(tmp_path))
    assert (code, text[:4]) == (3, "net:")


def test_check_of_a_bundle_that_misses_its_limits_is_exit_code_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_small_bundle(tmp_path / "b")
    manifest = open_bundle(folder).manifest
    wrong = add_file(folder, "golden/0.output.png", png(random_frames(16, 24, 3, seed=9)))
    golden = (Golden(manifest.golden[0].input, wrong), *manifest.golden[1:])
    (folder / "manifest.json").write_text(replace(manifest, golden=golden).to_json())
    assert run(["check", str(folder)]) == 3
    assert "largest difference" in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["build", "a.pth", "b.pth", "--name", "x"], "--name fits one checkpoint only"),
        (["build", "a.pth", "--shape", "360"], "--shape '360' must be HEIGHTxWIDTH, for example 360x640"),
        (["build", "a.pth", "--shape", "0x640"], "--shape '0x640' must be HEIGHTxWIDTH, for example 360x640"),
        (["build", "a.pth", "--shape", "-3x640"], None),
        (["build", "a.pth", "--precision", "fp32,int4"], "unknown precision 'int4': choose among fp32, fp16"),
        (["build", "a.pth", "--precision", "fp16"], "every bundle needs the fp32 variant"),
        (["build", "a.pth", "--name", "a b"], "'a b' is no bundle name"),
        (
            ["build", "a.pth", "--option", "stored"],
            "--option 'stored' must be NAME=VALUE, for example",
        ),
        (["build", "a.pth", "--option", "=stored"], "--option '=stored' must be NAME=VALUE"),
        (["build", "a.pth", "--option", "mode="], "--option 'mode=' must be NAME=VALUE"),
        (
            ["build", "a.pth", "--eval", "--option", "statistics=frames"],
            "the option statistics is both frames and",
        ),
        (["build", "sr-x2", "--option", "speed=3", "-o", "nowhere"], "compact has no option 'speed' (none)"),
        (["build", "sr-x2", "--eval", "-o", "nowhere"], "compact has no option 'statistics' (none)"),
        (["build", "sr-x2", "--module", "my_net.py", "-o", "nowhere"], "--module 'my_net.py' must be FILE.py:NAME or"),
        (["build", "a.pth", "--engine", "cuda"], None),
        (["build", "a.pth", "--triton-batch", "4"], "--triton-batch needs --triton DIR, the model repository"),
        (["build", "a.pth", "--triton", "m", "--triton-size", "9"], "--triton-size '9' must be HEIGHTxWIDTH"),
        (["build", "a.pth", "b.pth", "--triton", "m", "--triton-plan", "p"], "--triton-plan fits one checkpoint only"),
        (["build", "a.pth", "--triton", "m", "--triton-plan", "nowhere.plan"], "nowhere.plan: no such TensorRT engine"),
        (["frobnicate"], None),
        ([], None),
    ],
)
def test_usage_errors_are_exit_code_2(
    arguments: list[str], sentence: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    if sentence is None:  # argparse says it, with the usage above
        with pytest.raises(SystemExit) as error:
            run(arguments)
        assert error.value.code == 2
        assert "error: " in capsys.readouterr().err
    else:
        code, text = failure(capsys, *arguments)
        assert code == 2
        assert text.startswith(sentence)


def test_user_errors_are_exit_code_1_and_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.pth"
    broken.write_bytes(b"<!DOCTYPE html>")
    for arguments, sentence in (
        (["build", str(tmp_path / "nowhere.pth"), "-o", str(tmp_path)], "does not exist"),
        (["build", str(broken), "-o", str(tmp_path)], "is a web page, not weights"),
        (["build", "x" * 300, "-o", str(tmp_path)], "File name too long"),
        (["inspect", str(broken)], "is a web page, not weights"),
        (["inspect", str(tmp_path / "nowhere")], "no bundle "),
        (["check", "nowhere"], "no bundle nowhere (looked for "),
    ):
        code, text = failure(capsys, *arguments)
        assert code == 1
        assert sentence in text


def test_a_full_disk_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device", str(tmp_path / "model.fp32.onnx"))

    monkeypatch.setattr(export.build, "build", full)
    code, text = failure(capsys, "build", "net.pth")
    assert code == 1
    assert text == f"disk full while writing {tmp_path / 'model.fp32.onnx'}: free some space and start again"


def test_output_that_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("mine")
    weights = write_checkpoint(tmp_path / "net.pth")
    code, text = failure(capsys, "build", str(weights), "-o", str(tmp_path / "file"))
    assert code == 2
    assert "is a file" in text
    assert (tmp_path / "file").read_text() == "mine"
