"""A model that points at other files is refused, wherever in the graph the pointer hides."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from bundle_factory import upscale_model
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

from runtime.errors import ManifestError
from runtime.onnx_scan import refuse_external_data


def model_with(change: Callable[[ModelProto], None]) -> bytes:
    model = onnx.load_from_string(upscale_model())
    change(model)
    data: bytes = model.SerializeToString()
    return data


def external(tensor: TensorProto | None = None) -> TensorProto:
    """A tensor whose values are to be read from a file of the model's choice."""
    tensor = TensorProto() if tensor is None else tensor
    tensor.name, tensor.data_type = "weight", TensorProto.FLOAT
    tensor.dims.append(3)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../secret.bin")
    return tensor


def node_with(**attributes: object) -> NodeProto:
    return helper.make_node("Constant", [], ["c"], **attributes)


def graph_with(node: NodeProto) -> GraphProto:
    return helper.make_graph([node], "inner", [], [])


def in_initializer(model: ModelProto) -> None:
    external(model.graph.initializer.add())


def in_constant(model: ModelProto) -> None:
    model.graph.node.append(node_with(value=external()))


def in_list_of_tensors(model: ModelProto) -> None:
    node = model.graph.node.add(op_type="Custom")
    node.attribute.append(AttributeProto(name="all", type=AttributeProto.TENSORS, tensors=[external()]))


def in_subgraph(model: ModelProto) -> None:
    branches = {"then_branch": graph_with(node_with(value=external())), "else_branch": graph_with(NodeProto())}
    model.graph.node.append(helper.make_node("If", ["c"], ["d"], **branches))


def in_subgraph_of_a_subgraph(model: ModelProto) -> None:
    inner = graph_with(node_with(value=external()))
    outer = graph_with(helper.make_node("Loop", [], [], body=inner))
    model.graph.node.append(helper.make_node("Loop", [], [], body=outer))


def in_initializer_of_a_subgraph(model: ModelProto) -> None:
    body = graph_with(NodeProto())
    external(body.initializer.add())
    model.graph.node.append(helper.make_node("Loop", [], [], body=body))


def in_list_of_graphs(model: ModelProto) -> None:
    node = model.graph.node.add(op_type="Custom")
    graphs = [graph_with(NodeProto()), graph_with(node_with(value=external()))]
    node.attribute.append(AttributeProto(name="all", type=AttributeProto.GRAPHS, graphs=graphs))


def in_function(model: ModelProto) -> None:
    model.functions.add(name="f", domain="d").node.append(node_with(value=external()))


def in_default_of_a_function(model: ModelProto) -> None:
    default = AttributeProto(name="value", type=AttributeProto.TENSOR, t=external())
    model.functions.add(name="f", domain="d").attribute_proto.append(default)


def in_values_of_a_sparse_initializer(model: ModelProto) -> None:
    external(model.graph.sparse_initializer.add().values)


def in_indices_of_a_sparse_attribute(model: ModelProto) -> None:
    attribute = AttributeProto(name="sparse_value", type=AttributeProto.SPARSE_TENSOR)
    external(attribute.sparse_tensor.indices)
    model.graph.node.add(op_type="Constant").attribute.append(attribute)


def in_training_graph(model: ModelProto) -> None:
    external(model.training_info.add().initialization.initializer.add())


PLACES = [
    in_initializer,
    in_constant,
    in_list_of_tensors,
    in_subgraph,
    in_subgraph_of_a_subgraph,
    in_initializer_of_a_subgraph,
    in_list_of_graphs,
    in_function,
    in_default_of_a_function,
    in_values_of_a_sparse_initializer,
    in_indices_of_a_sparse_attribute,
    in_training_graph,
]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_external_data_is_found(place: Callable[[ModelProto], None]) -> None:
    with pytest.raises(ManifestError, match=r"^m\.onnx: keeps tensors in another file, which a bundle may not$"):
        refuse_external_data(model_with(place), "m.onnx")


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_the_same_model_with_its_values_inside_is_fine(
    place: Callable[[ModelProto], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def inside(tensor: TensorProto | None = None) -> TensorProto:
        tensor = TensorProto() if tensor is None else tensor
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros(3, np.float32), "weight"))
        return tensor

    monkeypatch.setitem(globals(), "external", inside)
    refuse_external_data(model_with(place), "m.onnx")


@pytest.mark.parametrize("half", ["location only", "path only"])
def test_half_a_pointer_is_enough(half: str) -> None:
    """Engines differ in which of the two fields they go by."""

    def change(model: ModelProto) -> None:
        tensor = external(model.graph.initializer.add())
        tensor.ClearField("external_data" if half == "location only" else "data_location")

    with pytest.raises(ManifestError, match="another file"):
        refuse_external_data(model_with(change), "m.onnx")


def test_explicitly_inside_is_fine() -> None:
    def change(model: ModelProto) -> None:
        model.graph.initializer[0].data_location = TensorProto.DEFAULT

    refuse_external_data(model_with(change), "m.onnx")


def test_values_that_look_like_a_pointer_are_fine() -> None:
    """Weights are arbitrary bytes; here they are those of a message with external data."""

    def change(model: ModelProto) -> None:
        raw = external().SerializeToString()
        model.graph.initializer.add(name="w", data_type=TensorProto.UINT8, dims=[len(raw)], raw_data=raw)
        model.doc_string = raw.decode("latin-1")

    refuse_external_data(model_with(change), "m.onnx")


def varint(value: int) -> bytes:
    digits = bytearray()
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*digits, value])


def field(number: int, data: bytes, *, more: int = 0) -> bytes:
    """A length-delimited protobuf field; ``more`` is added to its key."""
    return varint((number << 3 | 2) + more) + varint(len(data)) + data


def test_a_second_graph_is_looked_into_as_well() -> None:
    """Protobuf merges a field that occurs twice."""
    graph = GraphProto()
    external(graph.initializer.add())
    with pytest.raises(ManifestError, match="another file"):
        refuse_external_data(upscale_model() + field(7, graph.SerializeToString()), "m.onnx")


def test_a_field_number_beyond_32_bits_does_not_hide_the_pointer() -> None:
    """Protobuf drops the bits beyond 32: there it is the field external_data, and OpenVINO opens the file."""
    entry = field(1, b"location") + field(2, b"secret.bin")
    tensor = field(8, b"weight") + field(13, entry, more=1 << 32)
    graph = field(5, tensor)
    with pytest.raises(ManifestError, match="not an ONNX model"):
        refuse_external_data(upscale_model() + field(7, graph), "m.onnx")


def test_a_field_number_in_a_roundabout_encoding_is_still_seen() -> None:
    """The key 0x6A of external_data, written with three bytes instead of one."""
    entry = field(1, b"location") + field(2, b"secret.bin")
    tensor = b"\xea\x80\x00" + varint(len(entry)) + entry
    with pytest.raises(ManifestError, match="another file"):
        refuse_external_data(upscale_model() + field(7, field(5, tensor)), "m.onnx")


# --- files that are no model ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "it is empty"),
        (b"<html>not found</html>", "unknown wire type"),
        (b"PK\x03\x04zip", "unknown wire type"),
        (b"\x08", "out of"),
        (b"\xff" * 20, "a number is too long"),
        (b"\x3a" + b"\xff" * 9 + b"\x01", "cut off"),
    ],
    ids=["empty", "web page", "zip", "half a field", "endless number", "graph of 16 exabytes"],
)
def test_what_is_no_model_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(ManifestError, match=rf"^m\.onnx: not an ONNX model \(.*({why})"):
        refuse_external_data(data, "m.onnx")


def test_a_model_is_refused_wherever_it_is_cut_off_inside_the_graph() -> None:
    model = upscale_model()
    begin, end = model.index(b"frame_graph"), len(model) - len(field(8, b"")) - 4  # the opset import comes last
    for length in range(begin, end):
        with pytest.raises(ManifestError, match="not an ONNX model"):
            refuse_external_data(model[:length], "m.onnx")


def nested(depth: int) -> bytes:
    graph = b""
    for _ in range(depth):
        graph = field(1, field(5, field(6, graph)))  # graph > node > attribute > graph
    return field(7, graph)


def test_nesting_is_limited() -> None:
    refuse_external_data(nested(8), "m.onnx")
    for depth in (20, 300):
        with pytest.raises(ManifestError, match="nested too deeply"):
            refuse_external_data(nested(depth), "m.onnx")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_are_refused_or_harmless(data: bytes) -> None:
    check(data)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_changed_models_are_refused_or_harmless(data: st.DataObject) -> None:
    original = model_with(data.draw(st.sampled_from([*PLACES, lambda model: None])))
    begin = data.draw(st.integers(0, len(original)))
    end = data.draw(st.integers(begin, min(len(original), begin + 8)))
    check(original[:begin] + data.draw(st.binary(max_size=8)) + original[end:])


def check(data: bytes) -> None:
    """Whatever the bytes: ManifestError, or a model in which onnx itself finds no external data either."""
    try:
        refuse_external_data(data, "m.onnx")
    except ManifestError:
        return
    try:
        model = onnx.load_from_string(data)
    except Exception:  # no engine will read it either
        return
    tensors = [*model.graph.initializer]
    tensors += [attribute.t for node in model.graph.node for attribute in node.attribute]
    assert not any(tensor.external_data or tensor.data_location == TensorProto.EXTERNAL for tensor in tensors)
