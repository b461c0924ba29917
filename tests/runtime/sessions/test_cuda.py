"""CUDA: every call is checked, errors are sentences, and nothing is used that a version of cuda-python lacks."""

from __future__ import annotations

import gc
import re
from pathlib import Path

import fake_cuda
import numpy as np
import pytest
from fake_cuda import FakeGpu, cudaError_t
from hypothesis import given
from hypothesis import strategies as st

import runtime.sessions.cuda as layer
from runtime.errors import MissingExtraError
from runtime.sessions.cuda import Cuda, CudaError, OutOfGpuMemoryError, amount, is_pinned, open_cuda

SOURCE = Path(layer.__file__).read_text()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    gpu = FakeGpu()
    fake_cuda.install(monkeypatch, gpu)
    return gpu


@pytest.mark.parametrize("version", [fake_cuda.OLD, fake_cuda.NEW])
def test_every_name_that_is_used_exists_in_the_real_module(version: str) -> None:
    used = set(re.findall(r"\.(cuda[A-Z]\w+)", SOURCE)) - {"cudaError_t"}
    assert {"cudaMemcpyAsync", "cudaStreamSynchronize", "cudaErrorNoDevice"} <= used
    names = fake_cuda.names_of(version)
    flat = names | {name.split(".")[1] for name in names if "." in name}
    assert used - flat == set()
    assert {f"cudaMemcpyKind.cudaMemcpy{kind}" for kind in re.findall(r'"(\w+To\w+)"', SOURCE)} <= names


@pytest.mark.parametrize(
    ("layout", "version"), [("cuda.bindings.runtime", fake_cuda.NEW), ("cuda.cudart", fake_cuda.OLD)]
)
def test_both_layouts_are_found(monkeypatch: pytest.MonkeyPatch, layout: str, version: str) -> None:
    fake_cuda.install(monkeypatch, FakeGpu(version, memory=1 << 20), layout)
    assert open_cuda().memory() == (1 << 20, 1 << 20)


# --- what is missing --------------------------------------------------------------------------------------------------


def test_without_cuda_python_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, gpu: FakeGpu) -> None:
    fake_cuda.install(monkeypatch, gpu, layout="none")
    with pytest.raises(MissingExtraError, match=r"cuda-python is not installed: pip install .genedge\[tensorrt\]"):
        open_cuda()


def test_no_driver_in_the_newer_layout(gpu: FakeGpu) -> None:
    gpu.fail("cudaGetDeviceCount", cudaError_t.cudaErrorInsufficientDriver)
    gpu.driver = 0  # as recorded of cuda-bindings 12.9 and 13.5 without libcuda.so.1
    with pytest.raises(CudaError, match=r"^no NVIDIA driver is found on this machine: .*--backend openvino$"):
        open_cuda()


def test_no_driver_in_the_older_layout(monkeypatch: pytest.MonkeyPatch, gpu: FakeGpu) -> None:
    def count() -> None:
        raise RuntimeError("Failed to dlopen libcuda.so.1")  # as recorded of cuda-python 12.2 and 12.6

    monkeypatch.setattr(gpu.module, "cudaGetDeviceCount", count, raising=False)
    with pytest.raises(CudaError, match=r"^no NVIDIA driver is found .*\(Failed to dlopen libcuda.so.1\)$"):
        open_cuda()


@pytest.mark.parametrize(
    ("driver", "remedy"),
    [(12040, r'update the driver, or pip install "cuda-python==12\.\*"'), (11080, "update the driver")],
)
def test_a_driver_that_is_too_old(gpu: FakeGpu, driver: int, remedy: str) -> None:
    gpu.fail("cudaGetDeviceCount", cudaError_t.cudaErrorInsufficientDriver)
    gpu.driver, gpu.runtime = driver, 13050
    serves = f"{driver // 1000}.{driver % 1000 // 10}"
    with pytest.raises(CudaError, match=rf"it serves CUDA {serves}, and cuda-python is made for CUDA 13\.5: {remedy}$"):
        open_cuda()


def test_a_driver_of_the_same_major_gets_no_other_package(gpu: FakeGpu) -> None:
    gpu.fail("cudaGetDeviceCount", cudaError_t.cudaErrorInsufficientDriver)
    gpu.driver = gpu.runtime - 10
    with pytest.raises(CudaError, match=r"update the driver$"):
        open_cuda()


@pytest.mark.parametrize("told", [True, False])
def test_no_gpu(gpu: FakeGpu, told: bool) -> None:
    if told:
        gpu.fail("cudaGetDeviceCount", cudaError_t.cudaErrorNoDevice)
    else:
        gpu.devices = 0
    with pytest.raises(CudaError, match=r"no NVIDIA GPU is found.*CUDA_VISIBLE_DEVICES") as caught:
        open_cuda()
    assert caught.value.name == "cudaErrorNoDevice"


def test_any_other_error_at_the_start_has_cudas_words(gpu: FakeGpu) -> None:
    gpu.fail("cudaGetDeviceCount", cudaError_t.cudaErrorIllegalAddress)
    with pytest.raises(CudaError, match=r"starting CUDA failed: an illegal memory access.*\(cudaErrorIllegalAddress\)"):
        open_cuda()


# --- memory -----------------------------------------------------------------------------------------------------------


def test_out_of_memory_says_what_was_wanted_for_what_and_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu(memory=64 << 20)
    fake_cuda.install(monkeypatch, gpu)
    cuda = open_cuda()
    held = cuda.buffer(24 << 20, "frames")
    with pytest.raises(OutOfGpuMemoryError) as caught:
        cuda.buffer(3 << 30, "intermediate results")
    assert str(caught.value) == "out of GPU memory: 3.0 GiB wanted for intermediate results, 40 MiB are free"
    assert (caught.value.wanted, caught.value.free) == (3 << 30, 40 << 20)
    held.close()
    cuda.buffer(64 << 20, "frames").close()  # the error has not stuck
    assert gpu.held == {}


def test_out_of_memory_where_not_even_the_free_memory_is_known(gpu: FakeGpu) -> None:
    cuda = open_cuda()
    gpu.fail("cudaMalloc", cudaError_t.cudaErrorMemoryAllocation)
    gpu.fail("cudaMemGetInfo", cudaError_t.cudaErrorInvalidValue)
    with pytest.raises(OutOfGpuMemoryError, match=r"640 bytes wanted for codes$") as caught:
        cuda.buffer(640, "codes")
    assert caught.value.free is None


def test_pinned_memory_that_is_refused_is_no_gpu_memory(gpu: FakeGpu) -> None:
    gpu.fail("cudaMallocHost", cudaError_t.cudaErrorMemoryAllocation)
    with pytest.raises(CudaError, match=r"^pinning 2\.0 MiB of memory for frames failed: out of memory") as caught:
        open_cuda().pinned((2, 1 << 20), np.uint8, "frames")
    assert not isinstance(caught.value, OutOfGpuMemoryError)


def test_a_buffer_of_nothing_takes_nothing(gpu: FakeGpu) -> None:
    buffer = open_cuda().buffer(0, "nothing")
    buffer.close()
    assert (buffer.address, gpu.count("cudaMalloc"), gpu.count("cudaFree")) == (0, 0, 0)


def test_closing_twice_frees_once(gpu: FakeGpu) -> None:
    cuda = open_cuda()
    things = [cuda.buffer(16, "frames"), cuda.stream(), cuda.event()]
    for thing in things * 2:
        thing.close()
    assert gpu.held == {}
    assert [gpu.count(f"cuda{call}") for call in ("Free", "StreamDestroy", "EventDestroy")] == [1, 1, 1]


def test_pinned_memory_lives_as_long_as_a_view_of_it(gpu: FakeGpu) -> None:
    whole = open_cuda().pinned((3, 4), np.float32, "frames")
    whole[:] = 7
    part = whole[1:, 2:]
    del whole
    gc.collect()
    assert gpu.held == {"pinned": 1}
    assert part.sum() == 28
    del part
    gc.collect()
    assert gpu.held == {}


def test_pinned_arrays_and_their_parts_are_told_from_others(gpu: FakeGpu) -> None:
    array = open_cuda().pinned((2, 3, 4), np.uint8, "frames")
    assert array.flags.carray
    assert all(is_pinned(view) for view in (array, array[0], array[None][:, ::2], array.view(np.int8), array.ravel()))
    assert not any(is_pinned(other) for other in (array.copy(), np.zeros(3), np.frombuffer(b"abc", np.uint8)))


# --- streams ----------------------------------------------------------------------------------------------------------


def test_bytes_go_to_the_gpu_and_back_in_the_order_of_the_stream(gpu: FakeGpu) -> None:
    cuda = open_cuda()
    stream, first, second = cuda.stream(), cuda.buffer(12, "frames"), cuda.buffer(12, "states")
    sent, back = cuda.pinned((3, 4), np.uint8, "frames"), cuda.pinned((3, 4), np.uint8, "results")
    sent[:] = np.arange(12).reshape(3, 4)
    back[:] = 99
    stream.upload(sent, first)
    stream.copy(first, second)
    stream.zero(first)
    stream.download(second, back)
    assert back.min() == 99, "nothing has been done yet"
    stream.synchronize("running")
    np.testing.assert_array_equal(back, sent)
    assert gpu.done == ["upload", "copy", "clear", "download"]
    assert not gpu.view(first.address, (12,), np.uint8).any()


def test_an_array_that_cuda_would_misread_is_refused(gpu: FakeGpu) -> None:
    cuda = open_cuda()
    stream, buffer = cuda.stream(), cuda.buffer(12, "frames")
    array = cuda.pinned((4, 6), np.uint8, "frames")
    for wrong in (array[:, :3], array[:3]):  # strided; larger than the buffer
        with pytest.raises(ValueError, match="not C-contiguous or larger than the buffer"):
            stream.upload(wrong, buffer)
        with pytest.raises(ValueError, match="not C-contiguous or larger than the buffer"):
            stream.download(buffer, wrong)
    with pytest.raises(ValueError, match=r"frames has 12 bytes, states has 13"):
        stream.copy(buffer, cuda.buffer(13, "states"))
    assert gpu.count("cudaMemcpyAsync") == 0


def test_a_stream_waits_for_what_another_has_done(gpu: FakeGpu) -> None:
    cuda = open_cuda()
    one, other, event = cuda.stream(), cuda.stream(), cuda.event()
    buffer, result = cuda.buffer(1, "frames"), cuda.pinned((1,), np.uint8, "results")
    one.zero(buffer)
    one.record(event)
    other.wait(event)
    other.download(buffer, result)
    other.synchronize("running")
    assert result[0] == 0
    assert gpu.done == ["clear", "download"]


def test_times_are_in_seconds(gpu: FakeGpu) -> None:
    cuda = open_cuda()
    stream, start, end = cuda.stream(), cuda.event(timed=True), cuda.event(timed=True)
    stream.record(start)
    stream.zero(cuda.buffer(1, "frames"))
    stream.record(end)
    stream.synchronize("running")
    assert end.seconds_since(start) == pytest.approx(2e-3)  # the fake takes 1 ms for each operation


def test_an_error_of_the_gpu_shows_when_the_stream_is_waited_for_and_stays(gpu: FakeGpu) -> None:
    cuda = open_cuda()
    stream = cuda.stream()
    gpu.enqueue(int(stream.handle), "bad kernel", lambda: setattr(gpu, "sticky", cudaError_t.cudaErrorIllegalAddress))
    with pytest.raises(CudaError, match=r"^running: an illegal memory access .*\(cudaErrorIllegalAddress\)$"):
        stream.synchronize("running")
    assert not cuda.is_usable()


def test_cuda_is_usable_after_an_error_of_one_call(gpu: FakeGpu) -> None:
    cuda = open_cuda()
    gpu.fail("cudaEventCreateWithFlags", cudaError_t.cudaErrorInvalidValue)
    with pytest.raises(CudaError, match=r"making an event failed: some error \(cudaErrorInvalidValue\)"):
        cuda.event()
    assert cuda.is_usable()
    assert gpu.last_error == cudaError_t.cudaSuccess


# --- graphs -----------------------------------------------------------------------------------------------------------


def test_what_is_captured_is_done_at_each_launch_and_not_before(gpu: FakeGpu) -> None:
    cuda = open_cuda()
    stream, buffer = cuda.stream(), cuda.buffer(8, "frames")
    stream.begin_capture()
    stream.zero(buffer)
    graph = stream.end_capture()
    stream.synchronize("running")
    assert gpu.done == []
    for _ in range(2):
        stream.launch(graph)
    stream.synchronize("running")
    assert gpu.done == ["clear", "clear"]
    graph.close()
    graph.close()
    assert "graphs" not in gpu.held, "the captured graph is destroyed too"


def test_a_capture_that_fails_leaves_the_stream_as_it_was(gpu: FakeGpu) -> None:
    cuda = open_cuda()
    stream, buffer = cuda.stream(), cuda.buffer(8, "frames")
    stream.begin_capture()
    gpu.break_capture(int(stream.handle))
    with pytest.raises(CudaError, match=r"capturing a graph failed: operation failed due to a previous error"):
        stream.end_capture()
    cuda.forget_error()
    stream.zero(buffer)
    stream.synchronize("running")
    assert gpu.done == ["clear"]


def test_a_graph_that_cannot_be_instantiated_leaves_none_behind(gpu: FakeGpu) -> None:
    stream = open_cuda().stream()
    stream.begin_capture()
    gpu.fail("cudaGraphInstantiate", cudaError_t.cudaErrorMemoryAllocation)
    with pytest.raises(CudaError, match="instantiating a graph failed: out of memory"):
        stream.end_capture()
    assert "graphs" not in gpu.held


# --- wording ----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 1 << 45))
def test_an_amount_is_never_far_off(count: int) -> None:
    number, unit = amount(count).split()
    size = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}[unit]
    assert float(number) * size == pytest.approx(count, rel=0.06, abs=0.5)


@pytest.mark.parametrize(
    ("result", "value"), [((0,), None), ((0, 5), 5), ((0, 0), 0), ((0, 1, 2), (1, 2)), ((0, None), None)]
)
def test_what_a_call_gives_is_passed_on(gpu: FakeGpu, result: tuple[int, ...], value: object) -> None:
    assert Cuda(gpu.module).check("calling", (cudaError_t(result[0]), *result[1:])) == value
