from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Tensor(_message.Message):
    __slots__ = ("name", "dtype", "shape")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ...) -> None: ...

class Group(_message.Message):
    __slots__ = ("name", "tensors")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    name: str
    tensors: _containers.RepeatedCompositeFieldContainer[Tensor]
    def __init__(self, name: _Optional[str] = ..., tensors: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ...) -> None: ...

class Scalar(_message.Message):
    __slots__ = ("name", "flag", "integer", "real", "text")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FLAG_FIELD_NUMBER: _ClassVar[int]
    INTEGER_FIELD_NUMBER: _ClassVar[int]
    REAL_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    name: str
    flag: bool
    integer: bytes
    real: float
    text: str
    def __init__(self, name: _Optional[str] = ..., flag: _Optional[bool] = ..., integer: _Optional[bytes] = ..., real: _Optional[float] = ..., text: _Optional[str] = ...) -> None: ...

class Header(_message.Message):
    __slots__ = ("kind", "round", "sender", "scalars", "groups", "nbytes")
    KIND_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    SENDER_FIELD_NUMBER: _ClassVar[int]
    SCALARS_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    NBYTES_FIELD_NUMBER: _ClassVar[int]
    kind: str
    round: int
    sender: str
    scalars: _containers.RepeatedCompositeFieldContainer[Scalar]
    groups: _containers.RepeatedCompositeFieldContainer[Group]
    nbytes: int
    def __init__(self, kind: _Optional[str] = ..., round: _Optional[int] = ..., sender: _Optional[str] = ..., scalars: _Optional[_Iterable[_Union[Scalar, _Mapping]]] = ..., groups: _Optional[_Iterable[_Union[Group, _Mapping]]] = ..., nbytes: _Optional[int] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("version", "name", "machine")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    MACHINE_FIELD_NUMBER: _ClassVar[int]
    version: int
    name: str
    machine: str
    def __init__(self, version: _Optional[int] = ..., name: _Optional[str] = ..., machine: _Optional[str] = ...) -> None: ...

class Segment(_message.Message):
    __slots__ = ("pid", "descriptor", "device", "inode", "filling")
    PID_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTOR_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    INODE_FIELD_NUMBER: _ClassVar[int]
    FILLING_FIELD_NUMBER: _ClassVar[int]
    pid: int
    descriptor: int
    device: int
    inode: int
    filling: int
    def __init__(self, pid: _Optional[int] = ..., descriptor: _Optional[int] = ..., device: _Optional[int] = ..., inode: _Optional[int] = ..., filling: _Optional[int] = ...) -> None: ...

class Offer(_message.Message):
    __slots__ = ("id", "header", "payload", "checksum", "segment")
    ID_FIELD_NUMBER: _ClassVar[int]
    HEADER_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    id: int
    header: bytes
    payload: bytes
    checksum: int
    segment: Segment
    def __init__(self, id: _Optional[int] = ..., header: _Optional[bytes] = ..., payload: _Optional[bytes] = ..., checksum: _Optional[int] = ..., segment: _Optional[_Union[Segment, _Mapping]] = ...) -> None: ...

class Fetch(_message.Message):
    __slots__ = ("id", "offset", "bytes")
    ID_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    id: int
    offset: int
    bytes: int
    def __init__(self, id: _Optional[int] = ..., offset: _Optional[int] = ..., bytes: _Optional[int] = ...) -> None: ...

class Run(_message.Message):
    __slots__ = ("id", "chunks", "checksum")
    ID_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    id: int
    chunks: int
    checksum: int
    def __init__(self, id: _Optional[int] = ..., chunks: _Optional[int] = ..., checksum: _Optional[int] = ...) -> None: ...

class Accept(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    def __init__(self, id: _Optional[int] = ...) -> None: ...

class Refuse(_message.Message):
    __slots__ = ("id", "reason")
    ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    id: int
    reason: str
    def __init__(self, id: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class Bye(_message.Message):
    __slots__ = ("clean", "reason")
    CLEAN_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    clean: bool
    reason: str
    def __init__(self, clean: _Optional[bool] = ..., reason: _Optional[str] = ...) -> None: ...

class Frame(_message.Message):
    __slots__ = ("welcome", "offer", "fetch", "run", "accept", "refuse", "bye")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    OFFER_FIELD_NUMBER: _ClassVar[int]
    FETCH_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    ACCEPT_FIELD_NUMBER: _ClassVar[int]
    REFUSE_FIELD_NUMBER: _ClassVar[int]
    BYE_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    offer: Offer
    fetch: Fetch
    run: Run
    accept: Accept
    refuse: Refuse
    bye: Bye
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., offer: _Optional[_Union[Offer, _Mapping]] = ..., fetch: _Optional[_Union[Fetch, _Mapping]] = ..., run: _Optional[_Union[Run, _Mapping]] = ..., accept: _Optional[_Union[Accept, _Mapping]] = ..., refuse: _Optional[_Union[Refuse, _Mapping]] = ..., bye: _Optional[_Union[Bye, _Mapping]] = ...) -> None: ...
