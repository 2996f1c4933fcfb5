"""What must not stand in this package."""

import ast
from collections.abc import Iterator
from pathlib import Path

from google.protobuf import descriptor_pb2
from grpc_tools import protoc

import transports
from transports import wire_pb2

FOLDER = Path(transports.__file__).parent
ARBITRARY_CODE = {"pickle", "cloudpickle", "marshal", "shelve", "dill", "_pickle"}
OTHER_LAYERS = {"flame_run", "roles", "lightning", "hydra", "omegaconf", "mlflow"}


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]


def test_nothing_that_runs_code_from_bytes_nor_another_layer_is_imported():
    files = list(FOLDER.rglob("*.py"))
    assert len(files) > 10
    for path in files:
        assert not (ARBITRARY_CODE | OTHER_LAYERS) & set(imported(path)), path


def test_torch_is_never_asked_to_load_or_save():
    for path in FOLDER.rglob("*.py"):
        attributes = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
        assert not {"load", "save", "distributed"} & attributes, path


def test_the_generated_wire_format_is_that_of_its_source(tmp_path):
    root, out = FOLDER.parent, tmp_path / "wire.bin"
    assert protoc.main(["protoc", f"-I{root}", f"--descriptor_set_out={out}", "transports/wire.proto"]) == 0
    (written,) = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    generated = descriptor_pb2.FileDescriptorProto()
    wire_pb2.DESCRIPTOR.CopyToProto(generated)
    written.ClearField("source_code_info")
    for file in (written, generated):
        for message in file.message_type:
            for field in message.field:
                field.ClearField("json_name")
    assert generated == written
