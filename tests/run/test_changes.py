"""What a resumed run may have different from before."""

from typing import Any

from omegaconf import OmegaConf

from flame_run.run.changes import Change, changed, changes, noteworthy, refused

BEFORE: dict[str, Any] = {
    "job": {
        "seed": 0,
        "hyperparameters": {"rounds": 5, "learningRate": 0.1},
        "share": {"include": ["*"]},
        "stop": {"target": None},
    },
    "model": {"module": {"_target_": "a.B", "lr": "${job.hyperparameters.learningRate}"}, "data": {}},
    "transport": {"backend": "auto", "codec": {}},
    "faults": {"heartbeat": 30.0},
}


def found(**new: Any) -> list[Change]:
    now = OmegaConf.create(BEFORE)
    for key, value in new.items():
        OmegaConf.update(now, key.replace("__", "."), value, force_add=True)
    return changes(OmegaConf.create(BEFORE), now)


def test_the_same_configuration_has_no_changes() -> None:
    assert found() == []


def test_an_interpolation_is_what_is_written_not_what_it_comes_to() -> None:
    (change,) = found(job__hyperparameters__learningRate=0.2)
    assert change == Change("job.hyperparameters.learningRate", 0.1, 0.2)
    assert refused([change]) == []
    assert noteworthy([change]) == [change]


def test_what_would_make_it_another_run_is_refused_with_the_old_value_and_the_reason() -> None:
    problems = refused(found(job__seed=1, model__module__lr=0.5, job__share__include=["a*"]))
    assert [problem.place for problem in problems] == ["job.seed", "job.share.include", "model.module.lr"]
    assert str(problems[0]) == (
        "job.seed = 1: cannot change in a run that is resumed: all randomness of a run derives from its seed "
        "(it was 0; for another value start a new run)"
    )


def test_a_key_whose_name_only_begins_alike_is_another_one() -> None:
    assert refused(found(job__seeds=3)) == []
    assert not changed(found(job__stopper=3), "job.stop")
    assert changed(found(job__stop__target=0.9), "job.stop")


def test_how_long_and_how_safely_a_run_goes_on_is_free() -> None:
    free = found(job__hyperparameters__rounds=20, faults__heartbeat=5.0, transport__backend="grpc", job__stop__target=0.9)
    assert len(free) == 4
    assert refused(free) == []
    assert noteworthy(free) == []


def test_a_codec_changes_what_is_computed() -> None:
    free = found(transport__codec={"param-channel": "bf16"})
    assert [change.key for change in noteworthy(free)] == ["transport.codec.param-channel", "transport.codec"]


def test_a_key_that_is_gone_is_a_change() -> None:
    now = OmegaConf.create({key: value for key, value in BEFORE.items() if key != "faults"})
    assert changes(OmegaConf.create(BEFORE), now) == [Change("faults.heartbeat", 30.0, None)]
