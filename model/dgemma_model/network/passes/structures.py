"""What `passes.c` is called with, as it lies in memory; that file says what each entry is."""

from __future__ import annotations

from ctypes import POINTER, Structure, c_float, c_int64, c_void_p


class Matrix(Structure):
    """An int8 matrix in bands."""

    _fields_ = [
        *(("weights", c_void_p), ("sums", c_void_p), ("scale", c_void_p), ("bias", c_void_p)),
        *(("rows", c_int64), ("columns", c_int64), ("digits", c_int64), ("largest", c_int64)),
    ]


class Layer(Structure):
    """A layer."""

    _fields_ = [
        *(("input_norm", c_void_p), ("mlp_norm", c_void_p)),
        *(("qkv", Matrix), ("out", Matrix), ("gate_up", Matrix), ("down", Matrix)),
    ]


class Network(Structure):
    """Layers and a head."""

    _fields_ = [
        *(("layers", c_int64), ("size", c_int64), ("inner", c_int64), ("heads", c_int64), ("kv_heads", c_int64)),
        *(("head_dim", c_int64), ("eps", c_float), ("norm", c_void_p), ("layer", POINTER(Layer)), ("head", Matrix)),
    ]


class Pass(Structure):
    """A pass over some tokens."""

    _fields_ = [
        *(("network", POINTER(Network)), ("x", c_void_p), ("cos", c_void_p), ("sin", c_void_p)),
        *(("keys", c_void_p), ("values", c_void_p), ("allowed", c_void_p), ("allowed_stride", c_int64)),
        *(("batch", c_int64), ("tokens", c_int64), ("before", c_int64), ("capacity", c_int64)),
        *(("wide", c_void_p), ("attended", c_void_p), ("digits", c_void_p), ("peaks", c_void_p)),
        *(("kept", c_void_p), ("kept_count", c_int64), ("states", c_void_p)),
    ]


class Drafter(Structure):
    """What a drafter has beside its layers and its head."""

    _fields_ = [
        *(("network", POINTER(Network)), ("states", c_int64), ("state_norms", c_void_p), ("places", c_void_p)),
        *(("fuse", Matrix), ("after", Matrix), ("before", c_void_p), ("before_scale", c_void_p)),
    ]


class Draft(Structure):
    """What is drafted, and after what."""

    _fields_ = [
        *(("drafter", POINTER(Drafter)), ("pass_", Pass), ("states", c_void_p), ("embedded", c_void_p)),
        *(("previous", c_int64), ("least", c_float), ("choices", c_int64), ("joined", c_void_p), ("pairs", c_void_p)),
        *(("chosen", c_void_p), ("count", c_int64), ("likely", c_void_p)),
    ]


class Scores(Structure):
    """Scores of tokens at some places."""

    _fields_ = [("values", c_void_p), ("rows", c_int64), ("columns", c_int64)]
