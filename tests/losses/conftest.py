"""A quick form of the compiled backend, for whole files of tests."""

from collections.abc import Iterator

import pytest

from fastinfogan.losses import compiled


@pytest.fixture(scope="module")
def compiled_as_graphs() -> Iterator[None]:
    """Run torch.compile up to code generation, each layout once for all tests of a file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "COMPILER", "aot_eager")
        compiled._callable.cache_clear()
        yield
        compiled._callable.cache_clear()
