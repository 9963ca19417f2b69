"""Messages out of an MCAP file, in bounded memory.

The `mcap` package reads the records. Chunks are opened here: it would take as much memory for one as
its compressed bytes ask for, and 130 kB of zstd can ask for 4 GB.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING, BinaryIO

from dedos_deploy.errors import SourceError
from dedos_deploy.runtime.sources.bag_chunks import MAX_CHUNK, check_chunk, lz4_opened

if TYPE_CHECKING:
    from mcap.records import Channel, Chunk, ChunkIndex, McapRecord, Message, Schema

MAX_RECORD = 1 << 30
"""Bytes of the largest record of an MCAP file; recorders write chunks of a few MiB."""

MAX_HELD = 2 * MAX_CHUNK
"""Bytes of messages that wait for their time, since chunks overlap; recorders write them nearly in order."""
RECORD_BYTES = 512
"""What a message takes beside its data, about."""

_FOOTER = 1 + 8 + 8 + 8 + 4
_MAGIC = 8
_RECORD_HEAD = 1 + 8


@dataclass
class Contents:
    """What a recording says that it holds."""

    schemas: dict[int, Schema] = field(default_factory=dict)
    channels: dict[int, Channel] = field(default_factory=dict)
    """By id."""

    chunks: list[ChunkIndex] = field(default_factory=list)
    """Where messages are."""

    counts: dict[int, int] | None = None
    """Messages by channel, if said."""

    def with_schema(self, message: Message) -> tuple[Schema | None, Channel, Message]:
        channel = self.channels[message.channel_id]
        return self.schemas[channel.schema_id] if channel.schema_id else None, channel, message


def read_contents(file: BinaryIO) -> Contents | None:
    """Return the index at the end of a recording, None if it has none; raises what mcap raises."""
    from mcap.records import Channel, ChunkIndex, Footer, Schema, Statistics

    file.seek(-(_FOOTER + _MAGIC), 2)
    footer = next(_records(file, after_start=True))
    if not isinstance(footer, Footer) or footer.summary_start == 0:
        return None
    file.seek(footer.summary_start)
    contents = Contents()
    for record in _records(file, after_start=True):
        if isinstance(record, Schema):
            contents.schemas[record.id] = record
        elif isinstance(record, Channel):
            contents.channels[record.id] = record
        elif isinstance(record, ChunkIndex):
            contents.chunks.append(record)
        elif isinstance(record, Statistics):
            contents.counts = record.channel_message_counts
    return contents


def messages_as_logged(
    file: BinaryIO, contents: Contents, topic: str
) -> Iterator[tuple[Schema | None, Channel, Message]]:
    """Yield the messages of a topic in the order of their logging; raises what mcap raises, and
    SourceError when those that wait for their time take more than MAX_HELD."""
    from mcap.data_stream import ReadDataStream
    from mcap.records import Chunk, ChunkIndex, Message

    wanted = {number for number, one in contents.channels.items() if one.topic == topic}
    # Messages before chunks of the same time, so that few wait, and either in the order of the file.
    serial = count()
    held = 0
    waiting: list[tuple[int, int, int, ChunkIndex | Message]] = [
        (chunk.message_start_time, 1, next(serial), chunk)
        for chunk in sorted(contents.chunks, key=lambda one: one.chunk_start_offset)
        if not chunk.message_index_offsets or wanted & chunk.message_index_offsets.keys()
    ]
    heapq.heapify(waiting)
    while waiting:
        *_, item = heapq.heappop(waiting)
        if isinstance(item, ChunkIndex):
            file.seek(item.chunk_start_offset + _RECORD_HEAD)
            for record in _records_in(Chunk.read(ReadDataStream(file))):
                if isinstance(record, Message) and record.channel_id in wanted:
                    heapq.heappush(waiting, (record.log_time, 0, next(serial), record))
                    held += len(record.data) + RECORD_BYTES
            _check_held(held)
        else:
            held -= len(item.data) + RECORD_BYTES
            yield contents.with_schema(item)


def _check_held(held: int) -> None:
    if held > MAX_HELD:
        raise SourceError(
            f"chunks of the recording overlap in time by more than {MAX_HELD} bytes of messages; write "
            "it again with its messages in order"
        )


def messages_as_written(
    file: BinaryIO, topic: str | None
) -> Iterator[tuple[Schema | None, Channel, Message]]:
    """Yield the messages of a topic, None for all, without an index; raises what mcap raises."""
    from mcap.records import Channel, Chunk, Message, Schema

    file.seek(0)
    contents = Contents()
    for record in _records(file, after_start=False):
        for one in _records_in(record) if isinstance(record, Chunk) else [record]:
            if isinstance(one, Schema):
                contents.schemas[one.id] = one
            elif isinstance(one, Channel):
                contents.channels[one.id] = one
            elif isinstance(one, Message):
                if topic in (None, contents.channels[one.channel_id].topic):
                    yield contents.with_schema(one)


def _records(file: BinaryIO, *, after_start: bool) -> Iterator[McapRecord]:
    from mcap.stream_reader import StreamReader

    return StreamReader(
        file, skip_magic=after_start, emit_chunks=True, record_size_limit=MAX_RECORD
    ).records


def _records_in(chunk: Chunk) -> list[McapRecord]:
    """Return the records in a chunk, or raise SourceError before it takes more than MAX_CHUNK."""
    from mcap.stream_reader import breakup_chunk

    size = chunk.uncompressed_size
    if chunk.compression == "zstd":
        import zstandard

        # Its own frame may state another size, and that is what is allocated.
        size = max(size, zstandard.frame_content_size(chunk.data))
    check_chunk(size)
    if chunk.compression == "lz4":
        data = lz4_opened(chunk.data, size)
        chunk = replace(chunk, compression="", data=data)
    return breakup_chunk(chunk)
