"""What W&B wrote on the disk, read back: a log of protocol buffers, in blocks as LevelDB has them."""

import json
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path

_BLOCK, _HEADER = 32768, 7
_FULL, _LAST = 1, 4


@dataclass
class Segment:
    """One folder ``offline-run-<time>-<id>``: one process that wrote to a run."""

    folder: Path
    run: object = None
    config: dict = field(default_factory=dict)
    history: list = field(default_factory=list)
    records: list = field(default_factory=list)
    axes: dict = field(default_factory=dict)

    def steps(self, name):
        return [row["trainer/global_step"] for row in self.history if name in row]

    def last(self, name):
        return [row[name] for row in self.history if name in row][-1]

    def media(self, name):
        """The files of a picture, a table or a video."""
        entry = self.last(name)
        names = entry.get("filenames") or [video["path"] for video in entry.get("videos", [])] or [entry["path"]]
        return [self.folder / "files" / each for each in names]

    def table(self, name):
        (path,) = self.media(name)
        content = json.loads(path.read_text())
        return [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]


def read(folder):
    (path,) = folder.glob("run-*.wandb")
    segment = Segment(folder=folder)
    for record in _records(path.read_bytes()):
        kind = record.WhichOneof("record_type")
        segment.records.append((kind, record))
        if kind == "run":
            segment.run = record.run
            _put_all(segment.config, record.run.config.update)
        elif kind == "config":
            _put_all(segment.config, record.config.update)
        elif kind == "metric":
            segment.axes[record.metric.glob_name or record.metric.name] = record.metric.step_metric
        elif kind == "history":
            row = {}
            _put_all(row, record.history.item)
            segment.history.append(row)
    return segment


def _records(data):
    from wandb.proto import wandb_internal_pb2

    assert data[:4] == b":W&B"
    at, whole = _HEADER, b""
    while at + _HEADER <= len(data):
        left = _BLOCK - at % _BLOCK
        if left < _HEADER:
            at += left
            continue
        checksum, length, kind = struct.unpack("<IHB", data[at : at + _HEADER])
        part = data[at + _HEADER : at + _HEADER + length]
        assert len(part) == length and zlib.crc32(bytes([kind]) + part) == checksum
        whole, at = whole + part, at + _HEADER + length
        if kind in (_FULL, _LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def _put_all(into, items):
    for item in items:
        place, *inner = list(item.nested_key) or [item.key]
        here = into
        for part in inner:
            here, place = here.setdefault(place, {}), part
        here[place] = json.loads(item.value_json)
