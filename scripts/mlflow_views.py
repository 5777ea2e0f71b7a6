"""Save two views of each experiment in MLflow, and print the addresses where `make mlflow` shows them."""

import json
import sys

import mlflow

COLUMNS = [("metric", key) for key in ("fid", "fid_low", "fid_high", "kid", "kid_holdout")]
COLUMNS += [("param", key) for key in ("fid_network", "n", "seed", "rule", "members", "weights", "w1", "w2")] + [
    ("tag", "dvc.experiment")
]
# MLflow's page of runs reads its state from a tag of the experiment, where its own Share button writes it. Ordered by a
# metric, runs are listed by themselves; otherwise those of variants are folded into the run `evaluation`.
VIEWS = {
    "fid": {
        "searchFilter": "attributes.run_name LIKE 'evaluation/%'",
        "orderByKey": "metrics.`fid`",
        "orderByAsc": True,
        "selectedColumns": [f"{kind}s.`{key}`" for kind, key in COLUMNS],
    },
    "curves": {
        "searchFilter": "attributes.run_name LIKE 'discriminator/%'",
        "orderByKey": "metrics.`validation_loss`",
        "orderByAsc": True,
        "chartsSearchFilter": "^(train|validation)_",
    },
}

address, client = sys.argv[1], mlflow.MlflowClient()
for experiment in client.search_experiments():
    if client.search_runs([experiment.experiment_id], max_results=1):
        for name, view in VIEWS.items():
            client.set_experiment_tag(experiment.experiment_id, f"mlflow.sharedViewState.{name}", json.dumps(view))
        page = f"{address}/#/experiments/{experiment.experiment_id}/runs?workflowType=machine_learning"
        print(f"{experiment.name}, FID of each variant: {page}&viewStateShareKey=fid")
        print(f"{experiment.name}, discriminators' curves: {page}&viewStateShareKey=curves&compareRunsMode=CHART")
