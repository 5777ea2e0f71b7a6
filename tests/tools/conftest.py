from tests.stages.conftest import made, tiny  # noqa: F401  (fixtures)
