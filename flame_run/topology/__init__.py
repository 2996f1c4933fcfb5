"""From schema, dataset spec and job to a plan: rules, expansion, the plan itself and how it is shown."""
