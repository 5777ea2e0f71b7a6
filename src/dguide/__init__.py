"""The pipeline: DVC stages over the library, and the command `dguide`."""
