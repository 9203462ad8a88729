"""The neutral graph: who reads what, what is taken out with it, and what contradicts itself."""

from __future__ import annotations

import pytest
from neutral import Model

from bnfx.passes.crossing import Identity
from bnfx.passes.graph import GraphError, Move, Node, Opaque


@pytest.fixture
def model() -> Model:
    return Model()


def test_who_reads_a_size_does_not_read_the_elements(model: Model) -> None:
    """Though its role reads the elements of something else."""
    other = model.add("other", Opaque())
    model.add("reshape", Move(Identity()), other, shape_inputs=[model.x])
    assert model.x.data_users() == []
    assert len(model.x.users) == len(other.data_users()) == 1


def test_inputs_stay_where_what_read_them_is_dropped(model: Model) -> None:
    model.graph.drop_unread(model.conv("last", model.conv("conv", model.x)))
    assert list(model.graph) == [model.x]


def test_a_node_is_written_without_its_readers(model: Model) -> None:
    conv = model.conv("conv", model.x)
    model.graph.verify([conv])
    assert "place=" not in repr(model.x)
    assert "users=" not in repr(model.x)


def test_refuses_a_node_that_reads_itself(model: Model) -> None:
    node = model.add("node", Opaque())
    node.inputs.append(node)
    node.users[node] = None
    with pytest.raises(GraphError, match="node runs before its input node"):
        model.graph.verify()


def test_refuses_a_reader_that_is_not_in_the_graph(model: Model) -> None:
    model.x.users[Node("stranger", Opaque(), [model.x])] = None
    with pytest.raises(GraphError, match="stranger is said to read x, but does not"):
        model.graph.verify()
