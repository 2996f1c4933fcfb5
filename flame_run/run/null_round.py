"""The key `null_round` of `experiment=null_round`: how large the model is and how many trainers return it. No heavy imports."""

from dataclasses import dataclass

from flame_run.errors import Problem


@dataclass(kw_only=True)
class NullRoundConf:
    """The options of `null_round`; all null in every other job."""

    megabytes: float | None = None
    """Size of the model in units of 2**20 bytes of float32."""
    trainers: int | None = None


def check_null_round(conf: NullRoundConf) -> list[Problem]:
    """Everything that is wrong with `conf`."""
    megabytes, trainers = conf.megabytes, conf.trainers
    if megabytes is None and trainers is None:
        return []
    if megabytes is None or trainers is None:
        key, value = ("trainers", trainers) if megabytes is None else ("megabytes", megabytes)
        return [Problem(f"null_round.{key}", value, "read by experiment=null_round only", "add experiment=null_round")]
    problems = []
    if not 0 < megabytes < float("inf"):
        problems.append(Problem("null_round.megabytes", megabytes, "a model has a size above 0", "a number such as 100"))
    if trainers < 1:
        problems.append(Problem("null_round.trainers", trainers, "there must be at least one", "a number such as 8"))
    return problems
