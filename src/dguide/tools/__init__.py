"""Commands beside the pipeline that need a module; sample and train-discriminator of a saved model share one."""
