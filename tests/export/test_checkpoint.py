from __future__ import annotations

import io
import json
import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_factory import saved
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save as saved_safely

from export.checkpoint import WRAPPERS, Checkpoint, load_state
from runtime.errors import CheckpointError, UsageError

STATE = {"convs.0.weight": torch.arange(24.0).reshape(2, 3, 2, 2), "convs.0.bias": torch.tensor([0.5, -1.0])}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Checkpoint]:
    """Write ``data`` into a file and load it."""

    def write_and_load(data: bytes, name: str = "net.pth") -> Checkpoint:
        path = tmp_path / name
        path.write_bytes(data)
        return load_state(path)

    return write_and_load


@pytest.fixture
def refusal(tmp_path: Path) -> Callable[..., str]:
    """The sentence with which a file of these bytes is refused, without the path in front of it."""

    def write_and_load(data: bytes, name: str = "net.pth") -> str:
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(CheckpointError) as error:
            load_state(path)
        text = str(error.value)
        assert text.startswith(str(path))  # the user sees which file it is about
        assert text.isprintable()  # one line, and nothing that garbles a terminal
        assert len(text) < 500
        return text.removeprefix(str(path))

    return write_and_load


def assert_is_state(found: Checkpoint, wanted: dict[str, torch.Tensor] = STATE) -> None:
    assert list(found.state) == list(wanted)
    for name, tensor in wanted.items():
        assert found.state[name].dtype == torch.float32
        assert torch.equal(found.state[name], tensor.float())


# --- what loads -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["net.pth", "net.pt", "net.ckpt", "net.pth.tar", "NET.PTH", "net"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older-format"])
def test_torch_files_load_whatever_they_are_called(name: str, zipped: bool, read: Callable[..., Checkpoint]) -> None:
    assert_is_state(read(saved(STATE, zipped=zipped), name))


@pytest.mark.parametrize("name", ["net.safetensors", "NET.SafeTensors", "net.pth", "net"])
def test_safetensors_load_whatever_they_are_called(name: str, read: Callable[..., Checkpoint]) -> None:
    found = read(saved_safely(STATE, {"licence": "MIT"}), name)
    assert_is_state(Checkpoint({key: found.state[key] for key in STATE}, found.sha256))


def test_digest_is_that_of_the_file(read: Callable[..., Checkpoint]) -> None:
    import hashlib

    data = saved(STATE)
    assert read(data).sha256 == hashlib.sha256(data).hexdigest()


WRAPPING = (
    "params_ema", "params", "state_dict", "model", "model_state_dict", "state_dict_G", "generator", "netG", "net_g",
    "G", "g_ema", "gen", "generator_ema", "weights", "net", "ema", "G_A", "netG_B", "generator_A2B",
)  # fmt: skip


@pytest.mark.parametrize("wrapper", WRAPPING)
def test_weights_are_found_in_their_wrapper(wrapper: str, read: Callable[..., Checkpoint]) -> None:
    optimizer = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    found = read(saved({"epoch": 3, "optimizer": optimizer, "netD": {"model.0.weight": torch.ones(2)}, wrapper: STATE}))
    assert_is_state(found)
    assert found.wrapper == wrapper


@given(st.permutations(["params_ema", "generator", "netG", "params", "state_dict", "model"]), st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_the_order_in_the_file_does_not_matter(folder: Path, names: list[str], count: int) -> None:
    path, there = folder / "net.pth", names[:count]
    path.write_bytes(saved({name: {"weight": torch.full((2,), float(WRAPPERS.index(name)))} for name in there}))
    first = min(there, key=WRAPPERS.index)
    found = load_state(path)
    assert found.wrapper == first
    assert float(found.state["weight"][0]) == WRAPPERS.index(first)


def test_a_wrapper_without_tensors_is_passed_over(read: Callable[..., Checkpoint]) -> None:
    counters = {"decay": torch.tensor(0.999), "updates": torch.tensor(7)}
    optimizer = {"state": {}, "param_groups": [], "weight": torch.ones(3)}
    found = read(saved({"ema": counters, "generator": {"lr": 0.1}, "G": optimizer, "state_dict": STATE}))
    assert_is_state(found)
    assert found.wrapper == "state_dict"


def test_a_part_is_a_place_in_the_file_or_the_front_of_names(tmp_path: Path) -> None:
    path, other = tmp_path / "net.pth", {"weight": torch.zeros(3)}
    path.write_bytes(saved({"netG_A": {"state_dict": STATE}, "netG_B": other, "mine": {"deep": STATE}}))
    for part, wrapper in (("netG_A", "netG_A.state_dict"), ("mine.deep", "mine.deep")):
        found = load_state(path, part)
        assert_is_state(found)
        assert (found.wrapper, found.prefix) == (wrapper, "")
    path.write_bytes(saved({"model": {f"a.b.module.{name}": tensor for name, tensor in STATE.items()}}))
    found = load_state(path, "a.b")
    assert_is_state(found)
    assert found.prefix == "a.b"
    with pytest.raises(UsageError, match=r"net\.pth: the file has no part 'b'; its tensors' names begin with a"):
        load_state(path, "b")


def test_two_generators_are_both_named(refusal: Callable[..., str]) -> None:
    text = refusal(saved({"netG_A": STATE, "netG_B": STATE, "netD_A": STATE, "epoch": 3}))
    assert text == ": it holds 2 generators, netG_A and netG_B: choose one, e.g. --option part=netG_A"


@pytest.mark.parametrize(
    "content",
    [
        {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]},
        {"optimizer_G": {"state": {}, "param_groups": []}, "optimizer_D": {"state": {}}, "epoch": 3},
        {"optimizers": [{"state": {}, "param_groups": []}], "schedulers": [{}], "iter": 5000, "epoch": 3},
    ],
)
def test_optimizer_alone(content: Any, refusal: Callable[..., str]) -> None:
    assert refusal(saved(content)) == ": it holds an optimizer's state, not weights: name the file of the net itself"


@pytest.mark.parametrize("name", ["netD", "net_d", "D", "D_A", "discriminator", "state_dict_D", "netD_B", "dis"])
def test_discriminator_alone(name: str, refusal: Callable[..., str]) -> None:
    text = refusal(saved({name: STATE, "epoch": 3}))
    assert text.startswith(f": it holds a discriminator alone (under {name}); training needs it, a generator does not")


def test_averaged_weights_come_before_the_others(read: Callable[..., Checkpoint]) -> None:
    other = {name: tensor + 1 for name, tensor in STATE.items()}
    found = read(saved({"params": other, "params_ema": STATE, "state_dict": other}))
    assert_is_state(found)
    assert found.wrapper == "params_ema"


def test_nested_wrappers_are_opened(read: Callable[..., Checkpoint]) -> None:
    found = read(saved({"model": {"state_dict": {"params": STATE}}}))
    assert_is_state(found)
    assert found.wrapper == "model.state_dict.params"


def test_a_tensor_that_is_called_like_a_wrapper_is_a_tensor(read: Callable[..., Checkpoint]) -> None:
    assert list(read(saved({"model": torch.ones(2), "params": torch.ones(1)})).state) == ["model", "params"]


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_prefixes_of_parallel_and_compiled_nets_are_removed(prefix: str, read: Callable[..., Checkpoint]) -> None:
    assert_is_state(read(saved({prefix + name: tensor for name, tensor in STATE.items()})))


def test_a_prefix_is_removed_only_at_the_front(read: Callable[..., Checkpoint]) -> None:
    names = ["net.module.weight", "modules.weight"]
    assert list(read(saved({name: torch.ones(1) for name in names})).state) == names


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_other_floats_become_float32(kind: torch.dtype, read: Callable[..., Checkpoint]) -> None:
    state = {"weight": torch.tensor([0.5, -1.75, 2.0]).to(kind)}
    assert_is_state(read(saved(state)), state)


def test_whole_numbers_stay_what_they_are(read: Callable[..., Checkpoint]) -> None:
    state = read(saved({**STATE, "bn.num_batches_tracked": torch.tensor(7)})).state
    assert state["bn.num_batches_tracked"].dtype == torch.int64


def test_parameters_ordered_dicts_and_other_entries_are_fine(read: Callable[..., Checkpoint]) -> None:
    state = OrderedDict((name, torch.nn.Parameter(tensor)) for name, tensor in STATE.items())
    found = read(saved({"state_dict": OrderedDict([*state.items(), ("version", "1.2")])}))
    assert_is_state(found)
    assert not any(tensor.requires_grad for tensor in found.state.values())


@pytest.mark.parametrize("number", [np.float64(30.67), np.float32(0.5), np.int64(7), np.bool_(True)])
def test_numpy_numbers_beside_the_weights_are_fine(number: Any, read: Callable[..., Checkpoint]) -> None:
    """Training code likes to note its best score; both names that NumPy gave its own function."""
    data = saved({"state_dict": STATE, "best_psnr": number})
    assert b"multiarray" in data
    assert_is_state(read(data))
    assert_is_state(read(saved({"state_dict": STATE, "best_psnr": number}, zipped=False)))
    legacy = saved({"state_dict": STATE, "best_psnr": number}, zipped=False)
    assert_is_state(read(legacy.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")))


class NumpyObject:
    """Claims to be a NumPy scalar that holds any Python object."""

    def __reduce__(self) -> Any:
        return np._core.multiarray.scalar, (np.dtype("O"), "text")


def test_numpy_objects_are_no_numbers(refusal: Callable[..., str]) -> None:
    assert "is refused" in refusal(saved({"state_dict": STATE, "x": NumpyObject()}))


def test_result_is_contiguous(read: Callable[..., Checkpoint]) -> None:
    state = {"weight": torch.arange(6.0).reshape(2, 3).T}
    found = read(saved(state))
    assert found.state["weight"].is_contiguous()
    assert_is_state(found, state)


# --- what is no file of weights ---------------------------------------------------------------------------------------


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere\.pth does not exist \(`python -m export list` shows"):
        load_state(tmp_path / "nowhere.pth")


def test_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is a folder: name the checkpoint file in it"):
        load_state(tmp_path)


def test_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(CheckpointError, match=r"net\.pth cannot be read: Permission denied"):
        load_state(tmp_path / "net.pth")


def test_name_that_no_file_can_have(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read: File name too long"):
        load_state(tmp_path / ("x" * 300))


def test_empty_file(refusal: Callable[..., str]) -> None:
    assert refusal(b"") == " is empty (0 bytes): download it again"


@pytest.mark.parametrize(
    "page",
    [
        b"<!DOCTYPE html><html>Sign in</html>",
        b"\r\n  <!doctype HTML>",
        b"<html lang='en'>",
        b"<?xml version='1.0'?><Error>AccessDenied</Error>",
        b"\xef\xbb\xbf<!DOCTYPE html>",
    ],
)
def test_web_page(page: bytes, refusal: Callable[..., str]) -> None:
    assert "is a web page, not weights" in refusal(page)


def test_git_lfs_pointer(refusal: Callable[..., str]) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    assert "is a Git LFS pointer, not the weights themselves: fetch it with `git lfs pull`" in refusal(pointer)


@pytest.mark.parametrize("data", [b"hello", b'{"message": "Not Found"}', b"\x89PNG\r\n\x1a\n", b"PK", b"\0" * 64])
def test_other_files(data: bytes, refusal: Callable[..., str]) -> None:
    text = refusal(data)
    assert "not a PyTorch checkpoint, or a damaged one" in text or "not a whole safetensors file" in text


def test_torchscript_program(refusal: Callable[..., str]) -> None:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), buffer)
    assert refusal(buffer.getvalue()) == ": it is a TorchScript program, not a checkpoint: save net.state_dict()"


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older-format"])
def test_pickled_module(zipped: bool, refusal: Callable[..., str]) -> None:
    text = refusal(saved({"model": torch.nn.Linear(2, 2)}, zipped=zipped))
    assert "it holds torch.nn.modules.linear.Linear, not only tensors" in text
    assert "save the weights alone with torch.save(net.state_dict(), ...)" in text


# --- hostile files ----------------------------------------------------------------------------------------------------


class MakesFile:
    """Unpickling it creates a file, as an attacker's pickle would run a program."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.marker), "w")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older-format"])
def test_code_in_a_checkpoint_never_runs(zipped: bool, tmp_path: Path, refusal: Callable[..., str]) -> None:
    marker = tmp_path / "the-code-has-run"
    data = saved({"weight": torch.ones(2), "extra": MakesFile(marker)}, zipped=zipped)
    torch.load(io.BytesIO(data), weights_only=False)
    assert marker.exists()  # the trap works
    marker.unlink()
    assert "it holds io.open, not only tensors; loading that would run code from the file" in refusal(data)
    assert not marker.exists()


def test_code_in_a_bare_pickle_never_runs(tmp_path: Path, refusal: Callable[..., str]) -> None:
    marker = tmp_path / "the-code-has-run"
    for data in (pickle.dumps(MakesFile(marker)), f"cos\nsystem\n(S'touch {marker}'\ntR.".encode()):
        pickle.loads(data)
        assert marker.exists()  # the trap works
        marker.unlink()
        refusal(data)
        assert not marker.exists()


def test_code_behind_the_end_of_a_checkpoint_never_runs(tmp_path: Path, read: Callable[..., Checkpoint]) -> None:
    marker = tmp_path / "the-code-has-run"
    assert_is_state(read(saved(STATE, zipped=False) + pickle.dumps(MakesFile(marker))))
    assert not marker.exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_no_numbers(value: float, refusal: Callable[..., str]) -> None:
    state = {**STATE, "convs.1.weight": torch.tensor([1.0, value])}
    assert ": convs.1.weight holds values that are not finite numbers" in refusal(saved(state))


def test_float64_beyond_the_range_of_float32(refusal: Callable[..., str]) -> None:
    assert "not finite" in refusal(saved({"weight": torch.tensor([1e300], dtype=torch.float64)}))


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.eye(3).to_sparse(),
        lambda: torch.eye(3).to_sparse_csr(),
        lambda: torch.ones(2, dtype=torch.complex64),
        lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        lambda: torch.ones(2, device="meta"),
        lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        lambda: torch.ones([1] * 20),
    ],
    ids=["sparse", "csr", "complex", "quantised", "meta", "nested", "twenty-dimensions"],
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_that_are_no_plain_numbers(make: Callable[[], torch.Tensor], refusal: Callable[..., str]) -> None:
    assert ": weight is no plain tensor" in refusal(saved({"weight": make()}))


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.int64])
def test_a_view_that_repeats_one_value_without_end(kind: torch.dtype, refusal: Callable[..., str]) -> None:
    """One stored value with stride 0 can claim a terabyte, which a copy would really take."""
    data = saved({"weight": torch.ones(1, dtype=kind).expand(1 << 40)})
    assert len(data) < 4096
    assert ": weight claims 1,099,511,627,776 values, more than the file holds" in refusal(data)


@pytest.mark.parametrize(
    ("content", "kind"), [([torch.ones(2)], "list"), (torch.ones(2), "Tensor"), (3, "int"), (None, "NoneType")]
)
def test_content_without_names(content: Any, kind: str, refusal: Callable[..., str]) -> None:
    assert refusal(saved(content)) == f": it holds a {kind} instead of named tensors"


def test_dict_without_tensors(refusal: Callable[..., str]) -> None:
    text = refusal(saved({"epoch": 3, "lr": 0.1}))
    assert "it holds no named tensors (only 'epoch', 'lr')" in text
    assert "weights are looked for under params_ema, generator, state_dict, model and other usual names" in text
    assert "(only nothing)" in refusal(saved({}))
    assert "(only nothing)" in refusal(saved_safely({}), "net.safetensors")


def test_wrappers_without_end(refusal: Callable[..., str]) -> None:
    content: Any = STATE
    for _ in range(40):
        content = {"model": content}
    assert "it holds no named tensors (only 'model')" in refusal(saved(content))


def test_two_tensors_of_one_name_after_removing_prefixes(refusal: Callable[..., str]) -> None:
    state = {"weight": torch.ones(1), "module.weight": torch.ones(1)}
    assert refusal(saved(state)) == ": two tensors are called weight"


@pytest.mark.parametrize("name", ["a\nb", "\x1b[31mred", "half a surrogate \ud800", "\u202eright to left", "x" * 1000])
def test_names_that_would_garble_a_message(name: str, refusal: Callable[..., str]) -> None:
    assert "a tensor's name is not a name" in refusal(saved({name: torch.ones(1)}))
    refusal(saved({name: 3}))  # the check of the fixture: it can be printed


# --- damaged files ----------------------------------------------------------------------------------------------------

ZIPPED, OLDER, SAFE = saved({"params": STATE}), saved({"params": STATE}, zipped=False), saved_safely(STATE)


def raises_only_checkpoint_error(path: Path, data: bytes, *, may_load: bool = False) -> None:
    path.write_bytes(data)
    message = ""
    try:
        load_state(path)
    except CheckpointError as error:
        message = str(error)
    assert message or may_load, "it loaded"
    assert message.isprintable()


@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.99])
def test_half_a_zip_file_is_called_cut_off(share: float, refusal: Callable[..., str]) -> None:
    text = refusal(ZIPPED[: int(len(ZIPPED) * share)])
    assert text == ": the file is cut off or damaged: download it again"


def test_the_older_format_is_called_cut_off_where_its_end_is_missing(refusal: Callable[..., str]) -> None:
    assert refusal(OLDER[:100]) == ": the file is cut off: download it again"
    assert "damaged" in refusal(OLDER[:-1])  # all is there but a value


def test_half_a_safetensors_file_says_what_is_wrong(refusal: Callable[..., str]) -> None:
    assert "not a whole safetensors file" in refusal(SAFE[:-1], "net.safetensors")
    assert "download it again" in refusal(SAFE[:20], "net.safetensors")


@given(st.integers(0, len(ZIPPED) - 1))
@settings(max_examples=60, deadline=None)
def test_any_truncation_of_a_zip_file(folder: Path, length: int) -> None:
    raises_only_checkpoint_error(folder / "net.pth", ZIPPED[:length])


@given(st.integers(0, len(OLDER) - 1))
@settings(max_examples=100, deadline=None)
def test_any_truncation_of_the_older_format(folder: Path, length: int) -> None:
    raises_only_checkpoint_error(folder / "net.pth", OLDER[:length])


@given(st.integers(0, len(SAFE) - 1))
@settings(max_examples=60, deadline=None)
def test_any_truncation_of_safetensors(folder: Path, length: int) -> None:
    raises_only_checkpoint_error(folder / "net.safetensors", SAFE[:length])


@given(st.sampled_from([ZIPPED, OLDER, SAFE]), st.floats(0, 1), st.binary(min_size=1, max_size=16))
@settings(max_examples=150, deadline=None)
def test_overwritten_bytes_load_or_are_refused(folder: Path, data: bytes, place: float, noise: bytes) -> None:
    start = int(place * (len(data) - 1))
    damaged = data[:start] + noise + data[start + len(noise) :]
    raises_only_checkpoint_error(folder / "net.pth", damaged, may_load=True)


@given(
    st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."]),
    st.binary(max_size=300),
)
@settings(max_examples=150, deadline=None)
@example(b"", b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f")  # a pickle frame of eight exabytes
@example(b"", b"c" * 300)
@example(b"", b"(" * 300)
def test_any_bytes_are_refused(folder: Path, start: bytes, rest: bytes) -> None:
    raises_only_checkpoint_error(folder / "net.pth", start + rest)
    raises_only_checkpoint_error(folder / "net.safetensors", start + rest)


def safetensors_with(header: Any, body: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


@pytest.mark.parametrize(
    ("entry", "body", "sentence"),
    [
        ({"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}, b"\0", "a tensor has the type 'F4'"),
        ({"dtype": "F32", "shape": [0, 2**64 - 1], "data_offsets": [0, 0]}, b"", "a shape that is not possible"),
        ({"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 0]}, b"", "not a whole safetensors file"),
        ({"dtype": "F32", "shape": [1] * 100, "data_offsets": [0, 4]}, b"\0" * 4, "weight is no plain tensor"),
        ({"dtype": "F32", "shape": [8], "data_offsets": [0, 4]}, b"\0" * 4, "not a whole safetensors file"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}, b"\0" * 8, "not a whole safetensors file"),
        ({"dtype": "F32"}, b"", "not a whole safetensors file"),
    ],
)
def test_safetensors_headers_that_lie(
    entry: dict[str, Any], body: bytes, sentence: str, refusal: Callable[..., str]
) -> None:
    assert sentence in refusal(safetensors_with({"weight": entry}, body), "net.safetensors")


def test_safetensors_whose_header_claims_an_exabyte(refusal: Callable[..., str]) -> None:
    assert "not a whole safetensors file" in refusal(struct.pack("<Q", 1 << 60) + b'{"a":', "net.safetensors")


# --- real files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "tensors", "wrapper"),
    [
        ("realesr_animevideov3/realesr-animevideov3.pth", 53, "params"),
        ("srgan_leftthomas/netG_epoch_4_100.pth", 79, ""),
        ("cyclegan_horse2zebra/latest_net_G.pth", 84, ""),
    ],
)
def test_real_checkpoints(name: str, tensors: int, wrapper: str, assets: Callable[[str], Path]) -> None:
    path = assets(f"weights/{name}")
    found = load_state(path)
    assert (len(found.state), found.wrapper) == (tensors, wrapper)
    listed = [line.split("\t") for line in path.with_suffix(".keys.txt").read_text().splitlines() if line[:1] != "#"]
    assert {name: str(tuple(tensor.shape)) for name, tensor in found.state.items()} == {
        name: shape for name, shape, _ in listed
    }


@pytest.mark.parametrize("zipped", [True, False])
def test_a_torch_file_that_is_called_safetensors_is_read(tmp_path: Path, *, zipped: bool) -> None:
    path = tmp_path / "net.safetensors"
    path.write_bytes(saved({"convs.0.weight": torch.ones(2)}, zipped=zipped))
    assert list(load_state(path).state) == ["convs.0.weight"]
