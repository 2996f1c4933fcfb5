"""`flame-run plan`: what would run, as text, JSON or a mermaid drawing."""

import json

from omegaconf import DictConfig

from flame_run.run.checks import plan_of
from flame_run.topology.plan import plan_to_json
from flame_run.topology.render import render_mermaid, render_text


def show_plan(cfg: DictConfig, form: str) -> str:
    """The plan of `cfg` in the form `text`, `json` or `mermaid`.

    Raises:
        InvalidConfig: see `plan_of`.
    """
    plan = plan_of(cfg)
    if form == "json":
        return json.dumps(plan_to_json(plan), indent=2)
    return render_mermaid(plan) if form == "mermaid" else render_text(plan)
