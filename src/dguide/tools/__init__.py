"""Commands beside the pipeline, a module for each; sample and train-discriminator of a saved model share one."""
