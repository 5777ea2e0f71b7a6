"""Write reports/<profile>/costs.json: seconds of the active profile's stages and of a training iteration, by MLflow.

A value is the mean over replicates, none of which was interrupted; that of `score` includes fine-tuning.
"""

from pathlib import Path

import mlflow
import numpy as np

from dguide.settings import PARAMS, Layout, load_config
from discriminator_guidance.core.files import write_json

config = load_config(Path(PARAMS))
client, stages, iterations = mlflow.MlflowClient(), dict[str, list[float]](), list[float]()
(experiment,) = (found for found in client.search_experiments() if found.name == config.profile)
for run in client.search_runs([experiment.experiment_id], "attributes.status = 'FINISHED'", max_results=1000):
    name, _, replicate = run.info.run_name.rpartition("/")
    if replicate.removeprefix("r").isdecimal():
        stages.setdefault(name, []).append((run.info.end_time - run.info.start_time) / 1000)
    if name == "score":
        losses = sorted(client.get_metric_history(run.info.run_id, "loss"), key=lambda entry: entry.step)
        first, last = losses[0], losses[-1]
        iterations.append((last.timestamp - first.timestamp) / (last.step - first.step) / 1000)
means = {name: float(f"{np.mean(seconds):.3g}") for name, seconds in sorted(stages.items())}
about = {"replicates": config.replicates, "threads": config.runtime.threads}
write_json(
    Layout(Path.cwd(), config.profile).report / "costs.json",
    about | {"score_iteration": float(f"{np.mean(iterations):.3g}"), "stages": means},
)
