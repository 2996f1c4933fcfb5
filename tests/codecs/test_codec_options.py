"""What people may write for `transport.codec`, and what they are told otherwise."""

from typing import Any

import hydra
import pytest

from flame_run.config.codecs import codecs_of
from flame_run.config.folder import conf_dir
from flame_run.config.groups import register
from flame_run.errors import InvalidConfig
from flame_run.run.checks import plan_of
from roles.codecs import make_codec
from roles.codecs.options import KINDS, ChannelCodecs, CodecOptions

BF16, INT8 = CodecOptions("bf16", {}), CodecOptions("int8", {"block": 256})
DELTA, TOPK = CodecOptions("delta", {}), CodecOptions("topk", {"fraction": 0.1})


def composed(*overrides: str) -> Any:
    register()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return hydra.compose("config", ["python_path=[]", *overrides])


def codecs(value: str, *more: str) -> ChannelCodecs:
    """The codecs of `param-channel` by one override, in a valid job."""
    cfg = composed(*more, f"transport.codec.param-channel={value}")
    plan_of(cfg)
    return codecs_of(cfg.transport.codec)["param-channel"]


def problem(override: str, *more: str) -> str:
    with pytest.raises(InvalidConfig) as caught:
        plan_of(composed(*more, override))
    (found,) = caught.value.problems
    return str(found)


@pytest.mark.parametrize(
    ("value", "upload", "distribute"),
    [
        ("bf16", (BF16,), (BF16,)),
        ("{name: int8}", (INT8,), (INT8,)),
        ("{name: int8, block: 64}", (CodecOptions("int8", {"block": 64}),), (CodecOptions("int8", {"block": 64}),)),
        ("{upload: bf16}", (BF16,), ()),
        ("{distribute: int8, upload: null}", (), (INT8,)),
        ("{upload: topk}", (DELTA, TOPK), ()),
        ("{upload: [delta, topk], distribute: bf16}", (DELTA, TOPK), (BF16,)),
        ("{upload: [{name: topk, fraction: 0.01}, int8]}", (DELTA, CodecOptions("topk", {"fraction": 0.01}), INT8), ()),
        ("{upload: [delta, {name: int8}]}", (DELTA, INT8), ()),
        ("[bf16]", (BF16,), (BF16,)),
        ("{upload: []}", (), ()),
    ],
)
def test_short_and_long_forms(value: str, upload: tuple[CodecOptions, ...], distribute: tuple[CodecOptions, ...]) -> None:
    assert codecs(value) == ChannelCodecs(upload=upload, distribute=distribute)


def test_a_channel_may_be_switched_off_and_others_stay() -> None:
    cfg = composed("experiment=mnist_hierarchical", "transport=grpc", "transport.codec={param-channel: null, global-channel: bf16}")
    plan_of(cfg)
    assert codecs_of(cfg.transport.codec) == {"global-channel": ChannelCodecs(upload=(BF16,), distribute=(BF16,))}


def test_nothing_is_encoded_by_default() -> None:
    for backend in ("auto", "grpc", "shm", "inproc"):
        assert codecs_of(composed(f"transport={backend}").transport.codec) == {}


PARAM = "transport.codec.param-channel"


@pytest.mark.parametrize(
    ("override", "told"),
    [
        (f"{PARAM}=bf6", "'bf6': there is no such codec (did you mean 'bf16'? legal: delta, topk, bf16, fp16, int8)"),
        (f"{PARAM}=7", "7: there is no such codec"),
        (f"{PARAM}={{upload: {{block: 8}}}}", "{'block': 8}: there is no such codec"),
        ("transport.codec.parm-channel=bf16", "there is no such channel (did you mean 'param-channel'?"),
        ("transport.codec=bf16", "transport.codec = 'bf16': not a map of channels"),
        (f"{PARAM}=topk", "'topk': only uploads can be sent as topk"),
        (f"{PARAM}={{distribute: delta}}", "param-channel.distribute = 'delta': only uploads can be sent as delta"),
        (f"{PARAM}={{up: int8}}", "param-channel.up = 'int8': a channel has no such direction ("),
        (f"{PARAM}={{uplaod: int8}}", "did you mean 'upload'?"),
        (f"{PARAM}={{upload: [int8, delta]}}", "['int8', 'delta']: these do not follow each other (delta, then topk"),
        (f"{PARAM}=[bf16, int8]", "these do not follow each other"),
        (f"{PARAM}={{upload: [bf16, bf16]}}", "these do not follow each other"),
        (f"{PARAM}={{name: int8, block: 7}}", "block = 7: int8 cannot work with this (an integer from 8 to 1048576)"),
        (f"{PARAM}={{name: int8, block: 64.5}}", "block = 64.5: int8 cannot work with this"),
        (f"{PARAM}={{name: int8, block: true}}", "block = True: int8 cannot work with this"),
        (f"{PARAM}={{name: int8, blocks: 64}}", "blocks = 64: int8 has no such parameter (did you mean 'block'?"),
        (f"{PARAM}={{name: bf16, block: 64}}", "block = 64: bf16 has no such parameter (it has none)"),
        (
            f"{PARAM}={{upload: {{name: topk, fraction: 0}}}}",
            "fraction = 0: topk cannot work with this (a number from 1e-06 to 0.49)",
        ),
        (f"{PARAM}={{upload: {{name: topk, fraction: 1.0}}}}", "fraction = 1.0: topk cannot work with this"),
        (f"{PARAM}={{upload: {{name: topk, fraction: nan}}}}", "topk cannot work with this"),
    ],
)
def test_what_is_wrong_is_one_problem_with_the_legal_values(override: str, told: str) -> None:
    assert told in problem(override)


def test_a_channel_that_carries_no_weights_has_no_codec() -> None:
    channels = [each.name for each in plan_of(composed("experiment=mnist_coordinated")).channels]
    other = next(name for name in channels if name not in ("param-channel", "global-channel"))
    found = problem(f"transport.codec.{other}=bf16", "experiment=mnist_coordinated")
    assert "this channel carries no weights (" in found


@pytest.mark.parametrize("name", KINDS)
def test_every_codec_that_may_be_written_can_be_built(name: str) -> None:
    codec = make_codec(name)
    assert codec.relative == (name in ("delta", "topk"))
    assert codec.stateful == (name == "topk")


def test_a_codec_that_is_none_is_refused_where_it_is_made() -> None:
    configs: tuple[Any, ...] = ("zip", None, [])
    for config in configs:
        with pytest.raises(ValueError, match="codec"):
            make_codec(config)
