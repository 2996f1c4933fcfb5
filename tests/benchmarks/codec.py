"""codec: speed and error of each codec beside a plain copy of the model, in one thread."""

import statistics

from tests.benchmarks.result import Options, Row
from tests.benchmarks.scripts import measured_by


def measure(options: Options) -> list[Row]:
    """A row for writing and one for reading, in milliseconds; MB of the model per second, error and size beside them."""
    megabytes = 16 if options.quick else 64
    options.say(f"codec: {megabytes} MB, {options.repeat} times each")
    codecs = measured_by("tests.benchmarks.codec_speed", megabytes=megabytes, repeat=options.repeat)
    rows = []
    for name, found in codecs.items():
        more = {
            "error/weights": f"{found['error']:.1e}",
            "error/change": f"{found['error_of_change']:.1e}",
            "bytes": f"{found['bytes']:.3f}",
        }
        for what in ("encode", "decode"):
            speed = {"MB/s": round(megabytes / statistics.median(found[what]))}
            rows.append(
                Row(
                    benchmark="codec",
                    variant=f"{name}: {what}",
                    unit="ms",
                    ours=[1e3 * each for each in found[what]],
                    floor_name="copy",
                    floor=[1e3 * each for each in found["copy"]],
                    more=speed if what == "decode" else {**speed, **more},
                )
            )
    return rows
