"""TFRecord files read by programs of others: TensorBoard's reader for the frame, google.protobuf for messages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from tensorboard.compat.tensorflow_stub import errors
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import PyRecordReader_New

_KIND = descriptor_pb2.FieldDescriptorProto


def _messages() -> dict[str, Any]:
    """Classes of TensorFlow's feature.proto and example.proto, described field by field."""
    file = descriptor_pb2.FileDescriptorProto(name="yt8m_test.proto", package="yt8m", syntax="proto3")

    def message(name: str, *fields: tuple[str, int, int, str | None], repeated: bool = False) -> Any:
        added = file.message_type.add(name=name)
        label = _KIND.LABEL_REPEATED if repeated else _KIND.LABEL_OPTIONAL
        for field, number, kind, type_name in fields:
            added.field.add(name=field, number=number, type=kind, label=label, type_name=type_name)
        return added

    def mapping(name: str, field: str, entry: str, value: str) -> None:
        outer = message(name, (field, 1, _KIND.TYPE_MESSAGE, f".yt8m.{name}.{entry}"), repeated=True)
        pair = outer.nested_type.add(name=entry)
        pair.options.map_entry = True
        label = _KIND.LABEL_OPTIONAL
        pair.field.add(name="key", number=1, type=_KIND.TYPE_STRING, label=label)
        pair.field.add(name="value", number=2, type=_KIND.TYPE_MESSAGE, type_name=f".yt8m.{value}", label=label)

    message("BytesList", ("value", 1, _KIND.TYPE_BYTES, None), repeated=True)
    message("FloatList", ("value", 1, _KIND.TYPE_FLOAT, None), repeated=True)
    message("Int64List", ("value", 1, _KIND.TYPE_INT64, None), repeated=True)
    lists = [("bytes_list", "BytesList"), ("float_list", "FloatList"), ("int64_list", "Int64List")]
    feature = message(
        "Feature", *((field, n, _KIND.TYPE_MESSAGE, f".yt8m.{kind}") for n, (field, kind) in enumerate(lists, 1))
    )
    feature.oneof_decl.add(name="kind")
    for field in feature.field:
        field.oneof_index = 0
    mapping("Features", "feature", "FeatureEntry", "Feature")
    message("FeatureList", ("feature", 1, _KIND.TYPE_MESSAGE, ".yt8m.Feature"), repeated=True)
    mapping("FeatureLists", "feature_list", "FeatureListEntry", "FeatureList")
    message("Example", ("features", 1, _KIND.TYPE_MESSAGE, ".yt8m.Features"))
    message(
        "SequenceExample",
        ("context", 1, _KIND.TYPE_MESSAGE, ".yt8m.Features"),
        ("feature_lists", 2, _KIND.TYPE_MESSAGE, ".yt8m.FeatureLists"),
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"yt8m.{name}"))
        for name in ("Example", "SequenceExample")
    }


MESSAGES = _messages()


def records(path: Path) -> Iterator[bytes]:
    """Payloads of a TFRecord file by TensorBoard's reader, which checks both sums of every record."""
    reader = PyRecordReader_New(str(path))
    while True:
        try:
            reader.GetNext()
        except errors.OutOfRangeError:
            return
        yield reader.record()
