"""What every graph pass shares: copies, an index of who makes and who reads a tensor, and the checker."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, numpy_helper

from runtime.errors import GenedgeError


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    result = onnx.ModelProto()
    result.CopyFrom(model)
    return result


def copy_tensor(tensor: TensorProto) -> TensorProto:
    result = TensorProto()
    result.CopyFrom(tensor)
    return result


def replace_nodes(graph: onnx.GraphProto, nodes: Sequence[NodeProto]) -> None:
    """Set the graph's node list (protobuf's repeated fields cannot be assigned)."""
    copies = []
    for node in nodes:
        copy = NodeProto()
        copy.CopyFrom(node)
        copies.append(copy)
    del graph.node[:]
    graph.node.extend(copies)


def names_read(node: NodeProto) -> Iterator[str]:
    """What a node reads, each name once: its inputs, and what the bodies of an If, Loop or Scan read around them."""
    names = dict.fromkeys(node.input)
    for entry in node.attribute:
        for body in (*entry.graphs, *((entry.g,) if entry.HasField("g") else ())):
            own = {item.name for item in (*body.input, *body.initializer)}
            own |= {name for inner in body.node for name in inner.output}
            read = [name for inner in body.node for name in names_read(inner)] + [port.name for port in body.output]
            names |= dict.fromkeys(name for name in read if name not in own)
    yield from names


def without_unused_initializers(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop initializers that no node reads."""
    result = copy_of(model)
    used = {name for node in result.graph.node for name in names_read(node)}
    used |= {port.name for port in result.graph.output}
    kept = [tensor for tensor in result.graph.initializer if tensor.name in used]
    del result.graph.initializer[:]
    result.graph.initializer.extend(kept)
    return result


def opset_of(model: onnx.ModelProto) -> int:
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            return int(entry.version)
    raise GenedgeError("the ONNX model names no opset")


def checked(model: onnx.ModelProto) -> onnx.ModelProto:
    """Run ONNX's checker with strict shape inference; raises :class:`GenedgeError` with its first line."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise GenedgeError(f"the exported graph is not valid ONNX: {first}") from error
    return model


def attribute(node: NodeProto, name: str, default: int | float | str | list[int] | None = None) -> object:
    """Value of a node's attribute, ``default`` where it has none."""
    for entry in node.attribute:
        if entry.name == name:
            value = onnx.helper.get_attribute_value(entry)
            return value.decode() if isinstance(value, bytes) else value
    return default


def set_attribute(node: NodeProto, name: str, value: int | float | str | Sequence[int]) -> None:
    for entry in list(node.attribute):
        if entry.name == name:
            node.attribute.remove(entry)
    node.attribute.append(onnx.helper.make_attribute(name, value))


class Index:
    """Producers, readers and constants of a graph, as it was when the index was made.

    ``producer[name]`` is the node that makes a tensor, ``readers[name]`` the nodes that read it (one entry a node),
    ``outputs`` the names of the graph's outputs.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.producer: dict[str, NodeProto] = {name: node for node in graph.node for name in node.output if name}
        self.readers: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in names_read(node):
                self.readers.setdefault(name, []).append(node)
        self.outputs = {port.name for port in graph.output}
        self._constants = {tensor.name: tensor for tensor in graph.initializer}

    def is_constant(self, name: str) -> bool:
        return name in self._constants

    def constant(self, name: str) -> np.ndarray | None:
        """Value of an initializer, None for a tensor that is computed."""
        tensor = self._constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def only_reader(self, name: str) -> NodeProto | None:
        """The one node that reads a tensor; None where there are more, or none, or it is an output of the graph."""
        readers = self.readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.outputs else None


class Names:
    """Fresh names in a graph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._taken = {name for node in graph.node for name in (*node.output, node.name)}
        self._taken |= {item.name for item in (*graph.initializer, *graph.input)}

    def fresh(self, base: str) -> str:
        name, count = base, 1
        while name in self._taken:
            count += 1
            name = f"{base}_{count}"
        self._taken.add(name)
        return name


def topological(nodes: Sequence[NodeProto], known: Iterable[str]) -> list[NodeProto]:
    """``nodes`` in an order in which every tensor is made before it is read, otherwise as given.

    ``known`` names the inputs and constants. Raises ``ValueError`` where there is a cycle or a missing tensor.
    """
    ready = set(known) | {""}
    waiting, result = list(nodes), []
    while waiting:
        later = []
        for node in waiting:
            if all(name in ready for name in names_read(node)):
                result.append(node)
                ready.update(node.output)
            else:
                later.append(node)
        if len(later) == len(waiting):
            raise ValueError(f"{later[0].op_type} {later[0].name} reads a tensor that no node makes")
        waiting = later
    return result
