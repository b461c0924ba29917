"""Nets of users: files and packages, plain nets and described ones, families, and all that can be wrong with them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoint_factory import saved, write_checkpoint

from export.cli import run
from export.config import BuildConfig
from export.generators import load_generator
from export.generators.plugins import GROUP, load_plugins
from export.user_code import UserCodeError, translated
from runtime.errors import CheckpointError, GenedgeError, UsageError

PLAIN = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(3, 12, 3, padding=1)
    def forward(self, image):
        return nn.functional.pixel_shuffle(self.head(image), 2)

def build(state):
    net = Net()
    net.load_state_dict(state)
    return net
"""
STATE = {"head.weight": torch.linspace(-0.1, 0.1, 324).reshape(12, 3, 3, 3), "head.bias": torch.full((12,), 0.5)}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "net.pth"
    path.write_bytes(saved({"state_dict": {f"module.{name}": tensor for name, tensor in STATE.items()}}))
    return path


@pytest.fixture
def module(tmp_path: Path, weights: Path) -> Callable[..., str]:
    """Write a user's file and give the ``--module`` that names its function ``build``."""

    def write(code: str, name: str = "my_net.py", function: str = "build") -> str:
        (tmp_path / name).write_text(code)
        return f"{tmp_path / name}:{function}"

    return write


def refusal(weights: Path, module: str, kind: type[GenedgeError] = GenedgeError, **options: str) -> str:
    """The sentence with which a module is refused."""
    before = list(sys.path)
    with pytest.raises(kind) as error:
        load_generator(weights, options, module)
    assert sys.path == before
    text = str(error.value)
    assert text.isprintable()
    assert len(text) < 900
    return text


# --- what works -------------------------------------------------------------------------------------------------------


def test_a_plain_net_gets_its_scale_measured(weights: Path, module: Callable[..., str]) -> None:
    before = list(sys.path)
    loaded, checkpoint = load_generator(weights, module=module(PLAIN))
    assert sys.path == before
    assert (loaded.family, loaded.scale, loaded.task, loaded.tileable) == ("my_net", 2, "super-resolution", True)
    assert loaded.input_range == loaded.output_range == (0.0, 1.0)
    assert loaded.size_rule.allows(1, 3)
    assert not loaded.net.training
    assert not any(parameter.requires_grad for parameter in loaded.net.parameters())
    assert [note for note in loaded.notes if "scale 2 measured" in note]
    assert torch.equal(loaded.net.state_dict()["head.weight"], STATE["head.weight"])
    assert list(checkpoint.state) == list(STATE)  # opened and without module.


def test_what_sizes_must_be_a_multiple_of_is_measured(weights: Path, module: Callable[..., str]) -> None:
    code = PLAIN.replace(
        "self.head(image)", "self.head(image[..., ::4, ::4].repeat_interleave(4, 2).repeat_interleave(4, 3))"
    )
    loaded, _ = load_generator(weights, module=module(code))
    assert (loaded.size_rule.multiple, loaded.scale) == (4, 2)
    assert "frame sizes are a multiple of 4, measured" in loaded.notes


def test_a_plain_net_that_looks_at_the_whole_frame_is_not_tiled(weights: Path, module: Callable[..., str]) -> None:
    code = PLAIN.replace("padding=1)\n", "padding=1)\n        self.norm = nn.InstanceNorm2d(12)\n")
    loaded, _ = load_generator(weights, module=module(code))
    assert not loaded.tileable
    assert any("InstanceNorm2d may look at the whole frame" in note for note in loaded.notes)


DESCRIBED = (
    PLAIN
    + """
from export.generators.base import LoadedGenerator
def described(state, strength="1"):
    return LoadedGenerator("mine", build(state), 2, input_range=(-1.0, 1.0), facts={"strength": strength})
"""
)


def test_a_described_net_and_its_options(weights: Path, module: Callable[..., str]) -> None:
    spec = module(DESCRIBED, function="described")
    loaded, _ = load_generator(weights, {"strength": "7"}, spec)
    assert (loaded.family, loaded.input_range, dict(loaded.facts)) == ("mine", (-1.0, 1.0), {"strength": "7"})
    assert refusal(weights, spec, UsageError, speed="3") == f"{spec} takes no option 'speed'"


FAMILY = (
    PLAIN
    + """
from export.generators.base import Generator, LoadedGenerator, Option
MINE = Generator("mine", "my net", frozenset({"head.weight", "head.bias"}), lambda state: "head.weight" in state,
                 lambda state, mode="a": LoadedGenerator("mine", build(state), 2, facts={"mode": mode}),
                 options=(Option("mode", ("a", "b"), "which one"),))
"""
)


def test_a_family_finds_its_tensors_behind_a_front(weights: Path, module: Callable[..., str]) -> None:
    spec = module(FAMILY, function="MINE")
    weights.write_bytes(saved({f"netG.{name}": tensor for name, tensor in STATE.items()} | {"netD.x": torch.ones(2)}))
    loaded, checkpoint = load_generator(weights, {"mode": "b"}, spec)
    assert (loaded.family, dict(loaded.facts), checkpoint.prefix) == ("mine", {"mode": "b"}, "netG")
    assert "the option mode of mine is one of a, b, not c" in refusal(weights, spec, UsageError, mode="c")
    weights.write_bytes(saved({"other": torch.ones(2)}))
    assert refusal(weights, spec) == f"{spec}: its detect() does not take this file for mine"


def test_a_file_may_import_what_lies_beside_it(weights: Path, module: Callable[..., str], tmp_path: Path) -> None:
    module(PLAIN, "net_beside_it.py")
    code = "def build(state):\n    from late_beside_it import load\n    return load(Net(), state)\n"
    late = "def load(net, state):\n    net.load_state_dict(state)\n    return net\n"
    (tmp_path / "late_beside_it.py").write_text(late)
    spec = module(f"from net_beside_it import Net\n{code}")
    assert load_generator(weights, module=spec)[0].scale == 2


def test_a_module_of_a_package(
    weights: Path, module: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "package_of_mine").mkdir()
    (tmp_path / "package_of_mine" / "__init__.py").write_text("")
    module(PLAIN, "package_of_mine/nets.py")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert load_generator(weights, module="package_of_mine.nets:build")[0].family == "nets"
    assert sys.path == before


def test_the_options_reach_the_loader_from_a_build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import export.build

    said: list[BuildConfig] = []
    monkeypatch.setattr(export.build, "build", lambda config, progress: said.append(config) or sys.exit(0))
    with pytest.raises(SystemExit):
        run(["build", "net.pth", "--module", "a.py:b", "--option", "mode=x=y", "--eval", "-o", str(tmp_path)])
    assert (said[0].module, said[0].options) == ("a.py:b", {"mode": "x=y", "statistics": "stored"})


# --- what does not ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("my_net.py", "--module 'my_net.py' must be FILE.py:NAME or package.module:NAME, for example my_net.py:build"),
        (":build", "must be FILE.py:NAME"),
        ("my_net.py:", "must be FILE.py:NAME"),
        ("my_net.py:1+1", "must be FILE.py:NAME"),
        ("nowhere.py:build", "there is no file nowhere.py"),
        ("../nowhere:build", "there is no file ../nowhere"),
        ("no_such_module_here:build", "there is no module no_such_module_here here, and none is installed"),
        ("no_such.module:build", "there is no module no_such.module here"),
        ("a b:build", "a b is no module's name"),
        ("json:no_such_name", "json defines no no_such_name"),
        ("json:__name__", "__name__ is a str, neither a function nor a Generator"),
    ],
)
def test_what_names_no_code(spec: str, sentence: str, weights: Path) -> None:
    assert sentence in refusal(weights, spec, UsageError)


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("import torch\n1 / 0\n", "my_net.py, line 2: ZeroDivisionError: division by zero (GENEDGE_DEBUG=1 shows"),
        ("def build(:\n", "my_net.py, line 1: SyntaxError: "),
        ("import no_such_package\n", "my_net.py, line 1: ModuleNotFoundError: No module named 'no_such_package'"),
        ("raise SystemExit('bye')\n", "my_net.py, line 1: SystemExit: bye"),
        ("def build(state):\n    return state['nothing']\n", "my_net.py, line 2: KeyError: 'nothing'"),
        ("def build(state):\n    return 3\n", "build gives a int, not a LoadedGenerator or a torch.nn.Module"),
        ("def build():\n    return 3\n", "build must be a function of the tensors by name: too many positional arg"),
        ("raise ValueError('\\x1b[31m' + 'x' * 5000)\n", "ValueError: \\x1b[31mxxx"),
        (
            PLAIN.replace("12, 3, padding", "16, 3, padding"),
            "line 14: RuntimeError: Error(s) in loading state_dict for Net: size mismatch for head.weight",
        ),
        (
            PLAIN.replace("self.head(image)", "self.tail(image)"),
            "line 10: AttributeError: 'Net' object has no",
        ),
        (PLAIN.replace("return nn.func", "return image, nn.func"), "the net gives tuple for a picture [1, 3, 25, 27]"),
        (PLAIN.replace("(self.head(image), 2)", "(self.head(image), 1)"), "the net gives [1, 12, 25, 27] for a pict"),
        (PLAIN.replace("return nn.func", "image = image[..., :20]\n        return nn.func"), "no whole multiple"),
    ],
)
def test_code_that_fails_is_named_by_file_line_and_text(
    code: str, sentence: str, weights: Path, module: Callable[..., str]
) -> None:
    assert sentence in refusal(weights, module(code))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (('"mine", build', '"my net", build'), "'my net' is no family's name"),
        (("build(state), 2,", "build(state), 3,"), "the picture is [1, 3, 48, 64], not [1, 3, 72, 96], for a frame of"),
        (
            ('facts={"strength": strength}', "states=(RecurrentState('s', 'n', 4),)"),
            "the net fails on a picture of 32x",
        ),
        (
            ('facts={"strength": strength}', "images=(FurtherImage('mask'),)"),
            "1 results, not 2 (the picture, mask)",
        ),
        (
            ("build(state), 2,", "build({n: t / 0 for n, t in state.items()}), 2,"),
            "no finite numbers for a grey",
        ),
        (('facts={"strength": strength}', "size_rule=3"), "AttributeError: 'int' object has no attribute 'padded'"),
    ],
)
def test_what_is_declared_is_compared_with_what_the_net_gives(
    change: tuple[str, str], sentence: str, weights: Path, module: Callable[..., str]
) -> None:
    code = DESCRIBED.replace("import LoadedGenerator", "import FurtherImage, LoadedGenerator, RecurrentState")
    assert change[0] in code
    assert sentence in refusal(weights, module(code.replace(*change), function="described"))


def test_a_clear_sentence_of_the_users_own_is_left_as_it_is(weights: Path, module: Callable[..., str]) -> None:
    code = "from runtime.errors import CheckpointError\ndef build(state):\n    raise CheckpointError('no tail in it')\n"
    assert refusal(weights, module(code), CheckpointError) == f"{weights}: no tail in it"


def test_what_fails_later_is_still_told_in_a_sentence(weights: Path, module: Callable[..., str]) -> None:
    code = PLAIN.replace("return nn.func", "assert image.shape[2] < 40, 'too large'\n        return nn.func")
    loaded, _ = load_generator(weights, module=module(code))
    with pytest.raises(UserCodeError, match=r"my_net\.py, line 10: AssertionError: too large"), translated():
        loaded.net(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ZeroDivisionError), translated():  # no user's fault
        1 / 0  # noqa: B018


def test_the_traceback_is_shown_on_demand(
    weights: Path, module: Callable[..., str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = module("def build(state):\n    return state['nothing']\n")
    assert run(["inspect", str(weights), "--module", spec]) == 1
    assert "Traceback" not in capsys.readouterr().err
    monkeypatch.setenv("GENEDGE_DEBUG", "1")
    assert run(["inspect", str(weights), "--module", spec]) == 1
    captured = capsys.readouterr()
    assert "Traceback (most recent call last)" in captured.err
    assert captured.err.splitlines()[-1].startswith("error: ")
    assert "GENEDGE_DEBUG" not in captured.err.splitlines()[-1]


# --- entry points -----------------------------------------------------------------------------------------------------


def install(folder: Path, name: str, points: str) -> None:
    """What pip leaves of a package with entry points."""
    place = folder / f"{name}-2.1.dist-info"
    place.mkdir()
    (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.1\n")
    (place / "entry_points.txt").write_text(f"[{GROUP}]\n{points}\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that packages are installed into."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


def test_a_family_of_another_package_is_found(weights: Path, site: Path) -> None:
    (site / "plugin_that_works.py").write_text(FAMILY)
    install(site, "works", "mine = plugin_that_works:MINE")
    loaded, checkpoint = load_generator(weights, {"mode": "b"})
    assert (loaded.family, dict(loaded.facts), loaded.notes) == ("mine", {"mode": "b"}, ())
    assert list(checkpoint.state) == list(STATE)


def test_other_packages_are_not_loaded_for_what_is_built_in(site: Path, tmp_path: Path) -> None:
    marker = tmp_path / "loaded"
    (site / "plugin_that_marks.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    install(site, "marks", "mine = plugin_that_marks:MINE")
    assert load_generator(write_checkpoint(tmp_path / "x2.pth"))[0].family == "compact"
    assert not marker.exists()
    load_plugins([])
    assert marker.exists()  # the mark works


@pytest.mark.parametrize(
    ("code", "point", "sentence"),
    [
        ("1 / 0\n", "MINE", "cannot be loaded: {file}, line 1: ZeroDivisionError: division by zero"),
        ("x = 1\n", "MINE", "cannot be loaded: AttributeError: module 'broken_{n}' has no attribute 'MINE'"),
        ("raise SystemExit(3)\n", "MINE", "cannot be loaded: {file}, line 1: SystemExit: 3"),
        ("MINE = 3\n", "MINE", "is a int, not a Generator (broken_{n}:MINE)"),
        (FAMILY.replace('"mine", "my', '"srvgg", "my'), "MINE", "is called srvgg, as another family is"),
        (None, "MINE", "cannot be loaded: ModuleNotFoundError: No module named 'broken_{n}'"),
    ],
)
def test_a_broken_family_names_its_package_and_does_no_harm(
    code: str | None, point: str, sentence: str, site: Path, weights: Path, capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    number = request.node.callspec.indices["code"]
    file = site / f"broken_{number}.py"
    if code is not None:
        file.write_text(code)
    install(site, "some-package", f"bad = broken_{number}:{point}")
    wanted = "the generator 'bad' of the installed package some-package 2.1 " + sentence.format(file=file, n=number)
    text = refusal(weights, None, CheckpointError)  # type: ignore[arg-type]
    assert text.startswith(f"{weights}: unknown architecture")
    assert wanted in text.replace("…", "")
    assert run(["list"]) == 0
    captured = capsys.readouterr()
    assert f"warning: {wanted}" in captured.err
    assert "Traceback" not in captured.err
    assert "  srvgg " in captured.out
    # beside one that works it is a note
    (site / f"good_{number}.py").write_text(FAMILY)
    install(site, "good", f"mine = good_{number}:MINE")
    loaded, _ = load_generator(weights)
    assert loaded.family == "mine"
    assert any(wanted in note for note in loaded.notes)
