from omegaconf import DictConfig, OmegaConf

from flame_run.launch.reduce import reduce


def config() -> DictConfig:
    made = OmegaConf.create(
        {
            "hydra": {"job": {"env_set": {"PLACE": "${site.name}"}}, "sweep": {"subdir": "${worker.name}"}},
            "worker": {"name": "w-0", "label": "${.name}", "path": "${oc.env:HOME,${home}}"},
            "site": {"name": "${country}-1"},
            "country": "uk",
            "home": "/root",
            "dataset": {"datasets": [{"name": "${worker.name}"}]},
            "model": None,
        }
    )
    OmegaConf.set_struct(made, value=True)
    return made


def test_what_nobody_reads_is_left_out_and_what_is_referred_to_stays() -> None:
    whole, reduced = config(), config()
    reduce(reduced, ["worker"])
    assert set(reduced) == {"hydra", "worker", "site", "country", "home"}
    for name in reduced:
        assert OmegaConf.to_container(reduced, resolve=True)[name] == OmegaConf.to_container(whole, resolve=True)[name]  # type: ignore[index]
    assert OmegaConf.is_struct(reduced)


def test_a_node_that_is_not_there_may_be_asked_for() -> None:
    reduced = config()
    reduce(reduced, ["faults", "model"])
    assert set(reduced) == {"hydra", "worker", "site", "country", "home", "model"}
