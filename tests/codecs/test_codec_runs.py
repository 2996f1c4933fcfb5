"""Real runs with codecs: the same bits over every transport, and smaller messages on every channel."""

from pathlib import Path

import pytest

from tests.e2e.conftest import Run

SETTINGS = [
    "experiment=mnist_hierarchical",
    "job.hyperparameters.rounds=2",
    "+model.trainer.limit_train_batches=4",
    "tracking=none",
    "transport.codec.param-channel={upload: [topk, int8], distribute: bf16}",
    "transport.codec.global-channel={upload: [delta, bf16], distribute: int8}",
]


def metric(run: Run, worker: str, name: str) -> set[float]:
    return {each["value"] for each in run.records("metrics.jsonl") if each["worker"] == worker and each["name"] == name}


def test_every_transport_gives_the_same_bits(tmp_path: Path) -> None:
    hashes = {}
    for words in ("transport=shm", "transport=grpc", "launcher=debug"):
        run = Run([*SETTINGS, words], tmp_path)
        assert run.finish() == 0, run.text + run.stderr
        hashes[words] = run.json("summary.json")["model_sha256"]
        (up,), (middle,) = metric(run, "trainer-0", "upload_bytes"), metric(run, "middle-aggregator-0", "upload_bytes")
        (top,) = metric(run, "top-aggregator-0", "distribute_bytes")
        # A tenth of the entries at 5 bytes, all of them at 2, two copies of 1 byte and its scales.
        assert up / middle == pytest.approx(0.5 / 2, rel=0.1)
        assert top / middle == pytest.approx(2 * (1 + 4 / 256) / 2, rel=0.1)
    assert len(set(hashes.values())) == 1, hashes


def test_a_wrong_codec_is_told_before_anything_starts(tmp_path: Path) -> None:
    run = Run(["transport.codec.param-channel=bf61", "tracking=none"], tmp_path)
    assert run.finish() == 2
    assert "did you mean 'bf16'?" in run.stderr
    assert "Traceback" not in run.stderr
