"""Write reports/<profile>/costs.json: seconds of each stage of a replicate of the active profile, by its MLflow runs.

A value is the mean over replicates. The score network's iterations are timed without fine-tuning.
"""

from pathlib import Path

import mlflow

from dguide.settings import PARAMS, Layout, load_config
from discriminator_guidance.core.files import write_json

config = load_config(Path(PARAMS))
client = mlflow.MlflowClient()
runs = mlflow.search_runs(experiment_names=[config.profile], filter_string="attributes.status = 'FINISHED'")
