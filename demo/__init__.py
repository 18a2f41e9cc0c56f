"""Models and data of `make demo` and the tests: packaged on PyPI, fetched at run time, never committed."""
